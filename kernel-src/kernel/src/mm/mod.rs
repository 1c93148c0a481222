//! Memory: frames, page tables, spaces, and the way to user memory.

#![allow(unsafe_code)]

pub mod buffer;
pub mod frames;
pub mod paging;
pub mod ring;
pub(crate) mod slab;
pub mod slots;
pub mod space;
pub mod user;

pub use crate::addr::MapFlags;
pub use paging::{build_id, direct, firmware_bytes, map_device};

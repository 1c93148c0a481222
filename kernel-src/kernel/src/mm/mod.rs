//! Memory: frames, page tables, spaces, and the way to user memory.

pub mod buddy;
#[cfg(target_os = "none")]
pub mod buffer;

#[cfg(target_os = "none")]
pub mod frames;
#[cfg(target_os = "none")]
pub mod paging;
#[cfg(target_os = "none")]
pub mod ring;
#[cfg(target_os = "none")]
pub(crate) mod slab;
#[cfg(target_os = "none")]
pub mod slots;
#[cfg(target_os = "none")]
pub mod space;
#[cfg(target_os = "none")]
pub mod user;

#[cfg(target_os = "none")]
pub use paging::{build_id, direct, firmware_bytes, map_device};

/// What a mapping allows. Writable and executable together are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MapFlags {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
    pub user: bool,
    pub device: bool,
}

impl MapFlags {
    pub const KERNEL_DATA: Self = Self { read: true, write: true, execute: false, user: false, device: false };
    pub const KERNEL_RODATA: Self = Self { write: false, ..Self::KERNEL_DATA };
    pub const KERNEL_TEXT: Self = Self { execute: true, ..Self::KERNEL_RODATA };
    pub const DEVICE: Self = Self { device: true, ..Self::KERNEL_DATA };
}

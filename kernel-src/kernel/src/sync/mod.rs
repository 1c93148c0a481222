//! Locks, exclusive cells, counted references and intrusive queues: the
//! unsafe ground on which the rest of the kernel stands safely.

#![allow(unsafe_code)]

mod list;
mod owned;
mod spin;

#[cfg(target_os = "none")]
pub(crate) use list::linked;
pub use list::{Link, Linked, List};
pub use owned::Owned;
pub use spin::{Rank, Spin, SpinGuard};

#[cfg(target_os = "none")]
mod counted;
#[cfg(target_os = "none")]
pub use counted::{Counted, Header, Ref};

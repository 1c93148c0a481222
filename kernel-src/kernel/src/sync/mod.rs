//! Locks, exclusive cells, counted references and intrusive queues: the
//! unsafe ground on which the rest of the kernel stands safely.

#![allow(unsafe_code)]

mod list;
mod owned;
mod slot;
mod spin;

/// What `slot` is made of; its tests under loom put loom's here.
mod atomics {
    pub use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
}

#[cfg(target_os = "none")]
pub(crate) use list::linked;
pub use list::{Link, Linked, List};
pub use owned::{Anchor, Owned};
pub use slot::{Claimed, Content, Derivation, Found, GENERATION_MAX, MARK, Slot, Step, Via};
pub use spin::{Rank, Spin, SpinGuard};

#[cfg(target_os = "none")]
mod counted;
#[cfg(target_os = "none")]
pub mod ending;
#[cfg(target_os = "none")]
mod quota;
#[cfg(target_os = "none")]
pub mod tree;
#[cfg(target_os = "none")]
pub use counted::{Counted, Header, Ref, free};
#[cfg(target_os = "none")]
pub use quota::{Charge, Cost, Payer, Quota};
#[cfg(target_os = "none")]
pub use tree::Object;

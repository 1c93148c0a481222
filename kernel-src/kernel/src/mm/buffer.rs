//! Buffer pages: memory of a program that carries its threads' long messages.
//!
//! The kernel reaches such a page through the direct map, whatever the program
//! does with its mapping meanwhile: so a message never faults.

use super::{direct, frames};
use crate::addr::PhysAddr;
use abi::BUFFER_WORDS;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The words of a page. Programs may write them at any time, so each is read and written once, as a whole.
pub type Words = [AtomicU64; BUFFER_WORDS];

/// A thread's buffer page, with a share in its frame. The thread sets it while it runs, and gives it up when it is
/// reaped; it is used by the thread's CPU then, and else by whoever has ended the thread's wait.
pub struct Buffer(AtomicPtr<Words>);

impl Buffer {
    pub const fn none() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Takes over a share in the frame of a page, and gives up that in the one before.
    pub fn set(&self, page: Option<PhysAddr>) {
        let next = page.map_or(ptr::null_mut(), |page| direct(page).cast());
        let before = self.0.swap(next, Ordering::Relaxed);
        if !before.is_null() {
            frames::free_user(PhysAddr(before as usize - direct(PhysAddr(0)) as usize));
        }
    }

    pub fn words(&self) -> Option<&Words> {
        // SAFETY: `set` stored the place of a frame in the direct map, aligned as a page is, of which this holds a share
        // until `set` is called again, by the one who has the thread. Any bytes are words, and the program's own writes
        // are those of another CPU to atomics.
        unsafe { self.0.load(Ordering::Relaxed).as_ref() }
    }
}

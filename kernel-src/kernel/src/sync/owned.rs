//! A value that one CPU at a time may touch, by protocol; the protocol is checked.

use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, Ordering},
};

/// Unlike a lock nobody waits: finding the value in use is a fault of the kernel.
#[repr(C)]
pub struct Owned<T> {
    value: UnsafeCell<T>,
    in_use: AtomicBool,
}

// SAFETY: `with` gives the value to one caller at a time.
unsafe impl<T: Send> Sync for Owned<T> {}

impl<T> Owned<T> {
    pub const fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(value), in_use: AtomicBool::new(false) }
    }

    pub fn with<R>(&self, use_it: impl FnOnce(&mut T) -> R) -> R {
        assert!(!self.in_use.swap(true, Ordering::Acquire), "two users of one owned value");
        // SAFETY: `in_use` went from false to true here, so until it is false again no other borrow exists.
        let result = use_it(unsafe { &mut *self.value.get() });
        self.in_use.store(false, Ordering::Release);
        result
    }

    /// For code that is not Rust: trap stubs, which run only when no borrow exists.
    pub const fn as_ptr(&self) -> *mut T {
        self.value.get()
    }
}

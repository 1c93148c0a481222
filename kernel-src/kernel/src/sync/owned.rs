//! A value that one CPU at a time may touch, by protocol; the protocol is checked.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

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

/// Where something is, while it is there: the object that holds it has not ended, or has its memory still.
///
/// Who puts something into an object sets the anchor, and who takes it out lets it go, both under the object's lock. The
/// object is one that look-ups find, so its memory outlasts every stay in the kernel that began before it ended. Only who
/// has in hand what is there follows it: its CPU, or who has taken it out of that one's queue.
pub struct Anchor<T> {
    at: AtomicPtr<T>,
    held: PhantomData<T>,
}

impl<T> Default for Anchor<T> {
    fn default() -> Self {
        Self { at: AtomicPtr::new(ptr::null_mut()), held: PhantomData }
    }
}

impl<T> Anchor<T> {
    pub fn set(&self, object: &T) {
        self.at.store(ptr::from_ref(object).cast_mut(), Ordering::Relaxed);
    }

    pub fn let_go(&self) {
        self.at.store(ptr::null_mut(), Ordering::Relaxed);
    }

    pub fn get(&self) -> Option<&T> {
        // SAFETY: it was set and not let go, so the object had not ended; and this CPU is in the kernel.
        unsafe { self.at.load(Ordering::Relaxed).as_ref() }
    }
}

//! Counted references to objects in type-stable slabs.

use crate::mm::slab::Slab;
use core::{
    ops::Deref,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering, fence},
};

/// What every counted object carries.
pub struct Header {
    count: AtomicUsize,
}

impl Header {
    pub const fn new() -> Self {
        Self { count: AtomicUsize::new(1) }
    }
}

impl Default for Header {
    fn default() -> Self {
        Self::new()
    }
}

pub trait Counted: Sized + Sync + 'static {
    fn header(&self) -> &Header;
    fn slab() -> &'static Slab<Self>;
}

/// A share in an object; the last one returns it to its slab.
pub struct Ref<T: Counted>(NonNull<T>);

// SAFETY: the count is atomic, and `T: Sync` may be used from any CPU.
unsafe impl<T: Counted> Send for Ref<T> {}
// SAFETY: as above.
unsafe impl<T: Counted> Sync for Ref<T> {}

impl<T: Counted> Ref<T> {
    pub fn new(value: T) -> Result<Self, abi::Error> {
        T::slab().allocate(value).map(Self)
    }

    /// The object's address, with the share in it: for per-CPU `current`, which trap stubs read.
    pub fn into_raw(self) -> *const T {
        let pointer = self.0.as_ptr();
        core::mem::forget(self);
        pointer
    }

    /// # Safety
    /// `pointer` came from `into_raw`, and is used so once.
    pub unsafe fn from_raw(pointer: *const T) -> Option<Self> {
        NonNull::new(pointer.cast_mut()).map(Self)
    }

    /// Another share in an object of which somebody holds one.
    pub fn share(object: &T) -> Self {
        object.header().count.fetch_add(1, Ordering::Relaxed);
        Self(NonNull::from(object))
    }

    pub fn is(&self, other: &T) -> bool {
        core::ptr::eq(self.0.as_ptr(), other)
    }
}

impl<T: Counted> Clone for Ref<T> {
    fn clone(&self) -> Self {
        Self::share(self)
    }
}

impl<T: Counted> Deref for Ref<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the share that `self` is keeps the object alive.
        unsafe { self.0.as_ref() }
    }
}

impl<T: Counted> Drop for Ref<T> {
    fn drop(&mut self) {
        if self.header().count.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: the count was 1, and was ours: nobody else has the object.
            unsafe { T::slab().free(self.0) };
        }
    }
}

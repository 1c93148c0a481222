//! Counted references to objects in type-stable slabs.

use super::{
    Derivation, Rank, Spin, Step,
    ending::{self, Ending},
};
use crate::mm::slab::Slab;
use core::{
    ops::Deref,
    ptr::NonNull,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence},
};

/// What every counted object carries.
pub struct Header {
    count: AtomicUsize,
    /// No other object has it, or will.
    pub id: u64,
    /// The capabilities to the object; all of them together hold one share in it.
    pub(super) tree: Spin<Derivation>,
    pub(super) ending: Ending,
}

impl Header {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let tree = Spin::new(Rank::Object, Derivation::new());
        Self { count: AtomicUsize::new(1), id: NEXT.fetch_add(1, Ordering::Relaxed), tree, ending: Ending::new() }
    }

    /// Gives up one share; the last one begins the object's end.
    pub(super) fn give_up(&self) {
        if self.count.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            ending::begin(self);
        }
    }
}

impl Default for Header {
    fn default() -> Self {
        Self::new()
    }
}

/// What is counted, and ends in steps. [`object!`](crate::sync::object) writes the methods that all have alike.
pub trait Counted: Sync + 'static {
    fn header(&self) -> &Header;

    fn slab() -> &'static Slab<Self>
    where
        Self: Sized;

    /// # Safety
    /// It came from its slab, and nobody uses it any more.
    unsafe fn free(&self);

    /// Whether look-ups may have found the object without a share in it: its memory then waits until none can.
    fn is_looked_up(&self) -> bool {
        true
    }

    /// A bounded piece of what is to do once nobody has a share in the object any more.
    fn end_step(&self) -> Step {
        Step::Done
    }

    /// Returns when all that was begun on the object through a capability that is gone by now has been done.
    fn settle(&self) {}
}

/// Makes a type with a field `header` a counted one, with methods of its own, and where a kind is said, one that
/// capabilities name.
#[macro_export]
macro_rules! object {
    ($object:ident $(as $kind:ident)? { $($method:tt)* }) => {
        impl $crate::sync::Counted for $object {
            fn header(&self) -> &$crate::sync::Header {
                &self.header
            }

            fn slab() -> &'static $crate::mm::slab::Slab<Self> {
                static SLAB: $crate::mm::slab::Slab<$object> = $crate::mm::slab::Slab::new();
                &SLAB
            }

            // SAFETY: as the trait asks of its callers.
            #[allow(unsafe_code)]
            unsafe fn free(&self) {
                // SAFETY: as above.
                unsafe { Self::slab().free(core::ptr::NonNull::from(self)) }
            }

            $($method)*
        }

        $(impl $crate::sync::Object for $object {
            const KIND: abi::Kind = abi::Kind::$kind;
            const HEADER: usize = core::mem::offset_of!(Self, header);
        })?
    };
}

/// A share in an object; the last one returns it to its slab.
pub struct Ref<T: Counted>(NonNull<T>);

// SAFETY: the count is atomic, and `T: Sync` may be used from any CPU.
unsafe impl<T: Counted> Send for Ref<T> {}
// SAFETY: as above.
unsafe impl<T: Counted> Sync for Ref<T> {}

impl<T: Counted> Ref<T> {
    pub fn new(value: T) -> Result<Self, abi::Error> {
        let object = T::slab().allocate(value)?;
        // SAFETY: it was allocated just now, and nobody else knows it.
        unsafe { object.as_ref().header().ending.bind(object) };
        Ok(Self(object))
    }

    /// The object's address, with the share in it: for per-CPU `current`, which trap stubs read, and for queues.
    pub fn into_pointer(self) -> NonNull<T> {
        let pointer = self.0;
        core::mem::forget(self);
        pointer
    }

    /// # Safety
    /// `pointer` came from `into_pointer`, and is used so once.
    pub unsafe fn from_pointer(pointer: NonNull<T>) -> Self {
        Self(pointer)
    }

    /// Another share in an object of which somebody holds one.
    pub fn share(object: &T) -> Self {
        object.header().count.fetch_add(1, Ordering::Relaxed);
        Self(NonNull::from(object))
    }

    /// A share in an object that was looked up; None if its end has begun.
    pub fn share_found(object: &T) -> Option<Self> {
        let count = &object.header().count;
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count != 0).then_some(count + 1))
            .is_ok()
            .then(|| Self(NonNull::from(object)))
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
        self.header().give_up();
    }
}

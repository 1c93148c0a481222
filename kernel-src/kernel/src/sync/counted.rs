//! Counted references to objects in type-stable slabs.

use super::ending::{self, Ending};
use super::quota::{Charged, Cost, Payer, Quota};
use super::{Anchor, Derivation, Link, Rank, Spin, Step};
use crate::mm::slab::Slab;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// What every counted object carries. In this order no stretch of zeros is so long that filling one in calls `memset`.
#[repr(C)]
pub struct Header {
    count: AtomicUsize,
    /// No other object has it, or will.
    pub id: u64,
    /// The quota that is charged for the object; it stays as long as it is.
    pub(super) payer: Anchor<Quota>,
    pub(super) charged: Link<Self, Charged>,
    /// The capabilities to the object; all of them together hold one share in it.
    pub(super) tree: Spin<Derivation>,
    /// Nobody else can have found the object by a look-up: it need not wait to be free.
    pub private: AtomicBool,
    pub(super) ending: Ending,
}

impl Header {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            count: AtomicUsize::new(1),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            tree: Spin::new(Rank::Object, Derivation::default()),
            ending: Ending::new(),
            private: AtomicBool::new(false),
            payer: Anchor::default(),
            charged: Link::new(),
        }
    }

    pub fn is_charged_to(&self, quota: &Quota) -> bool {
        self.payer.get().is_some_and(|payer| core::ptr::eq(payer, quota))
    }

    /// Others than before may look the object up from now on.
    pub fn publish(&self) {
        self.private.store(false, Ordering::Relaxed);
    }

    /// One more share, for somebody beside one who has one.
    pub(super) fn share(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// One more share; false if the object's end has begun.
    pub(super) fn share_found(&self) -> bool {
        let more = |count| (count != 0).then_some(count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Gives up one share; the last one begins the object's end.
    pub(super) fn give_up(&self) {
        if self.count.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            ending::begin(self);
        }
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

    /// What its quota is charged.
    fn cost(&self) -> Cost
    where
        Self: Sized,
    {
        Cost { bytes: Slab::<Self>::SHARE, objects: 1 }
    }

    /// A bounded piece of what is to do once nobody has a share in the object any more.
    fn end_step(&self) -> Step {
        Step::Done
    }

    /// Returns when all that was begun on the object through a capability that is gone by now has been done.
    fn settle(&self) {}

    /// Its quota is being destroyed, and no capability to it is left: what else keeps it ends.
    fn end_by_quota(&self) {}

    fn quota(&self) -> Option<&Quota> {
        None
    }
}

/// Drops an object, gives its place back to its slab, and then what it cost to its quota.
///
/// # Safety
/// As [`Counted::free`].
pub unsafe fn free<T: Counted>(object: &T) {
    let (cost, header) = (object.cost(), object.header());
    let payer = header.payer.get();
    let place = NonNull::from(object);
    // SAFETY: the caller's promise; a header has nothing to drop, and is used no more once the place is given back.
    unsafe {
        place.drop_in_place();
        match payer {
            Some(payer) => payer.release(cost, Some(header), || T::slab().free(place)),
            None => T::slab().free(place),
        }
    }
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
                unsafe { $crate::sync::free(self) }
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
    /// Makes an object that is charged to a quota; in place, for what is moved costs as much as the rest.
    #[inline(always)]
    pub fn new(payer: Payer<'_>, make: impl FnOnce() -> T) -> Result<Self, abi::Error> {
        Self::at_cost(payer, Cost { bytes: Slab::<T>::SHARE, objects: 1 }, make)
    }

    /// The same, of one with a cost of its own.
    #[inline(always)]
    pub(super) fn at_cost(payer: Payer<'_>, cost: Cost, make: impl FnOnce() -> T) -> Result<Self, abi::Error> {
        let mut charging = payer.charge(cost)?;
        match T::slab().reserve() {
            Ok(place) => {
                let object = Self::put(place, make);
                charging.list(payer, object.header());
                Ok(object)
            }
            Err(error) => {
                // What `make` holds, and gives back when it is dropped, needs the lock.
                drop(charging);
                payer.take_back(cost);
                Err(error)
            }
        }
    }

    /// One that nobody pays for.
    pub fn unpaid(value: T) -> Result<Self, abi::Error> {
        T::slab().reserve().map(|place| Self::put(place, || value))
    }

    #[inline(always)]
    fn put(place: NonNull<T>, make: impl FnOnce() -> T) -> Self {
        // SAFETY: `reserve` gave the place, and nobody else knows it.
        unsafe {
            place.as_ptr().write(make());
            place.as_ref().header().ending.bind(place);
        }
        Self(place)
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
        object.header().share();
        Self(NonNull::from(object))
    }

    /// A share in an object that was looked up; None if its end has begun.
    pub fn share_found(object: &T) -> Option<Self> {
        object.header().share_found().then(|| Self(NonNull::from(object)))
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

//! Queues threaded through the objects themselves, so that queueing allocates nothing, and taking any element out takes
//! the same few steps.

// `new` is for constants, which `Default` is not.
#![allow(clippy::new_without_default)]

use core::cell::Cell;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};

/// A place in a `T` for one queue of kind `K`.
pub struct Link<T, K> {
    /// None while the object is in no list.
    next: Cell<Option<NonNull<T>>>,
    previous: Cell<Option<NonNull<T>>>,
    /// The list that the object is in.
    list: AtomicPtr<()>,
    kind: PhantomData<K>,
}

// SAFETY: the cells are touched only by methods of the list that the object is in, which borrow it; an object is in at
// most one list of a kind (the promise of `Linked`), and `remove` looks at `list` alone where it is in another.
unsafe impl<T, K> Sync for Link<T, K> {}
// SAFETY: as above.
unsafe impl<T, K> Send for Link<T, K> {}

impl<T, K> Link<T, K> {
    pub const fn new() -> Self {
        Self {
            next: Cell::new(None),
            previous: Cell::new(None),
            list: AtomicPtr::new(ptr::null_mut()),
            kind: PhantomData,
        }
    }
}

/// An owning pointer to an object with a link of kind `K`.
///
/// # Safety
/// The object stays where it is between `into_raw` and `from_raw`, and whoever pushes it makes sure that it is in no
/// other list of this kind.
pub unsafe trait Linked<K>: Sized {
    type Object;

    fn into_raw(self) -> NonNull<Self::Object>;

    /// # Safety
    /// `raw` came from `into_raw`, and is used so once.
    unsafe fn from_raw(raw: NonNull<Self::Object>) -> Self;

    fn link(object: &Self::Object) -> &Link<Self::Object, K>;
}

/// A queue; while something is in it, it does not move.
pub struct List<P: Linked<K>, K> {
    head: Option<NonNull<P::Object>>,
    tail: Option<NonNull<P::Object>>,
    kind: PhantomData<(P, K)>,
}

// SAFETY: a list owns what is in it.
unsafe impl<P: Linked<K> + Send, K> Send for List<P, K> {}

impl<P: Linked<K>, K> List<P, K> {
    pub const fn new() -> Self {
        Self { head: None, tail: None, kind: PhantomData }
    }

    pub const fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    pub fn front(&self) -> Option<&P::Object> {
        // SAFETY: what is in the list lives until it is taken out.
        self.head.map(|object| unsafe { object.as_ref() })
    }

    pub fn iter(&self) -> impl Iterator<Item = &P::Object> {
        core::iter::successors(self.front(), |object| {
            // SAFETY: as in `front`.
            P::link(object).next.get().map(|next| unsafe { next.as_ref() })
        })
    }

    pub fn push(&mut self, item: P) {
        self.insert(item, |_| false);
    }

    /// Puts in what is the only one then.
    #[inline(always)]
    pub fn start(&mut self, item: P) {
        debug_assert!(self.is_empty());
        let raw = item.into_raw();
        // SAFETY: as in `insert`.
        let link = P::link(unsafe { raw.as_ref() });
        link.list.store(self.identity(), Ordering::Relaxed);
        (self.head, self.tail) = (Some(raw), Some(raw));
    }

    /// Puts `item` behind all but the last of those that `goes_before` holds for.
    pub fn insert(&mut self, item: P, goes_before: impl Fn(&P::Object) -> bool) {
        let raw = item.into_raw();
        let mut next = None;
        let mut previous = self.tail;
        // SAFETY: as in `front`, here and below; `raw` is the list's from here on.
        while let Some(object) = previous.map(|object| unsafe { object.as_ref() })
            && goes_before(object)
        {
            next = previous;
            previous = P::link(object).previous.get();
        }
        // SAFETY: as above.
        let link = P::link(unsafe { raw.as_ref() });
        debug_assert!(link.list.load(Ordering::Relaxed).is_null(), "an object in two lists of a kind");
        link.next.set(next);
        link.previous.set(previous);
        link.list.store(self.identity(), Ordering::Relaxed);
        self.join(previous, Some(raw));
        self.join(Some(raw), next);
    }

    pub fn pop(&mut self) -> Option<P> {
        // SAFETY: as in `front`.
        let first = self.head.map(|first| unsafe { &*first.as_ptr() })?;
        // SAFETY: it is in this list.
        Some(unsafe { self.take_out(first) })
    }

    #[inline(never)] // so that to drop an empty one takes no registers
    fn clear(&mut self) {
        while self.pop().is_some() {}
    }

    /// Takes `object` out, if it is here.
    pub fn remove(&mut self, object: &P::Object) -> Option<P> {
        let is_here = P::link(object).list.load(Ordering::Relaxed) == self.identity();
        // SAFETY: as asked.
        is_here.then(|| unsafe { self.take_out(object) })
    }

    /// # Safety
    /// `object` is in this list.
    #[inline(always)]
    pub unsafe fn take_out(&mut self, object: &P::Object) -> P {
        let link = P::link(object);
        link.list.store(ptr::null_mut(), Ordering::Relaxed);
        self.join(link.previous.take(), link.next.take());
        // SAFETY: `insert` got it from `into_raw`; and it leaves the list here.
        unsafe { P::from_raw(NonNull::from(object)) }
    }

    /// Whether `object` is the last.
    pub fn ends_with(&self, object: &P::Object) -> bool {
        self.tail == Some(NonNull::from(object))
    }

    /// # Safety
    /// `object` is in this list, and nothing else is.
    #[inline(always)]
    pub unsafe fn take_only(&mut self, object: &P::Object) -> P {
        P::link(object).list.store(ptr::null_mut(), Ordering::Relaxed);
        (self.head, self.tail) = (None, None);
        // SAFETY: as in `take_out`.
        unsafe { P::from_raw(NonNull::from(object)) }
    }

    /// Takes out the first that `wanted` holds for.
    pub fn take(&mut self, wanted: impl Fn(&P::Object) -> bool) -> Option<P> {
        let found = NonNull::from(self.iter().find(|object| wanted(object))?);
        // SAFETY: as in `front`.
        self.remove(unsafe { found.as_ref() })
    }

    /// What a link says to be in this list. An address that is used again says so only once what was here is out.
    const fn identity(&self) -> *mut () {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// Makes two neighbours, or ends where one is missing.
    fn join(&mut self, before: Option<NonNull<P::Object>>, after: Option<NonNull<P::Object>>) {
        // SAFETY: both are in the list; see `front`.
        let link = |object: NonNull<P::Object>| P::link(unsafe { &*object.as_ptr() });
        match before {
            Some(before) => link(before).next.set(after),
            None => self.head = after,
        }
        match after {
            Some(after) => link(after).previous.set(before),
            None => self.tail = before,
        }
    }
}

impl<P: Linked<K>, K> Drop for List<P, K> {
    fn drop(&mut self) {
        if !self.is_empty() {
            self.clear();
        }
    }
}

/// Says which field of a counted type is its link for lists of a kind.
#[cfg(target_os = "none")]
macro_rules! linked {
    ($object:ty, $kind:ty, $field:ident) => {
        #[allow(unsafe_code)]
        // SAFETY: slab objects do not move; who pushes keeps a thread in one list of a kind: it is queued by the one
        // waker that ended its wait, listed as waiting by itself, and a member of the process that it was made in.
        unsafe impl $crate::sync::Linked<$kind> for $crate::sync::Ref<$object> {
            type Object = $object;

            fn into_raw(self) -> core::ptr::NonNull<$object> {
                Self::into_pointer(self)
            }

            unsafe fn from_raw(raw: core::ptr::NonNull<$object>) -> Self {
                // SAFETY: the caller's promise.
                unsafe { Self::from_pointer(raw) }
            }

            fn link(object: &$object) -> &$crate::sync::Link<$object, $kind> {
                &object.$field
            }
        }
    };
}
#[cfg(target_os = "none")]
pub(crate) use linked;

//! First-in first-out queues threaded through the objects themselves, so that queueing allocates nothing.

use core::{cell::UnsafeCell, marker::PhantomData};

/// A place in an object for one queue of kind `K`.
pub struct Link<P, K> {
    next: UnsafeCell<Option<P>>,
    kind: PhantomData<K>,
}

// SAFETY: `next` is touched only by a `List` method, which has `&mut` to the list that the object is in;
// an object is in at most one list of a kind (the caller's promise in `Linked`).
unsafe impl<P: Send, K> Sync for Link<P, K> {}
// SAFETY: a link owns the pointer in it.
unsafe impl<P: Send, K> Send for Link<P, K> {}

impl<P, K> Link<P, K> {
    pub const fn new() -> Self {
        Self { next: UnsafeCell::new(None), kind: PhantomData }
    }
}

impl<P, K> Default for Link<P, K> {
    fn default() -> Self {
        Self::new()
    }
}

/// A pointer to an object with a link of kind `K`.
///
/// # Safety
/// Clones reach the same, unmoving object, and whoever pushes an object makes
/// sure that it is in no other list of this kind.
pub unsafe trait Linked<K>: Clone {
    fn link(&self) -> &Link<Self, K>;
}

pub struct List<P: Linked<K>, K> {
    head: Option<P>,
    tail: Option<P>,
    kind: PhantomData<K>,
}

impl<P: Linked<K>, K> List<P, K> {
    pub const fn new() -> Self {
        Self { head: None, tail: None, kind: PhantomData }
    }

    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    pub fn front(&self) -> Option<&P> {
        self.head.as_ref()
    }

    pub fn push(&mut self, item: P) {
        match self.tail.replace(item.clone()) {
            // SAFETY: `last` is in this list, of which we have the only borrow.
            Some(last) => unsafe { *last.link().next.get() = Some(item) },
            None => self.head = Some(item),
        }
    }

    pub fn pop(&mut self) -> Option<P> {
        let first = self.head.take()?;
        // SAFETY: `first` was in this list, of which we have the only borrow.
        self.head = unsafe { (*first.link().next.get()).take() };
        if self.head.is_none() {
            self.tail = None;
        }
        Some(first)
    }

    /// Puts `item` before the first element that `goes_after` holds for.
    pub fn insert_before(&mut self, item: P, goes_after: impl Fn(&P) -> bool) {
        if self.is_empty() {
            return self.push(item);
        }
        let mut earlier = Self::new();
        while self.head.as_ref().is_some_and(|next| !goes_after(next)) {
            if let Some(next) = self.pop() {
                earlier.push(next);
            }
        }
        earlier.push(item);
        while let Some(next) = self.pop() {
            earlier.push(next);
        }
        *self = earlier;
    }

    pub fn for_each(&mut self, mut look: impl FnMut(&P)) {
        let mut kept = Self::new();
        while let Some(next) = self.pop() {
            look(&next);
            kept.push(next);
        }
        *self = kept;
    }

    /// Takes out all that `unwanted` holds for.
    pub fn remove(&mut self, unwanted: impl Fn(&P) -> bool) {
        let mut kept = Self::new();
        while let Some(next) = self.pop() {
            if !unwanted(&next) {
                kept.push(next);
            }
        }
        *self = kept;
    }
}

impl<P: Linked<K>, K> Default for List<P, K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Linked<K>, K> Drop for List<P, K> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// Says which field of a counted type is its link for lists of a kind.
#[cfg(target_os = "none")]
macro_rules! linked {
    ($object:ty, $kind:ty, $field:ident) => {
        #[allow(unsafe_code)]
        // SAFETY: clones of a `Ref` reach one slab slot, which does not move; who pushes keeps a thread in one
        // list of a kind: it is queued by the one waker that ended its wait, listed as waiting by itself, and
        // a member of the process that it was made in.
        unsafe impl $crate::sync::Linked<$kind> for $crate::sync::Ref<$object> {
            fn link(&self) -> &$crate::sync::Link<Self, $kind> {
                &self.$field
            }
        }
    };
}
#[cfg(target_os = "none")]
pub(crate) use linked;

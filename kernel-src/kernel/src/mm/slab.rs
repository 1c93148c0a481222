//! Type-stable storage for objects: a slot that once held a `T` holds only `T`s ever after.

use super::frames;
use crate::config::PAGE_SIZE;
use crate::sync::{Rank, Spin};
use core::mem::{ManuallyDrop, MaybeUninit, align_of, size_of};
use core::ptr::NonNull;

union Slot<T> {
    next: Option<NonNull<Slot<T>>>,
    /// For its size and alignment.
    _value: ManuallyDrop<MaybeUninit<T>>,
}

struct Free<T>(Option<NonNull<Slot<T>>>);

// SAFETY: slots in the list hold no `T`; the list owns them.
unsafe impl<T> Send for Free<T> {}

pub struct Slab<T> {
    free: Spin<Free<T>>,
}

impl<T> Slab<T> {
    /// Frames taken at once: the fewest in which at least four objects fit.
    const ORDER: usize = {
        let mut order = 0;
        while (PAGE_SIZE << order) / size_of::<Slot<T>>() < 4 {
            order += 1;
        }
        order
    };

    pub const fn new() -> Self {
        assert!(align_of::<Slot<T>>() <= PAGE_SIZE);
        Self { free: Spin::new(Rank::Slab, Free(None)) }
    }

    /// Bytes that one object takes of the frames, what is left over at their end included.
    pub const SHARE: usize = (PAGE_SIZE << Self::ORDER) / Self::COUNT;
    const COUNT: usize = (PAGE_SIZE << Self::ORDER) / size_of::<Slot<T>>();

    /// A place for an object, to be written; `NoMemory` if no frame is left.
    pub fn reserve(&self) -> Result<NonNull<T>, abi::Error> {
        let mut free = self.free.lock();
        if free.0.is_none() {
            Self::grow(&mut free)?;
        }
        let slot = free.0.ok_or(abi::Error::NoMemory)?;
        // SAFETY: a slot in the list is ours, unused, and holds `next`.
        free.0 = unsafe { slot.as_ref().next };
        Ok(slot.cast())
    }

    /// Keeps the place of an object that was dropped for the next.
    ///
    /// # Safety
    /// `object` came from `reserve` of this slab, and nobody uses it any more.
    pub unsafe fn free(&self, object: NonNull<T>) {
        #[cfg(debug_assertions)]
        // SAFETY: the slot holds nothing now; poison shows a use after this.
        unsafe {
            object.cast::<u8>().write_bytes(0xA5, size_of::<T>());
        }
        let mut free = self.free.lock();
        let slot = object.cast::<Slot<T>>();
        // SAFETY: the slot is empty and ours.
        unsafe { slot.write(Slot { next: free.0 }) };
        free.0 = Some(slot);
    }

    fn grow(free: &mut Free<T>) -> Result<(), abi::Error> {
        let block = frames::allocate_unwritten(Self::ORDER)?;
        let first = super::direct(block).cast::<Slot<T>>();
        for index in (0..Self::COUNT).rev() {
            // SAFETY: `index` counts the slots that fit in the block, which was just allocated.
            unsafe {
                let slot = NonNull::new_unchecked(first.add(index));
                slot.write(Slot { next: free.0 });
                free.0 = Some(slot);
            }
        }
        Ok(())
    }
}

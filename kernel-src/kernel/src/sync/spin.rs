//! Spin locks with a rank: whoever holds a lock may take only locks of a
//! higher rank. A debug build checks it on every CPU.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

/// The order in which locks are taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    Registry,
    Process,
    Space,
    Object,
    Wait,
    Owed,
    Queue,
    Ending,
    Quota,
    Slab,
    Tables,
    Frames,
    Log,
}

pub struct Spin<T> {
    /// 0 or 1. A word, because RISC-V has no atomic operations on bytes.
    locked: AtomicU32,
    /// Where it is not checked, it would make every object with a lock dearer to fill in.
    #[cfg(all(debug_assertions, target_os = "none"))]
    rank: Rank,
    value: UnsafeCell<T>,
}

// SAFETY: the guard is the only way to `value`, and one guard exists at a time.
unsafe impl<T: Send> Sync for Spin<T> {}
// SAFETY: a lock owns its value.
unsafe impl<T: Send> Send for Spin<T> {}

impl<T> Spin<T> {
    #[inline(always)]
    pub const fn new(_rank: Rank, value: T) -> Self {
        Self {
            locked: AtomicU32::new(0),
            #[cfg(all(debug_assertions, target_os = "none"))]
            rank: _rank,
            value: UnsafeCell::new(value),
        }
    }

    /// Waits for the lock; interrupts are off in the kernel, so no interrupt can want it meanwhile.
    pub fn lock(&self) -> SpinGuard<'_, T> {
        #[cfg(all(debug_assertions, target_os = "none"))]
        {
            crate::jitter::pause();
            crate::percpu::lock_taken(self.rank);
        }
        while self.locked.swap(1, Ordering::Acquire) != 0 {
            relax();
        }
        SpinGuard { lock: self }
    }

    /// Takes the lock if nobody has it: for panics, which must not wait for the one they interrupted.
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        if self.locked.swap(1, Ordering::Acquire) != 0 {
            return None;
        }
        #[cfg(all(debug_assertions, target_os = "none"))]
        crate::percpu::set_held(self.rank, true);
        Some(SpinGuard { lock: self })
    }
}

pub struct SpinGuard<'a, T> {
    lock: &'a Spin<T>,
}

impl<'a, T> SpinGuard<'a, T> {
    /// The word to set to 0, with release, in place of dropping the guard: for code that is not Rust.
    pub fn into_word(self) -> &'a AtomicU32 {
        #[cfg(all(debug_assertions, target_os = "none"))]
        crate::percpu::set_held(self.lock.rank, false);
        let word = &self.lock.locked;
        core::mem::forget(self);
        word
    }
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard is the only one, made when `locked` went from 0 to 1.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` keeps it to one borrow.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    fn drop(&mut self) {
        #[cfg(all(debug_assertions, target_os = "none"))]
        crate::percpu::set_held(self.lock.rank, false);
        self.lock.locked.store(0, Ordering::Release);
    }
}

#[cold]
#[inline(never)] // so that whoever locks is no bigger for it
fn relax() {
    #[cfg(target_os = "none")]
    crate::arch::cpu::relax();
    #[cfg(not(target_os = "none"))]
    core::hint::spin_loop();
}

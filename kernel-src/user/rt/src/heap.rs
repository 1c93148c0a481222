//! The heap: a first-fit list of holes over an arena in `.bss`. A program that
//! never allocates does not even contain the arena.
//!
//! `linked_list_allocator` brings no crate along when its own lock is left out.

use crate::sync::Mutex;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use linked_list_allocator::Heap;

/// Bytes of the heap of a program.
const HEAP_SIZE: usize = 256 << 10;

#[repr(align(4096))]
struct Arena(UnsafeCell<MaybeUninit<[u8; HEAP_SIZE]>>);

// SAFETY: nothing but the allocator below, under its lock, uses the arena.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new(MaybeUninit::uninit()));

struct LockedHeap(Mutex<Heap>);

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(Mutex::new(Heap::empty()));

// SAFETY: `Heap` gives each allocation its own part of the arena, of at least the layout's size and
// alignment, and takes it back only through `dealloc`; the lock makes each operation whole.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut heap = self.0.lock();
        if heap.size() == 0 {
            // SAFETY: the arena is `HEAP_SIZE` bytes that live for ever, and this happens once, under the lock.
            unsafe { heap.init(ARENA.0.get().cast(), HEAP_SIZE) };
        }
        heap.allocate_first_fit(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller vouches that `alloc` gave `pointer` for this layout.
            unsafe { self.0.lock().deallocate(pointer, layout) };
        }
    }
}

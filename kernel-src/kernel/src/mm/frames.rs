//! Physical memory: which frames are free, and who holds the others.

use crate::addr::{PhysAddr, PhysRange};
use crate::arch::boot::DIRECT_LIMIT;
use crate::bootinfo::BootInfo;
use crate::buddy::{Buddy, FrameInfo};
use crate::config::{LOG_BELOW_TOP, MAX_RANGES, PAGE_SHIFT, PAGE_SIZE};
use crate::sync::{Rank, Spin};
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicUsize, Ordering};

static FRAMES: Spin<Option<Buddy<'static>>> = Spin::new(Rank::Frames, None);
/// All memory that the machine's tables list, in bytes.
static TOTAL: AtomicUsize = AtomicUsize::new(0);
/// What the kernel holds, in bytes: image, frame table, log ring, and what it allocated since.
static KERNEL: AtomicUsize = AtomicUsize::new(0);
static GIVEN_BACK: AtomicUsize = AtomicUsize::new(0);

pub type Ranges = ArrayVec<PhysRange, { 2 * MAX_RANGES }>;

/// Takes `hole` out of `ranges`; None where there is no room for what it leaves. In place, since the boot stack is small.
fn subtract(ranges: &mut Ranges, hole: PhysRange) -> Option<()> {
    for index in 0..ranges.len() {
        let PhysRange { start, .. } = ranges[index];
        let end = ranges[index].end();
        let below = PhysRange::new(start.0, hole.start.min(end).0.saturating_sub(start.0));
        let above = hole.end().max(start).0;
        let above = PhysRange::new(above, end.0.saturating_sub(above));
        ranges[index] = if below.size > 0 { below } else { above };
        if below.size > 0 && above.size > 0 {
            ranges.try_push(above).ok()?;
        }
    }
    ranges.retain(|range| range.size > 0);
    Some(())
}

/// Whole pages of `ram` that nobody holds.
pub fn unheld(ram: &[PhysRange], held: impl Iterator<Item = PhysRange>) -> Ranges {
    let mut free: Ranges = ram.iter().map(|range| range.inner_pages()).filter(|pages| pages.size > 0).collect();
    for range in held.filter(|range| range.size > 0) {
        let left = subtract(&mut free, range.outer_pages());
        left.expect("the machine's tables list more ranges of memory than the kernel keeps");
    }
    free
}

/// Takes `size` bytes out of `free` that end as high as they can, at `limit` at most.
pub fn take(free: &mut Ranges, size: usize, limit: usize) -> Option<PhysRange> {
    let fits = |range: &PhysRange| {
        let end = range.end().0.min(limit);
        (end >= range.start.0 + size).then(|| PhysRange::new((end - size) & !(PAGE_SIZE - 1), size))
    };
    let found = free.iter().filter_map(fits).max_by_key(|found| found.start)?;
    subtract(free, found)?;
    Some(found)
}

/// Fills the allocator from the boot tables; returns where the log ring is, at a place that is the same after a reset.
pub fn init(info: &BootInfo, ring_size: usize) -> PhysRange {
    TOTAL.store(info.ram.iter().map(|range| range.size).sum(), Ordering::Relaxed);
    let mut free = unheld(&info.ram, info.reserved.iter().copied().chain([info.image]).chain(info.archive));
    // High, but below what boot loaders take for themselves.
    let mapped = DIRECT_LIMIT.0;
    let top = free.iter().map(|range| range.end().0).max().unwrap_or(0).min(mapped);
    let ring = take(&mut free, ring_size, top.saturating_sub(LOG_BELOW_TOP));
    let ring = ring.or_else(|| take(&mut free, ring_size, top)).expect("memory for the log ring");

    // The image is counted in, for parts of it are given back.
    let covered = || free.iter().copied().chain([info.image.outer_pages()]);
    let first = covered().map(|range| range.start.page_number()).min().unwrap_or(0);
    let last = covered().map(|range| range.end().page_number()).max().unwrap_or(first);
    let table_size = PhysRange::new(0, (last - first) * size_of::<FrameInfo>()).end().page_up().0;
    let table = take(&mut free, table_size, mapped).expect("a range of memory for the frame table");

    let entries = super::direct(table.start).cast::<FrameInfo>();
    // SAFETY: the table's range was free, is taken now, page aligned, mapped by the boot tables, and
    // `last - first` entries fit; each is written before the slice is made.
    let info_slice = unsafe {
        for index in 0..last - first {
            entries.add(index).write(FrameInfo::default());
        }
        core::slice::from_raw_parts_mut(entries, last - first)
    };
    let mut buddy = Buddy::new(info_slice, first);
    for range in &free {
        buddy.add(range.start.page_number()..range.end().page_number());
    }
    KERNEL.store(info.image.outer_pages().size + table.size + ring.size, Ordering::Relaxed);
    *FRAMES.lock() = Some(buddy);
    ring
}

fn reserve(order: usize) -> Result<PhysAddr, abi::Error> {
    let frame = FRAMES.lock().as_mut().and_then(|buddy| buddy.allocate(order));
    frame.map(|frame| PhysAddr(frame << PAGE_SHIFT)).ok_or(abi::Error::NoMemory)
}

/// A zeroed block, such as a page for a program; see [`allocate_kernel`].
pub fn allocate(order: usize) -> Result<PhysAddr, abi::Error> {
    let block = reserve(order)?;
    // SAFETY: the block is free memory that the direct map reaches, and ours alone now.
    unsafe { super::direct(block).write_bytes(0, PAGE_SIZE << order) };
    Ok(block)
}

fn release(block: PhysAddr, order: usize) {
    if cfg!(debug_assertions) {
        // SAFETY: the block goes out of use with this call; poison shows who still reads it.
        unsafe { super::direct(block).write_bytes(0xA5, PAGE_SIZE << order) };
    }
    if let Some(buddy) = FRAMES.lock().as_mut() {
        assert!(buddy.free(block.page_number(), order), "{block:?} was not allocated with order {order}");
    }
}

/// `PAGE_SIZE << order` zeroed bytes for the kernel's own use.
pub fn allocate_kernel(order: usize) -> Result<PhysAddr, abi::Error> {
    let block = allocate(order)?;
    KERNEL.fetch_add(PAGE_SIZE << order, Ordering::Relaxed);
    Ok(block)
}

/// As [`allocate_kernel`], with whatever the block held before.
pub fn allocate_unwritten(order: usize) -> Result<PhysAddr, abi::Error> {
    let block = reserve(order)?;
    KERNEL.fetch_add(PAGE_SIZE << order, Ordering::Relaxed);
    Ok(block)
}

/// Makes a value that is kept for ever, in pages of its own, so that no other CPU's data shares a cache line with it.
pub fn place<T>(make: impl FnOnce() -> T) -> Result<&'static mut T, abi::Error> {
    let pages = size_of::<T>().div_ceil(PAGE_SIZE);
    let at = super::direct(allocate_kernel(pages.next_power_of_two().ilog2() as usize)?).cast::<T>();
    // SAFETY: the block is large enough and aligned to a page, and nobody else's for ever.
    unsafe {
        at.write(make());
        Ok(&mut *at)
    }
}

/// Gives back what `allocate_kernel` gave.
pub fn free_kernel(block: PhysAddr, order: usize) {
    KERNEL.fetch_sub(PAGE_SIZE << order, Ordering::Relaxed);
    release(block, order);
}

fn change_sharers(page: PhysAddr, change: impl FnOnce(u16) -> Option<u16>) -> bool {
    FRAMES.lock().as_mut().is_some_and(|buddy| buddy.change_sharers(page.page_number(), change))
}

/// Another share in a program's page.
pub fn share_user(page: PhysAddr) -> Result<(), abi::Error> {
    if change_sharers(page, |sharers| sharers.checked_add(1)) { Ok(()) } else { Err(abi::Error::NoMemory) }
}

/// Gives up a share in a program's page; with the last it is free.
pub fn free_user(page: PhysAddr) {
    if !change_sharers(page, |sharers| sharers.checked_sub(1)) {
        release(page, 0);
    }
}

/// Adds part of the image that is needed no more.
pub fn give_back(range: PhysRange) {
    let pages = range.inner_pages();
    let frames = pages.start.page_number()..pages.end().page_number();
    if FRAMES.lock().as_mut().is_some_and(|buddy| buddy.add(frames)) {
        KERNEL.fetch_sub(pages.size, Ordering::Relaxed);
        GIVEN_BACK.fetch_add(pages.size, Ordering::Relaxed);
    }
}

/// Bytes, as [`abi::Info`] tells them.
pub struct Usage {
    pub total: usize,
    pub free: usize,
    pub kernel: usize,
    pub given_back: usize,
}

pub fn usage() -> Usage {
    Usage {
        total: TOTAL.load(Ordering::Relaxed),
        free: FRAMES.lock().as_ref().map_or(0, |buddy| buddy.free_frames << PAGE_SHIFT),
        kernel: KERNEL.load(Ordering::Relaxed),
        given_back: GIVEN_BACK.load(Ordering::Relaxed),
    }
}

//! Tables of capability slots, in whole frames.

#![allow(unsafe_code)]

use super::{frames, paging};
use crate::{addr::PhysAddr, config::PAGE_SIZE, sync::Slot};
use core::{ops::Deref, slice};

pub struct SlotTable {
    first: *const Slot,
    count: usize,
    bits: u32,
    block: PhysAddr,
}

// SAFETY: the frames are this table's own, and slots may be used from any CPU.
unsafe impl Send for SlotTable {}
// SAFETY: as above.
unsafe impl Sync for SlotTable {}

impl SlotTable {
    /// `1 << bits` empty slots; `NoMemory` if there is no room.
    pub fn new(bits: u32) -> Result<Self, abi::Error> {
        let block = frames::allocate_kernel(Self::order(bits))?;
        Ok(Self { first: paging::direct(block).cast(), count: 1 << bits, bits, block })
    }

    pub const fn bits(&self) -> u32 {
        self.bits
    }

    /// Gives the frames back; there are no slots any more.
    pub fn free(&mut self) {
        if self.count != 0 {
            self.count = 0;
            frames::free_kernel(self.block, Self::order(self.bits));
        }
    }

    const fn order(bits: u32) -> usize {
        (size_of::<Slot>() << bits).div_ceil(PAGE_SIZE).ilog2() as usize
    }
}

impl Deref for SlotTable {
    type Target = [Slot];

    fn deref(&self) -> &[Slot] {
        // SAFETY: the block is this table's own until `free`, has room for `count`, and was zeroed: zeros are empty
        // slots.
        unsafe { slice::from_raw_parts(self.first, self.count) }
    }
}

impl Drop for SlotTable {
    fn drop(&mut self) {
        self.free();
    }
}

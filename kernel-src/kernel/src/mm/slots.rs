//! Tables of capability slots, in whole frames.

use super::{frames, paging};
use crate::addr::PhysAddr;
use crate::config::PAGE_SIZE;
use crate::sync::{Charge, Payer, Slot};
use core::ops::Deref;
use core::slice;

pub struct SlotTable {
    /// None of them any more once they were given back.
    slots: &'static [Slot],
    bits: u32,
    block: PhysAddr,
    /// Gone with the frames.
    charge: Option<Charge>,
}

impl SlotTable {
    /// `1 << bits` empty slots; `NoMemory` if there is no room.
    pub fn new(payer: Payer<'_>, bits: u32) -> Result<Self, abi::Error> {
        let charge = Charge::new(payer, PAGE_SIZE << Self::order(bits))?;
        let block = frames::allocate_kernel(Self::order(bits))?;
        // SAFETY: the block is this table's own until `free`, which drops this reference first, has room for that many,
        // and was zeroed: zeros are empty slots.
        let slots = unsafe { slice::from_raw_parts(paging::direct(block).cast(), 1 << bits) };
        Ok(Self { slots, bits, block, charge: Some(charge) })
    }

    pub const fn bits(&self) -> u32 {
        self.bits
    }

    /// Gives the frames back; there are no slots any more.
    pub fn free(&mut self) {
        self.slots = &[];
        if let Some(_charge) = self.charge.take() {
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
        self.slots
    }
}

impl Drop for SlotTable {
    fn drop(&mut self) {
        self.free();
    }
}

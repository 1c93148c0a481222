//! CNodes: tables of capability slots, and the way that an address takes through them.

use super::process::Process;
use crate::mm::slots::SlotTable;
use crate::sync::{Header, Payer, Rank, Ref, Slot, Spin, Step, tree};
use abi::{ADDRESS_BITS, Error, Rights};
use core::sync::atomic::{AtomicUsize, Ordering};

pub struct CNode {
    header: Header,
    pub(super) table: SlotTable,
    /// Whom to tell once the table is gone.
    owner: Spin<Option<Ref<Process>>>,
    /// The end has come so far.
    emptied: AtomicUsize,
}

crate::object!(CNode as CNode {
    /// Closes a slot, or takes one step at emptying it. One that somebody fills just now is for the next step.
    fn end_step(&self) -> Step {
        let index = self.emptied.load(Ordering::Relaxed);
        let Some(slot) = self.table.get(index) else { return Step::Done };
        if slot.close() {
            self.emptied.store(index + 1, Ordering::Relaxed);
        } else {
            // Whether or not that emptied it, the next step looks.
            let _ = tree::delete(slot, 0, 1);
        }
        Step::More
    }
});

impl CNode {
    /// `1 << bits` empty slots.
    pub fn new(payer: Payer<'_>, bits: u64) -> Result<Ref<Self>, Error> {
        if !(1..=abi::CNODE_BITS_MAX).contains(&bits) {
            return Err(Error::InvalidArgument);
        }
        let table = SlotTable::new(payer, bits as u32)?;
        Ref::new(payer, || Self {
            header: Header::new(),
            table,
            owner: Spin::new(Rank::Object, None),
            emptied: AtomicUsize::new(0),
        })
    }

    /// One that is to be the first root of a process. Only its threads, through their root, can look anything up here; or
    /// their partners while they move a message, when such a thread is in their hands and so has not ended.
    pub fn new_root(payer: Payer<'_>) -> Result<Ref<Self>, Error> {
        let node = Self::new(payer, crate::config::CSPACE_BITS.into())?;
        node.header.private.store(true, Ordering::Relaxed);
        Ok(node)
    }

    /// What stands for a guard as the badge of its capability, so that look-up need not work it out: in the lower half
    /// how many bits of an address it takes in all, in the upper half what those are where they choose slot 0.
    pub fn way(&self, guard: u64) -> Result<u64, Error> {
        let (bits, value) = (guard >> ADDRESS_BITS, guard & u64::from(u32::MAX));
        let taken = bits + u64::from(self.table.bits());
        let fits = taken <= ADDRESS_BITS.into() && value >> bits == 0;
        if fits { Ok(value << self.table.bits() << ADDRESS_BITS | taken) } else { Err(Error::InvalidArgument) }
    }

    /// The guard that a way stands for.
    pub fn guard(&self, way: u64) -> u64 {
        abi::guard(way as u32 - self.table.bits(), (way >> ADDRESS_BITS >> self.table.bits()) as u32)
    }

    /// `owner` hears when the table and all that was in it are gone. False where others may keep it.
    pub fn tell(&self, owner: Ref<Process>) -> bool {
        let is_private = self.header.private.load(Ordering::Relaxed);
        if is_private {
            *self.owner.lock() = Some(owner);
        }
        is_private
    }
}

impl Drop for CNode {
    fn drop(&mut self) {
        self.table.free();
        let owner = self.owner.lock().take();
        if let Some(owner) = owner {
            owner.released();
        }
    }
}

/// The slot, empty or not, that the lowest `depth` bits of `address` lead to from the CNode in `root`.
///
/// Each CNode on the way takes the bits of its guard and those of its table, from the highest on. So the way ends after
/// `depth` CNodes at the latest, also where one contains itself. The capability to the last, which has the slot, must
/// have `rights`; those before only show the way.
#[inline]
pub fn resolve(root: &Slot, address: u64, depth: u32, rights: Rights) -> Result<&Slot, Error> {
    let mut slot = root;
    let mut left = depth as i32;
    // In the lower half, from its highest bit on, what is left of the address; zeros follow.
    let mut address = address << (ADDRESS_BITS - depth) & u64::from(u32::MAX);
    loop {
        let (node, found) = tree::marked::<CNode>(slot).ok_or(Error::DepthTooLong)?;
        let way = found.content.badge;
        address <<= way & 63;
        let index = (address ^ way) >> ADDRESS_BITS;
        address &= u64::from(u32::MAX);
        let taken = way as i32;
        let Some(next) = node.table.get(index as usize) else {
            return Err(if taken > left { Error::DepthTooShort } else { Error::GuardMismatch });
        };
        slot = next;
        left -= taken;
        if left <= 0 {
            break match left {
                0 if found.rights().have(rights) => Ok(slot),
                0 => Err(Error::NoRight),
                _ => Err(Error::DepthTooShort),
            };
        }
    }
}

/// The way through a CNode that takes a whole address, and whose guard is zeros.
pub const WHOLE_WAY: u64 = ADDRESS_BITS as u64;

//! Quotas: who pays for memory and objects, and the end of all that one pays for.
//!
//! A charge is made, and taken back, under the lock of one quota; only making a quota and destroying it concern its
//! parent. What is charged keeps its quota: all charges hold one share in it together.

use super::{Anchor, Found, Header, Link, Linked, List, Rank, Ref, Slot, Spin, SpinGuard, Step, ending, tree};
use crate::mm::slab::Slab;
use abi::{Error, QUOTA_DEPTH_MAX, QuotaInfo};
use core::ptr::NonNull;

/// What something takes of a quota.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub bytes: usize,
    pub objects: usize,
}

/// The place of an object in the list of its quota, which owns nothing: a freed object leaves it first.
pub struct Charged(NonNull<Header>);

// SAFETY: a header stays in its object, which leaves the list before it is freed; `Ref::new` puts it into one list.
unsafe impl Linked<Charged> for Charged {
    type Object = Header;

    fn into_raw(self) -> NonNull<Header> {
        self.0
    }

    unsafe fn from_raw(raw: NonNull<Header>) -> Self {
        Self(raw)
    }

    fn link(header: &Header) -> &Link<Header, Charged> {
        &header.charged
    }
}

// SAFETY: headers may be used from any CPU.
unsafe impl Send for Charged {}

pub(super) struct Budget {
    limit: Cost,
    /// The quota itself is in it.
    used: Cost,
    /// It is being destroyed: nothing is charged any more.
    ends: bool,
    charged: List<Charged, Charged>,
}

impl Budget {
    /// Lists an object that is charged to the payer, whose budget this is.
    #[inline(always)]
    pub(super) fn list(&mut self, payer: Payer<'_>, header: &Header) {
        header.payer.set(payer.quota);
        self.charged.push(Charged(NonNull::from(header)));
    }
}

pub struct Quota {
    header: Header,
    depth: u64,
    budget: Spin<Budget>,
}

crate::object!(Quota as Quota {
    /// Its parent pays for all that it has.
    fn cost(&self) -> Cost {
        self.budget.lock().limit
    }

    fn settle(&self) {
        drop(self.budget.lock());
    }

    fn quota(&self) -> Option<&Quota> {
        Some(self)
    }
});

/// A quota that is to be charged, and the capability that says so, where it was named by one.
#[derive(Clone, Copy)]
pub struct Payer<'a> {
    quota: &'a Quota,
    by: Option<(&'a Slot, Found)>,
}

impl<'a> Payer<'a> {
    pub const fn by(quota: &'a Quota, slot: &'a Slot, found: Found) -> Self {
        Self { quota, by: Some((slot, found)) }
    }

    pub fn share(self) -> Result<Ref<Quota>, Error> {
        Ref::share_found(self.quota).ok_or(Error::InvalidCapability)
    }

    /// Charges `cost`, and keeps the lock for what is to be done with it.
    #[inline(always)]
    pub(super) fn charge(self, cost: Cost) -> Result<SpinGuard<'a, Budget>, Error> {
        let mut budget = self.quota.budget.lock();
        if self.by.is_some_and(|(slot, found)| !slot.still(&found)) {
            return Err(Error::InvalidCapability);
        }
        let Cost { bytes, objects } = budget.used;
        let left = Cost { bytes: budget.limit.bytes - bytes, objects: budget.limit.objects - objects };
        if budget.ends || cost.bytes > left.bytes || cost.objects > left.objects {
            return Err(Error::OverQuota);
        }
        budget.used = Cost { bytes: bytes + cost.bytes, objects: objects + cost.objects };
        if bytes == Quota::OWN.bytes {
            // Somebody holds a share: the process whose own it is, or by `settle` the capability that is still there.
            self.quota.header.share();
        }
        Ok(budget)
    }

    /// For whom `cost` was charged, and who then was not made.
    pub(super) fn take_back(self, cost: Cost) {
        self.quota.release(cost, None, || ());
    }
}

impl Quota {
    /// What one takes of itself.
    const OWN: Cost = Cost { bytes: Slab::<Self>::SHARE, objects: 1 };

    fn with(limit: Cost, depth: u64) -> Self {
        let budget = Budget { limit, used: Self::OWN, ends: false, charged: List::new() };
        Self { header: Header::new(), depth, budget: Spin::new(Rank::Quota, budget) }
    }

    /// The one that is nobody's part.
    pub fn root(bytes: usize) -> Result<Ref<Self>, Error> {
        Ref::unpaid(Self::with(Cost { bytes, objects: u32::MAX as usize }, 0))
    }

    /// One that has so much of the payer's.
    pub fn new(payer: Payer<'_>, bytes: u64, objects: u64) -> Result<Ref<Self>, Error> {
        let depth = payer.quota.depth + 1;
        if depth > QUOTA_DEPTH_MAX {
            return Err(Error::InvalidArgument);
        }
        let limit = Cost { bytes: bytes as usize, objects: objects as usize };
        if limit.bytes < Self::OWN.bytes || limit.objects < Self::OWN.objects {
            return Err(Error::OverQuota);
        }
        Ref::at_cost(payer, limit, || Self::with(limit, depth))
    }

    pub const fn payer(&self) -> Payer<'_> {
        Payer { quota: self, by: None }
    }

    /// Limits and use.
    pub fn read(&self) -> QuotaInfo {
        let Budget { limit, used, .. } = *self.budget.lock();
        let [bytes, bytes_used, objects, objects_used] =
            [limit.bytes, used.bytes, limit.objects, used.objects].map(|count| count as u64);
        QuotaInfo { bytes, bytes_used, objects, objects_used }
    }

    /// Takes back a charge, of the object with that header where it is one, after `free`.
    #[inline(always)]
    pub(super) fn release(&self, cost: Cost, header: Option<&Header>, free: impl FnOnce()) {
        let mut budget = self.budget.lock();
        if let Some(header) = header {
            // It owns nothing.
            let _ = budget.charged.remove(header);
        }
        free();
        budget.used.bytes -= cost.bytes;
        budget.used.objects -= cost.objects;
        let is_last = budget.used.bytes == Self::OWN.bytes;
        drop(budget);
        if is_last {
            self.header.give_up();
        }
    }

    /// Ends, in at most `steps` steps, all that is charged here and below; when nothing is left, what this quota had is
    /// its parent's again.
    pub fn destroy(&self, slot: &Slot, found: &Found, steps: usize) -> Result<Step, Error> {
        let parent = self.header.payer.get().ok_or(Error::InvalidArgument)?;
        let mut budget = self.budget.lock();
        if !slot.still(found) {
            return Err(Error::InvalidCapability);
        }
        budget.ends = true;
        drop(budget);
        if (0..steps).all(|_| self.destroy_step()) {
            // What is left may have ended, and wait for its memory.
            ending::hurry();
            return Ok(Step::More);
        }
        let mut budget = self.budget.lock();
        let Cost { bytes, objects } = core::mem::replace(&mut budget.limit, Self::OWN);
        drop(budget);
        // The parent stays charged for this object.
        parent.release(Cost { bytes: bytes - Self::OWN.bytes, objects: objects - Self::OWN.objects }, None, || ());
        Ok(Step::Done)
    }

    /// One capability to one object is taken away; or, when it has none, what else keeps the object ends. False where
    /// nothing is left.
    fn destroy_step(&self) -> bool {
        let mut quota = self;
        loop {
            let mut budget = quota.budget.lock();
            budget.ends = true;
            let Some(Charged(first)) = budget.charged.pop() else {
                // Frames may be charged for an object that is being made.
                return !core::ptr::eq(quota, self) || budget.used != Self::OWN;
            };
            // The next step is at another one.
            budget.charged.push(Charged(first));
            // SAFETY: what is listed is not free, and this share keeps it so; a quota, of which no share is kept,
            // is one that look-ups find, so its memory outlasts this stay in the kernel.
            let header: &'static Header = unsafe { first.as_ref() };
            if !header.share_found() {
                return true;
            }
            drop(budget);
            let object = header.ending.object();
            header.publish();
            let is_named = tree::purge(header);
            if !is_named {
                object.end_by_quota();
            }
            let below = object.quota().filter(|_| !is_named);
            header.give_up();
            match below {
                Some(below) => quota = below,
                None => return true,
            }
        }
    }
}

/// Frames that are charged.
pub struct Charge {
    quota: Anchor<Quota>,
    bytes: usize,
}

impl Charge {
    pub fn new(payer: Payer<'_>, bytes: usize) -> Result<Self, Error> {
        drop(payer.charge(Cost { bytes, objects: 0 })?);
        let quota = Anchor::default();
        quota.set(payer.quota);
        Ok(Self { quota, bytes })
    }

    /// Charges more for what `allocate` gives.
    pub fn pay<R>(&mut self, bytes: usize, allocate: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
        let more = self.quota.get().map(|quota| Self::new(quota.payer(), bytes)).transpose()?;
        let allocated = allocate()?;
        if let Some(mut more) = more {
            self.bytes += core::mem::take(&mut more.bytes);
        }
        Ok(allocated)
    }

    /// Takes back a part.
    pub fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some(quota) = self.quota.get() {
            quota.release(Cost { bytes, objects: 0 }, None, || ());
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.give_back(self.bytes);
        }
    }
}

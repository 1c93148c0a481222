//! Replies: the right to answer a call, once, as an object.

use super::endpoint;
use super::thread::{Owed, Thread};
use crate::sync::{Found, Header, Payer, Rank, Ref, Slot, Spin, Step};
use abi::{Error, Kind, Rights};
use core::sync::atomic::Ordering;

pub struct Reply {
    header: Header,
    owed: Spin<Option<Owed>>,
    /// By which the call was received.
    rights: Rights,
}

crate::object!(Reply as Reply {
    /// Nobody can answer any more: the caller hears of it.
    fn end_step(&self) -> Step {
        let owed = self.owed.lock().take();
        if let Some(owed) = owed {
            // One that waits no more need not hear.
            let _ = endpoint::answer(owed, Err(Error::PartnerGone));
        }
        Step::Done
    }

    fn settle(&self) {
        drop(self.owed.lock());
    }
});

impl Reply {
    /// Takes over what the current thread owes.
    pub fn new(payer: Payer<'_>, thread: &Thread) -> Result<Ref<Self>, Error> {
        let owed = thread.owed.with(Option::take).ok_or(Error::NoCaller)?;
        let rights = Rights(thread.received_by.load(Ordering::Relaxed));
        let reply = Ref::new(payer, || Self { header: Header::new(), owed: Spin::new(Rank::Owed, None), rights });
        match &reply {
            Ok(reply) => *reply.owed.lock() = Some(owed),
            Err(_) => thread.owed.with(|owes| *owes = Some(owed)),
        }
        reply
    }

    /// The current thread answers, and how many capabilities have arrived; `NoCaller` where that was done.
    pub fn answer(&self, replier: &Thread, slot: &Slot, found: &Found) -> Result<usize, Error> {
        endpoint::check_sent(replier, self.rights)?;
        let mut owed = self.owed.lock();
        if !slot.still(found) {
            return Err(Error::InvalidCapability);
        }
        let taken = owed.take().ok_or(Error::NoCaller)?;
        drop(owed);
        endpoint::answer(taken, Ok(replier))
    }
}

/// A Reply answers once, so there is one capability to it, which may move only.
pub fn may_copy(found: &Found) -> Result<(), Error> {
    if found.kind() == Kind::Reply as u64 { Err(Error::WrongObject) } else { Ok(()) }
}

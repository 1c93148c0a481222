//! Endpoints: where a caller and a receiver meet.
//!
//! A message moves only when both are present, straight from one thread's
//! saved registers to the other's. Nothing is buffered here.

use super::{thread::Thread, wait::WaitList};
use crate::{
    mm::slab::Slab,
    sched,
    sync::{Counted, Found, Header, Object, Rank, Ref, Slot, Spin},
};
use abi::{Error, Kind, MESSAGE_WORDS};
use core::mem::offset_of;

struct Queues {
    callers: WaitList,
    receivers: WaitList,
}

pub struct Endpoint {
    header: Header,
    queues: Spin<Queues>,
}

static SLAB: Slab<Endpoint> = Slab::new();

impl Counted for Endpoint {
    fn header(&self) -> &Header {
        &self.header
    }

    fn slab() -> &'static Slab<Self> {
        &SLAB
    }

    /// Who waits by a capability that is gone hears of it.
    fn settle(&self) {
        let mut queues = self.queues.lock();
        let queues = &mut *queues;
        for waiting in [&mut queues.callers, &mut queues.receivers] {
            waiting.drop_where(|thread| !thread.via.holds(), |thread| finish(thread, Err(Error::PartnerGone)));
        }
    }
}

impl Object for Endpoint {
    const KIND: Kind = Kind::Endpoint;
    const HEADER: usize = offset_of!(Self, header);
}

impl Endpoint {
    pub fn new() -> Result<Ref<Self>, Error> {
        let queues = Queues { callers: WaitList::new(), receivers: WaitList::new() };
        Ref::new(Self { header: Header::new(), queues: Spin::new(Rank::Wait, queues) })
    }

    /// The current thread sends what its registers hold, and waits for the reply.
    pub fn call(&self, caller: &Thread, slot: &Slot, found: &Found) -> Result<(), Error> {
        let mut queues = self.queues.lock();
        if !slot.still(found) {
            return Err(Error::InvalidCapability);
        }
        caller.via.set(slot, found);
        match queues.receivers.take_first() {
            Some(receiver) => {
                caller.begin_wait();
                hand_over(caller, &receiver);
                sched::wake(receiver);
            }
            None => queues.callers.wait(Ref::share(caller)),
        }
        Ok(())
    }

    /// The current thread takes the next message, or waits for one.
    /// A caller still owed a reply gets none: it hears that its partner is gone.
    pub fn receive(&self, receiver: &Thread, slot: &Slot, found: &Found) -> Result<(), Error> {
        abandon(receiver);
        let mut queues = self.queues.lock();
        if !slot.still(found) {
            return Err(Error::InvalidCapability);
        }
        match queues.callers.take_first() {
            Some(caller) => hand_over(&caller, receiver),
            None => {
                receiver.via.set(slot, found);
                queues.receivers.wait(Ref::share(receiver));
            }
        }
        Ok(())
    }
}

/// Moves the message of `caller`, which waits, to `receiver`, which owes it a reply from then on.
fn hand_over(caller: &Thread, receiver: &Thread) {
    let (info, words) = caller.frame.with(|frame| (frame.info(), frame.message_words()));
    receiver.frame.with(|frame| frame.set_message(0, caller.via.badge(), info, words));
    *receiver.owed.lock() = Some(Ref::share(caller));
    if receiver.is_doomed() {
        // It may have been reaped just before: then nobody else tells the caller.
        abandon(receiver);
    }
}

/// Ends a wait with a message, or with an error and no message.
fn finish(thread: &Ref<Thread>, result: Result<(u64, [u64; MESSAGE_WORDS]), Error>) {
    if thread.is_doomed() {
        return;
    }
    let (status, (info, words)) = match result {
        Ok(message) => (0, message),
        Err(error) => (error.status(), (0, [0; MESSAGE_WORDS])),
    };
    thread.frame.with(|frame| frame.set_message(status, 0, info, words));
    sched::wake(thread.clone());
}

/// The current thread answers the caller that it owes, with what its registers hold.
pub fn reply(replier: &Thread) -> Result<(), Error> {
    let caller = replier.owed.lock().take().ok_or(Error::NoCaller)?;
    let message = replier.frame.with(|frame| (frame.info(), frame.message_words()));
    finish(&caller, Ok(message));
    Ok(())
}

/// `thread` ends: the caller that it owes hears of it.
pub fn abandon(thread: &Thread) {
    let owed = thread.owed.lock().take();
    if let Some(caller) = owed {
        finish(&caller, Err(Error::PartnerGone));
    }
}

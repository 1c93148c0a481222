//! Notifications: a word of bits that one side sets and the other waits for.

use super::endpoint;
use super::thread::{State, Thread, WAITS};
use super::wait::{self, Meeting, Queues};
use crate::sync::{Found, Header, Payer, Ref, Slot, Step};
use crate::{irq, sched};
use abi::{Error, Outcome};

pub struct Notification {
    header: Header,
    pub(super) meeting: Meeting,
}

crate::object!(Notification as Notification {
    fn end_step(&self) -> Step {
        self.unbind();
        Step::Done
    }

    fn settle(&self) {
        wait::settle(&self.meeting, WAITS);
    }
});

/// The bits that a thread waits for.
pub fn mask(thread: &Thread) -> u64 {
    thread.frame.with(|frame| frame.argument(1))
}

impl Notification {
    pub fn new(payer: Payer<'_>) -> Result<Ref<Self>, Error> {
        Ref::new(payer, || Self { header: Header::new(), meeting: Queues::meeting() })
    }

    /// The bits that a capability with this badge sets: those of the badge, or all where it has none.
    pub const fn allowed(bits: u64, badge: u64) -> u64 {
        if badge == 0 { bits } else { bits & badge }
    }

    /// Sets bits: each goes to the first that waits for it, or stays.
    pub fn signal(&self, mut bits: u64, slot: &Slot, found: &Found) -> Result<(), Error> {
        let mut queues = self.meeting.lock();
        if !slot.still(found) {
            return Err(Error::InvalidCapability);
        }
        // Nobody who waits does so for one that was set before. Of these nobody hears before his turn: who comes
        // meanwhile waits behind the others.
        while bits != 0
            && let Some(thread) = queues.receivers.take(|thread| mask(thread) & bits != 0)
        {
            drop(queues);
            let seen = mask(&thread) & bits;
            bits &= !seen;
            thread.frame.with(|frame| {
                frame.finish_call();
                frame.set_result(Outcome { status: 0, value: seen });
            });
            sched::ready(thread);
            irq::serve();
            queues = self.meeting.lock();
        }
        queues.bits |= bits;
        let bound = if bits == 0 { None } else { queues.bound.clone() };
        drop(queues);
        // Its receive starts again, and finds them.
        if let Some(thread) = bound
            && thread.end_wait_as(State::Receiving as u32)
        {
            sched::ready(thread);
        }
        Ok(())
    }

    /// The current thread waits until one of the bits is set. None: its call starts again.
    pub fn wait(&self, thread: &Thread, slot: &Slot, found: &Found) -> Result<Option<u64>, Error> {
        let mut queues = self.meeting.lock();
        if !slot.still(found) {
            return Err(Error::InvalidCapability);
        }
        let mask = mask(thread);
        let seen = queues.bits & mask;
        if seen != 0 {
            queues.bits &= !seen;
            return Ok(Some(seen));
        }
        endpoint::may_wait(thread)?;
        thread.come_by(WAITS, slot, found);
        queues.receivers.wait(thread, State::Notified, &self.meeting);
        Ok(None)
    }

    /// Receives of the current thread see the bits from now on.
    pub fn bind(&self, thread: &Thread, slot: &Slot, found: &Found) -> Result<(), Error> {
        let mut queues = self.meeting.lock();
        if queues.bound.is_some() || thread.bound.get().is_some() {
            return Err(Error::Bound);
        }
        if !slot.still(found) {
            return Err(Error::InvalidCapability);
        }
        thread.bound.set(self);
        queues.bound = Some(Ref::share(thread));
        Ok(())
    }

    /// No thread's receives see the bits from now on; false where none did.
    pub fn unbind(&self) -> bool {
        let mut queues = self.meeting.lock();
        let thread = queues.bound.take();
        if let Some(thread) = &thread {
            thread.bound.let_go();
        }
        drop(queues);
        thread.is_some()
    }
}

/// `thread` ends.
pub fn unbind(thread: &Thread) {
    if let Some(notification) = thread.bound.get() {
        let mut queues = notification.meeting.lock();
        // Others may have unbound it, and bound themselves.
        let own = queues.bound.take_if(|bound| bound.is(thread));
        thread.bound.let_go();
        drop(queues);
        drop(own);
    }
}

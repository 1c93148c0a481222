//! Threads that wait for the same thing.

use super::thread::{CANCELLED, State, Thread, UNANSWERED};
use super::{endpoint, report};
use crate::sync::{List, Rank, Ref, Spin};
use crate::{arch, irq, sched};
use abi::{Error, MESSAGE_WORDS};

/// The queue kind of threads that wait.
pub struct Waiting;

/// Threads by priority, and within one in the order of their coming. One whose wait has ended otherwise stays listed
/// until it runs, or is passed over.
pub struct WaitList(pub(super) List<Ref<Thread>, Waiting>);

impl WaitList {
    pub const fn new() -> Self {
        Self(List::new())
    }

    /// Lists the current thread, which from here on waits. The caller holds the lock that guards this list.
    pub fn wait(&mut self, thread: &Thread, state: State, at: &Meeting) {
        // First: who ends the wait, and has the thread in hand before it is listed, waits for the lock in `unlist`.
        thread.listed.set(at);
        thread.begin_wait(state);
        // Who sends came the slow way, and noted it; who waits for others works for nobody, or is passed over here.
        self.push(Ref::share(thread), if state == State::Sending { Thread::urgency } else { Thread::priority });
    }

    /// Lists a thread that waits already.
    #[inline(always)]
    pub fn push(&mut self, thread: Ref<Thread>, urgency: impl Fn(&Thread) -> u8) {
        if self.0.is_empty() {
            return self.0.start(thread);
        }
        let own = urgency(&thread);
        self.0.insert(thread, |other| urgency(other) < own);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn front(&self) -> Option<&Thread> {
        self.0.front()
    }

    /// Ends the wait of the first for which `wanted` holds, and takes it out: the caller makes it ready.
    pub fn take(&mut self, wanted: impl Fn(&Thread) -> bool) -> Option<Ref<Thread>> {
        while let Some(thread) = self.0.take(&wanted) {
            thread.listed.let_go();
            if thread.end_wait() {
                return Some(thread);
            }
        }
        None
    }

    pub fn take_first(&mut self) -> Option<Ref<Thread>> {
        self.take(|_| true)
    }
}

/// Who waits at an object, and what is there for them, behind one lock.
pub struct Queues {
    pub senders: WaitList,
    pub receivers: WaitList,
    /// Signalled, and not seen by anybody.
    pub bits: u64,
    /// The thread whose receives see the bits.
    pub bound: Option<Ref<Thread>>,
}

pub type Meeting = Spin<Queues>;

impl Queues {
    #[inline(always)]
    pub const fn meeting() -> Meeting {
        Spin::new(Rank::Wait, Self { senders: WaitList::new(), receivers: WaitList::new(), bits: 0, bound: None })
    }
}

/// Takes a thread that waits no more out of where it is still listed.
#[inline(always)] // so that who is listed nowhere pays for no call
pub fn unlist(thread: &Thread) {
    if let Some(meeting) = thread.listed.get() {
        let mut queues = meeting.lock();
        let taken = queues.senders.0.remove(thread).or_else(|| queues.receivers.0.remove(thread));
        thread.listed.let_go();
        drop(queues);
        // With no lock held: it may be the last share.
        drop(taken);
    }
}

/// Those who wait by a capability that is gone hear of it; `receives` is by which its receivers wait.
pub fn settle(meeting: &Meeting, receives: usize) {
    let sends = |thread: &Thread| !thread.via[thread.sends_by()].holds();
    while somebody_waits(meeting) && fail_one(meeting, sends, |thread| !thread.via[receives].holds()) {
        irq::serve();
    }
}

/// Whether anybody is listed there.
pub fn somebody_waits(meeting: &Meeting) -> bool {
    let queues = meeting.lock();
    !(queues.senders.is_empty() && queues.receivers.is_empty())
}

#[inline(never)] // so that whoever finds nobody saves no registers for it
fn fail_one(meeting: &Meeting, sender: impl Fn(&Thread) -> bool, receiver: impl Fn(&Thread) -> bool) -> bool {
    let mut queues = meeting.lock();
    let taken = queues.senders.take(sender).or_else(|| queues.receivers.take(receiver));
    drop(queues);
    taken.map(|thread| fail(&thread, Error::PartnerGone)).is_some()
}

/// Ends a wait before its time: the call fails, or starts again unless it `ends` or its answer was due, which nobody gives
/// any more. False where the thread does not wait.
pub fn cancel(thread: &Thread, ends: bool) -> bool {
    let Some(state) = thread.interrupt() else { return false };
    let is_due = state == State::Replying as u32;
    // What is told of a thread is told again. Else its CPU may just move its words to a partner: it alone touches its
    // registers.
    if !report::take_back(thread) && (ends || is_due) {
        thread.ask(if is_due { CANCELLED | UNANSWERED } else { CANCELLED });
    }
    sched::ready(Ref::share(thread));
    true
}

/// The call of a thread of this CPU ends, if its wait was cancelled.
pub fn hear(thread: &Thread) {
    let word = thread.take_cancel();
    if word & UNANSWERED != 0 {
        thread.frame.with(arch::task::Frame::restart_call);
    }
    if word & CANCELLED != 0 {
        end_call(thread, Error::Cancelled);
    }
}

/// A thread that waits at an object takes another place there: its call starts again.
pub fn requeue(thread: &Thread) {
    let ends = |state: &State| thread.end_wait_as(*state as u32);
    if !thread.reports() && [State::Sending, State::Receiving, State::Notified].iter().any(ends) {
        // What is told of it may have come in between.
        report::take_back(thread);
        sched::ready(Ref::share(thread));
    }
}

/// Ends a call that is to start again, and whose wait was ended by the caller, with an error.
fn fail(thread: &Thread, error: Error) {
    if thread.reports() {
        report::unanswered(thread);
    } else {
        end_call(thread, error);
    }
    sched::ready(Ref::share(thread));
}

fn end_call(thread: &Thread, error: Error) {
    thread.frame.with(|frame| {
        frame.finish_call();
        let status = error.status();
        match endpoint::call_of(frame.call_number()) {
            call if call >= abi::Call::Call as u64 && call != abi::Call::NotificationWait as u64 => {
                frame.set_message(status, 0, 0, [0; MESSAGE_WORDS]);
            }
            _ => frame.set_result(abi::Outcome { status, value: 0 }),
        }
    });
}

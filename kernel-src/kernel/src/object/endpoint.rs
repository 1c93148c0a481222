//! Endpoints: where senders and receivers meet.
//!
//! A message moves only when both are present, straight from one thread's
//! saved registers to the other's. Nothing is buffered here. Who has to wait
//! shows the registers from which its call starts again.

use super::thread::{Owed, RECEIVES, State, Thread};
use super::wait::{self, Meeting, Queues};
use super::{report, transfer};
use crate::addr::Nanos;
use crate::sync::{Found, Header, Payer, Ref, Slot, Step};
use crate::{arch, sched};
use abi::{Call, DEADLINE, Error, MESSAGE_WORDS, MessageInfo, REPLY_LOST, Rights, SIGNALLED};
use core::sync::atomic::Ordering;

pub struct Endpoint {
    header: Header,
    pub(super) meeting: Meeting,
}

crate::object!(Endpoint as Endpoint {
    fn end_step(&self) -> Step {
        debug_assert!(!wait::somebody_waits(&self.meeting), "who waits has a capability, and hears when it goes");
        Step::Done
    }

    fn settle(&self) {
        wait::settle(&self.meeting, RECEIVES);
    }
});

/// In the number of a call that starts again as a receive: the reply before it found nobody.
pub const LOST: u64 = 1 << 9;

/// The call of a number that may have flags beside it.
pub const fn call_of(number: u64) -> u64 {
    match number & !DEADLINE {
        number if number == LOST | Call::Receive as u64 => Call::Receive as u64,
        number => number,
    }
}

/// What a thread's registers say: the info, and the words with zeros where it announces none.
#[inline(always)] // so that the fast path calls nothing
pub fn message_of(frame: &arch::task::Frame) -> (u64, [u64; MESSAGE_WORDS]) {
    let (info, mut words) = (frame.info(), frame.message_words());
    let length = MessageInfo(info).length();
    if length < words.len() {
        words.iter_mut().enumerate().for_each(|(index, word)| *word = if index < length { *word } else { 0 });
    }
    (info, words)
}

/// The end of a call that has sent: it tells how many capabilities have arrived.
pub fn sent(sender: &Thread, arrived: usize) {
    let info = MessageInfo::new(0, 0).with_capabilities(arrived);
    sender.frame.with(|frame| frame.set_message(0, 0, info.0, frame.message_words()));
}

/// The current thread may send what its registers say, by a capability with those rights.
pub fn check_sent(thread: &Thread, by: Rights) -> Result<(), Error> {
    transfer::check(thread, MessageInfo(thread.frame.with(|frame| frame.info())), by)
}

/// Every message call has an info word, also those that send nothing.
pub fn check_info(thread: &Thread) -> Result<(), Error> {
    let info = thread.frame.with(|frame| frame.info());
    if MessageInfo(info).is_valid() { Ok(()) } else { Err(Error::InvalidArgument) }
}

/// Until when the thread's message call may wait, if it says so.
pub fn deadline(thread: &Thread) -> Option<Nanos> {
    let until = thread.frame.with(|frame| (frame.call_number() & DEADLINE != 0).then(|| Nanos(frame.deadline())));
    until.filter(|_| !thread.reports())
}

fn calls(thread: &Thread) -> bool {
    thread.reports() || thread.frame.with(|frame| frame.call_number()) & !DEADLINE == Call::Call as u64
}

/// The current thread is to wait in a list: `TimedOut` where it may not. Its call starts again when it is woken.
pub fn may_wait(thread: &Thread) -> Result<(), Error> {
    if let Some(until) = deadline(thread) {
        if until <= arch::timer::now() {
            return Err(Error::TimedOut);
        }
        sched::limit(thread, until);
    }
    if !thread.reports() {
        thread.frame.with(arch::task::Frame::restart_call);
    }
    Ok(())
}

impl Endpoint {
    pub fn new(payer: Payer<'_>) -> Result<Ref<Self>, Error> {
        Ref::new(payer, || Self { header: Header::new(), meeting: Queues::meeting() })
    }

    /// The current thread sends what its registers hold; one that calls waits for the reply.
    pub fn send(&self, sender: &Thread, slot: &Slot, found: &Found) -> Result<(), Error> {
        check_sent(sender, found.rights())?;
        self.meet(sender, slot, found)
    }

    /// The same, after the check of what is sent; or of what is told of the current thread.
    pub fn meet(&self, sender: &Thread, slot: &Slot, found: &Found) -> Result<(), Error> {
        let mut queues = self.meeting.lock();
        if !slot.still(found) {
            return Err(Error::InvalidCapability);
        }
        sender.come_by(sender.sends_by(), slot, found);
        let Some(receiver) = queues.receivers.take_first() else {
            may_wait(sender)?;
            queues.senders.wait(sender, State::Sending, &self.meeting);
            return Ok(());
        };
        drop(queues);
        let owed = calls(sender).then(|| Owed { caller: Ref::share(sender), token: sender.begin_call() });
        let is_sent = owed.is_none();
        receiver.frame.with(arch::task::Frame::finish_call);
        let arrived = hand_over(sender, &receiver, owed);
        if is_sent {
            sent(sender, arrived);
        } else {
            if let Some(until) = deadline(sender).filter(|until| *until > arch::timer::now()) {
                sched::limit(sender, until);
            }
            // Not before: from here on others may end its wait, and have its registers.
            sender.begin_wait(report::state_of(sender));
        }
        sched::ready(receiver);
        Ok(())
    }

    /// The current thread takes the next message, or waits for one.
    /// A caller still owed a reply gets none: it hears that its partner is gone.
    pub fn receive(&self, receiver: &Thread, slot: &Slot, found: &Found) -> Result<(), Error> {
        abandon(receiver);
        receiver.come_by(RECEIVES, slot, found);
        receiver.received_by.store(found.rights().0, Ordering::Relaxed);
        loop {
            let bound = receiver.bound.get();
            let bits = bound.map_or(0, |bound| core::mem::take(&mut bound.meeting.lock().bits));
            if bits != 0 {
                let mut words = [0; MESSAGE_WORDS];
                words[0] = bits;
                receiver.frame.with(|frame| {
                    let status = if frame.call_number() & LOST != 0 { REPLY_LOST } else { 0 };
                    frame.set_message(status, SIGNALLED.0, SIGNALLED.0, words);
                });
                return Ok(());
            }
            let mut queues = self.meeting.lock();
            if !slot.still(found) {
                return Err(Error::InvalidCapability);
            }
            if let Some(sender) = queues.senders.take_first() {
                drop(queues);
                accept(sender, receiver);
                return Ok(());
            }
            may_wait(receiver)?;
            queues.receivers.wait(receiver, State::Receiving, &self.meeting);
            drop(queues);
            // A signal after the first look saw nobody wait; one from here on sees this thread.
            if bound.is_none_or(|bound| bound.meeting.lock().bits == 0)
                || !receiver.end_wait_as(State::Receiving as u32)
            {
                return Ok(());
            }
            wait::unlist(receiver);
            sched::wait_no_more(receiver);
            receiver.frame.with(arch::task::Frame::finish_call);
        }
    }
}

/// The current thread receives from one whose wait to send it has ended.
fn accept(sender: Ref<Thread>, receiver: &Thread) {
    if !sender.reports() {
        sender.frame.with(arch::task::Frame::finish_call);
    }
    if !calls(&sender) {
        sent(&sender, hand_over(&sender, receiver, None));
        sched::ready(sender);
        return;
    }
    let until = deadline(&sender);
    let token = sender.begin_call();
    hand_over(&sender, receiver, Some(Owed { caller: sender.clone(), token }));
    sender.wait_on(report::state_of(&sender));
    // It may have been asked something, or its time have come, before it waited again: then nobody else tells it. From
    // here on it may run, unless that is what is done here.
    if sender.is_asked() {
        Thread::heed(sender);
    } else if until.is_some_and(|until| until <= arch::timer::now()) {
        // Where its home CPU did that, it is done.
        let _ = answer(Owed { caller: sender, token }, Err(Error::TimedOut));
    }
}

/// Moves what `sender` sends to `receiver`, which then owes a reply or not. How many capabilities have arrived.
fn hand_over(sender: &Thread, receiver: &Thread, owed: Option<Owed>) -> usize {
    let badge = sender.via[sender.sends_by()].badge();
    let arrived = if sender.reports() {
        report::hand_over(sender, receiver, badge)
    } else {
        transfer::between(sender, receiver, badge)
    };
    receiver.owed.with(|owes| *owes = owed);
    arrived
}

/// Ends a call with the answer of a thread, or with an error. How many capabilities have arrived; `PartnerGone` where it
/// does not wait any more.
pub fn answer(owed: Owed, result: Result<&Thread, Error>) -> Result<usize, Error> {
    let Owed { caller, token } = owed;
    if caller.end_call(token) { answer_ended(caller, result) } else { Err(Error::PartnerGone) }
}

/// The same, of a call that nobody else answers any more.
pub fn answer_ended(caller: Ref<Thread>, result: Result<&Thread, Error>) -> Result<usize, Error> {
    // Who was to end waits no more, though its call was not answered: it is not in this CPU's hands.
    if !caller.end_wait_as(report::state_of(&caller) as u32) {
        return Err(Error::PartnerGone);
    }
    if caller.reports() {
        report::answered(caller, result);
        return Ok(0);
    }
    let arrived = match result {
        Ok(replier) => transfer::between(replier, &caller, 0),
        Err(error) => {
            caller.frame.with(|frame| frame.set_message(error.status(), 0, 0, [0; MESSAGE_WORDS]));
            0
        }
    };
    sched::ready(caller);
    Ok(arrived)
}

/// The current thread answers the caller that it owes; its call goes on as a receive.
pub fn reply_before_receive(replier: &Thread) -> Result<(), Error> {
    let lost = take_owed(replier).map(|owed| answer(owed, Ok(replier)).is_err())?;
    replier.frame.with(|frame| {
        let flags = frame.call_number() & DEADLINE | if lost { LOST } else { 0 };
        frame.set_call_number(Call::Receive as u64 | flags);
    });
    Ok(())
}

/// As [`abi::Call::Reply`] to the caller owed.
pub fn reply_owed(replier: &Thread) -> Result<usize, Error> {
    answer(take_owed(replier)?, Ok(replier))
}

/// What the current thread owes, if it may answer with what its registers say.
fn take_owed(replier: &Thread) -> Result<Owed, Error> {
    check_sent(replier, Rights(replier.received_by.load(Ordering::Relaxed)))?;
    replier.owed.with(Option::take).ok_or(Error::NoCaller)
}

/// `thread` owes no reply any more: the caller hears that its partner is gone.
pub fn abandon(thread: &Thread) {
    let owed = thread.owed.with(Option::take);
    if let Some(owed) = owed {
        // One that waits no more need not hear.
        let _ = answer(owed, Err(Error::PartnerGone));
    }
}

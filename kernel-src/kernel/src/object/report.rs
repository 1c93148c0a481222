//! What the kernel tells a handler in user space for a thread: its faults.
//!
//! A report is a call that the kernel makes for the thread, by a capability that the thread has for it: the handler
//! receives it like any other, and its answer lets the thread go on. Until then the thread waits as a caller does, at
//! the instruction, and can be stopped there: then it comes by the same fault again when it goes on.

use super::{
    endpoint::Endpoint,
    process::delete_root,
    thread::{State, Thread},
    transfer::status_of,
};
use crate::{
    sched,
    sync::{Ref, tree},
    trap::{self, Fault},
};
use abi::{Error, FAULT, MESSAGE_WORDS, MessageInfo, REGISTERS, REPORT_WORDS, Rights};
use core::sync::atomic::Ordering;

/// Tells of the current thread's fault; where nobody is to hear, its process ends.
pub fn report(thread: &Thread, fault: Fault) {
    thread.set_report(Some(fault));
    let found = thread.handler.look_up();
    let told = found.and_then(|found| found.object::<Endpoint>()?.meet(thread, &thread.handler, &found).ok());
    if told.is_none() {
        unanswered(thread);
    }
}

/// Nobody answers, or the handler says that it has not handled it. The caller has ended the thread's wait.
pub fn unanswered(thread: &Thread) {
    if let Some(fault) = thread.set_report(None) {
        trap::unhandled(thread, &fault);
    }
}

/// The thread goes on as the answer says, if it is one. The caller has ended the thread's wait.
pub fn answered(thread: Ref<Thread>, result: Result<&Thread, Error>) {
    let replier = result.ok().map(|replier| (replier, MessageInfo(replier.frame.with(|frame| frame.info()))));
    match replier.filter(|(_, info)| info.label() == 0) {
        Some((replier, info)) => {
            thread.set_report(None);
            if let Some(words) = replier.buffer.words().filter(|_| info.length() == REPORT_WORDS) {
                let words: [u64; REGISTERS] =
                    core::array::from_fn(|at| words[MESSAGE_WORDS + at].load(Ordering::Relaxed));
                thread.frame.with(|frame| frame.set_registers(&zerocopy::transmute!(words)));
            }
        }
        None => unanswered(&thread),
    }
    sched::ready(thread);
}

/// What the handler receives.
pub fn hand_over(thread: &Thread, handler: &Thread, badge: u64) -> usize {
    let Some(fault) = thread.report.with(|report| *report) else { return 0 };
    let address = fault.address.map_or(0, |address| address.0 as u64);
    let message = [fault.cause as u64, address, fault.code, fault.pc.0 as u64, thread.id(), 0, 0, 0];
    if let Some(words) = handler.buffer.words() {
        let registers: [u64; REGISTERS] = zerocopy::transmute!(thread.frame.with(|frame| frame.registers()));
        words[MESSAGE_WORDS..].iter().zip(registers).for_each(|(place, word)| place.store(word, Ordering::Relaxed));
    }
    let info = MessageInfo::new(FAULT, REPORT_WORDS).0;
    handler.frame.with(|frame| frame.set_message(status_of(frame), badge, info, message));
    0
}

/// From now on the thread's faults go to the endpoint that `name` means to the caller.
pub fn set_handler(caller: &Thread, thread: &Thread, name: u64) -> Result<(), Error> {
    let rights = Rights::WRITE.with(Rights::CALL);
    let by = if name == abi::NO_CAPABILITY { None } else { Some(caller.process().object::<Endpoint>(name, rights)?) };
    delete_root(&thread.handler);
    let Some((_, from, found)) = by else { return Ok(()) };
    let to = thread.handler.claim().ok_or(Error::Occupied)?;
    if tree::derive(from, &found, to, found.content.badge, rights) { Ok(()) } else { Err(Error::InvalidCapability) }
}

/// How a thread that calls waits for the answer.
pub fn state_of(thread: &Thread) -> State {
    if thread.reports() { State::Handled } else { State::Replying }
}

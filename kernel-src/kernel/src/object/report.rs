//! What the kernel tells a handler in user space for a thread: its faults, and the system calls of a foreign one.
//!
//! A report is a call that the kernel makes for the thread, by a capability that the thread has for it: the handler
//! receives it like any other, and its answer lets the thread go on. Until then the thread waits as a caller does, at
//! the instruction that faulted or behind that of its call, and can be stopped there: then the instruction starts again
//! when it goes on. The fast way is in `fast`.

use super::endpoint::{Endpoint, message_of};
use super::process::delete_root;
use super::thread::{FAULTS, FOREIGN, State, Thread};
use super::transfer::status_of;
use crate::addr::VirtAddr;
use crate::arch::task::Frame;
use crate::sched;
use crate::sync::{Ref, tree};
use crate::trap::{self, Cause, Fault};
use abi::{Error, FAULT, MESSAGE_WORDS, MessageInfo, Rights};

const _: () = assert!(FAULTS == 0 && abi::FOREIGN == FAULT + FOREIGN as u64);

/// What ends the process of a foreign thread whose call nobody answers.
pub fn unserved(frame: &Frame) -> Fault {
    let [.., pc] = frame.foreign_call();
    Fault { cause: Cause::Other, address: None, pc: VirtAddr(pc as usize), code: 0 }
}

/// Tells of the current thread what is to be told; where nobody is to hear, its process ends.
pub fn tell(thread: &Thread) {
    let slot = &thread.handlers[thread.sends_by()];
    let told = slot.look_up().and_then(|found| found.object::<Endpoint>()?.meet(thread, slot, &found).ok());
    if told.is_none() {
        unanswered(thread);
    }
}

/// Nobody answers, or the handler says that it has not handled it. The caller has ended the thread's wait.
pub fn unanswered(thread: &Thread) {
    if let Some((_, fault)) = thread.take_report() {
        trap::unhandled(thread, &fault);
    }
}

/// The thread goes on as the answer says, if it is one. The caller has ended the thread's wait.
pub fn answered(thread: Ref<Thread>, result: Result<&Thread, Error>) {
    let answer = result.ok().map(|replier| replier.frame.with(|frame| message_of(frame)));
    match answer.filter(|(info, _)| MessageInfo(*info).label() == 0) {
        Some((_, [result, ..])) => go_on(&thread, result),
        None => unanswered(&thread),
    }
    sched::ready(thread);
}

/// The thread, whose wait the caller has ended, goes on: a call with that result.
#[inline(always)]
pub fn go_on(thread: &Thread, result: u64) {
    if let Some((FOREIGN, _)) = thread.take_report() {
        thread.frame.with(|frame| frame.set_foreign_result(result));
    }
}

/// What is told of a thread, whose wait the caller has ended, is taken back: false where there is nothing. A call starts
/// again, unless whoever was told has made the thread go on elsewhere.
pub fn take_back(thread: &Thread) -> bool {
    let Some((way, fault)) = thread.take_report() else { return false };
    thread.frame.with(|frame| {
        if way == FOREIGN && unserved(frame) == fault {
            frame.restart_call();
        }
    });
    true
}

/// Info and words of the message in which a thread with those registers is told of.
#[inline(always)] // so that the fast path calls nothing
pub fn message(thread: &Thread, frame: &Frame, way: usize, fault: &Fault) -> (u64, [u64; MESSAGE_WORDS]) {
    let address = fault.address.map_or(0, |address| address.0 as u64);
    let words = match way {
        FOREIGN => frame.foreign_call(),
        _ => [fault.cause as u64, address, fault.code, fault.pc.0 as u64, thread.id, 0, 0, 0],
    };
    (MessageInfo::new(FAULT + way as u64, MESSAGE_WORDS).0, words)
}

/// What the handler receives. The thread does not wait, and is in the hands of this CPU.
pub fn hand_over(thread: &Thread, handler: &Thread, badge: u64) -> usize {
    let Some(fault) = thread.report.with(|report| *report) else { return 0 };
    let (info, words) = thread.frame.with(|frame| message(thread, frame, thread.sends_by(), &fault));
    handler.frame.with(|frame| frame.set_message(status_of(frame), badge, info, words));
    0
}

/// From now on the thread's faults, or its system calls, go to the endpoint that `name` means to the caller.
pub fn set_handler(caller: &Thread, thread: &Thread, way: usize, name: u64) -> Result<(), Error> {
    let rights = Rights::WRITE.with(Rights::CALL);
    let by = if name == abi::NO_CAPABILITY { None } else { Some(caller.process.object::<Endpoint>(name, rights)?) };
    let slot = &thread.handlers[way];
    if way == FOREIGN && by.is_none() {
        thread.set_foreign(false);
    }
    delete_root(slot);
    let Some((_, from, found)) = by else { return Ok(()) };
    let to = slot.claim().ok_or(Error::Occupied)?;
    if !tree::derive(from, &found, to, found.content.badge, rights) {
        return Err(Error::InvalidCapability);
    }
    if way == FOREIGN {
        thread.set_foreign(true);
    }
    Ok(())
}

/// How a thread that calls waits for the answer.
pub fn state_of(thread: &Thread) -> State {
    if thread.reports() { State::Handled } else { State::Replying }
}

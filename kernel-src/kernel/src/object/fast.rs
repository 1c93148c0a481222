//! The fast path: a call to a server that waits on this CPU, and its answer, straight from one thread to the other; and
//! signals and waits for bits; and what is told of a thread.
//!
//! First come looks that change nothing. Where all say so, nothing but stores follows, and the other thread runs: no
//! scheduler, no allocation, no count of shares, no timer. Where one says no, or a lock is taken, the call goes the slow
//! way, with the same result.

#![allow(unsafe_code)]

use super::endpoint::{Endpoint, LOST, message_of};
use super::notification::Notification;
use super::thread::{EXTRAS, Owed, RECEIVES, SENDS, SIGNALS, STEPS, State, Thread, WAITS};
use super::wait::{Meeting, Queues};
use super::{cnode, donation, report, transfer};
use crate::arch;
use crate::arch::task::Frame;
use crate::percpu::{self, PerCpu};
use crate::sync::{Ref, SpinGuard, ending, tree};
use crate::trap::Fault;
use crate::{sched, syscall};
use abi::{ADDRESS_BITS, Call, MESSAGE_WORDS, MessageInfo, Outcome, REPLY_LOST, Rights};
use core::arch::asm;
use core::convert::Infallible;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

type Cpu = &'static PerCpu;
type Live = &'static Thread;
/// From which thread to which.
type Switch = [Live; 2];
/// Info and length of a message.
type Sent = (u64, u64);
type Locked = SpinGuard<'static, Queues>;

/// What a name that a thread has used means, so that the next call need not go that way again: the object of the
/// capability that the thread came by. That no CNode's capability has left its slot since says that the way leads to
/// that slot still.
pub struct Known {
    name: u64,
    ways: u64,
    meeting: Option<&'static Meeting>,
    rights: Rights,
}

impl Known {
    /// Never what a name means: there is no such way, though anybody may ask for that name.
    pub const NONE: Self = Self { name: u64::MAX, ways: 0, meeting: None, rights: Rights::NONE };
}

/// What a thread's name means, if it knows.
#[inline(always)]
fn known(thread: Live, frame: &Frame, which: usize) -> Option<&'static Known> {
    // SAFETY: it is the thread's own while it runs, and nobody else's.
    let known = unsafe { &*thread.known[which].as_ptr() };
    (known.name == frame.capability() && known.ways == tree::ways()).then_some(known)
}

/// The meeting that is known, with its queues, if it is still there.
#[inline(always)]
fn lock(thread: &Thread, which: usize, known: &Known) -> Option<(&'static Meeting, Locked)> {
    // SAFETY: what has a name was learned, and has a slot, to which a way leads still: it is there until this CPU leaves
    // the kernel.
    let (meeting, holds) = unsafe { (known.meeting.unwrap_unchecked(), thread.via[which].holder()) };
    // And so is what the slot names.
    let queues = if holds() { meeting.try_lock()? } else { return None };
    if holds() { Some((meeting, queues)) } else { None }
}

/// Finds the endpoint or notification that a thread names; None where it may not be used so.
fn learn(thread: Live, which: usize, rights: Rights) -> Option<()> {
    // SAFETY: as in `known`, and for registers as in `carry_out`.
    let (known, name) = unsafe { (&mut *thread.known[which].as_ptr(), (*thread.frame.as_ptr()).capability()) };
    *known = Known::NONE;
    let ways = tree::ways();
    let slot = cnode::resolve(thread.process.names(), name, ADDRESS_BITS, Rights::NONE).ok()?;
    let found = slot.look_up()?;
    let generation = name >> ADDRESS_BITS;
    let meeting = match which {
        SENDS | RECEIVES => &found.object::<Endpoint>()?.meeting,
        _ => &found.object::<Notification>()?.meeting,
    };
    if generation != 0 && generation != found.generation() || !found.rights().have(rights) {
        return None;
    }
    thread.via[which].set(slot, &found, found.id());
    *known = Known { name, ways, meeting: Some(meeting), rights: found.rights() };
    Some(())
}

/// For whom a thread works, of which [`donation::backing`] may be asked. Who works for nobody has its own time, and is as
/// urgent as its priority says.
#[inline(always)]
pub fn owes(thread: &Thread) -> Option<&Owed> {
    // SAFETY: nobody else writes what it owes, and this CPU does not while it asks.
    unsafe { (*thread.owed.as_ptr()).as_ref() }
}

#[cold]
#[inline(never)]
fn carry_out_slowly(thread: Live) -> ! {
    donation::charge(percpu::this(), thread);
    syscall::dispatch(thread);
    sched::leave()
}

/// Names that are new are learned, which is done once; then all is as before.
#[cold]
#[inline(never)]
fn again(cpu: Cpu, thread: Live, which: usize, rights: Rights) -> ! {
    if learn(thread, which, rights).is_some() {
        carry_out::<false>(cpu, thread)
    }
    carry_out_slowly(thread)
}

/// Carries out a call of the current thread that leaves it waiting, and goes on with another, or a signal; or, where that is
/// not to be, has changed nothing when the call goes the slow way. What is rare never comes back to the common way, which
/// therefore has nothing to save from it. The questions are asked in this order, and not made a tree of.
#[inline(always)]
pub fn carry_out<const FIRST: bool>(cpu: Cpu, thread: Live) -> ! {
    // SAFETY: the thread has just entered the kernel on this CPU, which alone has its registers while it runs.
    let frame = unsafe { &mut *thread.frame.as_ptr() };
    let number = frame.call_number();
    if number == Call::Call as u64 {
        call::<FIRST, false>(cpu, thread, frame);
        carry_out_slowly(thread)
    }
    let number = unknown(number);
    if number == Call::ReplyReceive as u64 {
        reply_receive::<FIRST, false>(cpu, thread, frame);
        not_received::<FIRST>(thread)
    }
    let number = unknown(number);
    if number == Call::NotificationSignal as u64 {
        signal::<FIRST>(cpu, thread, frame);
    } else if number == Call::NotificationWait as u64 {
        attempt_wait::<FIRST>(cpu, thread, frame)
    }
    carry_out_slowly(thread)
}

/// Out of line, so that the others keep no registers for it.
#[inline(never)]
fn attempt_wait<const FIRST: bool>(cpu: Cpu, thread: Live, frame: &mut Frame) -> ! {
    wait::<FIRST>(cpu, thread, frame);
    carry_out_slowly(thread)
}

/// What was learned and not received by goes: the rights by which a thread receives are noted only after they are learned.
#[inline(always)]
fn not_received<const FIRST: bool>(thread: Live) -> ! {
    if !FIRST {
        thread.known[RECEIVES].with(|known| *known = Known::NONE);
    }
    carry_out_slowly(thread)
}

/// The same value, of which the compiler knows nothing.
#[inline(always)]
fn unknown(mut value: u64) -> u64 {
    // SAFETY: it does nothing.
    unsafe { asm!("/* {} */", inout(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Words from that one on are 0. By halves, since four words are common.
#[inline(always)]
fn clear_from(frame: &mut Frame, length: usize) {
    const HALF: usize = MESSAGE_WORDS / 2;
    if length <= HALF {
        (HALF..MESSAGE_WORDS).for_each(|word| frame.clear_word(word));
    }
    if length != HALF {
        (1..MESSAGE_WORDS).filter(|word| *word >= length).for_each(|word| frame.clear_word(word));
    }
}

/// Info and length of a thread's message, if it is a valid one in registers alone: of some words, those that it does not
/// announce are 0 from here on.
#[inline(always)]
fn announced(frame: &mut Frame) -> Option<Sent> {
    let info = frame.info();
    let length = unknown(info & 0xffff);
    match length as usize {
        0 | MESSAGE_WORDS => {}
        length if length < MESSAGE_WORDS => clear_from(frame, length),
        _ => return None,
    }
    Some((info, length))
}

/// The same, if it is valid at all; its length does not matter.
fn announced_long(thread: &Thread, frame: &Frame, by: Rights) -> Option<Sent> {
    let info = MessageInfo(frame.info());
    transfer::check(thread, info, by).is_ok().then_some((info.0, 0))
}

/// Carries out a message call that is not of the common kind.
#[cold]
#[inline(never)]
fn rare<const FIRST: bool>(cpu: Cpu, thread: Live, frame: &mut Frame) -> ! {
    if frame.call_number() == Call::Call as u64 {
        call::<FIRST, true>(cpu, thread, frame);
        carry_out_slowly(thread)
    }
    reply_receive::<FIRST, true>(cpu, thread, frame);
    not_received::<FIRST>(thread)
}

/// The last steps of all: the next thread's tables, and what else comes with a way out of the kernel. Its payload are the
/// words in the registers of `from`, which nobody may change while this CPU has the lock.
#[inline(always)]
fn finish<const FINISHES: bool>(
    cpu: Cpu,
    [thread, next]: Switch,
    asked: u32,
    queues: Locked,
    received: [u64; 3],
    from: *const Frame,
) -> ! {
    activate(cpu, next);
    ending::left(cpu);
    let (pending, besides) = (ending::pending(), asked | next.besides());
    if pending != 0 || besides != 0 {
        if besides & STEPS != 0 {
            note_steps::<FINISHES>(thread, next);
        }
        if pending != 0 || besides & !EXTRAS != 0 {
            // SAFETY: nobody else has the registers of the next until it runs.
            let to = unsafe { &mut *next.frame.as_ptr() };
            if FINISHES {
                to.finish_call();
            }
            to.set_received(received[0], received[1], received[2]);
            finish_slowly(cpu, thread, next, queues, from)
        }
        percpu::exchange_extras(cpu, Some(thread), Some(next));
    }
    arch::task::resume_with::<FINISHES>(cpu, next, from, queues.into_word(), received)
}

/// The call of the next is over, or the thread that was waits for a message: its call is yet to be carried out.
#[cold]
fn note_steps<const FINISHES: bool>(thread: Live, next: Live) {
    // SAFETY: nobody else has the registers of the next until it runs; and nobody is at those of the other before this CPU
    // has given the lock back.
    unsafe {
        if FINISHES {
            (*next.frame.as_ptr()).step_is_over();
        } else {
            (*thread.frame.as_ptr()).step_begins();
        }
    }
}

#[cold]
#[inline(never)]
fn finish_slowly(cpu: Cpu, thread: Live, next: Live, queues: Locked, from: *const Frame) -> ! {
    // SAFETY: as above; as for the other registers, see there.
    let (to, from) = unsafe { (&mut *next.frame.as_ptr(), &*from) };
    to.set_words(from.message_words());
    drop(queues);
    go_on(cpu, [thread, next])
}

/// `RARE` is a call with a message that is not in registers alone, or where others wait.
#[inline(always)]
fn call<const FIRST: bool, const RARE: bool>(cpu: Cpu, caller: Live, frame: &mut Frame) -> Option<Infallible> {
    let Some(known) = known(caller, frame, SENDS) else {
        return if FIRST { again(cpu, caller, SENDS, Rights::WRITE.with(Rights::CALL)) } else { None };
    };
    let sent = if RARE { announced_long(caller, frame, known.rights) } else { announced(frame) };
    let Some((info, length)) = sent else { return if RARE { None } else { rare::<FIRST>(cpu, caller, frame) } };
    let (_, mut queues) = lock(caller, SENDS, known)?;
    // SAFETY: what is listed is a thread.
    let server = unsafe { &*core::ptr::from_ref(queues.receivers.front()?) };
    if !RARE && !queues.receivers.0.ends_with(server) {
        drop(queues);
        rare::<FIRST>(cpu, caller, frame)
    }
    if !server.is_direct(cpu) {
        call_elsewhere(caller, queues)
    }
    // It is as urgent as its caller from here on, and runs on its time.
    if !server.end_wait_if(State::Receiving) {
        return None;
    }
    // From here on there is no way back: the server's wait is over, by this call alone.
    // SAFETY: it is in front, and alone where it is said to be.
    let server =
        unsafe { if RARE { queues.receivers.0.take_out(server) } else { queues.receivers.0.take_only(server) } };
    let (owed, asked, status, badge) = begin::<SENDS>(caller, &server, State::Replying);
    if RARE {
        drop(queues);
        // SAFETY: its wait was ended here, so nobody else has its registers until it runs.
        let to = unsafe { &mut *server.frame.as_ptr() };
        to.finish_call();
        transfer::deliver((caller, frame), (&server, to), status, badge);
        go_on(cpu, [caller, owe(cpu, server, owed)])
    }
    let from = if length == 0 { &raw const cpu.no_words } else { caller.frame.as_ptr() };
    finish::<true>(cpu, [caller, owe(cpu, server, owed)], asked, queues, [status, badge, info], from)
}

/// A call to a server that is not to run here at once: it is made ready, and this CPU goes on with the next thread.
#[cold]
#[inline(never)]
fn call_elsewhere(caller: Live, mut queues: Locked) -> ! {
    donation::charge(percpu::this(), caller);
    let server = queues.receivers.take_first();
    drop(queues);
    let Some(server) = server else { carry_out_slowly(caller) };
    // SAFETY: as in `carry_out`; and the server's wait was ended here, so nobody else has its registers, or writes what it
    // owes, until it runs.
    let (frame, to, owes) =
        unsafe { (&*caller.frame.as_ptr(), &mut *server.frame.as_ptr(), &mut *server.owed.as_ptr()) };
    to.finish_call();
    let status = transfer::status_of(to);
    transfer::deliver((caller, frame), (&server, to), status, caller.via[SENDS].badge());
    *owes = Some(Owed { token: caller.begin_call(), caller: Ref::share(caller) });
    // Not before: from here on others may end its wait, and have its registers.
    caller.begin_wait(State::Replying);
    sched::ready(server);
    sched::leave()
}

/// The caller waits for an answer by a server that waits no more: the number of its call, whether something was asked of it,
/// and the status and badge that the server gets.
#[inline(always)]
fn begin<const WAY: usize>(caller: Live, server: &Thread, state: State) -> (u64, u32, u64, u64) {
    server.listed.let_go();
    let token = caller.begin_call();
    let asked = caller.wait_on(state);
    // SAFETY: its wait was ended here, so nobody else has its registers until it runs.
    let number = unsafe { (*server.frame.as_ptr()).call_number() };
    // No other bit is so high where a thread receives.
    (token, asked, number / LOST * REPLY_LOST, caller.via[WAY].badge())
}

/// Makes the server current, which owes the thread that was an answer.
#[inline(always)]
fn owe(cpu: Cpu, server: Ref<Thread>, token: u64) -> Live {
    let (caller, server) = percpu::switch_current(cpu, server);
    // SAFETY: what it owes is this CPU's; and who waits for a message owes nothing, so nothing is dropped.
    unsafe { server.owed.as_ptr().write(Some(Owed { caller, token })) };
    server
}

#[inline(always)]
fn reply_receive<const FIRST: bool, const RARE: bool>(cpu: Cpu, server: Live, frame: &mut Frame) -> Option<Infallible> {
    let Some(known) = known(server, frame, RECEIVES) else {
        return if FIRST { again(cpu, server, RECEIVES, Rights::READ) } else { None };
    };
    // Capabilities of an answer cannot pass under the lock of the queues.
    let sent = if RARE { announced_long(server, frame, Rights::NONE) } else { announced(frame) };
    let Some((info, length)) = sent else { return if RARE { None } else { rare::<FIRST>(cpu, server, frame) } };
    let (meeting, mut queues) = lock(server, RECEIVES, known)?;
    if !RARE && !queues.receivers.is_empty() {
        drop(queues);
        rare::<FIRST>(cpu, server, frame)
    }
    // SAFETY: what it owes is its own while it runs, and so is a share in the caller.
    let owing = unsafe { &mut *server.owed.as_ptr() };
    let &Owed { ref caller, token } = owing.as_ref()?;
    // SAFETY: as above.
    let caller: Live = unsafe { &*core::ptr::from_ref::<Thread>(caller) };
    if caller.token.load(Ordering::Relaxed) != token || !queues.senders.is_empty() || server.bound.get().is_some() {
        return None;
    }
    if !caller.is_direct(cpu) {
        answer_elsewhere(server, known, meeting, queues)
    }
    if caller.priority() < server.priority() {
        return None;
    }
    if !caller.end_wait_if(State::Replying) {
        answer_report(cpu, server, caller, known, meeting, queues)
    }
    // From here on there is no way back: the call is answered, and by nobody who comes late with its number.
    caller.token.store(token + 1, Ordering::Relaxed);
    if RARE {
        // SAFETY: its wait was ended here, so nobody else has its registers until it runs.
        transfer::deliver((server, frame), (caller, unsafe { &mut *caller.frame.as_ptr() }), 0, 0);
        receive_on(cpu, [server, caller], known, meeting, queues)
    }
    if !FIRST {
        server.received_by.store(known.rights.0, Ordering::Relaxed);
    }
    let (asked, thread, caller) = turn(cpu, [server, caller], meeting);
    queues.receivers.0.start(thread);
    let from = if length == 0 { &raw const cpu.no_words } else { server.frame.as_ptr() };
    finish::<false>(cpu, [server, caller], asked, queues, [0, 0, info], from)
}

/// An answer to a caller that is not to run here at once: it is made ready, and the server waits for the next message.
#[cold]
#[inline(never)]
fn answer_elsewhere(server: Live, known: &Known, meeting: &Meeting, mut queues: Locked) -> ! {
    donation::charge(percpu::this(), server);
    // Who waits no more though nobody has answered is to end: the slow way tries that answer again, in vain.
    let answers = |owed: &mut Owed| {
        let Owed { ref caller, token } = *owed;
        !caller.reports() && caller.end_call(token) && caller.end_wait_as(State::Replying as u32)
    };
    // SAFETY: as in `reply_receive`.
    let Some(Owed { caller, .. }) = (unsafe { (*server.owed.as_ptr()).take_if(answers) }) else {
        drop(queues);
        not_received::<false>(server)
    };
    // SAFETY: as in `call_elsewhere`.
    let (frame, to) = unsafe { (&mut *server.frame.as_ptr(), &mut *caller.frame.as_ptr()) };
    transfer::deliver((server, frame), (&caller, to), 0, 0);
    frame.set_call_number(Call::Receive as u64);
    frame.restart_call();
    server.received_by.store(known.rights.0, Ordering::Relaxed);
    queues.receivers.wait(server, State::Receiving, meeting);
    drop(queues);
    sched::ready(caller);
    sched::leave()
}

/// A server waits for the next message, and its caller, whose wait was ended here, is current.
#[inline(always)]
fn turn(cpu: Cpu, [server, caller]: Switch, meeting: &Meeting) -> (u32, Ref<Thread>, Live) {
    // SAFETY: as in `carry_out`.
    let frame = unsafe { &mut *server.frame.as_ptr() };
    frame.set_call_number(Call::Receive as u64);
    frame.turn_back();
    server.listed.set(meeting);
    let asked = server.wait_on(State::Receiving);
    // SAFETY: the share that it owed is in hand, and nowhere else.
    let caller = unsafe {
        server.owed.as_ptr().write(None);
        Ref::from_pointer(NonNull::from(caller))
    };
    let (thread, caller) = percpu::switch_current(cpu, caller);
    (asked, thread, caller)
}

/// The same, and the caller goes on with its own registers.
#[inline(always)]
fn receive_on(cpu: Cpu, [server, caller]: Switch, known: &Known, meeting: &Meeting, mut queues: Locked) -> ! {
    server.received_by.store(known.rights.0, Ordering::Relaxed);
    let (asked, thread, caller) = turn(cpu, [server, caller], meeting);
    if asked & STEPS != 0 {
        note_steps::<false>(server, server);
    }
    queues.receivers.push(thread, Thread::priority);
    drop(queues);
    go_on(cpu, [server, caller])
}

/// Tells of the current thread, which goes on when that is answered.
#[inline(always)]
pub fn tell_of<const WAY: usize>(cpu: Cpu, thread: Live, what: impl FnOnce(&Frame) -> Fault) -> ! {
    // SAFETY: as in `carry_out`, and in `known`.
    let (frame, known) = unsafe { (&*thread.frame.as_ptr(), &mut *thread.known[WAY].as_ptr()) };
    let fault = what(frame);
    thread.sends_by.store(WAY, Ordering::Relaxed);
    // SAFETY: like the registers.
    unsafe { thread.report.as_ptr().write(Some(fault)) };
    // The slot is the thread's own, so it has no name to be found by.
    if known.meeting.is_none()
        && let Some(found) = thread.handlers[WAY].look_up()
        && let Some(endpoint) = found.object::<Endpoint>()
    {
        thread.via[WAY].set(&thread.handlers[WAY], &found, found.id());
        known.meeting = Some(&endpoint.meeting);
    }
    if known.meeting.is_some()
        && let Some((_, mut queues)) = lock(thread, WAY, known)
        // SAFETY: what is listed is a thread.
        && let Some(handler) = queues.receivers.front().map(|first| unsafe { &*core::ptr::from_ref(first) })
        && handler.is_direct(cpu)
        && handler.end_wait_if(State::Receiving)
    {
        // From here on there is no way back, as in a call.
        // SAFETY: it is in front.
        let handler = unsafe { queues.receivers.0.take_out(handler) };
        let (info, words) = report::message(thread, frame, WAY, &fault);
        // SAFETY: it is this CPU's, which has nothing in it but on the way from here to the handler.
        unsafe { (*cpu.report.get()).set_words(words) };
        // That was the last look at its registers, which others may read and write from here on.
        let (owed, asked, status, badge) = begin::<WAY>(thread, &handler, State::Handled);
        finish::<true>(cpu, [thread, owe(cpu, handler, owed)], asked, queues, [status, badge, info], cpu.report.get())
    }
    donation::charge(cpu, thread);
    report::tell(thread);
    sched::leave()
}

/// The answer to what was told of a thread, which goes on with its own registers.
#[cold]
#[inline(never)]
fn answer_report(cpu: Cpu, server: Live, caller: Live, known: &Known, meeting: &Meeting, queues: Locked) -> ! {
    // SAFETY: as in `carry_out`.
    let (info, words) = message_of(unsafe { &*server.frame.as_ptr() });
    if MessageInfo(info).label() != 0 || !caller.end_wait_if(State::Handled) {
        drop(queues);
        not_received::<false>(server)
    }
    // From here on there is no way back: the thread goes on.
    // Even, whether or not somebody has ended the call too late.
    let token = caller.token.load(Ordering::Relaxed) | 1;
    caller.token.store(token + 1, Ordering::Relaxed);
    report::go_on(caller, words[0]);
    receive_on(cpu, [server, caller], known, meeting, queues)
}

/// As in `sched`, of a thread, whose tables are not those of the kernel alone.
#[inline(always)]
fn activate(cpu: Cpu, next: Live) {
    if cpu.active_root.replace(next.root) != next.root || arch::mm::SWITCHES_CHEAPLY {
        arch::mm::activate_user(next.root);
    }
}

/// Lets go of a thread, and goes on with the next, which is current, unless another is to.
#[inline(always)]
fn go_on(cpu: Cpu, [thread, next]: Switch) -> ! {
    ending::quiescent(cpu);
    if cpu.extras.get() | next.besides() != 0 {
        percpu::exchange_extras(cpu, Some(thread), Some(next));
    }
    // What was asked before it waited nobody else does.
    if thread.is_asked() {
        Thread::heed(Ref::share(thread));
    }
    // Somebody may have been woken meanwhile, and share this CPU from now on.
    if cpu.reschedule.get() {
        sched::leave()
    }
    activate(cpu, next);
    arch::task::resume(next)
}

/// Goes on with the current thread, for which nothing has changed.
#[inline(always)]
fn go_back(cpu: Cpu, thread: Live) -> ! {
    if ending::pending() != 0 {
        sched::leave()
    }
    ending::left(cpu);
    arch::task::resume(thread)
}

/// Sets bits where nobody waits for them, or goes on with the thread that does. All others wait for other bits.
#[inline(always)]
fn signal<const FIRST: bool>(cpu: Cpu, thread: Live, frame: &mut Frame) -> Option<Infallible> {
    let Some(known) = known(thread, frame, SIGNALS) else {
        return if FIRST { again(cpu, thread, SIGNALS, Rights::WRITE) } else { None };
    };
    let (_, mut queues) = lock(thread, SIGNALS, known)?;
    let bits = queues.bits | Notification::allowed(frame.argument(1), thread.via[SIGNALS].badge());
    if !queues.receivers.is_empty() {
        wake(cpu, thread, queues, bits)
    }
    if queues.bound.is_some() {
        return None;
    }
    queues.bits = bits;
    drop(queues);
    frame.set_result(Outcome { status: 0, value: 0 });
    go_back(cpu, thread)
}

/// Goes on with the first who waits, if that gets all bits. Out of line, so that the others keep no registers for it.
#[inline(never)]
fn wake(cpu: Cpu, thread: Live, mut queues: Locked, bits: u64) -> ! {
    // SAFETY: what is listed is a thread, at whose registers nobody is before it is listed no more.
    let (waiter, mask) = unsafe {
        let waiter = &*core::ptr::from_ref(queues.receivers.front().unwrap_unchecked());
        (waiter, (*waiter.frame.as_ptr()).argument(1))
    };
    // What runs is at least as urgent as all that is queued here, and so is whoever is as urgent as it: if one was woken
    // that is more urgent, an interrupt is on its way.
    let may_run = || owes(thread).is_none() && waiter.is_direct(cpu) && waiter.priority() >= thread.priority();
    if bits == 0 || bits & !mask != 0 || !may_run() || !waiter.end_wait_if(State::Notified) {
        drop(queues);
        carry_out_slowly(thread)
    }
    // From here on there is no way back: all bits are the waiter's.
    // SAFETY: it was in front, and this CPU has the lock.
    let waiter = unsafe { queues.receivers.0.take_out(waiter) };
    waiter.listed.let_go();
    queues.bits = 0;
    drop(queues);
    // SAFETY: its wait was ended here, so nobody else has its registers until it runs; the other's are this CPU's.
    let (frame, to) = unsafe { (&mut *thread.frame.as_ptr(), &mut *waiter.frame.as_ptr()) };
    to.finish_call();
    to.set_result(Outcome { status: 0, value: bits });
    frame.set_result(Outcome { status: 0, value: 0 });
    let (signaller, waiter) = percpu::switch_current(cpu, waiter);
    donation::charge_to(cpu, thread);
    sched::put_off(cpu, signaller);
    go_on(cpu, [thread, waiter])
}

/// Gives the bits that are there; where there are none, the thread waits, and the next in this CPU's queue goes on.
#[inline(always)]
fn wait<const FIRST: bool>(cpu: Cpu, thread: Live, frame: &mut Frame) -> Option<Infallible> {
    let Some(known) = known(thread, frame, WAITS) else {
        return if FIRST { again(cpu, thread, WAITS, Rights::READ) } else { None };
    };
    let (meeting, mut queues) = lock(thread, WAITS, known)?;
    let seen = queues.bits & frame.argument(1);
    if seen != 0 {
        queues.bits &= !seen;
        drop(queues);
        frame.set_result(Outcome { status: 0, value: seen });
        go_back(cpu, thread)
    }
    let next = if owes(thread).is_none() { sched::take_next(cpu)? } else { return None };
    // From here on there is no way back: the other is out of the queue.
    frame.restart_call();
    thread.listed.set(meeting);
    thread.wait_on(State::Notified);
    let (waiter, next) = percpu::switch_current(cpu, next);
    queues.receivers.push(waiter, Thread::priority);
    drop(queues);
    donation::charge_to(cpu, thread);
    go_on(cpu, [thread, next])
}

//! The fast path: a call to a server that waits on this CPU, and its answer, straight from one thread to the other; and
//! signals and waits for bits.
//!
//! First come looks that change nothing. Where all say so, nothing but stores follows, and the other thread runs: no
//! scheduler, no allocation, no count of shares, no timer. Where one says no, or a lock is taken, the call goes the slow
//! way, with the same result.

#![allow(unsafe_code)]

use super::{
    cnode,
    endpoint::{Endpoint, LOST, message_of},
    notification::{Notification, mask},
    thread::{Owed, RECEIVES, SENDS, SIGNALS, State, Thread, WAITS},
    transfer,
    wait::{Meeting, Queues},
};
use crate::{
    arch::{self, task::Frame},
    percpu::{self, PerCpu},
    sched,
    sync::{Ref, SpinGuard, ending, tree},
    syscall,
};
use abi::{ADDRESS_BITS, Call, MESSAGE_WORDS, MessageInfo, Outcome, REPLY_LOST, Rights};
use core::{convert::Infallible, sync::atomic::Ordering};

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
    /// No capability has this name: its generation is never reached.
    pub const NONE: Self = Self { name: u64::MAX, ways: 0, meeting: None, rights: Rights::NONE };
}

/// What a thread's name means, if it knows.
#[inline(always)]
fn known(thread: &'static Thread, frame: &Frame, which: usize) -> Option<&'static Meeting> {
    // SAFETY: it is the thread's own while it runs, and nobody else's.
    let known = unsafe { &*thread.known[which].as_ptr() };
    if known.name != frame.capability() || known.ways != tree::ways() {
        return None;
    }
    // SAFETY: what has a name was learned.
    Some(unsafe { known.meeting.unwrap_unchecked() })
}

/// The queues of a meeting that is known, if it is still there.
#[inline(always)]
fn lock(thread: &Thread, which: usize, meeting: &'static Meeting) -> Option<SpinGuard<'static, Queues>> {
    // SAFETY: what is known has a slot, to which a way leads still: it is there until this CPU leaves the kernel.
    let holds = unsafe { thread.via[which].holder() };
    // And so is what the slot names.
    if holds() { meeting.try_lock().filter(|_| holds()) } else { None }
}

/// Finds the endpoint or notification that a thread names; None where it may not be used so.
fn learn(thread: &'static Thread, which: usize, rights: Rights) -> Option<()> {
    // SAFETY: as in `known`, and for registers as in `attempt`.
    let (known, name) = unsafe { (&mut *thread.known[which].as_ptr(), (*thread.frame.as_ptr()).capability()) };
    *known = Known::NONE;
    let ways = tree::ways();
    let slot = cnode::resolve(thread.process().names(), name, ADDRESS_BITS, Rights::NONE).ok()?;
    let found = slot.look_up()?;
    let generation = name >> ADDRESS_BITS;
    let meeting = match which {
        SENDS | RECEIVES => found.object::<Endpoint>()?.meeting(),
        _ => found.object::<Notification>()?.meeting(),
    };
    if generation != 0 && generation != found.generation() || !found.rights().have(rights) {
        return None;
    }
    thread.via[which].set(slot, &found, found.id());
    *known = Known { name, ways, meeting: Some(meeting), rights: found.rights() };
    Some(())
}

/// Whether a thread that waits may take over this CPU from `thread` at once. What runs is at least as urgent as all that
/// is queued here, and so is whoever is as urgent as it.
#[inline(always)]
fn may_run(cpu: &PerCpu, thread: &Thread, next: &Thread) -> bool {
    next.is_direct(cpu) && next.priority >= thread.priority && !cpu.reschedule.get()
}

/// Carries out a call of the current thread, here if it can be done so. What is rare never comes back to the common way,
/// which therefore has nothing to save from it.
#[inline(always)]
pub fn carry_out(cpu: &'static PerCpu, thread: &'static Thread) -> ! {
    attempt::<true>(cpu, thread);
    carry_out_slowly(thread)
}

#[cold]
#[inline(never)]
fn carry_out_slowly(thread: &'static Thread) -> ! {
    syscall::dispatch(thread);
    sched::leave()
}

/// Names that are new are learned, which is done once; then all is as before.
#[cold]
#[inline(never)]
fn again(cpu: &'static PerCpu, thread: &'static Thread, which: usize, rights: Rights) -> ! {
    learn(thread, which, rights).and_then(|()| attempt::<false>(cpu, thread));
    carry_out_slowly(thread)
}

/// Carries out a call that leaves the current thread waiting, and goes on with another, or a signal. It comes back,
/// with nothing changed, where that is not to be.
#[inline(always)]
fn attempt<const FIRST: bool>(cpu: &'static PerCpu, thread: &'static Thread) -> Option<Infallible> {
    // SAFETY: the thread has just entered the kernel on this CPU, which alone has its registers while it runs.
    let frame = unsafe { &mut *thread.frame.as_ptr() };
    match frame.call_number() {
        number if number == Call::Call as u64 => call::<FIRST, false>(cpu, thread, frame),
        number if number == Call::ReplyReceive as u64 => reply_receive::<FIRST, false>(cpu, thread, frame),
        number if number == Call::NotificationSignal as u64 || number == Call::NotificationWait as u64 => {
            attempt_bits::<FIRST>(cpu, thread, frame)
        }
        _ => None,
    }
}

/// The same for a signal or a wait for bits. Out of line, so that messages keep no registers for it.
#[inline(never)]
fn attempt_bits<const FIRST: bool>(
    cpu: &'static PerCpu,
    thread: &'static Thread,
    frame: &mut Frame,
) -> Option<Infallible> {
    if frame.call_number() == Call::NotificationSignal as u64 {
        signal::<FIRST>(cpu, thread, frame)
    } else {
        wait::<FIRST>(cpu, thread, frame)
    }
}

/// The info of a thread's message, if it is a valid one: words that it does not announce are 0 from here on.
#[inline(always)]
fn announced(frame: &mut Frame) -> Option<u64> {
    let info = frame.info();
    match (info & 0xffff) as usize {
        MESSAGE_WORDS => {}
        0 => frame.set_words([0; MESSAGE_WORDS]),
        length if length < MESSAGE_WORDS => frame.set_words(message_of(frame).1),
        _ => return None,
    }
    Some(info)
}

/// The info of a thread's message, if it is a valid one that is not in registers alone.
fn announced_long(thread: &Thread, frame: &Frame, which: usize) -> Option<u64> {
    let info = MessageInfo(frame.info());
    // SAFETY: as in `known`, which has found it.
    let rights = unsafe { (*thread.known[which].as_ptr()).rights };
    // Capabilities of an answer cannot pass under the lock of the queues.
    let by = if which == SENDS { rights } else { Rights::NONE };
    transfer::check(thread, info, by).is_ok().then_some(info.0)
}

/// Carries out the call with a message that is not in registers alone.
#[cold]
#[inline(never)]
fn long<const FIRST: bool>(cpu: &'static PerCpu, thread: &'static Thread, frame: &mut Frame) -> Option<Infallible> {
    if frame.call_number() == Call::Call as u64 {
        call::<FIRST, true>(cpu, thread, frame)
    } else {
        reply_receive::<FIRST, true>(cpu, thread, frame)
    }
}

/// The last steps of both: the next thread's tables, and what else comes with a way out of the kernel. Its payload are
/// the words in the registers of the thread before, which nobody may change while this CPU has the lock.
#[inline(always)]
fn finish(cpu: &'static PerCpu, thread: &'static Thread, next: &'static Thread, queues: SpinGuard<'_, Queues>) -> ! {
    if cpu.active_root.replace(next.root) != next.root {
        arch::mm::activate_user(next.root);
    }
    ending::left(cpu);
    if ending::pending() != 0 || thread.is_doomed() {
        finish_slowly(cpu, thread, next, queues)
    }
    arch::task::resume_with(next, thread, queues.into_word())
}

#[cold]
#[inline(never)]
fn finish_slowly(
    cpu: &'static PerCpu,
    thread: &'static Thread,
    next: &'static Thread,
    queues: SpinGuard<'_, Queues>,
) -> ! {
    // SAFETY: nobody else has the registers of the next until it runs; as for the other's, see `finish`.
    let (to, from) = unsafe { (&mut *next.frame.as_ptr(), &*thread.frame.as_ptr()) };
    to.set_words(from.message_words());
    drop(queues);
    go_on(cpu, thread, next)
}

/// Lets go of `thread`, and goes on with `next`, which is current, unless another is to.
fn go_on(cpu: &'static PerCpu, thread: &'static Thread, next: &'static Thread) -> ! {
    ending::quiescent(cpu);
    // Its end was asked for before it waited: then nobody else ends that wait.
    if thread.is_doomed() && thread.end_wait() {
        sched::ready(Ref::share(thread));
    }
    // Somebody may have been woken meanwhile, and share this CPU from now on.
    if cpu.reschedule.get() {
        sched::leave()
    }
    sched::activate(cpu, next.root);
    arch::task::resume(next)
}

#[inline(always)]
fn call<const FIRST: bool, const LONG: bool>(
    cpu: &'static PerCpu,
    caller: &'static Thread,
    frame: &mut Frame,
) -> Option<Infallible> {
    let Some(meeting) = known(caller, frame, SENDS) else {
        return if FIRST { again(cpu, caller, SENDS, Rights::WRITE.with(Rights::CALL)) } else { None };
    };
    let info = if LONG { announced_long(caller, frame, SENDS) } else { announced(frame) };
    let Some(info) = info else { return if LONG { None } else { long::<FIRST>(cpu, caller, frame) } };
    let mut queues = lock(caller, SENDS, meeting)?;
    // SAFETY: what is listed is a thread.
    let server = unsafe { &*core::ptr::from_ref(queues.receivers.front()?) };
    if !may_run(cpu, caller, server) || !server.end_wait_if(State::Receiving) {
        return None;
    }
    // From here on there is no way back: the server's wait is over, by this call alone.
    // SAFETY: it was in front, and this CPU has the lock.
    let server = unsafe { queues.receivers.0.take_out(server) };
    server.listed.let_go();
    let token = caller.begin_call();
    caller.wait_on(State::Replying);
    // SAFETY: its wait was ended here, so nobody else has its registers until it runs.
    let to = unsafe { &mut *server.frame.as_ptr() };
    // No other bit is so high where a thread receives.
    let status = to.call_number() / LOST * REPLY_LOST;
    to.finish_call();
    if LONG {
        drop(queues);
        transfer::deliver((caller, frame), (&server, to), status, caller.via[SENDS].badge());
        let (thread, server) = percpu::switch_current(cpu, server);
        // SAFETY: as below.
        unsafe { server.owed.as_ptr().write(Some(Owed { caller: thread, token })) };
        go_on(cpu, caller, server)
    }
    to.set_received(status, caller.via[SENDS].badge(), info);
    let (thread, server) = percpu::switch_current(cpu, server);
    // SAFETY: as above; who waits for a message owes nothing, so nothing is dropped.
    unsafe { server.owed.as_ptr().write(Some(Owed { caller: thread, token })) };
    finish(cpu, caller, server, queues)
}

#[inline(always)]
fn reply_receive<const FIRST: bool, const LONG: bool>(
    cpu: &'static PerCpu,
    server: &'static Thread,
    frame: &mut Frame,
) -> Option<Infallible> {
    let Some(meeting) = known(server, frame, RECEIVES) else {
        return if FIRST { again(cpu, server, RECEIVES, Rights::READ) } else { None };
    };
    let info = if LONG { announced_long(server, frame, RECEIVES) } else { announced(frame) };
    let Some(info) = info else { return if LONG { None } else { long::<FIRST>(cpu, server, frame) } };
    let mut queues = lock(server, RECEIVES, meeting)?;
    // SAFETY: what it owes is its own while it runs.
    let owing = unsafe { &mut *server.owed.as_ptr() };
    let Owed { caller, token } = owing.as_ref()?;
    let answers = may_run(cpu, server, caller);
    if !answers || !queues.senders.is_empty() || server.bound.get().is_some() || !caller.end_call(*token) {
        return None;
    }
    // From here on there is no way back: the call is answered.
    // SAFETY: it was there above.
    let Owed { caller, .. } = unsafe { owing.take().unwrap_unchecked() };
    if !caller.end_wait() {
        drop(queues);
        answered_nobody(caller, server)
    }
    // SAFETY: its wait was ended here, so nobody else has its registers until it runs.
    let to = unsafe { &mut *caller.frame.as_ptr() };
    if LONG {
        transfer::deliver((server, frame), (&caller, to), 0, 0);
    } else {
        to.set_received(0, 0, info);
    }
    frame.set_call_number(Call::Receive as u64);
    frame.restart_call();
    // SAFETY: as in `known`, which has found it.
    server.received_by.store(unsafe { (*server.known[RECEIVES].as_ptr()).rights.0 }, Ordering::Relaxed);
    server.listed.set(meeting);
    server.wait_on(State::Receiving);
    let (thread, caller) = percpu::switch_current(cpu, caller);
    queues.receivers.push(thread);
    if LONG {
        drop(queues);
        go_on(cpu, server, caller)
    }
    finish(cpu, server, caller, queues)
}

/// The caller's end came between. The rest of the call goes the slow way.
#[cold]
#[inline(never)]
fn answered_nobody(caller: Ref<Thread>, server: &'static Thread) -> ! {
    drop(caller);
    server.frame.with(|frame| frame.set_call_number(Call::Receive as u64 | LOST));
    carry_out_slowly(server)
}

/// Goes on with the current thread, for which nothing has changed.
#[inline(always)]
fn go_back(cpu: &'static PerCpu, thread: &'static Thread) -> ! {
    ending::quiescent(cpu);
    arch::task::resume(thread)
}

/// Sets bits where nobody waits for them, or goes on with the thread that does. All others wait for other bits.
#[inline(always)]
fn signal<const FIRST: bool>(cpu: &'static PerCpu, thread: &'static Thread, frame: &mut Frame) -> Option<Infallible> {
    let Some(meeting) = known(thread, frame, SIGNALS) else {
        return if FIRST { again(cpu, thread, SIGNALS, Rights::WRITE) } else { None };
    };
    let mut queues = lock(thread, SIGNALS, meeting)?;
    let bits = queues.bits | Notification::allowed(frame.argument(1), thread.via[SIGNALS].badge());
    let done = |frame: &mut Frame, value| frame.set_result(Outcome { status: 0, value });
    let Some(waiter) = queues.receivers.front() else {
        if queues.bound.is_some() {
            return None;
        }
        queues.bits = bits;
        drop(queues);
        done(frame, 0);
        go_back(cpu, thread)
    };
    // SAFETY: what is listed is a thread.
    let waiter = unsafe { &*core::ptr::from_ref(waiter) };
    if bits == 0 || bits & !mask(waiter) != 0 || !may_run(cpu, thread, waiter) || !waiter.end_wait_if(State::Notified) {
        return None;
    }
    // From here on there is no way back: all bits are the waiter's.
    // SAFETY: it was in front, and this CPU has the lock.
    let waiter = unsafe { queues.receivers.0.take_out(waiter) };
    waiter.listed.let_go();
    queues.bits = 0;
    drop(queues);
    // SAFETY: its wait was ended here, so nobody else has its registers until it runs.
    let to = unsafe { &mut *waiter.frame.as_ptr() };
    to.finish_call();
    done(to, bits);
    done(frame, 0);
    let (signaller, waiter) = percpu::switch_current(cpu, waiter);
    sched::put_off(cpu, signaller);
    go_on(cpu, thread, waiter)
}

/// Gives the bits that are there; where there are none, the thread waits, and the next in this CPU's queue goes on.
#[inline(always)]
fn wait<const FIRST: bool>(cpu: &'static PerCpu, thread: &'static Thread, frame: &mut Frame) -> Option<Infallible> {
    let Some(meeting) = known(thread, frame, WAITS) else {
        return if FIRST { again(cpu, thread, WAITS, Rights::READ) } else { None };
    };
    let mut queues = lock(thread, WAITS, meeting)?;
    let seen = queues.bits & frame.argument(1);
    if seen != 0 {
        queues.bits &= !seen;
        drop(queues);
        frame.set_result(Outcome { status: 0, value: seen });
        go_back(cpu, thread)
    }
    let next = sched::take_next(cpu)?;
    // From here on there is no way back: the other is out of the queue.
    frame.restart_call();
    thread.listed.set(meeting);
    thread.wait_on(State::Notified);
    let (waiter, next) = percpu::switch_current(cpu, next);
    queues.receivers.push(waiter);
    drop(queues);
    go_on(cpu, thread, next)
}

//! The fast path: a call to a server that waits on this CPU, and its answer, straight from one thread to the other.
//!
//! First come looks that change nothing. Where all say so, nothing but stores follows, and the other thread runs: no
//! scheduler, no allocation, no count of shares, no timer. Where one says no, or a lock is taken, the call goes the slow
//! way, with the same result.

#![allow(unsafe_code)]

use super::{
    cnode,
    endpoint::{Endpoint, LOST},
    thread::{Owed, State, Thread},
    transfer,
    wait::{Meeting, Queues},
};
use crate::{
    arch::task::Frame,
    percpu::{self, PerCpu},
    sched,
    sync::{Found, Ref, Slot, SpinGuard, ending},
};
use abi::{ADDRESS_BITS, Call, MessageInfo, REPLY_LOST, Rights};
use core::sync::atomic::Ordering;

/// What a message call of the current thread is about.
struct Way {
    meeting: &'static Meeting,
    queues: SpinGuard<'static, Queues>,
    slot: &'static Slot,
    found: Found,
}

/// The endpoint that a thread names, locked, if it may be used so and its message is a valid one.
#[inline(always)]
fn way(thread: &'static Thread, frame: &Frame, rights: Rights) -> Option<Way> {
    let name = frame.capability();
    let slot = cnode::resolve(thread.process().names(), name, ADDRESS_BITS, Rights::NONE).ok()?;
    let found = slot.look_up()?;
    let generation = name >> ADDRESS_BITS;
    let endpoint: &'static Endpoint = found.object()?;
    let fits = (generation == 0 || generation == found.generation()) && found.rights().have(rights);
    let info = MessageInfo(frame.info());
    // Capabilities of an answer cannot pass under the lock of the queues.
    let by = if rights.have(Rights::WRITE) { found.rights() } else { Rights::NONE };
    if !fits || !info.is_short() && transfer::check(thread, info, by).is_err() {
        return None;
    }
    let meeting = endpoint.meeting();
    let queues = meeting.try_lock()?;
    slot.still(&found).then_some(Way { meeting, queues, slot, found })
}

/// Whether a thread that waits may take over this CPU from `thread` at once. What runs is at least as urgent as all that
/// is queued here, and so is whoever is as urgent as it.
#[inline(always)]
fn may_run(cpu: &PerCpu, thread: &Thread, next: &Thread, state: State) -> bool {
    next.home == cpu.id
        && next.priority >= thread.priority
        && next.waits_for(state)
        && next.wake_at.load(Ordering::Relaxed) == 0
        && !cpu.reschedule.get()
}

/// Carries out a message call of the current thread, which it leaves waiting, and gives the thread that runs now.
#[inline(always)]
pub fn switch(cpu: &'static PerCpu, thread: &'static Thread) -> Option<&'static Thread> {
    // SAFETY: the thread has just entered the kernel on this CPU, which alone has its registers while it runs.
    let frame = unsafe { &mut *thread.frame.as_ptr() };
    let next = match frame.call_number() {
        number if number == Call::Call as u64 => call(cpu, thread, frame)?,
        number if number == Call::ReplyReceive as u64 => reply_receive(cpu, thread, frame)?,
        _ => return None,
    };
    sched::activate(cpu, next.process().root());
    ending::quiescent(cpu);
    // Its end was asked for before it waited: then nobody else ends that wait.
    if thread.is_doomed() && thread.end_wait() {
        sched::ready(Ref::share(thread));
    }
    if cpu.reschedule.get() {
        // Somebody was woken meanwhile, and shares this CPU from now on.
        sched::leave()
    }
    Some(next)
}

#[inline(always)]
fn call(cpu: &PerCpu, caller: &'static Thread, frame: &mut Frame) -> Option<&'static Thread> {
    let Way { mut queues, slot, found, .. } = way(caller, frame, Rights::WRITE.with(Rights::CALL))?;
    let server = queues.receivers.front()?;
    if !may_run(cpu, caller, server, State::Receiving) || !server.end_wait_if(State::Receiving) {
        return None;
    }
    // From here on there is no way back: the server's wait is over, by this call alone.
    let server = queues.receivers.pop()?;
    server.listed.let_go();
    drop(queues);
    caller.come_by(slot, &found);
    let token = caller.begin_call();
    caller.wait_on(State::Replying);
    // SAFETY: its wait was ended here, so nobody else has its registers until it runs.
    let to = unsafe { &mut *server.frame.as_ptr() };
    let status = if to.call_number() & LOST != 0 { REPLY_LOST } else { 0 };
    to.finish_call();
    transfer::deliver((caller, frame), (&server, to), status, found.content.badge);
    let (caller, server) = percpu::switch_current(cpu, server);
    // SAFETY: as above; who waits for a message owes nothing, so nothing is dropped.
    unsafe { server.owed.as_ptr().write(Some(Owed { caller, token })) };
    Some(server)
}

#[inline(always)]
fn reply_receive(cpu: &PerCpu, server: &'static Thread, frame: &mut Frame) -> Option<&'static Thread> {
    let Way { meeting, mut queues, slot, found } = way(server, frame, Rights::READ)?;
    // SAFETY: what it owes is its own while it runs.
    let owing = unsafe { &mut *server.owed.as_ptr() };
    let Owed { caller, token } = owing.as_ref()?;
    let answers = may_run(cpu, server, caller, State::Replying);
    if !answers || !queues.senders.is_empty() || server.bound.get().is_some() || !caller.end_call(*token) {
        return None;
    }
    // From here on there is no way back: the call is answered.
    let Owed { caller, .. } = owing.take()?;
    if !caller.end_wait() {
        // Its end came between. The rest of this call goes the slow way.
        frame.set_call_number(Call::Receive as u64 | LOST);
        return None;
    }
    // SAFETY: its wait was ended here, so nobody else has its registers until it runs.
    let to = unsafe { &mut *caller.frame.as_ptr() };
    transfer::deliver((server, frame), (&caller, to), 0, 0);
    frame.set_call_number(Call::Receive as u64);
    frame.restart_call();
    server.come_by(slot, &found);
    server.received_by.store(found.rights().0, Ordering::Relaxed);
    server.listed.set(meeting);
    server.wait_on(State::Receiving);
    let (server, caller) = percpu::switch_current(cpu, caller);
    queues.receivers.push(server);
    Some(caller)
}

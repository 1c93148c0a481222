//! For whom a server works: its time is theirs, and it is as urgent as they are.

use crate::help::{self, PATIENCE_NS, other_cpu, soon};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Error, Info, ThreadAction, ThreadInfo};
use rt::call::{self, Capability, Message, Until};
use rt::thread::{self, Thread};
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test};

const SENDS: u64 = 1;
const RECEIVES: u64 = 2;
const WAITS_FOR_BITS: u64 = 4;

/// Priorities: servers have less than who is in their way, and that one less than who calls them.
const CALLER: u64 = 90;
const IN_THE_WAY: u64 = 60;
const SERVER: u64 = 10;
/// Servers that call each other.
const CHAIN: usize = 8;

fn threads() -> Vec<ThreadInfo> {
    (0..).map_while(|index| assert_ok!(call::thread_info(None, index))).collect()
}

fn own() -> ThreadInfo {
    let id = help::info(Info::ThreadId);
    assert_ok!(threads().into_iter().find(|thread| thread.id == id).ok_or(Error::NotFound))
}

fn set_priority(thread: Capability, priority: u64) -> u64 {
    assert_ok!(call::thread_control(thread, ThreadAction::Priority, priority))
}

/// Waits asleep, since who is asked for may be less urgent.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let patience = call::clock_ns() + PATIENCE_NS;
    while !is_so() {
        kernel_assert!(call::clock_ns() < patience, "waited for: {what}");
        assert_ok!(call::sleep_until(call::clock_ns() + 200_000));
    }
}

/// Starts a thread of that priority.
fn start<T: Send + 'static>(
    cpu: u64,
    priority: u64,
    run: impl FnOnce() -> T + Send + 'static,
) -> (Thread<T>, Capability) {
    let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(cpu), run));
    set_priority(capability, priority);
    assert_ok!(call::thread_control(capability, ThreadAction::Resume, 0));
    (thread, capability)
}

fn end<T>((thread, capability): (Thread<T>, Capability)) -> T {
    let value = assert_ok!(thread.join());
    assert_ok!(call::close(capability));
    value
}

/// So many threads wait at that object.
fn wait_there(state: u64, object: Capability, count: usize) {
    let number = assert_ok!(call::cap_read(object)).object;
    let is_there = |thread: &ThreadInfo| (thread.state, thread.object) == (state, number);
    until("threads to wait", || threads().iter().filter(|thread| is_there(thread)).count() == count);
}

/// A thread that keeps a CPU to itself until it is told to end: whether it was. It has begun, and so holds no lock of this
/// process that who is more urgent could wait for.
fn in_the_way(cpu: u64, ends: &Arc<AtomicU64>) -> (Thread<bool>, Capability) {
    let (ends, begun) = (ends.clone(), Arc::new(AtomicU64::new(0)));
    let begins = begun.clone();
    let busy = start(cpu, IN_THE_WAY, move || {
        begins.store(1, Ordering::SeqCst);
        let patience = call::clock_ns() + PATIENCE_NS;
        while ends.load(Ordering::SeqCst) == 0 && call::clock_ns() < patience {}
        ends.load(Ordering::SeqCst) != 0
    });
    until("a thread to begin", || begun.load(Ordering::SeqCst) != 0);
    busy
}

fn work() {
    let end = call::clock_ns() + 500_000;
    while call::clock_ns() < end {}
}

/// What a server of a chain saw of itself: priority and time when it was called, and when all below it was done; and its
/// priority afterwards.
type Seen = [ThreadInfo; 3];

/// Answers one call, once it has worked for it, and has called the next.
fn serve(endpoint: Capability, next: Option<Capability>) -> Seen {
    assert_ok!(call::receive(endpoint));
    let called = own();
    work();
    if let Some(next) = next {
        assert_ok!(call::call(next, Message::empty(1)));
    }
    let done = own();
    assert_ok!(call::reply(Message::empty(2)));
    [called, done, own()]
}

/// A call that goes down a chain of servers of one CPU, less urgent than who is in their way.
fn go_down(until_when: fn() -> Until) {
    let cpu = other_cpu();
    let endpoints: Vec<_> = (0..CHAIN).map(|_| assert_ok!(call::endpoint_create())).collect();
    let servers: Vec<_> = (0..CHAIN)
        .map(|place| {
            let (own, next) = (endpoints[place], endpoints.get(place + 1).copied());
            start(cpu, SERVER + place as u64, move || serve(own, next))
        })
        .collect();
    endpoints.iter().for_each(|endpoint| wait_there(RECEIVES, *endpoint, 1));

    let ends = Arc::new(AtomicU64::new(0));
    let stop = ends.clone();
    let (first, busy) = (endpoints[0], in_the_way(cpu, &ends));
    let caller = start(cpu, CALLER, move || {
        let before = own();
        assert_ok!(call::call_until(first, Message::empty(1), until_when()));
        let after = own();
        stop.store(1, Ordering::SeqCst);
        [before, after]
    });
    let [before, after] = end(caller);
    kernel_assert!(end(busy), "the servers waited for who is less urgent than their caller");
    kernel_assert_eq!((before.priority, after.priority), (CALLER, CALLER));
    // They have worked one after the other, and all of it is the caller's, but for what others of the CPU had.
    kernel_assert!(after.time - before.time >= CHAIN as u64 * 250_000, "{before:?} {after:?}");
    for (place, server) in servers.into_iter().enumerate() {
        let [called, done, left] = end(server);
        kernel_assert_eq!((called.priority, done.priority), (CALLER, CALLER));
        kernel_assert_eq!(left.priority, SERVER + place as u64);
        kernel_assert_eq!(done.time, called.time);
    }
    endpoints.into_iter().for_each(|endpoint| assert_ok!(call::close(endpoint)));
}

test! {
    // CASE-SCH-021: down, and back with the answers.
    fn time_and_urgency_go_down_a_chain_of_calls() requires("SCH-11 IPS-05") {
        go_down(|| Until::Done);
    }
}

test! {
    fn a_call_with_a_deadline_gives_the_same() requires("SCH-11 IPS-07") {
        go_down(|| soon(PATIENCE_NS));
    }
}

test! {
    fn urgency_alone_goes_to_another_cpu() requires("SCH-11 SCH-39 IPS-02") {
        let (here, there) = (0, other_cpu());
        let endpoint = assert_ok!(call::endpoint_create());
        for server_waits in [true, false] {
            let ends = Arc::new(AtomicU64::new(0));
            let stop = ends.clone();
            let call_it = move || {
                let answer = call::call_until(endpoint, Message::empty(1), soon(PATIENCE_NS));
                stop.store(1, Ordering::SeqCst);
                answer
            };
            let (server, busy, caller);
            if server_waits {
                server = start(there, SERVER, move || serve(endpoint, None));
                wait_there(RECEIVES, endpoint, 1);
                busy = in_the_way(there, &ends);
                caller = start(here, CALLER, call_it);
            } else {
                caller = start(here, CALLER, call_it);
                wait_there(SENDS, endpoint, 1);
                server = start(there, SERVER, move || serve(endpoint, None));
                wait_there(SENDS, endpoint, 0);
                busy = in_the_way(there, &ends);
            }
            assert_ok!(end(caller));
            kernel_assert!(end(busy));
            let [called, done, left] = end(server);
            kernel_assert_eq!((called.priority, done.priority, left.priority), (CALLER, CALLER, SERVER));
            // Its CPU is not its caller's, and so its time is its own, but for what others there had.
            kernel_assert!(here == there || done.time > called.time, "{called:?} {done:?}");
        }
        assert_ok!(call::close(endpoint));
    }
}

test! {
    // CASE-SCH-021: back with a time-out, a cancel, a death, and where the answer is kept for later.
    fn what_was_given_goes_with_its_call() requires("SCH-11 IPS-12") {
        let cpu = other_cpu();
        let endpoint = assert_ok!(call::endpoint_create());
        for how in 0..4 {
            let seen = Arc::new(AtomicU64::new(0));
            let (tell, given) = (seen.clone(), seen.clone());
            let server = start(cpu, SERVER, move || {
                assert_ok!(call::receive(endpoint));
                tell.store(own().priority, Ordering::SeqCst);
                let reply = (how == 3).then(|| assert_ok!(call::save_reply()));
                let patience = call::clock_ns() + PATIENCE_NS;
                while own().priority != SERVER {
                    kernel_assert!(call::clock_ns() < patience, "{how}: still {:?}", own());
                }
                match reply {
                    Some(reply) => assert_ok!(call::reply_to(reply, Message::empty(2))),
                    None => assert_err!(call::reply(Message::empty(2)), Error::PartnerGone),
                }
                reply.into_iter().for_each(|reply| assert_ok!(call::close(reply)));
            });
            wait_there(RECEIVES, endpoint, 1);
            let caller = start(cpu, CALLER, move || {
                // Its time may be over before it is received: then it calls again.
                while call::call_until(endpoint, Message::empty(1), if how == 0 { soon(2_000_000) } else { Until::Done })
                    == Err(Error::TimedOut)
                    && seen.load(Ordering::SeqCst) == 0
                {}
                seen.load(Ordering::SeqCst)
            });
            if how == 1 || how == 2 {
                until("a call", || given.load(Ordering::SeqCst) != 0);
                assert_ok!(call::thread_control(caller.1, [ThreadAction::Cancel, ThreadAction::Kill][how - 1], 0));
            }
            end(server);
            if how == 2 {
                // It has no value, and its endpoint goes with the process.
                assert_ok!(call::close(caller.1));
            } else {
                // On a busy host its time may be over before the server has looked.
                let seen = end(caller);
                kernel_assert!(seen == CALLER || how == 0 && seen == SERVER, "{how}: {seen}");
            }
        }
        assert_ok!(call::close(endpoint));
    }
}

test! {
    // CASE-IPC-035: at once, and whatever it waits for.
    fn a_new_priority_is_a_new_place_in_the_queue() requires("SCH-39 SCH-11 SCH-37") {
        let cpu = other_cpu();
        let endpoint = assert_ok!(call::endpoint_create());
        let senders = [40, 50, 45].map(|priority| {
            start(cpu, priority, move || assert_ok!(call::send(endpoint, help::word(1, priority), Until::Done)))
        });
        wait_there(SENDS, endpoint, 3);
        kernel_assert_eq!(set_priority(senders[0].1, 60), 40);
        kernel_assert_eq!(set_priority(senders[1].1, 30), 50);
        wait_there(SENDS, endpoint, 3);
        let order = [(); 3].map(|()| assert_ok!(call::receive(endpoint)).words[0]);
        kernel_assert_eq!(order, [40, 45, 50]);
        senders.into_iter().for_each(end);

        let receivers = [40, 50].map(|priority| start(cpu, priority, move || (priority, assert_ok!(call::receive(endpoint)).words[0])));
        wait_there(RECEIVES, endpoint, 2);
        set_priority(receivers[0].1, 60);
        wait_there(RECEIVES, endpoint, 2);
        (1..=2).for_each(|n| assert_ok!(call::send(endpoint, help::word(1, n), Until::Done)));
        kernel_assert_eq!(receivers.map(end), [(40, 1), (50, 2)]);
        assert_ok!(call::close(endpoint));

        let bits = assert_ok!(call::notification_create());
        let waiters = [40, 50].map(|priority| start(cpu, priority, move || assert_ok!(call::wait_bits(bits, 1, Until::Done))));
        wait_there(WAITS_FOR_BITS, bits, 2);
        set_priority(waiters[0].1, 60);
        wait_there(WAITS_FOR_BITS, bits, 2);
        assert_ok!(call::signal(bits, 1));
        let [first, second] = waiters;
        kernel_assert_eq!(end(first), 1);
        assert_ok!(call::signal(bits, 1));
        kernel_assert_eq!(end(second), 1);
        assert_ok!(call::close(bits));
    }
}

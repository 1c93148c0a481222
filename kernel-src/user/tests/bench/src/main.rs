//! What kernel entries cost, printed as metrics. The numbers are instructions
//! where the machine's counter counts them (QEMU: `-icount shift=0,sleep=off`
//! and one CPU), and mean nothing elsewhere.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::sync::Arc;
use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{self, Cause, Error, Info, MessageInfo, NO_CAPABILITY, ThreadAction};
use rt::call::{self, Buffer, Capability, Exit, Message, Place, Until};
use rt::testing::{self, counter, marker, spin};
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, kernel_bench, println, probe, test, thread};

rt::program!(main);

/// The argument that makes a process of this program the server of the message benchmark, and no test case.
const SERVER: u64 = u64::MAX;

/// The same, of the server that gives back what it gets.
const ECHO: u64 = u64::MAX - 1;

/// The same, of the partner of the notification benchmark.
const PARTNER: u64 = u64::MAX - 2;

/// The same, of one that takes signals at once.
const URGENT: u64 = u64::MAX - 3;

/// The same, of one whose faults are handled.
const FAULTS: u64 = u64::MAX - 4;

/// The same, of one whose calls are served.
const FOREIGN: u64 = u64::MAX - 5;

/// The same, of [`ECHO`] with something of its own in the FPU.
const FPU_ECHO: u64 = u64::MAX - 6;

fn main(argument: u64) -> u32 {
    match argument {
        SERVER => serve(Capability(0)),
        ECHO => echo(Capability(0)),
        PARTNER => answer_signals([Capability(0), Capability(1)]),
        URGENT => take_signals(Capability(0)),
        FAULTS => fault(),
        FOREIGN => call_foreign(),
        FPU_ECHO => {
            probe::fill_fpu(1);
            let status = echo(Capability(0));
            probe::check_fpu(1);
            status
        }
        _ => testing::main(argument),
    }
}

test! {
    // The lab holds the cost against testsuites/targets.yaml.
    fn null_call_costs_few_instructions() requires("SYS-03 SYS-04 SYS-05 TST-03 TMR-09") needs("icount") {
        let cost = kernel_bench!("null_call", 10_000, call::null());
        kernel_assert!(cost > 0, "ten thousand calls took no time");
    }
}

test! {
    fn clock_call_is_measured() requires("TMR-09 TST-03") {
        let cost = kernel_bench!("clock_call", 1_000, call::clock_ns());
        kernel_assert!(cost > 0, "a thousand calls took no time");
    }
}

test! {
    fn yield_and_info_are_measured() requires("TMR-09 TST-03") {
        let cost = kernel_bench!("yield_alone", 1_000, call::yield_now());
        kernel_assert!(cost > 0, "a thousand yields took no time");
        let cost = kernel_bench!("info_call", 1_000, call::info(Info::CurrentCpu, 0));
        kernel_assert!(cost > 0, "a thousand calls took no time");
    }
}

/// Markers that the lab looks for (testsuites/harness/test_machine_counting.py, testsuites/perf/test_messages.py),
/// each pair around one thing.
const SPIN: [u8; 2] = [1, 2];
const CALLS: [u8; 2] = [3, 4];
const SLEEP: [u8; 2] = [5, 6];
const ROUND_TRIP: [u8; 2] = [7, 8];
const SWITCH: [u8; 2] = [9, 10];
const CALL_0: [u8; 2] = [11, 12];
const CALL_4: [u8; 2] = [13, 14];
const CALL_8: [u8; 2] = [15, 16];
const CALL_64: [u8; 2] = [17, 18];
const CALL_CAPABILITY: [u8; 2] = [19, 20];
/// A call of no words, where both sides have something in the FPU.
const CALL_FPU: [u8; 2] = [69, 70];
/// Capabilities and objects that come and go.
const COPY: [u8; 2] = [41, 42];
const ENDPOINT: [u8; 2] = [43, 44];
/// A capability that is read through one CNode, and through [`LEVELS`].
const NEAR: [u8; 2] = [61, 62];
const FAR: [u8; 2] = [63, 64];
/// Signals that nobody waits for; those of two processes in turn.
const SIGNAL: [u8; 2] = [51, 52];
const PING_PONG: [u8; 2] = [53, 54];
/// A signal that a more urgent thread takes before the signaller goes on.
const PREEMPT: [u8; 2] = [55, 56];
/// A load that a handler mends by another register; and what lies between a handler's answer and the next fault.
const FAULT: [u8; 2] = [57, 58];
const FAULT_AGAIN: [u8; 2] = [65, 66];
/// A call of a foreign thread to its server, and back.
const FOREIGN_CALL: [u8; 2] = [67, 68];
/// A call to a thread of another CPU, and its reply.
const CROSS: [u8; 2] = [59, 60];

/// Round trips, and switches of each thread, that are marked.
const TIMES: u64 = 256;
/// A request with this label ends the server.
const STOP: u64 = 0;

/// Answers each request with all its words doubled, until one says [`STOP`].
fn serve(endpoint: Capability) -> u32 {
    let mut request = assert_ok!(call::receive(endpoint));
    while request.info.label() != STOP {
        let reply = Message::new(request.info.label() + 1, request.words.map(|word| word * 2));
        request = assert_ok!(call::reply_receive(endpoint, reply));
    }
    testing::EXIT_PASSED
}

test! {
    fn a_message_goes_to_another_process_and_back() requires("TST-14 TST-16 IPS-02") {
        let endpoint = assert_ok!(call::endpoint_create());
        let give = [endpoint, Capability::NONE, Capability::NONE, Capability::NONE];
        let server = assert_ok!(call::spawn(Capability(0), "bench", SERVER, give));
        for n in 1..=TIMES {
            let words = core::array::from_fn(|index| n * 100 + index as u64);
            marker::<{ ROUND_TRIP[0] }>();
            let reply = call::call(endpoint, Message::new(n, words));
            marker::<{ ROUND_TRIP[1] }>();
            kernel_assert_eq!(assert_ok!(reply), Message::new(n + 1, words.map(|word| word * 2)));
        }
        assert_err!(call::call(endpoint, Message::empty(STOP)), Error::PartnerGone);
        // It was another process, which saw a wrong message nowhere.
        kernel_assert_eq!(assert_ok!(call::wait(server)), Exit::Status(testing::EXIT_PASSED));
        println!("guest: round trips {TIMES}");
    }
}

static BUFFER: Buffer = Buffer::new();
/// Words of the longest message here.
const LONG: usize = 64;
/// The server's slot for the capability that comes with a call.
const PLACE: u64 = 40;
/// A request with this label asks what has arrived.
const TELL: u64 = 1;

/// Gives each request back, and once asked the words that came last, inverted, until one says [`STOP`].
fn echo(endpoint: Capability) -> u32 {
    assert_ok!(call::buffer_set(Some(&BUFFER)));
    BUFFER.receive_at(0, PLACE);
    let mut request = assert_ok!(call::receive(endpoint));
    while request.info.label() != STOP {
        if request.info.label() == TELL {
            (8..LONG).for_each(|index| BUFFER.set_word(index, !BUFFER.word(index)));
            request.words[0] = assert_ok!(call::cap_read(Capability(PLACE))).generation;
            request.info = MessageInfo::new(TELL, LONG);
        }
        let reply = Message { info: request.info.with_capabilities(0), ..request };
        request = assert_ok!(call::reply_receive(endpoint, reply));
    }
    testing::EXIT_PASSED
}

/// What calls leave behind.
struct Counts {
    departures: u64,
    interrupts: u64,
    memory: u64,
    /// CPU time of the caller's only thread, and of the server's.
    own: u64,
    theirs: u64,
}

fn counted(server: Capability) -> Counts {
    let here = info(Info::CurrentCpu, 0);
    let time = |process| assert_ok!(assert_ok!(call::thread_info(process, 0)).ok_or(Error::NotFound)).time;
    Counts {
        departures: info(Info::Departures, here),
        interrupts: info(Info::TimerInterrupts, here) + info(Info::IpisReceived, here),
        memory: info(Info::MemoryFree, 0),
        own: time(None),
        theirs: time(Some(server)),
    }
}

fn info(what: Info, index: u64) -> u64 {
    assert_ok!(call::info(what, index))
}

/// Calls [`TIMES`] times with `length` words, and `prepare` before each.
fn calls<const START: u8, const END: u8>(endpoint: Capability, info: MessageInfo, mut prepare: impl FnMut(u64)) {
    for n in 1..=TIMES {
        prepare(n);
        let words = core::array::from_fn(|index| if index < info.length() { n + index as u64 } else { 0 });
        let request = Message { info, words, badge: 0 };
        marker::<START>();
        let reply = call::call(endpoint, request);
        marker::<END>();
        kernel_assert_eq!(assert_ok!(reply), Message { info: info.with_capabilities(0), ..request });
    }
}

test! {
    fn a_call_of_each_size_and_its_reply() requires("TST-14 IPS-02 IPS-03 IPS-14 PRF-07") {
        const LABEL: u64 = 7;
        let endpoint = assert_ok!(call::endpoint_create());
        let give = [endpoint, Capability::NONE, Capability::NONE, Capability::NONE];
        let server =
            assert_ok!(call::spawn_suspended(THREAD, Capability::OWN_QUOTA, Capability(0), "bench", ECHO, give));
        // Less urgent than who calls: it answers as urgently all the same.
        assert_ok!(call::thread_control(THREAD, ThreadAction::Priority, 1));
        assert_ok!(call::thread_control(THREAD, ThreadAction::Resume, 0));
        assert_ok!(call::close(THREAD));
        assert_ok!(call::buffer_set(Some(&BUFFER)));
        assert_ok!(call::call(endpoint, Message::empty(LABEL)));
        let before = counted(server);
        calls::<{ CALL_0[0] }, { CALL_0[1] }>(endpoint, MessageInfo::new(LABEL, 0), |_| ());
        calls::<{ CALL_4[0] }, { CALL_4[1] }>(endpoint, MessageInfo::new(LABEL, 4), |_| ());
        calls::<{ CALL_8[0] }, { CALL_8[1] }>(endpoint, MessageInfo::new(LABEL, 8), |_| ());
        // CASE-IPC-037: two switches a call, and its server's time is the caller's; nothing was allocated or freed.
        let after = counted(server);
        kernel_assert_eq!(after.departures - before.departures, 2 * 3 * TIMES + after.interrupts - before.interrupts);
        kernel_assert_eq!((after.memory, after.theirs), (before.memory, before.theirs));
        kernel_assert!(after.own > before.own);
        calls::<{ CALL_64[0] }, { CALL_64[1] }>(endpoint, MessageInfo::new(LABEL, LONG), |n| {
            (8..LONG).for_each(|index| BUFFER.set_word(index, n * 1000 + index as u64));
        });
        let lent = assert_ok!(call::endpoint_create());
        BUFFER.give(0, lent);
        calls::<{ CALL_CAPABILITY[0] }, { CALL_CAPABILITY[1] }>(endpoint, MessageInfo::new(LABEL, 0).with_capabilities(1), |_| {
            assert_ok!(call::cap_revoke(lent));
        });
        // All words and capabilities were there: the server has the last words, and each filling and emptying has counted.
        (8..LONG).for_each(|index| BUFFER.set_word(index, 0));
        let told = assert_ok!(call::call(endpoint, Message::empty(TELL)));
        kernel_assert_eq!((told.info, told.words[0]), (MessageInfo::new(TELL, LONG), 2 * TIMES - 1));
        kernel_assert!((8..LONG).all(|index| BUFFER.word(index) == !(TIMES * 1000 + index as u64)));
        assert_err!(call::call(endpoint, Message::empty(STOP)), Error::PartnerGone);
        kernel_assert_eq!(assert_ok!(call::wait(server)), Exit::Status(testing::EXIT_PASSED));
        assert_ok!(call::buffer_set(None));
        println!("guest: calls of each size {TIMES}");
    }
}

test! {
    fn a_call_with_live_fpu_registers_and_its_reply() requires("TST-14 IPS-02 IPS-03 CTX-01 CTX-02 PRF-07") {
        const LABEL: u64 = 7;
        let endpoint = assert_ok!(call::endpoint_create());
        let give = [endpoint, Capability::NONE, Capability::NONE, Capability::NONE];
        let server =
            assert_ok!(call::spawn_suspended(THREAD, Capability::OWN_QUOTA, Capability(0), "bench", FPU_ECHO, give));
        let (caller, calling) = assert_ok!(thread::spawn_suspended(Some(info(Info::CurrentCpu, 0)), move || {
            probe::fill_fpu(2);
            assert_ok!(call::call(endpoint, Message::empty(LABEL)));
            calls::<{ CALL_FPU[0] }, { CALL_FPU[1] }>(endpoint, MessageInfo::new(LABEL, 0), |_| ());
            probe::check_fpu(2);
        }));
        for thread in [THREAD, calling] {
            assert_ok!(call::thread_control(thread, ThreadAction::Fpu, 1));
            assert_ok!(call::thread_control(thread, ThreadAction::Resume, 0));
            assert_ok!(call::close(thread));
        }
        assert_ok!(caller.join());
        assert_err!(call::call(endpoint, Message::empty(STOP)), Error::PartnerGone);
        kernel_assert_eq!(assert_ok!(call::wait(server)), Exit::Status(testing::EXIT_PASSED));
        assert_ok!(call::close(endpoint));
    }
}

/// Objects charged to this process's quota, those not counted that end.
fn objects_used() -> u64 {
    while assert_ok!(call::info(Info::Ending, 0)) != 0 {
        call::yield_now();
    }
    assert_ok!(call::quota_read(Capability::OWN_QUOTA)).objects_used
}

test! {
    fn capabilities_come_and_go() requires("TST-14 TST-16 CAP-13 PRF-07") {
        // Both in one CNode of the process, by places that the compiler knows no more of than the kernel does.
        let endpoint = assert_ok!(call::endpoint_create());
        let (from, to) = (Place::from(endpoint), Place::from(black_box(Capability(60))));
        for _ in 0..TIMES {
            marker::<{ COPY[0] }>();
            let copied = call::cap_copy(to, from);
            let deleted = call::cap_delete(to);
            marker::<{ COPY[1] }>();
            assert_ok!(copied);
            assert_ok!(deleted);
        }
        assert_ok!(call::close(endpoint));
        let used = objects_used();
        for _ in 0..TIMES {
            marker::<{ ENDPOINT[0] }>();
            let created = call::endpoint_create_at(black_box(59));
            let deleted = created.and_then(call::close);
            marker::<{ ENDPOINT[1] }>();
            assert_ok!(deleted);
        }
        // Each was charged, and its memory is back.
        kernel_assert_eq!(objects_used(), used);
    }
}

/// Goes so many times as far as [`NEAR`].
const LEVELS: u32 = 8;

test! {
    fn a_name_leads_through_cnodes() requires("TST-14 TST-16 CAP-02 CAP-21 PRF-07") {
        // A CNode that has itself in its slot 5, so that each four bits of an address lead there again.
        const BITS: u32 = 4;
        let node = assert_ok!(call::cnode_create(BITS.into()));
        let itself = Place::within(node, 5, BITS);
        assert_ok!(call::cap_copy(itself, node));
        let way = (0..LEVELS).fold(0, |way, _| way << BITS | 5);
        for _ in 0..TIMES {
            marker::<{ NEAR[0] }>();
            let near = call::cap_read(black_box(itself));
            marker::<{ NEAR[1] }>();
            marker::<{ FAR[0] }>();
            let far = call::cap_read(black_box(Place::within(node, way, LEVELS * BITS)));
            marker::<{ FAR[1] }>();
            let near = assert_ok!(near);
            kernel_assert_eq!(near.object, assert_ok!(call::cap_read(node)).object);
            kernel_assert_eq!(near, assert_ok!(far));
        }
        assert_ok!(call::close(node));
        println!("guest: levels {LEVELS}");
    }
}

/// Signals the second as often as the first is signalled, until that is with more than one bit.
fn answer_signals([first, second]: [Capability; 2]) -> u32 {
    while assert_ok!(call::wait_bits(first, u64::MAX, Until::Done)) == 1 {
        assert_ok!(call::signal(second, 2));
    }
    testing::EXIT_PASSED
}

test! {
    fn signals_go_to_another_process_and_back() requires("TST-14 TST-16 NTF-01 PRF-07") {
        let (ping, pong) = (assert_ok!(call::notification_create()), assert_ok!(call::notification_create()));
        for n in 1..=TIMES {
            marker::<{ SIGNAL[0] }>();
            let signalled = call::signal(ping, n);
            marker::<{ SIGNAL[1] }>();
            assert_ok!(signalled);
        }
        // All were there.
        kernel_assert_eq!(assert_ok!(call::wait_bits(ping, u64::MAX, Until::Done)), 2 * TIMES - 1);
        let give = [ping, pong, Capability::NONE, Capability::NONE];
        let partner = assert_ok!(call::spawn(Capability(0), "bench", PARTNER, give));
        for _ in 0..TIMES {
            marker::<{ PING_PONG[0] }>();
            let signalled = call::signal(ping, 1);
            let answered = call::wait_bits(pong, u64::MAX, Until::Done);
            marker::<{ PING_PONG[1] }>();
            assert_ok!(signalled);
            kernel_assert_eq!(assert_ok!(answered), 2);
        }
        assert_ok!(call::signal(ping, 3));
        kernel_assert_eq!(assert_ok!(call::wait(partner)), Exit::Status(testing::EXIT_PASSED));
        println!("guest: signals {TIMES}");
    }
}

/// Takes signals until one has more than one bit; how many there were.
fn take_signals(bits: Capability) -> u32 {
    (1..).take_while(|_| assert_ok!(call::wait_bits(bits, u64::MAX, Until::Done)) == 1).last().unwrap_or(0)
}

/// The slot of the capability to a thread of another process.
const THREAD: Capability = Capability(58);

test! {
    fn a_signal_lets_a_more_urgent_thread_run() requires("TST-14 TST-16 NTF-01 SCH-39 PRF-07") {
        let bits = assert_ok!(call::notification_create());
        let give = [bits, Capability::NONE, Capability::NONE, Capability::NONE];
        let urgent =
            assert_ok!(call::spawn_suspended(THREAD, Capability::OWN_QUOTA, Capability(0), "bench", URGENT, give));
        assert_ok!(call::thread_control(THREAD, ThreadAction::Priority, 200));
        assert_ok!(call::thread_control(THREAD, ThreadAction::Resume, 0));
        call::yield_now();
        for _ in 0..TIMES {
            marker::<{ PREEMPT[0] }>();
            let signalled = call::signal(bits, 1);
            marker::<{ PREEMPT[1] }>();
            assert_ok!(signalled);
        }
        assert_ok!(call::signal(bits, 3));
        // Each signal was taken before the next: two would have been one.
        kernel_assert_eq!(assert_ok!(call::wait(urgent)), Exit::Status(TIMES as u32));
        println!("guest: signals {TIMES}");
    }
}

/// What a handler lets be loaded in place of nothing.
static WORD: AtomicU64 = AtomicU64::new(5);

/// Faults once, and then [`TIMES`] times, and says so if each load was mended.
fn fault() -> u32 {
    kernel_assert_eq!(probe::load_word(0), 5);
    for _ in 0..TIMES {
        marker::<{ FAULT[0] }>();
        let loaded = probe::load_word(0);
        marker::<{ FAULT[1] }>();
        kernel_assert_eq!(loaded, 5);
    }
    testing::EXIT_PASSED
}

test! {
    fn a_handler_mends_faults_of_another_process() requires("TST-14 TST-16 IPS-12 INT-01 PRF-07") {
        let endpoint = assert_ok!(call::endpoint_create());
        let nothing = [Capability::NONE; 4];
        let process =
            assert_ok!(call::spawn_suspended(THREAD, Capability::OWN_QUOTA, Capability(0), "bench", FAULTS, nothing));
        assert_ok!(call::thread_control(THREAD, ThreadAction::Faults, endpoint.0));
        assert_ok!(call::thread_control(THREAD, ThreadAction::Resume, 0));
        let mut fault = assert_ok!(call::receive(endpoint));
        // An answer alone changes nothing: then the same fault comes again.
        for _ in 0..TIMES {
            marker::<{ FAULT_AGAIN[0] }>();
            let next = call::reply_receive(endpoint, Message::empty(0));
            marker::<{ FAULT_AGAIN[1] }>();
            kernel_assert_eq!(assert_ok!(next), fault);
        }
        for turn in 0..=TIMES {
            kernel_assert_eq!((fault.info.label(), fault.words[0]), (abi::FAULT, Cause::ReadFault as u64));
            let mut registers = assert_ok!(call::thread_read(THREAD));
            // It is the same program, so its word has the same address.
            registers.general[probe::ARGUMENT] = WORD.as_ptr() as u64;
            // SAFETY: it is a thread of another process.
            assert_ok!(unsafe { call::thread_write(THREAD, &registers) });
            if turn == TIMES {
                assert_ok!(call::reply(Message::empty(0)));
            } else {
                fault = assert_ok!(call::reply_receive(endpoint, Message::empty(0)));
            }
        }
        kernel_assert_eq!(assert_ok!(call::wait(process)), Exit::Status(testing::EXIT_PASSED));
        assert_ok!(call::close(THREAD));
        println!("guest: faults {TIMES}");
    }
}

/// Makes [`TIMES`] foreign calls, and says so if each had its result; so the last lets this be told by a call of its own.
fn call_foreign() -> u32 {
    let mut right = 0;
    for n in 1..=TIMES {
        marker::<{ FOREIGN_CALL[0] }>();
        let result = probe::foreign_call(5000 + n, [n; 6]);
        marker::<{ FOREIGN_CALL[1] }>();
        right += u64::from(result == 2 * (5000 + n));
    }
    if right == TIMES { testing::EXIT_PASSED } else { 0 }
}

test! {
    fn calls_of_a_foreign_process_are_served() requires("TST-14 TST-16 IPS-12 SYS-07 POS-01 PRF-07") {
        let endpoint = assert_ok!(call::endpoint_create());
        let nothing = [Capability::NONE; 4];
        let process =
            assert_ok!(call::spawn_suspended(THREAD, Capability::OWN_QUOTA, Capability(0), "bench", FOREIGN, nothing));
        assert_ok!(call::thread_control(THREAD, ThreadAction::Calls, endpoint.0));
        assert_ok!(call::thread_control(THREAD, ThreadAction::Resume, 0));
        let mut request = assert_ok!(call::receive(endpoint));
        let mut numbers = 0;
        for _ in 1..TIMES {
            numbers += request.words[0];
            request = assert_ok!(call::reply_receive(endpoint, Message::new(0, request.words.map(|word| word * 2))));
        }
        kernel_assert_eq!((request.info.label(), request.words[0]), (abi::FOREIGN, 5000 + TIMES));
        kernel_assert_eq!(numbers, (1..TIMES).map(|n| 5000 + n).sum());
        assert_ok!(call::thread_control(THREAD, ThreadAction::Calls, NO_CAPABILITY));
        assert_ok!(call::reply(Message::new(0, request.words.map(|word| word * 2))));
        kernel_assert_eq!(assert_ok!(call::wait(process)), Exit::Status(testing::EXIT_PASSED));
        assert_ok!(call::close(THREAD));
        println!("guest: foreign calls {TIMES}");
    }
}

test! {
    fn a_call_goes_to_another_cpu_and_back() requires("TST-14 TST-16 IPS-02 PRF-07") needs("smp>=2") {
        let endpoint = assert_ok!(call::endpoint_create());
        let other = 1 - assert_ok!(call::info(Info::CurrentCpu, 0)).min(1);
        let server = assert_ok!(thread::spawn_on(other, move || {
            let mut request = assert_ok!(call::receive(endpoint));
            while request.info.label() != STOP {
                request = assert_ok!(call::reply_receive(endpoint, request));
            }
            assert_ok!(call::info(Info::CurrentCpu, 0))
        }));
        calls::<{ CROSS[0] }, { CROSS[1] }>(endpoint, MessageInfo::new(1, 0), |_| ());
        assert_err!(call::call(endpoint, Message::empty(STOP)), Error::PartnerGone);
        kernel_assert_eq!(assert_ok!(server.join()), other);
        println!("guest: calls to another CPU {TIMES}");
    }
}

test! {
    fn two_threads_switch_by_yield() requires("TST-15 TST-16") {
        // Each yields to the other on one CPU: from the first marker, which the one sets before its yield, to the
        // second, which the other sets after its own, lies one switch.
        let last = Arc::new(AtomicU64::new(0));
        let waiting = Arc::new(AtomicU64::new(2));
        let threads = [1, 2].map(|me| {
            let (last, waiting) = (last.clone(), waiting.clone());
            let alternate = move || {
                waiting.fetch_sub(1, Ordering::SeqCst);
                while waiting.load(Ordering::SeqCst) > 0 {
                    call::yield_now();
                }
                let mut others = 0;
                for _ in 0..TIMES {
                    others += u64::from(last.swap(me, Ordering::SeqCst) != me);
                    marker::<{ SWITCH[0] }>();
                    call::yield_now();
                    marker::<{ SWITCH[1] }>();
                }
                others
            };
            assert_ok!(thread::spawn_on(0, alternate))
        });
        let switches: u64 = threads.map(|thread| assert_ok!(thread.join())).iter().sum();
        // The end of a time slice between two markers lets one run twice.
        kernel_assert!(switches >= 2 * TIMES - 8, "the threads alternated {switches} times in {}", 2 * TIMES);
        println!("guest: switches {switches}");
    }
}

/// Nanoseconds of the guest's own clock for `run`, which lies between two markers.
#[inline(never)] // so that both lengths take the very same instructions
fn marked<const START: u8, const END: u8>(run: impl FnOnce()) -> u64 {
    let from = counter();
    marker::<START>();
    run();
    marker::<END>();
    counter() - from
}

test! {
    fn markers_bound_what_is_counted() requires("TST-16 TMR-09") {
        // Of each thing two lengths, unknown to the compiler: what measuring costs is the same in both.
        for turns in black_box([1_000, 1_001_000]) {
            println!("guest: spin {turns} {}", marked::<{ SPIN[0] }, { SPIN[1] }>(|| spin(turns)));
        }
        for calls in black_box([100, 20_100]) {
            let run = || (0..calls).for_each(|_| call::null());
            println!("guest: calls {calls} {}", marked::<{ CALLS[0] }, { CALLS[1] }>(run));
        }
        for length_ns in black_box([1_000_000, 101_000_000]) {
            let until = call::clock_ns() + length_ns;
            let slept = marked::<{ SLEEP[0] }, { SLEEP[1] }>(|| assert_ok!(call::sleep_until(until)));
            println!("guest: sleep {length_ns} {slept}");
            kernel_assert!(call::clock_ns() >= until, "woken too early");
        }
    }
}

//! What waits, and is stopped, halted or cancelled meanwhile.

use crate::roles;
use crate::support::{
    IS_CALLING, RECEIVES, SENDS, WAITS, WAITS_FOR_BITS, control, cpus, halt, in_state, info, other_cpu, patience,
    resume, suspend, suspend_in, wait_until,
};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Error, Info, MESSAGE_WORDS, Registers, ThreadAction};
use rt::call::{self, Capability, Exit, Message, Until};
use rt::random::Random;
use rt::testing::settled;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, probe, test, thread};

fn homes() -> [u64; 2] {
    [info(Info::CurrentCpu), other_cpu()]
}

test! {
    fn the_wait_of_a_suspended_thread_goes_on() requires("PRC-32 PRC-05 IPS-09") {
        for cpu in homes() {
            let endpoint = assert_ok!(call::endpoint_create());
            let done = Arc::new(AtomicU64::new(0));
            let tell = done.clone();
            let (thread, capability) = in_state(RECEIVES, cpu, move || {
                let label = assert_ok!(call::receive(endpoint)).info.label();
                tell.store(label, Ordering::SeqCst);
            });
            kernel_assert_eq!(control(capability, ThreadAction::Suspend), RECEIVES);
            // Its registers are still those of a wait that goes on.
            assert_err!(call::thread_read(capability), Error::NotStopped);
            assert_ok!(call::send(endpoint, Message::empty(9), Until::NOW));
            suspend(capability);
            settled(cpu);
            kernel_assert_eq!(done.load(Ordering::SeqCst), 0);
            resume(capability);
            assert_ok!(thread.join());
            kernel_assert_eq!(done.load(Ordering::SeqCst), 9);
            assert_ok!(call::close(capability));
        }
    }
}

test! {
    fn a_suspended_caller_and_server_go_on_where_they_were() requires("PRC-32 IPS-01 IPS-09") {
        for cpu in homes() {
            let endpoint = assert_ok!(call::endpoint_create());
            let (caller, capability) = in_state(SENDS, cpu, move || assert_ok!(call::call(endpoint, Message::empty(1))).info);
            // Of a suspended sender the message is received, and the answer stays with it.
            kernel_assert_eq!(control(capability, ThreadAction::Suspend), SENDS);
            kernel_assert_eq!(assert_ok!(call::receive_until(endpoint, Until::NOW)).info.label(), 1);
            kernel_assert_eq!(control(capability, ThreadAction::Suspend), IS_CALLING);
            assert_ok!(call::reply(Message::empty(2)));
            suspend(capability);
            resume(capability);
            kernel_assert_eq!(assert_ok!(caller.join()).label(), 2);
            assert_ok!(call::close(capability));
        }
    }
}

test! {
    fn a_server_answers_a_suspended_caller_and_receives_on() requires("PRC-32 IPS-15") {
        // The call takes the fast way, if it may: on one CPU. The answer may not.
        for cpu in homes() {
            let endpoint = assert_ok!(call::endpoint_create());
            let gate = Arc::new(AtomicU64::new(0));
            let opens = gate.clone();
            let (server, _) = in_state(RECEIVES, cpu, move || {
                let mut label = assert_ok!(call::receive(endpoint)).info.label();
                while label != 0 {
                    if label == 5 {
                        wait_until("the gate", || opens.load(Ordering::SeqCst) == 1);
                    }
                    label = assert_ok!(call::reply_receive(endpoint, Message::empty(label + 1))).info.label();
                }
            });
            let (caller, capability) = in_state(IS_CALLING, cpu, move || {
                assert_ok!(call::call(endpoint, Message::empty(5))).info.label()
            });
            kernel_assert_eq!(control(capability, ThreadAction::Suspend), IS_CALLING);
            gate.store(1, Ordering::SeqCst);
            suspend(capability);
            // The server waits again, and serves others.
            kernel_assert_eq!(assert_ok!(call::call(endpoint, Message::empty(2))).info.label(), 3);
            resume(capability);
            kernel_assert_eq!(assert_ok!(caller.join()), 6);
            assert_ok!(call::send(endpoint, Message::empty(0), patience()));
            assert_ok!(server.join());
        }
    }
}

/// The registers of a stopped thread, but for those that the instruction of a call itself writes.
fn registers(thread: Capability) -> Registers {
    let mut registers = assert_ok!(call::thread_read(thread));
    probe::MAY_SHOW_OWN_STATE.iter().for_each(|&number| registers.general[number] = 0);
    registers
}

test! {
    fn a_halted_call_starts_again() requires("PRC-32 PRC-05 IPS-12") {
        for cpu in homes() {
            let endpoint = assert_ok!(call::endpoint_create());
            let notification = assert_ok!(call::notification_create());
            let (receiver, capability) = in_state(RECEIVES, cpu, move || assert_ok!(call::receive(endpoint)).info.label());
            halt(capability);
            // It waits no more.
            assert_err!(call::send(endpoint, Message::empty(1), Until::NOW), Error::TimedOut);
            let before = registers(capability);
            resume(capability);
            suspend_in(capability, RECEIVES);
            halt(capability);
            kernel_assert_eq!(registers(capability), before, "the call is not begun");
            resume(capability);
            assert_ok!(call::send(endpoint, Message::empty(3), patience()));
            kernel_assert_eq!(assert_ok!(receiver.join()), 3);

            let (sender, capability) = in_state(SENDS, cpu, move || call::send(endpoint, Message::empty(4), Until::Done));
            halt(capability);
            assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
            resume(capability);
            kernel_assert_eq!(assert_ok!(call::receive_until(endpoint, patience())).info.label(), 4);
            assert_ok!(assert_ok!(sender.join()));

            let (waiter, capability) = in_state(WAITS_FOR_BITS, cpu, move || call::wait_bits(notification, 6, Until::Done));
            halt(capability);
            assert_ok!(call::signal(notification, 4));
            resume(capability);
            kernel_assert_eq!(assert_ok!(waiter.join()), Ok(4));

            let until = call::clock_ns() + 500_000_000;
            let (sleeper, capability) = in_state(WAITS, cpu, move || {
                assert_ok!(call::sleep_until(until));
                call::clock_ns()
            });
            halt(capability);
            resume(capability);
            kernel_assert!(assert_ok!(sleeper.join()) >= until);
        }
    }
}

test! {
    fn a_halted_caller_whose_message_was_received_hears_of_it() requires("PRC-32 IPS-12 IPS-06") {
        for cpu in homes() {
            let endpoint = assert_ok!(call::endpoint_create());
            let (caller, capability) = in_state(SENDS, cpu, move || call::call(endpoint, Message::empty(1)));
            assert_ok!(call::receive_until(endpoint, Until::NOW));
            halt(capability);
            // The answer comes too late, and nobody has it.
            assert_err!(call::reply(Message::empty(2)), Error::PartnerGone);
            resume(capability);
            assert_err!(assert_ok!(caller.join()), Error::Cancelled);
        }
    }
}

test! {
    fn each_kind_of_wait_is_cancelled_with_an_error() requires("PRC-05 PRC-32 IPS-12") {
        for cpu in homes() {
            let endpoint = assert_ok!(call::endpoint_create());
            let answered = assert_ok!(call::endpoint_create());
            let notification = assert_ok!(call::notification_create());
            let cancelled = |state: u64, run: fn(Capability) -> Result<(), Error>, name| {
                let (thread, capability) = in_state(state, cpu, move || run(name));
                if state == SENDS && name == answered {
                    assert_ok!(call::receive_until(answered, Until::NOW));
                }
                kernel_assert_eq!(control(capability, ThreadAction::Cancel), 1);
                assert_err!(assert_ok!(thread.join()), Error::Cancelled);
                assert_ok!(call::close(capability));
            };
            cancelled(RECEIVES, |name| call::receive(name).map(drop), endpoint);
            cancelled(RECEIVES, |name| call::receive_until(name, patience()).map(drop), endpoint);
            cancelled(SENDS, |name| call::send(name, Message::empty(0), Until::Done), endpoint);
            cancelled(SENDS, |name| call::call(name, Message::empty(0)).map(drop), endpoint);
            cancelled(SENDS, |name| call::call(name, Message::empty(0)).map(drop), answered);
            cancelled(WAITS_FOR_BITS, |name| call::wait_bits(name, 1, patience()).map(drop), notification);
            cancelled(WAITS, |_| call::sleep_until(call::clock_ns() + 1_000_000_000_000), endpoint);
            // Nobody is left in a queue.
            assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
            assert_err!(call::send(endpoint, Message::empty(0), Until::NOW), Error::TimedOut);
            assert_ok!(call::signal(notification, 1));
            kernel_assert_eq!(assert_ok!(call::wait_bits(notification, 1, Until::NOW)), 1);
            // What does not wait is not cancelled: not now, and not later.
            let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(cpu), move || {
                call::receive_until(endpoint, patience()).map(|message| message.info.label())
            }));
            kernel_assert_eq!(control(capability, ThreadAction::Cancel), 0);
            resume(capability);
            assert_ok!(call::send(endpoint, Message::empty(8), patience()));
            kernel_assert_eq!(assert_ok!(thread.join()), Ok(8));
        }
    }
}

test! {
    fn a_suspended_thread_whose_wait_is_cancelled_stops() requires("PRC-05 PRC-32") {
        let endpoint = assert_ok!(call::endpoint_create());
        let (thread, capability) = in_state(RECEIVES, other_cpu(), move || call::receive(endpoint).map(drop));
        kernel_assert_eq!(control(capability, ThreadAction::Suspend), RECEIVES);
        kernel_assert_eq!(control(capability, ThreadAction::Cancel), 1);
        suspend(capability);
        resume(capability);
        assert_err!(assert_ok!(thread.join()), Error::Cancelled);
    }
}

test! {
    fn a_suspended_thread_hears_its_time_out_when_it_is_resumed() requires("PRC-32 PRC-05") {
        let endpoint = assert_ok!(call::endpoint_create());
        // On a busy host the time may be over before the thread is seen to wait: then once more, with more of it.
        for length_ns in (0..6).map(|turn| 20_000_000 << (2 * turn)) {
            let until = call::clock_ns() + length_ns;
            let is_over = Arc::new(AtomicU64::new(0));
            let over = is_over.clone();
            let (thread, capability) = in_state(RECEIVES, other_cpu(), move || {
                let received = call::receive_until(endpoint, Until::Clock(until));
                over.store(1, Ordering::SeqCst);
                received
            });
            let waits = control(capability, ThreadAction::Suspend) == RECEIVES && is_over.load(Ordering::SeqCst) == 0;
            if waits {
                suspend(capability);
                kernel_assert!(call::clock_ns() >= until);
                kernel_assert_eq!(is_over.load(Ordering::SeqCst), 0);
            }
            resume(capability);
            assert_err!(assert_ok!(thread.join()), Error::TimedOut);
            assert_ok!(call::close(capability));
            if waits {
                return;
            }
        }
        panic!("no thread was seen to wait");
    }
}

test! {
    // CASE-IPC-051 without affinity: whatever stops them, callers and servers lose nothing.
    fn threads_stopped_all_the_time_lose_no_message_and_no_bit() requires("PRC-32 PRC-05 IPS-10 TST-23") {
        const CALLS: u64 = 400;
        const STOP: u64 = u64::MAX >> 16;
        let endpoint = assert_ok!(call::endpoint_create());
        let notification = assert_ok!(call::notification_create());
        let served = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        let mut stopped = Vec::new();
        let servers: Vec<_> = (0..cpus()).map(|cpu| {
            let count = served.clone();
            let (server, capability) = assert_ok!(thread::spawn_suspended(Some(cpu), move || {
                let mut next = assert_ok!(call::receive(endpoint));
                loop {
                    if next.info.label() == STOP {
                        break;
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                    assert_ok!(call::signal(notification, 1 << cpu));
                    next = assert_ok!(call::reply_receive(endpoint, Message::new(1, next.words.map(|word| word + 1))));
                }
            }));
            stopped.push(capability);
            server
        }).collect();
        for cpu in 0..cpus() {
            let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(cpu), move || {
                for n in 0..CALLS {
                    let reply = assert_ok!(call::call(endpoint, Message::new(1, [cpu << 32 | n; 8])));
                    kernel_assert_eq!(reply.words, [(cpu << 32 | n) + 1; 8]);
                }
            }));
            stopped.push(capability);
            threads.push(thread);
        }
        let ends = Arc::new(AtomicU64::new(0));
        let stoppers: Vec<_> = (0..2).map(|seed| {
            let (stopped, end) = (stopped.clone(), ends.clone());
            assert_ok!(thread::spawn(move || {
                let mut random = Random::new(seed + 1);
                while end.load(Ordering::SeqCst) == 0 {
                    let thread = stopped[random.below(stopped.len() as u64) as usize];
                    // One that has ended is not found.
                    let _ = call::thread_control(thread, ThreadAction::Suspend, 0);
                    (0..random.below(300)).for_each(|_| core::hint::spin_loop());
                    let priority = 120 + random.below(9);
                    let _ = call::thread_control(thread, ThreadAction::Priority, priority);
                    let _ = call::thread_control(thread, ThreadAction::Resume, 0);
                    call::yield_now();
                }
                // Both have resumed what they stopped.
                for thread in stopped {
                    let _ = call::thread_control(thread, ThreadAction::Resume, 0);
                }
            }))
        }).collect();
        stopped.iter().for_each(|thread| resume(*thread));
        for thread in threads {
            assert_ok!(thread.join());
        }
        ends.store(1, Ordering::SeqCst);
        for stopper in stoppers {
            assert_ok!(stopper.join());
        }
        for _ in 0..cpus() {
            assert_ok!(call::send(endpoint, Message::empty(STOP), patience()));
        }
        for server in servers {
            assert_ok!(server.join());
        }
        kernel_assert_eq!(served.load(Ordering::SeqCst), CALLS * cpus());
        kernel_assert!(assert_ok!(call::wait_bits(notification, u64::MAX, Until::NOW)) != 0);
    }
}

test! {
    // A message that moves is whole, whoever halts its sender meanwhile: the caller's CPU moves it, while it waits already
    // where the server is of that CPU, and not yet where it is of another.
    fn a_call_halted_while_its_message_moves_arrives_whole() requires("PRC-32 PRC-04 IPS-02") needs("smp>=2") {
        const TURNS: u64 = 10_000;
        const STOP: u64 = 9;
        let request = Message::new(1, [7; MESSAGE_WORDS]);
        let caller = other_cpu();
        let mut random = Random::new(1);
        for server in [caller, (caller + 1) % cpus()] {
            let endpoint = assert_ok!(call::endpoint_create());
            let serves = assert_ok!(thread::spawn_on(server, move || {
                let mut message = assert_ok!(call::receive(endpoint));
                while message.info.label() != STOP {
                    kernel_assert_eq!(message, request);
                    message = assert_ok!(call::reply_receive(endpoint, Message::empty(2)));
                }
            }));
            let ends = Arc::new(AtomicU64::new(0));
            let end = ends.clone();
            let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(caller), move || {
                while end.load(Ordering::SeqCst) == 0 {
                    let answer = call::call(endpoint, request);
                    kernel_assert!(matches!(answer, Ok(_) | Err(Error::Cancelled)), "{answer:?}");
                }
            }));
            for _ in 0..TURNS {
                resume(capability);
                rt::testing::spin(random.below(2000));
                control(capability, ThreadAction::Halt);
                call::yield_now();
            }
            ends.store(1, Ordering::SeqCst);
            resume(capability);
            assert_ok!(thread.join());
            assert_ok!(call::send(endpoint, Message::empty(STOP), patience()));
            assert_ok!(serves.join());
            assert_ok!(call::close(capability));
            assert_ok!(call::close(endpoint));
        }
    }
}

test! {
    // Two wait for the end of a process: one is halted and starts again, is cancelled, and waits elsewhere; then it ends.
    fn a_wait_for_a_process_ends_before_its_time() requires("PRC-32 PRC-05 IPS-12 TST-23") {
        const SLOT: Capability = Capability(60);
        let objects = || assert_ok!(call::quota_read(Capability::OWN_QUOTA)).objects_used;
        for cpu in homes() {
            let before = objects();
            let process = roles::start_suspended(roles::END, SLOT, [Capability::NONE; 3]);
            let endpoint = assert_ok!(call::endpoint_create());
            let (other, other_name) = in_state(WAITS, cpu, move || assert_ok!(call::wait(process)));
            let (waiter, name) = in_state(WAITS, cpu, move || {
                let cancelled = call::wait(process);
                let received = assert_ok!(call::receive(endpoint)).info.label();
                (cancelled, received, assert_ok!(call::wait(process)))
            });
            for _ in 0..20 {
                halt(name);
                resume(name);
                suspend_in(name, WAITS);
                resume(name);
            }
            kernel_assert_eq!(control(name, ThreadAction::Cancel), 1);
            suspend_in(name, RECEIVES);
            resume(name);
            assert_ok!(call::send(endpoint, Message::empty(7), patience()));
            suspend_in(name, WAITS);
            resume(name);
            resume(SLOT);
            kernel_assert_eq!(assert_ok!(other.join()), Exit::Status(0));
            let (cancelled, received, end) = assert_ok!(waiter.join());
            assert_err!(cancelled, Error::Cancelled);
            kernel_assert_eq!((received, end), (7, Exit::Status(0)));
            for capability in [name, other_name, endpoint, process, SLOT] {
                assert_ok!(call::close(capability));
            }
            // Where they waited there is nothing left of them.
            wait_until("all objects to have ended", || objects() == before);
        }
    }
}

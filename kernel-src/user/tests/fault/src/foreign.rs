//! System calls of foreign threads as messages to whoever serves them.

use crate::faults::close_all;
use crate::roles;
use crate::support::{
    IS_CALLING, SENDS, control, cpus, halt, info, other_cpu, patience, resume, suspend_in, wait_until,
};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Error, FOREIGN, Info, MESSAGE_WORDS, MessageInfo, NO_CAPABILITY, Rights, ThreadAction};
use rt::call::{self, Capability, Exit, Message, Until};
use rt::protocol::RESOURCE;
use rt::random::Random;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, probe, test, thread};

const SLOT: Capability = Capability(40);

/// Tells the endpoint of a thread's calls, under that badge.
fn serve(thread: Capability, endpoint: Capability, badge: u64) {
    let slot = Capability(50 + badge);
    assert_ok!(call::cap_mint(slot, endpoint, Rights::ALL, badge));
    assert_ok!(call::thread_control(thread, ThreadAction::Calls, slot.0));
}

/// The thread's calls are the kernel's again. Before it ends, since it does so by some.
fn make_native(thread: Capability) {
    assert_ok!(call::thread_control(thread, ThreadAction::Calls, NO_CAPABILITY));
}

fn call_of(message: &Message, badge: u64) -> [u64; MESSAGE_WORDS] {
    kernel_assert_eq!((message.info, message.badge), (MessageInfo::new(FOREIGN, MESSAGE_WORDS), badge));
    message.words
}

fn next_call(endpoint: Capability, badge: u64) -> [u64; MESSAGE_WORDS] {
    call_of(&assert_ok!(call::receive_until(endpoint, patience())), badge)
}

/// The answer to a call: its result.
const fn result(word: u64) -> Message {
    Message { info: MessageInfo::new(0, 1), words: [word, 1, 2, 3, 4, 5, 6, 7], badge: 0 }
}

test! {
    // CASE-FLT-003.
    fn a_foreign_call_arrives_with_all_arguments_and_its_answer_is_the_result() requires("SYS-07 POS-01 IPS-12") {
        const TURNS: u64 = 20;
        let endpoint = assert_ok!(call::endpoint_create());
        // The first number is that of a simple call.
        let number = |turn: u64| if turn == 0 { 0 } else { 5000 + turn };
        let argument = |turn: u64, place: u64| (turn << 56) + (place << 40) + 3;
        let words = move |turn| core::array::from_fn(|place| argument(turn, place as u64));
        for cpu in [info(Info::CurrentCpu), other_cpu()] {
            let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(cpu), move || {
                let results = core::array::from_fn::<u64, { TURNS as usize }, _>(|turn| {
                    probe::foreign_call(number(turn as u64), words(turn as u64))
                });
                (results, probe::foreign_call(5000, [0; 6]))
            }));
            serve(capability, endpoint, 3);
            resume(capability);
            let mut told = assert_ok!(call::receive_until(endpoint, patience()));
            for turn in 0..TURNS {
                let [named, a, b, c, d, e, f, pc] = call_of(&told, 3);
                kernel_assert_eq!((named, [a, b, c, d, e, f]), (number(turn), words(turn)));
                kernel_assert!((probe::image_start()..probe::image_end()).contains(&pc), "{pc:#x}");
                if turn + 1 < TURNS {
                    told = assert_ok!(call::reply_receive(endpoint, result(turn << 40)));
                }
            }
            make_native(capability);
            assert_ok!(call::reply(result(7)));
            let (results, last) = assert_ok!(thread.join());
            kernel_assert_eq!(results, core::array::from_fn(|turn| if turn + 1 < 20 { (turn as u64) << 40 } else { 7 }));
            // The last was the kernel's.
            kernel_assert_eq!(Error::from_status(last), Some(Error::InvalidCall));
            close_all(&[capability, Capability(53)]);
        }
    }
}

test! {
    fn a_foreign_call_changes_no_register_but_its_result() requires("SYS-07 CTX-10 POS-01") {
        let endpoint = assert_ok!(call::endpoint_create());
        for cpu in [info(Info::CurrentCpu), other_cpu()] {
            // 0 would be a simple call; the answer has a word, or none.
            for (number, answer) in [(0, result(77)), (5000, result(u64::MAX)), (0, Message::empty(0))] {
                let (thread, capability) =
                    assert_ok!(thread::spawn_suspended(Some(cpu), move || probe::first_changed_by_foreign(number)));
                serve(capability, endpoint, 3);
                resume(capability);
                let told = next_call(endpoint, 3);
                let right = |register| if register == probe::NUMBER { number } else { probe::filling(register) };
                kernel_assert_eq!(told[..7], probe::FOREIGN.map(right));
                // Others see the registers meanwhile, and the pc behind the instruction.
                let registers = assert_ok!(call::thread_read(capability));
                kernel_assert_eq!(registers.pc, told[7]);
                kernel_assert!(probe::FOREIGN.into_iter().all(|register| registers.general[register] == right(register)));
                make_native(capability);
                assert_ok!(call::reply(answer));
                let word = if answer.info.length() == 0 { 0 } else { answer.words[0] };
                kernel_assert_eq!(assert_ok!(thread.join()), (word, None));
                close_all(&[capability, Capability(53)]);
            }
        }
    }
}

test! {
    fn a_call_that_nobody_answers_ends_the_process() requires("IPS-12 SYS-07") {
        let endpoint = assert_ok!(call::endpoint_create());
        let ends = |lose: &dyn Fn()| {
            let process = roles::start_suspended(roles::FOREIGN, SLOT, [Capability::NONE; 3]);
            serve(SLOT, endpoint, 1);
            resume(SLOT);
            lose();
            kernel_assert_eq!(assert_ok!(call::wait(process)), Exit::Fault(0));
            close_all(&[process, SLOT]);
            let _ = call::close(Capability(51));
        };
        let receive = || _ = next_call(endpoint, 1);
        // Its server says no, and receives on or not; deletes the Reply; or receives without an answer.
        ends(&|| {
            receive();
            assert_ok!(call::reply(Message::empty(1)));
        });
        // One of these processes is on the server's CPU.
        for _ in 0..cpus() {
            ends(&|| {
                suspend_in(SLOT, SENDS);
                resume(SLOT);
                let server = assert_ok!(thread::spawn_on(0, move || {
                    next_call(endpoint, 1);
                    let refused = Message { info: MessageInfo::new(5, 1), ..result(0) };
                    assert_ok!(call::reply_receive(endpoint, refused)).info.label()
                }));
                assert_ok!(call::send(endpoint, Message::empty(9), patience()));
                kernel_assert_eq!(assert_ok!(server.join()), 9);
            });
        }
        ends(&|| {
            receive();
            assert_ok!(call::close(assert_ok!(call::save_reply_in(Capability::OWN_QUOTA))));
        });
        ends(&|| {
            receive();
            assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
        });
        // It dies.
        ends(&|| {
            let give = [RESOURCE, endpoint, Capability::NONE, Capability::NONE];
            let server = assert_ok!(call::spawn(RESOURCE, "fault", roles::DROP, give));
            assert_ok!(call::wait(server));
            assert_ok!(call::close(server));
        });
        // The way to it is taken away while it waits, or before.
        ends(&|| {
            suspend_in(SLOT, SENDS);
            resume(SLOT);
            assert_ok!(call::cap_revoke(endpoint));
        });
        ends(&|| assert_ok!(call::cap_revoke(endpoint)));
        assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
    }
}

test! {
    fn a_thread_stopped_in_a_foreign_call_makes_it_again() requires("PRC-32 SYS-07 IPS-06") {
        let endpoint = assert_ok!(call::endpoint_create());
        for cpu in [info(Info::CurrentCpu), other_cpu()] {
            let (thread, capability) =
                assert_ok!(thread::spawn_suspended(Some(cpu), || probe::foreign_call(5000, [9; 6])));
            serve(capability, endpoint, 1);
            resume(capability);
            // Before anybody has heard of it, and after.
            for is_received in [false, true, true] {
                if is_received {
                    kernel_assert_eq!(next_call(endpoint, 1)[..7], [5000, 9, 9, 9, 9, 9, 9]);
                } else {
                    suspend_in(capability, SENDS);
                    assert_err!(call::thread_read(capability), Error::NotStopped);
                }
                halt(capability);
                if is_received {
                    assert_err!(call::reply(result(1)), Error::PartnerGone);
                } else {
                    assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
                }
                resume(capability);
            }
            let pc = next_call(endpoint, 1)[7];
            halt(capability);
            kernel_assert_eq!(assert_ok!(call::thread_read(capability)).pc + probe::CALL_SIZE, pc);
            resume(capability);
            // A cancelled one, too, without having been stopped.
            next_call(endpoint, 1);
            kernel_assert_eq!(control(capability, ThreadAction::Cancel), 1);
            kernel_assert_eq!(next_call(endpoint, 1)[7], pc);
            // Whoever stops it in the wait lets that go on.
            kernel_assert_eq!(control(capability, ThreadAction::Suspend), IS_CALLING);
            make_native(capability);
            assert_ok!(call::reply(result(6)));
            resume(capability);
            kernel_assert_eq!(assert_ok!(thread.join()), 6);
            close_all(&[capability, Capability(51)]);
        }
    }
}

test! {
    fn registers_written_during_a_foreign_call_are_kept_but_for_the_result() requires("PRC-32 POS-01 SYS-07") {
        let endpoint = assert_ok!(call::endpoint_create());
        for cpu in [info(Info::CurrentCpu), other_cpu()] {
            let (thread, capability) =
                assert_ok!(thread::spawn_suspended(Some(cpu), || probe::first_changed_by_foreign(5000)));
            serve(capability, endpoint, 1);
            resume(capability);
            // It makes its call once more where its server says so, with another argument.
            let pc = next_call(endpoint, 1)[7];
            let mut registers = assert_ok!(call::thread_read(capability));
            registers.pc -= probe::CALL_SIZE;
            registers.general[probe::FOREIGN[5]] = 123;
            // SAFETY: the call takes anything.
            assert_ok!(unsafe { call::thread_write(capability, &registers) });
            kernel_assert_eq!(assert_ok!(call::thread_read(capability)).pc + probe::CALL_SIZE, pc);
            // The answer writes its register last; which is the number's where there is but one for both.
            let told = call_of(&assert_ok!(call::reply_receive(endpoint, result(5000))), 1);
            kernel_assert_eq!((told[5], told[7]), (123, pc));
            // One that was sent elsewhere goes on there when it is stopped.
            registers.general[probe::FOREIGN[5]] = probe::filling(probe::FOREIGN[5]);
            registers.pc = pc - probe::CALL_SIZE;
            // SAFETY: as above.
            assert_ok!(unsafe { call::thread_write(capability, &registers) });
            halt(capability);
            kernel_assert_eq!(assert_ok!(call::thread_read(capability)).pc + probe::CALL_SIZE, pc);
            assert_err!(call::reply(result(1)), Error::PartnerGone);
            resume(capability);
            next_call(endpoint, 1);
            make_native(capability);
            assert_ok!(call::reply(result(55)));
            kernel_assert_eq!(assert_ok!(thread.join()), (55, None));
            close_all(&[capability, Capability(51)]);
        }
    }
}

test! {
    // Faults of a foreign thread go their own way.
    fn calls_and_faults_of_a_thread_go_to_different_places() requires("VMM-15 SYS-07") {
        let [calls, faults] = [(); 2].map(|()| assert_ok!(call::endpoint_create()));
        let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(info(Info::CurrentCpu)), || {
            (0..5).fold(0, |sum, _| sum + probe::undefined() + probe::foreign_call(5000, [0; 6]))
        }));
        serve(capability, calls, 1);
        assert_ok!(call::thread_control(capability, ThreadAction::Faults, faults.0));
        resume(capability);
        for turn in 0..5 {
            let fault = assert_ok!(call::receive_until(faults, patience()));
            kernel_assert_eq!(fault.info.label(), rt::abi::FAULT);
            let mut registers = assert_ok!(call::thread_read(capability));
            registers.pc += probe::UNDEFINED_SIZE;
            registers.general[probe::RESULTS[0]] = 100;
            // SAFETY: it goes on behind the instruction.
            assert_ok!(unsafe { call::thread_write(capability, &registers) });
            assert_ok!(call::reply(Message::empty(0)));
            next_call(calls, 1);
            if turn == 4 {
                make_native(capability);
            }
            assert_ok!(call::reply(result(turn)));
        }
        kernel_assert_eq!(assert_ok!(thread.join()), 510);
        close_all(&[capability, Capability(51)]);
    }
}

test! {
    fn a_killed_thread_hears_no_answer_to_its_foreign_call() requires("IPS-06 PRC-05 SYS-07") {
        let endpoint = assert_ok!(call::endpoint_create());
        for is_received in [false, true] {
            let (_, capability) =
                assert_ok!(thread::spawn_suspended(Some(other_cpu()), || probe::foreign_call(5000, [0; 6])));
            serve(capability, endpoint, 1);
            resume(capability);
            if is_received {
                next_call(endpoint, 1);
            } else {
                suspend_in(capability, SENDS);
            }
            control(capability, ThreadAction::Kill);
            if is_received {
                assert_err!(call::reply(result(0)), Error::PartnerGone);
            }
            wait_until("its end", || assert_ok!(call::thread_info(None, 1)).is_none());
            assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
            close_all(&[capability, Capability(51)]);
        }
    }
}

test! {
    // Servers on every CPU, and somebody who stops the threads and looks at their registers all the while.
    fn many_foreign_calls_get_their_own_answers() requires("SYS-07 IPS-10 PRC-32 TST-23") {
        const CALLS: u64 = 300;
        const STOP: u64 = 1 << 20;
        static LEFT: AtomicU64 = AtomicU64::new(0);
        static BEGUN: AtomicU64 = AtomicU64::new(0);
        static MAY_CALL: AtomicU64 = AtomicU64::new(0);
        let endpoint = assert_ok!(call::endpoint_create());
        LEFT.store(cpus(), Ordering::SeqCst);
        [&BEGUN, &MAY_CALL].iter().for_each(|word| word.store(0, Ordering::SeqCst));
        let mut threads = Vec::new();
        let mut names = [Capability::NONE; 4];
        for cpu in 0..cpus() {
            let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(cpu), move || {
                // What a thread of this program calls at its start is not foreign.
                BEGUN.fetch_add(1, Ordering::SeqCst);
                while MAY_CALL.load(Ordering::SeqCst) == 0 {
                    core::hint::spin_loop();
                }
                (0..CALLS).find(|&n| probe::foreign_call(5000 + n, [cpu; 6]) != n << 8 | cpu)
                    .or_else(|| (probe::foreign_call(STOP, [cpu; 6]) != 1).then_some(CALLS))
            }));
            resume(capability);
            names[cpu as usize] = capability;
            threads.push(thread);
        }
        wait_until("threads to begin", || BEGUN.load(Ordering::SeqCst) == cpus());
        (0..cpus()).for_each(|cpu| serve(names[cpu as usize], endpoint, cpu));
        let servers: Vec<_> = (0..cpus()).map(|cpu| {
            assert_ok!(thread::spawn_on(cpu, move || {
                let mut next = assert_ok!(call::receive(endpoint));
                while next.info.label() == FOREIGN {
                    let [number, who, ..] = next.words;
                    kernel_assert_eq!((who, next.words[6]), (next.badge, next.badge));
                    let word = if number == STOP { 1 } else { (number - 5000) << 8 | who };
                    if number == STOP {
                        make_native(names[who as usize]);
                    }
                    next = assert_ok!(call::reply_receive(endpoint, result(word)));
                }
            }))
        }).collect();
        let stopper = assert_ok!(thread::spawn(move || {
            let mut random = Random::new(5);
            while LEFT.load(Ordering::SeqCst) != 0 {
                let thread = names[random.below(cpus()) as usize];
                // One that has ended is not found.
                let _ = call::thread_control(thread, ThreadAction::Suspend, 0);
                if let Ok(registers) = call::thread_read(thread) {
                    kernel_assert!(registers.pc != 0);
                }
                let _ = call::thread_control(thread, ThreadAction::Resume, 0);
                call::yield_now();
            }
        }));
        MAY_CALL.store(1, Ordering::SeqCst);
        for thread in threads {
            kernel_assert_eq!(assert_ok!(thread.join()), None);
            LEFT.fetch_sub(1, Ordering::SeqCst);
        }
        assert_ok!(stopper.join());
        for _ in &servers {
            assert_ok!(call::send(endpoint, Message::empty(0), patience()));
        }
        for server in servers {
            assert_ok!(server.join());
        }
    }
}

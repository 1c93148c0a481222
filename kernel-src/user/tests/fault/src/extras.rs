//! What goes with a thread besides its general registers: those of the FPU, and steps.

use crate::faults::{close_all, fault_of, handle};
use crate::support::{
    Counter, RECEIVES, WAITS, control, halt, in_state, info, other_cpu, patience, resume, suspend, wait_until,
};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Cause, Error, Info, Rights, ThreadAction};
use rt::call::{self, Capability, Message, Until};
use rt::probe::{self, FPU_WORDS, STEPS, check_fpu, fill_fpu};
use rt::testing::settled;
use rt::thread::{self, Thread};
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, println, test};

fn fpu(thread: Capability, on: u64) -> Result<u64, Error> {
    call::thread_control(thread, ThreadAction::Fpu, on)
}

/// Starts a thread that has the FPU.
fn with_fpu<T: Send + 'static>(cpu: u64, run: impl FnOnce() -> T + Send + 'static) -> (Thread<T>, Capability) {
    let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(cpu), run));
    kernel_assert_eq!(fpu(capability, 1), Ok(0));
    resume(capability);
    (thread, capability)
}

test! {
    // CASE-FPU-001, CASE-FPU-003 and CASE-FPU-005: whatever makes the CPU turn to others, which have the FPU or not.
    fn each_thread_has_fpu_registers_of_its_own() requires("CTX-01 IPS-03") {
        const ROUNDS: u64 = 200;
        for cpu in [info(Info::CurrentCpu), other_cpu()] {
            let endpoint = assert_ok!(call::endpoint_create());
            let (ping, pong) = (assert_ok!(call::notification_create()), assert_ok!(call::notification_create()));
            let (server, serving) = with_fpu(cpu, move || {
                fill_fpu(1);
                let mut request = assert_ok!(call::receive(endpoint));
                while request.words[0] < ROUNDS {
                    check_fpu(1);
                    request = assert_ok!(call::reply_receive(endpoint, request));
                }
                check_fpu(1);
                assert_ok!(call::reply(request));
            });
            let client = |number: u64| move || (0..ROUNDS).for_each(|round| {
                let number = number + 8 * round;
                fill_fpu(number);
                // All in registers, and the slow way.
                assert_ok!(call::call(endpoint, Message::new(1, [0; 8])));
                check_fpu(number);
                call::yield_now();
                check_fpu(number);
            });
            let (first, calling) = with_fpu(cpu, client(2));
            let (second, calling_too) = with_fpu(cpu, client(3));
            let (plain, calling_plainly) = assert_ok!(thread::spawn_suspended(Some(cpu), move || {
                for _ in 0..ROUNDS {
                    assert_ok!(call::call(endpoint, Message::new(1, [0; 8])));
                    assert_ok!(call::signal(ping, 1));
                    assert_ok!(call::wait_bits(pong, 1, Until::Done));
                }
            }));
            resume(calling_plainly);
            let (signalled, waiting) = with_fpu(cpu, move || (0..ROUNDS).for_each(|round| {
                let number = 4 + 8 * round;
                fill_fpu(number);
                assert_ok!(call::wait_bits(ping, 1, Until::Done));
                check_fpu(number);
                assert_ok!(call::signal(pong, 1));
                check_fpu(number);
            }));
            for thread in [first, second, signalled, plain] {
                assert_ok!(thread.join());
            }
            let stop = Message::new(1, [ROUNDS; 8]);
            kernel_assert_eq!(assert_ok!(call::call(endpoint, stop)).words, stop.words);
            assert_ok!(server.join());
            close_all(&[endpoint, ping, pong, serving, calling, calling_too, calling_plainly, waiting]);
        }
    }
}

test! {
    // CASE-FPU-001: slices end at any instruction.
    fn fpu_registers_outlast_slices() requires("CTX-01 SCH-37") {
        let until = call::clock_ns() + 100_000_000;
        let threads: Vec<_> = (1..=3).map(|number| with_fpu(other_cpu(), move || {
            let mut rounds = 0_u64;
            while call::clock_ns() < until {
                fill_fpu(number + 8 * rounds);
                (0..200).for_each(|_| core::hint::spin_loop());
                check_fpu(number + 8 * rounds);
                rounds += 1;
            }
            rounds
        })).collect();
        for (thread, capability) in threads {
            kernel_assert!(assert_ok!(thread.join()) > 0);
            assert_ok!(call::close(capability));
        }
    }
}

test! {
    // CASE-FPU-004 and CASE-FPU-008.
    fn a_thread_without_the_fpu_faults_and_may_get_it() requires("CTX-01 CTX-02 VMM-15") {
        let endpoint = assert_ok!(call::endpoint_create());
        for cpu in [info(Info::CurrentCpu), other_cpu()] {
            // Somebody has left something there.
            let (before, filling) = with_fpu(cpu, || fill_fpu(7));
            assert_ok!(before.join());
            let turn = Arc::new(AtomicU64::new(0));
            let turned = turn.clone();
            let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(cpu), move || {
                let found = probe::store_fpu();
                fill_fpu(5);
                turned.store(1, Ordering::SeqCst);
                while turned.load(Ordering::SeqCst) == 1 {
                    core::hint::spin_loop();
                }
                check_fpu(5);
                found
            }));
            handle(capability, endpoint, 1);
            resume(capability);
            let told = || fault_of(&assert_ok!(call::receive_until(endpoint, patience())), 1)[0];
            kernel_assert_eq!(told(), Cause::FloatingPointDisabled as u64);
            kernel_assert_eq!(fpu(capability, 1), Ok(0));
            kernel_assert_eq!(fpu(capability, 1), Ok(1));
            assert_ok!(call::reply(Message::empty(0)));
            wait_until("it to have filled the registers", || turn.load(Ordering::SeqCst) == 1);
            // Whoever runs keeps what it has; and what is taken away stays as it was.
            assert_err!(fpu(capability, 0), Error::NotStopped);
            suspend(capability);
            kernel_assert_eq!(fpu(capability, 0), Ok(1));
            turn.store(2, Ordering::SeqCst);
            resume(capability);
            kernel_assert_eq!(told(), Cause::FloatingPointDisabled as u64);
            let (other, others) = with_fpu(cpu, || fill_fpu(6));
            assert_ok!(other.join());
            kernel_assert_eq!(fpu(capability, 1), Ok(0));
            assert_ok!(call::reply(Message::empty(0)));
            kernel_assert_eq!(assert_ok!(thread.join()), ([0; FPU_WORDS], 0));
            close_all(&[filling, capability, others, Capability(51)]);
        }
        assert_ok!(call::close(endpoint));
    }
}

test! {
    fn the_fpu_and_steps_are_for_who_manages_a_thread() requires("CAP-07 CTX-02") {
        let counter = Counter::on(other_cpu());
        assert_ok!(call::cap_mint(Capability(50), counter.capability, Rights::READ.with(Rights::WRITE), 0));
        for action in [ThreadAction::Fpu, ThreadAction::Step] {
            assert_err!(call::thread_control(Capability(50), action, 1), Error::NoRight);
        }
        resume(counter.capability);
        counter.goes_on();
        assert_err!(fpu(counter.capability, 1), Error::NotStopped);
        assert_err!(call::thread_control(counter.capability, ThreadAction::Step, 0), Error::NotStopped);
        counter.end();
        assert_ok!(call::close(Capability(50)));
    }
}

test! {
    fn a_handler_steps_through_a_program() requires("VMM-15 PRC-32") {
        let endpoint = assert_ok!(call::endpoint_create());
        for cpu in [info(Info::CurrentCpu), other_cpu()] {
            let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(cpu), || 7));
            if STEPS.is_empty() {
                assert_err!(call::thread_control(capability, ThreadAction::Step, 0), Error::Unsupported);
                resume(capability);
                kernel_assert_eq!(assert_ok!(thread.join()), 7);
                assert_ok!(call::close(capability));
                continue;
            }
            handle(capability, endpoint, 1);
            // It shares its CPU with one that nobody steps, and that would be told of to nobody.
            let counter = Counter::on(cpu);
            resume(counter.capability);
            let start = assert_ok!(call::thread_read(capability));
            let mut pc = probe::stepped as *const () as u64;
            // Registers that are written take no step away.
            control(capability, ThreadAction::Step);
            // SAFETY: what it begins with there uses no stack.
            assert_ok!(unsafe { call::thread_write(capability, &rt::abi::Registers { pc, ..start }) });
            resume(capability);
            let stepped = || {
                let [cause, _, _, pc, ..] = fault_of(&assert_ok!(call::receive_until(endpoint, patience())), 1);
                kernel_assert_eq!(cause, Cause::SingleStep as u64);
                pc
            };
            let step = || {
                control(capability, ThreadAction::Step);
                assert_ok!(call::reply(Message::empty(0)));
            };
            for (size, sum) in STEPS.iter().zip([0, 1, 3, 7]) {
                pc += size;
                kernel_assert_eq!(stepped(), pc);
                let registers = assert_ok!(call::thread_read(capability));
                kernel_assert_eq!((registers.pc, registers.general[probe::RESULTS[0]]), (pc, sum));
                step();
            }
            // Calls that give way, and others that run meanwhile.
            for _ in 0..30 {
                kernel_assert!((pc..pc + 16).contains(&stepped()));
                step();
            }
            stepped();
            counter.goes_on();
            // SAFETY: it goes on as it was made.
            assert_ok!(unsafe { call::thread_write(capability, &start) });
            assert_ok!(call::reply(Message::empty(0)));
            kernel_assert_eq!(assert_ok!(thread.join()), 7);
            counter.end();
            close_all(&[capability, Capability(51)]);
        }
        settled(other_cpu());
        assert_ok!(call::close(endpoint));
    }
}

/// Whether a step over the call at `call` ended at `pc`. On x86_64 one that comes back by `sysret` takes another instruction
/// along.
fn is_behind(call: u64, pc: u64) -> bool {
    let most = if cfg!(target_arch = "x86_64") { 16 } else { probe::CALL_SIZE };
    (call + probe::CALL_SIZE..=call + most).contains(&pc)
}

test! {
    // That one instruction is the call, with all that it waits for; and x86_64 comes back to it by `sysret`.
    fn a_step_over_a_halted_call_ends_with_the_call() requires("VMM-15 PRC-32") {
        if STEPS.is_empty() {
            return;
        }
        let (faults, endpoint) = (assert_ok!(call::endpoint_create()), assert_ok!(call::endpoint_create()));
        for cpu in [info(Info::CurrentCpu), other_cpu()] {
            let received = move || assert_ok!(call::receive(endpoint)).words[0];
            let (thread, capability) = in_state(RECEIVES, cpu, received);
            handle(capability, faults, 1);
            halt(capability);
            let start = assert_ok!(call::thread_read(capability));
            control(capability, ThreadAction::Step);
            resume(capability);
            assert_ok!(call::send(endpoint, Message::new(1, [5; 8]), patience()));
            let [cause, _, _, pc, ..] = fault_of(&assert_ok!(call::receive_until(faults, patience())), 1);
            kernel_assert_eq!(cause, Cause::SingleStep as u64);
            kernel_assert!(is_behind(start.pc, pc), "{pc:#x} {:#x}", start.pc);
            assert_ok!(call::reply(Message::empty(0)));
            kernel_assert_eq!(assert_ok!(thread.join()), 5);
            close_all(&[capability, Capability(51)]);
        }
        close_all(&[faults, endpoint]);
    }
}

test! {
    // A call that starts again when it is woken; with registers written meanwhile, x86_64 comes back to it by `iret`.
    fn a_step_over_a_sleep_lasts_as_long() requires("VMM-15 PRC-32") {
        if STEPS.is_empty() {
            return;
        }
        let faults = assert_ok!(call::endpoint_create());
        for writes in [true, false] {
            let until = call::clock_ns() + 300_000_000;
            let sleeps = move || assert_ok!(call::sleep_until(until));
            let (thread, capability) = in_state(WAITS, other_cpu(), sleeps);
            handle(capability, faults, 1);
            halt(capability);
            let start = assert_ok!(call::thread_read(capability));
            if writes {
                // SAFETY: it goes on as it was.
                assert_ok!(unsafe { call::thread_write(capability, &start) });
            }
            control(capability, ThreadAction::Step);
            resume(capability);
            let [cause, _, _, pc, ..] = fault_of(&assert_ok!(call::receive_until(faults, patience())), 1);
            kernel_assert_eq!(cause, Cause::SingleStep as u64);
            kernel_assert!(call::clock_ns() >= until);
            kernel_assert!(is_behind(start.pc, pc), "{pc:#x} {:#x}", start.pc);
            assert_ok!(call::reply(Message::empty(0)));
            assert_ok!(thread.join());
            close_all(&[capability, Capability(51)]);
        }
        assert_ok!(call::close(faults));
    }
}

#[cfg(target_arch = "aarch64")]
test! {
    // Whoever gives the FPU to a thread that wants it is not asked for it again.
    fn what_is_on_for_nobody_is_illegal_with_the_fpu_on() requires("CTX-02 VMM-15") {
        let endpoint = assert_ok!(call::endpoint_create());
        let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(other_cpu()), || probe::sve()));
        kernel_assert_eq!(fpu(capability, 1), Ok(0));
        handle(capability, endpoint, 1);
        resume(capability);
        let [cause, _, _, pc, ..] = fault_of(&assert_ok!(call::receive_until(endpoint, patience())), 1);
        kernel_assert_eq!(cause, Cause::IllegalInstruction as u64);
        let registers = assert_ok!(call::thread_read(capability));
        // SAFETY: it goes on behind the instruction.
        assert_ok!(unsafe { call::thread_write(capability, &rt::abi::Registers { pc: pc + 4, ..registers }) });
        assert_ok!(call::reply(Message::empty(0)));
        assert_ok!(thread.join());
        close_all(&[capability, Capability(51), endpoint]);
    }
}

test! {
    // CASE-FPU-009, where a test of the lab boots a machine without.
    fn an_fpu_is_given_where_there_is_one() requires("CTX-02 CTX-08") {
        let (thread, capability) = assert_ok!(thread::spawn_suspended(None, || 7));
        let answer = fpu(capability, 1);
        kernel_assert!(matches!(answer, Ok(0) | Err(Error::Unsupported)), "{answer:?}");
        println!("guest: an FPU: {}", answer.is_ok());
        resume(capability);
        kernel_assert_eq!(assert_ok!(thread.join()), 7);
        assert_ok!(call::close(capability));
    }
}

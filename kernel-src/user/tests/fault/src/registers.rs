//! Registers of stopped threads, read and written from outside.

use crate::roles;
use crate::support::{Counter, IS_STOPPED, control, halt, info, other_cpu, resume, suspend};
use rt::abi::{Error, Info, Registers, Rights, ThreadAction};
use rt::call::{self, Capability, Exit};
use rt::random::Random;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, probe, test, thread};

const SLOT: Capability = Capability(40);

/// A value for each register, and what is read of it.
fn pattern() -> (Registers, Registers) {
    let general = core::array::from_fn(|number| 0x5100_0000_0000 + number as u64);
    let written = Registers { general, pc: 0x40_1000, flags: u64::MAX, tls: 0x1_2340 };
    let mut read = written;
    read.general[probe::NAMES.len()..].fill(0);
    if cfg!(target_arch = "riscv64") {
        (read.general[0], read.tls) = (0, 0);
    }
    (written, read)
}

/// Flags that a program may have, and those that it always has.
const FLAGS: u64 = if cfg!(target_arch = "x86_64") {
    0x24_0CD5 | 0x202
} else if cfg!(target_arch = "aarch64") {
    // A thread may be stopped behind an indirect branch, of which BTYPE tells.
    0xF300_1C00
} else {
    0
};

test! {
    fn registers_are_read_as_they_were_written() requires("PRC-32 PRC-19") {
        let thread = assert_ok!(call::thread_make(None, None, Capability::OWN_QUOTA));
        let new = assert_ok!(call::thread_read(thread));
        let always = if cfg!(target_arch = "x86_64") { 0x202 } else { 0 };
        kernel_assert_eq!(new, Registers { general: [0; 32], pc: 0, flags: always, tls: 0 });
        let (written, read) = pattern();
        // SAFETY: it never runs.
        assert_ok!(unsafe { call::thread_write(thread, &written) });
        kernel_assert_eq!(assert_ok!(call::thread_read(thread)), Registers { flags: FLAGS, ..read });
        control(thread, ThreadAction::Kill);
    }
}

test! {
    fn a_thread_starts_with_the_registers_that_were_written() requires("PRC-32 PRC-19") {
        let seen = assert_ok!(probe::registers_written(|entry, stack, argument| {
            let thread = assert_ok!(call::thread_make(None, Some(other_cpu()), Capability::OWN_QUOTA));
            let (mut registers, _) = pattern();
            (registers.pc, registers.tls, registers.flags) = (entry, argument, 0);
            (registers.general[probe::STACK], registers.general[probe::ARGUMENT]) = (stack, argument);
            (thread, registers)
        }));
        let (_, read) = pattern();
        for (number, (name, value)) in seen.registers.iter().enumerate() {
            let right = match number {
                probe::ARGUMENT => seen.argument,
                probe::STACK => seen.stack,
                _ => read.general[number],
            };
            kernel_assert_eq!(value, right, "{name}");
        }
    }
}

test! {
    // CASE-FLT-005, by the registers alone.
    fn a_process_starts_as_who_made_it_wishes() requires("PRC-32 CAP-06") {
        let process = roles::start_suspended(roles::WAIT, SLOT, [Capability::NONE; 3]);
        let mut registers = assert_ok!(call::thread_read(SLOT));
        kernel_assert_eq!(registers.general[probe::ARGUMENT], roles::WAIT);
        registers.general[probe::ARGUMENT] = roles::END + 77;
        // SAFETY: it is a thread of another process.
        assert_ok!(unsafe { call::thread_write(SLOT, &registers) });
        resume(SLOT);
        kernel_assert_eq!(assert_ok!(call::wait(process)), Exit::Status(77));
    }
}

test! {
    fn registers_of_a_thread_that_is_not_stopped_are_its_own() requires("PRC-32 CAP-06") {
        for cpu in [info(Info::CurrentCpu), other_cpu()] {
            let counter = Counter::on(cpu);
            let registers = assert_ok!(call::thread_read(counter.capability));
            resume(counter.capability);
            counter.goes_on();
            assert_err!(call::thread_read(counter.capability), Error::NotStopped);
            // SAFETY: it is refused; and with these registers it has started.
            assert_err!(unsafe { call::thread_write(counter.capability, &registers) }, Error::NotStopped);
            counter.end();
        }
    }
}

/// Numbers that come out of many registers.
fn hash(rounds: u64, seed: u64) -> [u64; 6] {
    let mut random = Random::new(seed);
    let mut words: [u64; 6] = core::array::from_fn(|_| random.word());
    for round in 0..rounds {
        let [a, b, c, d, e, f] = words;
        words = [
            b.rotate_left(7) ^ c,
            c.wrapping_mul(d | 1),
            d ^ e.wrapping_add(round),
            e.rotate_right(11) ^ a,
            f.wrapping_sub(b),
            a ^ f.swap_bytes(),
        ];
    }
    words
}

test! {
    // CASE-FLT-005 and the begin of what is to be saved: nothing of a thread is lost by being stopped anywhere.
    fn a_thread_stopped_at_any_instruction_computes_what_it_would() requires("PRC-32 CTX-10 PRC-03") {
        const ROUNDS: u64 = 400_000;
        let right = hash(ROUNDS, 3);
        for cpu in [info(Info::CurrentCpu), other_cpu()] {
            let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(cpu), || hash(ROUNDS, 3)));
            let mut stops = 0;
            let mut random = Random::new(cpu);
            while stops < 200 {
                resume(capability);
                (0..random.below(400)).for_each(|_| core::hint::spin_loop());
                if random.below(2) == 0 {
                    call::yield_now();
                }
                match call::thread_control(capability, ThreadAction::Halt, 0) {
                    Ok(IS_STOPPED) => {}
                    Ok(_) => halt(capability),
                    // It has ended.
                    Err(error) => {
                        kernel_assert_eq!(error, Error::NotFound);
                        break;
                    }
                }
                let registers = assert_ok!(call::thread_read(capability));
                // Others, and then its own again.
                let others = Registers { general: [7; 32], pc: 8, flags: 0, tls: 9 };
                for set in [others, registers] {
                    // SAFETY: it runs with its own only.
                    assert_ok!(unsafe { call::thread_write(capability, &set) });
                }
                kernel_assert_eq!(assert_ok!(call::thread_read(capability)), registers);
                stops += 1;
            }
            kernel_assert!(stops > 3, "it was stopped {stops} times");
            resume(capability);
            kernel_assert_eq!(assert_ok!(thread.join()), right);
        }
    }
}

test! {
    // CASE-FLT-015 and CASE-FLT-008, by registers: whatever a thread is to run with, it harms nobody else.
    fn registers_without_sense_harm_only_the_thread() requires("PRC-32 VMM-10 INT-01") {
        let limit = info(Info::UserLimit);
        let kernel = limit.wrapping_neg();
        // Few, because the log has a place for each.
        for (pc, stack) in [
            (0, 0),
            (limit, u64::MAX),
            (limit - 1, limit),
            (kernel, 1 << 62),
            (u64::MAX, 0),
            (1 << 63, 0),
            (0x40_0001, u64::MAX),
        ] {
            let process = roles::start_suspended(roles::WAIT, SLOT, [Capability::NONE; 3]);
            let registers = Registers { general: [stack; 32], pc, flags: u64::MAX, tls: 1 << 63 };
            // SAFETY: it is a thread of another process.
            assert_ok!(unsafe { call::thread_write(SLOT, &registers) });
            resume(SLOT);
            let exit = assert_ok!(call::wait(process));
            kernel_assert!(matches!(exit, Exit::Fault(_)), "pc {pc:#x}, stack {stack:#x}: {exit:?}");
            assert_ok!(call::close(process));
            assert_ok!(call::close(SLOT));
        }
        let thread = assert_ok!(call::thread_make(None, None, Capability::OWN_QUOTA));
        let wild = Registers { general: [0; 32], pc: 0, flags: 0, tls: u64::MAX };
        // SAFETY: it never runs.
        assert_ok!(unsafe { call::thread_write(thread, &wild) });
        // A base of FS that is no address would be the kernel's fault.
        let is = if cfg!(target_arch = "x86_64") { u64::MAX >> 17 } else { assert_ok!(call::thread_read(thread)).tls };
        kernel_assert_eq!(assert_ok!(call::thread_read(thread)).tls, is);
        control(thread, ThreadAction::Kill);
    }
}

test! {
    fn whoever_may_only_read_registers_does_not_write_them() requires("CAP-06 CAP-12") {
        let counter = Counter::on(other_cpu());
        resume(counter.capability);
        counter.goes_on();
        suspend(counter.capability);
        let reader = Capability(41);
        assert_ok!(call::cap_mint(reader, counter.capability, Rights::READ, 0));
        let registers = assert_ok!(call::thread_read(reader));
        // SAFETY: these are its own.
        assert_err!(unsafe { call::thread_write(reader, &registers) }, Error::NoRight);
        assert_err!(call::thread_control(reader, ThreadAction::Resume, 0), Error::NoRight);
        // What is revoked reads nothing.
        assert_ok!(call::cap_revoke(counter.capability));
        assert_err!(call::thread_read(reader), Error::InvalidCapability);
        resume(counter.capability);
        counter.goes_on();
        counter.end();
    }
}

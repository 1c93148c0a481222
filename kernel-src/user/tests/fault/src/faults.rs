//! Faults as messages to a handler, and what it does about them.

use crate::roles;
use crate::support::{SENDS, control, cpus, halt, info, other_cpu, patience, resume, suspend_in, wait_until};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{
    Cause, Error, FAULT, Info, MESSAGE_WORDS, MessageInfo, NO_CAPABILITY, Registers, Rights, STACK_SIZE, STACK_TOP,
    ThreadAction,
};
use rt::call::{self, Capability, Exit, Message, Until};
use rt::probe::{self, Break};
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

const SLOT: Capability = Capability(40);
const NOTHING: [Capability; 3] = [Capability::NONE; 3];

pub fn close_all(names: &[Capability]) {
    names.iter().for_each(|&name| assert_ok!(call::close(name)));
}

/// Tells the endpoint of a thread's faults, under that badge.
pub fn handle(thread: Capability, endpoint: Capability, badge: u64) {
    let slot = Capability(50 + badge);
    assert_ok!(call::cap_mint(slot, endpoint, Rights::ALL, badge));
    assert_ok!(call::thread_control(thread, ThreadAction::Faults, slot.0));
    // The thread has one of its own, which this is the parent of.
}

/// The thread goes on with these registers.
fn go_on_with(thread: Capability, registers: &Registers) {
    // SAFETY: each case says with which a thread of this program goes on.
    assert_ok!(unsafe { call::thread_write(thread, registers) });
    assert_ok!(call::reply(Message::empty(0)));
}

pub fn fault_of(message: &Message, badge: u64) -> [u64; MESSAGE_WORDS] {
    kernel_assert_eq!((message.info, message.badge), (MessageInfo::new(FAULT, MESSAGE_WORDS), badge));
    message.words
}

const fn cause_of(way: Break) -> &'static [Cause] {
    match way {
        Break::NullRead | Break::KernelRead => &[Cause::ReadFault],
        Break::NullWrite | Break::TextWrite | Break::RodataWrite | Break::KernelWrite | Break::StackOverflow => {
            &[Cause::WriteFault]
        }
        Break::StackExecute | Break::DataExecute => &[Cause::FetchFault],
        Break::IllegalInstruction => &[Cause::IllegalInstruction],
        Break::PrivilegedInstruction => &[Cause::PrivilegedInstruction],
        Break::Breakpoint => &[Cause::Breakpoint],
        // A jump to what is no address, on x86_64.
        Break::Misaligned => &[Cause::Misaligned, Cause::Protection],
        Break::FloatingPoint => &[Cause::FloatingPointDisabled],
        Break::DivideByZero => &[Cause::DivideError],
    }
}

test! {
    // CASE-FLT-004 and CASE-FLT-010; CASE-FLT-005: what the handler leaves ends the process.
    fn each_kind_of_fault_reaches_its_handler() requires("INT-01 VMM-15 IPS-12") {
        let endpoint = assert_ok!(call::endpoint_create());
        for (number, way) in Break::ALL.iter().enumerate() {
            let process = roles::start_suspended(roles::BREAK + number as u64, SLOT, NOTHING);
            handle(SLOT, endpoint, 3);
            resume(SLOT);
            let [cause, address, code, pc, id, ..] = fault_of(&assert_ok!(call::receive_until(endpoint, patience())), 3);
            kernel_assert!(cause_of(*way).iter().any(|right| *right as u64 == cause), "{way:?}: {cause}");
            kernel_assert_eq!(assert_ok!(call::thread_read(SLOT)).pc, pc);
            let found = assert_ok!(call::thread_info(Some(process), 0)).map(|info| (info.id, info.state));
            kernel_assert_eq!(found, Some((id, 3)));
            if *way == Break::StackOverflow {
                let end = STACK_TOP - STACK_SIZE;
                kernel_assert!((end - 4096..end).contains(&address), "{address:#x}");
            }
            assert_ok!(call::reply(Message::empty(1)));
            kernel_assert_eq!(assert_ok!(call::wait(process)), Exit::Fault(code as u32));
            close_all(&[process, SLOT, Capability(53)]);
        }
    }
}

test! {
    // CASE-FLT-002.
    fn a_handler_skips_an_undefined_instruction() requires("INT-01 VMM-15") {
        let endpoint = assert_ok!(call::endpoint_create());
        for cpu in [info(Info::CurrentCpu), other_cpu()] {
            let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(cpu), || {
                (0..20).fold(0, |sum, _| sum + probe::undefined())
            }));
            handle(capability, endpoint, 1);
            resume(capability);
            for turn in 0..20 {
                let [cause, _, _, pc, ..] = fault_of(&assert_ok!(call::receive_until(endpoint, patience())), 1);
                kernel_assert_eq!((cause, pc), (Cause::IllegalInstruction as u64, probe::undefined as *const () as u64));
                let mut registers = assert_ok!(call::thread_read(capability));
                registers.pc += probe::UNDEFINED_SIZE;
                registers.general[probe::RESULTS[0]] = turn;
                go_on_with(capability, &registers);
            }
            kernel_assert_eq!(assert_ok!(thread.join()), 190);
            close_all(&[capability, Capability(51)]);
        }
    }
}

test! {
    // CASE-FLT-005 and CASE-FLT-013: an instruction that is repaired has the result that it would have had.
    fn a_handler_repairs_what_faulted() requires("VMM-15 CTX-10") {
        static WORD: AtomicU64 = AtomicU64::new(0);
        let endpoint = assert_ok!(call::endpoint_create());
        let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(other_cpu()), || {
            [0, 8, 4096].map(|address| probe::load_word(address))
        }));
        handle(capability, endpoint, 2);
        resume(capability);
        for (turn, address) in [0, 8, 4096].into_iter().enumerate() {
            // The first answer changes nothing: then the same fault comes again.
            for is_last in [false, true] {
                let words = fault_of(&assert_ok!(call::receive_until(endpoint, patience())), 2);
                let pc = probe::load_word as *const () as u64;
                kernel_assert_eq!((words[0], words[1], words[3]), (Cause::ReadFault as u64, address, pc));
                let mut registers = assert_ok!(call::thread_read(capability));
                kernel_assert_eq!((registers.pc, registers.general[probe::ARGUMENT]), (pc, address));
                WORD.store(turn as u64 + 100, Ordering::SeqCst);
                registers.general[probe::ARGUMENT] = WORD.as_ptr() as u64;
                if is_last {
                    go_on_with(capability, &registers);
                } else {
                    assert_ok!(call::reply(Message::empty(0)));
                }
            }
        }
        kernel_assert_eq!(assert_ok!(thread.join()), [100, 101, 102]);
    }
}

test! {
    // CASE-FLT-007.
    fn a_fault_that_nobody_answers_ends_the_process() requires("IPS-12 VMM-15") {
        let endpoint = assert_ok!(call::endpoint_create());
        let ends = |lose: &dyn Fn()| {
            let process = roles::start_suspended(roles::LOAD, SLOT, NOTHING);
            handle(SLOT, endpoint, 1);
            resume(SLOT);
            lose();
            kernel_assert!(matches!(assert_ok!(call::wait(process)), Exit::Fault(_)));
            close_all(&[process, SLOT]);
            let _ = call::close(Capability(51));
        };
        let receive = || _ = fault_of(&assert_ok!(call::receive_until(endpoint, patience())), 1);
        // The Reply is deleted, or another message is received without an answer.
        ends(&|| {
            receive();
            assert_ok!(call::close(assert_ok!(call::save_reply_in(Capability::OWN_QUOTA))));
        });
        ends(&|| {
            receive();
            assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
        });
        // The handler dies.
        ends(&|| {
            let handler = assert_ok!(call::spawn(
                rt::protocol::RESOURCE,
                "fault",
                roles::DROP,
                [rt::protocol::RESOURCE, endpoint, Capability::NONE, Capability::NONE]
            ));
            assert_ok!(call::wait(handler));
            assert_ok!(call::close(handler));
        });
        // The way to it is taken away, before the fault or while it waits to be told.
        ends(&|| assert_ok!(call::cap_revoke(endpoint)));
        ends(&|| {
            wait_until("the fault", || assert_ok!(call::thread_info(Some(process_of(0)), 0)).is_some_and(|i| i.state == SENDS));
            assert_ok!(call::cap_revoke(endpoint));
        });
        assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
    }
}

/// The process that was started last: its capability lies behind the others.
fn process_of(back: u64) -> Capability {
    let is_process = |slot: &u64| assert_ok!(call::cap_read(Capability(*slot))).kind == rt::abi::Kind::Process as u64;
    let found = (0..40).filter(is_process).nth(back as usize);
    Capability(found.expect("a process was started"))
}

test! {
    fn without_a_handler_all_is_as_before() requires("VMM-15 CAP-06") {
        let endpoint = assert_ok!(call::endpoint_create());
        for takes_back in [false, true] {
            let process = roles::start_suspended(roles::LOAD, SLOT, NOTHING);
            if takes_back {
                handle(SLOT, endpoint, 1);
                assert_ok!(call::thread_control(SLOT, ThreadAction::Faults, NO_CAPABILITY));
            }
            resume(SLOT);
            kernel_assert!(matches!(assert_ok!(call::wait(process)), Exit::Fault(_)));
            close_all(&[process, SLOT]);
        }
        assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
    }
}

test! {
    fn a_handler_is_named_with_the_rights_for_it() requires("CAP-06 CAP-03 CAP-12") {
        let endpoint = assert_ok!(call::endpoint_create());
        let thread = assert_ok!(call::thread_make(None, None, Capability::OWN_QUOTA));
        let slot = Capability(41);
        for action in [ThreadAction::Faults, ThreadAction::Calls] {
            let set = |thread, name: Capability| call::thread_control(thread, action, name.0).map(drop);
            for rights in 0..=31 {
                assert_ok!(call::cap_mint(slot, endpoint, Rights(rights), 0));
                let may = Rights(rights).have(Rights::WRITE.with(Rights::CALL));
                kernel_assert_eq!(set(thread, slot), if may { Ok(()) } else { Err(Error::NoRight) });
                assert_ok!(call::close(slot));
                assert_ok!(call::cap_mint(slot, thread, Rights(rights), 0));
                let may = Rights(rights).have(Rights::MANAGE);
                kernel_assert_eq!(set(slot, endpoint), if may { Ok(()) } else { Err(Error::NoRight) });
                assert_ok!(call::close(slot));
            }
            assert_err!(set(thread, thread), Error::WrongObject);
            assert_err!(set(thread, Capability(60)), Error::InvalidCapability);
        }
        control(thread, ThreadAction::Kill);
    }
}

test! {
    // CASE-FLT-008: such threads wait for ever, and can be ended.
    fn handlers_of_their_own_faults_wait_and_can_be_killed() requires("VMM-15 HRD-01 IPS-12") {
        let own = assert_ok!(call::endpoint_create());
        let theirs = assert_ok!(call::endpoint_create());
        let breaking = || assert_ok!(thread::spawn_suspended(None, || probe::load_word(0)));
        let [(_, alone), (_, one), (_, other)] = [breaking(), breaking(), breaking()];
        handle(alone, own, 1);
        handle(one, own, 2);
        handle(other, theirs, 3);
        for thread in [alone, one, other] {
            resume(thread);
        }
        for thread in [alone, one, other] {
            suspend_in(thread, SENDS);
            control(thread, ThreadAction::Kill);
        }
        wait_until("their ends", || assert_ok!(call::thread_info(None, 1)).is_none());
        for endpoint in [own, theirs] {
            assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
        }
    }
}

test! {
    // CASE-FLT-009.
    fn a_thread_that_waits_for_its_handler_is_killed() requires("IPS-06 PRC-05") {
        let endpoint = assert_ok!(call::endpoint_create());
        let (_, capability) = assert_ok!(thread::spawn_suspended(Some(other_cpu()), || probe::load_word(0)));
        handle(capability, endpoint, 1);
        resume(capability);
        fault_of(&assert_ok!(call::receive_until(endpoint, patience())), 1);
        control(capability, ThreadAction::Kill);
        assert_err!(call::reply(Message::empty(0)), Error::PartnerGone);
        wait_until("its end", || assert_ok!(call::thread_info(None, 1)).is_none());
    }
}

test! {
    fn a_thread_stopped_at_a_fault_faults_again() requires("PRC-32 VMM-15") {
        let endpoint = assert_ok!(call::endpoint_create());
        let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(other_cpu()), || probe::load_word(0)));
        handle(capability, endpoint, 1);
        resume(capability);
        // Before anybody has heard of it, and after.
        for is_received in [false, true, true] {
            if is_received {
                fault_of(&assert_ok!(call::receive_until(endpoint, patience())), 1);
            } else {
                suspend_in(capability, SENDS);
            }
            halt(capability);
            if is_received {
                assert_err!(call::reply(Message::empty(0)), Error::PartnerGone);
            } else {
                assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
            }
            kernel_assert_eq!(assert_ok!(call::thread_read(capability)).pc, probe::load_word as *const () as u64);
            resume(capability);
        }
        // A cancelled one does, too, without having been stopped.
        fault_of(&assert_ok!(call::receive_until(endpoint, patience())), 1);
        kernel_assert_eq!(control(capability, ThreadAction::Cancel), 1);
        fault_of(&assert_ok!(call::receive_until(endpoint, patience())), 1);
        // From outside it is repaired as by the answer.
        halt(capability);
        let mut registers = assert_ok!(call::thread_read(capability));
        static WORD: AtomicU64 = AtomicU64::new(77);
        registers.general[probe::ARGUMENT] = WORD.as_ptr() as u64;
        // SAFETY: it loads from there.
        assert_ok!(unsafe { call::thread_write(capability, &registers) });
        resume(capability);
        kernel_assert_eq!(assert_ok!(thread.join()), 77);
    }
}

test! {
    // CASE-FLT-012.
    fn a_load_over_the_end_of_a_page_tells_of_the_missing_one() requires("VMM-15") {
        let endpoint = assert_ok!(call::endpoint_create());
        let end = (probe::image_end() + 4095) & !4095;
        for back in [7, 4, 1] {
            let (_, capability) = assert_ok!(thread::spawn_suspended(None, move || probe::load_word(end - back)));
            handle(capability, endpoint, back);
            resume(capability);
            let words = fault_of(&assert_ok!(call::receive_until(endpoint, patience())), back);
            kernel_assert_eq!((words[0], words[1] & !4095), (Cause::ReadFault as u64, end), "{:#x}", words[1]);
            control(capability, ThreadAction::Kill);
        }
    }
}

test! {
    // CASE-FLT-015.
    fn reports_of_kernel_addresses_tell_nothing_of_the_kernel() requires("HRD-02 VMM-10") {
        let endpoint = assert_ok!(call::endpoint_create());
        let limit = info(Info::UserLimit);
        let kernel = info(Info::Slide).wrapping_add(0xFFFF_FFFF_8000_0000);
        let base = limit.wrapping_neg() & !0xFFF;
        let mut seen = Vec::new();
        for address in [kernel, kernel + 0x10_0000, kernel + 0x3000_0000, base, base + (1 << 20), base + (1 << 36)] {
            let (_, capability) = assert_ok!(thread::spawn_suspended(None, move || probe::load_word(address)));
            handle(capability, endpoint, 1);
            resume(capability);
            let [cause, told, code, ..] = fault_of(&assert_ok!(call::receive_until(endpoint, patience())), 1);
            kernel_assert_eq!(told, address);
            seen.push((cause, code));
            control(capability, ThreadAction::Kill);
            close_all(&[capability, Capability(51)]);
        }
        kernel_assert!(seen.iter().all(|one| one.0 == Cause::ReadFault as u64 && *one == seen[0]), "{seen:x?}");
    }
}

test! {
    // CASE-FLT-017, with fewer threads and faults.
    fn many_faults_at_once_leak_nothing() requires("TST-09 HEAP-07 VMM-15") {
        const FAULTS: u64 = 400;
        const THREADS: u64 = 8;
        let endpoint = assert_ok!(call::endpoint_create());
        let round = || {
            let left = Arc::new(AtomicU64::new(FAULTS * THREADS));
            let mut faulting = Vec::new();
            let mut names = [Capability::NONE; THREADS as usize];
            for number in 0..THREADS {
                let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(number % cpus()), || {
                    (0..FAULTS).fold(0, |sum, _| sum + probe::undefined())
                }));
                handle(capability, endpoint, number);
                names[number as usize] = capability;
                faulting.push((thread, capability));
            }
            names.into_iter().for_each(resume);
            let handlers: Vec<_> = (0..cpus()).map(|cpu| {
                let left = left.clone();
                assert_ok!(thread::spawn_on(cpu, move || {
                    let count = |left: u64| left.checked_sub(1);
                    // Each takes one that is left, so all are taken.
                    while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count).is_ok() {
                        let fault = assert_ok!(call::receive(endpoint));
                        kernel_assert_eq!(fault.words[0], Cause::IllegalInstruction as u64);
                        let thread = names[fault.badge as usize];
                        let mut registers = assert_ok!(call::thread_read(thread));
                        registers.pc += probe::UNDEFINED_SIZE;
                        registers.general[probe::RESULTS[0]] = 1;
                        go_on_with(thread, &registers);
                    }
                }))
            }).collect();
            for (number, (thread, capability)) in (0..).zip(faulting) {
                kernel_assert_eq!(assert_ok!(thread.join()), FAULTS);
                close_all(&[capability, Capability(50 + number)]);
            }
            handlers.into_iter().for_each(|handler| assert_ok!(handler.join()));
            wait_until("the end of all that ends", || info(Info::Ending) == 0);
            info(Info::MemoryFree)
        };
        round();
        let before = round();
        kernel_assert_eq!(round(), before);
    }
}

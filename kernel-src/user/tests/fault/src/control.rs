//! Made suspended, stopped, gone on with, ended, and more or less urgent.

use crate::roles;
use crate::support::{
    Counter, IS_STOPPED, RECEIVES, RUNS, control, in_state, info, other_cpu, resume, suspend, suspend_in, wait_until,
};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Error, Info, Kind, Rights, ThreadAction};
use rt::call::{self, Capability, Exit, Message, Until};
use rt::protocol::RESOURCE;
use rt::testing::settled;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

test! {
    fn a_thread_made_suspended_runs_when_it_is_resumed() requires("CAP-06 PRC-32") {
        for cpu in [info(Info::CurrentCpu), other_cpu()] {
            let counter = Counter::on(cpu);
            kernel_assert_eq!(assert_ok!(call::cap_read(counter.capability)).kind, Kind::Thread as u64);
            settled(cpu);
            kernel_assert_eq!(counter.count(), 0);
            kernel_assert_eq!(control(counter.capability, ThreadAction::Suspend), IS_STOPPED);
            resume(counter.capability);
            counter.goes_on();
            counter.end();
        }
    }
}

test! {
    fn a_suspended_thread_stands_still_and_goes_on() requires("PRC-32 PRC-03 PRC-04") {
        for cpu in [info(Info::CurrentCpu), other_cpu()] {
            let counter = Counter::on(cpu);
            resume(counter.capability);
            for _ in 0..20 {
                counter.goes_on();
                suspend(counter.capability);
                let seen = counter.count();
                settled(cpu);
                kernel_assert_eq!(counter.count(), seen);
                // To ask again changes nothing.
                kernel_assert_eq!(control(counter.capability, ThreadAction::Suspend), IS_STOPPED);
                kernel_assert_eq!(control(counter.capability, ThreadAction::Halt), IS_STOPPED);
                resume(counter.capability);
                resume(counter.capability);
            }
            counter.goes_on();
            counter.end();
        }
    }
}

test! {
    fn interrupts_without_end_leave_a_cpu_time() requires("TMR-08 SCH-40 PRC-32") needs("smp>=2") {
        static WOKE: AtomicU64 = AtomicU64::new(0);
        for turn in 1..=5 {
            let until = call::clock_ns() + 20_000_000;
            let (sleeper, capability) = assert_ok!(thread::spawn_suspended(Some(other_cpu()), move || {
                let slept = call::sleep_until(until);
                WOKE.store(turn, Ordering::SeqCst);
                slept
            }));
            resume(capability);
            // Each change of its priority interrupts its CPU.
            let deadline = call::clock_ns() + 20_000_000_000;
            while WOKE.load(Ordering::SeqCst) != turn {
                assert_ok!(call::thread_control(capability, ThreadAction::Priority, 100 + turn));
                kernel_assert!(call::clock_ns() < deadline, "{} ns too long", call::clock_ns() - until);
            }
            assert_ok!(assert_ok!(sleeper.join()));
            assert_ok!(call::close(capability));
        }
    }
}

test! {
    fn a_thread_that_suspends_itself_is_resumed_by_another() requires("PRC-32") {
        let own = Arc::new(AtomicU64::new(0));
        let told = own.clone();
        let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(other_cpu()), move || {
            let own = Capability(told.load(Ordering::SeqCst));
            kernel_assert_eq!(control(own, ThreadAction::Suspend), RUNS);
            told.store(1, Ordering::SeqCst);
        }));
        own.store(capability.0, Ordering::SeqCst);
        resume(capability);
        wait_until("it to stop", || call::thread_read(capability).is_ok());
        kernel_assert_eq!(own.load(Ordering::SeqCst), capability.0);
        resume(capability);
        assert_ok!(thread.join());
        kernel_assert_eq!(own.load(Ordering::SeqCst), 1);
    }
}

test! {
    fn a_killed_thread_ends_wherever_it_is() requires("PRC-32 PRC-05 IPS-12") {
        for cpu in [info(Info::CurrentCpu), other_cpu()] {
            let endpoint = assert_ok!(call::endpoint_create());
            // It runs.
            let running = Counter::on(cpu);
            resume(running.capability);
            running.goes_on();
            // It is stopped, has not begun, or waits.
            let stopped = Counter::on(cpu);
            resume(stopped.capability);
            stopped.goes_on();
            suspend(stopped.capability);
            let made = Counter::on(cpu);
            let (_, waiting) = in_state(RECEIVES, cpu, move || call::receive(endpoint).map(|_| ()));
            for thread in [running.capability, stopped.capability, made.capability, waiting] {
                kernel_assert_eq!(control(thread, ThreadAction::Kill), 0);
                for action in [ThreadAction::Kill, ThreadAction::Resume, ThreadAction::Suspend, ThreadAction::Cancel] {
                    assert_err!(call::thread_control(thread, action, 0), Error::NotFound);
                }
                assert_err!(call::thread_read(thread), Error::NotFound);
            }
            settled(cpu);
            let count = running.count();
            settled(cpu);
            kernel_assert_eq!(running.count(), count);
            // Nobody receives any more, and of the process this thread is left.
            assert_err!(call::send(endpoint, Message::empty(0), Until::NOW), Error::TimedOut);
            wait_until("the others' ends", || assert_ok!(call::thread_info(None, 1)).is_none());
        }
    }
}

test! {
    fn a_caller_hears_that_who_owes_its_answer_was_killed() requires("IPS-12 PRC-32") {
        let endpoint = assert_ok!(call::endpoint_create());
        let received = Arc::new(AtomicU64::new(0));
        let tell = received.clone();
        let (_, server) = assert_ok!(thread::spawn_suspended(Some(other_cpu()), move || {
            assert_ok!(call::receive(endpoint));
            tell.store(1, Ordering::SeqCst);
            loop {
                core::hint::spin_loop();
            }
        }));
        resume(server);
        let killer = assert_ok!(thread::spawn(move || {
            wait_until("the call", || received.load(Ordering::SeqCst) == 1);
            suspend(server);
            control(server, ThreadAction::Kill);
        }));
        assert_err!(call::call(endpoint, Message::empty(0)), Error::PartnerGone);
        assert_ok!(killer.join());
    }
}

test! {
    fn a_killed_process_ends_with_its_stopped_threads() requires("PRC-32 PRC-20") {
        const SLOT: Capability = Capability(40);
        let process = roles::start_suspended(roles::WAIT, SLOT, [Capability::NONE; 3]);
        let second = assert_ok!(call::thread_make(Some(process), None, Capability::OWN_QUOTA));
        resume(SLOT);
        suspend_in(SLOT, RECEIVES);
        kernel_assert_eq!(control(second, ThreadAction::Kill), 0);
        kernel_assert_eq!(control(SLOT, ThreadAction::Kill), 0);
        kernel_assert_eq!(assert_ok!(call::wait(process)), Exit::Status(0));
        assert_err!(call::thread_make(Some(process), None, Capability::OWN_QUOTA), Error::NotFound);
        for capability in [process, second, SLOT] {
            assert_ok!(call::close(capability));
        }
    }
}

test! {
    fn a_quota_takes_its_stopped_threads_along() requires("CAP-06 PRC-20") {
        let quota = assert_ok!(call::quota_create(Capability::OWN_QUOTA, 1 << 20, 20));
        let before = assert_ok!(call::quota_read(quota));
        const SLOT: Capability = Capability(40);
        let give = [Capability::NONE; 4];
        let process = assert_ok!(call::spawn_suspended(SLOT, quota, RESOURCE, "fault", roles::WAIT, give));
        let own = assert_ok!(call::thread_make(None, None, quota));
        let theirs = assert_ok!(call::thread_make(Some(process), None, quota));
        kernel_assert_eq!(assert_ok!(call::quota_read(quota)).objects_used, before.objects_used + 5);
        assert_ok!(call::quota_destroy(quota));
        for gone in [own, theirs, process, SLOT] {
            kernel_assert_eq!(assert_ok!(call::cap_read(Capability(gone.address()))).kind, 0);
        }
        kernel_assert!(assert_ok!(call::thread_info(None, 1)).is_none());
    }
}

test! {
    fn each_action_on_a_thread_has_its_right() requires("CAP-06 CAP-03") {
        let thread = assert_ok!(call::thread_make(None, None, Capability::OWN_QUOTA));
        let registers = assert_ok!(call::thread_read(thread));
        let slot = Capability(41);
        for rights in 0..=31 {
            assert_ok!(call::cap_mint(slot, thread, Rights(rights), 0));
            let may = |right| if Rights(rights).have(right) { Ok(()) } else { Err(Error::NoRight) };
            kernel_assert_eq!(call::thread_read(slot).map(drop), may(Rights::READ));
            // SAFETY: it never runs.
            kernel_assert_eq!(unsafe { call::thread_write(slot, &registers) }, may(Rights::WRITE));
            for action in [ThreadAction::Suspend, ThreadAction::Halt, ThreadAction::Cancel] {
                kernel_assert_eq!(call::thread_control(slot, action, 0).map(drop), may(Rights::WRITE));
            }
            for action in [ThreadAction::Priority, ThreadAction::Limit] {
                kernel_assert_eq!(call::thread_control(slot, action, 100).map(drop), may(Rights::MANAGE));
            }
            if !Rights(rights).have(Rights::WRITE) {
                assert_err!(call::thread_control(slot, ThreadAction::Resume, 0), Error::NoRight);
            }
            if !Rights(rights).have(Rights::MANAGE) {
                assert_err!(call::thread_control(slot, ThreadAction::Kill, 0), Error::NoRight);
            }
            assert_ok!(call::close(slot));
        }
        let other = assert_ok!(call::endpoint_create());
        assert_err!(call::thread_read(other), Error::WrongObject);
        assert_err!(call::thread_control(other, ThreadAction::Kill, 0), Error::WrongObject);
        control(thread, ThreadAction::Kill);
    }
}

test! {
    fn a_thread_is_made_in_another_process_with_the_right_to_manage_it() requires("CAP-06 CAP-03") {
        const SLOT: Capability = Capability(40);
        let process = roles::start_suspended(roles::WAIT, SLOT, [Capability::NONE; 3]);
        let weak = Capability(41);
        assert_ok!(call::cap_mint(weak, process, Rights(Rights::ALL.0 & !Rights::MANAGE.0), 0));
        assert_err!(call::thread_make(Some(weak), None, Capability::OWN_QUOTA), Error::NoRight);
        assert_err!(call::thread_make(None, Some(1 << 20), Capability::OWN_QUOTA), Error::InvalidArgument);
        control(SLOT, ThreadAction::Kill);
        assert_ok!(call::wait(process));
    }
}

test! {
    fn a_more_urgent_thread_runs_first() requires("PRC-09 PRC-04") {
        let cpu = other_cpu();
        let order = Arc::new(AtomicU64::new(0));
        let seen = order.clone();
        // While it runs no other thread of its CPU does.
        let (first, urgent) = assert_ok!(thread::spawn_suspended(Some(cpu), move || {
            let threads: Vec<_> = [(130, true), (150, false), (140, true)].map(|(priority, is_ready)| {
                let place = seen.clone();
                let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(cpu), move || {
                    let fold = |order: u64| Some(order << 8 | priority);
                    assert_ok!(place.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fold));
                }));
                if is_ready {
                    resume(capability);
                }
                let set = |to| assert_ok!(call::thread_control(capability, ThreadAction::Priority, to));
                kernel_assert_eq!([set(160), set(priority)], [128, 160]);
                resume(capability);
                thread
            }).into();
            kernel_assert_eq!(seen.load(Ordering::SeqCst), 0);
            threads.into_iter().for_each(|thread| assert_ok!(thread.join()));
        }));
        kernel_assert_eq!(assert_ok!(call::thread_control(urgent, ThreadAction::Priority, 200)), 128);
        resume(urgent);
        assert_ok!(first.join());
        kernel_assert_eq!(order.load(Ordering::SeqCst), 150 << 16 | 140 << 8 | 130);
    }
}

test! {
    fn a_waiting_thread_that_becomes_urgent_runs_at_once_when_it_is_woken() requires("PRC-09") {
        let cpu = other_cpu();
        let endpoint = assert_ok!(call::endpoint_create());
        let counter = Counter::on(cpu);
        let (thread, capability) = in_state(RECEIVES, cpu, move || assert_ok!(call::receive(endpoint)).info.label());
        assert_ok!(call::thread_control(capability, ThreadAction::Priority, 129));
        resume(counter.capability);
        counter.goes_on();
        assert_ok!(call::send(endpoint, Message::empty(7), Until::Done));
        kernel_assert_eq!(assert_ok!(thread.join()), 7);
        counter.end();
    }
}

test! {
    fn nobody_gives_a_priority_above_the_own_limit() requires("PRC-09 CAP-06") {
        let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(other_cpu()), || {
            let set = |thread, action, value| call::thread_control(thread, action, value);
            let (_, other) = assert_ok!(thread::spawn_suspended(None, || ()));
            for action in [ThreadAction::Priority, ThreadAction::Limit] {
                assert_err!(set(other, action, 101), Error::InvalidArgument);
                assert_err!(set(other, action, u64::MAX), Error::InvalidArgument);
                // It was made within the limit of its maker.
                kernel_assert_eq!(assert_ok!(set(other, action, 90)), 100);
            }
            control(other, ThreadAction::Kill);
        }));
        kernel_assert_eq!(assert_ok!(call::thread_control(capability, ThreadAction::Limit, 100)), 255);
        resume(capability);
        assert_ok!(thread.join());
        assert_err!(call::thread_control(capability, ThreadAction::Limit, 1), Error::NotFound);
    }
}

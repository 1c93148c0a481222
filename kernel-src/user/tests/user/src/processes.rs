//! Processes and threads: born, kept apart, ended.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Error, Info};
use rt::call::{self, Capability, Exit};
use rt::probe::role;
use rt::protocol::RESOURCE;
use rt::sync::Mutex;
use rt::{EXIT_PANIC, assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, testing, thread};

/// Memory that may stay with the kernel after processes have come and gone: slabs keep what they have grown to.
const SLACK: u64 = 64 << 10;

fn run(argument: u64) -> Exit {
    assert_ok!(testing::run(RESOURCE, "faults", argument))
}

test! {
    fn exit_statuses_reach_the_parent() requires("PRC-01 PRC-06") {
        kernel_assert_eq!(run(u64::MAX), Exit::Status(2));
        kernel_assert_eq!(run(role::SCRIBBLE), Exit::Status(0));
    }
}

test! {
    fn a_panic_ends_its_program_only() requires("TST-02") {
        kernel_assert_eq!(run(role::PANIC), Exit::Status(EXIT_PANIC));
    }
}

test! {
    fn processes_do_not_share_memory() requires("VMM-04") {
        // The same addresses hold the data of both programs.
        static DATA: [AtomicU64; 512] = [const { AtomicU64::new(3) }; 512];
        kernel_assert_eq!(run(role::SCRIBBLE), Exit::Status(0));
        kernel_assert!(DATA.iter().all(|word| word.load(Ordering::Relaxed) == 3));
    }
}

test! {
    fn no_resource_no_authority() requires("SYS-09") {
        let process = assert_ok!(call::spawn(RESOURCE, "faults", role::NO_AUTHORITY, [Capability::NONE; 4]));
        kernel_assert_eq!(assert_ok!(call::wait(process)), Exit::Status(0));
    }
}

test! {
    fn a_process_ends_with_all_its_threads() requires("PRC-01") {
        for _ in 0..3 {
            kernel_assert_eq!(run(role::LEAVE_THREADS), Exit::Status(7));
        }
    }
}

test! {
    fn a_crowd_wakes_and_hears_and_ends_at_once() requires("INT-13 PRC-01 PRC-06 TST-09") {
        let nothing = [Capability::NONE; 4];
        let thread = Capability(40);
        let process =
            assert_ok!(call::spawn_suspended(thread, Capability::OWN_QUOTA, RESOURCE, "faults", role::SCRIBBLE, nothing));
        let give = [Capability::NONE, process, thread, Capability::NONE];
        let crowd = assert_ok!(call::spawn(RESOURCE, "faults", role::CROWD, give));
        kernel_assert_eq!(assert_ok!(call::wait(crowd)), Exit::Status(7));
        kernel_assert_eq!(assert_ok!(call::wait(process)), Exit::Status(0));
        [crowd, process, thread].into_iter().for_each(|capability| assert_ok!(call::close(capability)));
    }
}

test! {
    fn what_is_not_there_cannot_be_started() requires("SYS-09") {
        for name in ["nobody", "", "faults ", "a name that is longer than any name may be"] {
            let error = call::spawn(RESOURCE, name, 0, [Capability::NONE; 4]).expect_err(name);
            kernel_assert!(matches!(error, Error::NotFound | Error::InvalidArgument), "'{name}': {error:?}");
        }
        let give = [Capability(31), Capability::NONE, Capability::NONE, Capability::NONE];
        assert_err!(call::spawn(RESOURCE, "faults", 0, give), Error::InvalidCapability);
    }
}

test! {
    fn ended_processes_give_their_memory_back() requires("TST-27 VMM-06") {
        let free = || assert_ok!(call::info(Info::MemoryFree, 0));
        let round = |times| (0..times).for_each(|_| kernel_assert_eq!(run(role::SCRIBBLE), Exit::Status(0)));
        round(3);
        let before = free();
        round(20);
        let after = free();
        kernel_assert!(after + SLACK >= before, "{before} bytes were free, {after} are");
    }
}

test! {
    fn ended_threads_give_their_memory_back() requires("TST-27") {
        let round = || (0..16).for_each(|n| kernel_assert_eq!(assert_ok!(assert_ok!(thread::spawn(move || n)).join()), n));
        round();
        let before = assert_ok!(call::info(Info::MemoryFree, 0));
        (0..20).for_each(|_| round());
        let after = assert_ok!(call::info(Info::MemoryFree, 0));
        kernel_assert!(after + SLACK >= before, "{before} bytes were free, {after} are");
    }
}

test! {
    fn threads_of_one_priority_alternate() requires("SYS-07 SCH-08") {
        const TURNS: usize = 20;
        let order = Arc::new(Mutex::new(Vec::with_capacity(2 * TURNS)));
        let ready = Arc::new(AtomicU64::new(0));
        let turns = |name: char| {
            let (order, ready) = (order.clone(), ready.clone());
            assert_ok!(thread::spawn_on(0, move || {
                ready.fetch_add(1, Ordering::SeqCst);
                while ready.load(Ordering::SeqCst) < 2 {
                    call::yield_now();
                }
                for _ in 0..TURNS {
                    order.lock().push(name);
                    call::yield_now();
                }
            }))
        };
        let (a, b) = (turns('a'), turns('b'));
        assert_ok!(a.join());
        assert_ok!(b.join());
        let order = order.lock();
        // A third thread, or the end of a time slice, may come between; without alternation nearly all repeat.
        let repeated = order.windows(2).filter(|pair| pair[0] == pair[1]).count();
        kernel_assert!(repeated <= TURNS / 4, "{:?}", &order[..]);
    }
}

test! {
    fn spinning_threads_are_preempted() requires("SCH-01 TMR-08") {
        const TURNS: u64 = 6;
        // Each turn waits for the other thread, which gets the CPU only if this one loses it.
        let turn = Arc::new(AtomicU64::new(0));
        let spinner = |mine: u64| {
            let turn = turn.clone();
            assert_ok!(thread::spawn_on(0, move || {
                for next in (mine..TURNS).step_by(2) {
                    while turn.load(Ordering::Relaxed) < next {
                        core::hint::spin_loop();
                    }
                    turn.store(next + 1, Ordering::Relaxed);
                }
            }))
        };
        let (even, odd) = (spinner(0), spinner(1));
        assert_ok!(even.join());
        assert_ok!(odd.join());
        kernel_assert_eq!(turn.load(Ordering::Relaxed), TURNS);
    }
}

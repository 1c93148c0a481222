//! Entering the kernel and leaving it, the clock, and typed errors.

use rt::abi::{Call, Error, Info, NAME_MAX};
use rt::call::{self, Capability};
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, probe, test};

test! {
    fn simple_calls_keep_every_register() requires("SYS-03 SYS-04 SYS-05") {
        for call in [Call::Null, Call::Clock] {
            for _ in 0..100 {
                kernel_assert_eq!(probe::first_changed_by(call), None, "{call:?}");
            }
        }
    }
}

test! {
    fn a_call_that_switches_keeps_every_register() requires("SYS-03 SYS-04 SYS-05 PRC-19") {
        let other = assert_ok!(rt::thread::spawn(|| (0..200).for_each(|_| call::yield_now())));
        for _ in 0..100 {
            kernel_assert_eq!(probe::first_changed_by(Call::Yield), None);
        }
        assert_ok!(other.join());
    }
}

#[cfg(target_arch = "x86_64")]
test! {
    fn odd_flags_do_not_reach_the_kernel() requires("SYS-03") {
        for _ in 0..100 {
            probe::call_with_odd_flags();
        }
    }
}

test! {
    fn clock_never_steps_back() requires("TMR-08 TMR-09") {
        let mut last = call::clock_ns();
        let first = last;
        for _ in 0..20_000 {
            let now = call::clock_ns();
            kernel_assert!(now >= last, "{now} after {last}");
            last = now;
        }
        kernel_assert!(last > first, "the clock stands at {first}");
    }
}

test! {
    fn sleep_ends_at_its_deadline() requires("TMR-08") {
        for wait_ns in [0, 1, 100_000, 3_000_000] {
            let deadline = call::clock_ns() + wait_ns;
            assert_ok!(call::sleep_until(deadline));
            kernel_assert!(call::clock_ns() >= deadline, "woken before the time");
        }
        assert_ok!(call::sleep_until(0));
    }
}

test! {
    fn unknown_calls_are_refused() requires("SYS-09") {
        for number in [25, 30, 31, 48, 49, 63, 64, 255, 1 << 16, 1 << 31, 1 << 32, 1 << 63, u64::MAX] {
            let outcome = probe::raw_call(number, [0; 6]);
            kernel_assert_eq!(Error::from_status(outcome.status), Some(Error::InvalidCall), "call {number}");
            kernel_assert_eq!(outcome.value, 0);
        }
    }
}

test! {
    fn errors_are_typed() requires("SYS-09 ERR-01 ERR-03") {
        let nowhere = Capability(31);
        assert_err!(call::close(nowhere), Error::InvalidCapability);
        assert_err!(call::wait(nowhere), Error::InvalidCapability);
        assert_err!(call::receive(nowhere), Error::InvalidCapability);
        for nowhere in [64, 1 << 20, u64::MAX].map(Capability) {
            assert_err!(call::close(nowhere), Error::GuardMismatch);
            assert_err!(call::wait(nowhere), Error::InvalidCapability);
        }
        let endpoint = assert_ok!(call::endpoint_create());
        assert_err!(call::wait(endpoint), Error::WrongObject);
        assert_err!(call::spawn(endpoint, "faults", 0, [Capability::NONE; 4]), Error::WrongObject);
        assert_err!(call::console_read(endpoint, &mut [0; 1]), Error::WrongObject);
        assert_ok!(call::close(endpoint));
        assert_err!(call::close(endpoint), Error::InvalidCapability);

        assert_err!(call::archive_member(1 << 40), Error::NotFound);
        assert_err!(call::info(Info::TimerInterrupts, u64::MAX), Error::NotFound);
        let unknown_info = probe::raw_call(Call::Info as u64, [u64::MAX, 0, 0, 0, 0, 0]);
        kernel_assert_eq!(Error::from_status(unknown_info.status), Some(Error::InvalidArgument));
        let too_long = probe::debug_write_at(probe::image_start(), rt::abi::PIECE_MAX as u64 + 1);
        assert_err!(too_long, Error::InvalidArgument);
    }
}

test! {
    fn the_capability_table_fills_and_empties() requires("SYS-09") {
        let mut slots = alloc::vec::Vec::new();
        let full = loop {
            match call::endpoint_create() {
                Ok(endpoint) => slots.push(endpoint),
                Err(error) => break error,
            }
        };
        kernel_assert_eq!(full, Error::NoSlot);
        kernel_assert!(slots.len() >= 16, "room for {} capabilities", slots.len());
        for &endpoint in &slots {
            assert_ok!(call::close(endpoint));
        }
        let again = assert_ok!(call::endpoint_create());
        assert_ok!(call::close(again));
    }
}

test! {
    fn threads_outside_the_user_half_are_refused() requires("BTC-07 SYS-03 SYS-09") {
        let limit = assert_ok!(call::info(Info::UserLimit, 0));
        for entry in [limit, limit + 4096, limit.wrapping_neg(), u64::MAX - 15] {
            let refused = probe::refused_thread(entry, 0);
            kernel_assert!(
                matches!(refused, Some(Error::InvalidAddress | Error::InvalidArgument)),
                "entry {entry:#x}: {refused:?}"
            );
        }
        for place in [1 << 20, u64::MAX] {
            kernel_assert_eq!(probe::refused_thread(probe::code_address(), place), Some(Error::InvalidArgument));
        }
    }
}

test! {
    fn the_archive_lists_what_runs() requires("BTC-09") {
        let me = rt::archive::program("boot").expect("this program is in the archive");
        kernel_assert!(me.size > 64 && me.cases().any(|case| case.as_str() == "the_archive_lists_what_runs"));
        kernel_assert!(rt::archive::program("no such program").is_none());
        kernel_assert!(rt::archive::programs().all(|program| (1..=NAME_MAX).contains(&program.name.as_str().len())));
    }
}

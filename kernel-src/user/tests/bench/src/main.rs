//! What kernel entries cost, printed as metrics. The numbers are instructions
//! where the machine's counter counts them (QEMU: `-icount shift=0,sleep=off`
//! and one CPU), and mean nothing elsewhere.
#![no_std]
#![no_main]

use core::hint::black_box;
use rt::{
    abi::Info,
    assert_ok, assert_performance, call, kernel_assert, kernel_bench, println, test,
    testing::{counter, marker, spin},
};

rt::test_main!();

/// Most instructions that the null call may cost, user stub and measuring loop included.
#[cfg(not(target_arch = "riscv64"))]
const NULL_CALL_LIMIT: u64 = 60;
#[cfg(target_arch = "riscv64")]
const NULL_CALL_LIMIT: u64 = 84;

test! {
    fn null_call_costs_few_instructions() requires("SYS-03 SYS-04 SYS-05 TST-03 TMR-09") needs("icount") {
        let cost = kernel_bench!("null_call", 10_000, call::null());
        assert_performance!(cost, NULL_CALL_LIMIT);
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

/// Markers that the lab looks for (testsuites/harness/test_machine_counting.py), each pair around one thing.
const SPIN: [u8; 2] = [1, 2];
const CALLS: [u8; 2] = [3, 4];
const SLEEP: [u8; 2] = [5, 6];

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

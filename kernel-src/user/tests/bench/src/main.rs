//! What kernel entries cost, printed as metrics. The numbers are instructions
//! where the machine's counter counts them (QEMU: `-icount shift=0,sleep=off`
//! and one CPU), and mean nothing elsewhere.
#![no_std]
#![no_main]

use rt::{abi::Info, assert_performance, call, kernel_assert, kernel_bench, test};

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

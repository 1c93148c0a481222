//! Each way to break ends the program that breaks, and nothing else.

use rt::call::Exit;
use rt::probe::Break;
use rt::protocol::RESOURCE;
use rt::{assert_ok, kernel_assert, test, testing};

/// Breaks a program, and sees that a sound one still runs.
fn ends_by_fault(way: Break) {
    let exit = assert_ok!(testing::run(RESOURCE, "faults", way as u64));
    kernel_assert!(matches!(exit, Exit::Fault(_)), "{way:?}: {exit:?}");
}

macro_rules! break_tests {
    ($($name:ident: $way:ident, $requirements:literal;)*) => {
        $(test! {
            fn $name() requires($requirements) {
                ends_by_fault(Break::$way);
            }
        })*
    };
}

break_tests! {
    null_read_ends_the_program: NullRead, "INT-01 INT-06 INT-08";
    null_write_ends_the_program: NullWrite, "INT-01 INT-06 INT-08";
    text_cannot_be_written: TextWrite, "HRD-07";
    constants_cannot_be_written: RodataWrite, "HRD-07";
    kernel_memory_cannot_be_read: KernelRead, "BTC-07 INT-01 INT-06 INT-08";
    kernel_memory_cannot_be_written: KernelWrite, "BTC-07 INT-01 INT-06 INT-08";
    the_stack_cannot_be_executed: StackExecute, "HRD-07";
    data_cannot_be_executed: DataExecute, "HRD-07";
    an_illegal_instruction_ends_the_program: IllegalInstruction, "INT-01 INT-06 INT-08";
    a_privileged_instruction_ends_the_program: PrivilegedInstruction, "INT-01 INT-06 INT-08";
    a_breakpoint_ends_the_program: Breakpoint, "INT-01 INT-06 INT-08";
    a_misaligned_access_ends_the_program: Misaligned, "INT-01 INT-06 INT-08";
    floating_point_is_off: FloatingPoint, "INT-01 INT-06 INT-08";
    a_stack_overflow_hits_the_guard_page: StackOverflow, "INT-01 INT-06 INT-08";
}

#[cfg(target_arch = "x86_64")]
break_tests! {
    a_division_by_zero_ends_the_program: DivideByZero, "INT-01";
}

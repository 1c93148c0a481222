//! Test cases: registered in the section `.quoin.tests`, run one a process.
//!
//! The lab reads the records from the ELF without booting; `testd` starts the
//! program with the number of a case as its argument. A case passes when its
//! process ends with [`EXIT_PASSED`]; a failed assertion is a panic.

use crate::call::{self, Capability, Exit};
use crate::sync::PAUSE_NS;
use crate::{arch, println, thread};
use abi::Error;
use core::hint::black_box;
use core::mem::offset_of;

/// Exit status of a case that passed: no value that is there by itself when a status is lost.
pub const EXIT_PASSED: u32 = 0x600D;
/// Exit status of a test program that was given no case of its own.
const EXIT_NO_CASE: u32 = 2;

unsafe extern "C" {
    // Bounds of the section, from the linker script; only their addresses mean anything.
    safe static __tests_start: u8;
    safe static __tests_end: u8;
}

fn cases() -> &'static [TestCase] {
    let start = &raw const __tests_start;
    let size = &raw const __tests_end as usize - start as usize;
    // SAFETY: between these symbols lie the records that `test!` made and nothing else, aligned by the linker
    // script, in memory that is never written.
    unsafe { core::slice::from_raw_parts(start.cast(), size / size_of::<TestCase>()) }
}

/// The main function of a test program: runs case number `argument`.
pub fn main(argument: u64) -> u32 {
    let Some(case) = usize::try_from(argument).ok().and_then(|index| cases().get(index)) else {
        println!("no test case {argument}: this program has {}", cases().len());
        return EXIT_NO_CASE;
    };
    (case.run)();
    EXIT_PASSED
}

/// Runs a case in a process of its own, which gets the resource in slot 0.
pub fn run(resource: Capability, program: &str, case: u64) -> Result<Exit, Error> {
    let process =
        call::spawn(resource, program, case, [resource, Capability::NONE, Capability::NONE, Capability::NONE])?;
    let exit = call::wait(process)?;
    call::close(process)?;
    Ok(exit)
}

/// Instructions of the calibration loop.
const CALIBRATION: u64 = 2_000_000;

/// What one run of `body` costs, its share of the loop included, in hundredths of an instruction.
///
/// The clock is the machine's time-stamp counter; its rate is found by a loop of known length. So this is
/// exact where the counter counts instructions (QEMU with `-icount`), and elsewhere a comparison with that
/// loop's time. What reading the clock costs is shared among `runs`.
pub fn measure<R>(runs: u64, mut body: impl FnMut() -> R) -> u64 {
    let mut run = |times| (0..times).for_each(|_| drop(black_box(body())));
    run(runs.min(16));
    let rate = elapsed_ns(|| arch::spin(CALIBRATION / 2)).max(1);
    let spent = elapsed_ns(|| run(runs));
    spent * (CALIBRATION * 100 / runs) / rate
}

fn elapsed_ns(run: impl FnOnce()) -> u64 {
    let start = call::clock_ns();
    run();
    call::clock_ns() - start
}

/// A clock that counts instructions where the emulator's clocks do: nanoseconds there, ticks elsewhere.
pub fn counter() -> u64 {
    arch::counter()
}

/// Marks this point for whoever counts instructions from outside the machine (QEMU's plugin of the lab); an
/// instruction without effect everywhere else. The compiler moves no access to memory across it.
#[inline(always)]
pub fn marker<const NUMBER: u8>() {
    arch::marker::<NUMBER>();
}

/// Executes `2 * turns` instructions, and next to nothing else.
pub fn spin(turns: u64) {
    // The loop looks at its end.
    if turns > 0 {
        arch::spin(turns);
    }
}

/// Returns when the other threads of `cpu` have had several turns: those that are to wait do by then, also one that has
/// found the heap taken and slept.
pub fn settled(cpu: u64) {
    let turn = |_| {
        crate::assert_ok!(call::sleep_until(call::clock_ns() + 5 * PAUSE_NS));
        call::yield_now();
    };
    crate::assert_ok!(crate::assert_ok!(thread::spawn_on(cpu, move || (0..6).for_each(turn))).join());
}

/// A case of a test program, in the section `.quoin.tests`; see `docs/protocol.md`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct TestCase {
    pub name: Text,
    pub file: Text,
    /// Ids of requirements, separated by blanks.
    pub requirements: Text,
    /// What the board must have, as in the lab's mark `needs`.
    pub needs: Text,
    pub run: fn(),
    pub line: u32,
    pub flags: u32,
}

/// A string of which the layout is fixed.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Text {
    address: *const u8,
    length: u64,
}

// SAFETY: a Text is made only of a `&'static str`, which any thread may read.
unsafe impl Sync for Text {}

impl Text {
    #[must_use]
    pub const fn new(text: &'static str) -> Self {
        Self { address: text.as_ptr(), length: text.len() as u64 }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        // SAFETY: `new` is the only constructor, and took both from a `&'static str`.
        unsafe { core::str::from_utf8_unchecked(core::slice::from_raw_parts(self.address, self.length as usize)) }
    }
}

const _: () = assert!(size_of::<TestCase>() == 80 && offset_of!(TestCase, run) == 64);

/// Registers test cases, each `fn name() requires("ID ID") needs("smp>=2") { ... }`; `needs` may be left out.
#[macro_export]
macro_rules! test {
    ($(#[$attribute:meta])* fn $name:ident() requires($requirements:literal) $body:block) => {
        $crate::test!($(#[$attribute])* fn $name() requires($requirements) needs("") $body);
    };
    ($(#[$attribute:meta])* fn $name:ident() requires($requirements:literal) needs($needs:literal) $body:block) => {
        $(#[$attribute])*
        fn $name() $body

        const _: () = {
            use $crate::testing::{TestCase, Text};

            #[used]
            #[unsafe(link_section = ".quoin.tests")]
            static CASE: TestCase = TestCase {
                name: Text::new(stringify!($name)),
                file: Text::new(file!()),
                requirements: Text::new($requirements),
                needs: Text::new($needs),
                run: $name,
                line: line!(),
                flags: 0,
            };
        };
    };
}

/// Makes a program the home of the test cases that it registers.
#[macro_export]
macro_rules! test_main {
    () => {
        $crate::program!($crate::testing::main);
    };
}

/// Fails the case unless the condition holds.
#[macro_export]
macro_rules! kernel_assert {
    ($($assertion:tt)*) => { ::core::assert!($($assertion)*) };
}

/// Fails the case unless both sides are equal.
#[macro_export]
macro_rules! kernel_assert_eq {
    ($($assertion:tt)*) => { ::core::assert_eq!($($assertion)*) };
}

/// The value of a result that must be `Ok`.
#[macro_export]
macro_rules! assert_ok {
    ($result:expr $(,)?) => {
        match $result {
            Ok(value) => value,
            Err(error) => panic!("{}: wanted Ok, found Err({error:?})", stringify!($result)),
        }
    };
}

/// Fails the case unless the result is that error.
#[macro_export]
macro_rules! assert_err {
    ($result:expr, $error:expr $(,)?) => {
        match $result {
            Ok(value) => panic!("{}: wanted Err({:?}), found Ok({value:?})", stringify!($result), $error),
            Err(error) => ::core::assert_eq!(error, $error, "{}", stringify!($result)),
        }
    };
}

/// Measures an expression over that many runs and prints it as a metric; gives hundredths of an instruction.
#[macro_export]
macro_rules! kernel_bench {
    ($name:literal, $runs:expr, $body:expr) => {{
        let cost = $crate::testing::measure($runs, || $body);
        $crate::println!("metric: {} {}.{:02} instructions", $name, cost / 100, cost % 100);
        cost
    }};
}

/// Fails the case when a cost from `kernel_bench!` is above so many instructions.
#[macro_export]
macro_rules! assert_performance {
    ($cost:expr, $limit:expr) => {{
        let (cost, limit): (u64, u64) = ($cost, $limit);
        ::core::assert!(cost <= limit * 100, "{}.{:02} instructions, at most {limit} allowed", cost / 100, cost % 100);
    }};
}

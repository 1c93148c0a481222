//! What only tests do: look at raw registers, make calls that no sane program
//! makes, and break on purpose. Programs that do not use it do not contain it.

use crate::arch::{self, probe};
use crate::{call, thread};
use abi::{Call, Error, MESSAGE_WORDS, MessageInfo, OWN_QUOTA, Outcome, PROGRAM_BASE, STACK_SIZE, STACK_TOP};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

pub use probe::{
    ARGUMENT, CALL_SIZE, FOREIGN, FPU_WORDS, MAY_SHOW_OWN_STATE, NAMES, NUMBER, RESULTS, STACK, STEPS, UNDEFINED_SIZE,
    load_fpu, load_word, stepped, store_fpu, undefined,
};

/// Bytes of a buffer page.
const PAGE_SIZE: u64 = size_of::<call::Buffer>() as u64;

/// A place for every register, at its hardware number.
#[repr(C, align(16))]
pub struct Registers {
    pub words: [u64; 32],
    /// The probe's own: its stack pointer, or that the thread is done.
    flag: AtomicU64,
    /// What the thread pointer gave.
    pub thread_pointer: u64,
    own_address: u64,
}

impl Registers {
    fn new() -> Self {
        Self { words: [0; 32], flag: AtomicU64::new(0), thread_pointer: 0, own_address: 0 }
    }

    /// Names and values of the registers, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        probe::NAMES.into_iter().zip(self.words)
    }
}

/// What a thread found when it started, and what it was started with.
pub struct Start {
    pub registers: Box<Registers>,
    pub entry: u64,
    pub stack: u64,
    pub argument: u64,
}

impl Start {
    /// The first register that is not as a new thread's must be: argument, stack, and zero elsewhere.
    #[must_use]
    pub fn first_wrong(&self) -> Option<(&'static str, u64)> {
        let right = |index: usize, value: u64| match index {
            probe::ARGUMENT => value == self.argument,
            probe::STACK => value == self.stack,
            _ if probe::MAY_SHOW_OWN_STATE.contains(&index) => {
                // A pc, flags (interrupts on, bit 1 fixed) or the thread pointer: all its own.
                [0, self.entry, 0x202, self.argument].contains(&value)
            }
            _ => value == 0,
        };
        self.registers.iter().enumerate().find(|&(index, (_, value))| !right(index, value)).map(|(_, wrong)| wrong)
    }
}

/// Starts a thread whose first instructions store its registers; its thread pointer is its argument.
pub fn registers_at_start() -> Result<Start, Error> {
    registers_of(|entry, stack, argument| {
        // SAFETY: `store_start` writes to its argument only, a `Registers` that lives for ever unless given back below.
        unsafe { thread::create(entry, stack, argument, 0, argument, OWN_QUOTA) }.map(drop)
    })
}

/// The same of a thread that is made suspended; `make` says which, and the registers that it starts with, where it is
/// told entry, stack and argument.
pub fn registers_written(
    make: impl FnOnce(u64, u64, u64) -> (call::Capability, abi::Registers),
) -> Result<Start, Error> {
    registers_of(|entry, stack, argument| {
        let (thread, registers) = make(entry, stack, argument);
        assert!(registers.pc == entry && registers.general[probe::ARGUMENT] == argument, "that could do anything");
        // SAFETY: as in `registers_at_start`.
        unsafe { call::thread_write(thread, &registers) }?;
        call::thread_control(thread, abi::ThreadAction::Resume, 0).map(drop)
    })
}

fn registers_of(start: impl FnOnce(u64, u64, u64) -> Result<(), Error>) -> Result<Start, Error> {
    const STACK: usize = 1024;
    let registers = Box::into_raw(Box::new(Registers::new()));
    let stack = Box::into_raw(Box::new([0_u128; STACK / 16]));
    let (entry, argument, top) =
        (probe::store_start as *const () as u64, registers as u64, stack as u64 + STACK as u64);
    // SAFETY: nobody else has the box yet.
    unsafe { (*registers).own_address = argument };
    start(entry, top, argument)?;
    // SAFETY: the flag is atomic, and the rest is not looked at until it is set.
    while unsafe { &(*registers).flag }.load(Ordering::Acquire) == 0 {
        call::yield_now();
    }
    // SAFETY: the thread has stored its last; what it stored are words. Its stack, which it does not use but
    // which it may still point at, stays.
    let registers = unsafe { Box::from_raw(registers) };
    Ok(Start { registers, entry, stack: top, argument })
}

/// What fills the FPU's registers for somebody of that number.
#[must_use]
pub fn fpu_filling(number: u64) -> [u64; FPU_WORDS] {
    core::array::from_fn(|index| (number << 32) | (0x4000 + index as u64))
}

/// Fills the FPU's registers, and has all exceptions masked and rounding by that number too.
pub fn fill_fpu(number: u64) {
    load_fpu(&fpu_filling(number), number as u32 & 3);
}

/// # Panics
/// If the FPU's registers are not as [`fill_fpu`] of that number has left them.
pub fn check_fpu(number: u64) {
    assert_eq!(store_fpu(), (fpu_filling(number), number as u32 & 3));
}

/// Fills every register, makes a call that takes no address, and gives the first register that has changed
/// though it is not a result.
#[must_use]
pub fn first_changed_by(call: Call) -> Option<(&'static str, u64)> {
    assert!(matches!(call, Call::Null | Call::Clock | Call::Yield), "{call:?} may write memory");
    let mut registers = Box::new(Registers::new());
    // SAFETY: these three calls write no memory.
    unsafe { probe::across_call(call as u64, &mut registers) };
    first_changed(&registers, call as u64, |index| probe::RESULTS.contains(&index))
}

/// The same, of any number, in a thread of which all calls are told: its result, and the first other that has changed.
#[must_use]
pub fn first_changed_by_foreign(number: u64) -> (u64, Option<(&'static str, u64)>) {
    assert_foreign(number);
    let mut registers = Box::new(Registers::new());
    // SAFETY: the kernel writes no memory for that number.
    unsafe { probe::across_call(number, &mut registers) };
    let [result, _, by_instruction @ ..] = probe::RESULTS else { unreachable!("a call has two results") };
    let may_change = |index| index == *result || by_instruction.contains(&index);
    (registers.words[*result], first_changed(&registers, number, may_change))
}

/// What those two fill a register with.
#[must_use]
pub const fn filling(index: usize) -> u64 {
    0x5100 + index as u64
}

fn first_changed(
    registers: &Registers,
    number: u64,
    may_change: impl Fn(usize) -> bool,
) -> Option<(&'static str, u64)> {
    let stack = &raw const *registers as u64 + probe::STACK_AT;
    let right = |index: usize, name, value| {
        may_change(index)
            || match index {
                probe::STACK => value == stack,
                probe::NUMBER => value == number,
                _ => name == "zero" && value == 0 || value == filling(index),
            }
    };
    registers.iter().enumerate().find(|&(index, (name, value))| !right(index, name, value)).map(|(_, wrong)| wrong)
}

/// Makes a call as other systems do; in a native thread it is the null call, or none.
#[inline(always)]
#[must_use]
pub fn foreign_call(number: u64, arguments: [u64; 6]) -> u64 {
    assert_foreign(number);
    // SAFETY: the kernel writes no memory for that number.
    unsafe { probe::foreign_call(number, arguments) }
}

fn assert_foreign(number: u64) {
    assert!(number == Call::Null as u64 || number >= 1 << 10, "call {number} may write memory");
}

unsafe extern "C" {
    // Bounds of the image, from the linker script; only their addresses mean anything.
    safe static __image_start: u8;
    safe static __data_start: u8;
    safe static __image_end: u8;
}

/// First address of this program's image.
#[must_use]
pub fn image_start() -> u64 {
    &raw const __image_start as u64
}

/// First address behind this program's image; nothing is mapped there.
#[must_use]
pub fn image_end() -> u64 {
    &raw const __image_end as u64
}

/// An address whose page programs may execute and not write.
#[must_use]
pub fn code_address() -> u64 {
    probe::load as *const () as u64
}

/// Makes any call with any arguments, as long as none of them is a place where this program keeps data:
/// then the kernel has nothing to overwrite that Rust knows of, whatever it takes for an address.
#[must_use]
pub fn raw_call(number: u64, arguments: [u64; 6]) -> Outcome {
    let data = &raw const __data_start as u64..image_end();
    let stack = STACK_TOP - STACK_SIZE..STACK_TOP;
    let forbidden = |address: &u64| data.contains(address) || stack.contains(address);
    assert!(!arguments.iter().any(forbidden), "an argument is an address of this program's data");
    assert!(number != Call::ThreadCreate as u64, "a thread of raw parts could run anything");
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: no argument is the address of data, and PROGRAM_BASE up to the data is not writable.
    unsafe { arch::call6(number, a, b, c, d, e, f) }
}

/// What the registers of a message call hold afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawMessage {
    pub status: u64,
    pub badge: u64,
    pub info: u64,
    pub words: [u64; MESSAGE_WORDS],
}

/// Makes a message call with any flags in its number, and with any capability, info word and words.
#[must_use]
pub fn raw_message(
    number: u64,
    capability: u64,
    deadline: u64,
    info: u64,
    mut words: [u64; MESSAGE_WORDS],
) -> RawMessage {
    let call = number as u8 as u64;
    assert!((Call::Call as u64..=Call::Reply as u64).contains(&call), "call {call} may write memory");
    let (status, info, badge) = arch::message_until(number, capability, deadline, MessageInfo(info), &mut words);
    RawMessage { status, badge, info: info.0, words }
}

/// Asks for a thread at `entry`, which must be refused.
#[must_use]
pub fn refused_thread(entry: u64, place: u64) -> Option<Error> {
    assert!(entry >= STACK_TOP || place != 0, "such a thread could run");
    // SAFETY: nothing of this program is at or above the end of its stack, and a CPU that does not exist
    // runs no thread.
    unsafe { thread::create(entry, STACK_TOP, 0, place, 0, OWN_QUOTA) }.err()
}

/// Writes `length` bytes from `address` to the console: the kernel only reads there.
pub fn debug_write_at(address: u64, length: u64) -> Result<u64, Error> {
    // SAFETY: the call reads memory of this process and writes none.
    let outcome = unsafe { arch::call2(Call::DebugWrite as u64, address, length) };
    Error::from_status(outcome.status).map_or(Ok(outcome.value), Err)
}

/// Asks for a buffer page that begins off a page, which must be refused.
pub fn buffer_set_beside(buffer: &'static call::Buffer, offset: u64) -> Result<u64, Error> {
    assert!(offset != 0 && offset < PAGE_SIZE, "that is where a page begins");
    // SAFETY: the call itself writes nothing; were it not refused, its page would be that of `buffer`, whose words are
    // atomic.
    let outcome = unsafe { arch::call1(Call::BufferSet as u64, &raw const *buffer as u64 + offset) };
    Error::from_status(outcome.status).map_or(Ok(outcome.value), Err)
}

/// What else the program `faults` does, by its argument.
pub mod role {
    /// Panics.
    pub const PANIC: u64 = 100;
    /// Overwrites its own data, then ends with status 0.
    pub const SCRIBBLE: u64 = 101;
    /// Ends with status 0 if nothing that wants the resource works without it.
    pub const NO_AUTHORITY: u64 = 102;
    /// Ends with status 7 while its other threads spin, one on each CPU.
    pub const LEAVE_THREADS: u64 = 103;
    /// Ends with status 7 once very many threads have slept till the same time, heard of the end of the process in slot 1,
    /// of which slot 2 is the thread, and had a bit each of a notification.
    pub const CROWD: u64 = 104;
}

/// Ways to break, by the argument that the program `faults` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Break {
    NullRead,
    NullWrite,
    TextWrite,
    RodataWrite,
    KernelRead,
    KernelWrite,
    StackExecute,
    DataExecute,
    IllegalInstruction,
    PrivilegedInstruction,
    Breakpoint,
    Misaligned,
    FloatingPoint,
    StackOverflow,
    /// x86_64 only: division by zero is no fault elsewhere.
    DivideByZero,
}

impl Break {
    /// All that this architecture has.
    pub const ALL: &'static [Self] = &[
        Self::NullRead,
        Self::NullWrite,
        Self::TextWrite,
        Self::RodataWrite,
        Self::KernelRead,
        Self::KernelWrite,
        Self::StackExecute,
        Self::DataExecute,
        Self::IllegalInstruction,
        Self::PrivilegedInstruction,
        Self::Breakpoint,
        Self::Misaligned,
        Self::FloatingPoint,
        Self::StackOverflow,
        #[cfg(target_arch = "x86_64")]
        Self::DivideByZero,
    ];

    /// Does it. It returns only if the kernel let it pass.
    pub fn now(self) {
        static DATA: AtomicU64 = AtomicU64::new(0);
        let on_stack = 0_u64;
        let kernel = call::info(abi::Info::UserLimit, 0).map_or(u64::MAX, |limit| limit.wrapping_neg()) & !7;
        match self {
            Self::NullRead => probe::load(0),
            // SAFETY: nothing lies at address 0.
            Self::NullWrite => unsafe { probe::store(0) },
            // SAFETY: a program's text and constants cannot be written; if they can, the test fails next.
            Self::TextWrite => unsafe { probe::store(PROGRAM_BASE) },
            // SAFETY: as above.
            Self::RodataWrite => unsafe { probe::store("constant".as_ptr() as u64 & !7) },
            Self::KernelRead => probe::load(kernel),
            // SAFETY: nothing of this program lies in the kernel's half.
            Self::KernelWrite => unsafe { probe::store(kernel) },
            // SAFETY: neither is executable; the zeros there are no code.
            Self::StackExecute => unsafe { probe::jump(&raw const on_stack as u64) },
            // SAFETY: as above.
            Self::DataExecute => unsafe { probe::jump(DATA.as_ptr() as u64) },
            Self::IllegalInstruction => probe::illegal_instruction(),
            Self::PrivilegedInstruction => probe::privileged_instruction(),
            Self::Breakpoint => probe::breakpoint(),
            Self::Misaligned => probe::misaligned(),
            Self::FloatingPoint => probe::floating_point(),
            Self::StackOverflow => probe::overflow_stack(),
            #[cfg(target_arch = "x86_64")]
            Self::DivideByZero => probe::divide_by_zero(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::DivideByZero => {}
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use probe::call_with_odd_flags;
#[cfg(target_arch = "aarch64")]
pub use probe::sve;

//! Raw registers and deliberate faults.

use crate::probe::Registers;
use abi::Call;
use core::arch::{asm, naked_asm};

/// Places of registers in [`Registers`]: hardware numbers, the stack pointer last.
pub const NAMES: [&str; 32] = [
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17",
    "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30", "sp",
];
pub const ARGUMENT: usize = 0;
pub const STACK: usize = 31;
pub const MAY_SHOW_OWN_STATE: &[usize] = &[];
pub const NUMBER: usize = 10;
/// Where number and arguments of a call are by the convention of C.
pub const FOREIGN: [usize; 7] = [8, 0, 1, 2, 3, 4, 5];
/// Bytes of the instruction of a call.
pub const CALL_SIZE: u64 = 4;
/// Registers that a system call may change.
pub const RESULTS: &[usize] = &[0, 1];
/// Bytes from the start of `Registers` at which a stack pointer is stored that points there.
pub const STACK_AT: u64 = 0;

/// Fills every register, makes a system call, stores every register. The stack pointer is at the start of
/// `registers` meanwhile: neither the kernel nor anybody else may touch a program's stack.
///
/// # Safety
/// The call must not write memory when its arguments are the filling.
#[unsafe(naked)]
pub unsafe extern "C" fn across_call(number: u64, registers: &mut Registers) {
    naked_asm!(
        "stp x19, x20, [sp, #-96]!",
        "stp x21, x22, [sp, #16]",
        "stp x23, x24, [sp, #32]",
        "stp x25, x26, [sp, #48]",
        "stp x27, x28, [sp, #64]",
        "stp x29, x30, [sp, #80]",
        "mov x9, sp",
        "str x9, [x1, #256]",
        "mov sp, x1",
        "mov x10, x0",
        ".irp i, 0,1,2,3,4,5,6,7,8,9,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30",
        "movz x\\i, #(0x5100 + \\i)",
        ".endr",
        "svc #0",
        "stp x0, x1, [sp]",
        "stp x2, x3, [sp, #16]",
        "stp x4, x5, [sp, #32]",
        "stp x6, x7, [sp, #48]",
        "stp x8, x9, [sp, #64]",
        "stp x10, x11, [sp, #80]",
        "stp x12, x13, [sp, #96]",
        "stp x14, x15, [sp, #112]",
        "stp x16, x17, [sp, #128]",
        "stp x18, x19, [sp, #144]",
        "stp x20, x21, [sp, #160]",
        "stp x22, x23, [sp, #176]",
        "stp x24, x25, [sp, #192]",
        "stp x26, x27, [sp, #208]",
        "stp x28, x29, [sp, #224]",
        "mov x9, sp",
        "stp x30, x9, [sp, #240]",
        "ldr x9, [sp, #256]",
        "mov sp, x9",
        "ldp x21, x22, [sp, #16]",
        "ldp x23, x24, [sp, #32]",
        "ldp x25, x26, [sp, #48]",
        "ldp x27, x28, [sp, #64]",
        "ldp x29, x30, [sp, #80]",
        "ldp x19, x20, [sp], #96",
        "ret",
    )
}

/// Entry of a thread that stores its first registers where its argument points, then ends.
#[unsafe(naked)]
pub extern "C" fn store_start(registers: *mut Registers) -> ! {
    naked_asm!(
        "stp x0, x1, [x0]", "stp x2, x3, [x0, #16]", "stp x4, x5, [x0, #32]", "stp x6, x7, [x0, #48]",
        "stp x8, x9, [x0, #64]", "stp x10, x11, [x0, #80]", "stp x12, x13, [x0, #96]", "stp x14, x15, [x0, #112]",
        "stp x16, x17, [x0, #128]", "stp x18, x19, [x0, #144]", "stp x20, x21, [x0, #160]",
        "stp x22, x23, [x0, #176]", "stp x24, x25, [x0, #192]", "stp x26, x27, [x0, #208]",
        "stp x28, x29, [x0, #224]", "mov x1, sp", "stp x30, x1, [x0, #240]",
        "mrs x1, tpidr_el0", "str x1, [x0, #264]",
        "mov x1, #1", "add x2, x0, #256", "stlr x1, [x2]",
        "mov x10, {exit}", "svc #0", "udf #0",
        exit = const Call::ThreadExit as u64,
    )
}

/// Makes a call by the convention of C, and with its number where this kernel's own have it, too.
///
/// # Safety
/// The call must not write memory.
#[inline(always)]
pub unsafe fn foreign_call(number: u64, [a, b, c, d, e, f]: [u64; 6]) -> u64 {
    let result;
    // SAFETY: the caller's promise; no other register changes.
    unsafe {
        asm!(
            "svc #0", in("x8") number, in("x10") number, inlateout("x0") a => result, inlateout("x1") b => _, in("x2") c,
            in("x3") d, in("x4") e, in("x5") f, options(nostack),
        )
    }
    result
}

/// `cntd x0`: an instruction of SVE, which programs do not have.
#[unsafe(naked)]
pub extern "C" fn sve() -> u64 {
    naked_asm!(".inst 0x04e0e3e0", "ret")
}

/// Loads the word at `address`, with its first instruction.
#[unsafe(naked)]
pub extern "C" fn load_word(address: u64) -> u64 {
    naked_asm!("ldr x0, [x0]", "ret")
}

/// Begins with an undefined instruction of so many bytes; whoever skips it says what it returns.
#[unsafe(naked)]
pub extern "C" fn undefined() -> u64 {
    naked_asm!("udf #0", "ret")
}
pub const UNDEFINED_SIZE: u64 = 4;

pub fn illegal_instruction() {
    // SAFETY: it faults, which is what it is for.
    unsafe { asm!("udf #0") };
}

pub fn privileged_instruction() {
    // SAFETY: as above; a program may not read the kernel's registers.
    unsafe { asm!("mrs {}, ttbr1_el1", out(reg) _) };
}

pub fn breakpoint() {
    // SAFETY: as above.
    unsafe { asm!("brk #0") };
}

/// `fmov d0, xzr`, as a number because the target's assembler knows no floating point.
pub fn floating_point() {
    // SAFETY: as above; no compiled code uses the register that it would change.
    unsafe { asm!(".inst 0x9e6703e0") };
}

/// A jump to an address that is not a multiple of four.
pub fn misaligned() {
    // SAFETY: as above.
    unsafe { asm!("adr {0}, .", "add {0}, {0}, #2", "br {0}", out(reg) _) };
}

pub fn overflow_stack() {
    // SAFETY: it writes below the stack pointer only, until the guard page stops it.
    unsafe { asm!("2:", "str xzr, [sp, #-16]!", "b 2b", options(noreturn)) };
}

pub fn load(address: u64) {
    // SAFETY: loading has no effect but the fault that it is for.
    unsafe { asm!("ldr {0}, [{0}]", inout(reg) address => _, options(readonly)) };
}

/// # Safety
/// Nothing that Rust knows may lie at `address`, unless the store faults.
pub unsafe fn store(address: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("str xzr, [{0}]", in(reg) address) };
}

/// # Safety
/// There must be no code at `address` that could do harm.
pub unsafe fn jump(address: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("blr {0}", in(reg) address, clobber_abi("C")) };
}

/// Words of the FPU's registers: `v0` to `v31`.
pub const FPU_WORDS: usize = 64;
/// Where `FPCR` has the direction of rounding.
const ROUNDING_AT: u64 = 22;

/// Fills the FPU's registers.
pub fn load_fpu(words: &[u64; FPU_WORDS], rounding: u32) {
    // SAFETY: it reads the words, and the compiler uses none of these registers.
    unsafe {
        asm!(
            ".arch_extension simd",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "ldr q\\n, [{}, #16 * \\n]", ".endr", "msr fpcr, {}",
            in(reg) words, in(reg) u64::from(rounding) << ROUNDING_AT, options(nostack, readonly)
        );
    }
}

/// What the FPU's registers hold, and the direction of rounding.
pub fn store_fpu() -> ([u64; FPU_WORDS], u32) {
    let mut words = [0; FPU_WORDS];
    let control: u64;
    // SAFETY: it writes the words.
    unsafe {
        asm!(
            ".arch_extension simd",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "str q\\n, [{}, #16 * \\n]", ".endr", "mrs {}, fpcr",
            in(reg) &mut words, out(reg) control, options(nostack)
        );
    }
    (words, (control >> ROUNDING_AT) as u32 & 3)
}

/// Adds up 1, 2 and 4 in the first result register, and gives way for ever.
#[unsafe(naked)]
pub extern "C" fn stepped() -> ! {
    naked_asm!("mov x0, #0", "add x0, x0, #1", "add x0, x0, #2", "add x0, x0, #4", "2:", "mov x10, {}", "svc #0", "b 2b", const Call::Yield as u64)
}
/// Bytes of its first instructions.
pub const STEPS: &[u64] = &[4; 4];

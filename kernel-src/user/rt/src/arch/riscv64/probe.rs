//! Raw registers and deliberate faults.

use crate::probe::Registers;
use abi::Call;
use core::arch::{asm, naked_asm};

/// Places of registers in [`Registers`]: hardware numbers.
pub const NAMES: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "s2",
    "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];
pub const ARGUMENT: usize = 10;
pub const STACK: usize = 2;
/// The thread pointer is what the thread was created with.
pub const MAY_SHOW_OWN_STATE: &[usize] = &[4];
pub const NUMBER: usize = 5;
/// Where number and arguments of a call are by the convention of C.
pub const FOREIGN: [usize; 7] = [17, 10, 11, 12, 13, 14, 15];
/// Bytes of the instruction of a call.
pub const CALL_SIZE: u64 = 4;
/// Registers that a system call may change.
pub const RESULTS: &[usize] = &[10, 11];
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
        "addi sp, sp, -128",
        "sd ra, 0(sp)",
        "sd gp, 8(sp)",
        "sd tp, 16(sp)",
        "sd s0, 24(sp)",
        "sd s1, 32(sp)",
        "sd s2, 40(sp)",
        "sd s3, 48(sp)",
        "sd s4, 56(sp)",
        "sd s5, 64(sp)",
        "sd s6, 72(sp)",
        "sd s7, 80(sp)",
        "sd s8, 88(sp)",
        "sd s9, 96(sp)",
        "sd s10, 104(sp)",
        "sd s11, 112(sp)",
        "sd sp, 256(a1)",
        "mv sp, a1",
        "mv t0, a0",
        ".irp i, 1,3,4,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
        "li x\\i, 0x5100 + \\i",
        ".endr",
        "ecall",
        ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
        "sd x\\i, 8*\\i(sp)",
        ".endr",
        "ld sp, 256(sp)",
        "ld ra, 0(sp)",
        "ld gp, 8(sp)",
        "ld tp, 16(sp)",
        "ld s0, 24(sp)",
        "ld s1, 32(sp)",
        "ld s2, 40(sp)",
        "ld s3, 48(sp)",
        "ld s4, 56(sp)",
        "ld s5, 64(sp)",
        "ld s6, 72(sp)",
        "ld s7, 80(sp)",
        "ld s8, 88(sp)",
        "ld s9, 96(sp)",
        "ld s10, 104(sp)",
        "ld s11, 112(sp)",
        "addi sp, sp, 128",
        "ret",
    )
}

/// Entry of a thread that stores its first registers where its argument points, then ends.
#[unsafe(naked)]
pub extern "C" fn store_start(registers: *mut Registers) -> ! {
    naked_asm!(
        ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
        "sd x\\i, 8*\\i(a0)",
        ".endr",
        "sd tp, 264(a0)",
        "li t1, 1", "fence rw, w", "sd t1, 256(a0)",
        "li t0, {exit}", "ecall", "unimp",
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
            "ecall", in("a7") number, in("t0") number, inlateout("a0") a => result, inlateout("a1") b => _, in("a2") c,
            in("a3") d, in("a4") e, in("a5") f, options(nostack),
        )
    }
    result
}

/// Loads the word at `address`, with its first instruction.
#[unsafe(naked)]
pub extern "C" fn load_word(address: u64) -> u64 {
    naked_asm!("ld a0, 0(a0)", "ret")
}

/// Begins with an undefined instruction of so many bytes; whoever skips it says what it returns.
#[unsafe(naked)]
pub extern "C" fn undefined() -> u64 {
    naked_asm!(".2byte 0", "ret")
}
pub const UNDEFINED_SIZE: u64 = 2;

pub fn illegal_instruction() {
    // SAFETY: it faults, which is what it is for.
    unsafe { asm!("unimp") };
}

pub fn privileged_instruction() {
    // SAFETY: as above; a program may not read the kernel's registers.
    unsafe { asm!("csrr {}, sstatus", out(reg) _) };
}

pub fn breakpoint() {
    // SAFETY: as above.
    unsafe { asm!("ebreak") };
}

/// `fmv.d.x f0, zero`, as a number so that it does not hang on the target's features.
pub fn floating_point() {
    // SAFETY: as above; it runs as the last thing of its program.
    unsafe { asm!(".4byte 0xf2000053") };
}

/// An atomic access to an address that is not a multiple of its size: the one misalignment that no
/// implementation with compressed instructions resolves.
pub fn misaligned() {
    // SAFETY: as above; `lr` writes nothing.
    unsafe { asm!("addi {0}, sp, 1", "lr.d {0}, ({0})", out(reg) _) };
}

pub fn overflow_stack() {
    // SAFETY: it writes below the stack pointer only, until the guard page stops it.
    unsafe { asm!("2:", "addi sp, sp, -16", "sd zero, 0(sp)", "j 2b", options(noreturn)) };
}

pub fn load(address: u64) {
    // SAFETY: loading has no effect but the fault that it is for.
    unsafe { asm!("ld {0}, 0({0})", inout(reg) address => _, options(readonly)) };
}

/// # Safety
/// Nothing that Rust knows may lie at `address`, unless the store faults.
pub unsafe fn store(address: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("sd zero, 0({0})", in(reg) address) };
}

/// # Safety
/// There must be no code at `address` that could do harm.
pub unsafe fn jump(address: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("jalr {0}", in(reg) address, clobber_abi("C")) };
}

/// Words of the FPU's registers: `f0` to `f31`.
pub const FPU_WORDS: usize = 32;
/// Where `fcsr` has the direction of rounding.
const ROUNDING_AT: u64 = 5;

/// Fills the FPU's registers.
pub fn load_fpu(words: &[u64; FPU_WORDS], rounding: u32) {
    // SAFETY: it reads the words, and the compiler uses none of these registers.
    unsafe {
        asm!(
            ".option push", ".option arch, +d",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "fld f\\n, 8 * \\n({})", ".endr", "fscsr {}", ".option pop",
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
            ".option push", ".option arch, +d",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "fsd f\\n, 8 * \\n({})", ".endr", "frcsr {}", ".option pop",
            in(reg) &mut words, out(reg) control, options(nostack)
        );
    }
    (words, (control >> ROUNDING_AT) as u32 & 3)
}

/// There are no steps.
pub extern "C" fn stepped() -> ! {
    unreachable!("no thread was to run this")
}
pub const STEPS: &[u64] = &[];

//! Raw registers and deliberate faults.

use crate::probe::Registers;
use abi::Call;
use core::arch::{asm, naked_asm};

/// Places of registers in [`Registers`]: hardware numbers.
pub const NAMES: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
pub const ARGUMENT: usize = 7;
pub const STACK: usize = 4;
/// `syscall` writes these two, so leaving the kernel by `sysret` shows the thread its own pc and flags in them.
pub const MAY_SHOW_OWN_STATE: &[usize] = &[1, 11];
pub const NUMBER: usize = 0;
/// Where number and arguments of a call are by the convention of C.
pub const FOREIGN: [usize; 7] = [0, 7, 6, 2, 10, 8, 9];
/// Bytes of the instruction of a call.
pub const CALL_SIZE: u64 = 2;
/// Registers that a system call may change.
pub const RESULTS: &[usize] = &[0, 2, 1, 11];
/// Bytes from the start of `Registers` at which a stack pointer is stored that points there.
pub const STACK_AT: u64 = 5 * 8;

/// Fills every register, makes a system call, stores every register. The stack pointer is in the midst of
/// `registers` meanwhile: neither the kernel nor anybody else may touch a program's stack.
///
/// # Safety
/// The call must not write memory when its arguments are the filling.
#[unsafe(naked)]
pub unsafe extern "C" fn across_call(number: u64, registers: &mut Registers) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rsi + 256], rsp",
        "lea rsp, [rsi + 128]",
        "mov rax, rdi",
        "mov ecx, 0x5101",
        "mov edx, 0x5102",
        "mov ebx, 0x5103",
        "mov ebp, 0x5105",
        "mov esi, 0x5106",
        "mov edi, 0x5107",
        "mov r8d, 0x5108",
        "mov r9d, 0x5109",
        "mov r10d, 0x510a",
        "mov r11d, 0x510b",
        "mov r12d, 0x510c",
        "mov r13d, 0x510d",
        "mov r14d, 0x510e",
        "mov r15d, 0x510f",
        "syscall",
        "push r15",
        "push r14",
        "push r13",
        "push r12",
        "push r11",
        "push r10",
        "push r9",
        "push r8",
        "push rdi",
        "push rsi",
        "push rbp",
        "push rsp",
        "push rbx",
        "push rdx",
        "push rcx",
        "push rax",
        "mov rsp, [rsp + 256]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Entry of a thread that stores its first registers where its argument points, then ends.
#[unsafe(naked)]
pub extern "C" fn store_start(registers: *mut Registers) -> ! {
    naked_asm!(
        "mov [rdi], rax", "mov [rdi + 8], rcx", "mov [rdi + 16], rdx", "mov [rdi + 24], rbx",
        "mov [rdi + 32], rsp", "mov [rdi + 40], rbp", "mov [rdi + 48], rsi", "mov [rdi + 56], rdi",
        "mov [rdi + 64], r8", "mov [rdi + 72], r9", "mov [rdi + 80], r10", "mov [rdi + 88], r11",
        "mov [rdi + 96], r12", "mov [rdi + 104], r13", "mov [rdi + 112], r14", "mov [rdi + 120], r15",
        // Word 34 holds its structure's address, and the thread pointer was set to that address.
        "mov rax, fs:[272]", "mov [rdi + 264], rax",
        "mov qword ptr [rdi + 256], 1",
        "mov eax, {exit}", "syscall", "ud2",
        exit = const Call::ThreadExit as u64,
    )
}

/// Makes the null call with the direction, alignment-check and identification flags set.
pub fn call_with_odd_flags() {
    // SAFETY: the flags are back before Rust code runs again; the null call writes no memory.
    unsafe {
        asm!("pushfq", "pushfq", "or dword ptr [rsp], 0x240400", "popfq", "xor eax, eax", "syscall", "popfq",
            out("rax") _, out("rdx") _, out("rcx") _, out("r11") _)
    };
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
            "syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, inlateout("rdx") c => _, in("r10") d,
            in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack),
        )
    }
    result
}

/// Loads the word at `address`, with its first instruction.
#[unsafe(naked)]
pub extern "C" fn load_word(address: u64) -> u64 {
    naked_asm!("mov rax, [rdi]", "ret")
}

/// Begins with an undefined instruction of so many bytes; whoever skips it says what it returns.
#[unsafe(naked)]
pub extern "C" fn undefined() -> u64 {
    naked_asm!("ud2", "ret")
}
pub const UNDEFINED_SIZE: u64 = 2;

pub fn illegal_instruction() {
    // SAFETY: it faults, which is what it is for.
    unsafe { asm!("ud2") };
}

pub fn privileged_instruction() {
    // SAFETY: as above; a program may not stop the CPU.
    unsafe { asm!("hlt") };
}

pub fn breakpoint() {
    // SAFETY: as above.
    unsafe { asm!("int3") };
}

pub fn floating_point() {
    // SAFETY: as above; no compiled code uses the registers that it would change.
    unsafe { asm!("addps xmm0, xmm0") };
}

pub fn divide_by_zero() {
    // SAFETY: as above.
    unsafe { asm!("xor ecx, ecx", "div ecx", out("eax") _, out("ecx") _, out("edx") _) };
}

/// A jump to what is no address at all.
pub fn misaligned() {
    // SAFETY: as above.
    unsafe { asm!("mov rax, 0x1234567812345678", "jmp rax", out("rax") _) };
}

pub fn overflow_stack() {
    // SAFETY: it writes below the stack pointer only, until the guard page stops it.
    unsafe { asm!("2:", "push rax", "jmp 2b", options(noreturn)) };
}

pub fn load(address: u64) {
    // SAFETY: loading has no effect but the fault that it is for.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _, options(readonly)) };
}

/// # Safety
/// Nothing that Rust knows may lie at `address`, unless the store faults.
pub unsafe fn store(address: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov qword ptr [{0}], 0", in(reg) address) };
}

/// # Safety
/// There must be no code at `address` that could do harm.
pub unsafe fn jump(address: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("call {0}", in(reg) address, clobber_abi("C")) };
}

/// Words of the FPU's registers: `xmm0` to `xmm15`, and where `ldmxcsr` puts the direction of rounding.
pub const FPU_WORDS: usize = 32;
const ROUNDING_AT: u32 = 13;
/// All exceptions masked (SDM vol. 1, 10.2.3).
const CONTROL: u32 = 0x1F80;

/// Fills the FPU's registers.
pub fn load_fpu(words: &[u64; FPU_WORDS], rounding: u32) {
    let control = CONTROL | rounding << ROUNDING_AT;
    // SAFETY: it reads the words and the control word, and the compiler uses none of these registers.
    unsafe {
        asm!(
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15", "movdqu xmm\\n, [{} + 16 * \\n]", ".endr", "ldmxcsr [{}]",
            in(reg) words, in(reg) &control, options(nostack, readonly)
        );
    }
}

/// What the FPU's registers hold, and the direction of rounding.
pub fn store_fpu() -> ([u64; FPU_WORDS], u32) {
    let (mut words, mut control) = ([0; FPU_WORDS], 0_u32);
    // SAFETY: it writes the words and the control word.
    unsafe {
        asm!(
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15", "movdqu [{} + 16 * \\n], xmm\\n", ".endr", "stmxcsr [{}]",
            in(reg) &mut words, in(reg) &mut control, options(nostack)
        );
    }
    (words, control >> ROUNDING_AT & 3)
}

/// Adds up 1, 2 and 4 in the first result register, and gives way for ever.
#[unsafe(naked)]
pub extern "C" fn stepped() -> ! {
    naked_asm!("xor eax, eax", "add rax, 1", "add rax, 2", "add rax, 4", "2:", "mov eax, {}", "syscall", "jmp 2b", const Call::Yield as u64)
}
/// Bytes of its first instructions.
pub const STEPS: &[u64] = &[2, 4, 4, 4];

//! Traps: entry from user mode and from the kernel, and what they mean.
//!
//! A trap from user mode saves straight into the current thread's `Frame`
//! and goes on at the top of the CPU's stack. System calls that cannot block
//! save only what the C ABI clobbers. A trap from the kernel is an exception:
//! a faulted copy, which has a way on, or the end.

use super::cpu::ArchCpu;
use super::task::{self, Frame};
use super::{irq, mm, read_csr};
use crate::addr::VirtAddr;
use crate::config::{EXCEPTION_STACK_SIZE, KERNEL_STACK_SIZE};
use crate::object::{FPU, Thread};
use crate::percpu::{self, PerCpu};
use crate::trap::{self, Cause, Fault};
use crate::{panic, syscall};
use core::arch::{asm, naked_asm};
use core::mem::offset_of;

const INTERRUPT: u64 = 1 << 63;

/// An exception (Privileged, table 4.2, as `decode` has it).
const USER_CALL: u64 = 8;

/// First stage of every entry: this CPU's data in `tp`, or on to `8` from the kernel, where `sscratch` is 0.
/// Here tables are switched when isolation is on.
macro_rules! entry_stage {
    () => {
        "csrrw tp, sscratch, tp\nbeqz tp, 8f"
    };
}

/// Saves or loads registers, by their numbers, in the `Frame` that `$frame` points at.
macro_rules! registers {
    ($instruction:literal, $frame:literal: $numbers:literal) => {
        concat!(".irp n, ", $numbers, "\n", $instruction, " x\\n, (\\n - 1) * 8(", $frame, ")\n.endr")
    };
}

/// Last stage of the way out: `sscratch` says "user mode". Here tables are switched when isolation is on.
macro_rules! exit_stage {
    () => {
        "csrw sscratch, tp"
    };
}
pub(super) use exit_stage;
pub(super) use registers;

/// Makes `entry` this CPU's only trap vector (Privileged 4.1.2, direct mode).
pub fn install_vector() {
    // SAFETY: `entry` is aligned to four bytes and takes every trap; `sscratch` says "kernel".
    unsafe { asm!("csrw sscratch, zero", "csrw stvec, {}", in(reg) entry as *const () as usize, options(nostack)) };
}

/// Scratch words of `PerCpu`: 0 and 1 keep the program's `sp` and `tp`, 2 is for traps in the kernel.
#[unsafe(naked)]
pub unsafe extern "C" fn entry() {
    naked_asm!(
        ".balign 4",
        entry_stage!(),
        "sd sp, {scratch}(tp)",
        "ld sp, {current}(tp)",
        "sd t1, {t1}(sp)",
        "csrr t1, scause",
        "addi t1, t1, -{user_call}",
        "bnez t1, 3f",
        "ld t1, {simple_calls}(sp)",
        "bgeu t0, t1, 2f",

        // A simple call.
        registers!("sd", "sp": "1,5,7,12,13,14,15,16,17,28,29,30,31"),
        "csrrw t1, sscratch, zero",
        "sd t1, {scratch} + 8(tp)",
        // A fault in a copy would overwrite it.
        "csrr t1, sepc",
        "addi t1, t1, 4",
        "sd t1, {pc}(sp)",
        // A frame pointer is the caller's stack pointer: leave it below the top, as deep as the call is.
        "ld sp, {stack_top}(tp)",
        "addi sp, sp, -16",
        "lla t1, {simple}",
        "slli t0, t0, 3",
        "add t1, t1, t0",
        "ld t1, 0(t1)",
        "jalr t1",
        "ld sp, {current}(tp)",
        "ld t1, {pc}(sp)",
        "csrw sepc, t1",
        exit_stage!(),
        registers!("ld", "sp": "1,5,6,7,12,13,14,15,16,17,28,29,30,31"),
        "ld sp, {scratch}(tp)",
        "ld tp, {scratch} + 8(tp)",
        "sret",

        // Any other system call: the saved pc is behind it.
        "2:",
        "csrr t1, sepc",
        "addi t1, t1, 4",
        "sd t1, {pc}(sp)",
        "ld t1, {calls}(sp)",
        "j 4f",
        "3:",
        "csrr t1, sepc",
        "sd t1, {pc}(sp)",
        "lla t1, {from_user}",
        "4:",
        registers!("sd", "sp": "1,3,5,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"),
        "ld t0, {scratch}(tp)",
        "sd t0, 8(sp)",
        "csrrw t0, sscratch, zero",
        "sd t0, 24(sp)",
        "mv a2, tp",
        "mv a3, sp",
        "ld sp, {stack_top}(tp)",
        "li s0, 0",
        "li ra, 0",
        "jr t1",

        // From the kernel. Is there room on the stack, or on the emergency stack if that is in use?
        "8:",
        "csrrw tp, sscratch, tp",
        "sd t0, {scratch} + 16(tp)",
        "sd t1, {saved}(tp)",
        "ld t0, {stack_top}(tp)",
        "sub t0, t0, sp",
        "li t1, {stack_room}",
        "bltu t0, t1, 5f",
        "ld t0, {emergency}(tp)",
        "beqz t0, 5f",
        "sub t0, t0, sp",
        "li t1, {emergency_room}",
        "bltu t0, t1, 5f",
        "mv t1, sp",
        "ld sp, {emergency}(tp)",
        "j 6f",
        "5:",
        "mv t1, sp",
        "6:",
        "addi sp, sp, -{frame_size}",
        "sd t1, 8(sp)",
        "ld t0, {scratch} + 16(tp)",
        "ld t1, {saved}(tp)",
        registers!("sd", "sp": "1,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"),
        "csrr t0, sepc",
        "sd t0, {pc}(sp)",
        "mv a0, sp",
        "call {from_kernel}",
        "ld t0, {pc}(sp)",
        "csrw sepc, t0",
        registers!("ld", "sp": "1,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"),
        "ld sp, 8(sp)",
        "sret",
        scratch = const offset_of!(PerCpu, scratch),
        current = const offset_of!(PerCpu, current),
        stack_top = const offset_of!(PerCpu, stack_top),
        saved = const offset_of!(PerCpu, arch) + offset_of!(ArchCpu, saved),
        emergency = const offset_of!(PerCpu, arch) + offset_of!(ArchCpu, emergency_stack),
        stack_room = const KERNEL_STACK_SIZE - size_of::<Frame>(),
        emergency_room = const EXCEPTION_STACK_SIZE - size_of::<Frame>(),
        frame_size = const size_of::<Frame>(),
        t1 = const 5 * 8,
        pc = const task::PC,
        user_call = const USER_CALL,
        simple_calls = const offset_of!(Thread, simple_calls),
        calls = const offset_of!(Thread, calls),
        simple = sym syscall::SIMPLE,
        from_user = sym from_user,
        from_kernel = sym from_kernel,
    )
}

extern "C" fn from_user() -> ! {
    let (code, value) = (read_csr!("scause"), read_csr!("stval"));
    if code & INTERRUPT != 0 {
        irq::dispatch(code & !INTERRUPT);
        trap::interrupted()
    }
    trap::fault(fault(code, value, read_csr!("sepc") as usize))
}

/// Returns only to the way on after a faulted copy.
extern "C" fn from_kernel(frame: &mut Frame) {
    let (code, value) = (read_csr!("scause"), read_csr!("stval"));
    let cause = decode(code, value);
    let is_access = matches!(cause, Cause::Misaligned | Cause::ReadFault | Cause::WriteFault);
    match mm::fixup(frame.pc as usize).filter(|_| is_access) {
        Some(way_on) => frame.pc = way_on as u64,
        None => panic::exception(fault(code, value, frame.pc as usize), frame.frame_pointer(), frame),
    }
}

fn fault(code: u64, value: u64, pc: usize) -> Fault {
    let cause = decode(code, value);
    let has_address = matches!(cause, Cause::Misaligned | Cause::FetchFault | Cause::ReadFault | Cause::WriteFault);
    Fault { cause, address: has_address.then_some(VirtAddr(value as usize)), pc: VirtAddr(pc), code }
}

/// A cause in words (Privileged, table 4.2): accesses and pages are of a fetch, a load and a store, in this order.
fn decode(code: u64, value: u64) -> Cause {
    match code {
        0 | 4 | 6 => Cause::Misaligned,
        1 | 12 => Cause::FetchFault,
        5 | 13 => Cause::ReadFault,
        7 | 15 => Cause::WriteFault,
        2 => illegal(value as u32),
        3 => Cause::Breakpoint,
        19 => Cause::HardwareError,
        _ => Cause::Other,
    }
}

/// What an illegal instruction was meant to be: those of the FPU trap so where it is off.
/// Opcodes: Unprivileged, table "RISC-V base opcode map" and chapter "C". A hart that keeps the bits to
/// itself gives 0, which is illegal by definition.
fn illegal(instruction: u32) -> Cause {
    const CONTROL: u32 = 0x73;
    let (funct3, csr) = (instruction >> 12 & 7, instruction >> 20);
    let is_float_csr = matches!(csr, 1..=3);
    let is_on = percpu::this().extras.get() & FPU != 0;
    match instruction & 0x7F {
        CONTROL if funct3 == 0 || !is_float_csr => Cause::PrivilegedInstruction,
        _ if is_on => Cause::IllegalInstruction,
        // LOAD-FP, STORE-FP, MADD, MSUB, NMSUB, NMADD, OP-FP.
        CONTROL | 0x07 | 0x27 | 0x43 | 0x47 | 0x4B | 0x4F | 0x53 => Cause::FloatingPointDisabled,
        // C.FLD, C.FSD and their forms with the stack pointer.
        _ if instruction & 1 == 0 && matches!(instruction >> 13 & 7, 1 | 5) => Cause::FloatingPointDisabled,
        _ => Cause::IllegalInstruction,
    }
}

const _: () = assert!(offset_of!(PerCpu, arch) + size_of::<ArchCpu>() < 2048, "the stub's offsets fit an instruction");

//! Exceptions taken to EL1 (Arm ARM D1.3): the vectors, and what they mean.
//!
//! From user mode the stack pointer is always at the top of this CPU's kernel
//! stack. Entry has two stages. The first is the vector page: the one page
//! that a table for isolation would have to share with programs; a switch of
//! tables belongs into `first_stages!`. The second saves straight into the
//! current thread, or, for calls that cannot block, what the C ABI clobbers
//! on the stack, and keeps no copy of `ELR_EL1` and `SPSR_EL1`: in the kernel
//! only `copy_user` takes an exception that comes back, and it saves them.
//!
//! In the kernel FIQ is let through, so that a CPU that hangs there can be
//! stopped. SError is not, while there is a program that may have caused it:
//! it waits until that program goes on, and ends it.

use super::cpu::ArchCpu;
use super::{irq, mm, pairs, read_register, task};
use crate::addr::VirtAddr;
use crate::arch::frame::write_registers;
use crate::config::KERNEL_STACK_SIZE;
use crate::mm::user::UserBytes;
use crate::object::Thread;
use crate::percpu::PerCpu;
use crate::trap::{self, Cause, Fault};
use crate::{panic, syscall};
use core::arch::global_asm;
use core::fmt;
use core::mem::offset_of;
use task::Frame;

/// Bytes that the second stage keeps of a simple call: `x29`, `x30`, `x2` to `x18`, and eight to align the stack.
const CALL_FRAME: usize = 160;
/// What may lie below the stack and still tells of its overflow: the guard page.
const GUARD: usize = crate::config::PAGE_SIZE;

// Classes of exceptions (ESR_EL1.EC, D17.2.37).
const CLASS_UNKNOWN: u64 = 0x00;
const CLASS_SVC: u64 = 0x15;
const CLASS_DATA_KERNEL: u64 = 0x25;

// Which vector, as the first stage tells it.
const VECTOR_SYNC: u64 = 0;
const VECTOR_IRQ: u64 = 1;
const VECTOR_FIQ: u64 = 2;
const VECTOR_SERROR: u64 = 3;
/// On the stack pointer of user mode, or from AArch32: this kernel does neither.
const VECTOR_UNUSED: u64 = 4;

/// Registers when an exception came in the kernel.
#[repr(C)]
struct KernelFrame {
    x: [u64; 31],
    sp: u64,
    pc: u64,
    state: u64,
    syndrome: u64,
    address: u64,
}

impl fmt::Display for KernelFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_registers(f, task::NAMES.iter().zip(&self.x))?;
        write!(
            f,
            "\n  sp ={:016x} pc ={:016x} pstate={:08x} esr={:08x} far={:016x}",
            self.sp, self.pc, self.state, self.syndrome, self.address
        )
    }
}

macro_rules! first_stages {
    ($($way_on:literal),+) => {
        concat!($(".balign 0x80\nstp x29, x30, [sp, #-{call_frame}]!\n", $way_on, "\n"),+)
    };
}

macro_rules! kernel_entries {
    ($($vector:literal),+) => {
        concat!($(
            ".balign 0x80\nmsr tpidrro_el0, x0\nmrs x0, tpidr_el1\nstr x1, [x0, #{scratch}]\nmov x1, #{", $vector,
            "}\nb kernel_entry\n"
        ),+)
    };
}

/// Saves all of user mode into the current thread; `x29` and `x30` are on the stack.
macro_rules! save_user {
    () => {
        concat!(
            "mrs x30, tpidr_el1
            ldr x30, [x30, #{current}]
            stp x0, x1, [x30]
            ldp x0, x1, [sp], #{call_frame}\n",
            pairs!("stp", "x30": 2 3, 4 5, 6 7, 8 9, 10 11, 12 13, 14 15, 16 17, 18 19, 20 21, 22 23, 24 25, 26 27),
            "stp x28, x0, [x30, #224]
            str x1, [x30, #240]
            mrs x0, sp_el0
            mrs x1, elr_el1
            mrs x2, spsr_el1
            mrs x3, tpidr_el0
            stp x0, x1, [x30, #{sp}]
            stp x2, x3, [x30, #{state}]
            mrs x2, tpidr_el1
            ldr x3, [x2, #{current}]
            // Zeros end backtraces.
            ldp x29, x30, [x2, #{no_words}]
            msr daifclr, #1"
        )
    };
}

// The first stage (D1.3.1.2, table of vector offsets).
global_asm!(
    ".section .vectors, \"ax\"",
    ".balign 0x800",
    ".global vectors",
    "vectors:",
    // From EL1 with the stack pointer of EL0.
    kernel_entries!("unused", "unused", "unused", "unused"),
    // From EL1.
    kernel_entries!("sync", "irq", "fiq", "serror"),
    // From EL0.
    first_stages!("mrs x29, esr_el1"),
    "lsr x29, x29, #26",
    "cmp x29, #{svc}",
    "b.ne user_other_entry",
    "cmp x10, #{last_simple}",
    "b.hi user_call_entry",
    "b user_simple_entry",
    first_stages!("b user_irq_entry", "b user_fiq_entry", "b user_serror_entry"),
    // From EL0 in AArch32.
    kernel_entries!("unused", "unused", "unused", "unused"),
    ".balign 0x80",
    ".previous",
    call_frame = const CALL_FRAME, scratch = const offset_of!(PerCpu, scratch),
    sync = const VECTOR_SYNC, irq = const VECTOR_IRQ, fiq = const VECTOR_FIQ, serror = const VECTOR_SERROR,
    unused = const VECTOR_UNUSED, svc = const CLASS_SVC, last_simple = const abi::SIMPLE_CALLS - 1,
);

// The second stage, from user mode.
global_asm!(
    ".section .text.user_entry, \"ax\"",
    ".balign 64",
    "user_simple_entry:",
    "mrs x30, tpidr_el1",
    "ldr x30, [x30, #{current}]",
    "ldr x29, [x30, #{simple_calls}]",
    "cbz x29, user_call_entry",
    // A call that is a C function. Its results stay in x0 and x1; what it left in other registers is put back.
    pairs!("stp", "sp": 2 3, 4 5, 6 7, 8 9, 10 11, 12 13, 14 15, 16 17),
    "str x18, [sp, #144]",
    "mov x29, xzr",
    "msr daifclr, #1",
    "adrp x11, {simple}",
    "add x11, x11, :lo12:{simple}",
    "ldr x11, [x11, x10, lsl #3]",
    "blr x11",
    pairs!("ldp", "sp": 2 3, 4 5, 6 7, 8 9, 10 11, 12 13, 14 15, 16 17),
    "ldr x18, [sp, #144]",
    "ldp x29, x30, [sp], #{call_frame}",
    "eret",
    "user_call_entry:",
    save_user!(),
    "ldr x4, [x3, #{calls}]",
    "br x4",
    "user_other_entry:",
    save_user!(),
    "mrs x0, esr_el1",
    "mrs x1, far_el1",
    "b {user_sync}",
    "user_irq_entry:",
    save_user!(),
    "b {user_irq}",
    "user_fiq_entry:",
    save_user!(),
    "b {user_fiq}",
    "user_serror_entry:",
    save_user!(),
    "mrs x0, esr_el1",
    "b {user_serror}",
    ".previous",
    call_frame = const CALL_FRAME,
    current = const offset_of!(PerCpu, current),
    no_words = const offset_of!(PerCpu, no_words),
    sp = const offset_of!(Frame, sp),
    state = const offset_of!(Frame, state),
    simple = sym syscall::SIMPLE,
    simple_calls = const offset_of!(Thread, simple_calls), calls = const offset_of!(Thread, calls),
    user_sync = sym user_sync,
    user_irq = sym user_irq,
    user_fiq = sym user_fiq,
    user_serror = sym user_serror,
);

// From the kernel: x0 is `PerCpu`, its own value is in TPIDRRO_EL0; x1 is the vector, its own value is in `scratch`.
// Before the stack is used, the stack pointer is compared with where the stack ends: from the guard page up to a page
// above it, this runs on the emergency stack.
global_asm!(
    ".section .text.kernel_entry, \"ax\"",
    ".balign 64",
    "kernel_entry:",
    "stp x2, x1, [x0, #{scratch} + 8]",
    "ldr x1, [x0, #{stack_top}]",
    "mov x2, sp",
    "sub x1, x2, x1",
    "add x1, x1, #{stack_and_guard}",
    "cmp x1, #{near_end}",
    "b.hs 2f",
    "ldr x1, [x0, #{emergency}]",
    "mov sp, x1",
    "2:",
    "sub sp, sp, #{size}",
    "str x3, [sp, #24]",
    pairs!("stp", "sp": 4 5, 6 7, 8 9, 10 11, 12 13, 14 15, 16 17, 18 19, 20 21, 22 23, 24 25, 26 27, 28 29),
    "stp x30, x2, [sp, #240]",
    "mrs x2, tpidrro_el0",
    "msr tpidrro_el0, xzr", // programs could read it
    "ldp x3, x4, [x0, #{scratch}]",
    "stp x2, x3, [sp]",
    "str x4, [sp, #16]",
    "mrs x2, elr_el1",
    "mrs x3, spsr_el1",
    "mrs x4, esr_el1",
    "mrs x5, far_el1",
    "stp x2, x3, [sp, #{pc}]",
    "stp x4, x5, [sp, #{syndrome}]",
    "ldr x1, [x0, #{scratch} + 16]",
    "mov x0, sp",
    "bl {kernel_exception}",
    "ldp x3, x4, [sp, #{pc}]",
    "msr elr_el1, x3",
    "msr spsr_el1, x4",
    "ldr x3, [sp, #24]",
    pairs!("ldp", "sp": 4 5, 6 7, 8 9, 10 11, 12 13, 14 15, 16 17, 18 19, 20 21, 22 23, 24 25, 26 27, 28 29),
    "ldp x30, x1, [sp, #240]",
    // Interrupts are masked, FIQ too, so what lies below the stack pointer stays for three more instructions.
    "mov x0, sp",
    "mov sp, x1",
    "ldp x1, x2, [x0, #8]",
    "ldr x0, [x0]",
    "eret",
    ".previous",
    scratch = const offset_of!(PerCpu, scratch),
    stack_top = const offset_of!(PerCpu, stack_top),
    emergency = const offset_of!(PerCpu, arch) + offset_of!(ArchCpu, emergency),
    stack_and_guard = const KERNEL_STACK_SIZE + GUARD,
    near_end = const 2 * GUARD,
    size = const size_of::<KernelFrame>(),
    pc = const offset_of!(KernelFrame, pc),
    syndrome = const offset_of!(KernelFrame, syndrome),
    kernel_exception = sym kernel_exception,
);

const _: () = assert!(size_of::<KernelFrame>().is_multiple_of(16) && offset_of!(KernelFrame, sp) == 248);

/// An exception in the kernel: a fault of `copy_user`, or the end.
extern "C" fn kernel_exception(frame: &mut KernelFrame, vector: u64) {
    if vector == VECTOR_FIQ && panic::stop_requested() {
        panic::stopped();
    }
    if vector == VECTOR_SYNC
        && frame.syndrome >> 26 == CLASS_DATA_KERNEL
        && let Some(next) = mm::fixup(frame.pc as usize)
    {
        frame.pc = next as u64;
        return;
    }
    let fault = match vector {
        VECTOR_SYNC => decode(frame.syndrome, frame.address, frame.pc),
        VECTOR_IRQ => other(Cause::Other, frame.syndrome, frame.pc),
        VECTOR_FIQ => other(Cause::NonMaskable, frame.syndrome, frame.pc),
        VECTOR_SERROR => other(Cause::HardwareError, frame.syndrome, frame.pc),
        _ => other(Cause::Other, frame.syndrome, frame.pc),
    };
    panic::exception(fault, VirtAddr(frame.x[29] as usize), frame)
}

const fn other(cause: Cause, syndrome: u64, pc: u64) -> Fault {
    Fault { cause, address: None, pc: VirtAddr(pc as usize), code: syndrome }
}

/// [`trap::system_call`] where a CPU has instructions for what takes a loop elsewhere (FEAT_LSE): what is inlined has them.
#[target_feature(enable = "lse")]
pub extern "C" fn system_call_atomic(a: u64, b: u64, cpu: &'static PerCpu, thread: &'static Thread) -> ! {
    trap::system_call(a, b, cpu, thread)
}

/// The same of [`trap::foreign_call`].
#[target_feature(enable = "lse")]
pub extern "C" fn foreign_call_atomic(a: u64, b: u64, cpu: &'static PerCpu, thread: &'static Thread) -> ! {
    trap::foreign_call(a, b, cpu, thread)
}

extern "C" fn user_sync(syndrome: u64, address: u64) -> ! {
    let pc = read_register!("elr_el1");
    let mut fault = decode(syndrome, address, pc);
    if syndrome >> 26 == CLASS_UNKNOWN && is_privileged(pc) {
        fault.cause = Cause::PrivilegedInstruction;
    }
    trap::fault(fault)
}

extern "C" fn user_irq() -> ! {
    irq::dispatch();
    trap::interrupted()
}

extern "C" fn user_fiq() -> ! {
    if panic::stop_requested() {
        panic::stopped();
    }
    panic!("an FIQ came, and no CPU asked for it");
}

extern "C" fn user_serror(syndrome: u64) -> ! {
    trap::fault(other(Cause::HardwareError, syndrome, read_register!("elr_el1")))
}

/// Whether the instruction at `pc`, undefined for programs, is one for higher levels: HVC, SMC, ERET, or of the
/// system-register space (C4.1.94). Programs get no other report of those (D1.3.1.5, class 0).
fn is_privileged(pc: u64) -> bool {
    let mut bytes = [0; 4];
    if UserBytes::new(pc, 4).and_then(|at| at.read(&mut bytes).map(drop)).is_err() {
        return false;
    }
    let instruction = u32::from_le_bytes(bytes);
    let is = |mask, value| instruction & mask == value;
    is(0xFFC0_0000, 0xD500_0000)
        || is(0xFFE0_001F, 0xD400_0002)
        || is(0xFFE0_001F, 0xD400_0003)
        || is(0xFFFF_FFFF, 0xD69F_03E0)
}

/// A synchronous exception in words, from its class (D17.2.37).
fn decode(syndrome: u64, address: u64, pc: u64) -> Fault {
    let (class, detail) = (syndrome >> 26 & 0x3F, syndrome & 0x1FF_FFFF);
    let (cause, has_address) = match class {
        0x01 | 0x18 | 0x1A => (Cause::PrivilegedInstruction, false),
        0x07 => (Cause::FloatingPointDisabled, false),
        // SVE and SME are on for nobody.
        0x19 | 0x1D => (Cause::IllegalInstruction, false),
        0x0D | 0x0E | 0x11 | 0x15 | 0x1C | 0x27 => (Cause::Other, false),
        0x20 | 0x21 => (abort(detail, Cause::FetchFault), true),
        0x22 => (Cause::Misaligned, true),
        0x24 | 0x25 => {
            // A cache instruction is told as a write, and needs only the right to read (CM).
            let is_write = detail & 1 << 6 != 0 && detail & 1 << 8 == 0;
            (abort(detail, if is_write { Cause::WriteFault } else { Cause::ReadFault }), true)
        }
        0x26 => (Cause::Misaligned, false),
        0x28 | 0x2C => (Cause::FloatingPoint, false),
        0x2F => (Cause::HardwareError, false),
        0x30 | 0x31 | 0x38 | 0x3C => (Cause::Breakpoint, false),
        0x32 | 0x33 => (Cause::SingleStep, false),
        0x34 | 0x35 => (Cause::Other, true),
        // Class 0, and what later versions of the architecture may add.
        _ => (Cause::IllegalInstruction, false),
    };
    let address = has_address.then_some(VirtAddr(address as usize));
    Fault { cause, address, pc: VirtAddr(pc as usize), code: syndrome }
}

/// An abort's status code (D17.2.37, DFSC): alignment, or an error outside the CPU, or else `cause`.
const fn abort(detail: u64, cause: Cause) -> Cause {
    match detail & 0x3F {
        0x21 => Cause::Misaligned,
        0x10 | 0x13..=0x1F => Cause::HardwareError,
        _ => cause,
    }
}

//! A thread's registers in user mode, and the way back to it.

use super::{pairs, read_register, write_register};
use crate::addr::VirtAddr;
use crate::arch::frame::{Fpu, write_registers};
use crate::object::{FPU, STEPS, Thread};
use crate::percpu::PerCpu;
use abi::MESSAGE_WORDS;
use core::arch::{asm, naked_asm};
use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::AtomicU32;

/// `e_machine` of programs that run here (ELF for AArch64).
pub const ELF_MACHINE: u16 = 183;

/// `PSTATE` of a program: EL0, AArch64, nothing masked.
const INITIAL_STATE: u64 = 0;
/// What a program can set of it, where there is such: N, Z, C, V; TCO and DIT; SSBS; BTYPE, by branching (C5.2.19).
const OWN_STATE: u64 = 0xF000_0000 | 0b11 << 24 | 1 << 12 | 0b11 << 10;
/// SS.
const STEP: u64 = 1 << 21;
/// Bytes of `svc`.
pub const CALL_SIZE: u64 = 4;

/// The register with the number of a call, and then the badge.
pub const NUMBER: usize = 10;
/// The same by the convention of C.
pub const FOREIGN_NUMBER: usize = 8;
/// Of a plain call.
pub const ARGUMENTS: [usize; 6] = [0, 1, 2, 3, 4, 5];
pub const STATUS: usize = ARGUMENTS[0];
pub const VALUE: usize = ARGUMENTS[1];
pub const BADGE: usize = NUMBER;
pub const DEADLINE: usize = 11;
/// Payload words 0 to 7.
pub const WORDS: [usize; MESSAGE_WORDS] = [2, 3, 4, 5, 6, 7, 8, 9];
pub(super) const NAMES: [&str; 31] = [
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17",
    "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30",
];

/// All registers of a thread in user mode.
#[derive(Default)]
#[repr(C)]
pub struct Frame {
    pub x: [u64; 31],
    pub(super) sp: u64,
    pub pc: u64,
    pub(super) state: u64,
    pub(super) tls: u64,
}

impl Frame {
    /// A thread that has not run: every register is set, those without a meaning to 0.
    #[must_use]
    pub const fn new(entry: VirtAddr, stack: VirtAddr, argument: u64, tls: u64) -> Self {
        let mut x = [0; 31];
        x[0] = argument;
        Self { x, sp: stack.0 as u64, pc: entry.0 as u64, state: INITIAL_STATE, tls }
    }

    /// The instruction at pc is yet to be carried out, if there is a step (D2.12: SS means nothing without `MDSCR_EL1.SS`).
    pub const fn step_begins(&mut self) {
        self.state |= STEP;
    }

    pub const fn step_is_over(&mut self) {
        self.state &= !STEP;
    }

    /// As [`abi::Registers`] has them.
    pub fn registers(&self) -> abi::Registers {
        let mut general = [self.sp; 32];
        general[..31].copy_from_slice(&self.x);
        abi::Registers { general, pc: self.pc, flags: self.state & !STEP, tls: self.tls }
    }

    /// Of `PSTATE` what is the program's own counts.
    pub fn set_registers(&mut self, to: &abi::Registers) {
        self.x.copy_from_slice(&to.general[..31]);
        (self.sp, self.pc, self.tls) = (to.general[31], to.pc, to.tls);
        self.state = to.flags & OWN_STATE | self.state & STEP | INITIAL_STATE;
    }

    /// The next instruction alone is carried out, or all (D2.12).
    pub fn set_step(&mut self, on: bool) -> Result<(), abi::Error> {
        self.state = self.state & !STEP | if on { STEP } else { 0 };
        Ok(())
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_registers(f, NAMES.iter().zip(&self.x))?;
        writeln!(f)?;
        writeln!(f, "  sp ={:016x} pc ={:016x} pstate={:08x} tpidr={:016x}", self.sp, self.pc, self.state, self.tls)
    }
}

/// `V0` to `V31`, `FPCR` and `FPSR`.
pub const FPU_WORDS: usize = 66;
pub const INITIAL_FPU: Fpu = Fpu([0; FPU_WORDS]);

pub fn has_fpu() -> bool {
    read_register!("id_aa64pfr0_el1") >> 16 & 0xF != 0xF
}

/// The kernel has the FPU, and programs too or not (`CPACR_EL1.FPEN`).
pub const FPU_OFF: u64 = 1 << 20;
const FPU_ON: u64 = 3 << 20;

/// Loads or stores all vector registers at `{0}`, which is behind them then.
macro_rules! vectors {
    ($instruction:literal) => {
        concat!(
            ".arch_extension simd\n.irp four, v0.2d-v3.2d, v4.2d-v7.2d, v8.2d-v11.2d, v12.2d-v15.2d, v16.2d-v19.2d, v20.2d-v23.2d, \
             v24.2d-v27.2d, v28.2d-v31.2d\n",
            $instruction, " {{\\four}}, [{0}], #64\n.endr"
        )
    };
}

/// `had` is on, and kept at `from`; `has` is turned on, with what is at `to`. The way out makes the CPU see it.
#[inline(always)]
pub fn exchange_extras(had: u32, from: *mut Fpu, has: u32, to: *const Fpu) {
    // SAFETY: the kernel itself uses none of these registers; who had and has them is a thread of this CPU. Steps are of
    // programs alone (`MDSCR_EL1.KDE` is 0).
    unsafe {
        if had & FPU != 0 {
            asm!(vectors!("st1"), "mrs {1}, fpcr", "mrs {2}, fpsr", "stp {1}, {2}, [{0}]",
                inout(reg) from => _, out(reg) _, out(reg) _, options(nostack, preserves_flags));
        }
        if had != has {
            write_register!("cpacr_el1", if has & FPU != 0 { FPU_ON } else { FPU_OFF });
            write_register!("mdscr_el1", has & STEPS != 0);
        }
        if has & FPU != 0 {
            asm!(vectors!("ld1"), "ldp {1}, {2}, [{0}]", "msr fpcr, {1}", "msr fpsr, {2}",
                inout(reg) to => _, out(reg) _, out(reg) _, options(nostack, preserves_flags));
        }
    }
}

/// Goes on at `stack`, which is empty.
pub fn on_stack(stack: VirtAddr, next: extern "C" fn() -> !) -> ! {
    // SAFETY: `stack` is the top of a stack that nobody uses, and nothing of the old one is needed: neither returns.
    unsafe {
        asm!(
            "mov sp, {stack}",
            "mov x29, xzr",
            "mov x30, xzr",
            "br {next}",
            stack = in(reg) stack.0,
            next = in(reg) next,
            options(noreturn),
        )
    }
}

/// Leaves the kernel as `thread`, which is `PerCpu::current`, with exactly its registers.
#[inline(always)]
pub fn resume(thread: &Thread) -> ! {
    // SAFETY: a `Thread` begins with its `Frame`, which only the CPU that runs the thread uses, and that is this
    // one; its tables are active.
    unsafe { leave(core::ptr::from_ref(thread).cast()) }
}

/// The same, with a message: status, badge, info, and the payload that is in the registers of `from`. Then gives the lock
/// back of which that is the word. `FINISHES` moves the pc behind the system call by which the thread has come.
#[inline(always)] // so that all of it comes in registers
pub fn resume_with<const FINISHES: bool>(
    cpu: &PerCpu,
    thread: &Thread,
    from: *const Frame,
    lock: &AtomicU32,
    [status, badge, info]: [u64; 3],
) -> ! {
    // SAFETY: as in `resume`; the message is written to no frame, as every entry saves all registers.
    unsafe {
        asm!(
            "ldr x14, [{cpu}, #{stack_top}]", "mov sp, x14",
            pairs!("ldp", "x12": 2 3, 4 5, 6 7, 8 9),
            "stlr wzr, [x11]",
            "ldp x14, x15, [x13, #{sp}]",
            ".if {finishes}", "add x15, x15, #{CALL_SIZE}", ".endif",
            "msr sp_el0, x14", "msr elr_el1, x15",
            "ldp x14, x15, [x13, #{state}]",
            "msr spsr_el1, x14", "msr tpidr_el0, x15",
            "ldr x11, [x13, #88]",
            pairs!("ldp", "x13": 14 15, 16 17, 18 19, 20 21, 22 23, 24 25, 26 27, 28 29),
            "ldr x30, [x13, #240]",
            "ldp x12, x13, [x13, #96]",
            "eret",
            CALL_SIZE = const CALL_SIZE, finishes = const FINISHES as usize, stack_top = const offset_of!(PerCpu, stack_top),
            sp = const offset_of!(Frame, sp), state = const offset_of!(Frame, state),
            cpu = in(reg) cpu, in("x13") core::ptr::from_ref(thread), in("x12") from, in("x11") lock,
            in("x0") status, in("x10") badge, in("x1") info,
        )
    };
    // Nothing comes here. What ends otherwise the compiler takes for rare.
    loop {
        core::hint::spin_loop();
    }
}

/// The way out. An FIQ or SError in between never comes back, so it may overwrite what `eret` takes.
#[unsafe(naked)]
unsafe extern "C" fn leave(frame: *const Frame) -> ! {
    naked_asm!(
        "mrs x1, tpidr_el1",
        "ldr x1, [x1, #{stack_top}]",
        "mov sp, x1",
        "ldp x1, x2, [x0, #{sp}]",
        "msr sp_el0, x1",
        "msr elr_el1, x2",
        "ldp x1, x2, [x0, #{state}]",
        "msr spsr_el1, x1",
        "msr tpidr_el0, x2",
        pairs!("ldp", "x0": 2 3, 4 5, 6 7, 8 9, 10 11, 12 13, 14 15, 16 17, 18 19, 20 21, 22 23, 24 25, 26 27, 28 29),
        "ldr x30, [x0, #240]",
        "ldp x0, x1, [x0]",
        "eret",
        stack_top = const offset_of!(PerCpu, stack_top),
        sp = const offset_of!(Frame, sp),
        state = const offset_of!(Frame, state),
    )
}

const _: () = assert!(offset_of!(Frame, x) == 0 && offset_of!(Frame, pc) == offset_of!(Frame, sp) + 8);
const _: () = assert!(offset_of!(Frame, tls) == offset_of!(Frame, state) + 8);

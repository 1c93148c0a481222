//! A thread's registers, and the way back to them.

use super::boot::isa_has;
use super::cpu;
use super::trap::{exit_stage, registers};
use crate::addr::VirtAddr;
use crate::arch::frame::{Fpu, write_registers};
use crate::object::{FPU, Thread};
use crate::percpu::{self, PerCpu};
use abi::MESSAGE_WORDS;
use core::arch::{asm, naked_asm};
use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::AtomicU32;
use spin::Once;

/// `e_machine` of RISC-V (psABI).
pub const ELF_MACHINE: u16 = 243;
/// `ecall` has no short form.
pub const CALL_SIZE: u64 = 4;

// Places in `Frame::x`.
const SP: usize = 1;
const TP: usize = 3;
const S0: usize = 7;
/// `t0`: the number of a call, and then the badge.
pub const NUMBER: usize = 4;
/// `a7`: the same by the convention of C.
pub const FOREIGN_NUMBER: usize = 16;
/// Of a plain call.
pub const ARGUMENTS: [usize; 6] = [9, 10, 11, 12, 13, 14];
pub const STATUS: usize = ARGUMENTS[0];
pub const VALUE: usize = ARGUMENTS[1];
pub const BADGE: usize = NUMBER;
/// `t3`.
pub const DEADLINE: usize = 27;
/// Payload words 0 to 7: `a2` to `a7`, `t1`, `t2`.
pub const WORDS: [usize; MESSAGE_WORDS] = [11, 12, 13, 14, 15, 16, 5, 6];
pub(super) const NAMES: [&str; 31] = [
    "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "s2", "s3",
    "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];

/// `x1` to `x31` and the pc; trap stubs rely on this layout.
#[derive(Default)]
#[repr(C)]
pub struct Frame {
    pub x: [u64; 31],
    pub pc: u64,
}

pub const PC: usize = offset_of!(Frame, pc);
const _: () = assert!(PC == 31 * 8 && size_of::<Frame>() == 256);

impl Frame {
    pub fn new(entry: VirtAddr, stack: VirtAddr, argument: u64, tls: u64) -> Self {
        let mut x = [0; 31];
        (x[SP], x[TP], x[ARGUMENTS[0]]) = (stack.0 as u64, tls, argument);
        Self { x, pc: entry.0 as u64 }
    }

    pub const fn step_begins(&mut self) {}
    pub const fn step_is_over(&mut self) {}

    /// As [`abi::Registers`] has them.
    pub fn registers(&self) -> abi::Registers {
        let mut general = [0; 32];
        general[1..].copy_from_slice(&self.x);
        abi::Registers { general, pc: self.pc, flags: 0, tls: 0 }
    }

    pub fn set_registers(&mut self, to: &abi::Registers) {
        self.x.copy_from_slice(&to.general[1..]);
        self.pc = to.pc;
    }

    /// There are no steps.
    pub const fn set_step(&mut self, _on: bool) -> Result<(), abi::Error> {
        Err(abi::Error::Unsupported)
    }

    pub(super) fn frame_pointer(&self) -> VirtAddr {
        VirtAddr(self.x[S0] as usize)
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_registers(f, NAMES.iter().zip(&self.x))?;
        writeln!(f, " pc ={:016x}", self.pc)
    }
}

/// `f0` to `f31`, and `fcsr`.
pub const FPU_WORDS: usize = 33;
pub const INITIAL_FPU: Fpu = Fpu([0; FPU_WORDS]);

/// Whether every CPU has registers of this size. `sstatus.FS` may be there without them (Privileged 3.1.6.6).
pub fn has_fpu() -> bool {
    static HAS_FPU: Once<bool> = Once::new();
    *HAS_FPU.call_once(|| percpu::all().iter().all(|cpu| isa_has(cpu.hardware, "d")))
}

/// Loads or stores all registers of the FPU at `{0}`, and does the rest with their instructions; the target's own
/// features may lack them.
macro_rules! floats {
    ($instruction:literal, $rest:literal) => {
        concat!(
            ".option push\n.option arch, +d\n",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n",
            $instruction,
            " f\\n, \\n * 8({0})\n.endr\n",
            $rest,
            "\n.option pop"
        )
    };
}

/// `had` is on, and kept at `from`; `has` is turned on, with what is at `to`.
#[inline(always)]
pub fn exchange_extras(had: u32, from: *mut Fpu, has: u32, to: *const Fpu) {
    let (had, has) = (had & FPU != 0, has & FPU != 0);
    // SAFETY: the kernel itself uses none of these registers; who had and has them is a thread of this CPU.
    unsafe {
        if had {
            asm!(floats!("fsd", "frcsr {1}; sd {1}, 256({0})"), in(reg) from, out(reg) _, options(nostack));
        }
        match (had, has) {
            (false, true) => asm!("csrs sstatus, {}", in(reg) cpu::FS, options(nostack)),
            (true, false) => asm!("csrc sstatus, {}", in(reg) cpu::FS, options(nostack)),
            _ => {}
        }
        if has {
            asm!(floats!("fld", "ld {1}, 256({0}); fscsr {1}"), in(reg) to, out(reg) _, options(nostack));
        }
    }
}

/// Goes on with `next` on an empty stack that ends at `top`; zeros end its backtrace.
#[unsafe(naked)]
pub extern "C" fn on_stack(top: VirtAddr, next: extern "C" fn() -> !) -> ! {
    naked_asm!("mv sp, a0", "li s0, 0", "li ra, 0", "jr a1")
}

/// Leaves the kernel with the registers in the thread's `Frame`, at its start. `sstatus` says "user mode, interrupts
/// on" whenever the kernel runs: traps from user mode and `init_cpu` leave it so, and so does `sret`.
#[unsafe(naked)]
pub extern "C" fn resume(thread: &Thread) -> ! {
    naked_asm!(
        "ld t0, {pc}(a0)",
        "csrw sepc, t0",
        exit_stage!(),
        registers!("ld", "a0": "1,2,3,4,5,6,7,8,9,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"),
        "ld a0, 9 * 8(a0)",
        "sret",
        pc = const PC,
    )
}

/// The same, with a message: status, badge, info, and the payload that is in the registers of `from`: `a2` to `a7`, `t1`,
/// `t2`. Then gives the lock back of which that is the word. `FINISHES` moves the pc behind the system call by which the
/// thread has come.
#[inline(always)] // so that all of it comes in registers
pub fn resume_with<const FINISHES: bool>(
    _: &PerCpu,
    thread: &Thread,
    from: *const Frame,
    lock: &AtomicU32,
    [status, badge, info]: [u64; 3],
) -> ! {
    // SAFETY: as in `resume`; the message is written to no frame, as every entry saves all registers.
    unsafe {
        asm!(
            "ld t3, {pc}(t6)",
            ".if {finishes}", "addi t3, t3, {CALL_SIZE}", ".endif",
            "csrw sepc, t3",
            exit_stage!(),
            registers!("ld", "t5": "6,7,12,13,14,15,16,17"),
            "fence rw, w", "sw zero, 0(t4)",
            registers!("ld", "t6": "1,2,3,4,8,9,18,19,20,21,22,23,24,25,26,27,28,29,30,31"),
            "sret",
            CALL_SIZE = const CALL_SIZE, finishes = const FINISHES as usize, pc = const PC,
            in("t6") core::ptr::from_ref(thread), in("t5") from, in("t4") lock,
            in("a0") status, in("t0") badge, in("a1") info,
        )
    };
    // Nothing comes here. What ends otherwise the compiler takes for rare.
    loop {
        core::hint::spin_loop();
    }
}

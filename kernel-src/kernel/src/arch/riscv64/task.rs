//! A thread's registers, and the way back to them.

use super::trap::exit_stage;
use crate::{addr::VirtAddr, object::Thread};
use abi::{MESSAGE_WORDS, Outcome};
use core::{arch::naked_asm, fmt, mem::offset_of};

/// `e_machine` of RISC-V (psABI).
pub const ELF_MACHINE: u16 = 243;

const SP: usize = 2;
const TP: usize = 4;
const T0: usize = 5;
const S0: usize = 8;
const A0: usize = 10;
const A1: usize = 11;
const T3: usize = 28;
/// `ecall` has no short form.
const CALL_SIZE: u64 = 4;
/// Payload words 0 to 7.
const WORDS: [usize; MESSAGE_WORDS] = [12, 13, 14, 15, 16, 17, 6, 7];
const NAMES: [&str; 31] = [
    "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "s2", "s3",
    "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];
const PER_LINE: usize = 4;

/// `x1` to `x31` and the pc; trap stubs rely on this layout.
#[repr(C)]
pub struct Frame {
    registers: [u64; 31],
    pub(super) pc: u64,
}

pub const PC: usize = offset_of!(Frame, pc);
const _: () = assert!(PC == 31 * 8 && size_of::<Frame>() == 256);

impl Frame {
    pub fn new(entry: VirtAddr, stack: VirtAddr, argument: u64, tls: u64) -> Self {
        let mut frame = Self { registers: [0; 31], pc: entry.0 as u64 };
        *frame.x(SP) = stack.0 as u64;
        *frame.x(TP) = tls;
        *frame.x(A0) = argument;
        frame
    }

    fn x(&mut self, number: usize) -> &mut u64 {
        &mut self.registers[number - 1]
    }

    fn get(&self, number: usize) -> u64 {
        self.registers[number - 1]
    }

    pub fn call_number(&self) -> u64 {
        self.get(T0)
    }

    /// Argument 0 to 5 of a plain call.
    pub fn argument(&self, index: usize) -> u64 {
        self.get(A0 + index)
    }

    pub fn set_result(&mut self, outcome: Outcome) {
        *self.x(A0) = outcome.status;
        *self.x(A1) = outcome.value;
    }

    pub fn capability(&self) -> u64 {
        self.get(A0)
    }

    pub fn info(&self) -> u64 {
        self.get(A1)
    }

    pub fn message_words(&self) -> [u64; MESSAGE_WORDS] {
        WORDS.map(|register| self.get(register))
    }

    pub fn set_message(&mut self, status: u64, badge: u64, info: u64, words: [u64; MESSAGE_WORDS]) {
        *self.x(T0) = badge;
        *self.x(A0) = status;
        *self.x(A1) = info;
        for (register, word) in WORDS.into_iter().zip(words) {
            *self.x(register) = word;
        }
    }

    pub fn pc(&self) -> VirtAddr {
        VirtAddr(self.pc as usize)
    }

    pub(super) fn frame_pointer(&self) -> VirtAddr {
        VirtAddr(self.get(S0) as usize)
    }

    pub(super) fn stack_pointer(&self) -> VirtAddr {
        VirtAddr(self.get(SP) as usize)
    }

    pub fn set_call_number(&mut self, number: u64) {
        *self.x(T0) = number;
    }

    /// Until when a message call waits.
    pub fn deadline(&self) -> u64 {
        self.get(T3)
    }

    /// Moves the pc behind the system call again.
    pub fn finish_call(&mut self) {
        self.pc += CALL_SIZE;
    }

    /// Moves the pc from behind the system call back onto it.
    pub fn restart_call(&mut self) {
        self.pc -= CALL_SIZE;
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in NAMES.iter().zip(self.registers).enumerate() {
            let lead = if index % PER_LINE == 0 { "  " } else { " " };
            let end = if index % PER_LINE == PER_LINE - 1 { "\n" } else { "" };
            write!(f, "{lead}{name:<3}={value:016x}{end}")?;
        }
        writeln!(f, " pc ={:016x}", self.pc)
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
        ".irp n, 1,2,3,4,5,6,7,8,9,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
        "ld x\\n, (\\n - 1) * 8(a0)",
        ".endr",
        "ld a0, 9 * 8(a0)",
        "sret",
        pc = const PC,
    )
}

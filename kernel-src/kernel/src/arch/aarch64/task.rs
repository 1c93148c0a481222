//! A thread's registers in user mode, and the way back to it.

use crate::{addr::VirtAddr, object::Thread, percpu::PerCpu};
use core::{
    arch::{asm, naked_asm},
    fmt,
    mem::offset_of,
};

/// `e_machine` of programs that run here (ELF for AArch64).
pub const ELF_MACHINE: u16 = 183;

/// `PSTATE` of a program: EL0, AArch64, nothing masked.
const INITIAL_STATE: u64 = 0;
/// Bytes of `svc`.
const CALL_SIZE: u64 = 4;
/// The register with the number of a call.
const NUMBER: usize = 10;

/// All registers of a thread in user mode.
#[repr(C)]
pub struct Frame {
    pub(super) x: [u64; 31],
    pub(super) sp: u64,
    pub(super) pc: u64,
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

    #[must_use]
    pub const fn call_number(&self) -> u64 {
        self.x[NUMBER]
    }

    /// Argument `index`, 0 to 5, of a plain call.
    #[must_use]
    pub const fn argument(&self, index: usize) -> u64 {
        self.x[index]
    }

    #[must_use]
    pub const fn capability(&self) -> u64 {
        self.x[0]
    }

    #[must_use]
    pub const fn info(&self) -> u64 {
        self.x[1]
    }

    #[must_use]
    pub const fn message_words(&self) -> [u64; 8] {
        let x = &self.x;
        [x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9]]
    }

    pub const fn set_result(&mut self, outcome: abi::Outcome) {
        self.x[0] = outcome.status;
        self.x[1] = outcome.value;
    }

    pub const fn set_message(&mut self, status: u64, badge: u64, info: u64, words: [u64; 8]) {
        let x = &mut self.x;
        (x[0], x[1], x[10]) = (status, info, badge);
        [x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9]] = words;
    }

    pub const fn set_call_number(&mut self, number: u64) {
        self.x[10] = number;
    }

    /// Until when a message call waits.
    #[must_use]
    pub const fn deadline(&self) -> u64 {
        self.x[11]
    }

    /// Moves the pc behind the call instruction again.
    pub const fn finish_call(&mut self) {
        self.pc += CALL_SIZE;
    }

    /// Moves the pc back onto the call instruction; the number is still in `x10`.
    pub const fn restart_call(&mut self) {
        self.pc -= CALL_SIZE;
    }
}

/// Prints `x0` to `x30`, four a line.
pub(super) fn write_registers(f: &mut fmt::Formatter<'_>, x: &[u64; 31]) -> fmt::Result {
    for (index, value) in x.iter().enumerate() {
        let (before, after) = (if index % 4 == 0 { "  " } else { " " }, if index % 4 == 3 { "\n" } else { "" });
        write!(f, "{before}x{index:<2}={value:016x}{after}")?;
    }
    writeln!(f)
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_registers(f, &self.x)?;
        writeln!(f, "  sp ={:016x} pc ={:016x} pstate={:08x} tpidr={:016x}", self.sp, self.pc, self.state, self.tls)
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
pub fn resume(thread: &Thread) -> ! {
    // SAFETY: a `Thread` begins with its `Frame`, which only the CPU that runs the thread uses, and that is this
    // one; its tables are active.
    unsafe { leave(core::ptr::from_ref(thread).cast()) }
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
        "ldp x2, x3, [x0, #16]",
        "ldp x4, x5, [x0, #32]",
        "ldp x6, x7, [x0, #48]",
        "ldp x8, x9, [x0, #64]",
        "ldp x10, x11, [x0, #80]",
        "ldp x12, x13, [x0, #96]",
        "ldp x14, x15, [x0, #112]",
        "ldp x16, x17, [x0, #128]",
        "ldp x18, x19, [x0, #144]",
        "ldp x20, x21, [x0, #160]",
        "ldp x22, x23, [x0, #176]",
        "ldp x24, x25, [x0, #192]",
        "ldp x26, x27, [x0, #208]",
        "ldp x28, x29, [x0, #224]",
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

//! A thread's registers in user mode, and the way back to it.

use super::{cpu, trap};
use crate::{addr::VirtAddr, object::Thread, percpu::PerCpu};
use core::{arch::naked_asm, fmt, mem::offset_of};

/// `e_machine` of programs that run here (System V ABI, AMD64 supplement).
pub const ELF_MACHINE: u16 = 62;

/// First address past the lower half; no instruction of a program lies here or above.
const LOWER_HALF_BITS: usize = 47;
/// Interrupts on; bit 1 is always set (SDM vol. 1, 3.4.3).
const INITIAL_FLAGS: u64 = 1 << 9 | 1 << 1;
/// Bytes of `syscall`.
const CALL_SIZE: u64 = 2;

/// All registers of a thread in user mode.
///
/// Segment selectors are not among them: in 64-bit mode they select nothing that a program could reach, the base of
/// GS is always 0 (`CR4.FSGSBASE` is off), and that of FS is written at each return.
#[repr(C)]
pub struct Frame {
    pub(super) rax: u64,
    pub(super) rbx: u64,
    pub(super) rcx: u64,
    pub(super) rdx: u64,
    pub(super) rsi: u64,
    pub(super) rdi: u64,
    pub(super) rbp: u64,
    pub(super) rsp: u64,
    pub(super) r8: u64,
    pub(super) r9: u64,
    pub(super) r10: u64,
    pub(super) r11: u64,
    pub(super) r12: u64,
    pub(super) r13: u64,
    pub(super) r14: u64,
    pub(super) r15: u64,
    pub(super) rip: u64,
    pub(super) rflags: u64,
    pub(super) fs_base: u64,
    /// 1 when it entered by `syscall`, so that `rcx` and `r11` are free and `sysret` may be used.
    pub(super) by_syscall: u64,
}

impl Frame {
    /// A thread that has not run: every register is set, those without a meaning to 0.
    #[must_use]
    pub const fn new(entry: VirtAddr, stack: VirtAddr, argument: u64, tls: u64) -> Self {
        Self {
            rax: 0,
            rbx: 0,
            rcx: 0,
            rdx: 0,
            rsi: 0,
            rdi: argument,
            rbp: 0,
            rsp: stack.0 as u64,
            r8: 0,
            r9: 0,
            r10: 0,
            r11: 0,
            r12: 0,
            r13: 0,
            r14: 0,
            r15: 0,
            rip: entry.0 as u64,
            rflags: INITIAL_FLAGS,
            fs_base: tls,
            by_syscall: 0,
        }
    }

    #[must_use]
    pub const fn call_number(&self) -> u64 {
        self.rax
    }

    /// Argument `index`, 0 to 5, of a plain call.
    #[must_use]
    pub const fn argument(&self, index: usize) -> u64 {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9][index]
    }

    #[must_use]
    pub const fn capability(&self) -> u64 {
        self.rdi
    }

    #[must_use]
    pub const fn info(&self) -> u64 {
        self.rsi
    }

    #[must_use]
    pub const fn message_words(&self) -> [u64; 8] {
        [self.rdx, self.r8, self.r9, self.r10, self.r12, self.r13, self.r14, self.r15]
    }

    #[must_use]
    pub const fn pc(&self) -> VirtAddr {
        VirtAddr(self.rip as usize)
    }

    pub const fn set_result(&mut self, outcome: abi::Outcome) {
        self.rax = outcome.status;
        self.rdx = outcome.value;
    }

    pub const fn set_message(&mut self, status: u64, badge: u64, info: u64, words: [u64; 8]) {
        self.rax = status;
        self.rdi = badge;
        self.rsi = info;
        [self.rdx, self.r8, self.r9, self.r10, self.r12, self.r13, self.r14, self.r15] = words;
    }

    pub const fn set_call_number(&mut self, number: u64) {
        self.rax = number;
    }

    /// Until when a message call waits.
    #[must_use]
    pub const fn deadline(&self) -> u64 {
        self.rbx
    }

    /// Moves the pc behind the call instruction again.
    pub const fn finish_call(&mut self) {
        self.rip += CALL_SIZE;
    }

    /// Moves the pc back onto the call instruction; the number is still in `rax`.
    pub const fn restart_call(&mut self) {
        self.rip -= CALL_SIZE;
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  rax={:016x} rbx={:016x} rcx={:016x} rdx={:016x}", self.rax, self.rbx, self.rcx, self.rdx)?;
        writeln!(f, "  rsi={:016x} rdi={:016x} rbp={:016x} rsp={:016x}", self.rsi, self.rdi, self.rbp, self.rsp)?;
        writeln!(f, "  r8 ={:016x} r9 ={:016x} r10={:016x} r11={:016x}", self.r8, self.r9, self.r10, self.r11)?;
        writeln!(f, "  r12={:016x} r13={:016x} r14={:016x} r15={:016x}", self.r12, self.r13, self.r14, self.r15)?;
        writeln!(f, "  rip={:016x} rflags={:08x} fs_base={:016x}", self.rip, self.rflags, self.fs_base)
    }
}

/// Goes on at `stack`, which is empty.
pub fn on_stack(stack: VirtAddr, next: extern "C" fn() -> !) -> ! {
    // SAFETY: `stack` is the top of a stack that nobody uses, and nothing of the old one is needed: neither returns.
    unsafe {
        core::arch::asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "call {next}",
            "ud2",
            stack = in(reg) stack.0,
            next = in(reg) next,
            options(noreturn),
        )
    }
}

/// Leaves the kernel as `thread`, which is `PerCpu::current`, with exactly its registers.
pub fn resume(thread: &Thread) -> ! {
    // SAFETY: a `Thread` begins with its `Frame`, which only the CPU that runs the thread uses, and that is this
    // one; its tables are active. The frame's pc is checked there.
    unsafe { leave(core::ptr::from_ref(thread).cast()) }
}

/// The way out. Behind `swapgs` only NMI and machine check can come, which look where GS points.
///
/// `sysret` and `iret` both fault in kernel mode when the pc is not canonical (SDM vol. 2B, SYSRET, and vol. 2A,
/// IRET), so such a pc becomes the thread's own fault instead.
#[unsafe(naked)]
unsafe extern "C" fn leave(frame: *const Frame) -> ! {
    naked_asm!(
        // The stack may still be in use by who called; from here on nothing of it is needed.
        "mov rsp, gs:[{stack_top}]",
        "mov rcx, [rdi + {rip}]",
        "shr rcx, {lower_half_bits}",
        "jnz 3f",
        "mov eax, [rdi + {fs_base}]",
        "mov edx, [rdi + {fs_base} + 4]",
        "mov ecx, {msr_fs_base}",
        "wrmsr",
        "mov rax, [rdi + {rax}]",
        "mov rbx, [rdi + {rbx}]",
        "mov rdx, [rdi + {rdx}]",
        "mov rsi, [rdi + {rsi}]",
        "mov rbp, [rdi + {rbp}]",
        "mov r8, [rdi + {r8}]",
        "mov r9, [rdi + {r9}]",
        "mov r10, [rdi + {r10}]",
        "mov r12, [rdi + {r12}]",
        "mov r13, [rdi + {r13}]",
        "mov r14, [rdi + {r14}]",
        "mov r15, [rdi + {r15}]",
        "cmp qword ptr [rdi + {by_syscall}], 0",
        "je 2f",
        "mov rcx, [rdi + {rip}]",
        "mov r11, [rdi + {rflags}]",
        "mov rsp, [rdi + {rsp}]",
        "mov rdi, [rdi + {rdi}]",
        trap::exit_stage!(),
        "sysretq",
        "2:",
        "push {user_data}",
        "push qword ptr [rdi + {rsp}]",
        "push qword ptr [rdi + {rflags}]",
        "push {user_code}",
        "push qword ptr [rdi + {rip}]",
        "mov rcx, [rdi + {rcx}]",
        "mov r11, [rdi + {r11}]",
        "mov rdi, [rdi + {rdi}]",
        trap::exit_stage!(),
        "iretq",
        "3:",
        "call {bad_pc}",
        "ud2",
        stack_top = const offset_of!(PerCpu, stack_top),
        lower_half_bits = const LOWER_HALF_BITS,
        msr_fs_base = const cpu::MSR_FS_BASE,
        user_data = const cpu::USER_DATA,
        user_code = const cpu::USER_CODE,
        rax = const offset_of!(Frame, rax),
        rbx = const offset_of!(Frame, rbx),
        rcx = const offset_of!(Frame, rcx),
        rdx = const offset_of!(Frame, rdx),
        rsi = const offset_of!(Frame, rsi),
        rdi = const offset_of!(Frame, rdi),
        rbp = const offset_of!(Frame, rbp),
        rsp = const offset_of!(Frame, rsp),
        r8 = const offset_of!(Frame, r8),
        r9 = const offset_of!(Frame, r9),
        r10 = const offset_of!(Frame, r10),
        r11 = const offset_of!(Frame, r11),
        r12 = const offset_of!(Frame, r12),
        r13 = const offset_of!(Frame, r13),
        r14 = const offset_of!(Frame, r14),
        r15 = const offset_of!(Frame, r15),
        rip = const offset_of!(Frame, rip),
        rflags = const offset_of!(Frame, rflags),
        fs_base = const offset_of!(Frame, fs_base),
        by_syscall = const offset_of!(Frame, by_syscall),
        bad_pc = sym trap::bad_pc,
    )
}

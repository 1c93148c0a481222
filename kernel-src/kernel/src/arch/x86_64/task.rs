//! A thread's registers in user mode, and the way back to it.

use super::{cpu, trap};
use crate::addr::VirtAddr;
use crate::arch::frame::{Fpu, write_registers};
use crate::object::{FPU, Thread};
use crate::percpu::PerCpu;
use abi::MESSAGE_WORDS;
use core::arch::{asm, naked_asm};
use core::fmt;
use core::mem::offset_of;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::AtomicU32;
use x86_64::registers::control::{Cr0, Cr0Flags};

/// `e_machine` of programs that run here (System V ABI, AMD64 supplement).
pub const ELF_MACHINE: u16 = 62;

/// First address past the lower half; no instruction of a program lies here or above.
const LOWER_HALF_BITS: usize = 47;
/// Interrupts on; bit 1 is always set (SDM vol. 1, 3.4.3).
const INITIAL_FLAGS: u64 = 1 << 9 | 1 << 1;
/// Bytes of `syscall`.
pub const CALL_SIZE: u64 = 2;

/// Flags that a program may set: CF, PF, AF, ZF, SF, DF, OF, AC, ID (SDM vol. 1, 3.4.3).
const PROGRAM_FLAGS: u64 = 0x0024_0CD5;
/// TF.
const STEP: u64 = 1 << 8;

/// Numbers of the general registers in [`Registers`], in their order, and of the others.
const BY_NUMBER: [usize; 13] = [0, 3, 2, 6, 7, 5, 8, 9, 10, 12, 13, 14, 15];
const RCX: usize = 1;
const RSP: usize = 4;
const R11: usize = 11;

// Places of general registers in [`Registers`].
const RAX: usize = 0;
const RBX: usize = 1;
const RDX: usize = 2;
const RSI: usize = 3;
const RDI: usize = 4;
const RBP: usize = 5;
const NAMES: [&str; 13] = ["rax", "rbx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r12", "r13", "r14", "r15"];
/// Number of a call, and then its status.
pub const NUMBER: usize = RAX;
pub const STATUS: usize = RAX;
pub const FOREIGN_NUMBER: usize = RAX;
pub const VALUE: usize = RDX;
pub const BADGE: usize = RDI;
pub const DEADLINE: usize = RBX;
/// Arguments 0 to 5 of a plain call: `rdi rsi rdx r10 r8 r9`.
pub const ARGUMENTS: [usize; 6] = [RDI, RSI, RDX, 8, 6, 7];
/// Payload words 0 to 7: `rdx r8 r9 r10 r12 r13 r14 r15`.
pub const WORDS: [usize; MESSAGE_WORDS] = [RDX, 6, 7, 8, 9, 10, 11, 12];

/// Pushes the general registers that a system call keeps, so that they lie as in [`Registers`].
macro_rules! push_kept {
    () => {
        ".irp register, r15, r14, r13, r12, r10, r9, r8, rbp, rdi, rsi, rdx, rbx, rax
        push \\register
        .endr"
    };
}
macro_rules! pop_kept {
    () => {
        ".irp register, rax, rbx, rdx, rsi, rdi, rbp, r8, r9, r10, r12, r13, r14, r15
        pop \\register
        .endr"
    };
}
pub(super) use pop_kept;
pub(super) use push_kept;

/// What every entry saves; from `vector` on, as the stubs and the CPU push it.
#[derive(Default)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Registers {
    /// Those that a system call keeps; places are above.
    pub x: [u64; 13],
    /// As they were at the last entry by a vector, like `r11`.
    pub rcx: u64,
    r11: u64,
    /// By which the kernel was entered, or [`BY_SYSCALL`].
    pub vector: u64,
    pub error: u64,
    pub pc: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// In place of a vector: `rcx` and `r11` are free, and `sysret` may be used.
pub(super) const BY_SYSCALL: u64 = 256;

impl Registers {
    pub const fn frame_pointer(&self) -> VirtAddr {
        VirtAddr(self.x[RBP] as usize)
    }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let general = NAMES.iter().zip(&self.x);
        let others = [(&"rcx", &self.rcx), (&"r11", &self.r11), (&"rsp", &self.rsp)];
        write_registers(f, general.chain(others))?;
        let Self { vector, error, pc: rip, cs, rflags, ss, .. } = self;
        write!(f, "  rip={rip:016x} rflags={rflags:08x} cs={cs:02x} ss={ss:02x} vector={vector} error={error:x}")
    }
}

/// All registers of a thread in user mode.
///
/// In 64-bit mode segment selectors select nothing that a program could reach, the base of
/// GS is always 0 (`CR4.FSGSBASE` is off), and that of FS is written at each return.
#[derive(Default)]
#[repr(C)]
pub struct Frame {
    pub(super) registers: Registers,
    pub(super) fs_base: u64,
}

impl Frame {
    /// A thread that has not run: every register is set, those without a meaning to 0.
    pub const fn new(entry: VirtAddr, stack: VirtAddr, argument: u64, tls: u64) -> Self {
        let mut x = [0; 13];
        x[ARGUMENTS[0]] = argument;
        let (pc, rsp) = (entry.0 as u64, stack.0 as u64);
        let (cs, ss) = (cpu::USER_CODE as u64, cpu::USER_DATA as u64);
        let registers = Registers { x, rcx: 0, r11: 0, vector: 0, error: 0, pc, cs, rflags: INITIAL_FLAGS, rsp, ss };
        Self { registers, fs_base: tls }
    }

    pub const fn step_begins(&mut self) {}
    pub const fn step_is_over(&mut self) {}

    /// As [`abi::Registers`] has them.
    pub fn registers(&self) -> abi::Registers {
        let Registers { x, rcx, r11, pc, rflags, rsp, .. } = self.registers;
        let mut general = [0; 32];
        BY_NUMBER.iter().zip(x).for_each(|(&number, value)| general[number] = value);
        [general[RCX], general[RSP], general[R11]] = [rcx, rsp, r11];
        abi::Registers { general, pc, flags: rflags, tls: self.fs_base }
    }

    /// Flags that a program could not set itself stay as they are.
    pub fn set_registers(&mut self, to: &abi::Registers) {
        let own = &mut self.registers;
        own.x = BY_NUMBER.map(|number| to.general[number]);
        [own.rcx, own.rsp, own.r11] = [RCX, RSP, R11].map(|number| to.general[number]);
        (own.pc, own.rflags) = (to.pc, to.flags & PROGRAM_FLAGS | own.rflags & STEP | INITIAL_FLAGS);
        // `rcx` and `r11` count.
        own.vector = 0;
        // Canonical, as `wrmsr` wants it.
        self.fs_base = to.tls & ((1 << LOWER_HALF_BITS) - 1);
    }

    /// The next instruction alone is carried out, or all.
    pub fn set_step(&mut self, on: bool) -> Result<(), abi::Error> {
        self.rflags = self.rflags & !STEP | if on { STEP } else { 0 };
        Ok(())
    }
}

impl Deref for Frame {
    type Target = Registers;

    fn deref(&self) -> &Registers {
        &self.registers
    }
}

impl DerefMut for Frame {
    fn deref_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} fs_base={:016x}", self.registers, self.fs_base)
    }
}

/// x87 and SSE, as `fxsave` has them (SDM vol. 1, 10.5.1), with all exceptions masked. Programs have no other registers,
/// since `CR4.OSXSAVE` is off.
pub const FPU_WORDS: usize = 64;
pub const INITIAL_FPU: Fpu = Fpu({
    let mut words = [0; FPU_WORDS];
    (words[0], words[3]) = (0x37F, 0x1F80);
    words
});

pub const fn has_fpu() -> bool {
    true
}

/// `had` is on, and kept at `from`; `has` is turned on, with what is at `to`. Registers that a program left are set anew
/// before it is off, since a CPU may go on with them before it sees that (CVE-2018-3665).
#[inline(always)]
pub fn exchange_extras(had: u32, from: *mut Fpu, has: u32, to: *const Fpu) {
    let (had, has) = (had & FPU != 0, has & FPU != 0);
    // SAFETY: the kernel itself uses none of these registers; who had and has them is a thread of this CPU.
    unsafe {
        if had {
            asm!("fxsave64 [{}]", in(reg) from, options(nostack, preserves_flags));
        } else if has {
            asm!("clts", options(nomem, nostack, preserves_flags));
        }
        if had || has {
            let next = if has { to } else { &INITIAL_FPU };
            asm!("fxrstor64 [{}]", in(reg) next, options(nostack, preserves_flags));
        }
        if had && !has {
            Cr0::update(|flags| flags.insert(Cr0Flags::TASK_SWITCHED));
        }
    }
}

/// Goes on at `stack`, which is empty.
pub fn on_stack(stack: VirtAddr, next: extern "C" fn() -> !) -> ! {
    // SAFETY: `stack` is the top of a stack that nobody uses, and nothing of the old one is needed: neither returns.
    unsafe {
        asm!(
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
#[inline(always)]
pub fn resume(thread: &Thread) -> ! {
    // SAFETY: a `Thread` begins with its `Frame`, which only the CPU that runs the thread uses, and that is this
    // one; its tables are active. The frame's pc is checked there.
    unsafe { leave(core::ptr::from_ref(thread).cast()) }
}

/// The same, with a message: status, badge, info, and the payload that is in the registers of `from`. Then gives the lock
/// back of which that is the word. The thread has come by a system call, which `FINISHES` moves the pc behind.
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
            "mov eax, [r11 + {fs_base}]", "mov edx, [r11 + {fs_base} + 4]", "mov ecx, {msr_fs_base}", "wrmsr",
            "mov rax, r10", "mov rcx, r8",
            "mov rdx, [r9 + 8 * {RDX}]", "mov r8, [r9 + 8 * 6]",
            ".set place, 8",
            ".irp register, r10, r12, r13, r14, r15", "mov \\register, [r9 + 8 * place]", ".set place, place + 1", ".endr",
            "mov r9, [r9 + 8 * 7]",
            "mov dword ptr [rcx], 0",
            "mov rbx, [r11 + 8 * {RBX}]", "mov rbp, [r11 + 8 * {RBP}]", "mov rcx, [r11 + {rip}]",
            ".if {finishes}", "add rcx, {CALL_SIZE}", ".endif",
            "cmp rcx, [rip + {lower_half}]", "jae {bad_pc_with}",
            "mov rsp, [r11 + {rsp}]", "mov r11, [r11 + {rflags}]",
            trap::exit_stage!(),
            "sysretq",
            RDX = const RDX, RBX = const RBX, RBP = const RBP, CALL_SIZE = const CALL_SIZE, finishes = const FINISHES as usize,
            lower_half = sym LOWER_HALF, msr_fs_base = const cpu::MSR_FS_BASE, bad_pc_with = sym bad_pc_with,
            rip = const offset_of!(Registers, pc), rflags = const offset_of!(Registers, rflags),
            rsp = const offset_of!(Registers, rsp), fs_base = const offset_of!(Frame, fs_base),
            in("r11") core::ptr::from_ref(thread), in("r10") status, in("r9") from, in("r8") lock,
            in("rdi") badge, in("rsi") info,
        )
    };
    // Nothing comes here. What ends otherwise the compiler takes for rare.
    loop {
        core::hint::spin_loop();
    }
}

/// The first address that no instruction of a program has.
static LOWER_HALF: u64 = 1 << LOWER_HALF_BITS;

/// The thread whose frame `r11` is cannot go on at `rcx`: what it would have gone on with is saved there.
#[unsafe(naked)]
unsafe extern "C" fn bad_pc_with() -> ! {
    naked_asm!(
        "mov [r11 + {rip}], rcx",
        "lea rsp, [r11 + {kept}]",
        push_kept!(),
        "mov rsp, gs:[{stack_top}]",
        "call {bad_pc}",
        "ud2",
        rip = const offset_of!(Registers, pc), kept = const offset_of!(Registers, rcx),
        stack_top = const offset_of!(PerCpu, stack_top), bad_pc = sym trap::bad_pc,
    )
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
        "mov rsp, rdi",
        pop_kept!(),
        "cmp qword ptr [rsp + {vector} - {rcx}], {by_syscall}",
        "jne 2f",
        // A step: `sysret` would trap before the instruction at pc, which may be the call that starts again.
        "test byte ptr [rsp + {rflags} - {rcx} + 1], 1",
        "jnz 2f",
        "mov rcx, [rsp + {rip} - {rcx}]",
        "mov r11, [rsp + {rflags} - {rcx}]",
        "mov rsp, [rsp + {rsp} - {rcx}]",
        trap::exit_stage!(),
        "sysretq",
        "2:",
        "pop rcx",
        "pop r11",
        // Vector and error code.
        "add rsp, 16",
        trap::exit_stage!(),
        "iretq",
        "3:",
        "call {bad_pc}",
        "ud2",
        lower_half_bits = const LOWER_HALF_BITS, msr_fs_base = const cpu::MSR_FS_BASE, by_syscall = const BY_SYSCALL,
        rcx = const offset_of!(Registers, rcx), vector = const offset_of!(Registers, vector),
        rip = const offset_of!(Registers, pc), rflags = const offset_of!(Registers, rflags),
        rsp = const offset_of!(Registers, rsp), fs_base = const offset_of!(Frame, fs_base),
        stack_top = const offset_of!(PerCpu, stack_top), bad_pc = sym trap::bad_pc,
    )
}

const _: () = assert!(offset_of!(Frame, registers) == 0 && size_of::<Registers>() == 22 * 8);

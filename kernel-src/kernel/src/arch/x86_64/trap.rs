//! Vectors and system-call entry (SDM vol. 3A, chapter 6), and what exceptions mean.
//!
//! An entry from user mode has two stages. The first works with the per-CPU page alone: `swapgs`, the place where
//! tables are switched, and a stack. The second saves every register into `PerCpu::current` and goes
//! on at the top of the CPU's kernel stack. An entry from kernel mode saves onto the stack where it is; GS may then
//! still be the user's (between an entry and its `swapgs`), so its base is looked at: the kernel's is negative,
//! and a program cannot set its own (`CR4.FSGSBASE` is off).

use super::cpu::{self, IST_DOUBLE_FAULT, IST_MACHINE_CHECK, IST_NMI};
use super::task::{BY_SYSCALL, Registers, pop_kept, push_kept};
use super::{Shared, irq, mm};
use crate::addr::{CpuId, VirtAddr};
use crate::mm::user::UserBytes;
use crate::object::Thread;
use crate::percpu::PerCpu;
use crate::trap::{self, Cause, Fault};
use crate::{panic, sched, syscall};
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

const VECTORS: usize = 256;
/// Bytes from one vector's stub to the next.
const STUB_SIZE: usize = 16;
/// The first vector that is no exception.
const FIRST_INTERRUPT: u64 = 32;

const DEBUG: u64 = 1;
const NMI: u64 = 2;
const BREAKPOINT: u64 = 3;
const DOUBLE_FAULT: u64 = 8;
const GENERAL_PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;
const MACHINE_CHECK: u64 = 18;

/// First stage of every entry from user mode: kernel GS; tables are switched here when isolation is on.
macro_rules! entry_stage {
    () => {
        "swapgs"
    };
}

/// Last stage of every way out to user mode: tables are switched here when isolation is on.
macro_rules! exit_stage {
    () => {
        "swapgs"
    };
}
pub(super) use exit_stage;

/// Interrupt gates for all vectors; written once, by the boot CPU, and read by hardware from then on.
static IDT: Shared<UnsafeCell<[u128; VECTORS]>> = Shared(UnsafeCell::new([0; VECTORS]));

/// Loads the vectors; the boot CPU builds them first.
pub fn load_vectors(cpu: CpuId) {
    let table = IDT.0.get();
    if cpu == CpuId(0) {
        // SAFETY: the boot CPU runs this once, before any CPU has loaded the table.
        unsafe { *table = core::array::from_fn(gate) };
    }
    let pointer =
        DescriptorTablePointer { limit: size_of_val(&IDT) as u16 - 1, base: x86_64::VirtAddr::from_ptr(table) };
    // SAFETY: the table was built by the boot CPU, before it started others, and never changes.
    unsafe { lidt(&pointer) };
}

/// A 64-bit interrupt gate (SDM vol. 3A, 6.14.1): interrupts go off. Programs may raise only the breakpoint.
fn gate(vector: usize) -> u128 {
    let handler = (stubs as *const () as usize + vector * STUB_SIZE) as u128;
    let ist = match vector as u64 {
        NMI => IST_NMI,
        DOUBLE_FAULT => IST_DOUBLE_FAULT,
        MACHINE_CHECK => IST_MACHINE_CHECK,
        _ => 0,
    };
    let access: u128 = if vector as u64 == BREAKPOINT { 0xEE } else { 0x8E };
    handler & 0xFFFF | u128::from(cpu::KERNEL_CODE) << 16 | u128::from(ist) << 32 | access << 40 | (handler >> 16) << 48
}

/// A stub a vector, all of one size: makes up for a missing error code, names the vector.
#[unsafe(naked)]
unsafe extern "C" fn stubs() {
    naked_asm!(
        ".balign {size}",
        ".set vector, 0",
        ".rept {count}",
        ".balign {size}",
        // Vectors with an error code: 8, 10 to 14, 17, 21, 29, 30 (SDM vol. 3A, table 6-1; AMD APM vol. 2, table 8-1).
        ".if vector >= 32 || ((0x60227d00 >> vector) & 1) == 0",
        "pushq $0",
        ".endif",
        "pushq $vector",
        "jmp {common}",
        ".set vector, vector + 1",
        ".endr",
        size = const STUB_SIZE,
        count = const VECTORS,
        common = sym common,
        options(att_syntax),
    )
}

/// All vectors meet here, with vector and error code on the stack.
#[unsafe(naked)]
unsafe extern "C" fn common() {
    naked_asm!(
        "test byte ptr [rsp + 24], 3",
        "jz 2f",

        // From user mode. AC and DF are as the program left them, and would open SMAP and turn copies round.
        entry_stage!(),
        "push 2",
        "popfq",
        "mov gs:[{scratch}], rsp",
        "mov rsp, gs:[{current}]",
        "add rsp, {vector}",
        "push r11",
        "push rcx",
        push_kept!(),
        "mov rax, rsp",
        "mov rsp, gs:[{scratch}]",
        // What stub and CPU pushed, seven words.
        ".irp word, 0, 1, 2, 3, 4, 5, 6",
        "pop qword ptr [rax + {vector} + 8 * \\word]",
        ".endr",
        "mov rdi, [rax + {vector}]",
        "mov rsi, [rax + {vector} + 8]",
        "mov rsp, gs:[{stack_top}]",
        "xor ebp, ebp",
        "call {from_user}",
        "ud2",

        // From kernel mode.
        "2:",
        "push r11",
        "push rcx",
        push_kept!(),
        "push 2",
        "popfq",
        "xor r12d, r12d",
        "mov ecx, {msr_gs_base}",
        "rdmsr",
        "test edx, edx",
        "js 3f",
        "swapgs",
        "inc r12d",
        "3:",
        "mov rdi, rsp",
        "mov rbx, rsp",
        // A frame record for backtraces, as if the interrupted code had called.
        "push qword ptr [rdi + {rip}]",
        "push rbp",
        "mov rbp, rsp",
        "and rsp, -16",
        "call {from_kernel}",
        "mov rsp, rbx",
        "test r12d, r12d",
        "jz 4f",
        "swapgs",
        "4:",
        pop_kept!(),
        "pop rcx",
        "pop r11",
        "add rsp, 16",
        "iretq",
        current = const offset_of!(PerCpu, current),
        stack_top = const offset_of!(PerCpu, stack_top),
        msr_gs_base = const cpu::MSR_GS_BASE,
        scratch = const offset_of!(PerCpu, scratch),
        vector = const offset_of!(Registers, vector),
        rip = const offset_of!(Registers, pc),
        from_user = sym from_user,
        from_kernel = sym from_kernel,
    )
}

/// `syscall`: rcx is the pc behind it, r11 the flags; the stack is still the program's.
///
/// Simple calls keep what the C ABI clobbers on the kernel stack; rcx and r11 are the instruction's own and hold what
/// `sysret` needs. A pc behind the last instruction below 2^47 is not canonical, and `sysret` to it would fault in
/// kernel mode: such a call goes the full way, where `task::resume` makes it the program's fault.
#[unsafe(naked)]
pub unsafe extern "C" fn syscall_entry() {
    naked_asm!(
        entry_stage!(),
        "mov gs:[{scratch}], rsp",
        "mov rsp, gs:[{current}]",
        "cmp rax, [rsp + {simple_calls}]",
        "jae 2f",
        "bt rcx, 47",
        "jc 2f",
        "mov rsp, gs:[{stack_top}]",
        "push qword ptr gs:[{scratch}]",
        ".irp register, r11, rcx, rdi, rsi, r8, r9, r10",
        "push \\register",
        ".endr",
        "mov rcx, r10",
        "lea r11, [rip + {simple}]",
        "call [r11 + rax * 8]",
        ".irp register, r10, r9, r8, rsi, rdi, rcx, r11, rsp",
        "pop \\register",
        ".endr",
        exit_stage!(),
        "sysretq",

        "2:",
        "mov [rsp + {rip}], rcx",
        "mov [rsp + {rflags}], r11",
        "mov qword ptr [rsp + {vector}], {by_syscall}",
        "add rsp, {rsp} + 8",
        "push qword ptr gs:[{scratch}]",
        "sub rsp, {rsp} - {rcx}",
        push_kept!(),
        "mov rcx, rsp",
        "mov rdx, gs:[{this}]",
        "mov rsp, gs:[{stack_top}]",
        "xor ebp, ebp",
        "call [rcx + {calls}]",
        "ud2",
        simple_calls = const offset_of!(Thread, simple_calls),
        calls = const offset_of!(Thread, calls),
        simple = sym syscall::SIMPLE,
        this = const offset_of!(PerCpu, this),
        scratch = const offset_of!(PerCpu, scratch),
        current = const offset_of!(PerCpu, current),
        stack_top = const offset_of!(PerCpu, stack_top),
        rcx = const offset_of!(Registers, rcx),
        vector = const offset_of!(Registers, vector),
        rip = const offset_of!(Registers, pc),
        rflags = const offset_of!(Registers, rflags),
        rsp = const offset_of!(Registers, rsp),
        by_syscall = const BY_SYSCALL,
    )
}

/// Vector and error code in one word.
const fn code(vector: u64, error: u64) -> u64 {
    error << 8 | vector
}

extern "C" fn from_user(vector: u64, error: u64) -> ! {
    if vector >= FIRST_INTERRUPT {
        irq::dispatch(vector as u8);
        trap::interrupted();
    }
    if vector == NMI && panic::stop_requested() {
        panic::stopped();
    }
    let pc = VirtAddr(sched::current().frame.with(|frame| frame.pc) as usize);
    let cause = match vector {
        GENERAL_PROTECTION if error == 0 && is_privileged(pc) => Cause::PrivilegedInstruction,
        _ => cause(vector, error),
    };
    let fault = Fault { cause, address: address(vector), pc, code: code(vector, error) };
    // An NMI with no panic is somebody's wish to see where this CPU is. A program's frames are none of the kernel's.
    if vector == NMI || vector == MACHINE_CHECK && !machine_check_restartable() {
        sched::current().frame.with(|frame| panic::exception(fault, VirtAddr(0), frame));
    }
    trap::fault(fault)
}

/// Whether the program alone is hurt: RIPV tells that it could go on. Taking note of it clears MCIP, without which the
/// next machine check would stop the machine (SDM vol. 3B, 16.3.1.2).
fn machine_check_restartable() -> bool {
    // SAFETY: a machine check comes only where the CPU has these registers, and the status is its handler's to clear.
    unsafe {
        let status = cpu::read_msr(cpu::MSR_MCG_STATUS);
        cpu::write_msr(cpu::MSR_MCG_STATUS, 0);
        status & 1 != 0
    }
}

/// A pc that no instruction can have: of a thread that is about to leave the kernel.
pub extern "C" fn bad_pc() -> ! {
    let pc = VirtAddr(sched::current().frame.with(|frame| frame.pc) as usize);
    trap::fault(Fault { cause: Cause::FetchFault, address: Some(pc), pc, code: code(GENERAL_PROTECTION, 0) })
}

extern "C" fn from_kernel(registers: &mut Registers) {
    if registers.vector >= FIRST_INTERRUPT {
        irq::dispatch(registers.vector as u8)
    } else {
        kernel_exception(registers)
    }
}

#[inline(never)] // so that interrupts save no registers for it
fn kernel_exception(registers: &mut Registers) {
    let pc = VirtAddr(registers.pc as usize);
    match registers.vector {
        NMI if panic::stop_requested() => panic::stopped(),
        PAGE_FAULT | GENERAL_PROTECTION => {
            if let Some(next) = mm::fixup(pc.0) {
                registers.pc = next as u64;
                return;
            }
        }
        _ => {}
    }
    let (vector, error) = (registers.vector, registers.error);
    let fault = Fault { cause: cause(vector, error), address: address(vector), pc, code: code(vector, error) };
    panic::exception(fault, registers.frame_pointer(), registers)
}

/// The address that could not be reached. A double fault is a stack's end, and CR2 still has where.
fn address(vector: u64) -> Option<VirtAddr> {
    matches!(vector, PAGE_FAULT | DOUBLE_FAULT).then(cpu::fault_address)
}

/// Exceptions by vector (SDM vol. 3A, table 6-1).
const fn cause(vector: u64, error: u64) -> Cause {
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    match vector {
        0 => Cause::DivideError,
        DEBUG => Cause::SingleStep,
        NMI => Cause::NonMaskable,
        BREAKPOINT => Cause::Breakpoint,
        4 | 5 => Cause::BoundsOrOverflow,
        6 => Cause::IllegalInstruction,
        7 => Cause::FloatingPointDisabled,
        DOUBLE_FAULT => Cause::DoubleFault,
        11 | 12 => Cause::StackOrSegment,
        GENERAL_PROTECTION => Cause::Protection,
        PAGE_FAULT if error & FETCH != 0 => Cause::FetchFault,
        PAGE_FAULT if error & WRITE != 0 => Cause::WriteFault,
        PAGE_FAULT => Cause::ReadFault,
        16 | 19 => Cause::FloatingPoint,
        17 => Cause::Misaligned,
        MACHINE_CHECK => Cause::HardwareError,
        _ => Cause::Other,
    }
}

/// Whether the instruction at `pc` is one that user mode may not execute: general protection has many causes and one
/// vector (opcodes: SDM vol. 2D, appendix A).
fn is_privileged(pc: VirtAddr) -> bool {
    const LONGEST: usize = 15;
    let mut bytes = [0; LONGEST];
    // An instruction may end at the end of its page: take what is there.
    let mut read =
        |size| UserBytes::new(pc.0 as u64, size as u64).is_ok_and(|text| text.read(&mut bytes[..size]).is_ok());
    let Some(size) = (1..=LONGEST).rev().find(|&size| read(size)) else { return false };
    let is_prefix =
        |byte: &u8| matches!(byte, 0x26 | 0x2E | 0x36 | 0x3E | 0x40..=0x4F | 0x64..=0x67 | 0xF0 | 0xF2 | 0xF3);
    let start = bytes[..size].iter().position(|byte| !is_prefix(byte)).unwrap_or(size);
    matches!(
        bytes[start..size],
        // Port input and output, hlt, cli, sti.
        [0x6C..=0x6F | 0xE4..=0xE7 | 0xEC..=0xEF | 0xF4 | 0xFA | 0xFB, ..]
        // System tables, clts, invd, wbinvd, control and debug registers, wrmsr, rdtsc, rdmsr, rdpmc.
        | [0x0F, 0x00 | 0x01 | 0x06 | 0x08 | 0x09 | 0x20..=0x23 | 0x30..=0x33, ..]
    )
}

const _: () = assert!(offset_of!(PerCpu, this) == 0);

//! This CPU, and starting others.

use super::{mm, sbi, timer, trap};
use crate::addr::{HardwareId, Nanos, VirtAddr};
pub use crate::arch::risc::cpus;
use crate::config::EXCEPTION_STACK_SIZE;
use crate::mm::paging;
use crate::panic;
use crate::percpu::PerCpu;
use crate::smp::{self, StartError};
use core::arch::{asm, naked_asm};
use core::cell::Cell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use sbi_spec::{binary, hsm, spi, srst};

// Bits of `sstatus` (Privileged 4.1.1).
const SIE: u64 = 1 << 1;
const SPIE: u64 = 1 << 5;
const UBE: u64 = 1 << 6;
const SPP: u64 = 1 << 8;
const VS: u64 = 3 << 9;
pub const FS: u64 = 3 << 13;
pub const SUM: u64 = 1 << 18;
const MXR: u64 = 1 << 19;

/// Programs may read `cycle`, `time` and `instret` (Privileged 4.1.5).
const USER_COUNTERS: u64 = 7;

/// Where a frame pointer's function keeps its return address and its caller's frame pointer (psABI).
pub const FRAME_RETURN: isize = -8;
pub const FRAME_PREVIOUS: isize = -16;

/// Turns of a spin between naps.
const SPIN_TURNS: u32 = 64;

/// Zeros are a valid value: boot code runs on one before there is any other.
#[derive(Default)]
#[repr(C)]
pub struct ArchCpu {
    /// For traps in the kernel.
    pub saved: Cell<u64>,
    /// Top of the stack for those that find no room on the CPU's own; 0 while there is none.
    pub emergency_stack: Cell<VirtAddr>,
    /// What the comparator is for.
    pub deadline: Cell<Option<Nanos>>,
    /// The generation of user code that this CPU's fetches see.
    pub code_generation: Cell<u64>,
    spins: Cell<u32>,
}

pub fn percpu() -> *const PerCpu {
    let this;
    // SAFETY: reads a register, which in the kernel holds nothing else.
    unsafe { asm!("mv {}, tp", out(reg) this, options(nomem, nostack, preserves_flags)) };
    this
}

/// This CPU's `ArchCpu`.
pub fn this_arch() -> &'static ArchCpu {
    // SAFETY: `tp` holds a `PerCpu` from the first Rust function on: boot memory, zeroed, which lives until
    // `install` has replaced it, or what `install` was given. Cells are touched by their own CPU alone.
    unsafe { &(*percpu()).arch }
}

pub fn install(cpu: &'static PerCpu) {
    // SAFETY: no compiled code uses `tp` for anything else (there is no thread-local storage).
    unsafe { asm!("mv tp, {}", in(reg) cpu, options(nostack)) };
}

/// # Panics
/// If no memory is left for the emergency stack.
pub fn init_cpu() {
    trap::install_vector();
    // SAFETY: interrupts off, user memory closed, FPU and vector unit off; "user mode, interrupts on" is what `sret`
    // will return to.
    unsafe {
        asm!(
            "csrc sstatus, {0}", "csrs sstatus, {1}", "csrw scounteren, {2}",
            in(reg) SIE | UBE | SPP | VS | FS | SUM | MXR, in(reg) SPIE, in(reg) USER_COUNTERS,
            options(nostack),
        );
    }
    let stack = paging::allocate_stack(EXCEPTION_STACK_SIZE).expect("memory for an emergency stack");
    this_arch().emergency_stack.set(stack);
}

/// # Errors
/// The firmware's answer.
pub fn start(hardware: HardwareId, cpu: &'static PerCpu) -> Result<(), StartError> {
    if !sbi::has(spi::EID_SPI) || !sbi::has(hsm::EID_HSM) {
        return Err(StartError::Unsupported);
    }
    STARTING.satp.store(mm::satp(paging::kernel_root()), Ordering::Relaxed);
    STARTING.target.store(arrive_mapped as *const () as u64, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    let entry = paging::image_address(arrive as *const () as usize).0;
    let argument = &raw const *cpu as u64;
    STARTING.cpu.store(argument, Ordering::Relaxed);
    STARTING.hart.store(hardware.0, Ordering::Release);
    // At a physical address, in supervisor mode, MMU off, `a0` its id, `a1` the argument.
    match sbi_rt::hart_start(hardware.0 as usize, entry, argument as usize).error {
        binary::RET_SUCCESS => Ok(()),
        binary::RET_ERR_NOT_SUPPORTED => Err(StartError::Unsupported),
        code => Err(StartError::Refused(code as i64)),
    }
}

/// What a starting hart needs while its MMU is off. One is started at a time: `hart` and `cpu` are for one that firmware
/// sends to the image's entry instead.
pub(super) struct Starting {
    pub(super) hart: AtomicU64,
    pub(super) cpu: AtomicU64,
    satp: AtomicU64,
    target: AtomicU64,
}

/// Not in `.bss`, so that a hart may read it while the first one clears that.
pub(super) static STARTING: Starting = Starting {
    hart: AtomicU64::new(u64::MAX),
    cpu: AtomicU64::new(0),
    satp: AtomicU64::new(0),
    target: AtomicU64::new(0),
};

/// A started hart, MMU off, `a1` its `PerCpu`. The final tables do not map this code where it lies, so the
/// fetch after the write of `satp` faults, and the trap goes on where it is mapped.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn arrive() -> ! {
    naked_asm!(
        ".balign 4",
        "csrw sie, zero",
        "fence.i",
        "mv tp, a1",
        "lla t0, {starting}",
        "ld t1, {target}(t0)",
        "csrw stvec, t1",
        "ld t1, {satp}(t0)",
        "sfence.vma",
        "csrw satp, t1",
        "2:",
        "wfi",
        "j 2b",
        starting = sym STARTING,
        satp = const offset_of!(Starting, satp),
        target = const offset_of!(Starting, target),
    )
}

#[unsafe(naked)]
unsafe extern "C" fn arrive_mapped() -> ! {
    naked_asm!(
        ".balign 4",
        "sfence.vma",
        "csrw sscratch, zero",
        "lla t0, {entry}",
        "csrw stvec, t0",
        "ld sp, {stack_top}(tp)",
        "li s0, 0",
        "li ra, 0",
        "tail {main}",
        entry = sym trap::entry,
        stack_top = const offset_of!(PerCpu, stack_top),
        main = sym smp::secondary_main,
    )
}

/// A turn of a spin. Nothing but `wfi` gives up an emulator's slice.
pub fn relax() {
    panic::heed();
    let spins = &this_arch().spins;
    spins.set(spins.get().wrapping_add(1));
    if spins.get().is_multiple_of(SPIN_TURNS) {
        timer::nap();
    } else {
        core::hint::spin_loop();
    }
}

/// Sleeps until an interrupt that `sie` enables is pending, also while `sstatus.SIE` is off (Privileged 3.3.3).
pub fn wait() {
    // SAFETY: changes nothing.
    unsafe { asm!("wfi", options(nomem, nostack)) };
}

pub fn wait_for_interrupt() {
    timer::sleep();
    serve_interrupts();
}

#[inline(always)] // so that who was asleep takes no detour
pub fn serve_interrupts() {
    super::irq::dispatch_pending();
}

pub fn halt() -> ! {
    // SAFETY: nothing wakes this hart any more.
    unsafe { asm!("csrw sie, zero", options(nomem, nostack)) };
    loop {
        wait();
    }
}

#[inline(always)]
pub fn frame_pointer() -> usize {
    let frame;
    // SAFETY: reads a register.
    unsafe { asm!("mv {}, s0", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    frame
}

pub fn power_off() -> abi::Error {
    sbi::reset(srst::RESET_TYPE_SHUTDOWN)
}

pub fn reboot() -> abi::Error {
    sbi::reset(srst::RESET_TYPE_COLD_REBOOT)
}

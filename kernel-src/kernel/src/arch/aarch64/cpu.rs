//! A CPU: its protections, how it is started, and how the machine ends.

use super::{boot, irq, mm, read_register, stub, task, trap, write_register};
use crate::addr::{HardwareId, PhysAddr, PhysRange, VirtAddr};
pub use crate::arch::risc::cpus;
use crate::arch::risc::{Once, tree};
use crate::config::EXCEPTION_STACK_SIZE;
use crate::fdt::Node;
use crate::mm::paging::{self, image_address, symbol};
use crate::mm::{MapFlags, direct};
use crate::panic;
use crate::percpu::PerCpu;
use crate::smp::{self, StartError};
use core::arch::{asm, naked_asm};
use core::cell::Cell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use smccc::psci;

/// A frame pointer points at the caller's, behind which the return address lies (AAPCS64, 6.4.6).
pub const FRAME_PREVIOUS: isize = 0;
pub const FRAME_RETURN: isize = 8;

/// `SCTLR_EL1` while the boot tables are on (D17.2.118): translation and caches; stack pointers are checked for alignment
/// (SA, SA0) and data is not; a program may clear cache lines, read the cache type, and wait (DZE, UCT, nTWI, nTWE).
/// What is left 0 keeps it from maintaining caches, masking interrupts and signing pointers.
pub(super) const SCTLR_BOOT: u64 =
    stub::SCTLR_OFF | 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 16 | 1 << 18;
/// What is writable cannot be executed, whatever the tables say (WXN).
const SCTLR_WRITE_XN: u64 = 1 << 19;
/// Leave PSTATE.PAN alone at exceptions; without it they set it.
const SCTLR_KEEP_PAN: u64 = 1 << 23;
/// Programs may read the virtual counter (CNTKCTL_EL1.EL0VCTEN).
const COUNTER_FOR_PROGRAMS: u64 = 1 << 1;

/// What this architecture keeps a CPU.
#[derive(Default)]
pub struct ArchCpu {
    /// Where the stack for a report begins, when the kernel's own has run over.
    pub(super) emergency: Cell<VirtAddr>,
    /// GICv2: this CPU's bit in interrupt targets. GICv3: where its redistributor is mapped.
    pub(super) gic: AtomicUsize,
}

/// This CPU's data.
#[inline(always)]
pub fn percpu() -> *const PerCpu {
    // It changes once a CPU, in `install`.
    read_register!("tpidr_el1") as *const PerCpu
}

pub fn install(cpu: &'static PerCpu) {
    // SAFETY: `percpu` gives this reference back, and nothing else uses the register.
    unsafe { write_register!("tpidr_el1", core::ptr::from_ref(cpu) as u64) };
}

/// Vectors, protections, and an emergency stack.
pub fn init_cpu() {
    let has_pan = read_register!("id_aa64mmfr1_el1") >> 20 & 0xF != 0;
    if smp::online() == 0 {
        mm::PAN.store(has_pan, Ordering::Relaxed);
    } else if mm::PAN.load(Ordering::Relaxed) && !has_pan {
        // The boot CPU's instructions would be undefined here.
        // Off, or asleep where firmware cannot do that.
        psci(psci::PSCI_CPU_OFF, [0; 3]);
        halt()
    }
    let sctlr = (SCTLR_BOOT | SCTLR_WRITE_XN) & !if has_pan { SCTLR_KEEP_PAN } else { 0 };
    let has_counters = matches!(read_register!("id_aa64dfr0_el1") >> 8 & 0xF, 1..0xF);
    let has_atomics = read_register!("id_aa64isar0_el1") >> 20 & 0xF >= 2;
    if has_atomics {
        let atomic = [trap::system_call_atomic as *mut (), trap::foreign_call_atomic as *mut ()];
        crate::percpu::this().calls.iter().zip(atomic).for_each(|(call, atomic)| call.store(atomic, Ordering::Relaxed));
    }
    // SAFETY: the vectors are this kernel's own; translation stays as it is; the final tables map nothing writable and
    // executable; and what programs may read and do is only made less.
    unsafe {
        write_register!("vbar_el1", symbol!(vectors) as u64);
        write_register!("sctlr_el1", sctlr);
        write_register!("cpacr_el1", task::FPU_OFF);
        write_register!("mdscr_el1", 0u64);
        // No steps while this lock is closed, as it is at reset (D2.8).
        write_register!("oslar_el1", 0u64);
        write_register!("contextidr_el1", 0u64);
        write_register!("tpidrro_el0", 0u64);
        write_register!("cntkctl_el1", COUNTER_FOR_PROGRAMS);
        if has_counters {
            write_register!("pmuserenr_el0", 0u64);
        }
        asm!("isb", options(nostack, preserves_flags));
        if has_pan {
            asm!(".inst 0xd500419f", options(nostack, preserves_flags)); // msr pan, #1
        }
    }
    let stack = paging::allocate_stack(EXCEPTION_STACK_SIZE).expect("memory for an emergency stack");
    crate::percpu::this().arch.emergency.set(stack);
    stub::check();
    unmask_severe();
}

/// Lets SError and FIQ through, which end in a report and never come back. IRQ stays masked.
fn unmask_severe() {
    // SAFETY: vectors and this CPU's stack are in place.
    unsafe { asm!("msr daifclr, #5", options(nostack, preserves_flags)) };
}

/// Calls firmware by the conduit that the tree names (PSCI, DEN 0022, 5.1); None where it cannot be called.
fn psci(function: u32, arguments: [u64; 3]) -> Option<i32> {
    // Entered at EL3, the kernel stands where firmware would be.
    let node = tree().find_compatible(&["arm,psci-1.0", "arm,psci-0.2"]).filter(|_| stub::entry_level() != 3)?;
    let mut all = [0; 17];
    all[..3].copy_from_slice(&arguments);
    let [status, ..] = match node.property("method")?.str()? {
        "hvc" => smccc::hvc64(function, all),
        "smc" => smccc::smc64(function, all),
        _ => return None,
    };
    Some(status as i32)
}

/// What a CPU finds when it starts, with its caches off.
#[repr(C, align(64))]
struct Start {
    /// Whom it is for, or nobody: a CPU that comes too late must not take the next one's, and a boot loader may let
    /// all go at once.
    hardware: AtomicU64,
    /// Roots of the map where the code lies and of the kernel's; `secondary_high`, its stack; its `PerCpu`, and the empty
    /// root.
    values: [AtomicUsize; 6],
}

const NOBODY: u64 = u64::MAX;
static START: Start = Start { hardware: AtomicU64::new(NOBODY), values: [const { AtomicUsize::new(0) }; 6] };

/// Writes whom it is for after all else, and all of it to memory, where CPUs read that have their caches off.
fn tell_start(hardware: u64) {
    START.hardware.store(hardware, Ordering::Release);
    mm::clean_to_memory(VirtAddr(&raw const START as usize), size_of::<Start>());
}

/// A map of the kernel's code where it physically lies, for CPUs on their way up.
static ONE_TO_ONE: Once<PhysAddr> = Once::new();

fn one_to_one() -> Option<PhysAddr> {
    let make = || {
        let start = image_address(symbol!(__text_start));
        let size = symbol!(__text_end) - symbol!(__text_start);
        let mut tables = paging::Tables::new(None)?;
        tables.map(VirtAddr(start.0), PhysRange { start, size }, MapFlags::KERNEL_TEXT, 1)?;
        Ok::<_, abi::Error>(tables.root)
    };
    ONE_TO_ONE.try_call_once(make).ok().copied()
}

/// Tells a CPU to start; it arrives in `smp::secondary_main`. One starts at a time.
///
/// # Errors
/// What firmware answered, or that the tree names no way.
pub fn start(hardware: HardwareId, cpu: &'static PerCpu) -> Result<(), StartError> {
    let node = tree().cpus().find(|cpu| cpu.hardware == hardware).ok_or(StartError::Unsupported)?.node;
    tell_start(NOBODY);
    let values = [
        one_to_one().ok_or(StartError::Unsupported)?.0,
        paging::kernel_root().0,
        secondary_high as *const () as usize,
        cpu.stack_top.0,
        core::ptr::from_ref(cpu) as usize,
        mm::empty_root().0,
    ];
    START.values.iter().zip(values).for_each(|(field, value)| field.store(value, Ordering::Relaxed));
    tell_start(hardware.0);
    let entry = image_address(secondary_entry as *const () as usize);
    match node.property("enable-method").and_then(|method| method.strings().next()) {
        Some("psci") => start_by_psci(hardware, entry),
        Some("spin-table") => start_by_spin_table(node, entry),
        _ => Err(StartError::Unsupported),
    }
}

fn start_by_psci(hardware: HardwareId, entry: PhysAddr) -> Result<(), StartError> {
    match psci(psci::PSCI_CPU_ON_64, [hardware.0, entry.0 as u64, 0]) {
        Some(psci::error::SUCCESS) => Ok(()),
        Some(error) => Err(StartError::Refused(error.into())),
        None => Err(StartError::Unsupported),
    }
}

/// The CPU polls a word of memory for an address (arm64/booting.rst).
fn start_by_spin_table(node: Node<'_>, entry: PhysAddr) -> Result<(), StartError> {
    let release = node.property("cpu-release-addr").and_then(|address| address.u64()).ok_or(StartError::Unsupported)?;
    let release = PhysAddr(release as usize);
    let word = if tree().memory().any(|range| range.contains(release)) {
        direct(release)
    } else {
        paging::map_device(PhysRange { start: release, size: size_of::<u64>() }).0 as *mut u8
    };
    // SAFETY: the tree says that the word is there for this.
    unsafe { word.cast::<u64>().write_volatile(entry.0 as u64) };
    mm::clean_to_memory(VirtAddr(word as usize), size_of::<u64>());
    // SAFETY: wakes CPUs that wait for an event.
    unsafe { asm!("sev", options(nostack, preserves_flags)) };
    Ok(())
}

/// Where a CPU starts: translation off, at any exception level, physically.
#[unsafe(naked)]
unsafe extern "C" fn secondary_entry() -> ! {
    naked_asm!(
        "bl {to_el1}",
        "adrp x19, {start}",
        "add x19, x19, :lo12:{start}",
        "mrs x1, mpidr_el1",
        "and x1, x1, #0xffffffffff",
        "and x1, x1, #0xffffffff00ffffff",
        "2:",
        "ldr x0, [x19, #{hardware}]",
        "cmp x0, x1",
        "b.eq 3f",
        "wfe",
        "b 2b",
        "3:",
        "dmb ld",
        "ldp x0, x1, [x19, #{values}]",
        "ldp x20, x21, [x19, #{values} + 16]",
        "ldp x22, x23, [x19, #{values} + 32]",
        "bl {translate}",
        "br x20",
        to_el1 = sym stub::to_el1,
        translate = sym boot::translate,
        start = sym START,
        hardware = const offset_of!(Start, hardware),
        values = const offset_of!(Start, values),
    )
}

/// The same CPU in the high half: the map of the lower half ends here.
#[unsafe(naked)]
unsafe extern "C" fn secondary_high() -> ! {
    naked_asm!(
        "msr ttbr0_el1, x23",
        "isb",
        "tlbi vmalle1",
        "dsb nsh",
        "isb",
        "msr tpidr_el1, x22",
        "mov sp, x21",
        "mov x29, xzr",
        "mov x30, xzr",
        "b {main}",
        main = sym smp::secondary_main,
    )
}

/// In every spin: gives way, and hears of a panic.
pub fn relax() {
    // SAFETY: a hint (C6.2). With one host thread, only this gives up an emulator's slice; `spin_loop` is an `isb`.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
    panic::heed();
}

/// Sleeps until an interrupt is pending and serves it; a masked one ends the sleep, too (D1.6.2), so there is nothing to
/// unmask and no race with one that comes just before.
pub fn wait_for_interrupt() {
    unmask_severe();
    // SAFETY: waits.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
    serve_interrupts();
}

/// Serves what is pending, masked or not (`ISR_EL1`, D17.2.70).
pub fn serve_interrupts() {
    const IRQ_OR_FIQ: u64 = 0xC0;
    if read_register!("isr_el1") & IRQ_OR_FIQ != 0 {
        irq::dispatch();
    }
}

/// Asleep for ever: with nothing let through to this CPU, nothing ends its sleep.
pub fn halt() -> ! {
    // SAFETY: masks interrupts and waits.
    unsafe { asm!("msr daifset, #15", options(nostack, preserves_flags)) };
    irq::silence();
    loop {
        // SAFETY: as above.
        unsafe { asm!("wfi", options(nostack, preserves_flags)) };
    }
}

#[inline(always)]
pub fn frame_pointer() -> usize {
    let frame;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, x29", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    frame
}

/// `Unsupported` where the tree names no PSCI.
fn end_machine(function: u32) -> abi::Error {
    psci(function, [0; 3]).map_or(abi::Error::Unsupported, |_| halt())
}

pub fn power_off() -> abi::Error {
    end_machine(psci::PSCI_SYSTEM_OFF)
}

pub fn reboot() -> abi::Error {
    end_machine(psci::PSCI_SYSTEM_RESET)
}

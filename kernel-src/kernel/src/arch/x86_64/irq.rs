//! Interrupts: the local APICs (SDM vol. 3A, chapter 11), the I/O APICs (82093AA data sheet), and the
//! two 8259A, which are moved out of the way and masked.

use super::cpu::{self, read_msr, write_msr};
use super::{Registers, console, machine};
use crate::addr::{CpuId, HardwareId, PhysRange, VirtAddr};
use crate::bootinfo::BootInfo;
use crate::config::PAGE_SIZE;
use crate::{acpi, percpu};
use core::sync::atomic::{AtomicUsize, Ordering};
use pic8259::ChainedPics;

/// The 8259s' sixteen lines: masked, but a spurious one can still come.
const LEGACY: u8 = 0x20;
const CONSOLE: u8 = 0x30;
pub const TIMER: u8 = 0xF0;
const IPI: u8 = 0xF1;
/// Low four bits set, for local APICs that fix them (SDM vol. 3A, 11.9).
const SPURIOUS: u8 = 0xFF;

const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xB0;
const SPURIOUS_VECTOR: u32 = 0xF0;
const ERROR_STATUS: u32 = 0x280;
const COMMAND: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
pub const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const LVT_ERROR: u32 = 0x370;
pub const TIMER_INITIAL: u32 = 0x380;
pub const TIMER_CURRENT: u32 = 0x390;
pub const TIMER_DIVIDE: u32 = 0x3E0;
pub const MASKED: u32 = 1 << 16;

const DELIVER_NMI: u32 = 4 << 8;
const ASSERT: u32 = 1 << 14;
pub(super) const INIT: u32 = ASSERT | 5 << 8;
pub(super) const STARTUP: u32 = ASSERT | 6 << 8;
const PENDING: u32 = 1 << 12;

/// Where the local APIC's registers are mapped; 0 in x2APIC mode.
static LOCAL: AtomicUsize = AtomicUsize::new(0);

const X2APIC_FIRST: u32 = 0x800;

/// A register of this CPU's local APIC.
pub fn read(register: u32) -> u32 {
    match LOCAL.load(Ordering::Relaxed) {
        // SAFETY: registers are MSRs, because the CPU has x2APIC; the numbers are the constants above.
        0 => unsafe { read_msr(X2APIC_FIRST + (register >> 4)) as u32 },
        base => Registers(VirtAddr(base)).read(register as usize),
    }
}

pub fn write(register: u32, value: u32) {
    match LOCAL.load(Ordering::Relaxed) {
        // SAFETY: as in `read`.
        0 => unsafe { write_msr(X2APIC_FIRST + (register >> 4), u64::from(value)) },
        base => Registers(VirtAddr(base)).write(register as usize, value),
    }
}

/// Once, on the boot CPU: all lines masked but the console's.
pub fn init(info: &BootInfo) {
    // SAFETY: both 8259A, used nowhere else: moved, and masked; a machine without them ignores the writes.
    unsafe {
        let mut legacy = ChainedPics::new_contiguous(LEGACY);
        legacy.initialize();
        legacy.disable();
    }
    let machine = machine(info);
    if !cpu::has_x2apic() {
        let registers = PhysRange { start: machine.local_apic, size: PAGE_SIZE };
        LOCAL.store(crate::mm::map_device(registers).0, Ordering::Relaxed);
    }
    let (console, mode) = route_of(machine, console::ISA_IRQ);
    for io_apic in &machine.io_apics {
        // Two registers: an index and a window.
        let registers = Registers(crate::mm::map_device(PhysRange { start: io_apic.address, size: 0x20 }));
        registers.write(0, 1_u32);
        let last = registers.read::<u32>(0x10) >> 16 & 0xFF;
        for line in 0..=last {
            let is_console = io_apic.gsi_base + line == console;
            let entry = if is_console { u64::from(CONSOLE) | mode | info.boot_cpu.0 << 56 } else { u64::from(MASKED) };
            // Masked until both halves of the redirection entry are there.
            let low = 0x10 + 2 * line;
            for (index, half) in [(low, MASKED), (low + 1, (entry >> 32) as u32), (low, entry as u32)] {
                registers.write(0, index);
                registers.write(0x10, half);
            }
        }
    }
}

/// On every CPU: its local APIC on, LINT1 as NMI, as on every PC.
pub fn init_cpu() {
    cpu::enable_apic();
    write(SPURIOUS_VECTOR, 1 << 8 | u32::from(SPURIOUS));
    write(LVT_TIMER, MASKED);
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, DELIVER_NMI);
    write(LVT_ERROR, MASKED);
    write(ERROR_STATUS, 0);
    write(TASK_PRIORITY, 0);
    write(END_OF_INTERRUPT, 0);
}

/// Which controllers are in use.
pub fn name() -> &'static str {
    if cpu::has_x2apic() { "x2APIC and I/O APIC" } else { "xAPIC and I/O APIC" }
}

/// Where an ISA line arrives, and polarity and trigger bits of its redirection entry: edge-triggered, active high and
/// the same number, but for what the MADT overrides (ACPI 6.5, 5.2.12.5).
fn route_of(machine: &acpi::Machine, line: u8) -> (u32, u64) {
    const ACTIVE_LOW: u64 = 1 << 13;
    const LEVEL: u64 = 1 << 15;
    let Some(entry) = machine.overrides.iter().find(|entry| entry.irq == line) else { return (line.into(), 0) };
    let low = if entry.flags & 3 == 3 { ACTIVE_LOW } else { 0 };
    let level = if entry.flags >> 2 & 3 == 3 { LEVEL } else { 0 };
    (entry.gsi, low | level)
}

/// Sends by the interrupt command register (SDM vol. 3A, 11.6.1; 11.12.9 for x2APIC, where one write does it).
pub(super) fn send(to: HardwareId, command: u32) {
    if LOCAL.load(Ordering::Relaxed) == 0 {
        // SAFETY: the CPU has x2APIC. The fences order earlier stores before the interrupt, which this write is not
        // (SDM vol. 3A, 11.12.3).
        unsafe {
            core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags));
            write_msr(X2APIC_FIRST + (COMMAND >> 4), to.0 << 32 | u64::from(command));
        }
        return;
    }
    // A spin without the stop word, for a panic sends too; delivery to a local APIC ends within microseconds.
    while read(COMMAND) & PENDING != 0 {
        core::hint::spin_loop();
    }
    write(COMMAND_HIGH, (to.0 as u32) << 24);
    write(COMMAND, command);
}

pub fn send_ipi(cpu: CpuId) {
    send(percpu::all()[cpu.0].hardware, ASSERT | u32::from(IPI));
}

/// NMI: heard even with interrupts off.
pub fn send_stop(cpu: CpuId) {
    send(percpu::all()[cpu.0].hardware, ASSERT | DELIVER_NMI);
}

/// Serves the interrupt that came by `vector`.
pub(super) fn dispatch(vector: u8) {
    match vector {
        // Neither is in service, so neither is ended (SDM vol. 3A, 11.9; 8259A data sheet, "spurious").
        SPURIOUS | LEGACY..CONSOLE => return,
        CONSOLE => crate::irq::console_input(),
        _ => {}
    }
    write(END_OF_INTERRUPT, 0);
    match vector {
        TIMER => crate::irq::timer(),
        IPI => crate::irq::ipi(),
        _ => {}
    }
}

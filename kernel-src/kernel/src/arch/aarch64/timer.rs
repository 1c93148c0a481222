//! The generic timer (Arm ARM D11): a counter that all CPUs share, and a
//! comparator a CPU, which fires once.
//!
//! The virtual timer is used, which every hypervisor gives.

use super::{irq, read_register, write_register};
use crate::addr::Nanos;
pub use crate::arch::risc::clock::{nanos, now};
use crate::arch::risc::{clock, tree};
use crate::bootinfo::BootInfo;
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

/// In `interrupts` of the binding arm,armv8-timer: secure, physical, virtual, hypervisor.
const VIRTUAL_INDEX: usize = 2;
const ENABLE: u64 = 1;

/// The number of its interrupt.
static INTERRUPT: AtomicU32 = AtomicU32::new(u32::MAX);

pub(super) fn interrupt() -> u32 {
    INTERRUPT.load(Ordering::Relaxed)
}

pub fn ticks() -> u64 {
    // SAFETY: keeps the read below behind everything before (D11.2.2).
    unsafe { asm!("isb", options(nomem, nostack, preserves_flags)) };
    read_register!("cntvct_el0")
}

/// # Panics
/// Where the tree has no generic timer, or nobody says how fast it counts.
pub fn init(_info: &BootInfo) {
    let node =
        tree().find_compatible(&["arm,armv8-timer", "arm,armv7-timer"]).expect("a generic timer in the device tree");
    let line = node.wires().nth(VIRTUAL_INDEX).and_then(|wire| irq::Line::of(&wire.cells));
    let line = line.expect("an interrupt of the virtual timer in the device tree");
    INTERRUPT.store(line.number, Ordering::Relaxed);
    let told = node.property("clock-frequency").and_then(|frequency| frequency.u64());
    clock::set_frequency(told.unwrap_or_else(|| read_register!("cntfrq_el0")));
}

pub fn init_cpu() {
    set_control(0);
    irq::enable(irq::Line { number: interrupt(), edge: false });
}

fn set_control(value: u64) {
    // SAFETY: switches this CPU's comparator, which only this module uses.
    unsafe {
        write_register!("cntv_ctl_el0", value);
        asm!("isb", options(nostack, preserves_flags));
    }
}

/// Fires at `deadline`, at once if it is past, never if there is none.
pub fn arm(deadline: Option<Nanos>) {
    let Some(deadline) = deadline else { return set_control(0) };
    // SAFETY: as in `set_control`.
    unsafe { write_register!("cntv_cval_el0", clock::tick_of(deadline, ticks())) };
    set_control(ENABLE);
}

pub const fn name() -> &'static str {
    "generic timer, virtual"
}

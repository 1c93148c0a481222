//! The generic timer (Arm ARM D11): a counter that all CPUs share, and a
//! comparator a CPU, which fires once.
//!
//! The virtual timer is used, which every hypervisor gives.

use super::{irq, read_register, write_register};
use crate::{
    addr::Nanos,
    arch::risc::{Once, tree},
    bootinfo::BootInfo,
};
use core::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering},
};

/// In `interrupts` of the binding arm,armv8-timer: secure, physical, virtual, hypervisor.
const VIRTUAL_INDEX: usize = 2;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// Fixed point of the two factors.
const FACTOR_SHIFT: u32 = 32;
const ENABLE: u64 = 1;

pub(super) struct Timer {
    pub interrupt: u32,
    /// Nanoseconds a tick, and ticks a nanosecond.
    tick_nanos: u64,
    nano_ticks: u64,
}

static TIMER: Once<Timer> = Once::new();
/// The virtual counter when the kernel was entered.
pub(super) static BEGAN: AtomicU64 = AtomicU64::new(0);

pub(super) fn timer() -> &'static Timer {
    TIMER.get().expect("`init` comes before any use")
}

pub fn ticks() -> u64 {
    // SAFETY: keeps the read below behind everything before (D11.2.2).
    unsafe { asm!("isb", options(nomem, nostack, preserves_flags)) };
    read_register!("cntvct_el0")
}

fn scale(value: u64, factor: u64) -> u64 {
    ((u128::from(value) * u128::from(factor)) >> FACTOR_SHIFT) as u64
}

/// # Panics
/// Where the tree has no generic timer, or nobody says how fast it counts.
pub fn init(_info: &BootInfo) {
    let node =
        tree().find_compatible(&["arm,armv8-timer", "arm,armv7-timer"]).expect("a generic timer in the device tree");
    let line = node.wires().nth(VIRTUAL_INDEX).and_then(|wire| irq::Line::of(&wire.cells));
    let line = line.expect("an interrupt of the virtual timer in the device tree");
    let told = node.property("clock-frequency").and_then(|frequency| frequency.u64());
    let frequency = told.unwrap_or_else(|| read_register!("cntfrq_el0"));
    assert!(frequency > 0, "neither the device tree nor CNTFRQ_EL0 says how fast the generic timer counts");
    TIMER.call_once(|| Timer {
        interrupt: line.number,
        tick_nanos: ((NANOS_PER_SECOND << FACTOR_SHIFT) / frequency).max(1),
        nano_ticks: ((u128::from(frequency) << FACTOR_SHIFT) / u128::from(NANOS_PER_SECOND)) as u64,
    });
}

pub fn init_cpu() {
    set_control(0);
    irq::enable(irq::Line { number: timer().interrupt, edge: false });
}

/// Nanoseconds since boot, the same on all CPUs.
pub fn now() -> Nanos {
    nanos(ticks().wrapping_sub(BEGAN.load(Ordering::Relaxed)))
}

/// The length of so many ticks; 0 before `init`.
pub fn nanos(ticks: u64) -> Nanos {
    Nanos(TIMER.get().map_or(0, |timer| scale(ticks, timer.tick_nanos)))
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
    let timer = timer();
    let compare = BEGAN.load(Ordering::Relaxed).saturating_add(scale(deadline.0, timer.nano_ticks).saturating_add(1));
    // SAFETY: as in `set_control`.
    unsafe { write_register!("cntv_cval_el0", compare) };
    set_control(ENABLE);
}

pub const fn name() -> &'static str {
    "generic timer, virtual"
}

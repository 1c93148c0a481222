//! The generic timer (Arm ARM D11): a counter that all CPUs share, and a
//! comparator a CPU, which fires once.
//!
//! The virtual timer is the one that every hypervisor gives; the physical one
//! serves where the tree lists no interrupt for it.

use super::{irq, read_register, tree, write_register};
use crate::{addr::Nanos, bootinfo::BootInfo};
use core::{
    arch::asm,
    fmt,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

/// In `interrupts` of the binding arm,armv8-timer: secure, physical, virtual, hypervisor.
const PHYSICAL_INDEX: usize = 1;
const VIRTUAL_INDEX: usize = 2;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// Fixed point of the two factors.
const FACTOR_SHIFT: u32 = 32;
const ENABLE: u64 = 1;

static PHYSICAL: AtomicBool = AtomicBool::new(false);
static INTERRUPT: AtomicU32 = AtomicU32::new(0);
static FREQUENCY: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds a tick, and ticks a nanosecond.
static TICK_NANOS: AtomicU64 = AtomicU64::new(0);
static NANO_TICKS: AtomicU64 = AtomicU64::new(0);
/// The virtual counter when the kernel was entered.
pub(super) static BEGAN: AtomicU64 = AtomicU64::new(0);
/// The counter in use at that time.
static ORIGIN: AtomicU64 = AtomicU64::new(0);

fn counter() -> u64 {
    // SAFETY: keeps the read below behind everything before (D11.2.2).
    unsafe { asm!("isb", options(nomem, nostack, preserves_flags)) };
    if PHYSICAL.load(Ordering::Relaxed) { read_register!("cntpct_el0") } else { read_register!("cntvct_el0") }
}

fn scale(value: u64, factor: &AtomicU64) -> u64 {
    let product = u128::from(value) * u128::from(factor.load(Ordering::Relaxed));
    (product >> FACTOR_SHIFT) as u64
}

/// # Panics
/// Where the tree has no generic timer, or nobody says how fast it counts.
pub fn init(_info: &BootInfo) {
    let node =
        tree().find_compatible(&["arm,armv8-timer", "arm,armv7-timer"]).expect("a generic timer in the device tree");
    let line = |index| node.interrupts().nth(index).and_then(|cells| irq::Line::of(&cells));
    let (physical, line) = match line(VIRTUAL_INDEX) {
        Some(line) => (false, line),
        None => {
            (true, line(PHYSICAL_INDEX).expect("an interrupt of the virtual or the physical timer in the device tree"))
        }
    };
    let told = node.property("clock-frequency").and_then(|frequency| frequency.u64());
    let frequency = told.unwrap_or_else(|| read_register!("cntfrq_el0"));
    assert!(frequency > 0, "neither the device tree nor CNTFRQ_EL0 says how fast the generic timer counts");
    PHYSICAL.store(physical, Ordering::Relaxed);
    INTERRUPT.store(line.number, Ordering::Relaxed);
    FREQUENCY.store(frequency, Ordering::Relaxed);
    TICK_NANOS.store(((NANOS_PER_SECOND << FACTOR_SHIFT) / frequency).max(1), Ordering::Relaxed);
    NANO_TICKS
        .store(((u128::from(frequency) << FACTOR_SHIFT) / u128::from(NANOS_PER_SECOND)) as u64, Ordering::Relaxed);
    let since = read_register!("cntvct_el0").wrapping_sub(BEGAN.load(Ordering::Relaxed));
    ORIGIN.store(counter().wrapping_sub(since), Ordering::Relaxed);
}

pub fn init_cpu() {
    set_control(0);
    irq::enable(irq::Line { number: interrupt(), edge: false });
}

/// The interrupt number of the timer in use.
pub(super) fn interrupt() -> u32 {
    INTERRUPT.load(Ordering::Relaxed)
}

/// Nanoseconds since boot, the same on all CPUs.
#[must_use]
pub fn now() -> Nanos {
    Nanos(scale(counter().wrapping_sub(ORIGIN.load(Ordering::Relaxed)), &TICK_NANOS))
}

fn set_control(value: u64) {
    // SAFETY: switches this CPU's comparator, which only this module uses.
    unsafe {
        if PHYSICAL.load(Ordering::Relaxed) {
            write_register!("cntp_ctl_el0", value);
        } else {
            write_register!("cntv_ctl_el0", value);
        }
        asm!("isb", options(nostack, preserves_flags));
    }
}

/// Fires at `deadline`, at once if it is past, never if there is none.
pub fn arm(deadline: Option<Nanos>) {
    let Some(deadline) = deadline else { return set_control(0) };
    let ticks = scale(deadline.0, &NANO_TICKS).saturating_add(1);
    let compare = ORIGIN.load(Ordering::Relaxed).saturating_add(ticks);
    // SAFETY: as in `set_control`.
    unsafe {
        if PHYSICAL.load(Ordering::Relaxed) {
            write_register!("cntp_cval_el0", compare);
        } else {
            write_register!("cntv_cval_el0", compare);
        }
    }
    set_control(ENABLE);
}

/// Takes the line down, which stays up as long as the deadline is past.
pub(super) fn quiet() {
    set_control(0);
}

struct Name;

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if PHYSICAL.load(Ordering::Relaxed) { "physical" } else { "virtual" };
        write!(f, "generic timer, {kind}, {} kHz, interrupt {}", FREQUENCY.load(Ordering::Relaxed) / 1000, interrupt())
    }
}

pub fn name() -> impl fmt::Display {
    Name
}

//! The clock: a counter that all CPUs share, counted from where the kernel was entered.

use crate::addr::Nanos;
use crate::arch::timer::ticks;
use core::sync::atomic::{AtomicU64, Ordering};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Ticks a second; 0 until `set_frequency`.
static FREQUENCY: AtomicU64 = AtomicU64::new(0);
/// The counter when the kernel was entered.
pub static BEGAN: AtomicU64 = AtomicU64::new(0);

pub fn frequency() -> u64 {
    FREQUENCY.load(Ordering::Relaxed)
}

/// # Panics
/// Where nobody has told how fast the counter runs.
pub fn set_frequency(told: u64) {
    assert!(told > 0, "the device tree does not say how fast the clock's counter runs");
    FREQUENCY.store(told, Ordering::Relaxed);
}

/// Ticks since the start; the difference also holds where the counter wraps.
fn elapsed(now: u64) -> u64 {
    now.wrapping_sub(BEGAN.load(Ordering::Relaxed))
}

/// Nanoseconds since boot, the same on all CPUs.
pub fn now() -> Nanos {
    nanos(elapsed(ticks()))
}

/// The length of so many ticks; 0 before the frequency is known.
pub fn nanos(ticks: u64) -> Nanos {
    let frequency = frequency();
    if frequency == 0 {
        return Nanos(0);
    }
    Nanos(ticks / frequency * NANOS_PER_SECOND + ticks % frequency * NANOS_PER_SECOND / frequency)
}

/// The first tick at which [`now`] gives at least `at`; where the counter wraps before, one a millisecond before that,
/// because behind it no comparator would be reached any more.
pub fn tick_of(at: Nanos, now: u64) -> u64 {
    let (seconds, nanos) = (at.0 / NANOS_PER_SECOND, at.0 % NANOS_PER_SECOND);
    let rest = (nanos * frequency()).div_ceil(NANOS_PER_SECOND);
    let since_start = seconds.saturating_mul(frequency()).saturating_add(rest);
    now.saturating_add(since_start.saturating_sub(elapsed(now))).min(u64::MAX - (frequency() >> 10))
}

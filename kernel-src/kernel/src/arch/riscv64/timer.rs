//! Time: the `time` counter, which all harts share, and a comparator a hart:
//! `stimecmp` where the ISA string has Sstc, the firmware's otherwise.
//!
//! The comparator is written at every arm: an emulator that loads a snapshot
//! leaves an older value running, so a copy kept here proves nothing.

use super::{boot, cpu, read_csr, sbi};
use crate::{
    addr::Nanos,
    arch::risc::{Once, tree},
    bootinfo::BootInfo,
};
use core::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering},
};
use sbi_spec::{legacy::LEGACY_SET_TIMER, time::EID_TIME};

const STIE: u64 = 1 << 5;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NEVER: u64 = u64::MAX;

/// The extension with the firmware's comparator, if the hart has none of its own.
static FIRMWARE: Once<Option<usize>> = Once::new();
/// Ticks a second; 0 until `init`.
static FREQUENCY: AtomicU64 = AtomicU64::new(0);
/// The counter when the kernel was entered.
static START: AtomicU64 = AtomicU64::new(0);

/// Time starts here.
pub fn note_start() {
    START.store(ticks(), Ordering::Relaxed);
}

pub fn init(info: &BootInfo) {
    let frequency = tree().node("/cpus").and_then(|cpus| cpus.property("timebase-frequency")?.u32());
    let frequency = frequency.filter(|&frequency| frequency > 0).expect("/cpus/timebase-frequency in the device tree");
    FREQUENCY.store(u64::from(frequency), Ordering::Relaxed);
    let firmware = if sbi::has(EID_TIME) { EID_TIME } else { LEGACY_SET_TIMER };
    FIRMWARE.call_once(|| (!boot::isa_has(info.boot_cpu, "sstc")).then_some(firmware));
}

/// What was found and is used.
pub fn name() -> &'static str {
    match FIRMWARE.get() {
        Some(None) => "Sstc",
        Some(Some(LEGACY_SET_TIMER)) => "legacy SBI",
        _ => "SBI TIME",
    }
}

pub fn init_cpu() {
    arm(None);
    // SAFETY: allows timer interrupts, which are taken in user mode only and then handled.
    unsafe { asm!("csrs sie, {}", in(reg) STIE, options(nomem, nostack)) };
}

pub fn ticks() -> u64 {
    read_csr!("time")
}

/// Ticks since the start; the difference also holds where the counter wraps.
fn elapsed(now: u64) -> u64 {
    now.wrapping_sub(START.load(Ordering::Relaxed))
}

pub fn now() -> Nanos {
    nanos(elapsed(ticks()))
}

/// The length of so many ticks; 0 before `init`.
pub fn nanos(ticks: u64) -> Nanos {
    let frequency = FREQUENCY.load(Ordering::Relaxed);
    if frequency == 0 {
        return Nanos(0);
    }
    Nanos(ticks / frequency * NANOS_PER_SECOND + ticks % frequency * NANOS_PER_SECOND / frequency)
}

/// The first tick at which `now` gives at least `at`; where the counter wraps before, one a millisecond before that,
/// because behind it no comparator would be reached any more.
fn tick_of(at: Nanos, now: u64) -> u64 {
    let frequency = FREQUENCY.load(Ordering::Relaxed);
    let (seconds, nanos) = (at.0 / NANOS_PER_SECOND, at.0 % NANOS_PER_SECOND);
    let rest = (nanos * frequency).div_ceil(NANOS_PER_SECOND);
    let since_start = seconds.saturating_mul(frequency).saturating_add(rest);
    now.saturating_add(since_start.saturating_sub(elapsed(now))).min(NEVER - (frequency >> 10))
}

pub fn arm(deadline: Option<Nanos>) {
    cpu::this_arch().deadline.set(deadline);
    let Some(at) = deadline else { return compare(NEVER) };
    loop {
        let now = ticks();
        compare(tick_of(at, now));
        // Otherwise the counter has wrapped meanwhile, and what was compared lies out of reach.
        if ticks() >= now {
            return;
        }
    }
}

/// Sleeps until an interrupt is pending. An emulator that loads a snapshot, which it made while all CPUs slept, may
/// put the counter back behind where it was then (QEMU 7.2 does, by the time since it made the snapshot), even below
/// zero: the start moves as far, once for all CPUs, so that time goes on from where it stood.
pub fn sleep() {
    let (start, before) = (START.load(Ordering::Relaxed), ticks());
    cpu::wait();
    let back = before.wrapping_sub(ticks());
    if back.cast_signed() > 0 {
        // Where another CPU was first, there is nothing left to do.
        let _ = START.compare_exchange(start, start.wrapping_sub(back), Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Sleeps for a moment in the middle of a spin, and leaves the comparator as it should be.
pub fn nap() {
    const NAPS_PER_SECOND: u64 = 100_000;
    // Without the timer's interrupt nothing would end the sleep.
    if read_csr!("sie") & STIE != 0 {
        compare(ticks() + FREQUENCY.load(Ordering::Relaxed) / NAPS_PER_SECOND);
        cpu::wait();
        arm(cpu::this_arch().deadline.get());
    }
}

/// A value that has passed makes the interrupt pending at once; one to come clears it.
fn compare(tick: u64) {
    match FIRMWARE.get() {
        // There is no error to return.
        Some(Some(firmware)) => _ = sbi::call(*firmware, 0, tick as usize),
        // SAFETY: `stimecmp` (Privileged, Sstc) is there by the ISA string; it only decides when an interrupt comes.
        _ => unsafe { asm!("csrw 0x14D, {}", in(reg) tick, options(nomem, nostack)) },
    }
}

//! Time: the `time` counter, which all harts share, and a comparator a hart:
//! `stimecmp` where the ISA string has Sstc, the firmware's otherwise.
//!
//! The comparator is written at every arm: an emulator that loads a snapshot
//! leaves an older value running, so a copy kept here proves nothing.

use super::{boot, cpu, read_csr, sbi};
use crate::addr::Nanos;
pub use crate::arch::risc::clock::{nanos, now};
use crate::arch::risc::{Once, clock, tree};
use crate::bootinfo::BootInfo;
use core::arch::asm;
use core::sync::atomic::Ordering;
use sbi_spec::legacy::LEGACY_SET_TIMER;
use sbi_spec::time::EID_TIME;

const STIE: u64 = 1 << 5;
const NEVER: u64 = u64::MAX;

/// The extension with the firmware's comparator, if the hart has none of its own.
static FIRMWARE: Once<Option<usize>> = Once::new();

pub fn init(info: &BootInfo) {
    let frequency = tree().node("/cpus").and_then(|cpus| cpus.property("timebase-frequency")?.u32());
    clock::set_frequency(frequency.unwrap_or(0).into());
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

pub fn arm(deadline: Option<Nanos>) {
    cpu::this_arch().deadline.set(deadline);
    let Some(at) = deadline else { return compare(NEVER) };
    loop {
        let now = ticks();
        compare(clock::tick_of(at, now));
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
    let (start, before) = (clock::BEGAN.load(Ordering::Relaxed), ticks());
    cpu::wait();
    let back = before.wrapping_sub(ticks());
    if back.cast_signed() > 0 {
        // Where another CPU was first, there is nothing left to do.
        let _ = clock::BEGAN.compare_exchange(start, start.wrapping_sub(back), Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Sleeps for a moment in the middle of a spin, and leaves the comparator as it should be.
pub fn nap() {
    const NAPS_PER_SECOND: u64 = 100_000;
    // Without the timer's interrupt nothing would end the sleep.
    if read_csr!("sie") & STIE != 0 {
        compare(ticks() + clock::frequency() / NAPS_PER_SECOND);
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

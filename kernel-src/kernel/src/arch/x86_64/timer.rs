//! Time: the TSC as clock, the local APIC as comparator.
//!
//! Rates come from CPUID where it tells them (leaf 15h, SDM vol. 3A, 20.7.3). Otherwise they are measured against HPET,
//! PM timer or PIT: a short sample at `init`, good to a percent or so, and better ones later, whenever a
//! timer is armed and enough time has passed. A new rate begins where the old one is, so time never steps.
//! TSCs are taken to run together on all CPUs, as they do on machines whose TSC is invariant.

use super::cpu::{inb, outb, write_msr};
use super::{Registers, irq, machine};
use crate::addr::{Nanos, PhysRange, VirtAddr};
use crate::bootinfo::BootInfo;
use crate::sync::{Rank, Spin};
use crate::{acpi, panic, smp};
use core::arch::asm;
use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use raw_cpuid::CpuId;
use x86_64::instructions::port::Port;

const MSR_TSC_DEADLINE: u32 = 0x6E0;
const SECOND_NS: u64 = 1_000_000_000;
/// Length of the first sample, and of the last one.
const FIRST_SAMPLE_NS: u64 = 100_000;
const LAST_SAMPLE_NS: u64 = SECOND_NS;
/// Modes of the local APIC's timer: one shot is 0.
const DEADLINE_MODE: u32 = 2 << 17;
const DIVIDE_BY_ONE: u32 = 0xB;

/// The counter, about when this stands.
pub fn ticks() -> u64 {
    // SAFETY: reads a counter.
    unsafe { _rdtsc() }
}

/// The counter, just where this stands (SDM vol. 2B, RDTSC).
fn ticks_in_order() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe {
        asm!("lfence", "rdtsc", "lfence", out("eax") low, out("edx") high, options(nostack, nomem, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// How ticks become nanoseconds: `ns + ((tick - tick0) * scale >> 32)`. Written under an odd `turn`.
#[repr(C)]
pub(super) struct Clock {
    /// `tick0`, `ns`, `scale`. The entry code writes the first: the counter when the kernel was entered.
    base: [AtomicU64; 3],
    turn: AtomicU32,
}

pub(super) static CLOCK: Clock = Clock { base: [const { AtomicU64::new(0) }; 3], turn: AtomicU32::new(0) };

fn scaled(value: u64, scale: u64) -> u64 {
    ((u128::from(value) * u128::from(scale)) >> 32) as u64
}

impl Clock {
    /// Runs `read` with a base and scale that were in force throughout.
    fn with<R>(&self, read: impl Fn(u64, u64, u64) -> R) -> R {
        loop {
            let turn = self.turn.load(Ordering::Acquire);
            let [base_ticks, base_ns, scale] = self.base.each_ref().map(|word| word.load(Ordering::Relaxed));
            let result = read(base_ticks, base_ns, scale);
            fence(Ordering::Acquire);
            // A panic may have interrupted the writer: then what is there must do.
            if self.turn.load(Ordering::Relaxed) == turn && turn & 1 == 0 || panic::stop_requested() {
                return result;
            }
            core::hint::spin_loop();
        }
    }

    /// From now on the clock runs by `scale`, from where it is. Callers take turns.
    fn set_scale(&self, scale: u64) {
        self.turn.fetch_add(1, Ordering::AcqRel);
        let now = ticks_in_order();
        let [base_ticks, base_ns, old] = self.base.each_ref().map(|word| word.load(Ordering::Relaxed));
        let base = [now, base_ns + scaled(now.wrapping_sub(base_ticks), old), scale];
        self.base.iter().zip(base).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        self.turn.fetch_add(1, Ordering::Release);
    }
}

/// The same on all CPUs; 0 before `init`.
pub fn now() -> Nanos {
    // A CPU whose TSC is behind by a few ticks sees no time before the base.
    CLOCK.with(|base_ticks, base_ns, scale| Nanos(base_ns + scaled(ticks_in_order().saturating_sub(base_ticks), scale)))
}

/// The length of so many ticks.
pub fn nanos(ticks: u64) -> Nanos {
    CLOCK.with(|_, _, scale| Nanos(scaled(ticks, scale)))
}

/// The tick at which it will be `deadline`.
fn tick_of(deadline: Nanos) -> u64 {
    CLOCK.with(|base_ticks, base_ns, scale| {
        let ahead = (u128::from(deadline.0.saturating_sub(base_ns)) << 32) / u128::from(scale.max(1));
        base_ticks.saturating_add(u64::try_from(ahead).unwrap_or(u64::MAX))
    })
}

/// A counter of known rate.
struct Reference {
    name: &'static str,
    /// Reads the counter at a place, which is an address or a port.
    read: fn(usize) -> u64,
    place: usize,
    /// The largest count.
    mask: u64,
    /// A tick in nanoseconds: numerator and denominator.
    tick: (u64, u64),
}

/// Channel 2 of the 8254 counts down from 65536.
const PIT_MASK: u64 = 0xFFFF;

impl Reference {
    fn find(machine: &acpi::Machine) -> Self {
        const HPET_SIZE: usize = 0x400;
        const PERIOD_MAX_FS: u64 = 100_000_000;
        const LOW: u64 = u32::MAX as u64;
        if let Some(address) = machine.hpet {
            // Main counter and femtoseconds a tick (IA-PC HPET specification 1.0a, 2.3).
            let registers = Registers(crate::mm::map_device(PhysRange { start: address, size: HPET_SIZE }));
            // Bit 0 of the configuration lets it count.
            registers.write(0x10, registers.read::<u64>(0x10) | 1);
            let capabilities = registers.read::<u64>(0);
            let (place, read) = (registers.0.0 + 0xF0, |place: usize| Registers(VirtAddr(place)).read(0));
            let (period_fs, mask) = (capabilities >> 32, if capabilities & 1 << 13 != 0 { u64::MAX } else { LOW });
            if (1..=PERIOD_MAX_FS).contains(&period_fs) {
                return Self { name: "TSC by HPET", read, place, mask, tick: (period_fs, 1_000_000) };
            }
        }
        if let Some((port, wide)) = machine.pm_timer {
            // SAFETY: reading the counter has no effect (ACPI 6.5, 4.8.3.3).
            let read = |port: usize| u64::from(unsafe { Port::<u32>::new(port as u16).read() });
            let mask = if wide { LOW } else { 0xFF_FFFF };
            return Self { name: "TSC by PM timer", read, place: port as usize, mask, tick: (SECOND_NS, 3_579_545) };
        }
        // SAFETY: ports of the 8254 and its gate, used nowhere else: channel 2, both bytes, mode 2, speaker off.
        unsafe {
            outb(0x61, inb(0x61) & !2 | 1);
            outb(0x43, 0xB4);
            outb(0x42, 0);
            outb(0x42, 0);
        }
        // SAFETY: as above; reading has no effect but on the latch of the 8254.
        let read = |port: usize| unsafe {
            outb(0x43, 0x80);
            u16::from_le_bytes([inb(port as u16), inb(port as u16)]).wrapping_neg().into()
        };
        Self { name: "TSC by PIT", read, place: 0x42, mask: PIT_MASK, tick: (SECOND_NS, 1_193_182) }
    }

    fn nanoseconds(&self, count: u64) -> u64 {
        times(count & self.mask, self.tick.0, self.tick.1)
    }

    /// Both counters at one moment: the closest of a few tries, for an emulator may stop between.
    fn sample(&self) -> Sample {
        const TRIES: usize = 4;
        let take = |_| {
            let before = ticks_in_order();
            let count = (self.read)(self.place);
            let width = ticks_in_order() - before;
            (width, Sample { ticks: before + width / 2, count })
        };
        (0..TRIES).map(take).min_by_key(|(width, _)| *width).expect("a few tries").1
    }
}

#[derive(Clone, Copy)]
struct Sample {
    ticks: u64,
    count: u64,
}

/// What better rates are measured by; nothing where CPUID tells the rate.
struct Measuring {
    reference: Reference,
    /// The sample from which they are measured.
    start: Sample,
    /// The newest measurement was so far off that it was not used.
    doubted: bool,
}

static MEASURING: Spin<Option<Measuring>> = Spin::new(Rank::Log, None);
/// The tick at which the rate is measured again; `u64::MAX` for never.
static REFINE_AT: AtomicU64 = AtomicU64::new(u64::MAX);
/// Ticks of the local APIC's timer a nanosecond of the clock, times 2^32; 0 where it compares with the TSC. The two run
/// together, so their ratio is good to some parts in a hundred thousand from the first sample on, and a better rate of
/// the TSC is one of the timer's.
static COMPARATOR_SCALE: AtomicU64 = AtomicU64::new(0);

/// Ticks of TSC and local APIC a second.
type Rates = (u64, u64);

/// As the CPU tells them.
fn rates_by_cpuid() -> Option<Rates> {
    let ratio = CpuId::new().get_tsc_info()?;
    let [denominator, numerator] = [ratio.denominator(), ratio.numerator()].map(u64::from);
    if denominator == 0 || numerator == 0 {
        return None;
    }
    // Where the crystal is not told, the TSC runs at the base frequency (SDM vol. 3A, 20.7.3).
    let base = || Some(u64::from(CpuId::new().get_processor_frequency_info()?.processor_base_frequency()) * 1_000_000);
    let tsc = ratio.tsc_frequency().or_else(base).filter(|rate| *rate != 0)?;
    Some((tsc, tsc * denominator / numerator))
}

/// `value * times / by`.
fn times(value: u64, times: u64, by: u64) -> u64 {
    (u128::from(value) * u128::from(times) / u128::from(by.max(1))) as u64
}

/// Starts the clock; once, on the boot CPU, whose local APIC is on.
pub fn init(info: &BootInfo) {
    let deadline_mode = CpuId::new().get_feature_info().is_some_and(|features| features.has_tsc_deadline());
    let (tsc, comparator) = rates_by_cpuid().unwrap_or_else(|| measure(Reference::find(machine(info))));
    // From the entry on, at the rate known now.
    CLOCK.base[2].store(times(SECOND_NS, 1 << 32, tsc), Ordering::Relaxed);
    if !deadline_mode {
        COMPARATOR_SCALE.store(times(comparator, 1 << 32, SECOND_NS), Ordering::Relaxed);
    }
}

/// The first sample: short, for the machine waits.
fn measure(reference: Reference) -> Rates {
    irq::write(irq::TIMER_DIVIDE, DIVIDE_BY_ONE);
    irq::write(irq::TIMER_INITIAL, u32::MAX);
    // Both read by the same instructions at both ends, so that what lies between the reads falls out.
    let comparator = || (ticks_in_order(), irq::read(irq::TIMER_CURRENT));
    let start = reference.sample();
    let (from_tick, from) = comparator();
    let passed = |sample: Sample| reference.nanoseconds(sample.count.wrapping_sub(start.count));
    let (end, (to_tick, to)) = loop {
        let sample = reference.sample();
        if passed(sample) >= FIRST_SAMPLE_NS {
            break (sample, comparator());
        }
    };
    irq::write(irq::TIMER_INITIAL, 0);
    let tsc_ticks = end.ticks - start.ticks;
    REFINE_AT.store(start.ticks + tsc_ticks * 10, Ordering::Relaxed);
    let tsc = times(tsc_ticks, SECOND_NS, passed(end));
    *MEASURING.lock() = Some(Measuring { reference, start, doubted: false });
    (tsc, times(tsc, (from - to).into(), to_tick - from_tick))
}

/// Measures the rate of the TSC over all the time since the first sample, unless another CPU does.
#[inline(never)] // so that a comparator that is set saves no registers for it
fn refine() {
    let Some(mut measuring) = MEASURING.try_lock() else { return };
    let Some(Measuring { reference, start, doubted }) = &mut *measuring else { return };
    let sample = reference.sample();
    let ticks = sample.ticks.saturating_sub(start.ticks);
    let old = CLOCK.with(|_, _, scale| scale);
    let about_ns = scaled(ticks, old);
    let ns = reference.nanoseconds(sample.count.wrapping_sub(start.count));
    // An emulator's snapshot steps the reference back and not the TSC (QEMU: cpu_get_ticks). What is
    // measured from there on is believed, lest a first sample that was far off stays for ever.
    let doubtful = ns.abs_diff(about_ns) > about_ns / 16 && !core::mem::replace(doubted, true);
    if doubtful || about_ns > reference.nanoseconds(u64::MAX) / 2 {
        // They did not run together, or the counter may have come round: begin anew from here.
        *start = sample;
        let next = if reference.mask == PIT_MASK { u64::MAX } else { sample.ticks + ticks / 10 };
        REFINE_AT.store(next, Ordering::Relaxed);
        return;
    }
    *doubted = false;
    let scale = times(ns, 1 << 32, ticks);
    CLOCK.set_scale(scale);
    COMPARATOR_SCALE.store(times(COMPARATOR_SCALE.load(Ordering::Relaxed), old, scale), Ordering::Relaxed);
    let next = if about_ns < LAST_SAMPLE_NS { start.ticks + ticks * 10 } else { u64::MAX };
    REFINE_AT.store(next, Ordering::Relaxed);
}

/// This CPU's comparator: one shot, or by deadline where the CPU has that.
pub fn init_cpu() {
    let mode = if COMPARATOR_SCALE.load(Ordering::Relaxed) == 0 { DEADLINE_MODE } else { 0 };
    irq::write(irq::TIMER_DIVIDE, DIVIDE_BY_ONE);
    irq::write(irq::LVT_TIMER, mode | u32::from(irq::TIMER));
    // SAFETY: orders the write above, to memory in xAPIC mode, before the first deadline (SDM vol. 3A, 11.5.4.1).
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
    arm(None);
}

/// How the clock was calibrated.
pub fn name() -> &'static str {
    MEASURING.lock().as_ref().map_or("TSC by CPUID", |measuring| measuring.reference.name)
}

/// Sets the comparator, every time; a deadline in the past fires at once, `None` stops it.
pub fn arm(deadline: Option<Nanos>) {
    if ticks_in_order() >= REFINE_AT.load(Ordering::Relaxed) {
        refine();
    }
    match COMPARATOR_SCALE.load(Ordering::Relaxed) {
        0 => {
            // Zero stops it, so no deadline is zero.
            let tick = deadline.map_or(0, |deadline| tick_of(deadline).max(1));
            // SAFETY: the register exists, since CPUID shows the deadline mode.
            unsafe { write_msr(MSR_TSC_DEADLINE, tick) };
        }
        scale => {
            // What lies beyond the counter's range fires early, with nothing due.
            let count = deadline.map_or(0, |deadline| {
                let ahead = deadline.0.saturating_sub(now().0).min(u64::from(u32::MAX) << 4);
                // One that fires early costs another sleep: 15 ppm more than it should be.
                (scaled(ahead, scale) + (ahead >> 16) + 1).min(u64::from(u32::MAX))
            });
            irq::write(irq::TIMER_INITIAL, count as u32);
        }
    }
}

/// Waits for `wait_ns`.
pub(super) fn delay(wait_ns: u64) {
    smp::wait_until(|| false, wait_ns);
}

//! What each CPU has of its own, reached in one instruction through `arch::cpu::percpu`.
//!
//! The first fields have fixed places: trap stubs use them by offset. Only
//! its own CPU writes a `PerCpu`, but for what says otherwise.

#![allow(unsafe_code)]

use crate::{
    addr::{CpuId, HardwareId, VirtAddr},
    arch,
    object::Thread,
    sched::RunQueue,
};
use core::{
    cell::Cell,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering},
};

#[repr(C, align(128))]
pub struct PerCpu {
    /// Its own address, so that one load gives a pointer where a segment gives only offsets.
    pub this: *const PerCpu,
    /// The thread that runs here in user mode; null while idle. Its `Frame` lies at offset 0.
    pub current: Cell<*const Thread>,
    /// Where the kernel's stack starts.
    pub stack_top: VirtAddr,
    /// For trap stubs only.
    pub scratch: [Cell<u64>; 3],
    pub id: CpuId,
    pub hardware: HardwareId,
    pub arch: arch::cpu::ArchCpu,

    pub queue: RunQueue,
    /// Set by `smp` once the CPU has arrived.
    pub online: AtomicBool,
    /// Set by others to ask for something at the next interrupt; see `smp`.
    pub requests: AtomicU64,
    pub timer_interrupts: AtomicU64,
    pub ipis_received: AtomicU64,
    pub ipis_sent: AtomicU64,
    pub idle_entries: AtomicU64,
    /// Registers and backtrace were printed for a panic.
    pub reported: AtomicBool,
}

// SAFETY: `this` and `stack_top` never change after `new`; cells are touched by the owning CPU alone
// (`current` of a stopped machine aside); the rest is atomic or locked.
unsafe impl Sync for PerCpu {}

impl PerCpu {
    #[must_use]
    pub fn new(id: CpuId, hardware: HardwareId, stack_top: VirtAddr) -> Self {
        Self {
            this: ptr::null(),
            current: Cell::new(ptr::null()),
            stack_top,
            scratch: [const { Cell::new(0) }; 3],
            id,
            hardware,
            arch: arch::cpu::ArchCpu::NEW,
            queue: RunQueue::new(),
            online: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            timer_interrupts: AtomicU64::new(0),
            ipis_received: AtomicU64::new(0),
            ipis_sent: AtomicU64::new(0),
            idle_entries: AtomicU64::new(0),
            reported: AtomicBool::new(false),
        }
    }
}

/// This CPU's own data.
#[must_use]
pub fn this() -> &'static PerCpu {
    // SAFETY: `arch::cpu::install` ran with a `&'static PerCpu` before anything that asks, and interrupts
    // are off in the kernel, so no migration can come between.
    unsafe { &*arch::cpu::percpu() }
}

/// Adds one to a counter that only this CPU writes.
pub fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// All CPUs of the machine, in order of their numbers; filled once by `smp`.
static CPUS: AtomicPtr<&'static PerCpu> = AtomicPtr::new(ptr::null_mut());
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Makes `cpus` what [`all`] gives.
pub fn publish(cpus: &'static mut [&'static PerCpu]) {
    let count = cpus.len();
    CPUS.store(cpus.as_mut_ptr(), Ordering::Relaxed);
    COUNT.store(count as u64, Ordering::Release);
}

/// Every CPU that the machine has, online or not.
#[must_use]
pub fn all() -> &'static [&'static PerCpu] {
    let count = COUNT.load(Ordering::Acquire) as usize;
    if count == 0 {
        return &[];
    }
    // SAFETY: `publish` stored a pointer and length of one `&'static` slice, pointer first.
    unsafe { core::slice::from_raw_parts(CPUS.load(Ordering::Relaxed), count) }
}

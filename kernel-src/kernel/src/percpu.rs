//! What each CPU has of its own, reached in one instruction through `arch::cpu::percpu`.
//!
//! The first fields have fixed places: trap stubs use them by offset. Only
//! its own CPU writes a `PerCpu`, but for what says otherwise.

#![allow(unsafe_code)]

use crate::addr::{CpuId, HardwareId, PhysAddr, VirtAddr};
use crate::config::MAX_CPUS;
use crate::object::Thread;
use crate::sched::RunQueue;
#[cfg(debug_assertions)]
use crate::sync::Rank;
use crate::sync::Ref;
use crate::{arch, trap};
use arrayvec::ArrayVec;
use core::cell::{Cell, UnsafeCell};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

#[derive(Default)]
#[repr(C, align(128))]
pub struct PerCpu {
    /// Its own address, so that one load gives a pointer where a segment gives only offsets.
    pub this: Option<NonNull<PerCpu>>,
    /// The thread that runs here in user mode; none while idle. Its `Frame` lies at offset 0.
    pub current: Cell<Option<NonNull<Thread>>>,
    /// Where the kernel's stack starts.
    pub stack_top: VirtAddr,
    /// For trap stubs only.
    pub scratch: [Cell<u64>; 3],
    pub id: CpuId,
    pub hardware: HardwareId,
    pub arch: arch::cpu::ArchCpu,

    /// The current thread began to wait: its waker queues it, not this CPU.
    pub blocked: Cell<bool>,
    /// The current thread's time is up, or another may be more urgent.
    pub reschedule: Cell<bool>,
    /// The comparator ends a slice, or comes before that: threads that share this CPU may be switched with no look at it.
    pub sliced: Cell<bool>,
    /// Ticks of the clock up to which the time of this CPU is charged.
    pub charged: Cell<u64>,
    /// What is on here, for the current thread.
    pub extras: Cell<u32>,
    /// Root table that is active for user addresses.
    pub active_root: Cell<PhysAddr>,
    /// How often the CPU has left the kernel, simple calls aside.
    pub left: AtomicU64,
    /// The registers of nobody: an empty message has its words.
    pub no_words: arch::task::Frame,
    /// In its registers are the words of what is told of a thread.
    pub report: UnsafeCell<arch::task::Frame>,
    pub queue: RunQueue,
    /// It waits for an interrupt, and has nothing of the kernel's in hand.
    pub asleep: AtomicBool,
    /// Where system calls of its threads go that are not simple, and those that are told of: [`trap::system_call`] and
    /// [`trap::foreign_call`], or what the architecture has for them.
    pub calls: [AtomicPtr<()>; 2],
    /// Set by `smp` once the CPU has arrived.
    pub online: AtomicBool,
    pub timer_interrupts: AtomicU64,
    pub ipis_received: AtomicU64,
    pub ipis_sent: AtomicU64,
    pub idle_entries: AtomicU64,
    /// Ranks of the locks held here, a bit each; a debug build checks their order.
    #[cfg(debug_assertions)]
    pub held: Cell<u32>,
    /// State of the generator of pauses; 0 before the first.
    pub jitter: Cell<u64>,
    /// Registers and backtrace were printed for a panic.
    pub reported: AtomicBool,
}

// SAFETY: `this` and `stack_top` never change after `new`; cells are touched by the owning CPU alone
// (`current` of a stopped machine aside); the rest is atomic or locked.
unsafe impl Sync for PerCpu {}

impl PerCpu {
    pub fn new(id: CpuId, hardware: HardwareId, stack_top: VirtAddr) -> Self {
        let calls = [trap::system_call as *mut (), trap::foreign_call as *mut ()].map(AtomicPtr::new);
        let charged = Cell::new(arch::timer::ticks());
        Self { id, hardware, stack_top, calls, charged, ..Self::default() }
    }
}

impl Default for RunQueue {
    fn default() -> Self {
        Self::new()
    }
}

/// This CPU's own data.
pub fn this() -> &'static PerCpu {
    // SAFETY: `arch::cpu::install` ran with a `&'static PerCpu` before anything that asks, and interrupts
    // are off in the kernel, so no migration can come between.
    unsafe { &*arch::cpu::percpu() }
}

/// The thread that this CPU runs in user mode, or ran until this entry.
pub fn current() -> Option<&'static Thread> {
    // SAFETY: `current` holds a share in the thread (see `set_current`), given up only on this CPU, in
    // `sched::leave`, which keeps no reference over it.
    this().current.get().map(|thread| unsafe { thread.as_ref() })
}

/// Makes `thread` the one that trap stubs save into; gives back the one before.
pub fn set_current(thread: Option<Ref<Thread>>) -> Option<Ref<Thread>> {
    let cpu = this();
    if cpu.extras.get() | thread.as_deref().map_or(0, Thread::extras) != 0 {
        exchange_extras(cpu, current(), thread.as_deref());
    }
    // SAFETY: every pointer in `current` came from `into_pointer`, and leaves it here, once.
    cpu.current.replace(thread.map(Ref::into_pointer)).map(|before| unsafe { Ref::from_pointer(before) })
}

/// What is on for the one thread is kept for it, and turned off; on is what goes with the other.
#[inline(always)]
pub fn exchange_extras(cpu: &PerCpu, from: Option<&Thread>, to: Option<&Thread>) {
    let fpu = |thread: Option<&Thread>| thread.map_or(ptr::null_mut(), |thread| thread.fpu.as_ptr());
    let has = to.map_or(0, Thread::extras);
    arch::task::exchange_extras(cpu.extras.replace(has), fpu(from), has, fpu(to));
}

/// As `set_current`, on a CPU that has a current thread, which it gives back, and with it the next one; but for what is on.
pub fn switch_current(cpu: &PerCpu, next: Ref<Thread>) -> (Ref<Thread>, &'static Thread) {
    let next = next.into_pointer();
    let before = cpu.current.replace(Some(next));
    // SAFETY: as in `set_current` and `current`; a thread that has just entered the kernel is the current one.
    unsafe { (Ref::from_pointer(before.unwrap_unchecked()), next.as_ref()) }
}

/// The order of locks is checked once every CPU that runs has its `PerCpu`.
#[cfg(debug_assertions)]
fn change_held(change: impl FnOnce(u32) -> u32) {
    if !all().is_empty() {
        this().held.set(change(this().held.get()));
    }
}

#[cfg(debug_assertions)]
pub fn lock_taken(rank: Rank) {
    change_held(|held| {
        assert!(held >> rank as u8 == 0, "lock of rank {rank:?} wanted while holding ranks {held:#b}");
        held | 1 << rank as u8
    });
}

/// A lock was given back, or was taken out of order.
#[cfg(debug_assertions)]
pub fn set_held(rank: Rank, is_held: bool) {
    change_held(|held| held & !(1 << rank as u8) | u32::from(is_held) << rank as u8);
}

/// Adds one to a counter that only this CPU writes.
pub fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

struct Cpus(UnsafeCell<ArrayVec<&'static PerCpu, MAX_CPUS>>);

// SAFETY: written by `publish` alone, while one CPU runs, and only read from then on.
unsafe impl Sync for Cpus {}

/// All CPUs of the machine, in order of their numbers.
static CPUS: Cpus = Cpus(UnsafeCell::new(ArrayVec::new_const()));

/// Makes `cpus` what [`all`] gives; once, before another CPU is started.
pub fn publish(cpus: &[&'static PerCpu]) {
    // SAFETY: no other CPU runs, and nobody here goes through the list meanwhile.
    unsafe { (*CPUS.0.get()).extend(cpus.iter().copied()) };
}

/// Every CPU that the machine has, online or not.
pub fn all() -> &'static [&'static PerCpu] {
    // SAFETY: as `Cpus` says.
    unsafe { &*CPUS.0.get() }
}

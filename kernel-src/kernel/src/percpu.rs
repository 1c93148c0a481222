//! What each CPU has of its own, reached in one instruction through `arch::cpu::percpu`.
//!
//! The first fields have fixed places: trap stubs use them by offset. Only
//! its own CPU writes a `PerCpu`, but for what says otherwise.

#![allow(unsafe_code)]

#[cfg(debug_assertions)]
use crate::sync::Rank;
use crate::{
    addr::{CpuId, HardwareId, PhysAddr, VirtAddr},
    arch,
    object::Thread,
    sched::RunQueue,
    sync::Ref,
};
use core::{
    cell::Cell,
    ptr::{self, NonNull},
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

    /// The current thread began to wait: its waker queues it, not this CPU.
    pub blocked: Cell<bool>,
    /// The current thread's time is up, or another may be more urgent.
    pub reschedule: Cell<bool>,
    /// The comparator ends a slice, or comes before that: threads that share this CPU may be switched with no look at it.
    pub sliced: Cell<bool>,
    /// Root table that is active for user addresses.
    pub active_root: Cell<PhysAddr>,
    /// How often the CPU has left the kernel, simple calls aside.
    pub left: AtomicU64,
    pub queue: RunQueue,
    /// It waits for an interrupt, and has nothing of the kernel's in hand.
    pub asleep: AtomicBool,
    /// Set by `smp` once the CPU has arrived.
    pub online: AtomicBool,
    pub timer_interrupts: AtomicU64,
    pub ipis_received: AtomicU64,
    pub ipis_sent: AtomicU64,
    pub idle_entries: AtomicU64,
    /// Ranks of the locks held here, a bit each; a debug build checks their order.
    #[cfg(debug_assertions)]
    held: Cell<u32>,
    /// State of the generator of pauses; 0 before the first.
    pub jitter: Cell<u64>,
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
            blocked: Cell::new(false),
            reschedule: Cell::new(false),
            sliced: Cell::new(false),
            active_root: Cell::new(PhysAddr(0)),
            left: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            online: AtomicBool::new(false),
            timer_interrupts: AtomicU64::new(0),
            ipis_received: AtomicU64::new(0),
            ipis_sent: AtomicU64::new(0),
            idle_entries: AtomicU64::new(0),
            #[cfg(debug_assertions)]
            held: Cell::new(0),
            jitter: Cell::new(0),
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

/// The thread that this CPU runs in user mode, or ran until this entry.
#[must_use]
pub fn current() -> Option<&'static Thread> {
    // SAFETY: `current` holds a share in the thread (see `set_current`), given up only on this CPU, in
    // `sched::leave`, which keeps no reference over it.
    unsafe { this().current.get().as_ref() }
}

/// Makes `thread` the one that trap stubs save into; gives back the one before.
pub fn set_current(thread: Option<Ref<Thread>>) -> Option<Ref<Thread>> {
    let next = thread.map_or(ptr::null(), |thread| thread.into_pointer().as_ptr().cast_const());
    let before = this().current.replace(next);
    // SAFETY: every pointer in `current` came from `into_pointer`, and leaves it here, once.
    NonNull::new(before.cast_mut()).map(|before| unsafe { Ref::from_pointer(before) })
}

/// As `set_current`, on a CPU that has a current thread, which it gives back, and with it the next one.
pub fn switch_current(cpu: &PerCpu, next: Ref<Thread>) -> (Ref<Thread>, &'static Thread) {
    let next = next.into_pointer();
    let before = cpu.current.replace(next.as_ptr().cast_const());
    // SAFETY: as in `set_current` and `current`; a thread that has just entered the kernel is the current one.
    unsafe { (Ref::from_pointer(NonNull::new_unchecked(before.cast_mut())), next.as_ref()) }
}

#[cfg(debug_assertions)]
static CHECKING: AtomicBool = AtomicBool::new(false);

/// From now on the order of locks is checked; every CPU that runs has its `PerCpu`.
#[cfg(debug_assertions)]
pub fn check_lock_order() {
    CHECKING.store(true, Ordering::Release);
}

#[cfg(debug_assertions)]
fn change_held(change: impl FnOnce(u32) -> u32) {
    if CHECKING.load(Ordering::Acquire) {
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

#[cfg(debug_assertions)]
pub fn lock_taken_out_of_order(rank: Rank) {
    change_held(|held| held | 1 << rank as u8);
}

#[cfg(debug_assertions)]
pub fn lock_released(rank: Rank) {
    change_held(|held| held & !(1 << rank as u8));
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

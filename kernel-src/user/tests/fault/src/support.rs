//! Threads to look at, and waiting for them.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Info, ThreadAction};
use rt::call::{self, Capability, Until};
use rt::thread::{self, Thread};
use rt::{assert_ok, kernel_assert};

/// What a thread does, as the kernel tells it.
pub const RUNS: u64 = 0;
pub const SENDS: u64 = 1;
pub const RECEIVES: u64 = 2;
pub const IS_CALLING: u64 = 3;
pub const WAITS_FOR_BITS: u64 = 4;
pub const WAITS: u64 = 5;
pub const IS_STOPPED: u64 = 6;

/// How long something may take that a busy host can hold up.
const PATIENCE_NS: u64 = 20_000_000_000;

pub fn info(what: Info) -> u64 {
    assert_ok!(call::info(what, 0))
}

/// CPUs to test on.
pub fn cpus() -> u64 {
    info(Info::CpusOnline).min(4)
}

/// A CPU that is not the caller's, where there are several.
pub fn other_cpu() -> u64 {
    (info(Info::CurrentCpu) + 1) % cpus()
}

pub fn patience() -> Until {
    Until::Clock(call::clock_ns() + PATIENCE_NS)
}

/// Waits until it is so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = call::clock_ns() + PATIENCE_NS;
    while !is_so() {
        kernel_assert!(call::clock_ns() < deadline, "waited for: {what}");
        call::yield_now();
    }
}

pub fn control(thread: Capability, action: ThreadAction) -> u64 {
    assert_ok!(call::thread_control(thread, action, 0))
}

pub fn resume(thread: Capability) {
    control(thread, ThreadAction::Resume);
}

/// Stops a thread, and returns when it has; a wait of it goes on.
pub fn suspend(thread: Capability) {
    wait_until("a thread to stop", || control(thread, ThreadAction::Suspend) == IS_STOPPED);
}

/// Stops a thread, ends its wait, and returns when it has stopped.
pub fn halt(thread: Capability) {
    wait_until("a thread to stop", || control(thread, ThreadAction::Halt) == IS_STOPPED);
}

/// Suspends a thread while it does that.
pub fn suspend_in(thread: Capability, state: u64) {
    wait_until("a thread to wait", || {
        let found = control(thread, ThreadAction::Suspend);
        if found != state {
            resume(thread);
        }
        found == state
    });
}

/// Starts a thread that does that, and returns when it is in that state.
pub fn in_state<T: Send + 'static>(
    state: u64,
    cpu: u64,
    run: impl FnOnce() -> T + Send + 'static,
) -> (Thread<T>, Capability) {
    let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(cpu), run));
    resume(capability);
    // A thread that is asked to stop tells what it does; it is resumed at once.
    wait_until("a thread to wait", || {
        let found = control(capability, ThreadAction::Suspend);
        resume(capability);
        found == state
    });
    (thread, capability)
}

/// A thread that counts up until it is told to end, and then gives the last count.
pub struct Counter {
    pub thread: Thread<u64>,
    pub capability: Capability,
    count: Arc<AtomicU64>,
    ends: Arc<AtomicU64>,
}

impl Counter {
    pub fn on(cpu: u64) -> Self {
        let (count, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counts, end) = (count.clone(), ends.clone());
        let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(cpu), move || {
            while end.load(Ordering::Relaxed) == 0 {
                counts.fetch_add(1, Ordering::Relaxed);
            }
            counts.load(Ordering::Relaxed)
        }));
        Self { thread, capability, count, ends }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns when it has counted on.
    pub fn goes_on(&self) {
        let seen = self.count();
        wait_until("a thread to count", || self.count() > seen);
    }

    pub fn end(self) {
        self.ends.store(1, Ordering::Relaxed);
        assert_ok!(self.thread.join());
        assert_ok!(call::close(self.capability));
    }
}

//! Threads: registers, a home CPU, and whether they run or wait.

use super::{process::Process, wait::Waiting};
use crate::{
    addr::{CpuId, VirtAddr},
    arch::task::Frame,
    config::DEFAULT_PRIORITY,
    mm::slab::Slab,
    percpu, sched,
    sync::{Counted, Header, Link, Owned, Rank, Ref, Spin, Via},
};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// Queue kinds: a CPU's run queue and its sleepers; a process's threads.
pub struct Queued;
pub struct Member;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// Running, or in its home CPU's queue.
    Runnable = 0,
    /// In a wait list, or owed a reply, or asleep.
    Waiting = 1,
}

#[repr(C)]
pub struct Thread {
    /// At offset 0: trap stubs save here.
    pub(crate) frame: Owned<Frame>,
    header: Header,
    id: u64,
    process: Ref<Process>,
    pub priority: u8,
    /// The CPU in whose queue it is, and which alone runs it.
    pub home: CpuId,
    state: AtomicU8,
    /// Its process has ended: it never returns to user mode.
    /// Stored before, and read after, `state`: so in one order with it, on all CPUs.
    doomed: AtomicBool,
    /// When it wakes, while it sleeps.
    pub wake_at: AtomicU64,
    /// The capability by which it waits at an endpoint.
    pub via: Via,
    /// The caller to whom it owes a reply.
    pub owed: Spin<Option<Ref<Thread>>>,
    queued: Link<Ref<Thread>, Queued>,
    waiting: Link<Ref<Thread>, Waiting>,
    member: Link<Ref<Thread>, Member>,
}

static SLAB: Slab<Thread> = Slab::new();
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Counted for Thread {
    fn header(&self) -> &Header {
        &self.header
    }

    fn slab() -> &'static Slab<Self> {
        &SLAB
    }

    fn is_looked_up(&self) -> bool {
        false
    }
}

crate::sync::linked!(Thread, Queued, queued);
crate::sync::linked!(Thread, Waiting, waiting);
crate::sync::linked!(Thread, Member, member);

/// What a new thread starts with.
pub struct Start {
    pub entry: VirtAddr,
    pub stack: VirtAddr,
    pub argument: u64,
    pub tls: u64,
    pub home: CpuId,
}

impl Thread {
    pub fn new(process: Ref<Process>, start: &Start) -> Result<Ref<Self>, abi::Error> {
        Ref::new(Self {
            frame: Owned::new(Frame::new(start.entry, start.stack, start.argument, start.tls)),
            header: Header::new(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            process,
            priority: DEFAULT_PRIORITY,
            home: start.home,
            state: AtomicU8::new(State::Runnable as u8),
            doomed: AtomicBool::new(false),
            wake_at: AtomicU64::new(0),
            via: Via::new(),
            owed: Spin::new(Rank::Owed, None),
            queued: Link::new(),
            waiting: Link::new(),
            member: Link::new(),
        })
    }

    pub const fn id(&self) -> u64 {
        self.id
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn is_waiting(&self) -> bool {
        self.state.load(Ordering::Acquire) == State::Waiting as u8
    }

    /// The current thread waits from here on; it leaves its CPU when the kernel does. Whoever wakes it finds it through
    /// a list whose lock the caller holds.
    pub fn begin_wait(&self) {
        percpu::this().blocked.set(true);
        self.state.store(State::Waiting as u8, Ordering::SeqCst);
    }

    /// One of several wakers succeeds.
    pub fn end_wait(&self) -> bool {
        self.state
            .compare_exchange(State::Waiting as u8, State::Runnable as u8, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    pub fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::SeqCst)
    }

    /// Ends the thread at its CPU's next way out of the kernel.
    pub fn doom(thread: &Ref<Self>) {
        thread.doomed.store(true, Ordering::SeqCst);
        if !sched::wake(thread.clone()) {
            sched::prod(thread.home);
        }
    }
}

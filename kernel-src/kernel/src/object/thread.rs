//! Threads: registers, a home CPU, and whether they run or wait.

use super::{
    fast::Known,
    notification::Notification,
    process::{self, Process},
    wait::{Meeting, Waiting},
};
use crate::{
    addr::{CpuId, PhysAddr, VirtAddr},
    arch::task::Frame,
    config::DEFAULT_PRIORITY,
    mm::buffer::Buffer,
    percpu::{self, PerCpu},
    sched,
    sync::{Anchor, Found, Header, Link, Owned, Payer, Ref, Slot, Via},
};
use abi::{Error, MESSAGE_WORDS, ThreadInfo};
use core::{
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering},
};

/// Queue kinds: a CPU's run queue and its sleepers; a process's threads.
pub struct Queued;
pub struct Member;

/// Whether a thread waits, and for what; the numbers are those of [`abi::ThreadInfo`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum State {
    /// Running, or in its home CPU's queue.
    Runnable = 0,
    /// Until somebody receives what it sends.
    Sending = 1,
    /// For a message.
    Receiving = 2,
    /// For the answer to its call.
    Replying = 3,
    /// For bits of a notification.
    Notified = 4,
    /// For a time, the end of a process, or input.
    Other = 5,
}

/// The right to answer a call, once.
pub struct Owed {
    pub caller: Ref<Thread>,
    /// Which of its calls; see [`Thread::token`].
    pub token: u64,
}

#[repr(C)]
pub struct Thread {
    /// At offset 0: trap stubs save here.
    pub(crate) frame: Owned<Frame>,
    header: Header,
    id: u64,
    process: Ref<Process>,
    /// Of its tables: the process's, at hand.
    pub root: PhysAddr,
    pub priority: u8,
    /// The CPU in whose queue it is, and which alone runs it.
    pub home: CpuId,
    /// A word, because RISC-V has no atomic operations on bytes.
    state: AtomicU32,
    /// Its process has ended: it never returns to user mode.
    /// Stored before, and read after, `state`: so in one order with it, on all CPUs.
    doomed: AtomicBool,
    /// When it wakes, while it sleeps.
    pub wake_at: AtomicU64,
    /// Its CPU, where whoever ends its wait may switch to it at once; null while there is a time to be taken care of.
    direct: AtomicPtr<PerCpu>,
    /// The capabilities by which it last sent, received, waited and signalled: by which it waits at an object, or called.
    pub via: [Via; WAYS],
    /// What the names of these meant.
    pub(super) known: [Owned<Known>; WAYS],
    /// Where it is listed, perhaps while it waits there no more.
    pub listed: Anchor<Meeting>,
    /// The number of the call that waits for its answer, or 0. Who changes it to 0 ends that wait, and nobody else does.
    pub token: AtomicU64,
    calls: AtomicU64,
    /// The caller to whom it owes a reply. It is its own while it runs, and until then of whoever ended its wait.
    pub owed: Owned<Option<Owed>>,
    /// Bits of it are seen by this thread's receives.
    pub bound: Anchor<Notification>,
    queued: Link<Thread, Queued>,
    waiting: Link<Thread, Waiting>,
    member: Link<Thread, Member>,
    /// The rights by which it received last: whether the answer may carry capabilities.
    pub received_by: AtomicU64,
    pub buffer: Buffer,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

crate::object!(Thread {
    fn is_looked_up(&self) -> bool {
        false
    }

    fn end_by_quota(&self) {
        match self.process() {
            // It says why it ends.
            process if self.header.is_charged_to(process.quota()) => process::end_by_quota(process),
            _ if self.is_doomed() => {}
            _ => Self::doom(self),
        }
    }
});
crate::sync::linked!(Thread, Queued, queued);
crate::sync::linked!(Thread, Waiting, waiting);
crate::sync::linked!(Thread, Member, member);

/// Which of the capabilities that a thread came by.
pub const SENDS: usize = 0;
pub const RECEIVES: usize = 1;
/// For bits.
pub const WAITS: usize = 2;
pub const SIGNALS: usize = 3;
const WAYS: usize = 4;

/// What a new thread starts with.
pub struct Start {
    pub entry: VirtAddr,
    pub stack: VirtAddr,
    pub argument: u64,
    pub tls: u64,
    pub home: CpuId,
}

impl Thread {
    pub fn new(payer: Payer<'_>, process: Ref<Process>, start: &Start) -> Result<Ref<Self>, abi::Error> {
        Ref::new(payer, || Self {
            frame: Owned::new(Frame::new(start.entry, start.stack, start.argument, start.tls)),
            header: Header::new(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            root: process.root(),
            process,
            priority: DEFAULT_PRIORITY,
            home: start.home,
            state: AtomicU32::new(State::Runnable as u32),
            doomed: AtomicBool::new(false),
            wake_at: AtomicU64::new(0),
            direct: AtomicPtr::new(ptr::from_ref(percpu::all()[start.home.0]).cast_mut()),
            via: Default::default(),
            known: [const { Owned::new(Known::NONE) }; WAYS],
            listed: Anchor::default(),
            token: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            received_by: AtomicU64::new(0),
            buffer: Buffer::none(),
            bound: Anchor::default(),
            owed: Owned::new(None),
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

    /// It is about to wait by a capability. Under the lock of the object, if it is to be listed there.
    pub fn come_by(&self, which: usize, slot: &Slot, found: &Found) {
        if !self.via[which].is(slot, found) {
            self.via[which].set(slot, found, found.id());
            self.known[which].with(|known| *known = Known::NONE);
        }
    }

    /// It is listed nowhere where it waits no more, and nothing is asked of it.
    pub fn is_clear(&self) -> bool {
        self.listed.get().is_none() && !self.is_doomed()
    }

    #[inline(always)]
    pub fn is_direct(&self, cpu: &PerCpu) -> bool {
        ptr::eq(self.direct.load(Ordering::Relaxed), cpu)
    }

    /// Its home CPU's queue wakes it at that time; 0 is never. That it did, before.
    pub fn set_wake_at(&self, time: u64) -> bool {
        let home = ptr::from_ref(percpu::all()[self.home.0]).cast_mut();
        self.direct.store(if time == 0 { home } else { ptr::null_mut() }, Ordering::Relaxed);
        self.wake_at.swap(time, Ordering::Relaxed) != 0
    }

    /// What it does, as far as that can be told while it may go on.
    pub fn info(&self) -> ThreadInfo {
        let state = self.state.load(Ordering::Acquire);
        let object = match state {
            state if state == State::Sending as u32 || state == State::Replying as u32 => self.via[SENDS].object(),
            state if state == State::Receiving as u32 => self.via[RECEIVES].object(),
            state if state == State::Notified as u32 => self.via[WAITS].object(),
            _ => 0,
        };
        ThreadInfo { id: self.id, state: state.into(), object }
    }

    /// The current thread waits from here on; it leaves its CPU when the kernel does. Whoever wakes it finds it through
    /// a list whose lock the caller holds.
    pub fn begin_wait(&self, state: State) {
        percpu::this().blocked.set(true);
        self.state.store(state as u32, Ordering::SeqCst);
    }

    /// Its wait ends, or goes on as another one: for whoever ended the first.
    pub fn wait_on(&self, state: State) {
        self.state.store(state as u32, Ordering::SeqCst);
    }

    /// One of several wakers succeeds. It alone makes the thread ready, and may write its registers before.
    pub fn end_wait(&self) -> bool {
        self.state.swap(State::Runnable as u32, Ordering::SeqCst) != State::Runnable as u32
    }

    /// The same, if this is what it waits for.
    pub fn end_wait_if(&self, state: State) -> bool {
        self.state.compare_exchange(state as u32, State::Runnable as u32, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// A new call: the number that its answer has to name.
    pub fn begin_call(&self) -> u64 {
        let token = self.calls.load(Ordering::Relaxed) + 1;
        self.calls.store(token, Ordering::Relaxed);
        // Whoever is to answer, or whose look at the state says that it waits, sees it.
        self.token.store(token, Ordering::Relaxed);
        token
    }

    /// Its call is not answered any more: false where that is done already.
    pub fn end_call(&self, token: u64) -> bool {
        token != 0 && self.token.compare_exchange(token, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Its time is up, on its home CPU: whether that ended its wait. A call whose answer is due has that as its result;
    /// any other starts again and finds that the time has passed.
    pub fn expire(&self) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        if state == State::Runnable as u32 {
            return false;
        }
        if state == State::Replying as u32 {
            if !self.end_call(self.token.load(Ordering::SeqCst)) {
                return false;
            }
            self.frame.with(|frame| frame.set_message(Error::TimedOut.status(), 0, 0, [0; MESSAGE_WORDS]));
        }
        // Who has ended the wait meanwhile may have made another of it, and looks at the time then.
        self.state.compare_exchange(state, State::Runnable as u32, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    pub fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::SeqCst)
    }

    /// Ends the thread at its CPU's next way out of the kernel.
    pub fn doom(thread: &Self) {
        thread.doomed.store(true, Ordering::SeqCst);
        thread.token.store(0, Ordering::SeqCst);
        if !sched::wake(Ref::share(thread)) {
            sched::prod(thread.home);
        }
    }
}

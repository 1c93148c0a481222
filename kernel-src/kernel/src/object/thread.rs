//! Threads: registers, a home CPU, and whether they run or wait.

use super::fast::Known;
use super::notification::Notification;
use super::process::{self, Process};
use super::wait::{self, Meeting, Waiting};
use crate::addr::{CpuId, PhysAddr, VirtAddr};
use crate::arch;
use crate::arch::frame::Fpu;
use crate::arch::task::{Frame, INITIAL_FPU};
use crate::config::{DEFAULT_PRIORITY, PRIORITIES};
use crate::mm::buffer::Buffer;
use crate::percpu::{self, PerCpu};
use crate::sched;
use crate::sync::{Anchor, Found, Header, Link, Owned, Payer, Ref, Slot, Via};
use crate::trap::Fault;
use abi::{Error, MESSAGE_WORDS, SIMPLE_CALLS, ThreadInfo};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

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
    /// For the answer to what was told of it.
    Handled = 7,
}

/// The state in a thread's word; above it stands what goes with the thread, and then what is asked of it.
const STATE: u32 = 7;
/// It has the FPU; see [`abi::ThreadAction::Fpu`].
pub const FPU: u32 = 1 << 3;
/// One instruction of it is carried out, and told of then; see [`abi::ThreadAction::Step`].
pub const STEPS: u32 = 1 << 4;
/// What its CPU turns on for it, and off for others.
pub const EXTRAS: u32 = FPU | STEPS;
/// Its process has ended, or it was killed: it never returns to user mode.
const DOOMED: u32 = 1 << 5;
/// It does not return to user mode until it is resumed.
pub const SUSPENDED: u32 = 1 << 6;
/// Until then it does not wait either.
pub const HALTED: u32 = 1 << 7;
/// It is in no queue, and no CPU runs it: its registers are of whoever has the lock of its CPU's queue, under which alone
/// this bit goes.
pub const STOPPED: u32 = 1 << 8;
/// What [`abi::ThreadInfo`] tells of that.
pub const IS_STOPPED: u64 = 6;
/// Its wait was ended before its time, and its CPU is to end its call; which had been received.
pub const CANCELLED: u32 = 1 << 9;
pub const UNANSWERED: u32 = 1 << 10;

/// The right to answer a call, once.
pub struct Owed {
    pub caller: Ref<Thread>,
    /// Which of its calls; see [`Thread::token`].
    pub token: u64,
}

impl Owed {
    pub fn is_due(&self) -> bool {
        self.caller.token.load(Ordering::Relaxed) == self.token
    }
}

#[repr(C)]
pub struct Thread {
    /// At offset 0: trap stubs save here.
    pub(crate) frame: Owned<Frame>,
    /// For them too: where its system calls go, and which of these are simple: those below that number.
    pub(crate) calls: AtomicPtr<()>,
    pub(crate) simple_calls: AtomicU64,
    header: Header,
    pub id: u64,
    pub process: Ref<Process>,
    /// Of its tables: the process's, at hand.
    pub root: PhysAddr,
    pub priority: AtomicU8,
    /// The highest that it may give.
    pub limit: AtomicU8,
    /// Its priority, or that of those for whom it works, when it entered the kernel to be looked at, or was queued.
    pub urgency: AtomicU8,
    /// Ticks of CPU time that were its own.
    pub spent: AtomicU64,
    /// The CPU in whose queue it is, and which alone runs it.
    pub home: CpuId,
    /// What it waits for, and what is asked of it: in one word, so that who asks it to stop, and who ends or begins its
    /// wait, never miss each other. Not a byte, because RISC-V has no atomic operations on bytes.
    state: AtomicU32,
    /// When it wakes, while it sleeps.
    pub wake_at: AtomicU64,
    /// Its CPU, where whoever ends its wait may switch to it at once; null while there is a time to be taken care of.
    direct: AtomicPtr<PerCpu>,
    /// The capabilities by which it was last told of, sent, received, waited and signalled: by which it waits at an object,
    /// or called.
    pub via: [Via; WAYS],
    /// What the names of these meant.
    pub(super) known: [Owned<Known>; WAYS],
    /// Where it is listed, perhaps while it waits there no more.
    pub listed: Anchor<Meeting>,
    /// The number of its last call, odd. Who adds 1 has ended that call, and nobody else answers it any more.
    pub(super) token: AtomicU64,
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
    /// Its faults, and the calls of a foreign thread, go to the endpoints there; no name leads to these slots.
    pub handlers: [Slot; 2],
    /// What is told of it, while it waits for that; as `frame`, of whoever has the thread.
    pub report: Owned<Option<Fault>>,
    /// By which of `via` it sends.
    pub(super) sends_by: AtomicUsize,
    /// Its registers of the FPU, while no CPU has them; for its own alone, and for who gives it the FPU.
    pub fpu: Owned<Fpu>,
}

impl Drop for Thread {
    /// It may have been set after the thread's end.
    fn drop(&mut self) {
        self.handlers.iter().for_each(process::delete_root);
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

crate::object!(Thread as Thread {
    fn end_by_quota(&self) {
        match &self.process {
            // It says why it ends.
            process if self.header.is_charged_to(&process.quota) => process::end_by_quota(process),
            _ if self.is_doomed() => {}
            _ => Self::doom(self),
        }
    }
});
crate::sync::linked!(Thread, Queued, queued);
crate::sync::linked!(Thread, Waiting, waiting);
crate::sync::linked!(Thread, Member, member);

/// Which of the capabilities that a thread came by. The first two are for what the kernel tells of it.
pub const FAULTS: usize = 0;
pub const FOREIGN: usize = 1;
pub const SENDS: usize = 2;
pub const RECEIVES: usize = 3;
/// For bits.
pub const WAITS: usize = 4;
pub const SIGNALS: usize = 5;
const WAYS: usize = 6;

/// What a new thread starts with.
pub struct Start {
    pub entry: VirtAddr,
    pub stack: VirtAddr,
    pub argument: u64,
    pub tls: u64,
    pub home: CpuId,
    pub suspended: bool,
}

impl Thread {
    pub fn new(payer: Payer<'_>, process: Ref<Process>, start: &Start) -> Result<Ref<Self>, abi::Error> {
        let limit = percpu::current().map_or((PRIORITIES - 1) as u8, |creator| creator.limit.load(Ordering::Relaxed));
        Ref::new(payer, || Self {
            frame: Owned::new(Frame::new(start.entry, start.stack, start.argument, start.tls)),
            calls: AtomicPtr::new(percpu::all()[start.home.0].calls[0].load(Ordering::Relaxed)),
            simple_calls: AtomicU64::new(SIMPLE_CALLS),
            header: Header::new(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            root: process.root,
            process,
            priority: AtomicU8::new(DEFAULT_PRIORITY.min(limit)),
            limit: AtomicU8::new(limit),
            urgency: AtomicU8::new(DEFAULT_PRIORITY.min(limit)),
            spent: AtomicU64::new(0),
            home: start.home,
            state: AtomicU32::new(if start.suspended { SUSPENDED | STOPPED } else { State::Runnable as u32 }),
            wake_at: AtomicU64::new(0),
            direct: AtomicPtr::new(ptr::from_ref(percpu::all()[start.home.0]).cast_mut()),
            via: Default::default(),
            known: [const { Owned::new(Known::NONE) }; WAYS],
            listed: Anchor::default(),
            token: AtomicU64::new(0),
            received_by: AtomicU64::new(0),
            buffer: Buffer::none(),
            handlers: Default::default(),
            report: Owned::new(None),
            sends_by: AtomicUsize::new(SENDS),
            fpu: Owned::new(INITIAL_FPU),
            bound: Anchor::default(),
            owed: Owned::new(None),
            queued: Link::new(),
            waiting: Link::new(),
            member: Link::new(),
        })
    }

    /// It is about to wait by a capability. Under the lock of the object, if it is to be listed there.
    pub fn come_by(&self, which: usize, slot: &Slot, found: &Found) {
        if !self.via[which].is(slot, found) {
            self.via[which].set(slot, found, found.id());
            self.known[which].with(|known| *known = Known::NONE);
        }
    }

    #[inline(always)]
    pub fn priority(&self) -> u8 {
        self.priority.load(Ordering::Relaxed)
    }

    pub fn urgency(&self) -> u8 {
        self.urgency.load(Ordering::Relaxed)
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
        let word = self.state.load(Ordering::Acquire);
        let object = match word & STATE {
            1 | 3 | 7 => self.via[self.sends_by()].object(),
            2 => self.via[RECEIVES].object(),
            4 => self.via[WAITS].object(),
            _ => 0,
        };
        let time = arch::timer::nanos(self.spent.load(Ordering::Relaxed)).0;
        ThreadInfo { id: self.id, state: Self::told(word), object, priority: self.urgency().into(), time }
    }

    /// What [`ThreadInfo`] tells of its word.
    fn told(word: u32) -> u64 {
        match word & (STATE | STOPPED) {
            STOPPED => IS_STOPPED,
            state if state == State::Handled as u32 => State::Replying as u64,
            state => state.into(),
        }
    }

    /// The current thread waits from here on; it leaves its CPU when the kernel does. Whoever wakes it finds it through
    /// a list whose lock the caller holds.
    pub fn begin_wait(&self, state: State) {
        // Not later: others may have its registers then.
        if state == State::Other {
            self.frame.with(Frame::restart_call);
        }
        percpu::this().blocked.set(true);
        self.wait_on(state);
    }

    /// Its wait ends, or goes on as another one: for whoever ended the first.
    /// What goes with it, and was asked of it before: who asks later sees that it waits.
    #[inline(always)]
    pub fn wait_on(&self, state: State) -> u32 {
        // It does not wait until then. An addition, because x86 has an instruction for one that tells what was there.
        self.state.fetch_add(state as u32, Ordering::SeqCst)
    }

    /// One of several wakers succeeds. It alone makes the thread ready, and may write its registers before.
    pub fn end_wait(&self) -> bool {
        self.state.fetch_and(!STATE, Ordering::SeqCst) & STATE != State::Runnable as u32
    }

    /// The same, if this is what it waits for.
    pub fn end_wait_as(&self, state: u32) -> bool {
        let ended = |word| (word & STATE == state).then_some(word & !STATE);
        self.state.fetch_update(Ordering::SeqCst, Ordering::Relaxed, ended).is_ok()
    }

    /// The same, if nothing is asked of it.
    #[inline(always)]
    pub fn end_wait_if(&self, state: State) -> bool {
        let end =
            |extras| self.state.compare_exchange(state as u32 | extras, extras, Ordering::SeqCst, Ordering::Relaxed);
        let with = |word| word & EXTRAS != 0 && end(word & EXTRAS).is_ok();
        end(0).map_or_else(with, |_| true)
    }

    /// A new call: the number that its answer has to name.
    pub fn begin_call(&self) -> u64 {
        let token = (self.token.load(Ordering::Relaxed) + 1) | 1;
        // Whoever is to answer, or whose look at the state says that it waits, sees it.
        self.token.store(token, Ordering::Relaxed);
        token
    }

    /// Its call is not answered any more: false where that is done already.
    pub fn end_call(&self, token: u64) -> bool {
        let ended = || self.token.compare_exchange(token, token + 1, Ordering::SeqCst, Ordering::Relaxed);
        token & 1 != 0 && ended().is_ok()
    }

    /// The same, whichever its call is.
    pub fn end_any_call(&self) -> bool {
        self.end_call(self.token.load(Ordering::SeqCst))
    }

    /// Ends its wait before what it waits for has come; what that was. None where it does not wait, or somebody else has
    /// ended that.
    pub fn interrupt(&self) -> Option<u32> {
        // Before the state: or it might be that of a later call.
        let token = self.token.load(Ordering::SeqCst);
        let state = self.state.load(Ordering::SeqCst) & STATE;
        let is_due = state == State::Replying as u32 || state == State::Handled as u32;
        let ends = state != State::Runnable as u32 && (!is_due || self.end_call(token));
        // Who has ended the wait meanwhile may have made another of it, and looks at what is asked then.
        let ended = ends && self.end_wait_as(state);
        if ended && is_due {
            // An answer that was under way may have come between, and the call whose wait ends here is its next.
            self.end_any_call();
        }
        ended.then_some(state)
    }

    /// Its time is up, on its home CPU: whether that ended its wait. A call whose answer is due has that as its result;
    /// any other starts again and finds that the time has passed.
    pub fn expire(&self) -> bool {
        let waited = self.interrupt();
        if waited == Some(State::Replying as u32) {
            self.frame.with(|frame| frame.set_message(Error::TimedOut.status(), 0, 0, [0; MESSAGE_WORDS]));
        }
        waited.is_some()
    }

    /// Its system calls are told of, or carried out. While it runs, one that it makes meanwhile is of either kind: the words
    /// may be seen to change in any order.
    pub fn set_foreign(&self, foreign: bool) {
        let [native, told] = &percpu::all()[self.home.0].calls;
        self.calls.store(if foreign { told } else { native }.load(Ordering::Relaxed), Ordering::Relaxed);
        self.simple_calls.store(if foreign { 0 } else { SIMPLE_CALLS }, Ordering::Relaxed);
    }

    /// By which of `via` it sends: by another than [`SENDS`] what is told of it.
    pub fn sends_by(&self) -> usize {
        self.sends_by.load(Ordering::Relaxed)
    }

    /// Whether it waits, or is to wait, because of what is told of it.
    pub fn reports(&self) -> bool {
        self.sends_by() != SENDS
    }

    /// That is done, or not to be told any more: what it was. For whoever has ended its wait, and has its registers from
    /// here on: others are at them no more.
    #[inline(always)]
    pub fn take_report(&self) -> Option<(usize, Fault)> {
        sched::let_pass(self);
        let way = self.sends_by();
        self.sends_by.store(SENDS, Ordering::Relaxed);
        self.report.with(Option::take).map(|fault| (way, fault))
    }

    pub fn is_doomed(&self) -> bool {
        self.state.load(Ordering::SeqCst) & DOOMED != 0
    }

    /// Whether it is to do something else than to go on. In one order with its state, since it is one word.
    #[inline(always)]
    pub fn is_asked(&self) -> bool {
        self.state.load(Ordering::Acquire) & !(STATE | EXTRAS) != 0
    }

    /// What goes with a thread that runs or is to run, and what is asked of it.
    #[inline(always)]
    pub fn besides(&self) -> u32 {
        self.state.load(Ordering::Relaxed)
    }

    /// What its CPU turns on for it. It runs, or is to run, so that nobody changes that.
    pub fn extras(&self) -> u32 {
        self.state.load(Ordering::Relaxed) & EXTRAS
    }

    /// Gives it one of these, or takes it away; whether it had that. While it is at rest, under the lock of its CPU's queue, or
    /// on its CPU, which then turns that on or off.
    pub fn set_extra(&self, extra: u32, on: bool) -> bool {
        let before = if on {
            self.state.fetch_or(extra, Ordering::SeqCst)
        } else {
            self.state.fetch_and(!extra, Ordering::SeqCst)
        };
        before & extra != 0
    }

    /// Asks for what the bits say; what it does meanwhile, as [`ThreadInfo`] tells it.
    pub fn ask(&self, bits: u32) -> u64 {
        Self::told(self.state.fetch_or(bits, Ordering::SeqCst))
    }

    /// It is to stop no more: whether it was stopped. Under the lock of its CPU's queue.
    pub fn release(&self) -> bool {
        self.state.fetch_and(!(SUSPENDED | HALTED | STOPPED), Ordering::SeqCst) & STOPPED != 0
    }

    /// What its CPU is to do because its wait was cancelled, which from here on is done.
    pub fn take_cancel(&self) -> u32 {
        self.state.fetch_and(!(CANCELLED | UNANSWERED), Ordering::SeqCst)
    }

    /// It stops, if it is to; for whoever has taken it out of its queue or off its CPU.
    pub fn stop(&self) -> bool {
        let stopped = |word| (word & (SUSPENDED | DOOMED | CANCELLED) == SUSPENDED).then_some(word & !HALTED | STOPPED);
        self.state.fetch_update(Ordering::SeqCst, Ordering::Relaxed, stopped).is_ok()
    }

    /// Whether it runs only after somebody has had the lock of its CPU's queue: it is stopped, or waits for the answer to what
    /// is told of it.
    pub fn is_at_rest(&self) -> bool {
        let word = self.state.load(Ordering::Acquire);
        word & STOPPED != 0 || word & STATE == State::Handled as u32
    }

    /// It has begun to wait: does what was asked of it before.
    pub fn heed(thread: Ref<Self>) {
        let word = thread.state.load(Ordering::SeqCst);
        if word & DOOMED != 0 {
            sched::wake(thread);
        } else if word & HALTED != 0 {
            wait::cancel(&thread, false);
        }
    }

    /// Ends the thread at its CPU's next way out of the kernel.
    pub fn doom(thread: &Self) {
        thread.ask(DOOMED);
        thread.end_any_call();
        if !sched::wake(Ref::share(thread)) {
            sched::resume(thread);
        }
    }
}

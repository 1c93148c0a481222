//! Which thread a CPU runs: a queue a CPU, fixed priorities, first in first
//! out within one, and a slice of time where several share it.
//!
//! The running thread is in no queue. There is one kernel stack a CPU and no
//! kernel thread: every way out of the kernel passes `leave`, which returns
//! to user mode or sleeps.

use crate::addr::{CpuId, Nanos, PhysAddr};
use crate::arch::task::Frame;
use crate::config::{CAPABILITY_STEPS, PRIORITIES, THREADS_AT_ONCE};
use crate::mm::paging;
use crate::object::{self, HALTED, IS_STOPPED, Queued, State, Thread};
use crate::percpu::{self, PerCpu};
use crate::sync::{List, Rank, Ref, Spin, SpinGuard, ending};
use crate::{arch, irq, jitter};
use abi::Error;
use core::sync::atomic::{AtomicUsize, Ordering};

const WORDS: usize = PRIORITIES / 64;

struct Queues {
    ready: [List<Ref<Thread>, Queued>; PRIORITIES],
    /// A bit for each list that is not empty, from the highest priority down: the lowest bit that is set is found in
    /// a few instructions everywhere, the highest in forty where a machine counts no zeros (RV64GC).
    occupied: [u64; WORDS],
    /// Threads that other CPUs have made ready: how urgent they are this one finds out.
    incoming: List<Ref<Thread>, Queued>,
    /// Threads asleep, the first to wake in front.
    sleepers: List<Ref<Thread>, Queued>,
}

impl Queues {
    #[inline(always)]
    fn push(&mut self, thread: Ref<Thread>) {
        if thread.home != percpu::this().id {
            return self.incoming.push(thread);
        }
        let (_, urgency) = object::backing(&thread);
        self.place(thread, urgency);
    }

    #[inline(always)]
    fn place(&mut self, thread: Ref<Thread>, urgency: u8) {
        let (word, bit) = place_of(urgency);
        thread.urgency.store(urgency, Ordering::Relaxed);
        self.ready[usize::from(urgency)].push(thread);
        self.occupied[word] |= bit;
    }

    /// On their CPU, before it chooses; false where some are left.
    fn place_incoming(&mut self) -> bool {
        for _ in 0..THREADS_AT_ONCE {
            let Some(thread) = self.incoming.pop() else { break };
            self.push(thread);
        }
        self.incoming.is_empty()
    }

    /// Takes a thread out, if it is ready here.
    fn withdraw(&mut self, thread: &Thread) -> Option<Ref<Thread>> {
        let urgency = thread.urgency();
        let taken = self.incoming.remove(thread).or_else(|| self.ready[usize::from(urgency)].remove(thread));
        self.note(urgency);
        taken
    }

    /// A thread of that priority has left its list.
    fn note(&mut self, priority: u8) {
        if self.ready[usize::from(priority)].is_empty() {
            let (word, bit) = place_of(priority);
            self.occupied[word] &= !bit;
        }
    }

    /// The highest priority that somebody waits with.
    fn highest(&self) -> Option<u8> {
        let word = self.occupied.iter().position(|&word| word != 0)?;
        Some((PRIORITIES - 1 - word * 64 - self.occupied[word].trailing_zeros() as usize) as u8)
    }

    /// Takes out the thread that is to run next, if all are placed. One that comes alone is given no place.
    #[inline(always)]
    fn next(&mut self) -> Option<Ref<Thread>> {
        if let Some(thread) = self.incoming.pop() {
            if self.incoming.is_empty() && self.highest().is_none() {
                thread.urgency.store(object::backing(&thread).1, Ordering::Relaxed);
                return Some(thread);
            }
            self.push(thread);
            if !self.place_incoming() {
                return None;
            }
        }
        self.pop()
    }

    fn pop(&mut self) -> Option<Ref<Thread>> {
        let priority = self.highest()?;
        self.pop_first(priority)
    }

    #[inline(always)]
    fn pop_first(&mut self, priority: u8) -> Option<Ref<Thread>> {
        let thread = self.ready[usize::from(priority)].pop();
        self.note(priority);
        thread
    }

    fn next_wake(&self) -> Option<Nanos> {
        self.sleepers.front().map(|thread| Nanos(thread.wake_at.load(Ordering::Relaxed)))
    }
}

/// Word and bit of a priority in `occupied`.
fn place_of(priority: u8) -> (usize, u64) {
    let place = PRIORITIES - 1 - usize::from(priority);
    (place / 64, 1 << (place % 64))
}

/// A CPU's threads that are ready, and those that sleep.
pub struct RunQueue {
    queues: Spin<Queues>,
}

impl RunQueue {
    pub const fn new() -> Self {
        let queues = Queues {
            ready: [const { List::new() }; PRIORITIES],
            occupied: [0; WORDS],
            incoming: List::new(),
            sleepers: List::new(),
        };
        Self { queues: Spin::new(Rank::Queue, queues) }
    }
}

/// The thread that trapped.
pub fn current() -> &'static Thread {
    percpu::current().expect("a trap from user mode has a thread")
}

/// A CPU for a new thread: the online one after the last chosen.
pub fn place() -> CpuId {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let online = || percpu::all().iter().filter(|cpu| cpu.online.load(Ordering::Acquire));
    let turn = NEXT.fetch_add(1, Ordering::Relaxed) % online().count().max(1);
    online().nth(turn).map_or(CpuId(0), |cpu| cpu.id)
}

/// Ends a thread's wait; false if it did not wait.
pub fn wake(thread: Ref<Thread>) -> bool {
    let woken = thread.end_wait();
    if woken {
        ready(thread);
    }
    woken
}

/// Queues a thread that is new, or whose wait the caller has ended.
pub fn ready(thread: Ref<Thread>) {
    let home = thread.home;
    let mut queues = percpu::all()[home.0].queue.queues.lock();
    // Not before: the order of the sleepers is that of their times.
    let limited = thread.wake_at.load(Ordering::Relaxed) != 0 && thread.set_wake_at(0);
    let sleeper = if limited { queues.sleepers.remove(&thread) } else { None };
    queues.push(thread);
    drop(queues);
    // It is not the last share.
    drop(sleeper);
    prod(home);
}

/// The queue of the CPU that runs a thread.
fn queue_of(thread: &Thread) -> SpinGuard<'static, Queues> {
    percpu::all()[thread.home.0].queue.queues.lock()
}

/// Does something with the registers of a thread that is at rest, which stays so meanwhile.
pub fn while_at_rest<R>(thread: &Thread, act: impl FnOnce(&mut Frame) -> R) -> Result<R, Error> {
    let queues = queue_of(thread);
    let done = if thread.is_at_rest() { Ok(thread.frame.with(act)) } else { Err(Error::NotStopped) };
    drop(queues);
    done
}

/// Lets who is at the registers of a thread that was at rest be done with them.
pub fn let_pass(thread: &Thread) {
    drop(queue_of(thread));
}

/// Asks the thread to stop: at once where it is ready and does not run, else on its CPU's next way out of the kernel. What
/// it does, as [`abi::ThreadInfo`] tells it.
pub fn suspend(thread: &Thread, how: u32) -> u64 {
    let state = thread.ask(how);
    if how & HALTED != 0 {
        object::cancel(thread, false);
    }
    let ready = queue_of(thread).withdraw(thread);
    if let Some(ready) = ready {
        // Who looks through a list where it may still be looks at its registers.
        object::unlist(&ready);
        if ready.stop() {
            return IS_STOPPED;
        }
        self::ready(ready);
    }
    // Who waits is looked at when its wait ends; an interrupt for nothing would put that CPU's timer off.
    if state == State::Runnable as u64 {
        prod(thread.home);
    }
    state
}

/// The thread runs again, if it was to stop; and if it is to end, its CPU is told.
pub fn resume(thread: &Thread) {
    let mut queues = queue_of(thread);
    if thread.release() {
        queues.push(Ref::share(thread));
    }
    drop(queues);
    prod(thread.home);
}

/// Sets a thread's priority; the one before. Where it waits for its turn it takes the place that goes with it.
pub fn set_priority(thread: &Thread, priority: u8) -> u8 {
    let mut queues = queue_of(thread);
    let ready = queues.withdraw(thread);
    let before = thread.priority.swap(priority, Ordering::Relaxed);
    ready.into_iter().for_each(|ready| queues.push(ready));
    drop(queues);
    prod(thread.home);
    if before != priority {
        object::requeue(thread);
    }
    before
}

/// Makes a CPU look at its queue.
pub fn prod(cpu: CpuId) {
    if cpu == percpu::this().id {
        percpu::this().reschedule.set(true);
    } else {
        percpu::count(&percpu::this().ipis_sent);
        jitter::pause();
        arch::irq::send_ipi(cpu);
    }
}

/// The wait that the current thread is about to begin lasts until `deadline` at most.
pub fn limit(thread: &Thread, deadline: Nanos) {
    let mut queues = percpu::this().queue.queues.lock();
    thread.set_wake_at(deadline.0.max(1));
    queues.sleepers.insert(Ref::share(thread), |other| other.wake_at.load(Ordering::Relaxed) > deadline.0);
}

/// The current thread, whose wait it has ended itself, goes on.
pub fn wait_no_more(thread: &Thread) {
    let cpu = percpu::this();
    cpu.blocked.set(false);
    if thread.wake_at.load(Ordering::Relaxed) != 0 {
        let mut queues = cpu.queue.queues.lock();
        thread.set_wake_at(0);
        let sleeper = queues.sleepers.remove(thread);
        drop(queues);
        drop(sleeper);
    }
}

/// The comparator fired on this CPU: sleepers that are due wake, and a slice may be over.
pub fn timer_fired() {
    let cpu = percpu::this();
    // What one owes that waits by now is for whoever ends that to write.
    if let Some(thread) = percpu::current().filter(|_| !cpu.blocked.get()) {
        object::charge(cpu, thread);
    }
    let now = arch::timer::now();
    let mut queues = cpu.queue.queues.lock();
    // Those that are left have the comparator fire at once.
    for _ in 0..THREADS_AT_ONCE {
        let is_due = queues.next_wake().is_some_and(|due| due <= now);
        let Some(thread) = is_due.then(|| queues.sleepers.pop()).flatten() else { break };
        thread.set_wake_at(0);
        if thread.expire() {
            queues.push(thread);
        }
    }
    drop(queues);
    // The comparator is written before this CPU leaves, without which some give no rest.
    cpu.sliced.set(true);
    cpu.reschedule.set(true);
}

/// Takes the thread that is to run next out of this CPU's queue, where nothing but a switch is to be done for it.
#[inline(always)]
pub fn take_next(cpu: &PerCpu) -> Option<Ref<Thread>> {
    let mut queues = cpu.queue.queues.lock();
    let priority = queues.highest()?;
    let plain = |next: &&Thread| next.listed.get().is_none() && !next.is_asked();
    let is_plain = queues.ready[usize::from(priority)].front().filter(plain).is_some();
    let next = if is_plain { queues.pop_first(priority) } else { None };
    let shared = queues.highest().is_some();
    drop(queues);
    if shared {
        share(cpu);
    }
    next
}

/// Queues a thread of this CPU that works for nobody, and goes on with another at once.
#[inline(always)]
pub fn put_off(cpu: &PerCpu, thread: Ref<Thread>) {
    let mut queues = cpu.queue.queues.lock();
    let urgency = thread.priority();
    queues.place(thread, urgency);
    drop(queues);
    share(cpu);
}

/// Threads that share a CPU have slices.
#[inline(always)]
fn share(cpu: &PerCpu) {
    if !cpu.sliced.get() {
        arm(cpu, cpu.queue.queues.lock());
    }
}

/// The only way out of the kernel: on with the current thread, or the next, or sleep.
pub fn leave() -> ! {
    let cpu = percpu::this();
    ending::quiescent(cpu);
    settle_current(cpu);
    loop {
        if let Some(thread) = percpu::current() {
            activate(cpu, thread.root);
            arch::task::resume(thread)
        }
        let mut queues = cpu.queue.queues.lock();
        let (next, wake) = (queues.next(), queues.next_wake());
        if let Some(thread) = next {
            arm(cpu, queues);
            object::unlist(&thread);
            if thread.is_asked() {
                put_aside(cpu, thread);
                irq::serve();
            } else {
                // Nobody was current, so nothing comes back.
                drop(percpu::set_current(Some(thread)));
            }
            continue;
        }
        let all_placed = queues.incoming.is_empty();
        drop(queues);
        // What is left to do at the ends of objects comes before sleep.
        if all_placed && (ending::pending() == 0 || !ending::advance(CAPABILITY_STEPS)) {
            idle(cpu, wake);
        } else {
            irq::serve();
        }
    }
}

/// Leaves the current thread in place only if it goes on.
fn settle_current(cpu: &PerCpu) {
    let reschedule = cpu.reschedule.replace(false);
    let Some(thread) = percpu::current() else { return };
    if cpu.blocked.replace(false) {
        // Whoever wakes it has a share of its own; but what was asked before its wait, nobody else does.
        if let Some(thread) = percpu::set_current(None).filter(|thread| thread.is_asked()) {
            Thread::heed(thread);
        }
    } else if thread.is_asked() {
        if let Some(thread) = percpu::set_current(None) {
            put_aside(cpu, thread);
        }
    } else if reschedule {
        let mut queues = cpu.queue.queues.lock();
        // Those that are left are for `leave`.
        let all_placed = queues.place_incoming();
        object::charge(cpu, thread);
        let urgency = thread.urgency();
        if !all_placed || queues.highest().is_some_and(|highest| highest >= urgency) {
            if let Some(thread) = percpu::set_current(None) {
                queues.place(thread, urgency);
            }
        } else {
            arm(cpu, queues);
        }
    }
}

/// Does what is asked of a thread that is in no queue, and runs on this CPU no more.
fn put_aside(cpu: &PerCpu, thread: Ref<Thread>) {
    object::hear(&thread);
    if thread.is_doomed() {
        // Its tables may go with it.
        activate(cpu, paging::kernel_root());
        object::reap(thread);
    } else if !thread.stop() {
        // It was resumed meanwhile, or is to end.
        cpu.queue.queues.lock().push(thread);
    }
}

#[inline(always)] // each is on the way of every switch, and half of what it costs as a call is saving registers
pub fn activate(cpu: &PerCpu, root: PhysAddr) {
    if cpu.active_root.replace(root) != root {
        if root == paging::kernel_root() {
            arch::mm::activate_kernel(root);
        } else {
            arch::mm::activate_user(root);
        }
    }
}

/// Sets the comparator to the next sleeper, or to the end of the slice where the running thread shares its CPU. One that
/// has nothing to do is left alone: it may fire with nothing due.
#[inline(always)]
fn arm(cpu: &PerCpu, queues: SpinGuard<'_, Queues>) {
    let wake = queues.next_wake();
    let slice = jitter::time_slice_ns(queues.highest().is_some());
    drop(queues);
    let sliced = cpu.sliced.replace(slice.is_some());
    if sliced || wake.is_some() || slice.is_some() {
        let end = slice.map(|slice| Nanos(arch::timer::now().0 + slice));
        arch::timer::arm(wake.into_iter().chain(end).min());
    }
}

/// Sleeps until an interrupt. Interrupts are off from the last look at the queue until the CPU sleeps, so one that
/// comes between ends the sleep at once.
fn idle(cpu: &PerCpu, wake: Option<Nanos>) {
    activate(cpu, paging::kernel_root());
    cpu.sliced.set(false);
    arch::timer::arm(wake);
    percpu::count(&cpu.idle_entries);
    ending::asleep(cpu, arch::cpu::wait_for_interrupt);
    // What nobody ran in is nobody's time.
    cpu.charged.set(arch::timer::ticks());
    cpu.reschedule.set(false);
}

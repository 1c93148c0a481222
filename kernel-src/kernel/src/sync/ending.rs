//! The end of objects: what is left to do when the last share has gone, in steps, and their memory, which is used again
//! only when no CPU can still have a look-up's answer in hand (`docs/concurrency.md`).

use super::{Counted, Header, Quota, Rank, Spin, SpinGuard, Step};
use crate::config::{CAPABILITY_STEPS, MAX_CPUS, RETIRED_BATCH};
use crate::percpu::{self, PerCpu};
use crate::{arch, irq};
use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering, fence};

/// In each object's header: what it is part of, and its place among those that end.
pub struct Ending {
    object: Cell<NonNull<dyn Counted>>,
    next: Cell<Option<NonNull<Header>>>,
}

// SAFETY: `object` is written before the object is shared; `next` by whoever has taken the header out of its stack.
unsafe impl Sync for Ending {}
// SAFETY: as above.
unsafe impl Send for Ending {}

impl Ending {
    pub(super) const fn new() -> Self {
        // All of it is written, so that the zeros beside it need not be made elsewhere and copied.
        Self { object: Cell::new(NonNull::<Quota>::dangling()), next: Cell::new(None) }
    }

    /// # Safety
    /// `object` is the one that this is part of, and nobody else knows it yet.
    pub unsafe fn bind<T: Counted>(&self, object: NonNull<T>) {
        self.object.set(object);
    }

    pub(super) fn object(&self) -> &dyn Counted {
        // SAFETY: `Ref::new` binds each object; the caller reached the header through this one, which therefore lives.
        unsafe { self.object.get().as_ref() }
    }
}

struct Stack(Option<NonNull<Header>>);

// SAFETY: the headers in a stack are nobody's but its.
unsafe impl Send for Stack {}

impl Stack {
    fn push(&mut self, header: NonNull<Header>) {
        // SAFETY: an object whose end has begun keeps its memory until it is freed from the last stack.
        unsafe { header.as_ref() }.ending.next.set(self.0);
        self.0 = Some(header);
    }

    fn pop(&mut self) -> Option<NonNull<Header>> {
        let first = self.0?;
        // SAFETY: as in `push`.
        self.0 = unsafe { first.as_ref() }.ending.next.get();
        Some(first)
    }
}

struct Ends {
    /// Those with steps to take.
    begun: Stack,
    /// The others wait for their memory to be nobody's.
    gathering: Stack,
    gathered: usize,
    /// What was gathered when `left` was copied.
    waiting: Stack,
    left: [u64; MAX_CPUS],
    ready: Stack,
}

static ENDS: Spin<Ends> = {
    let [begun, gathering, waiting, ready] = [const { Stack(None) }; 4];
    Spin::new(Rank::Ending, Ends { begun, gathering, gathered: 0, waiting, left: [0; MAX_CPUS], ready })
};
/// Objects whose end has begun, and that are not free yet.
static PENDING: AtomicUsize = AtomicUsize::new(0);

/// The last share in the object has gone.
pub fn begin(header: &Header) {
    PENDING.fetch_add(1, Ordering::Relaxed);
    ENDS.lock().begun.push(NonNull::from(header));
}

/// Objects whose end has begun and is not complete.
pub fn pending() -> usize {
    PENDING.load(Ordering::Relaxed)
}

/// This CPU has nothing in hand that it looked up.
pub fn left(cpu: &PerCpu) {
    // Release: what it did with what it found comes before. And it is seen before anything is looked up again: on AArch64
    // since a look-up begins with an acquire, elsewhere since this is one atomic operation.
    if cfg!(target_arch = "aarch64") {
        cpu.left.store(cpu.left.load(Ordering::Relaxed) + 1, Ordering::Release);
    } else {
        cpu.left.fetch_add(1, Ordering::SeqCst);
    }
}

/// The same; and where objects end, it takes a few steps at that.
pub fn quiescent(cpu: &PerCpu) {
    left(cpu);
    if pending() != 0 {
        advance(CAPABILITY_STEPS);
    }
}

/// This CPU does nothing but `sleep`: nobody waits for it to leave the kernel meanwhile.
pub fn asleep(cpu: &PerCpu, sleep: impl FnOnce()) {
    cpu.asleep.store(true, Ordering::SeqCst);
    // It sees that an object ends, or whoever ends one sees that it sleeps: see `inside`.
    fence(Ordering::SeqCst);
    let unused = if pending() == 0 { Stack(None) } else { unused(ENDS.lock(), CAPABILITY_STEPS) };
    // Freeing may wake somebody.
    if unused.0.is_none() {
        sleep();
    }
    // It looks things up, as what frees does, only after whoever did not wait for it can have seen that it woke: see
    // `unused`.
    cpu.asleep.store(false, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    free_all(unused);
}

/// Takes at most `steps` steps at the ends of objects; whether it found any to take.
pub fn advance(most: usize) -> bool {
    let mut steps = most;
    let mut ends = ENDS.lock();
    while let Some(header) = ends.begun.pop() {
        drop(ends);
        // SAFETY: whose end has begun keeps its memory until it is freed below, and only this CPU has it now.
        let object = unsafe { header.as_ref() }.ending.object();
        loop {
            if steps == 0 {
                ENDS.lock().begun.push(header);
                return true;
            }
            steps -= 1;
            if object.end_step() == Step::Done {
                break;
            }
        }
        // SAFETY: as above.
        if unsafe { header.as_ref() }.private.load(Ordering::Relaxed) {
            free(object);
            ends = ENDS.lock();
        } else {
            ends = ENDS.lock();
            ends.gathering.push(header);
            ends.gathered += 1;
        }
    }
    free_all(unused(ends, steps)) || steps < most
}

fn free(object: &dyn Counted) {
    // SAFETY: the last share has gone, and no look-up can still have found it.
    unsafe { object.free() };
    PENDING.fetch_sub(1, Ordering::Relaxed);
    irq::serve();
}

/// Frees objects; whether there were any.
fn free_all(mut objects: Stack) -> bool {
    let any = objects.0.is_some();
    while let Some(header) = objects.pop() {
        // SAFETY: as in `Stack::push`.
        free(unsafe { header.as_ref() }.ending.object());
    }
    any
}

/// At most `most` objects that no CPU can have in hand. It looks whether there are more.
#[inline(always)]
fn unused(mut retired: SpinGuard<'_, Ends>, most: usize) -> Stack {
    let (is_ready, waits) = (retired.ready.0.is_some(), retired.waiting.0.is_some());
    if !is_ready && waits && inside(&retired).next().is_none() {
        retired.ready = core::mem::replace(&mut retired.waiting, Stack(None));
    }
    if retired.waiting.0.is_none() && retired.gathering.0.is_some() {
        let prods = retired.gathered > RETIRED_BATCH;
        retired.waiting = core::mem::replace(&mut retired.gathering, Stack(None));
        retired.gathered = 0;
        // The slots that named these objects were emptied before `left` and `asleep` are read: a CPU that wakes
        // later, and is not waited for, finds none of them.
        fence(Ordering::SeqCst);
        for (cpu, left) in percpu::all().iter().zip(&mut retired.left) {
            *left = cpu.left.load(Ordering::Acquire);
        }
        if prods {
            prod(&retired);
        }
    }
    let mut done = Stack(None);
    (0..most).map_while(|_| retired.ready.pop()).for_each(|header| done.push(header));
    done
}

/// Asks those CPUs to come by for which retired objects wait.
fn prod(retired: &Ends) {
    inside(retired).filter(|cpu| cpu.id != percpu::this().id).for_each(|cpu| arch::irq::send_ipi(cpu.id));
}

/// Somebody waits for the memory of what ended.
pub fn hurry() {
    let retired = ENDS.lock();
    if retired.waiting.0.is_some() {
        prod(&retired);
    }
}

/// The CPUs that have not left the kernel since, and may be in it and have something of it in hand.
fn inside(retired: &Ends) -> impl Iterator<Item = &'static PerCpu> {
    fence(Ordering::SeqCst);
    percpu::all().iter().zip(&retired.left).filter_map(|(cpu, left)| {
        let is_away = cpu.asleep.load(Ordering::SeqCst) || !cpu.online.load(Ordering::Acquire);
        (!is_away && cpu.left.load(Ordering::Acquire) == *left).then_some(*cpu)
    })
}

//! A thread is stopped anywhere, saved, destroyed with its process, and rebuilt in another: its partners notice nothing.
//!
//! It is [`rt::worker`]: its state is its registers and its capabilities. Each turn lets it run for a while, halts it,
//! reads its registers, copies its CNodes slot by slot with the generations that the names in its registers have, ends it,
//! and writes the registers into a thread of a new process. What it was doing then, it goes on with.

use crate::partners::{Partners, Tally};
use crate::roles;
use crate::space::{ROOT_GUARD, Space, Wanted};
use crate::support::{
    IS_CALLING, IS_STOPPED, RECEIVES, RUNS, SENDS, WAITS_FOR_BITS, control, cpus, info, other_cpu, resume,
};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Error, Info, Registers, ThreadAction};
use rt::call::{self, Capability, Exit};
use rt::protocol::RESOURCE;
use rt::random::Random;
use rt::worker::{self, State};
use rt::{assert_ok, kernel_assert, kernel_assert_eq, println, probe, test, testing, thread};

/// Of each case; a board runs three of them, where it has two CPUs.
const TURNS: u64 = 350;
const _: () = assert!(3 * TURNS >= 1000);
/// Above those who work, so that it can stop a thread of its own CPU anywhere. Who has it takes no lock of this process, as
/// that of the heap: one who has been stopped may have it.
const URGENT: u64 = 160;
const PATIENCE_NS: u64 = 20_000_000_000;
/// How long one turn waits for a state.
const AIM_NS: u64 = 50_000_000;
/// More than two workers take.
const BYTES: u64 = 4 << 20;
const OBJECTS: u64 = 40;
/// Slots for the first threads of the processes, in turn.
const THREADS: [Capability; 2] = [Capability(60), Capability(61)];
/// The states in which it is to be halted.
const STATES: [u64; 5] = [RUNS, SENDS, RECEIVES, IS_CALLING, WAITS_FOR_BITS];

/// Waits until it is so. This thread may be more urgent than those it waits for, so it sleeps between its looks.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = call::clock_ns() + PATIENCE_NS;
    while !is_so() {
        kernel_assert!(call::clock_ns() < deadline, "waited for: {what}");
        assert_ok!(call::sleep_until(call::clock_ns() + 10_000));
    }
}

/// What a worker is paid from, and where it runs: on a CPU, or where a new process is put.
#[derive(Clone, Copy)]
struct Home {
    quota: Capability,
    cpu: Option<u64>,
    faults: Capability,
}

struct Worker {
    process: Capability,
    thread: Capability,
    space: Space,
}

impl Worker {
    /// A thread that has not begun, of a new process whose names start at that space's root.
    fn new(home: Home, first: Capability, space: Space) -> Self {
        let nothing = [Capability::NONE; 4];
        let process = assert_ok!(call::spawn_suspended(first, home.quota, RESOURCE, "fault", roles::END, nothing));
        assert_ok!(call::set_root(Some(process), space.root, ROOT_GUARD));
        let thread = if home.cpu.is_some() {
            let thread = assert_ok!(call::thread_make(Some(process), home.cpu, home.quota));
            control(first, ThreadAction::Kill);
            assert_ok!(call::close(first));
            let second = || assert_ok!(call::thread_info(Some(process), 1));
            wait_until("the first thread to be gone", || second().is_none());
            thread
        } else {
            first
        };
        assert_ok!(call::thread_control(thread, ThreadAction::Faults, home.faults.0));
        Self { process, thread, space }
    }

    fn start(&self, registers: &Registers) {
        // SAFETY: it is a thread of another process.
        assert_ok!(unsafe { call::thread_write(self.thread, registers) });
        kernel_assert_eq!(assert_ok!(call::thread_read(self.thread)), *registers);
        resume(self.thread);
    }

    fn state(&self) -> Option<u64> {
        assert_ok!(call::thread_info(Some(self.process), 0)).map(|info| info.state)
    }

    /// Returns when it is in that state, or has not been seen there for a while.
    fn run_until(&self, state: u64) {
        let deadline = call::clock_ns() + AIM_NS;
        while self.state() != Some(state) && call::clock_ns() < deadline {
            assert_ok!(call::sleep_until(call::clock_ns() + 10_000));
        }
    }

    /// Halts it, perhaps after a look at what it does, which then goes on. Its registers, and in which of the states it was
    /// surely stopped.
    fn stop(&self, looks: bool) -> (Registers, Option<u64>) {
        let seen = looks.then(|| control(self.thread, ThreadAction::Suspend));
        wait_until("the worker to stop", || control(self.thread, ThreadAction::Halt) == IS_STOPPED);
        let registers = assert_ok!(call::thread_read(self.thread));
        let status = registers.general[probe::RESULTS[0]];
        let error = Error::from_status(status);
        // The registers of a call that has not begun: its number, or a name.
        let begins_again = status != 0 && error.is_none();
        let is_cancelled = error == Some(Error::Cancelled);
        let is_right = match seen {
            None | Some(RUNS | IS_STOPPED) => true,
            // What it sent may have been received after the look, and answered.
            Some(SENDS) => begins_again || status == 0 || is_cancelled,
            Some(IS_CALLING) => status == 0 || is_cancelled,
            Some(RECEIVES | WAITS_FOR_BITS) => begins_again || status == 0,
            Some(_) => false,
        };
        kernel_assert!(is_right, "in state {seen:?} its call ended with {status:#x}: {registers:x?}");
        let surely = match seen {
            Some(RUNS | IS_STOPPED) => Some(RUNS),
            Some(IS_CALLING) => is_cancelled.then_some(IS_CALLING),
            Some(state) => begins_again.then_some(state),
            None => None,
        };
        (registers, surely)
    }

    /// Ends it with its process; when this returns nothing of them is left but what somebody else has in hand.
    fn destroy(self) {
        control(self.thread, ThreadAction::Kill);
        kernel_assert_eq!(assert_ok!(call::wait(self.process)), Exit::Status(0));
        for capability in [self.thread, self.process] {
            assert_ok!(call::close(capability));
        }
        self.space.close();
    }
}

fn used(quota: Capability) -> (u64, u64) {
    let info = assert_ok!(call::quota_read(quota));
    (info.bytes_used, info.objects_used)
}

/// Lets the worker run for a while: some instructions, or up to a hundred microseconds.
fn let_run(random: &mut Random) {
    let way = random.below(4);
    if way != 0 {
        let most = 1 << random.below(18);
        assert_ok!(call::sleep_until(call::clock_ns() + random.below(most)));
    }
    if way < 2 {
        testing::spin(random.below(3000));
    }
}

/// The registers that a worker starts with: where it is to begin, what it knows, and values of those it does not use.
fn first_registers(state: &State) -> Registers {
    let thread = assert_ok!(call::thread_make(None, None, Capability::OWN_QUOTA));
    let mut registers = assert_ok!(call::thread_read(thread));
    control(thread, ThreadAction::Kill);
    assert_ok!(call::close(thread));
    for &number in worker::KEPT {
        registers.general[number] = 0x4B45_5054_0000_0000 + number as u64;
    }
    if !cfg!(target_arch = "riscv64") {
        registers.tls = 0x7D5_0000;
    }
    registers.pc = worker::entry();
    state.write(&mut registers);
    registers
}

/// A worker that is rebuilt over and over, and what has been seen of it.
struct Course {
    worker: Worker,
    home: Home,
    random: Random,
    /// The registers that it began with, and how many capabilities it has.
    first: Registers,
    full: usize,
    /// What one worker takes of the quota, with what that takes of itself.
    one: (u64, u64),
    turns: u64,
    round: u64,
    /// How often it was surely stopped in each of [`STATES`].
    hits: [u64; STATES.len()],
}

impl Course {
    fn begin(home: Home, wanted: [Wanted; 5], mut random: Random) -> Self {
        let nothing = used(home.quota);
        let (space, [calls, sends, receives, waits, signals]) = Space::filled(home.quota, wanted, &mut random);
        let full = space.count();
        let first = first_registers(&State { number: 0, calls, sends, receives, waits, signals });
        let worker = Worker::new(home, THREADS[0], space);
        // Process, thread and three CNodes: the first root is gone, and a first thread where it is not the one.
        wait_until("what is not needed to be gone", || used(home.quota).1 == nothing.1 + 5);
        let one = used(home.quota);
        worker.start(&first);
        Self { worker, home, random, first, full, one, turns: 0, round: 0, hits: [0; STATES.len()] }
    }

    /// Stops it, and sees that those registers are as they were that it does not change, and that it has not gone back.
    fn stop(&mut self, looks: bool) -> Registers {
        let (registers, surely) = self.worker.stop(looks);
        for &number in worker::KEPT {
            kernel_assert_eq!(registers.general[number], self.first.general[number], "{}", probe::NAMES[number]);
        }
        kernel_assert_eq!(registers.tls, self.first.tls);
        let state = State::read(&registers);
        kernel_assert_eq!(State { number: 0, ..state }, State::read(&self.first));
        kernel_assert!(state.number >= self.round, "round {} after round {}", state.number, self.round);
        self.round = state.number;
        if let Some(hit) = STATES.iter().position(|&state| Some(state) == surely) {
            self.hits[hit] += 1;
        }
        registers
    }

    /// Saves it, ends it and rebuilds it: in that state, or wherever it is after a while.
    fn turn(&mut self, aim: Option<u64>) {
        match aim {
            Some(state) if state != RUNS => self.worker.run_until(state),
            _ => let_run(&mut self.random),
        }
        let looks = aim.is_some() || self.random.below(2) == 0;
        let registers = self.stop(looks);
        self.turns += 1;
        let copy = self.worker.space.copied(self.home.quota);
        kernel_assert_eq!(copy.count(), self.full);
        let next = Worker::new(self.home, THREADS[self.turns as usize % 2], copy);
        core::mem::replace(&mut self.worker, next).destroy();
        // Whoever owes it an answer keeps it until then.
        wait_until("the old worker to be gone", || used(self.home.quota) == self.one);
        self.worker.start(&registers);
    }

    /// As often as is wanted, and then until it was stopped in each state and, as far as it goes, had to be called `again`.
    fn run(&mut self, again: &Tally) {
        let mut deadline = u64::MAX;
        loop {
            let missing = self.hits.iter().position(|&count| count == 0);
            let is_enough = self.turns >= TURNS;
            // Being stopped between a message and its answer takes chance: not for ever.
            if is_enough && missing.is_none() && (again.again() > 0 || self.turns >= 2 * TURNS) {
                break;
            }
            if self.turns == TURNS {
                deadline = call::clock_ns() + PATIENCE_NS;
            }
            kernel_assert!(call::clock_ns() < deadline, "stopped in {STATES:?}: {:?} times", self.hits);
            let next = (self.turns / 4) as usize % STATES.len();
            let aim = if is_enough { Some(missing.unwrap_or(0)) } else { self.turns.is_multiple_of(4).then_some(next) };
            self.turn(aim.map(|state| STATES[state]));
        }
        println!(
            "rebuilt: {} times in {} rounds; stopped in {STATES:?}: {:?} times",
            self.turns, self.round, self.hits
        );
        kernel_assert!(self.turns >= TURNS);
    }
}

/// Rebuilds a worker over and over, as the head of this file says; `own` is to this thread.
fn supervise(seed: u64, cpu: Option<u64>, partners: Partners, own: Capability) {
    let quota = assert_ok!(call::quota_create(Capability::OWN_QUOTA, BYTES, OBJECTS));
    let nothing = used(quota);
    let home = Home { quota, cpu, faults: partners.faults };
    let tallies = partners.tallies.clone();
    let [server, _, asker, _] = &tallies;
    let mut course = Course::begin(home, partners.wanted(), Random::new(seed));
    let usual = assert_ok!(call::thread_control(own, ThreadAction::Priority, URGENT));
    course.run(asker);
    assert_ok!(call::thread_control(own, ThreadAction::Priority, usual));

    let seen = tallies.each_ref().map(|tally| tally.done());
    let goes_on = |(tally, &seen): (&Arc<Tally>, &u64)| tally.done() > seen + 2;
    wait_until("all partners to go on", || tallies.iter().zip(&seen).all(goes_on));
    course.stop(false);
    let Course { worker, turns, round, hits, .. } = course;
    worker.destroy();
    partners.stop();
    // What was answered in vain was cancelled, and no halt cancels two calls.
    kernel_assert!((hits[3]..=turns + 1).contains(&server.again()), "{} calls came again", server.again());
    kernel_assert!(asker.again() <= turns + 1, "{} answers were lost", asker.again());
    // In its last round it has done some of this, and some not.
    for (tally, a_round) in tallies.iter().zip([1, 1, 2, 1]) {
        let done = tally.done();
        kernel_assert!((round * a_round..=(round + 1) * a_round).contains(&done), "{done} done in {round} rounds");
    }
    wait_until("the last worker to be gone", || used(quota) == nothing && info(Info::Ending) == 0);
    assert_ok!(call::quota_destroy(quota));
    assert_ok!(call::close(quota));
}

/// Supervises from `own` a worker on `cpu`; partner number n is on `partner(n)`.
fn rebuild(seed: u64, own: u64, cpu: Option<u64>, partner: impl Fn(u64) -> u64 + Send + 'static) {
    println!("rebuilt: seed {seed}");
    let name = Arc::new(AtomicU64::new(0));
    let told = name.clone();
    let (thread, capability) = assert_ok!(thread::spawn_suspended(Some(own), move || {
        supervise(seed, cpu, Partners::start(seed, partner), Capability(told.load(Ordering::SeqCst)));
    }));
    name.store(capability.0, Ordering::SeqCst);
    resume(capability);
    assert_ok!(thread.join());
}

test! {
    fn a_thread_rebuilt_beside_its_partners_is_not_missed() requires("PRC-32 CAP-06 CAP-25 IPS-12 TST-09") {
        let cpu = other_cpu();
        rebuild(1, cpu, Some(cpu), move |_| cpu);
    }
}

test! {
    fn a_thread_rebuilt_on_another_cpu_is_not_missed() requires("PRC-32 CAP-06 CAP-25 IPS-12 TST-09") needs("smp>=2") {
        let (own, other) = (info(Info::CurrentCpu), other_cpu());
        rebuild(2, own, Some(other), move |_| own);
    }
}

test! {
    fn a_thread_rebuilt_on_one_cpu_after_the_other_is_not_missed() requires("PRC-32 CAP-06 CAP-25 IPS-12 TST-09") {
        let cpus = cpus();
        rebuild(3, info(Info::CurrentCpu), None, move |number| number % cpus);
    }
}

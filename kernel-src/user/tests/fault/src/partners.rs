//! Those with whom a worker ([`rt::worker`]) has to do, each of which sees numbers in their order and hears nothing but
//! what `docs/abi.md` tells of a partner that is halted, or ends.

use crate::space::Wanted;
use crate::support::patience;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Error, FAULT, Rights};
use rt::call::{self, Capability, Message, Until};
use rt::random::Random;
use rt::thread::{self, Thread};
use rt::worker::{self, words};
use rt::{assert_ok, kernel_assert, kernel_assert_eq};

/// Label that ends a partner, and the bit that does.
const STOP: u64 = 0x5709;
const STOP_BIT: u64 = 1 << 63;

/// How far one of them has come.
#[derive(Default)]
pub struct Tally {
    /// Numbers that are done on both sides.
    done: AtomicU64,
    /// Times that the same number had to come again.
    again: AtomicU64,
}

impl Tally {
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    pub fn again(&self) -> u64 {
        self.again.load(Ordering::SeqCst)
    }

    fn count(&self, is_done: bool) {
        if is_done { &self.done } else { &self.again }.fetch_add(1, Ordering::SeqCst);
    }
}

/// Lets others run, for a while or not.
fn pause(random: &mut Random) {
    match random.below(4) {
        0 => (0..random.below(4)).for_each(|_| call::yield_now()),
        1 => assert_ok!(call::sleep_until(call::clock_ns() + random.below(200_000))),
        _ => {}
    }
}

fn expect(found: &Message, label: u64, number: u64, badge: u64) {
    let wanted = Message { badge, ..Message::new(label, words(number)) };
    kernel_assert_eq!(*found, wanted, "number {number} is next");
}

fn stops(message: &Message) -> bool {
    message.info.label() == STOP
}

/// Answers calls. Whose answer was heard comes with the next number; else with the same again.
fn serve(endpoint: Capability, tally: &Tally, mut random: Random) {
    let mut request = assert_ok!(call::receive(endpoint));
    while !stops(&request) {
        let number = tally.done();
        expect(&request, worker::ASKS, number, worker::ASKER);
        pause(&mut random);
        let answer = Message::new(worker::ANSWERED, worker::answer(number));
        let (is_heard, next) = if random.below(2) == 0 {
            assert_ok!(call::reply_receive_until(endpoint, answer, Until::Done))
        } else {
            let is_heard = match call::reply(answer) {
                Err(Error::PartnerGone) => false,
                done => {
                    assert_ok!(done);
                    true
                }
            };
            pause(&mut random);
            (is_heard, assert_ok!(call::receive(endpoint)))
        };
        tally.count(is_heard);
        request = next;
    }
}

/// Receives what is sent: each number once.
fn listen(endpoint: Capability, tally: &Tally, mut random: Random) {
    loop {
        let told = assert_ok!(call::receive(endpoint));
        if stops(&told) {
            return;
        }
        expect(&told, worker::TELLS, tally.done(), worker::TELLER);
        tally.count(true);
        pause(&mut random);
    }
}

/// Calls the worker; the same number again where that is gone before it has answered.
fn ask(endpoint: Capability, tally: &Tally, mut random: Random) {
    loop {
        let number = tally.done();
        match call::call(endpoint, Message::new(worker::IS_ASKED, words(number))) {
            Err(Error::PartnerGone) => tally.count(false),
            answer => {
                let answer = assert_ok!(answer);
                if stops(&answer) {
                    return;
                }
                kernel_assert_eq!(answer, Message::new(worker::ANSWERS, worker::answer(number)));
                tally.count(true);
            }
        }
        pause(&mut random);
    }
}

/// Gives each bit back.
fn echo(from: Capability, to: Capability, tally: &Tally, mut random: Random) {
    loop {
        let bits = assert_ok!(call::wait_bits(from, u64::MAX, Until::Done));
        let due = bits & !STOP_BIT;
        if due != 0 {
            let number = tally.done();
            kernel_assert_eq!(due, 1 << (number % worker::BITS), "signal {number} is next");
            pause(&mut random);
            assert_ok!(call::signal(to, due));
            tally.count(true);
        }
        if bits != due {
            return;
        }
    }
}

/// Tells of a worker that has found something wrong, or was led astray.
fn watch(endpoint: Capability) {
    let report = assert_ok!(call::receive(endpoint));
    if report.info.label() == FAULT {
        let [cause, address, code, pc, ..] = report.words;
        let place = pc.wrapping_sub(worker::entry());
        panic!("the worker: cause {cause}, code {code:#x}, address {address:#x}, {place} bytes behind its entry");
    }
    kernel_assert!(stops(&report), "{report:?}");
}

/// All of them, and where they are met.
pub struct Partners {
    server: Capability,
    listener: Capability,
    asker: Capability,
    /// Bits from the worker, and to it.
    signals: Capability,
    waits: Capability,
    /// Where the worker's faults are told.
    pub faults: Capability,
    /// Of server, listener, asker and who gives bits back.
    pub tallies: [Arc<Tally>; 4],
    threads: Vec<Thread<()>>,
}

/// Rights by which one calls, sends or signals.
const CALLS: Rights = Rights::WRITE.with(Rights::CALL);

impl Partners {
    /// Starts them, each on a CPU of its own choice.
    pub fn start(seed: u64, cpu: impl Fn(u64) -> u64) -> Self {
        let endpoint = || assert_ok!(call::endpoint_create());
        let notification = || assert_ok!(call::notification_create());
        let [server, listener, asker, faults] = core::array::from_fn(|_| endpoint());
        let (signals, waits) = (notification(), notification());
        let called = Capability(called_slot());
        assert_ok!(call::cap_mint(called, asker, CALLS, worker::CALLER));
        let tallies: [Arc<Tally>; 4] = Default::default();
        let [a, b, c, d] = tallies.clone();
        let random = move |number| Random::new(seed << 8 | number);
        let threads = [
            thread::spawn_on(cpu(0), move || serve(server, &a, random(1))),
            thread::spawn_on(cpu(1), move || listen(listener, &b, random(2))),
            thread::spawn_on(cpu(2), move || ask(called, &c, random(3))),
            thread::spawn_on(cpu(3), move || echo(signals, waits, &d, random(4))),
            thread::spawn_on(cpu(0), move || watch(faults)),
        ];
        let threads = threads.into_iter().map(|thread| assert_ok!(thread)).collect();
        Self { server, listener, asker, signals, waits, faults, tallies, threads }
    }

    /// What the worker is to have: to call, to send, to receive, to wait and to signal by.
    pub fn wanted(&self) -> [Wanted; 5] {
        [
            Wanted { object: self.server, rights: CALLS, badge: worker::ASKER },
            Wanted { object: self.listener, rights: Rights::WRITE, badge: worker::TELLER },
            Wanted { object: self.asker, rights: Rights::READ, badge: 0 },
            Wanted { object: self.waits, rights: Rights::READ, badge: 0 },
            // Of the bits that it sets these alone count.
            Wanted { object: self.signals, rights: Rights::WRITE, badge: (1 << worker::BITS) - 1 },
        ]
    }

    /// Ends them when the worker is gone.
    pub fn stop(self) {
        let stop = Message::empty(STOP);
        // Who calls the worker does so again when that is gone; this is the answer.
        let question = assert_ok!(call::receive_until(self.asker, patience()));
        expect(&question, worker::IS_ASKED, self.tallies[2].done(), worker::CALLER);
        assert_ok!(call::reply(stop));
        for endpoint in [self.server, self.listener, self.faults] {
            assert_ok!(call::send(endpoint, stop, patience()));
        }
        assert_ok!(call::signal(self.signals, STOP_BIT));
        for thread in self.threads {
            assert_ok!(thread.join());
        }
    }
}

/// An empty slot.
fn called_slot() -> u64 {
    let made = assert_ok!(call::endpoint_create());
    assert_ok!(call::close(made));
    made.address()
}

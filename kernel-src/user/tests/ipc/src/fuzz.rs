//! Calls at random: whatever a program does, the kernel answers.

use crate::help;
use crate::roles::{self, DONE, Role};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{ADDRESS_BITS, Call, Error, Info, MESSAGE_WORDS, Rights};
use rt::call::{self, Buffer, Capability, Exit, Message, Until};
use rt::probe::{self, raw_call, raw_message};
use rt::random::Random;
use rt::{assert_ok, kernel_assert, kernel_assert_eq, test, thread};

const THREADS: u64 = 3;
const STEPS: u64 = 1500;
/// How far in the future a deadline of a random call may be.
const DEADLINE_NS: u64 = 60_000;
/// A process may wait for itself, or for what it has done to its own names: then it ends without its threads.
const LIMIT_NS: u64 = 1_500_000_000;

test! {
    fn random_calls_harm_nobody_else() requires("SYS-06 TST-18 ERR-01") {
        let endpoint = assert_ok!(call::endpoint_create());
        let notification = assert_ok!(call::notification_create());
        let slot = help::vacant_slot();
        assert_ok!(call::cap_mint(slot, endpoint, Rights::ALL, 3));
        let round = |seed| {
            let child = assert_ok!(Role::Fuzz.start(seed, &[slot, notification]));
            kernel_assert_eq!(roles::ended(child), Exit::Status(DONE), "seed {seed}");
        };
        round(0);
        let before = help::memory_at_rest();
        (1..9).for_each(round);
        let after = help::memory_at_rest();
        kernel_assert!(after + help::SLACK >= before, "{before} bytes were free, {after} are");
        // What the children had is as good as ever.
        help::once_there(|| call::send(slot, Message::empty(0), Until::NOW).or_else(|error| {
            kernel_assert_eq!(error, Error::TimedOut);
            Ok(())
        }));
        let caller = assert_ok!(thread::spawn(move || call::call(slot, Message::empty(5))));
        kernel_assert_eq!(assert_ok!(call::receive(endpoint)).badge, 3);
        assert_ok!(call::reply(Message::empty(6)));
        kernel_assert_eq!(assert_ok!(caller.join()), Ok(Message::empty(6)));
    }
}

/// The random calls of one process, from several CPUs.
pub fn child(seed: u64) -> u32 {
    let done = Arc::new(AtomicU64::new(0));
    for n in 0..THREADS {
        let done = done.clone();
        assert_ok!(thread::spawn_on(n % help::cpus(), move || {
            let mut random = Random::new(seed * THREADS + n + 1);
            let page = help::buffered(n as usize);
            (0..STEPS).for_each(|_| step(&mut random, page));
            done.fetch_add(1, Ordering::SeqCst);
        }));
    }
    let limit = call::clock_ns() + LIMIT_NS;
    while done.load(Ordering::SeqCst) < THREADS && call::clock_ns() < limit {
        assert_ok!(call::sleep_until(call::clock_ns() + 200_000));
    }
    DONE
}

/// A word that some call may mean something by.
fn argument(random: &mut Random) -> u64 {
    match random.below(12) {
        0 => 0,
        1 => u64::MAX,
        2 => random.word(),
        3 => random.word() >> random.below(64),
        4 => 1 << random.below(64),
        // A name with a generation.
        5 => (1 + random.below(3)) << ADDRESS_BITS | random.below(70),
        6 => probe::image_start() + random.below(64),
        7 => random.word() | 1 << 63,
        // Rights and depths of a slot.
        8 => random.below(32) | random.below(34) << 16 | random.below(34) << 24,
        _ => random.below(70),
    }
}

fn step(random: &mut Random, page: &'static Buffer) {
    let deadline = call::clock_ns() + random.below(DEADLINE_NS);
    match random.below(8) {
        0..3 => {
            let flags = match random.below(8) {
                0 => random.word() << 8,
                _ => rt::abi::DEADLINE,
            };
            // A number with other flags is none, unless it has this one.
            let number = (Call::Call as u64 + random.below(5)) | flags | rt::abi::DEADLINE;
            let info = match random.below(4) {
                0 => random.word(),
                1 => random.below(1 << 20) << 16 | random.below(5) << 10 | random.below(514),
                _ => random.below(1 << 20) << 16 | random.below(10),
            };
            // Names of capabilities and of slots for them.
            (0..MESSAGE_WORDS).for_each(|index| page.set_word(index, argument(random)));
            let words = core::array::from_fn(|_| random.word());
            let _ = raw_message(number, argument(random), deadline, info, words);
        }
        3 => {
            let _ = call::wait_bits(Capability(argument(random)), argument(random), Until::Clock(deadline));
        }
        4 => {
            let _ = call::save_reply();
            let _ = call::buffer_set((random.below(4) != 0).then_some(page));
            let _ = call::reply(Message::empty(random.below(9)));
        }
        5 => {
            // Others' slots are to be filled, too.
            let to = Capability(4 + random.below(56));
            let _ = call::cap_mint(to, Capability(random.below(60)), Rights(random.word()), argument(random));
        }
        _ => plain(random),
    }
}

fn plain(random: &mut Random) {
    let number = match random.below(8) {
        0 => random.word() >> random.below(60),
        _ => random.below(50),
    };
    let arguments: [u64; 6] = core::array::from_fn(|_| argument(random));
    let excluded = [Call::Exit, Call::ThreadExit, Call::ThreadCreate, Call::Sleep, Call::NotificationWait];
    let is_message = (Call::Call as u64..=Call::Reply as u64).contains(&(number & 0xff));
    if is_message || excluded.iter().any(|&call| call as u64 == number & 0xff) {
        return;
    }
    // Text of this program on the console would be in the way of the report.
    if number == Call::DebugWrite as u64 && arguments[0] < help::info(Info::UserLimit) {
        return;
    }
    // Names of threads that look for their endpoint would lead elsewhere; of a slot of another CNode they may.
    if number == Call::SetRoot as u64 && random.below(20) != 0 {
        return;
    }
    let is_data = |address: &u64| !is_harmless(*address);
    if !arguments.iter().any(is_data) {
        let _ = raw_call(number, arguments);
    }
}

/// Whether an address is none of this program's data: see [`raw_call`].
fn is_harmless(address: u64) -> bool {
    let data = probe::image_start() + 64..probe::image_end();
    let stack = rt::abi::STACK_TOP - rt::abi::STACK_SIZE..rt::abi::STACK_TOP;
    !data.contains(&address) && !stack.contains(&address)
}

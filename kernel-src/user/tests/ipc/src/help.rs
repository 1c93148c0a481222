//! What several cases need.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{BUFFER_WORDS, Error, Info, MESSAGE_WORDS, MessageInfo};
use rt::call::{self, Buffer, Capability, Message, Until};
pub use rt::testing::settled;
use rt::thread::{self, Thread};
use rt::{assert_err, assert_ok, kernel_assert};

/// How long something may take that a busy host can hide for a while.
pub const PATIENCE_NS: u64 = 20_000_000_000;

pub fn info(what: Info) -> u64 {
    assert_ok!(call::info(what, 0))
}

/// Memory that may stay with the kernel after processes have come and gone: slabs keep what they have grown to.
pub const SLACK: u64 = 64 << 10;

/// CPUs that cases use.
pub fn cpus() -> u64 {
    info(Info::CpusOnline).min(4)
}

/// A CPU that is not 0, where there are several.
pub fn other_cpu() -> u64 {
    cpus() - 1
}

/// A message of that length, whose words tell places and seeds apart.
pub fn numbered(label: u64, length: usize, seed: u64) -> Message {
    let mut words = [0; MESSAGE_WORDS];
    for (index, word) in words.iter_mut().enumerate().take(length) {
        *word = ((seed << 8) | (index as u64 + 1)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    Message { info: MessageInfo::new(label, length), words, badge: 0 }
}

static PAGES: [Buffer; 4] = [const { Buffer::new() }; 4];
/// What stands in words of a page that nobody is to write.
const OLD: u64 = 0x01D0_01D0_01D0_01D0;

/// Makes a page of this process the buffer page of this thread.
pub fn buffered(number: usize) -> &'static Buffer {
    assert_ok!(call::buffer_set(Some(&PAGES[number])));
    &PAGES[number]
}

const fn stamp(seed: u64, index: usize) -> u64 {
    (seed << 16 | index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Writes what of a message of that length lies in the page, and to all other words something old.
pub fn fill(page: &Buffer, length: usize, seed: u64) {
    for index in 0..BUFFER_WORDS {
        page.set_word(index, if (MESSAGE_WORDS..length).contains(&index) { stamp(seed, index) } else { OLD });
    }
}

/// The first word that is not as [`fill`] writes it.
pub fn first_wrong(page: &Buffer, length: usize, seed: u64) -> Option<usize> {
    (0..BUFFER_WORDS).find(|&index| {
        let right = if (MESSAGE_WORDS..length).contains(&index) { stamp(seed, index) } else { OLD };
        page.word(index) != right
    })
}

/// Whether the words of a message are there, and any others.
pub fn holds(page: &Buffer, length: usize, seed: u64) -> bool {
    (MESSAGE_WORDS..length).all(|index| page.word(index) == stamp(seed, index))
}

/// A message of one word.
pub fn word(label: u64, value: u64) -> Message {
    Message { info: MessageInfo::new(label, 1), words: [value, 0, 0, 0, 0, 0, 0, 0], badge: 0 }
}

pub fn soon(after_ns: u64) -> Until {
    Until::Clock(call::clock_ns() + after_ns)
}

/// Polls until the partner is there: what comes then found it waiting.
pub fn once_there<T>(mut poll: impl FnMut() -> Result<T, Error>) -> T {
    let patience = call::clock_ns() + PATIENCE_NS;
    loop {
        match poll() {
            Err(Error::TimedOut) => kernel_assert!(call::clock_ns() < patience, "nobody came"),
            done => return assert_ok!(done),
        }
        call::yield_now();
    }
}

/// Receives a call whose time then passes, and returns when it has. The thread owes an answer to nobody.
pub fn receive_a_call_and_let_it_pass(endpoint: Capability) {
    let taken = Arc::new(AtomicU64::new(0));
    let seen = taken.clone();
    let caller = assert_ok!(thread::spawn(move || {
        // On a busy host the time may be over before the call: then it calls again.
        loop {
            let outcome = call::call_until(endpoint, Message::empty(1), soon(5_000_000));
            if seen.load(Ordering::SeqCst) != 0 {
                return outcome;
            }
        }
    }));
    once_there(|| call::receive_until(endpoint, Until::NOW));
    taken.store(1, Ordering::SeqCst);
    assert_err!(assert_ok!(caller.join()), Error::TimedOut);
}

pub fn wait_for(condition: impl Fn() -> bool) {
    let patience = call::clock_ns() + PATIENCE_NS;
    while !condition() {
        kernel_assert!(call::clock_ns() < patience, "what was waited for did not come");
        call::yield_now();
    }
}

pub fn reaches(counter: &AtomicU64, value: u64) {
    wait_for(|| counter.load(Ordering::SeqCst) >= value);
}

pub fn join_all<T>(threads: Vec<Thread<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| assert_ok!(thread.join())).collect()
}

/// Bytes that are free once all that ended is gone.
pub fn memory_at_rest() -> u64 {
    wait_for(|| info(Info::Ending) == 0);
    info(Info::MemoryFree)
}

/// An empty slot of this process: the name's address alone, which means any filling.
pub fn vacant_slot() -> Capability {
    let made = assert_ok!(call::endpoint_create());
    assert_ok!(call::close(made));
    Capability(made.address())
}

/// The name of the filling that a slot has just been given.
pub const fn filled(slot: Capability, generation: u64) -> Capability {
    Capability(generation << rt::abi::ADDRESS_BITS | slot.address())
}

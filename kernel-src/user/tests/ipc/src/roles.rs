//! What this program does in a process of its own, at another process's wish. Slots 0 and on hold what that one gave.

use crate::{carried, fuzz, help, killed, long, names};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Error, SPAWN_CAPABILITIES};
use rt::call::{self, Capability, Exit, Message, Until};
use rt::protocol::RESOURCE;
use rt::{assert_ok, kernel_assert_eq, testing, thread};

/// Exit status of a role that found all as it should be; no test case's.
pub const DONE: u32 = 0x0D0E;
/// Exit status of a role that was told to end.
pub const TOLD: u32 = 0x701D;

const SHIFT: u32 = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Role {
    /// Sends on to endpoint 1 what it receives from 0, so many messages.
    Forward = 1,
    /// A thread calls endpoint 0; a message to endpoint 1 ends the process.
    CallUntilTold,
    /// Receives a call from endpoint 0, makes a Reply of it, and ends without an answer.
    KeepReply,
    /// Calls an endpoint that nobody else knows; a message to endpoint 1 ends the process.
    CallOneself,
    /// Eight threads call the four endpoints in turn; the argument is the number of the process.
    Crowd,
    /// A thread calls endpoint 0 without end; another ends the process after so many turns of a loop.
    ClientUntilKilled,
    /// A thread serves endpoint 0; another ends the process after so many turns of a loop.
    ServerUntilKilled,
    /// Makes calls at random; the argument is the seed.
    Fuzz,
    /// Tries to send by what slot 0 holds, without end; a message to endpoint 1 ends the process.
    SendUntilTold,
    /// Serves endpoint 0 with long answers, until a message without words.
    LongServer,
    /// Calls endpoint 0 with long messages that carry capabilities, without end, as often at least as the low byte says;
    /// then another thread ends the process after so many turns of a loop.
    LongClientUntilKilled,
    /// The same of a server, and of long answers.
    LongServerUntilKilled,
    /// Threads that share a buffer page call endpoint 0; a message to endpoint 1 ends the process.
    SharePage,
    /// Sends and receives capabilities while its own names cannot be changed, by endpoint 0.
    FixedNames,
    /// Calls endpoints 0 and 1 by names that lead through CNodes; tells endpoint 2 first on which CPU.
    Nested,
}

/// Threads of one process of [`Role::Crowd`], and calls of each.
pub const CROWD_THREADS: u64 = 8;
pub const CROWD_CALLS: u64 = 150;

impl Role {
    const ALL: [Self; 15] = [
        Self::Forward,
        Self::CallUntilTold,
        Self::KeepReply,
        Self::CallOneself,
        Self::Crowd,
        Self::ClientUntilKilled,
        Self::ServerUntilKilled,
        Self::Fuzz,
        Self::SendUntilTold,
        Self::LongServer,
        Self::LongClientUntilKilled,
        Self::LongServerUntilKilled,
        Self::SharePage,
        Self::FixedNames,
        Self::Nested,
    ];

    /// The role that a program's argument means, if it is not the number of a case.
    pub fn of(argument: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|&role| role as u64 == argument >> SHIFT)
    }

    /// Starts a process in this role.
    pub fn start(self, value: u32, give: &[Capability]) -> Result<Capability, Error> {
        let mut slots = [Capability::NONE; SPAWN_CAPABILITIES];
        slots[..give.len()].copy_from_slice(give);
        call::spawn(RESOURCE, "ipc", (self as u64) << SHIFT | u64::from(value), slots)
    }

    pub fn play(self, argument: u64) -> u32 {
        let value = argument as u32;
        match self {
            Self::Forward => forward(value),
            Self::CallUntilTold => beside(|| {
                let _ = call::call(Capability(0), Message::empty(1));
            }),
            Self::KeepReply => {
                assert_ok!(call::receive(Capability(0)));
                assert_ok!(call::save_reply());
                DONE
            }
            Self::CallOneself => beside(|| {
                let own = assert_ok!(call::endpoint_create());
                let _ = call::call(own, Message::empty(1));
            }),
            Self::Crowd => crowd(u64::from(value)),
            Self::ClientUntilKilled => killed_after(value, || {
                let _ = call::call(Capability(0), Message::empty(1));
            }),
            Self::ServerUntilKilled => killed_after(value, || {
                let mut next = call::receive(Capability(0));
                while next.is_ok() {
                    next = call::reply_receive(Capability(0), Message::empty(2));
                }
            }),
            Self::Fuzz => fuzz::child(u64::from(value)),
            Self::LongServer => long::serve(Capability(0)),
            Self::LongClientUntilKilled => killed_among(value, killed::call_once),
            Self::LongServerUntilKilled => killed_among(value, killed::serve_until_it_fails),
            Self::SharePage => beside(|| long::share_page(Capability(0))),
            Self::FixedNames => carried::with_fixed_names(),
            Self::Nested => names::nested(),
            Self::SendUntilTold => beside(|| {
                loop {
                    let _ = call::send(Capability(0), Message::empty(1), Until::Done);
                }
            }),
        }
    }
}

/// Waits for a process's end, and lets go of it.
pub fn ended(process: Capability) -> Exit {
    let exit = assert_ok!(call::wait(process));
    assert_ok!(call::close(process));
    exit
}

fn forward(count: u32) -> u32 {
    for _ in 0..count {
        let message = assert_ok!(call::receive(Capability(0)));
        assert_ok!(call::send(Capability(1), message, Until::Done));
    }
    DONE
}

fn beside(run: impl FnOnce() + Send + 'static) -> u32 {
    // It runs on by itself.
    drop(assert_ok!(thread::spawn(run)));
    assert_ok!(call::receive(Capability(1)));
    TOLD
}

fn crowd(process: u64) -> u32 {
    let threads: Vec<_> = (0..CROWD_THREADS)
        .map(|thread| {
            assert_ok!(thread::spawn(move || {
                let client = process * CROWD_THREADS + thread;
                for n in 0..CROWD_CALLS {
                    let server = (client + n) % 4;
                    let sent = client << 32 | n;
                    let reply = assert_ok!(call::call(Capability(server), help::word(client, sent)));
                    kernel_assert_eq!((reply.info.label(), reply.words[0]), (server, sent * 3 + server));
                }
            }))
        })
        .collect();
    help::join_all(threads);
    DONE
}

/// The value that asks a client or a server to be killed so many turns after it has begun so many calls.
pub const fn after(begun: u32, turns: u32) -> u32 {
    turns << 8 | begun
}

fn killed_among(value: u32, step: impl Fn() + Send + 'static) -> u32 {
    let begun = Arc::new(AtomicU64::new(0));
    let count = begun.clone();
    drop(assert_ok!(thread::spawn(move || {
        loop {
            count.fetch_add(1, Ordering::SeqCst);
            step();
        }
    })));
    help::reaches(&begun, u64::from(value & 0xff));
    testing::spin(u64::from(value >> 8));
    TOLD
}

fn killed_after(turns: u32, step: impl Fn() + Send + 'static) -> u32 {
    drop(assert_ok!(thread::spawn(move || {
        loop {
            step();
        }
    })));
    testing::spin(u64::from(turns));
    TOLD
}

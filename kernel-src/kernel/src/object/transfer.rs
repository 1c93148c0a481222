//! What of a message is not in registers: words from the ninth on, and capabilities.
//!
//! It goes straight from one buffer page to the other, and from slot to slot,
//! while both threads are in the hands of this CPU, so neither has ended. What
//! a program writes to its page meanwhile harms only what it sends or gets.

use super::endpoint::{LOST, message_of};
use super::process::Process;
use super::thread::Thread;
use super::{cnode, reply};
use crate::arch::task::Frame;
use crate::mm::buffer::Words;
use crate::sync::{Found, Slot, tree};
use abi::{ADDRESS_BITS, Error, MESSAGE_CAPABILITIES, MESSAGE_WORDS, MessageInfo, RECEIVE_SLOTS, REPLY_LOST, Rights};
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

/// Words that are copied between two looks at how many are left.
const PIECE: usize = 8;

/// Whether the current thread may send what its info word announces, by a capability with those rights.
#[cold]
pub fn check(sender: &Thread, info: MessageInfo, by: Rights) -> Result<(), Error> {
    if !info.is_valid() {
        return Err(Error::InvalidArgument);
    }
    if info.is_short() {
        return Ok(());
    }
    let buffer = sender.buffer.words().ok_or(Error::NoBuffer)?;
    if info.capabilities() != 0 && !by.have(Rights::GRANT) {
        return Err(Error::NoRight);
    }
    if info.capabilities() == 0 { Ok(()) } else { check_sources(&sender.process, &buffer[..info.capabilities()]) }
}

#[inline(never)]
fn check_sources(sender: &Process, names: &[AtomicU64]) -> Result<(), Error> {
    let mut moved = [ptr::null(); MESSAGE_CAPABILITIES];
    for (name, place) in names.iter().zip(0..) {
        let (slot, found) = source(sender, name)?;
        if reply::may_copy(&found).is_err() {
            // What moves is named once.
            if moved.contains(&ptr::from_ref(slot)) {
                return Err(Error::InvalidArgument);
            }
            moved[place] = ptr::from_ref(slot);
        }
    }
    Ok(())
}

/// Moves a message between threads that are in the hands of this CPU. How many capabilities have arrived.
pub fn between(from: &Thread, to: &Thread, badge: u64) -> usize {
    from.frame.with(|sent| {
        to.frame.with(|got| {
            let status = status_of(got);
            deliver((from, sent), (to, got), status, badge);
            MessageInfo(got.info()).capabilities()
        })
    })
}

/// The status of a receive that succeeds.
pub fn status_of(receiver: &Frame) -> u64 {
    if receiver.call_number() & LOST != 0 { REPLY_LOST } else { 0 }
}

/// Moves a message from the thread and its registers to the other one.
#[inline(always)]
pub fn deliver((from, sent): (&Thread, &Frame), (to, got): (&Thread, &mut Frame), status: u64, badge: u64) {
    let (info, words) = message_of(sent);
    let info = if MessageInfo(info).is_short() { MessageInfo(info) } else { carry(from, to, MessageInfo(info)) };
    got.set_message(status, badge, info.0, words);
}

/// Moves what is not in registers, after [`check`]. The info as the receiver sees it: with as many capabilities as have
/// arrived. The first that does not arrive is the last that is tried, and stays its owner's.
fn carry(sender: &Thread, receiver: &Thread, info: MessageInfo) -> MessageInfo {
    let (Some(from), Some(to)) = (sender.buffer.words(), receiver.buffer.words()) else {
        return info.with_capabilities(0);
    };
    if let (Some(from), Some(to)) = (from.get(MESSAGE_WORDS..info.length()), to.get(MESSAGE_WORDS..info.length())) {
        let (pieces, rest) = from.as_chunks::<PIECE>();
        let (places, last) = to.as_chunks::<PIECE>();
        pieces.iter().zip(places).for_each(|(piece, place)| copy(piece, place));
        copy(rest, last);
    }
    match info.capabilities() {
        0 => info,
        count => info.with_capabilities(pass_on(count, (&sender.process, from), (&receiver.process, to))),
    }
}

/// How many capabilities have arrived.
#[inline(never)]
fn pass_on(count: usize, (sender, from): (&Process, &Words), (receiver, to): (&Process, &Words)) -> usize {
    let mut arrived = 0;
    while arrived < count
        && let Some(name) = pass(sender, &from[arrived], receiver, &to[RECEIVE_SLOTS + arrived])
    {
        to[arrived].store(name, Ordering::Relaxed);
        arrived += 1;
    }
    arrived
}

#[inline(always)]
fn copy(from: &[AtomicU64], to: &[AtomicU64]) {
    from.iter().zip(to).for_each(|(word, place)| place.store(word.load(Ordering::Relaxed), Ordering::Relaxed));
}

/// What a sender names. From a CNode that it may not change nothing moves.
fn source<'a>(sender: &'a Process, name: &AtomicU64) -> Result<(&'a Slot, Found), Error> {
    let name = name.load(Ordering::Relaxed);
    let (slot, found) = sender.capability(name)?;
    if reply::may_copy(&found).is_err() {
        cnode::resolve(sender.names(), name, ADDRESS_BITS, Rights::WRITE)?;
    }
    Ok((slot, found))
}

/// Copies a capability to the slot that the receiver names, or moves one that answers once. The receiver's name for it.
fn pass(sender: &Process, name: &AtomicU64, receiver: &Process, place: &AtomicU64) -> Option<u64> {
    let place = place.load(Ordering::Relaxed);
    if place == 0 {
        return None;
    }
    let (slot, found) = source(sender, name).ok()?;
    let (to, name) = receiver.vacancy(place).ok()?;
    let has_arrived = match reply::may_copy(&found) {
        Ok(()) => tree::derive(slot, &found, to, found.content.badge, found.rights()),
        Err(_) => tree::relocate(slot, &found, to),
    };
    has_arrived.then_some(name)
}

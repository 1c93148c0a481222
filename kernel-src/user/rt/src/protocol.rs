//! What `init`, `testd` and the shell agree on.

use crate::call::{Capability, Message};
use abi::MESSAGE_WORDS;

/// Slot 0 of the first programs: the resource, all authority over the machine.
pub const RESOURCE: Capability = Capability(0);
/// Slot 1 of `testd` and the shell: the endpoint that `testd` serves.
pub const TESTS: Capability = Capability(1);
/// Slot 2 of the shell: the endpoint of `init`, called before the first prompt.
pub const INIT: Capability = Capability(2);

/// Label of a message that asks only for an answer.
pub const PING: u64 = 1;
/// Label of a message with a [`Piece`] of a frame.
pub const FRAME: u64 = 2;
/// Label of a message that asks `testd` to run the cases of the command line's `run=`.
pub const RUN: u64 = 4;
/// Label of the answer to a message that nobody understands.
pub const UNKNOWN: u64 = 3;

/// Longest payload of a frame.
pub const PAYLOAD_MAX: usize = 960;
/// Longest frame behind its SOH, without the line feed: number, blank, check sum, blank, payload.
pub const FRAME_MAX: usize = 4 + 1 + 8 + 1 + PAYLOAD_MAX;

/// Bytes of a frame that one message carries.
pub const PIECE_MAX: usize = (MESSAGE_WORDS - 1) * 8;
const FIRST: u64 = 1 << 8;
const LAST: u64 = 1 << 9;

/// A piece of a frame. Word 0 of its message is the count of bytes and two flags, the rest are the bytes.
pub struct Piece {
    pub bytes: [u8; PIECE_MAX],
    pub length: usize,
    pub first: bool,
    pub last: bool,
}

impl Piece {
    /// Takes the words of a message apart; a count that is too large is cut.
    #[must_use]
    pub fn from_message(message: &Message) -> Self {
        let [head, words @ ..] = message.words;
        let mut bytes = [0; PIECE_MAX];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        Self { bytes, length: PIECE_MAX.min(head as u8 as usize), first: head & FIRST != 0, last: head & LAST != 0 }
    }

    /// The message that carries this piece.
    #[must_use]
    pub fn message(&self) -> Message {
        let mut words = [0; MESSAGE_WORDS];
        words[0] = self.length as u64 | (u64::from(self.first) * FIRST) | (u64::from(self.last) * LAST);
        for (word, bytes) in words[1..].iter_mut().zip(self.bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Message::new(FRAME, words)
    }
}

/// The pieces of a frame, in order.
pub fn pieces(frame: &[u8]) -> impl Iterator<Item = Piece> {
    let count = frame.len().div_ceil(PIECE_MAX);
    frame.chunks(PIECE_MAX).enumerate().map(move |(index, part)| {
        let mut bytes = [0; PIECE_MAX];
        bytes[..part.len()].copy_from_slice(part);
        Piece { bytes, length: part.len(), first: index == 0, last: index + 1 == count }
    })
}

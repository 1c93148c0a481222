//! A thread that keeps all that it knows in three registers and in its capabilities, so that it can be saved at any
//! instruction and rebuilt elsewhere: it has no stack, and writes no memory.
//!
//! It goes round for ever, and counts its rounds. In each it calls a server, sends, signals, waits for bits, and receives
//! and answers two calls; every message is of eight words that follow from the number of the round. It does again what
//! failed as `docs/abi.md` says that it may: a call that was `Cancelled`, and a receive before which it has lost the
//! caller whom it owed (`NoCaller`). At anything else that is not as it should be it executes an undefined instruction.
//!
//! The rounds are written once, below, in macros that each architecture has for its assembler and gives to `rounds!`.

use crate::arch::worker;
use crate::call::Capability;
use abi::{MESSAGE_WORDS, MessageInfo, Registers};

pub use worker::KEPT;

/// Labels of the worker's call and of its answer, of what it sends, and of the calls that it receives and their answers.
pub const ASKS: u64 = 0x11;
pub const ANSWERED: u64 = 0x12;
pub const TELLS: u64 = 0x13;
pub const IS_ASKED: u64 = 0x14;
pub const ANSWERS: u64 = 0x15;
/// Badges of the capabilities by which it is called, and by which it calls and sends.
pub const CALLER: u64 = 0x71;
pub const ASKER: u64 = 0x72;
pub const TELLER: u64 = 0x73;

/// Bits that it signals, and waits for, one a round in turn.
pub const BITS: u64 = 32;

/// The words of a message of which the first is `first`.
#[must_use]
pub fn words(first: u64) -> [u64; MESSAGE_WORDS] {
    core::array::from_fn(|index| first + index as u64)
}

/// The words of the answer to that message.
#[must_use]
pub fn answer(first: u64) -> [u64; MESSAGE_WORDS] {
    words(first << 16)
}

/// The info word of a message with that label.
pub(crate) const fn info(label: u64) -> u64 {
    MessageInfo::new(label, MESSAGE_WORDS).0
}

/// What the worker knows. Of each name the address and the generation are below `1 << 16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Of the round; below `1 << 32`.
    pub number: u64,
    pub calls: Capability,
    pub sends: Capability,
    pub receives: Capability,
    pub waits: Capability,
    pub signals: Capability,
}

/// Where the halves of a name lie in one of two that share a register.
const HALVES: u64 = 0x0000_FFFF_0000_FFFF;

impl State {
    /// Puts it into the registers of a thread, which then is to start at [`entry`].
    pub fn write(&self, registers: &mut Registers) {
        let short = |name: Capability| {
            assert!(name.0 & !HALVES == 0, "{name:?} is too long");
            name.0
        };
        let sends = short(self.sends);
        let words = [
            self.number | (sends >> 32 << 16 | sends & 0xFFFF) << 32,
            short(self.calls) | short(self.receives) << 16,
            short(self.waits) | short(self.signals) << 16,
        ];
        worker::STATE.iter().zip(words).for_each(|(&number, word)| registers.general[number] = word);
    }

    #[must_use]
    pub fn read(registers: &Registers) -> Self {
        let [first, second, third] = worker::STATE.map(|number| registers.general[number]);
        let sends = first >> 32;
        Self {
            number: first & 0xFFFF_FFFF,
            calls: Capability(second & HALVES),
            sends: Capability(sends >> 16 << 32 | sends & 0xFFFF),
            receives: Capability(second >> 16 & HALVES),
            waits: Capability(third & HALVES),
            signals: Capability(third >> 16 & HALVES),
        }
    }
}

/// The worker's first instruction.
#[must_use]
pub fn entry() -> u64 {
    worker::run as *const () as u64
}

/// Turns of the loop in which it does nothing, while it owes an answer.
pub(crate) const IDLE_TURNS: u64 = 4000;
pub(crate) const CANCELLED: u64 = abi::Error::Cancelled as u64;
pub(crate) const NO_CALLER: u64 = abi::Error::NoCaller as u64;

/// The rounds. `w_number A, B` takes the number of the round, doubled where A is 1, and B more; `w_shift` makes that the
/// first word of an answer; `w_words` makes a message of it; `w_expect` goes to 9 unless it has come.
macro_rules! rounds {
    ($macros:literal) => {
        core::arch::naked_asm!(
            $macros,
            r"
2:      w_number 0, 0
        w_words
        w_info {asks}
        w_name_calls
        w_enter {call}
        w_on {cancelled}, 2b
        w_done
        w_number 0, 0
        w_shift
        w_expect {answered}, 0

        w_enter {null}
        w_done
        w_enter {clock}
        w_done

        w_number 0, 0
        w_words
        w_info {tells}
        w_name_sends
        w_enter {send}
        w_done

        w_name_signals
        w_bit
        w_argument_bit
        w_enter {signal}
        w_done
        w_name_waits
        w_argument_any
        w_enter {wait}
        w_done
        w_bit
        w_expect_bit

3:      w_info 0
        w_name_receives
        w_enter {receive}
        w_done
        w_number 1, 0
        w_expect {is_asked}, {caller}
        w_idle {turns}
        w_number 1, 0
        w_shift
        w_words
        w_info {answers}
        w_name_receives
        w_enter {reply_receive}
        w_on {no_caller}, 3b
        w_done

4:      w_number 1, 1
        w_expect {is_asked}, {caller}
        w_idle {turns}
        w_number 1, 1
        w_shift
        w_words
        w_info {answers}
        w_name_owed
        w_enter {reply}
        w_on {no_caller}, 5f
        w_done
        w_next
        w_goto 2b

5:      w_info 0
        w_name_receives
        w_enter {receive}
        w_done
        w_goto 4b

9:      w_trap
        ",
            call = const abi::Call::Call as u64,
            send = const abi::Call::Send as u64,
            receive = const abi::Call::Receive as u64,
            reply = const abi::Call::Reply as u64,
            reply_receive = const abi::Call::ReplyReceive as u64,
            signal = const abi::Call::NotificationSignal as u64,
            wait = const abi::Call::NotificationWait as u64,
            null = const abi::Call::Null as u64,
            clock = const abi::Call::Clock as u64,
            asks = const $crate::worker::info($crate::worker::ASKS),
            answered = const $crate::worker::info($crate::worker::ANSWERED),
            tells = const $crate::worker::info($crate::worker::TELLS),
            is_asked = const $crate::worker::info($crate::worker::IS_ASKED),
            answers = const $crate::worker::info($crate::worker::ANSWERS),
            caller = const $crate::worker::CALLER,
            turns = const $crate::worker::IDLE_TURNS,
            cancelled = const $crate::worker::CANCELLED,
            no_caller = const $crate::worker::NO_CALLER,
        )
    };
}
pub(crate) use rounds;

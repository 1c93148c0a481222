//! A thread's registers as system calls use them. Which is which is told by `task`.

use super::task::{
    ARGUMENTS, BADGE, CALL_SIZE, DEADLINE, FOREIGN_NUMBER, FPU_WORDS, Frame, NUMBER, STATUS, VALUE, WORDS,
};
use abi::{MESSAGE_WORDS, Outcome};
use core::fmt;

const PER_LINE: usize = 4;

/// The FPU's registers, as `task` stores and loads them.
#[repr(C, align(16))]
pub struct Fpu(pub(super) [u64; FPU_WORDS]);

impl Frame {
    pub fn call_number(&self) -> u64 {
        self.x[NUMBER]
    }

    pub fn set_call_number(&mut self, number: u64) {
        self.x[NUMBER] = number;
    }

    /// Argument `index`, 0 to 5, of a plain call.
    pub fn argument(&self, index: usize) -> u64 {
        self.x[ARGUMENTS[index]]
    }

    pub fn capability(&self) -> u64 {
        self.argument(0)
    }

    pub fn info(&self) -> u64 {
        self.argument(1)
    }

    /// Until when a message call waits.
    pub fn deadline(&self) -> u64 {
        self.x[DEADLINE]
    }

    /// Number, arguments and pc of a system call by the convention of C.
    pub fn foreign_call(&self) -> [u64; MESSAGE_WORDS] {
        let [a, b, c, d, e, f] = ARGUMENTS.map(|register| self.x[register]);
        [self.x[FOREIGN_NUMBER], a, b, c, d, e, f, self.pc]
    }

    pub fn set_foreign_result(&mut self, result: u64) {
        self.x[STATUS] = result;
    }

    pub fn message_words(&self) -> [u64; MESSAGE_WORDS] {
        WORDS.map(|register| self.x[register])
    }

    pub fn set_result(&mut self, Outcome { status, value }: Outcome) {
        self.x[STATUS] = status;
        self.x[VALUE] = value;
    }

    /// What a receive gives, but for the words.
    pub fn set_received(&mut self, status: u64, badge: u64, info: u64) {
        self.x[STATUS] = status;
        self.x[BADGE] = badge;
        self.x[ARGUMENTS[1]] = info;
    }

    pub fn set_words(&mut self, words: [u64; MESSAGE_WORDS]) {
        WORDS.into_iter().zip(words).for_each(|(register, word)| self.x[register] = word);
    }

    pub fn clear_word(&mut self, index: usize) {
        self.x[WORDS[index]] = 0;
    }

    pub fn set_message(&mut self, status: u64, badge: u64, info: u64, words: [u64; MESSAGE_WORDS]) {
        self.set_received(status, badge, info);
        self.set_words(words);
    }

    /// Moves the pc behind the call instruction again.
    pub fn finish_call(&mut self) {
        self.pc += CALL_SIZE;
        self.step_is_over();
    }

    /// Moves the pc from behind the call instruction back onto it; the number is still in its register.
    pub fn restart_call(&mut self) {
        self.turn_back();
        self.step_begins();
    }

    /// The same, where whoever asks notes a step itself.
    pub fn turn_back(&mut self) {
        self.pc -= CALL_SIZE;
    }
}

/// Prints registers, some a line; the last line is left open.
pub fn write_registers<'a>(
    f: &mut fmt::Formatter<'_>,
    registers: impl Iterator<Item = (&'a &'static str, &'a u64)>,
) -> fmt::Result {
    for (index, (name, value)) in registers.enumerate() {
        let lead = if index % PER_LINE == 0 { "  " } else { " " };
        let end = if index % PER_LINE == PER_LINE - 1 { "\n" } else { "" };
        write!(f, "{lead}{name:<3}={value:016x}{end}")?;
    }
    Ok(())
}

//! The console and the log ring: whole lines, over CPUs and programs.
//!
//! All text goes to both. The ring lies at the top of memory, where a reset
//! leaves it: the next boot goes on writing behind what it finds.

use crate::config::CONSOLE_INPUT_SIZE;
use crate::mm::ring::Ring;
use crate::object::{Meeting, Queues, State, Thread};
use crate::sync::{Rank, Spin};
use crate::{arch, init, sched};
use arrayvec::ArrayVec;
use core::fmt::{self, Write};

pub struct Output {
    ring: Option<Ring>,
    /// Who wrote last: a process, or the kernel. A line that somebody else began is ended first.
    writer: Option<u64>,
    at_line_start: bool,
    to_console: bool,
}

static OUTPUT: Spin<Output> =
    Spin::new(Rank::Log, Output { ring: None, writer: None, at_line_start: true, to_console: true });

impl Output {
    fn begin(&mut self, writer: Option<u64>) {
        if self.writer != writer && !self.at_line_start {
            self.put(b"\n");
        }
        self.writer = writer;
    }

    fn put(&mut self, bytes: &[u8]) {
        let Some(&last) = bytes.last() else { return };
        self.at_line_start = last == b'\n';
        if let Some(ring) = &mut self.ring {
            ring.write(bytes);
        }
        if self.to_console {
            to_console(bytes);
        }
    }
}

impl Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}

/// Writes as the kernel, with no line of anybody else between.
pub fn locked(write: impl FnOnce(&mut Output) -> fmt::Result) {
    let mut output = OUTPUT.lock();
    output.begin(None);
    // Writing to `Output` never fails.
    let _ = write(&mut output);
}

/// As `locked`, for panics: whoever holds the lock was stopped, or will never give it back.
pub fn forced(write: impl FnOnce(&mut dyn Write) -> fmt::Result) {
    // A console that cannot be written leaves nothing to be done.
    let _ = match OUTPUT.try_lock() {
        Some(mut output) => {
            output.to_console = true;
            output.begin(None);
            write(&mut *output)
        }
        None => {
            // Whoever has it may have come to the middle of a line.
            to_console(b"\n");
            write(&mut Raw)
        }
    };
}

fn to_console(bytes: &[u8]) {
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if index > 0 {
            arch::console::write(b"\r\n");
        }
        arch::console::write(line);
    }
}

/// The console alone, without the lock.
struct Raw;

impl Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        to_console(text.as_bytes());
        Ok(())
    }
}

/// Boot stages, which `quiet` keeps from the console.
pub fn stage(text: fmt::Arguments<'_>) {
    locked(|output| {
        output.to_console = !init::options().quiet;
        let written = writeln!(output, "boot: {text}");
        output.to_console = true;
        written
    });
}

/// A program's text.
pub fn user_write(process: u64, bytes: &[u8]) {
    let mut output = OUTPUT.lock();
    output.begin(Some(process));
    output.put(bytes);
}

/// From now on the log is kept in `ring`.
pub fn adopt(ring: Ring) {
    OUTPUT.lock().ring = Some(ring);
}

/// Copies from `offset` behind the oldest byte kept; gives how many bytes.
pub fn read_ring(offset: usize, to: &mut [u8]) -> usize {
    OUTPUT.lock().ring.as_ref().map_or(0, |ring| ring.read(offset, to))
}

/// Bytes of input, and the threads that wait for them.
static INPUT: Spin<ArrayVec<u8, CONSOLE_INPUT_SIZE>> = Spin::new(Rank::Object, ArrayVec::new_const());
static READERS: Meeting = Queues::meeting();

/// Bytes came in. When nobody reads for long, the newest are lost, as on any UART.
pub fn received(bytes: impl Iterator<Item = u8>) {
    let mut input = INPUT.lock();
    for byte in bytes {
        let _ = input.try_push(byte);
    }
    let mut readers = READERS.lock();
    core::iter::from_fn(|| readers.receivers.take_first()).for_each(sched::ready);
}

/// Takes what is there; with nothing there, `reader` waits and its call starts again.
pub fn take_input(to: &mut [u8], reader: &Thread) -> Option<usize> {
    let mut input = INPUT.lock();
    if input.is_empty() {
        READERS.lock().receivers.wait(reader, State::Other, &READERS);
        return None;
    }
    let count = input.len().min(to.len());
    to.iter_mut().zip(input.drain(..count)).for_each(|(slot, byte)| *slot = byte);
    Some(count)
}

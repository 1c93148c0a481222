//! Text to the console, in whole lines: what one `println!` prints is one
//! system call, so lines of two programs never mix.

use crate::call;
use abi::PIECE_MAX;
use core::fmt::{self, Write};

/// Gathers text and hands it to the kernel in pieces that end with a line wherever they can.
struct Lines {
    buffer: [u8; PIECE_MAX],
    used: usize,
}

impl Lines {
    /// Writes the first `count` bytes; moves the rest down. Bytes that the kernel does not take are
    /// dropped: there is no other place to say so.
    fn flush(&mut self, count: usize) {
        let mut written = 0;
        while written < count {
            match call::debug_write(&self.buffer[written..count]) {
                Ok(taken) if taken > 0 => written += taken as usize,
                _ => break,
            }
        }
        self.buffer.copy_within(count..self.used, 0);
        self.used -= count;
    }
}

impl Write for Lines {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.used == self.buffer.len() {
                let line_end = self.buffer.iter().rposition(|&byte| byte == b'\n');
                self.flush(line_end.map_or(self.used, |end| end + 1));
            }
            self.buffer[self.used] = byte;
            self.used += 1;
        }
        Ok(())
    }
}

/// Shows text of several lines, as failed assertions have, on one.
pub struct OneLine<T>(pub T);

impl<T: fmt::Display> fmt::Display for OneLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Joined(f), "{}", self.0)
    }
}

/// Writes a semicolon for each line feed.
struct Joined<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Joined<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (index, line) in text.split('\n').enumerate() {
            if index > 0 {
                self.0.write_str(";")?;
            }
            self.0.write_str(line)?;
        }
        Ok(())
    }
}

/// Prints; `print!` and `println!` are the ways to call it.
pub fn print(text: fmt::Arguments<'_>) {
    let mut lines = Lines { buffer: [0; PIECE_MAX], used: 0 };
    // Only a Display that fails by itself makes an error here; what it wrote is still shown.
    let _ = lines.write_fmt(text);
    lines.flush(lines.used);
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($text:tt)*) => { $crate::console::print(format_args!($($text)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($text:tt)*) => { $crate::print!("{}\n", format_args!($($text)*)) };
}

//! Line editing: one bounded line, a cursor, a history, and frames told apart
//! from typing.

use rt::print;
use rt::protocol::FRAME_MAX;

/// Longest line that can be typed.
const LINE_MAX: usize = 128;
/// Lines that arrow-up brings back.
const HISTORY: usize = 8;

/// What a key led to.
pub enum Event {
    None,
    /// A line is complete; see [`Line::text`].
    Entered,
    Cancelled,
    /// A frame is complete; see [`Line::frame`].
    Frame,
}

/// Bytes in a fixed room.
#[derive(Clone, Copy)]
struct Buffer<const N: usize> {
    bytes: [u8; N],
    used: usize,
}

impl<const N: usize> Buffer<N> {
    const EMPTY: Self = Self { bytes: [0; N], used: 0 };

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// Puts a byte before position `at`; a full buffer stays as it is.
    fn insert(&mut self, at: usize, byte: u8) -> bool {
        if self.used == N {
            return false;
        }
        self.bytes.copy_within(at..self.used, at + 1);
        self.bytes[at] = byte;
        self.used += 1;
        true
    }

    fn remove(&mut self, at: usize) {
        self.bytes.copy_within(at + 1..self.used, at);
        self.used -= 1;
    }
}

/// Where in the input the next byte stands.
enum State {
    Typing,
    /// Behind ESC.
    Escape,
    /// Behind ESC [.
    Sequence,
    /// In a frame that is still good.
    Frame,
    /// In a frame that was too long: dropped to its end.
    BadFrame,
}

/// The line being typed.
pub struct Line {
    state: State,
    text: Buffer<LINE_MAX>,
    cursor: usize,
    frame: Buffer<FRAME_MAX>,
    history: [Buffer<LINE_MAX>; HISTORY],
    /// Lines ever entered; the newest is at `(entered - 1) % HISTORY`.
    entered: usize,
    /// How many lines back the shown one is; 0 is the one being typed.
    back: usize,
}

const SOH: u8 = 0x01;
const CTRL_C: u8 = 0x03;
const BACKSPACE: u8 = 0x08;
const LF: u8 = b'\n';
const CR: u8 = b'\r';
const CTRL_U: u8 = 0x15;
const ESC: u8 = 0x1b;
const DELETE: u8 = 0x7f;

impl Line {
    pub const fn new() -> Self {
        Self {
            state: State::Typing,
            text: Buffer::EMPTY,
            cursor: 0,
            frame: Buffer::EMPTY,
            history: [Buffer::EMPTY; HISTORY],
            entered: 0,
            back: 0,
        }
    }

    /// What was typed.
    pub fn text(&self) -> &str {
        str::from_utf8(self.text.as_slice()).unwrap_or_default()
    }

    /// The frame behind its SOH, without its line feed.
    pub fn frame(&self) -> &[u8] {
        self.frame.as_slice()
    }

    /// Starts a new line.
    pub fn clear(&mut self) {
        self.text.used = 0;
        self.cursor = 0;
        self.back = 0;
    }

    /// Takes a byte of input, and shows what it changed.
    pub fn key(&mut self, byte: u8) -> Event {
        // SOH is never payload: it begins a frame even where another has lost its end.
        if byte == SOH {
            self.frame.used = 0;
            self.state = State::Frame;
            return Event::None;
        }
        match self.state {
            State::Frame | State::BadFrame => return self.frame_byte(byte),
            State::Escape => self.state = if byte == b'[' { State::Sequence } else { State::Typing },
            State::Sequence => {
                self.state = State::Typing;
                self.arrow(byte);
            }
            State::Typing => return self.typed(byte),
        }
        Event::None
    }

    fn frame_byte(&mut self, byte: u8) -> Event {
        match byte {
            LF | CR => {
                let whole = matches!(self.state, State::Frame);
                self.state = State::Typing;
                if whole { Event::Frame } else { Event::None }
            }
            // A person who hit Ctrl-A gets out of it like out of any other line.
            CTRL_C => {
                self.state = State::Typing;
                Event::None
            }
            _ => {
                if !self.frame.insert(self.frame.used, byte) {
                    self.state = State::BadFrame;
                }
                Event::None
            }
        }
    }

    fn typed(&mut self, byte: u8) -> Event {
        match byte {
            LF | CR => {
                if self.text.used > 0 {
                    self.history[self.entered % HISTORY] = self.text;
                    self.entered += 1;
                }
                return Event::Entered;
            }
            CTRL_C => {
                self.clear();
                return Event::Cancelled;
            }
            CTRL_U => self.replace(Buffer::EMPTY),
            BACKSPACE | DELETE if self.cursor > 0 => {
                self.cursor -= 1;
                self.text.remove(self.cursor);
                print!("\x08");
                self.redraw_tail();
            }
            ESC => self.state = State::Escape,
            b' '..=b'~' if self.text.insert(self.cursor, byte) => {
                self.cursor += 1;
                print!("{}", byte as char);
                if self.cursor < self.text.used {
                    self.redraw_tail();
                }
            }
            _ => {}
        }
        Event::None
    }

    fn arrow(&mut self, byte: u8) {
        match byte {
            b'A' if self.back < self.entered.min(HISTORY) => self.recall(self.back + 1),
            b'B' if self.back > 0 => self.recall(self.back - 1),
            b'C' if self.cursor < self.text.used => {
                self.cursor += 1;
                print!("\x1b[C");
            }
            b'D' if self.cursor > 0 => {
                self.cursor -= 1;
                print!("\x08");
            }
            _ => {}
        }
    }

    fn recall(&mut self, back: usize) {
        self.back = back;
        self.replace(if back == 0 { Buffer::EMPTY } else { self.history[(self.entered - back) % HISTORY] });
    }

    /// Shows another line in place of this one.
    fn replace(&mut self, text: Buffer<LINE_MAX>) {
        if self.cursor > 0 {
            print!("\x1b[{}D", self.cursor);
        }
        self.text = text;
        self.cursor = text.used;
        print!("{}\x1b[K", self.text());
    }

    /// Shows what is behind the cursor anew, and puts the cursor back.
    fn redraw_tail(&self) {
        let tail = &self.text()[self.cursor..];
        print!("{tail}\x1b[K");
        if !tail.is_empty() {
            print!("\x1b[{}D", tail.len());
        }
    }
}

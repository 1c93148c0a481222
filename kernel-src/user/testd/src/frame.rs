//! Frames: a line with a number and a check sum, so that a torn line is seen
//! to be torn.

use core::fmt::{self, Write};
use rt::protocol::{FRAME_MAX, PAYLOAD_MAX, Piece};

const SOH: u8 = 1;

/// A frame from the host, whole and with the right check sum.
pub struct Frame<'a> {
    pub number: u16,
    pub payload: &'a str,
}

impl<'a> Frame<'a> {
    /// Reads `SSSS CCCCCCCC payload`; None for anything else.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = str::from_utf8(line).ok()?;
        let (number, rest) = line.split_once(' ')?;
        let (sum, payload) = rest.split_once(' ')?;
        if number.len() != 4 || sum.len() != 8 {
            return None;
        }
        let mut found = Crc::new();
        found.add(number.as_bytes());
        found.add(b" ");
        found.add(payload.as_bytes());
        let frame = Self { number: u16::from_str_radix(number, 16).ok()?, payload };
        (u32::from_str_radix(sum, 16).ok()? == found.value()).then_some(frame)
    }
}

/// Puts the pieces of a frame together.
pub struct Assembly {
    line: [u8; FRAME_MAX],
    used: usize,
    /// Pieces are missing, or too many came: nothing counts until the next first piece.
    broken: bool,
}

impl Assembly {
    pub const fn new() -> Self {
        Self { line: [0; FRAME_MAX], used: 0, broken: true }
    }

    /// Adds a piece; gives the frame when it was the last one and the frame is good.
    pub fn add(&mut self, piece: &Piece) -> Option<Frame<'_>> {
        if piece.first {
            self.used = 0;
            self.broken = false;
        }
        match self.line.get_mut(self.used..self.used + piece.length) {
            Some(to) if !self.broken => to.copy_from_slice(&piece.bytes[..piece.length]),
            _ => {
                self.broken = true;
                return None;
            }
        }
        self.used += piece.length;
        if !piece.last {
            return None;
        }
        self.broken = true;
        Frame::parse(&self.line[..self.used])
    }
}

/// Sends frames, numbered from 0.
pub struct Sender {
    next: u16,
}

impl Sender {
    pub const fn new() -> Self {
        Self { next: 0 }
    }

    /// Sends one frame; what does not fit into it is cut off.
    pub fn send(&mut self, payload: fmt::Arguments<'_>) {
        let mut text = Text::<PAYLOAD_MAX> { bytes: [0; PAYLOAD_MAX], used: 0 };
        // A full buffer is the only error, and cutting is what is wanted then.
        let _ = text.write_fmt(payload);
        let payload = text.as_str();

        let mut number = Text::<5> { bytes: [0; 5], used: 0 };
        let _ = write!(number, "{:04x} ", self.next);
        self.next = self.next.wrapping_add(1);
        let mut sum = Crc::new();
        sum.add(number.as_str().as_bytes());
        sum.add(payload.as_bytes());
        rt::print!("{}{}{:08x} {payload}\n", SOH as char, number.as_str(), sum.value());
    }
}

/// Text in a fixed room.
struct Text<const N: usize> {
    bytes: [u8; N],
    used: usize,
}

impl<const N: usize> Text<N> {
    fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.used]).unwrap_or_default()
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = text.len().min(N - self.used);
        let fits = (0..=room).rfind(|&end| text.is_char_boundary(end)).unwrap_or(0);
        self.bytes[self.used..self.used + fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.used += fits;
        if fits == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// CRC-32 of IEEE 802.3, as zlib's `crc32` computes it.
struct Crc(u32);

impl Crc {
    /// Remainders of all bytes by the reversed polynomial.
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut remainder = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                remainder = remainder >> 1 ^ if remainder & 1 == 1 { 0xedb8_8320 } else { 0 };
                bit += 1;
            }
            table[byte] = remainder;
            byte += 1;
        }
        table
    };

    const fn new() -> Self {
        Self(!0)
    }

    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0 >> 8 ^ Self::TABLE[usize::from(self.0 as u8 ^ byte)];
        }
    }

    const fn value(&self) -> u32 {
        !self.0
    }
}

//! The log ring: at one place in memory that neither image nor firmware use, so that it is there after a reset.

use crate::addr::PhysRange;

const MAGIC: u64 = u64::from_le_bytes(*b"quoinlog");

#[repr(C)]
struct Header {
    magic: u64,
    size: u64,
    /// Bytes written since the memory was last lost.
    written: u64,
    boots: u64,
    check: u64,
}

impl Header {
    fn sum(&self) -> u64 {
        !(self.magic ^ self.size.rotate_left(16) ^ self.written.rotate_left(32) ^ self.boots.rotate_left(48))
    }
}

pub struct Ring {
    header: &'static mut Header,
    bytes: &'static mut [u8],
}

impl Ring {
    /// Takes over the ring at `range`, which `frames::init` reserved, or begins a new one there.
    pub fn at(range: PhysRange) -> Self {
        let start = super::direct(range.start);
        // SAFETY: `frames::init` took the range out of all free memory, for this one caller; it is page aligned
        // and mapped, any bytes are a `Header`, and the two parts do not overlap.
        let (header, bytes) = unsafe {
            let bytes =
                core::slice::from_raw_parts_mut(start.add(size_of::<Header>()), range.size - size_of::<Header>());
            (&mut *start.cast::<Header>(), bytes)
        };
        if header.magic != MAGIC || header.size != range.size as u64 || header.check != header.sum() {
            *header = Header { magic: MAGIC, size: range.size as u64, written: 0, boots: 0, check: 0 };
        }
        header.boots += 1;
        header.check = header.sum();
        Self { header, bytes }
    }

    /// Boots whose lines may be in the ring, this one included.
    pub fn boots(&self) -> u64 {
        self.header.boots
    }

    pub fn write(&mut self, text: &[u8]) {
        let size = self.bytes.len();
        for &byte in text {
            self.bytes[self.header.written as usize % size] = byte;
            self.header.written += 1;
        }
        self.header.check = self.header.sum();
    }

    /// Copies from `offset` behind the oldest byte kept; gives how many bytes.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> usize {
        let (size, written) = (self.bytes.len(), self.header.written as usize);
        let kept = (written - written.min(size)).saturating_add(offset)..written;
        to.iter_mut().zip(kept).map(|(slot, at)| *slot = self.bytes[at % size]).count()
    }
}

//! What a Multiboot2 loader hands over (Multiboot2 Specification 2.0, 3.4 and 3.6).

use crate::addr::PhysRange;
use crate::config::MAX_RANGES;
use arrayvec::ArrayVec;
use core::ops::Range;

pub type Modules = ArrayVec<PhysRange, { MAX_RANGES / 2 }>;

/// What the tags tell. Places are offsets from the information's begin.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Information {
    pub command_line: Option<usize>,
    pub memory_map: Range<usize>,
    /// A copy of the ACPI root pointer; where there are two, the last, since either will do.
    pub rsdp: Option<usize>,
    pub modules: Modules,
}

/// Reads all tags; none where one is malformed, or the last is missing.
pub fn parse(bytes: &[u8]) -> Option<Information> {
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let (mut found, mut at) = (Information::default(), 8);
    loop {
        let (kind, end, body) = (word(at)?, at + word(at + 4)?, at + 8);
        bytes.get(body..end)?;
        match kind {
            0 => return Some(found),
            1 => found.command_line = Some(body),
            3 => {
                let (start, end) = (word(body)?, word(body + 4)?);
                found.modules.try_push(PhysRange::new(start, end.checked_sub(start)?)).ok()?;
            }
            // Bytes of an entry; no specification so far has others.
            6 if word(body)? == 24 => found.memory_map = (body + 8).min(end)..end,
            14 | 15 => found.rsdp = Some(body),
            _ => {}
        }
        at = end.next_multiple_of(8);
    }
}

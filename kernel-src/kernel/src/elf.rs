//! Programs: static ELF64 executables (System V ABI, chapters 4 and 5).
//!
//! `parse` checks all that the loader relies on; what it returns can be
//! mapped as it stands. Who asked for a program hears only that it is none.

use crate::addr::{MapFlags, VirtAddr};
use crate::config::PAGE_SIZE;

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// Magic, 64-bit, little-endian, version 1.
const IDENT: [u8; 7] = [0x7F, b'E', b'L', b'F', 2, 1, 1];
const ET_EXEC: usize = 2;
const PT_LOAD: usize = 1;
const PT_DYNAMIC: usize = 2;
const PT_INTERP: usize = 3;
const PF_X: usize = 1;
const PF_W: usize = 2;
const PF_R: usize = 4;

/// A program that may be mapped.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    pub entry: VirtAddr,
    file: &'a [u8],
    /// All program headers, a whole number of them.
    headers: &'a [u8],
}

/// Memory from `start`: first `file`, then zero bytes up to `memory_size`. The rest of its pages is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    pub start: VirtAddr,
    /// Bytes, at least as many as `file` has, and not 0.
    pub memory_size: usize,
    pub file: &'a [u8],
    pub flags: MapFlags,
}

impl<'a> Program<'a> {
    /// None for what is not a static program for `machine` that fits below `user_limit`.
    pub fn parse(file: &'a [u8], machine: u16, user_limit: usize) -> Option<Self> {
        let header = file.get(..HEADER_SIZE)?;
        let [kind, wanted, header_size, headers] = [16, 18, 54, 56].map(|at| number(header, at, 2));
        let is_program = header.starts_with(&IDENT) && kind == ET_EXEC && wanted == usize::from(machine);
        if !is_program || header_size != PROGRAM_HEADER_SIZE {
            return None;
        }
        let headers = file.get(number(header, 32, 8)..)?.get(..headers * PROGRAM_HEADER_SIZE)?;
        let program = Self { entry: VirtAddr(number(header, 24, 8)), file, headers };
        program.can_be_mapped(user_limit)?.then_some(program)
    }

    /// Segments lie behind the first page and below `limit`, in ascending order, no two in one page, and the entry is in
    /// one with code. None where one of them is malformed.
    fn can_be_mapped(&self, limit: usize) -> Option<bool> {
        let (mut free_page, mut entry_found) = (1, false);
        for header in self.headers.chunks_exact(PROGRAM_HEADER_SIZE) {
            let Some(segment) = self.segment(header)? else { continue };
            let start = segment.start.0;
            let end = start.checked_add(segment.memory_size).filter(|end| *end <= limit)?;
            if segment.start.page_number() < free_page {
                return None;
            }
            free_page = VirtAddr(end - 1).page_number() + 1;
            entry_found |= segment.flags.execute && (start..end).contains(&self.entry.0);
        }
        Some(entry_found)
    }

    /// What is to be mapped, in ascending order, no two in one page.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'a>> + use<'a> {
        let program = *self;
        let headers = program.headers.chunks_exact(PROGRAM_HEADER_SIZE);
        headers.filter_map(move |header| program.segment(header).flatten())
    }

    /// The segment of a program header, if something is to be mapped. None where it is malformed, or for a dynamic linker.
    fn segment(&self, header: &[u8]) -> Option<Option<Segment<'a>>> {
        let flags = number(header, 4, 4);
        let [offset, address, file_size, memory_size] = [8, 16, 32, 40].map(|at| number(header, at, 8));
        match number(header, 0, 4) {
            PT_DYNAMIC | PT_INTERP => return None,
            PT_LOAD if file_size > memory_size => return None,
            PT_LOAD if memory_size > 0 => {}
            _ => return Some(None),
        }
        let has = |right| flags & right != 0;
        let is_congruent = file_size == 0 || offset % PAGE_SIZE == address % PAGE_SIZE;
        if has(PF_W) && has(PF_X) || !is_congruent {
            return None;
        }
        let file = if file_size == 0 { &[] } else { self.file.get(offset..)?.get(..file_size)? };
        let flags = MapFlags { read: has(PF_R), write: has(PF_W), execute: has(PF_X), user: true, device: false };
        Some(Some(Segment { start: VirtAddr(address), memory_size, file, flags }))
    }
}

/// Up to eight bytes of a header whose size was checked.
fn number(header: &[u8], at: usize, size: usize) -> usize {
    header[at..at + size].iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

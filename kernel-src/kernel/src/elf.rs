//! Programs: static ELF64 executables (System V ABI, chapters 4 and 5).
//!
//! `parse` checks all that the loader relies on; what it returns can be
//! mapped as it stands.

use crate::{addr::VirtAddr, config::PAGE_SIZE, mm::MapFlags};
use displaydoc::Display;

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

/// Why a program is refused; `segment` is the index of a program header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Display)]
pub enum ElfError {
    /// wanted {wanted:#x} bytes of file, found {found:#x}
    Truncated { wanted: usize, found: usize },
    /// wanted an ELF file, 64-bit, little-endian, version 1
    Ident,
    /// wanted a static executable (type 2), found type {found}
    Type { found: usize },
    /// wanted machine {wanted}, found {found}
    Machine { wanted: usize, found: usize },
    /// wanted program headers of {PROGRAM_HEADER_SIZE} bytes, found {found}
    HeaderSize { found: usize },
    /// wanted a static executable, but program header {segment} is for a dynamic linker
    NotStatic { segment: usize },
    /// segment {segment} is larger in the file than in memory
    FileLarger { segment: usize },
    /// segment {segment}: address and file offset differ within a page
    Misaligned { segment: usize },
    /// segment {segment} is writable and executable
    WritableCode { segment: usize },
    /// segment {segment}: {size:#x} bytes from {start:#x} are not between {PAGE_SIZE:#x} and {limit:#x}
    Address { segment: usize, start: usize, size: usize, limit: usize },
    /// segment {segment} shares a page with the one before it, or lies below it
    Order { segment: usize },
    /// entry {found:#x} is in no executable segment
    Entry { found: usize },
}

impl core::error::Error for ElfError {}

impl<'a> Program<'a> {
    /// Refuses what is not a static program for `machine` that fits below `user_limit`.
    pub fn parse(file: &'a [u8], machine: u16, user_limit: usize) -> Result<Self, ElfError> {
        let header = slice(file, 0, HEADER_SIZE)?;
        if !header.starts_with(&IDENT) {
            return Err(ElfError::Ident);
        }
        let (kind, found) = (number(header, 16, 2), number(header, 18, 2));
        let (entry_size, wanted) = (number(header, 54, 2), usize::from(machine));
        match kind {
            ET_EXEC if found != wanted => return Err(ElfError::Machine { wanted, found }),
            ET_EXEC if entry_size != PROGRAM_HEADER_SIZE => return Err(ElfError::HeaderSize { found: entry_size }),
            ET_EXEC => {}
            found => return Err(ElfError::Type { found }),
        }
        let headers = slice(file, number(header, 32, 8), number(header, 56, 2) * PROGRAM_HEADER_SIZE)?;
        let program = Self { entry: VirtAddr(number(header, 24, 8)), file, headers };
        program.check_segments(user_limit)?;
        Ok(program)
    }

    fn check_segments(&self, limit: usize) -> Result<(), ElfError> {
        let (mut free_page, mut entry_found) = (1, false);
        for (index, header) in self.headers.chunks_exact(PROGRAM_HEADER_SIZE).enumerate() {
            let Some(segment) = self.segment(index, header)? else { continue };
            let (start, size) = (segment.start.0, segment.memory_size);
            let end = start.checked_add(size).filter(|end| *end <= limit && start >= PAGE_SIZE);
            let end = end.ok_or(ElfError::Address { segment: index, start, size, limit })?;
            if segment.start.page_number() < free_page {
                return Err(ElfError::Order { segment: index });
            }
            free_page = VirtAddr(end - 1).page_number() + 1;
            entry_found |= segment.flags.execute && (start..end).contains(&self.entry.0);
        }
        if entry_found { Ok(()) } else { Err(ElfError::Entry { found: self.entry.0 }) }
    }

    /// What is to be mapped, in ascending order, no two in one page.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'a>> + use<'a> {
        let program = *self;
        let headers = program.headers.chunks_exact(PROGRAM_HEADER_SIZE).enumerate();
        headers.filter_map(move |(index, header)| program.segment(index, header).ok().flatten())
    }

    /// None if nothing is to be mapped.
    fn segment(&self, index: usize, header: &[u8]) -> Result<Option<Segment<'a>>, ElfError> {
        let flags = number(header, 4, 4);
        let [offset, address, file_size, memory_size] = [8, 16, 32, 40].map(|at| number(header, at, 8));
        match number(header, 0, 4) {
            PT_DYNAMIC | PT_INTERP => return Err(ElfError::NotStatic { segment: index }),
            PT_LOAD if file_size > memory_size => return Err(ElfError::FileLarger { segment: index }),
            PT_LOAD if memory_size > 0 => {}
            _ => return Ok(None),
        }
        let has = |right| flags & right != 0;
        if has(PF_W) && has(PF_X) {
            return Err(ElfError::WritableCode { segment: index });
        }
        if file_size > 0 && offset % PAGE_SIZE != address % PAGE_SIZE {
            return Err(ElfError::Misaligned { segment: index });
        }
        let file = if file_size == 0 { &[] } else { slice(self.file, offset, file_size)? };
        let flags = MapFlags { read: has(PF_R), write: has(PF_W), execute: has(PF_X), user: true, device: false };
        Ok(Some(Segment { start: VirtAddr(address), memory_size, file, flags }))
    }
}

fn slice(file: &[u8], from: usize, size: usize) -> Result<&[u8], ElfError> {
    let wanted = from.saturating_add(size);
    file.get(from..wanted).ok_or(ElfError::Truncated { wanted, found: file.len() })
}

/// Up to eight bytes of a header whose size was checked.
fn number(header: &[u8], at: usize, size: usize) -> usize {
    header[at..at + size].iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

//! The programs of the boot archive, and the test cases that their ELF files
//! list (see `docs/protocol.md`). Files are read in pieces; nothing is allocated.

use crate::call;
use crate::testing::TestCase;
use abi::{Error, NAME_MAX};
use core::mem::size_of;

/// Types of segments: loaded, and the test records (`program.ld` gives them a program header of their
/// own, because the archive's files have no section headers).
const PT_LOAD: u64 = 1;
const PT_TESTS: u64 = 0x6071_7401;
/// Longest name of a test case.
pub const CASE_NAME_MAX: usize = 96;

/// A name of at most `N` bytes, kept in place.
#[derive(Clone, Copy)]
pub struct Name<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Name<N> {
    /// The name; empty if it is not UTF-8.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

/// A member of the boot archive.
pub struct Program {
    index: u64,
    pub name: Name<NAME_MAX>,
    pub size: u64,
}

/// All members of the boot archive, in its order.
pub fn programs() -> impl Iterator<Item = Program> {
    (0..).map_while(|index| {
        let (bytes, size) = call::archive_member(index).ok()?;
        let length = bytes.iter().position(|&byte| byte == 0).unwrap_or(NAME_MAX);
        Some(Program { index, name: Name { bytes, length }, size })
    })
}

/// The member of that name.
#[must_use]
pub fn program(name: &str) -> Option<Program> {
    programs().find(|program| program.name.as_str() == name)
}

impl Program {
    /// The names of its test cases, in the order in which they are numbered.
    pub fn cases(&self) -> impl Iterator<Item = Name<CASE_NAME_MAX>> {
        let table = self.segments().find(|segment| segment.kind == PT_TESTS).unwrap_or_default();
        let count = table.size / size_of::<TestCase>() as u64;
        (0..count).map_while(move |index| self.case_name(table.offset + index * size_of::<TestCase>() as u64).ok())
    }

    fn read<const N: usize>(&self, offset: u64) -> Result<Record<N>, Error> {
        let mut bytes = [0; N];
        match call::archive_read(self.index, offset, &mut bytes)? {
            count if count == N => Ok(Record(bytes)),
            _ => Err(Error::InvalidProgram),
        }
    }

    fn case_name(&self, record: u64) -> Result<Name<CASE_NAME_MAX>, Error> {
        let record = self.read::<16>(record)?;
        let (address, length) = (record.u64(0), record.u64(8) as usize);
        let mut bytes = [0; CASE_NAME_MAX];
        let to = bytes.get_mut(..length).ok_or(Error::InvalidProgram)?;
        if call::archive_read(self.index, self.file_offset(address)?, to)? != length {
            return Err(Error::InvalidProgram);
        }
        Ok(Name { bytes, length })
    }

    /// What the program headers say; nothing if the file is no ELF.
    fn segments(&self) -> impl Iterator<Item = Segment> {
        let (table, count) = self.read::<64>(0).map_or((0, 0), |header| (header.u64(32), header.u16(56)));
        (0..count).map_while(move |index| {
            let header = self.read::<56>(table + index * 56).ok()?;
            Some(Segment { kind: header.u32(0), offset: header.u64(8), address: header.u64(16), size: header.u64(32) })
        })
    }

    /// Where in the file a link address is.
    fn file_offset(&self, address: u64) -> Result<u64, Error> {
        self.segments()
            .filter(|segment| segment.kind == PT_LOAD)
            .find_map(|segment| {
                let distance = address.checked_sub(segment.address)?;
                (distance < segment.size).then_some(segment.offset + distance)
            })
            .ok_or(Error::InvalidProgram)
    }
}

/// A part of the file, and the address that it is linked for.
#[derive(Default)]
struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    size: u64,
}

/// A structure of an ELF file; fields by their offsets (ELF-64 Object File Format, 1.5).
struct Record<const N: usize>([u8; N]);

impl<const N: usize> Record<N> {
    fn u64(&self, at: usize) -> u64 {
        self.field::<8>(at)
    }

    fn u32(&self, at: usize) -> u64 {
        self.field::<4>(at)
    }

    fn u16(&self, at: usize) -> u64 {
        self.field::<2>(at)
    }

    fn field<const SIZE: usize>(&self, at: usize) -> u64 {
        let mut word = [0; 8];
        word[..SIZE].copy_from_slice(&self.0[at..at + SIZE]);
        u64::from_le_bytes(word)
    }
}

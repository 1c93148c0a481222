//! The boot archive: cpio in the "new ASCII" format (`cpio(5)`, magic 070701).
//!
//! `parse` checks every member, so that walks afterwards cannot fail. What
//! follows the trailer is not looked at: boot loaders pad there.

use core::str;
use displaydoc::Display;

/// Magic and thirteen fields of eight hexadecimal digits.
const HEADER_SIZE: usize = 110;
const MAGIC: &[u8] = b"070701";
const MODE: usize = 1;
const FILE_SIZE: usize = 6;
const NAME_SIZE: usize = 11;
/// The file type in `mode`, and the type of a regular file.
const TYPE_MASK: usize = 0o170_000;
const REGULAR: usize = 0o100_000;
const TRAILER: &str = "TRAILER!!!";

/// A well-formed archive.
#[derive(Clone, Copy, Debug)]
pub struct Archive<'a>(&'a [u8]);

/// A regular file of the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member<'a> {
    pub name: &'a str,
    pub data: &'a [u8],
}

/// Why an archive is refused; `at` is the offset of the header of a member, or of the trailer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Display)]
pub enum CpioError {
    /// cpio member at {at:#x}: wanted magic 070701
    Magic { at: usize },
    /// cpio member at {at:#x}: wanted eight hexadecimal digits in field {field}
    Digits { at: usize, field: usize },
    /// cpio member at {at:#x}: wanted a name in UTF-8 that ends with its only zero byte
    Name { at: usize },
    /// cpio member at {at:#x}: wanted {wanted:#x} bytes of archive, found {found:#x}
    Truncated { at: usize, wanted: usize, found: usize },
}

impl core::error::Error for CpioError {}

struct Entry<'a> {
    member: Member<'a>,
    regular: bool,
    next: usize,
}

impl<'a> Archive<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CpioError> {
        let (archive, mut at) = (Self(bytes), 0);
        while let Some(entry) = archive.entry(at)? {
            at = entry.next;
        }
        Ok(archive)
    }

    /// All regular files, in the archive's order.
    pub fn members(&self) -> impl Iterator<Item = Member<'a>> + use<'a> {
        let archive = *self;
        let mut at = 0;
        let entries = core::iter::from_fn(move || {
            let entry = archive.entry(at).ok()??;
            at = entry.next;
            Some(entry)
        });
        entries.filter(|entry| entry.regular).map(|entry| entry.member)
    }

    /// The first regular file of this name.
    pub fn find(&self, name: &str) -> Option<Member<'a>> {
        self.members().find(|member| member.name == name)
    }

    /// None for the trailer.
    fn entry(self, at: usize) -> Result<Option<Entry<'a>>, CpioError> {
        let header = self.slice(at, at, HEADER_SIZE)?;
        if !header.starts_with(MAGIC) {
            return Err(CpioError::Magic { at });
        }
        let field = |field: usize| {
            let from = MAGIC.len() + 8 * field;
            digits(&header[from..from + 8]).ok_or(CpioError::Digits { at, field })
        };
        let name = self.slice(at, at + HEADER_SIZE, field(NAME_SIZE)?)?;
        let name = match name.split_last() {
            Some((0, name)) if !name.contains(&0) => str::from_utf8(name).map_err(|_| CpioError::Name { at })?,
            _ => return Err(CpioError::Name { at }),
        };
        let start = (at + HEADER_SIZE + name.len() + 1).next_multiple_of(4);
        let data = self.slice(at, start, field(FILE_SIZE)?)?;
        let regular = field(MODE)? & TYPE_MASK == REGULAR;
        let entry = Entry { member: Member { name, data }, regular, next: (start + data.len()).next_multiple_of(4) };
        Ok((name != TRAILER).then_some(entry))
    }

    fn slice(self, member: usize, from: usize, size: usize) -> Result<&'a [u8], CpioError> {
        let wanted = from.saturating_add(size);
        self.0.get(from..wanted).ok_or(CpioError::Truncated { at: member, wanted, found: self.0.len() })
    }
}

fn digits(text: &[u8]) -> Option<usize> {
    text.iter().try_fold(0, |value, byte| Some(value << 4 | (*byte as char).to_digit(16)? as usize))
}

//! The boot archive: cpio in the "new ASCII" format (`cpio(5)`, magic 070701).
//!
//! `parse` checks every member, so that walks afterwards cannot fail. What
//! follows the trailer is not looked at: boot loaders pad there.

use core::str;

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

/// A file of the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member<'a> {
    pub name: &'a str,
    pub data: &'a [u8],
    regular: bool,
    next: usize,
}

impl<'a> Archive<'a> {
    /// None where a member is malformed, or the trailer is missing.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (archive, mut at) = (Self(bytes), 0);
        while let Some(member) = archive.member(at)? {
            at = member.next;
        }
        Some(archive)
    }

    /// All regular files, in the archive's order.
    pub fn members(&self) -> impl Iterator<Item = Member<'a>> + use<'a> {
        let archive = *self;
        let mut at = 0;
        let members = core::iter::from_fn(move || {
            let member = archive.member(at)??;
            at = member.next;
            Some(member)
        });
        members.filter(|member| member.regular)
    }

    /// The member at `at`, or none for the trailer. None where it is malformed.
    fn member(self, at: usize) -> Option<Option<Member<'a>>> {
        let header = self.0.get(at..)?.get(..HEADER_SIZE)?.strip_prefix(MAGIC)?;
        let field = |field: usize| digits(&header[8 * field..8 * field + 8]);
        let (0, name) = self.0[at + HEADER_SIZE..].get(..field(NAME_SIZE)?)?.split_last()? else { return None };
        let name = str::from_utf8(name).ok().filter(|name| !name.contains('\0'))?;
        let start = (at + HEADER_SIZE + name.len() + 1).next_multiple_of(4);
        let data = self.0.get(start..)?.get(..field(FILE_SIZE)?)?;
        let regular = field(MODE)? & TYPE_MASK == REGULAR;
        let next = (start + data.len()).next_multiple_of(4);
        Some((name != TRAILER).then_some(Member { name, data, regular, next }))
    }
}

fn digits(text: &[u8]) -> Option<usize> {
    text.iter().try_fold(0, |value, byte| Some(value << 4 | (*byte as char).to_digit(16)? as usize))
}

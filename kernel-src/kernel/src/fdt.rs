//! Flattened device trees (Devicetree Specification 0.4, chapter 5).
//!
//! `parse` walks the whole blob once and refuses what is malformed, so that
//! every walk afterwards ends and cannot fail; what a *property* holds is
//! checked where it is read. Numbers in the blob are big-endian, in cells of
//! 32 bits.

mod bus;
mod node;

pub use node::{Cells, Interrupt, Node, Property};

use crate::{
    addr::{HardwareId, PhysAddr, PhysRange},
    config::DEVICE_TREE_MAX,
};
use core::str;
use displaydoc::Display;
use node::cell;

pub const HEADER_SIZE: usize = 40;
const MAGIC: u32 = 0xD00D_FEED;
/// The version that this reader knows, and may have to be backwards compatible with (5.2).
const VERSION: u32 = 17;
/// Deepest nesting of nodes; real trees have fewer than ten.
const MAX_DEPTH: usize = 32;
/// Bytes of an entry of the memory reservation block (5.3.2).
const RESERVATION_SIZE: usize = 16;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// A well-formed device tree.
#[derive(Clone, Copy, Debug)]
pub struct Fdt<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    reservations: &'a [u8],
}

/// A CPU that the tree lists.
#[derive(Clone, Copy, Debug)]
pub struct Cpu<'a> {
    pub hardware: HardwareId,
    pub enabled: bool,
    pub node: Node<'a>,
}

/// device tree
///
/// Why a blob is refused. Offsets named `at` count from the structure block's begin, others from the blob's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Display)]
#[prefix_enum_doc_attributes]
#[ignore_extra_doc_attributes]
pub enum FdtError {
    /// wanted {wanted:#x} bytes, found {found:#x}
    Truncated { wanted: usize, found: usize },
    /// wanted magic {MAGIC:#x}, found {found:#x}
    Magic { found: u32 },
    /// wanted version {VERSION}, found {found}, compatible with {compatible}
    Version { found: u32, compatible: u32 },
    /// wanted a total size of {HEADER_SIZE:#x} to {DEVICE_TREE_MAX:#x} bytes, found {found:#x}
    TotalSize { found: usize },
    /// wanted the {name} block aligned and within {total:#x} bytes, found it at {offset:#x}, {size:#x} bytes
    Block { name: &'static str, offset: usize, size: usize, total: usize },
    /// wanted an entry of zeros at the end of the memory reservation block, found none
    ReservationsEnd,
    /// wanted a token at structure offset {at:#x}, found {found:#x}
    Token { at: usize, found: u32 },
    /// wanted {wanted} at structure offset {at:#x}, found another token
    ///
    /// Found a token that is legal elsewhere.
    Misplaced { at: usize, wanted: &'static str },
    /// wanted a name in UTF-8 that ends with a zero byte at structure offset {at:#x}
    Name { at: usize },
    /// wanted the name of the property at structure offset {at:#x} at string offset {string:#x}, found none
    PropertyName { at: usize, string: usize },
    /// wanted at most {MAX_DEPTH} levels of nodes, found more at structure offset {at:#x}
    Depth { at: usize },
    /// wanted more at structure offset {at:#x}, but the block has {size:#x} bytes
    ///
    /// The structure block ends within something.
    StructureEnd { at: usize, size: usize },
}

impl core::error::Error for FdtError {}

#[derive(Clone, Copy)]
enum Token<'a> {
    Begin(&'a str),
    EndNode,
    Property(&'a str, Property<'a>),
    End,
}

impl<'a> Fdt<'a> {
    /// Bytes of the whole blob, from its header alone.
    pub fn total_size(header: &[u8; HEADER_SIZE]) -> Result<usize, FdtError> {
        let field = |index: usize| cell(header, 4 * index).unwrap_or(0);
        if field(0) != MAGIC {
            return Err(FdtError::Magic { found: field(0) });
        }
        let (found, compatible) = (field(5), field(6));
        if found < VERSION || compatible > VERSION {
            return Err(FdtError::Version { found, compatible });
        }
        let total = field(1) as usize;
        let fits = (HEADER_SIZE..=DEVICE_TREE_MAX).contains(&total);
        fits.then_some(total).ok_or(FdtError::TotalSize { found: total })
    }

    /// Checks all of the blob's structure; the blob may be followed by other bytes.
    pub fn parse(blob: &'a [u8]) -> Result<Self, FdtError> {
        let header = blob.first_chunk().ok_or(FdtError::Truncated { wanted: HEADER_SIZE, found: blob.len() })?;
        let wanted = Self::total_size(header)?;
        let blob = blob.get(..wanted).ok_or(FdtError::Truncated { wanted, found: blob.len() })?;
        let field = |index: usize| cell(header, 4 * index).unwrap_or(0) as usize;
        let block = |name, offset: usize, size: usize, align: usize| {
            let aligned = offset.is_multiple_of(align) && offset >= HEADER_SIZE;
            let bytes = blob.get(offset..offset.saturating_add(size)).filter(|_| aligned);
            bytes.ok_or(FdtError::Block { name, offset, size, total: wanted })
        };
        let structure = block("structure", field(2), field(9), 4)?;
        let strings = block("strings", field(3), field(8), 1)?;
        let reservations = block("memory reservation", field(4), wanted.saturating_sub(field(4)), 8)?;
        let end = reservations.chunks_exact(RESERVATION_SIZE).position(|entry| entry.iter().all(|byte| *byte == 0));
        let end = end.ok_or(FdtError::ReservationsEnd)? * RESERVATION_SIZE;
        Self { structure, strings, reservations: &reservations[..end] }.checked()
    }

    /// One root, balanced, properties before children, `END` after it (5.4.2).
    fn checked(self) -> Result<Self, FdtError> {
        let (mut at, mut depth, mut properties_allowed, mut root_seen) = (0, 0, false, false);
        loop {
            let (token, next) = self.token(at)?;
            let misplaced = |wanted| Err(FdtError::Misplaced { at, wanted });
            match token {
                Token::Begin(_) if depth == 0 && root_seen => return misplaced("the end of the tree"),
                Token::Begin(_) if depth == MAX_DEPTH => return Err(FdtError::Depth { at }),
                Token::Begin(_) => (depth, properties_allowed, root_seen) = (depth + 1, true, true),
                Token::Property(..) if !properties_allowed => return misplaced("no property"),
                Token::Property(..) => {}
                Token::EndNode if depth == 0 => return misplaced("a node"),
                Token::EndNode => (depth, properties_allowed) = (depth - 1, false),
                Token::End if depth == 0 && root_seen => return Ok(self),
                Token::End => return misplaced("the end of a node"),
            }
            at = next;
        }
    }

    /// The token at `at`, or after the `NOP`s there, and where it ends; each is at least four bytes long.
    fn token(self, mut at: usize) -> Result<(Token<'a>, usize), FdtError> {
        let short = |at| FdtError::StructureEnd { at, size: self.structure.len() };
        while cell(self.structure, at) == Some(NOP) {
            at += 4;
        }
        let body = at + 4;
        Ok(match cell(self.structure, at).ok_or(short(at))? {
            BEGIN_NODE => {
                let name = string(self.structure, body).ok_or(FdtError::Name { at })?;
                (Token::Begin(name), (body + name.len() + 1).next_multiple_of(4))
            }
            END_NODE => (Token::EndNode, body),
            PROP => {
                let size = cell(self.structure, body).ok_or(short(body))? as usize;
                let offset = cell(self.structure, body + 4).ok_or(short(body))? as usize;
                let name = string(self.strings, offset).ok_or(FdtError::PropertyName { at, string: offset })?;
                let value = self.structure.get(body + 8..body + 8 + size).ok_or(short(body + 8))?;
                (Token::Property(name, Property(value)), (body + 8 + size).next_multiple_of(4))
            }
            END => (Token::End, body),
            found => return Err(FdtError::Token { at, found }),
        })
    }

    pub fn root(self) -> Node<'a> {
        Node::new(self, 0)
    }

    /// By path; unit addresses may be left out. Without a `/` in front, the first component is an alias (3.3).
    pub fn node(self, path: &str) -> Option<Node<'a>> {
        let (mut node, rest) = match path.strip_prefix('/') {
            Some(rest) => (self.root(), rest),
            None => {
                let (alias, rest) = path.split_once('/').unwrap_or((path, ""));
                // An alias is a full path, never another alias.
                let target = self.node("/aliases")?.property(alias)?.str().filter(|target| target.starts_with('/'))?;
                (self.node(target)?, rest)
            }
        };
        for component in rest.split('/').filter(|component| !component.is_empty()) {
            let named = |node: &Node<'_>| {
                node.name() == component || node.name().split_once('@').is_some_and(|(name, _)| name == component)
            };
            node = node.children().find(named)?;
        }
        Some(node)
    }

    /// All nodes, depth first.
    pub fn nodes(self) -> impl Iterator<Item = Node<'a>> {
        self.walk(0).map(|(_, node)| node)
    }

    /// Nodes from `at` on until the one around it ends, depth first, and how deep they are.
    fn walk(self, mut at: usize) -> impl Iterator<Item = (usize, Node<'a>)> {
        let mut depth = 0_usize;
        core::iter::from_fn(move || {
            loop {
                let (token, next) = self.token(at).ok()?;
                let node = Node::new(self, core::mem::replace(&mut at, next));
                match token {
                    Token::Begin(_) => {
                        depth += 1;
                        return Some((depth, node));
                    }
                    Token::EndNode => depth = depth.checked_sub(1)?,
                    Token::Property(..) => {}
                    Token::End => return None,
                }
            }
        })
    }

    /// The first enabled node that is compatible with one of `names`, the earlier name first.
    pub fn find_compatible(self, names: &[&str]) -> Option<Node<'a>> {
        names.iter().find_map(|name| self.nodes().find(|node| node.is_compatible(name) && node.enabled()))
    }

    pub fn by_phandle(self, phandle: u32) -> Option<Node<'a>> {
        self.nodes().find(|node| node.phandle() == Some(phandle))
    }

    /// What nobody may use: the memory reservation block, and children of `/reserved-memory` with a place.
    pub fn reservations(self) -> impl Iterator<Item = PhysRange> {
        let block = self.reservations.chunks_exact(RESERVATION_SIZE).filter_map(|entry| {
            let (start, size) = entry.split_at(RESERVATION_SIZE / 2);
            Some(PhysRange::new(Property(start).u64()? as usize, Property(size).u64()? as usize))
        });
        let nodes = self.node("/reserved-memory").into_iter().flat_map(Node::children);
        block.chain(nodes.filter(|node| node.enabled()).flat_map(Node::reg)).filter(|range| range.size > 0)
    }

    pub fn memory(self) -> impl Iterator<Item = PhysRange> {
        let is_memory = |node: &Node<'_>| node.has_type("memory") && node.enabled();
        self.root().children().filter(is_memory).flat_map(Node::reg).filter(|range| range.size > 0)
    }

    pub fn cpus(self) -> impl Iterator<Item = Cpu<'a>> {
        let nodes = self.node("/cpus").into_iter().flat_map(Node::children);
        nodes.filter(|node| node.has_type("cpu")).filter_map(|node| {
            let hardware = HardwareId(node.property("reg")?.u64()?);
            Some(Cpu { hardware, enabled: node.enabled(), node })
        })
    }

    pub fn command_line(self) -> Option<&'a str> {
        self.node("/chosen")?.property("bootargs")?.str()
    }

    pub fn initrd(self) -> Option<PhysRange> {
        let chosen = self.node("/chosen")?;
        let start = chosen.property("linux,initrd-start")?.u64()?;
        let size = chosen.property("linux,initrd-end")?.u64()?.checked_sub(start)?;
        Some(PhysRange { start: PhysAddr(start as usize), size: size as usize })
    }

    /// The console that firmware chose (`stdout-path`, without the options behind its colon).
    pub fn stdout(self) -> Option<Node<'a>> {
        let path = self.node("/chosen")?.property("stdout-path")?.str()?;
        self.node(path.split(':').next()?)
    }
}

/// The text from `at` up to a zero byte.
fn string(block: &[u8], at: usize) -> Option<&str> {
    let bytes = block.get(at..)?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    str::from_utf8(&bytes[..end]).ok()
}

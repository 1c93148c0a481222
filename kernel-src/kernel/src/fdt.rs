//! Flattened device trees (Devicetree Specification 0.4, chapter 5), read by `dtoolkit`.
//!
//! `parse` walks the whole blob once and refuses what is malformed, so that
//! every walk afterwards ends and cannot fail; what a *property* holds is
//! checked where it is read. Numbers in the blob are big-endian, in cells of
//! 32 bits.

mod bus;
mod node;

pub use node::{Cells, Interrupt, Node, Property};

use crate::addr::{HardwareId, PhysAddr, PhysRange};
use crate::config::DEVICE_TREE_MAX;
use arrayvec::ArrayVec;
use core::{iter, str};
use displaydoc::Display;
use dtoolkit::error::{FdtErrorKind, FdtParseError};
use node::cell;

pub const HEADER_SIZE: usize = 40;
const MAGIC: u32 = 0xD00D_FEED;
/// Deepest nesting of nodes; real trees have fewer than ten.
const MAX_DEPTH: usize = 32;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// A well-formed device tree.
#[derive(Clone, Copy, Debug)]
pub struct Fdt<'a>(dtoolkit::fdt::Fdt<'a>);

/// A CPU that the tree lists.
#[derive(Clone, Copy, Debug)]
pub struct Cpu<'a> {
    pub hardware: HardwareId,
    pub enabled: bool,
    pub node: Node<'a>,
}

/// device tree
///
/// Why a blob is refused.
#[derive(Clone, PartialEq, Eq, Debug, Display)]
#[prefix_enum_doc_attributes]
#[ignore_extra_doc_attributes]
pub enum FdtError {
    /// wanted {wanted:#x} bytes, found {found:#x}
    Truncated { wanted: usize, found: usize },
    /// wanted magic {MAGIC:#x} and {HEADER_SIZE:#x} to {DEVICE_TREE_MAX:#x} bytes, found {magic:#x} and {size:#x}
    Header { magic: u32, size: usize },
    /// wanted a sound tree: {0}
    Malformed(FdtParseError),
    /// wanted at most {MAX_DEPTH} levels of nodes, found more
    Depth,
}

impl<'a> Fdt<'a> {
    /// Bytes of the whole blob, from its header alone.
    pub fn total_size(header: &[u8; HEADER_SIZE]) -> Result<usize, FdtError> {
        match (cell(header, 0).unwrap_or(0), cell(header, 4).unwrap_or(0) as usize) {
            (MAGIC, size @ HEADER_SIZE..=DEVICE_TREE_MAX) => Ok(size),
            (magic, size) => Err(FdtError::Header { magic, size }),
        }
    }

    /// Checks all of the blob's structure; the blob may be followed by other bytes.
    ///
    /// Names may have other lengths and letters than the specification allows (2.2.1, 2.2.4), for trees in use have them:
    /// that is the one thing in which `dtoolkit` is not followed, and then what it has not looked at is looked at here.
    pub fn parse(blob: &'a [u8]) -> Result<Self, FdtError> {
        let header = blob.first_chunk().ok_or(FdtError::Truncated { wanted: HEADER_SIZE, found: blob.len() })?;
        let wanted = Self::total_size(header)?;
        let blob = blob.get(..wanted).ok_or(FdtError::Truncated { wanted, found: blob.len() })?;
        let is_name =
            |kind: &FdtErrorKind| matches!(kind, FdtErrorKind::InvalidNodeName | FdtErrorKind::InvalidPropertyName);
        match (dtoolkit::fdt::Fdt::new(blob), is_walkable(blob)) {
            (Err(error), sound) if sound.is_none() || !is_name(&error.kind) => Err(FdtError::Malformed(error)),
            (Ok(_), None) => Err(FdtError::Depth),
            _ => Ok(Self(dtoolkit::fdt::Fdt::new_unchecked(blob))),
        }
    }

    pub fn root(self) -> Node<'a> {
        Node::new(self, self.0.root())
    }

    /// By path; unit addresses may be left out. Without a `/` in front, the first component is an alias (3.3).
    pub fn node(self, path: &str) -> Option<Node<'a>> {
        if path.starts_with('/') {
            return self.0.find_node(path).map(|node| Node::new(self, node));
        }
        let (alias, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
        // An alias is a full path, never another alias.
        let target = self.node("/aliases")?.property(alias)?.str().filter(|target| target.starts_with('/'))?;
        rest.split('/').filter(|name| !name.is_empty()).try_fold(self.node(target)?, Node::child)
    }

    /// All nodes, depth first.
    pub fn nodes(self) -> impl Iterator<Item = Node<'a>> {
        let mut open = ArrayVec::<_, MAX_DEPTH>::from_iter([self.root().children()]);
        let below = iter::from_fn(move || {
            loop {
                let Some(node) = open.last_mut()?.next() else {
                    open.pop();
                    continue;
                };
                // `parse` refused deeper nesting.
                open.push(node.children());
                return Some(node);
            }
        });
        iter::once(self.root()).chain(below)
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
        let entries = self.0.memory_reservations();
        let block = entries.map(|entry| PhysRange::new(entry.address() as usize, entry.size() as usize));
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

/// Walks the structure block (5.4): one root, balanced, not too deep, properties before children, each with a name.
fn is_walkable(blob: &[u8]) -> Option<()> {
    let structure = blob.get(cell(blob, 8)? as usize..)?;
    let strings = blob.get(cell(blob, 12)? as usize..)?.get(..cell(blob, 32)? as usize)?;
    let (mut at, mut depth, mut properties_allowed) = (0, 0_usize, false);
    loop {
        let token = cell(structure, at)?;
        at += 4;
        match token {
            NOP => {}
            BEGIN_NODE if depth < MAX_DEPTH => {
                at = (at + string(structure, at)?.len() + 1).next_multiple_of(4);
                (depth, properties_allowed) = (depth + 1, true);
            }
            PROP if properties_allowed => {
                let (size, name) = (cell(structure, at)? as usize, cell(structure, at + 4)? as usize);
                string(strings, name)?;
                structure.get(..at + 8 + size)?;
                at = (at + 8 + size).next_multiple_of(4);
            }
            END_NODE => (depth, properties_allowed) = (depth.checked_sub(1)?, false),
            _ => return None,
        }
        if depth == 0 && token == END_NODE {
            return (cell(structure, at)? == END).then_some(());
        }
    }
}

/// The text from `at` up to a zero byte.
fn string(block: &[u8], at: usize) -> Option<&str> {
    let bytes = block.get(at..)?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    str::from_utf8(&bytes[..end]).ok()
}

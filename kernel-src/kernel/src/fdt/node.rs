//! Nodes, and what their properties hold.

use super::{Fdt, MAX_DEPTH, Token, bus, string};
use crate::addr::PhysRange;
use arrayvec::ArrayVec;

/// A node: where its `BEGIN_NODE` token is.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub(super) fdt: Fdt<'a>,
    at: usize,
}

impl PartialEq for Node<'_> {
    /// Within one tree.
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

/// The value of a property.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Property<'a>(pub(super) &'a [u8]);

/// Some 32-bit cells of a value; an iterator over them, too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cells<'a>(&'a [u8]);

/// One interrupt of a node: who takes it, and how it is told (2.4).
#[derive(Clone, Debug)]
pub struct Interrupt<'a> {
    pub controller: Node<'a>,
    pub cells: Cells<'a>,
}

impl<'a> Node<'a> {
    pub(super) const fn new(fdt: Fdt<'a>, at: usize) -> Self {
        Self { fdt, at }
    }

    /// With the unit address.
    pub fn name(self) -> &'a str {
        if let Ok((Token::Begin(name), _)) = self.fdt.token(self.at) { name } else { "" }
    }

    pub fn properties(self) -> impl Iterator<Item = (&'a str, Property<'a>)> {
        let mut at = self.body();
        core::iter::from_fn(move || {
            let (Token::Property(name, value), next) = self.fdt.token(at).ok()? else { return None };
            at = next;
            Some((name, value))
        })
    }

    pub fn property(self, name: &str) -> Option<Property<'a>> {
        self.properties().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    pub fn children(self) -> impl Iterator<Item = Node<'a>> {
        self.fdt.walk(self.body()).filter(|(depth, _)| *depth == 1).map(|(_, node)| node)
    }

    pub fn parent(self) -> Option<Node<'a>> {
        self.ancestors().pop().map(|at| Node::new(self.fdt, at))
    }

    /// Where the root, and so on down to the parent, are.
    pub(super) fn ancestors(self) -> ArrayVec<usize, MAX_DEPTH> {
        let (mut open, mut at) = (ArrayVec::new(), 0);
        while at < self.at
            && let Ok((token, next)) = self.fdt.token(at)
        {
            match token {
                // `parse` refused deeper nesting.
                Token::Begin(_) => open.push(at),
                Token::EndNode => _ = open.pop(),
                Token::Property(..) | Token::End => {}
            }
            at = next;
        }
        open
    }

    pub fn is_compatible(self, name: &str) -> bool {
        self.property("compatible").is_some_and(|names| names.strings().any(|found| found == name))
    }

    /// `status` is absent or "okay" (2.3.4; "ok" is its old spelling).
    pub fn enabled(self) -> bool {
        self.property("status").is_none_or(|status| matches!(status.str(), Some("okay" | "ok")))
    }

    pub fn phandle(self) -> Option<u32> {
        self.property("phandle").or_else(|| self.property("linux,phandle"))?.u32()
    }

    /// Where the device is, as a CPU sees it; ends at the first place that a CPU cannot see.
    pub fn reg(self) -> impl Iterator<Item = PhysRange> {
        bus::regions(self)
    }

    /// The cells of each interrupt, where it is clear who takes them.
    pub fn interrupts(self) -> impl Iterator<Item = Cells<'a>> {
        self.wires().map(|wire| wire.cells)
    }

    /// Of `interrupts-extended`, or else of `interrupts`; ends at the first whose controller is not in the tree.
    pub fn wires(self) -> impl Iterator<Item = Interrupt<'a>> {
        let extended = self.property("interrupts-extended");
        let parent = if extended.is_none() { self.interrupt_parent() } else { None };
        let mut cells = extended.or_else(|| self.property("interrupts")).unwrap_or(Property(&[])).cells();
        core::iter::from_fn(move || {
            let controller = match extended {
                Some(_) => self.fdt.by_phandle(cells.next()?)?,
                None => parent?,
            };
            let count = controller.cell_count("#interrupt-cells")?;
            // Each must take something, or this would go on for ever.
            let taken = cells.take_front(count).filter(|_| count > 0 || extended.is_some())?;
            Some(Interrupt { controller, cells: taken })
        })
    }

    /// The controller that `interrupts` speaks to: named here or by an ancestor, or else the nearest one above.
    pub fn interrupt_parent(self) -> Option<Node<'a>> {
        let ancestors = self.ancestors();
        let above = ancestors.iter().rev().map(|at| Node::new(self.fdt, *at));
        let mut nodes = core::iter::once(self).chain(above);
        nodes.find_map(|node| match node.property("interrupt-parent") {
            Some(phandle) => self.fdt.by_phandle(phandle.u32()?),
            None => (node != self && node.property("#interrupt-cells").is_some()).then_some(node),
        })
    }

    /// A property that counts cells.
    pub(super) fn cell_count(self, name: &str) -> Option<usize> {
        Some(self.property(name)?.u32()? as usize)
    }

    pub(super) fn has_type(self, name: &str) -> bool {
        self.property("device_type").and_then(Property::str) == Some(name)
    }

    /// Where the first property or child is.
    fn body(self) -> usize {
        self.fdt.token(self.at).map_or(self.at, |(_, next)| next)
    }
}

impl<'a> Property<'a> {
    pub const fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Of exactly one cell.
    pub fn u32(self) -> Option<u32> {
        Some(u32::from_be_bytes(self.0.try_into().ok()?))
    }

    /// Of one or two cells.
    pub fn u64(self) -> Option<u64> {
        let two = || Some(u64::from_be_bytes(self.0.try_into().ok()?));
        self.u32().map(u64::from).or_else(two)
    }

    /// The first string.
    pub fn str(self) -> Option<&'a str> {
        string(self.0, 0)
    }

    pub fn strings(self) -> impl Iterator<Item = &'a str> {
        let mut at = 0;
        core::iter::from_fn(move || {
            let text = string(self.0, at)?;
            at += text.len() + 1;
            Some(text)
        })
    }

    /// Whole cells; bytes behind the last are left out.
    pub const fn cells(self) -> Cells<'a> {
        Cells(self.0)
    }
}

impl<'a> Cells<'a> {
    /// How many are left.
    pub const fn len(&self) -> usize {
        self.0.len() / 4
    }

    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one at `index`, of those left.
    pub fn get(&self, index: usize) -> Option<u32> {
        cell(self.0, index.checked_mul(4)?)
    }

    /// Splits off the first `count`, if so many are left.
    pub(super) fn take_front(&mut self, count: usize) -> Option<Cells<'a>> {
        let (front, rest) = self.0.split_at_checked(count.checked_mul(4)?)?;
        self.0 = rest;
        Some(Cells(front))
    }

    /// All of them as one number; only the last four count.
    pub(super) fn number(self) -> u128 {
        self.fold(0, |value, cell| value << 32 | u128::from(cell))
    }
}

impl Iterator for Cells<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.take_front(1)?.get(0)
    }
}

/// The cell at byte `at`.
pub(super) fn cell(block: &[u8], at: usize) -> Option<u32> {
    block.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

//! Nodes, and what their properties hold.

use super::{Fdt, MAX_DEPTH};
use arrayvec::ArrayVec;
use dtoolkit::fdt::{FdtNode, FdtProperty};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{FdtStringListIterator, FromPropertyValue, Node as _, Property as _};

/// A node of a tree.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    fdt: Fdt<'a>,
    pub(super) node: FdtNode<'a>,
}

impl PartialEq for Node<'_> {
    /// By where they are.
    fn eq(&self, other: &Self) -> bool {
        self.at() == other.at()
    }
}

/// The value of a property.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Property<'a>(&'a [u8]);

/// How an interrupt is told; no binding needs more.
pub type Cells = ArrayVec<u32, 4>;

/// One interrupt of a node: who takes it, and how it is told (2.4).
#[derive(Clone, Debug)]
pub struct Interrupt<'a> {
    pub controller: Node<'a>,
    pub cells: Cells,
}

impl<'a> Node<'a> {
    pub(super) const fn new(fdt: Fdt<'a>, node: FdtNode<'a>) -> Self {
        Self { fdt, node }
    }

    /// With the unit address.
    pub fn name(self) -> &'a str {
        self.node.name()
    }

    /// Where it is: its name lies in the blob.
    fn at(self) -> *const u8 {
        self.name().as_ptr()
    }

    pub fn properties(self) -> impl Iterator<Item = Property<'a>> {
        self.node.properties().filter_map(|property| Property::of(&property))
    }

    pub fn property(self, name: &str) -> Option<Property<'a>> {
        Property::of(&self.node.property(name)?)
    }

    pub fn children(self) -> impl Iterator<Item = Node<'a>> {
        self.node.children().map(move |node| Self { node, ..self })
    }

    /// The unit address may be left out.
    pub(super) fn child(self, name: &str) -> Option<Node<'a>> {
        self.node.child(name).map(|node| Self { node, ..self })
    }

    /// The root, and so on down to the parent.
    pub fn ancestors(self) -> ArrayVec<Node<'a>, MAX_DEPTH> {
        let mut above = ArrayVec::new();
        let mut next = Some(self.fdt.root());
        while let Some(node) = next.filter(|node| *node != self) {
            above.push(node);
            // What a node holds lies before the next one.
            next = node.children().take_while(|child| child.at() <= self.at()).last();
        }
        above
    }

    pub fn is_compatible(self, name: &str) -> bool {
        self.node.is_compatible(name)
    }

    /// `status` is absent or "okay" (2.3.4; "ok" is its old spelling).
    pub fn enabled(self) -> bool {
        self.property("status").is_none_or(|status| matches!(status.str(), Some("okay" | "ok")))
    }

    pub fn phandle(self) -> Option<u32> {
        self.property("phandle").or_else(|| self.property("linux,phandle"))?.u32()
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
            let count = controller.property("#interrupt-cells")?.u32()?;
            let mut taken = Cells::new();
            for _ in 0..count {
                taken.try_push(cells.next()?).ok()?;
            }
            // Each must take something, or this would go on for ever.
            (count > 0 || extended.is_some()).then_some(Interrupt { controller, cells: taken })
        })
    }

    /// The controller that `interrupts` speaks to: named here or by an ancestor, or else the nearest one above.
    pub fn interrupt_parent(self) -> Option<Node<'a>> {
        let ancestors = self.ancestors();
        let mut nodes = core::iter::once(self).chain(ancestors.into_iter().rev());
        nodes.find_map(|node| match node.property("interrupt-parent") {
            Some(phandle) => self.fdt.by_phandle(phandle.u32()?),
            None => (node != self && node.property("#interrupt-cells").is_some()).then_some(node),
        })
    }

    pub(super) fn has_type(self, name: &str) -> bool {
        self.property("device_type").and_then(Property::str) == Some(name)
    }
}

impl<'a> Property<'a> {
    fn of(property: &FdtProperty<'a>) -> Option<Self> {
        property.value_as().ok().map(Self)
    }

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
        self.strings().next()
    }

    pub fn strings(self) -> impl Iterator<Item = &'a str> {
        FdtStringListIterator::from_property_value(self.0).into_iter().flatten()
    }

    /// Whole cells; bytes behind the last are left out.
    pub fn cells(self) -> impl ExactSizeIterator<Item = u32> {
        self.0.as_chunks().0.iter().map(|cell| u32::from_be_bytes(*cell))
    }
}

/// The cell at byte `at`.
pub(super) fn cell(block: &[u8], at: usize) -> Option<u32> {
    block.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

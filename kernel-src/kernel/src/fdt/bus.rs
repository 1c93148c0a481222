//! From a bus's addresses to a CPU's: `reg` and `ranges` (2.3.6 and 2.3.8).

use super::node::{Cells, Node, Property};
use crate::addr::PhysRange;

/// Most cells of an address or a size that the specification's buses use (PCI: 3 and 2).
const MAX_CELLS: usize = 4;
/// In the first of PCI's three address cells: which space (IEEE 1275 PCI binding, 2.2.1.1).
const PCI_CELLS: usize = 3;
const PCI_SPACE: u128 = 0x0300_0000 << 64;
const PCI_OFFSET: u128 = u64::MAX as u128;

/// The regions of a node's `reg`, up to the first that does not reach the root.
pub(super) fn regions(node: Node<'_>) -> impl Iterator<Item = PhysRange> {
    let buses = node.ancestors();
    let mut cells = node.property("reg").unwrap_or(Property(&[])).cells();
    core::iter::from_fn(move || {
        let bus = Node::new(node.fdt, *buses.last()?);
        let (address_cells @ 1.., size_cells) = cell_counts(bus)? else { return None };
        let mut address = cells.take_front(address_cells)?.number();
        let size = cells.take_front(size_cells)?.number();
        // Upwards, from the address space of the last bus to the root's.
        for pair in buses.windows(2).rev() {
            let (parent, bus) = (Node::new(node.fdt, pair[0]), Node::new(node.fdt, pair[1]));
            let ranges = bus.property("ranges")?;
            if !ranges.bytes().is_empty() {
                address = through(ranges.cells(), parent, bus, address, size)?;
            }
        }
        let (start, size) = (usize::try_from(address).ok()?, usize::try_from(size).ok()?);
        start.checked_add(size).map(|_| PhysRange::new(start, size))
    })
}

/// The parent's address for all of `size` bytes from `address` of the bus.
fn through(mut ranges: Cells<'_>, parent: Node<'_>, bus: Node<'_>, address: u128, size: u128) -> Option<u128> {
    let ((child_cells, size_cells), (parent_cells, _)) = (cell_counts(bus)?, cell_counts(parent)?);
    let entry_cells = child_cells + parent_cells + size_cells;
    // Entries of no cells would never end.
    while let Some(mut entry) = ranges.take_front(entry_cells).filter(|entry| !entry.is_empty()) {
        let base = entry.take_front(child_cells)?.number();
        let to = entry.take_front(parent_cells)?.number();
        let length = entry.number();
        let (same_space, base, from) = if child_cells == PCI_CELLS {
            ((base ^ address) & PCI_SPACE == 0, base & PCI_OFFSET, address & PCI_OFFSET)
        } else {
            (true, base, address)
        };
        if same_space && from >= base && (from - base).checked_add(size).is_some_and(|end| end <= length) {
            return to.checked_add(from - base);
        }
    }
    None
}

/// Cells of an address and of a size on a bus, the specification's number where it does not tell; None where it is absurd.
fn cell_counts(bus: Node<'_>) -> Option<(usize, usize)> {
    let count = |name, default| if bus.property(name).is_none() { Some(default) } else { bus.cell_count(name) };
    let (address, size) = (count("#address-cells", 2)?, count("#size-cells", 1)?);
    (address.max(size) <= MAX_CELLS).then_some((address, size))
}

//! From a bus's addresses to a CPU's: `reg` and `ranges` (2.3.6 and 2.3.8).

use super::Node;
use crate::addr::PhysRange;
use dtoolkit::{Cells, ToCellInt};

/// In the first of PCI's three address cells: which space (IEEE 1275 PCI binding, 2.2.1.1).
const PCI_CELLS: usize = 3;
const PCI_SPACE: u128 = 0x0300_0000 << 64;
const PCI_OFFSET: u128 = u64::MAX as u128;

impl<'a> Node<'a> {
    /// Where the device is, as a CPU sees it; ends at the first place that a CPU cannot see.
    pub fn reg(self) -> impl Iterator<Item = PhysRange> + use<'a> {
        let buses = self.ancestors();
        let regions = self.node.reg().ok().flatten().into_iter().flatten();
        regions.map_while(move |region| {
            let (mut address, size) = (number(region.address)?, number(region.size)?);
            // Upwards, from the address space of the last bus to the root's.
            let (_, buses) = buses.split_first().filter(|_| !region.address.as_ref().is_empty())?;
            for bus in buses.iter().rev() {
                if !bus.property("ranges")?.bytes().is_empty() {
                    address = through(*bus, address, size)?;
                }
            }
            let (start, size) = (usize::try_from(address).ok()?, usize::try_from(size).ok()?);
            start.checked_add(size).map(|_| PhysRange::new(start, size))
        })
    }
}

/// The parent's address for all of `size` bytes from `address` of the bus.
fn through(bus: Node<'_>, address: u128, size: u128) -> Option<u128> {
    bus.node.ranges().ok()??.find_map(|range| {
        let base = number(range.child_bus_address)?;
        let (to, length) = (number(range.parent_bus_address)?, number(range.length)?);
        let (same_space, base, from) = if range.child_bus_address.as_ref().len() == PCI_CELLS {
            ((base ^ address) & PCI_SPACE == 0, base & PCI_OFFSET, address & PCI_OFFSET)
        } else {
            (true, base, address)
        };
        let offset = from.checked_sub(base).filter(|offset| same_space && offset.saturating_add(size) <= length)?;
        to.checked_add(offset)
    })
}

/// Of at most four cells: no bus of the specification uses more (PCI: 3 and 2).
fn number(cells: Cells<'_>) -> Option<u128> {
    cells.to_int().ok()
}

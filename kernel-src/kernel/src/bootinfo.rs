//! What every boot protocol converges on.

use crate::addr::{HardwareId, PhysAddr, PhysRange};
use crate::config::MAX_RANGES;
use arrayvec::ArrayVec;

/// The architecture-neutral hand-over; made by `arch::boot`, read by `init`.
pub struct BootInfo {
    /// The image with its `.bss`, in physical memory.
    pub image: PhysRange,
    /// Memory that may be used, before `reserved` is taken out.
    pub ram: ArrayVec<PhysRange, MAX_RANGES>,
    /// What firmware, tables and modules hold; may overlap.
    pub reserved: ArrayVec<PhysRange, MAX_RANGES>,
    /// The boot archive, if one was handed over.
    pub archive: Option<PhysRange>,
    pub command_line: &'static str,
    /// The machine's description: a flattened device tree, or the ACPI root pointer.
    pub tables: PhysAddr,
    /// The CPU that runs this.
    pub boot_cpu: HardwareId,
}

/// Adds `new` to ranges that do not overlap; where it meets some of them, it is one with them. A range that finds no room
/// is left out: a machine with more goes without the last of them.
pub fn add(ranges: &mut ArrayVec<PhysRange, MAX_RANGES>, mut new: PhysRange) {
    while let Some(at) = ranges.iter().position(|old| old.start <= new.end() && new.start <= old.end()) {
        let old = ranges.swap_remove(at);
        let (start, end) = (old.start.min(new.start).0, old.end().max(new.end()).0);
        new = PhysRange::new(start, end - start);
    }
    let _ = ranges.try_push(new);
}

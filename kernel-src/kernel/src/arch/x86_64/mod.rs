//! x86_64: PCs with ACPI tables, entered by the PVH protocol.
//!
//! Sources: Intel SDM (volumes 2 and 3A, order numbers 325383 and 325384), ACPI 6.5,
//! the PVH boot ABI of Xen (`docs/misc/pvh.pandoc`).

pub mod boot;
pub mod console;
pub mod cpu;
pub mod irq;
pub mod mm;
pub mod task;
pub mod timer;
pub mod trap;

/// As in the names of targets.
pub const NAME: &str = "x86_64";

use super::{Registers, Shared};
use crate::acpi;
use crate::addr::{PhysAddr, PhysRange};
use crate::bootinfo::BootInfo;
use spin::Once;

static MACHINE: Once<acpi::Machine> = Once::new();

/// What the ACPI tables tell; read on first use, while the boot tables map all of them.
///
/// # Panics
/// If they are missing or malformed: without them no interrupt can be routed.
fn machine(info: &BootInfo) -> &'static acpi::Machine {
    MACHINE.call_once(|| {
        // Firmware's memory, as far as boot tables and final tables both reach it.
        let bytes = |start: PhysAddr, size| {
            let range = PhysRange { start, size };
            (start.0 != 0 && range.end() <= boot::DIRECT_LIMIT).then(|| crate::mm::firmware_bytes(range))
        };
        let refused =
            |error| panic!("malformed ACPI tables, found from the root pointer at {:?}: {error}", info.tables);
        acpi::parse(info.tables, &bytes).unwrap_or_else(refused)
    })
}

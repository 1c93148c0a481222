//! x86_64: PCs with ACPI tables, entered by the PVH protocol.
//!
//! Sources: Intel SDM (volumes 2 and 3A, order numbers 325383 and 325384), ACPI 6.5,
//! the PVH boot ABI of Xen (`docs/misc/pvh.pandoc`).

#![allow(unsafe_code)]

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

use crate::{
    acpi,
    addr::{PhysAddr, PhysRange},
    bootinfo::{BootInfo, Tables},
};
use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, Ordering},
};

/// A value that the boot CPU finds out once, before another CPU runs or an interrupt comes.
struct Once<T> {
    known: AtomicBool,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: `set` runs on the boot CPU alone, before there is anybody else; from then on the value is only read.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    const fn new() -> Self {
        Self { known: AtomicBool::new(false), value: UnsafeCell::new(None) }
    }

    fn set(&self, value: T) {
        assert!(!self.known.load(Ordering::Acquire), "a fact of the machine is found out once");
        // SAFETY: `known` is false, so `get` has given out no reference, and only the boot CPU comes here.
        unsafe { *self.value.get() = Some(value) };
        self.known.store(true, Ordering::Release);
    }

    fn get(&self) -> Option<&T> {
        if !self.known.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: once `known` is true nobody writes the value.
        unsafe { (*self.value.get()).as_ref() }
    }
}

static MACHINE: Once<acpi::Machine> = Once::new();

/// Firmware's memory, as far as boot tables and final tables both reach it.
struct Firmware(PhysAddr);

impl acpi::PhysMemory for Firmware {
    fn bytes(&self, at: PhysAddr, size: usize) -> Option<&[u8]> {
        let range = PhysRange { start: at, size };
        (at.0 != 0 && range.end() <= self.0).then(|| crate::mm::firmware_bytes(range))
    }
}

/// What the ACPI tables tell; read on first use, while the boot tables map all of them.
///
/// # Panics
/// If they are missing or malformed: without them no interrupt can be routed.
fn machine(info: &BootInfo) -> &'static acpi::Machine {
    if MACHINE.get().is_none() {
        let Tables::Acpi(rsdp) = info.tables else {
            panic!("ACPI tables wanted, but the boot loader gave a device tree")
        };
        match acpi::parse(rsdp, &Firmware(info.direct_boot_limit)) {
            Ok(machine) => MACHINE.set(machine),
            Err(error) => panic!("malformed ACPI tables, found from the root pointer at {rsdp:?}: {error:?}"),
        }
    }
    MACHINE.get().expect("set above")
}

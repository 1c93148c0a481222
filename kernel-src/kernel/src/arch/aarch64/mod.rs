//! AArch64: machines with a device tree, entered as a Linux Image.
//!
//! Sources: Arm Architecture Reference Manual for A-profile (DDI 0487), GICv2
//! (IHI 0048) and GICv3 (IHI 0069) architecture, PSCI (DEN 0022), PL011
//! (DDI 0183), the device-tree bindings and arm64/booting.rst of Linux.

#![allow(unsafe_code)]

pub mod boot;
pub mod console;
pub mod cpu;
pub mod irq;
pub mod mm;
mod stub;
pub mod task;
pub mod timer;
pub mod trap;

use crate::{addr::VirtAddr, fdt::Fdt};
use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, Ordering},
};

pub const NAME: &str = "aarch64";

/// The value of a system register. Reading one has no effect.
macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reads a register that this exception level has, and changes nothing.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }};
}
pub(crate) use read_register;

/// Writes a system register; what that does is for the caller to prove.
macro_rules! write_register {
    ($name:literal, $value:expr) => {
        core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) u64::from($value), options(nostack, preserves_flags))
    };
}
pub(crate) use write_register;

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

static TREE: Once<Fdt<'static>> = Once::new();

/// The machine's device tree, through the direct map.
fn tree() -> Fdt<'static> {
    *TREE.get().expect("the boot code refuses to start without a device tree")
}

/// A device's registers.
#[derive(Clone, Copy)]
struct Registers(VirtAddr);

impl Registers {
    const fn at(self, offset: usize) -> *mut u8 {
        (self.0.0 + offset) as *mut u8
    }

    fn read(self, offset: usize) -> u32 {
        // SAFETY: whoever made `Registers` mapped a device there, and asks for one of its registers.
        unsafe { self.at(offset).cast::<u32>().read_volatile() }
    }

    fn write(self, offset: usize, value: u32) {
        // SAFETY: as in `read`; no driver here lets a device touch memory.
        unsafe { self.at(offset).cast::<u32>().write_volatile(value) };
    }

    fn read_byte(self, offset: usize) -> u8 {
        // SAFETY: as in `read`.
        unsafe { self.at(offset).read_volatile() }
    }

    fn write_byte(self, offset: usize, value: u8) {
        // SAFETY: as in `write`.
        unsafe { self.at(offset).write_volatile(value) };
    }

    fn read_long(self, offset: usize) -> u64 {
        // SAFETY: as in `read`.
        unsafe { self.at(offset).cast::<u64>().read_volatile() }
    }

    fn write_long(self, offset: usize, value: u64) {
        // SAFETY: as in `write`.
        unsafe { self.at(offset).cast::<u64>().write_volatile(value) };
    }
}

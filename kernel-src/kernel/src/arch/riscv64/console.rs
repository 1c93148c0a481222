//! The console: a 16550 that the device tree names, or the firmware's own
//! console where there is none.

use super::{boot, sbi};
use crate::{
    addr::{PhysAddr, PhysRange},
    bootinfo::BootInfo,
    fdt::{Fdt, Node},
    mm,
};
use core::{
    ptr,
    sync::atomic::{AtomicU8, AtomicUsize, Ordering},
};

const COMPATIBLE: [&str; 3] = ["ns16550a", "ns16550", "snps,dw-apb-uart"];

// Registers and bits of a 16550 (TI PC16550D, section 8).
const DATA: usize = 0;
const INTERRUPT_ENABLE: usize = 1;
const RECEIVED_AVAILABLE: u8 = 1 << 0;
const FIFO_CONTROL: usize = 2;
const FIFO_ON: u8 = 1 << 0;
const LINE_STATUS: usize = 5;
const DATA_READY: u8 = 1 << 0;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

const NOTHING: u8 = 0;
const UART: u8 = 1;
const FIRMWARE: u8 = 2;
const LEGACY_FIRMWARE: u8 = 3;

static KIND: AtomicU8 = AtomicU8::new(NOTHING);
static REGISTERS: AtomicUsize = AtomicUsize::new(0);
static PHYSICAL: AtomicUsize = AtomicUsize::new(0);
static SIZE: AtomicUsize = AtomicUsize::new(0);
static SHIFT: AtomicU8 = AtomicU8::new(0);
/// Bytes of an access.
static WIDTH: AtomicU8 = AtomicU8::new(1);

/// The UART that `/chosen` names, or else the first that there is.
pub fn node(tree: Fdt<'static>) -> Option<Node<'static>> {
    let usable = |node: &Node<'static>| COMPATIBLE.iter().any(|name| node.is_compatible(name)) && node.enabled();
    tree.stdout().filter(usable).or_else(|| tree.find_compatible(&COMPATIBLE))
}

/// Finds the UART, and reaches it through the boot tables' direct map.
pub fn early_init(info: &BootInfo) {
    let uart = node(boot::tree(info)).and_then(|node| Some((node, node.reg().next()?)));
    let Some((node, range)) = uart else {
        return use_firmware();
    };
    let number = |name| node.property(name).and_then(|property| property.u32());
    SHIFT.store(number("reg-shift").unwrap_or(0) as u8, Ordering::Relaxed);
    WIDTH.store(number("reg-io-width").unwrap_or(1) as u8, Ordering::Relaxed);
    PHYSICAL.store(range.start.0, Ordering::Relaxed);
    SIZE.store(range.size, Ordering::Relaxed);
    REGISTERS.store(mm::direct(range.start) as usize, Ordering::Relaxed);
    KIND.store(UART, Ordering::Relaxed);
    set_register(INTERRUPT_ENABLE, 0);
    set_register(FIFO_CONTROL, FIFO_ON);
}

/// The firmware's console, by the debug console extension or by the legacy calls.
pub fn use_firmware() {
    let kind = if sbi::has(sbi::Extension::Console) { FIRMWARE } else { LEGACY_FIRMWARE };
    KIND.store(kind, Ordering::Relaxed);
}

pub fn remap() {
    if KIND.load(Ordering::Relaxed) == UART {
        let registers =
            PhysRange { start: PhysAddr(PHYSICAL.load(Ordering::Relaxed)), size: SIZE.load(Ordering::Relaxed) };
        REGISTERS.store(mm::map_device(registers).0, Ordering::Relaxed);
    }
}

fn address(register: usize) -> usize {
    REGISTERS.load(Ordering::Relaxed) + (register << SHIFT.load(Ordering::Relaxed))
}

fn register(index: usize) -> u8 {
    let at = address(index);
    // SAFETY: `early_init` or `remap` mapped the UART's registers there, and the tree gives their distance
    // and width; reading them touches no memory.
    unsafe {
        match WIDTH.load(Ordering::Relaxed) {
            4 => ptr::read_volatile(at as *const u32) as u8,
            2 => ptr::read_volatile(at as *const u16) as u8,
            _ => ptr::read_volatile(at as *const u8),
        }
    }
}

fn set_register(index: usize, value: u8) {
    let at = address(index);
    // SAFETY: as in `register`; a 16550 does no DMA.
    unsafe {
        match WIDTH.load(Ordering::Relaxed) {
            4 => ptr::write_volatile(at as *mut u32, u32::from(value)),
            2 => ptr::write_volatile(at as *mut u16, u16::from(value)),
            _ => ptr::write_volatile(at as *mut u8, value),
        }
    }
}

pub fn write(bytes: &[u8]) {
    let kind = KIND.load(Ordering::Relaxed);
    for &byte in bytes {
        match kind {
            UART => {
                while register(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {
                    core::hint::spin_loop();
                }
                set_register(DATA, byte);
            }
            FIRMWARE => sbi::console_write(byte),
            LEGACY_FIRMWARE => sbi::legacy_put_char(byte),
            _ => return,
        }
    }
}

pub fn read() -> Option<u8> {
    match KIND.load(Ordering::Relaxed) {
        UART => (register(LINE_STATUS) & DATA_READY != 0).then(|| register(DATA)),
        LEGACY_FIRMWARE => sbi::legacy_get_char(),
        _ => None,
    }
}

pub fn enable_input_interrupt() {
    if KIND.load(Ordering::Relaxed) == UART {
        set_register(INTERRUPT_ENABLE, RECEIVED_AVAILABLE);
    }
}

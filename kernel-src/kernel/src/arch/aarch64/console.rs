//! The console: a PL011 (DDI 0183) or a 16550, whichever the device tree names.

use super::{Registers, irq, tree};
use crate::{
    addr::{PhysRange, VirtAddr},
    bootinfo::BootInfo,
    fdt::Node,
    mm,
};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

const PL011: [&str; 1] = ["arm,pl011"];
const NS16550: [&str; 4] = ["ns16550a", "ns16550", "snps,dw-apb-uart", "brcm,bcm2835-aux-uart"];

// PL011, 3.2: registers, and bits of the flag and control registers.
const PL_DATA: usize = 0x00;
const PL_FLAGS: usize = 0x18;
const PL_LINE_CONTROL: usize = 0x2C;
const PL_CONTROL: usize = 0x30;
const PL_LEVELS: usize = 0x34;
const PL_MASK: usize = 0x38;
const PL_CLEAR: usize = 0x44;
const PL_RECEIVE_EMPTY: u32 = 1 << 4;
const PL_TRANSMIT_FULL: u32 = 1 << 5;
const PL_8N1_FIFO: u32 = 3 << 5 | 1 << 4;
const PL_ON: u32 = 1 | 1 << 8 | 1 << 9;
/// Bytes came, or stayed in the FIFO for a while.
const PL_RECEIVE: u32 = 1 << 4 | 1 << 6;
const PL_ALL: u32 = 0x7FF;

// 16550 data sheet, 8: register numbers and bits of the line status.
const NS_DATA: usize = 0;
const NS_INTERRUPTS: usize = 1;
const NS_LINE_STATUS: usize = 5;
const NS_RECEIVED: u8 = 1;
const NS_TRANSMIT_EMPTY: u8 = 1 << 5;

static BASE: AtomicUsize = AtomicUsize::new(0);
static PHYSICAL: AtomicUsize = AtomicUsize::new(0);
static SIZE: AtomicUsize = AtomicUsize::new(0);
static IS_PL011: AtomicBool = AtomicBool::new(false);
/// Distance of a 16550's registers as a shift, and whether they must be read as words.
static SHIFT: AtomicU32 = AtomicU32::new(0);
static WIDE: AtomicBool = AtomicBool::new(false);

fn is_uart(node: Node<'_>) -> bool {
    PL011.iter().chain(&NS16550).any(|name| node.is_compatible(name))
}

fn node() -> Option<Node<'static>> {
    let chosen = tree().stdout().filter(|node| is_uart(*node) && node.enabled());
    chosen.or_else(|| tree().find_compatible(&PL011)).or_else(|| tree().find_compatible(&NS16550))
}

/// Finds the UART. Its rate stays as firmware left it: the tree names no clock that could be counted on here.
pub fn early_init(_info: &BootInfo) {
    let Some((node, range)) = node().and_then(|node| Some((node, node.reg().next()?))) else { return };
    let number = |name| node.property(name).and_then(|value| value.u32());
    PHYSICAL.store(range.start.0, Ordering::Relaxed);
    SIZE.store(range.size, Ordering::Relaxed);
    IS_PL011.store(node.is_compatible(PL011[0]), Ordering::Relaxed);
    SHIFT.store(number("reg-shift").unwrap_or(0), Ordering::Relaxed);
    WIDE.store(number("reg-io-width") == Some(4), Ordering::Relaxed);
    BASE.store(mm::direct(range.start) as usize, Ordering::Relaxed);
    match uart() {
        Some(Uart::Pl011(registers)) => {
            registers.write(PL_MASK, 0);
            registers.write(PL_CONTROL, 0);
            registers.write(PL_LINE_CONTROL, PL_8N1_FIFO);
            registers.write(PL_CONTROL, PL_ON);
        }
        Some(uart @ Uart::Ns16550(_)) => uart.write(NS_INTERRUPTS, 0),
        None => {}
    }
}

/// The final tables are on.
pub fn remap() {
    if BASE.load(Ordering::Relaxed) != 0 {
        let range = PhysRange::new(PHYSICAL.load(Ordering::Relaxed), SIZE.load(Ordering::Relaxed));
        BASE.store(mm::map_device(range).0, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy)]
enum Uart {
    Pl011(Registers),
    Ns16550(Registers),
}

fn uart() -> Option<Uart> {
    let base = BASE.load(Ordering::Relaxed);
    let registers = Registers(VirtAddr(base));
    (base != 0)
        .then(|| if IS_PL011.load(Ordering::Relaxed) { Uart::Pl011(registers) } else { Uart::Ns16550(registers) })
}

impl Uart {
    /// A register of a 16550.
    fn read(self, number: usize) -> u8 {
        let (Self::Ns16550(registers) | Self::Pl011(registers)) = self;
        let offset = number << SHIFT.load(Ordering::Relaxed);
        if WIDE.load(Ordering::Relaxed) { registers.read(offset) as u8 } else { registers.read_byte(offset) }
    }

    fn write(self, number: usize, value: u8) {
        let (Self::Ns16550(registers) | Self::Pl011(registers)) = self;
        let offset = number << SHIFT.load(Ordering::Relaxed);
        if WIDE.load(Ordering::Relaxed) {
            registers.write(offset, u32::from(value));
        } else {
            registers.write_byte(offset, value);
        }
    }

    fn is_ready(self) -> bool {
        match self {
            Self::Pl011(registers) => registers.read(PL_FLAGS) & PL_TRANSMIT_FULL == 0,
            Self::Ns16550(_) => self.read(NS_LINE_STATUS) & NS_TRANSMIT_EMPTY != 0,
        }
    }

    fn send(self, byte: u8) {
        match self {
            Self::Pl011(registers) => registers.write(PL_DATA, u32::from(byte)),
            Self::Ns16550(_) => self.write(NS_DATA, byte),
        }
    }
}

/// Sends `bytes`, waiting for room. The spin polls no stop word: a panic itself writes through it.
pub fn write(bytes: &[u8]) {
    let Some(uart) = uart() else { return };
    for &byte in bytes {
        while !uart.is_ready() {
            core::hint::spin_loop();
        }
        uart.send(byte);
    }
}

/// Takes a received byte.
pub fn read() -> Option<u8> {
    match uart()? {
        Uart::Pl011(registers) => {
            (registers.read(PL_FLAGS) & PL_RECEIVE_EMPTY == 0).then(|| registers.read(PL_DATA) as u8)
        }
        uart @ Uart::Ns16550(_) => (uart.read(NS_LINE_STATUS) & NS_RECEIVED != 0).then(|| uart.read(NS_DATA)),
    }
}

/// From now on a received byte interrupts the boot CPU.
pub fn enable_input_interrupt() {
    let line = node().and_then(|node| node.interrupts().next()).and_then(|cells| irq::Line::of(&cells));
    let (Some(uart), Some(line)) = (uart(), line) else { return };
    irq::set_console(line);
    match uart {
        Uart::Pl011(registers) => {
            registers.write(PL_LEVELS, 0);
            registers.write(PL_CLEAR, PL_ALL);
            registers.write(PL_MASK, PL_RECEIVE);
        }
        Uart::Ns16550(_) => uart.write(NS_INTERRUPTS, 1),
    }
}

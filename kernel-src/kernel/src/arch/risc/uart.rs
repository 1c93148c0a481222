//! The UART that a device tree names: a PL011 (DDI 0183), a 16550 (TI PC16550D) or SiFive's (FU540-C000 Manual, 13).

use super::{Once, Registers, tree};
use crate::addr::{PhysRange, VirtAddr};
use crate::bootinfo::BootInfo;
use crate::fdt::Node;
use crate::mm;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Registers by their number, and what bits mean, in their order.
struct Model {
    names: &'static [&'static str],
    /// Bytes of an access, where the tree does not tell.
    width: u32,
    /// What is sent is written there, and what came is read here.
    data: (usize, usize),
    status: usize,
    /// Bits of the status, and what they are when there is room to send, and when something came.
    room: (u32, u32),
    came: (u32, u32),
    /// Writes that make it ready without interrupts, and those that let it interrupt when something comes.
    start: &'static [(usize, u32)],
    listen: &'static [(usize, u32)],
}

/// Rates stay as firmware left them: the tree names no clock that could be counted on here.
static MODELS: [Model; 3] = [
    // DDI 0183, 3.2.
    Model {
        names: &["arm,pl011"],
        width: 4,
        data: (0, 0),
        status: 0x18,
        room: (1 << 5, 0),
        came: (1 << 4, 0),
        // Mask, off, 8N1 with FIFOs, on in both directions.
        start: &[(0x38, 0), (0x30, 0), (0x2C, 3 << 5 | 1 << 4), (0x30, 1 | 1 << 8 | 1 << 9)],
        // Any level of the FIFO, forget all, bytes that came or stayed for a while.
        listen: &[(0x34, 0), (0x44, 0x7FF), (0x38, 1 << 4 | 1 << 6)],
    },
    // PC16550D, 8.
    Model {
        names: &["ns16550a", "ns16550", "snps,dw-apb-uart", "brcm,bcm2835-aux-uart"],
        width: 1,
        data: (0, 0),
        status: 5,
        room: (1 << 5, 1 << 5),
        came: (1, 1),
        // No interrupts, FIFOs on.
        start: &[(1, 0), (2, 1)],
        listen: &[(1, 1)],
    },
    // FU540-C000 Manual, 13: what is pending tells of room too, once watermarks are set.
    Model {
        names: &["sifive,uart0"],
        width: 4,
        data: (0x00, 0x04),
        status: 0x14,
        room: (1, 1),
        came: (2, 2),
        // No interrupts, on in both directions: room is when fewer than 7 of 8 bytes wait, and any byte came.
        start: &[(0x10, 0), (0x08, 1 | 7 << 16), (0x0C, 1)],
        listen: &[(0x10, 2)],
    },
];

struct Uart {
    model: &'static Model,
    range: PhysRange,
    /// Where its registers are mapped.
    base: AtomicUsize,
    /// Distance of the registers, as a shift.
    shift: u32,
    width: u32,
}

static UART: Once<Uart> = Once::new();

fn model(node: &Node<'_>) -> Option<&'static Model> {
    MODELS.iter().find(|model| node.enabled() && model.names.iter().any(|name| node.is_compatible(name)))
}

/// The UART that `/chosen` names, or else the first that there is.
pub fn node() -> Option<Node<'static>> {
    let chosen = tree().stdout().filter(|node| model(node).is_some());
    chosen.or_else(|| MODELS.iter().find_map(|model| tree().find_compatible(model.names)))
}

/// Finds the UART, and reaches it through the boot tables' direct map.
pub fn early_init(_info: &BootInfo) {
    let Some(node) = node() else { return };
    let (Some(model), Some(range)) = (model(&node), node.reg().next()) else { return };
    let number = |name| node.property(name).and_then(|value| value.u32());
    let width = number("reg-io-width").unwrap_or(model.width);
    let base = AtomicUsize::new(mm::direct(range.start) as usize);
    let uart = Uart { model, range, base, shift: number("reg-shift").unwrap_or(0), width };
    uart.write_all(model.start);
    UART.call_once(|| uart);
}

#[cfg(target_arch = "riscv64")]
pub fn is_there() -> bool {
    UART.get().is_some()
}

/// The final tables are on.
pub fn remap() {
    if let Some(uart) = UART.get() {
        uart.base.store(mm::map_device(uart.range).0, Ordering::Relaxed);
    }
}

impl Uart {
    /// The registers, and where among them one is. Neither model does DMA here.
    fn at(&self, register: usize) -> (Registers, usize) {
        (Registers(VirtAddr(self.base.load(Ordering::Relaxed))), register << self.shift)
    }

    fn read(&self, register: usize) -> u32 {
        let (registers, offset) = self.at(register);
        match self.width {
            4 => registers.read(offset),
            _ => registers.read::<u8>(offset).into(),
        }
    }

    fn write(&self, register: usize, value: u32) {
        let (registers, offset) = self.at(register);
        match self.width {
            4 => registers.write(offset, value),
            _ => registers.write(offset, value as u8),
        }
    }

    fn write_all(&self, values: &[(usize, u32)]) {
        values.iter().for_each(|&(register, value)| self.write(register, value));
    }

    fn has(&self, (bits, value): (u32, u32)) -> bool {
        self.read(self.model.status) & bits == value
    }
}

/// Sends `bytes`, waiting for room. The spin polls no stop word: a panic itself writes through it.
pub fn write(bytes: &[u8]) {
    let Some(uart) = UART.get() else { return };
    for &byte in bytes {
        while !uart.has(uart.model.room) {
            core::hint::spin_loop();
        }
        uart.write(uart.model.data.0, byte.into());
    }
}

/// Takes a received byte.
pub fn read() -> Option<u8> {
    let uart = UART.get()?;
    uart.has(uart.model.came).then(|| uart.read(uart.model.data.1) as u8)
}

/// From now on a received byte interrupts the boot CPU.
pub fn enable_input_interrupt() {
    if let Some(uart) = UART.get() {
        uart.write_all(uart.model.listen);
    }
}

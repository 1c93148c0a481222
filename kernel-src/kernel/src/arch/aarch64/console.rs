//! The console: the UART that the device tree names.

use super::irq;
use crate::arch::risc::uart;
pub use uart::{early_init, read, remap, write};

/// From now on a received byte interrupts the boot CPU.
pub fn enable_input_interrupt() {
    let line = uart::node().and_then(|node| node.wires().next()).and_then(|wire| irq::Line::of(&wire.cells));
    if let Some(line) = line {
        irq::set_console(line);
        uart::enable_input_interrupt();
    }
}

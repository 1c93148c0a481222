//! The console: a UART that the device tree names, or the firmware's own where there is none.

use super::sbi;
use crate::arch::risc::uart;
pub use uart::{early_init, enable_input_interrupt, remap};

pub fn write(bytes: &[u8]) {
    if uart::is_there() { uart::write(bytes) } else { sbi::console_write(bytes) }
}

pub fn read() -> Option<u8> {
    if uart::is_there() { uart::read() } else { sbi::console_read() }
}

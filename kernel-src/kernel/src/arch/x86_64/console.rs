//! The console: a 16550 at the PC's first serial port.
//!
//! I/O ports and line 4 of COM1 are the PC's convention since the AT, which
//! ACPI tables take for granted (a later SPCR table may name another).

use super::cpu::outb;
use crate::bootinfo::BootInfo;
use core::sync::atomic::{AtomicBool, Ordering};
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::{FifoTriggerLevel, IER};
use uart_16550::{BaudRate, Config, Uart16550};

const COM1: u16 = 0x3F8;
/// The ISA interrupt of COM1.
pub const ISA_IRQ: u8 = 4;

static PRESENT: AtomicBool = AtomicBool::new(false);

/// It keeps no state, so a panic may write while another CPU does.
fn uart() -> Uart16550<PioBackend> {
    // SAFETY: these ports are COM1's, of which this module is the only user; a missing UART ignores writes.
    unsafe { Uart16550::new_port(COM1) }.expect("eight ports from COM1 on")
}

/// 115200 baud, 8N1, FIFOs on, no interrupts; OUT2, which lets the interrupt line through.
pub fn early_init(_info: &BootInfo) {
    let (baud_rate, fifo_trigger_level) = (BaudRate::Baud115200, Some(FifoTriggerLevel::One));
    let config = Config { baud_rate, fifo_trigger_level, ..Config::DEFAULT };
    PRESENT.store(uart().init(config).is_ok(), Ordering::Relaxed);
}

/// Ports need no mapping.
pub fn remap() {}

/// Sends `bytes`, waiting for room. The spin polls no stop word: a panic itself writes through it.
pub fn write(bytes: &[u8]) {
    if PRESENT.load(Ordering::Relaxed) {
        uart().send_bytes_exact(bytes);
    }
}

/// Takes a received byte.
pub fn read() -> Option<u8> {
    PRESENT.load(Ordering::Relaxed).then(|| uart().try_receive_byte().ok()).flatten()
}

/// From now on a received byte raises ISA interrupt 4.
pub fn enable_input_interrupt() {
    if PRESENT.load(Ordering::Relaxed) {
        // SAFETY: as in `uart`; interrupt enable is the register behind the data.
        unsafe { outb(COM1 + 1, IER::DATA_READY.bits()) };
    }
}

//! The console: a 16550 at the PC's first serial port.
//!
//! I/O ports and line 4 of COM1 are the PC's convention since the AT, which
//! ACPI tables take for granted (a later SPCR table may name another).

use super::cpu::{inb, outb};
use crate::bootinfo::BootInfo;
use core::sync::atomic::{AtomicBool, Ordering};

const COM1: u16 = 0x3F8;
/// The ISA interrupt of COM1.
pub const ISA_IRQ: u8 = 4;

// Registers (16550 data sheet, 8): the first is data, or the rate's low byte while bit 7 of line control is set.
const DATA: u16 = COM1;
const INTERRUPT_ENABLE: u16 = COM1 + 1;
const LINE_STATUS: u16 = COM1 + 5;
const SCRATCH: u16 = COM1 + 7;
/// Register and value: no interrupts, 115200 baud, 8N1, FIFOs on; DTR, RTS, and OUT2, which lets the interrupt line
/// through.
const START: [(u16, u8); 7] = [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 0xB)];

const RECEIVED: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Bytes that an empty transmitter takes without being asked again (16550 data sheet, 8.4).
const FIFO_SIZE: usize = 16;

static PRESENT: AtomicBool = AtomicBool::new(false);

/// 115200 baud, 8N1, FIFOs on, no interrupts.
pub fn early_init(_info: &BootInfo) {
    // SAFETY: these ports are COM1's, of which this module is the only user; a missing UART ignores writes.
    unsafe {
        outb(SCRATCH, 0xA5);
        if inb(SCRATCH) == 0xA5 {
            START.iter().for_each(|&(register, value)| outb(COM1 + register, value));
            PRESENT.store(true, Ordering::Relaxed);
        }
    }
}

/// Ports need no mapping.
pub fn remap() {}

/// Sends `bytes`, waiting for room.
pub fn write(bytes: &[u8]) {
    if !PRESENT.load(Ordering::Relaxed) {
        return;
    }
    for piece in bytes.chunks(FIFO_SIZE) {
        // SAFETY: as in `early_init`. A spin here polls no stop word: a panic itself writes through it.
        unsafe {
            while inb(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {
                core::hint::spin_loop();
            }
            for &byte in piece {
                outb(DATA, byte);
            }
        }
    }
}

/// Takes a received byte.
pub fn read() -> Option<u8> {
    // SAFETY: as in `early_init`.
    unsafe { (PRESENT.load(Ordering::Relaxed) && inb(LINE_STATUS) & RECEIVED != 0).then(|| inb(DATA)) }
}

/// From now on a received byte raises ISA interrupt 4.
pub fn enable_input_interrupt() {
    if PRESENT.load(Ordering::Relaxed) {
        // SAFETY: as in `early_init`.
        unsafe { outb(INTERRUPT_ENABLE, 1) };
    }
}

//! Interrupts, after the architecture has acknowledged them.

use crate::{arch, log, percpu, sched, smp};

/// The comparator fired; with nothing due this is legal on every architecture.
pub fn timer() {
    percpu::count(&percpu::this().timer_interrupts);
    sched::timer_fired();
}

/// Another CPU wants something.
pub fn ipi() {
    percpu::count(&percpu::this().ipis_received);
    smp::serve_requests();
}

/// The UART has bytes.
pub fn console_input() {
    while let Some(byte) = arch::console::read() {
        log::received(byte);
    }
}

//! Interrupts, after the architecture has acknowledged them.

use crate::{arch, log, panic, percpu, sched};

/// Serves what is pending, in the midst of long work. No lock is held, and this CPU keeps what it looked up.
pub fn serve() {
    #[cfg(debug_assertions)]
    assert_eq!(percpu::this().held.get(), 0, "interrupts let in while locks of ranks are held");
    arch::cpu::serve_interrupts();
}

/// The comparator fired; with nothing due this is legal on every architecture.
#[inline(never)] // so that other interrupts save no registers for it
pub fn timer() {
    percpu::count(&percpu::this().timer_interrupts);
    sched::timer_fired();
}

/// Another CPU queued a thread here, or ended the one that runs here.
pub fn ipi() {
    percpu::count(&percpu::this().ipis_received);
    crate::jitter::pause();
    panic::heed();
    percpu::this().reschedule.set(true);
}

/// The UART has bytes.
#[inline(never)] // as above
pub fn console_input() {
    log::received(core::iter::from_fn(arch::console::read));
}

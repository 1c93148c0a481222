//! Interrupts of the BCM2836 and BCM2837, which have no GIC: a controller of each CPU's timers and mailboxes (QA7, revision
//! 3.4, 4), and one of devices, which leads to the boot CPU (BCM2835 ARM Peripherals, 7).
//!
//! A line's number is 32 times the first cell of its interrupt, plus the second. Mailbox 0 is the IPI's; mailbox 1 stops a
//! CPU by FIQ.

use super::irq::barrier;
use super::timer;
use crate::addr::CpuId;
use crate::arch::risc::{Once, Registers, tree};
use crate::{irq, mm, percpu};

// Of CPU 0; those of the others follow, a word each, or four where there is one for each mailbox.
const TIMERS: usize = 0x40;
const MAILBOXES: usize = 0x50;
const IRQ_SOURCE: usize = 0x60;
const FIQ_SOURCE: usize = 0x70;
const SEND: usize = 0x80;
const CLEAR: usize = 0xC0;
// Of the devices' controller, by bank.
const ENABLE: [usize; 3] = [0x18, 0x10, 0x14];
const DISABLE: [usize; 3] = [0x24, 0x1C, 0x20];

/// The local controller, and the devices'.
static CONTROLLERS: Once<(Registers, Registers)> = Once::new();
pub(super) const NAME: &str = "BCM2836, CPUs stop by FIQ";

/// The local controller, and the number by which it knows a CPU.
fn local(cpu: CpuId) -> (Registers, usize) {
    let (local, _) = CONTROLLERS.get().expect("`init` comes before any interrupt");
    (*local, percpu::all()[cpu.0].hardware.0 as usize & 3)
}

/// Finds them, where there is no GIC.
///
/// # Panics
/// If the tree does not name them either.
pub(super) fn init() {
    let find = |name| Some(Registers(mm::map_device(tree().find_compatible(&[name])?.reg().next()?)));
    let found = find("brcm,bcm2836-l1-intc").zip(find("brcm,bcm2836-armctrl-ic"));
    let found = found.expect("a GICv2, a GICv3 or a BCM2836's interrupt controllers in the device tree");
    DISABLE.iter().for_each(|&bank| found.1.write(bank, u32::MAX));
    CONTROLLERS.call_once(|| found);
}

pub(super) fn init_cpu() {
    let (local, cpu) = local(percpu::this().id);
    // The upper four bits are for FIQ.
    local.write(MAILBOXES + 4 * cpu, 1_u32 | 1 << 5);
}

pub(super) fn enable(number: u32) {
    let (local, cpu) = local(percpu::this().id);
    let bank = number as usize / 32;
    match CONTROLLERS.get().zip(ENABLE.get(bank)) {
        Some(((_, devices), register)) => devices.write(*register, 1_u32 << (number % 32)),
        // The virtual timer, which is number 3 of the local controller's.
        None => local.write(TIMERS + 4 * cpu, 1_u32 << bank),
    }
}

pub(super) fn silence() {
    if CONTROLLERS.get().is_some() {
        let (local, cpu) = local(percpu::this().id);
        [TIMERS, MAILBOXES].iter().for_each(|register| local.write(register + 4 * cpu, 0_u32));
    }
}

pub(super) fn dispatch() {
    let (local, cpu) = local(percpu::this().id);
    loop {
        let source = local.read::<u32>(IRQ_SOURCE + 4 * cpu) | local.read::<u32>(FIQ_SOURCE + 4 * cpu);
        match source.trailing_zeros() as usize {
            32 => return,
            mailbox @ (4 | 5) => {
                local.write(CLEAR + 16 * cpu + 4 * (mailbox - 4), u32::MAX);
                barrier();
                irq::ipi();
            }
            8 => irq::console_input(),
            _ => {
                timer::arm(None);
                irq::timer();
            }
        }
    }
}

pub(super) fn send(mailbox: u32, to: CpuId) {
    let (local, cpu) = local(to);
    local.write(SEND + 16 * cpu + 4 * mailbox as usize, 1_u32);
}

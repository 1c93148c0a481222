//! Interrupts: software and timer of each hart, and the wires of a PLIC, or
//! of an APLIC in direct mode.
//!
//! Wired interrupts come to the boot hart. Only the console's is on.

use super::{read_csr, sbi};
use crate::addr::{CpuId, PhysRange};
use crate::arch::risc::{Once, Registers, tree, uart};
use crate::bootinfo::BootInfo;
use crate::fdt::Node;
use crate::mm::map_device;
use crate::{irq, percpu};
use core::arch::asm;
use core::iter;

// Interrupts (Privileged, table 4.2), and their bits in `sip` and `sie`.
const SOFTWARE: u64 = 1;
const TIMER: u64 = 5;
const EXTERNAL: u64 = 9;

const PLIC: [&str; 3] = ["sifive,plic-1.0.0", "riscv,plic0", "thead,c900-plic"];
const APLIC: &str = "riscv,aplic";

/// The controller of the console's wire.
struct Controller {
    is_plic: bool,
    source: u32,
    /// Register that gives the pending interrupt to the boot hart.
    claim: Registers,
}

static CONTROLLER: Once<Controller> = Once::new();

/// What was found and is used.
pub fn name() -> &'static str {
    CONTROLLER.get().map_or("no controller for the console", |found| if found.is_plic { "PLIC" } else { "APLIC" })
}

/// A device register of 32 bits, in a range of its own.
fn register(device: PhysRange, offset: usize) -> Registers {
    let size = device.size;
    assert!(offset + 4 <= size, "interrupt controller with {size:#x} bytes of registers, {offset:#x} wanted");
    Registers(map_device(PhysRange { start: device.start.add(offset), size: 4 }))
}

pub fn init(info: &BootInfo) {
    let wire = uart::node().and_then(|uart| uart.wires().next());
    let Some((wire, source)) = wire.and_then(|wire| Some((wire.clone(), *wire.cells.first()?))) else { return };
    let controller = wire.controller;
    let Some((device, context)) = controller.reg().next().zip(context(controller, info)) else { return };
    let is_plic = PLIC.iter().any(|name| controller.is_compatible(name));
    let (at, index) = (4 * source as usize, context as usize);
    // What is written to which registers, and the register to claim from.
    let (writes, claim): (&[(usize, u32)], usize) = if is_plic {
        // PLIC 1.0.0: priorities from 0, enables from 0x2000, thresholds and claims from 0x20_0000.
        let threshold = 0x20_0000 + 0x1000 * index;
        let enable = 0x2000 + 0x80 * index + 4 * (source as usize / 32);
        (&[(at, 1), (enable, 1 << (source % 32)), (threshold, 0)], threshold + 4)
    } else if controller.is_compatible(APLIC) {
        // RISC-V AIA 1.0, chapter 4: a domain in direct delivery mode. Rising edge, falling edge, level high and level low
        // are bits 0 to 3 of the tree's flags, and modes 4 to 7.
        let trigger = wire.cells.get(1).filter(|flags| **flags < 16 && flags.is_power_of_two()).unwrap_or(&LEVEL_HIGH);
        let mode = 4 + trigger.trailing_zeros();
        let delivery = 0x4000 + 32 * index;
        let (target, set_enable, domain) = ((0x3000 + at, context << 18 | 1), (0x1EDC, source), (0, DOMAIN_ENABLE));
        // idelivery and ithreshold; claimi.
        (&[(at, mode), target, set_enable, domain, (delivery, 1), (delivery + 8, 0)], delivery + 28)
    } else {
        return;
    };
    writes.iter().for_each(|&(offset, value)| register(device, offset).write(0, value));
    CONTROLLER.call_once(|| Controller { is_plic, source, claim: register(device, claim) });
}

/// Which of the controller's outputs is the supervisor's external interrupt of the boot hart: each is a pair of a
/// hart's own controller and an interrupt there (Linux, sifive,plic-1.0.0.yaml and riscv,aplic.yaml).
fn context(controller: Node<'static>, info: &BootInfo) -> Option<u32> {
    let hart = tree().cpus().find(|cpu| cpu.hardware == info.boot_cpu)?;
    let own = hart.node.children().find(|child| child.property("interrupt-controller").is_some())?.phandle()?;
    let mut outputs = controller.property("interrupts-extended")?.cells();
    let mut pairs = iter::from_fn(|| Some((outputs.next()?, outputs.next()?)));
    pairs.position(|output| output == (own, EXTERNAL as u32)).map(|index| index as u32)
}

/// Of an interrupt's flags in the tree.
const LEVEL_HIGH: u32 = 4;
/// In `domaincfg` of an APLIC.
const DOMAIN_ENABLE: u32 = 1 << 8;

pub fn init_cpu() {
    let is_boot = percpu::this().id == CpuId(0) && CONTROLLER.get().is_some();
    let enable = 1 << SOFTWARE | if is_boot { 1 << EXTERNAL } else { 0 };
    // SAFETY: interrupts are taken in user mode only, or looked for while idle.
    unsafe { asm!("csrs sie, {}", in(reg) enable, options(nomem, nostack)) };
}

/// # Panics
/// If the firmware refuses a hart that it started.
pub fn send_ipi(cpu: CpuId) {
    sbi::send_ipi(percpu::all()[cpu.0].hardware.0).expect("the SBI takes an IPI for a hart that it started");
}

/// There is nothing stronger than an IPI.
pub fn send_stop(cpu: CpuId) {
    // A hart that cannot be told is reported as silent.
    let _ = sbi::send_ipi(percpu::all()[cpu.0].hardware.0);
}

/// Handles an interrupt by its number.
pub fn dispatch(code: u64) {
    match code {
        SOFTWARE => {
            // Before the handler looks: what is asked after this raises it again.
            // SAFETY: clears the bit that the SBI has set (Privileged 4.1.3).
            unsafe { asm!("csrc sip, {}", in(reg) 1_u64 << SOFTWARE, options(nostack)) };
            irq::ipi();
        }
        // It stays pending until the comparator is written again, which the scheduler does before it leaves.
        TIMER => irq::timer(),
        EXTERNAL => external(),
        other => panic!("interrupt {other}, which was never enabled"),
    }
}

/// Handles what is pending.
pub fn dispatch_pending() {
    let ready = read_csr!("sip") & read_csr!("sie");
    for code in [EXTERNAL, SOFTWARE, TIMER] {
        if ready & 1 << code != 0 {
            dispatch(code);
        }
    }
}

fn external() {
    let Some(controller) = CONTROLLER.get() else { return };
    // Reading it takes the interrupt.
    let claimed = controller.claim.read::<u32>(0);
    let source = if controller.is_plic { claimed } else { claimed >> 16 };
    if source == controller.source {
        irq::console_input();
    }
    if controller.is_plic && source != 0 {
        // Writing the claim back completes it.
        controller.claim.write(0, claimed);
    }
}

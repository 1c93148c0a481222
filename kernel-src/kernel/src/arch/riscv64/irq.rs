//! Interrupts: software and timer of each hart, and the wires of a PLIC, or
//! of an APLIC in direct mode.
//!
//! Wired interrupts come to the boot hart. Only the console's is on.

use super::{read_csr, sbi};
use crate::{
    addr::{CpuId, PhysRange},
    arch::risc::{Once, tree, uart},
    bootinfo::BootInfo,
    fdt::Node,
    irq,
    mm::map_device,
    percpu,
};
use core::{arch::asm, fmt};

// Interrupts (Privileged, table 4.2), and their bits in `sip` and `sie`.
const SOFTWARE: u64 = 1;
const TIMER: u64 = 5;
const EXTERNAL: u64 = 9;

const PLIC: [&str; 3] = ["sifive,plic-1.0.0", "riscv,plic0", "thead,c900-plic"];
const APLIC: &str = "riscv,aplic";

/// The controller of the console's wire.
struct Controller {
    is_plic: bool,
    context: u32,
    source: u32,
    /// Register that gives the pending interrupt to the boot hart.
    claim: usize,
}

static CONTROLLER: Once<Controller> = Once::new();

/// What was found and is used.
pub fn name() -> &'static dyn fmt::Display {
    CONTROLLER.get().map_or(&"no controller for the console", |controller| controller)
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_plic { "PLIC context" } else { "APLIC hart index" };
        write!(f, "{kind} {}, console is source {}", self.context, self.source)
    }
}

/// A device register of 32 bits, in a range of its own.
fn registers(device: PhysRange, offset: usize) -> *mut u32 {
    let size = device.size;
    assert!(offset + 4 <= size, "interrupt controller with {size:#x} bytes of registers, {offset:#x} wanted");
    map_device(PhysRange { start: device.start.add(offset), size: 4 }).0 as *mut u32
}

pub fn init(info: &BootInfo) {
    let wire = uart::node().and_then(|uart| uart.wires().next());
    let Some((wire, source)) = wire.and_then(|wire| Some((wire.clone(), wire.cells.get(0)?))) else { return };
    let controller = wire.controller;
    let Some((device, context)) = controller.reg().next().zip(context(controller, info)) else { return };
    let is_plic = PLIC.iter().any(|name| controller.is_compatible(name));
    let claim = if is_plic {
        init_plic(device, context, source)
    } else if controller.is_compatible(APLIC) {
        init_aplic(device, context, source, wire.cells.get(1).unwrap_or(LEVEL_HIGH))
    } else {
        return;
    };
    CONTROLLER.set(Controller { is_plic, context, source, claim: claim as usize });
}

/// Which of the controller's outputs is the supervisor's external interrupt of the boot hart: each is a pair of a
/// hart's own controller and an interrupt there (Linux, sifive,plic-1.0.0.yaml and riscv,aplic.yaml).
fn context(controller: Node<'static>, info: &BootInfo) -> Option<u32> {
    let hart = tree().cpus().find(|cpu| cpu.hardware == info.boot_cpu)?;
    let own = hart.node.children().find(|child| child.property("interrupt-controller").is_some())?.phandle()?;
    let outputs = controller.property("interrupts-extended")?.cells();
    let is_ours =
        |&index: &usize| outputs.get(2 * index) == Some(own) && outputs.get(2 * index + 1) == Some(EXTERNAL as u32);
    (0..outputs.len() / 2).find(is_ours).map(|index| index as u32)
}

/// PLIC 1.0.0: priorities from 0, enables from 0x2000, thresholds and claims from 0x20_0000.
fn init_plic(device: PhysRange, context: u32, source: u32) -> *mut u32 {
    let (context, source) = (context as usize, source as usize);
    let threshold = registers(device, 0x20_0000 + 0x1000 * context);
    // SAFETY: `registers` mapped them; only this CPU runs, and the controller touches no memory.
    unsafe {
        registers(device, 4 * source).write_volatile(1);
        let enable = registers(device, 0x2000 + 0x80 * context + 4 * (source / 32));
        enable.write_volatile(1 << (source % 32));
        threshold.write_volatile(0);
        threshold.add(1)
    }
}

const LEVEL_HIGH: u32 = 4;

/// RISC-V AIA 1.0, chapter 4: a domain in direct delivery mode.
fn init_aplic(device: PhysRange, context: u32, source: u32, trigger: u32) -> *mut u32 {
    const DOMAIN_ENABLE: u32 = 1 << 8;
    // Rising edge, falling edge, level high, level low: bits 0 to 3 of the tree's flags, and modes 4 to 7.
    let mode = 4 + if trigger < 16 && trigger.is_power_of_two() { trigger } else { LEVEL_HIGH }.trailing_zeros();
    let index = source as usize;
    let delivery = registers(device, 0x4000 + 32 * context as usize);
    // SAFETY: as in `init_plic`.
    unsafe {
        registers(device, 4 * index).write_volatile(mode);
        registers(device, 0x3000 + 4 * index).write_volatile(context << 18 | 1);
        registers(device, 0x1EDC).write_volatile(source);
        registers(device, 0).write_volatile(DOMAIN_ENABLE);
        // idelivery, ithreshold, claimi.
        delivery.write_volatile(1);
        delivery.add(2).write_volatile(0);
        delivery.add(7)
    }
}

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

/// Handles what is pending on an idle CPU.
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
    let claim = controller.claim as *mut u32;
    // SAFETY: `init` has found the register; reading it takes the interrupt.
    let claimed = unsafe { claim.read_volatile() };
    let source = if controller.is_plic { claimed } else { claimed >> 16 };
    if source == controller.source {
        irq::console_input();
    }
    if controller.is_plic && source != 0 {
        // SAFETY: writing the claim back completes it.
        unsafe { claim.write_volatile(claimed) };
    }
}

//! The generic interrupt controller: GICv2 by its memory-mapped interface, or
//! GICv3 by system registers, as the device tree says.
//!
//! Where there is one security state, the interrupt that stops a CPU for a
//! panic is in group 0 and comes as FIQ, which the kernel does not mask: it
//! also reaches a CPU that hangs with interrupts off. All others are in group 1.

use super::{bcm2836, cpu, read_register, stub, timer, write_register};
use crate::addr::{CpuId, PhysRange, VirtAddr};
use crate::arch::risc::{Once, Registers, tree};
use crate::bootinfo::BootInfo;
use crate::fdt::{Cells, Node};
use crate::{irq, mm, panic, percpu};
use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

const GICV2: [&str; 5] = ["arm,gic-400", "arm,cortex-a15-gic", "arm,cortex-a7-gic", "arm,cortex-a9-gic", "arm,gic-v2"];
const GICV3: &str = "arm,gic-v3";

/// Software-generated interrupts: numbers 0 to 15.
const IPI: u32 = 0;
const STOP: u32 = 1;
/// First numbers of the interrupts that a CPU has for itself, and of those that all share (IHI 0069, 2.2).
const FIRST_PRIVATE: u32 = 16;
const FIRST_SHARED: u32 = 32;
/// Numbers from here on mean that nothing is pending.
const FIRST_SPECIAL: u32 = 1020;

// The distributor, and the redistributor's second frame, where the same registers serve the first 32 numbers.
const CONTROL: usize = 0x000;
const TYPE: usize = 0x004;
const GROUP: usize = 0x080;
const SET_ENABLE: usize = 0x100;
const CLEAR_ENABLE: usize = 0x180;
const PRIORITY: usize = 0x400;
const TARGETS: usize = 0x800;
const CONFIGURATION: usize = 0xC00;
const GROUP_MODIFIER: usize = 0xD00;
const SOFTWARE: usize = 0xF00;
const ROUTE: usize = 0x6000;
const V3_WRITE_PENDING: u32 = 1 << 31;
/// Affinity routing and all groups that this state may enable (IHI 0069, GICD_CTLR: three views of one register).
const V3_ENABLE: u32 = 1 << 4 | 1 << 2 | 1 << 1 | 1;
/// There is one security state.
const V3_SECURITY_OFF: u32 = 1 << 6;

// The CPU interface of GICv2 (IHI 0048, 4.4).
const C_CONTROL: usize = 0x00;
const C_PRIORITY_MASK: usize = 0x04;
const C_ACKNOWLEDGE: usize = 0x0C;
const C_END: usize = 0x10;
/// Both groups, acknowledged by one register, group 0 as FIQ.
const C_BOTH_GROUPS: u32 = 0b1111;

// A redistributor (IHI 0069, 12.10).
const R_CONTROL: usize = 0x0000;
const R_TYPE: usize = 0x0008;
const R_WAKER: usize = 0x0014;
const R_SECOND_FRAME: usize = 0x1_0000;
const R_FRAMES: usize = 0x2_0000;
const R_FRAMES_V4: usize = 0x4_0000;
const R_LAST: u64 = 1 << 4;
const R_VIRTUAL_LPIS: u64 = 1 << 1;
const R_WRITE_PENDING: u32 = 1 << 3;
const R_SLEEP: u32 = 1 << 1;
const R_ASLEEP: u32 = 1 << 2;

/// Every interrupt, and the one that stops, which comes first (four priorities a word, or one).
const NORMAL: u32 = 0xA0;
const URGENT: u8 = 0x20;
const ALL_NORMAL: u32 = NORMAL * 0x0101_0101;
const ALL_PASS: u32 = 0xF0;

/// An interrupt line, by the controller's number.
#[derive(Clone, Copy)]
pub(super) struct Line {
    pub(super) number: u32,
    pub(super) edge: bool,
}

impl Line {
    /// From the cells of a device: kind, number, flags (binding arm,gic-v3); or two, see [`bcm2836`].
    pub(super) fn of(cells: &Cells) -> Option<Self> {
        let base = match cells.first()? {
            bank if cells.len() == 2 => 32 * bank,
            0 => FIRST_SHARED,
            1 => FIRST_PRIVATE,
            _ => return None,
        };
        // The lowest two flags are rising and falling edge.
        Some(Self { number: base + cells.get(1)?, edge: cells.get(2).unwrap_or(&0) & 3 != 0 })
    }
}

struct Gic {
    distributor: Registers,
    /// What each CPU has of a GICv2; a GICv3 has system registers, and redistributors.
    interface: Option<Registers>,
    stops_by_fiq: bool,
}

static GIC: Once<Gic> = Once::new();
static CONSOLE: AtomicU32 = AtomicU32::new(u32::MAX);

pub(super) fn barrier() {
    // SAFETY: orders what was written before; changes nothing.
    unsafe { asm!("dsb sy", "isb", options(nostack, preserves_flags)) };
}

/// Finds the controller and makes its distributor ready: everything off, routed to this CPU.
///
/// # Panics
/// If the tree names no controller that is known here.
pub fn init(_info: &BootInfo) {
    let v3 = tree().find_compatible(&[GICV3]);
    let Some(node) = v3.or_else(|| tree().find_compatible(&GICV2)) else { return bcm2836::init() };
    let mut ranges = node.reg();
    let mut next = || ranges.next().expect("the interrupt controller's registers in the device tree");
    let distributor = Registers(mm::map_device(next()));
    let interface = if v3.is_none() { Some(Registers(mm::map_device(next()))) } else { None };
    distributor.write(CONTROL, 0_u32);
    let words = (distributor.read::<u32>(TYPE) & 0x1F) as usize + 1;
    for word in 1..words {
        distributor.write(CLEAR_ENABLE + 4 * word, u32::MAX);
        set_group_one(v3.is_some(), distributor, word, u32::MAX);
    }
    (8..8 * words).for_each(|word| distributor.write(PRIORITY + 4 * word, ALL_NORMAL));
    let stops_by_fiq = if v3.is_some() {
        find_redistributors(node);
        distributor.write(CONTROL, V3_ENABLE);
        wait_while(distributor, CONTROL, V3_WRITE_PENDING);
        distributor.read::<u32>(CONTROL) & V3_SECURITY_OFF != 0 || is_secure()
    } else {
        // With two security states, or without groups, this word reads as zero to us (IHI 0048, 4.3.4).
        distributor.write(GROUP, !(1_u32 << STOP));
        let has_groups = distributor.read::<u32>(GROUP) != 0;
        distributor.write(CONTROL, if has_groups { 3_u32 } else { 1 });
        has_groups
    };
    GIC.call_once(|| Gic { distributor, interface, stops_by_fiq });
}

fn wait_while(registers: Registers, register: usize, bit: u32) {
    while registers.read::<u32>(register) & bit != 0 {
        cpu::relax();
    }
}

/// Entered at EL3, the kernel is in the secure state.
fn is_secure() -> bool {
    stub::entry_level() == 3
}

/// Puts lines of a word into group 1, the others into group 0. In the secure state of a GICv3 that is secure group 1,
/// which a second register makes out of group 0 (IHI 0069, GICD_IGRPMODR).
fn set_group_one(is_v3: bool, registers: Registers, word: usize, lines: u32) {
    let is_secure = is_v3 && is_secure();
    registers.write(GROUP + 4 * word, if is_secure { 0 } else { lines });
    if is_secure {
        registers.write(GROUP_MODIFIER + 4 * word, lines);
    }
}

/// Tells every CPU where the redistributor of its affinity is. No more of a region than the tree's CPUs can have is mapped:
/// it may be made for hundreds.
fn find_redistributors(node: Node<'_>) {
    let regions = node.property("#redistributor-regions").and_then(|count| count.u32()).unwrap_or(1) as usize;
    for PhysRange { start, size } in node.reg().skip(1).take(regions) {
        let size = size.min(tree().cpus().count() * R_FRAMES_V4);
        let (start, mut offset) = (mm::map_device(PhysRange { start, size }), 0);
        while offset + R_FRAMES <= size {
            let at = start.add(offset);
            let kind = Registers(at).read::<u64>(R_TYPE);
            // Aff3 to Aff0 stand in one word there.
            let affinity = |cpu: u64| cpu >> 8 & 0xFF00_0000 | cpu & 0xFF_FFFF;
            if let Some(cpu) = percpu::all().iter().find(|cpu| affinity(cpu.hardware.0) == kind >> 32) {
                cpu.arch.gic.store(at.0, Ordering::Relaxed);
            }
            if kind & R_LAST != 0 {
                break;
            }
            offset += if kind & R_VIRTUAL_LPIS != 0 { R_FRAMES_V4 } else { R_FRAMES };
        }
    }
}

/// Lets interrupts through to this CPU.
///
/// # Panics
/// If a GICv3 has no redistributor for it, or its system registers cannot be used.
pub fn init_cpu() {
    let this = percpu::this();
    let Some(gic) = GIC.get() else { return bcm2836::init_cpu() };
    if let Some(interface) = gic.interface {
        // The first eight targets read as this CPU's own bit (IHI 0048, 4.3.12).
        this.arch.gic.store(gic.distributor.read::<u8>(TARGETS) as usize, Ordering::Relaxed);
        init_private(gic, gic.distributor);
        interface.write(C_PRIORITY_MASK, ALL_PASS);
        interface.write(C_CONTROL, if gic.stops_by_fiq { C_BOTH_GROUPS } else { 1 });
    } else {
        let own = Registers(VirtAddr(this.arch.gic.load(Ordering::Relaxed)));
        assert!(own.0.0 != 0, "a GICv3 without a redistributor of this CPU's affinity");
        own.write(R_WAKER, own.read::<u32>(R_WAKER) & !R_SLEEP);
        wait_while(own, R_WAKER, R_ASLEEP);
        init_private(gic, Registers(own.0.add(R_SECOND_FRAME)));
        wait_while(own, R_CONTROL, R_WRITE_PENDING);
        init_system_registers(gic.stops_by_fiq);
    }
}

/// The 32 numbers that each CPU has for itself; only software-generated ones are on.
fn init_private(gic: &Gic, registers: Registers) {
    registers.write(CLEAR_ENABLE, u32::MAX << FIRST_PRIVATE);
    set_group_one(gic.interface.is_none(), registers, 0, if gic.stops_by_fiq { !(1 << STOP) } else { u32::MAX });
    (0..8).for_each(|word| registers.write(PRIORITY + 4 * word, ALL_NORMAL));
    registers.write(PRIORITY + STOP as usize, URGENT);
    registers.write(SET_ENABLE, 1_u32 << IPI | 1 << STOP);
}

fn init_system_registers(stops_by_fiq: bool) {
    // SAFETY: this CPU has the registers, since the tree names a GICv3; they rule interrupts, which are masked.
    unsafe {
        write_register!("S3_0_C12_C12_5", 7u64); // ICC_SRE_EL1: system registers, no bypass
        asm!("isb", options(nostack, preserves_flags));
    }
    assert!(read_register!("S3_0_C12_C12_5") & 1 != 0, "firmware keeps the GICv3's system registers to itself");
    // SAFETY: as above.
    unsafe {
        write_register!("S3_0_C4_C6_0", ALL_PASS); // ICC_PMR_EL1
        write_register!("S3_0_C12_C12_3", 0u64); // ICC_BPR1_EL1
        write_register!("S3_0_C12_C12_4", 0u64); // ICC_CTLR_EL1: priority drop and deactivation in one
        write_register!("S3_0_C12_C12_7", 1u64); // ICC_IGRPEN1_EL1
        if stops_by_fiq {
            write_register!("S3_0_C12_C12_6", 1u64); // ICC_IGRPEN0_EL1
        }
        asm!("isb", options(nostack, preserves_flags));
    }
}

/// Lets a line through, to this CPU.
pub(super) fn enable(line: Line) {
    let Some(gic) = GIC.get() else { return bcm2836::enable(line.number) };
    let (this, number) = (percpu::this(), line.number as usize);
    let own = this.arch.gic.load(Ordering::Relaxed);
    let shared = line.number >= FIRST_SHARED;
    let registers = match gic.interface {
        None if !shared => Registers(VirtAddr(own + R_SECOND_FRAME)),
        _ => gic.distributor,
    };
    if shared {
        match gic.interface {
            Some(_) => registers.write(TARGETS + number, own as u8),
            None => registers.write(ROUTE + 8 * number, this.hardware.0),
        }
        // Two bits a line; the upper one is edge.
        let at = CONFIGURATION + 4 * (number / 16);
        let bit = 2 << (2 * (number % 16));
        let others = registers.read::<u32>(at) & !bit;
        registers.write(at, if line.edge { others | bit } else { others });
    }
    registers.write(SET_ENABLE + 4 * (number / 32), 1_u32 << (number % 32));
    barrier();
}

/// Lets the console's line through.
pub(super) fn set_console(line: Line) {
    CONSOLE.store(line.number, Ordering::Relaxed);
    enable(line);
}

/// Keeps all interrupts from this CPU.
pub(super) fn silence() {
    match GIC.get().map(|gic| gic.interface) {
        Some(Some(interface)) => interface.write(C_CONTROL, 0_u32),
        // SAFETY: masks every priority on this CPU.
        Some(None) => unsafe { write_register!("S3_0_C4_C6_0", 0u64) },
        None => bcm2836::silence(),
    }
    barrier();
}

/// Serves all that is pending.
pub(super) fn dispatch() {
    let Some(gic) = GIC.get() else { return bcm2836::dispatch() };
    loop {
        let word = match gic.interface {
            Some(interface) => interface.read::<u32>(C_ACKNOWLEDGE),
            None => read_register!("S3_0_C12_C12_0") as u32, // ICC_IAR1_EL1
        };
        barrier();
        // In GICv2 the sender of a software-generated interrupt stands above the number.
        let number = word & 0x3FF;
        if number >= FIRST_SPECIAL && word & 0xFF_FFFF == number {
            return;
        }
        match number {
            IPI => irq::ipi(),
            STOP if panic::stop_requested() => panic::stopped(),
            number if number == timer::interrupt() => {
                // Takes the line down, which stays up as long as the deadline is past.
                timer::arm(None);
                irq::timer();
            }
            number if number == CONSOLE.load(Ordering::Relaxed) => irq::console_input(),
            // Nothing else is let through; what a device pulled and took back is no fault.
            _ => {}
        }
        match gic.interface {
            Some(interface) => interface.write(C_END, word),
            // SAFETY: ends the interrupt that was acknowledged above.
            None => unsafe { write_register!("S3_0_C12_C12_1", word) }, // ICC_EOIR1_EL1
        }
    }
}

/// Sends a software-generated interrupt; what was written before is seen by who takes it.
fn send(number: u32, to: CpuId) {
    let target = percpu::all()[to.0];
    barrier();
    let Some(gic) = GIC.get() else { return bcm2836::send(number, to) };
    if gic.interface.is_some() {
        gic.distributor.write(SOFTWARE, (target.arch.gic.load(Ordering::Relaxed) as u32) << 16 | number);
    } else {
        let affinity = target.hardware.0;
        let (range, bit) = (affinity >> 4 & 0xF, affinity & 0xF);
        let upper = (affinity >> 32 & 0xFF) << 48 | (affinity >> 16 & 0xFF) << 32 | (affinity >> 8 & 0xFF) << 16;
        let word = upper | range << 44 | u64::from(number) << 24 | 1 << bit;
        // SAFETY: interrupts another CPU, which is what the caller wants.
        unsafe {
            if number == STOP && gic.stops_by_fiq {
                write_register!("S3_0_C12_C11_7", word); // ICC_SGI0R_EL1
            } else {
                write_register!("S3_0_C12_C11_5", word); // ICC_SGI1R_EL1
            }
        }
    }
    barrier();
}

pub fn send_ipi(to: CpuId) {
    send(IPI, to);
}

pub fn send_stop(to: CpuId) {
    send(STOP, to);
}

impl fmt::Display for Gic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.interface.is_some() { 2 } else { 3 };
        let stop = if self.stops_by_fiq { "FIQ" } else { "IRQ" };
        write!(f, "GICv{version}, CPUs stop by {stop}, entered at EL{}", stub::entry_level())
    }
}

pub fn name() -> &'static dyn fmt::Display {
    GIC.get().map_or(&bcm2836::NAME, |gic| gic)
}

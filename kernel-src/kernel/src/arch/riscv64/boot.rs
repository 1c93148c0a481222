//! From the firmware's hand-over to `init::main`.
//!
//! The image is a flat Linux Image, entered in supervisor mode with the MMU
//! off, `a0` the hart's id and `a1` the device tree (Linux,
//! Documentation/riscv/boot.rst). It relocates itself twice: to where it
//! lies, so that Rust runs with the MMU off, and to where it will be seen.

use super::{cpu, mm, timer, trap};
use crate::addr::{HardwareId, PhysAddr};
use crate::arch::risc::{self, Shared, clock, tree, tree_at};
use crate::cmdline::Options;
use crate::config::{IMAGE_BASE, KERNEL_STACK_SIZE};
use crate::fdt::Fdt;
use crate::mm::paging::{ENTRIES, GIB, LARGE_PAGE, image_size, relocate, symbol};
use crate::percpu::PerCpu;
use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;
use core::mem::{MaybeUninit, offset_of};
use core::sync::atomic::{AtomicU32, Ordering};

/// GiBs that the boot tables map, at their own addresses and in the direct map. In Sv39 more would run into
/// the windows of devices and of the image.
const BOOT_GIB: usize = 252;
pub const DIRECT_LIMIT: PhysAddr = PhysAddr(BOOT_GIB * GIB);

/// Memory of the boot CPU that goes back to the allocator, reached only from that CPU.
#[repr(C, align(4096))]
struct BootMemory {
    /// Root of four levels; the table of GiBs, which is the root of three levels; the table of the image.
    tables: [[u64; ENTRIES]; 3],
    stack: [u8; KERNEL_STACK_SIZE],
    /// What `tp` points to until `cpu::install`, so that the trap stub needs no special case.
    early: MaybeUninit<PerCpu>,
}

#[unsafe(link_section = ".init.bss")]
static BOOT: Shared<UnsafeCell<BootMemory>> = Shared(UnsafeCell::new(BootMemory {
    tables: [[0; ENTRIES]; 3],
    stack: [0; KERNEL_STACK_SIZE],
    early: MaybeUninit::zeroed(),
}));

/// 1 until the first hart is here. Not in `.bss`, which that hart clears.
static UNENTERED: AtomicU32 = AtomicU32::new(1);

/// The header of a Linux Image (Linux, Documentation/riscv/boot-image-header.rst), version 0.2, little-endian.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".head.text")]
unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        ".option push",
        ".option norvc",
        "j {start}",
        "nop",
        ".option pop",
        ".dword 0x200000",
        ".dword __image_size",
        ".dword 0",
        ".word 2",
        ".word 0",
        ".dword 0",
        ".ascii \"RISCV\\0\\0\\0\"",
        ".ascii \"RSC\\005\"",
        ".word 0",
        start = sym start,
    )
}

#[unsafe(naked)]
#[unsafe(link_section = ".init.text")]
unsafe extern "C" fn start() -> ! {
    naked_asm!(
        // No interrupts; a trap this early has nowhere to tell of itself.
        "csrw sie, zero",
        "csrci sstatus, 2",
        "csrw sscratch, zero",
        "lla t0, 8f",
        "csrw stvec, t0",
        "fence.i",
        // The first hart boots. OpenSBI up to 1.2 can send one here too that the kernel has asked it to start elsewhere:
        // `sbi_hsm_hart_start` says that the hart may go before it says where.
        "lla t0, {unentered}",
        ".option push",
        ".option arch, +a",
        "amoswap.w.aq t1, zero, (t0)",
        ".option pop",
        "beqz t1, 9f",
        "mv s1, a0",
        "mv s2, a1",
        "lla t0, __bss_start",
        "lla t1, __bss_end",
        "jal 6f",
        "lla t0, __init_bss_start",
        "lla t1, __init_bss_end",
        "jal 6f",
        "lla s3, __image_start",
        "lla tp, {memory}",
        "li t0, {early}",
        "add tp, tp, t0",
        "lla sp, {memory}",
        "li t0, {stack_end}",
        "add sp, sp, t0",
        "li s0, 0",
        // Once for where the image lies.
        "lla a0, __rela_start",
        "lla a1, __rela_end",
        "mv a2, s3",
        "mv a3, s3",
        "call {relocate}",
        "mv a0, s2",
        "mv a1, s3",
        "call {map}",
        // Paging is on, with everything at its own address still, and the image made for where it is seen.
        "sub t0, a0, s3",
        "lla t1, 2f",
        "add t1, t1, t0",
        "add sp, sp, t0",
        "add tp, tp, t0",
        "jr t1",
        "2:",
        "sd sp, {stack_top}(tp)",
        "mv a0, s1",
        "mv a1, s2",
        "mv a2, s3",
        "call {enter}",

        // Clears from `t0` to `t1`.
        "6:",
        "bgeu t0, t1, 7f",
        "sd zero, 0(t0)",
        "addi t0, t0, 8",
        "j 6b",
        "7:",
        "ret",

        "9:",
        "lla t0, {starting}",
        "10:",
        "ld t1, {starting_hart}(t0)",
        "bne t1, a0, 10b",
        "fence r, r",
        "ld a1, {starting_cpu}(t0)",
        "j {arrive}",

        ".balign 4",
        "8:",
        "wfi",
        "j 8b",
        unentered = sym UNENTERED,
        starting = sym cpu::STARTING,
        starting_hart = const offset_of!(cpu::Starting, hart),
        starting_cpu = const offset_of!(cpu::Starting, cpu),
        arrive = sym cpu::arrive,
        relocate = sym relocate,
        memory = sym BOOT,
        early = const offset_of!(BootMemory, early),
        stack_end = const offset_of!(BootMemory, stack) + KERNEL_STACK_SIZE,
        map = sym map,
        stack_top = const offset_of!(PerCpu, stack_top),
        enter = sym enter,
    )
}

/// With the MMU off: reads where the image is wanted, builds the boot tables, switches them on, and relocates the image for
/// there; gives the place. A tree or slide that is refused here is refused again in `init::main`'s reach, where it can be told.
#[unsafe(link_section = ".init.text")]
unsafe extern "C" fn map(tree: usize, image: usize) -> usize {
    clock::BEGAN.store(timer::ticks(), Ordering::Relaxed);
    // SAFETY: by the boot protocol `a1` is the tree, or nothing.
    let tree = unsafe { tree_at(0, tree) }.ok().map(|(tree, _)| tree);
    let slide = tree.and_then(Fdt::command_line).and_then(|line| Options::parse(line).ok()).unwrap_or_default().slide;

    // SAFETY: only this CPU runs, and nothing else refers to the tables.
    let [top, gibs, pages] = unsafe { &mut (*BOOT.0.get()).tables };
    let leaf = |address: usize| (address >> 12 << 10) as u64 | mm::BOOT_LEAF;
    let table = |next: &[u64; ENTRIES]| mm::table(PhysAddr(next.as_ptr() as usize));
    // One table of GiBs serves at three places: from 0, in the direct map, and for the image. In Sv48 its lower
    // half is seen at 0 and at the direct map's base, in Sv39 its upper half is the direct map.
    for gib in 0..BOOT_GIB {
        gibs[gib] = leaf(gib * GIB);
        gibs[ENTRIES / 2 + gib] = leaf(gib * GIB);
    }
    for offset in (0..image_size()).step_by(LARGE_PAGE) {
        pages[(slide + offset) / LARGE_PAGE] = leaf(image + offset);
    }
    gibs[IMAGE_BASE / GIB % ENTRIES] = table(pages);
    for slot in [0, ENTRIES / 2, ENTRIES - 1] {
        top[slot] = table(gibs);
    }
    if !switch_on(mm::SV48, top) {
        switch_on(mm::SV39, gibs);
    }
    // SAFETY: all of the image may still be written where it lies.
    unsafe { relocate(symbol!(__rela_start), symbol!(__rela_end), image, IMAGE_BASE + slide) };
    IMAGE_BASE + slide
}

/// Privileged 4.1.11: a write of `satp` with a mode that the hart lacks has no effect.
#[unsafe(link_section = ".init.text")]
fn switch_on(mode: u64, root: &[u64; ENTRIES]) -> bool {
    let wanted = mode | (root.as_ptr() as u64 >> 12);
    let found: u64;
    // SAFETY: the tables map everything that this CPU uses at the addresses at which it uses it; the fences
    // order their writes before the first walk (Privileged 4.2.1).
    unsafe {
        asm!("sfence.vma", "csrw satp, {0}", "csrr {1}, satp", "sfence.vma", in(reg) wanted, out(reg) found, options(nostack))
    };
    found == wanted
}

/// In the kernel's half, on the boot stack.
#[unsafe(link_section = ".init.text")]
unsafe extern "C" fn enter(hart: u64, tree: usize, image: usize) -> ! {
    trap::install_vector();
    mm::note_mode();
    // SAFETY: as in `map`; the boot tables show all of the low memory in the direct map.
    unsafe { risc::enter(tree, image, HardwareId(hart)) }
}

/// Whether the tree says that a hart has an extension (in lower case; those of one letter stand behind `rv64`).
pub fn isa_has(hart: HardwareId, extension: &str) -> bool {
    let Some(cpu) = tree().cpus().find(|cpu| cpu.hardware == hart) else { return false };
    let listed =
        cpu.node.property("riscv,isa-extensions").is_some_and(|list| list.strings().any(|name| name == extension));
    let isa = cpu.node.property("riscv,isa").and_then(|isa| isa.str());
    listed
        || isa.is_some_and(|isa| {
            let (letters, names) = isa.split_once('_').unwrap_or((isa, ""));
            let is_letter = extension.len() == 1 && letters.get(4..).is_some_and(|letters| letters.contains(extension));
            is_letter || names.split('_').any(|name| name == extension)
        })
}

const _: () = assert!(IMAGE_BASE.is_multiple_of(GIB));

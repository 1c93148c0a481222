//! The entry point: a Linux Image with translation off (arm64/booting.rst).
//!
//! First a small one-to-one map of image and device tree, so that all else
//! runs with caches on. Then the tree is read, boot tables for the high half
//! are made, and the image is relocated to where they put it.

use super::{mm, read_register, stub};
use crate::addr::{HardwareId, PhysAddr, PhysRange};
use crate::arch::risc::{Shared, clock, enter, tree_at};
use crate::cmdline::Options;
use crate::config::{DEVICE_TREE_MAX, IMAGE_BASE, MAX_RANGES, SLIDE_ALIGN};
use crate::fdt::Fdt;
use crate::mm::MapFlags;
use crate::mm::paging::{ENTRIES, GIB, LARGE_PAGE, image_size, is_present, relocate, symbol};
use arrayvec::ArrayVec;
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;

const DIRECT_BASE: usize = mm::layout().0.0;
/// Four tables of 1 GiB entries: some machines have their memory from 1 TiB on.
pub const DIRECT_LIMIT: PhysAddr = PhysAddr(2 << 40);
/// Affinity fields of `MPIDR_EL1` (D17.2.101).
const AFFINITY: u64 = 0xFF_00FF_FFFF;

/// Tables for the two maps: twelve, and one for each GiB that is partly memory.
const TABLE_COUNT: usize = 31;

/// Makes boot tables at physical addresses. The first table is the root of the one-to-one map.
#[repr(C, align(4096))]
struct Builder {
    tables: [[u64; ENTRIES]; TABLE_COUNT],
    used: usize,
}

#[unsafe(link_section = ".init.bss")]
static BUILDER: Shared<UnsafeCell<Builder>> =
    Shared(UnsafeCell::new(Builder { tables: [[0; ENTRIES]; TABLE_COUNT], used: 0 }));

impl Builder {
    /// The address of a new, empty table. Where none is left, the boot CPU stops: nothing could be printed yet.
    fn table(&mut self) -> PhysAddr {
        let table = &raw const self.tables[self.used];
        self.used += 1;
        PhysAddr(table as usize)
    }

    /// Maps a page of `level` at `va`, and makes what tables it needs.
    fn map(&mut self, root: PhysAddr, va: usize, level: usize, to: usize, flags: MapFlags) {
        let base = self.tables.as_ptr() as usize;
        let mut table = (root.0 - base) >> 12;
        for upper in (level + 1..mm::levels()).rev() {
            let index = va >> (12 + 9 * upper) & 511;
            let value = self.tables[table][index];
            let next = if is_present(value) { mm::address(value) } else { self.table() };
            self.tables[table][index] = mm::table(next);
            table = (next.0 - base) >> 12;
        }
        self.tables[table][va >> (12 + 9 * level) & 511] = mm::leaf(PhysAddr(to), flags, level);
    }

    /// Maps at least `size` bytes in blocks.
    fn map_blocks(&mut self, root: PhysAddr, va: usize, size: usize, to: usize, flags: MapFlags) {
        for offset in (0..size).step_by(LARGE_PAGE) {
            self.map(root, va + offset, 1, to + offset, flags);
        }
    }
}

/// The image while boot tables are on: they map it in blocks, code and data alike.
const BOOT_IMAGE: MapFlags = MapFlags { read: true, write: true, execute: true, user: false, device: false };

/// Maps image and device tree one to one. Runs with translation off: no atomics, no unaligned access.
#[unsafe(link_section = ".init.text")]
extern "C" fn map_one_to_one(image: usize, tree: usize) -> PhysAddr {
    // SAFETY: nobody else has the tables.
    let builder = unsafe { &mut *BUILDER.0.get() };
    let root = builder.table();
    // The tree may lie across blocks.
    let first = tree & !(LARGE_PAGE - 1);
    builder.map_blocks(root, first, tree - first + DEVICE_TREE_MAX, first, MapFlags::KERNEL_RODATA);
    builder.map_blocks(root, image, image_size(), image, BOOT_IMAGE);
    root
}

/// Where the image is to run, and the root of the tables that map it there.
#[repr(C)]
struct Placement(usize, PhysAddr);

/// Builds the boot tables for the high half: the image at its slide, and all that the direct map reaches: memory as
/// memory, the rest as devices, so that nothing is fetched from them unasked. Then relocates the image for there.
#[unsafe(link_section = ".init.text")]
extern "C" fn place(image: usize, tree: usize) -> Placement {
    // SAFETY: `map_one_to_one` covers the tree; it is used only here.
    let fdt = unsafe { tree_at(0, tree) }.map(|(fdt, _)| fdt).ok();
    // A bad slide is refused by the kernel proper, which can say so.
    let slide = fdt.and_then(Fdt::command_line).and_then(|line| Options::parse(line).ok()).unwrap_or_default().slide;
    let runs_at = IMAGE_BASE + slide;
    // SAFETY: `map_one_to_one` has returned.
    let builder = unsafe { &mut *BUILDER.0.get() };
    let root = builder.table();
    builder.map_blocks(root, runs_at, image_size(), image, BOOT_IMAGE);
    let memory: ArrayVec<PhysRange, MAX_RANGES> = fdt.into_iter().flat_map(Fdt::memory).take(MAX_RANGES).collect();
    // Of `size` bytes from `at`: whether some are memory, and whether all of those that are, are all.
    let kind = |at: usize, size: usize| {
        let mut some = memory.iter().filter(move |range| range.start.0 < at + size && range.end().0 > at).peekable();
        let flags = if some.peek().is_some() { MapFlags::KERNEL_DATA } else { MapFlags::DEVICE };
        (flags, some.all(|range| range.start.0 <= at && range.end().0 >= at + size))
    };
    for at in (0..DIRECT_LIMIT.0).step_by(GIB) {
        let (flags, is_uniform) = kind(at, GIB);
        if is_uniform {
            builder.map(root, DIRECT_BASE + at, 2, at, flags);
        } else {
            for block in (at..at + GIB).step_by(LARGE_PAGE) {
                builder.map(root, DIRECT_BASE + block, 1, block, kind(block, LARGE_PAGE).0);
            }
        }
    }
    // SAFETY: all of the image may be written where it lies.
    unsafe { relocate(symbol!(__rela_start), symbol!(__rela_end), image, runs_at) };
    Placement(runs_at, root)
}

/// Makes the hand-over, in the high half.
#[unsafe(link_section = ".init.text")]
extern "C" fn hand_over(tree: usize, image: usize, level: u64, began: u64) -> ! {
    clock::BEGAN.store(began, Ordering::Relaxed);
    stub::ENTRY_LEVEL.store(level, Ordering::Relaxed);
    let boot_cpu = HardwareId(read_register!("mpidr_el1") & AFFINITY);
    // SAFETY: the direct map reaches the tree from here on for ever.
    unsafe { enter(tree, image, boot_cpu) }
}

/// The header that boot loaders read (arm64/booting.rst, 4).
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".head")]
unsafe extern "C" fn image_header() -> ! {
    naked_asm!(
        "b {entry}",
        ".word 0",
        ".quad 0",                  // text_offset: the very start of 2 MiB aligned memory
        ".quad __image_size",       // with .bss
        ".quad 0b1010",             // little endian, 4 KiB pages, anywhere in memory
        ".quad 0, 0, 0",
        ".ascii \"ARM\\x64\"",
        ".word 0",
        entry = sym entry,
    )
}

/// Translation and data cache are off, `x0` is the device tree. Kept over calls: `x19` the one-to-one map, `x20` image,
/// `x21` tree, `x22` end of the image, `x24` level of entry, `x25` when this began: the clock counts from here.
#[unsafe(naked)]
#[unsafe(link_section = ".init.text")]
unsafe extern "C" fn entry() -> ! {
    naked_asm!(
        "mov x21, x0",
        "bl {to_el1}",
        "mov x24, x9",
        "mrs x25, cntvct_el0",
        "adrp x20, __image_start",
        "adrp x22, __image_end",
        // What stale lines the caches hold of the image would hide what is written now (booting.rst asks the loader to
        // clean the file, not what lies behind it).
        "mov x0, x20",
        "mov x1, x22",
        "bl {clean}",
        // .bss and .init.bss, 16 bytes a turn; both begin and end on such boundaries.
        "adrp x0, __bss_start",
        "add x0, x0, :lo12:__bss_start",
        "adrp x1, __bss_end",
        "bl 4f",
        "adrp x0, __init_bss_start",
        "adrp x1, __init_bss_end",
        "bl 4f",
        "adrp x0, __boot_stack_top",
        "mov sp, x0",
        "mov x29, xzr",
        "adrp x0, __rela_start",
        "add x0, x0, :lo12:__rela_start",
        "adrp x1, __rela_end",
        "add x1, x1, :lo12:__rela_end",
        "mov x2, x20",
        "mov x3, x20",
        "bl {relocate}",
        "mov x0, x20",
        "mov x1, x21",
        "bl {map_one_to_one}",
        "mov x19, x0",
        // Lines that were fetched meanwhile, before what was written past them.
        "mov x0, x20",
        "mov x1, x22",
        "bl {clean}",
        "mov x0, x19",
        "mov x1, x19",
        "bl {translate}",
        "mov x0, x20",
        "mov x1, x21",
        "bl {place}",
        "dsb ish",
        "msr ttbr1_el1, x1",
        "isb",
        "tlbi vmalle1",
        "dsb nsh",
        "isb",
        // The same code and the same stack, in the high half.
        "sub x8, x0, x20",
        "mov x9, sp",
        "add x9, x9, x8",
        "mov sp, x9",
        "adrp x9, {hand_over}",
        "add x9, x9, :lo12:{hand_over}",
        "add x9, x9, x8",
        "mov x0, x21",
        "mov x1, x20",
        "mov x2, x24",
        "mov x3, x25",
        "mov x29, xzr",
        "mov x30, xzr",
        "br x9",
        "4:",
        "cmp x0, x1",
        "b.hs 5f",
        "stp xzr, xzr, [x0], #16",
        "b 4b",
        "5:",
        "ret",
        to_el1 = sym stub::to_el1,
        clean = sym clean_and_invalidate,
        relocate = sym relocate,
        map_one_to_one = sym map_one_to_one,
        translate = sym translate,
        place = sym place,
        hand_over = sym hand_over,
    )
}

/// Cleans and invalidates `x0` up to `x1`, to memory. With the data cache off this CPU makes no dirty lines, so what
/// it cleans is the loader's, and older than what was written past the cache only where nothing was (D7.5.9).
#[unsafe(naked)]
#[unsafe(link_section = ".init.text")]
unsafe extern "C" fn clean_and_invalidate() {
    naked_asm!(
        "mrs x2, ctr_el0",
        "ubfx x2, x2, #16, #4",
        "mov x3, #4",
        "lsl x2, x3, x2",
        "2:",
        "dc civac, x0",
        "add x0, x0, x2",
        "cmp x0, x1",
        "b.lo 2b",
        "dsb sy",
        "ret",
    )
}

/// Translation and caches on, with the roots `x0` for the lower half and `x1` for the upper. Whoever calls is mapped
/// one to one (D8.2: registers, ISB, TLB and instruction cache emptied, and only then `SCTLR_EL1`).
#[unsafe(naked)]
pub(super) unsafe extern "C" fn translate() {
    naked_asm!(
        "mov x2, #{mair}",
        "msr mair_el1, x2",
        "ldr x2, ={tcr}",
        // As many physical bits as the CPU has, at most 48 (ID_AA64MMFR0_EL1.PARange).
        "mrs x3, id_aa64mmfr0_el1",
        "and x3, x3, #0xf",
        "mov x4, #5",
        "cmp x3, x4",
        "csel x3, x3, x4, lo",
        "bfi x2, x3, #32, #3",
        "msr tcr_el1, x2",
        "msr ttbr0_el1, x0",
        "msr ttbr1_el1, x1",
        "isb",
        "tlbi vmalle1",
        "ic iallu",
        "dsb nsh",
        "isb",
        "ldr x2, ={sctlr}",
        "msr sctlr_el1, x2",
        "isb",
        "ret",
        mair = const mm::MAIR,
        tcr = const mm::TCR,
        sctlr = const super::cpu::SCTLR_BOOT,
    )
}

const _: () = assert!(LARGE_PAGE == SLIDE_ALIGN);

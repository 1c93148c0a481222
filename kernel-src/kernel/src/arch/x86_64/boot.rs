//! From the entry of PVH or Multiboot2 (32-bit protected mode, no paging) to `init::main`.
//!
//! The assembly maps the first 4 GiB one to one and in the direct map, with 2 MiB pages, and switches to 64-bit mode. The
//! image is relocated first for where it lies, so that Rust can read the command line and map the image high, page by page
//! (so it may lie at any page boundary), all rights for all of it as on the other architectures; then for where it is
//! mapped, and control goes there.

use super::{Shared, cpu, mm};
use crate::addr::{PhysAddr, PhysRange};
use crate::bootinfo::{self, BootInfo};
use crate::cmdline::Options;
use crate::config::{COMMAND_LINE_MAX, IMAGE_BASE, MAX_RANGES, PAGE_SIZE};
use crate::mm::frames;
use crate::mm::paging::{ENTRIES, LARGE_PAGE, image_size, relocate, symbol};
use crate::{init, multiboot};
use arrayvec::ArrayVec;
use core::arch::{global_asm, naked_asm};
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::slice;
use core::sync::atomic::Ordering;

/// Most memory that the image may take, 2 MiB a table.
const IMAGE_TABLES: usize = 4;
const DIRECT_BASE: usize = mm::layout().0.0;
pub const DIRECT_LIMIT: PhysAddr = PhysAddr(4 << 30);

/// A CPU in real mode can start below.
const CONVENTIONAL_END: usize = 0xA_0000;

const PRESENT_AND_WRITABLE: u64 = 3;

/// Tables that hold until the final ones are on.
#[repr(C, align(4096))]
struct BootTables {
    root: [u64; ENTRIES],
    /// Identity and direct map share all below the root.
    low: [u64; ENTRIES],
    low_pages: [u64; 4 * ENTRIES],
    high: [u64; ENTRIES],
    high_tables: [u64; ENTRIES],
    image: [u64; IMAGE_TABLES * ENTRIES],
}

#[unsafe(link_section = ".init.bss")]
static TABLES: Shared<UnsafeCell<MaybeUninit<BootTables>>> = Shared(UnsafeCell::new(MaybeUninit::zeroed()));

/// `hvm_start_info`, version 1 (Xen's public/arch-x86/hvm/start_info.h).
#[repr(C)]
struct StartInfo {
    /// Or the size of Multiboot2's information.
    magic: u32,
    version_flags: [u32; 2],
    modules: u32,
    module_list: usize,
    command_line: usize,
    rsdp: PhysAddr,
    memory_map: usize,
    memory_map_entries: u32,
}

/// Multiboot2's looks the same.
#[repr(C)]
struct MemoryMapEntry {
    range: PhysRange,
    kind: u32,
}

const PVH_MAGIC: u32 = 0x336E_C578;

/// `kind` of memory that may be used; all else is somebody's (ACPI 6.5, table 15.4).
const RAM: u32 = 1;

// The note by which a loader knows the entry: XEN_ELFNOTE_PHYS32_ENTRY is 18 (Xen's public/elfnote.h).
global_asm!(
    ".pushsection .note.Xen, \"a\", @note",
    ".balign 4",
    ".long 4, 4, 18",
    ".asciz \"Xen\"",
    ".long __pvh_entry_phys",
    ".popsection",
);

// The header of Multiboot2 (Multiboot2 Specification 2.0, 3.1), whose entry is the ELF file's: EBX is the address of the
// information, the rest as at `pvh_entry` (3.3). Who says another word in EAX has no business here.
global_asm!(
    ".pushsection .head, \"ax\"",
    ".balign 8",
    "2:",
    ".long 0xe85250d6, 0, 3f - 2b, -(0xe85250d6 + 3f - 2b)",
    // Relocatable: from 2 MiB on, below 4 GiB, to pages, low ones first.
    ".long 10, 24, 0x200000, 0xffffffff, 0x1000, 1",
    ".long 0, 8",
    "3:",
    ".global multiboot_entry",
    "multiboot_entry:",
    ".code32",
    "cmpl $0x36d76289, %eax",
    "je pvh_entry",
    "4:",
    "hlt",
    "jmp 4b",
    ".code64",
    ".popsection",
    options(att_syntax),
);

/// EBX is the address of `hvm_start_info` or of Multiboot2's information; all segments are flat, and there is no stack (Xen's docs/misc/pvh.pandoc).
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".init.text")]
unsafe extern "C" fn pvh_entry() -> ! {
    naked_asm!(
        ".code32",
        "cli",
        "cld",
        // When this began: the clock counts from here.
        "rdtsc",
        "movl %eax, %esi",
        // The address at which this runs is found by a call, which needs a stack: the magic word lends itself.
        "movl (%ebx), %eax",
        "leal 4(%ebx), %esp",
        "call 2f",
        "2:",
        "popl %ebp",
        "movl %eax, (%ebx)",

        // Memory that no file holds: zero, whatever the loader left there.
        "xorl %eax, %eax",
        ".irp part, __bss, __init_bss",
        "leal (\\part\\()_start - 2b)(%ebp), %edi",
        "leal (\\part\\()_end - 2b)(%ebp), %ecx",
        "subl %edi, %ecx",
        "shrl $2, %ecx",
        "rep stosl",
        ".endr",
        "movl %esi, ({entry_ticks} - 2b)(%ebp)",
        "movl %edx, ({entry_ticks} + 4 - 2b)(%ebp)",
        "leal (__boot_stack_top - 2b)(%ebp), %esp",

        // A CPU without 64-bit mode or no-execute (leaf 80000001h, EDX bits 29 and 20) stops here: no console is known yet.
        "movl %ebx, %esi",
        "movl $0x80000001, %eax",
        "cpuid",
        "andl $0x20100000, %edx",
        "cmpl $0x20100000, %edx",
        "je 4f",
        "3:",
        "hlt",
        "jmp 3b",
        "4:",

        // 2048 pages of 2 MiB, present, writable, large.
        "leal ({tables} + {low_pages} - 2b)(%ebp), %edi",
        "movl $0x83, %eax",
        "xorl %ecx, %ecx",
        "5:",
        "movl %eax, (%edi, %ecx, 8)",
        "addl $0x200000, %eax",
        "incl %ecx",
        "cmpl $2048, %ecx",
        "jne 5b",
        ".irp table, 0, 1, 2, 3",
        "leal 0x1000 * \\table + 3(%edi), %eax",
        "movl %eax, ({tables} + {low} + 8 * \\table - 2b)(%ebp)",
        ".endr",
        "leal ({tables} - 2b)(%ebp), %edi",
        "leal ({tables} + {low} + 3 - 2b)(%ebp), %eax",
        // Entry 0 is the identity, entry 256 the direct map.
        "movl %eax, (%edi)",
        "movl %eax, 2048(%edi)",

        // SDM vol. 3A, 10.8.5: PAE, root, long mode, paging.
        "movl ${pae}, %eax",
        "movl %eax, %cr4",
        "movl %edi, %cr3",
        "movl $0xc0000080, %ecx",
        "rdmsr",
        "orl ${efer}, %eax",
        "wrmsr",
        "movl %cr0, %eax",
        "orl ${cr0}, %eax",
        "movl %eax, %cr0",
        "leal (8f - 2b)(%ebp), %eax",
        "subl $8, %esp",
        "movw $15, (%esp)",
        "movl %eax, 2(%esp)",
        "lgdtl (%esp)",
        "leal (7f - 2b)(%ebp), %eax",
        "movl $8, 4(%esp)",
        "movl %eax, (%esp)",
        "lretl",
        ".balign 8",
        "8:",
        ".quad 0, 0x00af9b000000ffff",

        ".code64",
        "7:",
        "xorl %eax, %eax",
        ".irp segment, ds, es, fs, gs, ss",
        "movl %eax, %\\segment",
        ".endr",
        "leaq __boot_stack_top(%rip), %rsp",
        "xorl %ebp, %ebp",
        "movl %esi, %ebx",
        // For where the image lies.
        "leaq __image_start(%rip), %r12",
        "leaq __rela_start(%rip), %rdi",
        "leaq __rela_end(%rip), %rsi",
        "movq %r12, %rdx",
        "movq %r12, %rcx",
        "callq {relocate}",
        "movq %rbx, %rdi",
        "movq %r12, %rsi",
        "callq {map_image}",
        // From the physical address to the virtual one.
        "subq %r12, %rax",
        "addq %rax, %rsp",
        "leaq 9f(%rip), %rcx",
        "addq %rcx, %rax",
        "movq %rbx, %rdi",
        "movq %r12, %rsi",
        "jmpq *%rax",
        "9:",
        "callq {enter}",
        "ud2",
        tables = sym TABLES,
        entry_ticks = sym super::timer::CLOCK,
        low = const core::mem::offset_of!(BootTables, low),
        low_pages = const core::mem::offset_of!(BootTables, low_pages),
        pae = const cpu::LONG_CR4,
        efer = const cpu::LONG_EFER,
        cr0 = const cpu::LONG_CR0,
        relocate = sym relocate,
        map_image = sym map_image,
        enter = sym enter,
        options(att_syntax),
    )
}

/// The text at `address`, to its end or the kernel's limit; the part that is UTF-8.
///
/// # Safety
/// There is a NUL-terminated string that stays as it is, or `address` is 0.
#[unsafe(link_section = ".init.text")]
unsafe fn text(address: usize) -> &'static str {
    if address == 0 {
        return "";
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr((DIRECT_BASE + address) as *const _) }.to_bytes();
    bytes[..bytes.len().min(COMMAND_LINE_MAX)].utf8_chunks().next().map_or("", |chunk| chunk.valid())
}

/// What lies at `info`, seen in the direct map, and the modules. Multiboot2's information is told in PVH's words. None where
/// it is malformed.
///
/// # Safety
/// A loader put it there, and nothing has overwritten it; its lists have as many entries as it says.
#[unsafe(link_section = ".init.text")]
unsafe fn hand_over(info: usize) -> Option<(StartInfo, multiboot::Modules)> {
    // SAFETY: the caller's promise.
    unsafe {
        let mut start = ((DIRECT_BASE + info) as *const StartInfo).read();
        if start.magic == PVH_MAGIC {
            let list = (DIRECT_BASE + start.module_list) as *const [usize; 4];
            let list = slice::from_raw_parts(list, start.modules as usize)
                .iter()
                .map(|module| PhysRange::new(module[0], module[1]));
            return Some((start, list.take(MAX_RANGES / 2).collect()));
        }
        let found = multiboot::parse(slice::from_raw_parts((DIRECT_BASE + info) as *const u8, start.magic as usize))?;
        start.command_line = found.command_line.map_or(0, |offset| info + offset);
        start.rsdp = PhysAddr(found.rsdp.map_or(0, |offset| info + offset));
        start.memory_map = info + found.memory_map.start;
        start.memory_map_entries = (found.memory_map.len() / size_of::<MemoryMapEntry>()) as u32;
        Some((start, found.modules))
    }
}

/// Maps the image at its link address plus the slide, relocates it for there, and gives the place. Runs one to one, the
/// image relocated for that.
#[unsafe(link_section = ".init.text")]
unsafe extern "C" fn map_image(info: usize, image: usize) -> usize {
    // SAFETY: the loader put all of it below 4 GiB; nothing has overwritten it.
    let options = unsafe { hand_over(info).map_or("", |(start, _)| text(start.command_line)) };
    // What is malformed is refused later, by who can say so.
    let slide = Options::parse(options).unwrap_or_default().slide;
    let guard = symbol!(__boot_guard) - symbol!(__image_start);
    // SAFETY: the boot CPU alone runs, and nobody holds a reference to the tables, for which zeros are valid.
    let tables = unsafe { (*TABLES.0.get()).assume_init_mut() };
    let entry = |table: *const u64| table as u64 | PRESENT_AND_WRITABLE;
    tables.root[ENTRIES - 1] = entry(tables.high.as_ptr());
    tables.high[ENTRIES - 2] = entry(tables.high_tables.as_ptr());
    for index in 0..IMAGE_TABLES {
        tables.high_tables[slide / LARGE_PAGE + index] = entry(tables.image[index * ENTRIES..].as_ptr());
    }
    for offset in (0..image_size()).step_by(PAGE_SIZE).filter(|offset| *offset != guard) {
        tables.image[offset / PAGE_SIZE] = entry((image + offset) as *const u64);
    }
    // SAFETY: all of the image may still be written where it lies.
    unsafe { relocate(symbol!(__rela_start), symbol!(__rela_end), image, IMAGE_BASE + slide) };
    IMAGE_BASE + slide
}

/// At the final address, one to one and direct map still on: makes the hand-over.
#[unsafe(link_section = ".init.text")]
unsafe extern "C" fn enter(info: usize, image: usize) -> ! {
    // SAFETY: as in `map_image`.
    let found = unsafe { hand_over(info) };
    let (start, modules) = found.unwrap_or_else(|| panic!("malformed Multiboot2 information at {info:#x}"));
    let map = (DIRECT_BASE + start.memory_map) as *const MemoryMapEntry;
    // SAFETY: likewise.
    let (map, command_line) =
        unsafe { (slice::from_raw_parts(map, start.memory_map_entries as usize), text(start.command_line)) };
    let mut ram = ArrayVec::<PhysRange, MAX_RANGES>::new();
    let mut reserved = ArrayVec::<PhysRange, MAX_RANGES>::new();
    // The first page holds the BIOS's own data, and its address is what null pointers are.
    reserved.push(PhysRange::new(0, PAGE_SIZE));
    reserved.push(PhysRange::new(start.command_line, command_line.len()));
    // Multiboot2's copy of the root pointer, which has 36 bytes.
    reserved.push(PhysRange { start: start.rsdp, size: 36 });
    reserved.extend(modules.iter().copied());
    for entry in map.iter().filter(|entry| entry.range.size > 0) {
        // A machine with more ranges than this goes without the last of them.
        match entry.kind {
            RAM => bootinfo::add(&mut ram, entry.range),
            _ => _ = reserved.try_push(entry.range),
        }
    }
    let mut free = frames::unheld(&ram, reserved.iter().copied());
    if let Some(low) = frames::take(&mut free, cpu::TRAMPOLINE_PAGES * PAGE_SIZE, CONVENTIONAL_END) {
        cpu::TRAMPOLINE.store(low.start.0, Ordering::Relaxed);
        let _ = reserved.try_push(low);
    }
    init::main(BootInfo {
        image: PhysRange::new(image, image_size()),
        ram,
        reserved,
        archive: modules.first().copied(),
        command_line,
        tables: start.rsdp,
        boot_cpu: cpu::hardware_id(),
    })
}

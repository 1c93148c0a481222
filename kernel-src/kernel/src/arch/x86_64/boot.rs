//! From the PVH entry (32-bit protected mode, no paging) to `init::main`.
//!
//! The assembly maps the first 4 GiB one to one and in the direct map, with 2 MiB pages, and switches to 64-bit mode. The
//! image is relocated first for where it lies, so that Rust can read the command line and map the image high, page by page
//! (so it may lie at any page boundary); then for where it is mapped, and control goes there.

use super::{Shared, cpu};
use crate::{
    addr::{PhysAddr, PhysRange, VirtAddr},
    bootinfo::{BootInfo, Tables},
    cmdline,
    config::{COMMAND_LINE_MAX, IMAGE_BASE, MAX_RANGES, PAGE_SIZE},
    init,
};
use arrayvec::ArrayVec;
use core::{
    arch::{global_asm, naked_asm},
    cell::UnsafeCell,
    ffi::CStr,
    mem::MaybeUninit,
    slice,
    sync::atomic::Ordering,
};

const ENTRIES: usize = 512;
const LARGE_PAGE: usize = PAGE_SIZE * ENTRIES;
/// Most memory that the image may take, 2 MiB a table.
const IMAGE_TABLES: usize = 4;
const DIRECT_BASE: usize = 0xFFFF_8000_0000_0000;
const DIRECT_LIMIT: usize = 4 << 30;
const USER_LIMIT: usize = 1 << 47;

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const NO_EXECUTE: u64 = 1 << 63;

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
    magic_version_flags: [u32; 3],
    modules: u32,
    module_list: usize,
    command_line: usize,
    rsdp: PhysAddr,
    memory_map: usize,
    memory_map_entries: u32,
}

#[repr(C)]
struct Module {
    range: PhysRange,
    command_line_and_reserved: [u64; 2],
}

#[repr(C)]
struct MemoryMapEntry {
    range: PhysRange,
    kind: u32,
}

/// `kind` of memory that may be used; all else is somebody's (ACPI 6.5, table 15.4).
const RAM: u32 = 1;

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __boot_guard: u8;
    static __init_start: u8;
}

// The note by which a loader knows the entry: XEN_ELFNOTE_PHYS32_ENTRY is 18 (Xen's public/elfnote.h).
global_asm!(
    ".pushsection .note.Xen, \"a\", @note",
    ".balign 4",
    ".long 4, 4, 18",
    ".asciz \"Xen\"",
    ".long __pvh_entry_phys",
    ".popsection",
);

/// EBX is the address of `hvm_start_info`; all segments are flat, and there is no stack (Xen's docs/misc/pvh.pandoc).
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
        // For where the image lies: values and places move alike.
        "leaq __image_start(%rip), %r12",
        "movabsq ${image_base}, %r13",
        "movq %r12, %rdi",
        "subq %r13, %rdi",
        "movq %rdi, %r14",
        "movq %rdi, %rsi",
        "callq {relocate}",
        "movq %rbx, %rdi",
        "movq %r12, %rsi",
        "callq {map_image}",
        // For where it is mapped: values move by the slide, places are still physical.
        "movq %rax, %r15",
        "movq %rax, %rdi",
        "movq %r14, %rsi",
        "callq {relocate}",
        "movq %rbx, %rdi",
        "movq %r12, %rsi",
        "movq %r15, %rdx",
        // From the physical address to the virtual one.
        "subq %r14, %r15",
        "addq %r15, %rsp",
        "leaq 9f(%rip), %rax",
        "addq %r15, %rax",
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
        image_base = const IMAGE_BASE,
        relocate = sym relocate,
        map_image = sym map_image,
        enter = sym enter,
        options(att_syntax),
    )
}

/// Applies every relocation: each is `R_X86_64_RELATIVE` (System V ABI, AMD64, 4.4.1), a word that is its addend plus
/// `rdi`; it lies at its link address plus `rsi`. Nothing here may need a relocation itself.
#[unsafe(naked)]
#[unsafe(link_section = ".init.text")]
unsafe extern "C" fn relocate(distance: u64, displacement: u64) {
    naked_asm!(
        "lea rdx, [rip + __rela_start]",
        "lea rcx, [rip + __rela_end]",
        "2:",
        "cmp rdx, rcx",
        "jae 3f",
        "mov rax, [rdx + 16]",
        "add rax, rdi",
        "mov r8, [rdx]",
        "mov [r8 + rsi], rax",
        "add rdx, 24",
        "jmp 2b",
        "3:",
        "ret",
    )
}

/// The text at `address`, which is seen at `base` and up, to its end or the kernel's limit; the part that is UTF-8.
///
/// # Safety
/// There is a NUL-terminated string that stays as it is, or `address` is 0.
#[unsafe(link_section = ".init.text")]
unsafe fn text<'a>(base: usize, address: usize) -> &'a str {
    if address == 0 {
        return "";
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr((base + address) as *const _) }.to_bytes();
    bytes[..bytes.len().min(COMMAND_LINE_MAX)].utf8_chunks().next().map_or("", |chunk| chunk.valid())
}

/// Maps the image at its link address plus the slide, and gives the slide. Runs one to one, the image relocated for that.
#[unsafe(link_section = ".init.text")]
unsafe extern "C" fn map_image(info: *const StartInfo, image: usize) -> usize {
    // SAFETY: the loader put the structure and the string there, below 4 GiB; nothing has overwritten them.
    let options = unsafe { text(0, (*info).command_line) };
    // A bad value is refused by `init`, which can say so.
    let slide = cmdline::slide(options).unwrap_or(0);
    let [start, end, text_start, text_end, guard, init_start] = [
        &raw const __image_start,
        &raw const __image_end,
        &raw const __text_start,
        &raw const __text_end,
        &raw const __boot_guard,
        &raw const __init_start,
    ]
    .map(|symbol| symbol as usize);
    // SAFETY: the boot CPU alone runs, and nobody holds a reference to the tables, for which zeros are valid.
    let tables = unsafe { (*TABLES.0.get()).assume_init_mut() };
    let entry = |table: *const u64| table as u64 | PRESENT | WRITE;
    tables.root[ENTRIES - 1] = entry(tables.high.as_ptr());
    tables.high[ENTRIES - 2] = entry(tables.high_tables.as_ptr());
    for index in 0..IMAGE_TABLES {
        tables.high_tables[slide / LARGE_PAGE + index] = entry(tables.image[index * ENTRIES..].as_ptr());
    }
    for page in (start..end).step_by(PAGE_SIZE).filter(|&page| page != guard) {
        let rights = match page {
            _ if (text_start..text_end).contains(&page) => 0,
            // Boot code and boot data, together until they go.
            _ if page >= init_start => WRITE,
            _ => WRITE | NO_EXECUTE,
        };
        tables.image[(page - start) / PAGE_SIZE] = (image + page - start) as u64 | PRESENT | rights;
    }
    slide
}

/// At the final address, one to one and direct map still on: makes the hand-over.
#[unsafe(link_section = ".init.text")]
unsafe extern "C" fn enter(info: usize, image: usize, slide: usize) -> ! {
    let direct = |address: usize| (DIRECT_BASE + address) as *const u8;
    // SAFETY: as in `map_image`; the loader's lists have as many entries as it says. The command line is kept from
    // others like the rest.
    let (start, map, modules, command_line) = unsafe {
        let start = &*direct(info).cast::<StartInfo>();
        let map =
            slice::from_raw_parts(direct(start.memory_map).cast::<MemoryMapEntry>(), start.memory_map_entries as usize);
        let modules = slice::from_raw_parts(direct(start.module_list).cast::<Module>(), start.modules as usize);
        let command_line = text(DIRECT_BASE, start.command_line);
        (start, map, modules, command_line)
    };
    let mut ram = ArrayVec::<PhysRange, MAX_RANGES>::new();
    let mut reserved = ArrayVec::<PhysRange, MAX_RANGES>::new();
    // The first page holds the BIOS's own data, and its address is what null pointers are.
    reserved.push(PhysRange::new(0, PAGE_SIZE));
    reserved.push(PhysRange::new(info, size_of::<StartInfo>()));
    reserved.push(PhysRange::new(start.memory_map, size_of_val(map)));
    reserved.push(PhysRange::new(start.module_list, size_of_val(modules)));
    reserved.push(PhysRange::new(start.command_line, command_line.len()));
    reserved.extend(modules.iter().take(MAX_RANGES / 2).map(|module| module.range));
    for entry in map.iter().filter(|entry| entry.range.size > 0) {
        let list = if entry.kind == RAM { &mut ram } else { &mut reserved };
        // A machine with more ranges than this goes without the last of them.
        let _ = list.try_push(entry.range);
    }
    if let Some(low) = trampoline_pages(&ram, &reserved) {
        cpu::TRAMPOLINE.store(low.start.0, Ordering::Relaxed);
        let _ = reserved.try_push(low);
    }
    let size = (&raw const __image_end) as usize - (&raw const __image_start) as usize;
    init::main(BootInfo {
        image: PhysRange::new(image, size),
        slide,
        direct_base: VirtAddr(DIRECT_BASE),
        direct_boot_limit: PhysAddr(DIRECT_LIMIT),
        user_limit: VirtAddr(USER_LIMIT),
        ram,
        reserved,
        archive: modules.first().map(|module| module.range),
        command_line,
        tables: Tables::Acpi(start.rsdp),
        boot_cpu: cpu::hardware_id(),
    })
}

/// The highest free pages below 640 KiB, where a CPU in real mode can start.
#[unsafe(link_section = ".init.text")]
fn trampoline_pages(ram: &[PhysRange], reserved: &[PhysRange]) -> Option<PhysRange> {
    const CONVENTIONAL_END: usize = 0xA_0000;
    const SIZE: usize = cpu::TRAMPOLINE_PAGES * PAGE_SIZE;
    let is_free = |pages: &PhysRange| {
        let held = |range: &PhysRange| range.start < pages.end() && pages.start < range.end();
        ram.iter().any(|range| range.start <= pages.start && pages.end() <= range.end()) && !reserved.iter().any(held)
    };
    (0..CONVENTIONAL_END - SIZE).step_by(PAGE_SIZE).rev().map(|start| PhysRange::new(start, SIZE)).find(is_free)
}

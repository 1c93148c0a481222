//! A CPU: its descriptor tables, its protections, how it is started and how the machine ends.

use super::{MACHINE, irq, machine, mm, timer, trap};
use crate::{
    acpi,
    addr::{HardwareId, PhysAddr, PhysRange, VirtAddr},
    bootinfo::BootInfo,
    config::{CPU_START_WAIT_NS, EXCEPTION_STACK_SIZE, MAX_CPUS, PAGE_SIZE},
    mm::paging,
    panic,
    percpu::PerCpu,
    smp::{self, StartError},
};
use arrayvec::ArrayVec;
use core::{
    arch::{asm, naked_asm, x86_64::CpuidResult},
    cell::UnsafeCell,
    convert::Infallible,
    mem::offset_of,
    sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering},
};

/// A frame pointer points at the caller's, behind which the return address lies (System V ABI, AMD64, 3.2.2).
pub const FRAME_PREVIOUS: isize = 0;
pub const FRAME_RETURN: isize = 8;

// Selectors. `syscall` takes the kernel's stack segment behind its code segment; `sysret` takes the user's code
// segment 16 and its stack segment 8 behind the value in STAR (SDM vol. 2B, SYSCALL, SYSRET).
pub const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
/// Where a 32-bit user code segment would be; there is none.
const SYSRET_BASE: u16 = 0x18 | 3;
pub const USER_DATA: u16 = SYSRET_BASE + 8;
pub const USER_CODE: u16 = SYSRET_BASE + 16;
const TSS: u16 = 0x30;

// Descriptors with base 0 and no limit: present, accessed, and for code 64-bit (SDM vol. 3A, 3.4.5).
const KERNEL_CODE_SEGMENT: u64 = 0x00AF_9B00_0000_FFFF;
const KERNEL_DATA_SEGMENT: u64 = 0x00CF_9300_0000_FFFF;
const USER_CODE_SEGMENT: u64 = 0x00AF_FB00_0000_FFFF;
const USER_DATA_SEGMENT: u64 = 0x00CF_F300_0000_FFFF;

/// Exceptions that may come while the stack is not to be trusted, each on a stack of its own.
pub const IST_NMI: u8 = 1;
pub const IST_DOUBLE_FAULT: u8 = 2;
pub const IST_MACHINE_CHECK: u8 = 3;

const MSR_APIC_BASE: u32 = 0x1B;
const MSR_MCG_CAP: u32 = 0x179;
pub const MSR_MCG_STATUS: u32 = 0x17A;
const MSR_MC0_CTL: u32 = 0x400;
const MSR_MC0_STATUS: u32 = 0x401;
const MSR_EFER: u32 = 0xC000_0080;
const MSR_STAR: u32 = 0xC000_0081;
const MSR_LSTAR: u32 = 0xC000_0082;
const MSR_SFMASK: u32 = 0xC000_0084;
pub const MSR_FS_BASE: u32 = 0xC000_0100;
pub const MSR_GS_BASE: u32 = 0xC000_0101;
const MSR_KERNEL_GS_BASE: u32 = 0xC000_0102;

pub const EFER_SYSCALL: u64 = 1;
pub const EFER_LONG_MODE: u64 = 1 << 8;
pub const EFER_NO_EXECUTE: u64 = 1 << 11;

pub const CR0_PROTECTED: u64 = 1;
const CR0_MONITOR: u64 = 1 << 1;
const CR0_TASK_SWITCHED: u64 = 1 << 3;
const CR0_NUMERIC_ERROR: u64 = 1 << 5;
pub const CR0_WRITE_PROTECT: u64 = 1 << 16;
pub const CR0_PAGING: u64 = 1 << 31;

const CR4_DEBUG: u64 = 1 << 3;
pub const CR4_PAE: u64 = 1 << 5;
const CR4_MACHINE_CHECK: u64 = 1 << 6;
pub const CR4_PGE: u64 = 1 << 7;
const CR4_FXSAVE: u64 = 1 << 9;
const CR4_SIMD_EXCEPTIONS: u64 = 1 << 10;
const CR4_UMIP: u64 = 1 << 11;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;

/// Flags that `syscall` clears: TF, IF, DF, IOPL, NT, AC (SDM vol. 1, 3.4.3).
const SYSCALL_MASK: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 18;

/// What a CPU keeps for the hardware to read.
#[repr(C)]
pub struct ArchCpu {
    gdt: UnsafeCell<[u64; 8]>,
    tss: UnsafeCell<[u32; TSS_WORDS]>,
}

/// A 64-bit TSS without I/O bitmap: every port is closed to user mode (SDM vol. 3A, 8.7).
const TSS_WORDS: usize = 26;
const TSS_RSP0: usize = 1;
const TSS_IST1: usize = 9;
const TSS_IO_MAP: usize = 25;
const TSS_LIMIT: u64 = size_of::<[u32; TSS_WORDS]>() as u64 - 1;

impl ArchCpu {
    #[expect(clippy::declare_interior_mutable_const, reason = "a start value, copied into each `PerCpu`")]
    pub const NEW: Self = Self { gdt: UnsafeCell::new([0; 8]), tss: UnsafeCell::new([0; TSS_WORDS]) };
}

/// What `lgdt` and `lidt` read.
#[repr(C, packed)]
pub(super) struct TablePointer {
    pub limit: u16,
    pub base: u64,
}

/// What the CPU says of itself; zeros for leaves that it does not have.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let ask = |leaf: u32, subleaf: u32| {
        let (eax, ebx, ecx, edx): (u32, u64, u32, u32);
        // SAFETY: every x86_64 CPU has `cpuid`, and it changes only these registers; `rbx`, which the compiler keeps, is restored.
        unsafe {
            asm!(
                "mov {kept}, rbx", "cpuid", "xchg {kept}, rbx",
                kept = out(reg) ebx, inout("eax") leaf => eax, inout("ecx") subleaf => ecx, out("edx") edx,
                options(nostack, preserves_flags),
            );
        }
        CpuidResult { eax, ebx: ebx as u32, ecx, edx }
    };
    if leaf & 0x7FFF_FFFF != 0 && ask(leaf & 0x8000_0000, 0).eax < leaf {
        return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    }
    ask(leaf, subleaf)
}

/// # Safety
/// The register exists, and reading it has no effect that somebody minds.
pub unsafe fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe { asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// # Safety
/// The register exists and takes this value, and what it changes is the caller's to change.
pub unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags))
    };
}

/// # Safety
/// Reading this port has no effect that somebody minds.
pub unsafe fn inl(port: u16) -> u32 {
    let value;
    // SAFETY: the caller's promise.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) };
    value
}

/// # Safety
/// Reading this port has no effect that somebody minds.
pub unsafe fn inw(port: u16) -> u16 {
    let value;
    // SAFETY: the caller's promise.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack, preserves_flags)) };
    value
}

/// # Safety
/// The port's device is the caller's.
pub unsafe fn outw(port: u16, value: u16) {
    // SAFETY: the caller's promise.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) };
}

/// # Safety
/// Reading this port has no effect that somebody minds.
pub unsafe fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: the caller's promise.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
    value
}

/// # Safety
/// The port's device is the caller's.
pub unsafe fn outb(port: u16, value: u8) {
    // SAFETY: the caller's promise.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

pub fn cr4() -> u64 {
    let value;
    // SAFETY: reading a control register has no effect.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// # Safety
/// The CPU has the features, and the code that runs is allowed by them.
pub unsafe fn set_cr4(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// The address of the last page fault.
pub fn fault_address() -> VirtAddr {
    let value;
    // SAFETY: as in `cr4`.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nostack, preserves_flags)) };
    VirtAddr(value)
}

/// This CPU's own data; garbage before `install`.
#[must_use]
pub fn percpu() -> *const PerCpu {
    let this;
    // SAFETY: reads the first word of what GS points at, which `install` made this CPU's `PerCpu`.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) this, const offset_of!(PerCpu, this), options(nostack, preserves_flags, readonly))
    };
    this
}

/// Makes `cpu` what [`percpu`] gives here. User mode's GS base is 0, now and always.
pub fn install(cpu: &'static PerCpu) {
    // SAFETY: both registers exist in 64-bit mode; `cpu` stays where it is.
    unsafe {
        write_msr(MSR_GS_BASE, (&raw const *cpu) as u64);
        write_msr(MSR_KERNEL_GS_BASE, 0);
    }
}

/// Descriptor tables, vectors, system-call entry and protections of this CPU.
///
/// # Panics
/// If there is no memory for its exception stacks.
pub fn init_cpu() {
    let cpu = crate::percpu::this();
    let stack = || paging::allocate_stack(EXCEPTION_STACK_SIZE).expect("memory for a CPU's exception stacks").0;
    let mut tss = [0; TSS_WORDS];
    let mut set = |word: usize, value: usize| [tss[word], tss[word + 1]] = [value as u32, (value >> 32) as u32];
    set(TSS_RSP0, cpu.stack_top.0);
    for ist in [IST_NMI, IST_DOUBLE_FAULT, IST_MACHINE_CHECK] {
        set(TSS_IST1 + 2 * (usize::from(ist) - 1), stack());
    }
    tss[TSS_IO_MAP] = (TSS_LIMIT as u32 + 1) << 16;
    let base = cpu.arch.tss.get() as u64;
    // An available 64-bit TSS of two entries (SDM vol. 3A, 8.2.3).
    let tss_low = TSS_LIMIT | (base & 0xFF_FFFF) << 16 | 0x89 << 40 | (base >> 24 & 0xFF) << 56;
    let gdt =
        [0, KERNEL_CODE_SEGMENT, KERNEL_DATA_SEGMENT, 0, USER_DATA_SEGMENT, USER_CODE_SEGMENT, tss_low, base >> 32];
    let pointer = TablePointer { limit: size_of_val(&gdt) as u16 - 1, base: cpu.arch.gdt.get() as u64 };
    // SAFETY: `arch` belongs to this CPU, which has not told its hardware of the tables yet; they never move. The new
    // GDT has a flat code segment at `KERNEL_CODE`, so reloading CS changes nothing but the selector. FS and GS are not
    // loaded, for that would clear their bases.
    unsafe {
        *cpu.arch.tss.get() = tss;
        *cpu.arch.gdt.get() = gdt;
        asm!(
            "lgdt [{pointer}]",
            "push {code}",
            "lea {next}, [rip + 2f]",
            "push {next}",
            "retfq",
            "2:",
            "mov ss, {data:x}",
            "mov ds, {none:x}",
            "mov es, {none:x}",
            "ltr {tss:x}",
            pointer = in(reg) &raw const pointer,
            code = const KERNEL_CODE,
            next = out(reg) _,
            data = in(reg) KERNEL_DATA,
            none = in(reg) 0,
            tss = in(reg) TSS,
        );
    }
    trap::load_vectors(cpu.id);
    protect();
    // SAFETY: the entry and the selectors are this kernel's, and EFER keeps what the boot code set.
    unsafe {
        write_msr(MSR_STAR, u64::from(SYSRET_BASE) << 48 | u64::from(KERNEL_CODE) << 32);
        write_msr(MSR_LSTAR, trap::syscall_entry as *const () as u64);
        write_msr(MSR_SFMASK, SYSCALL_MASK);
        write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_SYSCALL);
    }
}

/// Control registers, each bit by the feature that CPUID shows (SDM vol. 3A, 2.5).
fn protect() {
    let (base, extended) = (cpuid(1, 0), cpuid(7, 0));
    let features = [
        (base.edx & 1 << 2, CR4_DEBUG),
        (base.edx & 1 << 7, CR4_MACHINE_CHECK),
        (base.edx & 1 << 13, CR4_PGE),
        (extended.ecx & 1 << 2, CR4_UMIP),
        (extended.ebx & 1 << 7, CR4_SMEP),
        (extended.ebx & 1 << 20, CR4_SMAP),
    ];
    // With FXSAVE on and TS set every use of x87 or SSE is "device not available", which is what a program is told.
    let cr4 = features
        .iter()
        .filter(|(has, _)| *has != 0)
        .fold(CR4_PAE | CR4_FXSAVE | CR4_SIMD_EXCEPTIONS, |all, (_, bit)| all | bit);
    let cr0 = CR0_PROTECTED | CR0_MONITOR | CR0_TASK_SWITCHED | CR0_NUMERIC_ERROR | CR0_WRITE_PROTECT | CR0_PAGING;
    // SAFETY: the CPU has each feature; the kernel runs with the final tables, in which none of its pages is the user's,
    // touches user memory only in `copy_user`, and uses no floating point.
    unsafe {
        set_cr4(cr4);
        asm!("mov cr0, {}", in(reg) cr0, options(nostack, preserves_flags));
    }
    mm::set_smap(cr4 & CR4_SMAP != 0);
    const MACHINE_CHECKS: u32 = 1 << 7 | 1 << 14;
    if base.edx & MACHINE_CHECKS == MACHINE_CHECKS {
        // SAFETY: CPUID shows the machine-check architecture; every bank counted has these registers (SDM vol. 3B, 16.3.2).
        unsafe {
            for bank in 0..read_msr(MSR_MCG_CAP) as u32 & 0xFF {
                write_msr(MSR_MC0_CTL + 4 * bank, u64::MAX);
                write_msr(MSR_MC0_STATUS + 4 * bank, 0);
            }
        }
    }
}

/// In every spin: gives way to the sibling thread, and ends here when another CPU has panicked.
pub fn relax() {
    core::hint::spin_loop();
    if panic::stop_requested() {
        panic::stopped();
    }
}

/// Sleeps until an interrupt and handles it. `sti` takes effect behind the next instruction, so none can slip in
/// before `hlt` (SDM vol. 2B, STI).
pub fn wait_for_interrupt() {
    // SAFETY: interrupts that come here are handled on this stack and come back; off again afterwards.
    unsafe { asm!("sti", "hlt", "cli") };
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: nothing is left to be done here.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

#[inline(always)]
#[must_use]
pub fn frame_pointer() -> usize {
    let frame;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    frame
}

/// The id of this CPU's local APIC: 32 bits where there are so many (SDM vol. 3A, 9.4.5 and leaf 0Bh).
#[must_use]
pub fn hardware_id() -> HardwareId {
    let topology = cpuid(0xB, 0);
    HardwareId(if topology.ebx != 0 { topology.edx } else { cpuid(1, 0).ebx >> 24 }.into())
}

/// Whether local APICs are reached by MSR, with ids above 8 bits.
#[must_use]
pub fn has_x2apic() -> bool {
    cpuid(1, 0).ecx & 1 << 21 != 0
}

/// Turns the local APIC on, in the mode that [`has_x2apic`] tells.
pub fn enable_apic() {
    let mode = if has_x2apic() { 3 << 10 } else { 1 << 11 };
    // SAFETY: every x86_64 CPU has an APIC; on, or on in x2APIC mode, is reached from any state that firmware or INIT
    // leaves (SDM vol. 3A, 11.12.5).
    unsafe { write_msr(MSR_APIC_BASE, read_msr(MSR_APIC_BASE) | mode) };
}

/// All CPUs that the tables allow, the boot CPU first.
#[must_use]
pub fn cpus(info: &BootInfo) -> ArrayVec<HardwareId, MAX_CPUS> {
    // 255 is everybody in xAPIC mode.
    let limit = if has_x2apic() { u32::MAX } else { 255 };
    let mut cpus = ArrayVec::new();
    cpus.push(info.boot_cpu);
    for apic in machine(info).cpus.iter().filter(|apic| apic.enabled && apic.apic_id < limit) {
        let id = HardwareId(u64::from(apic.apic_id));
        if !cpus.contains(&id) && !cpus.is_full() {
            cpus.push(id);
        }
    }
    cpus
}

/// Pages below 1 MiB for [`start`], kept by the boot code: trampoline and three levels of its page tables; 0 for none.
pub static TRAMPOLINE: AtomicUsize = AtomicUsize::new(0);
pub const TRAMPOLINE_PAGES: usize = 4;

/// For the one CPU that is being started. Each word is written before `wanted`, which the CPU takes.
#[repr(C)]
struct Mailbox {
    /// Its APIC id with bit 32 set; 0 once taken or withdrawn. A CPU that is late finds another's id, and halts.
    wanted: AtomicU64,
    cpu: AtomicPtr<PerCpu>,
    root: AtomicU64,
}

static MAILBOX: Mailbox =
    Mailbox { wanted: AtomicU64::new(0), cpu: AtomicPtr::new(core::ptr::null_mut()), root: AtomicU64::new(0) };
const WANTED: u64 = 1 << 32;

/// INIT, 10 ms, start-up, and after 200 us a second one if need be (SDM vol. 3A, 9.4.4.1; MP specification 1.4, B.4).
///
/// # Errors
/// `AlreadyOn` for a CPU that INIT would reset, `Unsupported` without memory below 1 MiB, `Refused` when the CPU did not react.
pub fn start(hardware: HardwareId, cpu: &'static PerCpu) -> Result<(), StartError> {
    const INIT_NS: u64 = 10_000_000;
    const STARTUP_NS: u64 = 200_000;
    if cpu.online.load(Ordering::Acquire) {
        return Err(StartError::AlreadyOn);
    }
    let page = TRAMPOLINE.load(Ordering::Relaxed);
    if page == 0 {
        return Err(StartError::Unsupported);
    }
    write_trampoline(PhysAddr(page));
    MAILBOX.cpu.store((&raw const *cpu).cast_mut(), Ordering::Relaxed);
    MAILBOX.root.store(paging::kernel_root().0 as u64, Ordering::Relaxed);
    MAILBOX.wanted.store(hardware.0 | WANTED, Ordering::Release);
    irq::send(hardware, irq::INIT);
    timer::delay(INIT_NS);
    for wait_ns in [STARTUP_NS, CPU_START_WAIT_NS] {
        // The vector is the number of the page where it starts.
        irq::send(hardware, irq::STARTUP | (page / PAGE_SIZE) as u32);
        let end = timer::now().0 + wait_ns;
        while timer::now().0 < end {
            if MAILBOX.wanted.load(Ordering::Acquire) == 0 {
                return Ok(());
            }
            relax();
        }
    }
    // Whoever changes the word first has the CPU.
    match MAILBOX.wanted.compare_exchange(hardware.0 | WANTED, 0, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Err(StartError::Refused(0)),
        Err(_) => Ok(()),
    }
}

/// What the trampoline reads, behind its code. The far pointer is [`Words::target`] and [`Words::code`].
#[repr(C, packed)]
struct Words {
    entry: u64,
    gdt: [u64; 2],
    root: u32,
    target: u32,
    code: u16,
    gdt_limit: u16,
    gdt_base: u32,
}

/// Bytes of the trampoline, in real and in 64-bit mode.
const TRAMPOLINE_SIZE: usize = 112;
const TRAMPOLINE_LONG: usize = 96;

/// Fills the low pages: the code with its words, and tables that map it where it lies and the kernel where it is.
fn write_trampoline(page: PhysAddr) {
    let tables = [1, 2, 3].map(|index| page.add(index * PAGE_SIZE));
    let [root, upper, lower] = tables;
    let table = |at: PhysAddr| crate::mm::direct(at).cast::<u64>();
    let words = page.add(TRAMPOLINE_SIZE);
    let content = Words {
        entry: secondary_entry as *const () as u64,
        gdt: [0, KERNEL_CODE_SEGMENT],
        root: root.0 as u32,
        target: page.add(TRAMPOLINE_LONG).0 as u32,
        code: KERNEL_CODE,
        gdt_limit: size_of::<[u64; 2]>() as u16 - 1,
        gdt_base: words.add(offset_of!(Words, gdt)).0 as u32,
    };
    // SAFETY: the four pages are memory that the boot code reserved for this, in the direct map, and no CPU runs
    // there while the mailbox is empty or its only taker waits for INIT. The code has its size, and fits the page with
    // the words, which need no alignment.
    unsafe {
        let code = trampoline as *const () as *const u8;
        core::ptr::copy_nonoverlapping(code, crate::mm::direct(page), TRAMPOLINE_SIZE);
        crate::mm::direct(words).cast::<Words>().write_unaligned(content);
        for empty in tables {
            table(empty).write_bytes(0, PAGE_SIZE / 8);
        }
        core::ptr::copy_nonoverlapping(table(paging::kernel_root()).add(256), table(root).add(256), 256);
        mm::write_entry(table(root), mm::table(upper));
        mm::write_entry(table(upper), mm::table(lower));
        // 2 MiB from 0; execution is wanted here, until the CPU loads the final root.
        mm::write_entry(table(lower), 0x83);
    }
}

/// Where a started CPU begins, in real mode with CS at this page, copied below 1 MiB.
///
/// Paging and protection come on in one write to CR0, which every CPU with 64-bit mode takes; the far jump behind it
/// loads the 64-bit code segment.
#[unsafe(naked)]
unsafe extern "C" fn trampoline() {
    naked_asm!(
        ".code16",
        "7:",
        "cli",
        "cld",
        "lgdtl %cs:{gdt}",
        "movl ${pae}, %eax",
        "movl %eax, %cr4",
        "movl %cs:{root}, %eax",
        "movl %eax, %cr3",
        "movl ${msr_efer}, %ecx",
        "rdmsr",
        "orl ${efer}, %eax",
        "wrmsr",
        "movl %cr0, %eax",
        // Caches are off after INIT (SDM vol. 3A, 10.1.1).
        "andl $0x9fffffff, %eax",
        "orl ${cr0}, %eax",
        "movl %eax, %cr0",
        "ljmpl *%cs:{target}",
        ".org 7b + {long}",
        ".code64",
        "jmpq *7b + {entry}(%rip)",
        ".org 7b + {size}",
        gdt = const TRAMPOLINE_SIZE + offset_of!(Words, gdt_limit),
        root = const TRAMPOLINE_SIZE + offset_of!(Words, root),
        target = const TRAMPOLINE_SIZE + offset_of!(Words, target),
        entry = const TRAMPOLINE_SIZE + offset_of!(Words, entry),
        long = const TRAMPOLINE_LONG,
        size = const TRAMPOLINE_SIZE,
        pae = const CR4_PAE,
        msr_efer = const MSR_EFER,
        efer = const EFER_LONG_MODE | EFER_NO_EXECUTE,
        cr0 = const CR0_PROTECTED | CR0_WRITE_PROTECT | CR0_PAGING,
        options(att_syntax),
    )
}

/// Goes on from the trampoline, in the kernel's half: takes the mailbox if it is for this CPU, final tables, stack.
#[unsafe(naked)]
unsafe extern "C" fn secondary_entry() -> ! {
    naked_asm!(
        "xor eax, eax",
        "cpuid",
        "cmp eax, 0xB",
        "jb 2f",
        "mov eax, 0xB",
        "xor ecx, ecx",
        "cpuid",
        "mov edi, edx",
        "test ebx, ebx",
        "jnz 3f",
        "2:",
        "mov eax, 1",
        "cpuid",
        "shr ebx, 24",
        "mov edi, ebx",
        "3:",
        "bts rdi, 32",
        "lea rbx, [rip + {mailbox}]",
        "mov rax, rdi",
        "cmp [rbx + {wanted}], rax",
        "jne 4f",
        "mov rsi, [rbx + {cpu}]",
        "mov rdx, [rbx + {root}]",
        "xor ecx, ecx",
        "lock cmpxchg [rbx + {wanted}], rcx",
        "jne 4f",
        "mov cr3, rdx",
        "mov rsp, [rsi + {stack_top}]",
        "xor ebp, ebp",
        "mov rdi, rsi",
        "call {secondary}",
        "4:",
        "cli",
        "hlt",
        "jmp 4b",
        mailbox = sym MAILBOX,
        wanted = const offset_of!(Mailbox, wanted),
        cpu = const offset_of!(Mailbox, cpu),
        root = const offset_of!(Mailbox, root),
        stack_top = const offset_of!(PerCpu, stack_top),
        secondary = sym secondary,
    )
}

unsafe extern "C" fn secondary(cpu: *const PerCpu) -> ! {
    // SAFETY: `start` put the address of a `&'static PerCpu` into the mailbox, for this CPU alone.
    install(unsafe { &*cpu });
    smp::secondary_main()
}

/// Soft-off: SLP_TYP of S5 and SLP_EN to the PM1a control register (ACPI 6.5, 4.8.3.2.1 and 16.1.7).
///
/// # Errors
/// `Unsupported` if the tables name no such register or state, or the machine goes on.
pub fn power_off() -> Result<Infallible, abi::Error> {
    const SLEEP_TYPE: u16 = 7 << 10;
    const SLEEP_ENABLE: u16 = 1 << 13;
    const WAIT_NS: u64 = 100_000_000;
    let tables = MACHINE.0.get().ok_or(abi::Error::Unsupported)?;
    let (Some(port), Some(kind)) = (tables.pm1a_control, tables.s5_type) else { return Err(abi::Error::Unsupported) };
    // SAFETY: the tables say that the port is this register; all that runs is meant to end.
    unsafe { outw(port, inw(port) & !SLEEP_TYPE | u16::from(kind) << 10 | SLEEP_ENABLE) };
    timer::delay(WAIT_NS);
    Err(abi::Error::Unsupported)
}

/// By the FADT's reset register, else by the keyboard controller, else by a triple fault.
///
/// # Errors
/// None: the last way always works.
pub fn reboot() -> Result<Infallible, abi::Error> {
    const WAIT_NS: u64 = 10_000_000;
    // SAFETY: the tables name the register and its value (ACPI 6.5, 4.8.3.6); 0xFE pulses the reset line of a PC's
    // keyboard controller; without vectors the next exception resets the CPU. All that runs is meant to end.
    unsafe {
        if let Some((register, value)) = MACHINE.0.get().and_then(|tables| tables.reset.as_ref()) {
            match register.space {
                acpi::SPACE_MEMORY => (crate::mm::map_device(PhysRange::new(register.address as usize, 1)).0
                    as *mut u8)
                    .write_volatile(*value),
                acpi::SPACE_PORTS => outb(register.address as u16, *value),
                _ => {}
            }
            timer::delay(WAIT_NS);
        }
        outb(0x64, 0xFE);
        timer::delay(WAIT_NS);
        let none = TablePointer { limit: 0, base: 0 };
        asm!("lidt [{}]", "int3", in(reg) &raw const none, options(noreturn));
    }
}

//! A CPU: its descriptor tables, its protections, how it is started and how the machine ends.

use super::{MACHINE, irq, machine, mm, timer, trap};
use crate::addr::{HardwareId, PhysAddr, VirtAddr};
use crate::bootinfo::BootInfo;
use crate::config::{CPU_START_WAIT_NS, EXCEPTION_STACK_SIZE, PAGE_SIZE};
use crate::mm::paging;
use crate::panic;
use crate::percpu::PerCpu;
use crate::smp::{self, StartError};
use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use raw_cpuid::{CpuId, ExtendedFeatures, FeatureInfo};
use x86_64::instructions::interrupts::int3;
use x86_64::instructions::port::Port;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr2, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::{GsBase, KernelGsBase, LStar, Msr, SFMask, Star};
use x86_64::registers::rflags::RFlags;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, DescriptorFlags, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

/// A frame pointer points at the caller's, behind which the return address lies (System V ABI, AMD64, 3.2.2).
pub const FRAME_PREVIOUS: isize = 0;
pub const FRAME_RETURN: isize = 8;

// Selectors. `syscall` takes the kernel's stack segment behind its code segment; `sysret` takes the user's code
// segment 16 and its stack segment 8 behind the value in STAR (SDM vol. 2B, SYSCALL, SYSRET), where a 32-bit user
// code segment would be; there is none.
pub const KERNEL_CODE: u16 = 0x08;
pub const USER_DATA: u16 = 0x18 | 3;
pub const USER_CODE: u16 = USER_DATA + 8;

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
pub const MSR_FS_BASE: u32 = 0xC000_0100;
pub const MSR_GS_BASE: u32 = 0xC000_0101;

/// What takes a CPU from 32-bit code to 64-bit code, with paging and write protection.
pub const LONG_EFER: u64 = EferFlags::LONG_MODE_ENABLE.union(EferFlags::NO_EXECUTE_ENABLE).bits();
pub const LONG_CR4: u64 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION.bits();
pub const LONG_CR0: u64 = Cr0Flags::PROTECTED_MODE_ENABLE.union(Cr0Flags::WRITE_PROTECT).union(Cr0Flags::PAGING).bits();

/// Flags that `syscall` clears: TF, IF, DF, IOPL, NT, AC (SDM vol. 1, 3.4.3).
const SYSCALL_MASK: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 18;

/// What a CPU keeps for the hardware to read. The TSS has no I/O bitmap: every port is closed to user mode (SDM
/// vol. 3A, 8.7).
#[derive(Default)]
pub struct ArchCpu(UnsafeCell<(GlobalDescriptorTable, TaskStateSegment)>);

/// # Safety
/// The register exists, and reading it has no effect that somebody minds.
pub unsafe fn read_msr(register: u32) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { Msr::new(register).read() }
}

/// # Safety
/// The register exists and takes this value, and what it changes is the caller's to change.
pub unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { Msr::new(register).write(value) }
}

/// # Safety
/// Reading this port has no effect that somebody minds.
pub unsafe fn inb(port: u16) -> u8 {
    // SAFETY: the caller's promise.
    unsafe { Port::new(port).read() }
}

/// # Safety
/// The port's device is the caller's.
pub unsafe fn outb(port: u16, value: u8) {
    // SAFETY: the caller's promise.
    unsafe { Port::new(port).write(value) }
}

/// The address of the last page fault.
pub fn fault_address() -> VirtAddr {
    VirtAddr(Cr2::read_raw() as usize)
}

/// This CPU's own data; garbage before `install`.
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
    GsBase::write(x86_64::VirtAddr::from_ptr(cpu));
    KernelGsBase::write(x86_64::VirtAddr::zero());
}

/// Descriptor tables, vectors, system-call entry and protections of this CPU.
///
/// # Panics
/// If there is no memory for its exception stacks.
pub fn init_cpu() {
    let cpu = crate::percpu::this();
    let stack = || paging::allocate_stack(EXCEPTION_STACK_SIZE).expect("memory for a CPU's exception stacks").0;
    let address = |stack: usize| x86_64::VirtAddr::new(stack as u64);
    // SAFETY: `arch` belongs to this CPU, which has not told its hardware of the tables yet; they never move.
    let (gdt, tss) = unsafe { &mut *cpu.arch.0.get() };
    tss.privilege_stack_table[0] = address(cpu.stack_top.0);
    for ist in [IST_NMI, IST_DOUBLE_FAULT, IST_MACHINE_CHECK] {
        tss.interrupt_stack_table[usize::from(ist) - 1] = address(stack());
    }
    let [code, data, _, _, task] = [
        Descriptor::kernel_code_segment(),
        Descriptor::kernel_data_segment(),
        Descriptor::user_data_segment(),
        Descriptor::user_code_segment(),
        // SAFETY: the TSS stays where it is.
        unsafe { Descriptor::tss_segment_unchecked(tss) },
    ]
    .map(|segment| gdt.append(segment));
    // SAFETY: the new GDT has a flat code segment at `KERNEL_CODE`, so reloading CS changes nothing but the selector. FS
    // and GS are not loaded, for that would clear their bases.
    unsafe {
        gdt.load_unsafe();
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(SegmentSelector::NULL);
        ES::set_reg(SegmentSelector::NULL);
        load_tss(task);
    }
    trap::load_vectors(cpu.id);
    protect();
    LStar::write(address(trap::syscall_entry as *const () as usize));
    SFMask::write(RFlags::from_bits_retain(SYSCALL_MASK));
    // SAFETY: the entry and the selectors are this kernel's, and EFER keeps what the boot code set.
    unsafe {
        Star::write_raw(USER_DATA - 8, KERNEL_CODE);
        // With FFXSR the kernel would keep no xmm registers (AMD64 vol. 2, 11.4.4).
        Efer::update(|flags| {
            flags.insert(EferFlags::SYSTEM_CALL_EXTENSIONS);
            flags.remove(EferFlags::FAST_FXSAVE_FXRSTOR);
        });
    }
}

/// Control registers, each bit by the feature that CPUID shows (SDM vol. 3A, 2.5).
fn protect() {
    let (base, extended) = (CpuId::new().get_feature_info(), CpuId::new().get_extended_feature_info());
    let base = |has: fn(&FeatureInfo) -> bool| base.as_ref().is_some_and(has);
    let extended = |has: fn(&ExtendedFeatures) -> bool| extended.as_ref().is_some_and(has);
    let features = [
        (base(FeatureInfo::has_de), Cr4Flags::DEBUGGING_EXTENSIONS),
        (base(FeatureInfo::has_mce), Cr4Flags::MACHINE_CHECK_EXCEPTION),
        (base(FeatureInfo::has_pge), Cr4Flags::PAGE_GLOBAL),
        (extended(ExtendedFeatures::has_umip), Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION),
        (extended(ExtendedFeatures::has_smep), Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION),
        (extended(ExtendedFeatures::has_smap), Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION),
    ];
    // With FXSAVE on and TS set every use of x87 or SSE is "device not available", which is what a program is told.
    let always = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE;
    let cr4 = features.iter().filter(|(has, _)| *has).fold(always, |all, (_, flag)| all | *flag);
    let cr0 = Cr0Flags::MONITOR_COPROCESSOR | Cr0Flags::TASK_SWITCHED | Cr0Flags::NUMERIC_ERROR;
    // SAFETY: the CPU has each feature; the kernel runs with the final tables, in which none of its pages is the user's,
    // touches user memory only in `copy_user`, and uses no floating point.
    unsafe {
        Cr4::write_raw(cr4.bits());
        Cr0::write_raw(cr0.bits() | LONG_CR0);
    }
    mm::SMAP.store(cr4.contains(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION), Ordering::Relaxed);
    if base(FeatureInfo::has_mce) && base(FeatureInfo::has_mca) {
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
    panic::heed();
}

/// Sleeps until an interrupt and handles it. `sti` takes effect behind the next instruction, so none can slip in
/// before `hlt` (SDM vol. 2B, STI).
pub fn wait_for_interrupt() {
    // SAFETY: interrupts that come here are handled on this stack and come back; off again afterwards.
    unsafe { asm!("sti", "hlt", "cli") };
}

/// Handles what is pending: `sti` takes effect behind the next instruction.
pub fn serve_interrupts() {
    // SAFETY: as above.
    unsafe { asm!("sti", "nop", "cli") };
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: nothing is left to be done here.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

#[inline(always)]
pub fn frame_pointer() -> usize {
    let frame;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    frame
}

/// The id of this CPU's local APIC: 32 bits where there are so many (SDM vol. 3A, 9.4.5 and leaf 0Bh).
pub fn hardware_id() -> HardwareId {
    let topology = CpuId::new().get_extended_topology_info().and_then(|mut levels| levels.next());
    let short = || CpuId::new().get_feature_info().map_or(0, |features| features.initial_local_apic_id().into());
    HardwareId(topology.map_or_else(short, |level| level.x2apic_id()).into())
}

/// Whether local APICs are reached by MSR, with ids above 8 bits.
pub fn has_x2apic() -> bool {
    CpuId::new().get_feature_info().is_some_and(|features| features.has_x2apic())
}

/// Turns the local APIC on, in the mode that [`has_x2apic`] tells.
pub fn enable_apic() {
    let mode = if has_x2apic() { 3 << 10 } else { 1 << 11 };
    // SAFETY: every x86_64 CPU has an APIC; on, or on in x2APIC mode, is reached from any state that firmware or INIT
    // leaves (SDM vol. 3A, 11.12.5).
    unsafe { write_msr(MSR_APIC_BASE, read_msr(MSR_APIC_BASE) | mode) };
}

/// All CPUs that the tables allow.
pub fn cpus(info: &BootInfo) -> impl Iterator<Item = HardwareId> {
    // 255 is everybody in xAPIC mode.
    let limit = if has_x2apic() { u32::MAX } else { 255 };
    machine(info).cpus.iter().filter(move |id| **id < limit).map(|id| HardwareId(u64::from(*id)))
}

/// Pages below 1 MiB for [`start`], kept by the boot code: trampoline and three levels of its page tables; 0 for none.
pub static TRAMPOLINE: AtomicUsize = AtomicUsize::new(0);
pub const TRAMPOLINE_PAGES: usize = 4;

/// The APIC id of the one CPU that is being started, with bit 32 set; 0 once taken or withdrawn. A CPU that is late
/// finds another's id, and halts.
static WANTED: AtomicU64 = AtomicU64::new(0);
/// What that CPU is to be; written before `WANTED`.
static STARTED: AtomicPtr<PerCpu> = AtomicPtr::new(core::ptr::null_mut());

/// INIT, 10 ms, start-up, and after 200 us a second one if need be (SDM vol. 3A, 9.4.4.1; MP specification 1.4, B.4).
///
/// # Errors
/// `Unsupported` without memory below 1 MiB, `Refused` when the CPU did not react.
pub fn start(hardware: HardwareId, cpu: &'static PerCpu) -> Result<(), StartError> {
    const INIT_NS: u64 = 10_000_000;
    const STARTUP_NS: u64 = 200_000;
    let page = TRAMPOLINE.load(Ordering::Relaxed);
    if page == 0 {
        return Err(StartError::Unsupported);
    }
    write_trampoline(PhysAddr(page));
    let wanted = hardware.0 | 1 << 32;
    STARTED.store((&raw const *cpu).cast_mut(), Ordering::Relaxed);
    WANTED.store(wanted, Ordering::Release);
    irq::send(hardware, irq::INIT);
    timer::delay(INIT_NS);
    for wait_ns in [STARTUP_NS, CPU_START_WAIT_NS] {
        // The vector is the number of the page where it starts.
        irq::send(hardware, irq::STARTUP | (page / PAGE_SIZE) as u32);
        if smp::wait_until(|| WANTED.load(Ordering::Acquire) == 0, wait_ns) {
            return Ok(());
        }
    }
    // Whoever changes the word first has the CPU.
    let withdrawn = WANTED.compare_exchange(wanted, 0, Ordering::AcqRel, Ordering::Acquire).is_ok();
    if withdrawn { Err(StartError::Refused(0)) } else { Ok(()) }
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
        gdt: [0, DescriptorFlags::KERNEL_CODE64.bits()],
        root: root.0 as u32,
        target: page.add(TRAMPOLINE_LONG).0 as u32,
        code: KERNEL_CODE,
        gdt_limit: size_of::<[u64; 2]>() as u16 - 1,
        gdt_base: words.add(offset_of!(Words, gdt)).0 as u32,
    };
    // SAFETY: the four pages are memory that the boot code reserved for this, in the direct map, and no CPU runs
    // there while no CPU is wanted or the one that is waits for INIT. The code has its size, and fits the page with
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
        pae = const LONG_CR4,
        msr_efer = const MSR_EFER,
        efer = const LONG_EFER,
        cr0 = const LONG_CR0,
        options(att_syntax),
    )
}

/// Goes on from the trampoline, in the kernel's half: takes what is there if it is for this CPU, and the stack.
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
        "mov rax, rdi",
        "cmp [rip + {wanted}], rax",
        "jne 4f",
        "mov rdi, [rip + {started}]",
        "xor ecx, ecx",
        "lock cmpxchg [rip + {wanted}], rcx",
        "jne 4f",
        "mov rsp, [rdi + {stack_top}]",
        "xor ebp, ebp",
        "call {secondary}",
        "4:",
        "cli",
        "hlt",
        "jmp 4b",
        wanted = sym WANTED,
        started = sym STARTED,
        stack_top = const offset_of!(PerCpu, stack_top),
        secondary = sym secondary,
    )
}

unsafe extern "C" fn secondary(cpu: *const PerCpu) -> ! {
    mm::activate_kernel(paging::kernel_root());
    // SAFETY: `start` put the address of a `&'static PerCpu` into `STARTED`, for this CPU alone.
    install(unsafe { &*cpu });
    smp::secondary_main()
}

/// Soft-off: SLP_TYP of S5 and SLP_EN to the PM1a control register (ACPI 6.5, 4.8.3.2.1 and 16.1.7).
///
/// `Unsupported` if the tables name no such register or state, or the machine goes on.
pub fn power_off() -> abi::Error {
    const SLEEP_TYPE: u16 = 7 << 10;
    const SLEEP_ENABLE: u16 = 1 << 13;
    const WAIT_NS: u64 = 100_000_000;
    let found = MACHINE.get().and_then(|tables| tables.pm1a_control.zip(tables.s5_type));
    let Some((port, kind)) = found else { return abi::Error::Unsupported };
    let mut port = Port::<u16>::new(port);
    // SAFETY: the tables say that the port is this register; all that runs is meant to end.
    unsafe {
        let rest = port.read() & !SLEEP_TYPE;
        port.write(rest | u16::from(kind) << 10 | SLEEP_ENABLE);
    }
    timer::delay(WAIT_NS);
    abi::Error::Unsupported
}

/// By the FADT's reset register where it is a port, else by the keyboard controller, else by a triple fault, which always
/// works.
pub fn reboot() -> abi::Error {
    const WAIT_NS: u64 = 10_000_000;
    // SAFETY: the tables name the register and its value (ACPI 6.5, 4.8.3.6); 0xFE pulses the reset line of a PC's
    // keyboard controller; without vectors the next exception resets the CPU. All that runs is meant to end.
    unsafe {
        if let Some((port, value)) = MACHINE.get().and_then(|tables| tables.reset) {
            outb(port, value);
            timer::delay(WAIT_NS);
        }
        outb(0x64, 0xFE);
        timer::delay(WAIT_NS);
        lidt(&DescriptorTablePointer { limit: 0, base: x86_64::VirtAddr::zero() });
    }
    int3();
    halt()
}

//! From the exception level where a CPU starts down to EL1, and what is left at EL2.
//!
//! Entered at EL2, a CPU keeps a stub there whose one call, HVC, installs
//! vectors, so that a hypervisor can come later without a reboot. Entered at
//! EL3, there is no firmware, and only the secure state has all of the
//! interrupt controller: the kernel is secure EL1 then, which has no EL2.

use crate::mm::paging::{image_address, symbol};
use core::arch::{asm, global_asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};

/// `SCTLR_EL1` with translation, caches and alignment checks off: the bits that are one (D17.2.118).
pub(super) const SCTLR_OFF: u64 = 0x30D0_0980;
/// `SCTLR_EL2` likewise (D17.2.119).
const SCTLR_EL2_OFF: u64 = 0x30C5_0830;
/// `HCR_EL2`: EL1 is AArch64 (RW), pointer authentication does not trap (API, APK), nothing else is EL2's (D17.2.48).
const HCR: u64 = 1 << 31 | 1 << 41 | 1 << 40;
/// `SCR_EL3`: secure, EL1 is AArch64 and takes its own interrupts, no pointer authentication traps; bits 4 and 5 are one
/// (D17.2.117).
const SCR: u64 = 3 << 4 | 1 << 10 | 1 << 16 | 1 << 17;
/// All interrupts masked, on the level's own stack pointer (C5.2.19).
const SPSR_EL1H: u64 = 0x3C5;
/// `CPTR_EL2`: bits that are one, with no trap but SVE's (D17.2.31); the kernel uses no such unit.
const CPTR: u64 = 0x33FF;
/// Enabled for the lower level, too; register interface on; no bypass (IHI 0069, ICC_SRE_EL2).
const ICC_SRE: u64 = 0xF;

/// Class of an HVC in AArch64 state (D17.2.37).
const CLASS_HVC: u64 = 0x16;
/// Vendor-specific hypervisor service, number 0x5155 (SMCCC, DEN 0028, 2.5).
const SET_VECTORS: u64 = 0xC600_5155;

/// The level at which the boot CPU was entered; other CPUs start at the same.
pub(super) static ENTRY_LEVEL: AtomicU64 = AtomicU64::new(0);

pub(super) fn entry_level() -> u64 {
    ENTRY_LEVEL.load(Ordering::Relaxed)
}

/// Has the stub install its own vectors once more, which shows that it is there.
///
/// # Panics
/// If EL2 was ours and its stub does not answer.
pub(super) fn check() {
    if entry_level() == 2 {
        let (vectors, mut status) = (image_address(symbol!(stub_vectors)), SET_VECTORS);
        // SAFETY: this CPU came from EL2, so the stub below answers; it changes registers of SMCCC only.
        unsafe {
            asm!("hvc #0", inout("x0") status, inout("x1") vectors.0 => _, out("x2") _, out("x3") _, options(nostack))
        };
        assert!(status == 0, "the stub at EL2 refused vectors at {vectors:?}");
    }
}

/// Goes on behind its call at EL1, without translation; gives in `x9` the level where it began. Uses `x10` and `x11`.
///
/// Floating point traps and data may be unaligned from here on, before any compiled code runs.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn to_el1() {
    naked_asm!(
        "msr daifset, #15",
        "mrs x9, currentel",
        "lsr x9, x9, #2",
        "ldr x10, ={sctlr}",
        "msr sctlr_el1, x10",
        "msr cpacr_el1, xzr",
        "isb",
        "cmp x9, #2",
        "b.eq 2f",
        "b.hi 3f",
        "ret",

        "3:",
        "ldr x10, ={scr}",
        "msr scr_el3, x10",
        "msr cptr_el3, xzr",
        "msr mdcr_el3, xzr",
        "isb",
        "mrs x10, id_aa64pfr0_el1",
        "ubfx x10, x10, #24, #4",
        "cbz x10, 4f",
        "mov x10, #{icc_sre}",
        "msr S3_6_C12_C12_5, x10", // ICC_SRE_EL3
        "isb",
        "4:",
        "mov x10, #{spsr_el1h}",
        "msr spsr_el3, x10",
        "msr elr_el3, x30",
        "eret",

        "2:",
        "ldr x10, ={sctlr_el2}",
        "msr sctlr_el2, x10",
        "ldr x10, ={hcr}",
        "msr hcr_el2, x10",
        "adrp x10, stub_vectors",
        "add x10, x10, :lo12:stub_vectors",
        "msr vbar_el2, x10",
        "isb",
        "mov x10, #{cptr}",
        "msr cptr_el2, x10",
        "msr hstr_el2, xzr",
        "msr vttbr_el2, xzr",
        "mrs x10, midr_el1",
        "msr vpidr_el2, x10",
        "mrs x10, mpidr_el1",
        "msr vmpidr_el2, x10",
        // Both counters and the physical timer are EL1's, and the virtual counter is the physical one.
        "mov x10, #3",
        "msr cnthctl_el2, x10",
        "msr cntvoff_el2, xzr",
        // Every event counter is EL1's (MDCR_EL2.HPMN), where there are any.
        "mov x10, xzr",
        "mrs x11, id_aa64dfr0_el1",
        "ubfx x11, x11, #8, #4",
        "sub x11, x11, #1",
        "cmp x11, #0xe",
        "b.hs 6f",
        "mrs x10, pmcr_el0",
        "ubfx x10, x10, #11, #5",
        "6:",
        "msr mdcr_el2, x10",
        // No fine-grained traps: HFGRTR_EL2, HFGWTR_EL2, HFGITR_EL2.
        "mrs x10, id_aa64mmfr0_el1",
        "ubfx x10, x10, #56, #4",
        "cbz x10, 7f",
        "msr S3_4_C1_C1_4, xzr",
        "msr S3_4_C1_C1_5, xzr",
        "msr S3_4_C1_C1_6, xzr",
        "7:",
        "mrs x10, id_aa64pfr0_el1",
        "ubfx x10, x10, #24, #4",
        "cbz x10, 8f",
        "mov x10, #{icc_sre}",
        "msr S3_4_C12_C9_5, x10", // ICC_SRE_EL2
        "isb",
        "msr S3_4_C12_C11_0, xzr", // ICH_HCR_EL2
        "8:",
        "mov x10, #{spsr_el1h}",
        "msr spsr_el2, x10",
        "msr elr_el2, x30",
        "eret",
        sctlr = const SCTLR_OFF,
        scr = const SCR,
        icc_sre = const ICC_SRE,
        spsr_el1h = const SPSR_EL1H,
        sctlr_el2 = const SCTLR_EL2_OFF,
        hcr = const HCR,
        cptr = const CPTR,
    )
}

// The vectors at EL2 (D1.3.1.2): an HVC from EL1 is at 0x400, and nothing else is routed here.
global_asm!(
    ".section .vectors, \"ax\"",
    ".balign 0x800",
    ".global stub_vectors",
    "stub_vectors:",
    ".rept 8",
    ".balign 0x80",
    "b .",
    ".endr",
    ".balign 0x80",
    "mrs x2, esr_el2",
    "lsr x2, x2, #26",
    "cmp x2, #{hvc}",
    "b.ne .",
    "ldr x3, ={set_vectors}",
    "cmp x0, x3",
    "mov x0, #-1", // SMCCC: not supported
    "b.ne 2f",
    "msr vbar_el2, x1",
    "isb",
    "mov x0, xzr",
    "2:",
    "eret",
    ".rept 7",
    ".balign 0x80",
    "b .",
    ".endr",
    ".previous",
    hvc = const CLASS_HVC,
    set_vectors = const SET_VECTORS,
);

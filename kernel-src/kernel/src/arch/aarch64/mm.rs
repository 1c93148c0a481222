//! Translation tables (Arm ARM D8: VMSAv8-64, 4 KiB granule, 48 bits), TLB,
//! caches, and the way to user memory.
//!
//! `TTBR1_EL1` holds the kernel's root for ever. `TTBR0_EL1` holds a program's
//! root, or an empty table while none runs. Programs share one ASID, of which
//! a CPU forgets everything when it changes to another program.

use super::{read_register, write_register};
use crate::addr::{PhysAddr, VirtAddr};
use crate::mm::MapFlags;
use crate::mm::paging::image_address;
pub use crate::mm::user::fixup;
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const VALID: u64 = 1;
/// A table, or at level 0 a page; without it a block (D8.3.1).
const TABLE: u64 = 1 << 1;
const ATTRIBUTE_DEVICE: u64 = 1 << 2;
const USER: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
const KERNEL_EXECUTE_NEVER: u64 = 1 << 53;
const USER_EXECUTE_NEVER: u64 = 1 << 54;
const ADDRESS: u64 = 0x0000_FFFF_FFFF_F000;

/// `MAIR_EL1`: 0 is normal write-back memory, 1 is Device-nGnRE (D17.2.97).
pub(super) const MAIR: u64 = 0x04_FF;
/// `TCR_EL1` without the physical size: 48 bits each way, walks write-back and inner shareable, 4 KiB (D17.2.131).
pub(super) const TCR: u64 = 16 | 0b11_01_01 << 8 | 16 << 16 | 0b11_01_01 << 24 | 2 << 30;
/// The ASID that all programs share; the kernel's is 0.
const SHARED_ASID: u64 = 0;

/// A program's root table has nothing of the kernel.
pub const SHARED_ROOT: bool = false;

/// Where the direct map begins, and the first address that programs cannot have.
pub const fn layout() -> (VirtAddr, VirtAddr) {
    (VirtAddr(0xFFFF_8000_0000_0000), VirtAddr(1 << 47))
}

/// Four levels for 48 bits, which every AArch64 CPU has.
pub const fn levels() -> usize {
    4
}

/// An entry that maps `address`.
pub fn leaf(address: PhysAddr, flags: MapFlags, level: usize) -> u64 {
    let bit = |wanted: bool, bits: u64| if wanted { bits } else { 0 };
    let never_user = bit(!(flags.user && flags.execute), USER_EXECUTE_NEVER);
    let never_kernel = bit(flags.user || !flags.execute, KERNEL_EXECUTE_NEVER);
    let rights = bit(flags.user, USER | NOT_GLOBAL) | bit(!flags.write, READ_ONLY) | never_user | never_kernel;
    let kind = bit(level == 0, TABLE) | bit(flags.device, ATTRIBUTE_DEVICE);
    address.0 as u64 | VALID | INNER_SHAREABLE | ACCESSED | rights | kind
}

/// An entry that points to a table of the next level.
pub fn table(address: PhysAddr) -> u64 {
    address.0 as u64 | VALID | TABLE
}

pub const fn is_leaf(entry: u64, level: usize) -> bool {
    level == 0 || entry & TABLE == 0
}

pub const fn address(entry: u64) -> PhysAddr {
    PhysAddr((entry & ADDRESS) as usize)
}

pub const fn flags(entry: u64) -> MapFlags {
    let (user, write) = (entry & USER != 0, entry & READ_ONLY == 0);
    let execute = entry & if user { USER_EXECUTE_NEVER } else { KERNEL_EXECUTE_NEVER } == 0;
    MapFlags { read: true, write, execute, user, device: entry & ATTRIBUTE_DEVICE != 0 }
}

/// Writes an entry and makes it visible to table walks (D8.14.1: DSB for the walk, ISB for this CPU's next instructions).
/// Where an entry was valid before, a flush must follow.
///
/// # Safety
/// `entry` is one of a table of which the caller is the only writer, and `value` maps nothing that breaks Rust's rules.
pub unsafe fn write_entry(entry: *mut u64, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        entry.write_volatile(value);
        asm!("dsb ishst", "isb", options(nostack, preserves_flags));
    }
}

/// What `TTBR0_EL1` holds while no program runs.
#[repr(C, align(4096))]
struct Empty([u64; 512]);
static EMPTY: Empty = Empty([0; 512]);

pub(super) fn empty_root() -> PhysAddr {
    image_address(&raw const EMPTY as usize)
}

fn set_user_root(value: u64) {
    // SAFETY: no Rust object lies in the lower half; kernel code, stack and data stay as they are.
    unsafe {
        write_register!("ttbr0_el1", value);
        asm!("isb", options(nostack, preserves_flags));
    }
}

/// Only the kernel from now on. The first call moves from the boot tables to `root`.
pub fn activate_kernel(root: PhysAddr) {
    if read_register!("ttbr1_el1") & ADDRESS != root.0 as u64 {
        let switch = image_address(replace_kernel_root as *const () as usize);
        // SAFETY: the boot tables still map the image one to one, so the function is found at its physical address; it
        // uses no stack, and `root` maps the code that it returns to and all that is in use.
        unsafe {
            let switch = core::mem::transmute::<usize, unsafe extern "C" fn(PhysAddr, PhysAddr)>(switch.0);
            switch(root, empty_root());
        }
        set_user_root(empty_root().0 as u64);
        flush_all();
    } else {
        set_user_root(empty_root().0 as u64);
    }
}

/// Page sizes differ between the two roots, so nothing of the old one may be in the TLB when the new one is walked:
/// break before make (D8.14.1), while running from the lower half.
///
/// # Safety
/// As `activate_kernel` says.
#[unsafe(naked)]
unsafe extern "C" fn replace_kernel_root(root: PhysAddr, empty: PhysAddr) {
    naked_asm!("msr ttbr1_el1, x1", "isb", "tlbi vmalle1", "dsb nsh", "isb", "msr ttbr1_el1, x0", "isb", "ret",)
}

/// A bit for each ASID in use; the first is the kernel's, which keeps nothing under it, and of those who find no other.
static ASIDS: [AtomicU64; 4] = [AtomicU64::new(1), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)];
const ASID_SHIFT: u32 = 48;

/// What `activate_user` takes: a value of `TTBR0_EL1`, with an ASID of eight bits, which all CPUs have.
pub fn user_root(root: PhysAddr) -> PhysAddr {
    let claim = |word: &AtomicU64| {
        word.fetch_update(Ordering::Acquire, Ordering::Relaxed, |used| (used != u64::MAX).then(|| used | (used + 1)))
            .ok()
    };
    let own = (0..).zip(&ASIDS).find_map(|(index, word)| Some(index * 64 + u64::from(claim(word)?.trailing_ones())));
    PhysAddr(root.0 | (own.map_or(SHARED_ASID, |asid| asid << ASID_SHIFT)) as usize)
}

/// The tables of `root` end: every CPU forgets what it has kept of them, before the ASID is anybody else's.
pub fn forget_user(root: PhysAddr) {
    let asid = root.0 as u64 >> ASID_SHIFT << ASID_SHIFT;
    // SAFETY: dropping translations changes nothing but time.
    unsafe { asm!("dsb ishst", "tlbi aside1is, {}", "dsb ish", in(reg) asid, options(nostack, preserves_flags)) };
    let asid = asid >> ASID_SHIFT;
    if asid != SHARED_ASID >> ASID_SHIFT {
        ASIDS[asid as usize / 64].fetch_and(!(1 << (asid % 64)), Ordering::Release);
    }
}

/// Whether it costs no more to activate a root again than to ask whether it is active.
pub const SWITCHES_CHEAPLY: bool = true;

/// Programs' addresses go through `root`. What another program left under the shared ASID is forgotten while no
/// program's table is active, so that no walk can bring it back.
#[inline(always)] // it is part of every switch
pub fn activate_user(root: PhysAddr) {
    if root.0 as u64 >> ASID_SHIFT == SHARED_ASID >> ASID_SHIFT {
        set_user_root(empty_root().0 as u64);
        // SAFETY: as in `forget_user`.
        unsafe { asm!("tlbi aside1, {}", "dsb nsh", in(reg) SHARED_ASID, options(nostack, preserves_flags)) };
    }
    set_user_root(root.0 as u64);
}

/// Forgets everything, on every CPU, since the instruction can.
pub fn flush_all() {
    // SAFETY: as in `activate_user`.
    unsafe { asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Where the lines of the data caches begin that have part of a range, by the smallest line (`CTR_EL0.DminLine`).
fn lines(start: VirtAddr, size: usize) -> impl Iterator<Item = usize> {
    let line = 4 << (read_register!("ctr_el0") >> 16 & 0xF);
    (start.0 & !(line - 1)..start.0 + size).step_by(line)
}

/// Writes data through to where instruction fetch and table walks of all CPUs see it, and drops fetched instructions
/// everywhere (B2.7.4.2). All of the instruction cache goes, since it may hold the page under another address.
pub fn code_written(start: VirtAddr, size: usize) {
    for at in lines(start, size) {
        // SAFETY: cleaning changes no data.
        unsafe { asm!("dc cvau, {}", in(reg) at, options(nostack, preserves_flags)) };
    }
    // SAFETY: as above.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Writes data through to memory, for a CPU that runs with its caches off (D7.5.9).
pub(super) fn clean_to_memory(start: VirtAddr, size: usize) {
    for at in lines(start, size) {
        // SAFETY: cleaning changes no data.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
    }
    // SAFETY: as above.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Whether the CPUs have privileged access never (FEAT_PAN); set by the first that initialises itself.
pub(super) static PAN: AtomicBool = AtomicBool::new(false);

/// Copies; false if a byte could not be reached.
///
/// A fault here is the only exception in the kernel that comes back, so this alone keeps the two registers that
/// every exception overwrites, and trap stubs need not.
///
/// # Safety
/// One side is kernel memory of `bytes` bytes that the caller may read or write; the other may be anything outside
/// the kernel's own data.
#[unsafe(naked)]
pub unsafe extern "C" fn copy_user(to: *mut u8, from: *const u8, bytes: usize) -> bool {
    naked_asm!(
        "mrs x3, elr_el1",
        "mrs x4, spsr_el1",
        "adrp x5, {pan}",
        "ldrb w5, [x5, :lo12:{pan}]",
        "cbz w5, 2f",
        ".inst 0xd500409f", // msr pan, #0
        "2:",
        "subs x2, x2, #8",
        "b.lo 4f",
        "3:",
        "ldr x6, [x1], #8",
        "str x6, [x0], #8",
        "subs x2, x2, #8",
        "b.hs 3b",
        "4:",
        "adds x2, x2, #8",
        "b.eq 6f",
        "5:",
        "ldrb w6, [x1], #1",
        "strb w6, [x0], #1",
        "subs x2, x2, #1",
        "b.ne 5b",
        "6:",
        "mov w0, #1",
        "7:",
        "cbz w5, 8f",
        ".inst 0xd500419f", // msr pan, #1
        "8:",
        "ret",
        // A fault goes on here.
        ".global copy_user_end",
        "copy_user_end:",
        "msr elr_el1, x3",
        "msr spsr_el1, x4",
        "mov w0, wzr",
        "b 7b",
        pan = sym PAN,
    )
}

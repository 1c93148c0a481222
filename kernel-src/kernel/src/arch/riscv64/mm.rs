//! Page tables of Sv39 and Sv48 (Privileged 4.4, 4.5), and the one way to user memory.

use super::{cpu, read_csr};
use crate::addr::{PhysAddr, VirtAddr};
use crate::mm::MapFlags;
pub use crate::mm::user::fixup;
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};

/// Modes of `satp` (Privileged 4.1.11).
pub const SV39: u64 = 8 << 60;
pub const SV48: u64 = 9 << 60;
const MODE_MASK: u64 = 0xF << 60;

pub const SHARED_ROOT: bool = true;

// Bits of an entry (Privileged 4.4.1).
const VALID: u64 = 1 << 0;
const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 2;
const EXECUTE: u64 = 1 << 3;
const USER: u64 = 1 << 4;
const GLOBAL: u64 = 1 << 5;
/// Set beforehand: hardware may fault instead of setting them (Svade).
const ACCESSED_AND_DIRTY: u64 = 1 << 6 | 1 << 7;
/// For software (RSW): device registers. What is cached is the memory's own attribute (Privileged 3.6).
const DEVICE: u64 = 1 << 8;
const FRAME_SHIFT: usize = 10;
const FRAME_MASK: u64 = (1 << 44) - 1;

/// Flags of the boot tables, which allow everything.
pub const BOOT_LEAF: u64 = VALID | READ | WRITE | EXECUTE | ACCESSED_AND_DIRTY;

static MODE: AtomicU64 = AtomicU64::new(0);
/// Counts writes of user code, so that each CPU knows when its instruction cache may be stale.
static CODE_GENERATION: AtomicU64 = AtomicU64::new(0);

/// Keeps the mode that boot code has found.
pub fn note_mode() {
    MODE.store(read_csr!("satp") & MODE_MASK, Ordering::Relaxed);
}

/// Where the direct map begins, and the first address that programs cannot have.
pub fn layout() -> (VirtAddr, VirtAddr) {
    match levels() {
        3 => (VirtAddr(0xFFFF_FFC0_0000_0000), VirtAddr(1 << 38)),
        _ => (VirtAddr(0xFFFF_8000_0000_0000), VirtAddr(1 << 47)),
    }
}

pub fn levels() -> usize {
    if MODE.load(Ordering::Relaxed) == SV48 { 4 } else { 3 }
}

pub fn leaf(to: PhysAddr, flags: MapFlags, _level: usize) -> u64 {
    let bit = |set: bool, bit: u64| if set { bit } else { 0 };
    let frame = (to.page_number() as u64) << FRAME_SHIFT;
    // What is writable must be readable (Privileged table 4.5).
    let rights = bit(flags.read || flags.write, READ) | bit(flags.write, WRITE) | bit(flags.execute, EXECUTE);
    frame | VALID | rights | if flags.user { USER } else { GLOBAL } | bit(flags.device, DEVICE) | ACCESSED_AND_DIRTY
}

pub fn table(next: PhysAddr) -> u64 {
    (next.page_number() as u64) << FRAME_SHIFT | VALID
}

pub fn is_leaf(entry: u64, _level: usize) -> bool {
    entry & (READ | WRITE | EXECUTE) != 0
}

pub fn address(entry: u64) -> PhysAddr {
    PhysAddr(((entry >> FRAME_SHIFT & FRAME_MASK) as usize) << 12)
}

pub fn flags(entry: u64) -> MapFlags {
    let has = |bit| entry & bit != 0;
    MapFlags { read: has(READ), write: has(WRITE), execute: has(EXECUTE), user: has(USER), device: has(DEVICE) }
}

/// Writes an entry. The fence orders it before walks by this hart that come later: an invalid entry may be
/// cached too (Privileged 4.2.1). Other harts see it in the order of the lock that the caller holds.
///
/// # Safety
/// `entry` lies in a page table of which the caller is the only writer, and nothing that is in use is unmapped.
pub unsafe fn write_entry(entry: *mut u64, value: u64) {
    // SAFETY: the caller's promise; volatile, for the MMU reads it.
    unsafe { entry.write_volatile(value) };
    flush_all();
}

pub fn satp(root: PhysAddr) -> u64 {
    MODE.load(Ordering::Relaxed) | root.page_number() as u64
}

/// Switches to tables that hold the kernel's mappings and nothing else.
pub fn activate_kernel(root: PhysAddr) {
    // SAFETY: every root of the kernel maps its image, stacks and direct map alike; the fence covers entries
    // that other roots left behind (Privileged 4.2.1).
    unsafe { asm!("csrw satp, {}", "sfence.vma", in(reg) satp(root), options(nostack)) };
}

/// What `activate_user` takes: a value of `satp`.
pub fn user_root(root: PhysAddr) -> PhysAddr {
    PhysAddr(satp(root) as usize)
}

/// The tables of `_root` end; no CPU has kept anything of them.
pub const fn forget_user(_root: PhysAddr) {}

pub const SWITCHES_CHEAPLY: bool = false;

/// Switches to a program's tables. Mappings of the kernel are global and stay; the program's are of ASID 0.
pub fn activate_user(root: PhysAddr) {
    // SAFETY: as in `activate_kernel`: a user's root shares the kernel's half.
    unsafe { asm!("csrw satp, {0}", "sfence.vma zero, {1}", in(reg) root.0, in(reg) 0, options(nostack)) };
    let written = CODE_GENERATION.load(Ordering::Acquire);
    if cpu::this_arch().code_generation.get() != written {
        cpu::this_arch().code_generation.set(written);
        // SAFETY: orders this hart's fetches after all writes that it has seen (Unprivileged, Zifencei).
        unsafe { asm!("fence.i", options(nostack)) };
    }
}

pub fn flush_all() {
    // SAFETY: forgets what can be read again from the tables.
    unsafe { asm!("sfence.vma", options(nostack)) };
}

/// Makes code written at `_at` visible to fetches: here at once, elsewhere when a CPU next turns to a program, which
/// it does before it can run the new code.
pub fn code_written(_at: VirtAddr, _size: usize) {
    CODE_GENERATION.fetch_add(1, Ordering::Release);
    // SAFETY: as in `activate_user`.
    unsafe { asm!("fence.i", options(nostack)) };
}

/// Copies between user and kernel memory; false if an access faulted. The only code that runs with `sstatus.SUM`.
///
/// # Safety
/// The side in the kernel's half is the caller's, for `bytes`; or it is only read, and what it holds does not matter.
#[unsafe(naked)]
pub unsafe extern "C" fn copy_user(to: *mut u8, from: *const u8, bytes: usize) -> bool {
    naked_asm!(
        ".global copy_user_end",
        "li t0, {sum}",
        "csrs sstatus, t0",
        "or t1, a0, a1",
        "andi t1, t1, 7",
        "bnez t1, 3f",
        "li t2, 8",
        "2:",
        "bltu a2, t2, 3f",
        "ld t1, 0(a1)",
        "sd t1, 0(a0)",
        "addi a1, a1, 8",
        "addi a0, a0, 8",
        "addi a2, a2, -8",
        "j 2b",
        "3:",
        "beqz a2, 4f",
        "lbu t1, 0(a1)",
        "sb t1, 0(a0)",
        "addi a1, a1, 1",
        "addi a0, a0, 1",
        "addi a2, a2, -1",
        "j 3b",
        "4:",
        "csrc sstatus, t0",
        "li a0, 1",
        "ret",
        // A fault goes on here, with `t0` as it was.
        "copy_user_end:",
        "csrc sstatus, t0",
        "li a0, 0",
        "ret",
        sum = const cpu::SUM,
    )
}

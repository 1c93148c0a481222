//! Page-table entries (Intel SDM vol. 3A, 4.5), TLB, and the way to user memory.

use crate::addr::{PhysAddr, VirtAddr};
use crate::mm::MapFlags;
pub use crate::mm::user::fixup;
use core::arch::{asm, naked_asm};
use core::sync::atomic::AtomicBool;
use x86_64::instructions::tlb;
use x86_64::registers::control::{Cr4, Cr4Flags};

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Write-through and cache-disable: entry 3 of the PAT as reset leaves it, strong uncacheable (SDM vol. 3A, 12.12.4).
const UNCACHEABLE: u64 = 3 << 3;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// A user's root table holds the kernel's half too.
pub const SHARED_ROOT: bool = true;

/// Where the direct map begins, and the first address that programs cannot have.
pub const fn layout() -> (VirtAddr, VirtAddr) {
    (VirtAddr(0xFFFF_8000_0000_0000), VirtAddr(1 << 47))
}

/// Four levels: every x86_64 CPU has them.
pub const fn levels() -> usize {
    4
}

/// An entry that maps `address`.
pub fn leaf(address: PhysAddr, flags: MapFlags, level: usize) -> u64 {
    // The CPU need never set what is set here; a user page's bits are told by the CPU.
    let owner = if flags.user { USER } else { GLOBAL | ACCESSED | DIRTY };
    [(flags.write, WRITE), (!flags.execute, NO_EXECUTE), (flags.device, UNCACHEABLE), (level > 0, LARGE)]
        .iter()
        .fold(address.0 as u64 | PRESENT | owner, |entry, (wanted, bits)| if *wanted { entry | bits } else { entry })
}

/// An entry that points at a table; leaves decide what is allowed.
pub const fn table(address: PhysAddr) -> u64 {
    address.0 as u64 | PRESENT | WRITE | USER
}

pub const fn is_leaf(entry: u64, level: usize) -> bool {
    level == 0 || entry & LARGE != 0
}

pub const fn address(entry: u64) -> PhysAddr {
    PhysAddr((entry & ADDRESS) as usize)
}

pub const fn flags(entry: u64) -> MapFlags {
    MapFlags {
        read: true,
        write: entry & WRITE != 0,
        execute: entry & NO_EXECUTE == 0,
        user: entry & USER != 0,
        device: entry & UNCACHEABLE != 0,
    }
}

/// The one page-table write.
///
/// The table walker snoops caches and stores are seen in order, so no barrier follows; what an
/// entry said before stays in the TLB until it is flushed (SDM vol. 3A, 4.10.4), and an entry
/// that was not present is never cached (4.10.2.3).
///
/// # Safety
/// `entry` is an entry of a page table that nobody else writes now, and `value` maps nothing that
/// breaks somebody's claim to memory.
pub unsafe fn write_entry(entry: *mut u64, value: u64) {
    // SAFETY: the caller's promise; volatile, for the walker reads it behind the compiler's back.
    unsafe { entry.write_volatile(value) };
}

/// Switches to the final kernel tables, or to a program's, which hold the kernel's half too. Writing CR3 drops all
/// translations but global ones (SDM vol. 3A, 4.10.4.1).
pub fn activate_kernel(root: PhysAddr) {
    // SAFETY: the core gives roots whose kernel half maps the code and stack in use.
    unsafe { asm!("mov cr3, {}", in(reg) root.0, options(nostack, preserves_flags)) };
}
pub use activate_kernel as activate_user;
pub const SWITCHES_CHEAPLY: bool = false;

/// What `activate_user` takes.
pub const fn user_root(root: PhysAddr) -> PhysAddr {
    root
}

/// The tables of `_root` end; no CPU has kept anything of them.
pub const fn forget_user(_root: PhysAddr) {}

/// Forgets everything on this CPU, global translations too: clearing CR4.PGE does (SDM vol. 3A, 4.10.4.1).
pub fn flush_all() {
    let cr4 = Cr4::read_raw();
    // SAFETY: PGE decides only how long translations are kept.
    unsafe { Cr4::write_raw(cr4 & !Cr4Flags::PAGE_GLOBAL.bits()) };
    // Where it was off, this drops the rest.
    tlb::flush_all();
    // SAFETY: as it was.
    unsafe { Cr4::write_raw(cr4) };
}

/// Instruction caches are coherent; a serialising instruction drops what was fetched before
/// (SDM vol. 3A, 8.1.3 and 8.3). Other CPUs come to the new code by an `iret`, which serialises.
pub fn code_written(_start: VirtAddr, _size: usize) {
    let _ = raw_cpuid::cpuid!(0);
}

/// Whether `stac` and `clac` exist; set by the first CPU that initialises itself.
pub(super) static SMAP: AtomicBool = AtomicBool::new(false);

/// Copies; false if a byte could not be reached.
///
/// # Safety
/// One side is kernel memory of `bytes` bytes that the caller may read or write; the other may be anything outside
/// the kernel's own data.
#[unsafe(naked)]
pub unsafe extern "C" fn copy_user(to: *mut u8, from: *const u8, bytes: usize) -> bool {
    // `rep movsb` is the fastest copy of CPUs with ERMS (SDM vol. 1, 7.3.9.3), and the one instruction of the kernel that
    // touches user memory.
    naked_asm!(
        "mov rcx, rdx",
        "cmp byte ptr [rip + {smap}], 0",
        "je 2f",
        "stac",
        "2:",
        "rep movsb",
        "mov eax, 1",
        "3:",
        "cmp byte ptr [rip + {smap}], 0",
        "je 4f",
        "clac",
        "4:",
        "ret",
        // A fault goes on here.
        ".global copy_user_end",
        "copy_user_end:",
        "xor eax, eax",
        "jmp 3b",
        smap = sym SMAP,
    )
}

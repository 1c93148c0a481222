//! What machines of AArch64 and RISC-V have in common: a device tree, and 31 registers.

pub mod clock;
pub mod uart;

use super::boot::DIRECT_LIMIT;
use crate::addr::{HardwareId, PhysAddr, PhysRange};
use crate::bootinfo::BootInfo;
use crate::config::MAX_RANGES;
use crate::fdt::{Fdt, FdtError, HEADER_SIZE};
use crate::init;
use crate::mm::direct;
use crate::mm::paging::image_size;
use arrayvec::ArrayVec;

/// What the boot CPU finds out once; from then on it is only read.
pub use spin::Once;

pub(super) use super::{Registers, Shared};

static TREE: Once<Fdt<'static>> = Once::new();

/// The machine's device tree, through the direct map.
pub fn tree() -> Fdt<'static> {
    *TREE.get().expect("the boot code refuses to start without a device tree")
}

/// The tree at `address`, as it is seen at `base` and up, and its size; an address of 0 is none.
///
/// # Safety
/// What lies there stays as it is, for ever if the lifetime says so, and is mapped as far as its own header says, if it
/// has a tree's header.
pub unsafe fn tree_at<'a>(base: usize, address: usize) -> Result<(Fdt<'a>, usize), FdtError> {
    if address == 0 {
        return Err(FdtError::Truncated { wanted: HEADER_SIZE, found: 0 });
    }
    let start = (base + address) as *const u8;
    // SAFETY: the caller's promise; the size of a header first, then the size that the header tells.
    unsafe {
        let size = Fdt::total_size(&*start.cast())?;
        Ok((Fdt::parse(core::slice::from_raw_parts(start, size))?, size))
    }
}

/// Makes the hand-over, the beginning of `tree`, and goes on with it. What the direct map does not reach of memory cannot be used, and more
/// ranges than the kernel keeps are left alone.
///
/// # Safety
/// As of [`tree_at`] for the tree at the physical address `tree`, seen in the direct map for ever.
///
/// # Panics
/// If there is no sound tree.
#[unsafe(link_section = ".init.text")]
pub unsafe fn enter(tree: usize, image: usize, boot_cpu: HardwareId) -> ! {
    // SAFETY: the caller's promise.
    let found = unsafe { tree_at(direct(PhysAddr(0)) as usize, tree) };
    let (fdt, size) = found.unwrap_or_else(|error| panic!("{error}, from the boot loader at {tree:#x}"));
    TREE.call_once(|| fdt);
    let tree = PhysRange::new(tree, size);
    let within = |range: PhysRange| PhysRange { size: range.size.min(DIRECT_LIMIT.0 - range.start.0), ..range };
    let mut reserved = ArrayVec::new();
    for range in fdt.reservations().chain([tree]) {
        assert!(reserved.try_push(range).is_ok(), "the device tree reserves more than {MAX_RANGES} ranges of memory");
    }
    // Not to be inlined: this function lies in memory that `main` gives back.
    core::hint::black_box(init::main as fn(BootInfo) -> !)(BootInfo {
        image: PhysRange::new(image, image_size()),
        ram: fdt.memory().filter(|range| range.start < DIRECT_LIMIT).map(within).take(MAX_RANGES).collect(),
        reserved,
        archive: fdt.initrd().filter(|range| fdt.memory().any(|ram| ram.contains(range.start))),
        command_line: fdt.command_line().unwrap_or(""),
        tables: tree.start,
        boot_cpu,
    })
}

/// All CPUs that the tree allows to run. Their numbers may be any.
pub fn cpus(_info: &BootInfo) -> impl Iterator<Item = HardwareId> {
    tree().cpus().filter(|cpu| cpu.enabled).map(|cpu| cpu.hardware)
}

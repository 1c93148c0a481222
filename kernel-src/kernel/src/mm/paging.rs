//! Page tables: one walk for all architectures, which differ only in how an entry is written.
//!
//! Four-level and three-level tables alike have 512 entries a table; level 0
//! is the 4 KiB leaf, and leaves at levels 1 and 2 are 2 MiB and 1 GiB.

use super::{MapFlags, frames};
use crate::addr::{PhysAddr, PhysRange, VirtAddr};
use crate::bootinfo::BootInfo;
use crate::config::{IMAGE_BASE, PAGE_SHIFT, PAGE_SIZE, VMAP_BASE, VMAP_SIZE};
use crate::sync::{Charge, Rank, Spin};
use crate::{arch, irq};
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Entries of a table.
pub const ENTRIES: usize = 512;
const INDEX_BITS: usize = 9;
/// Bytes that leaves of levels 1 and 2 map.
pub const LARGE_PAGE: usize = level_size(1);
pub const GIB: usize = level_size(2);
/// Reserved ranges up to this size are mapped, since firmware's tables may lie in them.
const FIRMWARE_MAX: usize = 4 << 20;

static KERNEL_ROOT: AtomicUsize = AtomicUsize::new(0);
/// Distance of the image's virtual from its physical addresses.
static IMAGE_OFFSET: AtomicUsize = AtomicUsize::new(0);
/// The next free address of the window for devices and stacks; what is handed out stays so.
static VMAP_NEXT: AtomicUsize = AtomicUsize::new(VMAP_BASE);

/// Where physical memory is seen in the kernel.
pub fn direct(address: PhysAddr) -> *mut u8 {
    (arch::mm::layout().0.0 + address.0) as *mut u8
}

/// Physical memory that the boot tables said is there and that nobody writes: tables and the boot archive.
pub fn firmware_bytes(range: PhysRange) -> &'static [u8] {
    // SAFETY: the range is reserved in `BootInfo`, so no allocator hands it out, and the direct map reaches it.
    unsafe { core::slice::from_raw_parts(direct(range.start), range.size) }
}

/// First address that user programs cannot have.
pub fn user_limit() -> VirtAddr {
    arch::mm::layout().1
}

/// The kernel's own root table.
pub fn kernel_root() -> PhysAddr {
    PhysAddr(KERNEL_ROOT.load(Ordering::Relaxed))
}

/// The address of a symbol of the linker script or of assembly.
macro_rules! symbol {
    ($name:ident) => {{
        unsafe extern "C" {
            static $name: u8;
        }
        &raw const $name as usize
    }};
}
pub(crate) use symbol;

/// The GNU build id of the image, as its note holds it.
pub fn build_id() -> &'static [u8] {
    /// A note's header (three words) and the name "GNU\0" come before the id (ELF specification, note section).
    const HEADER: usize = 16;
    let start = symbol!(__build_id_start) + HEADER;
    // SAFETY: the linker script puts the two symbols round the note, in read-only data.
    unsafe { core::slice::from_raw_parts(start as *const u8, symbol!(__build_id_end).saturating_sub(start)) }
}

/// Bytes of the image, with its `.bss`.
pub fn image_size() -> usize {
    symbol!(__image_end) - symbol!(__image_start)
}

/// Distance of the image from its link address.
pub fn slide() -> usize {
    symbol!(__image_start) - IMAGE_BASE
}

/// Writes every address in the image that lies at `image`, for one that runs at `runs_at`, by the relocation table from
/// `table` to `end`. A static PIE has relative relocations only: each is a place, a kind, and an addend (System V ABI,
/// chapter 4). Nothing here may need a relocation itself.
///
/// # Safety
/// The image lies there, and all of it may be written.
#[unsafe(link_section = ".init.text")]
#[inline(never)]
pub unsafe extern "C" fn relocate(table: usize, end: usize, image: usize, runs_at: usize) {
    for entry in (table..end).step_by(size_of::<[usize; 3]>()) {
        // SAFETY: the caller's promise; the linker made the table, of words within the image.
        unsafe {
            let [place, _, addend] = *(entry as *const [usize; 3]);
            ((place - IMAGE_BASE + image) as *mut usize).write(addend.wrapping_sub(IMAGE_BASE).wrapping_add(runs_at));
        }
    }
}

/// Where something of the image lies.
pub fn image_address(address: usize) -> PhysAddr {
    PhysAddr(address.wrapping_sub(IMAGE_OFFSET.load(Ordering::Relaxed)))
}

/// Makes addresses known, before anything else of this module.
pub fn set_layout(info: &BootInfo) {
    IMAGE_OFFSET.store(symbol!(__image_start).wrapping_sub(info.image.start.0), Ordering::Relaxed);
}

const fn level_size(level: usize) -> usize {
    PAGE_SIZE << (INDEX_BITS * level)
}

/// Bit 0 of an entry says so on all three architectures.
pub const fn is_present(entry: u64) -> bool {
    entry & 1 != 0
}

fn entry_at(table: PhysAddr, address: VirtAddr, level: usize) -> *mut u64 {
    let index = address.0 >> (PAGE_SHIFT + INDEX_BITS * level) & (ENTRIES - 1);
    // SAFETY: `table` is a page table, so a page in the direct map, and `index` is below 512.
    unsafe { direct(table).cast::<u64>().add(index) }
}

/// A tree of page tables under one root. Whoever holds it mutably is its only writer.
pub struct Tables {
    /// Frames of all its tables count as the kernel's.
    pub root: PhysAddr,
    /// For them and the user's pages; the kernel's own are nobody's.
    charge: Option<Charge>,
}

impl Tables {
    /// With a charge for the root table, or none.
    pub fn new(charge: Option<Charge>) -> Result<Self, abi::Error> {
        Ok(Self { root: frames::allocate_kernel(0)?, charge })
    }

    /// Charges a frame. For those of a user interrupts are served before.
    pub fn charged(&mut self, allocate: fn() -> Result<PhysAddr, abi::Error>) -> Result<PhysAddr, abi::Error> {
        let Some(charge) = &mut self.charge else { return allocate() };
        irq::serve();
        charge.pay(PAGE_SIZE, allocate)
    }

    /// Takes back the charge of a frame.
    pub fn give_back(&mut self) {
        if let Some(charge) = &mut self.charge {
            charge.give_back(PAGE_SIZE);
        }
    }

    /// Maps `range` from `at`, with the largest pages that both allow up to `largest` level.
    pub fn map(&mut self, at: VirtAddr, range: PhysRange, flags: MapFlags, largest: usize) -> Result<(), abi::Error> {
        assert!(!(flags.write && flags.execute), "a mapping that is writable and executable was asked for at {at:?}");
        let (mut done, size) = (0, range.size);
        while done < size {
            let (va, pa) = (at.add(done), range.start.add(done));
            let level = (0..=largest).rev().find(|&level| {
                let page = level_size(level);
                va.is_aligned(page) && pa.is_aligned(page) && size - done >= page
            });
            let level = level.ok_or(abi::Error::InvalidArgument)?;
            self.map_page(va, pa, flags, level)?;
            done += level_size(level);
        }
        Ok(())
    }

    fn map_page(&mut self, va: VirtAddr, pa: PhysAddr, flags: MapFlags, level: usize) -> Result<(), abi::Error> {
        let table = self.table_for(va, level)?;
        let entry = entry_at(table, va, level);
        // SAFETY: `entry` lies in a table of this tree, of which `&mut self` is the only writer.
        unsafe {
            if is_present(*entry) {
                return Err(abi::Error::InvalidArgument);
            }
            arch::mm::write_entry(entry, arch::mm::leaf(pa, flags, level));
        }
        Ok(())
    }

    /// The table whose entries are leaves of `level` for `va`; tables on the way are made.
    fn table_for(&mut self, va: VirtAddr, level: usize) -> Result<PhysAddr, abi::Error> {
        let mut table = self.root;
        for upper in (level + 1..arch::mm::levels()).rev() {
            let entry = entry_at(table, va, upper);
            // SAFETY: as in `map_page`.
            let value = unsafe { *entry };
            table = if !is_present(value) {
                let next = self.charged(|| frames::allocate_kernel(0))?;
                // SAFETY: as in `map_page`; a zeroed frame is an empty table on all three architectures.
                unsafe { arch::mm::write_entry(entry, arch::mm::table(next)) };
                next
            } else if arch::mm::is_leaf(value, upper) {
                return Err(abi::Error::InvalidArgument);
            } else {
                arch::mm::address(value)
            };
        }
        Ok(table)
    }

    /// The 4 KiB page that `va` is mapped to.
    pub fn page_at(&self, va: VirtAddr) -> Option<(PhysAddr, MapFlags)> {
        let mut table = self.root;
        for level in (0..arch::mm::levels()).rev() {
            // SAFETY: an entry of a table of this tree, which nobody changes while it is borrowed.
            let value = unsafe { *entry_at(table, va, level) };
            if !is_present(value) {
                return None;
            }
            table = arch::mm::address(value);
            if arch::mm::is_leaf(value, level) {
                return (level == 0).then(|| (table, arch::mm::flags(value)));
            }
        }
        None
    }

    /// Frees all of the user's tables but the root, and hands every 4 KiB page mapped there to `page`. No CPU may have the
    /// tree active. Interrupts are served meanwhile.
    pub fn clear_user(&mut self, page: fn(PhysAddr)) {
        let entries = if arch::mm::SHARED_ROOT { ENTRIES / 2 } else { ENTRIES };
        visit(self.root, arch::mm::levels() - 1, entries, VirtAddr(0), &mut |entry, level, _| {
            let address = arch::mm::address(entry);
            if arch::mm::is_leaf(entry, level) {
                page(address)
            } else {
                frames::free_kernel(address, 0)
            }
            irq::serve();
        });
    }
}

/// Shows what the first `entries` of a table map, and all below: the value of an entry, its level, and the address that it
/// is for; a table's entry after those of the table. Nobody else writes the tree meanwhile.
fn visit(table: PhysAddr, level: usize, entries: usize, base: VirtAddr, see: &mut impl FnMut(u64, usize, VirtAddr)) {
    // SAFETY: a table of a tree of which, by the caller's promise, nobody is a writer.
    let table = unsafe { &*direct(table).cast::<[u64; ENTRIES]>() };
    for (index, &entry) in table[..entries].iter().enumerate() {
        if is_present(entry) {
            let at = base.add(index << (PAGE_SHIFT + INDEX_BITS * level));
            if !arch::mm::is_leaf(entry, level) {
                visit(arch::mm::address(entry), level - 1, ENTRIES, at, see);
            }
            see(entry, level, at);
        }
    }
}

/// The kernel's tree; its top-level entries never change once user spaces share them.
static KERNEL: Spin<Option<Tables>> = Spin::new(Rank::Tables, None);

/// The part of the image that is needed only at boot.
fn boot_only() -> Range<usize> {
    symbol!(__init_start)..symbol!(__init_end)
}

/// Builds the final tables and switches this CPU to them: the identity map ends, W^X begins.
pub fn init(info: &BootInfo) -> Result<(), abi::Error> {
    let mut tables = Tables::new(None)?;
    for range in &info.ram {
        let pages = range.outer_pages();
        tables.map(VirtAddr(direct(pages.start) as usize), pages, MapFlags::KERNEL_DATA, 1)?;
    }
    // Firmware's tables, where they are not in memory that is listed as such. What is larger are windows of devices.
    for range in info.reserved.iter().filter(|range| range.size <= FIRMWARE_MAX) {
        let pages = range.outer_pages();
        for page in (pages.start.0..pages.end().0).step_by(PAGE_SIZE) {
            let at = VirtAddr(direct(PhysAddr(page)) as usize);
            match tables.map_page(at, PhysAddr(page), MapFlags::KERNEL_RODATA, 0) {
                // Mapped already, as memory.
                Ok(()) | Err(abi::Error::InvalidArgument) => {}
                error => return error,
            }
        }
    }
    // Sections of the linker script, page aligned.
    for (section, flags) in [
        (symbol!(__text_start)..symbol!(__text_end), MapFlags::KERNEL_TEXT),
        (symbol!(__rodata_start)..symbol!(__rodata_end), MapFlags::KERNEL_RODATA),
        (symbol!(__data_start)..symbol!(__data_end), MapFlags::KERNEL_DATA),
        // Boot code has run; its stack and tables are still in use until they are given back.
        (boot_only(), MapFlags::KERNEL_DATA),
    ] {
        let range = PhysRange { start: image_address(section.start), size: section.len() };
        tables.map(VirtAddr(section.start), range, flags, 0)?;
    }
    // Tables for the whole window now, so that no top-level entry appears later.
    for offset in (0..VMAP_SIZE).step_by(GIB) {
        tables.table_for(VirtAddr(VMAP_BASE + offset), 1)?;
    }
    KERNEL_ROOT.store(tables.root.0, Ordering::Relaxed);
    *KERNEL.lock() = Some(tables);
    arch::mm::activate_kernel(kernel_root());
    Ok(())
}

/// The address of `size` bytes of the window, with an unmapped page before.
fn reserve(size: usize) -> Result<VirtAddr, abi::Error> {
    let start = VMAP_NEXT.fetch_add(PAGE_SIZE + size, Ordering::Relaxed) + PAGE_SIZE;
    if start + size > VMAP_BASE + VMAP_SIZE { Err(abi::Error::NoMemory) } else { Ok(VirtAddr(start)) }
}

fn with_kernel<R>(change: impl FnOnce(&mut Tables) -> R) -> R {
    change(KERNEL.lock().as_mut().expect("kernel tables exist from `init` on"))
}

/// Maps a device's registers; the result keeps the offset within the page.
///
/// # Panics
/// If the window or memory is used up: no machine has that many devices at boot.
pub fn map_device(registers: PhysRange) -> VirtAddr {
    let pages = registers.outer_pages();
    let mapped = reserve(pages.size).and_then(|at| {
        with_kernel(|tables| tables.map(at, pages, MapFlags::DEVICE, 0))?;
        Ok(at.add(registers.start.0 - pages.start.0))
    });
    mapped.expect("room to map a device's registers")
}

/// A stack of `size` bytes with unmapped pages below and above; its top.
pub fn allocate_stack(size: usize) -> Result<VirtAddr, abi::Error> {
    let at = reserve(size)?;
    for offset in (0..size).step_by(PAGE_SIZE) {
        let frame = frames::allocate_kernel(0)?;
        with_kernel(|tables| tables.map(at.add(offset), PhysRange::new(frame.0, PAGE_SIZE), MapFlags::KERNEL_DATA, 0))?;
    }
    Ok(at.add(size))
}

/// Unmaps what is needed no more of the image, and gives its memory back.
pub fn give_back_boot_memory() {
    with_kernel(|tables| {
        for at in boot_only().step_by(PAGE_SIZE).map(VirtAddr) {
            let table = tables.table_for(at, 0).expect("the image's tables exist");
            // SAFETY: an entry of the kernel's tables, locked.
            unsafe { arch::mm::write_entry(entry_at(table, at, 0), 0) };
        }
    });
    arch::mm::flush_all();
    frames::give_back(PhysRange { start: image_address(boot_only().start), size: boot_only().len() });
}

/// Gives a user root the kernel's half.
pub fn share_kernel_half(root: PhysAddr) {
    if arch::mm::SHARED_ROOT {
        let (from, to) = (direct(kernel_root()).cast::<u64>(), direct(root).cast::<u64>());
        // SAFETY: both are whole tables in the direct map; the new root is not active yet.
        unsafe { core::ptr::copy_nonoverlapping(from.add(ENTRIES / 2), to.add(ENTRIES / 2), ENTRIES / 2) };
    }
}

/// Checks the tables that are in force: nothing of the kernel is both writable and executable, nothing is the user's.
/// Gives the number of leaves seen.
pub fn audit() -> Result<usize, VirtAddr> {
    let (mut leaves, mut bad) = (0, None);
    with_kernel(|tables| {
        visit(tables.root, arch::mm::levels() - 1, ENTRIES, VirtAddr(0), &mut |entry, level, at| {
            let flags = arch::mm::flags(entry);
            if arch::mm::is_leaf(entry, level) {
                leaves += 1;
                bad = bad.or((flags.write && flags.execute || flags.user).then_some(at));
            }
        });
    });
    bad.map_or(Ok(leaves), Err)
}

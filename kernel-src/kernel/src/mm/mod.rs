//! Memory: frames, page tables, spaces, and the way to user memory.

pub mod buddy;

#[cfg(target_os = "none")]
pub mod frames;
#[cfg(target_os = "none")]
pub mod paging;
#[cfg(target_os = "none")]
pub mod place;
#[cfg(target_os = "none")]
pub mod ring;
#[cfg(target_os = "none")]
pub mod slab;
#[cfg(target_os = "none")]
pub mod slots;
#[cfg(target_os = "none")]
pub mod space;
#[cfg(target_os = "none")]
pub mod user;

#[cfg(target_os = "none")]
pub use paging::{direct, map_device};

/// What a mapping allows. Writable and executable together are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MapFlags {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
    pub user: bool,
    pub device: bool,
}

impl MapFlags {
    pub const KERNEL_DATA: Self = Self { read: true, write: true, execute: false, user: false, device: false };
    pub const KERNEL_RODATA: Self = Self { write: false, ..Self::KERNEL_DATA };
    pub const KERNEL_TEXT: Self = Self { execute: true, ..Self::KERNEL_RODATA };
    pub const DEVICE: Self = Self { device: true, ..Self::KERNEL_DATA };
}

/// Puts `bytes` into a page that is not mapped anywhere else yet.
#[cfg(target_os = "none")]
#[allow(unsafe_code)]
fn fill_page(page: crate::addr::PhysAddr, offset: usize, bytes: &[u8]) {
    assert!(offset + bytes.len() <= crate::config::PAGE_SIZE);
    // SAFETY: the caller's frame is its own, in the direct map, and the bytes stay inside it.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), direct(page).add(offset), bytes.len()) };
}

/// Physical memory that the boot tables said is there and that nobody writes: tables and the boot archive.
#[cfg(target_os = "none")]
#[allow(unsafe_code)]
pub fn firmware_bytes(range: crate::addr::PhysRange) -> &'static [u8] {
    // SAFETY: the range is reserved in `BootInfo`, so no allocator hands it out, and the direct map reaches it.
    unsafe { core::slice::from_raw_parts(direct(range.start), range.size) }
}

/// The GNU build id of the image, as its note holds it.
#[cfg(target_os = "none")]
#[allow(unsafe_code)]
pub fn build_id() -> &'static [u8] {
    /// A note's header (three words) and the name "GNU\0" come before the id (ELF specification, note section).
    const HEADER: usize = 16;
    let start = paging::symbol!(__build_id_start) + HEADER;
    // SAFETY: the linker script puts the two symbols round the note, in read-only data.
    unsafe { core::slice::from_raw_parts(start as *const u8, paging::symbol!(__build_id_end).saturating_sub(start)) }
}

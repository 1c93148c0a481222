//! Addresses, indices and units as types of their own, and what a mapping allows.

use crate::config::{PAGE_SHIFT, PAGE_SIZE};

macro_rules! addresses {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub usize);

        impl $name {
            pub const fn page_down(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            pub const fn page_up(self) -> Self {
                Self((self.0 + PAGE_SIZE - 1) & !(PAGE_SIZE - 1))
            }

            pub const fn add(self, bytes: usize) -> Self {
                Self(self.0 + bytes)
            }

            pub const fn is_aligned(self, to: usize) -> bool {
                self.0 & (to - 1) == 0
            }

            pub const fn page_number(self) -> usize {
                self.0 >> PAGE_SHIFT
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    )*};
}

addresses! {
    /// What the bus sees.
    PhysAddr
    /// What an instruction sees.
    VirtAddr
}

/// A CPU as the kernel counts them: dense, the boot CPU is 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct CpuId(pub usize);

/// A CPU as the machine numbers it: APIC id, MPIDR affinity, hart id; sparse.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardwareId(pub u64);

/// Nanoseconds since boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Nanos(pub u64);

/// Physical memory from `start`, `size` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct PhysRange {
    pub start: PhysAddr,
    pub size: usize,
}

impl PhysRange {
    pub const fn new(start: usize, size: usize) -> Self {
        Self { start: PhysAddr(start), size }
    }

    pub const fn end(self) -> PhysAddr {
        PhysAddr(self.start.0.saturating_add(self.size))
    }

    /// Whole pages inside.
    pub const fn inner_pages(self) -> Self {
        let start = self.start.page_up().0;
        Self::new(start, self.end().page_down().0.saturating_sub(start))
    }

    /// Pages that it touches.
    pub const fn outer_pages(self) -> Self {
        let start = self.start.page_down().0;
        Self::new(start, self.end().page_up().0 - start)
    }

    pub const fn contains(self, address: PhysAddr) -> bool {
        address.0 >= self.start.0 && address.0 - self.start.0 < self.size
    }
}

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

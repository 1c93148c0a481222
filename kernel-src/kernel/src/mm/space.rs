//! Address spaces of user programs.

#![allow(unsafe_code)]

use super::{
    MapFlags, frames,
    paging::{self, Tables},
    user,
};
use crate::{
    addr::{PhysAddr, PhysRange, VirtAddr},
    arch,
    config::PAGE_SIZE,
};

use core::ptr;

pub struct Space {
    tables: Tables,
    /// What makes these tables the ones in force.
    root: PhysAddr,
    pages: usize,
}

impl Space {
    pub fn new() -> Result<Self, abi::Error> {
        let tables = Tables::new()?;
        paging::share_kernel_half(tables.root);
        Ok(Self { root: arch::mm::user_root(tables.root), tables, pages: 0 })
    }

    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// Pages of user memory.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Maps `size` zeroed bytes at `start` and puts `content` at their front.
    ///
    /// # Errors
    /// `InvalidAddress` outside the user half, `InvalidArgument` where something is mapped already, `NoMemory`.
    pub fn map_anonymous(
        &mut self,
        start: VirtAddr,
        size: usize,
        flags: MapFlags,
        content: &[u8],
    ) -> Result<(), abi::Error> {
        user::check_range(start, size)?;
        let first = start.page_down();
        let end = start.add(size).page_up();
        for page in (first.0..end.0).step_by(PAGE_SIZE).map(VirtAddr) {
            let frame = frames::allocate_user()?;
            let range = PhysRange::new(frame.0, PAGE_SIZE);
            if let Err(error) = self.tables.map(page, range, MapFlags { user: true, ..flags }, 0) {
                frames::free_user(frame);
                return Err(error);
            }
            self.pages += 1;
            let skip = start.0.saturating_sub(page.0);
            let from = (page.0 + skip) - start.0;
            if from < content.len() {
                let piece = &content[from..content.len().min(from + PAGE_SIZE - skip)];
                assert!(skip + piece.len() <= PAGE_SIZE);
                // SAFETY: the frame is new, in the direct map, and the piece stays inside it.
                unsafe { ptr::copy_nonoverlapping(piece.as_ptr(), super::direct(frame).add(skip), piece.len()) };
            }
            if flags.execute {
                arch::mm::code_written(VirtAddr(super::direct(frame) as usize), PAGE_SIZE);
            }
        }
        Ok(())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        arch::mm::forget_user(self.root);
        self.tables.clear_user(&mut frames::free_user);
        frames::free_kernel(self.tables.root, 0);
    }
}

//! Address spaces of user programs.

use super::paging::{self, Tables};
use super::{MapFlags, frames, user};
use crate::addr::{PhysAddr, PhysRange, VirtAddr};
use crate::config::PAGE_SIZE;
use crate::sync::{Charge, Payer};
use crate::{arch, irq};

use abi::PIECE_MAX;
use core::slice;

pub struct Space {
    tables: Tables,
    /// What makes these tables the ones in force.
    pub root: PhysAddr,
    /// How many the user has.
    pub pages: usize,
}

impl Space {
    /// One of which tables and pages are charged to `payer`.
    pub fn new(payer: Payer<'_>) -> Result<Self, abi::Error> {
        let tables = Tables::new(Some(Charge::new(payer, PAGE_SIZE)?))?;
        paging::share_kernel_half(tables.root);
        Ok(Self { root: arch::mm::user_root(tables.root), tables, pages: 0 })
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
        mut content: &[u8],
    ) -> Result<(), abi::Error> {
        user::check_range(start, size)?;
        let first = start.page_down();
        let end = start.add(size).page_up();
        for page in (first.0..end.0).step_by(PAGE_SIZE).map(VirtAddr) {
            let frame = self.tables.charged(|| frames::allocate(0))?;
            let range = PhysRange::new(frame.0, PAGE_SIZE);
            if let Err(error) = self.tables.map(page, range, MapFlags { user: true, ..flags }, 0) {
                frames::free_user(frame);
                self.tables.give_back();
                return Err(error);
            }
            self.pages += 1;
            let skip = start.0.saturating_sub(page.0);
            let piece = content.split_off(..content.len().min(PAGE_SIZE - skip)).unwrap_or(&[]);
            // SAFETY: the frame is new, and in the direct map.
            let page = unsafe { slice::from_raw_parts_mut(super::direct(frame), PAGE_SIZE) };
            for (to, from) in page[skip..].chunks_mut(PIECE_MAX).zip(piece.chunks(PIECE_MAX)) {
                to[..from.len()].copy_from_slice(from);
                irq::serve();
            }
            if flags.execute {
                arch::mm::code_written(VirtAddr(super::direct(frame) as usize), PAGE_SIZE);
            }
        }
        Ok(())
    }

    /// A share in the page at `start`, which the program may write.
    ///
    /// # Errors
    /// `InvalidAddress` where there is no such page, `NoMemory` where too many have it.
    pub fn share_page(&self, start: VirtAddr) -> Result<PhysAddr, abi::Error> {
        user::check_range(start, PAGE_SIZE)?;
        let (page, flags) = self.tables.page_at(start).ok_or(abi::Error::InvalidAddress)?;
        if !start.is_aligned(PAGE_SIZE) || !flags.user || !flags.write || flags.device {
            return Err(abi::Error::InvalidAddress);
        }
        frames::share_user(page).map(|()| page)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        arch::mm::forget_user(self.root);
        self.tables.clear_user(frames::free_user);
        frames::free_kernel(self.tables.root, 0);
    }
}

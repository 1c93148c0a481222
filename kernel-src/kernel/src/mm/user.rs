//! User memory: an address that a program gives is an allegation, to be
//! checked for range and alignment here and for its mapping by the MMU, in
//! the one copy routine whose faults are caught.

use super::paging::{symbol, user_limit};
use crate::addr::VirtAddr;
use crate::arch;
use abi::Error;
use core::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Refuses ranges that wrap or leave the user half.
pub fn check_range(start: VirtAddr, size: usize) -> Result<(), Error> {
    let end = start.0.checked_add(size).ok_or(Error::InvalidAddress)?;
    if end <= user_limit().0 { Ok(()) } else { Err(Error::InvalidAddress) }
}

/// Bytes that a user program says it has.
#[derive(Clone, Copy)]
pub struct UserBytes {
    start: VirtAddr,
    size: usize,
}

impl UserBytes {
    pub fn new(start: u64, size: u64) -> Result<Self, Error> {
        let (start, size) = (VirtAddr(start as usize), size as usize);
        check_range(start, size)?;
        Ok(Self { start, size })
    }

    pub const fn size(self) -> usize {
        self.size
    }

    /// Copies in as much as `to` holds.
    pub fn read(self, to: &mut [u8]) -> Result<&[u8], Error> {
        let size = self.size.min(to.len());
        copy(to.as_mut_ptr(), self.start.0 as *const u8, size)?;
        Ok(&to[..size])
    }

    /// Copies out as much of `from` as fits; gives how much.
    pub fn write(self, from: &[u8]) -> Result<u64, Error> {
        let size = self.size.min(from.len());
        copy(self.start.0 as *mut u8, from.as_ptr(), size)?;
        Ok(size as u64)
    }
}

/// A structure that a user program says it has.
#[derive(Clone, Copy)]
pub struct UserPtr<T> {
    start: VirtAddr,
    kind: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> UserPtr<T> {
    pub fn new(start: u64) -> Result<Self, Error> {
        let start = VirtAddr(start as usize);
        check_range(start, size_of::<T>())?;
        if !start.is_aligned(align_of::<T>()) {
            return Err(Error::InvalidAddress);
        }
        Ok(Self { start, kind: PhantomData })
    }

    pub fn read(self) -> Result<T, Error> {
        let mut value = T::new_zeroed();
        copy(value.as_mut_bytes().as_mut_ptr(), self.start.0 as *const u8, size_of::<T>())?;
        Ok(value)
    }

    pub fn write(self, value: &T) -> Result<(), Error> {
        copy(self.start.0 as *mut u8, value.as_bytes().as_ptr(), size_of::<T>())
    }
}

fn copy(to: *mut u8, from: *const u8, size: usize) -> Result<(), Error> {
    // SAFETY: one side is kernel memory of `size` bytes, borrowed by the caller; the other lies in the user
    // half (`check_range`), where a fault ends the copy.
    if unsafe { arch::mm::copy_user(to, from, size) } { Ok(()) } else { Err(Error::InvalidAddress) }
}

/// Where a fault at `pc` goes on, if it happened in `copy_user`.
pub fn fixup(pc: usize) -> Option<usize> {
    let (start, end) = (arch::mm::copy_user as *const () as usize, symbol!(copy_user_end));
    (start..end).contains(&pc).then_some(end)
}

/// Reads a word of the kernel that may be unmapped: for backtraces of broken stacks.
pub fn probe(address: VirtAddr) -> Option<usize> {
    let mut value = 0usize;
    if !address.is_aligned(align_of::<usize>()) || address <= user_limit() {
        return None;
    }
    // SAFETY: a read of eight bytes that either works or is caught as a fault; the target is a local.
    let read = unsafe { arch::mm::copy_user((&raw mut value).cast(), address.0 as *const u8, size_of::<usize>()) };
    read.then_some(value)
}

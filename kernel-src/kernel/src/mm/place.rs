//! Memory that is allocated once at boot and kept: per-CPU data.

#![allow(unsafe_code)]

use super::{direct, frames};
use crate::config::PAGE_SIZE;

/// An object in pages of its own, so that no other CPU's data shares a cache line with it.
pub fn object<T>(make: impl Fn() -> T) -> Result<&'static mut T, abi::Error> {
    slice(1, |_| Ok(make())).map(|one| &mut one[0])
}

/// A slice of `count` elements, made in order.
pub fn slice<T>(
    count: usize,
    mut make: impl FnMut(usize) -> Result<T, abi::Error>,
) -> Result<&'static mut [T], abi::Error> {
    let pages = (count * size_of::<T>()).div_ceil(PAGE_SIZE);
    let at = direct(frames::allocate_kernel(pages.next_power_of_two().ilog2() as usize)?).cast::<T>();
    for index in 0..count {
        let value = make(index)?;
        // SAFETY: `index` is below `count`, for which the block is large enough.
        unsafe { at.add(index).write(value) };
    }
    // SAFETY: all `count` elements were written; the block is nobody else's for ever.
    Ok(unsafe { core::slice::from_raw_parts_mut(at, count) })
}

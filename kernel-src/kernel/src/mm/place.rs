//! Memory that is allocated once at boot and kept: per-CPU data.

#![allow(unsafe_code)]

use super::{direct, frames};
use crate::config::PAGE_SIZE;

fn order_for(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_SIZE).next_power_of_two().ilog2() as usize
}

/// An object in pages of its own, so that no other CPU's data shares a cache line with it.
pub fn object<T>(make: impl FnOnce() -> T) -> Result<&'static mut T, abi::Error> {
    let at = direct(frames::allocate_kernel(order_for(size_of::<T>()))?).cast::<T>();
    // SAFETY: the block is large enough, page aligned, mapped, and nobody else's for ever.
    unsafe {
        at.write(make());
        Ok(&mut *at)
    }
}

/// A slice of `count` elements, made in order.
pub fn slice<T>(
    count: usize,
    mut make: impl FnMut(usize) -> Result<T, abi::Error>,
) -> Result<&'static mut [T], abi::Error> {
    let at = direct(frames::allocate_kernel(order_for(count * size_of::<T>()))?).cast::<T>();
    for index in 0..count {
        let value = make(index)?;
        // SAFETY: `index` is below `count`, for which the block is large enough.
        unsafe { at.add(index).write(value) };
    }
    // SAFETY: all `count` elements were written; the block is nobody else's for ever.
    Ok(unsafe { core::slice::from_raw_parts_mut(at, count) })
}

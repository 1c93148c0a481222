//! What the boot must have brought about, and the first slice of the ABI.
#![no_std]
#![no_main]

extern crate alloc;

mod calls;
mod start;

rt::test_main!();

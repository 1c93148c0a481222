//! User programs and the kernel: what crosses the border, and what does not.
#![no_std]
#![no_main]

extern crate alloc;

mod faults;
mod messages;
mod pointers;
mod processes;

rt::test_main!();

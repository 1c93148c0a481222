//! Threads as objects: stopped, looked at, changed, and gone on with; and what others do for them.
//!
//! A case tells by its first comment which cases of the conformance list it is. Started with a number that is no
//! case's, the program plays a role for one of them: see [`roles`].
#![no_std]
#![no_main]

extern crate alloc;

mod control;
mod extras;
mod faults;
mod foreign;
mod panics;
mod partners;
mod rebuilt;
mod registers;
mod roles;
mod space;
mod support;
mod waits;

rt::program!(main);

fn main(argument: u64) -> u32 {
    if argument < roles::ROLES { rt::testing::main(argument) } else { roles::main(argument) }
}

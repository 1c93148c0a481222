//! Quotas: what is charged to whom, what a limit refuses, and what ends with a quota.
//!
//! A case tells by its first comment which cases of the conformance list it is. Started with a number that is no
//! case's, the program plays a role for one of them: see [`child`].
#![no_std]
#![no_main]

extern crate alloc;

mod charges;
mod child;
mod destroy;
mod failing;
mod races;
mod support;

rt::program!(main);

fn main(argument: u64) -> u32 {
    if argument < child::ROLES { rt::testing::main(argument) } else { child::main(argument) }
}

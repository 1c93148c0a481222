//! Capabilities: how they are derived, named, lent and taken back.
//!
//! A case tells by its first comment which cases of the conformance list it is. Started with a number that is no
//! case's, the program plays a role for one of them: see [`child`].
#![no_std]
#![no_main]

extern crate alloc;

mod child;
mod cnodes;
mod derive;
mod matrix;
mod model;
mod names;
mod races;
mod revoke;
mod roots;
mod support;

rt::program!(main);

fn main(argument: u64) -> u32 {
    if argument < child::ROLES { rt::testing::main(argument) } else { child::main(argument) }
}

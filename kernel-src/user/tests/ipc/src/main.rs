//! Messages: endpoints, calls, Replies, badges and rights, deadlines, and what is left when partners end.
#![no_std]
#![no_main]

extern crate alloc;

mod badges;
mod carried;
mod crowd;
mod deadlines;
mod donation;
mod ends;
mod fuzz;
mod help;
mod killed;
mod long;
mod names;
mod replies;
mod rights;
mod roles;
mod states;
mod transfer;

rt::program!(main);

fn main(argument: u64) -> u32 {
    roles::Role::of(argument).map_or_else(|| rt::testing::main(argument), |role| role.play(argument))
}

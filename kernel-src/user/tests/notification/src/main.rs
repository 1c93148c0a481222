//! Notifications: bits that one side sets and the other waits for.
#![no_std]
#![no_main]

extern crate alloc;

mod binding;
#[path = "../../ipc/src/help.rs"]
#[expect(dead_code, reason = "the other suite uses more of it")]
mod help;
mod races;
mod waiting;

rt::test_main!();

//! The kernel's command line, as user programs read it.

use crate::call;
use abi::Info;
use alloc::{string::String, vec::Vec};

/// The value of the last word `key=value`, if there is one.
#[must_use]
pub fn value(key: &str) -> Option<String> {
    let words = (0..).map_while(|index| call::info(Info::CommandLine, index).ok());
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).take_while(|&byte| byte != 0).collect();
    let line = str::from_utf8(&bytes).ok()?;
    let found = line.split_ascii_whitespace().filter_map(|word| word.split_once('=')).rfind(|(name, _)| *name == key);
    found.map(|(_, value)| value.into())
}

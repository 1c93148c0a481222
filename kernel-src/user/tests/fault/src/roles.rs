//! What this program does in a process of its own.

use rt::assert_ok;
use rt::call::{self, Capability};
use rt::probe::{self, Break};
use rt::protocol::RESOURCE;

/// Arguments from here on are roles.
pub const ROLES: u64 = 1 << 32;
/// Ends with the low bits of the argument.
pub const END: u64 = ROLES;
/// Waits for ever.
pub const WAIT: u64 = 2 * ROLES;

/// Breaks in the way of the low bits.
pub const BREAK: u64 = 3 * ROLES;
/// Loads from the address in the low bits, doubled; ends with the lowest bits of what was there.
pub const LOAD: u64 = 4 * ROLES;
/// Receives from slot 1, and ends without an answer.
pub const DROP: u64 = 5 * ROLES;

/// Makes a foreign call; ends with its result.
pub const FOREIGN: u64 = 6 * ROLES;

/// Starts the program in a role; the capability in that slot is to its first thread, which is suspended.
pub fn start_suspended(role: u64, slot: Capability, give: [Capability; 3]) -> Capability {
    let [a, b, c] = give;
    assert_ok!(call::spawn_suspended(slot, Capability::OWN_QUOTA, RESOURCE, "fault", role, [RESOURCE, a, b, c]))
}

pub fn main(argument: u64) -> u32 {
    match argument / ROLES * ROLES {
        END => argument as u32,
        WAIT => {
            let nobody = assert_ok!(call::endpoint_create());
            loop {
                _ = call::receive(nobody);
            }
        }
        BREAK => {
            if let Some(way) = Break::ALL.get((argument % ROLES) as usize) {
                way.now();
            }
            0
        }
        LOAD => probe::load_word((argument % ROLES) * 2) as u32,
        // Who comes back from it reads what cannot be read.
        FOREIGN => probe::load_word(probe::foreign_call(0, [0; 6])) as u32,
        DROP => {
            assert_ok!(call::receive(Capability(1)));
            0
        }
        _ => u32::MAX,
    }
}

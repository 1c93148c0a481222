//! What this program does in a process of its own.

use rt::{
    assert_ok,
    call::{self, Capability},
    protocol::RESOURCE,
};

/// Arguments from here on are roles.
pub const ROLES: u64 = 1 << 32;
/// Ends with the low bits of the argument.
pub const END: u64 = ROLES;
/// Waits for ever.
pub const WAIT: u64 = 2 * ROLES;

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
        _ => u32::MAX,
    }
}

//! What other processes of this program do for a case.

use crate::support::{OWN, read};
use rt::abi::{Error, QuotaInfo};
use rt::call::{self, Capability, Message};
use rt::protocol::RESOURCE;
use rt::{assert_ok, thread};

/// Arguments from here on are roles.
pub const ROLES: u64 = 1 << 32;
/// Ends at once.
pub const NOTHING: u64 = ROLES;
/// Makes objects, a thread and a quota with a process of its own, says so by a call to slot 1, and waits for ever.
pub const TENANT: u64 = 2 * ROLES;
/// Says so by a call to slot 1, and runs for ever.
pub const SPINNER: u64 = 3 * ROLES;
/// Makes endpoints until its quota refuses, and tells how many: its status.
pub const GREEDY: u64 = 4 * ROLES;
/// Destroys the quota in slot 2, which is its own.
pub const SUICIDE: u64 = 5 * ROLES;
/// Takes so many steps at destroying the quota in slot 2 as the low bits say, and ends.
pub const DESTROYER: u64 = 6 * ROLES;
/// Waits at the endpoint in slot 1.
pub const WAITER: u64 = 7 * ROLES;

/// Status of a role that went as it should.
pub const DONE: u32 = 0xD09E;
/// Status of a role that ended half way.
pub const ENDED: u32 = 2;

/// By which it is heard of.
const CONTROL: Capability = Capability(1);
const QUOTA: Capability = Capability(2);

/// Starts the program in a role, in that quota.
pub fn start(quota: Capability, role: u64, control: Capability, third: Capability) -> Capability {
    assert_ok!(call::spawn_in(quota, RESOURCE, "quota", role, [RESOURCE, control, third, Capability::NONE]))
}

pub fn main(argument: u64) -> u32 {
    match argument / ROLES * ROLES {
        NOTHING => DONE,
        TENANT => tenant(),
        SPINNER => {
            assert_ok!(call::call(CONTROL, Message::empty(0)));
            loop {
                core::hint::spin_loop();
            }
        }
        WAITER => {
            _ = call::receive(CONTROL);
            DONE
        }
        GREEDY => greedy(),
        SUICIDE => loop {
            assert_ok!(call::quota_destroy(QUOTA));
        },
        DESTROYER => destroyer(argument % ROLES),
        _ => u32::MAX,
    }
}

fn wait_for_ever() -> ! {
    let nobody = assert_ok!(call::endpoint_create());
    loop {
        _ = call::receive(nobody);
    }
}

fn tenant() -> u32 {
    for bits in 1..=8 {
        assert_ok!(call::cnode_create(bits));
    }
    assert_ok!(call::notification_create());
    let below = assert_ok!(call::quota_create(OWN, 20_000, 5));
    assert_ok!(call::endpoint_create_in(below));
    assert_ok!(thread::spawn(|| -> u32 { wait_for_ever() }));
    assert_ok!(call::call(CONTROL, Message::empty(0)));
    wait_for_ever()
}

fn greedy() -> u32 {
    let QuotaInfo { objects, objects_used, .. } = read(OWN);
    let mut made = 0;
    while call::endpoint_create().is_ok() {
        made += 1;
    }
    let is_right = made == objects - objects_used
        && call::notification_create() == Err(Error::OverQuota)
        && call::quota_create(OWN, 1 << 12, 1) == Err(Error::OverQuota)
        && call::spawn(RESOURCE, "quota", NOTHING, [Capability::NONE; 4]) == Err(Error::OverQuota);
    if is_right { DONE } else { made as u32 }
}

fn destroyer(turns: u64) -> u32 {
    for _ in 0..turns {
        if assert_ok!(call::quota_destroy_step(QUOTA)) == 0 {
            return DONE;
        }
    }
    ENDED
}

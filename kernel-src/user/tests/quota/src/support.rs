//! What a quota and the machine show, waiting, and chance.

use alloc::vec::Vec;
use rt::abi::{CapabilityInfo, Info, QuotaInfo};
use rt::call::{self, Capability, Message, Place, Until};
use rt::{assert_ok, kernel_assert, kernel_assert_eq};

pub const OWN: Capability = Capability::OWN_QUOTA;
/// More than any case needs.
pub const BYTES: u64 = 4 << 20;
pub const OBJECTS: u64 = 1000;
/// How long something may take that a busy host can hold up.
const PATIENCE_NS: u64 = 20_000_000_000;

pub fn info(what: Info) -> u64 {
    assert_ok!(call::info(what, 0))
}

/// CPUs to test on; the stacks of a thread on each fit into the heap.
pub fn cpus() -> u64 {
    info(Info::CpusOnline).min(4)
}

/// Waits until it is so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = call::clock_ns() + PATIENCE_NS;
    while !is_so() {
        kernel_assert!(call::clock_ns() < deadline, "waited for: {what}");
        call::yield_now();
    }
}

/// All that ended has given back what it had.
pub fn settle() {
    wait_until("the end of all that ends", || info(Info::Ending) == 0);
}

pub fn read(quota: Capability) -> QuotaInfo {
    assert_ok!(call::quota_read(quota))
}

/// Bytes and objects in use, when all that ended has been given back.
pub fn used(quota: Capability) -> (u64, u64) {
    settle();
    let QuotaInfo { bytes_used, objects_used, .. } = read(quota);
    (bytes_used, objects_used)
}

pub fn new_quota(parent: Capability) -> Capability {
    assert_ok!(call::quota_create(parent, BYTES, OBJECTS))
}

/// What is in the slot of that name, whichever filling: a kind, or 0.
pub fn kind_in(name: Capability) -> u64 {
    assert_ok!(call::cap_read(Capability(name.address()))).kind
}

/// Takes a quota away, with all that is charged to it.
pub fn end_quota(quota: Capability) {
    assert_ok!(call::quota_destroy(quota));
    assert_ok!(call::close(quota));
}

/// What one can see of the machine, and of this process.
#[derive(PartialEq, Eq, Debug)]
pub struct World {
    free: u64,
    own: QuotaInfo,
    slots: Vec<CapabilityInfo>,
}

impl World {
    pub fn look() -> Self {
        settle();
        let slots = (0..64).map(|slot| assert_ok!(call::cap_read(Capability(slot)))).collect();
        Self { free: info(Info::MemoryFree), own: read(OWN), slots }
    }

    /// But for memory that slabs have taken and keep.
    pub fn same_slots_and_quota(&self, other: &Self) -> bool {
        self.own == other.own && self.same_slots(other)
    }

    /// All of it, but for how often slots were filled.
    pub fn is_as(&self, other: &Self) -> bool {
        self.free == other.free && self.same_slots_and_quota(other)
    }

    /// What the slots hold, whatever they have held meanwhile.
    fn same_slots(&self, other: &Self) -> bool {
        let facts = |info: &CapabilityInfo| (info.kind, info.rights, info.badge, info.object);
        self.slots.iter().map(facts).eq(other.slots.iter().map(facts))
    }
}

/// Slot `index` of a CNode with so many slots.
pub const fn slot(node: Capability, bits: u32, index: u64) -> Place {
    Place::within(node, index, bits)
}

/// Answers one call, after `with`.
pub fn serve_one(endpoint: Capability, with: impl FnOnce()) {
    assert_ok!(call::receive_until(endpoint, Until::Clock(call::clock_ns() + PATIENCE_NS)));
    with();
    assert_ok!(call::reply(Message::empty(1)));
}

/// What creating something takes, and that ending it gives it back to the byte.
pub fn cost_of(create: impl Fn(Capability) -> Capability) -> (u64, u64) {
    let quota = new_quota(OWN);
    let before = used(quota);
    let object = create(quota);
    let after = used(quota);
    assert_ok!(call::close(object));
    kernel_assert_eq!(used(quota), before);
    end_quota(quota);
    (after.0 - before.0, after.1 - before.1)
}

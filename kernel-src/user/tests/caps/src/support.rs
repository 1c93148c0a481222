//! Tables of slots, objects that can be told apart, chance, and waiting.

use alloc::vec::Vec;
use rt::abi::{CapabilityInfo, Error, Info, Rights};
use rt::call::{self, Capability, Message, Place};
use rt::{assert_ok, kernel_assert};

/// How long something may take that a busy host can hold up.
const PATIENCE_NS: u64 = 20_000_000_000;

/// A CNode, by its name among this process's.
#[derive(Clone, Copy)]
pub struct Table {
    pub name: Capability,
    pub bits: u32,
}

impl Table {
    pub fn new(bits: u32) -> Self {
        Self { name: assert_ok!(call::cnode_create(bits.into())), bits }
    }

    pub const fn size(self) -> u64 {
        1 << self.bits
    }

    pub const fn at(self, index: u64) -> Place {
        Place::within(self.name, index, self.bits)
    }

    /// Slot `index`, of `bits` bits, of the CNode in slot `at`.
    pub const fn below(self, at: u64, index: u64, bits: u32) -> Place {
        Place::within(self.name, at << bits | index, self.bits + bits)
    }

    pub fn read(self, index: u64) -> CapabilityInfo {
        assert_ok!(call::cap_read(self.at(index)))
    }

    pub fn holds(self, index: u64) -> bool {
        self.read(index).kind != 0
    }

    /// The numbers of the slots that hold something.
    pub fn filled(self) -> Vec<u64> {
        (0..self.size()).filter(|&index| self.holds(index)).collect()
    }

    /// Puts a new object that can be told by `mark` into a slot.
    pub fn put_marked(self, index: u64, mark: u64) {
        assert_ok!(call::cap_move(self.at(index), marked(mark)));
    }

    /// The mark of the object in a slot.
    pub fn mark(self, index: u64) -> Result<u64, Error> {
        call::cap_read(self.below(index, 0, 1)).map(|info| info.badge)
    }

    /// Puts a new endpoint into a slot.
    pub fn put_endpoint(self, index: u64) {
        assert_ok!(call::cap_move(self.at(index), assert_ok!(call::endpoint_create())));
    }
}

/// What can be told of a capability, but for the generation of its slot.
pub fn facts(info: &CapabilityInfo) -> (u64, u64, u64) {
    (info.kind, info.rights, info.badge)
}

/// A new object that can be told from others without being waited for: a CNode with a badge in its slot 0.
pub fn marked(mark: u64) -> Capability {
    let node = Table::new(1);
    let endpoint = assert_ok!(call::endpoint_create());
    assert_ok!(call::cap_mint(node.at(0), endpoint, Rights::NONE, mark));
    assert_ok!(call::close(endpoint));
    node.name
}

/// An endpoint's name is used without waiting: nobody is owed a reply, which is found out behind every other error.
pub fn use_endpoint(name: Capability) -> Error {
    match call::reply_receive(name, Message::empty(0)) {
        Err(error) => error,
        Ok(message) => panic!("{name:?}: nobody was owed a reply, and {message:?} came"),
    }
}

pub fn info(what: Info) -> u64 {
    assert_ok!(call::info(what, 0))
}

/// CPUs to test on; the stacks of a thread on each fit into the heap.
pub fn cpus() -> u64 {
    info(Info::CpusOnline).min(8)
}

/// Waits until it is so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = call::clock_ns() + PATIENCE_NS;
    while !is_so() {
        kernel_assert!(call::clock_ns() < deadline, "waited for: {what}");
        call::yield_now();
    }
}

/// Bytes that are free when all that ended has given its memory back.
pub fn free_memory() -> u64 {
    wait_until("the end of all that ends", || info(Info::Ending) == 0);
    info(Info::MemoryFree)
}

/// Sees that what is done over and over costs no memory, but for what slabs keep that have grown.
pub fn gives_back_all(mut run: impl FnMut()) {
    const ROUNDS: u64 = 8;
    /// So the least that a leak has to lose in a round, and the most that slabs may grow by, is a frame or so.
    const SLACK: u64 = ROUNDS * 4096 - 1;
    let mut round = || {
        run();
        free_memory()
    };
    let before = round();
    let after = (0..ROUNDS).fold(before, |_, _| round());
    kernel_assert!(after + SLACK >= before, "{before} bytes were free, {after} are");
}

//! A space of capabilities of two levels, and its copy: the same names mean the same.

use rt::abi::{ADDRESS_BITS, CapabilityInfo, Kind, Rights, guard};
use rt::call::{self, Capability, Place};
use rt::random::Random;
use rt::{assert_ok, kernel_assert_eq};

/// Bits of the slots of each CNode, and of the guard before those of the lower level. A root whose guard takes the rest
/// of an address leaves 16 bits.
const BITS: u32 = 4;
const GUARD: u32 = 8;
pub const ROOT_GUARD: u64 = guard(ADDRESS_BITS - 2 * BITS - GUARD, 0);
const SLOTS: u64 = 1 << BITS;

/// What a slot is to hold.
pub struct Wanted {
    pub object: Capability,
    pub rights: Rights,
    pub badge: u64,
}

/// A root, and the CNodes in it; all are also in slots of this process.
pub struct Space {
    pub root: Capability,
    nodes: [Capability; 2],
}

const fn slot(node: Capability, index: u64) -> Place {
    Place::within(node, index, BITS)
}

fn read(place: Place) -> CapabilityInfo {
    assert_ok!(call::cap_read(place))
}

/// What a copy in another slot has in common, whichever the object.
fn shape(info: &CapabilityInfo) -> [u64; 4] {
    [info.kind, info.rights, info.badge, info.generation]
}

impl Space {
    fn empty(quota: Capability) -> Self {
        let node = || assert_ok!(call::cnode_create_in(quota, BITS.into()));
        Self { root: node(), nodes: [node(), node()] }
    }

    /// Puts these anywhere, as the filling of any number. The names by which they are found from the root on.
    pub fn filled<const N: usize>(
        quota: Capability,
        wanted: [Wanted; N],
        random: &mut Random,
    ) -> (Self, [Capability; N]) {
        let space = Self::empty(quota);
        let generation = |random: &mut Random| 100 + random.below(60_000);
        let places = [random.below(SLOTS / 2), SLOTS / 2 + random.below(SLOTS / 2)];
        let guards = [random.below(1 << GUARD), random.below(1 << GUARD)];
        for which in 0..2 {
            let at = slot(space.root, places[which]).at_generation(generation(random));
            // Who only shows the way needs no right.
            let rights = [Rights::NONE, Rights::READ][which];
            assert_ok!(call::cap_mint(at, space.nodes[which], rights, guard(GUARD, guards[which] as u32)));
        }
        let names = wanted.map(|Wanted { object, rights, badge }| {
            let generation = generation(random);
            let (which, index) = loop {
                let (which, index) = (random.below(2) as usize, random.below(SLOTS));
                if read(slot(space.nodes[which], index)).kind == 0 {
                    break (which, index);
                }
            };
            let at = slot(space.nodes[which], index).at_generation(generation);
            kernel_assert_eq!(assert_ok!(call::cap_mint(at, object, rights, badge)), generation);
            let address = (places[which] << GUARD | guards[which]) << BITS | index;
            Capability(generation << ADDRESS_BITS | address)
        });
        (space, names)
    }

    /// Another, in which each slot holds what it holds here, by the same names.
    pub fn copied(&self, quota: Capability) -> Self {
        let copy = Self::empty(quota);
        for (from, to) in self.nodes.into_iter().zip(copy.nodes) {
            for index in 0..SLOTS {
                let info = read(slot(from, index));
                if info.kind != 0 {
                    let [from, to] = [from, to].map(|node| slot(node, index).at_generation(info.generation));
                    kernel_assert_eq!(assert_ok!(call::cap_copy(to, from)), info.generation);
                    kernel_assert_eq!(read(to), info);
                }
            }
        }
        let objects = self.nodes.map(|node| read(Place::from(node)).object);
        for index in 0..SLOTS {
            let info = read(slot(self.root, index));
            if info.kind != 0 {
                kernel_assert_eq!(info.kind, Kind::CNode as u64);
                let which = objects.iter().position(|&object| object == info.object);
                let node = copy.nodes[which.expect("the root holds these two only")];
                let to = slot(copy.root, index).at_generation(info.generation);
                assert_ok!(call::cap_mint(to, node, Rights(info.rights), info.badge));
                kernel_assert_eq!(shape(&read(to)), shape(&info));
            }
        }
        copy
    }

    /// How many slots are full.
    pub fn count(&self) -> usize {
        let nodes = self.nodes.into_iter().chain([self.root]);
        let slots = nodes.flat_map(|node| (0..SLOTS).map(move |index| slot(node, index)));
        slots.filter(|&place| read(place).kind != 0).count()
    }

    /// Gives up what this process has of it.
    pub fn close(self) {
        for node in self.nodes.into_iter().chain([self.root]) {
            assert_ok!(call::close(node));
        }
    }
}

//! CNodes: sizes, nesting, guards, and what becomes of those who are on the way.

use crate::support::{Table, free_memory, gives_back_all, marked};
use alloc::vec::Vec;
use rt::abi::{Call, Error, Kind, OWN_QUOTA, Rights, guard};
use rt::call::{self, Capability, Place};
use rt::random::Random;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test};

test! {
    fn cnodes_have_the_sizes_they_may_have() requires("CAP-02 SYS-06") {
        // CASE-CNODE-002
        let round = || {
            for bits in 1..=8_u32 {
                let table = Table::new(bits);
                kernel_assert!(table.filled().is_empty());
                table.put_endpoint(0);
                for index in 1..table.size() {
                    assert_ok!(call::cap_copy(table.at(index), table.at(index - 1)));
                }
                kernel_assert_eq!(table.filled().len() as u64, table.size());
                // There is no slot behind the last: what is above the depth does not count.
                kernel_assert_eq!(table.read(table.size()), table.read(0));
                assert_ok!(call::close(table.name));
            }
            free_memory()
        };
        round();
        let before = round();
        let place = Capability(60);
        let empty = assert_ok!(call::cap_read(place));
        for bits in [0, 9, 10, 31, 32, 33, 63, 64, 65, 1 << 32, (1 << 32) + 1, u64::MAX] {
            assert_err!(call::cnode_create(bits), Error::InvalidArgument);
            let at = rt::probe::raw_call(Call::CNodeCreate as u64, [bits, place.0, OWN_QUOTA, 0, 0, 0]);
            kernel_assert_eq!(Error::from_status(at.status), Some(Error::InvalidArgument));
        }
        kernel_assert_eq!((free_memory(), assert_ok!(call::cap_read(place))), (before, empty));
    }
}

test! {
    fn cnodes_are_refused_when_no_slot_is_free() requires("CAP-01 CAP-02 SYS-06") {
        // CASE-CNODE-002, and the objects for which there is no place go.
        let mut made = Vec::new();
        let error = loop {
            match call::endpoint_create() {
                Ok(endpoint) => made.push(endpoint),
                Err(error) => break error,
            }
        };
        kernel_assert_eq!((error, made.len()), (Error::NoSlot, 63));
        let before = free_memory();
        for _ in 0..10 {
            assert_err!(call::cnode_create(8), Error::NoSlot);
            assert_err!(call::endpoint_create_at(made[0].address()), Error::Occupied);
        }
        kernel_assert_eq!(free_memory(), before);
        assert_ok!(call::close(made[31]));
        let table = Table::new(8);
        kernel_assert_eq!(table.name.address(), made[31].address());
    }
}

/// CNodes in each other, the first in this process's root, with `mark` in slot 0 of the last.
struct Nest {
    top: Capability,
    /// Of each CNode: its bits, the bits and value of its guard, and the slot that leads on.
    levels: Vec<(u32, u32, u32, u32)>,
}

impl Nest {
    /// One of at most 32 bits.
    fn new(random: &mut Random) -> Self {
        let mut levels = Vec::new();
        let mut left = 32;
        while left > 0 && (levels.is_empty() || random.below(8) != 0) {
            let bits = 1 + random.below(u64::from(left.min(8))) as u32;
            let guard_bits = random.below(u64::from((left - bits).min(12)) + 1) as u32;
            left -= bits + guard_bits;
            let within = |bits: u32, random: &mut Random| (random.word() & ((1 << bits) - 1)) as u32;
            levels.push((bits, guard_bits, within(guard_bits, random), within(bits, random)));
        }
        // From the innermost on: each is minted, with its guard, into the one around it.
        let mut inner = assert_ok!(call::endpoint_create());
        for &(bits, guard_bits, value, slot) in levels.iter().rev() {
            let node = Table::new(bits);
            assert_ok!(call::cap_move(node.at(slot.into()), inner));
            let guarded = Capability(62);
            assert_ok!(call::cap_mint(guarded, node.name, Rights::ALL, guard(guard_bits, value)));
            assert_ok!(call::close(node.name));
            inner = assert_ok!(call::endpoint_create());
            assert_ok!(call::close(inner));
            let name = inner.address();
            assert_ok!(call::cap_move(Capability(name), guarded));
            inner = Capability(name);
        }
        Self { top: inner, levels }
    }

    /// The way to the slot that `level` CNodes lead to, and how deep that is.
    fn way(&self, level: usize) -> (u64, u32) {
        self.levels[..level].iter().fold((0, 0), |(address, depth), &(bits, guard_bits, value, slot)| {
            ((address << guard_bits | u64::from(value)) << bits | u64::from(slot), depth + guard_bits + bits)
        })
    }
}

test! {
    fn nested_cnodes_resolve_at_every_depth() requires("CAP-02 CAP-21") {
        // CASE-CNODE-003
        let mut random = Random::new(3);
        for _ in 0..60 {
            let nest = Nest::new(&mut random);
            for level in 1..=nest.levels.len() {
                let (address, depth) = nest.way(level);
                let expected = if level < nest.levels.len() { Kind::CNode } else { Kind::Endpoint };
                kernel_assert_eq!(
                    assert_ok!(call::cap_read(Place::within(nest.top, address, depth))).kind,
                    expected as u64,
                    "{level} of {:?}",
                    nest.levels
                );
            }
            assert_ok!(call::close(nest.top));
        }
        // One bit a CNode, to every depth.
        let table = Table::new(1);
        table.put_endpoint(1);
        assert_ok!(call::cap_copy(table.at(0), table.name));
        for depth in 1..=32 {
            let found = assert_ok!(call::cap_read(Place::within(table.name, 1, depth)));
            kernel_assert_eq!(found.kind, Kind::Endpoint as u64);
        }
        assert_ok!(call::cap_delete(table.at(0)));
    }
}

test! {
    fn long_guards_count_to_the_last_bit() requires("CAP-02") {
        // CASE-CNODE-003, CASE-CNODE-004
        let table = Table::new(1);
        table.put_endpoint(1);
        for bits in 1..=31 {
            let value = (0xA5A5_A5A5_u64 >> 3 & ((1 << bits) - 1)) as u32 | 1;
            let guarded = Capability(61);
            assert_ok!(call::cap_mint(guarded, table.name, Rights::ALL, guard(bits, value)));
            let read = |address: u64| call::cap_read(Place::within(guarded, address, bits + 1)).map(|info| info.kind);
            let right = u64::from(value) << 1 | 1;
            kernel_assert_eq!(read(right), Ok(Kind::Endpoint as u64), "{bits} bits");
            for wrong in 1..=bits {
                kernel_assert_eq!(read(right ^ 1 << wrong), Err(Error::GuardMismatch), "{bits} bits, bit {wrong}");
            }
            assert_ok!(call::cap_delete(guarded));
        }
        // The longest takes a whole address.
        let guarded = Capability(61);
        assert_ok!(call::cap_mint(guarded, table.name, Rights::ALL, guard(31, u32::MAX >> 1)));
        for depth in 1..=31 {
            assert_err!(call::cap_read(Place::within(guarded, u64::MAX >> 32, depth)), Error::DepthTooShort);
        }
        kernel_assert_eq!(assert_ok!(call::cap_read(guarded)).badge, guard(31, u32::MAX >> 1));
        // No address is long enough for this one.
        for longer in [guard(32, 0), guard(32, u32::MAX)] {
            assert_err!(call::cap_mint(Capability(62), table.name, Rights::ALL, longer), Error::InvalidArgument);
        }
    }
}

test! {
    fn wrong_ways_have_errors_of_their_own() requires("CAP-02 SYS-09") {
        // CASE-CNODE-004
        let source = assert_ok!(call::endpoint_create());
        let (outer, inner) = (Table::new(4), Table::new(3));
        assert_ok!(call::cap_mint(outer.at(9), inner.name, Rights::ALL, guard(2, 0b10)));
        outer.put_endpoint(8);
        let way = |outer_slot: u64, guard: u64, slot: u64| outer_slot << 5 | guard << 3 | slot;
        let good = Place::within(outer.name, way(9, 0b10, 5), 9);
        assert_ok!(call::cap_copy(good, source));
        kernel_assert_eq!(assert_ok!(call::cap_read(good)), inner.read(5));
        assert_ok!(call::cap_delete(good));
        let mut wrong = Vec::new();
        for value in [0b00, 0b01, 0b11] {
            wrong.push((way(9, value, 5), 9, Error::GuardMismatch));
        }
        for depth in 1..4 {
            wrong.push((0, depth, Error::DepthTooShort));
        }
        for depth in 5..9 {
            wrong.push((way(9, 0b10, 5) >> (9 - depth), depth, Error::DepthTooShort));
        }
        // At the end of the CNodes: an empty slot, and something else than a CNode.
        for outer_slot in [0, 8] {
            wrong.push((way(outer_slot, 0b10, 5), 9, Error::DepthTooLong));
        }
        for depth in 10..=32 {
            wrong.push((way(9, 0b10, 5) << (depth - 9), depth, Error::DepthTooLong));
        }
        for depth in [33, 34, 63, 64, 127, 128, 255] {
            wrong.push((0, depth, Error::InvalidArgument));
        }
        let before = free_memory();
        for (address, depth, error) in wrong {
            let place = Place::within(outer.name, address, depth);
            kernel_assert_eq!(call::cap_read(place), Err(error), "{address:#x}, {depth} bits");
            kernel_assert_eq!(call::cap_copy(place, source), Err(error), "{address:#x}, {depth} bits");
            kernel_assert_eq!(call::cap_copy(inner.at(1), place), Err(error), "{address:#x}, {depth} bits");
            kernel_assert_eq!(call::cap_move(place, source), Err(error), "{address:#x}, {depth} bits");
            kernel_assert_eq!(call::cap_move(inner.at(1), place), Err(error), "{address:#x}, {depth} bits");
            kernel_assert_eq!(call::cap_delete(place), Err(error), "{address:#x}, {depth} bits");
            kernel_assert_eq!(call::cap_revoke(place), Err(error), "{address:#x}, {depth} bits");
        }
        kernel_assert_eq!((inner.filled(), outer.filled()), (Vec::new(), Vec::from([8, 9])));
        kernel_assert_eq!(free_memory(), before);
        // Of this process's own names, which a guard fills up to all 32 bits.
        assert_err!(call::endpoint_create_at(64), Error::GuardMismatch);
        assert_err!(call::endpoint_create_at(1 << 31), Error::GuardMismatch);
        assert_err!(call::cap_delete(Capability(64)), Error::GuardMismatch);
        assert_err!(call::receive(Capability(64)), Error::InvalidCapability);
    }
}

test! {
    fn a_way_through_itself_ends() requires("CAP-02 CAP-18") {
        // CASE-CNODE-005
        let table = Table::new(8);
        for index in 0..table.size() - 1 {
            assert_ok!(call::cap_copy(table.at(index), table.name));
        }
        let last = table.size() - 1;
        table.put_endpoint(last);
        let mut random = Random::new(5);
        for _ in 0..100 {
            let way = random.word() & u64::from(u32::MAX);
            for depth in 1..=32_u32 {
                let place = Place::within(table.name, way, depth);
                let leads_on = (8..depth).step_by(8).all(|above| way >> (depth - above) & 0xFF != last);
                let found = call::cap_read(place).map(|info| info.kind);
                match depth % 8 {
                    0 if leads_on => {
                        let kind = if way & 0xFF == last { Kind::Endpoint } else { Kind::CNode };
                        kernel_assert_eq!(found, Ok(kind as u64));
                    }
                    _ if leads_on => kernel_assert_eq!(found, Err(Error::DepthTooShort)),
                    _ => kernel_assert_eq!(found, Err(Error::DepthTooLong)),
                }
            }
        }
        // Emptied through itself, but for the way there.
        for index in 1..last {
            assert_ok!(call::cap_delete(Place::within(table.name, index, 32)));
        }
        kernel_assert_eq!(table.filled(), [0, last]);
        assert_ok!(call::cap_delete(Place::within(table.name, 0, 32)));
        kernel_assert_eq!(table.filled(), [last]);
    }
}

test! {
    fn a_cnode_without_the_right_takes_nothing() requires("CAP-07 CAP-14") {
        // CASE-CNODE-013
        let (table, source) = (Table::new(3), assert_ok!(call::endpoint_create()));
        table.put_marked(0, 7);
        table.put_endpoint(1);
        let sources = Table::new(1);
        let read_only = Table { name: Capability(60), ..table };
        let below = Table::new(2);
        assert_ok!(call::cap_mint(read_only.name, table.name, Rights(Rights::ALL.0 & !Rights::WRITE.0), 0));
        // The same CNode without the right, at the end of a way of which the beginning has all rights.
        assert_ok!(call::cap_copy(below.at(3), read_only.name));
        let through = |index: u64| below.below(3, index, 3);
        let before: Vec<_> = (0..8).map(|index| table.read(index)).collect();
        for at in [&|index| read_only.at(index), &through as &dyn Fn(u64) -> Place] {
            // It resolves, and may be copied out of.
            kernel_assert_eq!(assert_ok!(call::cap_read(at(1))).kind, Kind::Endpoint as u64);
            assert_ok!(call::cap_copy(sources.at(0), at(1)));
            assert_ok!(call::cap_delete(sources.at(0)));
            assert_err!(call::cap_copy(at(2), source), Error::NoRight);
            assert_err!(call::cap_mint(at(2), at(1), Rights::READ, 1), Error::NoRight);
            assert_err!(call::cap_move(at(2), source), Error::NoRight);
            assert_err!(call::cap_move(sources.at(0), at(1)), Error::NoRight);
            assert_err!(call::cap_move(at(2), at(1)), Error::NoRight);
            assert_err!(call::cap_delete(at(1)), Error::NoRight);
            assert_err!(call::cap_delete(at(2)), Error::NoRight);
            // Nor does it take away what was derived from what it holds, without saying that it may.
            let after: Vec<_> = (0..8).map(|index| table.read(index)).collect();
            kernel_assert_eq!(after, before);
        }
        // A way through it to a CNode that has the right.
        let inner = read_only.below(0, 1, 1);
        assert_ok!(call::cap_copy(inner, source));
        assert_ok!(call::cap_delete(inner));
    }
}

test! {
    fn a_cnode_without_the_right_tells_nothing() requires("CAP-07 CAP-14") {
        // CASE-CNODE-013, CASE-CAP-027: nothing is read or copied out of it, at whichever depth.
        let (table, to, below) = (Table::new(3), Table::new(1), Table::new(2));
        table.put_endpoint(1);
        let write_only = Table { name: Capability(60), ..table };
        assert_ok!(call::cap_mint(write_only.name, table.name, Rights(Rights::ALL.0 & !Rights::READ.0), 0));
        assert_ok!(call::cap_copy(below.at(3), write_only.name));
        for place in [write_only.at(1), below.below(3, 1, 3)] {
            assert_err!(call::cap_read(place), Error::NoRight);
            assert_err!(call::cap_copy(to.at(0), place), Error::NoRight);
            assert_err!(call::cap_revoke(place), Error::NoRight);
            kernel_assert!(!to.holds(0));
            assert_ok!(call::cap_move(to.at(0), place));
            assert_ok!(call::cap_move(place, to.at(0)));
        }
    }
}

test! {
    fn a_capability_goes_by_the_cnode_that_holds_it() requires("CAP-13") {
        // CASE-CNODE-014
        let table = Table::new(3);
        table.put_marked(1, 7);
        // One of two to the CNode, which lies within, named through the other.
        assert_ok!(call::cap_copy(table.at(3), table.name));
        assert_ok!(call::cap_delete(table.at(3)));
        kernel_assert_eq!(table.filled(), [1]);
        // Named through itself.
        assert_ok!(call::cap_copy(table.at(3), table.name));
        kernel_assert_eq!(table.mark(1), Ok(7));
        assert_ok!(call::cap_delete(table.below(3, 3, 3)));
        kernel_assert_eq!((table.filled(), table.mark(1)), (Vec::from([1]), Ok(7)));
        // Moved by a way through itself: to where it is not, and not onto itself.
        assert_ok!(call::cap_copy(table.at(3), table.name));
        assert_err!(call::cap_move(table.below(3, 3, 3), table.below(3, 3, 3)), Error::Occupied);
        assert_ok!(call::cap_move(table.below(3, 5, 3), table.below(3, 3, 3)));
        kernel_assert_eq!(table.filled(), [1, 5]);
        // Revoked by a way through what goes.
        assert_ok!(call::cap_copy(table.at(6), table.at(5)));
        assert_ok!(call::cap_revoke(Place::within(table.name, 6 << 3 | 5, 6)));
        kernel_assert_eq!(table.filled(), [1, 5]);
        assert_ok!(call::cap_delete(table.at(5)));
        // And with the last there is nothing left.
        let before = free_memory();
        assert_ok!(call::close(table.name));
        kernel_assert!(free_memory() > before);
        assert_err!(call::cap_read(table.at(1)), Error::InvalidCapability);
    }
}

test! {
    fn a_cnode_with_every_kind_of_filling_ends() requires("CAP-13 CAP-27") {
        // CASE-CNODE-014, CASE-CAP-023
        gives_back_all(|| {
            let table = Table::new(8);
            assert_ok!(call::cap_move(table.at(0), marked(1)));
            table.put_endpoint(1);
            assert_ok!(call::cap_copy(table.at(2), rt::protocol::RESOURCE));
            for index in 3..table.size() {
                assert_ok!(call::cap_copy(table.at(index), table.at(index % 3)));
            }
            assert_ok!(call::close(table.name));
        });
    }
}

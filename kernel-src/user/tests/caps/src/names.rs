//! Generations: names that stay good, and names that never become good again.

use crate::support::{Table, facts, free_memory, gives_back_all, marked, use_endpoint};
use rt::abi::{ADDRESS_BITS, Error, Kind, OWN_QUOTA, Rights, guard};
use rt::call::{self, Capability, Message, Place};
use rt::protocol::RESOURCE;
use rt::random::Random;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test};

/// The slot that these cases fill and empty.
const SLOT: Capability = Capability(40);

const fn with_generation(generation: u64) -> Capability {
    Capability(generation << ADDRESS_BITS | SLOT.0)
}

test! {
    fn a_stale_name_never_matches() requires("CAP-25 CAP-18 TST-19") {
        // CASE-CAP-021
        let original = assert_ok!(call::endpoint_create());
        let spare = Capability(41);
        let stale = with_generation(assert_ok!(call::cap_copy(SLOT, original)));
        kernel_assert_eq!(use_endpoint(stale), Error::NoCaller);
        assert_ok!(call::cap_delete(stale));
        let mut last = stale;
        for round in 0..4 {
            let fresh = with_generation(match round {
                0 => assert_ok!(call::cap_copy(SLOT, original)),
                1 => assert_ok!(call::endpoint_create_at(SLOT.0)).0 >> ADDRESS_BITS,
                2 => assert_ok!(call::cap_move(SLOT, marked(7))),
                _ => assert_ok!(call::cap_mint(SLOT, RESOURCE, Rights::NONE, 0)),
            });
            kernel_assert!(fresh.0 > last.0);
            last = fresh;
            let before = assert_ok!(call::cap_read(fresh));
            let message = Message::empty(1);
            let refused = [
                call::call(stale, message).err(),
                call::receive(stale).err(),
                Some(use_endpoint(stale)),
                call::wait(stale).err(),
                call::cap_read(stale).err(),
                call::cap_read(Place::within(stale, 0, 1)).err(),
                call::cap_copy(spare, stale).err(),
                call::cap_move(spare, stale).err(),
                call::cap_delete(stale).err(),
                call::cap_revoke(stale).err(),
                call::set_root(None, stale, guard(31, 0)).err(),
                call::set_root(Some(stale), original, 0).err(),
                call::spawn(stale, "caps", 0, [Capability::NONE; 4]).err(),
                call::console_read(stale, &mut [0; 4]).err(),
            ];
            kernel_assert_eq!(refused, [Some(Error::InvalidCapability); 14]);
            // Nor does it choose where something goes: that number is past.
            assert_err!(call::endpoint_create_at(stale.0), Error::Occupied);
            kernel_assert_eq!(assert_ok!(call::cap_read(fresh)), before);
            // Without a generation, the name means what is there, with its kind and rights.
            kernel_assert_eq!(assert_ok!(call::cap_read(SLOT)), before);
            kernel_assert_eq!(
                use_endpoint(SLOT),
                if before.kind == Kind::Endpoint as u64 { Error::NoCaller } else { Error::WrongObject }
            );
            assert_ok!(call::cap_delete(fresh));
            assert_err!(call::endpoint_create_at(stale.0), Error::InvalidArgument);
            assert_err!(call::endpoint_create_at(fresh.0), Error::InvalidArgument);
        }
        kernel_assert_eq!(assert_ok!(call::cap_read(spare)).kind, 0);
    }
}

test! {
    fn a_slot_is_filled_at_the_generation_asked_for() requires("CAP-25 CAP-01") {
        let table = Table::new(3);
        table.put_endpoint(0);
        for (index, generation) in [(1, 1), (2, 1000), (3, u64::from(u32::MAX) - 1)] {
            kernel_assert_eq!(call::cap_copy(table.at(index).at_generation(generation), table.at(0)), Ok(generation));
            kernel_assert_eq!(table.read(index).generation, generation);
        }
        let place = SLOT.0 | 77 << ADDRESS_BITS;
        kernel_assert_eq!(call::endpoint_create_at(place), Ok(Capability(place)));
        assert_ok!(call::cap_delete(SLOT));
        kernel_assert_eq!(call::cap_copy(Place::from(SLOT).at_generation(100), table.at(0)), Ok(100));
        kernel_assert_eq!(call::cap_move(Place::from(SLOT).at_generation(100), table.at(0)), Err(Error::Occupied));
        kernel_assert_eq!(call::cap_move(table.at(4).at_generation(9), with_generation(100)), Ok(9));
        // The numbers that have been are past; the last of all is none.
        for past in [1, 76, 77, 99, 100] {
            assert_err!(call::endpoint_create_at(with_generation(past).0), Error::InvalidArgument);
        }
        let last = with_generation(u64::from(u32::MAX));
        assert_err!(call::endpoint_create_at(last.0), Error::InvalidArgument);
    }
}

test! {
    fn a_call_that_fails_spends_no_generation() requires("CAP-25 SYS-06") {
        let table = Table::new(2);
        table.put_endpoint(0);
        let place = with_generation(1000).0;
        let before = assert_ok!(call::cap_read(SLOT)).generation;
        // These find out behind the slot to fill that they cannot.
        assert_err!(call::endpoint_create_at(with_generation(u64::from(u32::MAX)).0), Error::InvalidArgument);
        kernel_assert_eq!(assert_ok!(call::cap_read(SLOT)).generation, before);
        let refused = rt::probe::raw_call(rt::abi::Call::CNodeCreate as u64, [0, place, OWN_QUOTA, 0, 0, 0]);
        kernel_assert_eq!(Error::from_status(refused.status), Some(Error::InvalidArgument));
        kernel_assert_eq!(assert_ok!(call::cap_read(SLOT)).generation, before);
        assert_ok!(call::endpoint_create_at(SLOT.0));
        kernel_assert_eq!(assert_ok!(call::cap_read(SLOT)).generation, before);
    }
}

test! {
    fn a_slot_without_generations_left_stays_empty() requires("CAP-25") {
        let table = Table::new(1);
        let last = u64::from(u32::MAX) - 1;
        let filled = table.at(0).at_generation(last);
        table.put_endpoint(1);
        assert_ok!(call::cap_copy(filled, table.at(1)));
        assert_ok!(call::cap_delete(table.at(0)));
        assert_err!(call::cap_copy(table.at(0), table.at(1)), Error::Occupied);
        assert_err!(call::cap_copy(filled, table.at(1)), Error::Occupied);
        assert_err!(call::cap_delete(table.at(0)), Error::InvalidCapability);
        kernel_assert!(!table.holds(0));
        // It keeps nothing from ending.
        assert_ok!(call::close(table.name));
        free_memory();
    }
}

test! {
    fn a_read_tells_what_was_minted_and_no_more() requires("CAP-01 HRD-02") {
        // CASE-CAP-028
        let table = Table::new(3);
        let mut random = Random::new(28);
        table.put_endpoint(0);
        table.put_marked(1, 7);
        let process = crate::child::Agent::new(Capability::NONE, Capability::NONE, Capability::NONE);
        assert_ok!(call::cap_copy(table.at(2), process.process));
        assert_ok!(call::cap_copy(table.at(3), RESOURCE));
        for (index, kind) in [Kind::Endpoint, Kind::CNode, Kind::Process, Kind::Resource].into_iter().enumerate() {
            for _ in 0..50 {
                let rights = random.rights();
                let bits = random.below(32) as u32; // the table takes the last
                let badge = match kind {
                    Kind::CNode => guard(bits, random.word() as u32 & ((1_u64 << bits) - 1) as u32),
                    _ => random.word(),
                };
                let generation =
                    assert_ok!(call::cap_mint(table.at(5), table.at(index as u64), rights, badge));
                let held = table.read(index as u64).rights & rights.0;
                let info = table.read(5);
                kernel_assert_eq!(facts(&info), (kind as u64, held, badge));
                // The rest counts fillings: so no word is an address.
                kernel_assert_eq!(info.generation, generation);
                kernel_assert!(generation < 1000, "{generation}");
                assert_ok!(call::cap_delete(table.at(5)));
            }
        }
        let empty = table.read(7);
        kernel_assert_eq!((facts(&empty), empty.generation), ((0, 0, 0), 1));
        process.end();
    }
}

test! {
    fn an_object_ends_with_its_last_capability() requires("CAP-13 HEAP-07") {
        // CASE-CAP-023, without quotas.
        let round = || {
            let table = Table::new(8);
            for index in 0..16 {
                assert_ok!(call::cap_move(table.at(index), Table::new(8).name));
                assert_ok!(call::cap_copy(table.below(index, index, 8), table.at(index)));
                assert_ok!(call::cap_copy(table.at(index + 16), table.below(index, index, 8)));
            }
            let full = free_memory();
            // One of three capabilities to each goes, and nothing with it.
            (0..16).for_each(|index| assert_ok!(call::cap_delete(table.at(index))));
            kernel_assert_eq!(free_memory(), full);
            // The last that leads there from outside has to go last, or what is within keeps its CNode.
            for index in 0..16 {
                assert_ok!(call::cap_delete(table.below(index + 16, index, 8)));
                assert_ok!(call::cap_delete(table.at(index + 16)));
            }
            let ended = free_memory();
            kernel_assert!(ended >= full + 16 * (256 * 64), "{full} bytes were free, {ended} are");
            assert_ok!(call::close(table.name));
            free_memory()
        };
        let before = round();
        for _ in 0..3 {
            kernel_assert_eq!(round(), before);
        }
    }
}

test! {
    fn a_cnode_ends_with_all_that_is_within() requires("CAP-13 CAP-27") {
        // CASE-CAP-023: one capability holds a tree of CNodes.
        let build = |levels: u32| {
            let mut top = marked(1);
            for _ in 0..levels {
                let node = Table::new(7);
                assert_ok!(call::cap_move(node.at(3), top));
                for index in 64..128 {
                    assert_ok!(call::cap_move(node.at(index), assert_ok!(call::endpoint_create())));
                }
                top = node.name;
            }
            top
        };
        gives_back_all(|| assert_ok!(call::close(build(10))));
    }
}

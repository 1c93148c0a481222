//! Copies, mints, moves and deletions, one after the other.

use crate::support::{Table, facts, use_endpoint};
use alloc::vec::Vec;
use rt::abi::{Error, Kind, Rights, guard};
use rt::call::{self, Capability, Message};
use rt::random::Random;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

test! {
    fn a_copy_is_as_good_as_what_it_came_from() requires("CAP-10 CAP-13 CAP-07") {
        // CASE-CAP-001
        let table = Table::new(4);
        table.put_marked(0, 7);
        assert_ok!(call::cap_copy(table.at(1), table.at(0)));
        kernel_assert_eq!(facts(&table.read(1)), facts(&table.read(0)));
        kernel_assert_eq!((table.mark(0), table.mark(1)), (Ok(7), Ok(7)));
        // What came from the other goes first, then the other.
        assert_ok!(call::cap_delete(table.at(1)));
        kernel_assert_eq!(table.mark(0), Ok(7));
        assert_ok!(call::cap_copy(table.at(1), table.at(0)));
        assert_ok!(call::cap_delete(table.at(0)));
        kernel_assert_eq!((table.holds(0), table.mark(1)), (false, Ok(7)));
        assert_ok!(call::cap_copy(table.at(0), table.at(1)));
        kernel_assert_eq!(table.mark(0), Ok(7));
    }
}

test! {
    fn messages_pass_by_copies_of_an_endpoint() requires("CAP-03 CAP-10 CAP-16") {
        // CASE-CAP-001, CASE-CAP-002: the receiver is told the badge of the capability that the message came by.
        const ORIGINAL: Capability = Capability(40);
        const PLAIN: Capability = Capability(41);
        const BADGED: Capability = Capability(42);
        let receiver = assert_ok!(call::endpoint_create_at(ORIGINAL.0));
        assert_ok!(call::cap_copy(PLAIN, ORIGINAL));
        assert_ok!(call::cap_mint(BADGED, ORIGINAL, Rights::WRITE.with(Rights::CALL), 0xBAD6E));
        let server = assert_ok!(thread::spawn(move || {
            let mut badges = Vec::new();
            let mut request = assert_ok!(call::receive(receiver));
            while request.info.label() != 9 {
                badges.push(request.badge);
                request = assert_ok!(call::reply_receive(receiver, Message::empty(1)));
            }
            badges
        }));
        for name in [ORIGINAL, PLAIN, BADGED] {
            assert_ok!(call::call(name, Message::empty(1)));
        }
        assert_ok!(call::cap_delete(PLAIN));
        assert_ok!(call::call(BADGED, Message::empty(1)));
        assert_err!(call::call(BADGED, Message::empty(9)), Error::PartnerGone);
        kernel_assert_eq!(assert_ok!(server.join()), [0, 0, 0xBAD6E, 0xBAD6E]);
    }
}

test! {
    fn a_mint_has_the_rights_that_both_sides_want() requires("CAP-11 CAP-14") {
        // CASE-CAP-002: all pairs.
        let table = Table::new(2);
        table.put_endpoint(0);
        for held in 0..=Rights::ALL.0 {
            assert_ok!(call::cap_mint(table.at(1), table.at(0), Rights(held), 0));
            for wanted in 0..=Rights::ALL.0 {
                let badge = held << 8 | wanted | 1 << 63;
                assert_ok!(call::cap_mint(table.at(2), table.at(1), Rights(wanted), badge));
                kernel_assert_eq!(facts(&table.read(2)), (Kind::Endpoint as u64, held & wanted, badge));
                assert_ok!(call::cap_delete(table.at(2)));
            }
            assert_ok!(call::cap_delete(table.at(1)));
        }
    }
}

test! {
    fn no_chain_gains_a_right() requires("CAP-14 TST-21 TST-24") {
        // CASE-CAP-003, but for transfers.
        const CHAINS: u64 = 200;
        let table = Table::new(5);
        let mut random = Random::new(3);
        table.put_endpoint(0);
        for _ in 0..CHAINS {
            let mut at = 1 + random.below(table.size() - 1);
            let mut held = random.rights();
            assert_ok!(call::cap_mint(table.at(at), table.at(0), held, 0));
            for _ in 0..random.below(40) {
                let to = 1 + random.below(table.size() - 1);
                let wanted = Rights(random.below(1 << 16));
                let (result, next) = match random.below(3) {
                    0 => (call::cap_copy(table.at(to), table.at(at)), held),
                    1 => (call::cap_mint(table.at(to), table.at(at), wanted, 0), Rights(held.0 & wanted.0)),
                    _ => (call::cap_move(table.at(to), table.at(at)), held),
                };
                match result {
                    Ok(_) => (at, held) = (to, next),
                    Err(error) => kernel_assert_eq!(error, Error::Occupied),
                }
                kernel_assert_eq!(table.read(at).rights, held.0);
            }
            assert_ok!(call::cap_revoke(table.at(0)));
            kernel_assert_eq!(table.filled(), [0]);
        }
    }
}

test! {
    fn a_badge_is_given_once() requires("CAP-11 CAP-16") {
        // CASE-CAP-004
        let table = Table::new(3);
        table.put_endpoint(0);
        assert_ok!(call::cap_mint(table.at(1), table.at(0), Rights::ALL, 5));
        for badge in [1, 4, 5, 6, u64::MAX] {
            let before = table.read(2);
            assert_err!(call::cap_mint(table.at(2), table.at(1), Rights::ALL, badge), Error::InvalidArgument);
            kernel_assert_eq!(table.read(2), before);
        }
        assert_ok!(call::cap_mint(table.at(2), table.at(1), Rights::ALL, 0));
        assert_ok!(call::cap_copy(table.at(3), table.at(2)));
        assert_ok!(call::cap_move(table.at(4), table.at(3)));
        kernel_assert_eq!((table.read(2).badge, table.read(4).badge), (5, 5));
        assert_err!(call::cap_mint(table.at(5), table.at(4), Rights::ALL, 7), Error::InvalidArgument);
        // The one without a badge is as it was.
        assert_ok!(call::cap_mint(table.at(5), table.at(0), Rights::ALL, 6));
        kernel_assert_eq!((table.read(0).badge, table.read(5).badge), (0, 6));
    }
}

test! {
    fn a_guard_may_change_and_must_make_sense() requires("CAP-02 CAP-07 CAP-11") {
        // CASE-CAP-004, of CNodes: a guard says where, not who.
        let table = Table::new(2);
        table.put_marked(0, 7);
        assert_ok!(call::cap_mint(table.at(1), table.at(0), Rights::ALL, guard(4, 0xA)));
        assert_ok!(call::cap_mint(table.at(2), table.at(1), Rights::ALL, guard(6, 1)));
        kernel_assert_eq!((table.read(1).badge, table.read(2).badge), (guard(4, 0xA), guard(6, 1)));
        for wrong in [guard(0, 1), guard(1, 2), guard(4, 0x10), guard(31, 1 << 31), guard(33, 0), guard(u32::MAX, 0)] {
            assert_err!(call::cap_mint(table.at(3), table.at(0), Rights::ALL, wrong), Error::InvalidArgument);
        }
        kernel_assert_eq!(table.filled(), [0, 1, 2]);
    }
}

test! {
    fn a_move_keeps_all_but_the_place() requires("CAP-01 CAP-12") {
        // CASE-CAP-006
        let (table, other) = (Table::new(3), Table::new(3));
        table.put_endpoint(0);
        for (to, from, badge) in [(1, 0, 5), (2, 1, 0), (3, 2, 0), (4, 0, 0), (5, 1, 0)] {
            assert_ok!(call::cap_mint(table.at(to), table.at(from), Rights::ALL, badge));
        }
        let before = table.read(2);
        let generation = assert_ok!(call::cap_move(other.at(6), table.at(2)));
        kernel_assert_eq!(facts(&other.read(6)), facts(&before));
        kernel_assert_eq!((other.read(6).generation, table.filled()), (generation, Vec::from([0, 1, 3, 4, 5])));
        // Its child is its still, and nobody else.
        assert_ok!(call::cap_revoke(other.at(6)));
        kernel_assert_eq!((other.filled(), table.filled()), (Vec::from([6]), Vec::from([0, 1, 4, 5])));
        // And it is its parent's.
        assert_ok!(call::cap_revoke(table.at(1)));
        kernel_assert_eq!((other.filled(), table.filled()), (Vec::new(), Vec::from([0, 1, 4])));
    }
}

test! {
    fn a_move_between_full_slots_is_refused() requires("CAP-01") {
        // CASE-CAP-007
        let table = Table::new(2);
        table.put_endpoint(0);
        assert_ok!(call::cap_mint(table.at(1), table.at(0), Rights::READ, 3));
        let before = [table.read(0), table.read(1)];
        for (to, from) in [(0, 0), (1, 1), (0, 1), (1, 0)] {
            assert_err!(call::cap_move(table.at(to), table.at(from)), Error::Occupied);
            assert_err!(call::cap_copy(table.at(to), table.at(from)), Error::Occupied);
            kernel_assert_eq!([table.read(0), table.read(1)], before);
        }
        for from in [2, 3] {
            let before = table.read(3);
            assert_err!(call::cap_move(table.at(3), table.at(from)), Error::InvalidCapability);
            assert_err!(call::cap_copy(table.at(3), table.at(from)), Error::InvalidCapability);
            kernel_assert_eq!(table.read(3), before);
        }
        // A swap through a third slot is exact.
        for (to, from) in [(2, 0), (0, 1), (1, 2)] {
            assert_ok!(call::cap_move(table.at(to), table.at(from)));
        }
        kernel_assert_eq!([table.read(1), table.read(0)].map(|info| facts(&info)), before.map(|info| facts(&info)));
        assert_ok!(call::cap_revoke(table.at(1)));
        kernel_assert_eq!(table.filled(), [1]);
    }
}

test! {
    fn a_deletion_empties_one_slot() requires("CAP-13") {
        // CASE-CAP-008
        let table = Table::new(4);
        table.put_endpoint(0);
        for index in 1..table.size() {
            assert_ok!(call::cap_copy(table.at(index), table.at((index - 1) / 2)));
        }
        for gone in [5, 0, 15, 1] {
            let before: Vec<_> = (0..table.size()).map(|index| table.read(index)).collect();
            assert_ok!(call::cap_delete(table.at(gone)));
            kernel_assert!(!table.holds(gone));
            let empty = table.read(gone);
            kernel_assert!(empty.generation > before[gone as usize].generation);
            for index in (0..table.size()).filter(|&index| index != gone) {
                kernel_assert_eq!(table.read(index), before[index as usize]);
            }
            // There is nothing to empty now, and nothing happens.
            assert_err!(call::cap_delete(table.at(gone)), Error::InvalidCapability);
            kernel_assert_eq!(table.read(gone), empty);
        }
    }
}

test! {
    fn names_are_slots_too() requires("CAP-01 CAP-10 CAP-13") {
        // CASE-CAP-001, CASE-CAP-006, CASE-CAP-008, with slots of the root CNode.
        let original = assert_ok!(call::endpoint_create());
        let copy = Capability(50);
        let generation = assert_ok!(call::cap_copy(copy, original));
        let named = Capability(generation << 32 | copy.0);
        kernel_assert_eq!((use_endpoint(copy), use_endpoint(named)), (Error::NoCaller, Error::NoCaller));
        assert_ok!(call::cap_move(Capability(51), named));
        kernel_assert_eq!(use_endpoint(copy), Error::InvalidCapability);
        kernel_assert_eq!(use_endpoint(Capability(51)), Error::NoCaller);
        assert_ok!(call::cap_revoke(original));
        kernel_assert_eq!(use_endpoint(Capability(51)), Error::InvalidCapability);
        assert_ok!(call::cap_delete(original));
        kernel_assert_eq!(use_endpoint(original), Error::InvalidCapability);
    }
}

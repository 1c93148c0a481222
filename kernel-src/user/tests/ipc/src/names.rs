//! A name that was used means what the way leads to now, and not what it led to before.

use crate::help;
use crate::roles::{self, DONE, Role};
use rt::abi::{ADDRESS_BITS, Error, Info, guard};
use rt::call::{self, Capability, Exit, Message, Place};
use rt::{assert_err, assert_ok, kernel_assert_eq, test, thread};

/// The root of the process, and the CNodes in it: so many bits of an address.
const OUTER_BITS: u64 = 4;
const INNER_BITS: u64 = 8;
const OUTER_GUARD: u64 = guard(ADDRESS_BITS - (OUTER_BITS + INNER_BITS) as u32, 0);

/// Calls by one name: the first learns what it means.
const CALLS: usize = 3;

const fn name(outer: u64, inner: u64) -> Capability {
    Capability(outer << INNER_BITS | inner)
}

fn answers(by: Capability, label: u64) {
    for _ in 0..CALLS {
        kernel_assert_eq!(assert_ok!(call::call(by, Message::empty(7))).info.label(), label);
    }
}

/// A CNode with the two endpoints in slots 5 and 6, in that order or the other.
fn inner(endpoints: [Capability; 2]) -> Capability {
    let node = assert_ok!(call::cnode_create(INNER_BITS));
    for (index, endpoint) in (5..).zip(endpoints) {
        assert_ok!(call::cap_copy(Place::within(node, index, INNER_BITS as u32), endpoint));
    }
    node
}

pub fn nested() -> u32 {
    let [one, two, control] = [0, 1, 2].map(Capability);
    assert_ok!(call::call(control, help::word(1, help::info(Info::CurrentCpu))));
    let (first, second) = (inner([one, two]), inner([two, one]));
    let [root, next] = [0; 2].map(|_| assert_ok!(call::cnode_create(OUTER_BITS)));
    // Slot 3 of either root leads to a CNode with names of all of these, from which the others come.
    let own = inner([one, two]);
    let owned = |index| Place::within(own, index, INNER_BITS as u32);
    for (index, node) in (0..).zip([root, next, first, second]) {
        assert_ok!(call::cap_copy(owned(index), node));
    }
    for (root, nodes) in [(root, [2, 3]), (next, [3, 2])] {
        let slot = |index| Place::within(root, index, OUTER_BITS as u32);
        for (index, node) in (1..).zip(nodes) {
            assert_ok!(call::cap_copy(slot(index), owned(node)));
        }
        assert_ok!(call::cap_copy(slot(3), own));
    }
    assert_ok!(call::set_root(None, root, OUTER_GUARD));
    let [root, next, first] = [0, 1, 2].map(|index| name(3, index));
    let slot = |index| Place::within(root, index, OUTER_BITS as u32);

    answers(name(1, 5), 1);
    answers(name(1, 6), 2);
    answers(name(1, 5), 1);
    // Moved away, and another moved there.
    assert_ok!(call::cap_move(slot(4), slot(1)));
    assert_err!(call::call(name(1, 5), Message::empty(7)), Error::InvalidCapability);
    assert_ok!(call::cap_move(slot(1), slot(2)));
    answers(name(1, 5), 2);
    answers(name(4, 5), 1);
    // Deleted.
    assert_ok!(call::cap_delete(slot(1)));
    assert_err!(call::call(name(1, 5), Message::empty(7)), Error::InvalidCapability);
    assert_ok!(call::cap_move(slot(1), slot(4)));
    answers(name(1, 5), 1);
    // Another root.
    assert_ok!(call::set_root(None, next, OUTER_GUARD));
    answers(name(1, 5), 2);
    answers(name(2, 5), 1);
    // Revoked.
    assert_ok!(call::cap_revoke(first));
    assert_err!(call::call(name(2, 5), Message::empty(7)), Error::InvalidCapability);
    answers(name(1, 5), 2);
    DONE
}

test! {
    fn a_name_means_what_its_way_leads_to_now() requires("CAP-07 CAP-12 IPS-02") {
        let [one, two, control] = [0; 3].map(|_| assert_ok!(call::endpoint_create()));
        let process = assert_ok!(Role::Nested.start(0, &[one, two, control]));
        let cpu = assert_ok!(call::receive(control)).words[0];
        // On the same CPU, where a call takes the shortest way.
        let servers = [(one, 1), (two, 2)].map(|(endpoint, label)| {
            assert_ok!(thread::spawn_on(cpu, move || {
                let mut next = call::receive(endpoint);
                while next.is_ok() {
                    next = call::reply_receive(endpoint, Message::empty(label));
                }
            }))
        });
        help::settled(cpu);
        assert_ok!(call::reply(Message::empty(0)));
        kernel_assert_eq!(roles::ended(process), Exit::Status(DONE));
        for endpoint in [one, two] {
            assert_ok!(call::close(endpoint));
        }
        for server in servers {
            assert_ok!(server.join());
        }
    }
}

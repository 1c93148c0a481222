//! Capabilities that go with messages.

use crate::help::{self, filled, once_there, settled, vacant_slot};
use crate::roles::{self, DONE, Role};
use alloc::vec::Vec;
use rt::abi::{ANY_SLOT, Call, CapabilityInfo, Error, Kind, MESSAGE_CAPABILITIES, MessageInfo, OWED, Rights, guard};
use rt::call::{self, Buffer, Capability, Exit, Message, Place, Until};
use rt::probe::raw_message;
use rt::protocol::RESOURCE;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

/// Slots that nothing else takes: whatever takes any takes the first.
const FREE: [Capability; 4] = [Capability(58), Capability(59), Capability(60), Capability(61)];

/// A message of one word and so many capabilities, which the sender's page names.
fn carrying(label: u64, count: usize) -> Message {
    let info = MessageInfo::new(label, 1).with_capabilities(count);
    Message { info, words: [label * 3, 0, 0, 0, 0, 0, 0, 0], badge: 0 }
}

fn read(slot: Capability) -> CapabilityInfo {
    assert_ok!(call::cap_read(slot))
}

fn is_empty(slot: Capability) -> bool {
    read(slot).kind == 0
}

/// Names the capabilities to send.
pub fn give(page: &Buffer, capabilities: &[Capability]) {
    capabilities.iter().enumerate().for_each(|(number, &capability)| page.give(number, capability));
}

/// Names the slots to receive in; none beyond.
pub fn receive_at(page: &Buffer, slots: &[Capability]) {
    (0..MESSAGE_CAPABILITIES).for_each(|number| page.receive_at(number, slots.get(number).map_or(0, |slot| slot.0)));
}

fn minted(from: Capability, rights: Rights, badge: u64) -> Capability {
    let slot = vacant_slot();
    filled(slot, assert_ok!(call::cap_mint(slot, from, rights, badge)))
}

/// How a capability goes from this thread, which has page 0, to `slot`, which another one names in page 1: the name that
/// it has there.
type Way = fn(u64, Capability, Capability) -> Capability;

fn received(endpoint: Capability, slot: Capability) -> (Message, Capability) {
    let page = help::buffered(1);
    receive_at(page, &[slot]);
    let message = assert_ok!(call::receive(endpoint));
    (message, page.given(0))
}

fn by_a_send_to_one_who_waits(cpu: u64, capability: Capability, slot: Capability) -> Capability {
    let endpoint = assert_ok!(call::endpoint_create());
    help::buffered(0).give(0, capability);
    let receiver = assert_ok!(thread::spawn_on(cpu, move || received(endpoint, slot)));
    let mut sent = None;
    once_there(|| {
        let left = raw_message(
            Call::Send as u64 | rt::abi::DEADLINE,
            endpoint.0,
            0,
            carrying(1, 1).info.0,
            carrying(1, 1).words,
        );
        sent = Some(left.info);
        Error::from_status(left.status).map_or(Ok(()), Err)
    });
    // The sender hears how many have arrived.
    kernel_assert_eq!(sent, Some(MessageInfo::new(0, 0).with_capabilities(1).0));
    let (message, name) = assert_ok!(receiver.join());
    kernel_assert_eq!(message, carrying(1, 1));
    assert_ok!(call::close(endpoint));
    name
}

fn by_a_send_that_waits(cpu: u64, capability: Capability, slot: Capability) -> Capability {
    let endpoint = assert_ok!(call::endpoint_create());
    help::buffered(0).give(0, capability);
    let receiver = assert_ok!(thread::spawn_on(cpu, move || {
        settled(0);
        received(endpoint, slot)
    }));
    assert_ok!(call::send(endpoint, carrying(2, 1), Until::Done));
    let (message, name) = assert_ok!(receiver.join());
    kernel_assert_eq!(message, carrying(2, 1));
    assert_ok!(call::close(endpoint));
    name
}

fn by_a_call(cpu: u64, capability: Capability, slot: Capability) -> Capability {
    let endpoint = assert_ok!(call::endpoint_create());
    help::buffered(0).give(0, capability);
    let server = assert_ok!(thread::spawn_on(cpu, move || {
        let (message, name) = received(endpoint, slot);
        assert_ok!(call::reply(Message::empty(7)));
        (message, name)
    }));
    settled(cpu);
    kernel_assert_eq!(assert_ok!(call::call(endpoint, carrying(3, 1))), Message::empty(7));
    let (message, name) = assert_ok!(server.join());
    kernel_assert_eq!(message, carrying(3, 1));
    assert_ok!(call::close(endpoint));
    name
}

/// A call whose answer carries the capability; `answer` gives it, of that label.
fn by_an_answer(cpu: u64, capability: Capability, slot: Capability, label: u64, answer: impl FnOnce()) -> Capability {
    let endpoint = assert_ok!(call::endpoint_create());
    help::buffered(0).give(0, capability);
    let caller = assert_ok!(thread::spawn_on(cpu, move || {
        let page = help::buffered(1);
        receive_at(page, &[slot]);
        (assert_ok!(call::call(endpoint, Message::empty(1))), page.given(0))
    }));
    assert_ok!(call::receive(endpoint));
    answer();
    let (message, name) = assert_ok!(caller.join());
    kernel_assert_eq!(message, carrying(label, 1));
    assert_ok!(call::close(endpoint));
    name
}

fn by_a_reply(cpu: u64, capability: Capability, slot: Capability) -> Capability {
    by_an_answer(cpu, capability, slot, 4, || {
        let left = raw_message(Call::Reply as u64, OWED, 0, carrying(4, 1).info.0, carrying(4, 1).words);
        kernel_assert_eq!((left.status, left.info), (0, MessageInfo::new(0, 0).with_capabilities(1).0));
    })
}

fn by_a_saved_reply(cpu: u64, capability: Capability, slot: Capability) -> Capability {
    by_an_answer(cpu, capability, slot, 5, || {
        let saved = assert_ok!(call::save_reply());
        assert_ok!(call::reply_to(saved, carrying(5, 1)));
        assert_ok!(call::close(saved));
    })
}

const WAYS: [Way; 5] = [by_a_send_to_one_who_waits, by_a_send_that_waits, by_a_call, by_a_reply, by_a_saved_reply];

test! {
    // CASE-IPC-020: what arrives is a child, with the rights and the badge of what was sent, and goes with it.
    fn a_capability_of_each_kind_arrives_as_a_child() requires("IPS-02 IPS-18 CAP-14 CAP-16") {
        let end = assert_ok!(call::endpoint_create());
        let process = assert_ok!(Role::LongServer.start(0, &[end]));
        let endpoint = assert_ok!(call::endpoint_create());
        let sent = [
            minted(endpoint, Rights::WRITE.with(Rights::CALL), 0x1234),
            minted(endpoint, Rights::NONE, 0),
            assert_ok!(call::notification_create()),
            assert_ok!(call::cnode_create(3)),
            process,
            RESOURCE,
        ];
        let slot = FREE[0];
        for (number, way) in WAYS.into_iter().enumerate() {
            for (cpu, capability) in [0, help::other_cpu()].into_iter().flat_map(|cpu| sent.map(|sent| (cpu, sent))) {
                let name = way(cpu, capability, slot);
                let (from, to) = (read(capability), read(slot));
                kernel_assert_eq!(name, filled(slot, to.generation), "way {number}");
                kernel_assert_eq!(CapabilityInfo { generation: from.generation, ..to }, from, "way {number}");
                if capability == RESOURCE || !Rights(from.rights).have(Rights::MANAGE) {
                    assert_ok!(call::close(name));
                } else {
                    assert_ok!(call::cap_revoke(capability));
                }
                kernel_assert!(is_empty(slot), "way {number}");
            }
        }
        // What has no right any more gives none.
        let weak = by_a_call(0, sent[1], slot);
        assert_err!(call::send(weak, Message::empty(0), Until::NOW), Error::NoRight);
        assert_ok!(call::send(end, Message::empty(0), Until::Done));
        kernel_assert_eq!(roles::ended(process), Exit::Status(DONE));
    }
}

test! {
    // CASE-IPC-025: a Reply moves, and there is one at any time.
    fn a_reply_moves_with_a_message() requires("IPS-06 CAP-10 IPS-18") {
        let endpoint = assert_ok!(call::endpoint_create());
        let slot = FREE[0];
        for way in WAYS {
            for cpu in [0, help::other_cpu()] {
                let caller = assert_ok!(thread::spawn_on(cpu, move || call::call(endpoint, Message::empty(1))));
                assert_ok!(call::receive(endpoint));
                let reply = assert_ok!(call::save_reply());
                let moved = way(cpu, reply, slot);
                assert_err!(call::reply_to(reply, Message::empty(2)), Error::InvalidCapability);
                kernel_assert_eq!(read(slot).kind, Kind::Reply as u64);
                assert_ok!(call::reply_to(moved, Message::empty(3)));
                kernel_assert_eq!(assert_ok!(caller.join()), Ok(Message::empty(3)));
                assert_ok!(call::close(moved));
            }
        }
    }
}

test! {
    // CASE-IPC-018, and a Reply for which there is no place.
    fn a_reply_is_sent_once_or_kept() requires("CAP-09 IPS-06 ERR-03") {
        let (endpoint, way) = (assert_ok!(call::endpoint_create()), assert_ok!(call::endpoint_create()));
        let page = help::buffered(0);
        let caller = assert_ok!(thread::spawn(move || call::call(endpoint, Message::empty(1))));
        assert_ok!(call::receive(endpoint));
        let reply = assert_ok!(call::save_reply());
        let receiver = assert_ok!(thread::spawn_on(0, move || {
            let page = help::buffered(1);
            receive_at(page, &[]);
            call::receive(way)
        }));
        settled(0);
        for twice in [[reply, reply], [reply, Capability(reply.address())], [Capability(reply.address()), reply]] {
            give(page, &twice);
            assert_err!(call::send(way, carrying(1, 2), Until::NOW), Error::InvalidArgument);
            give(page, &[way, twice[0], way, twice[1]]);
            assert_err!(call::call_until(way, carrying(1, 4), Until::NOW), Error::InvalidArgument);
        }
        // Nobody heard of it, and a message that has no place for it leaves it.
        assert_ok!(call::send(way, carrying(2, 1), Until::NOW));
        kernel_assert_eq!(assert_ok!(receiver.join()), Ok(carrying(2, 0)));
        assert_ok!(call::reply_to(reply, Message::empty(6)));
        kernel_assert_eq!(assert_ok!(caller.join()), Ok(Message::empty(6)));
    }
}

test! {
    // CASE-IPC-016: the message arrives, and what has no place stays with its sender.
    fn what_has_no_place_stays_with_its_sender() requires("CAP-23 IPS-02") {
        let endpoint = assert_ok!(call::endpoint_create());
        let sent = [(); 4].map(|()| assert_ok!(call::endpoint_create()));
        let page = help::buffered(0);
        let free = FREE;
        for slot in free {
            assert_ok!(call::cap_copy(slot, endpoint));
            assert_ok!(call::close(slot));
        }
        let stale = Capability(1 << 32 | free[1].0);
        let any = Capability(ANY_SLOT);
        // Slots to receive in, and how many of four capabilities that is enough for.
        let places: [(&[Capability], usize); 9] = [
            (&[], 0),
            (&[endpoint, free[1], free[2], free[3]], 0),
            (&[Capability(64), free[1]], 0),
            (&[Capability(1 << 31), free[1]], 0),
            (&[free[0], stale, free[2], free[3]], 1),
            (&[free[0], free[1], free[1], free[3]], 2),
            (&[free[0], Capability(0), free[2], free[3]], 1),
            (&free, 4),
            (&[any, any, any, any], 4),
        ];
        for cpu in [0, help::other_cpu()] {
            for (slots, enough) in places {
                let slots = Vec::from(slots);
                give(page, &sent);
                let server = assert_ok!(thread::spawn_on(cpu, move || {
                    let page = help::buffered(1);
                    receive_at(page, &slots);
                    let request = assert_ok!(call::receive(endpoint));
                    let names = [0, 1, 2, 3].map(|number| page.given(number));
                    assert_ok!(call::reply(Message::empty(1)));
                    (request, names)
                }));
                settled(cpu);
                kernel_assert_eq!(assert_ok!(call::call(endpoint, carrying(8, 4))), Message::empty(1));
                let (request, names) = assert_ok!(server.join());
                kernel_assert_eq!(request, carrying(8, enough));
                for (name, from) in names.into_iter().zip(sent).take(enough) {
                    kernel_assert_eq!(read(name).object, read(from).object);
                }
                for from in sent {
                    kernel_assert_eq!(read(from).kind, Kind::Endpoint as u64);
                    assert_ok!(call::cap_revoke(from));
                }
                kernel_assert!(free.into_iter().all(is_empty));
            }
        }
    }
}

test! {
    // CASE-IPC-016: any slot would do, and there is none; the receiver has no buffer at all.
    fn a_full_table_takes_no_capability() requires("CAP-23 IPS-14") {
        let endpoint = assert_ok!(call::endpoint_create());
        let sent = assert_ok!(call::endpoint_create());
        help::buffered(0).give(0, sent);
        let receiver = assert_ok!(thread::spawn_on(0, move || {
            receive_at(help::buffered(1), &[Capability(ANY_SLOT)]);
            let full = call::receive(endpoint);
            assert_ok!(call::buffer_set(None));
            (full, call::receive(endpoint))
        }));
        settled(0);
        let mut copies = Vec::new();
        for address in 0..64 {
            match call::cap_copy(Capability(address), sent) {
                Ok(generation) => copies.push(filled(Capability(address), generation)),
                Err(error) => kernel_assert_eq!(error, Error::Occupied),
            }
        }
        assert_ok!(call::send(endpoint, carrying(1, 1), Until::Done));
        assert_ok!(call::send(endpoint, carrying(2, 1), Until::Done));
        copies.into_iter().for_each(|copy| assert_ok!(call::close(copy)));
        kernel_assert_eq!(assert_ok!(receiver.join()), (Ok(carrying(1, 0)), Ok(carrying(2, 0))));
    }
}

test! {
    // CASE-IPC-015: nothing goes through a capability that may not let it, and nobody hears.
    fn without_the_right_no_capability_goes() requires("IPS-18 CAP-18 NTF-06") {
        let endpoint = assert_ok!(call::endpoint_create());
        let sent = assert_ok!(call::endpoint_create());
        help::buffered(0).give(0, sent);
        let slot = FREE[0];
        let receiver = assert_ok!(thread::spawn_on(0, move || [received(endpoint, slot).0, received(endpoint, slot).0]));
        settled(0);
        for rights in (0..32).map(Rights).filter(|rights| rights.have(Rights::WRITE.with(Rights::CALL))) {
            if !rights.have(Rights::GRANT) {
                let weak = minted(endpoint, rights, 0);
                assert_err!(call::send(weak, carrying(1, 1), Until::NOW), Error::NoRight);
                assert_err!(call::call_until(weak, carrying(1, 1), Until::NOW), Error::NoRight);
                assert_ok!(call::close(weak));
            }
        }
        let weak = minted(endpoint, Rights::WRITE, 0);
        assert_ok!(call::send(weak, carrying(2, 0), Until::Done));
        let strong = minted(endpoint, Rights::WRITE.with(Rights::GRANT), 0);
        assert_ok!(call::send(strong, carrying(3, 1), Until::Done));
        kernel_assert_eq!(assert_ok!(receiver.join()), [carrying(2, 0), carrying(3, 1)]);
    }
}

test! {
    // CASE-IPC-023: the right under which the call was received decides.
    fn an_answer_carries_what_its_server_may_grant() requires("IPS-18 CAP-09") {
        let endpoint = assert_ok!(call::endpoint_create());
        let other = assert_ok!(call::endpoint_create());
        let sent = assert_ok!(call::endpoint_create());
        help::buffered(0).give(0, sent);
        let (weak, strong) = (minted(endpoint, Rights::READ, 0), minted(endpoint, Rights::READ.with(Rights::GRANT), 0));
        let slot = FREE[0];
        let caller = || {
            assert_ok!(thread::spawn_on(0, move || {
                let page = help::buffered(1);
                receive_at(page, &[slot]);
                call::call(endpoint, Message::empty(1))
            }))
        };
        // The way of the answer makes no difference, nor what the server may elsewhere.
        let refused = caller();
        assert_ok!(call::receive(weak));
        assert_err!(call::reply(carrying(2, 1)), Error::NoRight);
        assert_err!(call::reply_receive(strong, carrying(2, 1)), Error::NoRight);
        assert_err!(call::send(other, carrying(2, 1), Until::NOW), Error::TimedOut);
        assert_err!(call::reply(carrying(2, 1)), Error::NoRight);
        let saved = assert_ok!(call::save_reply());
        assert_err!(call::reply_to(saved, carrying(2, 1)), Error::NoRight);
        assert_err!(call::receive_until(strong, Until::NOW), Error::TimedOut);
        assert_err!(call::reply_to(saved, carrying(2, 1)), Error::NoRight);
        assert_ok!(call::reply_to(saved, carrying(3, 0)));
        kernel_assert_eq!(assert_ok!(refused.join()), Ok(carrying(3, 0)));
        kernel_assert!(is_empty(slot));

        let (first, second) = (caller(), caller());
        assert_ok!(call::receive(strong));
        assert_ok!(call::reply_receive(strong, carrying(4, 1)));
        // What was received in the same call counts, though the fast path took the one before.
        kernel_assert_eq!(read(slot).object, read(sent).object);
        assert_ok!(call::cap_revoke(sent));
        assert_ok!(call::reply(carrying(5, 1)));
        kernel_assert_eq!(read(slot).object, read(sent).object);
        for caller in [first, second] {
            kernel_assert_eq!(assert_ok!(assert_ok!(caller.join())).info.capabilities(), 1);
        }
    }
}

test! {
    // CASE-IPC-017.
    fn one_bad_capability_stops_the_message() requires("IPS-02 CAP-18 ERR-03") {
        let endpoint = assert_ok!(call::endpoint_create());
        let sent = [(); 3].map(|()| assert_ok!(call::endpoint_create()));
        let [empty, slot, ..] = FREE;
        let stale = Capability(sent[0].0 + (1 << 32));
        let page = help::buffered(0);
        let receiver = assert_ok!(thread::spawn_on(0, move || received(endpoint, slot).0));
        settled(0);
        for bad in [empty, stale, Capability(64), Capability(u64::MAX)] {
            for place in 0..4 {
                let mut names = [sent[0], sent[1], sent[2], sent[0]];
                names[place] = bad;
                give(page, &names);
                assert_err!(call::send(endpoint, carrying(1, 4), Until::NOW), Error::InvalidCapability);
                assert_err!(call::call_until(endpoint, carrying(1, 4), Until::NOW), Error::InvalidCapability);
                // What is not announced is not looked at.
                if place > 0 {
                    assert_err!(call::send(empty, carrying(1, place), Until::NOW), Error::InvalidCapability);
                }
            }
        }
        sent.into_iter().for_each(|sent| kernel_assert_eq!(read(sent).kind, Kind::Endpoint as u64));
        give(page, &[sent[0], empty, empty, empty]);
        assert_ok!(call::send(endpoint, carrying(2, 1), Until::Done));
        kernel_assert_eq!(assert_ok!(receiver.join()), carrying(2, 1));
    }
}

test! {
    // What goes while its message waits does not arrive, and the message does.
    fn what_is_taken_back_meanwhile_does_not_arrive() requires("CAP-12 IPS-02 CAP-23") {
        let endpoint = assert_ok!(call::endpoint_create());
        let slot = FREE[0];
        for calls in [false, true] {
            for way in 0..3 {
                let origin = assert_ok!(call::endpoint_create());
                let lent = minted(origin, Rights::ALL, 5);
                let sender = assert_ok!(thread::spawn_on(0, move || {
                    give(help::buffered(1), &[origin, lent, origin]);
                    if calls {
                        call::call(endpoint, carrying(1, 3)).map(drop)
                    } else {
                        call::send(endpoint, carrying(1, 3), Until::Done)
                    }
                }));
                settled(0);
                match way {
                    0 => assert_ok!(call::cap_revoke(origin)),
                    1 => assert_ok!(call::close(lent)),
                    _ => drop(assert_ok!(call::cap_move(FREE[2], lent))),
                }
                let other = FREE[1];
                receive_at(help::buffered(0), &[slot, other, other]);
                kernel_assert_eq!(assert_ok!(call::receive(endpoint)), carrying(1, 1));
                kernel_assert!(!is_empty(slot) && is_empty(other));
                if calls {
                    assert_ok!(call::reply(Message::empty(0)));
                }
                kernel_assert_eq!(assert_ok!(sender.join()), Ok(()));
                assert_ok!(call::cap_revoke(origin));
                assert_ok!(call::close(origin));
                kernel_assert!(is_empty(slot));
            }
        }
    }
}

test! {
    // The revocation races with the transfer: when it has returned, nothing of it is anywhere.
    fn a_revocation_reaches_what_travels() requires("CAP-12 TST-23") {
        const STOP: u64 = 9;
        let endpoint = assert_ok!(call::endpoint_create());
        let slot = FREE[0];
        for round in 0..40 {
            let origin = assert_ok!(call::endpoint_create());
            let lent = minted(origin, Rights::ALL, 0);
            let sender = assert_ok!(thread::spawn_on(help::other_cpu(), move || {
                help::buffered(1).give(0, lent);
                loop {
                    match call::send(endpoint, carrying(1, 1), Until::Done) {
                        Ok(()) => {}
                        error => return error,
                    }
                }
            }));
            let receiver = assert_ok!(thread::spawn_on(0, move || {
                let page = help::buffered(2);
                receive_at(page, &[slot]);
                loop {
                    let message = assert_ok!(call::receive(endpoint));
                    if message.info.label() == STOP {
                        return;
                    }
                    if message.info.capabilities() == 1 {
                        // It may be gone already.
                        let _ = call::close(page.given(0));
                    }
                }
            }));
            rt::testing::spin(1 + round * 3_001);
            assert_ok!(call::cap_revoke(origin));
            kernel_assert!(is_empty(slot), "round {round}");
            kernel_assert_eq!(assert_ok!(sender.join()), Err(Error::InvalidCapability));
            assert_ok!(call::send(endpoint, Message::empty(STOP), Until::Done));
            assert_ok!(receiver.join());
            kernel_assert!(is_empty(slot), "round {round}");
            assert_ok!(call::close(origin));
        }
    }
}

/// In a process whose names it cannot change: what it may send and receive.
pub fn with_fixed_names() -> u32 {
    const ENDPOINT: Capability = Capability(0);
    let node = assert_ok!(call::cnode_create(6));
    let notification = assert_ok!(call::notification_create());
    assert_ok!(call::cap_copy(Place::within(node, 0, 6), ENDPOINT));
    assert_ok!(call::receive(ENDPOINT));
    let reply = assert_ok!(call::save_reply());
    assert_ok!(call::cap_move(Place::within(node, 2, 6), reply));
    assert_ok!(call::cap_copy(Place::within(node, 3, 6), notification));
    let fixed = minted(node, Rights::READ, 0);
    assert_ok!(call::set_root(None, fixed, guard(26, 0)));

    let page = help::buffered(0);
    // A Reply would have to leave its slot.
    page.give(0, Capability(2));
    assert_err!(call::send(ENDPOINT, carrying(1, 1), Until::Done), Error::NoRight);
    // A copy is made, and nothing changes here.
    page.give(0, Capability(3));
    assert_ok!(call::send(ENDPOINT, carrying(2, 1), Until::Done));
    for place in [5, ANY_SLOT] {
        page.receive_at(0, place);
        kernel_assert_eq!(assert_ok!(call::receive(ENDPOINT)), carrying(3, 0));
    }
    assert_ok!(call::reply_to(Capability(2), Message::empty(4)));
    DONE
}

test! {
    // Between processes, each with names of its own.
    fn names_that_cannot_change_give_copies_and_take_nothing() requires("CAP-18 IPS-18 IPS-06") {
        let endpoint = assert_ok!(call::endpoint_create());
        let child = assert_ok!(Role::FixedNames.start(0, &[endpoint]));
        let caller = assert_ok!(thread::spawn(move || call::call(endpoint, Message::empty(1))));
        let page = help::buffered(0);
        let slot = FREE[0];
        receive_at(page, &[slot]);
        // The child's first receive is for the caller.
        help::wait_for(|| (0..4).any(|index| call::thread_info(None, index).ok().flatten().is_some_and(|thread| thread.state == 3)));
        kernel_assert_eq!(assert_ok!(call::receive(endpoint)), carrying(2, 1));
        kernel_assert_eq!(read(slot).kind, Kind::Notification as u64);
        assert_ok!(call::signal(page.given(0), 5));
        kernel_assert_eq!(assert_ok!(call::wait_bits(slot, 4, Until::NOW)), 4);
        page.give(0, endpoint);
        assert_ok!(call::send(endpoint, carrying(3, 1), Until::Done));
        assert_ok!(call::send(endpoint, carrying(3, 1), Until::Done));
        kernel_assert_eq!(assert_ok!(caller.join()), Ok(Message::empty(4)));
        kernel_assert_eq!(roles::ended(child), Exit::Status(DONE));
    }
}

//! Replies: the right to answer, once.

use crate::help::{self, filled, numbered, settled, vacant_slot, word};
use crate::roles::{self, DONE, Role, TOLD};
use alloc::vec::Vec;
use rt::abi::{Error, Kind, Rights};
use rt::call::{self, Capability, Exit, Message, Place, Until};
use rt::random::Random;
use rt::thread::{self, Thread};
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test};

type Caller = Thread<Result<Message, Error>>;

fn caller(endpoint: Capability, message: Message) -> Caller {
    assert_ok!(thread::spawn(move || call::call(endpoint, message)))
}

/// A call that was received, with a Reply made of it.
fn owed(endpoint: Capability) -> (Caller, Capability) {
    let caller = caller(endpoint, Message::empty(1));
    assert_ok!(call::receive(endpoint));
    (caller, assert_ok!(call::save_reply()))
}

test! {
    // CASE-IPC-025.
    fn a_reply_moves_and_answers_once() requires("IPS-06 CAP-10") {
        let endpoint = assert_ok!(call::endpoint_create());
        let (client, reply) = owed(endpoint);
        kernel_assert_eq!(assert_ok!(call::cap_read(reply)).kind, Kind::Reply as u64);
        // It is owed by the Reply now, not by the thread.
        assert_err!(call::reply(Message::empty(0)), Error::NoCaller);
        assert_err!(call::save_reply(), Error::NoCaller);
        let slot = vacant_slot();
        let moved = filled(slot, assert_ok!(call::cap_move(slot, reply)));
        assert_err!(call::reply_to(reply, Message::empty(0)), Error::InvalidCapability);
        let answerer = assert_ok!(thread::spawn_on(help::other_cpu(), move || {
            [call::reply_to(moved, numbered(4, 5, 6)), call::reply_to(moved, numbered(5, 5, 5))]
        }));
        kernel_assert_eq!(assert_ok!(answerer.join()), [Ok(()), Err(Error::NoCaller)]);
        kernel_assert_eq!(assert_ok!(client.join()), Ok(numbered(4, 5, 6)));
        assert_err!(call::reply_to(moved, Message::empty(0)), Error::NoCaller);
        assert_ok!(call::close(moved));
        assert_err!(call::reply_to(moved, Message::empty(0)), Error::InvalidCapability);
    }
}

test! {
    // CASE-IPC-025: no second one, by whatever way.
    fn a_reply_cannot_be_copied() requires("IPS-06 CAP-10") {
        let endpoint = assert_ok!(call::endpoint_create());
        let (client, reply) = owed(endpoint);
        let slot = vacant_slot();
        assert_err!(call::cap_copy(slot, reply), Error::WrongObject);
        assert_err!(call::cap_mint(slot, reply, Rights::NONE, 0), Error::WrongObject);
        assert_err!(call::cap_mint(slot, reply, Rights::ALL, 7), Error::WrongObject);
        assert_err!(Role::Forward.start(0, &[reply]), Error::WrongObject);
        assert_err!(call::reply_to(slot, Message::empty(0)), Error::InvalidCapability);
        assert_ok!(call::reply_to(reply, Message::empty(2)));
        // Used up it is no more to be copied.
        assert_err!(call::cap_copy(slot, reply), Error::WrongObject);
        kernel_assert_eq!(assert_ok!(client.join()), Ok(Message::empty(2)));
    }
}

test! {
    // CASE-IPC-025: two threads use the same one at the same time.
    fn one_of_two_answers_wins() requires("IPS-06") {
        let endpoint = assert_ok!(call::endpoint_create());
        for round in 0..30 {
            let (client, reply) = owed(endpoint);
            let answerers: Vec<_> = [0, help::other_cpu()]
                .into_iter()
                .map(|cpu| (cpu, assert_ok!(thread::spawn_on(cpu, move || call::reply_to(reply, word(cpu, round))))))
                .collect();
            let done: Vec<_> =
                answerers.into_iter().map(|(cpu, answerer)| (cpu, assert_ok!(answerer.join()))).collect();
            let winners: Vec<_> = done.iter().filter(|(_, done)| done.is_ok()).collect();
            kernel_assert_eq!(winners.len(), 1, "{done:?}");
            kernel_assert!(done.iter().all(|(_, done)| matches!(done, Ok(()) | Err(Error::NoCaller))), "{done:?}");
            kernel_assert_eq!(assert_ok!(client.join()), Ok(word(winners[0].0, round)));
            assert_ok!(call::close(reply));
        }
    }
}

test! {
    // CASE-IPC-026.
    fn many_replies_in_any_order_find_their_callers() requires("IPS-02 IPS-06") {
        const CLIENTS: u64 = 10;
        let endpoint = assert_ok!(call::endpoint_create());
        let mut random = Random::new(11);
        for _ in 0..4 {
            let clients: Vec<_> = (0..CLIENTS).map(|n| caller(endpoint, word(n, n))).collect();
            let mut replies: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    let request = assert_ok!(call::receive(endpoint));
                    (request.words[0], assert_ok!(call::save_reply()))
                })
                .collect();
            while !replies.is_empty() {
                let (n, reply) = replies.swap_remove(random.below(replies.len() as u64) as usize);
                assert_ok!(call::reply_to(reply, numbered(n, 8, n)));
                assert_ok!(call::close(reply));
            }
            for (n, client) in clients.into_iter().enumerate() {
                kernel_assert_eq!(assert_ok!(client.join()), Ok(numbered(n as u64, 8, n as u64)));
            }
        }
    }
}

test! {
    // CASE-IPC-027.
    fn the_end_of_a_reply_wakes_its_caller() requires("IPS-06 IPS-12") {
        const BITS: u32 = 4;
        let endpoint = assert_ok!(call::endpoint_create());
        let (client, reply) = owed(endpoint);
        assert_ok!(call::close(reply));
        kernel_assert_eq!(assert_ok!(client.join()), Err(Error::PartnerGone));

        // With the CNode that it is in.
        let node = assert_ok!(call::cnode_create(BITS.into()));
        let clients: Vec<_> = (0..4)
            .map(|index| {
                let (client, reply) = owed(endpoint);
                assert_ok!(call::cap_move(Place::within(node, index, BITS), reply));
                client
            })
            .collect();
        assert_ok!(call::close(node));
        for client in clients {
            kernel_assert_eq!(assert_ok!(client.join()), Err(Error::PartnerGone));
        }

        // With the process that it is in, and the caller that a thread merely owes with the thread.
        let client = caller(endpoint, Message::empty(1));
        let child = assert_ok!(Role::KeepReply.start(0, &[endpoint]));
        kernel_assert_eq!(roles::ended(child), Exit::Status(DONE));
        kernel_assert_eq!(assert_ok!(client.join()), Err(Error::PartnerGone));
        let client = caller(endpoint, Message::empty(1));
        let server = assert_ok!(thread::spawn(move || call::receive(endpoint).map(drop)));
        assert_ok!(assert_ok!(server.join()));
        kernel_assert_eq!(assert_ok!(client.join()), Err(Error::PartnerGone));
    }
}

test! {
    // A thread owes one answer: to receive again gives the first up, and so does a poll that finds nothing.
    fn receiving_again_gives_the_caller_up() requires("IPS-06 IPS-12") {
        let endpoint = assert_ok!(call::endpoint_create());
        let client = caller(endpoint, Message::empty(1));
        assert_ok!(call::receive(endpoint));
        assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
        assert_err!(call::reply(Message::empty(0)), Error::NoCaller);
        kernel_assert_eq!(assert_ok!(client.join()), Err(Error::PartnerGone));
    }
}

test! {
    // CASE-IPC-006, with a caller that has gone on, and with one that was killed.
    fn a_vanished_caller_does_not_wedge_the_server() requires("IPS-06 IPS-12") {
        let (endpoint, end) = (assert_ok!(call::endpoint_create()), assert_ok!(call::endpoint_create()));
        help::receive_a_call_and_let_it_pass(endpoint);
        let next = assert_ok!(thread::spawn_on(0, move || call::send(endpoint, numbered(2, 8, 2), Until::Done)));
        settled(0);
        let (is_heard, message) = assert_ok!(call::reply_receive_until(endpoint, numbered(9, 8, 9), Until::Done));
        kernel_assert_eq!((is_heard, message), (false, numbered(2, 8, 2)));
        assert_ok!(assert_ok!(next.join()));

        let child = assert_ok!(Role::CallUntilTold.start(0, &[endpoint, end]));
        assert_ok!(call::receive(endpoint));
        assert_ok!(call::send(end, Message::empty(0), Until::Done));
        kernel_assert_eq!(roles::ended(child), Exit::Status(TOLD));
        // Here the message comes after the server has begun to wait, and what it hears is the same.
        let next = assert_ok!(thread::spawn_on(0, move || {
            (0..20).for_each(|_| call::yield_now());
            call::call(endpoint, numbered(3, 4, 3))
        }));
        let (is_heard, message) = assert_ok!(call::reply_receive_until(endpoint, numbered(9, 8, 9), Until::Done));
        kernel_assert_eq!((is_heard, message), (false, numbered(3, 4, 3)));
        // And the next round is like any other.
        let after = assert_ok!(thread::spawn_on(0, move || call::send(endpoint, numbered(4, 1, 4), Until::Done)));
        let (is_heard, message) = assert_ok!(call::reply_receive_until(endpoint, numbered(5, 2, 5), Until::Done));
        kernel_assert_eq!((is_heard, message), (true, numbered(4, 1, 4)));
        kernel_assert_eq!(assert_ok!(next.join()), Ok(numbered(5, 2, 5)));
        assert_ok!(assert_ok!(after.join()));
    }
}

test! {
    // CASE-IPC-028.
    fn a_killed_caller_cannot_be_answered() requires("IPS-06 IPS-12") {
        let (endpoint, end) = (assert_ok!(call::endpoint_create()), assert_ok!(call::endpoint_create()));
        for round in 0..4 {
            let start = || assert_ok!(Role::CallUntilTold.start(0, &[endpoint, end]));
            let tell = |child| {
                assert_ok!(call::send(end, Message::empty(0), Until::Done));
                kernel_assert_eq!(roles::ended(child), Exit::Status(TOLD));
            };
            let child = start();
            assert_ok!(call::receive(endpoint));
            let reply = if round % 2 == 0 { Some(assert_ok!(call::save_reply())) } else { None };
            tell(child);
            let answered = |message| match reply {
                Some(reply) => call::reply_to(reply, message),
                None => call::reply(message),
            };
            if let Some(reply) = reply {
                // Others are born meanwhile, and call: what the dead one was owed is not theirs.
                let next = start();
                assert_ok!(call::receive(endpoint));
                let second = assert_ok!(call::save_reply());
                assert_err!(answered(numbered(1, 8, 1)), Error::PartnerGone);
                assert_err!(answered(numbered(1, 8, 1)), Error::NoCaller);
                assert_ok!(call::reply_to(second, Message::empty(0)));
                tell(next);
                assert_ok!(call::close(reply));
                assert_ok!(call::close(second));
            } else {
                assert_err!(answered(numbered(1, 8, 1)), Error::PartnerGone);
                assert_err!(answered(numbered(1, 8, 1)), Error::NoCaller);
            }
        }
    }
}

test! {
    // Save, answer and delete race with the caller's time: the caller hears once, in one way.
    fn an_answer_and_a_time_out_do_not_both_happen() requires("IPS-02 IPS-07 SCH-58") {
        let endpoint = assert_ok!(call::endpoint_create());
        const STOP: u64 = 9;
        let server = assert_ok!(thread::spawn_on(help::other_cpu(), move || {
            let mut random = Random::new(3);
            let (mut heard, mut lost) = (0_u64, 0_u64);
            loop {
                let request = assert_ok!(call::receive(endpoint));
                if request.info.label() == STOP {
                    return (heard, lost);
                }
                rt::testing::spin(1 + random.below(40_000));
                match call::reply(request) {
                    Ok(()) => heard += 1,
                    Err(Error::PartnerGone) => lost += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
        }));
        let client = assert_ok!(thread::spawn_on(0, move || {
            let mut random = Random::new(4);
            let (mut answers, mut late) = (0_u64, 0_u64);
            for n in 0..1500 {
                let deadline = call::clock_ns() + random.below(300_000);
                match call::call_until(endpoint, numbered(1, 8, n), Until::Clock(deadline)) {
                    Ok(reply) => {
                        kernel_assert_eq!(reply, numbered(1, 8, n));
                        answers += 1;
                    }
                    Err(error) => {
                        kernel_assert_eq!(error, Error::TimedOut);
                        kernel_assert!(call::clock_ns() >= deadline);
                        late += 1;
                    }
                }
            }
            (answers, late)
        }));
        let (answers, late) = assert_ok!(client.join());
        assert_ok!(call::send(endpoint, Message::empty(STOP), Until::Done));
        let (heard, lost) = assert_ok!(server.join());
        kernel_assert_eq!(answers, heard);
        kernel_assert!(late >= lost, "{late} calls timed out, {lost} of those received");
    }
}

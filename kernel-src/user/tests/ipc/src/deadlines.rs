//! Calls that wait until a time.

use crate::help::{self, numbered, once_there, settled, soon};
use alloc::vec::Vec;
use rt::abi::Error;
use rt::call::{self, Message, Until};
use rt::random::Random;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

test! {
    // CASE-IPC-038: none is early.
    fn no_deadline_passes_early() requires("IPS-07 SCH-58") {
        let endpoint = assert_ok!(call::endpoint_create());
        let served = assert_ok!(call::endpoint_create());
        // Takes calls, and answers none in time.
        let server = assert_ok!(thread::spawn_on(help::other_cpu(), move || {
            let mut lost = 0;
            while assert_ok!(call::receive(served)).info.label() == 1 {
                call::sleep_until(call::clock_ns() + 3_000_000).unwrap_or_else(|error| panic!("{error:?}"));
                lost += u64::from(call::reply(Message::empty(0)) == Err(Error::PartnerGone));
            }
            lost
        }));
        let mut taken = 0;
        for n in 0..12 {
            let deadline = call::clock_ns() + 200_000 + n * 100_000;
            let until = Until::Clock(deadline);
            let outcome = match n % 4 {
                0 => call::receive_until(endpoint, until).map(drop),
                1 => call::send(endpoint, Message::empty(0), until),
                2 => call::call_until(endpoint, Message::empty(0), until).map(drop),
                _ => {
                    taken += 1;
                    call::call_until(served, Message::empty(1), until).map(drop)
                }
            };
            let now = call::clock_ns();
            // On a busy host the time may be over before the call: then it is a poll, which is answered if it is taken.
            kernel_assert!(outcome == Err(Error::TimedOut) || n % 4 == 3 && outcome.is_ok(), "{n}: {outcome:?}");
            kernel_assert!(now >= deadline, "{} ns early", deadline - now);
        }
        assert_ok!(call::send(served, Message::empty(2), Until::Done));
        kernel_assert!(assert_ok!(server.join()) <= taken);
    }
}

test! {
    // CASE-IPC-038: what comes late goes to the next.
    fn a_message_after_the_deadline_goes_to_the_next() requires("IPS-07 IPS-10 SCH-58") {
        let endpoint = assert_ok!(call::endpoint_create());
        for n in 0..4 {
            let deadline = call::clock_ns() + 2_000_000;
            let first = assert_ok!(thread::spawn_on(0, move || call::receive_until(endpoint, Until::Clock(deadline))));
            settled(0);
            let second = assert_ok!(thread::spawn_on(0, move || call::receive(endpoint)));
            settled(0);
            kernel_assert_eq!(assert_ok!(first.join()), Err(Error::TimedOut));
            kernel_assert!(call::clock_ns() >= deadline);
            assert_ok!(call::send(endpoint, numbered(n, 8, n), Until::NOW));
            kernel_assert_eq!(assert_ok!(second.join()), Ok(numbered(n, 8, n)));
        }
        // Likewise a sender that has gone.
        let first = assert_ok!(thread::spawn_on(0, move || call::send(endpoint, numbered(1, 1, 1), soon(1_000_000))));
        kernel_assert_eq!(assert_ok!(first.join()), Err(Error::TimedOut));
        let second = assert_ok!(thread::spawn_on(0, move || call::send(endpoint, numbered(2, 2, 2), Until::Done)));
        settled(0);
        kernel_assert_eq!(assert_ok!(call::receive(endpoint)), numbered(2, 2, 2));
        kernel_assert_eq!(assert_ok!(second.join()), Ok(()));
    }
}

test! {
    // Many times on one CPU: each comes, and in its order, while others are taken away.
    fn deadlines_of_one_cpu_come_in_their_order() requires("IPS-07 SCH-58 PRC-05") {
        let (endpoint, other) = (assert_ok!(call::endpoint_create()), assert_ok!(call::endpoint_create()));
        for round in 0..6 {
            let start = call::clock_ns();
            let waiting: Vec<_> = (0..8_u64)
                .map(|n| {
                    let deadline = start + 4_000_000 + (n * 5 + round) % 8 * 300_000;
                    // Every second one gets a message instead, from another CPU.
                    let by = if n % 2 == 0 { endpoint } else { other };
                    assert_ok!(thread::spawn_on(0, move || {
                        let done = call::receive_until(by, Until::Clock(deadline));
                        (done, deadline, call::clock_ns())
                    }))
                })
                .collect();
            let sender = assert_ok!(thread::spawn_on(help::other_cpu(), move || {
                (0..4).filter(|_| call::send(other, Message::empty(1), soon(1_000_000)).is_ok()).count()
            }));
            let sent = assert_ok!(sender.join());
            let done = help::join_all(waiting);
            kernel_assert_eq!(done.iter().filter(|(done, ..)| done.is_ok()).count(), sent);
            for (done, deadline, at) in done {
                kernel_assert!(done.is_ok() || done == Err(Error::TimedOut) && at >= deadline, "{done:?} at {at}, {deadline}");
            }
        }
    }
}

test! {
    // The last nanosecond that there is.
    fn a_far_deadline_is_none() requires("IPS-07 SYS-06") {
        let endpoint = assert_ok!(call::endpoint_create());
        for far in [u64::MAX, u64::MAX - 1, 1 << 63, i64::MAX as u64] {
            let receiver = assert_ok!(thread::spawn_on(0, move || call::receive_until(endpoint, Until::Clock(far))));
            settled(0);
            assert_ok!(call::send(endpoint, Message::empty(1), Until::NOW));
            kernel_assert_eq!(assert_ok!(receiver.join()), Ok(Message::empty(1)));
            let caller = assert_ok!(thread::spawn_on(0, move || call::call_until(endpoint, Message::empty(2), Until::Clock(far))));
            once_there(|| call::receive_until(endpoint, Until::NOW));
            settled(0);
            assert_ok!(call::reply(Message::empty(3)));
            kernel_assert_eq!(assert_ok!(caller.join()), Ok(Message::empty(3)));
        }
    }
}

test! {
    // A polled call that was taken waits for its reply.
    fn a_poll_that_was_received_is_answered() requires("IPS-07 IPS-06") {
        let endpoint = assert_ok!(call::endpoint_create());
        let server = assert_ok!(thread::spawn_on(0, move || {
            let request = assert_ok!(call::receive(endpoint));
            assert_ok!(call::sleep_until(call::clock_ns() + 1_000_000));
            call::reply(request)
        }));
        let reply = once_there(|| call::call_until(endpoint, numbered(4, 7, 1), Until::NOW));
        kernel_assert_eq!(reply, numbered(4, 7, 1));
        kernel_assert_eq!(assert_ok!(server.join()), Ok(()));
        assert_err!(call::call_until(endpoint, Message::empty(0), Until::NOW), Error::TimedOut);
    }
}

test! {
    // CASE-IPC-038, as a race: time-outs of receivers and senders against each other, and nothing is lost or doubled.
    fn time_outs_beside_messages_lose_none() requires("IPS-02 IPS-07 SCH-58") {
        const STOP: u64 = 2;
        let endpoint = assert_ok!(call::endpoint_create());
        let receiver = assert_ok!(thread::spawn_on(help::other_cpu(), move || {
            let mut random = Random::new(1);
            let mut seen = Vec::new();
            loop {
                match call::receive_until(endpoint, soon(random.below(120_000))) {
                    Ok(message) if message.info.label() == STOP => return seen,
                    Ok(message) => seen.push(message.words[0] as u32),
                    Err(error) => kernel_assert_eq!(error, Error::TimedOut),
                }
            }
        }));
        let sender = assert_ok!(thread::spawn_on(0, move || {
            let mut random = Random::new(2);
            let mut sent = Vec::new();
            for n in 0..1200 {
                match call::send(endpoint, help::word(1, n), soon(random.below(120_000))) {
                    Ok(()) => sent.push(n as u32),
                    Err(error) => kernel_assert_eq!(error, Error::TimedOut),
                }
            }
            sent
        }));
        let sent = assert_ok!(sender.join());
        assert_ok!(call::send(endpoint, Message::empty(STOP), Until::Done));
        kernel_assert!(assert_ok!(receiver.join()) == sent, "what was received is not what was sent");
    }
}

//! What crosses with a message, and what does not.

use crate::help::{self, numbered, once_there, settled};
use crate::roles::{self, DONE, Role};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Call, DEADLINE, Error, MESSAGE_WORDS, MessageInfo, OWED};
use rt::call::{self, Capability, Exit, Message, Until};
use rt::probe::raw_message;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

const JUNK: [u64; MESSAGE_WORDS] = [0x5EC2_E700; MESSAGE_WORDS];

/// Infos that no call takes: lengths and counts of capabilities that are too large, and bits that are kept back.
const BAD_INFOS: [u64; 10] =
    [513, 768, 1023, 5 << 10, 7 << 10 | 3, 1 << 13, 1 << 14 | 3, 0xffff, 7 << 16 | 1 << 15 | 1, 1 << 10 | 513];

test! {
    // CASE-IPC-001, in one Space and between CPUs.
    fn every_length_arrives_whichever_side_is_first() requires("IPS-02 IPS-04 IPS-05") {
        let endpoint = assert_ok!(call::endpoint_create());
        for cpu in [0, help::other_cpu()] {
            for length in 0..=MESSAGE_WORDS {
                let sent = numbered(0xABCD_EF01_2345, length, cpu);
                let receiver = assert_ok!(thread::spawn_on(cpu, move || call::receive(endpoint)));
                once_there(|| call::send(endpoint, sent, Until::NOW));
                kernel_assert_eq!(assert_ok!(receiver.join()), Ok(sent));

                let sent = numbered(length as u64, length, cpu + 8);
                let sender = assert_ok!(thread::spawn_on(cpu, move || call::send(endpoint, sent, Until::Done)));
                kernel_assert_eq!(once_there(|| call::receive_until(endpoint, Until::NOW)), sent);
                kernel_assert_eq!(assert_ok!(sender.join()), Ok(()));
            }
        }
    }
}

test! {
    // CASE-IPC-001, between two Spaces.
    fn every_length_arrives_in_another_process() requires("IPS-02 IPS-04") {
        let (there, back) = (assert_ok!(call::endpoint_create()), assert_ok!(call::endpoint_create()));
        let child = assert_ok!(Role::Forward.start(2 * MESSAGE_WORDS as u32 + 2, &[there, back]));
        for length in 0..=MESSAGE_WORDS {
            // The child waits for the first, and with the answer; then the other way round.
            let sent = numbered(1, length, 3);
            once_there(|| call::send(there, sent, Until::NOW));
            kernel_assert_eq!(once_there(|| call::receive_until(back, Until::NOW)), sent);
            let sent = numbered(2, length, 4);
            assert_ok!(call::send(there, sent, Until::Done));
            kernel_assert_eq!(assert_ok!(call::receive(back)), sent);
        }
        kernel_assert_eq!(roles::ended(child), Exit::Status(DONE));
    }
}

test! {
    // CASE-IPC-001: no words at all.
    fn an_empty_message_wakes_one_receiver() requires("IPS-02 IPS-10") {
        let endpoint = assert_ok!(call::endpoint_create());
        let woken = Arc::new(AtomicU64::new(0));
        let receivers: Vec<_> = (0..3)
            .map(|_| {
                let woken = woken.clone();
                let receiver = assert_ok!(thread::spawn_on(0, move || {
                    let message = assert_ok!(call::receive(endpoint));
                    woken.fetch_add(1, Ordering::SeqCst);
                    message.info
                }));
                settled(0);
                receiver
            })
            .collect();
        for label in 0..3 {
            assert_ok!(call::send(endpoint, Message::empty(label), Until::NOW));
            help::reaches(&woken, label + 1);
            settled(0);
            kernel_assert_eq!(woken.load(Ordering::SeqCst), label + 1);
        }
        // In the order in which they came.
        let infos = help::join_all(receivers);
        kernel_assert_eq!(infos, [0, 1, 2].map(|label| MessageInfo::new(label, 0)));
    }
}

test! {
    // CASE-IPC-002.
    fn ten_thousand_calls_are_answered_once_each() requires("IPS-02 IPS-06") {
        const CALLS: u64 = 10_000;
        let endpoint = assert_ok!(call::endpoint_create());
        let server = assert_ok!(thread::spawn_on(0, move || {
            let mut request = assert_ok!(call::receive(endpoint));
            for n in 0..CALLS {
                kernel_assert_eq!(request, numbered(n, (n % 9) as usize, n));
                let reply = numbered(!n >> 16, (n % 7) as usize, !n);
                request = assert_ok!(call::reply_receive(endpoint, reply));
            }
            request
        }));
        let client = assert_ok!(thread::spawn_on(0, move || {
            for n in 0..CALLS {
                let reply = assert_ok!(call::call(endpoint, numbered(n, (n % 9) as usize, n)));
                kernel_assert_eq!(reply, numbered(!n >> 16, (n % 7) as usize, !n));
            }
        }));
        assert_ok!(client.join());
        assert_ok!(call::send(endpoint, Message::empty(CALLS), Until::Done));
        kernel_assert_eq!(assert_ok!(server.join()), Message::empty(CALLS));
    }
}

test! {
    // CASE-IPC-002: the caller waits until it is answered.
    fn a_call_lasts_until_its_reply() requires("IPS-02 IPS-06") {
        let endpoint = assert_ok!(call::endpoint_create());
        let answered = Arc::new(AtomicU64::new(0));
        for cpu in [0, help::other_cpu()] {
            let seen = answered.clone();
            let client = assert_ok!(thread::spawn_on(cpu, move || {
                let reply = call::call(endpoint, Message::empty(1));
                (seen.load(Ordering::SeqCst), reply)
            }));
            assert_ok!(call::receive(endpoint));
            settled(cpu);
            answered.fetch_add(1, Ordering::SeqCst);
            assert_ok!(call::reply(numbered(6, 2, 5)));
            kernel_assert_eq!(assert_ok!(client.join()), (answered.load(Ordering::SeqCst), Ok(numbered(6, 2, 5))));
        }
    }
}

/// What client and server hear in a conversation that `answer` carries on.
fn conversation(
    answer: fn(Capability, Message) -> Result<Message, Error>,
) -> (Vec<Result<Message, Error>>, Vec<Message>) {
    let endpoint = assert_ok!(call::endpoint_create());
    let client = assert_ok!(thread::spawn_on(0, move || {
        let mut heard = Vec::new();
        for n in 0..9 {
            heard.push(call::call(endpoint, numbered(n, n as usize, n)));
            heard.push(call::send(endpoint, numbered(n + 20, 3, n), Until::Done).map(|()| Message::empty(0)));
        }
        heard
    }));
    let mut heard = Vec::from([assert_ok!(call::receive(endpoint))]);
    for n in 0..9 {
        // The answer, then what is sent; that owes nothing, so the next is received alone.
        heard.push(assert_ok!(answer(endpoint, numbered(n + 40, 8 - n as usize, n))));
        assert_err!(call::reply(Message::empty(0)), Error::NoCaller);
        if n < 8 {
            heard.push(assert_ok!(call::receive(endpoint)));
        }
    }
    (assert_ok!(client.join()), heard)
}

test! {
    // CASE-IPC-003.
    fn reply_then_receive_equals_reply_and_receive() requires("IPS-06 SYS-02") {
        let at_once = conversation(call::reply_receive);
        let in_turn = conversation(|endpoint, message| {
            call::reply(message)?;
            call::receive(endpoint)
        });
        kernel_assert_eq!(at_once, in_turn);
        kernel_assert_eq!(at_once.1.len(), 18);
    }
}

/// A script of exchanges: what everybody heard, in order.
fn script(cpu: u64, until: fn() -> Until) -> Vec<(u64, [u64; MESSAGE_WORDS], u64)> {
    let endpoint = assert_ok!(call::endpoint_create());
    let badged = help::vacant_slot();
    let generation = assert_ok!(call::cap_mint(badged, endpoint, rt::abi::Rights::ALL, 77));
    let badged = help::filled(badged, generation);
    let client = assert_ok!(thread::spawn_on(cpu, move || {
        let mut heard = Vec::new();
        for n in 0..27_u64 {
            let through = if n % 2 == 0 { endpoint } else { badged };
            heard.push(assert_ok!(call::call_until(through, numbered(n, (n % 9) as usize, n), until())));
        }
        heard
    }));
    let server = assert_ok!(thread::spawn_on(0, move || {
        let mut heard = Vec::from([assert_ok!(call::receive_until(endpoint, until()))]);
        for n in 1..27_u64 {
            let reply = numbered(100 + n, (n * 5 % 9) as usize, n);
            let (is_heard, next) = assert_ok!(call::reply_receive_until(endpoint, reply, until()));
            kernel_assert!(is_heard);
            heard.push(next);
        }
        assert_ok!(call::reply(numbered(200, 8, 9)));
        assert_err!(call::reply(Message::empty(0)), Error::NoCaller);
        heard
    }));
    let heard = [assert_ok!(client.join()), assert_ok!(server.join())].concat();
    assert_ok!(call::close(badged));
    assert_ok!(call::close(endpoint));
    heard.into_iter().map(|message| (message.info.0, message.words, message.badge)).collect()
}

test! {
    // CASE-IPC-036, as far as registers go.
    fn one_script_has_one_outcome_on_every_path() requires("IPS-03 SYS-08") {
        let plain = script(0, || Until::Done);
        kernel_assert_eq!(plain.len(), 54);
        kernel_assert_eq!(plain, script(0, || help::soon(help::PATIENCE_NS)));
        kernel_assert_eq!(plain, script(help::other_cpu(), || Until::Done));
        kernel_assert_eq!(plain, script(help::other_cpu(), || help::soon(help::PATIENCE_NS)));
    }
}

test! {
    // CASE-IPC-005.
    fn a_poll_of_an_idle_endpoint_leaves_nothing() requires("IPS-07") {
        let endpoint = assert_ok!(call::endpoint_create());
        let sender = assert_ok!(thread::spawn(move || call::send(endpoint, numbered(9, 8, 1), Until::Done)));
        kernel_assert_eq!(assert_ok!(call::receive(endpoint)), numbered(9, 8, 1));
        assert_ok!(assert_ok!(sender.join()));
        for deadline in [0, 1, call::clock_ns()] {
            let left = raw_message(Call::Receive as u64 | DEADLINE, endpoint.0, deadline, 0, JUNK);
            kernel_assert_eq!(left.status, Error::TimedOut.status());
            kernel_assert_eq!((left.badge, left.info, left.words), (0, 0, [0; MESSAGE_WORDS]));
        }
        assert_err!(call::send(endpoint, Message::empty(0), Until::NOW), Error::TimedOut);
        assert_err!(call::call_until(endpoint, Message::empty(0), Until::NOW), Error::TimedOut);
        // What was only tried is not there later.
        assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
    }
}

test! {
    // CASE-IPC-047.
    fn only_the_announced_words_cross() requires("IPS-18") {
        let endpoint = assert_ok!(call::endpoint_create());
        let secret: [u64; MESSAGE_WORDS] = core::array::from_fn(|index| 0xD15C_0000 + index as u64);
        let seen = |length: usize| -> [u64; MESSAGE_WORDS] {
            core::array::from_fn(|index| if index < length { secret[index] } else { 0 })
        };
        for length in 0..=MESSAGE_WORDS {
            for number in [Call::Send as u64, Call::Call as u64] {
                // The receiver is first, then the sender.
                let receiver =
                    assert_ok!(thread::spawn_on(0, move || {
                        let got = raw_message(Call::Receive as u64, endpoint.0, 0, 0, JUNK);
                        if number == Call::Call as u64 {
                            assert_ok!(call::reply(Message::empty(0)));
                        }
                        got
                    }));
                settled(0);
                let sent = raw_message(number, endpoint.0, 0, length as u64, secret);
                kernel_assert_eq!(sent.status, 0);
                let got = assert_ok!(receiver.join());
                kernel_assert_eq!((got.status, got.badge, got.info, got.words), (0, 0, length as u64, seen(length)));

                let sender = assert_ok!(thread::spawn_on(0, move || raw_message(number, endpoint.0, 0, length as u64, secret)));
                settled(0);
                let got = raw_message(Call::Receive as u64, endpoint.0, 0, 0, JUNK);
                kernel_assert_eq!((got.status, got.badge, got.info, got.words), (0, 0, length as u64, seen(length)));
                if number == Call::Call as u64 {
                    // And back.
                    kernel_assert_eq!(raw_message(Call::Reply as u64, OWED, 0, length as u64, secret).status, 0);
                    let reply = assert_ok!(sender.join());
                    kernel_assert_eq!((reply.status, reply.badge, reply.info, reply.words), (0, 0, length as u64, seen(length)));
                } else {
                    kernel_assert_eq!(assert_ok!(sender.join()).status, 0);
                }
            }
        }
    }
}

test! {
    // CASE-IPC-046.
    fn a_bad_info_word_is_refused_and_changes_nothing() requires("SYS-06 IPS-14 ERR-03") {
        let endpoint = assert_ok!(call::endpoint_create());
        let refused = |number: Call, capability, info| {
            let left = raw_message(number as u64, capability, 0, info, JUNK);
            kernel_assert_eq!(left.status, Error::InvalidArgument.status());
            kernel_assert_eq!((left.badge, left.info, left.words), (0, 0, [0; MESSAGE_WORDS]));
        };
        let woken = Arc::new(AtomicU64::new(0));
        let seen = woken.clone();
        let receiver = assert_ok!(thread::spawn_on(0, move || {
            let message = call::receive(endpoint);
            seen.fetch_add(1, Ordering::SeqCst);
            message
        }));
        settled(0);
        for info in BAD_INFOS {
            refused(Call::Send, endpoint.0, info);
            refused(Call::Call, endpoint.0, info);
        }
        settled(0);
        kernel_assert_eq!(woken.load(Ordering::SeqCst), 0);
        assert_ok!(call::send(endpoint, numbered(5, 8, 5), Until::NOW));
        kernel_assert_eq!(assert_ok!(receiver.join()), Ok(numbered(5, 8, 5)));

        let caller = assert_ok!(thread::spawn_on(0, move || call::call(endpoint, numbered(6, 1, 6))));
        settled(0);
        for info in BAD_INFOS {
            refused(Call::Receive, endpoint.0, info);
        }
        // The caller is still there, and still to be answered after each refusal.
        kernel_assert_eq!(assert_ok!(call::receive_until(endpoint, Until::NOW)), numbered(6, 1, 6));
        for info in BAD_INFOS {
            refused(Call::Reply, OWED, info);
            refused(Call::ReplyReceive, endpoint.0, info);
            refused(Call::Receive, endpoint.0, info);
        }
        let saved = assert_ok!(call::save_reply());
        BAD_INFOS.into_iter().for_each(|info| refused(Call::Reply, saved.0, info));
        assert_ok!(call::reply_to(saved, numbered(7, 4, 7)));
        kernel_assert_eq!(assert_ok!(caller.join()), Ok(numbered(7, 4, 7)));
    }
}

test! {
    // The number of a call has two flags at most, and each only where it means something.
    fn unknown_flags_are_no_calls() requires("SYS-06 SYS-09") {
        let endpoint = assert_ok!(call::endpoint_create());
        for call in [Call::Call, Call::Receive, Call::ReplyReceive, Call::Send, Call::Reply] {
            for bit in 10..64 {
                let left = raw_message(call as u64 | 1 << bit, endpoint.0, 0, 0, JUNK);
                kernel_assert_eq!(left.status, Error::InvalidCall.status(), "{call:?} with bit {bit}");
            }
        }
        for call in [Call::Call, Call::ReplyReceive, Call::Send, Call::Reply] {
            let left = raw_message(call as u64 | 1 << 9, endpoint.0, 0, 0, JUNK);
            kernel_assert_eq!(left.status, Error::InvalidCall.status(), "{call:?}");
        }
    }
}

//! Notifications that a thread's receives see.

use crate::help::{self, filled, numbered, once_there, settled, soon, vacant_slot};
use rt::abi::{Call, Error, REPLY_LOST, Rights, SIGNALLED};
use rt::call::{self, Capability, Until};
use rt::probe::{raw_call, raw_message};
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

fn made() -> (Capability, Capability) {
    (assert_ok!(call::endpoint_create()), assert_ok!(call::notification_create()))
}

test! {
    // CASE-NTF-004.
    fn a_bound_thread_receives_messages_and_signals() requires("NTF-01 IPS-07") {
        let (endpoint, notification) = made();
        for cpu in [0, help::other_cpu()] {
            let receiver = assert_ok!(thread::spawn_on(cpu, move || {
                assert_ok!(call::bind(notification));
                let heard = [(); 5].map(|()| assert_ok!(call::receive(endpoint)));
                // It may wait for bits alone, too.
                let bits = call::wait_bits(notification, 0xff, Until::Done);
                assert_ok!(call::unbind(notification));
                (heard, bits)
            }));
            for n in 0..5 {
                // Each finds the receiver at its wait.
                settled(cpu);
                if n % 2 == 0 {
                    assert_ok!(call::signal(notification, 1 << (n * 10)));
                } else {
                    once_there(|| call::send(endpoint, numbered(n, 1 + n as usize, n), Until::NOW));
                }
            }
            settled(cpu);
            assert_ok!(call::signal(notification, 0x1ff));
            let (heard, bits) = assert_ok!(receiver.join());
            for (n, message) in (0..).zip(heard) {
                if n % 2 == 0 {
                    kernel_assert_eq!(message.bits(), Some(1 << (n * 10)));
                    kernel_assert_eq!((message.badge, message.info), (SIGNALLED.0, SIGNALLED));
                    kernel_assert_eq!(message.words[1..], [0; 7]);
                } else {
                    kernel_assert_eq!(message, numbered(n, 1 + n as usize, n));
                    kernel_assert!(message.bits().is_none());
                }
            }
            kernel_assert_eq!(bits, Ok(0xff));
            kernel_assert_eq!(call::wait_bits(notification, u64::MAX, Until::NOW), Ok(0x100));
        }
    }
}

test! {
    // CASE-NTF-005: signals come first.
    fn a_signal_is_received_before_a_message() requires("NTF-01 IPS-01") {
        let (endpoint, notification) = made();
        assert_ok!(call::bind(notification));
        for signal_first in [true, false] {
            if signal_first {
                assert_ok!(call::signal(notification, 3));
            }
            let sender = assert_ok!(thread::spawn_on(0, move || call::send(endpoint, numbered(1, 1, 1), Until::Done)));
            settled(0);
            if !signal_first {
                assert_ok!(call::signal(notification, 3));
            }
            kernel_assert_eq!(assert_ok!(call::receive(endpoint)).bits(), Some(3));
            kernel_assert_eq!(assert_ok!(call::receive(endpoint)), numbered(1, 1, 1));
            assert_ok!(assert_ok!(sender.join()));
            assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
        }
    }
}

test! {
    // CASE-NTF-004: also a receive that answers, that polls, or that has a time.
    fn every_kind_of_receive_sees_signals() requires("NTF-01 IPS-06 IPS-07") {
        let (endpoint, notification) = made();
        assert_ok!(call::bind(notification));
        assert_ok!(call::signal(notification, 1));
        kernel_assert_eq!(assert_ok!(call::receive_until(endpoint, Until::NOW)).bits(), Some(1));
        let start = call::clock_ns();
        assert_err!(call::receive_until(endpoint, Until::Clock(start + 500_000)), Error::TimedOut);
        kernel_assert!(call::clock_ns() >= start + 500_000);

        let signaller = assert_ok!(thread::spawn_on(help::other_cpu(), move || {
            (0..10).for_each(|_| call::yield_now());
            call::signal(notification, 2)
        }));
        kernel_assert_eq!(assert_ok!(call::receive_until(endpoint, soon(help::PATIENCE_NS))).bits(), Some(2));
        assert_ok!(assert_ok!(signaller.join()));

        let caller = assert_ok!(thread::spawn(move || call::call(endpoint, numbered(4, 4, 4))));
        kernel_assert_eq!(assert_ok!(call::receive(endpoint)), numbered(4, 4, 4));
        assert_ok!(call::signal(notification, 4));
        let (is_heard, message) = assert_ok!(call::reply_receive_until(endpoint, numbered(5, 5, 5), Until::Done));
        kernel_assert_eq!((is_heard, message.bits()), (true, Some(4)));
        kernel_assert_eq!(assert_ok!(caller.join()), Ok(numbered(5, 5, 5)));

        // A lost answer and a signal are told together.
        help::receive_a_call_and_let_it_pass(endpoint);
        assert_ok!(call::signal(notification, 8));
        let got = raw_message(Call::ReplyReceive as u64, endpoint.0, 0, 0, [9; 8]);
        kernel_assert_eq!((got.status, got.badge, got.info), (REPLY_LOST, SIGNALLED.0, SIGNALLED.0));
        kernel_assert_eq!(got.words, [8, 0, 0, 0, 0, 0, 0, 0]);
    }
}

test! {
    // CASE-NTF-006.
    fn a_second_binding_is_refused() requires("NTF-01 CAP-18") {
        let (endpoint, notification) = made();
        let second = assert_ok!(call::notification_create());
        assert_err!(call::unbind(notification), Error::Bound);
        assert_ok!(call::bind(notification));
        assert_err!(call::bind(notification), Error::Bound);
        assert_err!(call::bind(second), Error::Bound);
        let other = assert_ok!(thread::spawn(move || call::bind(notification)));
        kernel_assert_eq!(assert_ok!(other.join()), Err(Error::Bound));
        assert_err!(call::bind(endpoint), Error::WrongObject);
        for what in [2, 3, u64::MAX] {
            let outcome = raw_call(Call::NotificationBind as u64, [notification.0, what, 0, 0, 0, 0]);
            kernel_assert_eq!(outcome.status, Error::InvalidArgument.status());
        }
        // All that changed nothing.
        assert_ok!(call::signal(second, 1));
        assert_ok!(call::signal(notification, 2));
        kernel_assert_eq!(assert_ok!(call::receive_until(endpoint, Until::NOW)).bits(), Some(2));
        assert_ok!(call::unbind(notification));
        assert_ok!(call::signal(notification, 4));
        assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
        assert_ok!(call::bind(second));
        kernel_assert_eq!(assert_ok!(call::receive_until(endpoint, Until::NOW)).bits(), Some(1));
        kernel_assert_eq!(call::wait_bits(notification, u64::MAX, Until::NOW), Ok(4));
    }
}

test! {
    // CASE-NTF-006: a binding ends with its thread.
    fn a_binding_ends_with_its_thread() requires("NTF-01 IPS-12 ERR-11") {
        let (endpoint, notification) = made();
        for n in 0..5 {
            let bound = assert_ok!(thread::spawn(move || {
                assert_ok!(call::bind(notification));
                call::receive(endpoint).map(|message| message.bits())
            }));
            assert_ok!(call::signal(notification, 1 << n));
            kernel_assert_eq!(assert_ok!(bound.join()), Ok(Some(1 << n)));
            // The join hears of the end a little before it is complete.
            help::wait_for(|| call::unbind(notification) == Err(Error::Bound));
        }
    }
}

test! {
    // CASE-NTF-008: the bound thread.
    fn a_bound_thread_outlives_its_notification() requires("NTF-01 IPS-12") {
        let endpoint = assert_ok!(call::endpoint_create());
        for cpu in [0, help::other_cpu()] {
            let notification = assert_ok!(call::notification_create());
            let receiver = assert_ok!(thread::spawn_on(cpu, move || {
                assert_ok!(call::bind(notification));
                let heard = [(); 2].map(|()| call::receive(endpoint));
                let next = assert_ok!(call::notification_create());
                assert_ok!(call::bind(next));
                assert_ok!(call::signal(next, 7));
                let bits = call::receive(endpoint).map(|message| message.bits());
                assert_ok!(call::close(next));
                (heard, bits)
            }));
            settled(cpu);
            let slot = vacant_slot();
            let copy = filled(slot, assert_ok!(call::cap_mint(slot, notification, Rights::WRITE, 0)));
            assert_ok!(call::cap_revoke(notification));
            assert_err!(call::signal(copy, 1), Error::InvalidCapability);
            assert_ok!(call::close(notification));
            settled(cpu);
            once_there(|| call::send(endpoint, numbered(1, 8, 1), Until::NOW));
            settled(cpu);
            once_there(|| call::send(endpoint, numbered(2, 8, 2), Until::NOW));
            let (heard, bits) = assert_ok!(receiver.join());
            kernel_assert_eq!(heard, [Ok(numbered(1, 8, 1)), Ok(numbered(2, 8, 2))]);
            kernel_assert_eq!(bits, Ok(Some(7)));
        }
    }
}

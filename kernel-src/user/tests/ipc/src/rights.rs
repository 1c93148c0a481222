//! What a capability to an endpoint allows.

use crate::help::{filled, settled, vacant_slot};
use rt::abi::{Call, Error, OWED, Rights, SIGNALLED};
use rt::call::{self, Capability, Message, Until};
use rt::probe::raw_message;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

test! {
    // CASE-IPC-021 and CASE-IPC-022.
    fn each_call_needs_its_rights() requires("IPS-06 IPS-18 NTF-06 CAP-18") {
        let endpoint = assert_ok!(call::endpoint_create());
        let slot = vacant_slot();
        for bits in 0..32 {
            let rights = Rights(bits);
            let weak = filled(slot, assert_ok!(call::cap_mint(slot, endpoint, rights, 0)));
            let allowed = |wanted: Rights, done: Result<(), Error>| {
                let error = if rights.have(wanted) { Error::TimedOut } else { Error::NoRight };
                kernel_assert_eq!(done, Err(error), "rights {bits:#x} for what needs {:#x}", wanted.0);
            };
            allowed(Rights::WRITE, call::send(weak, Message::empty(0), Until::NOW));
            allowed(Rights::WRITE.with(Rights::CALL), call::call_until(weak, Message::empty(0), Until::NOW).map(drop));
            allowed(Rights::READ, call::receive_until(weak, Until::NOW).map(drop));
            // What is refused does not wait.
            if !rights.have(Rights::WRITE) {
                assert_err!(call::send(weak, Message::empty(0), Until::Done), Error::NoRight);
            }
            if !rights.have(Rights::CALL) {
                assert_err!(call::call(weak, Message::empty(0)), Error::NoRight);
            }
            if !rights.have(Rights::READ) {
                assert_err!(call::receive(weak), Error::NoRight);
                assert_err!(call::reply_receive(weak, Message::empty(0)), Error::NoRight);
            }
            assert_ok!(call::close(weak));
        }
    }
}

test! {
    // CASE-IPC-021: with a partner there, nothing passes either.
    fn a_refused_send_reaches_nobody() requires("IPS-18 NTF-06") {
        let endpoint = assert_ok!(call::endpoint_create());
        let slot = vacant_slot();
        let weak = filled(slot, assert_ok!(call::cap_mint(slot, endpoint, Rights::READ.with(Rights::CALL), 0)));
        let receiver = assert_ok!(thread::spawn_on(0, move || call::receive(endpoint)));
        settled(0);
        assert_err!(call::send(weak, Message::empty(1), Until::NOW), Error::NoRight);
        assert_err!(call::call_until(weak, Message::empty(1), Until::NOW), Error::NoRight);
        assert_ok!(call::send(endpoint, Message::empty(2), Until::NOW));
        kernel_assert_eq!(assert_ok!(receiver.join()), Ok(Message::empty(2)));
    }
}

test! {
    // CASE-IPC-022: what was merely sent owes no reply.
    fn a_send_can_not_be_answered() requires("IPS-06 IPS-18") {
        let endpoint = assert_ok!(call::endpoint_create());
        let sender = assert_ok!(thread::spawn_on(0, move || call::send(endpoint, Message::empty(1), Until::Done)));
        assert_ok!(call::receive(endpoint));
        assert_err!(call::reply(Message::empty(0)), Error::NoCaller);
        assert_err!(call::save_reply(), Error::NoCaller);
        assert_err!(call::reply_receive(endpoint, Message::empty(0)), Error::NoCaller);
        assert_ok!(assert_ok!(sender.join()));
    }
}

test! {
    // Message calls through what is no endpoint, or nothing.
    fn other_objects_take_no_messages() requires("SYS-09 CAP-18 ERR-01") {
        let notification = assert_ok!(call::notification_create());
        let endpoint = assert_ok!(call::endpoint_create());
        let gone = assert_ok!(call::endpoint_create());
        assert_ok!(call::close(gone));
        for (capability, error) in
            [(notification, Error::WrongObject), (gone, Error::InvalidCapability), (Capability(u64::MAX), Error::InvalidCapability)]
        {
            assert_err!(call::send(capability, Message::empty(0), Until::Done), error);
            assert_err!(call::call(capability, Message::empty(0)), error);
            assert_err!(call::receive(capability), error);
            assert_err!(call::reply_receive(capability, Message::empty(0)), error);
        }
        assert_err!(call::reply_to(endpoint, Message::empty(0)), Error::WrongObject);
        assert_err!(call::reply_to(gone, Message::empty(0)), Error::InvalidCapability);
    }
}

test! {
    // CASE-IPC-013.
    fn no_message_looks_like_a_signal() requires("IPS-18") {
        let endpoint = assert_ok!(call::endpoint_create());
        let notification = assert_ok!(call::notification_create());
        assert_ok!(call::bind(notification));
        let slot = vacant_slot();
        // The badge is the receiver's owner's to choose; it alone shows nothing.
        let alike = filled(slot, assert_ok!(call::cap_mint(slot, endpoint, Rights::ALL, SIGNALLED.0)));
        for low in (9..=0xffff).step_by(13).chain([SIGNALLED.0, 1 << 15, 0xffff]) {
            for high in [0, 1 << 16, u64::MAX << 16] {
                for call in [Call::Send, Call::Call, Call::Reply] {
                    let by = if call == Call::Reply { OWED } else { alike.0 };
                    let left = raw_message(call as u64 | rt::abi::DEADLINE, by, 0, high | low, [1; 8]);
                    let refused = if low & 0x3ff <= 512 && low & 0xe000 == 0 && low >> 10 & 7 <= 4 {
                        // There may be such a message, and this thread cannot send it.
                        Error::NoBuffer
                    } else {
                        Error::InvalidArgument
                    };
                    kernel_assert_eq!(left.status, refused.status(), "info {:#x}", high | low);
                }
            }
        }
        assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
        for length in 0..=8 {
            let sender = assert_ok!(thread::spawn(move || raw_message(Call::Send as u64, alike.0, 0, u64::MAX << 16 | length, [1; 8])));
            let received = assert_ok!(call::receive(endpoint));
            kernel_assert_eq!((received.badge, received.info.length() as u64), (SIGNALLED.0, length));
            kernel_assert!(received.bits().is_none());
            kernel_assert_eq!(assert_ok!(sender.join()).status, 0);
        }
        assert_ok!(call::signal(notification, 6));
        let received = assert_ok!(call::receive(endpoint));
        kernel_assert_eq!((received.bits(), received.badge), (Some(6), SIGNALLED.0));
    }
}

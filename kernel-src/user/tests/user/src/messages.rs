//! Endpoints: calls and replies.

use alloc::vec::Vec;
use rt::abi::Error;
use rt::call::{self, Message};
use rt::{assert_err, assert_ok, kernel_assert_eq, test, thread};

test! {
    fn a_call_comes_back_answered() requires("IPS-02 IPS-04 IPS-06") {
        const CALLS: u64 = 200;
        let endpoint = assert_ok!(call::endpoint_create());
        let server = assert_ok!(thread::spawn(move || {
            let mut request = assert_ok!(call::receive(endpoint));
            for _ in 1..CALLS {
                let words = request.words.map(|word| word * 2);
                request = assert_ok!(call::reply_receive(endpoint, Message::new(request.info.label() + 1, words)));
            }
            request
        }));
        for n in 1..CALLS {
            let words = core::array::from_fn(|index| n * 100 + index as u64);
            let reply = assert_ok!(call::call(endpoint, Message::new(n, words)));
            kernel_assert_eq!(reply, Message::new(n + 1, words.map(|word| word * 2)));
        }
        // The last call is taken and never answered: the server ends instead.
        assert_err!(call::call(endpoint, Message::new(7, [9; 8])), Error::PartnerGone);
        kernel_assert_eq!(assert_ok!(server.join()), Message::new(7, [9; 8]));
        assert_ok!(call::close(endpoint));
    }
}

test! {
    fn many_callers_are_each_answered_once() requires("IPS-01 IPS-02") {
        const CALLERS: u64 = 6;
        const CALLS: u64 = 50;
        const STOP: u64 = 99;
        let endpoint = assert_ok!(call::endpoint_create());
        let server = assert_ok!(thread::spawn(move || {
            let mut next = [0; CALLERS as usize];
            let mut request = assert_ok!(call::receive(endpoint));
            while request.info.label() != STOP {
                let (caller, n) = ((request.words[0] >> 32) as usize, request.words[0] as u32);
                kernel_assert_eq!((request.info.label(), n), (caller as u64, next[caller]));
                next[caller] += 1;
                let reply = Message::new(0, request.words.map(|word| !word));
                request = assert_ok!(call::reply_receive(endpoint, reply));
            }
            next
        }));
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                assert_ok!(thread::spawn(move || {
                    for n in 0..CALLS {
                        let word = caller << 32 | n;
                        let reply = assert_ok!(call::call(endpoint, Message::new(caller, [word; 8])));
                        kernel_assert_eq!(reply.words, [!word; 8]);
                    }
                }))
            })
            .collect();
        for caller in callers {
            assert_ok!(caller.join());
        }
        assert_err!(call::call(endpoint, Message::empty(STOP)), Error::PartnerGone);
        kernel_assert_eq!(assert_ok!(server.join()), [CALLS as u32; CALLERS as usize]);
        assert_ok!(call::close(endpoint));
    }
}

test! {
    fn a_reply_needs_a_caller() requires("IPS-06 SYS-09") {
        let endpoint = assert_ok!(call::endpoint_create());
        assert_err!(call::reply_receive(endpoint, Message::empty(0)), Error::NoCaller);
        assert_ok!(call::close(endpoint));
        assert_err!(call::call(endpoint, Message::empty(0)), Error::InvalidCapability);
    }
}

test! {
    fn the_end_of_an_endpoint_wakes_who_waits_there() requires("IPS-01 SYS-09") {
        let endpoint = assert_ok!(call::endpoint_create());
        let caller = assert_ok!(thread::spawn_on(0, move || call::call(endpoint, Message::empty(1))));
        let receiver_endpoint = assert_ok!(call::endpoint_create());
        let receiver = assert_ok!(thread::spawn_on(0, move || call::receive(receiver_endpoint)));
        // Behind both on their CPU: they wait by the time that it has run.
        let behind = assert_ok!(thread::spawn_on(0, || (0..4).for_each(|_| call::yield_now())));
        assert_ok!(behind.join());
        assert_ok!(call::close(endpoint));
        assert_ok!(call::close(receiver_endpoint));
        kernel_assert_eq!(assert_ok!(caller.join()), Err(Error::PartnerGone));
        kernel_assert_eq!(assert_ok!(receiver.join()), Err(Error::PartnerGone));
    }
}

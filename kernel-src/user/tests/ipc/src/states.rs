//! What a thread that waits tells of itself.

use alloc::vec::Vec;
use rt::abi::{Error, Info, ThreadInfo};
use rt::call::{self, Capability, Message, Until};
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

use crate::help;

const SENDS: u64 = 1;
const RECEIVES: u64 = 2;
const CALLS: u64 = 3;
const WAITS: u64 = 4;

fn threads() -> Vec<ThreadInfo> {
    (0..).map_while(|index| assert_ok!(call::thread_info(None, index))).collect()
}

test! {
    // CASE-IPC-048.
    fn a_blocked_thread_says_on_what() requires("IPS-09 SCH-37") {
        let [sent, received, called] = [(); 3].map(|()| assert_ok!(call::endpoint_create()));
        let bits = assert_ok!(call::notification_create());
        let waiting = [
            assert_ok!(thread::spawn(move || call::send(sent, Message::empty(1), Until::Done))),
            assert_ok!(thread::spawn(move || call::receive(received).map(drop))),
            assert_ok!(thread::spawn(move || call::call(called, Message::empty(1)).map(drop))),
            assert_ok!(thread::spawn(move || call::wait_bits(bits, 1, Until::Done).map(drop))),
        ];
        assert_ok!(call::receive(called));

        let on = |name: Capability| assert_ok!(call::cap_read(name)).object;
        let wanted = [(SENDS, on(sent)), (RECEIVES, on(received)), (CALLS, on(called)), (WAITS, on(bits))];
        let patience = call::clock_ns() + help::PATIENCE_NS;
        while !wanted.iter().all(|wanted| threads().iter().any(|thread| (thread.state, thread.object) == *wanted)) {
            kernel_assert!(call::clock_ns() < patience, "{wanted:?} wanted, found {:?}", threads());
            call::yield_now();
        }
        let all = threads();
        kernel_assert_eq!(all.len(), 5);
        let own = all.iter().find(|thread| thread.id == help::info(Info::ThreadId)).map(|own| (own.state, own.object));
        kernel_assert_eq!(own, Some((0, 0)));
        kernel_assert_eq!(wanted.iter().filter(|(_, object)| *object == wanted[0].1).count(), 1);

        // Another endpoint is another object, also in the same slot.
        let before = on(sent);
        assert_ok!(call::close(sent));
        let next = assert_ok!(call::endpoint_create());
        kernel_assert!(on(next) != before && next.address() == sent.address());
        for name in [received, called, bits, next] {
            assert_ok!(call::close(name));
        }
        let [a, b, c, d] = waiting;
        for thread in [a, b, d] {
            assert_err!(assert_ok!(thread.join()), Error::PartnerGone);
        }
        assert_ok!(call::reply(Message::empty(0)));
        assert_ok!(assert_ok!(c.join()));
    }
}

test! {
    fn who_may_not_look_is_told_nothing() requires("IPS-09 CAP-18") {
        let endpoint = assert_ok!(call::endpoint_create());
        assert_err!(call::thread_info(Some(endpoint), 0), Error::WrongObject);
        kernel_assert_eq!(assert_ok!(call::thread_info(None, 1 << 40)), None);
        assert_ok!(call::close(endpoint));
        assert_err!(call::thread_info(Some(endpoint), 0), Error::InvalidCapability);
    }
}

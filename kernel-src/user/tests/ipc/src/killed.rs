//! Partners that are killed while all that a message can have travels.

use crate::carried::{give, receive_at};
use crate::help;
use crate::roles::{self, Role, TOLD, after};
use rt::abi::{ANY_SLOT, Error, MESSAGE_CAPABILITIES, MessageInfo};
use rt::call::{self, Buffer, Capability, Exit, Message, Until};
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

/// A page with four capabilities to send, and slots for as many.
fn full_page() -> &'static Buffer {
    let page = help::buffered(0);
    give(page, &[Capability(0); MESSAGE_CAPABILITIES]);
    receive_at(page, &[Capability(ANY_SLOT); MESSAGE_CAPABILITIES]);
    page
}

/// Lets go of what came, so that there is room for more, and names again what to send.
fn let_go(page: &Buffer, message: &Message) {
    (0..message.info.capabilities()).for_each(|number| assert_ok!(call::close(page.given(number))));
    give(page, &[Capability(0); MESSAGE_CAPABILITIES]);
}

const FULL: Message =
    Message { info: MessageInfo::new(1, rt::abi::BUFFER_WORDS).with_capabilities(4), words: [1; 8], badge: 0 };

/// One call with all that a message can have.
pub fn call_once() {
    let page = full_page();
    if let Ok(reply) = call::call(Capability(0), FULL) {
        let_go(page, &reply);
    }
}

/// Answers calls with all that a message can have.
pub fn serve_until_it_fails() {
    let page = full_page();
    let mut next = call::receive(Capability(0));
    while let Ok(request) = next {
        let_go(page, &request);
        next = call::reply_receive(Capability(0), FULL);
    }
}

test! {
    // CASE-IPC-053 and CASE-IPC-011, with all that a message can have.
    fn partners_killed_while_capabilities_travel_leave_nothing() requires("IPS-12 TST-23 CAP-25") {
        const ROUNDS: u32 = 30;
        let endpoint = assert_ok!(call::endpoint_create());
        let round = |client: u32, server: u32| {
            let children = [
                assert_ok!(Role::LongServerUntilKilled.start(server, &[endpoint])),
                assert_ok!(Role::LongClientUntilKilled.start(client, &[endpoint])),
            ];
            children.into_iter().for_each(|child| kernel_assert_eq!(roles::ended(child), Exit::Status(TOLD)));
            assert_err!(call::send(endpoint, Message::empty(0), Until::NOW), Error::TimedOut);
            assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
        };
        (0..3).for_each(|_| round(after(1, 9_000), after(1, 9_000)));
        let before = help::memory_at_rest();
        for n in 0..ROUNDS {
            let turns = 100 + n * 701;
            round(after(1, turns), after(1, turns / 2 + n % 6 * turns / 6));
        }
        let after = help::memory_at_rest();
        kernel_assert!(after + help::SLACK >= before, "{before} bytes were free, {after} are");
        // Nothing came from it that is left.
        assert_ok!(call::cap_revoke(endpoint));
        assert_ok!(call::close(endpoint));
    }
}

test! {
    // CASE-IPC-028, with a buffer: the client is killed at any moment, and the server goes on.
    fn a_server_outlives_clients_killed_while_it_answers() requires("IPS-12 TST-23") {
        const STOP: u64 = 9;
        let endpoint = assert_ok!(call::endpoint_create());
        let server = assert_ok!(thread::spawn(move || {
            let page = help::buffered(0);
            receive_at(page, &[Capability(ANY_SLOT); 4]);
            let mut served = 0_u64;
            loop {
                let request = assert_ok!(call::receive(endpoint));
                if request.info.label() == STOP {
                    return served;
                }
                (0..request.info.capabilities()).for_each(|number| assert_ok!(call::close(page.given(number))));
                kernel_assert_eq!((request.info.label(), request.info.length(), request.words), (1, 512, [1; 8]));
                give(page, &[endpoint; 4]);
                let _ = call::reply(FULL);
                served += 1;
            }
        }));
        for n in 0..20 {
            let client = assert_ok!(Role::LongClientUntilKilled.start(after(3, n * 701), &[endpoint]));
            kernel_assert_eq!(roles::ended(client), Exit::Status(TOLD));
        }
        assert_ok!(call::send(endpoint, Message::empty(STOP), Until::Done));
        // Of three calls that a client has begun two were answered.
        kernel_assert!(assert_ok!(server.join()) >= 40);
    }
}

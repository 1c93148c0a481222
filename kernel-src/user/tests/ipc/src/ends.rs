//! What becomes of those who wait when something ends.

use crate::help::{self, filled, settled, vacant_slot};
use crate::roles::{self, Role, TOLD};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::Error;
use rt::call::{self, Capability, Exit, Message, Until};
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

test! {
    // CASE-IPC-030.
    fn the_end_of_an_endpoint_wakes_all_who_wait() requires("IPS-01 IPS-12") {
        for cpu in [0, help::other_cpu()] {
            for round in 0..2 {
                let (sends, receives) = (assert_ok!(call::endpoint_create()), assert_ok!(call::endpoint_create()));
                // Half of them know it by a copy.
                let copied = |of| {
                    let slot = vacant_slot();
                    filled(slot, assert_ok!(call::cap_copy(slot, of)))
                };
                let (send_copy, receive_copy) = (copied(sends), copied(receives));
                let waiting: Vec<_> = (0..9)
                    .map(|n| {
                        let by = if n % 2 == 0 { [sends, receives] } else { [send_copy, receive_copy] };
                        let limit = if n < 5 { Until::Done } else { help::soon(help::PATIENCE_NS) };
                        assert_ok!(thread::spawn_on(cpu, move || match n % 3 {
                            0 => call::send(by[0], Message::empty(0), limit),
                            1 => call::call_until(by[0], Message::empty(0), limit).map(drop),
                            _ => call::receive_until(by[1], limit).map(drop),
                        }))
                    })
                    .collect();
                settled(cpu);
                for endpoint in [sends, receives] {
                    if round == 0 {
                        assert_ok!(call::cap_revoke(endpoint));
                    }
                    assert_ok!(call::close(endpoint));
                }
                if round == 1 {
                    // The copies keep it alive; with the last of them it ends.
                    assert_ok!(call::close(send_copy));
                    assert_ok!(call::close(receive_copy));
                }
                for done in help::join_all(waiting) {
                    kernel_assert_eq!(done, Err(Error::PartnerGone));
                }
                for gone in [sends, receives, send_copy, receive_copy] {
                    assert_err!(call::send(gone, Message::empty(0), Until::Done), Error::InvalidCapability);
                    assert_err!(call::receive(gone), Error::InvalidCapability);
                }
            }
        }
    }
}

test! {
    // CASE-IPC-030: those who call while it ends hear of it, too.
    fn an_endpoint_ends_under_fire() requires("IPS-01 IPS-12 TST-23") {
        for round in 0..15 {
            let endpoint = assert_ok!(call::endpoint_create());
            let threads: Vec<_> = (0..help::cpus() * 2)
                .map(|n| {
                    assert_ok!(thread::spawn_on(n / 2, move || {
                        loop {
                            let done = match n % 4 {
                                0 => call::receive(endpoint).map(drop),
                                1 => call::send(endpoint, Message::empty(n), Until::Done),
                                2 => call::call(endpoint, Message::empty(n)).map(drop),
                                _ => call::receive_until(endpoint, help::soon(50_000)).map(drop),
                            };
                            match done {
                                // Of a caller that was received, its receiver has gone on.
                                Err(Error::PartnerGone) if n % 4 == 2 => {}
                                Ok(()) | Err(Error::TimedOut) => {}
                                Err(error) => return error,
                            }
                        }
                    }))
                })
                .collect();
            rt::testing::spin(1 + round * 20_000);
            assert_ok!(call::close(endpoint));
            for error in help::join_all(threads) {
                kernel_assert!(matches!(error, Error::PartnerGone | Error::InvalidCapability), "{error:?}");
            }
        }
    }
}

test! {
    // CASE-IPC-045.
    fn a_thread_that_calls_itself_can_be_killed() requires("IPS-09 PRC-03") {
        let (nothing, end) = (assert_ok!(call::endpoint_create()), assert_ok!(call::endpoint_create()));
        for _ in 0..3 {
            let child = assert_ok!(Role::CallOneself.start(0, &[nothing, end]));
            (0..help::cpus()).for_each(settled);
            assert_ok!(call::send(end, Message::empty(0), Until::Done));
            kernel_assert_eq!(roles::ended(child), Exit::Status(TOLD));
        }
        // It can give up, too.
        let own = assert_ok!(call::endpoint_create());
        assert_err!(call::call_until(own, Message::empty(0), help::soon(1_000_000)), Error::TimedOut);
    }
}

test! {
    // CASE-IPC-053.
    fn client_and_server_killed_at_once_leave_nothing() requires("IPS-12 TST-23") {
        const ROUNDS: u32 = 36;
        let endpoint = assert_ok!(call::endpoint_create());
        let round = |client: u32, server: u32| {
            let children = [
                assert_ok!(Role::ServerUntilKilled.start(server, &[endpoint])),
                assert_ok!(Role::ClientUntilKilled.start(client, &[endpoint])),
            ];
            children.into_iter().for_each(|child| kernel_assert_eq!(roles::ended(child), Exit::Status(TOLD)));
            // Nobody waits there any more.
            assert_err!(call::send(endpoint, Message::empty(0), Until::NOW), Error::TimedOut);
            assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
        };
        (0..3).for_each(|_| round(30_000, 30_000));
        let before = help::memory_at_rest();
        for n in 0..ROUNDS {
            // The server ends a little earlier, or a little later.
            let turns = 20_000 + n * 3_001;
            round(turns, turns / 2 + n % 6 * turns / 6);
        }
        let after = help::memory_at_rest();
        kernel_assert!(after + help::SLACK >= before, "{before} bytes were free, {after} are");
    }
}

test! {
    // A deletion returns to its thread, which may never enter the kernel again.
    fn who_is_woken_by_a_deletion_gets_its_turn() requires("IPS-10 SCH-58 SCH-01") {
        static WOKEN: AtomicU64 = AtomicU64::new(0);
        for way in 0..3 {
            let endpoint = assert_ok!(call::endpoint_create());
            let copy = Capability(60);
            assert_ok!(call::cap_copy(copy, endpoint));
            let waiting = assert_ok!(thread::spawn_on(0, move || {
                let gone = call::receive(copy);
                WOKEN.fetch_add(1, Ordering::SeqCst);
                gone
            }));
            let ender = assert_ok!(thread::spawn_on(0, move || {
                // Not before the other waits.
                while assert_ok!(call::thread_info(None, 1)).is_none_or(|thread| thread.state != 2) {
                    call::yield_now();
                }
                match way {
                    0 => assert_ok!(call::cap_delete(copy)),
                    1 => assert_ok!(call::cap_revoke(endpoint)),
                    _ => drop(assert_ok!(call::cap_move(Capability(61), copy))),
                }
                while WOKEN.load(Ordering::SeqCst) <= way {
                    core::hint::spin_loop();
                }
            }));
            assert_ok!(ender.join());
            assert_err!(assert_ok!(waiting.join()), Error::PartnerGone);
            assert_ok!(call::close(endpoint));
            if way == 2 {
                assert_ok!(call::close(Capability(61)));
            }
        }
    }
}

//! Badges: who sent it, and what is left when one is taken back.

use crate::help::{self, filled, once_there, settled, vacant_slot};
use crate::roles::{self, Role, TOLD};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Call, Error, Rights};
use rt::call::{self, Capability, Exit, Message, Until};
use rt::probe::raw_message;
use rt::random::Random;
use rt::thread::{self, Thread};
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test};

test! {
    // CASE-IPC-012.
    fn the_receiver_sees_the_badge_that_was_minted() requires("IPS-18 CAP-16") {
        let endpoint = assert_ok!(call::endpoint_create());
        let slot = vacant_slot();
        for badge in (0..64).map(|bit| 1 << bit).chain([0, u64::MAX, 0x0123_4567_89AB_CDEF]) {
            let badged = filled(slot, assert_ok!(call::cap_mint(slot, endpoint, Rights::ALL, badge)));
            let sender = assert_ok!(thread::spawn_on(0, move || {
                // The kernel asks no register for it.
                let mut lie = help::numbered(3, 1, 3);
                lie.badge = !badge;
                let deadline = !badge;
                let sent = raw_message(Call::Send as u64, badged.0, deadline, 0, [badge ^ 1; 8]).status;
                (call::send(badged, lie, Until::Done), sent)
            }));
            for _ in 0..2 {
                kernel_assert_eq!(assert_ok!(call::receive(endpoint)).badge, badge);
            }
            kernel_assert_eq!(assert_ok!(sender.join()), (Ok(()), 0));
            assert_ok!(call::close(badged));
        }
    }
}

test! {
    // CASE-IPC-012: a badge is given once.
    fn a_badge_cannot_be_changed() requires("IPS-18 CAP-16") {
        let endpoint = assert_ok!(call::endpoint_create());
        let (slot, second) = (vacant_slot(), vacant_slot());
        let badged = filled(slot, assert_ok!(call::cap_mint(slot, endpoint, Rights::ALL, 5)));
        let second = if second == slot { Capability(slot.0 + 1) } else { second };
        assert_err!(call::cap_mint(second, badged, Rights::ALL, 6), Error::InvalidArgument);
        assert_err!(call::cap_mint(second, badged, Rights::ALL, 5), Error::InvalidArgument);
        let copied = filled(second, assert_ok!(call::cap_copy(second, badged)));
        let receiver = assert_ok!(thread::spawn_on(0, move || call::receive(endpoint)));
        settled(0);
        assert_ok!(call::send(copied, Message::empty(1), Until::NOW));
        kernel_assert_eq!(assert_ok!(receiver.join()).map(|message| message.badge), Ok(5));
        // Without a badge there is none, whatever was there before.
        let receiver = assert_ok!(thread::spawn_on(0, move || call::receive(endpoint)));
        settled(0);
        assert_ok!(call::send(endpoint, Message::empty(1), Until::NOW));
        kernel_assert_eq!(assert_ok!(receiver.join()).map(|message| message.badge), Ok(0));
    }
}

/// A sender on CPU 0 that waits by the time that this returns.
fn queued(by: Capability, label: u64, calls: bool) -> Thread<Result<(), Error>> {
    let thread = assert_ok!(thread::spawn_on(0, move || {
        if calls {
            call::call(by, Message::empty(label)).map(drop)
        } else {
            call::send(by, Message::empty(label), Until::Done)
        }
    }));
    settled(0);
    thread
}

/// Two slots: a badged capability, and what its client holds of it.
struct Client {
    owner: Capability,
    own: Capability,
}

fn client(endpoint: Capability, badge: u64) -> Client {
    let slot = vacant_slot();
    let owner = filled(slot, assert_ok!(call::cap_mint(slot, endpoint, Rights::ALL, badge)));
    let slot = vacant_slot();
    let own = filled(slot, assert_ok!(call::cap_copy(slot, owner)));
    Client { owner, own }
}

test! {
    // CASE-IPC-031.
    fn revoking_one_badge_cancels_its_sends_only() requires("IPS-18 CAP-12") {
        let endpoint = assert_ok!(call::endpoint_create());
        let (a, b) = (client(endpoint, 1), client(endpoint, 2));
        let [a1, b2, a3, b4, plain5, a6, b7] = [
            queued(a.own, 1, false),
            queued(b.own, 2, false),
            queued(a.own, 3, true),
            queued(b.own, 4, false),
            queued(endpoint, 5, false),
            queued(a.own, 6, true),
            queued(b.own, 7, false),
        ];
        assert_ok!(call::cap_revoke(a.owner));
        for cancelled in [a1, a3, a6] {
            kernel_assert_eq!(assert_ok!(cancelled.join()), Err(Error::PartnerGone));
        }
        for (label, badge) in [(2, 2), (4, 2), (5, 0), (7, 2)] {
            let received = assert_ok!(call::receive_until(endpoint, Until::NOW));
            kernel_assert_eq!((received.info.label(), received.badge), (label, badge));
        }
        assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
        for left in [b2, b4, plain5, b7] {
            kernel_assert_eq!(assert_ok!(left.join()), Ok(()));
        }
        assert_err!(call::send(a.own, Message::empty(0), Until::NOW), Error::InvalidCapability);
        // The capability that was revoked is there still; only what came from it went.
        assert_err!(call::send(a.owner, Message::empty(0), Until::NOW), Error::TimedOut);
    }
}

test! {
    // CASE-IPC-031: also receivers wait by a capability.
    fn deleting_the_capability_of_a_wait_ends_it() requires("IPS-12 CAP-12") {
        let endpoint = assert_ok!(call::endpoint_create());
        let slot = vacant_slot();
        let by = filled(slot, assert_ok!(call::cap_copy(slot, endpoint)));
        let gone = assert_ok!(thread::spawn_on(0, move || call::receive(by)));
        settled(0);
        let stays = assert_ok!(thread::spawn_on(0, move || call::receive(endpoint)));
        settled(0);
        assert_ok!(call::close(by));
        kernel_assert_eq!(assert_ok!(gone.join()), Err(Error::PartnerGone));
        assert_ok!(call::send(endpoint, Message::empty(3), Until::NOW));
        kernel_assert_eq!(assert_ok!(stays.join()), Ok(Message::empty(3)));
    }
}

/// What the threads of a race share.
#[derive(Default)]
struct Race {
    stop: AtomicU64,
    failed: AtomicU64,
}

/// A thread on each CPU but 0 that sends `label` through a slot, whatever is in it, as fast as it can.
fn resenders(by: Capability, label: u64, race: &Arc<Race>) -> Vec<Thread<()>> {
    (1..help::cpus().max(2))
        .map(|cpu| {
            let race = race.clone();
            assert_ok!(thread::spawn_on(cpu % help::cpus(), move || {
                while race.stop.load(Ordering::SeqCst) == 0 {
                    match call::send(by, Message::empty(label), help::soon(2_000_000)) {
                        Ok(()) | Err(Error::TimedOut) => {}
                        Err(Error::PartnerGone | Error::InvalidCapability) => {
                            race.failed.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }))
        })
        .collect()
}

test! {
    // CASE-IPC-032.
    fn nothing_comes_by_a_badge_after_its_revocation() requires("CAP-12 TST-23") needs("smp>=2") {
        const ROUNDS: u64 = 40;
        let endpoint = assert_ok!(call::endpoint_create());
        let owner = vacant_slot();
        let owner = filled(owner, assert_ok!(call::cap_mint(owner, endpoint, Rights::ALL, 9)));
        let slot = vacant_slot();
        assert_ok!(call::cap_copy(slot, owner));
        let race = Arc::new(Race::default());
        let senders = resenders(slot, 1, &race);
        for round in 0..ROUNDS {
            for _ in 0..1 + round % 7 {
                kernel_assert_eq!(once_there(|| call::receive_until(endpoint, Until::NOW)).badge, 9);
            }
            assert_ok!(call::cap_revoke(owner));
            for _ in 0..20 {
                assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
            }
            let failed = race.failed.load(Ordering::SeqCst);
            help::reaches(&race.failed, failed + 1);
            assert_ok!(call::cap_copy(slot, owner));
        }
        race.stop.store(1, Ordering::SeqCst);
        help::join_all(senders);
    }
}

test! {
    // CASE-IPC-033: the old holder keeps trying by the name of its filling, the new one has the slot.
    fn a_badge_minted_anew_gets_nothing_old() requires("CAP-16 CAP-25 TST-19") {
        const ROUNDS: u64 = 25;
        const OLD: u64 = 1;
        const NEW: u64 = 2;
        let endpoint = assert_ok!(call::endpoint_create());
        let (owner, slot) = (vacant_slot(), Capability(vacant_slot().0 + 1));
        let owner = filled(owner, assert_ok!(call::cap_mint(owner, endpoint, Rights::ALL, 9)));
        for round in 0..ROUNDS {
            let old = filled(slot, assert_ok!(call::cap_copy(slot, owner)));
            let race = Arc::new(Race::default());
            let senders = resenders(old, OLD, &race);
            kernel_assert_eq!(once_there(|| call::receive_until(endpoint, Until::NOW)).info.label(), OLD);
            assert_ok!(call::cap_revoke(owner));
            let new = filled(slot, assert_ok!(call::cap_copy(slot, owner)));
            kernel_assert!(new != old);
            let sender = assert_ok!(thread::spawn_on(round % help::cpus(), move || {
                (0..3).for_each(|_| assert_ok!(call::send(new, Message::empty(NEW), Until::Done)));
            }));
            for _ in 0..3 {
                let received = assert_ok!(call::receive(endpoint));
                kernel_assert_eq!((received.info.label(), received.badge), (NEW, 9));
            }
            assert_ok!(sender.join());
            help::reaches(&race.failed, 1);
            race.stop.store(1, Ordering::SeqCst);
            help::join_all(senders);
            assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut);
            assert_ok!(call::close(new));
        }
    }
}

test! {
    // CASE-IPC-033: the old holder is another process.
    fn another_process_cannot_keep_a_badge() requires("CAP-16 CAP-12 TST-19") {
        let (endpoint, end) = (assert_ok!(call::endpoint_create()), assert_ok!(call::endpoint_create()));
        let slot = vacant_slot();
        let owner = filled(slot, assert_ok!(call::cap_mint(slot, endpoint, Rights::ALL, 9)));
        let mut random = Random::new(7);
        for _ in 0..5 {
            let child = assert_ok!(Role::SendUntilTold.start(0, &[owner, end]));
            for _ in 0..1 + random.below(20) {
                kernel_assert_eq!(assert_ok!(call::receive(endpoint)).badge, 9);
            }
            assert_ok!(call::cap_revoke(owner));
            (0..20).for_each(|_| assert_err!(call::receive_until(endpoint, Until::NOW), Error::TimedOut));
            assert_ok!(call::send(end, Message::empty(0), Until::Done));
            kernel_assert_eq!(roles::ended(child), Exit::Status(TOLD));
        }
    }
}

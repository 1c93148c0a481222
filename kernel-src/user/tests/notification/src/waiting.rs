//! Signal and wait.

use crate::help::{self, filled, settled, soon, vacant_slot};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Error, Info, Rights};
use rt::call::{self, Capability, Until};
use rt::random::Random;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

const ALL: u64 = u64::MAX;

fn poll(notification: Capability, mask: u64) -> Result<u64, Error> {
    call::wait_bits(notification, mask, Until::NOW)
}

test! {
    // CASE-NTF-001.
    fn a_wait_gives_all_bits_signalled_and_clears_them() requires("NTF-01 NTF-02") {
        let notification = assert_ok!(call::notification_create());
        // Nobody waits, and no signal does.
        [1, 2, 4, 4, 1 << 63].into_iter().for_each(|bits| assert_ok!(call::signal(notification, bits)));
        kernel_assert_eq!(call::wait_bits(notification, ALL, Until::Done), Ok(1 << 63 | 7));
        assert_err!(poll(notification, ALL), Error::TimedOut);
        assert_ok!(call::signal(notification, 0));
        assert_err!(poll(notification, ALL), Error::TimedOut);

        let mut random = Random::new(5);
        let mut pending = 0;
        for _ in 0..300 {
            let bits = random.word() & random.word() & random.word();
            assert_ok!(call::signal(notification, bits));
            pending |= bits;
            if random.below(3) == 0 {
                let mask = random.word();
                kernel_assert_eq!(poll(notification, mask).unwrap_or(0), pending & mask);
                pending &= !mask;
            }
        }
        kernel_assert_eq!(poll(notification, ALL).unwrap_or(0), pending);
    }
}

test! {
    // CASE-NTF-001: a waiter is there first.
    fn a_signal_wakes_its_waiter_on_any_cpu() requires("NTF-01 NTF-02 SCH-58") {
        let notification = assert_ok!(call::notification_create());
        for cpu in [0, help::other_cpu()] {
            for bit in (0..64).step_by(7) {
                let waiter = assert_ok!(thread::spawn_on(cpu, move || call::wait_bits(notification, ALL, Until::Done)));
                settled(cpu);
                assert_ok!(call::signal(notification, 1 << bit));
                kernel_assert_eq!(assert_ok!(waiter.join()), Ok(1 << bit));
            }
        }
        assert_err!(poll(notification, ALL), Error::TimedOut);
    }
}

test! {
    // CASE-NTF-003.
    fn a_masked_wait_leaves_the_other_bits() requires("NTF-02") {
        let notification = assert_ok!(call::notification_create());
        assert_ok!(call::signal(notification, 0b1111));
        kernel_assert_eq!(call::wait_bits(notification, 0b0110 | 1 << 40, Until::Done), Ok(0b0110));
        assert_err!(poll(notification, 0b0110), Error::TimedOut);
        kernel_assert_eq!(poll(notification, ALL), Ok(0b1001));
        assert_err!(poll(notification, 0), Error::TimedOut);
        // A poll goes the slow way.
        assert_ok!(call::signal(notification, 0b1111));
        kernel_assert_eq!(poll(notification, 0b0110), Ok(0b0110));
        kernel_assert_eq!(poll(notification, ALL), Ok(0b1001));

        // One that waits is not woken by others' bits, on the signaller's CPU either.
        for cpu in [assert_ok!(call::info(Info::CurrentCpu, 0)), 0] {
            let woken = Arc::new(AtomicU64::new(0));
            let seen = woken.clone();
            let waiter = assert_ok!(thread::spawn_on(cpu, move || {
                let bits = call::wait_bits(notification, 0b100, Until::Done);
                seen.store(1, Ordering::SeqCst);
                bits
            }));
            settled(cpu);
            assert_ok!(call::signal(notification, 0b011));
            settled(cpu);
            kernel_assert_eq!(woken.load(Ordering::SeqCst), 0);
            assert_ok!(call::signal(notification, 0b1100));
            kernel_assert_eq!(assert_ok!(waiter.join()), Ok(0b100));
            kernel_assert_eq!(poll(notification, ALL), Ok(0b1011));
        }
    }
}

test! {
    // CASE-NTF-010. All threads have one priority: the first that came is the one.
    fn one_bit_wakes_one_waiter() requires("SCH-38 SCH-39 SCH-37") {
        // On the signaller's CPU, where the one who is woken goes on at once, and on another.
        for cpu in [assert_ok!(call::info(Info::CurrentCpu, 0)), 0] {
            let notification = assert_ok!(call::notification_create());
            let woken = Arc::new(AtomicU64::new(0));
            let waiter = |mask: u64| {
                let woken = woken.clone();
                let thread = assert_ok!(thread::spawn_on(cpu, move || {
                    let bits = call::wait_bits(notification, mask, Until::Done);
                    (bits, woken.fetch_add(1, Ordering::SeqCst))
                }));
                settled(cpu);
                thread
            };
            let waiters: Vec<_> = (0..5).map(|_| waiter(0b1)).collect();
            for count in 1..=5 {
                assert_ok!(call::signal(notification, 0b1));
                help::reaches(&woken, count);
                settled(cpu);
                kernel_assert_eq!(woken.load(Ordering::SeqCst), count);
            }
            for (turn, waiter) in (0..).zip(waiters) {
                kernel_assert_eq!(assert_ok!(waiter.join()), (Ok(1), turn));
            }
            assert_err!(poll(notification, ALL), Error::TimedOut);

            // Two bits may wake two; the first takes all that it asked for.
            woken.store(0, Ordering::SeqCst);
            let [both, second, third] = [waiter(0b011), waiter(0b010), waiter(0b110)];
            assert_ok!(call::signal(notification, 0b111));
            kernel_assert_eq!(assert_ok!(both.join()).0, Ok(0b011));
            kernel_assert_eq!(assert_ok!(third.join()).0, Ok(0b100));
            settled(cpu);
            kernel_assert_eq!(woken.load(Ordering::SeqCst), 2);
            assert_ok!(call::signal(notification, 0b010));
            kernel_assert_eq!(assert_ok!(second.join()).0, Ok(0b010));
        }
    }
}

test! {
    // CASE-NTF-011.
    fn a_badge_masks_the_bits_of_a_signal() requires("NTF-06 IPS-18 NTF-02") {
        let notification = assert_ok!(call::notification_create());
        let slot = vacant_slot();
        for badge in (0..64).map(|bit| 1 << bit).chain([0xff00, ALL]) {
            let badged = filled(slot, assert_ok!(call::cap_mint(slot, notification, Rights::ALL, badge)));
            assert_ok!(call::signal(badged, ALL));
            kernel_assert_eq!(poll(notification, ALL), Ok(badge));
            // Nothing is left of bits that it must not set.
            assert_ok!(call::signal(badged, !badge));
            assert_err!(poll(notification, ALL), Error::TimedOut);
            assert_err!(call::cap_mint(vacant_slot(), badged, Rights::ALL, 7), Error::InvalidArgument);
            assert_ok!(call::close(badged));
        }
    }
}

test! {
    // Each call needs its right, and the right kind of object.
    fn notifications_need_rights() requires("NTF-06 CAP-18 SYS-09") {
        let notification = assert_ok!(call::notification_create());
        let slot = vacant_slot();
        for bits in 0..32 {
            let rights = Rights(bits);
            let weak = filled(slot, assert_ok!(call::cap_mint(slot, notification, rights, 0)));
            let refused = |wanted, done: Result<(), Error>| {
                kernel_assert_eq!(done == Err(Error::NoRight), !rights.have(wanted), "rights {bits:#x}: {done:?}");
            };
            refused(Rights::WRITE, call::signal(weak, 0));
            refused(Rights::READ, poll(weak, ALL).map(drop));
            refused(Rights::READ, call::unbind(weak));
            if !rights.have(Rights::READ) {
                // What is refused does not wait, and binds nothing.
                assert_err!(call::wait_bits(weak, ALL, Until::Done), Error::NoRight);
                assert_err!(call::bind(weak), Error::NoRight);
                assert_err!(call::unbind(notification), Error::Bound);
            }
            assert_ok!(call::close(weak));
        }
        let endpoint = assert_ok!(call::endpoint_create());
        for (other, error) in [(endpoint, Error::WrongObject), (Capability(slot.0 + 40), Error::InvalidCapability)] {
            assert_err!(call::signal(other, 1), error);
            assert_err!(call::wait_bits(other, 1, Until::Done), error);
            assert_err!(call::bind(other), error);
            assert_err!(call::unbind(other), error);
        }
    }
}

test! {
    // CASE-NTF-013.
    fn polls_return_at_once_and_no_deadline_is_early() requires("NTF-02 PRC-05 SCH-58") {
        let notification = assert_ok!(call::notification_create());
        for until in [Until::NOW, Until::Clock(1), Until::Clock(call::clock_ns())] {
            assert_err!(call::wait_bits(notification, ALL, until), Error::TimedOut);
            assert_ok!(call::signal(notification, 6));
            assert_err!(call::wait_bits(notification, 1, until), Error::TimedOut);
            kernel_assert_eq!(call::wait_bits(notification, ALL, until), Ok(6));
        }
        for n in 0..12 {
            let deadline = call::clock_ns() + 100_000 + n * 90_000;
            assert_err!(call::wait_bits(notification, ALL, Until::Clock(deadline)), Error::TimedOut);
            let now = call::clock_ns();
            kernel_assert!(now >= deadline, "{} ns early", deadline - now);
        }
        // Bits that come in time are given, and a deadline that can never come is none.
        for until in [soon(help::PATIENCE_NS), Until::Clock(u64::MAX), Until::Clock(1 << 63)] {
            let waiter = assert_ok!(thread::spawn_on(0, move || call::wait_bits(notification, ALL, until)));
            settled(0);
            assert_ok!(call::signal(notification, 5));
            kernel_assert_eq!(assert_ok!(waiter.join()), Ok(5));
        }
    }
}

test! {
    // CASE-NTF-008: the waiters.
    fn the_end_of_a_notification_wakes_its_waiters() requires("NTF-01 IPS-12") {
        for cpu in [0, help::other_cpu()] {
            let notification = assert_ok!(call::notification_create());
            let slot = vacant_slot();
            let copy = filled(slot, assert_ok!(call::cap_copy(slot, notification)));
            let waiter = |by: Capability, until| assert_ok!(thread::spawn_on(cpu, move || call::wait_bits(by, ALL, until)));
            let by_copy: Vec<_> = (0..3).map(|_| waiter(copy, Until::Done)).collect();
            let others: Vec<_> = (0..4)
                .map(|n| waiter(notification, if n % 2 == 0 { Until::Done } else { soon(help::PATIENCE_NS) }))
                .collect();
            settled(cpu);
            // With the capability that they wait by; the object is there still.
            assert_ok!(call::cap_revoke(notification));
            for done in help::join_all(by_copy) {
                kernel_assert_eq!(done, Err(Error::PartnerGone));
            }
            assert_ok!(call::close(notification));
            for done in help::join_all(others) {
                kernel_assert_eq!(done, Err(Error::PartnerGone));
            }
            for gone in [notification, copy] {
                assert_err!(call::signal(gone, 1), Error::InvalidCapability);
                assert_err!(call::wait_bits(gone, 1, Until::Done), Error::InvalidCapability);
            }
        }
    }
}

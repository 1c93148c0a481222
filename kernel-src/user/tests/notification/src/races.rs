//! Signals and waits on several CPUs at once.

use crate::help::{self, numbered, soon};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Error, Info};
use rt::call::{self, Capability, Until};
use rt::random::Random;
use rt::thread::{self, Thread};
use rt::{assert_ok, kernel_assert, kernel_assert_eq, test};

/// A wait that a lost wake-up would make too long.
fn wait(notification: Capability, mask: u64) -> u64 {
    assert_ok!(call::wait_bits(notification, mask, soon(help::PATIENCE_NS)))
}

test! {
    // CASE-NTF-009: each signal is answered by one, so that the other side is at its wait, or on its way there.
    fn no_wake_up_is_lost_between_two_cpus() requires("NTF-01 SCH-58") needs("smp>=2") {
        const ROUNDS: u64 = 10_000;
        let (there, back) = (assert_ok!(call::notification_create()), assert_ok!(call::notification_create()));
        let echo = assert_ok!(thread::spawn_on(1, move || {
            for n in 0..ROUNDS {
                kernel_assert_eq!(wait(there, u64::MAX), 1 << (n % 64));
                assert_ok!(call::signal(back, 1 << (n % 61)));
            }
        }));
        let caller = assert_ok!(thread::spawn_on(0, move || {
            for n in 0..ROUNDS {
                assert_ok!(call::signal(there, 1 << (n % 64)));
                kernel_assert_eq!(wait(back, u64::MAX), 1 << (n % 61));
            }
        }));
        assert_ok!(caller.join());
        assert_ok!(echo.join());
    }
}

test! {
    // CASE-NTF-009, by a bound thread's receive: it looks for bits, then waits at the endpoint.
    fn no_wake_up_of_a_bound_thread_is_lost() requires("NTF-01 SCH-58") needs("smp>=2") {
        const ROUNDS: u64 = 4_000;
        let (there, back) = (assert_ok!(call::notification_create()), assert_ok!(call::notification_create()));
        let endpoint = assert_ok!(call::endpoint_create());
        let echo = assert_ok!(thread::spawn_on(1, move || {
            assert_ok!(call::bind(there));
            let (mut signals, mut messages) = (0, 0);
            while signals < ROUNDS || messages < ROUNDS {
                let received = assert_ok!(call::receive_until(endpoint, soon(help::PATIENCE_NS)));
                if received.bits().is_some() {
                    signals += 1;
                    assert_ok!(call::signal(back, 1));
                } else {
                    kernel_assert_eq!(received, numbered(messages, 4, messages));
                    messages += 1;
                }
            }
        }));
        let sender = assert_ok!(thread::spawn_on(help::cpus() - 1, move || {
            for n in 0..ROUNDS {
                assert_ok!(call::send(endpoint, numbered(n, 4, n), soon(help::PATIENCE_NS)));
            }
        }));
        let mut random = Random::new(6);
        for _ in 0..ROUNDS {
            assert_ok!(call::signal(there, 1 + random.below(1 << 40)));
            wait(back, 1);
        }
        assert_ok!(echo.join());
        assert_ok!(sender.join());
    }
}

/// Threads on `cpus` that wait for `mask` with deadlines of a random length, or without, until a bit above comes; how
/// many bits each saw.
fn collectors(notification: Capability, cpus: u64, mask: u64, timed: bool) -> Vec<Thread<u64>> {
    const STOP: u64 = 1 << 63;
    (0..cpus)
        .map(|cpu| {
            assert_ok!(thread::spawn_on(cpu, move || {
                let mut random = Random::new(cpu + 20);
                let mut count = 0;
                loop {
                    let until = if timed { soon(random.below(60_000)) } else { soon(help::PATIENCE_NS) };
                    match call::wait_bits(notification, mask | STOP, until) {
                        Ok(bits) => {
                            kernel_assert!(bits != 0 && bits & !(mask | STOP) == 0, "{bits:#x}");
                            count += u64::from((bits & mask).count_ones());
                            if bits & STOP != 0 {
                                // The next one stops, too.
                                assert_ok!(call::signal(notification, STOP));
                                return count;
                            }
                        }
                        Err(error) => kernel_assert!(timed && error == Error::TimedOut, "{error:?}"),
                    }
                }
            }))
        })
        .collect()
}

/// Signals a bit only when it is known to have been seen, so that none merges with another; gives how many. What is
/// seen is told through `seen`.
fn signal_singly(notification: Capability, rounds: u64, random: &mut Random) -> u64 {
    let mut count = 0;
    for n in 0..rounds {
        let bit = 1 << (n % 32);
        assert_ok!(call::signal(notification, bit));
        count += 1;
        if random.below(4) == 0 {
            rt::testing::spin(1 + random.below(10_000));
        }
        // The bit comes again in 32 rounds: by then it must be gone.
        if n % 32 == 31 {
            let patience = call::clock_ns() + help::PATIENCE_NS;
            while let Ok(left) = call::wait_bits(notification, u32::MAX.into(), Until::NOW) {
                kernel_assert!(call::clock_ns() < patience, "nobody takes {left:#x}");
                count -= u64::from(left.count_ones());
            }
        }
    }
    count
}

test! {
    // CASE-NTF-014, with time for what cancels a wait: at the instant of a signal, a bit is seen or left, once.
    fn a_time_out_at_the_instant_of_a_signal_loses_no_bit() requires("NTF-02 PRC-05") needs("smp>=2") {
        const ROUNDS: u64 = 6_000;
        let notification = assert_ok!(call::notification_create());
        let waiters = collectors(notification, help::cpus() - 1, u32::MAX.into(), true);
        let mut random = Random::new(8);
        let signalled = signal_singly(notification, ROUNDS, &mut random);
        assert_ok!(call::signal(notification, 1 << 63));
        let seen: u64 = help::join_all(waiters).into_iter().sum();
        let left = call::wait_bits(notification, u32::MAX.into(), Until::NOW).map_or(0, u64::count_ones);
        kernel_assert_eq!(seen + u64::from(left), signalled);
    }
}

test! {
    // CASE-NTF-015.
    fn no_waiter_is_woken_for_nothing() requires("NTF-02 SCH-38") needs("smp>=2") {
        const ROUNDS: u64 = 4_000;
        let notification = assert_ok!(call::notification_create());
        // Their masks overlap, and each says that its own is what it got.
        let waiters: Vec<_> = [0x0f_u64, 0x3c, 0xff, 0xf0]
            .into_iter()
            .flat_map(|mask| collectors(notification, help::cpus().min(2), mask, false))
            .collect();
        let mut random = Random::new(9);
        for _ in 0..ROUNDS {
            assert_ok!(call::signal(notification, 1 << random.below(8)));
        }
        assert_ok!(call::signal(notification, 1 << 63));
        kernel_assert!(help::join_all(waiters).into_iter().sum::<u64>() <= ROUNDS);
    }
}

test! {
    // CASE-NTF-016.
    fn signals_without_pause_do_not_starve_the_waiter() requires("NTF-01 PRF-07") {
        const WAITS: u64 = 400;
        let notification = assert_ok!(call::notification_create());
        let (stop, started) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let count = help::info(Info::CpusOnline).min(8);
        let signallers: Vec<_> = (0..count)
            .map(|cpu| {
                let (stop, started) = (stop.clone(), started.clone());
                assert_ok!(thread::spawn_on(cpu, move || {
                    started.fetch_add(1, Ordering::SeqCst);
                    while stop.load(Ordering::Relaxed) == 0 {
                        assert_ok!(call::signal(notification, 1 << cpu));
                    }
                }))
            })
            .collect();
        help::reaches(&started, count);
        let before = help::memory_at_rest();
        let mut seen = 0;
        for n in 0..WAITS {
            // Each CPU's bit in turn: nobody's is drowned by the others'.
            let bits = wait(notification, 1 << (n % count));
            kernel_assert_eq!(bits, 1 << (n % count));
            seen |= bits;
        }
        kernel_assert_eq!(seen, (1 << count) - 1);
        kernel_assert_eq!(help::memory_at_rest(), before);
        stop.store(1, Ordering::Relaxed);
        help::join_all(signallers);
    }
}

test! {
    // Notifications come and go while others signal and wait: nothing of them is used again too early.
    fn notifications_end_under_fire() requires("IPS-12 TST-23 ERR-11") {
        for round in 0..15 {
            let notification = assert_ok!(call::notification_create());
            let threads: Vec<_> = (0..help::cpus() * 2)
                .map(|n| {
                    assert_ok!(thread::spawn_on(n / 2, move || {
                        loop {
                            let done = match n % 4 {
                                0 => call::wait_bits(notification, u64::MAX, Until::Done).map(drop),
                                1 | 3 => call::signal(notification, n),
                                _ => call::wait_bits(notification, 6, soon(40_000)).map(drop),
                            };
                            match done {
                                Ok(()) | Err(Error::TimedOut) => {}
                                Err(error) => return error,
                            }
                        }
                    }))
                })
                .collect();
            rt::testing::spin(1 + round * 20_000);
            assert_ok!(call::close(notification));
            for error in help::join_all(threads) {
                kernel_assert!(matches!(error, Error::PartnerGone | Error::InvalidCapability), "{error:?}");
            }
        }
    }
}

//! Slots and objects that several CPUs fill, use, empty and end at once.

use crate::support::{Table, cpus, free_memory, use_endpoint, wait_until};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use rt::abi::{Error, Kind, Rights, guard};
use rt::call::{self, Capability, Message};
use rt::random::Random;
use rt::thread::{self, Thread};
use rt::{assert_ok, kernel_assert, kernel_assert_eq, test};

/// Threads on other CPUs that do the same over and over until they are stopped, each with a count of its turns.
struct Others {
    threads: Vec<Thread<()>>,
    turns: Arc<Vec<AtomicU64>>,
    over: Arc<AtomicBool>,
}

impl Others {
    fn start(count: u64, run: impl Fn(u64) + Clone + Send + 'static) -> Self {
        let turns: Arc<Vec<_>> = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
        let over = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|index| {
                let (turns, over, run) = (turns.clone(), over.clone(), run.clone());
                assert_ok!(thread::spawn_on((index + 1) % cpus(), move || {
                    while !over.load(Ordering::Relaxed) {
                        run(turns[index as usize].fetch_add(1, Ordering::Relaxed));
                    }
                }))
            })
            .collect();
        Self { threads, turns, over }
    }

    /// Waits until each has done `more`.
    fn go_on(&self, more: u64) {
        let before: Vec<_> = self.turns.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        wait_until("turns of the others", || {
            self.turns.iter().zip(&before).all(|(count, before)| count.load(Ordering::Relaxed) >= before + more)
        });
    }

    fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            assert_ok!(thread.join());
        }
    }
}

fn others() -> u64 {
    cpus().min(4) - 1
}

test! {
    fn a_slot_used_again_shows_no_mixture() requires("CAP-18 CAP-20 TST-23") needs("smp>=2") {
        // CASE-CAP-022
        const ROUNDS: u64 = 1500;
        const SLOT: Capability = Capability(40);
        let endpoints = assert_ok!(call::endpoint_create());
        let nodes = crate::support::marked(7);
        let facts = [
            (Kind::Endpoint as u64, (Rights::READ.0, 0xE)),
            (Kind::CNode as u64, (Rights::READ.with(Rights::MANAGE).0, guard(1, 1))),
            (0, (0, 0)),
        ];
        let users = Others::start(others(), move |_| {
            let seen = assert_ok!(call::cap_read(SLOT));
            kernel_assert!(facts.contains(&(seen.kind, (seen.rights, seen.badge))), "{seen:?}");
            let used = use_endpoint(SLOT);
            kernel_assert!(
                [Error::NoCaller, Error::WrongObject, Error::InvalidCapability].contains(&used),
                "{used:?}"
            );
            let within = call::cap_read(call::Place::within(SLOT, 2, 2)).map(|info| info.badge);
            kernel_assert!(
                [Ok(7), Err(Error::WrongObject), Err(Error::InvalidCapability), Err(Error::DepthTooLong)]
                    .contains(&within),
                "{within:?}"
            );
        });
        for _ in 0..ROUNDS {
            assert_ok!(call::cap_mint(SLOT, endpoints, Rights::READ, 0xE));
            assert_ok!(call::cap_delete(SLOT));
            assert_ok!(call::cap_mint(SLOT, nodes, Rights::READ.with(Rights::MANAGE), guard(1, 1)));
            assert_ok!(call::cap_delete(SLOT));
        }
        users.go_on(1);
        users.stop();
    }
}

test! {
    fn a_stale_name_deletes_nobody() requires("CAP-18 CAP-25 TST-23") needs("smp>=2") {
        // CASE-CAP-021, CASE-CAP-022: names of fillings that another CPU may be replacing right now.
        const ROUNDS: u64 = 3000;
        const SLOT: Capability = Capability(40);
        let original = assert_ok!(call::endpoint_create());
        let last = Arc::new(AtomicU64::new(0));
        let deleters = Others::start(others(), {
            let last = last.clone();
            move |_| {
                // Past already, or just about to be.
                let stale = Capability(last.load(Ordering::Relaxed));
                if stale.0 != 0 {
                    _ = call::cap_move(Capability(41), stale);
                    _ = call::cap_delete(stale);
                }
            }
        });
        for _ in 0..ROUNDS {
            let name = Capability(assert_ok!(call::cap_copy(SLOT, original)) << 32 | SLOT.0);
            // Nobody else knows this name yet, and nobody else may have emptied the slot.
            assert_ok!(call::cap_read(name));
            last.store(name.0, Ordering::Relaxed);
            // From now on somebody may, but only once.
            while call::cap_delete(name) == Err(Error::InvalidCapability) && assert_ok!(call::cap_read(SLOT)).kind != 0 {}
            _ = call::cap_delete(Capability(41));
        }
        deleters.stop();
    }
}

test! {
    fn an_endpoint_ends_under_its_users() requires("PRC-26 TST-23 CAP-13") needs("smp>=2") {
        // CASE-CAP-024
        const ROUNDS: u64 = 300;
        let (callers, receivers) = (Capability(40), Capability(41));
        let gone = [Error::PartnerGone, Error::InvalidCapability];
        let users = Others::start(others(), move |turn| {
            let result = match turn % 2 {
                0 => call::call(callers, Message::empty(1)),
                _ => call::receive(receivers),
            };
            kernel_assert!(result.is_err_and(|error| gone.contains(&error)), "{result:?}");
        });
        for _ in 0..ROUNDS {
            for name in [callers, receivers] {
                assert_ok!(call::endpoint_create_at(name.0));
            }
            call::yield_now();
            for name in [callers, receivers] {
                assert_ok!(call::cap_delete(name));
            }
        }
        users.stop();
        free_memory();
    }
}

test! {
    fn a_cnode_ends_under_look_ups() requires("CAP-20 TST-23") needs("smp>=2") {
        // CASE-CNODE-007
        const ROUNDS: u64 = 400;
        let top = Table::new(4);
        let look = move |index: u64| call::cap_read(top.below(3, index, 7)).map(|info| (info.kind, info.badge));
        let original = assert_ok!(call::endpoint_create());
        let found = Arc::new(AtomicU64::new(0));
        let users = Others::start(others(), {
            let found = found.clone();
            move |turn| {
                let index = turn % 128;
                match look(index) {
                    // A badge tells in which slot it was put.
                    Ok((kind, badge)) if kind != 0 => {
                        kernel_assert_eq!((kind, badge % 128), (Kind::Endpoint as u64, index));
                        found.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(empty) => kernel_assert_eq!(empty, (0, 0)),
                    Err(error) => kernel_assert_eq!(error, Error::DepthTooLong),
                }
                // Who fills a slot that closes hears of it; what it filled goes too.
                let result = call::cap_mint(top.below(3, index, 7), original, Rights::READ, 128 + index);
                kernel_assert!(
                    matches!(result, Ok(_) | Err(Error::Occupied | Error::DepthTooLong)),
                    "{result:?}"
                );
            }
        });
        for round in 1..=ROUNDS {
            let node = Table::new(7);
            for index in 0..32 {
                assert_ok!(call::cap_mint(node.at(index), original, Rights::NONE, round << 7 | index));
            }
            assert_ok!(call::cap_move(top.at(3), node.name));
            if round % 8 == 0 {
                users.go_on(1);
            }
            assert_ok!(call::cap_delete(top.at(3)));
        }
        users.stop();
        kernel_assert!(found.load(Ordering::Relaxed) > 0, "nobody found anything");
        free_memory();
        // All that was filled is gone.
        kernel_assert_eq!(call::cap_revoke_step(original), Ok(0));
    }
}

test! {
    fn one_of_all_cpus_fills_a_slot() requires("CAP-01 CAP-20") needs("smp>=2") {
        // CASE-CNODE-012
        const ROUNDS: u64 = 100;
        let table = Table::new(8);
        let original = assert_ok!(call::endpoint_create());
        let count = cpus().min(4);
        let arrived = Arc::new(AtomicU64::new(0));
        let fillers: Vec<_> = (0..count)
            .map(|cpu| {
                let arrived = arrived.clone();
                assert_ok!(thread::spawn_on(cpu, move || {
                    let own = Table::new(1);
                    let mut filled = Vec::new();
                    for round in 0..ROUNDS {
                        let place = table.at(round);
                        // Every other way to fill a slot, too.
                        if round % 2 == 1 {
                            assert_ok!(call::cap_copy(own.at(0), original));
                        }
                        arrived.fetch_add(1, Ordering::SeqCst);
                        while arrived.load(Ordering::SeqCst) < (round + 1) * count {
                            call::yield_now();
                        }
                        let result = match round % 2 {
                            0 => call::cap_mint(place, original, Rights::ALL, cpu + 1),
                            _ => call::cap_move(place, own.at(0)),
                        };
                        match result {
                            Ok(_) => filled.push(round),
                            Err(error) => kernel_assert_eq!(error, Error::Occupied),
                        }
                        if round % 2 == 1 {
                            _ = call::cap_delete(own.at(0));
                        }
                    }
                    filled
                }))
            })
            .collect();
        let mut filled: Vec<u64> = Vec::new();
        for (cpu, filler) in fillers.into_iter().enumerate() {
            let by_one = assert_ok!(filler.join());
            for &round in by_one.iter().filter(|&round| round % 2 == 0) {
                kernel_assert_eq!(table.read(round).badge, cpu as u64 + 1);
            }
            filled.extend(by_one);
        }
        filled.sort_unstable();
        kernel_assert_eq!(filled, (0..ROUNDS).collect::<Vec<_>>());
    }
}

test! {
    fn a_listing_has_all_that_stays() requires("CAP-20") {
        // CASE-CAP-033: even slots stay, odd ones come and go.
        let table = Table::new(8);
        let original = assert_ok!(call::endpoint_create());
        for index in (0..table.size()).step_by(2) {
            assert_ok!(call::cap_mint(table.at(index), original, Rights::READ, index + 1));
        }
        let changers = Others::start(cpus().min(4), move |turn| {
            let mut random = Random::new(turn);
            let (odd, other) = (random.below(128) * 2 + 1, random.below(128) * 2 + 1);
            let result = match random.below(3) {
                0 => call::cap_mint(table.at(odd), original, Rights::READ, odd + 1),
                1 => call::cap_move(table.at(odd), table.at(other)),
                _ => call::cap_delete(table.at(odd)).map(|()| 0),
            };
            kernel_assert!(matches!(result, Ok(_) | Err(Error::Occupied | Error::InvalidCapability)), "{result:?}");
            if turn % 16 == 0 {
                call::yield_now();
            }
        });
        for _ in 0..40 {
            for index in 0..table.size() {
                let info = table.read(index);
                match index % 2 {
                    0 => kernel_assert_eq!((info.kind, info.badge), (Kind::Endpoint as u64, index + 1)),
                    _ => kernel_assert!(info.kind == 0 || info.badge.is_multiple_of(2), "{info:?}"),
                }
            }
            changers.go_on(2);
        }
        changers.stop();
    }
}

test! {
    fn two_cpus_revoke_and_delete_one_tree() requires("CAP-12 TST-23") needs("smp>=2") {
        // CASE-CAP-016, CASE-CAP-017: all begin at once, at different places of a chain, and all come to an end.
        const ROUNDS: u64 = 60;
        const LENGTH: u64 = 64;
        let table = Table::new(7);
        let count = cpus().min(4);
        let arrived = Arc::new(AtomicU64::new(0));
        table.put_marked(0, 7);
        for round in 1..=ROUNDS {
            for index in 1..LENGTH {
                assert_ok!(call::cap_copy(table.at(index), table.at((index - 1) / 2)));
            }
            arrived.store(0, Ordering::SeqCst);
            let workers: Vec<_> = (0..count)
                .map(|cpu| {
                    let arrived = arrived.clone();
                    assert_ok!(thread::spawn_on(cpu, move || {
                        arrived.fetch_add(1, Ordering::SeqCst);
                        while arrived.load(Ordering::SeqCst) < count {
                            call::yield_now();
                        }
                        let mut random = Random::new(round << 8 | cpu);
                        for _ in 0..8 {
                            let index = 1 + random.below(LENGTH - 1);
                            let result = match cpu % 3 {
                                0 => call::cap_revoke(table.at(index)),
                                1 => call::cap_delete(table.at(index)),
                                _ => call::cap_move(table.at(LENGTH + index), table.at(index)).map(|_| ()),
                            };
                            kernel_assert!(matches!(result, Ok(()) | Err(Error::InvalidCapability)), "{result:?}");
                        }
                    }))
                })
                .collect();
            for worker in workers {
                assert_ok!(worker.join());
            }
            assert_ok!(call::cap_revoke(table.at(0)));
            kernel_assert_eq!((table.filled(), table.mark(0)), (Vec::from([0]), Ok(7)));
        }
    }
}

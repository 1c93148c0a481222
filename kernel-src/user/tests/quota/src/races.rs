//! Several CPUs that charge, give back and destroy at once.

use crate::child;
use crate::support::{BYTES, OBJECTS, OWN, cpus, end_quota, info, kind_in, new_quota, read, serve_one, settle, used};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Error, Info};
use rt::call::{self, Capability, Message, Until};
use rt::random::Random;
use rt::thread::{self, Thread};
use rt::{assert_ok, kernel_assert, kernel_assert_eq, test};

/// A thread on each CPU; they begin together.
fn on_each_cpu<T: Send + 'static>(run: impl Fn(u64) -> T + Clone + Send + 'static) -> Vec<T> {
    let arrived = Arc::new(AtomicU64::new(0));
    let count = cpus();
    let start = |cpu| {
        let (arrived, run) = (arrived.clone(), run.clone());
        assert_ok!(thread::spawn_on(cpu, move || {
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < count {
                call::yield_now();
            }
            run(cpu)
        }))
    };
    let threads: Vec<_> = (0..count).map(start).collect();
    threads.into_iter().map(|thread| assert_ok!(thread.join())).collect()
}

/// Threads on the other CPUs that do the same until they are told to stop.
struct Others {
    threads: Vec<Thread<()>>,
    turns: Arc<AtomicU64>,
    /// 0: they wait for each other; 1: they run; 2: it is over.
    phase: Arc<AtomicU64>,
}

impl Others {
    fn start(run: impl Fn(u64, u64) + Clone + Send + 'static) -> Self {
        let (turns, phase) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let threads = (1..cpus())
            .map(|cpu| {
                let (turns, phase, run) = (turns.clone(), phase.clone(), run.clone());
                assert_ok!(thread::spawn_on(cpu, move || {
                    while phase.load(Ordering::Relaxed) == 0 {
                        call::yield_now();
                    }
                    for turn in 0.. {
                        if phase.load(Ordering::Relaxed) == 2 {
                            return;
                        }
                        run(cpu, turn);
                        turns.fetch_add(1, Ordering::Relaxed);
                    }
                }))
            })
            .collect();
        phase.store(1, Ordering::Relaxed);
        Self { threads, turns, phase }
    }

    /// They have made so many turns more.
    fn go_on(&self, more: u64) {
        let until = self.turns.load(Ordering::Relaxed) + more;
        crate::support::wait_until("turns of the others", || self.turns.load(Ordering::Relaxed) >= until);
    }

    fn stop(self) {
        self.phase.store(2, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| assert_ok!(thread.join()));
    }
}

test! {
    fn the_last_unit_goes_to_one() requires("SIG-09 PMM-07 TST-23") needs("smp>=2") {
        // CASE-QTA-007
        for round in 0..40 {
            let left = round % 3 + 1;
            let quota = assert_ok!(call::quota_create(OWN, BYTES, 1 + left));
            let results = on_each_cpu(move |_| call::endpoint_create_in(quota));
            let made = results.iter().filter(|result| result.is_ok()).count() as u64;
            kernel_assert_eq!(made, left.min(cpus()));
            kernel_assert!(results.iter().all(|made| matches!(made, Ok(_) | Err(Error::OverQuota))), "{results:?}");
            kernel_assert_eq!(used(quota).1, 1 + made);
            end_quota(quota);
        }
    }
}

test! {
    fn four_cpus_never_pass_a_limit() requires("SIG-09 PMM-07 TST-23") needs("smp>=2") {
        // CASE-QTA-007: whatever comes and goes, nobody sees more in use than there is.
        let quota = assert_ok!(call::quota_create(OWN, 20_000, 6));
        on_each_cpu(move |cpu| {
            let mut random = Random::new(cpu);
            let mut mine = Vec::new();
            for _ in 0..150 {
                let now = read(quota);
                kernel_assert!(now.bytes_used <= now.bytes && now.objects_used <= now.objects, "{now:?}");
                match random.below(4) {
                    0 => mine.extend(call::endpoint_create_in(quota)),
                    1 => mine.extend(call::cnode_create_in(quota, 2)),
                    2 => mine.extend(call::quota_create(quota, 3000, 2)),
                    _ => mine.drain(..).for_each(|object| assert_ok!(call::close(object))),
                }
            }
            mine.into_iter().for_each(|object| assert_ok!(call::close(object)));
        });
        kernel_assert_eq!(used(quota).1, 1);
        end_quota(quota);
    }
}

test! {
    fn what_is_made_during_the_end_ends_too() requires("TST-23 HEAP-07 CAP-12") needs("smp>=2") {
        // CASE-QTA-006
        let own = used(OWN);
        for round in 0..30 {
            let quota = new_quota(OWN);
            let others = Others::start(move |_, turn| {
                let made = match turn % 3 {
                    0 => call::endpoint_create_in(quota),
                    1 => call::cnode_create_in(quota, 3),
                    _ => call::quota_create(quota, 5000, 3).and_then(call::endpoint_create_in),
                };
                let is_right = matches!(made, Ok(_) | Err(Error::OverQuota | Error::NoSlot | Error::InvalidCapability));
                kernel_assert!(is_right, "{made:?}");
            });
            others.go_on(round % 8 + 1);
            assert_ok!(call::quota_destroy(quota));
            kernel_assert_eq!(read(quota).objects_used, 1);
            others.go_on(cpus());
            kernel_assert_eq!(read(quota).objects_used, 1);
            others.stop();
            assert_ok!(call::close(quota));
            kernel_assert_eq!(used(OWN), own);
        }
    }
}

test! {
    fn what_is_used_on_every_cpu_ends() requires("TST-23 CAP-12 IPS-12") needs("smp>=2") {
        // CASE-QTA-004
        let own = used(OWN);
        for round in 0..20 {
            let quota = new_quota(OWN);
            let endpoint = assert_ok!(call::endpoint_create_in(quota));
            let bits = assert_ok!(call::notification_create_in(quota));
            let node = assert_ok!(call::cnode_create_in(quota, 4));
            let others = Others::start(move |cpu, turn| {
                let until = Until::Clock(call::clock_ns() + 20_000);
                let result = match (cpu + turn) % 5 {
                    0 => call::call_until(endpoint, Message::empty(turn), until).map(drop),
                    1 => call::receive_until(endpoint, until).map(drop),
                    2 => call::signal(bits, 1 << cpu),
                    3 => call::wait_bits(bits, 0xF, until).map(drop),
                    _ => call::cap_copy(crate::support::slot(node, 4, cpu), endpoint)
                        .and_then(|_| call::cap_delete(crate::support::slot(node, 4, cpu))),
                };
                let is_right = matches!(
                    result,
                    // What the name led to may go between its look-up and the look at what is on the way from there.
                    Ok(())
                        | Err(
                            Error::TimedOut
                                | Error::PartnerGone
                                | Error::InvalidCapability
                                | Error::Occupied
                                | Error::DepthTooLong
                        )
                );
                kernel_assert!(is_right, "{result:?}");
            });
            others.go_on(round + cpus());
            assert_ok!(call::quota_destroy(quota));
            for object in [endpoint, bits, node] {
                kernel_assert_eq!(kind_in(object), 0);
            }
            others.go_on(cpus());
            others.stop();
            assert_ok!(call::close(quota));
            kernel_assert_eq!(used(OWN), own);
        }
    }
}

test! {
    fn processes_end_while_their_quota_does() requires("TST-23 PMM-11") needs("smp>=2") {
        let own = used(OWN);
        let control = assert_ok!(call::endpoint_create());
        for role in [child::SPINNER, child::TENANT, child::NOTHING, child::SPINNER] {
            let quota = new_quota(OWN);
            let process = child::start(quota, role, control, Capability::NONE);
            if role != child::NOTHING {
                serve_one(control, || ());
            }
            let destroyed = on_each_cpu(move |_| call::quota_destroy(quota));
            kernel_assert!(destroyed.iter().all(Result::is_ok), "{destroyed:?}");
            kernel_assert_eq!(kind_in(process), 0);
            assert_ok!(call::close(quota));
        }
        assert_ok!(call::close(control));
        kernel_assert_eq!(used(OWN), own);
    }
}

test! {
    fn nothing_is_charged_by_a_capability_that_is_gone() requires("CAP-12 CAP-18 TST-23") needs("smp>=2") {
        // Not by what was looked up before either: that the quota ends next is nothing that anybody can hear of.
        let own = used(OWN);
        let lent = Capability(60);
        let others = Others::start(move |_, _| {
            // While a CPU is held up, nothing comes back.
            if info(Info::Ending) < OBJECTS / 8 {
                let closed = call::endpoint_create_in(lent).and_then(call::close);
                kernel_assert!(matches!(closed, Ok(()) | Err(Error::InvalidCapability)), "{closed:?}");
            }
        });
        for _ in 0..250 {
            let quota = new_quota(OWN);
            assert_ok!(call::cap_copy(lent, quota));
            others.go_on(20);
            assert_ok!(call::cap_revoke(quota));
            end_quota(quota);
        }
        others.stop();
        kernel_assert_eq!(used(OWN), own);
    }
}

test! {
    fn parts_are_taken_and_given_back_on_every_cpu() requires("TST-23 CAP-15 SIG-09") needs("smp>=2") {
        let own = used(OWN);
        let parent = assert_ok!(call::quota_create(OWN, 40_000, OBJECTS));
        let made = on_each_cpu(move |cpu| {
            let mut random = Random::new(cpu + 7);
            let mut made = 0;
            for _ in 0..60 {
                match call::quota_create(parent, 5000 + random.below(20_000), 1 + random.below(10)) {
                    Ok(quota) => {
                        made += 1;
                        _ = call::endpoint_create_in(quota);
                        assert_ok!(call::quota_destroy(quota));
                        assert_ok!(call::close(quota));
                    }
                    Err(error) => kernel_assert_eq!(error, Error::OverQuota),
                }
                let now = read(parent);
                kernel_assert!(now.bytes_used <= now.bytes && now.objects_used <= now.objects, "{now:?}");
            }
            made
        });
        kernel_assert!(made.iter().sum::<u64>() > 10, "{made:?}");
        settle();
        kernel_assert_eq!(read(parent).objects_used, 1);
        end_quota(parent);
        kernel_assert_eq!(used(OWN), own);
    }
}

//! All CPUs of the machine, up and working.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::abi::{Info, ThreadAction};
use rt::call::{Capability, Message, Until};
use rt::probe::role;
use rt::protocol::RESOURCE;
use rt::sync::Mutex;
use rt::thread::{self, Thread};
use rt::{assert_ok, call, kernel_assert, kernel_assert_eq, test};

rt::test_main!();

/// Threads at once: their stacks must fit into the heap.
const MOST_THREADS: u64 = 8;
/// How long something may take to be seen that a busy host can hide for a while.
const PATIENCE_NS: u64 = 10_000_000_000;
/// Most of a kernel stack that a call which reads its depth may be using.
const STACK_DEPTH_MAX: u64 = 4096;

fn info(what: Info, index: u64) -> u64 {
    assert_ok!(call::info(what, index))
}

fn cpus() -> core::ops::Range<u64> {
    0..info(Info::CpusOnline, 0)
}

fn join_all<T>(threads: Vec<Thread<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| assert_ok!(thread.join())).collect()
}

/// Sees a counter of `cpu` grow when a thread there sleeps. On a busy host the deadline may be over before
/// the thread sleeps, which counts nothing: then it sleeps again.
fn grows_while_a_thread_sleeps(what: Info, cpu: u64) {
    let before = info(what, cpu);
    let patience = call::clock_ns() + PATIENCE_NS;
    while info(what, cpu) == before {
        kernel_assert!(call::clock_ns() < patience, "{what:?} of CPU {cpu} stays at {before}");
        let sleeper = assert_ok!(thread::spawn_on(cpu, || call::sleep_until(call::clock_ns() + 2_000_000)));
        assert_ok!(assert_ok!(sleeper.join()));
    }
}

test! {
    fn every_cpu_that_the_machine_lists_is_online() requires("SMP-01 SMP-02 SMP-08 BTR-02") {
        kernel_assert_eq!(info(Info::CpusOnline, 0), info(Info::CpusPresent, 0));
        kernel_assert!(info(Info::CpusOnline, 0) >= 1);
    }
}

test! {
    fn hardware_numbers_differ() requires("SMP-08 SMP-11") {
        let numbers: Vec<_> = cpus().map(|cpu| info(Info::HardwareId, cpu)).collect();
        for (index, number) in numbers.iter().enumerate() {
            kernel_assert!(!numbers[..index].contains(number), "two CPUs are number {number}");
        }
    }
}

test! {
    fn a_pinned_thread_runs_on_its_cpu() requires("SMP-09 CTX-06 ERR-05") {
        for cpu in cpus() {
            let seen = assert_ok!(thread::spawn_on(cpu, || {
                [0; 10].map(|_: u64| {
                    call::yield_now();
                    info(Info::CurrentCpu, 0)
                })
            }));
            kernel_assert_eq!(assert_ok!(seen.join()), [cpu; 10]);
        }
    }
}

test! {
    fn each_thread_is_its_own_current_thread() requires("CTX-06 ERR-05") {
        for cpu in cpus() {
            let threads: Vec<_> =
                (0..4).map(|_| assert_ok!(thread::spawn_on(cpu, || info(Info::ThreadId, 0)))).collect();
            let ids: Vec<_> = threads.iter().map(|thread| thread.id).collect();
            kernel_assert_eq!(join_all(threads), ids);
        }
    }
}

test! {
    fn the_timer_interrupts_every_cpu() requires("TMR-08 SMP-15") {
        for cpu in cpus() {
            grows_while_a_thread_sleeps(Info::TimerInterrupts, cpu);
        }
    }
}

test! {
    fn cpus_send_and_take_interrupts() requires("SMP-05 SMP-02") needs("smp>=2") {
        // A thread on each CPU wakes one on the next, which sleeps for want of work.
        let count = cpus().end;
        for from in cpus() {
            let to = (from + 1) % count;
            let (sent, received) = (info(Info::IpisSent, from), info(Info::IpisReceived, to));
            let deadline = call::clock_ns() + PATIENCE_NS;
            while info(Info::IpisSent, from) == sent || info(Info::IpisReceived, to) == received {
                kernel_assert!(call::clock_ns() < deadline, "no interrupt went from CPU {from} to CPU {to}");
                let starter = thread::spawn_on(from, move || {
                    let woken = assert_ok!(thread::spawn_on(to, || info(Info::CurrentCpu, 0)));
                    kernel_assert_eq!(assert_ok!(woken.join()), to);
                });
                assert_ok!(assert_ok!(starter).join());
            }
        }
    }
}

test! {
    // Of interrupts that wait for the end of a call one or two are left; of those that are let in between its pieces, each.
    fn interrupts_come_within_a_call_that_takes_long() requires("INT-13 SMP-05") needs("smp>=2") {
        const MANY: u64 = 8;
        let (here, nothing) = (info(Info::CurrentCpu, 0), [Capability::NONE; 4]);
        let stop = Arc::new(AtomicU64::new(0));
        let endpoint = assert_ok!(call::endpoint_create());
        let (target, name) = assert_ok!(thread::spawn_suspended(Some(here), move || call::receive(endpoint).map(drop)));
        assert_ok!(call::thread_control(name, ThreadAction::Resume, 0));
        let sender = assert_ok!(thread::spawn_on((here + 1) % cpus().end, {
            let stop = stop.clone();
            move || {
                while stop.load(Ordering::Relaxed) == 0 {
                    // Its CPU is asked to look, though nothing changes.
                    _ = call::thread_control(name, ThreadAction::Resume, 0);
                }
            }
        }));
        let patience = call::clock_ns() + 4 * PATIENCE_NS;
        let mut most = 0;
        while most < MANY && call::clock_ns() < patience {
            let before = info(Info::IpisReceived, here);
            let child = assert_ok!(call::spawn(RESOURCE, "faults", role::SCRIBBLE, nothing));
            most = most.max(info(Info::IpisReceived, here) - before);
            assert_ok!(call::wait(child));
            assert_ok!(call::close(child));
        }
        stop.store(1, Ordering::Relaxed);
        assert_ok!(sender.join());
        assert_ok!(call::send(endpoint, Message::empty(0), Until::Done));
        assert_ok!(assert_ok!(target.join()));
        [name, endpoint].into_iter().for_each(|capability| assert_ok!(call::close(capability)));
        kernel_assert!(most >= MANY, "at most {most} interrupts came within a call");
    }
}

test! {
    fn threads_run_on_all_cpus_at_once() requires("SMP-01 SMP-09") needs("smp>=2") {
        let count = cpus().end.min(MOST_THREADS);
        let arrived = Arc::new(AtomicU64::new(0));
        let threads = (0..count)
            .map(|cpu| {
                let arrived = arrived.clone();
                assert_ok!(thread::spawn_on(cpu, move || {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    // Nobody yields: they can meet only if all run.
                    let deadline = call::clock_ns() + PATIENCE_NS;
                    while arrived.load(Ordering::SeqCst) < count {
                        kernel_assert!(call::clock_ns() < deadline, "not all CPUs run");
                        core::hint::spin_loop();
                    }
                    info(Info::CurrentCpu, 0)
                }))
            })
            .collect();
        kernel_assert!(join_all(threads).into_iter().eq(0..count));
    }
}

test! {
    fn threads_without_a_wish_are_spread_over_all_cpus() requires("SMP-09") {
        let threads: Vec<_> =
            (0..2 * cpus().end).map(|_| assert_ok!(thread::spawn(|| info(Info::CurrentCpu, 0)))).collect();
        let mut seen: Vec<_> = threads.into_iter().map(|thread| assert_ok!(thread.join())).collect();
        seen.sort_unstable();
        seen.dedup();
        kernel_assert_eq!(seen, cpus().collect::<Vec<_>>());
    }
}

test! {
    fn all_threads_of_a_cpu_enter_on_its_one_stack() requires("PRC-16 PRC-17 PRC-18") {
        for cpu in cpus() {
            let threads = (0..4)
                .map(|_| {
                    assert_ok!(thread::spawn_on(cpu, || {
                        [0; 32].map(|_: u64| {
                            call::yield_now();
                            info(Info::KernelStackDepth, 0)
                        })
                    }))
                })
                .collect();
            let depths = join_all(threads);
            let first = depths[0][0];
            kernel_assert!(first > 0 && first <= STACK_DEPTH_MAX, "CPU {cpu}: {first} bytes deep");
            kernel_assert!(depths.iter().flatten().all(|&depth| depth == first), "CPU {cpu}: not always {first} bytes");
        }
    }
}

test! {
    fn idle_cpus_sleep() requires("BTC-03") {
        for cpu in cpus() {
            grows_while_a_thread_sleeps(Info::IdleEntries, cpu);
        }
    }
}

test! {
    fn idle_cpus_take_no_tick() requires("BTC-03") needs("smp>=2") {
        let here = assert_ok!(thread::spawn_on(0, || {
            let count = || cpus().skip(1).map(|cpu| info(Info::TimerInterrupts, cpu)).sum::<u64>();
            let before = count();
            assert_ok!(call::sleep_until(call::clock_ns() + 100_000_000));
            count() - before
        }));
        let ticks = assert_ok!(here.join());
        kernel_assert!(ticks <= cpus().end, "{ticks} timer interrupts on idle CPUs in 100 ms");
    }
}

test! {
    fn cpus_share_memory_coherently() requires("SMP-09") {
        const ROUNDS: u64 = 2000;
        let count = cpus().end.min(MOST_THREADS);
        let shared = Arc::new((Mutex::new(0_u64), AtomicU64::new(0)));
        let threads = (0..count)
            .map(|cpu| {
                let shared = shared.clone();
                assert_ok!(thread::spawn_on(cpu, move || {
                    for _ in 0..ROUNDS {
                        *shared.0.lock() += 1;
                        shared.1.fetch_add(1, Ordering::Relaxed);
                    }
                }))
            })
            .collect();
        join_all(threads);
        kernel_assert_eq!(*shared.0.lock(), ROUNDS * count);
        kernel_assert_eq!(shared.1.load(Ordering::Relaxed), ROUNDS * count);
    }
}

test! {
    fn the_clock_is_one_over_all_cpus() requires("TMR-08") {
        let mut last = 0;
        for _ in 0..4 {
            for cpu in cpus() {
                let now = assert_ok!(assert_ok!(thread::spawn_on(cpu, call::clock_ns)).join());
                kernel_assert!(now >= last, "CPU {cpu} reads {now} after another read {last}");
                last = now;
            }
        }
    }
}

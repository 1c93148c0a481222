//! Many at once.

use crate::help;
use crate::roles::{self, CROWD_CALLS, CROWD_THREADS, DONE, Role};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use rt::call::{self, Exit, Message, Until};
use rt::{assert_ok, kernel_assert, kernel_assert_eq, test, thread};

const STOP: u64 = 0xE0D;
/// Memory that may stay with the kernel: slabs keep what they have grown to.
const SLACK: u64 = 64 << 10;

test! {
    // CASE-IPC-040.
    fn each_message_of_many_senders_arrives_once() requires("IPS-01 IPS-02") needs("smp>=2") {
        const EACH: u64 = 400;
        let endpoint = assert_ok!(call::endpoint_create());
        let count = help::cpus();
        let seen: Arc<Vec<AtomicU8>> = Arc::new((0..count * EACH).map(|_| AtomicU8::new(0)).collect());
        let receivers: Vec<_> = (0..count)
            .map(|cpu| {
                let seen = seen.clone();
                assert_ok!(thread::spawn_on(cpu, move || {
                    let mut received = 0_u64;
                    loop {
                        let message = assert_ok!(call::receive(endpoint));
                        if message.info.label() == STOP {
                            return received;
                        }
                        kernel_assert_eq!(message, help::word(1, message.words[0]));
                        seen[message.words[0] as usize].fetch_add(1, Ordering::SeqCst);
                        received += 1;
                    }
                }))
            })
            .collect();
        let senders: Vec<_> = (0..count)
            .map(|cpu| {
                assert_ok!(thread::spawn_on(cpu, move || {
                    for n in cpu * EACH..(cpu + 1) * EACH {
                        assert_ok!(call::send(endpoint, help::word(1, n), Until::Done));
                    }
                }))
            })
            .collect();
        help::join_all(senders);
        (0..count).for_each(|_| assert_ok!(call::send(endpoint, Message::empty(STOP), Until::Done)));
        kernel_assert_eq!(help::join_all(receivers).into_iter().sum::<u64>(), count * EACH);
        kernel_assert!(seen.iter().all(|times| times.load(Ordering::SeqCst) == 1), "lost or doubled");
    }
}

test! {
    // CASE-IPC-041.
    fn sixty_four_clients_of_four_servers_are_served() requires("TST-09 IPS-02 IPS-12 ERR-11") {
        const PROCESSES: u64 = 8;
        let endpoints: [_; 4] = core::array::from_fn(|_| assert_ok!(call::endpoint_create()));
        let sums: Arc<[AtomicU64; 4]> = Arc::new(Default::default());
        let servers: Vec<_> = (0..4)
            .map(|server| {
                let sums = sums.clone();
                assert_ok!(thread::spawn_on(server % help::cpus(), move || {
                    let mut request = assert_ok!(call::receive(endpoints[server as usize]));
                    let mut calls = 0_u64;
                    while request.info.label() != STOP {
                        calls += 1;
                        sums[server as usize].fetch_add(request.words[0], Ordering::SeqCst);
                        let reply = help::word(server, request.words[0] * 3 + server);
                        request = assert_ok!(call::reply_receive(endpoints[server as usize], reply));
                    }
                    calls
                }))
            })
            .collect();
        let round = |processes: u64| {
            let clients: Vec<_> =
                (0..processes).map(|n| assert_ok!(Role::Crowd.start(n as u32, &endpoints))).collect();
            clients.into_iter().for_each(|client| kernel_assert_eq!(roles::ended(client), Exit::Status(DONE)));
        };
        round(PROCESSES);
        let before = help::memory_at_rest();
        sums.iter().for_each(|sum| sum.store(0, Ordering::SeqCst));
        round(PROCESSES);
        let after = help::memory_at_rest();
        kernel_assert!(after + SLACK >= before, "{before} bytes were free, {after} are");
        let clients = PROCESSES * CROWD_THREADS;
        let sum: u64 = (0..clients).flat_map(|client| (0..CROWD_CALLS).map(move |n| client << 32 | n)).sum();
        kernel_assert_eq!(sums.iter().map(|sum| sum.load(Ordering::SeqCst)).sum::<u64>(), sum);
        for endpoint in endpoints {
            assert_ok!(call::send(endpoint, Message::empty(STOP), Until::Done));
        }
        let calls = help::join_all(servers);
        kernel_assert_eq!(calls.into_iter().sum::<u64>(), 2 * clients * CROWD_CALLS);
        help::memory_at_rest();
    }
}

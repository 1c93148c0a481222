//! What is charged, by how much, and when it comes back.

use crate::child;
use crate::support::{BYTES, OBJECTS, OWN, World, cost_of, end_quota, new_quota, read, serve_one, used};
use alloc::vec::Vec;
use rt::abi::{Error, QUOTA_DEPTH_MAX, QuotaInfo, Rights};
use rt::call::{self, Capability, Exit, Message};
use rt::random::Random;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

/// What a quota takes of itself.
fn itself() -> (u64, u64) {
    let quota = new_quota(OWN);
    let used = used(quota);
    end_quota(quota);
    used
}

test! {
    fn a_quota_is_part_of_its_parent() requires("CAP-15 SIG-08") {
        // CASE-QTA-001
        let before = World::look();
        let own = used(OWN);
        let quota = assert_ok!(call::quota_create(OWN, 100_000, 10));
        kernel_assert_eq!(used(OWN), (own.0 + 100_000, own.1 + 10));
        let QuotaInfo { bytes, bytes_used, objects, objects_used } = read(quota);
        kernel_assert_eq!((bytes, objects, objects_used), (100_000, 10, 1));
        kernel_assert!((64..1024).contains(&bytes_used), "{bytes_used}");
        // What is charged to it is nothing new to its parent.
        let endpoint = assert_ok!(call::endpoint_create_in(quota));
        kernel_assert_eq!((used(OWN), used(quota).1), ((own.0 + 100_000, own.1 + 10), 2));
        assert_ok!(call::close(endpoint));
        // Destroyed, it gives back all but what it is itself; deleted, that too.
        assert_ok!(call::quota_destroy(quota));
        kernel_assert_eq!(used(OWN), (own.0 + bytes_used, own.1 + 1));
        kernel_assert_eq!(read(quota), QuotaInfo { bytes: bytes_used, bytes_used, objects: 1, objects_used: 1 });
        assert_err!(call::endpoint_create_in(quota), Error::OverQuota);
        assert_ok!(call::quota_destroy(quota));
        assert_ok!(call::close(quota));
        kernel_assert_eq!(used(OWN), own);
        // Deleted without that, all at once.
        assert_ok!(call::close(new_quota(OWN)));
        kernel_assert_eq!(used(OWN), own);
        let after = World::look();
        kernel_assert!(after.same_slots_and_quota(&before), "{before:?} {after:?}");
    }
}

test! {
    fn each_kind_costs_what_is_written() requires("HEAP-07 PMM-11 PRC-30") {
        // CASE-QTA-002: an object, and of a CNode its table.
        let (endpoint, one) = cost_of(|quota| assert_ok!(call::endpoint_create_in(quota)));
        kernel_assert!(one == 1 && (64..1024).contains(&endpoint), "{endpoint}");
        let (notification, one) = cost_of(|quota| assert_ok!(call::notification_create_in(quota)));
        kernel_assert!(one == 1 && (64..1024).contains(&notification), "{notification}");
        kernel_assert_eq!(cost_of(|quota| assert_ok!(call::quota_create(quota, 10_000, 3))), (10_000, 3));
        let node = cost_of(|quota| assert_ok!(call::cnode_create_in(quota, 1))).0 - 4096;
        kernel_assert!((64..1024).contains(&node), "{node}");
        for (bits, frames) in [(2, 1), (5, 1), (6, 1), (7, 2), (8, 4)] {
            let cost = cost_of(|quota| assert_ok!(call::cnode_create_in(quota, bits)));
            kernel_assert_eq!(cost, (node + frames * 4096, 1), "{bits} bits");
        }
    }
}

test! {
    fn replies_and_threads_cost_an_object_until_they_end() requires("HEAP-07 PMM-11") {
        // CASE-QTA-002
        let quota = new_quota(OWN);
        let empty = used(quota);
        let endpoint = assert_ok!(call::endpoint_create());
        let caller = assert_ok!(thread::spawn_in(quota, move || call::call(endpoint, Message::empty(0))));
        assert_ok!(call::receive(endpoint));
        kernel_assert_eq!(used(quota).1, empty.1 + 1);
        let thread = used(quota).0 - empty.0;
        let reply = assert_ok!(call::save_reply_in(quota));
        kernel_assert_eq!(used(quota).1, empty.1 + 2);
        kernel_assert!(used(quota).0 > empty.0 + thread, "{thread}");
        assert_ok!(call::reply_to(reply, Message::empty(3)));
        assert_ok!(assert_ok!(caller.join()));
        // The Reply answered, and is still there.
        kernel_assert_eq!(used(quota).1, empty.1 + 1);
        assert_ok!(call::close(reply));
        kernel_assert_eq!(used(quota), empty);
        end_quota(quota);
    }
}

test! {
    fn a_process_gives_back_what_it_had_when_it_ends() requires("PMM-11 PRC-30") {
        // CASE-QTA-002
        let quota = new_quota(OWN);
        let control = assert_ok!(call::endpoint_create());
        let empty = used(quota);
        let process = child::start(quota, child::NOTHING, control, Capability::NONE);
        kernel_assert_eq!(assert_ok!(call::wait(process)), Exit::Status(child::DONE));
        // The capability keeps the process, and nothing else is left.
        kernel_assert_eq!(used(quota).1, empty.1 + 1);
        kernel_assert!(used(quota).0 < empty.0 + 1024);
        assert_ok!(call::close(process));
        kernel_assert_eq!(used(quota), empty);
        // One that has made much, and is ended from outside.
        let process = child::start(quota, child::SPINNER, control, Capability::NONE);
        serve_one(control, || ());
        let running = used(quota);
        // Process, first CNode, thread; and frames: tables, the program, its stack.
        kernel_assert_eq!(running.1, empty.1 + 3);
        kernel_assert!(running.0 > empty.0 + 20 * 4096);
        assert_ok!(call::quota_destroy(quota));
        assert_err!(call::wait(process), Error::InvalidCapability);
        assert_ok!(call::close(quota));
        assert_ok!(call::close(control));
    }
}

test! {
    fn a_limit_holds_to_the_byte() requires("SIG-08 SIG-09 PMM-07") {
        let (own, one) = itself();
        kernel_assert_eq!(one, 1);
        let (endpoint, _) = cost_of(|quota| assert_ok!(call::endpoint_create_in(quota)));
        for (bytes, objects, made) in [
            (own + 3 * endpoint, 10, 3),
            (own + 3 * endpoint - 1, 10, 2),
            (own + 10 * endpoint, 4, 3),
            (own, 10, 0),
            (own + endpoint, 1, 0),
        ] {
            let quota = assert_ok!(call::quota_create(OWN, bytes, objects));
            for _ in 0..made {
                assert_ok!(call::endpoint_create_in(quota));
            }
            let full = read(quota);
            assert_err!(call::endpoint_create_in(quota), Error::OverQuota);
            assert_err!(call::cnode_create_in(quota, 1), Error::OverQuota);
            kernel_assert_eq!(read(quota), full);
            end_quota(quota);
        }
        // What does not even pay for itself, and what is more than there is.
        let left = read(OWN);
        for (bytes, objects) in
            [(0, 0), (own - 1, 1), (own, 0), (u64::MAX, 1), (own, u64::MAX), (left.bytes - left.bytes_used + 1, 1)]
        {
            assert_err!(call::quota_create(OWN, bytes, objects), Error::OverQuota);
        }
        end_quota(assert_ok!(call::quota_create(OWN, own, 1)));
    }
}

test! {
    fn a_child_has_no_more_than_its_parent() requires("CAP-15 SIG-08 TST-21") {
        let parent = assert_ok!(call::quota_create(OWN, 20_000, 8));
        assert_err!(call::quota_create(parent, 20_000, 2), Error::OverQuota);
        assert_err!(call::quota_create(parent, 2000, 8), Error::OverQuota);
        let child = assert_ok!(call::quota_create(parent, 2000, 7));
        kernel_assert_eq!(read(parent).objects_used, 8);
        assert_err!(call::endpoint_create_in(parent), Error::OverQuota);
        let endpoint = assert_ok!(call::endpoint_create_in(child));
        assert_ok!(call::close(endpoint));
        assert_ok!(call::close(child));
        crate::support::settle();
        end_quota(assert_ok!(call::quota_create(parent, 3000, 7)));
        end_quota(parent);
    }
}

test! {
    fn quotas_nest_so_deep_and_no_deeper() requires("CAP-15 SIG-08") {
        let own = used(OWN);
        let mut path = Vec::from([OWN]);
        let last = loop {
            let parent = path[path.len() - 1];
            match call::quota_create(parent, 50_000 - 1000 * path.len() as u64, 100 - path.len() as u64) {
                Ok(quota) => path.push(quota),
                Err(error) => break error,
            }
        };
        // This process has the root quota for its own.
        kernel_assert_eq!((last, path.len() as u64), (Error::InvalidArgument, QUOTA_DEPTH_MAX + 1));
        path[1..].iter().for_each(|&quota| assert_ok!(call::close(quota)));
        kernel_assert_eq!(used(OWN), own);
    }
}

test! {
    fn a_quota_stays_while_something_is_charged_to_it() requires("CAP-13 PRC-30") {
        let own = used(OWN);
        let quota = new_quota(OWN);
        let endpoint = assert_ok!(call::endpoint_create_in(quota));
        let node = assert_ok!(call::cnode_create_in(quota, 8));
        assert_ok!(call::close(quota));
        kernel_assert_eq!(used(OWN), (own.0 + BYTES, own.1 + OBJECTS));
        assert_ok!(call::cap_copy(crate::support::slot(node, 8, 3), endpoint));
        assert_ok!(call::close(endpoint));
        kernel_assert_eq!(used(OWN), (own.0 + BYTES, own.1 + OBJECTS));
        // The endpoint ends with the CNode in which its last capability is.
        assert_ok!(call::close(node));
        kernel_assert_eq!(used(OWN), own);
    }
}

test! {
    fn only_a_named_quota_pays() requires("CAP-18 TST-21 TST-20") {
        // CASE-QTA-011, CASE-QTA-012; by each call and right: CASE-CAP-026 and 027 in the suite caps.
        let quota = new_quota(OWN);
        let before = World::look();
        let reader = Capability(60);
        assert_ok!(call::cap_mint(reader, quota, Rights(Rights::ALL.0 & !Rights::WRITE.0), 0));
        assert_err!(call::endpoint_create_in(reader), Error::NoRight);
        assert_err!(call::spawn_in(reader, Capability(0), "quota", 0, [Capability::NONE; 4]), Error::NoRight);
        assert_err!(call::endpoint_create_in(Capability(0)), Error::WrongObject);
        assert_err!(call::endpoint_create_in(Capability(62)), Error::InvalidCapability);
        assert_err!(thread::spawn_in(reader, || ()).map(drop), Error::NoRight);
        assert_ok!(call::close(reader));
        let after = World::look();
        kernel_assert!(after.same_slots_and_quota(&before), "{before:?} {after:?}");
        // A process charges its own, whoever started it, and nothing that it does is its parent's.
        let small = assert_ok!(call::quota_create(OWN, BYTES, 20));
        let own = used(OWN);
        let process = child::start(small, child::GREEDY, Capability::NONE, Capability::NONE);
        kernel_assert_eq!(assert_ok!(call::wait(process)), Exit::Status(child::DONE));
        kernel_assert_eq!(used(OWN), own);
        assert_ok!(call::close(process));
        end_quota(small);
        end_quota(quota);
    }
}

test! {
    fn a_revoked_quota_pays_no_more() requires("CAP-12 CAP-18") {
        let quota = new_quota(OWN);
        let lent = Capability(60);
        assert_ok!(call::cap_copy(lent, quota));
        let endpoint = assert_ok!(call::endpoint_create_in(lent));
        assert_ok!(call::cap_revoke(quota));
        assert_err!(call::endpoint_create_in(lent), Error::InvalidCapability);
        // What was charged stays.
        assert_ok!(call::cap_read(endpoint));
        kernel_assert_eq!(used(quota).1, 2);
        end_quota(quota);
        assert_err!(call::receive(endpoint), Error::InvalidCapability);
    }
}

test! {
    fn the_sum_is_right_after_each_of_a_thousand_steps() requires("TST-24 PMM-07 PRC-30") {
        // CASE-QTA-014, of objects: a model that adds up what is charged to each of four quotas in one another.
        let costs = [
            cost_of(|quota| assert_ok!(call::endpoint_create_in(quota))),
            cost_of(|quota| assert_ok!(call::notification_create_in(quota))),
            cost_of(|quota| assert_ok!(call::cnode_create_in(quota, 3))),
        ];
        let (itself, _) = itself();
        let own = used(OWN);
        let mut quotas = Vec::from([new_quota(OWN)]);
        for level in 1..4_u64 {
            let parent = quotas[level as usize - 1];
            quotas.push(assert_ok!(call::quota_create(parent, BYTES >> (2 * level), OBJECTS >> (2 * level))));
        }
        let share = |level: usize| if level < 3 { (BYTES >> (2 * level + 2), OBJECTS >> (2 * level + 2)) } else { (0, 0) };
        let mut random = Random::new(11);
        let mut objects: Vec<(Capability, usize, usize)> = Vec::new();
        for _ in 0..1000 {
            if objects.len() < 40 && random.below(5) != 0 {
                let (level, kind) = (random.below(4) as usize, random.below(3) as usize);
                let made = match kind {
                    0 => call::endpoint_create_in(quotas[level]),
                    1 => call::notification_create_in(quotas[level]),
                    _ => call::cnode_create_in(quotas[level], 3),
                };
                match made {
                    Ok(object) => objects.push((object, level, kind)),
                    Err(error) => kernel_assert_eq!((error, level), (Error::OverQuota, 3)),
                }
            } else if !objects.is_empty() {
                let (object, ..) = objects.swap_remove(random.below(objects.len() as u64) as usize);
                assert_ok!(call::close(object));
            }
            if random.below(8) == 0 {
                for (level, &quota) in quotas.iter().enumerate() {
                    let (mut bytes, mut count) = share(level);
                    for &(_, _, kind) in objects.iter().filter(|&&(_, at, _)| at == level) {
                        bytes += costs[kind].0;
                        count += 1;
                    }
                    kernel_assert_eq!(used(quota), (bytes + itself, count + 1), "level {level}");
                }
            }
        }
        end_quota(quotas[0]);
        kernel_assert_eq!(used(OWN), own);
        for (object, ..) in objects {
            assert_err!(call::cap_delete(object), Error::InvalidCapability);
        }
    }
}

//! The end of a quota, and of all that was charged to it.

use crate::child::{self, DONE, ENDED};
use crate::support::{
    BYTES, OBJECTS, OWN, end_quota, kind_in, new_quota, read, serve_one, settle, slot, used, wait_until,
};
use alloc::vec::Vec;
use rt::abi::{Error, Kind};
use rt::call::{self, Capability, Exit, Message, Until};
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

/// Waits until so many threads of this process wait for something else than the end of a slice.
fn wait_for_waiting(count: usize) {
    wait_until("threads that wait", || {
        let states = (0..).map_while(|index| assert_ok!(call::thread_info(None, index)));
        states.filter(|info| (1..=4).contains(&info.state)).count() == count
    });
}

test! {
    fn all_that_is_charged_ends_wherever_it_is_used() requires("CAP-12 PMM-11 IPS-12 PRC-30") {
        // CASE-QTA-004
        let own = used(OWN);
        let control = assert_ok!(call::endpoint_create());
        let quota = new_quota(OWN);
        let [receives, sends] = [0; 2].map(|_| assert_ok!(call::endpoint_create_in(quota)));
        let signals = assert_ok!(call::notification_create_in(quota));
        let node = assert_ok!(call::cnode_create_in(quota, 4));
        // A capability to an object of this process's own, in a CNode that ends, is one less.
        assert_ok!(call::cap_copy(slot(node, 4, 1), control));
        // Copies in a CNode that stays.
        let keeps = assert_ok!(call::cnode_create(4));
        for (index, object) in [receives, sends, signals, node].into_iter().enumerate() {
            assert_ok!(call::cap_copy(slot(keeps, 4, index as u64), object));
        }
        let receiver = assert_ok!(thread::spawn(move || call::receive(receives).map(drop)));
        let sender = assert_ok!(thread::spawn(move || call::send(sends, Message::empty(1), Until::Done)));
        let waiter = assert_ok!(thread::spawn(move || call::wait_bits(signals, 1, Until::Done).map(drop)));
        // A Reply of which the caller waits.
        let caller = assert_ok!(thread::spawn(move || call::call(control, Message::empty(1)).map(drop)));
        assert_ok!(call::receive(control));
        let reply = assert_ok!(call::save_reply_in(quota));
        // Processes: one that waits, one that runs on some CPU.
        let tenant = child::start(quota, child::TENANT, control, Capability::NONE);
        serve_one(control, || ());
        let spinner = child::start(quota, child::SPINNER, control, Capability::NONE);
        serve_one(control, || ());
        let ends = assert_ok!(thread::spawn(move || call::wait(spinner).map(drop)));
        wait_for_waiting(4);

        assert_ok!(call::quota_destroy(quota));
        for thread in [receiver, sender, waiter, caller] {
            kernel_assert_eq!(assert_ok!(thread.join()), Err(Error::PartnerGone));
        }
        kernel_assert_eq!(assert_ok!(ends.join()), Err(Error::InvalidCapability));
        for object in [receives, sends, signals, node, reply, tenant, spinner] {
            assert_err!(call::cap_delete(object), Error::InvalidCapability);
        }
        for index in 0..16 {
            kernel_assert_eq!(assert_ok!(call::cap_read(slot(keeps, 4, index))).kind, 0);
        }
        kernel_assert_eq!(read(quota).objects_used, 1);
        for object in [quota, keeps, control] {
            assert_ok!(call::close(object));
        }
        kernel_assert_eq!(used(OWN), own);
    }
}

test! {
    fn what_lies_below_ends_and_what_lies_above_stays() requires("CAP-15 CAP-12") {
        // Eight in one another, of which the fourth is destroyed.
        let own = used(OWN);
        let mut path = Vec::from([OWN]);
        let mut objects = Vec::new();
        for level in 0..8_u64 {
            let parent = path[level as usize];
            path.push(assert_ok!(call::quota_create(parent, BYTES >> level, OBJECTS - level * 10)));
            objects.push(assert_ok!(call::endpoint_create_in(path[level as usize + 1])));
        }
        let above: Vec<_> = path[1..4].iter().map(|&quota| read(quota)).collect();
        assert_ok!(call::quota_destroy(path[4]));
        settle();
        for (level, &object) in objects.iter().enumerate() {
            let kind = kind_in(object);
            kernel_assert_eq!(kind, if level < 3 { Kind::Endpoint as u64 } else { 0 }, "level {level}");
        }
        // Quotas below are gone with their capabilities; the one that was named stays, empty.
        for (level, &quota) in path.iter().enumerate().skip(1) {
            let kind = kind_in(quota);
            kernel_assert_eq!(kind, if level <= 4 { Kind::Quota as u64 } else { 0 }, "level {level}");
        }
        let gone = read(path[4]);
        kernel_assert_eq!((gone.bytes, gone.objects), (gone.bytes_used, 1));
        for (index, before) in above.iter().enumerate() {
            let after = read(path[index + 1]);
            let freed = if index == 2 { OBJECTS - 30 - 1 } else { 0 };
            kernel_assert_eq!(after.objects_used, before.objects_used - freed, "level {index}");
        }
        assert_ok!(call::endpoint_create_in(path[3]));
        end_quota(path[1]);
        kernel_assert_eq!(used(OWN), own);
    }
}

test! {
    fn a_process_ends_with_its_quota_also_by_its_own_hand() requires("CAP-12 PMM-11") {
        let own = used(OWN);
        let quota = new_quota(OWN);
        let control = assert_ok!(call::endpoint_create());
        // The process pays with `quota`, and destroys it; somebody else then ends what it began.
        let process = child::start(quota, child::SUICIDE, control, quota);
        let heard = call::wait(process);
        kernel_assert!(matches!(heard, Err(Error::InvalidCapability) | Ok(Exit::Quota)), "{heard:?}");
        end_quota(quota);
        assert_ok!(call::close(control));
        kernel_assert_eq!(used(OWN), own);
    }
}

test! {
    fn who_is_ended_while_destroying_leaves_it_to_others() requires("CAP-12 TST-23") {
        let own = used(OWN);
        let mut ended = 0;
        for turns in [0, 1, 2, 3, 5, 8, 13, 40] {
            let quota = new_quota(OWN);
            let below = new_quota_below(quota);
            for _ in 0..12 {
                assert_ok!(call::endpoint_create_in(below));
                assert_ok!(call::cnode_create_in(quota, 5));
            }
            let process = child::start(OWN, child::DESTROYER | turns, Capability::NONE, quota);
            match assert_ok!(call::wait(process)) {
                Exit::Status(ENDED) => ended += 1,
                exit => kernel_assert_eq!(exit, Exit::Status(DONE)),
            }
            assert_ok!(call::close(process));
            end_quota(quota);
            kernel_assert_eq!(used(OWN), own);
        }
        kernel_assert!(ended > 1, "one that has begun was ended in the middle");
    }
}

fn new_quota_below(quota: Capability) -> Capability {
    assert_ok!(call::quota_create(quota, BYTES / 2, OBJECTS / 2))
}

test! {
    fn the_capability_must_be_there_and_no_more_is_charged() requires("CAP-18 CAP-19 SYS-09") {
        let quota = new_quota(OWN);
        let many = 40;
        let table = assert_ok!(call::cnode_create(6));
        for index in 0..many {
            let endpoint = assert_ok!(call::endpoint_create_in(quota));
            assert_ok!(call::cap_move(slot(table, 6, index), endpoint));
        }
        // It takes several calls, and from the first on nothing is charged.
        kernel_assert_eq!(call::quota_destroy_step(quota), Ok(1));
        assert_err!(call::endpoint_create_in(quota), Error::OverQuota);
        assert_err!(call::quota_create(quota, 10_000, 2), Error::OverQuota);
        let left = (0..many).filter(|&index| assert_ok!(call::cap_read(slot(table, 6, index))).kind != 0).count();
        kernel_assert!(left > 0 && left < many as usize, "{left}");
        assert_ok!(call::quota_destroy(quota));
        kernel_assert_eq!((call::quota_destroy_step(quota), call::quota_destroy_step(quota)), (Ok(0), Ok(0)));
        assert_ok!(call::close(quota));
        assert_err!(call::quota_destroy_step(quota), Error::InvalidCapability);
        assert_err!(call::quota_destroy_step(table), Error::WrongObject);
        assert_ok!(call::close(table));
    }
}

test! {
    fn a_root_that_ends_with_a_quota_leaves_its_process_without_names() requires("CAP-12 CAP-01") {
        // CASE-QTA-013, of a CNode that another process has for its root.
        let own = used(OWN);
        let quota = new_quota(OWN);
        let root = assert_ok!(call::cnode_create_in(quota, 6));
        let control = assert_ok!(call::endpoint_create());
        assert_ok!(call::cap_copy(slot(root, 6, 1), control));
        let process = child::start(OWN, child::WAITER, control, Capability::NONE);
        wait_until("the process to wait", || {
            assert_ok!(call::thread_info(Some(process), 0)).is_some_and(|info| info.state == 2)
        });
        assert_ok!(call::set_root(Some(process), root, rt::abi::guard(26, 0)));
        assert_ok!(call::quota_destroy(quota));
        kernel_assert_eq!(assert_ok!(call::wait(process)), Exit::Status(DONE));
        for object in [process, control, quota] {
            assert_ok!(call::close(object));
        }
        kernel_assert_eq!(used(OWN), own);
    }
}

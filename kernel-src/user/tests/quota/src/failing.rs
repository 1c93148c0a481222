//! Creations that fail: at each of their charges in turn, and for want of frames.

use crate::child;
use crate::support::{BYTES, OBJECTS, OWN, World, end_quota, info, new_quota, read, serve_one, settle, slot, used};
use rt::abi::{Error, Info, Kind};
use rt::call::{self, Capability, Message};
use rt::protocol::RESOURCE;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

const NOTHING: [Capability; 4] = [Capability::NONE; 4];

/// Fails each charge of a call in turn, by quotas that have room for ever more: nothing may change. How often it failed
/// for want of objects, and of bytes.
fn fail_each_charge(step: u64, create: impl Fn(Capability) -> Result<(), Error>) -> [u64; 2] {
    // What slabs keep they have from now on.
    let quota = new_quota(OWN);
    assert_ok!(create(quota));
    end_quota(quota);
    let itself = 1024;
    let by_objects = |n: u64| (BYTES, 1 + n);
    let by_bytes = |n: u64| (itself + n * step, OBJECTS);
    [&by_objects as &dyn Fn(u64) -> (u64, u64), &by_bytes].map(|limit| {
        let mut failed = 0;
        loop {
            let (bytes, objects) = limit(failed);
            let quota = assert_ok!(call::quota_create(OWN, bytes, objects));
            let (before, empty) = (World::look(), read(quota));
            let result = create(quota);
            if result.is_ok() {
                end_quota(quota);
                return failed;
            }
            kernel_assert_eq!(result, Err(Error::OverQuota), "{bytes} bytes, {objects} objects");
            let (after, left) = (World::look(), read(quota));
            kernel_assert!(after.is_as(&before), "{bytes} bytes, {objects} objects: {before:?} {after:?}");
            kernel_assert_eq!(left, empty);
            end_quota(quota);
            failed += 1;
        }
    })
}

test! {
    fn objects_that_cannot_be_paid_leave_nothing() requires("TST-26 ERR-03 HEAP-07 SYS-09") {
        // CASE-QTA-003
        let [objects, bytes] = fail_each_charge(16, |quota| call::endpoint_create_in(quota).map(drop));
        kernel_assert!(objects == 1 && bytes < 64, "{objects} {bytes}");
        let [objects, _] = fail_each_charge(16, |quota| call::notification_create_in(quota).map(drop));
        kernel_assert_eq!(objects, 1);
        for bits in [1, 8] {
            // The table, and the object.
            let [objects, bytes] = fail_each_charge(512, |quota| call::cnode_create_in(quota, bits).map(drop));
            kernel_assert!(objects == 1 && bytes >= 6, "{objects} {bytes}");
        }
        let [objects, bytes] = fail_each_charge(512, |quota| call::quota_create(quota, 8000, 5).map(drop));
        kernel_assert!(objects == 5 && bytes > 10, "{objects} {bytes}");
    }
}

test! {
    fn a_reply_that_cannot_be_paid_is_still_owed() requires("TST-26 ERR-03 IPS-06") {
        // CASE-QTA-003
        let endpoint = assert_ok!(call::endpoint_create());
        let ask = || {
            let caller = assert_ok!(thread::spawn(move || call::call(endpoint, Message::empty(0))));
            assert_ok!(call::receive(endpoint));
            caller
        };
        // Each round ends with a Reply that goes with its quota: then the caller hears, and the next one calls.
        let callers = core::cell::RefCell::new(alloc::vec::Vec::from([ask()]));
        let [objects, _] = fail_each_charge(16, |quota| {
            let saved = call::save_reply_in(quota).map(drop);
            if saved.is_ok() {
                callers.borrow_mut().push(ask());
            }
            saved
        });
        kernel_assert_eq!(objects, 1);
        assert_ok!(call::reply(Message::empty(7)));
        let mut callers = callers.into_inner();
        kernel_assert_eq!(callers.len(), 4);
        let last = assert_ok!(callers.remove(3).join());
        kernel_assert_eq!(assert_ok!(last).info.label(), 7);
        for caller in callers {
            kernel_assert_eq!(assert_ok!(caller.join()), Err(Error::PartnerGone));
        }
    }
}

test! {
    fn threads_that_cannot_be_paid_leave_nothing() requires("TST-26 ERR-03 PMM-11") {
        // CASE-QTA-003
        let [objects, _] = fail_each_charge(64, |quota| thread::spawn_in(quota, || ()).and_then(thread::Thread::join));
        kernel_assert_eq!(objects, 1);
    }
}

test! {
    fn processes_that_cannot_be_paid_leave_nothing() requires("TST-26 ERR-03 PMM-11") {
        // CASE-QTA-003: process, first CNode and thread; tables, pages, and the table of the CNode.
        let [objects, bytes] =
            fail_each_charge(1024, |quota| call::spawn_in(quota, RESOURCE, "faults", 0, NOTHING).map(drop));
        kernel_assert_eq!(objects, 3);
        kernel_assert!(bytes > 4 * 20, "{bytes}");
    }
}

test! {
    fn nothing_fails_for_memory_that_needs_none() requires("TST-26 PRF-07 PMM-11 ERR-03 CAP-12") {
        // CASE-QTA-003, CASE-QTA-008: every frame of the machine is in use.
        let before = info(Info::MemoryFree);
        let own = used(OWN);
        let [endpoint, waits] = [0; 2].map(|_| assert_ok!(call::endpoint_create()));
        let bits = assert_ok!(call::notification_create());
        let victim = child::start(OWN, child::WAITER, waits, Capability::NONE);
        let (top, table) = (assert_ok!(call::cnode_create(8)), assert_ok!(call::cnode_create(8)));
        let server = assert_ok!(thread::spawn(move || serve_one(endpoint, || ())));
        let now = read(OWN);
        let all = assert_ok!(call::quota_create(
            OWN,
            now.bytes - now.bytes_used - 200_000,
            now.objects - now.objects_used - 100
        ));
        let mut filled = 0;
        let mut fill = |node, create: &dyn Fn() -> Result<Capability, Error>| {
            loop {
                match create() {
                    Ok(object) => assert_ok!(call::cap_move(slot(node, 8, filled), object)),
                    Err(error) => return error,
                };
                filled += 1;
                if filled == 256 {
                    return Error::NoSlot;
                }
            }
        };
        let give = [Capability::NONE, waits, Capability::NONE, Capability::NONE];
        let error = fill(top, &|| call::spawn_in(all, RESOURCE, "quota", child::WAITER, give));
        kernel_assert!(matches!(error, Error::NoMemory | Error::OverQuota), "{error:?}");
        filled = 0;
        let mut fill = |create: &dyn Fn() -> Result<Capability, Error>| {
            while let Ok(object) = create() {
                assert_ok!(call::cap_move(slot(table, 8, filled), object));
                filled += 1;
            }
        };
        for quota in [all, OWN] {
            // What those that failed had taken comes back first, or would be free after all.
            settle();
            for bits in [8, 7, 6] {
                fill(&|| call::cnode_create_in(quota, bits));
            }
            fill(&|| call::endpoint_create_in(quota));
            fill(&|| call::notification_create_in(quota));
        }
        settle();
        kernel_assert!(info(Info::MemoryFree) < 1 << 15, "{} bytes are free", info(Info::MemoryFree));
        // Most often frames are gone before the budget, since slabs keep some.
        let world = World::look();
        for refused in [
            call::endpoint_create().err(),
            call::notification_create().err(),
            call::cnode_create(8).err(),
            call::spawn(RESOURCE, "faults", 0, NOTHING).err(),
        ] {
            kernel_assert!(matches!(refused, Some(Error::NoMemory | Error::OverQuota)), "{refused:?}");
            let after = World::look();
            kernel_assert!(after.is_as(&world), "{world:?} {after:?}");
        }
        // What needs no memory goes on.
        kernel_assert_eq!(assert_ok!(call::call(endpoint, Message::empty(0))).info.label(), 1);
        assert_ok!(call::signal(bits, 6));
        kernel_assert_eq!(assert_ok!(call::wait_bits(bits, 2, call::Until::NOW)), 2);
        let copy = Capability(63);
        assert_ok!(call::cap_copy(copy, endpoint));
        assert_ok!(call::cap_revoke(endpoint));
        assert_err!(call::cap_delete(copy), Error::InvalidCapability);
        assert_ok!(call::cap_revoke(waits));
        assert_ok!(call::wait(victim));
        assert_ok!(server.join());
        // And all of it comes back.
        for node in [table, top] {
            assert_ok!(call::close(node));
        }
        end_quota(all);
        for object in [victim, endpoint, waits, bits] {
            assert_ok!(call::close(object));
        }
        kernel_assert_eq!(used(OWN), own);
        // But for what slabs keep.
        kernel_assert!(info(Info::MemoryFree) + (1 << 20) > before, "{before} {}", info(Info::MemoryFree));
        kernel_assert_eq!(assert_ok!(call::cap_read(RESOURCE)).kind, Kind::Resource as u64);
    }
}

//! Roots: where the names of a process start.

use crate::child::{self, Agent};
use crate::support::{Table, cpus, gives_back_all, marked, use_endpoint, wait_until};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use rt::abi::{Call, Error, Kind, OWN_QUOTA, Rights, guard};
use rt::call::{self, Capability, Exit, Place};
use rt::protocol::RESOURCE;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, test, thread};

test! {
    fn a_root_is_a_cnode() requires("CAP-07 PRC-32") {
        // CASE-CNODE-008
        let agent = Agent::new(Capability::NONE, Capability::NONE, Capability::NONE);
        let endpoint = assert_ok!(call::endpoint_create());
        let node = Table::new(6);
        let whole = guard(26, 0);
        for (process, is_own) in [(None, true), (Some(agent.process), false)] {
            assert_err!(call::set_root(process, Capability(63), whole), Error::InvalidCapability);
            for other in [endpoint, RESOURCE, agent.process] {
                assert_err!(call::set_root(process, other, whole), Error::WrongObject);
            }
            for wrong in [guard(33, 0), guard(1, 2), u64::MAX] {
                assert_err!(call::set_root(process, node.name, wrong), Error::InvalidArgument);
            }
            // Names lead where they led.
            kernel_assert_eq!(use_endpoint(endpoint), Error::NoCaller);
            if !is_own {
                kernel_assert_eq!(assert_ok!(agent.read(Capability(1)))[0], Kind::Endpoint as u64);
            }
        }
        for other in [endpoint, RESOURCE, node.name] {
            assert_err!(call::set_root(Some(other), node.name, whole), Error::WrongObject);
        }
        let unmanaged = Capability(60);
        assert_ok!(call::cap_mint(unmanaged, agent.process, Rights(Rights::ALL.0 & !Rights::MANAGE.0), 0));
        assert_err!(call::set_root(Some(unmanaged), node.name, whole), Error::NoRight);
        assert_ok!(call::close(unmanaged));
        assert_err!(call::set_root(Some(unmanaged), node.name, whole), Error::InvalidCapability);
        let process = Capability(61);
        assert_ok!(call::cap_copy(process, agent.process));
        agent.end();
        // Nor has one that ended a root.
        assert_err!(call::set_root(Some(process), node.name, whole), Error::InvalidCapability);
    }
}

test! {
    fn a_root_is_given_to_another_process() requires("CAP-07 CAP-02") {
        // CASE-CNODE-010, from outside, while it waits for a message by a slot of the old root.
        let agent = Agent::new(RESOURCE, Capability::NONE, Capability::NONE);
        kernel_assert_eq!(assert_ok!(agent.read(Capability(0)))[0], Kind::Resource as u64);
        let root = Table::new(8);
        assert_ok!(call::cap_copy(root.at(1), agent.control()));
        assert_ok!(call::cap_move(root.at(200), marked(7)));
        assert_ok!(call::set_root(Some(agent.process), root.name, guard(24, 0)));
        kernel_assert_eq!(assert_ok!(agent.read(Capability(0)))[0], 0);
        kernel_assert_eq!(assert_ok!(agent.read(Capability(200)))[0], Kind::CNode as u64);
        assert_err!(agent.read(Capability(256)), Error::GuardMismatch);
        // It has the rights in it that its root has.
        assert_ok!(agent.call(Call::EndpointCreate, [100, OWN_QUOTA, 0, 0, 0, 0]));
        kernel_assert!(root.holds(100));
        let read_only = Capability(60);
        assert_ok!(call::cap_mint(read_only, root.name, Rights::READ, 0));
        assert_ok!(call::set_root(Some(agent.process), read_only, guard(24, 0)));
        kernel_assert_eq!(assert_ok!(agent.read(Capability(200)))[0], Kind::CNode as u64);
        for place in [101, u64::MAX] {
            assert_err!(agent.call(Call::EndpointCreate, [place, OWN_QUOTA, 0, 0, 0, 0]), Error::NoRight);
            assert_err!(agent.call(Call::CNodeCreate, [1, place, OWN_QUOTA, 0, 0, 0]), Error::NoRight);
        }
        assert_err!(agent.call(Call::CapDelete, [200, 0, 0, 0, 0, 0]), Error::NoRight);
        assert_err!(agent.call(Call::CapCopy, [101, 0, 200, 0, 31, 0]), Error::NoRight);
        assert_err!(agent.call(Call::CapMove, [101, 0, 200, 0, 31, 0]), Error::NoRight);
        kernel_assert_eq!(root.filled(), [1, 100, 200]);
        // And with the root its names go, without anybody else's.
        assert_ok!(call::cap_revoke(root.name));
        kernel_assert_eq!(root.filled(), [1, 100, 200]);
        // Its last answer cannot be sent any more: there is no name to receive by.
        assert_err!(agent.call(Call::Null, [0; 6]), Error::PartnerGone);
        kernel_assert_eq!(
            assert_ok!(call::wait(agent.process)),
            Exit::Status(Error::InvalidCapability as u32)
        );
    }
}

test! {
    fn a_running_process_outlives_its_root() requires("CAP-27 CAP-07") {
        // CASE-CNODE-009
        for _ in 0..3 {
            let root = Table::new(child::LOSER_BITS);
            root.put_endpoint(1);
            assert_ok!(call::cap_move(root.at(2), marked(7)));
            let process = child::start(child::ROOT_LOSER, [root.name, Capability::NONE, Capability::NONE, Capability::NONE]);
            wait_until("the process has taken its root", || root.holds(3));
            assert_ok!(call::cap_revoke(root.name));
            kernel_assert_eq!(assert_ok!(call::wait(process)), Exit::Status(child::DONE));
            // Nothing else was harmed.
            kernel_assert_eq!((root.filled(), root.mark(2)), (Vec::from([1, 2, 3]), Ok(7)));
            kernel_assert_eq!(use_endpoint(Capability(0)), Error::WrongObject);
            for name in [root.name, process] {
                assert_ok!(call::close(name));
            }
        }
    }
}

test! {
    fn a_root_may_name_itself() requires("CAP-13 CAP-07") {
        // CASE-CNODE-014
        gives_back_all(|| {
            let process = child::start(child::SELF_NAMED_ROOT, [Capability::NONE; 4]);
            kernel_assert_eq!(assert_ok!(call::wait(process)), Exit::Status(child::DONE));
            assert_ok!(call::close(process));
        });
    }
}

test! {
    fn a_larger_root_keeps_names_good() requires("CAP-02 CAP-20") {
        // CASE-CNODE-010: names of the old root, generations and all, in threads that use them on.
        let names: Arc<Vec<Capability>> = Arc::new((0..8).map(|_| assert_ok!(call::endpoint_create())).collect());
        let stale = assert_ok!(call::endpoint_create());
        assert_ok!(call::close(stale));
        assert_ok!(call::endpoint_create_at(stale.address()));
        let over = Arc::new(AtomicBool::new(false));
        let used: Arc<Vec<AtomicU64>> = Arc::new((0..cpus()).map(|_| AtomicU64::new(0)).collect());
        let users: Vec<_> = (0..cpus())
            .map(|cpu| {
                let (names, over, used) = (names.clone(), over.clone(), used.clone());
                assert_ok!(thread::spawn_on(cpu, move || {
                    while !over.load(Ordering::Relaxed) {
                        for &name in names.iter() {
                            kernel_assert_eq!(use_endpoint(name), Error::NoCaller);
                        }
                        kernel_assert_eq!(use_endpoint(stale), Error::InvalidCapability);
                        used[cpu as usize].fetch_add(1, Ordering::Relaxed);
                        call::yield_now();
                    }
                }))
            })
            .collect();
        let mut bits = 6;
        for next in [7, 8, 8] {
            let larger = Table::new(next);
            for address in 0..1 << bits {
                let held = assert_ok!(call::cap_read(Capability(address)));
                if held.kind != 0 {
                    let place = larger.at(address).at_generation(held.generation);
                    kernel_assert_eq!(call::cap_copy(place, Capability(address)), Ok(held.generation));
                }
            }
            assert_ok!(call::set_root(None, larger.name, guard(32 - next, 0)));
            bits = next;
            let before: Vec<_> = used.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            wait_until("use on every CPU", || {
                used.iter().zip(&before).all(|(count, before)| count.load(Ordering::Relaxed) > before + 1)
            });
        }
        over.store(true, Ordering::Relaxed);
        for user in users {
            assert_ok!(user.join());
        }
        // There is room now, at the end of which nothing was before.
        assert_ok!(call::endpoint_create_at(255));
        kernel_assert_eq!(use_endpoint(Capability(255)), Error::NoCaller);
    }
}

test! {
    fn names_of_a_root_may_be_deep() requires("CAP-02 CAP-21") {
        // CASE-CNODE-003, of names: two levels of 256, and a guard before.
        let (top, second) = (Table::new(8), Table::new(8));
        assert_ok!(call::cap_mint(top.at(3), second.name, Rights::ALL, guard(8, 0x5A)));
        // And the same, where nothing can be filled.
        assert_ok!(call::cap_mint(top.at(4), second.name, Rights::READ, guard(8, 0x5A)));
        second.put_endpoint(9);
        assert_ok!(call::set_root(None, top.name, guard(8, 0xC3)));
        let name = |slot: u64, index: u64| Capability(0xC3 << 24 | slot << 16 | 0x5A << 8 | index);
        kernel_assert_eq!(use_endpoint(name(3, 9)), Error::NoCaller);
        kernel_assert_eq!(use_endpoint(name(4, 9)), Error::NoCaller);
        for wrong in [name(3, 8), name(5, 9), Capability(name(3, 9).0 ^ 1 << 24), Capability(name(3, 9).0 ^ 1 << 8)] {
            kernel_assert_eq!(use_endpoint(wrong), Error::InvalidCapability);
        }
        assert_ok!(call::endpoint_create_at(name(3, 10).0));
        kernel_assert_eq!(use_endpoint(name(4, 10)), Error::NoCaller);
        // Not through the one without the right, by whichever call.
        assert_err!(call::endpoint_create_at(name(4, 11).0), Error::NoRight);
        assert_err!(call::cap_copy(name(4, 11), name(3, 9)), Error::NoRight);
        assert_err!(call::cap_move(name(4, 11), name(3, 9)), Error::NoRight);
        assert_err!(call::cap_move(name(3, 11), name(4, 9)), Error::NoRight);
        assert_err!(call::cap_delete(name(4, 9)), Error::NoRight);
        assert_ok!(call::cap_copy(name(3, 11), name(4, 9)));
        assert_ok!(call::cap_delete(name(3, 9)));
        kernel_assert_eq!(use_endpoint(name(4, 9)), Error::InvalidCapability);
        // The root has a guard of its own: nothing is made just anywhere.
        assert_err!(call::endpoint_create(), Error::NoSlot);
        assert_err!(call::cap_read(Place::within(name(3, 11), 0, 1)), Error::WrongObject);
    }
}

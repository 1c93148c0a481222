//! Every call on every kind of object, and with every right missing that it needs.

use crate::child::Agent;
use crate::support::{Table, use_endpoint};
use alloc::boxed::Box;
use alloc::vec::Vec;
use rt::abi::{Call, CapabilityInfo, Error, Kind, Power, Rights, guard};
use rt::call::{self, Capability, Message};
use rt::protocol::RESOURCE;
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, probe, test, thread};

/// Slots that these cases fill by their numbers.
const MINTED: Capability = Capability(60);
const SPARE: Capability = Capability(61);

/// One object of each kind, and what there is to change about them.
struct World {
    agent: Agent,
    node: Table,
    other: Table,
    endpoint: Capability,
    quota: Capability,
}

impl World {
    fn new() -> Self {
        let agent = Agent::new(Capability::NONE, Capability::NONE, Capability::NONE);
        let (node, other) = (Table::new(2), Table::new(2));
        node.put_endpoint(1);
        other.put_endpoint(1);
        let quota = assert_ok!(call::quota_create(Capability::OWN_QUOTA, 1 << 16, 16));
        Self { agent, node, other, endpoint: assert_ok!(call::endpoint_create()), quota }
    }

    fn objects(&self) -> [(Kind, Capability); 5] {
        [
            (Kind::Resource, RESOURCE),
            (Kind::Endpoint, self.endpoint),
            (Kind::Process, self.agent.process),
            (Kind::CNode, self.node.name),
            (Kind::Quota, self.quota),
        ]
    }

    /// All slots that are there to be changed.
    fn shows(&self) -> Vec<CapabilityInfo> {
        let own = (0..64).map(|name| assert_ok!(call::cap_read(Capability(name))));
        let tables = [self.node, self.other];
        let slots = tables.into_iter().flat_map(|table| (0..table.size()).map(move |index| table.read(index)));
        let agents = (0..4).map(|name| {
            let [kind, rights, badge, generation] = assert_ok!(self.agent.read(Capability(name)));
            CapabilityInfo { kind, rights, badge, generation, object: 0 }
        });
        own.chain(slots).chain(agents).collect()
    }

    fn calls(&self) -> Vec<Row> {
        let (other, endpoint, agent) = (self.other, self.endpoint, self.agent.process);
        let within = |name| Table { name, bits: 2 };
        let row = |what, kind, needs, may_go_on, run: Box<dyn Fn(Capability) -> Option<Error>>| Row {
            what,
            kind,
            needs,
            may_go_on,
            run,
        };
        use Kind::{CNode, Endpoint, Process, Quota, Resource};
        let (read, write) = (Rights::READ, Rights::WRITE);
        Vec::from([
            row(
                "Spawn",
                Resource,
                write,
                true,
                Box::new(|name| call::spawn(name, "nobody", 0, [Capability::NONE; 4]).err()),
            ),
            row("ConsoleRead", Resource, read, false, Box::new(|name| call::console_read(name, &mut [0; 8]).err())),
            row(
                "Power",
                Resource,
                Rights::MANAGE,
                true,
                Box::new(|name| {
                    Error::from_status(probe::raw_call(Call::Power as u64, [name.0, 99, 0, 0, 0, 0]).status)
                }),
            ),
            row("Power off", Resource, Rights::MANAGE, false, Box::new(|name| Some(call::power(name, Power::Off)))),
            row("Wait", Process, read, false, Box::new(|name| call::wait(name).err())),
            row(
                "SetRoot, process",
                Process,
                Rights::MANAGE,
                true,
                Box::new(move |name| call::set_root(Some(name), other.name, guard(33, 0)).err()),
            ),
            row(
                "SetRoot, root",
                CNode,
                Rights::NONE,
                true,
                Box::new(move |name| call::set_root(Some(agent), name, guard(33, 0)).err()),
            ),
            row(
                "Call",
                Endpoint,
                write.with(Rights::CALL),
                false,
                Box::new(|name| call::call(name, Message::empty(0)).err()),
            ),
            row("Receive", Endpoint, read, false, Box::new(|name| call::receive(name).err())),
            row("ReplyReceive", Endpoint, read, true, Box::new(|name| Some(use_endpoint(name)))),
            row(
                "CapCopy, to",
                CNode,
                write,
                true,
                Box::new(move |name| call::cap_copy(within(name).at(3), endpoint).err()),
            ),
            row(
                "CapCopy, from",
                CNode,
                read,
                true,
                Box::new(move |name| call::cap_copy(SPARE, within(name).at(1)).err()),
            ),
            row(
                "CapMove, to",
                CNode,
                write,
                true,
                Box::new(move |name| call::cap_move(within(name).at(2), other.at(1)).err()),
            ),
            row(
                "CapMove, from",
                CNode,
                write,
                true,
                Box::new(move |name| call::cap_move(other.at(1), within(name).at(2)).err()),
            ),
            // More than it has.
            row("QuotaCreate", Quota, write, true, Box::new(|name| call::quota_create(name, 1 << 17, 1).err())),
            row("EndpointCreate", Quota, write, false, Box::new(|name| call::endpoint_create_in(name).err())),
            row("CNodeCreate", Quota, write, true, Box::new(|name| call::cnode_create_in(name, 0).err())),
            row("NotificationCreate", Quota, write, false, Box::new(|name| call::notification_create_in(name).err())),
            row("SaveReply", Quota, write, true, Box::new(|name| call::save_reply_in(name).err())),
            row(
                "Spawn, quota",
                Quota,
                write,
                true,
                Box::new(|name| call::spawn_in(name, RESOURCE, "nobody", 0, [Capability::NONE; 4]).err()),
            ),
            row("QuotaRead", Quota, read, true, Box::new(|name| call::quota_read(name).err())),
            row("QuotaDestroy", Quota, Rights::MANAGE, false, Box::new(|name| call::quota_destroy_step(name).err())),
            row("CapDelete", CNode, write, true, Box::new(move |name| call::cap_delete(within(name).at(3)).err())),
            row("CapRevoke", CNode, read, true, Box::new(move |name| call::cap_revoke(within(name).at(1)).err())),
            row("CapRead", CNode, read, true, Box::new(move |name| call::cap_read(within(name).at(1)).err())),
        ])
    }
}

/// A call, with what it acts on by a capability of that kind with these rights.
struct Row {
    what: &'static str,
    kind: Kind,
    needs: Rights,
    /// It comes back, and the machine goes on, also where nothing is wrong.
    may_go_on: bool,
    run: Box<dyn Fn(Capability) -> Option<Error>>,
}

test! {
    fn every_call_refuses_every_other_kind() requires("CAP-18 SYS-09 CAP-03 CAP-07") {
        // CASE-CAP-026
        let world = World::new();
        let before = world.shows();
        let mut refused = 0;
        for Row { what, kind, run, .. } in world.calls() {
            for (other, name) in world.objects().into_iter().filter(|&(other, _)| other != kind) {
                kernel_assert_eq!(run(name), Some(Error::WrongObject), "{what} on {other:?}");
                kernel_assert!(world.shows() == before, "{what} on {other:?} changed something");
                refused += 1;
            }
            kernel_assert_eq!(run(MINTED), Some(Error::InvalidCapability), "{what} on nothing");
        }
        kernel_assert_eq!(refused, 4 * 25);
        kernel_assert!(world.shows() == before);
        world.agent.end();
    }
}

test! {
    fn every_call_wants_each_of_its_rights() requires("CAP-18 TST-20 CAP-14") {
        // CASE-CAP-027
        let world = World::new();
        let mut refused = 0;
        for Row { what, kind, needs, may_go_on, run } in world.calls() {
            let (_, name) = world.objects().into_iter().find(|&(other, _)| other == kind).expect("there is one of each");
            for right in (0..5).map(|bit| Rights(1 << bit)).filter(|&right| needs.have(right)) {
                assert_ok!(call::cap_mint(MINTED, name, Rights(Rights::ALL.0 & !right.0), 0));
                let before = world.shows();
                kernel_assert_eq!(run(MINTED), Some(Error::NoRight), "{what} without {right:?}");
                kernel_assert!(world.shows() == before, "{what} without {right:?} changed something");
                assert_ok!(call::cap_delete(MINTED));
                refused += 1;
            }
            // And no others.
            if may_go_on {
                assert_ok!(call::cap_mint(MINTED, name, needs, 0));
                let error = run(MINTED);
                kernel_assert!(error != Some(Error::NoRight) && error != Some(Error::InvalidCapability), "{what}: {error:?}");
                assert_ok!(call::cap_delete(MINTED));
                _ = call::cap_delete(SPARE);
            }
        }
        kernel_assert_eq!(refused, 25);
        world.agent.end();
    }
}

test! {
    fn messages_need_no_more_rights_than_they_say() requires("CAP-03 CAP-18") {
        // CASE-CAP-027, of the calls that wait.
        let endpoint = assert_ok!(call::endpoint_create());
        let (caller, receiver, waiter) = (Capability(50), Capability(51), Capability(52));
        assert_ok!(call::cap_mint(caller, endpoint, Rights::WRITE.with(Rights::CALL), 0));
        assert_ok!(call::cap_mint(receiver, endpoint, Rights::READ, 0));
        let server = assert_ok!(thread::spawn(move || {
            let request = assert_ok!(call::receive(receiver));
            // One more, which is answered by the end of the thread.
            assert_ok!(call::reply_receive(receiver, Message::empty(request.info.label() + 1)))
        }));
        kernel_assert_eq!(assert_ok!(call::call(caller, Message::empty(4))).info.label(), 5);
        assert_err!(call::call(caller, Message::empty(4)), Error::PartnerGone);
        assert_ok!(server.join());
        // The end of a process.
        let agent = Agent::new(Capability::NONE, Capability::NONE, Capability::NONE);
        assert_ok!(call::cap_mint(waiter, agent.process, Rights::READ, 0));
        agent.end();
        assert_ok!(call::wait(waiter));
    }
}

test! {
    fn revoke_needs_the_right_in_the_capability() requires("CAP-19 CAP-18") {
        // CASE-CAP-012, CASE-CAP-027
        let table = Table::new(2);
        table.put_endpoint(0);
        for rights in (0..=Rights::ALL.0).map(Rights) {
            assert_ok!(call::cap_mint(table.at(1), table.at(0), rights, 0));
            assert_ok!(call::cap_copy(table.at(2), table.at(1)));
            let may = rights.have(Rights::MANAGE);
            kernel_assert_eq!(call::cap_revoke(table.at(1)), if may { Ok(()) } else { Err(Error::NoRight) });
            kernel_assert_eq!(table.holds(2), !may);
            assert_ok!(call::cap_revoke(table.at(0)));
        }
    }
}

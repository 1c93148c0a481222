//! Revocation: all that came from a capability, everywhere, and nothing else.

use crate::child::{self, Agent};
use crate::support::{Table, cpus, facts, marked, use_endpoint, wait_until};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use rt::abi::{Call, Error, Kind, MessageInfo, Rights, ThreadAction, copy_how};
use rt::call::{self, Buffer, Capability, Exit, Message, Place, Until};
use rt::{assert_err, assert_ok, kernel_assert, kernel_assert_eq, println, test, thread};

/// Most capabilities that one call takes away before it lets interrupts in; `docs/abi.md` has it.
const STEPS: u64 = 16;

test! {
    fn revoke_reaches_every_process() requires("CAP-12 CAP-24") {
        // CASE-CAP-009
        let original = assert_ok!(call::endpoint_create());
        let bystander = assert_ok!(call::endpoint_create());
        let agents = [(); 2].map(|()| Agent::new(original, bystander, Capability::NONE));
        let endpoint = Kind::Endpoint as u64;
        for agent in &agents {
            // Derived there, and derived from that, and moved.
            for (to, from) in [(10, 0), (11, 10), (12, 11)] {
                assert_ok!(agent.call(Call::CapCopy, [to, 0, from, 0, copy_how(Rights::ALL, 0, 0), 0]));
            }
            assert_ok!(agent.call(Call::CapMove, [13, 0, 11, 0, 0, 0]));
            for name in [0, 10, 12, 13] {
                kernel_assert_eq!(assert_ok!(agent.read(Capability(name)))[..2], [endpoint, Rights::ALL.0]);
            }
        }
        let here = Capability(50);
        assert_ok!(call::cap_copy(here, original));
        assert_ok!(call::cap_revoke(original));
        kernel_assert_eq!(use_endpoint(here), Error::InvalidCapability);
        for agent in &agents {
            for name in [0, 10, 11, 12, 13] {
                kernel_assert_eq!(assert_ok!(agent.read(Capability(name)))[0], 0);
                assert_err!(agent.receive(Capability(name)), Error::InvalidCapability);
            }
            kernel_assert_eq!(assert_ok!(agent.read(Capability(2)))[0], endpoint);
        }
        // What was revoked from is as good as before.
        kernel_assert_eq!(use_endpoint(original), Error::NoCaller);
        assert_ok!(call::cap_copy(here, original));
        kernel_assert_eq!(use_endpoint(here), Error::NoCaller);
        agents.into_iter().for_each(Agent::end);
    }
}

test! {
    fn an_agent_cannot_take_from_its_parent() requires("CAP-12 CAP-19") {
        // CASE-CAP-009, CASE-CAP-012, seen from the other side.
        let original = assert_ok!(call::endpoint_create());
        let agents = [(); 2].map(|()| Agent::new(original, Capability::NONE, Capability::NONE));
        assert_ok!(agents[0].call(Call::CapRevoke, [0; 6]));
        assert_ok!(agents[0].call(Call::CapDelete, [0; 6]));
        kernel_assert_eq!(assert_ok!(agents[0].read(Capability(0)))[0], 0);
        kernel_assert_eq!(assert_ok!(agents[1].read(Capability(0)))[0], Kind::Endpoint as u64);
        kernel_assert_eq!(use_endpoint(original), Error::NoCaller);
        agents.into_iter().for_each(Agent::end);
    }
}

test! {
    fn revoke_stays_within_its_branch() requires("CAP-12") {
        // CASE-CAP-011: a binary tree, of which each branch goes in turn.
        const SIZE: u64 = 31;
        let is_below = |mut index: u64, top: u64| {
            while index > top {
                index = (index - 1) / 2;
            }
            index == top
        };
        for top in 0..SIZE {
            let table = Table::new(5);
            table.put_endpoint(0);
            for index in 1..SIZE {
                assert_ok!(call::cap_copy(table.at(index), table.at((index - 1) / 2)));
            }
            assert_ok!(call::cap_revoke(table.at(top)));
            let left: Vec<_> = (0..SIZE).filter(|&index| index == top || !is_below(index, top)).collect();
            kernel_assert_eq!(table.filled(), left, "revoked: {top}");
            assert_ok!(call::close(table.name));
        }
    }
}

test! {
    fn a_child_revokes_nothing_above_it() requires("CAP-19") {
        // CASE-CAP-012
        let table = Table::new(3);
        table.put_endpoint(0);
        assert_ok!(call::cap_copy(table.at(1), table.at(0)));
        assert_ok!(call::cap_copy(table.at(2), table.at(0)));
        assert_ok!(call::cap_revoke(table.at(1)));
        kernel_assert_eq!(table.filled(), [0, 1, 2]);
        let unmanaged = Rights(Rights::ALL.0 & !Rights::MANAGE.0);
        assert_ok!(call::cap_mint(table.at(3), table.at(1), unmanaged, 0));
        assert_ok!(call::cap_copy(table.at(4), table.at(3)));
        assert_err!(call::cap_revoke(table.at(3)), Error::NoRight);
        kernel_assert_eq!(table.filled(), [0, 1, 2, 3, 4]);
        assert_ok!(call::cap_revoke(table.at(1)));
        kernel_assert_eq!(table.filled(), [0, 1, 2]);
    }
}

/// CNodes of CNodes, with so many slots in all.
struct Wide(Vec<Table>);

impl Wide {
    const BITS: u32 = 8;

    fn new(slots: u64) -> Self {
        let mut tops = Vec::new();
        for index in 0..slots.div_ceil(1 << Self::BITS) {
            let below = index % (1 << Self::BITS);
            if below == 0 {
                tops.push(Table::new(Self::BITS));
            }
            let top = tops[tops.len() - 1];
            assert_ok!(call::cap_move(top.at(below), Table::new(Self::BITS).name));
        }
        Self(tops)
    }

    fn at(&self, index: u64) -> Place {
        let bits = 2 * Self::BITS;
        Place::within(self.0[(index >> bits) as usize].name, index, bits)
    }

    fn holds(&self, index: u64) -> bool {
        assert_ok!(call::cap_read(self.at(index))).kind != 0
    }
}

fn revoke_counting(slot: Place) -> u64 {
    let mut calls = 1;
    while assert_ok!(call::cap_revoke_step(slot)) != 0 {
        calls += 1;
    }
    calls
}

test! {
    fn a_chain_ten_thousand_deep_is_revoked() requires("CAP-12 HRD-01") {
        // CASE-CAP-013
        const DEPTH: u64 = 10_000;
        let wide = Wide::new(DEPTH);
        assert_ok!(call::cap_move(wide.at(0), assert_ok!(call::endpoint_create())));
        for index in 1..DEPTH {
            assert_ok!(call::cap_copy(wide.at(index), wide.at(index - 1)));
        }
        let calls = revoke_counting(wide.at(0));
        println!("a chain of {DEPTH}: revoked in {calls} calls");
        kernel_assert!(wide.holds(0) && (1..DEPTH).all(|index| !wide.holds(index)));
        kernel_assert!(calls >= DEPTH / STEPS, "{calls} calls");
    }
}

test! {
    fn many_copies_are_revoked_in_bounded_steps() requires("CAP-12 INT-13") {
        // CASE-CAP-014, without priorities: no call takes away more than so many, and none of them is lost between
        // two calls.
        const COPIES: u64 = 100_000;
        let wide = Wide::new(COPIES + 1);
        assert_ok!(call::cap_move(wide.at(0), assert_ok!(call::endpoint_create())));
        for index in 1..=COPIES {
            assert_ok!(call::cap_copy(wide.at(index), wide.at(0)));
        }
        kernel_assert_eq!(assert_ok!(call::cap_revoke_step(wide.at(0))), 1);
        let left = (1..=COPIES).filter(|&index| wide.holds(index)).count() as u64;
        kernel_assert!((COPIES - STEPS..COPIES).contains(&left), "{left} left after one call");
        let calls = revoke_counting(wide.at(0)) + 1;
        println!("{COPIES} copies: revoked in {calls} calls");
        kernel_assert!(calls >= COPIES / STEPS, "{calls} calls");
        kernel_assert!(wide.holds(0) && (1..=COPIES).all(|index| !wide.holds(index)));
    }
}

test! {
    fn a_copy_does_not_outlive_a_revoke() requires("TST-23 CAP-12") needs("smp>=2") {
        // CASE-CAP-016
        const ROUNDS: u64 = 60;
        let table = Table::new(6);
        table.put_endpoint(0);
        let over = Arc::new(AtomicBool::new(false));
        let made = Arc::new(AtomicU64::new(0));
        let copiers: Vec<_> = (1..cpus().min(4))
            .map(|cpu| {
                let (over, made) = (over.clone(), made.clone());
                assert_ok!(thread::spawn_on(cpu, move || {
                    for index in (2..table.size()).cycle() {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        let from = if index % 2 == 0 { 1 } else { index - 1 };
                        match call::cap_mint(table.at(index), table.at(from), Rights::ALL, index) {
                            Ok(_) => _ = made.fetch_add(1, Ordering::Relaxed),
                            Err(Error::InvalidArgument | Error::InvalidCapability | Error::Occupied) => {}
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                }))
            })
            .collect();
        for _ in 0..ROUNDS {
            let before = made.load(Ordering::Relaxed);
            assert_ok!(call::cap_copy(table.at(1), table.at(0)));
            wait_until("a copy on another CPU", || made.load(Ordering::Relaxed) > before + 2);
            assert_ok!(call::cap_revoke(table.at(0)));
            kernel_assert_eq!(table.filled(), [0]);
        }
        over.store(true, Ordering::Relaxed);
        for copier in copiers {
            assert_ok!(copier.join());
        }
        kernel_assert_eq!(table.filled(), [0]);
    }
}

test! {
    fn who_revokes_may_end_half_way() requires("CAP-12 TST-23") {
        // CASE-CAP-017
        let mut half_way = 0;
        for (turns, away) in [(0, 0), (1, 0), (7, 0), (20, 0), (0, 1), (2, 1), (5, 1)] {
            let original = marked(7);
            let tables = [(); 2].map(|()| Table::new(child::REVOKER_BITS));
            let process = child::start(
                child::REVOKER | away << 16 | turns,
                [original, Capability::NONE, tables[0].name, tables[1].name],
            );
            let exit = assert_ok!(call::wait(process));
            kernel_assert!(
                [child::ENDED, child::REVOKED_ALL].iter().any(|&status| exit == Exit::Status(status)),
                "{exit:?}"
            );
            let left = || tables.iter().map(|table| table.filled().len()).sum::<usize>();
            half_way += u64::from((1..2 << child::REVOKER_BITS).contains(&left()));
            // What is left works, may be derived from, and somebody else finishes.
            for table in tables {
                if let Some(&index) = table.filled().last() {
                    kernel_assert_eq!(table.mark(index), Ok(7));
                    if !table.holds(0) {
                        assert_ok!(call::cap_copy(table.at(0), table.at(index)));
                    }
                }
            }
            assert_ok!(call::cap_revoke(original));
            kernel_assert_eq!(left(), 0);
            kernel_assert_eq!(call::cap_read(Place::within(original, 0, 1)).map(|info| info.badge), Ok(7));
            for name in [original, process, tables[0].name, tables[1].name] {
                assert_ok!(call::close(name));
            }
        }
        kernel_assert!(half_way > 0, "no revoke ended half way");
    }
}

test! {
    fn revoke_follows_moves_and_copies() requires("CAP-12") {
        // CASE-CAP-018
        let (table, other) = (Table::new(3), Table::new(3));
        table.put_endpoint(0);
        assert_ok!(call::cap_copy(table.at(1), table.at(0)));
        assert_ok!(call::cap_move(other.at(1), table.at(1)));
        assert_ok!(call::cap_copy(other.at(2), other.at(1)));
        assert_ok!(call::cap_move(table.at(3), other.at(2)));
        assert_ok!(call::cap_copy(other.at(4), table.at(3)));
        // The original ancestor moves too.
        assert_ok!(call::cap_move(other.at(7), table.at(0)));
        assert_ok!(call::cap_revoke(other.at(7)));
        kernel_assert_eq!((table.filled(), other.filled()), (Vec::new(), Vec::from([7])));
    }
}

test! {
    fn children_of_the_deleted_are_revoked_from_above() requires("CAP-12 CAP-13") {
        // CASE-CAP-019
        for gone in 1..5 {
            let table = Table::new(3);
            table.put_marked(0, 7);
            for index in 1..6 {
                assert_ok!(call::cap_copy(table.at(index), table.at(index - 1)));
            }
            assert_ok!(call::cap_copy(table.at(6), table.at(gone)));
            let before = table.read(5);
            assert_ok!(call::cap_delete(table.at(gone)));
            kernel_assert_eq!((table.read(5), table.mark(5), table.mark(6)), (before, Ok(7), Ok(7)));
            assert_ok!(call::cap_revoke(table.at(gone - 1)));
            kernel_assert_eq!(table.filled(), (0..gone).collect::<Vec<_>>());
            assert_ok!(call::close(table.name));
        }
    }
}

test! {
    fn originals_deleted_leave_their_children_apart() requires("CAP-12 CAP-13") {
        // CASE-CAP-019, at the top: nobody is above the children then, and they are nobody's.
        let table = Table::new(3);
        table.put_marked(0, 7);
        for (to, from) in [(1, 0), (2, 0), (3, 1), (4, 2)] {
            assert_ok!(call::cap_copy(table.at(to), table.at(from)));
        }
        assert_ok!(call::cap_delete(table.at(0)));
        assert_ok!(call::cap_revoke(table.at(1)));
        kernel_assert_eq!(table.filled(), [1, 2, 4]);
        assert_ok!(call::cap_revoke(table.at(2)));
        kernel_assert_eq!((table.filled(), table.mark(1), table.mark(2)), (Vec::from([1, 2]), Ok(7), Ok(7)));
    }
}

test! {
    fn no_cpu_uses_what_was_revoked() requires("CAP-22 CAP-12") {
        // CASE-CAP-034
        const PHASES: u64 = 200;
        // Phases in turn: there, being revoked, gone, being copied. What is seen counts where the phase stayed the same.
        const THERE: u64 = 0;
        const GONE: u64 = 2;
        let table = Table::new(3);
        table.put_marked(0, 7);
        assert_ok!(call::cap_copy(table.at(1), table.at(0)));
        let used: Arc<Vec<AtomicU64>> = Arc::new((0..cpus()).map(|_| AtomicU64::new(u64::MAX)).collect());
        let phase = Arc::new(AtomicU64::new(0));
        let users: Vec<_> = (0..cpus())
            .map(|cpu| {
                let (used, phase) = (used.clone(), phase.clone());
                assert_ok!(thread::spawn_on(cpu, move || {
                    loop {
                        let now = phase.load(Ordering::SeqCst);
                        if now >= PHASES {
                            break;
                        }
                        let mark = table.mark(1);
                        kernel_assert!([Ok(7), Err(Error::DepthTooLong)].contains(&mark), "CPU {cpu}: {mark:?}");
                        if phase.load(Ordering::SeqCst) == now {
                            match now % 4 {
                                THERE => kernel_assert_eq!(mark, Ok(7), "CPU {cpu}, phase {now}"),
                                GONE => kernel_assert_eq!(mark, Err(Error::DepthTooLong), "CPU {cpu}, phase {now}"),
                                _ => {}
                            }
                            used[cpu as usize].store(now, Ordering::SeqCst);
                        }
                        call::yield_now();
                    }
                }))
            })
            .collect();
        for now in 0..PHASES {
            match now % 4 {
                1 => assert_ok!(call::cap_revoke(table.at(0))),
                3 => _ = assert_ok!(call::cap_copy(table.at(1), table.at(0))),
                _ => wait_until("use on every CPU", || used.iter().all(|last| last.load(Ordering::SeqCst) == now)),
            }
            phase.store(now + 1, Ordering::SeqCst);
        }
        for user in users {
            assert_ok!(user.join());
        }
        kernel_assert_eq!(facts(&table.read(0)).0, Kind::CNode as u64);
    }
}

test! {
    fn who_waits_by_what_is_taken_away_hears_of_it() requires("CAP-12 CAP-13 IPS-01") {
        // CASE-CAP-009, CASE-CAP-024: the endpoint stays, and so do those who wait there by another capability.
        type TakeAway = fn(Capability) -> Result<(), Error>;
        let ways: [(Capability, TakeAway); 3] = [
            (Capability(40), |_| call::cap_revoke(Capability(39))),
            (Capability(40), call::cap_delete),
            (Capability(40), |name| call::cap_move(Capability(42), name).map(drop)),
        ];
        for (name, take_away) in ways {
            for calls in [false, true] {
                let original = assert_ok!(call::endpoint_create_at(38));
                for (to, from) in [(Capability(39), original), (name, Capability(39))] {
                    assert_ok!(call::cap_copy(to, from));
                }
                let wait = move |by| match calls {
                    true => call::call(by, Message::empty(1)),
                    false => call::receive(by),
                };
                let told = assert_ok!(thread::spawn_on(0, move || wait(name)));
                let kept = assert_ok!(thread::spawn_on(0, move || wait(original)));
                // Behind both on their CPU: they wait by the time that it has run.
                let behind = assert_ok!(thread::spawn_on(0, || (0..4).for_each(|_| call::yield_now())));
                assert_ok!(behind.join());
                assert_ok!(take_away(name));
                kernel_assert_eq!(assert_ok!(told.join()), Err(Error::PartnerGone));
                // The other is still there for a partner.
                if calls {
                    let server = assert_ok!(thread::spawn(move || {
                        assert_ok!(call::receive(original));
                        call::reply_receive(original, Message::empty(2))
                    }));
                    kernel_assert_eq!(assert_ok!(kept.join()).map(|answer| answer.info.label()), Ok(2));
                    assert_ok!(call::cap_revoke(original));
                    assert_ok!(call::cap_delete(original));
                    let gone = [Err(Error::PartnerGone), Err(Error::InvalidCapability)];
                    kernel_assert!(gone.contains(&assert_ok!(server.join())));
                } else {
                    assert_err!(call::call(original, Message::empty(3)), Error::PartnerGone);
                    kernel_assert_eq!(assert_ok!(kept.join()).map(|message| message.info.label()), Ok(3));
                    assert_ok!(call::cap_revoke(original));
                    assert_ok!(call::cap_delete(original));
                }
                for left in [39, 42] {
                    _ = call::cap_delete(Capability(left));
                }
            }
        }
    }
}

/// Sends a capability over and over, in messages of that label, until that cannot be named any more.
fn lend(to: Capability, label: u64, lent: Capability, page: &'static Buffer) -> Error {
    assert_ok!(call::buffer_set(Some(page)));
    page.give(0, lent);
    let message = Message { info: MessageInfo::new(label, 0).with_capabilities(1), ..Message::empty(0) };
    loop {
        let sent = match label {
            child::SENT => call::send(to, message, Until::Done),
            _ => call::call(to, message).map(drop),
        };
        if let Err(error) = sent {
            return error;
        }
    }
}

test! {
    fn what_is_under_way_does_not_outlive_its_ancestor() requires("CAP-24 TST-23") {
        // CASE-CAP-029: two send to another process, one with calls, while it is taken back.
        static PAGES: [Buffer; 2] = [const { Buffer::new() }; 2];
        let control = assert_ok!(call::endpoint_create());
        let none = Capability::NONE;
        let taker = child::start(child::TAKER, [none, control, none, none]);
        let count = || assert_ok!(call::call(control, Message::empty(child::COUNT))).words[0];
        for round in 0..40 {
            let original = assert_ok!(call::endpoint_create());
            let (parent, lent) = (Capability(40), Capability(41));
            assert_ok!(call::cap_copy(parent, original));
            assert_ok!(call::cap_copy(lent, parent));
            let lenders = [(0, child::SENT), (1, child::CALLED)].map(|(number, label)| {
                let page = &PAGES[number as usize];
                assert_ok!(thread::spawn_on(number % cpus(), move || lend(control, label, lent, page)))
            });
            wait_until("a capability to arrive", || count() > 0);
            rt::testing::spin(1 + round * 3_001);
            assert_ok!(call::cap_revoke(original));
            kernel_assert_eq!(count(), 0, "round {round}");
            for lender in lenders {
                kernel_assert_eq!(assert_ok!(lender.join()), Error::InvalidCapability);
            }
            kernel_assert_eq!(count(), 0, "round {round}");
            assert_ok!(call::close(original));
        }
        assert_ok!(call::cap_revoke(control));
        kernel_assert_eq!(assert_ok!(call::wait(taker)), Exit::Status(child::DONE));
    }
}

test! {
    fn a_thread_that_was_lent_is_its_owners_alone_again() requires("CAP-12 CAP-06") {
        // CASE-CAP-031, of threads: another process uses it while it is taken back.
        let (seen, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counts, end) = (seen.clone(), ends.clone());
        let (thread, own) = assert_ok!(thread::spawn_suspended(Some(cpus() - 1), move || {
            while !end.load(Ordering::SeqCst) {
                counts.fetch_add(1, Ordering::SeqCst);
                call::yield_now();
            }
        }));
        let lent = Capability(45);
        assert_ok!(call::cap_copy(lent, own));
        // It has what it is lent in its slot 0.
        let agent = Agent::new(lent, Capability::NONE, Capability::NONE);
        let uses = Arc::new(AtomicU64::new(0));
        let used = uses.clone();
        let user = assert_ok!(thread::spawn(move || {
            for turn in 0.. {
                let (action, value) = match turn % 3 {
                    0 => (ThreadAction::Suspend, 0),
                    1 => (ThreadAction::Priority, 100),
                    _ => (ThreadAction::Resume, 0),
                };
                if let Err(error) = agent.call(Call::ThreadControl, [0, action as u64, value, 0, 0, 0]) {
                    kernel_assert_eq!(error, Error::InvalidCapability);
                    break;
                }
                used.fetch_add(1, Ordering::SeqCst);
            }
            agent
        }));
        wait_until("it to be used", || uses.load(Ordering::SeqCst) > 20);
        assert_ok!(call::cap_revoke(own));
        // Whatever the other left it as: from now on this is what counts.
        let control = |action, value| assert_ok!(call::thread_control(own, action, value));
        control(ThreadAction::Priority, 90);
        wait_until("it to stop", || control(ThreadAction::Suspend, 0) == 6);
        let registers = assert_ok!(call::thread_read(own));
        let count = seen.load(Ordering::SeqCst);
        let agent = assert_ok!(user.join());
        for action in [ThreadAction::Resume, ThreadAction::Priority, ThreadAction::Kill] {
            let refused = agent.call(Call::ThreadControl, [0, action as u64, 1, 0, 0, 0]);
            assert_err!(refused, Error::InvalidCapability);
        }
        kernel_assert_eq!(assert_ok!(agent.read(Capability(0)))[0], 0);
        kernel_assert_eq!(assert_ok!(call::thread_read(own)), registers);
        kernel_assert_eq!((seen.load(Ordering::SeqCst), control(ThreadAction::Priority, 128)), (count, 90));
        control(ThreadAction::Resume, 0);
        wait_until("it to go on", || seen.load(Ordering::SeqCst) > count);
        ends.store(true, Ordering::SeqCst);
        assert_ok!(thread.join());
        agent.end();
    }
}

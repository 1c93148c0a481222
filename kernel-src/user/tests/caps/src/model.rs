//! Operations by chance, and a model that says what each has to do.

use crate::support::{Table, cpus, facts, free_memory};
use alloc::vec::Vec;
use rt::abi::{Error, Kind, Rights};
use rt::call::{self, Place};
use rt::random::Random;
use rt::{assert_ok, kernel_assert_eq, test, thread};

/// A capability, as it has to be.
#[derive(Clone)]
struct Held {
    rights: u64,
    badge: u64,
    /// The model's number of the slot that it came from; None where that is not one of the model's.
    parent: Option<usize>,
    /// Came, in the end, from a capability that is not one of the model's.
    is_lent: bool,
}

/// A row of slots of a table, and what has to be in them.
struct Model {
    table: Table,
    first: u64,
    slots: Vec<Option<Held>>,
    generations: Vec<u64>,
    random: Random,
    /// Operations that were carried out, and that were refused.
    done: [u64; 2],
}

impl Model {
    fn new(table: Table, first: u64, count: usize, seed: u64) -> Self {
        let slots = (0..count).map(|_| None).collect();
        let generations = (0..count as u64).map(|index| table.read(first + index).generation).collect();
        Self { table, first, slots, generations, random: Random::new(seed), done: [0; 2] }
    }

    fn place(&self, slot: usize) -> Place {
        self.table.at(self.first + slot as u64)
    }

    fn any(&mut self) -> usize {
        self.random.below(self.slots.len() as u64) as usize
    }

    /// Most of the time one that is full.
    fn any_full(&mut self) -> usize {
        let mut slot = self.any();
        for _ in 0..3 {
            if self.slots[slot].is_none() {
                slot = self.any();
            }
        }
        slot
    }

    fn fill(&mut self, slot: usize, held: Held) {
        self.slots[slot] = Some(held);
    }

    /// What is empty now will be filled with the generation after the next.
    fn empty(&mut self, slot: usize) -> Option<Held> {
        let held = self.slots[slot].take();
        if held.is_some() {
            self.generations[slot] += 2;
        }
        held
    }

    fn pass_children(&mut self, from: usize, to: Option<usize>) {
        for held in self.slots.iter_mut().flatten().filter(|held| held.parent == Some(from)) {
            held.parent = to;
        }
    }

    fn comes_from(&self, slot: usize, ancestor: usize) -> bool {
        let mut at = slot;
        while let Some(parent) = self.slots[at].as_ref().and_then(|held| held.parent) {
            if parent == ancestor {
                return true;
            }
            at = parent;
        }
        false
    }

    /// What this process lent, through whichever, is gone.
    fn lent_is_revoked(&mut self) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].as_ref().is_some_and(|held| held.is_lent) {
                self.empty(slot);
            }
        }
    }

    fn check(&self, slot: usize) {
        let info = self.table.read(self.first + slot as u64);
        let expected = match &self.slots[slot] {
            Some(held) => (Kind::Endpoint as u64, held.rights, held.badge),
            None => (0, 0, 0),
        };
        kernel_assert_eq!((facts(&info), info.generation), (expected, self.generations[slot]), "slot {slot}");
    }

    fn check_all(&self) {
        (0..self.slots.len()).for_each(|slot| self.check(slot));
    }

    fn expect<T: core::fmt::Debug + PartialEq>(&mut self, found: Result<T, Error>, expected: Result<T, Error>) -> bool {
        self.done[usize::from(expected.is_err())] += 1;
        kernel_assert_eq!(found, expected);
        expected.is_ok()
    }

    /// A lent capability, from one that is not in the model.
    fn lend(&mut self, slot: usize, from: Place, badge: u64) {
        assert_ok!(call::cap_mint(self.place(slot), from, Rights::ALL, badge));
        self.fill(slot, Held { rights: Rights::ALL.0, badge, parent: None, is_lent: true });
    }

    fn step(&mut self) {
        let (from, to) = (self.any_full(), self.any());
        match self.random.below(16) {
            0 => self.create(to),
            1..=7 => self.mint(from, to),
            8..=10 => self.relocate(from, to),
            11..=13 => self.delete(from),
            14 => self.stale(from),
            _ => self.revoke(from),
        }
    }

    fn create(&mut self, to: usize) {
        let endpoint = assert_ok!(call::endpoint_create());
        let expected = if self.slots[to].is_some() { Err(Error::Occupied) } else { Ok(self.generations[to]) };
        let found = call::cap_move(self.place(to), endpoint);
        if self.expect(found, expected) {
            self.fill(to, Held { rights: Rights::ALL.0, badge: 0, parent: None, is_lent: false });
        } else {
            assert_ok!(call::close(endpoint));
        }
    }

    fn mint(&mut self, from: usize, to: usize) {
        let rights = self.random.word() | self.random.word() | self.random.word();
        let rights = Rights(rights & Rights::ALL.0);
        let badge = if self.random.below(8) == 0 { 1 + self.random.below(u64::MAX) } else { 0 };
        let expected = match &self.slots[from] {
            None => Err(Error::InvalidCapability),
            Some(held) if held.badge != 0 && badge != 0 => Err(Error::InvalidArgument),
            Some(_) if self.slots[to].is_some() => Err(Error::Occupied),
            Some(_) => Ok(self.generations[to]),
        };
        let found = call::cap_mint(self.place(to), self.place(from), rights, badge);
        if self.expect(found, expected) {
            let source = self.slots[from].clone().expect("it was there");
            let child =
                Held { rights: source.rights & rights.0, badge: source.badge | badge, parent: Some(from), ..source };
            self.fill(to, child);
        }
        self.check(to);
    }

    fn relocate(&mut self, from: usize, to: usize) {
        let expected = match &self.slots[from] {
            None => Err(Error::InvalidCapability),
            Some(_) if self.slots[to].is_some() => Err(Error::Occupied),
            Some(_) => Ok(self.generations[to]),
        };
        let found = call::cap_move(self.place(to), self.place(from));
        if self.expect(found, expected) {
            let held = self.empty(from).expect("it was there");
            self.fill(to, held);
            self.pass_children(from, Some(to));
        }
        self.check(from);
        self.check(to);
    }

    fn delete(&mut self, slot: usize) {
        let expected = if self.slots[slot].is_some() { Ok(()) } else { Err(Error::InvalidCapability) };
        let found = call::cap_delete(self.place(slot));
        if self.expect(found, expected) {
            let parent = self.empty(slot).and_then(|held| held.parent);
            self.pass_children(slot, parent);
        }
        self.check(slot);
    }

    /// The filling before this one, or the next.
    fn stale(&mut self, slot: usize) {
        let generation = self.generations[slot];
        let other = if self.random.below(2) == 0 { generation + 2 } else { generation.wrapping_sub(2) };
        if other < u64::from(u32::MAX) && other != 0 {
            let found = call::cap_delete(self.place(slot).at_generation(other));
            self.expect(found, Err(Error::InvalidCapability));
        }
        self.check(slot);
    }

    fn revoke(&mut self, slot: usize) {
        let expected = match &self.slots[slot] {
            None => Err(Error::InvalidCapability),
            Some(held) if held.rights & Rights::MANAGE.0 == 0 => Err(Error::NoRight),
            Some(_) => Ok(()),
        };
        let found = call::cap_revoke(self.place(slot));
        if self.expect(found, expected) {
            let gone: Vec<_> = (0..self.slots.len()).filter(|&other| self.comes_from(other, slot)).collect();
            for other in gone {
                self.empty(other);
                self.check(other);
            }
        }
        self.check(slot);
    }
}

test! {
    fn random_operations_agree_with_the_model() requires("TST-24 CAP-12 CAP-10 CAP-11 CAP-13") {
        // CASE-CAP-032, on one CPU; a million operations are these many in each of the boards' runs.
        const STEPS: u64 = 30_000;
        let table = Table::new(5);
        let mut model = Model::new(table, 0, 32, 32);
        for step in 0..STEPS {
            model.step();
            if step % 64 == 0 {
                model.check_all();
            }
        }
        model.check_all();
        let [carried_out, refused] = model.done;
        rt::println!("{carried_out} operations, and {refused} refused");
        rt::kernel_assert!(carried_out > STEPS / 4 && refused > STEPS / 16);
        assert_ok!(call::close(table.name));
        free_memory();
    }
}

test! {
    fn random_operations_agree_on_all_cpus() requires("TST-24 CAP-12 TST-23") {
        // CASE-CAP-032, on several CPUs: each has slots and a model of its own, all derive from one capability, and
        // between two rounds all or some of it is revoked.
        const ROUNDS: u64 = 8;
        const STEPS: u64 = 700;
        const OWN: usize = 16;
        let count = cpus().min(4);
        let table = Table::new(7);
        table.put_endpoint(0);
        // The last two slots lend to odd and even CPUs.
        let lenders = [126, 127];
        let mut models: Vec<_> = (0..count)
            .map(|cpu| Model::new(table, 1 + cpu * OWN as u64, OWN, 1000 + cpu))
            .collect();
        for round in 0..ROUNDS {
            for &lender in &lenders {
                if !table.holds(lender) {
                    assert_ok!(call::cap_copy(table.at(lender), table.at(0)));
                }
            }
            for (cpu, model) in models.iter_mut().enumerate() {
                if let Some(slot) = model.slots.iter().position(Option::is_none) {
                    model.lend(slot, table.at(lenders[cpu % 2]), round * 100 + cpu as u64 + 1);
                }
            }
            let workers: Vec<_> = models
                .into_iter()
                .enumerate()
                .map(|(cpu, mut model)| {
                    assert_ok!(thread::spawn_on(cpu as u64, move || {
                        (0..STEPS).for_each(|_| model.step());
                        model
                    }))
                })
                .collect();
            models = workers.into_iter().map(|worker| assert_ok!(worker.join())).collect();
            models.iter().for_each(Model::check_all);
            let revoked = match round % 3 {
                0 => [true, true],
                1 => [true, false],
                _ => [false, true],
            };
            if revoked == [true, true] {
                assert_ok!(call::cap_revoke(table.at(0)));
            } else {
                let lender = lenders[usize::from(revoked[1])];
                assert_ok!(call::cap_revoke(table.at(lender)));
            }
            for (cpu, model) in models.iter_mut().enumerate() {
                if revoked[cpu % 2] {
                    model.lent_is_revoked();
                }
                model.check_all();
            }
        }
        assert_ok!(call::close(table.name));
    }
}

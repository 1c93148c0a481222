//! The protocol of `docs/concurrency.md` under loom: every order of the
//! steps of four CPUs, with the reorderings that the memory model allows.
//!
//! Slots and derivation are the kernel's own code. Modelled are the object's
//! lock and quiescence before memory is used again. A `Cell` stands for the
//! memory of an object, so that loom itself finds a read that runs beside the
//! write of its next owner.
//!
//! Proves: CAP-12, TST-23, TST-30

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

const CPUS: usize = 4;
const SLOTS: usize = 3;
/// The number of a slot's first filling.
const FIRST: u64 = 1;

#[path = "../src/sync/slot.rs"]
#[expect(dead_code, reason = "the model uses a part of it")]
mod slot;

/// What the slots are made of here.
mod atomics {
    pub use loom::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
}

use slot::{Content, Derivation, Found, Slot, Step};

struct Object {
    tree: Mutex<Derivation>,
    memory: UnsafeCell<usize>,
}

struct Machine {
    /// They do not move, since links name them.
    slots: Box<[Slot; SLOTS]>,
    objects: [Object; 2],
    /// How often each CPU has left the kernel.
    left: [AtomicUsize; CPUS],
}

impl Machine {
    /// Slot 0 holds the original of object 0, slot 1 a copy of it.
    fn new() -> Self {
        let object = |value| Object { tree: Mutex::new(Derivation::default()), memory: UnsafeCell::new(value) };
        let machine = Self {
            slots: Box::new(std::array::from_fn(|_| Slot::default())),
            objects: [object(10), object(11)],
            left: std::array::from_fn(|_| AtomicUsize::new(0)),
        };
        let mut tree = machine.objects[0].tree.lock().unwrap();
        tree.originate(machine.slots[0].claim().unwrap(), named(0));
        let original = machine.slots[0].look_up().unwrap();
        assert!(tree.derive(&machine.slots[0], &original, machine.slots[1].claim().unwrap(), named(0)));
        drop(tree);
        machine
    }

    fn read(&self, found: &Found) -> usize {
        // SAFETY: loom checks exactly this: that no write runs beside the read.
        self.objects[found.content.object].memory.with(|value| unsafe { *value })
    }

    fn copy(&self, from: usize, to: usize) -> bool {
        let Some(found) = self.slots[from].look_up() else { return false };
        let mut tree = self.objects[found.content.object].tree.lock().unwrap();
        let Some(claimed) = self.slots[to].claim() else { return false };
        tree.derive(&self.slots[from], &found, claimed, found.content)
    }

    /// True where this was the last capability to its object.
    fn delete(&self, slot: usize) -> Option<bool> {
        let found = self.slots[slot].look_up()?;
        let lock = || self.objects[found.content.object].tree.lock().unwrap();
        let begun = {
            let mut tree = lock();
            tree.begin_delete(&self.slots[slot], &found).then(|| self.slots[slot].dying().unwrap())?
        };
        // The lock is free between any two steps, and a revoke may empty the slot then.
        loop {
            let mut tree = lock();
            if !self.slots[slot].still(&begun) {
                return None;
            }
            if tree.delete_step(&self.slots[slot]) == Step::Done {
                return Some(tree.capabilities() == 0);
            }
        }
    }

    /// A step a hold of the lock; false where the revoker's own capability has gone.
    fn revoke(&self, slot: usize) -> bool {
        let Some(found) = self.slots[slot].look_up() else { return false };
        loop {
            let mut tree = self.objects[found.content.object].tree.lock().unwrap();
            if !self.slots[slot].still(&found) {
                return false;
            }
            if tree.revoke_step(&self.slots[slot]) == Step::Done {
                return true;
            }
        }
    }

    /// Under the object's lock, or when all CPUs have stopped.
    fn names(&self, slot: usize, object: usize) -> bool {
        self.slots[slot].look_up().is_some_and(|found| found.content.object == object)
    }

    fn leave(&self, cpu: usize) {
        let left = self.left[cpu].load(Ordering::Relaxed);
        self.left[cpu].store(left + 1, Ordering::Release);
    }

    fn departures(&self) -> [usize; CPUS] {
        std::array::from_fn(|cpu| self.left[cpu].load(Ordering::Acquire))
    }

    /// Every CPU but `this` has left the kernel since `before` was read.
    fn quiescent(&self, this: usize, before: [usize; CPUS]) -> bool {
        let now = self.departures();
        (0..CPUS).all(|cpu| cpu == this || now[cpu] != before[cpu])
    }
}

/// Some order reached the point where memory is used again: the model is not vacuous.
static REUSED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

type Actor = fn(&Machine, usize);

/// Runs an actor a CPU in every order of so many preemptions, then `check` on what is left.
fn explore(preemptions: usize, actors: [Actor; CPUS], check: fn(&Machine)) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        let machine = Arc::new(Machine::new());
        let others: Vec<_> = (1..CPUS)
            .map(|cpu| {
                let machine = Arc::clone(&machine);
                thread::spawn(move || {
                    actors[cpu](&machine, cpu);
                    machine.leave(cpu);
                })
            })
            .collect();
        actors[0](&machine, 0);
        machine.leave(0);
        for other in others {
            other.join().unwrap();
        }
        check(&machine);
    });
}

/// A capability to one of the objects; badge and facts say the same, so that a mix of two fillings shows.
fn named(object: usize) -> Content {
    Content { object, badge: object as u64, facts: object as u64 }
}

fn reader(machine: &Machine, _: usize) {
    if let Some(found) = machine.slots[1].look_up() {
        let object = found.content.object;
        assert_eq!(found.content, named(object), "a mix of two fillings");
        // Slot 1 names object 0 in its first filling, and object 1 in all that follow.
        assert_eq!(object, usize::from(found.generation() > FIRST), "a mix of two fillings");
        let value = machine.read(&found);
        assert_eq!(value, 10 + object, "an object's memory was used again under a reader");
    }
}

fn copier(machine: &Machine, _: usize) {
    machine.copy(1, 2);
}

fn revoker(machine: &Machine, _: usize) {
    assert!(machine.revoke(0));
    assert!(machine.slots[1].look_up().is_none(), "a copy outlived the revoke");
}

fn deleter(machine: &Machine, _: usize) {
    machine.delete(1);
}

/// Deletes the copy and puts a capability to another object into its slot at once.
fn refiller(machine: &Machine, _: usize) {
    machine.delete(1);
    let mut tree = machine.objects[1].tree.lock().unwrap();
    if let Some(claimed) = machine.slots[1].claim() {
        tree.originate(claimed, named(1));
    }
}

/// Deletes every capability to object 0, and writes to its memory if all have left since.
///
/// A CPU that had left before is in user mode, and would answer an interrupt; here the memory then stays unused.
fn destroyer(machine: &Machine, cpu: usize) {
    machine.revoke(0);
    if machine.delete(0) == Some(true) {
        let before = machine.departures();
        if machine.quiescent(cpu, before) {
            // SAFETY: loom checks exactly this: that nobody else is at the memory.
            machine.objects[0].memory.with_mut(|value| unsafe { *value = 99 });
            REUSED.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// No slot is left claimed or dying, and each object counts the capabilities to it.
fn consistent(machine: &Machine) {
    for (index, object) in machine.objects.iter().enumerate() {
        let held = (0..SLOTS).filter(|&slot| machine.names(slot, index)).count();
        assert_eq!(object.tree.lock().unwrap().capabilities(), held);
    }
    for slot in machine.slots.iter() {
        assert!(slot.look_up().is_some() || slot.claim().is_some(), "a slot is neither full nor empty");
    }
}

#[test]
fn a_revoke_reaches_what_is_copied_and_deleted_beside_it() {
    explore(2, [revoker, copier, deleter, reader], |machine| {
        consistent(machine);
        // A copy that won its race against the delete became a child of slot 0 and went with it.
        assert!((1..SLOTS).all(|slot| !machine.names(slot, 0)), "something outlived the revoke");
        assert!(machine.names(0, 0), "revoke took its own capability");
    });
}

#[test]
fn a_slot_refilled_at_once_gives_the_old_or_the_new_and_no_mix() {
    explore(1, [refiller, reader, copier, deleter], consistent);
}

#[test]
fn an_object_is_used_again_only_when_nobody_can_be_reading_it() {
    explore(2, [destroyer, reader, copier, reader], consistent);
    assert!(REUSED.load(std::sync::atomic::Ordering::Relaxed), "no order used the memory again");
}

#[test]
fn two_revokes_of_one_tree_both_end() {
    explore(2, [revoker, copier, revoker, reader], |machine| {
        consistent(machine);
        assert!((1..SLOTS).all(|slot| !machine.names(slot, 0)));
    });
}

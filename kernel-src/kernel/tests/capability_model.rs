//! The protocol of `docs/concurrency.md` under loom: every order of the
//! steps of four CPUs, with the reorderings that the memory model allows.
//!
//! What is modelled is the protocol and not the kernel's code: slots read
//! without a lock, the object's lock over its derivation links, generation
//! tags, and quiescence before memory is used again. A `Cell` stands for the
//! memory of an object, so that loom itself finds a read that runs beside the
//! write of its next owner.

use loom::{
    cell::UnsafeCell,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering, fence},
    },
    thread,
};

const CPUS: usize = 4;
const SLOTS: usize = 3;

/// The low bits of a tag; the generation lies above them.
const EMPTY: usize = 0;
const BUSY: usize = 1;
const FULL: usize = 2;
const STATE: usize = 3;
const GENERATION: usize = 4;

/// A slot; its object is named by index.
struct Slot {
    tag: AtomicUsize,
    object: AtomicUsize,
}

/// Who was derived from whom: slot to parent slot.
#[derive(Default)]
struct Tree {
    parent: [Option<usize>; SLOTS],
}

struct Object {
    tree: Mutex<Tree>,
    memory: UnsafeCell<usize>,
}

struct Machine {
    slots: [Slot; SLOTS],
    objects: [Object; 2],
    /// How often each CPU has left the kernel.
    left: [AtomicUsize; CPUS],
}

/// A capability as look-up found it.
#[derive(Clone, Copy)]
struct Found {
    slot: usize,
    tag: usize,
    object: usize,
}

impl Machine {
    /// Slot 0 holds the original of object 0, slot 1 a copy of it.
    fn new() -> Self {
        let full = |tag, object| Slot { tag: AtomicUsize::new(tag), object: AtomicUsize::new(object) };
        let object = |value, parent| Object { tree: Mutex::new(Tree { parent }), memory: UnsafeCell::new(value) };
        Self {
            slots: [full(FULL, 0), full(FULL, 0), full(EMPTY, 0)],
            objects: [object(10, [None, Some(0), None]), object(11, [None; SLOTS])],
            left: std::array::from_fn(|_| AtomicUsize::new(0)),
        }
    }

    /// Loads only: the tag, what it covers, and the tag again.
    fn look_up(&self, slot: usize) -> Option<Found> {
        let tag = self.slots[slot].tag.load(Ordering::Acquire);
        if tag & STATE != FULL {
            return None;
        }
        let object = self.slots[slot].object.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let same = self.slots[slot].tag.load(Ordering::Relaxed) == tag;
        same.then_some(Found { slot, tag, object })
    }

    fn read(&self, found: Found) -> usize {
        // SAFETY: loom checks exactly this: that no write runs beside the read.
        self.objects[found.object].memory.with(|value| unsafe { *value })
    }

    /// Under the object's lock a capability is what look-up found, or nothing.
    fn still(&self, found: Found) -> bool {
        self.slots[found.slot].tag.load(Ordering::Relaxed) == found.tag
    }

    fn claim(&self, slot: usize) -> Option<usize> {
        let tag = self.slots[slot].tag.load(Ordering::Relaxed);
        if tag & STATE != EMPTY {
            return None;
        }
        let busy = (tag & !STATE) | BUSY;
        let claimed = self.slots[slot].tag.compare_exchange(tag, busy, Ordering::Acquire, Ordering::Relaxed);
        claimed.ok()?;
        // Whoever sees the new object sees that the tag has changed.
        fence(Ordering::Release);
        Some(busy)
    }

    fn publish(&self, slot: usize, busy: usize, object: usize) {
        self.slots[slot].object.store(object, Ordering::Relaxed);
        self.slots[slot].tag.store(((busy & !STATE) + GENERATION) | FULL, Ordering::Release);
    }

    fn empty(&self, slot: usize) {
        let tag = self.slots[slot].tag.load(Ordering::Relaxed);
        self.slots[slot].tag.store(((tag & !STATE) + GENERATION) | EMPTY, Ordering::Release);
    }

    fn copy(&self, from: usize, to: usize) -> bool {
        let Some(found) = self.look_up(from) else { return false };
        let mut tree = self.objects[found.object].tree.lock().unwrap();
        if !self.still(found) {
            return false;
        }
        let Some(busy) = self.claim(to) else { return false };
        tree.parent[to] = Some(from);
        self.publish(to, busy, found.object);
        true
    }

    /// True where this was the last capability to its object.
    fn delete(&self, slot: usize) -> Option<bool> {
        let found = self.look_up(slot)?;
        let mut tree = self.objects[found.object].tree.lock().unwrap();
        if !self.still(found) {
            return None;
        }
        let parent = tree.parent[slot].take();
        for child in &mut tree.parent {
            if *child == Some(slot) {
                *child = parent;
            }
        }
        self.empty(slot);
        Some(!(0..SLOTS).any(|other| self.names(other, found.object)))
    }

    /// A step a hold of the lock; false where the revoker's own capability has gone.
    fn revoke(&self, slot: usize) -> bool {
        let Some(found) = self.look_up(slot) else { return false };
        loop {
            let mut tree = self.objects[found.object].tree.lock().unwrap();
            if !self.still(found) {
                return false;
            }
            let Some(child) = tree.parent.iter().position(|parent| *parent == Some(slot)) else { return true };
            for grandchild in &mut tree.parent {
                if *grandchild == Some(child) {
                    *grandchild = Some(slot);
                }
            }
            tree.parent[child] = None;
            self.empty(child);
        }
    }

    /// Under the object's lock, or when all CPUs have stopped.
    fn names(&self, slot: usize, object: usize) -> bool {
        let full = self.slots[slot].tag.load(Ordering::Relaxed) & STATE == FULL;
        full && self.slots[slot].object.load(Ordering::Relaxed) == object
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

fn reader(machine: &Machine, _: usize) {
    if let Some(found) = machine.look_up(1) {
        // Slot 1 names object 0 in its first filling, and object 1 in all that follow.
        assert_eq!(found.object, usize::from(found.tag >= GENERATION), "a mix of two fillings");
        let value = machine.read(found);
        assert_eq!(value, 10 + found.object, "an object's memory was used again under a reader");
    }
}

fn copier(machine: &Machine, _: usize) {
    machine.copy(1, 2);
}

fn revoker(machine: &Machine, _: usize) {
    assert!(machine.revoke(0));
    assert!(machine.look_up(1).is_none(), "a copy outlived the revoke");
}

fn deleter(machine: &Machine, _: usize) {
    machine.delete(1);
}

/// Deletes the copy and puts a capability to another object into its slot at once.
fn refiller(machine: &Machine, _: usize) {
    machine.delete(1);
    let mut tree = machine.objects[1].tree.lock().unwrap();
    if let Some(busy) = machine.claim(1) {
        tree.parent[1] = None;
        machine.publish(1, busy, 1);
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

/// No slot is left claimed, and links are those of full slots.
fn consistent(machine: &Machine) {
    for slot in 0..SLOTS {
        assert_ne!(machine.slots[slot].tag.load(Ordering::Relaxed) & STATE, BUSY);
    }
    for (index, object) in machine.objects.iter().enumerate() {
        for (slot, parent) in object.tree.lock().unwrap().parent.iter().enumerate() {
            if let Some(parent) = parent {
                assert!(machine.names(slot, index) && machine.names(*parent, index), "a link to an empty slot");
            }
        }
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

//! The derivation tree against a model that keeps parents in a table.
//!
//! Proves: CAP-12, CAP-13, CAP-25, PRF-08, TST-24

use kernel::sync::{Content, Derivation, GENERATION_MAX, MARK, Slot, Step};
use proptest::prelude::*;
use std::ptr;

const SLOTS: usize = 12;
const ORIGINAL: Content = Content { object: 0x1000, badge: 0, facts: 7 };

#[derive(Clone, Debug)]
enum Action {
    Originate {
        to: usize,
    },
    Derive {
        from: usize,
        to: usize,
        badge: u64,
    },
    Relocate {
        from: usize,
        to: usize,
    },
    /// So many steps of a revoke, as if the revoker died then; none at all may be needed.
    Revoke {
        slot: usize,
        steps: usize,
    },
    Delete {
        slot: usize,
        steps: usize,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let slot = || 0..SLOTS;
    prop_oneof![
        1 => slot().prop_map(|to| Action::Originate { to }),
        6 => (slot(), slot(), 1..100_u64).prop_map(|(from, to, badge)| Action::Derive { from, to, badge }),
        2 => (slot(), slot()).prop_map(|(from, to)| Action::Relocate { from, to }),
        1 => (slot(), 0..30_usize).prop_map(|(slot, steps)| Action::Revoke { slot, steps }),
        2 => (slot(), 0..30_usize).prop_map(|(slot, steps)| Action::Delete { slot, steps }),
    ]
}

/// What each slot holds, and where it came from.
#[derive(Default)]
struct Model {
    held: [Option<Held>; SLOTS],
    /// Fillings and emptyings of each slot so far.
    changes: [u64; SLOTS],
}

#[derive(Clone, Copy)]
struct Held {
    badge: u64,
    parent: Option<usize>,
    dying: bool,
}

impl Model {
    fn children(&self, of: usize) -> Vec<usize> {
        (0..SLOTS).filter(|&slot| self.held[slot].is_some_and(|held| held.parent == Some(of))).collect()
    }

    fn descends(&self, slot: usize, from: usize) -> bool {
        let mut at = self.held[slot].and_then(|held| held.parent);
        while let Some(parent) = at {
            if parent == from {
                return true;
            }
            at = self.held[parent].and_then(|held| held.parent);
        }
        false
    }

    fn live(&self, slot: usize) -> bool {
        self.held[slot].is_some_and(|held| !held.dying)
    }

    fn remove(&mut self, slot: usize) {
        let parent = self.held[slot].take().and_then(|held| held.parent);
        for held in self.held.iter_mut().flatten().filter(|held| held.parent == Some(slot)) {
            held.parent = parent;
        }
        self.changes[slot] += 1;
    }

    fn put(&mut self, slot: usize, held: Held) {
        self.held[slot] = Some(held);
        self.changes[slot] += 1;
    }
}

struct Machine {
    slots: Vec<Slot>,
    tree: Derivation,
    model: Model,
}

impl Machine {
    fn act(&mut self, action: &Action) {
        let Self { slots, tree, model } = self;
        match *action {
            Action::Originate { to } => match slots[to].claim() {
                Some(claimed) => {
                    assert!(model.held[to].is_none());
                    tree.originate(claimed, ORIGINAL);
                    model.put(to, Held { badge: 0, parent: None, dying: false });
                }
                None => assert!(model.held[to].is_some()),
            },
            Action::Derive { from, to, badge } => {
                let found = slots[from].look_up();
                assert_eq!(found.is_some(), model.live(from));
                let Some(found) = found else { return };
                let Some(claimed) = slots[to].claim() else { return assert!(model.held[to].is_some()) };
                assert!(tree.derive(&slots[from], &found, claimed, Content { badge, ..found.content }));
                model.put(to, Held { badge, parent: Some(from), dying: false });
            }
            Action::Relocate { from, to } => {
                let Some(found) = slots[from].look_up() else { return };
                let Some(claimed) = slots[to].claim() else { return };
                assert!(tree.relocate(&slots[from], &found, claimed));
                let held = model.held[from].take().unwrap();
                for child in model.held.iter_mut().flatten().filter(|held| held.parent == Some(from)) {
                    child.parent = Some(to);
                }
                model.changes[from] += 1;
                model.put(to, held);
            }
            Action::Revoke { slot, steps } => self.revoke(slot, steps),
            Action::Delete { slot, steps } => {
                if let Some(found) = slots[slot].look_up() {
                    assert!(tree.begin_delete(&slots[slot], &found));
                    assert!(!tree.begin_delete(&slots[slot], &found), "a delete begins once");
                    assert!(slots[slot].dying().is_some());
                    model.held[slot].as_mut().unwrap().dying = true;
                }
                if slots[slot].dying().is_none() {
                    return;
                }
                for _ in 0..steps {
                    let passed = model.children(slot).len();
                    let dying = model.held[slot].is_some_and(|held| held.dying);
                    let step = tree.delete_step(&slots[slot]);
                    if step == Step::Done {
                        assert_eq!(passed, 0, "children of a deleted capability were lost");
                        if dying {
                            model.remove(slot);
                        }
                        break;
                    }
                    // One child has gone to the parent; which one, the tree decides.
                    let parent = model.held[slot].unwrap().parent;
                    let left: Vec<usize> = index(slots, slot);
                    let gone: Vec<usize> =
                        model.children(slot).into_iter().filter(|child| !left.contains(child)).collect();
                    assert_eq!(gone.len(), 1);
                    model.held[gone[0]].as_mut().unwrap().parent = parent;
                }
            }
        }
    }

    fn revoke(&mut self, slot: usize, steps: usize) {
        let Self { slots, tree, model } = self;
        if slots[slot].look_up().is_none() {
            return;
        }
        for _ in 0..steps {
            let descendants: Vec<usize> = (0..SLOTS).filter(|&other| model.descends(other, slot)).collect();
            let before = tree.capabilities();
            if tree.revoke_step(&slots[slot]) == Step::Done {
                assert!(descendants.is_empty(), "a revoke ended early");
                break;
            }
            assert!(!descendants.is_empty());
            if tree.capabilities() < before {
                let gone: Vec<usize> = descendants
                    .into_iter()
                    .filter(|&other| slots[other].generation() != model.generation(other))
                    .collect();
                assert_eq!(gone.len(), 1, "a step takes away one capability");
                assert!(model.children(gone[0]).is_empty());
                model.remove(gone[0]);
            } else {
                let adopted: Vec<usize> = index(slots, slot);
                for child in adopted {
                    let parent = model.held[child].unwrap().parent.unwrap();
                    assert!(
                        parent == slot || model.held[parent].unwrap().parent == Some(slot),
                        "a stranger was adopted"
                    );
                    model.held[child].as_mut().unwrap().parent = Some(slot);
                }
            }
        }
    }

    fn check(&self) {
        let full = self.model.held.iter().flatten().count();
        assert_eq!(self.tree.capabilities(), full);
        for (number, slot) in self.slots.iter().enumerate() {
            let found = slot.look_up();
            assert_eq!(found.is_some(), self.model.live(number), "slot {number}");
            assert_eq!(slot.generation(), self.model.generation(number), "slot {number}");
            if let (Some(found), Some(held)) = (found, self.model.held[number]) {
                assert_eq!(found.content, Content { badge: held.badge, ..ORIGINAL });
                assert_eq!(found.generation(), slot.generation());
            }
            let mut children = index(&self.slots, number);
            children.sort_unstable();
            assert_eq!(children, self.model.children(number), "children of slot {number}");
        }
    }
}

impl Model {
    fn generation(&self, slot: usize) -> u64 {
        self.changes[slot] + u64::from(self.held[slot].is_none())
    }
}

/// Numbers of a slot's children.
fn index(slots: &[Slot], of: usize) -> Vec<usize> {
    let number = |child: &Slot| slots.iter().position(|slot| ptr::eq(slot, child)).expect("a child is a slot");
    slots[of].children().map(number).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn the_tree_is_what_the_model_says(actions in prop::collection::vec(action(), 1..60)) {
        let mut machine = Machine {
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
            tree: Derivation::default(),
            model: Model::default(),
        };
        for action in &actions {
            machine.act(action);
            machine.check();
        }
    }
}

#[test]
fn a_slot_is_a_cache_line() {
    assert_eq!((size_of::<Slot>(), align_of::<Slot>()), (64, 64));
}

#[test]
fn a_step_is_constant_work_and_a_revoke_ends() {
    let slots: Vec<Slot> = (0..1000).map(|_| Slot::default()).collect();
    let mut tree = Derivation::default();
    tree.originate(slots[0].claim().unwrap(), ORIGINAL);
    // A chain, and a child to each link of it: the worst that a step could have to descend or to walk.
    for number in 1..slots.len() {
        let from = &slots[if number % 2 == 0 { number - 2 } else { number - 1 }];
        let found = from.look_up().unwrap();
        assert!(tree.derive(from, &found, slots[number].claim().unwrap(), found.content));
    }
    let steps = (1..).take_while(|_| tree.revoke_step(&slots[0]) == Step::More).count();
    assert_eq!(tree.capabilities(), 1);
    assert!(steps <= 2 * slots.len(), "{steps} steps for {} capabilities", slots.len());
}

#[test]
fn a_claim_given_up_leaves_the_slot_as_it_was() {
    let slot = Slot::default();
    let generation = slot.generation();
    let claimed = slot.claim().unwrap();
    assert!(slot.claim().is_none() && slot.look_up().is_none() && !slot.close());
    drop(claimed);
    assert_eq!(slot.generation(), generation);
    assert!(slot.close());
    assert!(slot.claim().is_none(), "a closed slot is never filled again");
}

#[test]
fn a_name_of_an_earlier_filling_never_matches() {
    let slot = Slot::default();
    let mut tree = Derivation::default();
    tree.originate(slot.claim().unwrap(), ORIGINAL);
    let old = slot.look_up().unwrap();
    assert!(tree.begin_delete(&slot, &old));
    assert_eq!(tree.delete_step(&slot), Step::Done);
    tree.originate(slot.claim().unwrap(), ORIGINAL);
    assert!(!slot.still(&old), "same content, another filling");
    assert!(!tree.begin_delete(&slot, &old));
    let target = Slot::default();
    assert!(!tree.derive(&slot, &old, target.claim().unwrap(), ORIGINAL));
    assert!(!tree.relocate(&slot, &old, target.claim().unwrap()));
    assert!(target.look_up().is_none() && target.claim().is_some());
}

#[test]
fn only_a_full_slot_shows_its_mark() {
    let facts = MARK | ((1 << 28) - 1);
    let marked = Content { facts, ..ORIGINAL };
    let [slot, target, plain] = [Slot::default(), Slot::default(), Slot::default()];
    let mut tree = Derivation::default();
    assert!(slot.look_up_marked().is_none());
    tree.originate(slot.claim().unwrap().at_generation(GENERATION_MAX - 2).unwrap(), marked);
    let found = slot.look_up_marked().unwrap();
    assert_eq!((found.content, found.generation()), (marked, GENERATION_MAX - 2));
    assert!(tree.derive(&slot, &found, plain.claim().unwrap(), ORIGINAL));
    assert!(plain.look_up().is_some() && plain.look_up_marked().is_none());
    assert!(tree.relocate(&slot, &found, target.claim().unwrap()));
    assert!(slot.look_up_marked().is_none(), "an empty one");
    assert_eq!(slot.generation(), GENERATION_MAX, "closed, for its numbers are used up");
    let moved = target.look_up_marked().unwrap();
    assert_eq!(moved.content, marked);
    assert!(tree.begin_delete(&target, &moved));
    assert!(target.look_up_marked().is_none() && target.dying().is_some(), "one being deleted");
}

#[test]
fn a_purge_empties_every_slot_whatever_came_from_what() {
    let slots: Vec<Slot> = (0..62).map(|_| Slot::default()).collect();
    let mut tree = Derivation::default();
    // Three without a parent, each with a tree below it.
    for number in 0..60 {
        let to = slots[number].claim().unwrap();
        if number < 3 {
            tree.originate(to, ORIGINAL);
        } else {
            let from = &slots[if number % 4 == 0 { number - 3 } else { number % 3 }];
            let found = from.look_up().unwrap();
            assert!(tree.derive(from, &found, to, found.content));
        }
    }
    // The first in the list moves; one in its middle goes, and its children have no parent then; one is half deleted.
    let first = slots[2].look_up().unwrap();
    assert!(tree.relocate(&slots[2], &first, slots[60].claim().unwrap()));
    let middle = slots[1].look_up().unwrap();
    assert!(tree.begin_delete(&slots[1], &middle));
    while tree.delete_step(&slots[1]) == Step::More {}
    let last = slots[0].look_up().unwrap();
    assert!(tree.begin_delete(&slots[0], &last));
    assert_eq!(tree.delete_step(&slots[0]), Step::More);
    assert_eq!(tree.capabilities(), 59);
    let steps = (1..).take_while(|_| tree.purge_step() == Step::More).count();
    assert_eq!(tree.capabilities(), 0);
    assert!(steps <= 2 * 59, "{steps} steps");
    assert!(slots.iter().all(|slot| slot.look_up().is_none() && slot.claim().is_some()));
}

//! Proves: TST-24, SCH-41
//!
//! Queues threaded through their objects, against plain queues of numbers.

use kernel::sync::{Link, Linked, List};
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::rc::Rc;

const LISTS: usize = 3;

struct Kind;

struct Item {
    number: usize,
    priority: Cell<u8>,
    link: Link<Item, Kind>,
}

#[derive(Clone)]
struct Share(Rc<Item>);

// SAFETY: an `Rc`'s value does not move; the tests put an item into one list at a time.
unsafe impl Linked<Kind> for Share {
    type Object = Item;

    fn into_raw(self) -> NonNull<Item> {
        NonNull::new(Rc::into_raw(self.0).cast_mut()).expect("no value lies at 0")
    }

    unsafe fn from_raw(raw: NonNull<Item>) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Rc::from_raw(raw.as_ptr()) })
    }

    fn link(object: &Item) -> &Link<Item, Kind> {
        &object.link
    }
}

#[derive(Clone, Debug)]
enum Action {
    Push {
        list: usize,
        priority: u8,
    },
    /// By priority, the highest in front, and equal ones in the order of their coming.
    Insert {
        list: usize,
        priority: u8,
    },
    Pop {
        list: usize,
    },
    /// The item made so many ago, wherever it is by now.
    Remove {
        list: usize,
        back: usize,
    },
    /// The first whose priority has that bit.
    Take {
        list: usize,
        bit: u8,
    },
    Drop {
        list: usize,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let list = || 0..LISTS;
    prop_oneof![
        3 => (list(), 0..8_u8).prop_map(|(list, priority)| Action::Push { list, priority }),
        6 => (list(), 0..8_u8).prop_map(|(list, priority)| Action::Insert { list, priority }),
        3 => list().prop_map(|list| Action::Pop { list }),
        4 => (list(), 0..20_usize).prop_map(|(list, back)| Action::Remove { list, back }),
        3 => (list(), 0..3_u8).prop_map(|(list, bit)| Action::Take { list, bit }),
        1 => list().prop_map(|list| Action::Drop { list }),
    ]
}

/// What a list holds by the model: numbers and priorities, the first in front.
type Model = VecDeque<(usize, u8)>;

fn model_take(model: &mut Model, wanted: impl Fn(&(usize, u8)) -> bool) -> Option<usize> {
    let index = model.iter().position(wanted)?;
    model.remove(index).map(|(number, _)| number)
}

proptest! {
    #[test]
    fn lists_do_as_plain_queues_do(actions in prop::collection::vec(action(), 1..200)) {
        // They do not move while something is in them.
        let mut lists: [Box<List<Share, Kind>>; LISTS] = std::array::from_fn(|_| Box::new(List::new()));
        let mut models: [Model; LISTS] = Default::default();
        let mut items: Vec<Share> = Vec::new();
        let number = |taken: Option<Share>| taken.map(|share| share.0.number);
        for action in actions {
            let new = |items: &mut Vec<Share>, priority| {
                let item = Item { number: items.len(), priority: Cell::new(priority), link: Link::new() };
                items.push(Share(Rc::new(item)));
                items[items.len() - 1].clone()
            };
            match action {
                Action::Push { list, priority } => {
                    models[list].push_back((items.len(), priority));
                    lists[list].push(new(&mut items, priority));
                }
                Action::Insert { list, priority } => {
                    let model = &mut models[list];
                    let behind = model.iter().rposition(|&(_, other)| other >= priority).map_or(0, |index| index + 1);
                    model.insert(behind, (items.len(), priority));
                    let item = new(&mut items, priority);
                    if lists[list].is_empty() {
                        lists[list].start(item);
                    } else {
                        lists[list].insert(item, |other| other.priority.get() < priority);
                    }
                }
                Action::Pop { list } => {
                    let taken = lists[list].pop();
                    prop_assert_eq!(number(taken), models[list].pop_front().map(|(number, _)| number));
                }
                Action::Remove { list, back } => {
                    if let Some(item) = items.len().checked_sub(back + 1).map(|index| items[index].clone()) {
                        let expected = model_take(&mut models[list], |&(number, _)| number == item.0.number);
                        prop_assert_eq!(number(lists[list].remove(&item.0)), expected);
                    }
                }
                Action::Take { list, bit } => {
                    let expected = model_take(&mut models[list], |&(_, priority)| priority >> bit & 1 != 0);
                    let taken = lists[list].take(|item| item.priority.get() >> bit & 1 != 0);
                    prop_assert_eq!(number(taken), expected);
                }
                Action::Drop { list } => {
                    *lists[list] = List::new();
                    models[list].clear();
                }
            }
            for (list, model) in lists.iter().zip(&models) {
                let held: Vec<_> = list.iter().map(|item| (item.number, item.priority.get())).collect();
                prop_assert_eq!(held, model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(list.is_empty(), model.is_empty());
                prop_assert_eq!(list.front().map(|item| item.number), model.front().map(|&(number, _)| number));
            }
            // A list has one share in each that it holds, and none in others.
            let held: usize = models.iter().map(VecDeque::len).sum();
            prop_assert_eq!(items.iter().map(|item| Rc::strong_count(&item.0)).sum::<usize>(), items.len() + held);
        }
    }
}

/// What was taken out may be put into another list, or again into the same.
#[test]
fn an_item_moves_between_lists() {
    let item = Share(Rc::new(Item { number: 1, priority: Cell::new(0), link: Link::new() }));
    let mut lists: [Box<List<Share, Kind>>; 2] = std::array::from_fn(|_| Box::new(List::new()));
    for turn in 0..6 {
        let (here, there) = (turn % 2, 1 - turn % 2);
        lists[here].push(item.clone());
        assert!(lists[there].remove(&item.0).is_none());
        assert_eq!(lists[here].front().map(|item| item.number), Some(1));
        drop(lists[here].remove(&item.0).expect("it was pushed"));
        assert!(lists[here].remove(&item.0).is_none() && lists[here].is_empty());
        assert_eq!(Rc::strong_count(&item.0), 1);
    }
}

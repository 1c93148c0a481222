//! The frame allocator against a model that keeps every block in a map.
//!
//! Proves: PMM-02, TST-24

use kernel::buddy::{Buddy, FrameInfo, MAX_ORDER};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;

const FIRST: usize = 0x801;
const FRAMES: usize = 5000;

#[test]
fn all_that_was_added_can_be_allocated_once() {
    let mut info = vec![FrameInfo::default(); FRAMES];
    let mut buddy = Buddy::new(&mut info, FIRST);
    assert_eq!(buddy.allocate(0), None);
    assert!(buddy.add(FIRST..FIRST + FRAMES));
    assert_eq!(buddy.free_frames, FRAMES);
    let mut frames: Vec<_> = std::iter::from_fn(|| buddy.allocate(0)).collect();
    frames.sort_unstable();
    assert_eq!(frames, (FIRST..FIRST + FRAMES).collect::<Vec<_>>());
    assert_eq!(buddy.free_frames, 0);
}

#[test]
fn frames_out_of_reach_or_given_twice_are_refused_whole() {
    let mut info = vec![FrameInfo::default(); 64];
    let mut buddy = Buddy::new(&mut info, 100);
    assert!(!buddy.add(99..101) && !buddy.add(160..165) && !buddy.add(0..usize::MAX));
    assert!(buddy.add(110..120) && buddy.add(130..130));
    assert!(!buddy.add(119..125) && !buddy.add(105..111) && !buddy.add(112..114));
    assert_eq!(buddy.free_frames, 10);
    let frame = buddy.allocate(0).unwrap();
    assert!(!buddy.add(frame..frame + 1), "an allocated frame is not new either");
    assert!(buddy.add(120..125));
    assert_eq!(buddy.free_frames, 14);
}

#[test]
fn wrong_frees_are_detected_and_change_nothing() {
    let mut info = vec![FrameInfo::default(); 64];
    let mut buddy = Buddy::new(&mut info, 0);
    buddy.add(0..48);
    let block = buddy.allocate(2).unwrap();
    for (frame, order) in
        [(block, 1), (block, 3), (block + 1, 0), (block + 1, 2), (50, 0), (64, 0), (usize::MAX, 0), (block, usize::MAX)]
    {
        assert!(!buddy.free(frame, order), "frame {frame}, order {order}");
    }
    assert!(buddy.free(block, 2));
    assert!(!buddy.free(block, 2), "freed twice");
    assert_eq!(buddy.free_frames, 48);
    assert_eq!(buddy.allocate(MAX_ORDER + 1), None);
    assert_eq!(buddy.allocate(usize::MAX), None);
}

#[test]
fn the_smallest_block_that_fits_is_split() {
    let mut info = vec![FrameInfo::default(); 1 << 11];
    let mut buddy = Buddy::new(&mut info, 0);
    buddy.add(0..1024);
    buddy.add(1024..1028);
    assert_eq!(buddy.allocate(1), Some(1024));
    assert_eq!(buddy.allocate(MAX_ORDER), Some(0), "the big block is whole");
    assert_eq!(buddy.allocate(1), Some(1026));
}

/// One step: allocate this order, or free the block at this index.
#[derive(Clone, Debug)]
enum Step {
    Allocate(usize),
    Free(Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![3 => (0..=MAX_ORDER + 1).prop_map(Step::Allocate), 2 => any::<Index>().prop_map(Step::Free)];
    prop::collection::vec(step, 1..200)
}

/// Greatest aligned blocks that tile `start..end`, as (order, how many).
fn tiles(mut start: usize, end: usize) -> BTreeMap<usize, usize> {
    let mut tiles = BTreeMap::new();
    while start < end {
        let order = (0..=MAX_ORDER)
            .rev()
            .find(|order| start.is_multiple_of(1 << order) && start + (1 << order) <= end)
            .unwrap();
        *tiles.entry(order).or_insert(0) += 1;
        start += 1 << order;
    }
    tiles
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn blocks_never_overlap_and_join_again(first in 0..2048_usize, from in 0..3000_usize, size in 1..2000_usize, cut in any::<Index>(), steps in steps()) {
        let mut info = vec![FrameInfo::default(); FRAMES];
        let mut buddy = Buddy::new(&mut info, first);
        let (start, end) = (first + from, first + from + size);
        // Two neighbours, added the upper first.
        let cut = start + cut.index(size);
        prop_assert!(buddy.add(cut..end) && buddy.add(start..cut));

        let mut model: BTreeMap<usize, usize> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Allocate(order) => {
                    let Some(frame) = buddy.allocate(order) else {
                        // Nothing fits: a free aligned block would be a block of the allocator.
                        let taken = |candidate: usize| model.range(..candidate + (1 << order)).next_back().is_some_and(|(frame, order)| frame + (1 << order) > candidate);
                        let aligned = (start.next_multiple_of(1 << order)..).step_by(1 << order).take_while(|block| block + (1 << order) <= end);
                        prop_assert!(order > MAX_ORDER || aligned.into_iter().all(taken), "order {} refused with room", order);
                        continue;
                    };
                    prop_assert!(frame.is_multiple_of(1 << order) && frame >= start && frame + (1 << order) <= end);
                    let before = model.range(..frame + (1 << order)).next_back();
                    prop_assert!(before.is_none_or(|(other, order)| other + (1 << order) <= frame), "{:#x} overlaps {:?}", frame, before);
                    model.insert(frame, order);
                }
                Step::Free(index) if !model.is_empty() => {
                    let (frame, order) = model.iter().nth(index.index(model.len())).map(|(frame, order)| (*frame, *order)).unwrap();
                    model.remove(&frame);
                    prop_assert!(!buddy.free(frame, order + 1));
                    prop_assert!(buddy.free(frame, order));
                    prop_assert!(!buddy.free(frame, order));
                }
                Step::Free(_) => {}
            }
            prop_assert_eq!(buddy.free_frames, size - model.values().map(|order| 1 << order).sum::<usize>());
        }
        for (frame, order) in model {
            prop_assert!(buddy.free(frame, order));
        }
        prop_assert_eq!(buddy.free_frames, size);
        // All is joined: the greatest blocks that fit are there, and nothing else.
        for (order, count) in tiles(start, end).into_iter().rev() {
            let blocks = (0..count).map(|_| buddy.allocate(order)).collect::<Option<Vec<_>>>();
            prop_assert!(blocks.is_some(), "{} blocks of order {}", count, order);
        }
        prop_assert_eq!(buddy.free_frames, 0);
    }
}

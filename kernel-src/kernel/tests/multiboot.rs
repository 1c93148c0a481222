//! Multiboot2 information, built here as a loader lays it out; that no damage makes the reader panic or hang; and that
//! ranges of memory come out of it in order, whatever order they are listed in and however they overlap.
//!
//! Proves: BTX-05, BTX-06, BTX-07, TST-24

use arrayvec::ArrayVec;
use kernel::addr::PhysRange;
use kernel::bootinfo;
use kernel::multiboot::{self, Information};
use proptest::prelude::*;
use proptest::sample::Index;

const ENTRY: [u32; 2] = [24, 0];

/// Information of tags: each a type and what follows its header.
fn build(tags: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    for (kind, body) in tags {
        bytes.extend(kind.to_le_bytes());
        bytes.extend((8 + body.len() as u32).to_le_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(8), 0xEE);
    }
    let size = bytes.len() as u32;
    bytes[..4].copy_from_slice(&size.to_le_bytes());
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn memory_map(entries: &[(u64, u64, u32)]) -> Vec<u8> {
    let mut body = words(&ENTRY);
    for (start, size, kind) in entries {
        body.extend(start.to_le_bytes());
        body.extend(size.to_le_bytes());
        body.extend(words(&[*kind, 0]));
    }
    body
}

fn end() -> (u32, Vec<u8>) {
    (0, vec![])
}

/// As GRUB does it: modules and map between tags that nobody asked for.
fn usual() -> Vec<u8> {
    let map = memory_map(&[(0, 0x9_FC00, 1), (0x10_0000, 0x700_0000, 1)]);
    build(&[
        (1, b"a=b quiet\0".to_vec()),
        (2, b"GRUB 2.06\0".to_vec()),
        (3, [words(&[0x40_0000, 0x50_0000]), b"first\0".to_vec()].concat()),
        (3, words(&[0x50_0000, 0x50_0001])),
        (6, map),
        (14, b"RSD PTR old".to_vec()),
        (15, b"RSD PTR new".to_vec()),
        end(),
    ])
}

#[test]
fn what_a_loader_tells_is_found() {
    let bytes = usual();
    let found = multiboot::parse(&bytes).unwrap();
    assert!(bytes[found.command_line.unwrap()..].starts_with(b"a=b quiet\0"));
    assert!(bytes[found.rsdp.unwrap()..].starts_with(b"RSD PTR new"));
    assert_eq!(found.memory_map.len(), 48);
    assert!(found.memory_map.start.is_multiple_of(8), "entries are aligned as they are in memory");
    assert_eq!(found.modules[..], [PhysRange::new(0x40_0000, 0x10_0000), PhysRange::new(0x50_0000, 1)]);
}

#[test]
fn an_older_root_pointer_will_do_and_none_is_none() {
    let old = build(&[(14, b"RSD PTR old".to_vec()), end()]);
    let found = multiboot::parse(&old).unwrap();
    assert!(old[found.rsdp.unwrap()..].starts_with(b"RSD PTR old"));
    assert_eq!(multiboot::parse(&build(&[end()])), Some(Information::default()));
}

#[test]
fn what_is_malformed_is_refused() {
    let module = |words: &[u32]| build(&[(3, self::words(words)), end()]);
    assert!(multiboot::parse(&module(&[1, 2])).is_some());
    assert_eq!(multiboot::parse(&module(&[2, 1])), None, "a module that ends before it begins");
    assert_eq!(multiboot::parse(&build(&[(1, b"a\0".to_vec())])), None, "no tag that ends them");
    let bytes = usual();
    for size in 0..bytes.len() - 1 {
        assert_eq!(multiboot::parse(&bytes[..size]), None, "cut at {size:#x}");
    }
    let mut short = usual();
    short[12..16].copy_from_slice(&7_u32.to_le_bytes());
    assert_eq!(multiboot::parse(&short), None, "a tag smaller than its header");
    let mut odd = memory_map(&[(0, 1, 1)]);
    odd[0] = 32;
    let odd = build(&[(6, odd), end()]);
    assert_eq!(multiboot::parse(&odd).unwrap().memory_map, 0..0, "entries of a size that nobody knows");
}

#[test]
fn modules_without_end_are_refused() {
    let tags: Vec<_> = (0..1000).map(|_| (3, words(&[0, 1]))).chain([end()]).collect();
    assert_eq!(multiboot::parse(&build(&tags)), None);
}

fn added(ranges: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut list = ArrayVec::new();
    ranges.iter().for_each(|&(start, end)| bootinfo::add(&mut list, PhysRange::new(start, end - start)));
    let mut list: Vec<_> = list.iter().map(|range| (range.start.0, range.end().0)).collect();
    list.sort_unstable();
    list
}

#[test]
fn ranges_that_meet_are_one() {
    assert_eq!(added(&[(8, 9), (0, 4), (2, 6)]), [(0, 6), (8, 9)]);
    assert_eq!(added(&[(0, 4), (4, 8)]), [(0, 8)]);
    assert_eq!(added(&[(0, 2), (4, 6), (8, 9), (1, 5)]), [(0, 6), (8, 9)]);
    assert_eq!(added(&[(0, 9), (3, 4)]), [(0, 9)]);
}

proptest! {
    /// In any order the same ranges hold the same addresses, and none twice.
    #[test]
    fn order_and_overlap_change_nothing(
        mut ranges in prop::collection::vec((0_usize..200, 1_usize..20), 0..40),
        shuffle in prop::collection::vec(any::<Index>(), 40),
    ) {
        let ends = |ranges: &[(usize, usize)]| -> Vec<_> { ranges.iter().map(|(start, size)| (*start, start + size)).collect() };
        let plain: Vec<bool> =
            (0..220).map(|at| ranges.iter().any(|(start, size)| (*start..start + size).contains(&at))).collect();
        let first = added(&ends(&ranges));
        for (index, other) in shuffle.iter().enumerate().take(ranges.len()) {
            let other = other.index(ranges.len());
            ranges.swap(index, other);
        }
        prop_assert_eq!(&first, &added(&ends(&ranges)));
        let merged: Vec<usize> = first.iter().flat_map(|(start, end)| *start..*end).collect();
        let wanted: Vec<usize> = (0..220).filter(|at| plain[*at]).collect();
        prop_assert_eq!(merged, wanted);
    }

    /// Whatever lies there, what is told lies within, and the reader comes back.
    #[test]
    fn damage_is_survived(changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..12)) {
        let mut bytes = usual();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(found) = multiboot::parse(&bytes) {
            prop_assert!(found.command_line.max(found.rsdp).unwrap_or(0) <= bytes.len());
            prop_assert!(found.memory_map.end <= bytes.len());
        }
    }

    #[test]
    fn noise_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = multiboot::parse(&bytes);
    }
}

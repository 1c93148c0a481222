//! Capability slots, and the tree of who was derived from whom.
//!
//! A slot is read without a lock: its tag before and after tells whether what
//! was read belongs together. It is filled by whoever claims it. Its links are
//! those of its object's derivation tree, and only a [`Derivation`] touches
//! them; each object has one, behind its lock. `docs/concurrency.md` is the
//! contract, and `tests/capability_model.rs` runs this very file under loom.

use super::atomics::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use core::ptr;

const EMPTY: u64 = 0;
/// Claimed: nobody but the claimer may change it.
const BUSY: u64 = 1;
const FULL: u64 = 2;
/// Being deleted: no look-up finds it, and nothing is derived from it any more.
const DYING: u64 = 3;
/// Its table ends: it is never filled again.
const CLOSED: u64 = 4;
/// The bits of a tag: state, facts, generation, and in the highest the mark, which only a full slot has.
const STATE: u64 = 7;
const FACTS_SHIFT: u32 = 3;
const GENERATION_SHIFT: u32 = 31;
const MARKED: u64 = 1 << 63;
/// The fact that [`Slot::look_up_marked`] asks for; others are below `1 << 28`.
pub const MARK: u64 = MARKED >> FACTS_SHIFT;
const FACTS: u64 = MARK | ((1 << (GENERATION_SHIFT - FACTS_SHIFT)) - 1);
/// The last number of a filling. A slot that has had it is closed for ever: no number comes again.
pub const GENERATION_MAX: u64 = u32::MAX as u64;

/// 64 bytes, so that a look-up touches one cache line; all zeros is an empty one.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Slot {
    /// State, facts and generation; every change of what the slot holds counts the generation up.
    tag: AtomicU64,
    object: AtomicUsize,
    badge: AtomicU64,
    first_child: AtomicPtr<Slot>,
    /// The next of those that came from the same capability.
    next: AtomicPtr<Slot>,
    /// The one before, or the parent of a first child: so a move changes three links, however many children there are.
    previous: AtomicPtr<Slot>,
}

/// What a slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    /// The object's address, or whatever else stands for it; 0 is as good as any.
    pub object: usize,
    pub badge: u64,
    /// Kind of the object and rights, as the owner of the object reads them.
    pub facts: u64,
}

/// A capability as look-up found it. What it names stays what it is until this CPU leaves the kernel, but the
/// capability may be gone at any moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    pub content: Content,
    tag: u64,
}

impl Found {
    /// Number of this filling of the slot; it never comes again.
    pub const fn generation(&self) -> u64 {
        generation_of(self.tag)
    }
}

/// An empty slot that is this caller's to fill; given up, it is empty again.
pub struct Claimed<'a> {
    slot: &'a Slot,
    /// The tag as it was when the slot was claimed.
    empty: u64,
    generation: u64,
}

/// How far a long operation has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Call again.
    More,
    Done,
}

impl Slot {
    /// What the slot holds, by loads alone.
    pub fn look_up(&self) -> Option<Found> {
        self.read(|tag| tag & STATE == FULL)
    }

    /// The same, if it is marked.
    #[must_use]
    pub fn look_up_marked(&self) -> Option<Found> {
        self.read(|tag| tag & MARKED != 0)
    }

    /// What is being deleted from the slot.
    pub fn dying(&self) -> Option<Found> {
        self.read(|tag| tag & STATE == DYING)
    }

    #[inline(always)]
    fn read(&self, is: impl FnOnce(u64) -> bool) -> Option<Found> {
        let tag = self.tag.load(Ordering::Acquire);
        if !is(tag) {
            return None;
        }
        let content = Content {
            object: self.object.load(Ordering::Relaxed),
            badge: self.badge.load(Ordering::Relaxed),
            facts: tag >> FACTS_SHIFT & FACTS,
        };
        fence(Ordering::Acquire);
        (self.tag.load(Ordering::Relaxed) == tag).then_some(Found { content, tag })
    }

    /// Whether the slot still holds what was found. Under the lock of the object that it names, this stays so.
    pub fn still(&self, found: &Found) -> bool {
        self.tag.load(Ordering::Relaxed) == found.tag
    }

    /// Number of the slot's present filling, or of the next one where it is empty.
    pub fn generation(&self) -> u64 {
        let tag = self.tag.load(Ordering::Relaxed);
        generation_of(tag) + u64::from(tag & STATE == EMPTY)
    }

    /// Claims the slot, if it is empty.
    #[must_use]
    pub fn claim(&self) -> Option<Claimed<'_>> {
        let tag = self.tag.load(Ordering::Relaxed);
        if tag & STATE != EMPTY {
            return None;
        }
        self.tag.compare_exchange(tag, with_state(tag, BUSY), Ordering::Acquire, Ordering::Relaxed).ok()?;
        // Whoever sees the new content sees that the tag has changed.
        fence(Ordering::Release);
        Some(Claimed { slot: self, empty: tag, generation: generation_of(counted_up(tag)) })
    }

    /// Closes an empty slot for ever; false where it is not empty.
    pub fn close(&self) -> bool {
        let tag = self.tag.load(Ordering::Relaxed);
        tag & STATE == CLOSED
            || tag & STATE == EMPTY
                && self.tag.compare_exchange(tag, with_state(tag, CLOSED), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn empty(&self) {
        let next = counted_up(self.tag.load(Ordering::Relaxed));
        let state = if generation_of(next) < GENERATION_MAX { EMPTY } else { CLOSED };
        self.tag.store(with_state(next, state), Ordering::Release);
    }
}

impl Claimed<'_> {
    /// Number of the filling that is to come.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Makes this filling the one of that number, if none so high has been.
    #[must_use]
    pub fn at_generation(mut self, generation: u64) -> Option<Self> {
        if generation < self.generation || generation >= GENERATION_MAX {
            return None;
        }
        self.generation = generation;
        Some(self)
    }

    fn fill(self, content: Content) {
        self.slot.object.store(content.object, Ordering::Relaxed);
        self.slot.badge.store(content.badge, Ordering::Relaxed);
        let facts = (content.facts & FACTS) << FACTS_SHIFT;
        self.slot.tag.store(self.generation << GENERATION_SHIFT | facts | FULL, Ordering::Release);
        core::mem::forget(self);
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.slot.tag.store(self.empty, Ordering::Release);
    }
}

/// Another state than full.
const fn with_state(tag: u64, state: u64) -> u64 {
    tag & !(STATE | MARKED) | state
}

const fn generation_of(tag: u64) -> u64 {
    (tag & !MARKED) >> GENERATION_SHIFT
}

const fn counted_up(tag: u64) -> u64 {
    tag.wrapping_add(1 << GENERATION_SHIFT)
}

/// All capabilities to one object: who came from whom. Every step is constant work.
#[derive(Default)]
pub struct Derivation {
    capabilities: usize,
    /// The first of those without a parent.
    first: AtomicPtr<Slot>,
}

impl Derivation {
    /// Slots that hold a capability to the object.
    pub const fn capabilities(&self) -> usize {
        self.capabilities
    }

    /// Fills a slot with a capability that comes from no other.
    pub fn originate(&mut self, to: Claimed<'_>, content: Content) {
        self.capabilities += 1;
        insert(to.slot, &self.first, None);
        to.fill(content);
    }

    /// Fills a slot with a child of the capability in `from`. False, with `to` empty again, where `from` has changed.
    #[must_use]
    pub fn derive(&mut self, from: &Slot, found: &Found, to: Claimed<'_>, content: Content) -> bool {
        if !from.still(found) {
            return false;
        }
        self.capabilities += 1;
        insert(to.slot, &from.first_child, Some(from));
        to.fill(content);
        true
    }

    /// Moves a capability with its place in the tree. False, with `to` empty again, where `from` has changed.
    #[must_use]
    pub fn relocate(&mut self, from: &Slot, found: &Found, to: Claimed<'_>) -> bool {
        if !from.still(found) {
            return false;
        }
        let new = to.slot;
        set(&new.first_child, at(&from.first_child));
        set(&new.next, at(&from.next));
        set(&new.previous, at(&from.previous));
        set(self.link_to(from), Some(new));
        for follower in [at(&from.next), at(&from.first_child)].into_iter().flatten() {
            set(&follower.previous, Some(new));
        }
        set(&from.first_child, None);
        from.empty();
        to.fill(found.content);
        true
    }

    /// Removes one capability that came from the one in `slot`, whatever the shape of the tree.
    pub fn revoke_step(&mut self, slot: &Slot) -> Step {
        self.empty_step(Some(slot))
    }

    /// Removes one capability, whichever it is.
    pub fn purge_step(&mut self) -> Step {
        self.empty_step(None)
    }

    /// Removes the first of those with that parent, or makes its first child one of them.
    fn empty_step(&mut self, parent: Option<&Slot>) -> Step {
        let Some(child) = at(self.first_of(parent)) else { return Step::Done };
        if let Some(grandchild) = at(&child.first_child) {
            self.unlink(grandchild);
            insert(grandchild, self.first_of(parent), parent);
        } else {
            self.unlink(child);
            child.empty();
            self.capabilities -= 1;
        }
        Step::More
    }

    /// From now on no look-up finds the capability. False where the slot no longer holds what was found.
    #[must_use]
    pub fn begin_delete(&mut self, slot: &Slot, found: &Found) -> bool {
        if !slot.still(found) {
            return false;
        }
        slot.tag.store(with_state(found.tag, DYING), Ordering::Release);
        true
    }

    /// Passes one child of a dying capability to its parent; with the last gone the slot is empty. The caller has seen,
    /// under the same lock, that the slot is dying.
    pub fn delete_step(&mut self, slot: &Slot) -> Step {
        if let Some(child) = at(&slot.first_child) {
            self.unlink(child);
            insert(child, &slot.next, Some(slot));
            return Step::More;
        }
        self.unlink(slot);
        slot.empty();
        self.capabilities -= 1;
        Step::Done
    }

    /// The first of those with that parent.
    fn first_of<'a>(&'a self, parent: Option<&'a Slot>) -> &'a AtomicPtr<Slot> {
        parent.map_or(&self.first, |parent| &parent.first_child)
    }

    /// The link that names a slot which is in a list.
    fn link_to<'a>(&'a self, slot: &'a Slot) -> &'a AtomicPtr<Slot> {
        match at(&slot.previous) {
            Some(previous) if !names(&previous.first_child, slot) => &previous.next,
            parent => self.first_of(parent),
        }
    }

    /// Takes `slot` out of its list; its children stay its own, and its links mean nothing until it is in one again.
    fn unlink(&self, slot: &Slot) {
        let next = at(&slot.next);
        set(self.link_to(slot), next);
        if let Some(next) = next {
            set(&next.previous, at(&slot.previous));
        }
    }
}

/// The slot that a link names.
fn at<'a>(link: &AtomicPtr<Slot>) -> Option<&'a Slot> {
    // SAFETY: `set` stores references only. A table of slots goes only after each was emptied: `unlink` and `relocate`
    // have taken it out of all links then, and who empties it takes those out of queues who wait by it.
    unsafe { link.load(Ordering::Relaxed).as_ref() }
}

fn names(link: &AtomicPtr<Slot>, slot: &Slot) -> bool {
    ptr::eq(link.load(Ordering::Relaxed), slot)
}

fn set(link: &AtomicPtr<Slot>, to: Option<&Slot>) {
    link.store(to.map_or(ptr::null_mut(), |slot| ptr::from_ref(slot).cast_mut()), Ordering::Relaxed);
}

/// Puts `slot`, which is in no list, behind a link, which is that of its parent or of the sibling before it.
fn insert(slot: &Slot, link: &AtomicPtr<Slot>, previous: Option<&Slot>) {
    let next = at(link);
    set(&slot.next, next);
    if let Some(next) = next {
        set(&next.previous, Some(slot));
    }
    set(&slot.previous, previous);
    set(link, Some(slot));
}

/// By which capability somebody waits at an object. Written by its own CPU while it runs, before it is queued; others
/// look under the lock of that queue.
#[derive(Default)]
pub struct Via {
    slot: AtomicPtr<Slot>,
    tag: AtomicU64,
    badge: AtomicU64,
    object: AtomicU64,
}

impl Via {
    /// `object` is the number of what the capability names.
    pub fn set(&self, slot: &Slot, found: &Found, object: u64) {
        set(&self.slot, Some(slot));
        self.tag.store(found.tag, Ordering::Relaxed);
        self.badge.store(found.content.badge, Ordering::Relaxed);
        self.object.store(object, Ordering::Relaxed);
    }

    /// Whether the capability is still there, as a question to be asked again.
    ///
    /// # Safety
    /// One was set, and its slot is there while that is asked.
    pub unsafe fn holder<'a>(&self) -> impl Fn() -> bool + use<'a> {
        // SAFETY: as asked.
        let slot: &'a Slot = unsafe { &*self.slot.load(Ordering::Relaxed) };
        let tag = self.tag.load(Ordering::Relaxed);
        move || slot.tag.load(Ordering::Relaxed) == tag
    }

    /// Whether that is what was set.
    pub fn is(&self, slot: &Slot, found: &Found) -> bool {
        names(&self.slot, slot) && self.tag.load(Ordering::Relaxed) == found.tag
    }

    pub fn object(&self) -> u64 {
        self.object.load(Ordering::Relaxed)
    }

    pub fn badge(&self) -> u64 {
        self.badge.load(Ordering::Relaxed)
    }

    /// Whether the capability is still there. Whatever empties a slot asks this of all who wait at its object, and takes
    /// out those for whom it is not, before the slot's table can go: so the slot is there.
    pub fn holds(&self) -> bool {
        at(&self.slot).is_some_and(|slot| slot.tag.load(Ordering::Relaxed) == self.tag.load(Ordering::Relaxed))
    }
}

/// The shape of the tree, for tests: they hold the lock of the object, or are alone.
#[cfg(not(target_os = "none"))]
impl Slot {
    /// The slots that were derived from this one and are left.
    pub fn children(&self) -> impl Iterator<Item = &Self> {
        core::iter::successors(at(&self.first_child), |child| at(&child.next))
    }
}

//! Capabilities as the kernel uses them: slots whose object is an object of the kernel.
//!
//! Only this file fills slots. So what a look-up finds in one is the address
//! of a header, and the kind that stands beside it is that object's.

use super::slot::{Claimed, Content, Found, MARK, Slot, Step};
use super::{Counted, Header, Ref};
use abi::Rights;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

const KIND: u64 = 0x1F;
const RIGHTS_SHIFT: u32 = 5;

/// CNodes are marked, for a look-up that passes many.
const MARKED: u64 = abi::Kind::CNode as u64;

const fn facts(kind: u64, rights: Rights) -> u64 {
    let mark = if kind == MARKED { MARK } else { 0 };
    mark | kind | rights.0 << RIGHTS_SHIFT
}

/// How often a capability to a CNode has left its slot, from one on: until the next time, an address that led to a slot
/// leads there.
static WAYS: AtomicU64 = AtomicU64::new(1);

/// What `WAYS` is.
#[inline(always)]
pub fn ways() -> u64 {
    WAYS.load(Ordering::Acquire)
}

/// Capabilities to what was found have left their slots, and those who wait by them are to hear of it.
fn settle(found: &Found) {
    if found.kind() == abi::Kind::CNode as u64 {
        WAYS.fetch_add(1, Ordering::SeqCst);
    }
    found.header().ending.object().settle();
}

/// Objects that capabilities may name.
pub trait Object: Counted {
    /// One of `abi::Kind`.
    const KIND: abi::Kind;
    /// Where the header lies in it.
    const HEADER: usize;
}

impl Found {
    fn header<'a>(&self) -> &'a Header {
        // SAFETY: `originate` put it there. While a slot names an object, its capabilities have a share in it; after
        // that it keeps its memory until this CPU has left the kernel, and no answer of a look-up is kept longer.
        unsafe { &*(self.content.object as *const Header) }
    }

    /// The number of the object.
    pub fn id(&self) -> u64 {
        self.header().id
    }

    pub const fn kind(&self) -> u64 {
        self.content.facts & KIND
    }

    pub const fn rights(&self) -> Rights {
        Rights(self.content.facts >> RIGHTS_SHIFT & Rights::ALL.0)
    }

    /// The object, if it is a `T`.
    pub fn object<'a, T: Object>(&self) -> Option<&'a T> {
        // SAFETY: so says the kind.
        (self.kind() == T::KIND as u64).then(|| unsafe { self.object_unchecked() })
    }

    /// # Safety
    /// It is a `T`.
    unsafe fn object_unchecked<'a, T: Object>(&self) -> &'a T {
        // SAFETY: the header is in a `T`, there; as for its life, see `header`.
        unsafe { &*((self.content.object - T::HEADER) as *const T) }
    }
}

/// What a slot holds, and the object, if it is one of the kind that is marked.
#[inline(always)]
pub fn marked<'a, T: Object>(slot: &Slot) -> Option<(&'a T, Found)> {
    const { assert!(T::KIND as u64 == MARKED) };
    let found = slot.look_up_marked()?;
    // SAFETY: `facts` says so.
    Some((unsafe { found.object_unchecked() }, found))
}

/// Fills a slot with the first capability to an object, and with the share in it.
pub fn originate<T: Object>(object: Ref<T>, to: Claimed<'_>, badge: u64, rights: Rights) {
    let header = NonNull::from(object.header());
    let facts = facts(T::KIND as u64, rights);
    // The capabilities hold the share from now on.
    let _: NonNull<T> = object.into_pointer();
    // SAFETY: that share keeps the object.
    let header = unsafe { header.as_ref() };
    header.tree.lock().originate(to, Content { object: header as *const Header as usize, badge, facts });
}

/// Fills a slot with a child of what was found. False, with `to` empty again, where that is gone.
#[must_use]
pub fn derive(from: &Slot, found: &Found, to: Claimed<'_>, badge: u64, rights: Rights) -> bool {
    let facts = facts(found.kind(), rights);
    found.header().tree.lock().derive(from, found, to, Content { object: found.content.object, badge, facts })
}

/// Moves what was found with its place in the tree. False, with `to` empty again, where it is gone.
#[must_use]
pub fn relocate(from: &Slot, found: &Found, to: Claimed<'_>) -> bool {
    let header = found.header();
    let moved = header.tree.lock().relocate(from, found, to);
    if moved {
        settle(found);
    }
    moved
}

/// Takes away, in at most `steps` steps, what was derived from the capability. None where it is gone.
#[must_use]
pub fn revoke(slot: &Slot, found: &Found, steps: usize) -> Option<Step> {
    let header = found.header();
    let mut tree = header.tree.lock();
    if !slot.still(found) {
        return None;
    }
    let done = (0..steps).any(|_| tree.revoke_step(slot) == Step::Done);
    drop(tree);
    settle(found);
    Some(if done { Step::Done } else { Step::More })
}

/// Takes a step at emptying all slots that name the object; false where none does.
pub fn purge(header: &Header) -> bool {
    let mut tree = header.tree.lock();
    let named = tree.purge_step() == Step::More;
    let is_last = named && tree.capabilities() == 0;
    drop(tree);
    // It may be a CNode.
    WAYS.fetch_add(1, Ordering::SeqCst);
    header.ending.object().settle();
    if is_last {
        header.give_up();
    }
    named
}

/// Empties a slot in at most `steps` steps, also one that somebody else began to empty. `More` also where it has changed
/// meanwhile; None where it holds nothing, or another filling than that of `generation`, if that is not 0.
#[must_use]
#[inline(always)]
pub fn delete(slot: &Slot, generation: u64, steps: usize) -> Option<Step> {
    let found = slot.look_up().or_else(|| slot.dying())?;
    if generation != 0 && generation != found.generation() {
        return None;
    }
    let header = found.header();
    let mut tree = header.tree.lock();
    if !tree.begin_delete(slot, &found) {
        return Some(Step::More);
    }
    let done = (0..steps).any(|_| tree.delete_step(slot) == Step::Done);
    let is_last = tree.capabilities() == 0;
    drop(tree);
    settle(&found);
    if done && is_last {
        header.give_up();
    }
    Some(if done { Step::Done } else { Step::More })
}

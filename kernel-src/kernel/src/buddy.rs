//! A buddy allocator over page frame numbers.
//!
//! It never touches the memory that it hands out: its lists are threaded
//! through a table with one entry a frame, which the caller gives. A block of
//! order `n` is `1 << n` frames, aligned to its size by frame number, and its
//! buddy is the block that differs in bit `n` only (Knuth, TAOCP 1, 2.5).

use core::ops::Range;

/// The largest block: 4 MiB.
pub const MAX_ORDER: usize = 10;
/// No entry; so the table has fewer entries than this.
const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    /// Never given to the allocator.
    #[default]
    Absent,
    /// Inside a block, behind its first frame.
    Inner,
    /// First frame of a free block of this order, in the order's list.
    Free(u8),
    /// First frame of an allocated block of this order.
    Allocated(u8),
}

/// What the allocator knows of one frame.
#[derive(Clone, Copy, Debug)]
pub struct FrameInfo {
    next: u32,
    previous: u32,
    state: State,
    /// Of an allocated block: who has it beside the first.
    sharers: u16,
}

impl Default for FrameInfo {
    fn default() -> Self {
        Self { next: NIL, previous: NIL, state: State::Absent, sharers: 0 }
    }
}

pub struct Buddy<'a> {
    info: &'a mut [FrameInfo],
    first_frame: usize,
    /// First block of each order's list.
    lists: [u32; MAX_ORDER + 1],
    pub free_frames: usize,
}

impl<'a> Buddy<'a> {
    /// `info[i]` is for frame `first_frame + i`. No frame is free until it is added.
    pub fn new(info: &'a mut [FrameInfo], first_frame: usize) -> Self {
        // Frames that an index cannot name are left alone: `add` refuses them.
        let reach = info.len().min(NIL as usize);
        let info = &mut info[..reach];
        info.fill(FrameInfo::default());
        Self { info, first_frame, lists: [NIL; MAX_ORDER + 1], free_frames: 0 }
    }

    /// Gives frames to the allocator; false, and nothing done, if one is out of the table's reach or was given before.
    pub fn add(&mut self, frames: Range<usize>) -> bool {
        if frames.is_empty() {
            return true;
        }
        let Some(start) = frames.start.checked_sub(self.first_frame) else { return false };
        let Some(entries) = self.info.get_mut(start..frames.end - self.first_frame) else { return false };
        if entries.iter().any(|entry| entry.state != State::Absent) {
            return false;
        }
        entries.iter_mut().for_each(|entry| entry.state = State::Inner);
        let mut frame = frames.start;
        while frame < frames.end {
            let fits = (frames.end - frame).ilog2() as usize;
            let order = MAX_ORDER.min(fits).min(frame.trailing_zeros() as usize);
            self.put(frame, order);
            frame += 1 << order;
        }
        true
    }

    /// The first frame of a block of `1 << order` frames.
    pub fn allocate(&mut self, order: usize) -> Option<usize> {
        let mut found = (order..=MAX_ORDER).find(|order| self.lists[*order] != NIL)?;
        let index = self.lists[found];
        self.unlink(index, found);
        // The lower half stays, the upper halves go to their lists.
        while found > order {
            found -= 1;
            self.link(index + (1 << found), found);
        }
        self.info[index as usize].state = State::Allocated(order as u8);
        Some(self.first_frame + index as usize)
    }

    /// Takes back what `allocate(order)` gave; false, and nothing done, if it is not out: freed twice, with another order,
    /// or never allocated.
    pub fn free(&mut self, frame: usize, order: usize) -> bool {
        let entry = frame.checked_sub(self.first_frame).and_then(|index| self.info.get(index));
        let is_out = entry.is_some_and(|entry| entry.state == State::Allocated(order as u8));
        if is_out {
            self.put(frame, order);
        }
        is_out
    }

    /// Changes how many have an allocated frame beside the first; false, and nothing done, where `change` gives none, or
    /// the frame is not allocated as one.
    pub fn change_sharers(&mut self, frame: usize, change: impl FnOnce(u16) -> Option<u16>) -> bool {
        let entry = frame.checked_sub(self.first_frame).and_then(|index| self.info.get_mut(index));
        let Some(entry) = entry.filter(|entry| entry.state == State::Allocated(0)) else { return false };
        change(entry.sharers).map(|sharers| entry.sharers = sharers).is_some()
    }

    /// Frees a block, together with its buddy if that is free as a whole, and so on upwards.
    fn put(&mut self, mut frame: usize, mut order: usize) {
        while order < MAX_ORDER {
            let buddy = frame ^ (1 << order);
            let Some(index) = buddy.checked_sub(self.first_frame) else { break };
            if self.info.get(index).is_none_or(|entry| entry.state != State::Free(order as u8)) {
                break;
            }
            self.unlink(index as u32, order);
            self.info[frame - self.first_frame].state = State::Inner;
            frame &= buddy;
            order += 1;
        }
        self.link((frame - self.first_frame) as u32, order);
    }

    fn link(&mut self, index: u32, order: usize) {
        let next = self.lists[order];
        if let Some(next) = self.info.get_mut(next as usize) {
            next.previous = index;
        }
        self.info[index as usize] = FrameInfo { next, state: State::Free(order as u8), ..FrameInfo::default() };
        self.lists[order] = index;
        self.free_frames += 1 << order;
    }

    /// Leaves the block's first frame in state `Inner`.
    fn unlink(&mut self, index: u32, order: usize) {
        let FrameInfo { next, previous, .. } = self.info[index as usize];
        match self.info.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => self.lists[order] = next,
        }
        if let Some(next) = self.info.get_mut(next as usize) {
            next.previous = previous;
        }
        self.info[index as usize] = FrameInfo { state: State::Inner, ..FrameInfo::default() };
        self.free_frames -= 1 << order;
    }
}

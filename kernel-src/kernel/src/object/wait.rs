//! Threads that wait for the same thing.

use super::thread::Thread;
use crate::{
    sched,
    sync::{List, Ref},
};

/// The queue kind of threads that wait.
pub struct Waiting;

/// A thread that ended while it waited stays listed until the next wake-up passes over it.
pub struct WaitList(List<Ref<Thread>, Waiting>);

impl WaitList {
    pub const fn new() -> Self {
        Self(List::new())
    }

    /// Lists the current thread, which from here on waits. The caller holds the lock that guards this list.
    pub fn wait(&mut self, thread: Ref<Thread>) {
        thread.begin_wait();
        self.0.push(thread);
    }

    pub fn wake_all(&mut self) {
        while let Some(thread) = self.0.pop() {
            sched::wake(thread);
        }
    }

    /// Takes out those for which `gone` is true, and gives them to `take` where they still wait.
    pub fn drop_where(&mut self, gone: impl Fn(&Thread) -> bool, take: impl Fn(&Ref<Thread>)) {
        let mut kept = List::new();
        while let Some(thread) = self.0.pop() {
            if !thread.is_waiting() {
                continue;
            }
            if gone(&thread) {
                take(&thread);
            } else {
                kept.push(thread);
            }
        }
        self.0 = kept;
    }

    /// The longest waiting thread that still waits.
    pub fn take_first(&mut self) -> Option<Ref<Thread>> {
        while let Some(thread) = self.0.pop() {
            if thread.is_waiting() {
                return Some(thread);
            }
        }
        None
    }
}

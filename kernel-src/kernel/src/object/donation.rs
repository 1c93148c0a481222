//! For whom a thread works: its time is theirs, and it is as urgent as they are.
//!
//! A call gives both along, and its answer gives them back, at no cost: who a server works for is what it owes, and the
//! callers on its CPU that owe in their turn. They are looked at where a CPU decides who runs, and nowhere else, so
//! whatever ends a call (an answer, a time-out, a cancel, a death) has ended the gift.

use super::fast::owes;
use super::thread::{Owed, Thread};
use crate::arch;
use crate::config::CHAIN_MAX;
use crate::percpu::PerCpu;
use core::sync::atomic::Ordering;

/// On whose time a thread runs, if not on its own, and how urgent it is: as it and those are for whom it works on its CPU,
/// and as the first was that is on another. For its CPU alone, of a thread that runs or was made ready there: what such
/// a thread owes nobody else writes, and neither what one owes that waits for its answer.
pub fn backing(thread: &Thread) -> (Option<&Thread>, u8) {
    let (mut head, mut urgency) = (None, thread.priority());
    for _ in 0..CHAIN_MAX {
        let Some(Owed { caller, .. }) = owes(head.unwrap_or(thread)).filter(|owed| owed.is_due()) else { break };
        if caller.home != thread.home {
            // It noted that when it called.
            return (head, urgency.max(caller.urgency()));
        }
        urgency = urgency.max(caller.priority());
        head = Some(&**caller);
    }
    (head, urgency)
}

/// Charges what has passed on this CPU since the last charge to whose time it is, and notes how urgent the current thread
/// is. Before anything that may end a call.
pub fn charge(cpu: &PerCpu, thread: &Thread) {
    let (head, urgency) = backing(thread);
    thread.urgency.store(urgency, Ordering::Relaxed);
    charge_to(cpu, head.unwrap_or(thread));
}

/// The same to a thread of which that is known.
#[inline(always)]
pub fn charge_to(cpu: &PerCpu, thread: &Thread) {
    let now = arch::timer::ticks();
    let passed = now.wrapping_sub(cpu.charged.replace(now));
    // Its own CPU alone charges a thread.
    thread.spent.store(thread.spent.load(Ordering::Relaxed).wrapping_add(passed), Ordering::Relaxed);
}

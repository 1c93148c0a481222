//! Pauses of pseudo-random length where another CPU may come between: at
//! entries, before locks are taken, around IPIs. The debug kernel makes them
//! when the command line gives a `seed`; the same seed, on a machine whose CPUs
//! take turns on one host thread, brings the same order of everything again.

use crate::config::TIME_SLICE_NS;
use crate::{arch, panic, percpu};
use core::sync::atomic::{AtomicU64, Ordering};

/// 0: no pauses.
static SEED: AtomicU64 = AtomicU64::new(0);

/// Most turns of a pause, and slices of time in one, are `1 << LONGEST`.
const LONGEST: u64 = 7;
/// About as long as a turn takes while the other CPUs sleep.
const TURN_NS: u64 = 1000;

/// How long a thread runs before its CPU looks round, `shared` if others wait for it; None: until something happens.
///
/// With a seed it is of any length, and comes also without need. For where CPUs take turns on one host thread (QEMU
/// with icount), one whose timer fires lets the others have theirs, which one that spins does not; and the others may
/// take 100 ms each between the moment that a slice begins and the thread's first instruction.
pub fn time_slice_ns(shared: bool) -> Option<u64> {
    if !cfg!(debug_assertions) || SEED.load(Ordering::Relaxed) == 0 {
        return shared.then_some(TIME_SLICE_NS);
    }
    Some(TIME_SLICE_NS << (draw() % (LONGEST + 1)))
}

/// From now on every CPU pauses by `seed`.
pub fn init(seed: u64) {
    SEED.store(seed, Ordering::Relaxed);
}

/// Gives other CPUs a chance to come between, one time in four; nothing in a release build.
pub fn pause() {
    let is_on = cfg!(debug_assertions) && SEED.load(Ordering::Relaxed) != 0 && !panic::stop_requested();
    let draw = if is_on { draw() } else { 1 };
    if !draw.is_multiple_of(4) {
        return;
    }
    let turns = 1 << ((draw >> 2) % (LONGEST + 1));
    let end = arch::timer::now().0 + turns * TURN_NS;
    // Where other CPUs spin, each turn takes them a slice.
    (0..turns).take_while(|_| arch::timer::now().0 <= end).for_each(|_| arch::cpu::relax());
}

/// The next number of this CPU's sequence: xorshift64 (Marsaglia, Xorshift RNGs, 2003, triple 13, 7, 17).
fn draw() -> u64 {
    let cpu = percpu::this();
    let mut state = cpu.jitter.get();
    if state == 0 {
        state = (SEED.load(Ordering::Relaxed) ^ (cpu.id.0 as u64) << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    cpu.jitter.set(state);
    state >> 40
}

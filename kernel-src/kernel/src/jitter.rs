//! Pauses of pseudo-random length where another CPU may come between: at
//! entries, before locks are taken, around IPIs. The debug kernel makes them
//! when the command line gives a `seed`; the same seed, on a machine whose CPUs
//! take turns on one host thread, brings the same order of everything again.

use crate::{arch, panic, percpu};
use core::sync::atomic::{AtomicU64, Ordering};

/// 0: no pauses.
static SEED: AtomicU64 = AtomicU64::new(0);

/// Most turns of a pause are `1 << LONGEST`.
const LONGEST: u64 = 7;

/// From now on every CPU pauses by `seed`.
pub fn init(seed: u64) {
    SEED.store(seed, Ordering::Relaxed);
}

/// Gives other CPUs a chance to come between, one time in four; nothing in a release build.
pub fn pause() {
    if cfg!(debug_assertions) {
        pause_by_seed();
    }
}

fn pause_by_seed() {
    let seed = SEED.load(Ordering::Relaxed);
    if seed == 0 || panic::stop_requested() {
        return;
    }
    let cpu = percpu::this();
    let mut state = cpu.jitter.get();
    if state == 0 {
        state = (seed ^ (cpu.id.0 as u64) << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    }
    // xorshift64: Marsaglia, Xorshift RNGs, 2003, triple (13, 7, 17).
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    cpu.jitter.set(state);
    let draw = state >> 40;
    if draw.is_multiple_of(4) {
        (0..1_u64 << (draw >> 2) % (LONGEST + 1)).for_each(|_| arch::cpu::relax());
    }
}

//! Numbers that look like chance, the same in each run: what a seed did once it does again.

use abi::Rights;

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016).
pub struct Random(u64);

impl Random {
    /// Any seed will do: the state, which must not be 0, is odd.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `limit`, which is not 0; from the upper bits, which are the better ones.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.word() >> 16) % limit
    }

    /// Any rights.
    pub fn rights(&mut self) -> Rights {
        Rights(self.below(Rights::ALL.0 + 1))
    }
}

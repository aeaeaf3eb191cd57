//! Chance that repeats: the same seed throws the same numbers on every machine, for ever.

/// SplitMix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `bound - 1`; `bound` is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.throw() % bound
    }

    /// True once in `n` throws.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `all`, or `None` if there is none.
    pub(crate) fn pick<T>(&mut self, mut all: impl ExactSizeIterator<Item = T>) -> Option<T> {
        let len = all.len();
        if len == 0 {
            return None;
        }
        let at = self.below(u64::try_from(len).expect("a length fits 64 bits"));
        all.nth(usize::try_from(at).expect("it is below a length"))
    }
}

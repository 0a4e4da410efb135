//! Randomness for simulations: one reproducible stream per concern.

use rand_core::Rng;
use rand_pcg::Pcg32;

/// A random stream. Equal seed and stream give equal draws, on every machine.
#[derive(Clone, Debug)]
pub struct Dice(Pcg32);

/// What a stream decides. Drawing more of one concern never shifts another's draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// What the clients do.
    Workload,
    /// Who runs next, and when messages arrive.
    Schedule,
    /// Bytes on connections: splits, delays, resets.
    Network,
    /// In which order a disk completes its operations.
    DiskOrder,
    /// Which operations of a disk go wrong.
    DiskFaults,
    /// What of an unfinished write a power cut leaves behind.
    PowerCut,
    /// Generations and seeds handed to the code under test.
    Product,
    /// Sizes and limits that the code under test is configured with.
    Config,
}

impl Dice {
    /// The stream of `concern` under `seed`.
    #[must_use]
    pub fn new(seed: u64, concern: Stream) -> Self {
        // PCG keeps streams apart by its increment; the concern's number selects it.
        Self(Pcg32::new(seed, concern as u64))
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`, which is positive. Biased by less than 2^-32 for the ends used here.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "nothing lies below zero");
        self.bits() % end
    }

    /// A number from `first` to `last`, both included.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// An index into something of `count` entries.
    pub fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).expect("an index below a usize")
    }

    /// True once in `one_in` draws; never for 0.
    pub fn one_in(&mut self, one_in: u32) -> bool {
        one_in > 0 && self.below(u64::from(one_in)) == 0
    }

    /// True or false, evenly.
    pub fn coin(&mut self) -> bool {
        self.bits() & 1 == 1
    }

    /// One of `choices`, evenly.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_by_seed_and_differ_by_concern() {
        let draws = |seed, concern| -> Vec<u64> {
            let mut dice = Dice::new(seed, concern);
            (0..8).map(|_| dice.bits()).collect()
        };
        assert_eq!(draws(7, Stream::Workload), draws(7, Stream::Workload));
        assert_ne!(draws(7, Stream::Workload), draws(7, Stream::Schedule));
        assert_ne!(draws(7, Stream::Workload), draws(8, Stream::Workload));
    }
}

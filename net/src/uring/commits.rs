//! The commits that the disk has, and how soon the next may end.
//!
//! No commit ends much sooner than the quickest of the last ones. A driver that knows it need not
//! look for the end before.

use std::collections::VecDeque;

use millrace_storage::units::BootTime;

/// Commits on their way, and how long the quick ones take.
#[derive(Debug, Default)]
pub struct Commits {
    /// When each was handed to the kernel, oldest first. Which of them ended is not asked: they are
    /// acknowledged in order.
    begun: VecDeque<BootTime>,
    /// About what the quickest ninth of the last commits took, ns; 0 until one has ended.
    soon_ns: u64,
}

/// A quick commit takes a step of this part of `soon_ns` down, another one an eighth of it up: the
/// steps balance where one in nine is quick.
const STEP: u64 = 32;

impl Commits {
    /// One was handed to the kernel.
    pub fn begin(&mut self, now: BootTime) {
        self.begun.push_back(now);
    }

    /// One ended.
    pub fn end(&mut self, now: BootTime) {
        let begun = self.begun.pop_front().expect("what ends was begun");
        let took_ns = now.since_ns(begun);
        let step = self.soon_ns.div_ceil(STEP);
        self.soon_ns = match self.soon_ns {
            0 => took_ns,
            soon_ns if took_ns < soon_ns => soon_ns - step,
            soon_ns => soon_ns + step.div_ceil(8),
        };
    }

    /// Whether there is any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    /// How long it takes until the oldest may end, ns; 0 without one, or if it may end already.
    #[must_use]
    pub fn ends_in_ns(&self, now: BootTime) -> u64 {
        let age_ns = |begun: &BootTime| now.since_ns(*begun);
        let oldest_ns = self.begun.front().map_or(u64::MAX, age_ns);
        self.soon_ns.saturating_sub(oldest_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_us(us: u64) -> BootTime {
        BootTime(us * 1_000)
    }

    #[test]
    fn the_quickest_ninth_tells_how_soon_a_commit_ends() {
        let mut commits = Commits::default();
        assert_eq!(commits.ends_in_ns(at_us(0)), 0);
        for turn in 0..10_000 {
            let begun = turn * 1_000;
            let took = if turn % 5 == 0 { 120 } else { 300 };
            commits.begin(at_us(begun));
            commits.end(at_us(begun + took));
        }
        commits.begin(at_us(0));
        let ends_in = commits.ends_in_ns(at_us(0)) / 1_000;
        assert!((110..=140).contains(&ends_in), "{ends_in} us");
        assert_eq!(commits.ends_in_ns(at_us(200)), 0);
    }

    #[test]
    fn the_oldest_is_the_next_to_end() {
        let mut commits = Commits::default();
        commits.begin(at_us(0));
        commits.end(at_us(100));
        assert!(commits.is_empty());
        commits.begin(at_us(1_000));
        commits.begin(at_us(1_080));
        assert_eq!(commits.ends_in_ns(at_us(1_080)), 20_000);
        commits.end(at_us(1_100));
        assert!(!commits.is_empty());
        assert!(commits.ends_in_ns(at_us(1_100)) > 75_000);
    }
}

//! Whether it pays to wait awake.
//!
//! Who spins sees what comes a wake-up earlier, and burns a core that somebody else may need until
//! it does. So a driver spins where most of its last waits ended within the time that it would spin
//! for, and sleeps at once where they did not, as halt polling in hypervisors does. A wait that it
//! slept through is judged too, by how long it took: no spin is needed to find out that spinning
//! would pay again.

use std::time::Duration;

/// What waking from a sleep takes: a wait that ended within a spin's limit takes this much longer
/// asleep. 40 to 50 µs were measured between two cores.
const WAKING: Duration = Duration::from_micros(50);

/// Scale of [`Spin::paid`].
const ALWAYS: u32 = 1 << 16;

/// The last wait's weight among all: the last 16 decide.
const LAST: u32 = ALWAYS / 16;

/// The share of waits that must end within the limit. A spin in vain costs its whole limit, one
/// that pays saves two switches of tasks and the waking.
const ENOUGH: u32 = ALWAYS / 4 * 3;

/// One kind of wait.
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    /// How long to spin at most; zero: never.
    limit: Duration,
    /// How many of the last waits ended within `limit`, of [`ALWAYS`].
    paid: u32,
}

impl Spin {
    /// Spins for `limit` until it turns out not to pay.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            paid: ALWAYS,
        }
    }

    /// How long to spin before sleeping.
    #[must_use]
    pub fn worth(&self) -> Duration {
        if self.paid >= ENOUGH {
            self.limit
        } else {
            Duration::ZERO
        }
    }

    /// A wait ended after `waited`, the last part of it asleep or not.
    pub fn record(&mut self, waited: Duration, slept: bool) {
        let waking = if slept { WAKING } else { Duration::ZERO };
        let in_time = waited <= self.limit.saturating_add(waking);
        self.paid -= self.paid / (ALWAYS / LAST);
        if in_time {
            self.paid += LAST;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(200);

    #[test]
    fn what_takes_longer_than_the_limit_is_slept_through() {
        let mut spin = Spin::new(LIMIT);
        assert_eq!(spin.worth(), LIMIT);
        for _ in 0..16 {
            spin.record(LIMIT * 3, true);
        }
        assert_eq!(spin.worth(), Duration::ZERO);
    }

    #[test]
    fn sleeps_that_were_short_bring_the_spin_back() {
        let mut spin = Spin::new(LIMIT);
        for _ in 0..100 {
            spin.record(LIMIT * 3, true);
        }
        for _ in 0..32 {
            spin.record(LIMIT + WAKING, true);
        }
        assert_eq!(spin.worth(), LIMIT);
    }

    #[test]
    fn one_wait_in_five_may_be_long() {
        let mut spin = Spin::new(LIMIT);
        for wait in 0..1_000 {
            let waited = if wait % 5 == 0 { LIMIT * 3 } else { LIMIT / 2 };
            spin.record(waited, false);
            assert_eq!(spin.worth(), LIMIT, "after {wait}");
        }
    }

    #[test]
    fn a_limit_without_end_is_always_worth_it_and_none_never() {
        let mut always = Spin::new(Duration::from_secs(3_600));
        let mut never = Spin::new(Duration::ZERO);
        for _ in 0..100 {
            always.record(Duration::from_secs(60), true);
            never.record(Duration::ZERO, false);
        }
        assert_eq!(always.worth(), Duration::from_secs(3_600));
        assert_eq!(never.worth(), Duration::ZERO);
    }
}

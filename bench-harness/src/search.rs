//! The search for the highest rate whose p99 stays below a bound: which rate to try next.
//!
//! A closed loop's peak gives the scale. From a rate below it the search doubles or halves until
//! the answer lies between two rates, then halves their ratio until they are close.

use serde::{Deserialize, Serialize};

/// Rates whose ratio is below this are the same answer.
const RATIO_CLOSE: f64 = 1.05;
/// Most probes, whatever they bring.
const PROBES_MAX: usize = 16;
/// First rate tried, as a share of the closed loop's peak.
const FIRST_SHARE: f64 = 0.5;
/// Highest rate worth trying, as a multiple of that peak.
const HIGHEST_SHARE: f64 = 2.0;
/// What is taken off a rate that did not hold for the whole duration.
const BACK_OFF: f64 = 0.9;
/// How often a rate is taken back before the answer is that none was confirmed.
const CONFIRMATIONS_MAX: usize = 4;

/// What one rate brought.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Probe {
    pub(crate) rate_per_s: u64,
    /// Of what the bound is about.
    pub(crate) p99_us: f64,
    /// Messages acknowledged, or arrived, within the time.
    pub(crate) achieved_per_s: f64,
    /// Whether the p99 stayed below the bound.
    pub(crate) holds: bool,
    /// Why the generator may have been what the rate was too high for.
    pub(crate) generator: Option<String>,
}

/// A whole search, for the report.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct FindMax {
    pub(crate) p99_max_ms: u64,
    /// What a closed loop did: where the search began.
    pub(crate) closed_loop_per_s: f64,
    pub(crate) probes: Vec<Probe>,
    /// The highest rate that held for the whole duration.
    pub(crate) confirmed_per_s: Option<u64>,
    /// Whether the lowest rate that was too high was so for the generator.
    pub(crate) generator_limited: bool,
}

/// A search under way.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    /// Highest rate that held.
    holds: Option<u64>,
    /// Lowest rate that did not.
    fails: Option<u64>,
    highest: u64,
    first: u64,
    probes: usize,
    confirmations: usize,
}

impl Search {
    pub(crate) fn new(closed_loop_per_s: f64) -> Self {
        Self {
            holds: None,
            fails: None,
            highest: rate(closed_loop_per_s * HIGHEST_SHARE),
            first: rate(closed_loop_per_s * FIRST_SHARE),
            probes: 0,
            confirmations: 0,
        }
    }

    /// The next rate to probe; `None` when the answer is as good as it gets.
    pub(crate) fn next(&self) -> Option<u64> {
        if self.probes >= PROBES_MAX {
            return None;
        }
        match (self.holds, self.fails) {
            (None, None) => Some(self.first),
            (None, Some(fails)) => (fails > 1).then_some(fails / 2),
            (Some(holds), None) => (holds < self.highest).then(|| (holds * 2).min(self.highest)),
            (Some(holds), Some(fails)) => {
                let middle = rate((holds as f64 * fails as f64).sqrt());
                let is_close = fails as f64 / (holds as f64) < RATIO_CLOSE;
                (!is_close && middle > holds && middle < fails).then_some(middle)
            }
        }
    }

    /// Notes what a probe brought.
    pub(crate) fn note(&mut self, rate_per_s: u64, holds: bool) {
        self.probes += 1;
        if holds {
            self.holds = self.holds.max(Some(rate_per_s));
        } else {
            let lowest = self.fails.map_or(rate_per_s, |fails| fails.min(rate_per_s));
            self.fails = Some(lowest);
        }
    }

    /// The rate to confirm for the whole duration.
    pub(crate) fn found(&self) -> Option<u64> {
        self.holds
    }

    /// Notes that the found rate did not hold for the whole duration; `false` ends the attempts.
    pub(crate) fn take_back(&mut self) -> bool {
        self.confirmations += 1;
        self.holds = self.holds.map(|holds| rate(holds as f64 * BACK_OFF));
        self.confirmations < CONFIRMATIONS_MAX
    }
}

/// A rate that can be scheduled.
fn rate(per_s: f64) -> u64 {
    (per_s as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a broker that holds up to `limit`.
    fn search(closed_loop_per_s: f64, limit: u64) -> (Option<u64>, usize) {
        let mut search = Search::new(closed_loop_per_s);
        while let Some(rate) = search.next() {
            search.note(rate, rate <= limit);
        }
        (search.found(), search.probes)
    }

    #[test]
    fn the_limit_is_found_closely_wherever_it_lies() {
        for limit in [40, 1_000, 30_000, 49_999, 50_000, 90_000, 150_000] {
            let (found, probes) = search(100_000.0, limit);
            let found = found.expect("some rate holds");
            assert!(found <= limit, "{found} of {limit}");
            assert!(found as f64 * 1.1 >= limit as f64, "{found} of {limit}");
            assert!(probes <= PROBES_MAX, "{probes}");
        }
    }

    #[test]
    fn a_broker_that_always_holds_is_not_asked_for_ever() {
        let (found, probes) = search(1_000.0, u64::MAX);
        assert_eq!((found, probes), (Some(2_000), 3));
    }

    #[test]
    fn a_broker_that_never_holds_has_no_rate() {
        let (found, probes) = search(1_000.0, 0);
        assert_eq!(found, None);
        assert!(probes <= PROBES_MAX);
        assert_eq!(search(0.0, 0).0, None, "nor has one that answers nothing");
    }

    #[test]
    fn a_rate_that_does_not_last_is_taken_back_some_times() {
        let mut search = Search::new(1_000.0);
        search.note(500, true);
        assert!(search.take_back());
        assert_eq!(search.found(), Some(450));
        assert!(search.take_back() && search.take_back() && !search.take_back());
    }
}

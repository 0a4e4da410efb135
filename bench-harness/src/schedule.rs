//! When each message is due: an open loop's promise, made before the run and kept in integers.
//!
//! The run's messages are numbered from 0 and due at `start + number * 1 s / rate`, each rounded
//! down by itself, so nothing drifts. Message `number` belongs to stream `number % streams`.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Nanoseconds of a second.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// The one clock of a run: nanoseconds since its beginning, the same on every thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("a run lasts less than 584 years")
    }
}

/// Squeezes each period's messages into its beginning; the mean rate stays.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Burst {
    /// More than 0, at most `period_ns`.
    pub(crate) on_ns: u64,
    pub(crate) period_ns: u64,
}

impl Burst {
    /// When what an even schedule would do `even_ns` after the start is due instead.
    fn squeeze(&self, even_ns: u64) -> u64 {
        let (period, into) = (even_ns / self.period_ns, even_ns % self.period_ns);
        let squeezed = u128::from(into) * u128::from(self.on_ns) / u128::from(self.period_ns);
        period * self.period_ns + u64::try_from(squeezed).expect("less than a period")
    }

    /// The last even moment that is squeezed to `squeezed_ns` or earlier.
    fn stretch(&self, squeezed_ns: u64) -> u64 {
        let (period, into) = (squeezed_ns / self.period_ns, squeezed_ns % self.period_ns);
        // floor(even * on / period) <= into  <=>  even * on < (into + 1) * period
        let bound = (u128::from(into) + 1) * u128::from(self.period_ns);
        let even = (bound - 1) / u128::from(self.on_ns);
        let even = even.min(u128::from(self.period_ns) - 1);
        period * self.period_ns + u64::try_from(even).expect("less than a period")
    }
}

/// One stream's share of an open loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// When the run's message 0 is due, on the run's clock.
    start_ns: u64,
    /// Messages per second over all streams; not 0.
    rate_per_s: u64,
    streams: u64,
    /// `< streams`.
    stream: u64,
    burst: Option<Burst>,
}

impl Schedule {
    pub(crate) fn new(start_ns: u64, rate_per_s: u64, streams: u32, stream: u32) -> Self {
        assert!(rate_per_s > 0, "a closed loop has no schedule");
        assert!(stream < streams, "a stream is one of them");
        Self {
            start_ns,
            rate_per_s,
            streams: streams.into(),
            stream: stream.into(),
            burst: None,
        }
    }

    pub(crate) fn with_burst(self, burst: Option<Burst>) -> Self {
        Self { burst, ..self }
    }

    /// When the stream's message `sequence` is due.
    pub(crate) fn due_ns(&self, sequence: u64) -> u64 {
        self.due_from(sequence).next_ns()
    }

    /// When the stream's messages from `sequence` on are due, one after the other.
    pub(crate) fn due_from(&self, sequence: u64) -> DueTimes {
        let number = u128::from(sequence) * u128::from(self.streams) + u128::from(self.stream);
        let scaled = number * u128::from(SECOND_NS);
        let rate = u128::from(self.rate_per_s);
        let step = self.streams * SECOND_NS;
        DueTimes {
            start_ns: self.start_ns,
            even_ns: u64::try_from(scaled / rate).expect("a run lasts less than 584 years"),
            remainder: u64::try_from(scaled % rate).expect("less than the rate"),
            step_ns: step / self.rate_per_s,
            step_remainder: step % self.rate_per_s,
            rate_per_s: self.rate_per_s,
            burst: self.burst,
        }
    }

    /// How many of the stream's messages are due at `now_ns` or earlier.
    pub(crate) fn due_by(&self, now_ns: u64) -> u64 {
        let Some(elapsed_ns) = now_ns.checked_sub(self.start_ns) else {
            return 0;
        };
        let elapsed_ns = self
            .burst
            .map_or(elapsed_ns, |burst| burst.stretch(elapsed_ns));
        // floor(n * second / rate) <= elapsed  <=>  n * second < (elapsed + 1) * rate
        let bound = (u128::from(elapsed_ns) + 1) * u128::from(self.rate_per_s);
        let numbers = bound.div_ceil(u128::from(SECOND_NS));
        let own = numbers
            .saturating_sub(self.stream.into())
            .div_ceil(self.streams.into());
        u64::try_from(own).expect("a run lasts less than 584 years")
    }
}

/// Due times of one stream's messages in a row, by addition alone: a division for each would cost
/// more than recording its latency.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DueTimes {
    start_ns: u64,
    /// When the next message would be due without bursts, from the start; rounded down.
    even_ns: u64,
    /// What the rounding dropped, in nanoseconds by `rate_per_s`; `< rate_per_s`.
    remainder: u64,
    step_ns: u64,
    step_remainder: u64,
    rate_per_s: u64,
    burst: Option<Burst>,
}

impl DueTimes {
    /// When the next message is due.
    #[inline]
    pub(crate) fn next_ns(&mut self) -> u64 {
        let after_ns = match &self.burst {
            None => self.even_ns,
            Some(burst) => burst.squeeze(self.even_ns),
        };
        self.even_ns += self.step_ns;
        self.remainder += self.step_remainder;
        if self.remainder >= self.rate_per_s {
            self.remainder -= self.rate_per_s;
            self.even_ns += 1;
        }
        self.start_ns + after_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_evenly_without_drift() {
        let schedule = Schedule::new(50, 3, 1, 0);
        let due: Vec<u64> = (0..4).map(|sequence| schedule.due_ns(sequence)).collect();
        assert_eq!(due, [50, 333_333_383, 666_666_716, 1_000_000_050]);
        assert_eq!(schedule.due_ns(3 * 86_400), 50 + 86_400 * SECOND_NS);
    }

    #[test]
    fn streams_share_the_rate_in_turn() {
        let due = |stream| Schedule::new(0, 1000, 4, stream).due_ns(1);
        assert_eq!(
            [due(0), due(1), due(2), due(3)],
            [4_000_000, 5_000_000, 6_000_000, 7_000_000]
        );
    }

    #[test]
    fn what_is_due_agrees_with_when_it_is_due() {
        for (rate, streams) in [(1, 1), (3, 2), (7, 5), (999_983, 3), (1_000_000_007, 4)] {
            for stream in 0..streams {
                let schedule = Schedule::new(1_000, rate, streams, stream);
                for sequence in 0..50 {
                    let due_ns = schedule.due_ns(sequence);
                    assert!(schedule.due_by(due_ns) > sequence, "due when it is due");
                    let before = schedule.due_by(due_ns - 1);
                    assert!(before <= sequence, "not due {rate}/s before {due_ns}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_due_before_the_start() {
        let schedule = Schedule::new(1_000, 10, 1, 0);
        assert_eq!(
            (
                schedule.due_by(0),
                schedule.due_by(999),
                schedule.due_by(1_000)
            ),
            (0, 0, 1)
        );
    }

    #[test]
    fn times_in_a_row_are_the_times_one_by_one() {
        for (rate, streams) in [(1, 1), (3, 2), (7, 5), (999_983, 3), (1_000_000_007, 4)] {
            let schedule = Schedule::new(99, rate, streams, streams - 1);
            for first in [0, 1, 12_345] {
                let mut times = schedule.due_from(first);
                for sequence in first..first + 100 {
                    assert_eq!(times.next_ns(), schedule.due_ns(sequence), "{rate}/s");
                }
            }
        }
    }

    #[test]
    fn a_burst_keeps_the_mean_rate_and_squeezes_each_period() {
        let burst = Burst {
            on_ns: 100_000_000,
            period_ns: SECOND_NS,
        };
        let schedule = Schedule::new(0, 1_000, 1, 0).with_burst(Some(burst));
        for second in 0..3 {
            let begin_ns = second * SECOND_NS;
            assert_eq!(schedule.due_by(begin_ns), second * 1_000 + 1);
            assert_eq!(schedule.due_by(begin_ns + 50_000_000), second * 1_000 + 501);
            for ns in [100_000_000, 500_000_000, SECOND_NS - 1] {
                assert_eq!(schedule.due_by(begin_ns + ns), (second + 1) * 1_000);
            }
        }
        assert_eq!(schedule.due_ns(1_500), SECOND_NS + 50_000_000);
    }

    #[test]
    fn a_bursts_schedule_agrees_with_itself() {
        for (on_ns, period_ns) in [(1, 7), (7, 7), (333_333_333, 999_999_999), (1, SECOND_NS)] {
            let burst = Burst { on_ns, period_ns };
            for rate in [1, 7, 999_983, 1_000_000_007] {
                let schedule = Schedule::new(1_000, rate, 2, 1).with_burst(Some(burst));
                for sequence in 0..50 {
                    let due_ns = schedule.due_ns(sequence);
                    assert!(schedule.due_by(due_ns) > sequence, "due when it is due");
                    let before = schedule.due_by(due_ns - 1);
                    assert!(
                        before <= sequence,
                        "{burst:?}, {rate}/s: not before {due_ns}"
                    );
                }
            }
        }
    }
}

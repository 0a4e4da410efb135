//! When each message is due: an open loop's promise, made before the run and kept in integers.
//!
//! The run's messages are numbered from 0 and due at `start + number * 1 s / rate`, each rounded
//! down by itself, so nothing drifts. Message `number` belongs to stream `number % streams`.

use std::time::Instant;

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
        }
    }

    /// When the stream's message `sequence` is due.
    pub(crate) fn due_ns(&self, sequence: u64) -> u64 {
        let number = u128::from(sequence) * u128::from(self.streams) + u128::from(self.stream);
        let after_ns = number * u128::from(SECOND_NS) / u128::from(self.rate_per_s);
        self.start_ns + u64::try_from(after_ns).expect("a run lasts less than 584 years")
    }

    /// How many of the stream's messages are due at `now_ns` or earlier.
    pub(crate) fn due_by(&self, now_ns: u64) -> u64 {
        let Some(elapsed_ns) = now_ns.checked_sub(self.start_ns) else {
            return 0;
        };
        // floor(n * second / rate) <= elapsed  <=>  n * second < (elapsed + 1) * rate
        let bound = (u128::from(elapsed_ns) + 1) * u128::from(self.rate_per_s);
        let numbers = bound.div_ceil(u128::from(SECOND_NS));
        let own = numbers
            .saturating_sub(self.stream.into())
            .div_ceil(self.streams.into());
        u64::try_from(own).expect("a run lasts less than 584 years")
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
}

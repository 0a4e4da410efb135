//! Latency histograms and counters of one thread, merged when the run ends.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::client::Refusal;

/// Longest latency told apart; longer ones count as this.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
/// Figures are good to one part in a thousand.
const SIGNIFICANT_DIGITS: u8 = 3;

/// One latency distribution, in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    histogram: Histogram<u64>,
}

impl Latency {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants that hdrhistogram accepts");
        Self { histogram }
    }

    pub(crate) fn record(&mut self, latency_ns: u64, count: u64) {
        self.histogram.saturating_record_n(latency_ns.max(1), count);
    }

    /// Records latencies of which neighbours are often equal to the histogram's precision, and
    /// calls `each` with every run of them: messages of one batch, due one after the other.
    pub(crate) fn record_runs(
        &mut self,
        latencies_ns: impl Iterator<Item = u64>,
        mut each: impl FnMut(u64, u64),
    ) {
        let (mut low_ns, mut high_ns, mut count) = (1, 0, 0);
        for latency_ns in latencies_ns {
            if (low_ns..=high_ns).contains(&latency_ns) {
                count += 1;
                continue;
            }
            if count > 0 {
                self.record(low_ns, count);
                each(low_ns, count);
            }
            let bounded_ns = latency_ns.clamp(1, LATENCY_NS_MAX);
            low_ns = self.histogram.lowest_equivalent(bounded_ns);
            high_ns = self.histogram.highest_equivalent(bounded_ns);
            count = 1;
        }
        if count > 0 {
            self.record(low_ns, count);
            each(low_ns, count);
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.histogram
            .add(&other.histogram)
            .expect("all histograms have the same bounds");
    }

    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub(crate) fn mean_ns(&self) -> f64 {
        self.histogram.mean()
    }

    pub(crate) fn max_ns(&self) -> u64 {
        self.histogram.max()
    }

    pub(crate) fn min_ns(&self) -> u64 {
        if self.histogram.is_empty() {
            0
        } else {
            self.histogram.min()
        }
    }

    /// The value that `quantile` of all values do not exceed.
    pub(crate) fn quantile_ns(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }

    /// Every recorded value with its count, in order: the whole histogram.
    pub(crate) fn buckets(&self) -> Vec<[u64; 2]> {
        let recorded = self.histogram.iter_recorded();
        recorded
            .map(|step| [step.value_iterated_to(), step.count_since_last_iteration()])
            .collect()
    }
}

/// The value that `quantile` of a histogram's values do not exceed; its pairs of value and count
/// rise. 0 without any.
pub(crate) fn quantile_of(histogram: &[[u64; 2]], quantile: f64) -> u64 {
    let total: u64 = histogram.iter().map(|[_, count]| count).sum();
    let wanted = (total as f64 * quantile).ceil() as u64;
    let mut below = 0;
    let found = histogram.iter().find(|[_, count]| {
        below += count;
        below >= wanted.max(1)
    });
    found.map_or(0, |[value, _]| *value)
}

/// The part of a run that counts, on the run's clock; before it is warm-up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) start_ns: u64,
    /// Exclusive.
    pub(crate) end_ns: u64,
}

impl Window {
    pub(crate) fn contains(&self, at_ns: u64) -> bool {
        (self.start_ns..self.end_ns).contains(&at_ns)
    }
}

/// Messages and their bytes that went one way inside the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) messages: u64,
    /// Message values only, without any protocol's overhead.
    pub(crate) bytes: u64,
    /// When the last of them arrived, on the run's clock.
    pub(crate) last_ns: u64,
}

impl Flow {
    pub(crate) fn add(&mut self, messages: u64, bytes: u64, at_ns: u64) {
        self.messages += messages;
        self.bytes += bytes;
        self.last_ns = self.last_ns.max(at_ns);
    }

    fn merge(&mut self, other: &Self) {
        self.add(other.messages, other.bytes, other.last_ns);
    }
}

/// What one thread measures.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    /// From when a message was due to its acknowledgement.
    pub(crate) ack: Latency,
    /// From when a message was due to its arrival at a consumer.
    pub(crate) delivery: Latency,
    /// From a fetch request that found messages to its reply.
    pub(crate) fetch: Latency,
    /// How late the generator itself was with a batch that nothing else held up.
    pub(crate) late: Latency,
    pub(crate) acked: Flow,
    pub(crate) delivered: Flow,
    /// Bytes of batches acknowledged in the whole run, warm-up included.
    pub(crate) accepted_bytes: u64,
    /// Messages whose reply never came; counted in `ack` at the age they had reached.
    pub(crate) unanswered: u64,
    /// Acknowledged offsets that did not rise within one connection and partition.
    pub(crate) offsets_not_rising: u64,
    /// Refused messages or fetches, by what was asked and the broker's answer.
    pub(crate) refused: BTreeMap<(&'static str, Refusal), u64>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            ack: Latency::new(),
            delivery: Latency::new(),
            fetch: Latency::new(),
            late: Latency::new(),
            acked: Flow::default(),
            delivered: Flow::default(),
            accepted_bytes: 0,
            unanswered: 0,
            offsets_not_rising: 0,
            refused: BTreeMap::new(),
        }
    }

    pub(crate) fn refuse(&mut self, request: &'static str, refusal: Refusal, count: u64) {
        *self.refused.entry((request, refusal)).or_default() += count;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.ack.merge(&other.ack);
        self.delivery.merge(&other.delivery);
        self.fetch.merge(&other.fetch);
        self.late.merge(&other.late);
        self.acked.merge(&other.acked);
        self.delivered.merge(&other.delivered);
        self.accepted_bytes += other.accepted_bytes;
        self.unanswered += other.unanswered;
        self.offsets_not_rising += other.offsets_not_rising;
        for ((request, refusal), count) in &other.refused {
            self.refuse(request, *refusal, *count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_histograms_answer_as_one() {
        let (mut left, mut right) = (Latency::new(), Latency::new());
        left.record(1_000, 90);
        right.record(1_000_000, 9);
        right.record(50_000_000, 1);
        left.merge(&right);
        assert_eq!(left.count(), 100);
        let close = |found: u64, wanted: u64| found.abs_diff(wanted) <= wanted / 500;
        assert!(close(left.quantile_ns(0.5), 1_000));
        assert!(close(left.quantile_ns(0.99), 1_000_000));
        assert!(close(left.max_ns(), 50_000_000));
        let counted: u64 = left.buckets().iter().map(|[_, count]| count).sum();
        assert_eq!(counted, 100);
    }

    #[test]
    fn runs_of_latencies_are_recorded_as_one_by_one() {
        let latencies = (0..5_000u64).map(|n| n * n * 7).chain([3, 3, u64::MAX, 4]);
        let (mut runs, mut single) = (Latency::new(), Latency::new());
        let mut counted = 0;
        runs.record_runs(latencies.clone(), |_, count| counted += count);
        latencies.for_each(|latency_ns| single.record(latency_ns, 1));
        assert_eq!((runs.buckets(), counted), (single.buckets(), 5_004));
    }

    #[test]
    fn a_latency_past_the_longest_counts_as_the_longest() {
        let mut latency = Latency::new();
        latency.record(u64::MAX, 3);
        latency.record(0, 1);
        assert_eq!((latency.count(), latency.min_ns()), (4, 1));
        assert!(latency.max_ns() >= LATENCY_NS_MAX);
    }

    #[test]
    fn pairs_have_the_quantiles_of_what_they_count() {
        let pairs = [[10, 50], [20, 49], [30, 1]];
        let found = [0.0, 0.5, 0.51, 0.99, 0.991, 1.0].map(|q| quantile_of(&pairs, q));
        assert_eq!(found, [10, 10, 20, 20, 30, 30]);
        assert_eq!(quantile_of(&[], 0.5), 0);
    }

    #[test]
    fn the_window_is_end_exclusive() {
        let window = Window {
            start_ns: 10,
            end_ns: 20,
        };
        let inside = [9, 10, 19, 20].map(|at_ns| window.contains(at_ns));
        assert_eq!(inside, [false, true, true, false]);
    }

    #[test]
    fn merged_recorders_add_up() {
        let refusal = Refusal {
            code: 7,
            name: "REQUEST_TIMED_OUT",
        };
        let mut left = Recorder::new();
        left.acked.add(10, 1_000, 5);
        left.refuse("append", refusal, 2);
        let mut right = left.clone();
        right.acked.add(1, 100, 9);
        left.merge(&right);
        assert_eq!(
            left.acked,
            Flow {
                messages: 21,
                bytes: 2_100,
                last_ns: 9
            }
        );
        assert_eq!(left.refused[&("append", refusal)], 4);
    }
}

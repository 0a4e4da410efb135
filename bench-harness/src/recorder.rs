//! Latency histograms and counters of one thread, merged when the run ends, and the small live
//! counters that the progress line reads meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// How late the generator itself woke for a message that nothing else held up.
    pub(crate) wake: Latency,
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
            wake: Latency::new(),
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
        self.wake.merge(&other.wake);
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

/// Buckets of [`Live::latencies`]: eight to a power of two, good to 12%.
const LIVE_BUCKETS: usize = 64 * 8;

/// What the progress line needs of one thread while it runs. Each field has one writer; the reader
/// may see them some messages apart.
pub(crate) struct Live {
    pub(crate) acked: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// Requests sent and not yet answered.
    pub(crate) in_flight: AtomicU64,
    latencies: [AtomicU64; LIVE_BUCKETS],
}

impl Live {
    pub(crate) fn new() -> Self {
        Self {
            acked: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            latencies: [const { AtomicU64::new(0) }; LIVE_BUCKETS],
        }
    }

    pub(crate) fn record(&self, latency_ns: u64, count: u64) {
        self.latencies[live_bucket(latency_ns)].fetch_add(count, Ordering::Relaxed);
    }

    /// The latency that 99% of all threads' messages do not exceed, or `None` without any.
    pub(crate) fn p99_ns<'a>(threads: impl Iterator<Item = &'a Self>) -> Option<u64> {
        let mut buckets = [0u64; LIVE_BUCKETS];
        for live in threads {
            for (sum, bucket) in buckets.iter_mut().zip(&live.latencies) {
                *sum += bucket.load(Ordering::Relaxed);
            }
        }
        let total: u64 = buckets.iter().sum();
        let above_max = total / 100;
        let mut above = 0;
        let worst = buckets.iter().enumerate().rev().find(|(_, count)| {
            above += **count;
            above > above_max
        });
        worst.map(|(bucket, _)| live_bucket_end_ns(bucket))
    }
}

fn live_bucket(latency_ns: u64) -> usize {
    let bounded = latency_ns.max(8);
    let exponent = bounded.ilog2();
    let eighth = (bounded >> (exponent - 3)) & 7;
    usize::try_from(u64::from(exponent) * 8 + eighth).expect("below LIVE_BUCKETS")
}

/// Largest latency that falls into the bucket.
fn live_bucket_end_ns(bucket: usize) -> u64 {
    let bucket = u64::try_from(bucket).expect("below LIVE_BUCKETS");
    let (exponent, eighth) = (bucket / 8, bucket % 8);
    let end = (u128::from(9 + eighth) << exponent) / 8 - 1;
    u64::try_from(end).unwrap_or(u64::MAX)
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
    fn a_latency_past_the_longest_counts_as_the_longest() {
        let mut latency = Latency::new();
        latency.record(u64::MAX, 3);
        latency.record(0, 1);
        assert_eq!((latency.count(), latency.min_ns()), (4, 1));
        assert!(latency.max_ns() >= LATENCY_NS_MAX);
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

    #[test]
    fn live_buckets_are_tight_and_in_order() {
        let mut previous = 0;
        for latency_ns in [8, 9, 100, 1_000, 123_456, 7_000_000, 1 << 40, u64::MAX] {
            let bucket = live_bucket(latency_ns);
            let end = live_bucket_end_ns(bucket);
            assert!(
                bucket >= previous && end >= latency_ns,
                "{latency_ns}: {end}"
            );
            assert!(end - latency_ns <= latency_ns / 8, "{latency_ns}: {end}");
            previous = bucket;
        }
    }

    #[test]
    fn the_live_p99_spans_threads() {
        let (left, right) = (Live::new(), Live::new());
        assert_eq!(Live::p99_ns([&left, &right].into_iter()), None);
        left.record(1_000, 980);
        right.record(1_000_000, 20);
        let p99 = Live::p99_ns([&left, &right].into_iter()).expect("recorded");
        assert!((1_000_000..1_130_000).contains(&p99), "{p99}");
    }
}

//! What the main thread sees of a generator thread while it runs: counters, and latencies in
//! buckets fine enough for a progress line and for figures of each second.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets to a power of two, as a power of two: a figure is at most 1/32 too high.
const SPLIT_BITS: u32 = 5;
const SPLIT: usize = 1 << SPLIT_BITS;
const BUCKETS: usize = 64 << SPLIT_BITS;

/// One thread's counters. Each has one writer, so that adding needs no locked instruction; the
/// reader may see them some messages apart.
pub(crate) struct Live {
    pub(crate) acked: Counter,
    pub(crate) delivered: Counter,
    pub(crate) refused: Counter,
    /// Requests sent and requests answered.
    pub(crate) requested: Counter,
    pub(crate) answered: Counter,
    /// From when a message was due to its acknowledgement, inside the window.
    pub(crate) ack: LiveLatency,
    /// The same to its arrival.
    pub(crate) delivery: LiveLatency,
}

impl Live {
    pub(crate) fn new() -> Self {
        Self {
            acked: Counter::new(),
            delivered: Counter::new(),
            refused: Counter::new(),
            requested: Counter::new(),
            answered: Counter::new(),
            ack: LiveLatency::new(),
            delivery: LiveLatency::new(),
        }
    }
}

/// A number that one thread raises and another reads.
pub(crate) struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Called by the one writer only.
    pub(crate) fn add(&self, count: u64) {
        let value = self.0.load(Ordering::Relaxed) + count;
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Latencies that one thread records and another reads.
pub(crate) struct LiveLatency {
    buckets: [Counter; BUCKETS],
}

impl LiveLatency {
    fn new() -> Self {
        Self {
            buckets: [const { Counter::new() }; BUCKETS],
        }
    }

    /// Called by the one writer only.
    pub(crate) fn record(&self, latency_ns: u64, count: u64) {
        self.buckets[bucket(latency_ns)].add(count);
    }
}

/// Latencies of all threads up to a moment, or between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    counts: Vec<u64>,
}

impl Spread {
    pub(crate) fn empty() -> Self {
        Self {
            counts: vec![0; BUCKETS],
        }
    }

    /// What all of `latencies` hold now.
    pub(crate) fn sum<'a>(latencies: impl Iterator<Item = &'a LiveLatency>) -> Self {
        let mut sum = Self::empty();
        for latency in latencies {
            for (count, bucket) in sum.counts.iter_mut().zip(&latency.buckets) {
                *count += bucket.get();
            }
        }
        sum
    }

    /// What was recorded after `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let pairs = self.counts.iter().zip(&earlier.counts);
        Self {
            counts: pairs.map(|(now, before)| now - before).collect(),
        }
    }

    /// The latency that `quantile` of all do not exceed, at most 1/32 too high; `None` without any.
    pub(crate) fn quantile_ns(&self, quantile: f64) -> Option<u64> {
        let total: u64 = self.counts.iter().sum();
        let above_max = (total as f64 * (1.0 - quantile)) as u64;
        let mut above = 0;
        let worst = self.counts.iter().enumerate().rev().find(|(_, count)| {
            above += **count;
            above > above_max
        });
        worst.map(|(bucket, _)| bucket_end_ns(bucket))
    }
}

fn bucket(latency_ns: u64) -> usize {
    let bounded = latency_ns.max(1 << SPLIT_BITS);
    let exponent = bounded.ilog2();
    let part = (bounded >> (exponent - SPLIT_BITS)) & (SPLIT as u64 - 1);
    exponent as usize * SPLIT + part as usize
}

/// Largest latency that falls into the bucket.
fn bucket_end_ns(bucket: usize) -> u64 {
    let (exponent, part) = (bucket / SPLIT, bucket % SPLIT);
    let end = (((SPLIT + part + 1) as u128) << exponent) / SPLIT as u128 - 1;
    u64::try_from(end).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_tight_and_in_order() {
        let mut previous = 0;
        for latency_ns in [33, 100, 1_000, 123_456, 7_000_000, 1 << 40, u64::MAX] {
            let bucket = bucket(latency_ns);
            let end = bucket_end_ns(bucket);
            assert!(bucket >= previous && end >= latency_ns, "{latency_ns}");
            assert!(end - latency_ns <= latency_ns / 32, "{latency_ns}: {end}");
            previous = bucket;
        }
    }

    #[test]
    fn a_quantile_spans_threads() {
        let (left, right) = (Live::new(), Live::new());
        let sum = || Spread::sum([&left.ack, &right.ack].into_iter());
        assert_eq!(sum().quantile_ns(0.99), None);
        left.ack.record(1_000, 980);
        right.ack.record(1_000_000, 20);
        let p99_ns = sum().quantile_ns(0.99).expect("recorded");
        assert!((1_000_000..1_040_000).contains(&p99_ns), "{p99_ns}");
        let p50_ns = sum().quantile_ns(0.5).expect("recorded");
        assert!((1_000..1_040).contains(&p50_ns), "{p50_ns}");
    }

    #[test]
    fn a_second_has_only_what_it_brought() {
        let live = Live::new();
        live.ack.record(5_000_000, 10);
        let before = Spread::sum([&live.ack].into_iter());
        assert_eq!(before.since(&before), Spread::empty());
        live.ack.record(1_000, 1);
        let second = Spread::sum([&live.ack].into_iter()).since(&before);
        let max_ns = second.quantile_ns(1.0).expect("recorded");
        assert!((1_000..1_040).contains(&max_ns), "{max_ns}");
    }
}

//! A run's result: everything that the JSON file holds.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::Serialize;

use crate::machine::{Machine, Storage, Usage};
use crate::progress::Second;
use crate::recorder::{Flow, Latency, Recorder};
use crate::run::Outcome;
use crate::scenario::{Kind, Scenario, Target};
use crate::table::duration_text;
use crate::verify::Verdict;

/// Raised when a field changes its meaning or goes; new fields do not raise it.
const SCHEMA_VERSION: u32 = 1;
/// The generator is called late when its own waking takes this share of the median latency.
const WAKE_SHARE_MAX: f64 = 0.5;
/// The generator is called busy when its threads use this share of their time.
const BUSY_SHARE_MAX: f64 = 0.9;

/// Everything about one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) schema_version: u32,
    pub(crate) tool: &'static str,
    pub(crate) tool_version: &'static str,
    /// Milliseconds since the Unix epoch.
    pub(crate) finished_at_ms: u64,
    pub(crate) scenario: Scenario,
    pub(crate) machine: Machine,
    /// Of the child broker; nothing is known about another's.
    pub(crate) storage: Option<Storage>,
    /// `None` if the broker is not ours to know.
    pub(crate) durable: Option<bool>,
    /// Length of the part that counts.
    pub(crate) measured_s: f64,
    /// Messages acknowledged within the measured time.
    pub(crate) sent: Option<Rate>,
    /// Messages received within the measured time.
    pub(crate) received: Option<Rate>,
    /// From when a message was due to its acknowledgement.
    pub(crate) ack_latency: Option<LatencyReport>,
    /// From when a message was due to its arrival.
    pub(crate) delivery_latency: Option<LatencyReport>,
    /// From a fetch to its reply, of fetches that brought messages.
    pub(crate) fetch_latency: Option<LatencyReport>,
    /// How late the generator itself woke, when nothing else held a message up.
    pub(crate) generator_lateness: Option<LatencyReport>,
    pub(crate) refused: Vec<RefusedReport>,
    pub(crate) unanswered_messages: u64,
    /// Acknowledged offsets that did not rise within one connection and partition.
    pub(crate) offsets_not_rising: u64,
    pub(crate) verification: Option<Verdict>,
    pub(crate) broker: Option<BrokerReport>,
    pub(crate) generator: Usage,
    /// Why the figures may be the generator's and not the broker's.
    pub(crate) warnings: Vec<String>,
    pub(crate) interrupted: bool,
    pub(crate) failures: Vec<String>,
    pub(crate) seconds: Vec<Second>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Rate {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) messages_per_s: f64,
    pub(crate) bytes_per_s: f64,
}

/// A distribution: the usual figures, and the whole of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LatencyReport {
    pub(crate) count: u64,
    pub(crate) mean_us: f64,
    pub(crate) min_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// Pairs of nanoseconds and count.
    pub(crate) histogram_ns: Vec<[u64; 2]>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct RefusedReport {
    pub(crate) request: &'static str,
    pub(crate) code: i32,
    pub(crate) name: &'static str,
    /// Messages of appends; requests of fetches.
    pub(crate) count: u64,
}

/// What a child broker spent on the measured phase.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BrokerReport {
    pub(crate) usage: Usage,
    pub(crate) cpu_s_per_million_messages: Option<f64>,
    /// Batch bytes acknowledged in the whole run, warm-up included.
    pub(crate) accepted_bytes: u64,
    /// Bytes that the broker wrote to storage meanwhile, zero-filling and settling included.
    pub(crate) written_bytes: Option<u64>,
    pub(crate) bytes_written_per_byte_accepted: Option<f64>,
}

impl LatencyReport {
    pub(crate) fn of(latency: &Latency) -> Option<Self> {
        (latency.count() > 0).then(|| Self {
            count: latency.count(),
            mean_us: latency.mean_ns() / 1e3,
            min_us: micros(latency.min_ns()),
            p50_us: micros(latency.quantile_ns(0.5)),
            p90_us: micros(latency.quantile_ns(0.9)),
            p99_us: micros(latency.quantile_ns(0.99)),
            p999_us: micros(latency.quantile_ns(0.999)),
            max_us: micros(latency.max_ns()),
            histogram_ns: latency.buckets(),
        })
    }
}

impl Rate {
    fn of(flow: &Flow, measured_s: f64) -> Option<Self> {
        (flow.messages > 0 && measured_s > 0.0).then(|| Self {
            messages: flow.messages,
            bytes: flow.bytes,
            messages_per_s: flow.messages as f64 / measured_s,
            bytes_per_s: flow.bytes as f64 / measured_s,
        })
    }
}

impl BrokerReport {
    fn new(usage: Usage, messages: u64, accepted_bytes: u64, written_bytes: Option<u64>) -> Self {
        let ratio = |written: u64| written as f64 / accepted_bytes as f64;
        Self {
            usage,
            cpu_s_per_million_messages: (messages > 0)
                .then(|| usage.cpu_s() * 1e6 / messages as f64),
            accepted_bytes,
            written_bytes,
            bytes_written_per_byte_accepted: written_bytes
                .filter(|_| accepted_bytes > 0)
                .map(ratio),
        }
    }
}

impl Report {
    pub(crate) fn new(scenario: Scenario, storage: Option<Storage>, outcome: Outcome) -> Self {
        let result = outcome.result;
        let recorder = &result.recorder;
        let measured_s = Duration::from_nanos(result.measured_ns).as_secs_f64();
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let is_backlog = scenario.kind == Kind::ConsumeBacklog;
        // Warm-up is in the CPU time, so it must be in the messages too.
        let all_messages: u64 = result.ledgers.iter().map(|l| l.acknowledged()).sum();
        let all_messages = all_messages.max(recorder.delivered.messages);
        let broker = outcome.broker.map(|usage| {
            let accepted_bytes = recorder.accepted_bytes;
            BrokerReport::new(usage, all_messages, accepted_bytes, outcome.written_bytes)
        });
        Self {
            schema_version: SCHEMA_VERSION,
            tool: "millrace bench",
            tool_version: env!("CARGO_PKG_VERSION"),
            finished_at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            machine: Machine::describe(),
            durable: storage.as_ref().map(|storage| storage.durable),
            storage,
            measured_s,
            sent: Rate::of(&recorder.acked, measured_s),
            received: Rate::of(&recorder.delivered, measured_s),
            ack_latency: LatencyReport::of(&recorder.ack),
            // A backlog's age says nothing; nor does a long poll at the tail.
            delivery_latency: LatencyReport::of(&recorder.delivery).filter(|_| !is_backlog),
            fetch_latency: LatencyReport::of(&recorder.fetch).filter(|_| is_backlog),
            generator_lateness: LatencyReport::of(&recorder.wake),
            refused: refused(recorder),
            unanswered_messages: recorder.unanswered,
            offsets_not_rising: recorder.offsets_not_rising,
            verification: outcome.verdict,
            broker,
            warnings: warnings(&scenario, recorder, &outcome.generator, &result.seconds),
            generator: outcome.generator,
            interrupted: result.interrupted,
            failures: result.failures,
            seconds: result.seconds,
            scenario,
        }
    }

    /// Whether everything that was to happen happened, and nothing else.
    pub(crate) fn is_success(&self) -> bool {
        self.failures.is_empty()
            && self.refused.is_empty()
            && self.unanswered_messages == 0
            && self.offsets_not_rising == 0
            && self.verification.as_ref().is_none_or(Verdict::is_clean)
    }
}

/// Writes any report as JSON where a file was asked for.
pub(crate) fn write_json(report: &impl Serialize, path: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let mut text = serde_json::to_string(report).context("a report cannot be put into JSON")?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn refused(recorder: &Recorder) -> Vec<RefusedReport> {
    let entries = recorder.refused.iter();
    entries
        .map(|((request, refusal), count)| RefusedReport {
            request,
            code: refusal.code,
            name: refusal.name,
            count: *count,
        })
        .collect()
}

/// Signs that the generator, not the broker, set the figures.
fn warnings(
    scenario: &Scenario,
    recorder: &Recorder,
    own: &Usage,
    seconds: &[Second],
) -> Vec<String> {
    let mut warnings = Vec::new();
    let (wake_ns, ack_ns) = (
        recorder.wake.quantile_ns(0.5),
        recorder.ack.quantile_ns(0.5),
    );
    if recorder.wake.count() > 0 && wake_ns as f64 > ack_ns as f64 * WAKE_SHARE_MAX {
        warnings.push(format!(
            "the generator itself is late: its waking takes {} of a median latency of {}",
            duration_text(wake_ns),
            duration_text(ack_ns)
        ));
    }
    let lasted_s = seconds.last().map_or(0.0, |second| second.at_s);
    let busy = own.cpu_s() / lasted_s / f64::from(scenario.threads);
    if lasted_s > 0.0 && busy > BUSY_SHARE_MAX && scenario.target != Target::Sink {
        warnings.push(format!(
            "the generator's threads are busy {:.0}% of the time: try more --threads",
            busy * 100.0
        ));
    }
    warnings
}

pub(crate) fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_report_holds_the_whole_histogram() {
        let mut latency = Latency::new();
        assert!(LatencyReport::of(&latency).is_none());
        latency.record(1_000, 99);
        latency.record(5_000_000, 1);
        let report = LatencyReport::of(&latency).expect("recorded");
        let counted: u64 = report.histogram_ns.iter().map(|[_, count]| count).sum();
        assert_eq!((report.count, counted), (100, 100));
        assert!((report.p50_us - 1.0).abs() < 0.01 && (report.max_us - 5_000.0).abs() < 10.0);
    }
}

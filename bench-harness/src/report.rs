//! A run's result: everything that the JSON file holds.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::machine::{Machine, Storage, Usage};
use crate::phase::PhaseResult;
use crate::progress::Second;
use crate::recorder::{Flow, Latency, Recorder};
use crate::run::Outcome;
use crate::scenario::{Kind, Scenario, Target};
use crate::search::FindMax;
use crate::stages::Stage;
use crate::table::duration_text;
use crate::verify::Verdict;

/// Raised when a field changes its meaning or goes; new fields do not raise it.
pub(crate) const SCHEMA_VERSION: u32 = 1;
/// The generator is called late when its own lateness is this share of the latency.
const LATE_SHARE_MAX: f64 = 0.5;
/// Less lateness than this is what waking a thread costs.
const LATE_NS_MIN: u64 = 1_000_000;
/// The generator is called busy when its threads use this share of their time.
const BUSY_SHARE_MAX: f64 = 0.9;

/// Everything about one run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    pub(crate) schema_version: u32,
    pub(crate) tool: String,
    pub(crate) tool_version: String,
    /// Commit that the tool was built from.
    #[serde(default = "unknown")]
    pub(crate) commit: String,
    /// Milliseconds since the Unix epoch.
    pub(crate) finished_at_ms: u64,
    pub(crate) scenario: Scenario,
    pub(crate) machine: Machine,
    /// Of a child broker; nothing is known about another's.
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
    /// How late the generator itself was with a batch that nothing else held up.
    pub(crate) generator_lateness: Option<LatencyReport>,
    pub(crate) refused: Vec<RefusedReport>,
    pub(crate) unanswered_messages: u64,
    /// Acknowledged offsets that did not rise within one connection and partition.
    pub(crate) offsets_not_rising: u64,
    pub(crate) verification: Option<Verdict>,
    pub(crate) broker: Option<BrokerReport>,
    pub(crate) generator: Usage,
    /// By generator thread: which share of the time it worked.
    #[serde(default)]
    pub(crate) generator_busy: Vec<f64>,
    /// How fast a backlog was built before it was read.
    #[serde(default)]
    pub(crate) built: Option<Rate>,
    /// How the rate was found, where it was searched.
    #[serde(default)]
    pub(crate) find_max: Option<FindMax>,
    /// Why the figures may be the generator's and not the broker's.
    pub(crate) warnings: Vec<String>,
    pub(crate) interrupted: bool,
    pub(crate) failures: Vec<String>,
    pub(crate) seconds: Vec<Second>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Rate {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) messages_per_s: f64,
    pub(crate) bytes_per_s: f64,
}

/// A distribution: the usual figures, and the whole of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
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

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct RefusedReport {
    pub(crate) request: String,
    pub(crate) code: i32,
    pub(crate) name: String,
    /// Messages of appends; requests of fetches.
    pub(crate) count: u64,
}

/// What a broker whose process is known spent on the measured phase.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct BrokerReport {
    pub(crate) usage: Usage,
    pub(crate) cpu_s_per_million_messages: Option<f64>,
    /// Batch bytes acknowledged in the whole run, warm-up included.
    pub(crate) accepted_bytes: u64,
    /// Bytes that the broker wrote to storage meanwhile, zero-filling and settling included.
    pub(crate) written_bytes: Option<u64>,
    pub(crate) bytes_written_per_byte_accepted: Option<f64>,
    /// By 10^9 bytes accepted.
    #[serde(default)]
    pub(crate) cpu_s_per_gigabyte: Option<f64>,
    /// Its settings in force, each with where it was set.
    #[serde(default)]
    pub(crate) config: Option<Value>,
    /// What each of its stages recorded meanwhile, warm-up included.
    #[serde(default)]
    pub(crate) stages: Vec<Stage>,
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
            cpu_s_per_gigabyte: (accepted_bytes > 0)
                .then(|| usage.cpu_s() * 1e9 / accepted_bytes as f64),
            config: None,
            stages: Vec::new(),
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
            let broker =
                BrokerReport::new(usage, all_messages, accepted_bytes, outcome.written_bytes);
            BrokerReport {
                config: outcome.broker_config,
                stages: outcome.stages,
                ..broker
            }
        });
        let built = outcome.filled.as_ref().and_then(|filled| {
            Rate::of(
                &filled.flow,
                Duration::from_nanos(filled.lasted_ns).as_secs_f64(),
            )
        });
        Self {
            schema_version: SCHEMA_VERSION,
            tool: "millrace bench".to_owned(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("MILLRACE_COMMIT").to_owned(),
            finished_at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            machine: Machine::describe(),
            durable: storage.as_ref().map(|storage| storage.durable),
            storage,
            measured_s,
            sent: Rate::of(&recorder.acked, measured_s),
            received: Rate::of(&recorder.delivered, measured_s),
            ack_latency: LatencyReport::of(&recorder.ack),
            // What was due before the phase is not recorded: a backlog's age says nothing. Nor does
            // a long poll at the tail.
            delivery_latency: LatencyReport::of(&recorder.delivery),
            fetch_latency: LatencyReport::of(&recorder.fetch).filter(|_| is_backlog),
            generator_lateness: LatencyReport::of(&recorder.late),
            refused: refused(recorder),
            unanswered_messages: recorder.unanswered,
            offsets_not_rising: recorder.offsets_not_rising,
            verification: outcome.verdict,
            broker,
            warnings: warnings(&scenario, &result, outcome.find_max.as_ref()),
            generator: outcome.generator,
            generator_busy: result.busy,
            built,
            find_max: outcome.find_max,
            interrupted: result.interrupted,
            failures: result.failures,
            seconds: result.seconds,
            scenario,
        }
    }

    /// Why there is no verdict, where there is none.
    pub(crate) fn why_not_verified(&self) -> &'static str {
        match self.scenario.acks {
            0 => "nothing is acknowledged with --acks 0",
            _ => "nothing was read back",
        }
    }

    /// Whether everything that was to happen happened, and nothing else.
    pub(crate) fn is_success(&self) -> bool {
        let searched = self.find_max.as_ref();
        self.failures.is_empty()
            && searched.is_none_or(|search| search.confirmed_per_s.is_some())
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
    write_file(path, &text)
}

/// Writes a file whole or not at all: a report that ends in its middle helps nobody, and must not
/// take the place of an earlier one.
pub(crate) fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let reason = || format!("cannot write {}", path.display());
    // A device, a pipe or a link is written to and not replaced.
    if path.symlink_metadata().is_ok_and(|found| !found.is_file()) {
        return fs::write(path, text).with_context(reason);
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let written = fs::write(&partial, text).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // It may never have come into being.
        let _ = fs::remove_file(&partial);
    }
    written.with_context(reason)
}

fn refused(recorder: &Recorder) -> Vec<RefusedReport> {
    let entries = recorder.refused.iter();
    entries
        .map(|((request, refusal), count)| RefusedReport {
            request: (*request).to_owned(),
            code: refusal.code,
            name: refusal.name.to_owned(),
            count: *count,
        })
        .collect()
}

/// Signs that the generator, not the broker, set the figures.
fn warnings(scenario: &Scenario, result: &PhaseResult, find_max: Option<&FindMax>) -> Vec<String> {
    let mut warnings = Vec::new();
    let recorder = &result.recorder;
    let (late_ns, ack_ns) = (
        recorder.late.quantile_ns(0.5),
        recorder.ack.quantile_ns(0.5),
    );
    if recorder.late.count() > 0 && late_ns as f64 > ack_ns as f64 * LATE_SHARE_MAX {
        warnings.push(format!(
            "the generator itself is late: half of its batches begin {} after they are due, of a \
             median latency of {}",
            duration_text(late_ns),
            duration_text(ack_ns)
        ));
    }
    warnings.extend(generator_limit(result).filter(|_| scenario.target != Target::Sink));
    if find_max.is_some_and(|search| search.generator_limited) {
        warnings.push(
            "the search ended where the generator was short of time: the broker may do more"
                .to_owned(),
        );
    }
    warnings
}

/// Why a higher rate, or a shorter tail, may have been too much for the generator; `None` if it had
/// time to spare.
pub(crate) fn generator_limit(result: &PhaseResult) -> Option<String> {
    let recorder = &result.recorder;
    let (late_ns, ack_ns) = (
        recorder.late.quantile_ns(0.99),
        recorder.ack.quantile_ns(0.99),
    );
    let is_late = late_ns > LATE_NS_MIN && late_ns as f64 > ack_ns as f64 * LATE_SHARE_MAX;
    if recorder.late.count() > 0 && is_late {
        return Some(format!(
            "the generator could not keep its own schedule: its p99 of {} is much of the latency's \
             p99 of {}; try more --threads or --generator-cores",
            duration_text(late_ns),
            duration_text(ack_ns)
        ));
    }
    let busiest = result.busy.iter().copied().fold(0.0, f64::max);
    (busiest > BUSY_SHARE_MAX).then(|| {
        format!(
            "a generator thread is busy {:.0}% of the time: the figures may be the generator's; \
             try more --threads",
            busiest * 100.0
        )
    })
}

fn unknown() -> String {
    "unknown".to_owned()
}

pub(crate) fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::args::BenchArgs;
    use crate::progress::SecondLatency;
    use crate::stages::Stages;

    fn example_scenario() -> Scenario {
        let line = ["bench", "e2e", "--rate", "1000", "--target", "127.0.0.1:9"];
        let matches = crate::scenario_file::bench().get_matches_from(line);
        let args = <BenchArgs as clap::FromArgMatches>::from_arg_matches(&matches);
        let Ok(Some(crate::args::BenchCommand::E2e(load))) = args.map(|args| args.command) else {
            panic!("e2e")
        };
        Scenario::of(Kind::EndToEnd, &load).expect("it can be run")
    }

    /// A result with something in every part.
    pub(crate) fn example() -> Report {
        let scenario = example_scenario();
        let stage = json!({"name": "append", "unit": "ns", "histogram": [[900, 90], [5_000, 10]]});
        let stages = Stages::read(&json!({"shard-0": {"stages": [stage]}}));
        let usage = Usage {
            cpu_user_s: 1.0,
            cpu_system_s: 3.0,
            memory_peak_bytes: 50_000_000,
            ..Usage::default()
        };
        let mut latency = Latency::new();
        (1..2_000u64).for_each(|n| latency.record(100_000 + n * n, 3));
        let latency = LatencyReport::of(&latency);
        let rate = Rate {
            messages: 9_990,
            bytes: 10_000_000,
            messages_per_s: 999.0,
            bytes_per_s: 1e6,
        };
        let figures = SecondLatency {
            p50_us: 120.0,
            p99_us: 800.0,
            max_us: 2_500.0,
        };
        let second = |at: u32| Second {
            at_s: f64::from(at),
            warmup: at <= 2,
            acked_per_s: 1_000.0,
            delivered_per_s: 998.0,
            requests_in_flight: 1,
            refused: 0,
            ack_latency: Some(figures),
            delivery_latency: Some(figures),
        };
        Report {
            schema_version: SCHEMA_VERSION,
            tool: "millrace bench".into(),
            tool_version: "0".into(),
            commit: unknown(),
            finished_at_ms: 1,
            machine: Machine::describe(),
            storage: None,
            durable: None,
            measured_s: 10.0,
            sent: Some(rate),
            received: Some(rate),
            ack_latency: latency.clone(),
            delivery_latency: latency.clone(),
            fetch_latency: None,
            generator_lateness: latency,
            refused: Vec::new(),
            unanswered_messages: 0,
            offsets_not_rising: 0,
            verification: Some(Verdict::default()),
            broker: Some(BrokerReport {
                config: Some(json!([])),
                stages: stages.since(&Stages::default()),
                ..BrokerReport::new(usage, 9_990, 10_000_000, Some(30_000_000))
            }),
            generator: usage,
            generator_busy: vec![0.5],
            built: None,
            find_max: None,
            warnings: Vec::new(),
            interrupted: false,
            failures: Vec::new(),
            seconds: (1..=12).map(second).collect(),
            scenario,
        }
    }

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

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let directory = std::env::temp_dir().join(format!("report-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("r.json");
        for text in ["first", "second"] {
            write_file(&path, text).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        }
        // The name for what is being written is taken: nothing can be written.
        fs::create_dir(directory.join("r.json.partial")).expect("a directory");
        let error = write_file(&path, "third").expect_err("no place");
        assert!(
            format!("{error:#}").starts_with("cannot write"),
            "{error:#}"
        );
        assert_eq!(fs::read_to_string(&path).expect("there"), "second");
        fs::remove_dir_all(&directory).expect("removed");
    }

    fn phase_result() -> PhaseResult {
        PhaseResult {
            recorder: Recorder::new(),
            sightings: Vec::new(),
            busy: vec![0.2, 0.5],
            ledgers: Vec::new(),
            measured_ns: 1,
            seconds: Vec::new(),
            interrupted: false,
            failures: Vec::new(),
        }
    }

    #[test]
    fn a_generator_that_set_the_figures_says_so() {
        assert_eq!(generator_limit(&phase_result()), None);
        let mut late = phase_result();
        late.recorder.ack.record(5_000_000, 100);
        late.recorder.late.record(4_000_000, 100);
        let limit = generator_limit(&late).expect("late");
        assert!(limit.contains("could not keep its own schedule"), "{limit}");
        late.recorder.ack.record(500_000_000, 100);
        assert_eq!(generator_limit(&late), None, "the broker was far slower");
        let busy = PhaseResult {
            busy: vec![0.2, 0.97],
            ..phase_result()
        };
        let limit = generator_limit(&busy).expect("busy");
        assert!(limit.contains("busy 97% of the time"), "{limit}");
    }
}

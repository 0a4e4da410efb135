//! A run's result: the table on standard output and the JSON file with everything.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::Serialize;

use crate::machine::{Machine, Storage, Usage};
use crate::progress::Second;
use crate::recorder::{Flow, Latency, Recorder};
use crate::scenario::{Kind, Outcome, Scenario, Target};
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
    schema_version: u32,
    tool: &'static str,
    tool_version: &'static str,
    /// Milliseconds since the Unix epoch.
    finished_at_ms: u64,
    scenario: Scenario,
    machine: Machine,
    /// Of the child broker; nothing is known about another's.
    storage: Option<Storage>,
    /// `None` if the broker is not ours to know.
    durable: Option<bool>,
    /// Length of the part that counts.
    measured_s: f64,
    /// Messages acknowledged within the measured time.
    sent: Option<Rate>,
    /// Messages received within the measured time.
    received: Option<Rate>,
    /// From when a message was due to its acknowledgement.
    ack_latency: Option<LatencyReport>,
    /// From when a message was due to its arrival.
    delivery_latency: Option<LatencyReport>,
    /// From a fetch to its reply, of fetches that brought messages.
    fetch_latency: Option<LatencyReport>,
    /// How late the generator itself woke, when nothing else held a message up.
    generator_lateness: Option<LatencyReport>,
    refused: Vec<RefusedReport>,
    unanswered_messages: u64,
    /// Acknowledged offsets that did not rise within one connection and partition.
    offsets_not_rising: u64,
    verification: Option<Verdict>,
    broker: Option<BrokerReport>,
    generator: Usage,
    /// Why the figures may be the generator's and not the broker's.
    warnings: Vec<String>,
    interrupted: bool,
    failures: Vec<String>,
    seconds: Vec<Second>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Rate {
    messages: u64,
    bytes: u64,
    messages_per_s: f64,
    bytes_per_s: f64,
}

/// A distribution: the usual figures, and the whole of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LatencyReport {
    count: u64,
    mean_us: f64,
    min_us: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    /// Pairs of nanoseconds and count.
    histogram_ns: Vec<[u64; 2]>,
}

#[derive(Clone, Debug, Serialize)]
struct RefusedReport {
    request: &'static str,
    code: i32,
    name: &'static str,
    /// Messages of appends; requests of fetches.
    count: u64,
}

/// What a child broker spent on the measured phase.
#[derive(Clone, Debug, Serialize)]
struct BrokerReport {
    usage: Usage,
    cpu_s_per_million_messages: Option<f64>,
    /// Batch bytes acknowledged in the whole run, warm-up included.
    accepted_bytes: u64,
    /// Bytes that the broker wrote to storage meanwhile, zero-filling and settling included.
    written_bytes: Option<u64>,
    bytes_written_per_byte_accepted: Option<f64>,
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

    pub(crate) fn p50(&self) -> String {
        micros_text(self.p50_us)
    }

    pub(crate) fn p99(&self) -> String {
        micros_text(self.p99_us)
    }

    pub(crate) fn max(&self) -> String {
        micros_text(self.max_us)
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

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        self.put_head(&mut out);
        if let Some(rate) = &self.sent {
            put_rate(&mut out, "sent", rate);
        }
        if let Some(rate) = &self.received {
            put_rate(&mut out, "received", rate);
        }
        put_latencies(
            &mut out,
            &[
                ("send to ack", &self.ack_latency),
                ("send to arrival", &self.delivery_latency),
                ("fetch", &self.fetch_latency),
                ("generator late", &self.generator_lateness),
            ],
        );
        self.put_broker(&mut out);
        self.put_verdict(&mut out);
        out
    }

    fn put_head(&self, out: &mut String) {
        let scenario = &self.scenario;
        let what = match scenario.kind {
            Kind::Produce => "produce",
            Kind::ConsumeTail => "consume at the tail",
            Kind::ConsumeBacklog => "consume a backlog",
            Kind::EndToEnd => "end to end",
        };
        let pace = match scenario.rate_per_s {
            Some(rate) if scenario.kind != Kind::ConsumeBacklog => {
                format!("open loop at {rate} msg/s, latency from the intended send time")
            }
            _ => "closed loop".to_owned(),
        };
        let target = match &scenario.target {
            Target::Child => "child broker".to_owned(),
            Target::Sink => "in-process sink".to_owned(),
            Target::External(address) => address.clone(),
        };
        put(
            out,
            format_args!("\n{what}, {}, {target}, {pace}", scenario.protocol),
        );
        put(
            out,
            format_args!(
                "{} B messages, batches up to {} B, {} connections x depth {}, {} partitions, \
                 acks {}, {:.1} s",
                scenario.message_bytes,
                scenario.batch_bytes,
                scenario.connections,
                scenario.depth,
                scenario.partitions,
                scenario.acks,
                self.measured_s
            ),
        );
        if let Some(storage) = &self.storage {
            put(
                out,
                format_args!("data on {} ({})", storage.file_system, storage.device),
            );
        }
        if self.durable == Some(false) {
            put(
                out,
                format_args!("NOT DURABLE: the broker's files are in memory"),
            );
        }
        if scenario.target == Target::Sink {
            put(
                out,
                format_args!("NOT DURABLE: the sink discards every message"),
            );
        }
        if self.interrupted {
            put(
                out,
                format_args!("STOPPED EARLY: what was measured until then"),
            );
        }
        out.push('\n');
    }

    fn put_broker(&self, out: &mut String) {
        let own = &self.generator;
        if let Some(broker) = &self.broker {
            let usage = &broker.usage;
            put(
                out,
                format_args!(
                    "broker     {:.2} s CPU ({:.2} user + {:.2} system), peak memory {}",
                    usage.cpu_s(),
                    usage.cpu_user_s,
                    usage.cpu_system_s,
                    bytes_text(usage.memory_peak_bytes as f64)
                ),
            );
            if let Some(cpu_s) = broker.cpu_s_per_million_messages {
                put(
                    out,
                    format_args!("           {cpu_s:.2} s CPU per million messages"),
                );
            }
            if let Some(ratio) = broker.bytes_written_per_byte_accepted {
                put(
                    out,
                    format_args!("           {ratio:.2} bytes written per byte accepted"),
                );
            }
        }
        let (cpu_s, user_s, system_s) = (own.cpu_s(), own.cpu_user_s, own.cpu_system_s);
        put(
            out,
            format_args!("generator  {cpu_s:.2} s CPU ({user_s:.2} user + {system_s:.2} system)"),
        );
    }

    fn put_verdict(&self, out: &mut String) {
        for refused in &self.refused {
            put(
                out,
                format_args!(
                    "REFUSED    {} x {} ({}) to {}",
                    refused.count, refused.name, refused.code, refused.request
                ),
            );
        }
        if self.unanswered_messages > 0 {
            put(
                out,
                format_args!("UNANSWERED {} messages", self.unanswered_messages),
            );
        }
        if self.offsets_not_rising > 0 {
            put(
                out,
                format_args!(
                    "WRONG      {} offsets did not rise",
                    self.offsets_not_rising
                ),
            );
        }
        match &self.verification {
            Some(verdict) if verdict.is_clean() => put(
                out,
                format_args!(
                    "verified   {} acknowledged messages: none lost, doubled, reordered or damaged",
                    verdict.acknowledged
                ),
            ),
            Some(verdict) => put(
                out,
                format_args!(
                    "WRONG      of {} acknowledged messages: {} lost, {} doubled, {} reordered, \
                     {} damaged",
                    verdict.acknowledged,
                    verdict.lost,
                    verdict.doubled,
                    verdict.reordered,
                    verdict.damaged
                ),
            ),
            None => put(out, format_args!("not verified: nothing was read back")),
        }
        for warning in &self.warnings {
            put(out, format_args!("warning    {warning}"));
        }
        for failure in &self.failures {
            put(out, format_args!("FAILED     {failure}"));
        }
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

fn put(out: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(out, "{line}").expect("a string takes everything");
}

fn put_rate(out: &mut String, name: &str, rate: &Rate) {
    put(
        out,
        format_args!(
            "{name:<10} {:>12} msg/s  {:>10.2} MB/s   ({} messages)",
            rate_text(rate.messages_per_s),
            rate.bytes_per_s / 1e6,
            rate.messages
        ),
    );
}

fn put_latencies(out: &mut String, rows: &[(&str, &Option<LatencyReport>)]) {
    if rows.iter().all(|(_, latency)| latency.is_none()) {
        return;
    }
    put(
        out,
        format_args!(
            "\n{:<16}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "", "p50", "p90", "p99", "p99.9", "max"
        ),
    );
    for (name, latency) in rows {
        let Some(latency) = latency else { continue };
        let mut line = format!("{name:<16}");
        for us in [
            latency.p50_us,
            latency.p90_us,
            latency.p99_us,
            latency.p999_us,
            latency.max_us,
        ] {
            write!(line, "{:>10}", micros_text(us)).expect("a string takes everything");
        }
        put(out, format_args!("{line}"));
    }
    out.push('\n');
}

fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// A latency in the unit that fits it.
pub(crate) fn duration_text(ns: u64) -> String {
    micros_text(micros(ns))
}

fn micros_text(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} us"),
        us if us < 1_000_000.0 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// A whole number in groups of three.
pub(crate) fn rate_text(per_s: f64) -> String {
    let digits = format!("{per_s:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn bytes_text(bytes: f64) -> String {
    match bytes {
        bytes if bytes < 1e3 => format!("{bytes:.0} B"),
        bytes if bytes < 1e6 => format!("{:.1} KB", bytes / 1e3),
        bytes if bytes < 1e9 => format!("{:.1} MB", bytes / 1e6),
        bytes => format!("{:.2} GB", bytes / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!(rate_text(1_234_567.4), "1,234,567");
        assert_eq!(rate_text(12.0), "12");
        assert_eq!(rate_text(123_456.0), "123,456");
        assert_eq!(duration_text(154_400), "154 us");
        assert_eq!(duration_text(2_500_000), "2.50 ms");
        assert_eq!(duration_text(61_000_000_000), "61.00 s");
        assert_eq!(bytes_text(2_500_000.0), "2.5 MB");
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
}

//! A report as a table for people, and figures in units that fit them.

use std::fmt::Write;

use crate::recorder::quantile_of;
use crate::report::{LatencyReport, Rate, Report, micros};
use crate::scenario::Target;
use crate::stages::{Stage, merged};

impl Report {
    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        self.put_head(&mut out);
        if let Some(rate) = &self.built {
            put_rate(&mut out, "built", rate);
        }
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
        self.put_stages(&mut out);
        self.put_search(&mut out);
        self.put_broker(&mut out);
        self.put_verdict(&mut out);
        out
    }

    fn put_head(&self, out: &mut String) {
        let scenario = &self.scenario;
        put(out, format_args!("\n{}", scenario.title()));
        put(
            out,
            format_args!("{}, {:.1} s", scenario.shape(), self.measured_s),
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

    fn put_search(&self, out: &mut String) {
        let Some(search) = &self.find_max else { return };
        let (bound_ms, peak) = (search.p99_max_ms, rate_text(search.closed_loop_per_s));
        put(
            out,
            format_args!("highest rate with a p99 below {bound_ms} ms; closed loop {peak} msg/s"),
        );
        for probe in &search.probes {
            let outcome = if probe.holds { "holds" } else { "too much" };
            let limited = probe
                .generator
                .as_ref()
                .map_or("", |_| "  generator short of time");
            put(
                out,
                format_args!(
                    "{:>23} msg/s{:>12} p99  {outcome}{limited}",
                    rate_text(probe.rate_per_s as f64),
                    micros_text(probe.p99_us)
                ),
            );
        }
        match search.confirmed_per_s {
            Some(rate) => put(
                out,
                format_args!(
                    "found      {} msg/s, measured above\n",
                    rate_text(rate as f64)
                ),
            ),
            None => put(out, format_args!("NOT FOUND  no rate was confirmed\n")),
        }
    }

    /// The broker's own view of the same time, in the order that a message passes it.
    fn put_stages(&self, out: &mut String) {
        let stages = self.broker.iter().flat_map(|broker| &broker.stages);
        let stages: Vec<Stage> = stages.filter(|stage| stage.unit == "ns").cloned().collect();
        if stages.is_empty() {
            return;
        }
        put_columns(out, "broker's stages");
        for stage in merged(&stages) {
            let figures = [0.5, 0.9, 0.99, 0.999, 1.0];
            let figures = figures.map(|q| micros(quantile_of(&stage.histogram, q)));
            put_times(out, stage.name, figures);
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
            format_args!(
                "generator  {cpu_s:.2} s CPU ({user_s:.2} user + {system_s:.2} system); {}",
                self.scenario.spin.line()
            ),
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
            None if self.interrupted => put(out, format_args!("not verified: stopped early")),
            None => put(
                out,
                format_args!("not verified: {}", self.why_not_verified()),
            ),
        }
        for warning in &self.warnings {
            put(out, format_args!("warning    {warning}"));
        }
        for failure in &self.failures {
            put(out, format_args!("FAILED     {failure}"));
        }
    }
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
    out.push('\n');
    put_columns(out, "");
    for (name, latency) in rows {
        let Some(latency) = latency else { continue };
        let figures = [
            latency.p50_us,
            latency.p90_us,
            latency.p99_us,
            latency.p999_us,
            latency.max_us,
        ];
        put_times(out, name, figures);
    }
    out.push('\n');
}

/// The head of a table of times.
fn put_columns(out: &mut String, title: &str) {
    let columns = ["p50", "p90", "p99", "p99.9", "max"].map(|column| format!("{column:>10}"));
    put(out, format_args!("{title:<16}{}", columns.concat()));
}

/// A line of it, microseconds.
fn put_times(out: &mut String, name: &str, figures: [f64; 5]) {
    let figures = figures.map(|us| format!("{:>10}", micros_text(us)));
    put(out, format_args!("{name:<16}{}", figures.concat()));
}

/// A latency in the unit that fits it.
pub(crate) fn duration_text(ns: u64) -> String {
    micros_text(micros(ns))
}

pub(crate) fn micros_text(us: f64) -> String {
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
}

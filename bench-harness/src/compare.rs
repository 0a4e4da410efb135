//! Results side by side: files of `--json` read back, and each figure's ratio to the first file's.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::report::{LatencyReport, Report, SCHEMA_VERSION};
use crate::table::{bytes_text, micros_text, rate_text};

/// Most results in one comparison: more have no room beside each other.
const RESULTS_MAX: usize = 6;

/// Several results; the first is what the others are held against.
pub(crate) struct Comparison {
    /// Name, told apart from the others', and result.
    pub(crate) results: Vec<(String, Report)>,
}

/// One figure of every result.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// By result.
    pub(crate) figures: Vec<Figure>,
}

/// One figure of one result.
pub(crate) struct Figure {
    /// As people read it; a dash where there is none.
    pub(crate) text: String,
    /// To the first result's.
    pub(crate) ratio: Option<f64>,
    /// Whether that is better or worse, where it is told apart at all.
    pub(crate) better: Option<bool>,
}

/// Ratios closer to 1 are noise.
const RATIO_NOISE: f64 = 0.03;

#[derive(Clone, Copy, PartialEq)]
enum Better {
    More,
    Less,
}

/// Reads result files.
pub(crate) fn read(files: &[PathBuf]) -> anyhow::Result<Comparison> {
    ensure!(
        files.len() <= RESULTS_MAX,
        "at most {RESULTS_MAX} results fit beside each other"
    );
    let mut results: Vec<(String, Report)> = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let report = read_one(file)?;
        let stem = file.file_stem().unwrap_or(file.as_os_str());
        let mut name = stem.to_string_lossy().into_owned();
        if results.iter().any(|(other, _)| *other == name) {
            name = format!("{name} ({})", index + 1);
        }
        results.push((name, report));
    }
    Ok(Comparison { results })
}

/// What every version of a result says about itself.
#[derive(Deserialize)]
struct Head {
    schema_version: Option<u32>,
    tool: Option<String>,
    scenario: Option<serde::de::IgnoredAny>,
}

fn read_one(path: &Path) -> anyhow::Result<Report> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let head: Head =
        serde_json::from_str(&text).with_context(|| format!("{name} is no result of bench"))?;
    match head.schema_version {
        Some(SCHEMA_VERSION) => {}
        Some(version) => bail!(
            "{name} has schema version {version} and this tool reads {SCHEMA_VERSION}: compare it \
             with the tool that wrote it, or measure again"
        ),
        None => bail!("{name} is no result of bench: it has no schema version"),
    }
    ensure!(
        head.tool.is_some() && head.scenario.is_some(),
        "{name} is no run against a broker: results of `bench disk` cannot be compared"
    );
    serde_json::from_str(&text).with_context(|| format!("{name} is damaged or incomplete"))
}

impl Comparison {
    /// Every figure that at least one result has.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows = self.rate_rows();
        rows.extend(self.latency_rows());
        rows.extend(self.cost_rows());
        rows.retain(|row| row.figures.iter().any(|figure| figure.text != "-"));
        rows
    }

    fn rate_rows(&self) -> Vec<Row> {
        vec![
            self.row("sent, msg/s", Better::More, rate_text, |r| {
                r.sent.map(|rate| rate.messages_per_s)
            }),
            self.row("sent, per s", Better::More, bytes_text, |r| {
                r.sent.map(|rate| rate.bytes_per_s)
            }),
            self.row("received, msg/s", Better::More, rate_text, |r| {
                r.received.map(|rate| rate.messages_per_s)
            }),
            self.row("received, per s", Better::More, bytes_text, |r| {
                r.received.map(|rate| rate.bytes_per_s)
            }),
        ]
    }

    fn latency_rows(&self) -> Vec<Row> {
        type Latency = fn(&Report) -> Option<&LatencyReport>;
        let latencies: [(Latency, [&'static str; 5]); 3] = [
            (
                |r| r.ack_latency.as_ref(),
                ["ack p50", "ack p90", "ack p99", "ack p99.9", "ack max"],
            ),
            (
                |r| r.delivery_latency.as_ref(),
                [
                    "arrival p50",
                    "arrival p90",
                    "arrival p99",
                    "arrival p99.9",
                    "arrival max",
                ],
            ),
            (
                |r| r.fetch_latency.as_ref(),
                [
                    "fetch p50",
                    "fetch p90",
                    "fetch p99",
                    "fetch p99.9",
                    "fetch max",
                ],
            ),
        ];
        let mut rows = Vec::new();
        for (latency, names) in latencies {
            let figures: [fn(&LatencyReport) -> f64; 5] = [
                |l| l.p50_us,
                |l| l.p90_us,
                |l| l.p99_us,
                |l| l.p999_us,
                |l| l.max_us,
            ];
            for (name, figure) in names.into_iter().zip(figures) {
                rows.push(self.row(name, Better::Less, micros_text, |r| latency(r).map(figure)));
            }
        }
        rows
    }

    fn cost_rows(&self) -> Vec<Row> {
        vec![
            self.row("CPU s per million", Better::Less, two_digits, |r| {
                r.broker.as_ref()?.cpu_s_per_million_messages
            }),
            self.row("CPU s per GB", Better::Less, two_digits, |r| {
                r.broker.as_ref()?.cpu_s_per_gigabyte
            }),
            self.row("peak memory", Better::Less, bytes_text, |r| {
                Some(r.broker.as_ref()?.usage.memory_peak_bytes as f64)
            }),
            self.row("written per byte", Better::Less, two_digits, |r| {
                r.broker.as_ref()?.bytes_written_per_byte_accepted
            }),
        ]
    }

    fn row(
        &self,
        name: &'static str,
        better: Better,
        text: fn(f64) -> String,
        figure: impl Fn(&Report) -> Option<f64>,
    ) -> Row {
        let values: Vec<Option<f64>> = self.results.iter().map(|(_, r)| figure(r)).collect();
        let first = values
            .first()
            .copied()
            .flatten()
            .filter(|first| *first > 0.0);
        let figures = values.iter().enumerate().map(|(index, value)| {
            let ratio = value.zip(first).map(|(value, first)| value / first);
            let ratio = ratio.filter(|_| index > 0);
            let told = ratio.filter(|ratio| (ratio - 1.0).abs() > RATIO_NOISE);
            Figure {
                text: value.map_or_else(|| "-".to_owned(), text),
                ratio,
                better: told.map(|ratio| (ratio > 1.0) == (better == Better::More)),
            }
        });
        Row {
            name,
            figures: figures.collect(),
        }
    }

    /// What the results do not have in common, though they should to be held against each other.
    pub(crate) fn differences(&self) -> Vec<String> {
        type Fact = (&'static str, fn(&Report) -> String);
        let facts: [Fact; 6] = [
            ("scenario", |r| r.scenario.title()),
            ("load", |r| r.scenario.shape()),
            ("generator that spins", |r| {
                r.scenario.spin.is_on.to_string()
            }),
            ("processor", |r| r.machine.cpu_model.clone()),
            ("kernel", |r| r.machine.kernel.clone()),
            ("commit", |r| r.commit.clone()),
        ];
        let mut differences = Vec::new();
        for (name, fact) in facts {
            let mut found: Vec<String> = self.results.iter().map(|(_, r)| fact(r)).collect();
            found.dedup();
            if found.len() > 1 {
                let named = self
                    .results
                    .iter()
                    .map(|(n, r)| format!("{n}: {}", fact(r)));
                differences.push(format!(
                    "{name} differs: {}",
                    named.collect::<Vec<_>>().join("; ")
                ));
            }
        }
        for (name, report) in &self.results {
            if !report.is_success() || report.interrupted {
                differences.push(format!("{name} did not end well: look at it alone first"));
            }
            if report.durable == Some(false) {
                differences.push(format!("{name} is NOT DURABLE: its files were in memory"));
            }
        }
        differences
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        const NAMES: usize = 20;
        const COLUMN: usize = 24;
        let mut out = String::from("\n");
        let mut put = |text: String| writeln!(out, "{}", text.trim_end());
        let mut line = format!("{:<NAMES$}", "");
        for (name, _) in &self.results {
            let cut: String = name.chars().take(COLUMN - 2).collect();
            line += &format!("{cut:>COLUMN$}");
        }
        put(line).expect("a string takes everything");
        for row in self.rows() {
            let mut line = format!("{:<NAMES$}", row.name);
            for figure in &row.figures {
                let ratio = figure
                    .ratio
                    .map_or_else(String::new, |r| format!("  x {r:.2}"));
                line += &format!("{:>COLUMN$}", format!("{}{ratio}", figure.text));
            }
            put(line).expect("a string takes everything");
        }
        for difference in self.differences() {
            put(format!("note: {difference}")).expect("a string takes everything");
        }
        out
    }
}

pub(crate) fn two_digits(value: f64) -> String {
    format!("{value:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    fn comparison() -> Comparison {
        let mut faster = example();
        let sent = faster.sent.as_mut().expect("the example sent");
        sent.messages_per_s *= 2.0;
        let ack = faster
            .ack_latency
            .as_mut()
            .expect("the example was answered");
        ack.p99_us /= 4.0;
        Comparison {
            results: vec![("a".into(), example()), ("b".into(), faster)],
        }
    }

    #[test]
    fn ratios_say_what_is_better() {
        let comparison = comparison();
        let rows = comparison.rows();
        let figure = |name| {
            let row = rows.iter().find(|row| row.name == name).expect(name);
            (row.figures[1].ratio, row.figures[1].better)
        };
        assert_eq!(figure("sent, msg/s"), (Some(2.0), Some(true)));
        assert_eq!(figure("ack p99"), (Some(0.25), Some(true)));
        assert_eq!(figure("ack p50"), (Some(1.0), None));
        let table = comparison.table();
        assert!(
            table.contains("x 2.00") && table.contains("x 0.25"),
            "{table}"
        );
        assert!(comparison.differences().is_empty());
    }

    #[test]
    fn a_result_comes_back_from_its_file_and_others_are_refused_by_name() {
        let directory = std::env::temp_dir().join(format!("compare-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let text = serde_json::to_string(&example()).expect("JSON");
        let good = write("good.json", text.clone());
        let newer = write(
            "newer.json",
            text.replace("\"schema_version\":1", "\"schema_version\":9"),
        );
        let other = write("other.json", "{\"a\": 1}".into());
        let read_back = read(&[good.clone(), good.clone()]).expect("good");
        assert_eq!(read_back.results[1].0, "good (2)");
        assert_eq!(
            serde_json::to_value(&read_back.results[0].1).expect("JSON"),
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
        );
        let refused = |path| format!("{:#}", read(&[good.clone(), path]).err().expect("refused"));
        let message = refused(newer);
        assert!(message.contains("newer.json has schema version 9 and this tool reads 1"));
        assert!(refused(other).contains("has no schema version"));
        assert!(refused(directory.join("absent.json")).contains("cannot read"));
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}

//! The broker's own view: histograms of its stages, out of what its control socket tells before and
//! after a measurement.
//!
//! A broker that keeps none, or tells them in another form, simply has no stages: the load
//! generator drives any.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::recorder::quantile_of;

/// What one shard measured of one stage.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Stage {
    /// The shard's name, or nothing for the whole broker.
    pub(crate) shard: String,
    pub(crate) name: String,
    /// `ns`, `count` or `bytes`.
    pub(crate) unit: String,
    pub(crate) count: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
    /// Pairs of value and count, rising.
    pub(crate) histogram: Vec<[u64; 2]>,
}

impl Stage {
    /// From when to when, in words, of a stage that this broker is known to have.
    pub(crate) fn meaning(&self) -> Option<&'static str> {
        let meanings = [
            (
                "turn",
                "one round of a shard's thread: whatever comes meanwhile waits for its end",
            ),
            (
                "parse",
                "bytes received, to the last request in them handed over, and its batches appended",
            ),
            (
                "append",
                "a batch's request received, to its acknowledgement at its connection's shard",
            ),
            (
                "group_open",
                "the end of the turn that began a commit group, to its way to the disk",
            ),
            (
                "group_commit",
                "a group's way to the disk, until it is durable",
            ),
            (
                "reply",
                "a batch durable, to the send that says so done: a send's oldest counts",
            ),
            (
                "fetch",
                "a fetch's submission, to its answer: at the tail mostly the wait for news",
            ),
            (
                "mesh",
                "a request's way to another shard, to its end's return",
            ),
            (
                "log_stall",
                "producers are not read, until the log takes batches again",
            ),
            ("group_bytes", "bytes of one group: of one write to the log"),
            (
                "group_entries",
                "batches, and the broker's own notes, in one group",
            ),
            (
                "groups_in_flight",
                "groups on their way to the disk when one of them became durable",
            ),
        ];
        let found = meanings.iter().find(|(name, _)| *name == self.name);
        found.map(|(_, meaning)| *meaning)
    }
}

/// What all shards measured of one stage.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Merged<'a> {
    pub(crate) name: &'a str,
    /// As a [`Stage`]'s.
    pub(crate) unit: &'a str,
    pub(crate) histogram: Vec<[u64; 2]>,
}

/// All shards together, in the order in which the first told its stages.
pub(crate) fn merged(stages: &[Stage]) -> Vec<Merged<'_>> {
    let mut merged: Vec<(&Stage, BTreeMap<u64, u64>)> = Vec::new();
    for stage in stages {
        let found = merged
            .iter()
            .position(|(first, _)| first.name == stage.name);
        let index = found.unwrap_or(merged.len());
        if found.is_none() {
            merged.push((stage, BTreeMap::new()));
        }
        for [value, count] in &stage.histogram {
            *merged[index].1.entry(*value).or_default() += count;
        }
    }
    let whole = merged.into_iter().map(|(first, counts)| Merged {
        name: &first.name,
        unit: &first.unit,
        histogram: counts.into_iter().map(|(value, n)| [value, n]).collect(),
    });
    whole.collect()
}

/// Everything recorded since the broker started.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Stages {
    /// In the order in which they were told, which is that of a message's way.
    histograms: Vec<Histogram>,
}

#[derive(Clone, Debug, PartialEq)]
struct Histogram {
    shard: String,
    name: String,
    unit: String,
    /// By value.
    counts: BTreeMap<u64, u64>,
}

impl Stages {
    /// Reads `/metrics.json`: a list `stages` at the top, of which each entry may name its shard,
    /// or one in each shard's object, or both.
    pub(crate) fn read(metrics: &Value) -> Self {
        let mut stages = Self::default();
        stages.take(metrics, "");
        for (name, shard) in metrics.as_object().into_iter().flatten() {
            stages.take(shard, name);
        }
        let shards = metrics.get("shards").and_then(Value::as_array);
        for (number, shard) in shards.into_iter().flatten().enumerate() {
            stages.take(shard, &format!("shard-{number}"));
        }
        stages
    }

    fn take(&mut self, holder: &Value, shard: &str) {
        let entries = holder.get("stages").and_then(Value::as_array);
        for entry in entries.into_iter().flatten() {
            // An entry that is no histogram is somebody else's business.
            let _ = self.take_entry(entry, shard);
        }
    }

    fn take_entry(&mut self, entry: &Value, shard: &str) -> Option<()> {
        let shard = match entry.get("shard") {
            Some(Value::String(name)) => name.clone(),
            Some(Value::Number(number)) => format!("shard-{number}"),
            _ => shard.to_owned(),
        };
        let name = entry.get("name")?.as_str()?.to_owned();
        let unit = entry.get("unit")?.as_str()?.to_owned();
        let mut counts = BTreeMap::new();
        for pair in entry.get("histogram")?.as_array()? {
            let (value, count) = (pair.get(0)?.as_u64()?, pair.get(1)?.as_u64()?);
            *counts.entry(value).or_default() += count;
        }
        self.histograms.push(Histogram {
            shard,
            name,
            unit,
            counts,
        });
        Some(())
    }

    /// What was recorded after `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Vec<Stage> {
        let mut stages = Vec::new();
        for now in &self.histograms {
            let same = |other: &&Histogram| other.shard == now.shard && other.name == now.name;
            let before = earlier.histograms.iter().find(same);
            let before = |value| before.and_then(|before| before.counts.get(value)).copied();
            let histogram: Vec<[u64; 2]> = now
                .counts
                .iter()
                .map(|(value, count)| [*value, count.saturating_sub(before(value).unwrap_or(0))])
                .filter(|[_, count]| *count > 0)
                .collect();
            if histogram.is_empty() {
                continue;
            }
            stages.push(Stage {
                shard: now.shard.clone(),
                name: now.name.clone(),
                unit: now.unit.clone(),
                count: histogram.iter().map(|[_, count]| count).sum(),
                p50: quantile_of(&histogram, 0.5),
                p99: quantile_of(&histogram, 0.99),
                p999: quantile_of(&histogram, 0.999),
                max: histogram.last().map_or(0, |[value, _]| *value),
                histogram,
            });
        }
        stages
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_measurement_is_the_difference_of_two_looks() {
        let look = |fast: u64, slow: u64| {
            let histogram = json!([[100, fast], [9_000, slow]]);
            let stage = json!({"name": "append", "unit": "ns", "histogram": histogram});
            Stages::read(&json!({"shard-0": {"appends": 4, "stages": [stage]}}))
        };
        let stages = look(1_010, 7).since(&look(1_000, 6));
        let [stage] = &stages[..] else {
            panic!("one stage: {stages:?}")
        };
        assert_eq!(
            (stage.shard.as_str(), stage.name.as_str()),
            ("shard-0", "append")
        );
        assert_eq!((stage.count, stage.p50, stage.max), (11, 100, 9_000));
        assert_eq!(stage.histogram, [[100, 10], [9_000, 1]]);
        assert!(look(1, 1).since(&look(1, 1)).is_empty());
    }

    fn told_of(shard: Value) -> Value {
        json!({"shard": shard, "name": "turn", "unit": "ns", "histogram": [[5, 1]]})
    }

    #[test]
    fn a_list_at_the_top_names_its_shards() {
        let metrics = json!({"stages": [told_of(json!(1)), told_of(json!("all"))]});
        let stages = Stages::read(&metrics).since(&Stages::default());
        let shards: Vec<_> = stages.iter().map(|stage| stage.shard.as_str()).collect();
        assert_eq!(shards, ["shard-1", "all"]);
    }

    #[test]
    fn what_is_no_histogram_is_passed_over() {
        for metrics in [
            json!(null),
            json!({"shard-0": {"appends": 4}}),
            json!({"stages": [{"name": "x", "unit": "ns"}, {"histogram": 4}, 7]}),
            json!({"stages": [{"name": "x", "unit": "ns", "histogram": [[1], [-1, "a"]]}]}),
        ] {
            assert_eq!(Stages::read(&metrics), Stages::default(), "{metrics}");
        }
    }
}

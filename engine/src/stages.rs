//! Where the time goes: histograms of the stages that work passes, kept by each shard and always
//! on. A value costs some nanoseconds, so a stage is recorded once a batch, group, fetch or turn,
//! never once a record.
//!
//! A turn reads the time twice: as it begins, which is when everything that it finds completed
//! counts as received or durable, and when all of that was looked at, which is when requests count
//! as handed over and commit groups as submitted. Stages begin and end there; how long a turn takes
//! is a stage of its own, the driver's.

use hdrhistogram::Histogram;
use millrace_storage::GroupDone;
use millrace_storage::units::{BootTime, Now};

/// Longer times count as this, nanoseconds: a minute.
const TIME_NS_MAX: u64 = 60_000_000_000;
/// Larger sizes count as this, bytes.
const BYTES_MAX: u64 = 1 << 32;
/// More at once counts as this.
const COUNT_MAX: u64 = 1 << 20;
/// Figures are good to one part in a hundred.
const SIGNIFICANT_DIGITS: u8 = 2;

/// Whether stages record. What they cost is measured against a build that does not.
pub const IS_RECORDING: bool = !cfg!(feature = "no-stages");

/// What a stage's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Time.
    Nanoseconds,
    /// Sizes.
    Bytes,
    /// How many.
    Count,
}

impl Unit {
    /// Its name for a report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Bytes => "bytes",
            Self::Count => "count",
        }
    }
}

/// One stage's values since start.
#[derive(Clone, Debug)]
pub struct Stage {
    name: &'static str,
    unit: Unit,
    values: Histogram<u64>,
}

/// A stage as it is told: every recorded value with its count, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageReport {
    /// Its name.
    pub name: &'static str,
    /// What its values are.
    pub unit: Unit,
    /// Pairs of a value and how often it was recorded since start.
    pub histogram: Vec<[u64; 2]>,
}

impl Stage {
    /// A stage without values.
    #[must_use]
    pub fn new(name: &'static str, unit: Unit) -> Self {
        let max = match unit {
            Unit::Nanoseconds => TIME_NS_MAX,
            Unit::Bytes => BYTES_MAX,
            Unit::Count => COUNT_MAX,
        };
        let values = Histogram::new_with_bounds(1, max, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants that hdrhistogram accepts");
        Self { name, unit, values }
    }

    /// Records one value; 0 counts as 1.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Records a value `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        if IS_RECORDING {
            self.values.saturating_record_n(value.max(1), count);
        }
    }

    /// What was recorded so far.
    #[must_use]
    pub fn report(&self) -> StageReport {
        let recorded = self.values.iter_recorded();
        let pair = |step: hdrhistogram::iterators::IterationValue<u64>| {
            [step.value_iterated_to(), step.count_since_last_iteration()]
        };
        StageReport {
            name: self.name,
            unit: self.unit,
            histogram: recorded.map(pair).collect(),
        }
    }
}

/// What a request's time from its beginning to its end counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    Append,
    Fetch,
    /// Not recorded.
    Other,
}

/// The stages of one shard.
#[derive(Debug)]
pub(crate) struct Stages {
    /// The present turn's time: ends of requests come without one of their own.
    turn: BootTime,
    /// When the disk's newest completion was found.
    disk: BootTime,
    /// From a batch's submission at its connection's shard to its acknowledgement there.
    append: Stage,
    /// From a fetch's submission to its answer: reading, and waiting for what is not there yet.
    fetch: Stage,
    /// From a request's way to another shard to its end's return.
    mesh: Stage,
    group_open: Stage,
    group_commit: Stage,
    group_bytes: Stage,
    group_entries: Stage,
    groups_in_flight: Stage,
}

impl Stages {
    pub(crate) fn new() -> Self {
        Self {
            turn: BootTime(0),
            disk: BootTime(0),
            append: Stage::new("append", Unit::Nanoseconds),
            fetch: Stage::new("fetch", Unit::Nanoseconds),
            mesh: Stage::new("mesh", Unit::Nanoseconds),
            group_open: Stage::new("group_open", Unit::Nanoseconds),
            group_commit: Stage::new("group_commit", Unit::Nanoseconds),
            group_bytes: Stage::new("group_bytes", Unit::Bytes),
            group_entries: Stage::new("group_entries", Unit::Count),
            groups_in_flight: Stage::new("groups_in_flight", Unit::Count),
        }
    }

    /// Takes the present turn's time.
    pub(crate) fn begin_turn(&mut self, now: Now) {
        self.turn = now.boot;
    }

    /// A completion of the disk's was found in the present turn.
    pub(crate) fn note_disk(&mut self, now: Now) {
        self.begin_turn(now);
        self.disk = now.boot;
    }

    /// When that became durable which is released now: the log moves only by a completion, and what
    /// it makes durable is released at the end of the same turn.
    pub(crate) fn durable_at(&self) -> BootTime {
        self.disk
    }

    /// A request ends in the present turn.
    pub(crate) fn note_end(&mut self, passage: Passage, begun: BootTime) {
        let took_ns = self.turn.since_ns(begun);
        match passage {
            Passage::Append => self.append.record(took_ns),
            Passage::Fetch => self.fetch.record(took_ns),
            Passage::Other => {}
        }
    }

    /// A request is back from another shard.
    pub(crate) fn note_mesh(&mut self, begun: BootTime) {
        self.mesh.record(self.turn.since_ns(begun));
    }

    /// A group became durable: it was open while others were on their way, then on its own way.
    pub(crate) fn note_group(&mut self, group: &GroupDone) {
        self.group_open
            .record(group.submitted.since_ns(group.opened));
        self.group_commit
            .record(group.durable.since_ns(group.submitted));
        self.group_bytes.record(group.bytes as u64);
        self.group_entries.record(group.entries.into());
        self.groups_in_flight.record(group.in_flight as u64);
    }

    /// Every stage, in the order that work passes them.
    pub(crate) fn report(&self) -> Vec<StageReport> {
        let stages = [
            &self.append,
            &self.group_open,
            &self.group_commit,
            &self.fetch,
            &self.mesh,
            &self.group_bytes,
            &self.group_entries,
            &self.groups_in_flight,
        ];
        stages.map(Stage::report).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "no-stages"))]
    #[test]
    fn a_stage_tells_every_value_with_its_count() {
        let mut stage = Stage::new("append", Unit::Nanoseconds);
        assert_eq!(stage.report().histogram, Vec::<[u64; 2]>::new());
        for value in [0, 100, 100, 5_000_000, u64::MAX] {
            stage.record(value);
        }
        let told = stage.report();
        assert_eq!((told.name, told.unit.name()), ("append", "ns"));
        let counts: Vec<u64> = told.histogram.iter().map(|[_, count]| *count).collect();
        assert_eq!(counts, [1, 2, 1, 1]);
        let [value, _] = told.histogram[2];
        assert!(value.abs_diff(5_000_000) <= 50_000, "{value}");
        assert!(told.histogram[3][0] >= TIME_NS_MAX, "the longest counts");
    }
}

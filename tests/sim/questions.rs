//! What the harness itself asks of a world: whether a partition takes a batch, and all that it
//! holds.

use crate::batches::{Seen, batch, batches_of};
use crate::churn::CHURNED;
use crate::clients::TOPIC;
use crate::failure::{Checked, Failure, ensure};
use crate::history::Line;
use crate::kafka::{self, FetchFrom, Reply};
use crate::world::World;

/// The number of a client that only probes.
const PROBER: usize = 1_000;

/// Asks a partition to take a batch; whether it did.
pub(crate) fn probe(world: &mut World, partition: i32) -> Checked<bool> {
    let first_ms = world.history.time_ms();
    let line = Line {
        client: PROBER,
        connection: first_ms.unsigned_abs(),
    };
    let id = world.history.begin(line, partition, (1, first_ms));
    let bytes = batch(id.0, 1, 100, first_ms);
    let asked = world.ask(&kafka::produce(1, TOPIC, partition, &bytes));
    if world.is_poisoned() {
        return Ok(false);
    }
    match Reply(&asked?).produced() {
        Some((0, base)) => world.history.acknowledge(id, base).map(|()| true),
        _ => {
            world.history.fail();
            Ok(false)
        }
    }
}

/// What a reader may be told of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    Never,
    /// The disk lied: that something cannot be read is an honest answer.
    Honest,
}

/// All that a partition of the topic that stays holds, or what comes before the first damage.
pub(crate) fn drain(world: &mut World, partition: i32, damage: Damage) -> Checked<Vec<Seen>> {
    let known = world.history.known_end(partition);
    let end = match listed(world, TOPIC, partition, -1)? {
        Some((0, end)) => end,
        other => {
            return Err(Failure(format!(
                "the end of partition {partition} is {other:?}"
            )));
        }
    };
    ensure!(
        end >= known,
        "partition {partition} ends at {end}, but {known} was told before"
    );
    match read(world, (TOPIC, partition), (0, end))? {
        Read::Whole(log) => Ok(log),
        Read::Stopped(log, kafka::CORRUPT_MESSAGE) if damage == Damage::Honest => Ok(log),
        Read::Stopped(log, error) => Err(Failure(format!(
            "partition {partition} at {}: error {error}",
            log.len()
        ))),
    }
}

/// Judges a partition of the topic that comes and goes.
pub(crate) fn check_churned(world: &mut World, partition: i32) -> Checked<()> {
    loop {
        let start = listed(world, CHURNED, partition, -2)?;
        let end = listed(world, CHURNED, partition, -1)?;
        let (Some((0, start)), Some((0, end))) = (start, end) else {
            let presence = world.history.churn.presence();
            ensure!(
                presence.is_none(),
                "{CHURNED}-{partition} goes from {start:?} to {end:?}"
            );
            return Ok(());
        };
        match read(world, (CHURNED, partition), (start, end))? {
            Read::Whole(log) => {
                let churn = &mut world.history.churn;
                return churn.check_drained(partition, (start, end), &log);
            }
            // Retention went past it meanwhile.
            Read::Stopped(_, kafka::OFFSET_OUT_OF_RANGE) => {}
            Read::Stopped(_, error) => {
                return Err(Failure(format!("{CHURNED}-{partition}: error {error}")));
            }
        }
    }
}

/// Error code and offset of a place.
fn listed(world: &mut World, topic: &str, partition: i32, at: i64) -> Checked<Option<(i16, i64)>> {
    let body = world.ask(&kafka::list_offset(1, topic, partition, at))?;
    Ok(Reply(&body).listed_offset())
}

/// What came of reading a range.
enum Read {
    Whole(Vec<Seen>),
    /// What came before an error, and its code.
    Stopped(Vec<Seen>, i16),
}

fn read(
    world: &mut World,
    (topic, partition): (&str, i32),
    (start, end): (i64, i64),
) -> Checked<Read> {
    let mut log: Vec<Seen> = Vec::new();
    loop {
        let offset = start + i64::try_from(log.len()).expect("small runs");
        if offset >= end {
            return Ok(Read::Whole(log));
        }
        let from = [FetchFrom { partition, offset }];
        let body = world.ask(&kafka::fetch(2, topic, &from, 0))?;
        let fetched = Reply(&body).fetched();
        let Some([fetched]) = fetched.as_deref() else {
            return Err(Failure(format!(
                "a fetch of {topic}-{partition} gave {fetched:?}"
            )));
        };
        if fetched.error != 0 {
            return Ok(Read::Stopped(log, fetched.error));
        }
        let seen = batches_of(fetched.records)?;
        ensure!(
            !seen.is_empty(),
            "{topic}-{partition}: nothing at {offset} of {end}"
        );
        log.extend(seen.iter().filter(|seen| seen.offset >= offset));
    }
}

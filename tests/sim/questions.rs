//! What the harness itself asks of a world: whether a partition takes a batch, and all that it
//! holds.

use crate::batches::{Seen, batch, batches_of};
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

/// All that a partition holds, or what comes before the first damage.
pub(crate) fn drain(world: &mut World, partition: i32, damage: Damage) -> Checked<Vec<Seen>> {
    let known = world.history.known_end(partition);
    let body = world.ask(&kafka::list_offset(1, TOPIC, partition, -1))?;
    let end = match Reply(&body).listed_offset() {
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
    let mut log: Vec<Seen> = Vec::new();
    while (log.len() as i64) < end {
        let offset = log.len() as i64;
        let body = world.ask(&kafka::fetch(
            2,
            TOPIC,
            &[FetchFrom { partition, offset }],
            0,
        ))?;
        let fetched = Reply(&body).fetched();
        let Some([fetched]) = fetched.as_deref() else {
            return Err(Failure(format!(
                "a fetch of partition {partition} gave {fetched:?}"
            )));
        };
        if damage == Damage::Honest && fetched.error == kafka::CORRUPT_MESSAGE {
            break;
        }
        ensure!(
            fetched.error == 0,
            "partition {partition} at {offset}: error {}",
            fetched.error
        );
        let seen = batches_of(fetched.records)?;
        ensure!(
            !seen.is_empty(),
            "partition {partition}: nothing at {offset} of {end}"
        );
        log.extend(seen.iter().filter(|seen| seen.offset >= offset));
    }
    Ok(log)
}

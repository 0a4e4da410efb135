//! Tells a torn tail from damage.
//!
//! Each block records how far the log was durable when it was closed. That is true whatever became
//! of the blocks around it, so the blocks *behind* a bad one testify: if one of them says that the
//! bad place was durable, acknowledged data is damaged. A block that stands at the wrong place says
//! so as truly as any. If none does, nobody was told that the bad place holds anything, and with
//! several groups in flight a hole in front of whole blocks is an ordinary crash.
//!
//! Witnesses are blocks of the live end's own life behind the end, and blocks of later lives: a
//! roll whose header or predecessor did not survive. What looks like a block within what a client
//! sent is none: see [`super::survey`]. A live end whose file is shorter than its
//! header says has lost its witnesses: all that had room there counts as acknowledged. The manifest
//! is one as well: the log was durable up to the end of what is settled, and up to where the
//! snapshot has its effect. Earlier lives off the chain were abandoned by an earlier recovery and
//! say nothing about this end.

use std::collections::{BTreeMap, BTreeSet};

use super::chain::Chain;
use super::reader::FileReader;
use super::survey::Survey;
use crate::block::{BlockHeader, FIRST_BLOCK, Seeding};
use crate::blocking::StartDisk;
use crate::config::LossRange;
use crate::entry::{Entries, EntryKind};
use crate::error::{Intact, StorageError};
use crate::units::{FilePosition, LifeId, Lsn, PartitionId, ShardId};

/// What the blocks off the accepted chain say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Testimony {
    /// The highest durable LSN recorded.
    pub(super) durable: Lsn,
    /// End of the highest block.
    pub(super) end: Lsn,
    /// The highest life.
    pub(super) life: LifeId,
}

impl Testimony {
    fn hear(&mut self, header: &BlockHeader) {
        self.durable = self.durable.max(header.durable_lsn);
        self.end = self.end.max(header.end_lsn());
        self.life = self.life.max(header.life);
    }
}

/// Hears every witness about the live end of `chain`.
pub(super) fn hear(
    disk: &mut StartDisk<'_, '_>,
    survey: &Survey,
    chain: &Chain,
    seeding: Seeding,
) -> Result<Testimony, StorageError> {
    let live = &chain.last().header;
    let mut testimony = Testimony::default();
    let bytes = survey.slots[&live.slot].bytes;
    FileReader::new(live.slot, bytes, seeding).scan(disk, chain.end_position(), &mut |header| {
        let is_ours = header.life == live.life && header.generation == live.generation;
        if is_ours && header.shard == live.shard {
            testimony.hear(header);
        }
    })?;
    if bytes < live.file_bytes {
        testimony.end = live.first_lsn + (live.file_bytes - FIRST_BLOCK.0);
        testimony.durable = testimony.end;
    }
    let later = hear_lives(disk, survey, (live.shard, live.life.0 + 1), seeding)?;
    testimony.durable = testimony.durable.max(later.durable);
    testimony.end = testimony.end.max(later.end);
    testimony.life = testimony.life.max(later.life);
    Ok(testimony)
}

/// Hears every block of the log's own, of life `first_life` or later. A file whose whole header
/// says that it is on an earlier life holds none if its first block says the same. A disk that lost
/// the header's write, or put it where the first block was, and said that it had it, must not make
/// what follows invisible.
pub(super) fn hear_lives(
    disk: &mut StartDisk<'_, '_>,
    survey: &Survey,
    (shard, first_life): (ShardId, u64),
    seeding: Seeding,
) -> Result<Testimony, StorageError> {
    let mut testimony = Testimony::default();
    for (slot, file) in &survey.slots {
        let mut reader = FileReader::new(*slot, file.bytes, seeding);
        let is_earlier = file.header.is_some_and(|header| header.life.0 < first_life);
        if is_earlier && file.first_life.is_some_and(|life| life.0 < first_life) {
            continue;
        }
        let mut hear = |header: &BlockHeader| {
            let is_late = header.life.0 >= first_life && header.shard == shard;
            if is_late && survey.is_own(file, header) {
                testimony.hear(header);
            }
        };
        if file.is_nameless {
            reader.scan_past_payloads(disk, FIRST_BLOCK, &mut hear)?;
        } else {
            reader.scan(disk, FIRST_BLOCK, &mut hear)?;
        }
    }
    Ok(testimony)
}

/// What of the damaged range `lost` is whole: blocks of life `first_life` or later whose payload
/// matches its checksum. For the words of a refusal, not for its judgement.
pub(super) fn hear_intact(
    disk: &mut StartDisk<'_, '_>,
    survey: &Survey,
    (shard, first_life): (ShardId, u64),
    lost: LossRange,
    seeding: Seeding,
) -> Result<Intact, StorageError> {
    let mut blocks: BTreeMap<Lsn, u64> = BTreeMap::new();
    let mut partitions = BTreeSet::new();
    for (slot, file) in &survey.slots {
        let mut reader = FileReader::new(*slot, file.bytes, seeding);
        let mut places: Vec<FilePosition> = Vec::new();
        reader.scan(disk, FIRST_BLOCK, &mut |header| {
            let is_in_range = header.first_lsn >= lost.from && header.end_lsn() <= lost.to;
            let is_late = header.life.0 >= first_life && header.shard == shard;
            if is_late && is_in_range && survey.is_own(file, header) {
                places.push(header.position);
            }
        })?;
        for place in places {
            let Ok(block) = reader.block(disk, place)? else {
                continue;
            };
            // Two lives may both hold a block, when a start copied it and did not get further.
            let bytes = u64::from(block.header.block_bytes);
            blocks.insert(block.header.first_lsn, bytes);
            partitions.extend(batches_of(block.payload));
        }
    }
    Ok(Intact {
        blocks: blocks.len() as u64,
        bytes: blocks.values().sum(),
        partitions: partitions.into_iter().collect(),
    })
}

/// Whose batches a block holds.
fn batches_of(payload: &[u8]) -> impl Iterator<Item = PartitionId> + '_ {
    let entries = Entries::new(payload, 0).map_while(Result::ok);
    let batches = entries.filter(|entry| entry.kind == EntryKind::Batch);
    batches.filter_map(|entry| u32::try_from(entry.id).ok().map(PartitionId))
}

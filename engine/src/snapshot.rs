//! A shard's state as bytes: what its log's entries came to, so that their files can be reused.
//!
//! | bytes | type | field                                                               |
//! |------:|------|---------------------------------------------------------------------|
//! |     2 | u16  | format, 2                                                           |
//! |     4 | blob | the catalog as the change that builds it; empty but on shard 0      |
//! |     4 | blob | the catalog change in the log but not durable yet; empty for none   |
//! |     4 | u32  | count of partitions; each is its id (u32) and its state             |
//! |     4 | u32  | count of groups; each is its name and its state; none in format 1   |
//!
//! A snapshot speaks of everything appended, durable or not: the store makes it live only once the
//! log is durable up to it. A start takes it and then the entries that follow.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_storage::Replayed;
use millrace_storage::units::{BootTime, LeaderEpoch, Lsn, Offset, PartitionId};

use crate::catalog::Catalog;
use crate::catalog::change::{CatalogChange, Operation};
use crate::codec::{CodecError, Decoder, Encoder};
use crate::group::state::{self, GroupState, GroupStates};
use crate::limits::{PRODUCER_ID_BLOCK, RECORDS_PER_BYTE_MAX};
use crate::partition::PartitionState;
use crate::partition::use_order::UseOrder;
use pieces::Gathered;

mod pieces;

pub(crate) use pieces::in_pieces;

const FORMAT: u16 = 2;
/// Of the entries: states of partitions, leader epochs.
const ENTRY_FORMAT: u16 = 1;

/// The key under which the log holds catalog changes.
pub(crate) const CATALOG_KEY: u64 = 1;
/// The key under which the log holds the leader epochs that a loss began.
pub(crate) const EPOCHS_KEY: u64 = 2;

/// The key under which the log holds the states of partitions that moved in.
pub(crate) const STATES_KEY: u64 = 3;
/// The key under which the log holds a piece of an entry that is too large for it: see [`pieces`].
pub(crate) const PIECE_KEY: u64 = 4;
/// The key under which the log holds what happens to groups.
pub(crate) const GROUPS_KEY: u64 = 5;
/// Bytes of one such entry before its last partition. With [`PRODUCERS_MOVED_MAX`] producers of
/// 147 bytes each in that one it stays below 1 MiB.
const STATES_BYTES_MAX: usize = 256 << 10;
/// Producers of a partition that move with it: those that were used last.
pub(crate) const PRODUCERS_MOVED_MAX: usize = 4_096;

/// Writes a snapshot.
pub(crate) fn encode<'a>(
    catalog: Option<&Catalog>,
    appended: Option<&CatalogChange>,
    partitions: impl ExactSizeIterator<Item = (PartitionId, &'a PartitionState)>,
    groups: impl ExactSizeIterator<Item = (&'a Arc<str>, &'a GroupState)>,
) -> Vec<u8> {
    let mut out = Encoder::default();
    out.u16(FORMAT);
    out.blob(&catalog.map_or(Vec::new(), |catalog| catalog.as_change().encode()));
    out.blob(&appended.map_or(Vec::new(), CatalogChange::encode));
    out.count(partitions.len());
    for (partition, state) in partitions {
        out.u32(partition.0);
        state.encode(&mut out);
    }
    out.count(groups.len());
    for (group, state) in groups {
        out.string(group);
        state.encode(&mut out);
    }
    out.into_bytes()
}

/// Idle periods begin when the shard begins to serve; until then only their order is known.
const IDLE_SINCE: BootTime = BootTime(0);

/// What a start has found so far of one shard.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// Entries that end at or below it are in the snapshot.
    as_of: Lsn,
    /// Shard 0's catalog; empty on the others.
    pub(crate) catalog: Catalog,
    /// Partitions that anything was found of.
    pub(crate) partitions: BTreeMap<PartitionId, PartitionState>,
    /// Groups that anything was found of.
    pub(crate) groups: GroupStates,
    /// Bytes of the log that the operator gave up and that nothing was done about yet: at this
    /// start, or at one that did not get to the end.
    pub(crate) lost_bytes: u64,
    /// An entry of which not every piece has come.
    gathered: Gathered,
    /// The producers of all partitions, as the log tells who was used last.
    order: UseOrder,
    /// Producers remembered at most.
    producers_max: usize,
    /// The first thing that could not be read. What follows it is not looked at.
    failed: Option<CodecError>,
}

impl Recovered {
    /// Nothing yet.
    pub(crate) fn new(producers_max: usize) -> Self {
        Self {
            as_of: Lsn(0),
            catalog: Catalog::default(),
            partitions: BTreeMap::new(),
            groups: GroupStates::new(),
            lost_bytes: 0,
            gathered: Gathered::default(),
            order: UseOrder::default(),
            producers_max,
            failed: None,
        }
    }

    /// Takes what the store found, in its order.
    pub(crate) fn replay(&mut self, found: Replayed<'_>) {
        if self.failed.is_none() {
            self.failed = self.take(found).err();
        }
    }

    /// Ends the replay.
    pub(crate) fn finish(mut self) -> Result<Self, CodecError> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }

    fn take(&mut self, found: Replayed<'_>) -> Result<(), CodecError> {
        match found {
            Replayed::Snapshot { as_of, bytes } => {
                self.as_of = as_of;
                self.decode(bytes)
            }
            Replayed::Batch {
                lsn,
                partition,
                header,
                ..
            } if lsn > self.as_of => {
                self.partition(partition).note_replayed(&header)?;
                self.note_producer(partition, header.producer_id);
                Ok(())
            }
            Replayed::State { lsn, key, bytes } if lsn > self.as_of => match key {
                PIECE_KEY => match self.gathered.take(bytes)? {
                    Some((key, whole)) => self.take_state(key, &whole),
                    None => Ok(()),
                },
                key => self.take_state(key, bytes),
            },
            // The store itself keeps the starts of logs; the rest is in the snapshot.
            Replayed::Batch { .. } | Replayed::State { .. } | Replayed::LogStart { .. } => Ok(()),
            Replayed::LossAccepted { from, to } => {
                // A snapshot taken since then lies above `to`: a start has written of it by then.
                if to >= self.as_of {
                    self.lost_bytes += to - from;
                }
                Ok(())
            }
        }
    }

    fn take_state(&mut self, key: u64, bytes: &[u8]) -> Result<(), CodecError> {
        match key {
            CATALOG_KEY => {
                let change = CatalogChange::decode(bytes)?;
                self.catalog.apply(&change).map(drop)
            }
            EPOCHS_KEY => self.take_epochs(bytes),
            STATES_KEY => self.take_states(bytes),
            GROUPS_KEY => state::apply_entry(&mut self.groups, bytes),
            key => Err(CodecError::Invalid(format!(
                "state under the unknown key {key}"
            ))),
        }
    }

    /// A producer was used. A log can tell of more of them than are remembered.
    fn note_producer(&mut self, partition: PartitionId, producer: i64) {
        let state = self.partitions.get_mut(&partition).expect("just noted");
        self.order
            .renew(partition, &mut state.producers, producer, IDLE_SINCE);
        self.forget_producers();
    }

    fn forget_producers(&mut self) {
        while self.order.len() > self.producers_max
            && let Some(idle) = self.order.pop()
        {
            let state = self.partitions.get_mut(&idle.partition);
            let state = state.expect("the order knows the producers of these partitions");
            state.producers.forget(idle.producer);
        }
    }

    /// Takes a partition's whole state.
    fn take_partition(&mut self, partition: PartitionId, mut state: PartitionState) {
        let found = [(partition, &mut state.producers)];
        self.order.adopt(found.into_iter(), IDLE_SINCE);
        if let Some(before) = self.partitions.insert(partition, state) {
            self.order.drop_all(&before.producers);
        }
        self.forget_producers();
    }

    fn partition(&mut self, partition: PartitionId) -> &mut PartitionState {
        let state = self.partitions.entry(partition);
        state.or_insert_with(PartitionState::new)
    }

    fn decode(&mut self, bytes: &[u8]) -> Result<(), CodecError> {
        let mut input = Decoder::new(bytes);
        let format = input.format(FORMAT, "snapshot")?;
        let catalog = input.blob("the catalog")?;
        if !catalog.is_empty() {
            self.catalog = Catalog::from_change(&CatalogChange::decode(catalog)?)?;
        }
        let appended = input.blob("a catalog change")?;
        if !appended.is_empty() {
            self.catalog.apply(&CatalogChange::decode(appended)?)?;
        }
        let count = input.count(24, "partitions")?;
        for _ in 0..count {
            let partition = PartitionId(input.u32("a partition")?);
            let state = PartitionState::decode(&mut input)?;
            self.take_partition(partition, state);
        }
        if format > 1 {
            for _ in 0..input.count(24, "groups")? {
                let group = Arc::from(input.string("a group's name")?);
                let state = GroupState::decode(&mut input)?;
                self.groups.insert(group, state);
            }
        }
        input.finish()
    }

    /// Applies an entry of `encode_states`: that is how the partitions came here.
    fn take_states(&mut self, bytes: &[u8]) -> Result<(), CodecError> {
        let mut input = Decoder::new(bytes);
        input.format(ENTRY_FORMAT, "states of partitions")?;
        while !input.is_empty() {
            let partition = PartitionId(input.u32("a partition")?);
            let state = PartitionState::decode(&mut input)?;
            self.take_partition(partition, state);
        }
        Ok(())
    }

    /// Applies what `skip_lost` wrote, which settles every loss before it.
    fn take_epochs(&mut self, bytes: &[u8]) -> Result<(), CodecError> {
        let mut input = Decoder::new(bytes);
        input.format(ENTRY_FORMAT, "leader epochs")?;
        let count = input.count(16, "leader epochs")?;
        for _ in 0..count {
            let partition = PartitionId(input.u32("a partition")?);
            let epoch = LeaderEpoch(input.i32("a leader epoch")?);
            let next = Offset(input.u64("an epoch's start")?);
            let state = self.partition(partition);
            state.reach(next);
            state.epochs.observe(epoch, next);
        }
        self.lost_bytes = 0;
        input.finish()
    }
}

/// The states of partitions that move to another shard, as entries for [`STATES_KEY`].
pub(crate) fn encode_states<'a>(
    partitions: impl Iterator<Item = (PartitionId, &'a PartitionState)>,
) -> Vec<Vec<u8>> {
    let mut entries: Vec<Encoder> = Vec::new();
    for (partition, state) in partitions {
        if entries
            .last()
            .is_none_or(|last| last.len() >= STATES_BYTES_MAX)
        {
            let mut next = Encoder::default();
            next.u16(ENTRY_FORMAT);
            entries.push(next);
        }
        let out = entries.last_mut().expect("one was begun");
        out.u32(partition.0);
        state.encode(out);
    }
    entries.into_iter().map(Encoder::into_bytes).collect()
}

/// Moves partitions past `lost_bytes` of the log, of which nothing is known. Returns the log's
/// record of it, for [`EPOCHS_KEY`].
pub(crate) fn skip_lost<'a>(
    lost_bytes: u64,
    partitions: impl ExactSizeIterator<Item = (PartitionId, &'a mut PartitionState)>,
) -> Vec<u8> {
    let offsets = lost_bytes.saturating_mul(RECORDS_PER_BYTE_MAX);
    let skipped = partitions.map(|(partition, state)| {
        state.skip_lost(offsets);
        (partition, &*state)
    });
    encode_epochs(skipped)
}

/// Moves partitions of which nothing is left past all that they can have held. Returns the log's
/// record of it, for [`EPOCHS_KEY`].
pub(crate) fn begin_again<'a>(
    wall_ms: i64,
    partitions: impl ExactSizeIterator<Item = (PartitionId, &'a mut PartitionState)>,
) -> Vec<u8> {
    let begun = partitions.map(|(partition, state)| {
        state.begin_again(wall_ms);
        (partition, &*state)
    });
    encode_epochs(begun)
}

fn encode_epochs<'a>(
    partitions: impl ExactSizeIterator<Item = (PartitionId, &'a PartitionState)>,
) -> Vec<u8> {
    let mut out = Encoder::default();
    out.u16(ENTRY_FORMAT);
    out.count(partitions.len());
    for (partition, state) in partitions {
        out.u32(partition.0);
        out.i32(state.epochs.current().0);
        out.u64(state.next().0);
    }
    out.into_bytes()
}

/// What moves the catalog past `lost_bytes` of shard 0's log: ids that a lost change may have given
/// away are not given again. A change takes more than a byte for each partition, and each block of
/// producer ids takes a change.
pub(crate) fn skip_lost_ids(catalog: &Catalog, lost_bytes: u64) -> Vec<Operation> {
    let partitions = u32::try_from(lost_bytes).unwrap_or(u32::MAX);
    let blocks = i64::try_from(lost_bytes).unwrap_or(i64::MAX);
    let producers = blocks.saturating_mul(PRODUCER_ID_BLOCK);
    vec![
        Operation::PartitionIdsLost {
            from: catalog.next_partition().0,
            next: catalog.next_partition().0.saturating_add(partitions),
        },
        Operation::ProducerIdsReserved {
            next: catalog.next_producer().saturating_add(producers),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CatalogEpoch;
    use crate::catalog::change::tests::every_operation;
    use crate::group::NewOffset;
    use crate::group::state::GroupChange;
    use crate::testing::BatchMaker;
    use millrace_storage::record::BatchHeader;

    const P: PartitionId = PartitionId(3);

    fn header(base_offset: u64) -> BatchHeader {
        let bytes = BatchMaker::new(2).bytes();
        BatchHeader {
            base_offset: Offset(base_offset),
            ..BatchHeader::parse(&bytes).expect("good")
        }
    }

    fn batch(lsn: u64, base_offset: u64) -> Replayed<'static> {
        Replayed::Batch {
            lsn: Lsn(lsn),
            partition: P,
            header: header(base_offset),
            bytes: &[],
        }
    }

    fn change(epoch: u64, operations: &[Operation]) -> CatalogChange {
        CatalogChange {
            epoch: CatalogEpoch(epoch),
            operations: operations.to_vec(),
        }
    }

    #[test]
    fn a_snapshot_and_the_log_behind_it_make_the_state() {
        let all = every_operation();
        let mut catalog = Catalog::default();
        catalog.apply(&change(1, &all[..4])).expect("fits");
        let mut partition = PartitionState::new();
        partition.note_appended(&header(0), None, Lsn(7));
        let appended = change(2, &all[4..6]);
        let partitions = [(P, &partition)];
        let group: Arc<str> = Arc::from("g");
        let committed = GroupChange::Committed {
            group: Arc::clone(&group),
            committed_ms: 1,
            expires_ms: None,
            offsets: vec![(
                P,
                NewOffset {
                    offset: Offset(1),
                    leader_epoch: None,
                    metadata: Arc::from("words"),
                },
            )],
        };
        let mut groups = GroupStates::new();
        state::apply(&mut groups, committed);
        let bytes = encode(
            Some(&catalog),
            Some(&appended),
            partitions.into_iter(),
            groups.iter(),
        );

        let mut found = Recovered::new(10);
        found.replay(Replayed::Snapshot {
            as_of: Lsn(10),
            bytes: &bytes,
        });
        found.replay(batch(10, 0)); // In the snapshot.
        found.replay(batch(11, 2));
        let third = change(3, &all[6..7]).encode();
        found.replay(Replayed::State {
            lsn: Lsn(12),
            key: CATALOG_KEY,
            bytes: &third,
        });
        let began = state::entry(&GroupChange::Generation {
            group: Arc::clone(&group),
            generation: 5,
            protocol_type: None,
            empty_since_ms: None,
        });
        found.replay(Replayed::State {
            lsn: Lsn(13),
            key: GROUPS_KEY,
            bytes: &began,
        });
        let found = found.finish().expect("good");
        assert_eq!(found.groups[&group].generation, 5);
        assert_eq!(found.groups[&group].offsets, groups[&group].offsets);
        assert_eq!(found.partitions[&P].next(), Offset(4));
        assert_eq!(found.catalog.epoch(), CatalogEpoch(3));
        for end in 0..bytes.len() {
            let mut cut = Recovered::new(10);
            cut.replay(Replayed::Snapshot {
                as_of: Lsn(10),
                bytes: &bytes[..end],
            });
            assert!(cut.finish().is_err(), "{end}");
        }
    }

    #[test]
    fn lost_offsets_and_ids_are_never_used_again() {
        let mut state = PartitionState::new();
        state.note_appended(&header(0), None, Lsn(7));
        let bytes = skip_lost(4_096, [(P, &mut state)].into_iter());
        assert_eq!(state.next(), Offset(2 + 4_096 * 1_024));

        let mut found = Recovered::new(10);
        found.replay(batch(1, 0));
        found.replay(Replayed::LossAccepted {
            from: Lsn(10),
            to: Lsn(20),
        });
        assert_eq!(found.lost_bytes, 10);
        found.replay(Replayed::State {
            lsn: Lsn(30),
            key: EPOCHS_KEY,
            bytes: &bytes,
        });
        let found = found.finish().expect("good");
        assert_eq!(found.lost_bytes, 0, "nothing is left to do about it");
        assert_eq!(found.partitions[&P].next(), state.next());
        assert_eq!(found.partitions[&P].epochs.current(), LeaderEpoch(1));

        let mut catalog = Catalog::default();
        catalog
            .apply(&change(1, &every_operation()[..4]))
            .expect("fits");
        let skip = change(2, &skip_lost_ids(&catalog, 100));
        catalog.apply(&skip).expect("fits");
        assert_eq!(catalog.next_partition(), PartitionId(105));
        assert!(catalog.is_lost(PartitionId(5)) && !catalog.is_lost(PartitionId(105)));
        assert_eq!(catalog.next_producer(), 2_000 + 100 * PRODUCER_ID_BLOCK);
    }

    #[test]
    fn states_travel_in_entries_of_bounded_size() {
        let mut state = PartitionState::new();
        state.note_appended(&header(0), None, Lsn(7));
        let partitions: Vec<PartitionId> = (0..40_000).map(PartitionId).collect();
        let entries = encode_states(partitions.iter().map(|id| (*id, &state)));
        assert!(entries.len() > 1);
        let mut found = Recovered::new(10);
        for entry in &entries {
            assert!(entry.len() <= STATES_BYTES_MAX + 64);
            found.replay(Replayed::State {
                lsn: Lsn(1),
                key: STATES_KEY,
                bytes: entry,
            });
        }
        let found = found.finish().expect("good");
        assert_eq!(found.partitions.len(), 40_000);
        assert_eq!(found.partitions[&PartitionId(39_999)].next(), Offset(2));
    }

    #[test]
    fn a_log_of_many_producers_leaves_those_used_last() {
        let by = |lsn: u64, offset: u64, producer: i64| {
            let bytes = BatchMaker::new(1).producer(producer, 0, 0).bytes();
            Replayed::Batch {
                lsn: Lsn(lsn),
                partition: P,
                header: BatchHeader {
                    base_offset: Offset(offset),
                    ..BatchHeader::parse(&bytes).expect("good")
                },
                bytes: &[],
            }
        };
        let mut found = Recovered::new(3);
        for at in 0..6 {
            found.replay(by(at + 1, at, at as i64));
        }
        let mut state = found.finish().expect("good").partitions.remove(&P);
        let producers = &mut state.as_mut().expect("found").producers;
        assert_eq!(producers.len(), 3);
        assert!((3..6).all(|id| producers.place_mut(id).is_some()));

        let partitions = [(P, &state.expect("found"))];
        let bytes = encode(None, None, partitions.into_iter(), [].into_iter());
        let mut found = Recovered::new(2);
        found.replay(Replayed::Snapshot {
            as_of: Lsn(6),
            bytes: &bytes,
        });
        let found = found.finish().expect("good");
        assert_eq!(
            found.partitions[&P].producers.len(),
            2,
            "the bound was lowered"
        );
    }

    #[test]
    fn state_that_is_not_known_stops_the_start() {
        let mut found = Recovered::new(10);
        found.replay(Replayed::State {
            lsn: Lsn(1),
            key: 99,
            bytes: &[],
        });
        found.replay(batch(2, 0));
        assert!(found.finish().is_err());
    }
}

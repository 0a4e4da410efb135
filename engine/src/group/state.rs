//! What of a group survives a restart: generation and committed offsets, as state and as the
//! changes that the log holds.
//!
//! An entry of the log is a format number (u16, 1) and changes, one behind the other, to its end.
//! Each is a kind byte and:
//!
//! | kind | fields                                                                            |
//! |-----:|-----------------------------------------------------------------------------------|
//! |    1 | group, generation (i32), protocol type (string, empty for none), empty since (i64)|
//! |    2 | group, committed (i64 ms), expires (i64 ms or -1), counted offsets                |
//! |    3 | group, counted partitions (u32) whose offsets are forgotten                       |
//! |    4 | group, which is forgotten                                                         |
//! |    5 | group, its state, or that with some of its offsets                                |
//! |    6 | counted slots (u16), of which every group is forgotten                            |
//!
//! Names are counted strings. An offset is its partition (u32), offset (u64), leader epoch (i32 or
//! -1) and metadata (string). Members live in memory alone: they join again after a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_storage::units::{LeaderEpoch, Offset, PartitionId};

use super::committed::Committed;
use super::request::{CommittedOffset, NewOffset};
use super::slot_of;
use crate::codec::{CodecError, Decoder, Encoder};

/// Groups by name.
pub(crate) type GroupStates = BTreeMap<Arc<str>, GroupState>;

/// What must not be forgotten of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupState {
    /// Of the last rebalance. Monotone while the group exists.
    pub(crate) generation: i32,
    /// What the members speak or spoke; none ever joined without.
    pub(crate) protocol_type: Option<Arc<str>>,
    /// When the last member went, milliseconds since the Unix epoch; `None` with members.
    pub(crate) empty_since_ms: Option<i64>,
    pub(crate) offsets: Committed,
}

/// A durable step of one group, or of many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GroupChange {
    /// A generation began.
    Generation {
        group: Arc<str>,
        generation: i32,
        protocol_type: Option<Arc<str>>,
        empty_since_ms: Option<i64>,
    },
    /// Offsets were committed.
    Committed {
        group: Arc<str>,
        committed_ms: i64,
        expires_ms: Option<i64>,
        offsets: Vec<(PartitionId, NewOffset)>,
    },
    /// Offsets are forgotten.
    OffsetsForgotten {
        group: Arc<str>,
        partitions: Vec<PartitionId>,
    },
    /// The group is forgotten.
    Forgotten { group: Arc<str> },
    /// A group, or a part of a large one, moved in.
    MovedIn { group: Arc<str>, state: GroupState },
    /// Slots are about to move in: what was here of them in an earlier life is stale.
    SlotsCleared { slots: Vec<u16> },
}

const FORMAT: u16 = 1;
const WHAT: &str = "a change of a group";

const GENERATION: u8 = 1;
const COMMITTED: u8 = 2;
const OFFSETS_FORGOTTEN: u8 = 3;
const FORGOTTEN: u8 = 4;
const MOVED_IN: u8 = 5;
const SLOTS_CLEARED: u8 = 6;

/// Bytes of offsets in an entry of groups that move: with one offset more and the longest names it
/// fits the smallest entry that a log may be bounded to, `ENTRY_BYTES_MIN`.
const MOVE_BYTES_MAX: usize = 16 << 10;
/// Partition, offset, leader epoch and the length of the metadata.
const OFFSET_BYTES: usize = 20;
/// Memory of a committed offset besides its metadata, bytes.
const OFFSET_MEMORY_BYTES: usize = 120;
/// The shortest entry that begins a generation: format, kind, the two strings' lengths, generation
/// and time.
const GENERATION_BYTES_MIN: u64 = 2 + 1 + 4 + 4 + 4 + 8;
/// "No time" and "no epoch" in the log.
const NONE: i64 = -1;

impl GroupState {
    /// Remembers offsets.
    pub(crate) fn commit(
        &mut self,
        offsets: &[(PartitionId, NewOffset)],
        committed_ms: i64,
        expires_ms: Option<i64>,
    ) {
        for (partition, commit) in offsets {
            let committed = CommittedOffset {
                commit: commit.clone(),
                committed_ms,
                expires_ms,
            };
            self.offsets.insert(*partition, committed);
        }
    }

    pub(crate) fn encode(&self, out: &mut Encoder) {
        out.i32(self.generation);
        out.string(self.protocol_type.as_deref().unwrap_or_default());
        out.i64(self.empty_since_ms.unwrap_or(NONE));
        out.count(self.offsets.len());
        for (partition, committed) in self.offsets.iter() {
            encode_offset(*partition, &committed.commit, out);
            out.i64(committed.committed_ms);
            out.i64(committed.expires_ms.unwrap_or(NONE));
        }
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let generation = input.i32("a generation")?;
        let protocol_type = some_text(input.string("a protocol type")?);
        let empty_since_ms = some_time(input.i64("a group's empty time")?);
        let count = input.count(OFFSET_BYTES + 16, "committed offsets")?;
        let mut offsets = Committed::default();
        for _ in 0..count {
            let (partition, commit) = decode_offset(input)?;
            let committed = CommittedOffset {
                commit,
                committed_ms: input.i64("a commit's time")?,
                expires_ms: some_time(input.i64("a commit's end")?),
            };
            offsets.insert(partition, committed);
        }
        Ok(Self {
            generation,
            protocol_type,
            empty_since_ms,
            offsets,
        })
    }
}

/// Applies one change: what a running home does, and what a start does again.
pub(crate) fn apply(groups: &mut GroupStates, change: GroupChange) {
    match change {
        GroupChange::Generation {
            group,
            generation,
            protocol_type,
            empty_since_ms,
        } => {
            let state = groups.entry(group).or_default();
            state.generation = generation;
            state.protocol_type = protocol_type;
            state.empty_since_ms = empty_since_ms;
        }
        GroupChange::Committed {
            group,
            committed_ms,
            expires_ms,
            offsets,
        } => {
            let state = groups.entry(group).or_default();
            state.commit(&offsets, committed_ms, expires_ms);
        }
        GroupChange::OffsetsForgotten { group, partitions } => {
            if let Some(state) = groups.get_mut(&group) {
                for partition in partitions {
                    state.offsets.remove(partition);
                }
            }
        }
        GroupChange::Forgotten { group } => drop(groups.remove(&group)),
        GroupChange::MovedIn { group, state } => {
            let here = groups.entry(group).or_default();
            let offsets = std::mem::take(&mut here.offsets);
            *here = state;
            here.offsets.extend(offsets);
        }
        GroupChange::SlotsCleared { slots } => {
            groups.retain(|group, _| !slots.contains(&slot_of(group)));
        }
    }
}

/// Applies an entry of the log.
pub(crate) fn apply_entry(groups: &mut GroupStates, bytes: &[u8]) -> Result<(), CodecError> {
    let mut input = Decoder::new(bytes);
    input.format(FORMAT, WHAT)?;
    while !input.is_empty() {
        apply(groups, GroupChange::decode(&mut input)?);
    }
    Ok(())
}

/// An entry of the log that holds one change.
pub(crate) fn entry(change: &GroupChange) -> Vec<u8> {
    let mut out = begin_entry();
    change.encode(&mut out);
    out.into_bytes()
}

/// Groups of some slots that move to another shard, as entries of its log. Whatever it remembers of
/// the slots from an earlier time goes first.
pub(crate) fn move_entries<'a>(
    slots: Vec<u16>,
    groups: impl Iterator<Item = (&'a Arc<str>, &'a GroupState)>,
) -> Vec<Vec<u8>> {
    let mut entries = vec![begin_entry()];
    GroupChange::SlotsCleared { slots }.encode(&mut entries[0]);
    for (group, state) in groups {
        let mut rest = state.offsets.iter().peekable();
        loop {
            let mut part = GroupState {
                generation: state.generation,
                protocol_type: state.protocol_type.clone(),
                empty_since_ms: state.empty_since_ms,
                offsets: Committed::default(),
            };
            let mut bytes = 0;
            while bytes < MOVE_BYTES_MAX
                && let Some((partition, committed)) = rest.next()
            {
                bytes += offset_bytes(&committed.commit) + 16;
                part.offsets.insert(*partition, committed.clone());
            }
            if entries
                .last()
                .is_some_and(|last| last.len() + bytes > MOVE_BYTES_MAX)
            {
                entries.push(begin_entry());
            }
            let (group, state) = (Arc::clone(group), part);
            let moved = GroupChange::MovedIn { group, state };
            moved.encode(entries.last_mut().expect("one was begun"));
            if rest.peek().is_none() {
                break;
            }
        }
    }
    entries.into_iter().map(Encoder::into_bytes).collect()
}

/// Moves groups past the generations that `lost_bytes` of the log may have begun, so that none of
/// them comes again. Returns the log's record of it, as entries.
pub(crate) fn skip_lost(lost_bytes: u64, groups: &mut GroupStates) -> Vec<Vec<u8>> {
    let lost = lost_bytes / GENERATION_BYTES_MIN;
    let lost = i32::try_from(lost).unwrap_or(i32::MAX);
    let mut entries: Vec<Encoder> = Vec::new();
    for (group, state) in groups {
        state.generation = state.generation.saturating_add(lost);
        let raised = GroupChange::Generation {
            group: Arc::clone(group),
            generation: state.generation,
            protocol_type: state.protocol_type.clone(),
            empty_since_ms: state.empty_since_ms,
        };
        if entries
            .last()
            .is_none_or(|last| last.len() >= MOVE_BYTES_MAX)
        {
            entries.push(begin_entry());
        }
        raised.encode(entries.last_mut().expect("one was begun"));
    }
    entries.into_iter().map(Encoder::into_bytes).collect()
}

/// An entry of the log that holds nothing yet.
fn begin_entry() -> Encoder {
    let mut out = Encoder::default();
    out.u16(FORMAT);
    out
}

/// About how many bytes an offset takes in memory.
pub(crate) fn memory_bytes(commit: &NewOffset) -> usize {
    OFFSET_MEMORY_BYTES + commit.metadata.len()
}

/// Bytes of an offset in the log.
pub(crate) fn offset_bytes(commit: &NewOffset) -> usize {
    OFFSET_BYTES + commit.metadata.len()
}

impl GroupChange {
    fn encode(&self, out: &mut Encoder) {
        match self {
            Self::Generation {
                group,
                generation,
                protocol_type,
                empty_since_ms,
            } => {
                out.u8(GENERATION);
                out.string(group);
                out.i32(*generation);
                out.string(protocol_type.as_deref().unwrap_or_default());
                out.i64(empty_since_ms.unwrap_or(NONE));
            }
            Self::Committed {
                group,
                committed_ms,
                expires_ms,
                offsets,
            } => {
                out.u8(COMMITTED);
                out.string(group);
                out.i64(*committed_ms);
                out.i64(expires_ms.unwrap_or(NONE));
                out.count(offsets.len());
                for (partition, commit) in offsets {
                    encode_offset(*partition, commit, out);
                }
            }
            Self::OffsetsForgotten { group, partitions } => {
                out.u8(OFFSETS_FORGOTTEN);
                out.string(group);
                out.count(partitions.len());
                for partition in partitions {
                    out.u32(partition.0);
                }
            }
            Self::Forgotten { group } => {
                out.u8(FORGOTTEN);
                out.string(group);
            }
            Self::MovedIn { group, state } => {
                out.u8(MOVED_IN);
                out.string(group);
                state.encode(out);
            }
            Self::SlotsCleared { slots } => {
                out.u8(SLOTS_CLEARED);
                out.count(slots.len());
                for slot in slots {
                    out.u16(*slot);
                }
            }
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let kind = input.u8(WHAT)?;
        if kind == SLOTS_CLEARED {
            let count = input.count(2, "slots")?;
            let slots = (0..count).map(|_| input.u16("a slot"));
            let slots = slots.collect::<Result<_, _>>()?;
            return Ok(Self::SlotsCleared { slots });
        }
        let group: Arc<str> = Arc::from(input.string("a group's name")?);
        Ok(match kind {
            GENERATION => Self::Generation {
                group,
                generation: input.i32("a generation")?,
                protocol_type: some_text(input.string("a protocol type")?),
                empty_since_ms: some_time(input.i64("a group's empty time")?),
            },
            COMMITTED => {
                let committed_ms = input.i64("a commit's time")?;
                let expires_ms = some_time(input.i64("a commit's end")?);
                let count = input.count(OFFSET_BYTES, "committed offsets")?;
                let offsets = (0..count).map(|_| decode_offset(input));
                Self::Committed {
                    group,
                    committed_ms,
                    expires_ms,
                    offsets: offsets.collect::<Result<_, _>>()?,
                }
            }
            OFFSETS_FORGOTTEN => {
                let count = input.count(4, "partitions")?;
                let partitions = (0..count).map(|_| Ok(PartitionId(input.u32("a partition")?)));
                let partitions = partitions.collect::<Result<_, CodecError>>()?;
                Self::OffsetsForgotten { group, partitions }
            }
            FORGOTTEN => Self::Forgotten { group },
            MOVED_IN => Self::MovedIn {
                group,
                state: GroupState::decode(input)?,
            },
            kind => {
                let why = format!("a group's change of unknown kind {kind}");
                return Err(CodecError::Invalid(why));
            }
        })
    }
}

fn encode_offset(partition: PartitionId, commit: &NewOffset, out: &mut Encoder) {
    out.u32(partition.0);
    out.u64(commit.offset.0);
    out.i32(commit.leader_epoch.map_or(-1, |epoch| epoch.0));
    out.string(&commit.metadata);
}

fn decode_offset(input: &mut Decoder<'_>) -> Result<(PartitionId, NewOffset), CodecError> {
    let partition = PartitionId(input.u32("a partition")?);
    let offset = Offset(input.u64("a committed offset")?);
    let epoch = input.i32("a leader epoch")?;
    let commit = NewOffset {
        offset,
        leader_epoch: (epoch >= 0).then_some(LeaderEpoch(epoch)),
        metadata: Arc::from(input.string("a commit's metadata")?),
    };
    Ok((partition, commit))
}

fn some_text(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| Arc::from(text))
}

fn some_time(time_ms: i64) -> Option<i64> {
    (time_ms != NONE).then_some(time_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::GROUP_NAME_BYTES_MAX;
    use crate::limits::ENTRY_BYTES_MIN;

    fn name(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    fn commit(offset: u64, metadata: &str) -> NewOffset {
        NewOffset {
            offset: Offset(offset),
            leader_epoch: (offset > 5).then_some(LeaderEpoch(3)),
            metadata: Arc::from(metadata),
        }
    }

    /// One of each, in an order that makes sense.
    fn every_change() -> Vec<GroupChange> {
        let group = name("g");
        let offsets = vec![
            (PartitionId(1), commit(5, "words")),
            (PartitionId(2), commit(6, "")),
        ];
        let moved = GroupState {
            generation: 9,
            protocol_type: Some(name("consumer")),
            empty_since_ms: Some(77),
            offsets: Committed::from_iter([(
                PartitionId(4),
                CommittedOffset {
                    commit: commit(8, "m"),
                    committed_ms: 70,
                    expires_ms: None,
                },
            )]),
        };
        vec![
            GroupChange::Committed {
                group: Arc::clone(&group),
                committed_ms: 50,
                expires_ms: Some(60),
                offsets,
            },
            GroupChange::Generation {
                group: Arc::clone(&group),
                generation: 4,
                protocol_type: Some(name("consumer")),
                empty_since_ms: None,
            },
            GroupChange::OffsetsForgotten {
                group,
                partitions: vec![PartitionId(1), PartitionId(7)],
            },
            GroupChange::MovedIn {
                group: name("moved"),
                state: moved,
            },
            GroupChange::Forgotten { group: name("no") },
            GroupChange::SlotsCleared {
                slots: vec![slot_of("moved")],
            },
        ]
    }

    #[test]
    fn the_longest_change_fits_the_smallest_log() {
        let longest = name(&"x".repeat(GROUP_NAME_BYTES_MAX));
        let generation = GroupChange::Generation {
            group: Arc::clone(&longest),
            generation: i32::MAX,
            protocol_type: Some(Arc::clone(&longest)),
            empty_since_ms: Some(i64::MAX),
        };
        assert!(entry(&generation).len() <= ENTRY_BYTES_MIN);
        // A part of a group that moves, and one offset more.
        let around = 2 * GROUP_NAME_BYTES_MAX + 64;
        let offset = OFFSET_BYTES + 16 + longest.len();
        assert!(MOVE_BYTES_MAX + offset + around <= ENTRY_BYTES_MIN);
    }

    #[test]
    fn changes_survive_a_round_trip_and_every_cut_is_seen() {
        let mut all = begin_entry();
        let mut expected = GroupStates::new();
        for change in every_change() {
            change.encode(&mut all);
            let bytes = entry(&change);
            let mut input = Decoder::new(&bytes[2..]);
            assert_eq!(GroupChange::decode(&mut input).as_ref(), Ok(&change));
            assert!(input.is_empty());
            for end in 3..bytes.len() {
                let cut = apply_entry(&mut GroupStates::new(), &bytes[..end]);
                assert!(cut.is_err(), "{change:?} cut at {end}");
            }
            apply(&mut expected, change);
        }
        let mut groups = GroupStates::new();
        assert_eq!(apply_entry(&mut groups, &all.into_bytes()), Ok(()));
        assert_eq!(groups, expected);
        assert_eq!(groups.len(), 1, "the moved one's slot was cleared");
        let state = &groups["g"];
        assert_eq!(state.generation, 4);
        let kept: Vec<PartitionId> = state.offsets.keys().copied().collect();
        assert_eq!(kept, [PartitionId(2)]);
        assert_eq!(state.offsets[&PartitionId(2)].expires_ms, Some(60));
    }

    #[test]
    fn a_state_survives_a_round_trip() {
        let mut groups = GroupStates::new();
        for change in every_change().into_iter().take(4) {
            apply(&mut groups, change);
        }
        for state in groups.values() {
            let mut out = Encoder::default();
            state.encode(&mut out);
            let bytes = out.into_bytes();
            let mut input = Decoder::new(&bytes);
            assert_eq!(GroupState::decode(&mut input).as_ref(), Ok(state));
            assert_eq!(input.finish(), Ok(()));
        }
    }

    #[test]
    fn no_generation_that_may_have_been_lost_comes_again() {
        let shortest = GroupChange::Generation {
            group: name(""),
            generation: 7,
            protocol_type: None,
            empty_since_ms: None,
        };
        assert_eq!(entry(&shortest).len() as u64, GENERATION_BYTES_MIN);
        let mut groups = GroupStates::new();
        for number in 0..2_000 {
            let state = groups.entry(name(&format!("g{number}"))).or_default();
            state.generation = number;
        }
        let mut replayed = groups.clone();
        let entries = skip_lost(10 * GENERATION_BYTES_MIN, &mut groups);
        assert_eq!(groups["g1999"].generation, 2_009);
        assert!(entries.len() > 1 && entries.iter().all(|one| one.len() < 2 * MOVE_BYTES_MAX));
        for one in entries {
            apply_entry(&mut replayed, &one).expect("sound");
        }
        assert_eq!(replayed, groups);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let mut groups = GroupStates::new();
        assert!(apply_entry(&mut groups, &[1, 0, 99, 0, 0, 0, 0]).is_err());
        assert!(apply_entry(&mut groups, &[2, 0]).is_err());
    }
}

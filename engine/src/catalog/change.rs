//! A change of the catalog: what its writer puts into the log and sends to every shard.
//!
//! | bytes | type | field                                                          |
//! |------:|------|----------------------------------------------------------------|
//! |     2 | u16  | format, 1                                                      |
//! |     8 | u64  | catalog epoch after the change                                 |
//! |     4 | u32  | count of operations; each is a kind byte and its fields below  |
//!
//! Strings, lists and settings are counted with a u32. A partition is its id (u32) and its home
//! (u16). A whole catalog is encoded as the operations
//! that build it from nothing.

use std::sync::Arc;

use millrace_storage::units::{LeaderEpoch, PartitionId, ShardId};
use uuid::Uuid;

use super::config::TopicOverrides;
use super::{CatalogEpoch, PartitionHome};
use crate::codec::{CodecError, Decoder, Encoder};
use crate::event::Refusal;

/// One durable step of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogChange {
    /// The catalog's epoch once this is applied.
    pub epoch: CatalogEpoch,
    /// What to do, in order.
    pub operations: Vec<Operation>,
}

/// A part of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The broker's name for life, given at its first start.
    ClusterNamed {
        /// Random.
        id: Uuid,
    },
    /// Partition ids below `next` are used up, whether or not they still exist.
    PartitionIdsUsed {
        /// First free one.
        next: u32,
    },
    /// Partition ids from `from` up to below `next` may have been given away by changes that an
    /// accepted loss took: none is given again, and what is held under one is nobody's to delete.
    PartitionIdsLost {
        /// First that may have been given away.
        from: u32,
        /// First free one.
        next: u32,
    },
    /// Producer ids below `next` are given away.
    ProducerIdsReserved {
        /// First free one.
        next: i64,
    },
    /// A topic exists.
    TopicCreated {
        /// Random.
        id: Uuid,
        /// Checked.
        name: Arc<str>,
        /// At least one.
        partitions: Vec<PartitionHome>,
        /// Checked.
        overrides: TopicOverrides,
    },
    /// A topic and all its records are gone.
    TopicDeleted {
        /// Which.
        id: Uuid,
    },
    /// A topic has more partitions, behind those that it had.
    PartitionsAdded {
        /// Which.
        id: Uuid,
        /// At least one.
        partitions: Vec<PartitionHome>,
    },
    /// A topic has these settings of its own and no others.
    TopicConfigured {
        /// Which.
        id: Uuid,
        /// Checked.
        overrides: TopicOverrides,
    },
    /// Partitions changed their homes, with their data.
    PartitionsMoved {
        /// The partitions with their new homes.
        homes: Vec<PartitionHome>,
    },
    /// Slots of groups have these homes, with what the groups hold.
    GroupSlotsHomed {
        /// By slot.
        homes: Vec<ShardId>,
    },
}

const FORMAT: u16 = 1;
const WHAT: &str = "catalog change";

const CLUSTER_NAMED: u8 = 1;
const PARTITION_IDS_USED: u8 = 2;
const PRODUCER_IDS_RESERVED: u8 = 3;
const TOPIC_CREATED: u8 = 4;
const TOPIC_DELETED: u8 = 5;
const PARTITIONS_ADDED: u8 = 6;
const TOPIC_CONFIGURED: u8 = 7;
const PARTITIONS_MOVED: u8 = 8;
const PARTITION_IDS_LOST: u8 = 9;
const GROUP_SLOTS_HOMED: u8 = 10;

/// A partition with its home: u32 and u16.
const PARTITION_BYTES: usize = 6;

impl CatalogChange {
    /// The change as it goes into the log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u16(FORMAT);
        out.u64(self.epoch.0);
        out.count(self.operations.len());
        for operation in &self.operations {
            operation.encode(&mut out);
        }
        out.into_bytes()
    }

    /// Reads what `encode` wrote.
    ///
    /// # Errors
    /// The first thing that is not as it should be.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut input = Decoder::new(bytes);
        input.format(FORMAT, WHAT)?;
        let epoch = CatalogEpoch(input.u64(WHAT)?);
        let count = input.count(1, WHAT)?;
        let operations = (0..count)
            .map(|_| Operation::decode(&mut input))
            .collect::<Result<_, _>>()?;
        input.finish()?;
        Ok(Self { epoch, operations })
    }
}

impl Operation {
    fn encode(&self, out: &mut Encoder) {
        match self {
            Self::ClusterNamed { id } => {
                out.u8(CLUSTER_NAMED);
                out.raw(id.as_bytes());
            }
            Self::PartitionIdsUsed { next } => {
                out.u8(PARTITION_IDS_USED);
                out.u32(*next);
            }
            Self::PartitionIdsLost { from, next } => {
                out.u8(PARTITION_IDS_LOST);
                out.u32(*from);
                out.u32(*next);
            }
            Self::ProducerIdsReserved { next } => {
                out.u8(PRODUCER_IDS_RESERVED);
                out.i64(*next);
            }
            Self::TopicCreated {
                id,
                name,
                partitions,
                overrides,
            } => {
                out.u8(TOPIC_CREATED);
                out.raw(id.as_bytes());
                out.string(name);
                encode_homes(partitions, out);
                encode_overrides(overrides, out);
            }
            Self::TopicDeleted { id } => {
                out.u8(TOPIC_DELETED);
                out.raw(id.as_bytes());
            }
            Self::PartitionsAdded { id, partitions } => {
                out.u8(PARTITIONS_ADDED);
                out.raw(id.as_bytes());
                encode_homes(partitions, out);
            }
            Self::TopicConfigured { id, overrides } => {
                out.u8(TOPIC_CONFIGURED);
                out.raw(id.as_bytes());
                encode_overrides(overrides, out);
            }
            Self::PartitionsMoved { homes } => {
                out.u8(PARTITIONS_MOVED);
                encode_homes(homes, out);
            }
            Self::GroupSlotsHomed { homes } => {
                out.u8(GROUP_SLOTS_HOMED);
                out.count(homes.len());
                for home in homes {
                    out.u16(home.0);
                }
            }
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, CodecError> {
        Ok(match input.u8(WHAT)? {
            CLUSTER_NAMED => Self::ClusterNamed {
                id: decode_uuid(input)?,
            },
            PARTITION_IDS_USED => Self::PartitionIdsUsed {
                next: input.u32(WHAT)?,
            },
            PARTITION_IDS_LOST => Self::PartitionIdsLost {
                from: input.u32(WHAT)?,
                next: input.u32(WHAT)?,
            },
            PRODUCER_IDS_RESERVED => Self::ProducerIdsReserved {
                next: input.i64(WHAT)?,
            },
            TOPIC_CREATED => Self::TopicCreated {
                id: decode_uuid(input)?,
                name: Arc::from(input.string("a topic's name")?),
                partitions: decode_homes(input)?,
                overrides: decode_overrides(input)?,
            },
            TOPIC_DELETED => Self::TopicDeleted {
                id: decode_uuid(input)?,
            },
            PARTITIONS_ADDED => Self::PartitionsAdded {
                id: decode_uuid(input)?,
                partitions: decode_homes(input)?,
            },
            TOPIC_CONFIGURED => Self::TopicConfigured {
                id: decode_uuid(input)?,
                overrides: decode_overrides(input)?,
            },
            PARTITIONS_MOVED => Self::PartitionsMoved {
                homes: decode_homes(input)?,
            },
            GROUP_SLOTS_HOMED => {
                let count = input.count(2, "homes of groups")?;
                let homes = (0..count).map(|_| Ok(ShardId(input.u16("a home")?)));
                let homes = homes.collect::<Result<_, CodecError>>()?;
                Self::GroupSlotsHomed { homes }
            }
            kind => {
                return Err(CodecError::Invalid(format!(
                    "catalog operation of unknown kind {kind}"
                )));
            }
        })
    }
}

fn decode_uuid(input: &mut Decoder<'_>) -> Result<Uuid, CodecError> {
    let bytes = input.raw(16, "a UUID")?;
    Ok(Uuid::from_slice(bytes).expect("a UUID is 16 bytes"))
}

fn encode_homes(partitions: &[PartitionHome], out: &mut Encoder) {
    out.count(partitions.len());
    for partition in partitions {
        out.u32(partition.id.0);
        out.u16(partition.home.0);
    }
}

fn decode_homes(input: &mut Decoder<'_>) -> Result<Vec<PartitionHome>, CodecError> {
    let count = input.count(PARTITION_BYTES, "partitions")?;
    (0..count)
        .map(|_| {
            Ok(PartitionHome {
                id: PartitionId(input.u32("a partition")?),
                home: ShardId(input.u16("a home")?),
                leader_epoch: LeaderEpoch(0),
            })
        })
        .collect()
}

fn encode_overrides(overrides: &TopicOverrides, out: &mut Encoder) {
    out.count(overrides.len());
    for (name, value) in overrides.iter() {
        out.string(name);
        out.string(value);
    }
}

fn decode_overrides(input: &mut Decoder<'_>) -> Result<TopicOverrides, CodecError> {
    let count = input.count(8, "settings")?;
    let settings: Vec<(&str, Option<&str>)> = (0..count)
        .map(|_| Ok((input.string("a setting")?, Some(input.string("a value")?))))
        .collect::<Result<_, CodecError>>()?;
    TopicOverrides::parse(settings)
        .map_err(|refusal: Refusal| CodecError::Invalid(format!("a topic's settings: {refusal}")))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One of every operation.
    pub(crate) fn every_operation() -> Vec<Operation> {
        let home = |id, home| PartitionHome {
            id: PartitionId(id),
            home: ShardId(home),
            leader_epoch: LeaderEpoch(0),
        };
        let overrides = TopicOverrides::parse([("retention.ms", Some("5"))]).expect("valid");
        let id = Uuid::from_u128(7);
        vec![
            Operation::ClusterNamed {
                id: Uuid::from_u128(1),
            },
            Operation::PartitionIdsUsed { next: 3 },
            Operation::ProducerIdsReserved { next: 2_000 },
            Operation::TopicCreated {
                id,
                name: Arc::from("orders"),
                partitions: vec![home(3, 0), home(4, 1)],
                overrides: overrides.clone(),
            },
            Operation::PartitionsAdded {
                id,
                partitions: vec![home(5, 1)],
            },
            Operation::TopicConfigured { id, overrides },
            Operation::PartitionsMoved {
                homes: vec![home(3, 1)],
            },
            Operation::TopicDeleted { id },
            Operation::PartitionIdsLost { from: 6, next: 9 },
        ]
    }

    #[test]
    fn changes_survive_a_round_trip_and_no_prefix_does() {
        let change = CatalogChange {
            epoch: CatalogEpoch(9),
            operations: every_operation(),
        };
        let bytes = change.encode();
        assert_eq!(CatalogChange::decode(&bytes), Ok(change));
        for end in 0..bytes.len() {
            assert!(CatalogChange::decode(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn the_bytes_of_a_change_are_fixed() {
        let change = CatalogChange {
            epoch: CatalogEpoch(0x0102),
            operations: vec![Operation::ProducerIdsReserved { next: 1_000 }],
        };
        let expected = [
            1, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0xe8, 3, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(change.encode(), expected);
    }

    #[test]
    fn an_unknown_operation_or_setting_is_refused() {
        let mut bytes = CatalogChange {
            epoch: CatalogEpoch(1),
            operations: vec![Operation::PartitionIdsUsed { next: 1 }],
        }
        .encode();
        bytes[14] = 99;
        assert!(CatalogChange::decode(&bytes).is_err());
    }
}

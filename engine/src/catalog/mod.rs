//! What exists: topics, their partitions and homes. One writer (shard 0), a copy in every shard.

pub mod config;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use millrace_storage::units::{LeaderEpoch, PartitionId, ShardId};
use uuid::Uuid;

use config::TopicOverrides;

/// Counts the catalog's changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CatalogEpoch(pub u64);

/// Everything that exists, as of one epoch.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    epoch: CatalogEpoch,
    topics: BTreeMap<Arc<str>, Topic>,
    names: HashMap<Uuid, Arc<str>>,
    places: HashMap<PartitionId, Place>,
}

/// A named set of partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Unique among topics of all times.
    pub id: Uuid,
    /// Unique among topics that exist.
    pub name: Arc<str>,
    /// By index, from 0, without gaps.
    pub partitions: Vec<PartitionHome>,
    /// Settings that differ from the broker's.
    pub overrides: TopicOverrides,
}

/// A partition and the shard that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionHome {
    /// The partition.
    pub id: PartitionId,
    /// Its owner.
    pub home: ShardId,
    /// As of the last start, which alone can raise it.
    pub leader_epoch: LeaderEpoch,
}

/// Where in the catalog a partition stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's index in its topic.
    pub index: u32,
    /// Its owner.
    pub home: ShardId,
}

impl Catalog {
    /// How many changes it has seen.
    #[must_use]
    pub fn epoch(&self) -> CatalogEpoch {
        self.epoch
    }

    /// The topic of that name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    /// The topic of that id.
    #[must_use]
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Topic> {
        self.topics.get(self.names.get(&id)?)
    }

    /// All topics in name order.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// Where a partition stands; `None` once its topic is deleted.
    #[must_use]
    pub fn place(&self, partition: PartitionId) -> Option<&Place> {
        self.places.get(&partition)
    }
}

//! What exists: topics, their partitions and homes. One writer (shard 0), a copy in every shard.
//!
//! A catalog changes only by applying [`change::CatalogChange`]s, each durable before any copy has
//! it. What the log gives back at a start is checked as it is applied, not trusted.

pub mod change;
pub mod config;
mod judge;
pub mod names;
pub mod settings;
pub(crate) mod writer;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use millrace_storage::units::{BrokerId, LeaderEpoch, PartitionId, ShardId};
use uuid::Uuid;

use crate::codec::CodecError;
use crate::group::{GROUP_SLOTS, slot_of};
use change::{CatalogChange, Operation};
use config::TopicOverrides;
use names::collision_key;

/// Counts the catalog's changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CatalogEpoch(pub u64);

/// Everything that exists, as of one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    epoch: CatalogEpoch,
    /// `None` only before the first start has named the broker.
    cluster: Option<Uuid>,
    topics: BTreeMap<Arc<str>, Topic>,
    /// Every topic's name by its id.
    names: HashMap<Uuid, Arc<str>>,
    /// The names that another could collide with, by what it would collide in.
    collisions: HashMap<String, Arc<str>>,
    /// Every partition of every topic.
    places: HashMap<PartitionId, Place>,
    /// Partitions by home; a shard without any may be missing.
    held: BTreeMap<ShardId, u32>,
    /// Homes of groups by slot; empty only before the first start is complete.
    group_homes: Vec<ShardId>,
    /// First partition id never used.
    next_partition: u32,
    /// Partition ids that may have been given away by changes that are lost; one range for each
    /// loss that the operator accepted.
    lost: Vec<Range<u32>>,
    /// First producer id never given to a shard.
    next_producer: i64,
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

/// What a change did to one partition: its home acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It exists now.
    Added(PartitionHome),
    /// Its topic is gone.
    Removed(PartitionHome),
    /// Its topic's settings changed.
    Configured(PartitionHome),
}

impl Catalog {
    /// How many changes it has seen.
    #[must_use]
    pub fn epoch(&self) -> CatalogEpoch {
        self.epoch
    }

    /// The broker's name as Kafka shows it: 22 characters of URL-safe base64. Empty before the
    /// first start is complete.
    #[must_use]
    pub fn cluster_id(&self) -> String {
        self.broker_id().map_or(String::new(), cluster_name)
    }

    /// The broker's name; `None` before the first start has given it one.
    #[must_use]
    pub fn broker_id(&self) -> Option<BrokerId> {
        self.cluster.map(|id| BrokerId(id.as_u128()))
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

    /// The topic with that collision key, if any.
    pub(crate) fn colliding(&self, key: &str) -> Option<&Arc<str>> {
        self.collisions.get(key)
    }

    /// All topics in name order.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// How many topics there are.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.places.len()
    }

    /// Where a partition stands; `None` once its topic is deleted.
    #[must_use]
    pub fn place(&self, partition: PartitionId) -> Option<&Place> {
        self.places.get(&partition)
    }

    /// Whether a partition is not in the catalog because the change that made it may be lost.
    #[must_use]
    pub fn is_lost(&self, partition: PartitionId) -> bool {
        let mut lost = self.lost.iter();
        self.place(partition).is_none() && lost.any(|ids| ids.contains(&partition.0))
    }

    /// The partitions that a shard owns, in no order that means anything.
    pub fn homed(&self, shard: ShardId) -> impl Iterator<Item = PartitionId> + '_ {
        let partitions = self.topics.values().flat_map(|topic| &topic.partitions);
        let homed = partitions.filter(move |partition| partition.home == shard);
        homed.map(|partition| partition.id)
    }

    /// Partitions by home. A shard without any may be missing.
    #[must_use]
    pub fn held(&self) -> &BTreeMap<ShardId, u32> {
        &self.held
    }

    /// The shard that owns a group of that name, whether it exists or not.
    #[must_use]
    pub fn group_home(&self, group: &str) -> ShardId {
        let slot = usize::from(slot_of(group));
        self.group_homes.get(slot).copied().unwrap_or(ShardId(0))
    }

    /// Homes of groups by slot; empty only before the first start is complete.
    #[must_use]
    pub fn group_homes(&self) -> &[ShardId] {
        &self.group_homes
    }

    /// First partition id never used.
    #[must_use]
    pub fn next_partition(&self) -> PartitionId {
        PartitionId(self.next_partition)
    }

    /// First producer id never given to a shard.
    #[must_use]
    pub fn next_producer(&self) -> i64 {
        self.next_producer
    }

    /// Notes a leader epoch, told by the partition's home while the broker starts. No change of the
    /// catalog carries it: it belongs to the home, and only a start can raise it.
    pub fn note_leader_epoch(&mut self, partition: PartitionId, epoch: LeaderEpoch) {
        let place = self.places.get(&partition).expect("a home knows its own");
        let topic = self
            .topics
            .get_mut(&place.topic)
            .expect("places name topics");
        let noted = &mut topic.partitions[place.index as usize].leader_epoch;
        assert!(*noted <= epoch, "leader epochs rise");
        *noted = epoch;
    }

    /// Applies the change that follows the catalog's epoch.
    ///
    /// # Errors
    /// The change does not fit: it is not this catalog's next one.
    pub fn apply(&mut self, change: &CatalogChange) -> Result<Vec<Effect>, CodecError> {
        if change.epoch.0 != self.epoch.0 + 1 {
            return Err(CodecError::Invalid(format!(
                "catalog epoch {} follows {}",
                change.epoch.0, self.epoch.0
            )));
        }
        let mut effects = Vec::new();
        for operation in &change.operations {
            self.operate(operation, &mut effects)?;
        }
        self.epoch = change.epoch;
        Ok(effects)
    }

    /// The whole catalog as one change that builds it.
    #[must_use]
    pub fn as_change(&self) -> CatalogChange {
        let mut operations = Vec::with_capacity(self.topics.len() + 4);
        if let Some(id) = self.cluster {
            operations.push(Operation::ClusterNamed { id });
        }
        operations.extend(self.topics.values().map(|topic| Operation::TopicCreated {
            id: topic.id,
            name: Arc::clone(&topic.name),
            partitions: topic.partitions.clone(),
            overrides: topic.overrides.clone(),
        }));
        let lost = self.lost.iter();
        operations.extend(lost.map(|ids| Operation::PartitionIdsLost {
            from: ids.start,
            next: ids.end,
        }));
        operations.push(Operation::PartitionIdsUsed {
            next: self.next_partition,
        });
        operations.push(Operation::ProducerIdsReserved {
            next: self.next_producer,
        });
        if !self.group_homes.is_empty() {
            let homes = self.group_homes.clone();
            operations.push(Operation::GroupSlotsHomed { homes });
        }
        CatalogChange {
            epoch: self.epoch,
            operations,
        }
    }

    /// The catalog that `as_change` described.
    ///
    /// # Errors
    /// The operations contradict each other.
    pub fn from_change(change: &CatalogChange) -> Result<Self, CodecError> {
        let mut catalog = Self::default();
        for operation in &change.operations {
            catalog.operate(operation, &mut Vec::new())?;
        }
        catalog.epoch = change.epoch;
        Ok(catalog)
    }

    fn operate(
        &mut self,
        operation: &Operation,
        effects: &mut Vec<Effect>,
    ) -> Result<(), CodecError> {
        match operation {
            Operation::ClusterNamed { id } => {
                check(self.cluster.is_none(), || {
                    "the broker is named twice".into()
                })?;
                self.cluster = Some(*id);
            }
            Operation::PartitionIdsUsed { next } => {
                check(*next >= self.next_partition, || "partition ids fall".into())?;
                self.next_partition = *next;
            }
            Operation::PartitionIdsLost { from, next } => {
                check(from <= next, || "lost partition ids fall".into())?;
                self.lost.push(*from..*next);
                self.next_partition = self.next_partition.max(*next);
            }
            Operation::ProducerIdsReserved { next } => {
                check(*next >= self.next_producer, || "producer ids fall".into())?;
                self.next_producer = *next;
            }
            Operation::TopicCreated {
                id,
                name,
                partitions,
                overrides,
            } => {
                self.create_topic(*id, name, overrides)?;
                self.add_partitions(name, partitions, effects)?;
            }
            Operation::TopicDeleted { id } => self.delete_topic(*id, effects)?,
            Operation::PartitionsAdded { id, partitions } => {
                let name = self.name_of(*id)?;
                self.add_partitions(&name, partitions, effects)?;
            }
            Operation::TopicConfigured { id, overrides } => {
                let name = self.name_of(*id)?;
                let topic = self.topics.get_mut(&name).expect("names are of topics");
                topic.overrides = overrides.clone();
                effects.extend(topic.partitions.iter().copied().map(Effect::Configured));
            }
            Operation::PartitionsMoved { homes } => {
                for moved in homes {
                    self.move_partition(*moved)?;
                }
            }
            Operation::GroupSlotsHomed { homes } => {
                check(homes.len() == usize::from(GROUP_SLOTS), || {
                    format!("{} homes for {GROUP_SLOTS} slots of groups", homes.len())
                })?;
                self.group_homes.clone_from(homes);
            }
        }
        Ok(())
    }

    fn name_of(&self, id: Uuid) -> Result<Arc<str>, CodecError> {
        let name = self.names.get(&id).cloned();
        name.ok_or_else(|| CodecError::Invalid(format!("there is no topic {id}")))
    }

    fn create_topic(
        &mut self,
        id: Uuid,
        name: &Arc<str>,
        overrides: &TopicOverrides,
    ) -> Result<(), CodecError> {
        check(!self.topics.contains_key(name), || {
            format!("topic {name} is created twice")
        })?;
        check(!self.names.contains_key(&id), || {
            format!("topic id {id} is used twice")
        })?;
        let topic = Topic {
            id,
            name: Arc::clone(name),
            partitions: Vec::new(),
            overrides: overrides.clone(),
        };
        self.topics.insert(Arc::clone(name), topic);
        self.names.insert(id, Arc::clone(name));
        if let Some(key) = collision_key(name) {
            self.collisions.insert(key, Arc::clone(name));
        }
        Ok(())
    }

    fn add_partitions(
        &mut self,
        name: &Arc<str>,
        partitions: &[PartitionHome],
        effects: &mut Vec<Effect>,
    ) -> Result<(), CodecError> {
        check(!partitions.is_empty(), || {
            format!("topic {name} gets no partition")
        })?;
        let topic = self.topics.get_mut(name).expect("the caller found it");
        for added in partitions {
            let place = Place {
                topic: Arc::clone(name),
                index: u32::try_from(topic.partitions.len()).expect("ids are 32 bits"),
                home: added.home,
            };
            check(self.places.insert(added.id, place).is_none(), || {
                format!("partition id {} is used twice", added.id)
            })?;
            check(added.id.0 < u32::MAX, || "partition ids are used up".into())?;
            self.next_partition = self.next_partition.max(added.id.0 + 1);
            *self.held.entry(added.home).or_default() += 1;
            topic.partitions.push(*added);
            effects.push(Effect::Added(*added));
        }
        Ok(())
    }

    fn delete_topic(&mut self, id: Uuid, effects: &mut Vec<Effect>) -> Result<(), CodecError> {
        let name = self.name_of(id)?;
        let topic = self.topics.remove(&name).expect("names are of topics");
        self.names.remove(&id);
        if let Some(key) = collision_key(&name) {
            self.collisions.remove(&key);
        }
        for gone in topic.partitions {
            self.places
                .remove(&gone.id)
                .expect("partitions have places");
            self.release_home(gone.home);
            effects.push(Effect::Removed(gone));
        }
        Ok(())
    }

    fn move_partition(&mut self, moved: PartitionHome) -> Result<(), CodecError> {
        let Some(place) = self.places.get_mut(&moved.id) else {
            return Err(CodecError::Invalid(format!(
                "partition {} is moved but does not exist",
                moved.id
            )));
        };
        let before = std::mem::replace(&mut place.home, moved.home);
        let (name, index) = (Arc::clone(&place.topic), place.index as usize);
        let topic = self.topics.get_mut(&name).expect("places name topics");
        topic.partitions[index].home = moved.home;
        *self.held.entry(moved.home).or_default() += 1;
        self.release_home(before);
        Ok(())
    }

    fn release_home(&mut self, home: ShardId) {
        let held = self.held.get_mut(&home).expect("homes are counted");
        *held -= 1;
        if *held == 0 {
            self.held.remove(&home);
        }
    }
}

/// `Ok` if `holds`: what the log gave back is checked, not asserted.
fn check(holds: bool, why: impl FnOnce() -> String) -> Result<(), CodecError> {
    if holds {
        Ok(())
    } else {
        Err(CodecError::Invalid(why()))
    }
}

/// A broker's name as Kafka shows it.
#[must_use]
pub fn cluster_name(id: BrokerId) -> String {
    base64(&id.0.to_be_bytes())
}

/// URL-safe base64 without padding: how Kafka writes UUIDs.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for character in 0..=group.len() {
            let index = bits >> (18 - 6 * character) & 0x3f;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::change::tests::every_operation;
    use super::*;

    fn change(epoch: u64, operations: &[Operation]) -> CatalogChange {
        CatalogChange {
            epoch: CatalogEpoch(epoch),
            operations: operations.to_vec(),
        }
    }

    #[test]
    fn operations_build_what_they_say() {
        let all = every_operation();
        let mut catalog = Catalog::default();
        // Everything but the deletion at the end.
        let effects = catalog.apply(&change(1, &all[..7])).expect("fits");
        assert_eq!(effects.len(), 6, "three added, three configured");
        let topic = catalog.topic("orders").expect("created");
        assert_eq!(catalog.topic_by_id(topic.id), Some(topic));
        assert_eq!(topic.partitions.len(), 3);
        assert_eq!(
            catalog.place(PartitionId(5)).map(|place| place.index),
            Some(2)
        );
        assert_eq!(
            catalog.place(PartitionId(3)).map(|place| place.home),
            Some(ShardId(1))
        );
        assert_eq!(catalog.held(), &BTreeMap::from([(ShardId(1), 3)]));
        assert_eq!(catalog.next_partition(), PartitionId(6));
        let effects = catalog.apply(&change(2, &all[7..])).expect("fits");
        assert_eq!(effects.len(), 3, "three removed");
        assert_eq!((catalog.topic_count(), catalog.partition_count()), (0, 0));
        assert!(catalog.held().is_empty());
        assert_eq!(
            catalog.next_partition(),
            PartitionId(9),
            "ids are not reused"
        );
        let is_lost = [5, 6, 8, 9].map(|id| catalog.is_lost(PartitionId(id)));
        assert_eq!(is_lost, [false, true, true, false]);
    }

    #[test]
    fn a_catalog_survives_being_written_as_one_change() {
        let mut catalog = Catalog::default();
        catalog
            .apply(&change(1, &every_operation()[..7]))
            .expect("fits");
        catalog
            .apply(&change(2, &every_operation()[8..]))
            .expect("fits");
        let bytes = catalog.as_change().encode();
        let decoded = CatalogChange::decode(&bytes).expect("good");
        assert_eq!(Catalog::from_change(&decoded), Ok(catalog));
    }

    #[test]
    fn changes_out_of_turn_or_against_sense_are_refused() {
        let all = every_operation();
        let mut catalog = Catalog::default();
        assert!(catalog.apply(&change(2, &[])).is_err());
        catalog.apply(&change(1, &all[..4])).expect("fits");
        assert!(catalog.clone().apply(&change(1, &[])).is_err());
        for bad in [&all[0..1], &all[3..4]] {
            assert!(catalog.clone().apply(&change(2, bad)).is_err());
        }
        let missing = Operation::TopicDeleted {
            id: Uuid::from_u128(99),
        };
        assert!(catalog.apply(&change(2, &[missing])).is_err());
    }

    #[test]
    fn the_cluster_id_is_kafkas_base64() {
        assert_eq!(base64(b"\xfb\xff"), "-_8");
        assert_eq!(base64(b"Man"), "TWFu");
        let mut catalog = Catalog::default();
        assert_eq!(catalog.cluster_id(), "");
        catalog
            .apply(&change(1, &every_operation()[..1]))
            .expect("fits");
        assert_eq!(catalog.cluster_id(), "AAAAAAAAAAAAAAAAAAAAAQ");
    }
}

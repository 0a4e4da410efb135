//! Judges catalog requests: what each item comes to, and the operations that make it so.
//!
//! Pure: the same catalog, request and random numbers give the same decision. Items of a request
//! are judged in order, each as if those before it were done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_storage::units::{LeaderEpoch, PartitionId, ShardId};
use rand_core::Rng;
use uuid::{Builder, Uuid};

use super::change::Operation;
use super::config::TopicOverrides;
use super::names::{check_topic_name, collision_key};
use super::{Catalog, PartitionHome, Topic};
use crate::command::{CatalogRequest, ConfigAlteration, Growth, NewTopic, TopicRef};
use crate::event::{CatalogAnswer, Refusal};
use crate::limits::EngineConfig;
use crate::placement::homes_for_new;

/// What a request comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Empty when nothing changes: everything was refused, or was only to be judged.
    pub(crate) operations: Vec<Operation>,
    /// One an item, in order.
    pub(crate) answers: Vec<Result<CatalogAnswer, Refusal>>,
}

/// Judges `request` against `catalog`. New partitions go to `shards` shards.
pub(crate) fn judge(
    catalog: &Catalog,
    config: &EngineConfig,
    shards: u16,
    random: &mut impl Rng,
    request: &CatalogRequest,
) -> Decision {
    let mut judge = Judge::new(catalog, config, shards);
    let mut answers = Vec::new();
    let judge_only = match request {
        CatalogRequest::CreateTopics {
            topics,
            validate_only,
        } => {
            let twice = named_twice(topics.iter().map(|topic| topic.name.as_str()));
            for topic in topics {
                answers.push(
                    refuse_twice(&twice, &topic.name).and_then(|()| judge.create(topic, random)),
                );
            }
            *validate_only
        }
        CatalogRequest::DeleteTopics { topics } => {
            let found = topics.iter().filter_map(|topic| named(catalog, topic));
            let twice = named_twice(found.map(|topic| topic.id));
            answers.extend(topics.iter().map(|topic| judge.delete(topic, &twice)));
            false
        }
        CatalogRequest::CreatePartitions {
            topics,
            validate_only,
        } => {
            let twice = named_twice(topics.iter().map(|growth| growth.topic.as_str()));
            for growth in topics {
                answers.push(refuse_twice(&twice, &growth.topic).and_then(|()| judge.grow(growth)));
            }
            *validate_only
        }
        CatalogRequest::AlterTopicConfigs {
            topics,
            validate_only,
        } => {
            let twice = named_twice(topics.iter().map(|topic| topic.topic.as_str()));
            for topic in topics {
                answers
                    .push(refuse_twice(&twice, &topic.topic).and_then(|()| judge.configure(topic)));
            }
            *validate_only
        }
    };
    let operations = if judge_only {
        Vec::new()
    } else {
        judge.operations
    };
    Decision {
        operations,
        answers,
    }
}

/// A decision in the making: the catalog, and what earlier items of the request did to it.
struct Judge<'a> {
    catalog: &'a Catalog,
    config: &'a EngineConfig,
    shards: u16,
    /// As they are after the operations so far.
    topics: usize,
    partitions: usize,
    next_partition: u32,
    held: BTreeMap<ShardId, u32>,
    /// Names created by earlier items, of those that can collide, by what they would collide in.
    created: BTreeMap<String, Arc<str>>,
    operations: Vec<Operation>,
}

impl<'a> Judge<'a> {
    fn new(catalog: &'a Catalog, config: &'a EngineConfig, shards: u16) -> Self {
        Self {
            catalog,
            config,
            shards,
            topics: catalog.topic_count(),
            partitions: catalog.partition_count(),
            next_partition: catalog.next_partition().0,
            held: catalog.held().clone(),
            created: BTreeMap::new(),
            operations: Vec::new(),
        }
    }

    fn create(
        &mut self,
        topic: &NewTopic,
        random: &mut impl Rng,
    ) -> Result<CatalogAnswer, Refusal> {
        check_topic_name(&topic.name)?;
        if self.catalog.topic(&topic.name).is_some() {
            return Err(Refusal::TopicExists(topic.name.clone()));
        }
        let collision_key = collision_key(&topic.name);
        if let Some(key) = &collision_key {
            self.refuse_collision(&topic.name, key)?;
        }
        let settings = topic.config.iter();
        let overrides =
            TopicOverrides::parse(settings.map(|(name, value)| (name.as_str(), value.as_deref())))?;
        let limits = &self.config.limits;
        if self.topics >= limits.topics_max as usize {
            return Err(Refusal::LimitReached {
                limit: "limits.topics_max",
                max: u64::from(limits.topics_max),
            });
        }
        let count = topic.partitions.unwrap_or(self.config.default_partitions);
        let partitions = self.place(count, &topic.homes)?;
        let id = self.new_topic_id(random);
        let name: Arc<str> = Arc::from(topic.name.as_str());
        self.topics += 1;
        if let Some(key) = collision_key {
            self.created.insert(key, Arc::clone(&name));
        }
        self.operations.push(Operation::TopicCreated {
            id,
            name,
            partitions,
            overrides: overrides.clone(),
        });
        Ok(CatalogAnswer {
            name: topic.name.clone(),
            id,
            partitions: count,
            overrides,
        })
    }

    /// `twice`: topics that the request names more than once, by name or id.
    fn delete(
        &mut self,
        topic: &TopicRef,
        twice: &BTreeSet<Uuid>,
    ) -> Result<CatalogAnswer, Refusal> {
        let topic = named(self.catalog, topic).ok_or(Refusal::UnknownTopic)?;
        if twice.contains(&topic.id) {
            return Err(Refusal::Duplicate(topic.name.to_string()));
        }
        self.operations
            .push(Operation::TopicDeleted { id: topic.id });
        Ok(answer(topic, topic.overrides.clone(), 0))
    }

    fn grow(&mut self, growth: &Growth) -> Result<CatalogAnswer, Refusal> {
        let (name, total) = (growth.topic.as_str(), growth.total);
        let topic = self.catalog.topic(name).ok_or(Refusal::UnknownTopic)?;
        let now = partitions_of(topic);
        if total <= now {
            return Err(Refusal::InvalidPartitions(format!(
                "topic {name} has {now} partitions already; {total} is not more"
            )));
        }
        let partitions = self.place(total - now, &growth.homes)?;
        self.operations.push(Operation::PartitionsAdded {
            id: topic.id,
            partitions,
        });
        Ok(answer(topic, topic.overrides.clone(), total))
    }

    fn configure(&mut self, alteration: &ConfigAlteration) -> Result<CatalogAnswer, Refusal> {
        let found = self.catalog.topic(&alteration.topic);
        let topic = found.ok_or(Refusal::UnknownTopic)?;
        let overrides = topic.overrides.changed(&alteration.changes)?;
        if overrides != topic.overrides {
            self.operations.push(Operation::TopicConfigured {
                id: topic.id,
                overrides: overrides.clone(),
            });
        }
        Ok(answer(topic, overrides, partitions_of(topic)))
    }

    fn refuse_collision(&self, name: &str, key: &str) -> Result<(), Refusal> {
        let existing = self.catalog.colliding(key);
        match existing.or_else(|| self.created.get(key)) {
            None => Ok(()),
            Some(other) => Err(Refusal::InvalidTopicName(format!(
                "{name} differs from the existing topic {other} only in '.' and '_'"
            ))),
        }
    }

    /// Ids and homes for `count` new partitions; the homes are `chosen` if any is.
    fn place(&mut self, count: u32, chosen: &[ShardId]) -> Result<Vec<PartitionHome>, Refusal> {
        if count == 0 {
            let why = "a topic has at least one partition".to_owned();
            return Err(Refusal::InvalidPartitions(why));
        }
        let max = self.config.limits.partitions_max;
        // Ids are 32 bits and never used twice; a broker that used them all up creates no more.
        let id_end = self.next_partition.checked_add(count);
        let Some(id_end) = id_end.filter(|_| self.partitions + count as usize <= max as usize)
        else {
            return Err(Refusal::LimitReached {
                limit: "limits.partitions_max",
                max: u64::from(max),
            });
        };
        self.check_homes(count, chosen)?;
        let homes = match chosen {
            [] => homes_for_new(&self.held, self.shards, count),
            chosen => chosen.to_vec(),
        };
        let placed: Vec<PartitionHome> = (self.next_partition..id_end)
            .zip(homes)
            .map(|(id, home)| PartitionHome {
                id: PartitionId(id),
                home,
                leader_epoch: LeaderEpoch(0),
            })
            .collect();
        for partition in &placed {
            *self.held.entry(partition.home).or_default() += 1;
        }
        self.partitions += count as usize;
        self.next_partition = id_end;
        Ok(placed)
    }

    fn check_homes(&self, count: u32, chosen: &[ShardId]) -> Result<(), Refusal> {
        let gone = chosen.iter().find(|home| home.0 >= self.shards);
        let why = if let Some(gone) = gone {
            format!("there is no shard {}", gone.0)
        } else if !chosen.is_empty() && chosen.len() != count as usize {
            format!(
                "{count} new partitions need as many homes, not {}",
                chosen.len()
            )
        } else {
            return Ok(());
        };
        Err(Refusal::InvalidPlacement(why))
    }

    /// A random UUID (version 4) that no topic has.
    fn new_topic_id(&self, random: &mut impl Rng) -> Uuid {
        loop {
            let mut bytes = [0; 16];
            random.fill_bytes(&mut bytes);
            let id = Builder::from_random_bytes(bytes).into_uuid();
            if self.catalog.topic_by_id(id).is_none() {
                return id;
            }
        }
    }
}

/// The topic of that name or id.
fn named<'a>(catalog: &'a Catalog, topic: &TopicRef) -> Option<&'a Topic> {
    match topic {
        TopicRef::Name(name) => catalog.topic(name),
        TopicRef::Id(id) => catalog.topic_by_id(*id),
    }
}

fn answer(topic: &Topic, overrides: TopicOverrides, partitions: u32) -> CatalogAnswer {
    CatalogAnswer {
        name: topic.name.to_string(),
        id: topic.id,
        partitions,
        overrides,
    }
}

fn partitions_of(topic: &Topic) -> u32 {
    u32::try_from(topic.partitions.len()).expect("partition ids are 32 bits")
}

/// The names that occur more than once.
fn named_twice<N: Copy + Ord>(names: impl Iterator<Item = N>) -> BTreeSet<N> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(*name)).collect()
}

fn refuse_twice(twice: &BTreeSet<&str>, name: &str) -> Result<(), Refusal> {
    if twice.contains(name) {
        return Err(Refusal::Duplicate(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::CatalogEpoch;
    use super::super::change::CatalogChange;
    use super::*;
    use crate::command::ConfigChange;
    use crate::limits::Limits;
    use rand_core::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    struct Bench {
        catalog: Catalog,
        config: EngineConfig,
        random: Pcg64Mcg,
    }

    impl Bench {
        fn new() -> Self {
            let limits = Limits {
                topics_max: 3,
                partitions_max: 6,
                ..Limits::default()
            };
            Self {
                catalog: Catalog::default(),
                config: EngineConfig {
                    limits,
                    default_partitions: 2,
                    ..EngineConfig::default()
                },
                random: Pcg64Mcg::seed_from_u64(1),
            }
        }

        fn judge(&mut self, request: &CatalogRequest) -> Decision {
            judge(&self.catalog, &self.config, 2, &mut self.random, request)
        }

        /// Judges and applies.
        fn run(&mut self, request: &CatalogRequest) -> Vec<Result<CatalogAnswer, Refusal>> {
            let decision = self.judge(request);
            let change = CatalogChange {
                epoch: CatalogEpoch(self.catalog.epoch().0 + 1),
                operations: decision.operations,
            };
            self.catalog.apply(&change).expect("decisions fit");
            decision.answers
        }
    }

    fn create(topics: &[(&str, Option<u32>)]) -> CatalogRequest {
        CatalogRequest::CreateTopics {
            topics: topics
                .iter()
                .map(|(name, partitions)| NewTopic {
                    name: (*name).to_owned(),
                    partitions: *partitions,
                    homes: Vec::new(),
                    config: Vec::new(),
                })
                .collect(),
            validate_only: false,
        }
    }

    #[test]
    fn topics_are_created_within_the_limits() {
        let mut bench = Bench::new();
        let answers = bench.run(&create(&[("a", None), ("b", Some(3)), ("c", Some(2))]));
        assert_eq!(answers[0].as_ref().map(|a| a.partitions), Ok(2));
        assert!(answers[1].is_ok());
        let full = Refusal::LimitReached {
            limit: "limits.partitions_max",
            max: 6,
        };
        assert_eq!(answers[2], Err(full.clone()));
        let b = bench.catalog.topic("b").expect("created");
        assert_eq!(
            b.partitions.iter().map(|p| p.id.0).collect::<Vec<_>>(),
            [2, 3, 4]
        );
        assert_eq!(bench.catalog.held().values().sum::<u32>(), 5);
        assert!(bench.run(&create(&[("c", Some(1))]))[0].is_ok());
        let answers = bench.run(&create(&[("d", Some(1))]));
        assert!(matches!(
            answers[0],
            Err(Refusal::LimitReached {
                limit: "limits.topics_max",
                ..
            })
        ));
    }

    #[test]
    fn bad_items_are_refused_one_by_one() {
        let mut bench = Bench::new();
        let mut request = create(&[("a", None), ("x", None), ("x", None), ("a/b", None)]);
        if let CatalogRequest::CreateTopics { topics, .. } = &mut request {
            topics[0].config.push(("no.such".to_owned(), None));
        }
        let answers = bench.run(&request);
        assert!(matches!(answers[0], Err(Refusal::InvalidConfig(_))));
        assert_eq!(answers[1], Err(Refusal::Duplicate("x".to_owned())));
        assert_eq!(answers[2], answers[1]);
        assert!(matches!(answers[3], Err(Refusal::InvalidTopicName(_))));
        assert_eq!(bench.catalog.topic_count(), 0);
        let answers = bench.run(&create(&[("m.n", None), ("m_n", None), ("z", Some(0))]));
        assert!(answers[0].is_ok());
        assert!(matches!(answers[1], Err(Refusal::InvalidTopicName(_))));
        assert!(matches!(answers[2], Err(Refusal::InvalidPartitions(_))));
        let again = bench.run(&create(&[("m.n", None)]));
        assert_eq!(again[0], Err(Refusal::TopicExists("m.n".to_owned())));
    }

    #[test]
    fn names_that_were_deleted_collide_no_more() {
        let mut bench = Bench::new();
        assert!(bench.run(&create(&[("m.n", Some(1))]))[0].is_ok());
        assert!(bench.run(&create(&[("m_n", Some(1))]))[0].is_err());
        bench.run(&CatalogRequest::DeleteTopics {
            topics: vec![TopicRef::Name("m.n".to_owned())],
        });
        assert!(bench.run(&create(&[("m_n", Some(1))]))[0].is_ok());
        assert!(bench.run(&create(&[("m.n", Some(1))]))[0].is_err());
    }

    /// Comparing each name with every topic would be half a billion comparisons: minutes.
    #[test]
    fn a_request_of_many_names_is_judged_in_one_go() {
        let mut bench = Bench::new();
        bench.config.limits.topics_max = 10_000;
        bench.config.limits.partitions_max = 10_000;
        let names = |from: usize, to: usize| -> Vec<String> {
            let name = |at| format!("{}.{at:06}", "long".repeat(40));
            (from..to).map(name).collect()
        };
        let request = |names: &[String]| {
            let topics: Vec<_> = names.iter().map(|name| (name.as_str(), Some(1))).collect();
            create(&topics)
        };
        bench.run(&request(&names(0, 10_000)));
        // By pairs these would be a billion comparisons.
        let answers = bench.run(&request(&names(10_000, 60_000)));
        assert!(answers.iter().all(Result::is_err), "the broker is full");
    }

    #[test]
    fn a_request_that_only_judges_changes_nothing() {
        let mut bench = Bench::new();
        let mut request = create(&[("a", None)]);
        if let CatalogRequest::CreateTopics { validate_only, .. } = &mut request {
            *validate_only = true;
        }
        let decision = bench.judge(&request);
        assert!(decision.answers[0].is_ok() && decision.operations.is_empty());
    }

    #[test]
    fn topics_are_deleted_by_either_name_but_not_by_both() {
        let mut bench = Bench::new();
        let id = bench.run(&create(&[("a", None)]))[0]
            .as_ref()
            .expect("created")
            .id;
        let (by_id, by_name) = (TopicRef::Id(id), TopicRef::Name("a".to_owned()));
        let unknown = TopicRef::Name("b".to_owned());
        for twice in [&by_id, &by_name] {
            let answers = bench.run(&CatalogRequest::DeleteTopics {
                topics: vec![twice.clone(), by_name.clone(), unknown.clone()],
            });
            assert_eq!(answers[0], Err(Refusal::Duplicate("a".to_owned())));
            assert_eq!(answers[1], answers[0]);
            assert_eq!(answers[2], Err(Refusal::UnknownTopic));
            assert!(bench.catalog.topic("a").is_some(), "it is still there");
        }
        let topics = vec![by_id];
        let answers = bench.run(&CatalogRequest::DeleteTopics { topics });
        assert!(answers[0].is_ok());
        bench.run(&create(&[("a", None)]));
        let again = bench.catalog.topic("a").expect("created again");
        assert_eq!(again.partitions[0].id, PartitionId(2), "ids are not reused");
        assert_ne!(again.id, id);
    }

    /// Lets topic `a` grow.
    fn grow_at(total: u32, homes: &[u16]) -> CatalogRequest {
        let growth = Growth {
            topic: "a".to_owned(),
            total,
            homes: homes.iter().copied().map(ShardId).collect(),
        };
        CatalogRequest::CreatePartitions {
            topics: vec![growth],
            validate_only: false,
        }
    }

    #[test]
    fn homes_are_those_that_were_chosen_if_they_exist() {
        let mut bench = Bench::new();
        let create_at = |homes: &[u16]| {
            let mut request = create(&[("a", Some(2))]);
            if let CatalogRequest::CreateTopics { topics, .. } = &mut request {
                topics[0].homes = homes.iter().copied().map(ShardId).collect();
            }
            request
        };
        for homes in [&[0, 2][..], &[1], &[1, 1, 1]] {
            let refused = bench.run(&create_at(homes));
            assert!(matches!(refused[0], Err(Refusal::InvalidPlacement(_))));
        }
        assert!(bench.run(&create_at(&[1, 1]))[0].is_ok());
        let refused = bench.run(&grow_at(4, &[1]));
        assert!(matches!(refused[0], Err(Refusal::InvalidPlacement(_))));
        assert!(bench.run(&grow_at(4, &[1, 0]))[0].is_ok());
        // What was chosen counts when the broker chooses again.
        assert!(bench.run(&grow_at(6, &[]))[0].is_ok());
        let topic = bench.catalog.topic("a").expect("created");
        let homes: Vec<u16> = topic.partitions.iter().map(|one| one.home.0).collect();
        assert_eq!(homes, [1, 1, 1, 0, 0, 0]);
    }

    #[test]
    fn partitions_grow_and_settings_change() {
        let mut bench = Bench::new();
        bench.run(&create(&[("a", Some(2))]));
        let grow = |total| grow_at(total, &[]);
        assert!(matches!(
            bench.run(&grow(2))[0],
            Err(Refusal::InvalidPartitions(_))
        ));
        assert_eq!(bench.run(&grow(4))[0].as_ref().map(|a| a.partitions), Ok(4));
        assert_eq!(
            bench.catalog.topic("a").map(|t| t.partitions.len()),
            Some(4)
        );
        let alter = CatalogRequest::AlterTopicConfigs {
            topics: vec![ConfigAlteration {
                topic: "a".to_owned(),
                changes: vec![ConfigChange::Set {
                    name: "retention.ms".to_owned(),
                    value: "9".to_owned(),
                }],
            }],
            validate_only: false,
        };
        assert!(bench.run(&alter)[0].is_ok());
        let topic = bench.catalog.topic("a").expect("there");
        assert_eq!(topic.overrides.get("retention.ms"), Some("9"));
        assert!(
            bench.judge(&alter).operations.is_empty(),
            "nothing to change again"
        );
    }
}

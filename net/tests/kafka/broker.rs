//! A broker of a few maps: executes commands at once and answers when told to.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use millrace_engine::catalog::change::{CatalogChange, Operation};
use millrace_engine::catalog::config::TopicOverrides;
use millrace_engine::catalog::names::check_topic_name;
use millrace_engine::catalog::{Catalog, CatalogEpoch, PartitionHome, Topic};
use millrace_engine::command::{
    CatalogRequest, Command, FetchPartition, FetchRequest, Growth, OffsetQuery, TopicRef,
};
use millrace_engine::event::{
    Appended, CatalogAnswer, Fetched, FetchedPartition, FoundOffset, LogSizes, Outcome,
    ProducerListing, Refusal,
};
use millrace_engine::group::{GroupAnswer, GroupAsk, GroupListing, GroupRefusal, GroupRequest};
use millrace_net::session::{ClusterView, CommandSink, ConnectionAddresses, Node, Refused};
use millrace_storage::disk::DiskSpace;
use millrace_storage::record::{Batch, stamp};
use millrace_storage::units::{BootTime, LeaderEpoch, Now, Offset, PartitionId, ShardId};
use uuid::Uuid;

/// The id of the topic that a broker is given first.
pub(crate) const FIRST_TOPIC: Uuid = Uuid::from_u128(FIRST_TOPIC_NUMBER);
const FIRST_TOPIC_NUMBER: u128 = 0xABC0_0000;

/// What stands behind a session in these tests.
pub(crate) struct Broker {
    pub(crate) catalog: Catalog,
    pub(crate) cluster: ClusterView,
    pub(crate) accepts_appends: bool,
    pub(crate) accepts_questions: bool,
    pub(crate) remembered_partitions_left: usize,
    /// What was told to whoever runs the broker.
    pub(crate) refusals: Vec<Refused>,
    /// Every append is refused with this.
    pub(crate) refuse_appends: Option<Refusal>,
    /// Outcomes not delivered yet.
    pub(crate) outcomes: VecDeque<(u64, Result<Outcome, Refusal>)>,
    /// Commands seen, by name.
    pub(crate) seen: Vec<&'static str>,
    /// What groups were asked, in order.
    pub(crate) asked_of_groups: Vec<GroupRequest>,
    /// What they answer next; without one they know nobody and nothing.
    pub(crate) group_answers: VecDeque<Result<GroupAnswer, Refusal>>,
    /// The groups that there are.
    pub(crate) groups: Vec<GroupListing>,
    /// The producers that every partition remembers.
    pub(crate) producers: Vec<ProducerListing>,
    /// The file system's room.
    pub(crate) space: Option<DiskSpace>,
    /// Fetches that wait for records.
    pub(crate) parked: Vec<(u64, FetchRequest)>,
    logs: BTreeMap<PartitionId, Log>,
    next_partition: u32,
    next_producer: i64,
}

#[derive(Default)]
struct Log {
    batches: Vec<(Offset, Bytes)>,
    start: u64,
    next: u64,
}

impl Broker {
    /// One node, port 9092, no topics.
    pub(crate) fn new() -> Self {
        Self {
            catalog: Catalog::default(),
            cluster: ClusterView {
                cluster_id: "cluster-of-these-tests".to_owned(),
                nodes: vec![Node {
                    id: 1,
                    shard: None,
                    host: None,
                    port: 9092,
                }],
                own: 0,
            },
            accepts_appends: true,
            accepts_questions: true,
            remembered_partitions_left: usize::MAX,
            refusals: Vec::new(),
            refuse_appends: None,
            outcomes: VecDeque::new(),
            seen: Vec::new(),
            asked_of_groups: Vec::new(),
            group_answers: VecDeque::new(),
            groups: Vec::new(),
            producers: Vec::new(),
            space: None,
            parked: Vec::new(),
            logs: BTreeMap::new(),
            next_partition: 0,
            next_producer: 7000,
        }
    }

    /// One node a shard, with an advertised host on the second.
    pub(crate) fn with_two_nodes() -> Self {
        let mut broker = Self::new();
        let host = Some("second.example".to_owned());
        broker.cluster.nodes = (0..2_u16)
            .map(|shard| Node {
                id: i32::from(shard) + 1,
                shard: Some(ShardId(shard)),
                host: host.clone().filter(|_| shard == 1),
                port: 9092 + shard,
            })
            .collect();
        broker
    }

    /// Adds a topic whose partitions alternate between the shards 0 and 1.
    pub(crate) fn add_topic(&mut self, name: &str, partitions: u32) -> Uuid {
        self.add_topic_at(name, partitions, &[])
    }

    /// Adds a topic whose partitions are at those homes, if any is named.
    fn add_topic_at(&mut self, name: &str, partitions: u32, homes: &[ShardId]) -> Uuid {
        let id = Uuid::from_u128(FIRST_TOPIC_NUMBER + u128::from(self.next_partition));
        let partitions = self.next_homes(partitions, homes);
        self.apply(vec![Operation::TopicCreated {
            id,
            name: Arc::from(name),
            partitions,
            overrides: TopicOverrides::default(),
        }]);
        id
    }

    /// Changes the catalog.
    pub(crate) fn apply(&mut self, operations: Vec<Operation>) {
        let mut used = vec![Operation::PartitionIdsUsed {
            next: self.next_partition,
        }];
        used.extend(operations);
        let epoch = CatalogEpoch(self.catalog.epoch().0 + 1);
        let change = CatalogChange {
            epoch,
            operations: used,
        };
        self.catalog.apply(&change).expect("a change that fits");
    }

    fn next_homes(&mut self, partitions: u32, homes: &[ShardId]) -> Vec<PartitionHome> {
        let mut placed: Vec<PartitionHome> = (0..partitions).map(|_| self.next_home()).collect();
        for (partition, home) in placed.iter_mut().zip(homes) {
            partition.home = *home;
        }
        placed
    }

    fn next_home(&mut self) -> PartitionHome {
        let id = PartitionId(self.next_partition);
        self.next_partition += 1;
        PartitionHome {
            id,
            home: ShardId(u16::try_from(id.0 % 2).expect("small")),
            leader_epoch: LeaderEpoch(0),
        }
    }

    /// Appends to a log and wakes fetches that waited for it.
    pub(crate) fn append(
        &mut self,
        partition: PartitionId,
        batch: &[u8],
    ) -> Result<Appended, Refusal> {
        if let Some(refusal) = &self.refuse_appends {
            return Err(refusal.clone());
        }
        let header = *Batch::check(batch).map_err(Refusal::BadBatch)?.header();
        let log = self.logs.entry(partition).or_default();
        let base_offset = Offset(log.next);
        let mut stored = batch.to_vec();
        stamp(&mut stored, base_offset, LeaderEpoch(0), None);
        log.next += u64::from(header.last_offset_delta) + 1;
        log.batches.push((base_offset, Bytes::from(stored)));
        let durable_at = BootTime(log.next);
        for (sequence, request) in std::mem::take(&mut self.parked) {
            self.fetch(sequence, request);
        }
        Ok(Appended {
            base_offset,
            append_time_ms: None,
            log_start: Offset(0),
            durable_at,
        })
    }

    /// Ends every parked fetch as if its time had come.
    pub(crate) fn expire_fetches(&mut self) {
        for (sequence, mut request) in std::mem::take(&mut self.parked) {
            request.bytes_min = 0;
            self.fetch(sequence, request);
        }
    }

    fn fetch(&mut self, sequence: u64, request: FetchRequest) {
        let fetched: Vec<FetchedPartition> = request
            .partitions
            .iter()
            .map(|wanted| FetchedPartition {
                partition: wanted.partition,
                result: self.read(wanted),
            })
            .collect();
        let bytes: usize = fetched
            .iter()
            .flat_map(|fetched| fetched.result.iter().flat_map(|read| &read.batches))
            .map(Bytes::len)
            .sum();
        if bytes < request.bytes_min && fetched.iter().all(|fetched| fetched.result.is_ok()) {
            self.parked.push((sequence, request));
        } else {
            self.outcomes
                .push_back((sequence, Ok(Outcome::Fetched(fetched))));
        }
    }

    fn read(&self, wanted: &FetchPartition) -> Result<Fetched, Refusal> {
        let place = self.catalog.place(wanted.partition);
        place.ok_or(Refusal::UnknownPartition)?;
        let (next, batches) = self
            .logs
            .get(&wanted.partition)
            .map_or((0, &[][..]), |log| (log.next, &log.batches));
        if wanted.from.0 > next {
            return Err(Refusal::OffsetOutOfRange {
                first: Offset(0),
                next: Offset(next),
            });
        }
        let batches = batches.iter().filter(|(base, _)| *base >= wanted.from);
        Ok(Fetched {
            high_watermark: Offset(next),
            last_stable: Offset(next),
            log_start: Offset(0),
            batches: batches.map(|(_, batch)| batch.clone()).collect(),
            has_more: false,
        })
    }

    /// Deletes whole batches alone.
    fn delete(
        &mut self,
        partition: PartitionId,
        keep_from: Option<Offset>,
    ) -> Result<Offset, Refusal> {
        let log = self.logs.entry(partition).or_default();
        let start = keep_from.map_or(log.next, |offset| offset.0);
        if start > log.next {
            return Err(Refusal::OffsetOutOfRange {
                first: Offset(log.start),
                next: Offset(log.next),
            });
        }
        log.start = log.start.max(start);
        log.batches.retain(|(base, _)| base.0 >= start);
        Ok(Offset(log.start))
    }

    fn sizes(&self, home: ShardId) -> LogSizes {
        let own = self.catalog.homed(home).map(|id| {
            let log = self.logs.get(&id);
            let batches = log.iter().flat_map(|log| &log.batches);
            (id, batches.map(|(_, batch)| batch.len() as u64).sum())
        });
        LogSizes {
            partitions: own.collect(),
            space: self.space,
        }
    }

    fn find(&self, partition: PartitionId, at: OffsetQuery) -> Option<FoundOffset> {
        let log = self.logs.get(&partition);
        let found = |offset, timestamp_ms| {
            Some(FoundOffset {
                offset: Offset(offset),
                timestamp_ms,
                leader_epoch: LeaderEpoch(0),
            })
        };
        match at {
            OffsetQuery::Earliest => found(0, None),
            OffsetQuery::Latest => found(log.map_or(0, |log| log.next), None),
            OffsetQuery::MaxTimestamp => found(log?.next.checked_sub(1)?, Some(5000)),
            OffsetQuery::AtOrAfter(time) => {
                found(0, Some(time)).filter(|_| time <= 5000 && log.is_some())
            }
        }
    }

    fn write(&mut self, request: CatalogRequest) -> Vec<Result<CatalogAnswer, Refusal>> {
        match request {
            CatalogRequest::CreateTopics {
                topics,
                validate_only,
            } => topics
                .into_iter()
                .map(|topic| {
                    check_topic_name(&topic.name)?;
                    if self.catalog.topic(&topic.name).is_some() {
                        return Err(Refusal::TopicExists(topic.name));
                    }
                    let config = topic.config.iter();
                    let config = config.map(|(name, value)| (name.as_str(), value.as_deref()));
                    let overrides = TopicOverrides::parse(config)?;
                    let partitions = topic.partitions.unwrap_or(3);
                    let mut id = Uuid::nil();
                    if !validate_only {
                        id = self.add_topic_at(&topic.name, partitions, &topic.homes);
                        let overrides = overrides.clone();
                        self.apply(vec![Operation::TopicConfigured { id, overrides }]);
                    }
                    Ok(CatalogAnswer {
                        name: topic.name,
                        id,
                        partitions,
                        overrides,
                    })
                })
                .collect(),
            CatalogRequest::DeleteTopics { topics } => topics
                .into_iter()
                .map(|named| {
                    let found = match named {
                        TopicRef::Name(name) => self.catalog.topic(&name),
                        TopicRef::Id(id) => self.catalog.topic_by_id(id),
                    };
                    let answer = found.map(answer).ok_or(Refusal::UnknownTopic)?;
                    self.apply(vec![Operation::TopicDeleted { id: answer.id }]);
                    Ok(answer)
                })
                .collect(),
            CatalogRequest::CreatePartitions { topics, .. } => topics
                .into_iter()
                .map(|growth| self.grow(&growth))
                .collect(),
            CatalogRequest::AlterTopicConfigs { topics, .. } => topics
                .into_iter()
                .map(|alteration| {
                    let topic = self.catalog.topic(&alteration.topic);
                    let topic = topic.ok_or(Refusal::UnknownTopic)?.clone();
                    let overrides = topic.overrides.changed(&alteration.changes)?;
                    let id = topic.id;
                    self.apply(vec![Operation::TopicConfigured { id, overrides }]);
                    Ok(answer(&topic))
                })
                .collect(),
        }
    }

    fn grow(&mut self, growth: &Growth) -> Result<CatalogAnswer, Refusal> {
        let (name, count) = (growth.topic.as_str(), growth.total);
        let topic = self
            .catalog
            .topic(name)
            .ok_or(Refusal::UnknownTopic)?
            .clone();
        let has = u32::try_from(topic.partitions.len()).expect("few");
        if count <= has {
            let why = format!("{name} has {has} partitions already");
            return Err(Refusal::InvalidPartitions(why));
        }
        let partitions = self.next_homes(count - has, &growth.homes);
        let id = topic.id;
        self.apply(vec![Operation::PartitionsAdded { id, partitions }]);
        Ok(answer(&topic))
    }
}

fn answer(topic: &Topic) -> CatalogAnswer {
    CatalogAnswer {
        name: topic.name.to_string(),
        id: topic.id,
        partitions: u32::try_from(topic.partitions.len()).expect("few"),
        overrides: topic.overrides.clone(),
    }
}

/// What a group answers that has neither members nor offsets.
fn know_nothing(ask: &GroupAsk) -> Result<GroupAnswer, Refusal> {
    Ok(match ask {
        GroupAsk::Join(_) | GroupAsk::Sync(_) | GroupAsk::Heartbeat(_) => {
            return Err(Refusal::Group(GroupRefusal::UnknownMember));
        }
        GroupAsk::Leave(members) => {
            let unknown = vec![Err(GroupRefusal::UnknownMember); members.len()];
            GroupAnswer::Left(unknown)
        }
        GroupAsk::Commit(commit) => {
            GroupAnswer::OffsetsCommitted(vec![Ok(()); commit.offsets.len()])
        }
        GroupAsk::FetchOffsets(wanted) => {
            let wanted = wanted.iter().flatten();
            GroupAnswer::Offsets(wanted.map(|partition| (*partition, None)).collect())
        }
        GroupAsk::DeleteOffsets(partitions) => {
            GroupAnswer::OffsetsDeleted(vec![Ok(()); partitions.len()])
        }
        GroupAsk::Describe => GroupAnswer::Described(None),
        GroupAsk::Delete => return Err(Refusal::Group(GroupRefusal::NotFound)),
    })
}

impl CommandSink for Broker {
    fn submit(&mut self, _now: Now, sequence: u64, command: Command<'_>) {
        let (name, outcome) = match command {
            Command::Append { partition, batch } => (
                "append",
                self.append(partition, batch).map(Outcome::Appended),
            ),
            Command::Fetch(request) => {
                self.seen.push("fetch");
                self.fetch(sequence, request);
                return;
            }
            Command::FindOffset { partition, at, .. } => (
                "find offset",
                Ok(Outcome::OffsetFound(self.find(partition, at))),
            ),
            Command::FindEpochEnd { partition, epoch } => {
                let end = self.logs.get(&partition).map_or(0, |log| log.next);
                let found = (epoch <= LeaderEpoch(0)).then_some((epoch, Offset(end)));
                ("find epoch end", Ok(Outcome::EpochEnd(found)))
            }
            Command::DeleteRecords {
                partition,
                keep_from,
            } => (
                "delete records",
                self.delete(partition, keep_from)
                    .map(Outcome::RecordsDeleted),
            ),
            Command::ListProducers { .. } => {
                let listed = self.producers.clone();
                ("list producers", Ok(Outcome::ProducersListed(listed)))
            }
            Command::MeasureLogs { home } => {
                let sizes = self.sizes(home);
                ("measure logs", Ok(Outcome::LogsMeasured(sizes)))
            }
            Command::WriteCatalog(request) => (
                "write catalog",
                Ok(Outcome::CatalogWritten(self.write(request))),
            ),
            Command::AllocateProducerId => {
                self.next_producer += 1;
                let id = self.next_producer;
                ("allocate producer id", Ok(Outcome::ProducerIdAllocated(id)))
            }
            Command::Group(request) => {
                let scripted = self.group_answers.pop_front();
                let answer = scripted.unwrap_or_else(|| know_nothing(&request.ask));
                self.asked_of_groups.push(request);
                ("group", answer.map(Outcome::Group))
            }
            Command::ListGroups { home } => {
                let groups = self.groups.iter();
                let here = groups.filter(|one| self.catalog.group_home(&one.group) == home);
                let here = here.cloned().collect();
                ("list groups", Ok(Outcome::GroupsListed(here)))
            }
            Command::Report => panic!("no client can ask for a report"),
        };
        self.seen.push(name);
        self.outcomes.push_back((sequence, outcome));
    }

    fn cancel(&mut self, sequence: u64) {
        self.outcomes.retain(|(queued, _)| *queued != sequence);
        self.parked.retain(|(parked, _)| *parked != sequence);
    }

    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn cluster(&self) -> &ClusterView {
        &self.cluster
    }

    fn addresses(&self) -> ConnectionAddresses {
        let local = IpAddr::V6(Ipv4Addr::new(127, 0, 0, 9).to_ipv6_mapped());
        ConnectionAddresses {
            peer: SocketAddr::from(([127, 0, 0, 1], 50_000)),
            local: SocketAddr::from((local, 9092)),
        }
    }

    fn accepts_appends(&self) -> bool {
        self.accepts_appends
    }

    fn accepts_questions(&self) -> bool {
        self.accepts_questions
    }

    fn note_refusal(&mut self, _now: Now, what: Refused) -> Option<u64> {
        self.refusals.push(what);
        None
    }

    fn remembered_partitions_left(&self) -> usize {
        self.remembered_partitions_left
    }
}

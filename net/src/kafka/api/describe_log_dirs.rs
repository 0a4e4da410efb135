//! DescribeLogDirs, versions 1 to 4: what this node's partitions take in the data directory.
//! Clients ask every node.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};
use millrace_engine::catalog::{Catalog, Topic};
use millrace_engine::command::Command;
use millrace_engine::event::{Outcome, Refusal};
use millrace_storage::disk::DiskSpace;
use millrace_storage::units::{PartitionId, ShardId};

use super::{Call, Handled, Reply, ReplyTo, Work, decode, text, topic_name};
use crate::kafka::errors::{ErrorCode, error_code};
use crate::kafka::frame::Request;
use crate::session::{CommandSink, ProtocolViolation};

/// First version that tells of the file system's room.
const VERSION_ROOM_MIN: i16 = 4;
/// Bytes that a topic's fields take without its name, and a partition's.
const TOPIC_BYTES_MAX: usize = 16;
const PARTITION_BYTES_MAX: usize = 22;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: DescribeLogDirsRequest = decode(call, request)?;
    let pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        directory: call.config.data_directory.clone(),
        wanted: body.topics.map(by_name),
        bytes: BTreeMap::new(),
        space: None,
        failed: None,
    };
    for (position, home) in homes(call.sink).into_iter().enumerate() {
        call.submit(position, Command::MeasureLogs { home });
    }
    Ok(Handled::Wait(Work::DescribeLogDirs(pending)))
}

fn by_name(topics: Vec<DescribableLogDirTopic>) -> HashMap<TopicName, HashSet<i32>> {
    let mut wanted: HashMap<TopicName, HashSet<i32>> = HashMap::new();
    for topic in topics {
        wanted
            .entry(topic.topic)
            .or_default()
            .extend(topic.partitions);
    }
    wanted
}

/// The shards of this node: in one-port mode all that have partitions.
fn homes(sink: &dyn CommandSink) -> BTreeSet<ShardId> {
    let cluster = sink.cluster();
    if let Some(shard) = cluster.nodes[cluster.own].shard {
        return BTreeSet::from([shard]);
    }
    let partitions = sink.catalog().topics().flat_map(|topic| &topic.partitions);
    let mut homes: BTreeSet<ShardId> = partitions.map(|partition| partition.home).collect();
    // It is there whatever there is, and knows the room of the file system.
    homes.insert(ShardId(0));
    homes
}

/// A request whose partitions are being measured.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    directory: String,
    /// Partitions asked for, by topic; `None`: all.
    wanted: Option<HashMap<TopicName, HashSet<i32>>>,
    bytes: BTreeMap<PartitionId, u64>,
    space: Option<DiskSpace>,
    failed: Option<ErrorCode>,
}

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        match outcome {
            Ok(Outcome::LogsMeasured(sizes)) => {
                self.bytes.extend(sizes.partitions);
                self.space = self.space.or(sizes.space);
            }
            Ok(other) => panic!("a measurement of logs ended with {other:?}"),
            Err(refusal) => self.failed = Some(error_code(&refusal)),
        }
    }

    pub(super) fn finish(self, call: &mut Call<'_>) -> Result<Reply, ProtocolViolation> {
        let catalog = call.sink.catalog();
        self.reply_to.check_bytes(self.reply_bytes(catalog))?;
        let mut directory = DescribeLogDirsResult::default().with_log_dir(text(&*self.directory));
        match self.failed {
            Some(code) => directory.error_code = code.code(),
            None => {
                let topics = self.wanted_topics(catalog);
                let topics = topics.filter_map(|topic| self.describe(topic));
                directory.topics = topics.collect();
            }
        }
        if let (Some(space), VERSION_ROOM_MIN..) = (self.space, self.reply_to.version) {
            directory.total_bytes = number(space.total_bytes);
            directory.usable_bytes = number(space.available_bytes);
        }
        let response = DescribeLogDirsResponse::default().with_results(vec![directory]);
        self.reply_to.frame(&response)
    }

    fn wanted_topics<'a>(&'a self, catalog: &'a Catalog) -> impl Iterator<Item = &'a Topic> {
        let wanted = self.wanted.as_ref();
        catalog.topics().filter(move |topic| {
            wanted.is_none_or(|wanted| wanted.contains_key(&topic_name(&topic.name)))
        })
    }

    /// At most what the reply takes.
    fn reply_bytes(&self, catalog: &Catalog) -> usize {
        let topics = self.wanted_topics(catalog);
        topics
            .map(|topic| {
                let partitions = topic.partitions.len() * PARTITION_BYTES_MAX;
                TOPIC_BYTES_MAX + topic.name.len() + partitions
            })
            .sum()
    }

    /// What of a topic is on this node and asked for, if anything is.
    fn describe(&self, topic: &Topic) -> Option<DescribeLogDirsTopic> {
        let name = topic_name(&topic.name);
        let wanted = self.wanted.as_ref().map(|wanted| wanted.get(&name));
        let is_wanted =
            |index| wanted.is_none_or(|own| own.is_some_and(|own| own.contains(&index)));
        let partitions = topic.partitions.iter().zip(0..);
        let partitions: Vec<DescribeLogDirsPartition> = partitions
            .filter(|(_, index)| is_wanted(*index))
            .filter_map(|(partition, index)| {
                let bytes = self.bytes.get(&partition.id)?;
                let described = DescribeLogDirsPartition::default()
                    .with_partition_index(index)
                    .with_partition_size(number(*bytes));
                Some(described)
            })
            .collect();
        if partitions.is_empty() {
            return None;
        }
        let described = DescribeLogDirsTopic::default()
            .with_name(name)
            .with_partitions(partitions);
        Some(described)
    }
}

/// A size as Kafka says it.
fn number(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

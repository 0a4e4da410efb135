//! DescribeLogDirs, versions 1 to 5: what this node's partitions take in the data directory.
//! Clients ask every node.
//!
//! The response, which the message crate knows up to version 4:
//!
//! | field           | type   | versions |
//! |-----------------|--------|----------|
//! | throttle time   | i32    |          |
//! | error           | i16    | 3 +      |
//! | directories     | array  |          |
//! | - error         | i16    |          |
//! | - path          | string |          |
//! | - topics        | array  |          |
//! | - total bytes   | i64    | 4 +      |
//! | - usable bytes  | i64    | 4 +      |
//! | - is cordoned   | bool   | 5 +      |
//!
//! Source: Kafka's `DescribeLogDirsResponse.json`; a cordoned directory (KIP-1066) takes no new
//! partitions.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, TopicName};
use kafka_protocol::protocol::Encodable;
use millrace_engine::catalog::{Catalog, Topic};
use millrace_engine::command::Command;
use millrace_engine::event::{Outcome, Refusal};
use millrace_storage::disk::DiskSpace;
use millrace_storage::units::{PartitionId, ShardId};

use super::{Call, Handled, Reply, ReplyTo, Work, decode_version, topic_name};
use crate::kafka::errors::{ErrorCode, error_code};
use crate::kafka::frame::Request;
use crate::kafka::wire::Writer;
use crate::session::{CommandSink, ProtocolViolation};

/// First version with an error of the whole.
const VERSION_ERROR_MIN: i16 = 3;
/// First version that tells of the file system's room.
const VERSION_ROOM_MIN: i16 = 4;
/// First version that tells whether a directory takes new partitions.
const VERSION_CORDONED_MIN: i16 = 5;
/// Last version with a format of its own, of requests and of topics in the response.
const VERSION_FORMAT_MAX: i16 = 4;
/// Room that is not known.
const UNKNOWN: i64 = -1;
/// Bytes that the fields of the one directory take without its path and its topics, a topic's
/// without its name, and a partition's.
const DIRECTORY_BYTES_MAX: usize = 40;
const TOPIC_BYTES_MAX: usize = 16;
const PARTITION_BYTES_MAX: usize = 22;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let format = request.version.min(VERSION_FORMAT_MAX);
    let body: DescribeLogDirsRequest = decode_version(call, request, format)?;
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
        let bytes = self.reply_bytes(catalog);
        self.reply_to.check_bytes(bytes)?;
        let topics = match self.failed {
            Some(_) => Vec::new(),
            None => {
                let topics = self.wanted_topics(catalog);
                topics.filter_map(|topic| self.describe(topic)).collect()
            }
        };
        self.reply_to
            .frame_with(bytes, |writer| self.write(writer, &topics))
    }

    fn write(
        &self,
        writer: &mut Writer<'_>,
        topics: &[DescribeLogDirsTopic],
    ) -> Result<(), ProtocolViolation> {
        let version = self.reply_to.version;
        let failed = self.failed.unwrap_or(ErrorCode::None);
        writer.i32(0); // Throttle time, ms.
        if version >= VERSION_ERROR_MIN {
            writer.i16(ErrorCode::None.code());
        }
        writer.length(Some(1));
        writer.i16(failed.code());
        writer.text(&self.directory);
        writer.length(Some(topics.len()));
        for topic in topics {
            let format = version.min(VERSION_FORMAT_MAX);
            let encoded = writer.with_body(|out| topic.encode(out, format));
            encoded.map_err(|error| self.reply_to.unsayable(error))?;
        }
        if version >= VERSION_ROOM_MIN {
            let room = self
                .space
                .map(|space| (space.total_bytes, space.available_bytes));
            let room = room.map(|(total, usable)| (number(total), number(usable)));
            let (total, usable) = room.unwrap_or((UNKNOWN, UNKNOWN));
            writer.i64(total);
            writer.i64(usable);
        }
        if version >= VERSION_CORDONED_MIN {
            writer.raw(&[u8::from(false)]);
        }
        writer.tags();
        writer.tags();
        Ok(())
    }

    fn wanted_topics<'a>(&'a self, catalog: &'a Catalog) -> impl Iterator<Item = &'a Topic> {
        let wanted = self.wanted.as_ref();
        catalog.topics().filter(move |topic| {
            wanted.is_none_or(|wanted| wanted.contains_key(&topic_name(&topic.name)))
        })
    }

    /// At most what the reply takes.
    fn reply_bytes(&self, catalog: &Catalog) -> usize {
        let topics = self.wanted_topics(catalog).map(|topic| {
            let partitions = topic.partitions.len() * PARTITION_BYTES_MAX;
            TOPIC_BYTES_MAX + topic.name.len() + partitions
        });
        DIRECTORY_BYTES_MAX + self.directory.len() + topics.sum::<usize>()
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

//! Metadata, versions 0 to 13: the nodes, the topics, and who leads each partition.
//!
//! Asking for a topic that does not exist creates it, if both the configuration and the request say
//! so. The answer waits for the creation, so that clients need not ask twice as with Kafka.

use std::collections::{BTreeMap, HashSet};

use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use millrace_engine::catalog::names::check_topic_name;
use millrace_engine::catalog::{Catalog, PartitionHome, Topic};
use millrace_engine::command::{CatalogRequest, Command, NewTopic};
use millrace_engine::event::{Outcome, Refusal};
use uuid::Uuid;

use super::create_topics::is_kafkas_own;
use super::{Call, Handled, Reply, ReplyTo, Work, decode, text, topic_name};
use crate::kafka::cluster;
use crate::kafka::errors::{ErrorCode, error_code};
use crate::kafka::frame::Request;
use crate::session::{ClusterView, CommandSink, ProtocolViolation, Refused};

/// First version in which topics may be asked for by id.
const VERSION_IDS_MIN: i16 = 12;
/// Kafka's bits of what may be done, by operation code, where nothing is forbidden: read, write,
/// create, delete, alter, describe, describe and alter settings.
pub(super) const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;

/// Bytes that a topic's fields take without its name, and a partition's with its one replica.
const TOPIC_BYTES_MAX: usize = 40;
const PARTITION_BYTES_MAX: usize = 42;

/// A topic that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Asked {
    Name(TopicName),
    Id(Uuid),
    /// Neither, or an id in a version without ids.
    Nothing,
}

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: MetadataRequest = decode(call, request)?;
    let asked = match body.topics {
        None => None,
        // Version 0 has no null: there an empty list means all.
        Some(topics) if topics.is_empty() && request.version == 0 => None,
        Some(topics) => {
            let asked = topics.into_iter().map(|topic| match topic.name {
                _ if !topic.topic_id.is_nil() && request.version >= VERSION_IDS_MIN => {
                    Asked::Id(topic.topic_id)
                }
                Some(name) => Asked::Name(name),
                None => Asked::Nothing,
            });
            Some(once_each(asked))
        }
    };
    let mut pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        asked,
        tells_cluster_operations: body.include_cluster_authorized_operations,
        tells_topic_operations: body.include_topic_authorized_operations,
        creating: Vec::new(),
        refused: BTreeMap::new(),
    };
    if body.allow_auto_topic_creation && call.config.auto_create_topics {
        pending.creating = missing(call, pending.asked.as_deref().unwrap_or_default());
    }
    if pending.creating.is_empty() {
        return pending.finish(call).map(Handled::Reply);
    }
    let topics = pending.creating.iter().map(|name| NewTopic {
        name: name.clone(),
        partitions: None,
        homes: Vec::new(),
        config: Vec::new(),
    });
    let create = CatalogRequest::CreateTopics {
        topics: topics.collect(),
        validate_only: false,
    };
    call.submit(0, Command::WriteCatalog(create));
    Ok(Handled::Wait(Work::Metadata(pending)))
}

/// Kafka takes the topics of a request for a set: each is answered once, however often it is named.
fn once_each(asked: impl Iterator<Item = Asked>) -> Vec<Asked> {
    let mut seen = HashSet::new();
    asked.filter(|asked| seen.insert(asked.clone())).collect()
}

/// The names to create: good ones that are not there, each once, as many as the limit leaves.
fn missing(call: &mut Call<'_>, asked: &[Asked]) -> Vec<String> {
    let catalog = call.sink.catalog();
    let max = call.config.auto_create_topics_max;
    let room = max.saturating_sub(catalog.topic_count());
    let mut names: Vec<String> = Vec::new();
    for asked in asked {
        let Asked::Name(name) = asked else { continue };
        let is_good = check_topic_name(name).is_ok() && !is_kafkas_own(name);
        if is_good && catalog.topic(name).is_none() {
            names.push(name.to_string());
        }
    }
    names.sort_unstable();
    if names.len() > room {
        if let Some(count) = call.sink.note_refusal(call.now, Refused::Creation) {
            tracing::warn!(
                "not creating {} topics that were asked for: topics.auto_create_max = {max}; \
                 {count} such requests of late",
                names.len() - room
            );
        }
        names.truncate(room);
    }
    names
}

/// A request whose topics are being created, or that waits for nothing.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    /// `None`: all topics.
    asked: Option<Vec<Asked>>,
    tells_cluster_operations: bool,
    tells_topic_operations: bool,
    creating: Vec<String>,
    /// What could not be created, and why.
    refused: BTreeMap<String, ErrorCode>,
}

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        let creating = std::mem::take(&mut self.creating);
        let answers = match outcome {
            Ok(Outcome::CatalogWritten(answers)) => answers,
            Ok(other) => panic!("a catalog write ended with {other:?}"),
            Err(refusal) => vec![Err(refusal); creating.len()],
        };
        assert_eq!(answers.len(), creating.len(), "one answer an item");
        for (name, answer) in creating.into_iter().zip(answers) {
            if let Err(refusal) = answer {
                self.refused.insert(name, refused_creation(&refusal));
            }
        }
    }

    pub(super) fn finish(self, call: &mut Call<'_>) -> Result<Reply, ProtocolViolation> {
        let sink: &dyn CommandSink = call.sink;
        let version = self.reply_to.version;
        self.reply_to.check_bytes(self.bytes(sink.catalog()))?;
        let topics = match &self.asked {
            None => {
                let all = sink.catalog().topics();
                all.map(|topic| self.describe(topic, sink.cluster()))
                    .collect()
            }
            Some(asked) => asked.iter().map(|asked| self.answer(asked, sink)).collect(),
        };
        let brokers = cluster::nodes(sink).into_iter().map(|(id, host, port)| {
            MetadataResponseBroker::default()
                .with_node_id(id)
                .with_host(text(host))
                .with_port(port)
        });
        let mut response = MetadataResponse::default()
            .with_brokers(brokers.collect())
            .with_controller_id(cluster::CONTROLLER)
            .with_topics(topics);
        if version >= 2 {
            response.cluster_id = Some(text(sink.cluster().cluster_id.as_str()));
        }
        if self.tells_cluster_operations {
            response.cluster_authorized_operations = cluster::OPERATIONS;
        }
        self.reply_to.frame(&response)
    }

    /// Bytes of the topics' part of the answer, or a few more.
    fn bytes(&self, catalog: &Catalog) -> usize {
        let topic_bytes = |topic: &Topic| {
            TOPIC_BYTES_MAX + topic.name.len() + PARTITION_BYTES_MAX * topic.partitions.len()
        };
        match &self.asked {
            None => catalog.topics().map(topic_bytes).sum(),
            Some(asked) => asked
                .iter()
                .map(|asked| match asked {
                    Asked::Name(name) => catalog
                        .topic(name)
                        .map_or(TOPIC_BYTES_MAX + name.len(), topic_bytes),
                    Asked::Id(id) => catalog
                        .topic_by_id(*id)
                        .map_or(TOPIC_BYTES_MAX, topic_bytes),
                    Asked::Nothing => TOPIC_BYTES_MAX,
                })
                .sum(),
        }
    }

    fn answer(&self, asked: &Asked, sink: &dyn CommandSink) -> MetadataResponseTopic {
        let catalog: &Catalog = sink.catalog();
        match asked {
            Asked::Name(name) => match catalog.topic(name) {
                Some(topic) => self.describe(topic, sink.cluster()),
                None => {
                    let code = match self.refused.get(name.as_str()) {
                        Some(code) => *code,
                        None if check_topic_name(name).is_err() => ErrorCode::InvalidTopic,
                        None => ErrorCode::UnknownTopicOrPartition,
                    };
                    MetadataResponseTopic::default()
                        .with_error_code(code.code())
                        .with_name(Some(name.clone()))
                }
            },
            Asked::Id(id) => match catalog.topic_by_id(*id) {
                Some(topic) => self.describe(topic, sink.cluster()),
                None => MetadataResponseTopic::default()
                    .with_error_code(ErrorCode::UnknownTopicId.code())
                    .with_name(None)
                    .with_topic_id(*id),
            },
            Asked::Nothing => MetadataResponseTopic::default()
                .with_error_code(ErrorCode::InvalidRequest.code())
                .with_name(Some(topic_name(""))),
        }
    }

    fn describe(&self, topic: &Topic, cluster: &ClusterView) -> MetadataResponseTopic {
        let version = self.reply_to.version;
        let partitions = topic.partitions.iter().zip(0..);
        let partitions = partitions.map(|(home, index)| describe_partition(home, index, cluster));
        let mut described = MetadataResponseTopic::default()
            .with_name(Some(topic_name(&topic.name)))
            .with_partitions(partitions.collect());
        if version >= 10 {
            described.topic_id = topic.id;
        }
        if self.tells_topic_operations {
            described.topic_authorized_operations = TOPIC_OPERATIONS;
        }
        described
    }
}

fn describe_partition(
    home: &PartitionHome,
    index: i32,
    cluster: &ClusterView,
) -> MetadataResponsePartition {
    let led = cluster::led(cluster, home);
    MetadataResponsePartition::default()
        .with_error_code(led.code.code())
        .with_partition_index(index)
        .with_leader_id(led.leader)
        .with_leader_epoch(home.leader_epoch.0)
        .with_replica_nodes(led.replicas.clone())
        .with_isr_nodes(led.replicas)
}

/// Clients know these two of Metadata and retry the second; of a limit they would make nothing.
fn refused_creation(refusal: &Refusal) -> ErrorCode {
    match error_code(refusal) {
        ErrorCode::InvalidTopic => ErrorCode::InvalidTopic,
        _ => ErrorCode::UnknownTopicOrPartition,
    }
}

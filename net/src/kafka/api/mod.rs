//! One file an API: decode, judge, submit, and make the reply of the outcomes.
//!
//! A handler either replies at once or leaves [`Work`]: what it must remember until every command
//! that it submitted has ended.

pub(crate) mod fetch;
pub(crate) mod produce;

mod acls;
mod alter_configs;
mod api_versions;
mod client_quotas;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_topic_partitions;
mod elect_leaders;
mod find_coordinator;
mod groups;
mod heartbeat;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_config_resources;
mod list_groups;
mod list_offsets;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod partitions;
mod reassignments;
mod scram_credentials;
mod sync_group;
mod transactions;

pub(crate) use api_versions::unknown_version;

use std::cmp::Ordering;

use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use millrace_engine::catalog::Catalog;
use millrace_engine::catalog::config::SettingSource;
use millrace_engine::command::Command;
use millrace_engine::event::{CatalogAnswer, Outcome, Refusal};
use millrace_storage::units::{Now, PartitionId};

use super::config::KafkaConfig;
use super::errors::{ErrorCode, Failure};
use super::fetch_set::FetchSet;
use super::frame::Request;
use super::versions::Api;
use super::walker;
use super::wire::{DecodeError, Reader, Writer};
use crate::session::{CommandSink, ProtocolViolation, Refused};

/// What one request may use.
pub(crate) struct Call<'a> {
    pub(crate) now: Now,
    pub(crate) config: &'a KafkaConfig,
    pub(crate) sink: &'a mut dyn CommandSink,
    /// The connection's fetch session, if one is open.
    pub(crate) fetch_set: &'a mut Option<FetchSet>,
    /// Sequence of the request's command at position 0.
    first: u64,
    submitted: usize,
    /// One past the highest position submitted.
    span: u64,
}

/// What a call submitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Submitted {
    pub(crate) commands: usize,
    pub(crate) span: u64,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        now: Now,
        config: &'a KafkaConfig,
        sink: &'a mut dyn CommandSink,
        fetch_set: &'a mut Option<FetchSet>,
        first: u64,
    ) -> Self {
        Self {
            now,
            config,
            sink,
            fetch_set,
            first,
            submitted: 0,
            span: 0,
        }
    }

    /// Submits the command at `position`; its outcome comes back under that. Positions rise.
    fn submit(&mut self, position: usize, command: Command<'_>) {
        let position = position as u64;
        assert!(position >= self.span, "positions rise");
        self.span = position + 1;
        self.submitted += 1;
        self.sink.submit(self.now, self.first + position, command);
    }

    /// Says in the log what a client was refused, and not every time: clients show the code of a
    /// refusal, and few of them its words.
    fn log_refusal(&mut self, what: Refused, whom: &str, name: &str, why: &str) {
        if let Some(count) = self.sink.note_refusal(self.now, what) {
            let peer = self.sink.addresses().peer;
            let name = &name[..name.floor_char_boundary(LOGGED_NAME_BYTES_MAX)];
            tracing::info!("{peer}: {whom} {name:?} is refused: {why}; {count} of late");
        }
    }

    pub(crate) fn submitted(&self) -> Submitted {
        Submitted {
            commands: self.submitted,
            span: self.span,
        }
    }
}

/// What a handler made of a request.
#[derive(Debug)]
pub(crate) enum Handled {
    /// The reply.
    Reply(Reply),
    /// The reply comes of the outcomes of what was submitted.
    Wait(Work),
}

/// A reply that waits for its turn.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The client asked for none.
    Silent,
    /// A whole frame.
    Frame(Vec<u8>),
    /// A fetch: its records are not copied before they are sent.
    Fetch(fetch::Reply),
}

impl Reply {
    /// About how many bytes it holds; the same at every call.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Silent => 0,
            Self::Frame(frame) => frame.len(),
            Self::Fetch(reply) => reply.bytes(),
        }
    }
}

/// What a request remembers until its commands have ended.
#[derive(Debug)]
pub(crate) enum Work {
    Produce(produce::Pending),
    Fetch(fetch::Pending),
    ListOffsets(list_offsets::Pending),
    Metadata(metadata::Pending),
    CreateTopics(create_topics::Pending),
    DeleteTopics(delete_topics::Pending),
    CreatePartitions(create_partitions::Pending),
    AlterConfigs(alter_configs::Pending),
    InitProducerId(init_producer_id::Pending),
    OffsetForLeaderEpoch(offset_for_leader_epoch::Pending),
    OffsetCommit(offset_commit::Pending),
    OffsetFetch(offset_fetch::Pending),
    JoinGroup(join_group::Pending),
    Heartbeat(heartbeat::Pending),
    LeaveGroup(leave_group::Pending),
    SyncGroup(sync_group::Pending),
    DescribeGroups(describe_groups::Pending),
    ListGroups(list_groups::Pending),
    DeleteGroups(delete_groups::Pending),
    OffsetDelete(offset_delete::Pending),
    DeleteRecords(delete_records::Pending),
    DescribeLogDirs(describe_log_dirs::Pending),
    DescribeProducers(describe_producers::Pending),
}

impl Work {
    /// Takes the outcome of the command at `position`.
    pub(crate) fn take(&mut self, position: usize, outcome: Result<Outcome, Refusal>) {
        match self {
            Self::Produce(pending) => pending.take(position, outcome),
            Self::Fetch(pending) => pending.take(outcome),
            Self::ListOffsets(pending) => pending.take(position, outcome),
            Self::Metadata(pending) => pending.take(outcome),
            Self::CreateTopics(pending) => pending.take(outcome),
            Self::DeleteTopics(pending) => pending.take(outcome),
            Self::CreatePartitions(pending) => pending.take(outcome),
            Self::AlterConfigs(pending) => pending.take(outcome),
            Self::InitProducerId(pending) => pending.take(outcome),
            Self::OffsetForLeaderEpoch(pending) => pending.take(position, outcome),
            Self::OffsetCommit(pending) => pending.take(outcome),
            Self::OffsetFetch(pending) => pending.take(position, outcome),
            Self::JoinGroup(pending) => pending.take(outcome),
            Self::Heartbeat(pending) => pending.take(outcome),
            Self::LeaveGroup(pending) => pending.take(outcome),
            Self::SyncGroup(pending) => pending.take(outcome),
            Self::DescribeGroups(pending) => pending.take(position, outcome),
            Self::ListGroups(pending) => pending.take(outcome),
            Self::DeleteGroups(pending) => pending.take(position, outcome),
            Self::OffsetDelete(pending) => pending.take(outcome),
            Self::DeleteRecords(pending) => pending.take(position, outcome),
            Self::DescribeLogDirs(pending) => pending.take(outcome),
            Self::DescribeProducers(pending) => pending.take(position, outcome),
        }
    }

    /// Makes the reply, once every outcome was taken.
    ///
    /// # Errors
    /// The client wants no reply, and something failed that it must learn: Kafka closes then. Or
    /// the reply would be too long.
    pub(crate) fn finish(self, call: &mut Call<'_>) -> Result<Reply, ProtocolViolation> {
        match self {
            Self::Produce(pending) => pending.finish(),
            Self::Fetch(pending) => pending.finish(call),
            Self::ListOffsets(pending) => pending.finish(),
            Self::Metadata(pending) => pending.finish(call),
            Self::CreateTopics(pending) => pending.finish(call),
            Self::DeleteTopics(pending) => pending.finish(),
            Self::CreatePartitions(pending) => pending.finish(call),
            Self::AlterConfigs(pending) => pending.finish(call),
            Self::InitProducerId(pending) => pending.finish(),
            Self::OffsetForLeaderEpoch(pending) => pending.finish(),
            Self::OffsetCommit(pending) => pending.finish(),
            Self::OffsetFetch(pending) => pending.finish(call),
            Self::JoinGroup(pending) => pending.finish(),
            Self::Heartbeat(pending) => pending.finish(),
            Self::LeaveGroup(pending) => pending.finish(),
            Self::SyncGroup(pending) => pending.finish(),
            Self::DescribeGroups(pending) => pending.finish(),
            Self::ListGroups(pending) => pending.finish(),
            Self::DeleteGroups(pending) => pending.finish(),
            Self::OffsetDelete(pending) => pending.finish(),
            Self::DeleteRecords(pending) => pending.finish(),
            Self::DescribeLogDirs(pending) => pending.finish(call),
            Self::DescribeProducers(pending) => pending.finish(),
        }
    }

    /// Whether it changes the catalog: what the client sends next may depend on it.
    pub(crate) fn writes_catalog(&self) -> bool {
        match self {
            Self::Metadata(_)
            | Self::CreateTopics(_)
            | Self::DeleteTopics(_)
            | Self::CreatePartitions(_)
            | Self::AlterConfigs(_) => true,
            Self::Produce(_)
            | Self::Fetch(_)
            | Self::ListOffsets(_)
            | Self::InitProducerId(_)
            | Self::OffsetForLeaderEpoch(_)
            | Self::OffsetCommit(_)
            | Self::OffsetFetch(_)
            | Self::JoinGroup(_)
            | Self::Heartbeat(_)
            | Self::LeaveGroup(_)
            | Self::SyncGroup(_)
            | Self::DescribeGroups(_)
            | Self::ListGroups(_)
            | Self::DeleteGroups(_)
            | Self::OffsetDelete(_)
            | Self::DeleteRecords(_)
            | Self::DescribeLogDirs(_)
            | Self::DescribeProducers(_) => false,
        }
    }

    /// How many partitions it reads, if it is a fetch, of which a connection has one under way at
    /// most.
    pub(crate) fn fetch_partitions(&self) -> Option<usize> {
        match self {
            Self::Fetch(pending) => Some(pending.partitions_count()),
            _ => None,
        }
    }

    /// Whether its answer is a list whose length the request does not tell: a connection has one
    /// such request under way at most.
    pub(crate) fn lists(&self) -> bool {
        matches!(
            self,
            Self::ListGroups(_)
                | Self::DescribeGroups(_)
                | Self::DescribeLogDirs(_)
                | Self::DescribeProducers(_)
        )
    }

    /// Whether it waits for other members of a group, perhaps for minutes: a connection has one
    /// such request under way at most.
    pub(crate) fn awaits_group(&self) -> bool {
        matches!(self, Self::JoinGroup(_) | Self::SyncGroup(_))
    }
}

/// Serves one request.
///
/// # Errors
/// Its body cannot be read.
pub(crate) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    match request.api {
        Api::Produce => produce::handle(call, request),
        Api::Fetch => fetch::handle(call, request),
        Api::ListOffsets => list_offsets::handle(call, request),
        Api::Metadata => metadata::handle(call, request),
        Api::OffsetCommit => offset_commit::handle(call, request),
        Api::OffsetFetch => offset_fetch::handle(call, request),
        Api::FindCoordinator => find_coordinator::handle(call, request),
        Api::JoinGroup => join_group::handle(call, request),
        Api::Heartbeat => heartbeat::handle(call, request),
        Api::LeaveGroup => leave_group::handle(call, request),
        Api::SyncGroup => sync_group::handle(call, request),
        Api::DescribeGroups => describe_groups::handle(call, request),
        Api::ListGroups => list_groups::handle(call, request),
        Api::ApiVersions => api_versions::handle(call, request),
        Api::CreateTopics => create_topics::handle(call, request),
        Api::DeleteTopics => delete_topics::handle(call, request),
        Api::DeleteRecords => delete_records::handle(call, request),
        Api::InitProducerId => init_producer_id::handle(call, request),
        Api::OffsetForLeaderEpoch => offset_for_leader_epoch::handle(call, request),
        Api::DescribeAcls => acls::describe(call, request),
        Api::CreateAcls => acls::create(call, request),
        Api::DeleteAcls => acls::delete(call, request),
        Api::DescribeConfigs => describe_configs::handle(call, request),
        Api::AlterConfigs => alter_configs::replace(call, request),
        Api::DescribeLogDirs => describe_log_dirs::handle(call, request),
        Api::CreatePartitions => create_partitions::handle(call, request),
        Api::DeleteGroups => delete_groups::handle(call, request),
        Api::ElectLeaders => elect_leaders::handle(call, request),
        Api::IncrementalAlterConfigs => alter_configs::change(call, request),
        Api::AlterPartitionReassignments => reassignments::alter(call, request),
        Api::ListPartitionReassignments => reassignments::list(call, request),
        Api::OffsetDelete => offset_delete::handle(call, request),
        Api::DescribeClientQuotas => client_quotas::describe(call, request),
        Api::AlterClientQuotas => client_quotas::alter(call, request),
        Api::DescribeUserScramCredentials => scram_credentials::describe(call, request),
        Api::AlterUserScramCredentials => scram_credentials::alter(call, request),
        Api::DescribeCluster => describe_cluster::handle(call, request),
        Api::DescribeProducers => describe_producers::handle(call, request),
        Api::DescribeTransactions => transactions::describe(call, request),
        Api::ListTransactions => transactions::list(call, request),
        Api::ListConfigResources => list_config_resources::handle(call, request),
        Api::DescribeTopicPartitions => describe_topic_partitions::handle(call, request),
    }
}

/// Where a reply goes: what of its request it must match.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplyTo {
    api: Api,
    version: i16,
    correlation: i32,
    /// Bytes that the reply may have.
    bytes_max: usize,
}

impl ReplyTo {
    fn new(config: &KafkaConfig, request: &Request<'_>) -> Self {
        Self::of_version(config, request, request.version)
    }

    /// A reply in the format of another version.
    fn of_version(config: &KafkaConfig, request: &Request<'_>, version: i16) -> Self {
        Self {
            api: request.api,
            version,
            correlation: request.correlation,
            bytes_max: config.reply_bytes_max,
        }
    }

    /// A reply with a body of the message crate.
    ///
    /// # Errors
    /// It would be too long, or holds what its version cannot say.
    fn frame<Body: Encodable>(self, body: &Body) -> Result<Reply, ProtocolViolation> {
        let bytes = body.compute_size(self.version);
        let bytes = bytes.map_err(|error| self.unsayable(error))?;
        self.check_bytes(bytes)?;
        self.frame_with(bytes, |writer| {
            let encoded = writer.with_body(|out| body.encode(out, self.version));
            encoded.map_err(|error| self.unsayable(error))
        })
    }

    /// A reply that `write` writes by hand, of about that many bytes.
    ///
    /// # Errors
    /// It would be too long, or those of `write`.
    fn frame_with(
        self,
        bytes: usize,
        write: impl FnOnce(&mut Writer<'_>) -> Result<(), ProtocolViolation>,
    ) -> Result<Reply, ProtocolViolation> {
        // ApiVersions must be readable by clients that know only its version 0: KIP-511.
        let flexible = self.api.is_flexible(self.version) && self.api != Api::ApiVersions;
        let mut out = Vec::with_capacity(HEADER_BYTES_MAX + bytes);
        let mut writer = Writer::begin(&mut out, self.correlation, flexible);
        write(&mut writer)?;
        writer.end().map_err(|error| self.too_long(error))?;
        Ok(Reply::Frame(out))
    }

    /// A reply of a throttle time and one array. Its items are made, written and dropped one by
    /// one, because there may be many and they take far more memory than their bytes.
    ///
    /// # Errors
    /// It would be too long; no more than one item is made past that. Or it holds what its version
    /// cannot say.
    fn frame_of_items<Item: Encodable>(
        self,
        items: impl ExactSizeIterator<Item = Item>,
    ) -> Result<Reply, ProtocolViolation> {
        let mut out = Vec::new();
        let flexible = self.api.is_flexible(self.version);
        let mut writer = Writer::begin(&mut out, self.correlation, flexible);
        writer.i32(0); // Throttle time, ms.
        writer.length(Some(items.len()));
        for item in items {
            let encoded = writer.with_body(|out| item.encode(out, self.version));
            encoded.map_err(|error| self.unsayable(error))?;
            self.check_bytes(writer.bytes())?;
        }
        writer.tags();
        writer.end().map_err(|error| self.too_long(error))?;
        Ok(Reply::Frame(out))
    }

    /// Checks how long a reply would be, before it is made: a short request may ask for much.
    ///
    /// # Errors
    /// Too long.
    fn check_bytes(self, bytes: usize) -> Result<(), ProtocolViolation> {
        if bytes <= self.bytes_max {
            return Ok(());
        }
        let max = self.bytes_max;
        Err(self.too_long(format!(
            "{bytes} bytes or more, listeners.kafka.reply_bytes_max = {max}"
        )))
    }

    /// A reply may hold what others sent, in versions that have room for more.
    fn unsayable(self, why: impl std::fmt::Display) -> ProtocolViolation {
        let (api, version) = (self.api, self.version);
        ProtocolViolation {
            reason: format!("a {api:?} request, version {version}, has no answer: {why}"),
        }
    }

    fn too_long(self, why: impl std::fmt::Display) -> ProtocolViolation {
        let (api, version) = (self.api, self.version);
        ProtocolViolation {
            reason: format!(
                "the reply to a {api:?} request, version {version}, is too long: {why}"
            ),
        }
    }
}

/// Why transactions are refused.
const NO_TRANSACTIONS: &str = "transactions are not built into this broker";

/// Bytes of a client's name for something that a line of the log repeats.
const LOGGED_NAME_BYTES_MAX: usize = 256;

/// Bytes of a response's length, correlation id and header tags.
const HEADER_BYTES_MAX: usize = 9;

/// Decodes a body with the message crate, once the walker has found it sound.
fn decode<Body: Decodable>(
    call: &Call<'_>,
    request: &Request<'_>,
) -> Result<Body, ProtocolViolation> {
    decode_version(call, request, request.version)
}

/// Decodes a body that has the format of another version than its own, which the message crate
/// does not know. Every text in it has memory of its own: what a request remembers while it waits
/// keeps nothing else of its bytes.
fn decode_version<Body: Decodable>(
    call: &Call<'_>,
    request: &Request<'_>,
    version: i16,
) -> Result<Body, ProtocolViolation> {
    walk(call, request)?;
    let mut body = request.body;
    Body::decode(&mut body, version).map_err(|error| request.malformed(error))
}

/// Decodes a body with `read`, because the message crate knows no version with its fields.
fn decode_with<'r, Body>(
    call: &Call<'_>,
    request: &Request<'r>,
    read: impl FnOnce(&mut Reader<'r>) -> Result<Body, DecodeError>,
) -> Result<Body, ProtocolViolation> {
    let body = read(&mut walk(call, request)?);
    body.map_err(|error| request.malformed(error))
}

/// Walks a body by its schema. Returns a reader of it all.
fn walk<'r>(call: &Call<'_>, request: &Request<'r>) -> Result<Reader<'r>, ProtocolViolation> {
    let items_max = call.config.request_items_max;
    let reader = Reader::new(request.body, request.is_flexible(), items_max);
    walker::check(request.api.schema(), request.version, &mut reader.clone())
        .map_err(|error| request.malformed(error))?;
    Ok(reader)
}

/// Items of one catalog request: what was refused before it was asked, and what was asked, in the
/// order of the client's request.
#[derive(Debug)]
struct Items<Item> {
    /// With what became of it; `None`: asked, and not answered.
    items: Vec<(Item, Option<Result<CatalogAnswer, Failure>>)>,
}

impl<Item> Items<Item> {
    /// Parts what was refused from what is to be asked, which comes back in the same order.
    fn judged<Asked>(
        judged: impl Iterator<Item = (Item, Result<Asked, Failure>)>,
    ) -> (Self, Vec<Asked>) {
        let mut asked = Vec::new();
        let items = judged.map(|(item, judged)| match judged {
            Ok(wanted) => {
                asked.push(wanted);
                (item, None)
            }
            Err(failure) => (item, Some(Err(failure))),
        });
        let items = items.collect();
        (Self { items }, asked)
    }

    fn new(items: Vec<(Item, Option<Failure>)>) -> Self {
        let items = items.into_iter();
        let items = items.map(|(item, failure)| (item, failure.map(Err)));
        Self {
            items: items.collect(),
        }
    }

    /// Takes the answers: one for each item that was asked, in their order.
    fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        let asked = self.items.iter_mut().filter(|(_, result)| result.is_none());
        let asked: Vec<_> = asked.map(|(_, result)| result).collect();
        let answers = match outcome {
            Ok(Outcome::CatalogWritten(answers)) => answers,
            Ok(other) => panic!("a catalog write ended with {other:?}"),
            Err(refusal) => vec![Err(refusal); asked.len()],
        };
        assert_eq!(answers.len(), asked.len(), "one answer an item");
        for (result, answer) in asked.into_iter().zip(answers) {
            *result = Some(answer.map_err(Failure::from));
        }
    }

    /// Says in the log which settings and places are refused.
    fn log_refused(&self, call: &mut Call<'_>, whom: &str, name: impl Fn(&Item) -> &str) {
        for (item, result) in &self.items {
            let Some(Err(failure)) = result else { continue };
            let what = match failure.code {
                ErrorCode::InvalidConfig => Refused::Setting,
                ErrorCode::InvalidReplicaAssignment | ErrorCode::InvalidReplicationFactor => {
                    Refused::Placement
                }
                _ => continue,
            };
            let why = failure.message.as_deref().unwrap_or_default();
            call.log_refusal(what, whom, name(item), why);
        }
    }

    /// Each item with what became of it.
    fn into_results(self) -> impl Iterator<Item = (Item, Result<CatalogAnswer, Failure>)> {
        let items = self.items.into_iter();
        items.map(|(item, result)| (item, result.expect("answered when taken")))
    }
}

/// A setting's value as the catalog shall judge it. Whoever asks for more replicas than there are
/// asks that several be in sync: where one is taken for all, it is here too.
fn clamped<'a>(config: &KafkaConfig, name: &str, value: &'a str) -> &'a str {
    let is_clamped = config.replication_factor_clamp && name == "min.insync.replicas";
    match value.trim().parse::<i32>() {
        Ok(1..) if is_clamped => "1",
        _ => value,
    }
}

/// Kafka's numbers of what settings belong to.
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
const RESOURCE_BROKER_LOGGER: i8 = 8;
const RESOURCE_CLIENT_METRICS: i8 = 16;
const RESOURCE_GROUP: i8 = 32;

/// Kafka's number of a setting's source.
fn source_code(source: SettingSource) -> i8 {
    match source {
        SettingSource::Topic => 1,
        SettingSource::Broker => 4,
        SettingSource::BuiltIn => 5,
    }
}

/// The partition of that name, if the client's idea of its leader epoch is right. -1 is none.
fn partition_of(
    catalog: &Catalog,
    topic: &str,
    index: i32,
    leader_epoch: i32,
) -> Result<PartitionId, ErrorCode> {
    let index = usize::try_from(index).map_err(|_| ErrorCode::UnknownTopicOrPartition)?;
    let home = catalog
        .topic(topic)
        .and_then(|topic| topic.partitions.get(index));
    let home = home.ok_or(ErrorCode::UnknownTopicOrPartition)?;
    match leader_epoch.cmp(&home.leader_epoch.0) {
        _ if leader_epoch < 0 => Ok(home.id),
        Ordering::Less => Err(ErrorCode::FencedLeaderEpoch),
        Ordering::Equal => Ok(home.id),
        Ordering::Greater => Err(ErrorCode::UnknownLeaderEpoch),
    }
}

/// Text as the message crate wants it.
fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

/// A topic's name as the message crate wants it.
fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

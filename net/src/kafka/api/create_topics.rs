//! CreateTopics, versions 2 to 7.

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse, TopicName};
use kafka_protocol::protocol::Encodable;
use millrace_engine::catalog::config::describe;
use millrace_engine::command::{CatalogRequest, Command, NewTopic};
use millrace_engine::event::{CatalogAnswer, Outcome, Refusal};
use millrace_storage::units::ShardId;

use super::{Call, Handled, Items, Reply, ReplyTo, Work, clamped, decode, source_code, text};
use crate::kafka::cluster;
use crate::kafka::config::KafkaConfig;
use crate::kafka::errors::{ErrorCode, Failure};
use crate::kafka::frame::Request;
use crate::session::{CommandSink, ProtocolViolation};

/// First version whose answer tells a topic's settings.
const VERSION_SETTINGS_MIN: i16 = 5;
/// What clients write for "the broker's default".
const DEFAULT: i32 = -1;
/// Topics that Kafka's brokers keep for themselves. Here they would be empty for ever, and programs
/// that read them would take that for the truth.
const KAFKAS_OWN: [&str; 4] = [
    "__cluster_metadata",
    "__consumer_offsets",
    "__share_group_state",
    "__transaction_state",
];

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: CreateTopicsRequest = decode(call, request)?;
    let judged = body.topics.into_iter().map(|asked| {
        let name = asked.name.clone();
        (name, judge(call.config, call.sink, asked))
    });
    let (items, topics) = Items::judged(judged);
    let reply_to = ReplyTo::new(call.config, request);
    let pending = Pending { reply_to, items };
    if topics.is_empty() {
        return pending.finish(call).map(Handled::Reply);
    }
    let create = CatalogRequest::CreateTopics {
        topics,
        validate_only: body.validate_only,
    };
    call.submit(0, Command::WriteCatalog(create));
    Ok(Handled::Wait(Work::CreateTopics(pending)))
}

/// Whether it is the name of a topic that Kafka's brokers make and fill themselves.
pub(super) fn is_kafkas_own(name: &str) -> bool {
    KAFKAS_OWN.contains(&name)
}

/// Judges what only Kafka has: its own topics, replicas and where they are placed.
fn judge(
    config: &KafkaConfig,
    sink: &dyn CommandSink,
    asked: CreatableTopic,
) -> Result<NewTopic, Failure> {
    if is_kafkas_own(&asked.name) {
        let words = format!(
            "{} is one of Kafka's own topics; this broker has none",
            asked.name.as_str()
        );
        return Err(Failure::new(ErrorCode::InvalidTopic, words));
    }
    let (partitions, homes) = if asked.assignments.is_empty() {
        check_replication(config, asked.replication_factor)?;
        (counted_partitions(asked.num_partitions)?, Vec::new())
    } else {
        let (count, homes) = assigned_partitions(sink, &asked)?;
        (Some(count), homes)
    };
    let settings = asked.configs.into_iter();
    let settings = settings.map(|setting| {
        let value = setting.value;
        let value = value.map(|value| clamped(config, &setting.name, &value).to_owned());
        (setting.name.to_string(), value)
    });
    Ok(NewTopic {
        name: asked.name.to_string(),
        partitions,
        homes,
        config: settings.collect(),
    })
}

/// `None`: the broker's default.
fn counted_partitions(count: i32) -> Result<Option<u32>, Failure> {
    match u32::try_from(count) {
        _ if count == DEFAULT => Ok(None),
        Ok(count @ 1..) => Ok(Some(count)),
        _ => {
            let words = format!("{count} partitions cannot be created");
            Err(Failure::new(ErrorCode::InvalidPartitions, words))
        }
    }
}

fn check_replication(config: &KafkaConfig, factor: i16) -> Result<(), Failure> {
    let is_served = i32::from(factor) == DEFAULT || factor == 1;
    if is_served || (factor > 1 && config.replication_factor_clamp) {
        return Ok(());
    }
    let words = format!("replication factor {factor}: this broker is the only one, use 1 or -1");
    Err(Failure::new(ErrorCode::InvalidReplicationFactor, words))
}

/// A client may place partitions by hand. Returns how many there are, and their homes.
fn assigned_partitions(
    sink: &dyn CommandSink,
    asked: &CreatableTopic,
) -> Result<(u32, Vec<ShardId>), Failure> {
    let fail = |words: &str| Failure::new(ErrorCode::InvalidReplicaAssignment, words);
    let has_counts = asked.num_partitions != DEFAULT;
    if has_counts || i32::from(asked.replication_factor) != DEFAULT {
        let words = "an assignment goes with -1 partitions and replication factor -1";
        return Err(Failure::new(ErrorCode::InvalidRequest, words));
    }
    let mut places: Vec<_> = asked.assignments.iter().collect();
    places.sort_unstable_by_key(|place| place.partition_index);
    let indexes = places.iter().map(|place| place.partition_index);
    if !indexes.eq((0..).take(places.len())) {
        return Err(fail("partitions are numbered from 0 without gaps"));
    }
    let nodes = places.iter().map(|place| place.broker_ids.as_slice());
    let homes = cluster::homes_by_hand(sink.cluster(), nodes)?;
    let count = u32::try_from(places.len()).map_err(|_| fail("too many partitions"))?;
    Ok((count, homes))
}

/// A request whose topics are being created.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    items: Items<TopicName>,
}

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        self.items.take(outcome);
    }

    pub(super) fn finish(self, call: &mut Call<'_>) -> Result<Reply, ProtocolViolation> {
        self.items.log_refused(call, "topic", |name| name.as_str());
        let version = self.reply_to.version;
        let mut left = self.reply_to.bytes_max / 2;
        let topics = self.items.into_results().map(|(name, result)| {
            let described = CreatableTopicResult::default()
                .with_name(name)
                .with_error_message(None);
            match result {
                Ok(answer) => {
                    let mut created = created(version, described, &answer);
                    if version >= VERSION_SETTINGS_MIN {
                        tell_settings(version, call.config, &mut created, &answer, &mut left);
                    }
                    created
                }
                Err(failure) => described
                    .with_error_code(failure.code.code())
                    .with_error_message(failure.message.map(text)),
            }
        });
        let response = CreateTopicsResponse::default().with_topics(topics.collect());
        self.reply_to.frame(&response)
    }
}

fn created(
    version: i16,
    mut described: CreatableTopicResult,
    answer: &CatalogAnswer,
) -> CreatableTopicResult {
    if version >= VERSION_SETTINGS_MIN {
        described.num_partitions = i32::try_from(answer.partitions).expect("bounded");
        described.replication_factor = 1;
    }
    if version >= 7 {
        described.topic_id = answer.id;
    }
    described
}

/// Tells a new topic's settings while `left` bytes of the answer are. The topic is there by now, so
/// the answer cannot be refused: the settings of the last topics of many are left out, as Kafka
/// leaves them out for clients that may not see them.
fn tell_settings(
    version: i16,
    config: &KafkaConfig,
    described: &mut CreatableTopicResult,
    answer: &CatalogAnswer,
    left: &mut usize,
) {
    let settings = describe(&answer.overrides, &config.topic_defaults);
    let settings = settings.map(|setting| {
        CreatableTopicConfigs::default()
            .with_name(text(setting.name))
            .with_read_only(setting.read_only())
            .with_config_source(source_code(setting.source))
            .with_value(Some(text(setting.value)))
    });
    let settings: Vec<CreatableTopicConfigs> = settings.collect();
    let sizes = settings.iter().map(|setting| {
        setting
            .compute_size(version)
            .expect("every field set exists in its version")
    });
    match left.checked_sub(sizes.sum()) {
        Some(rest) => {
            *left = rest;
            described.configs = Some(settings);
        }
        None => {
            *left = 0;
            described.topic_config_error_code = ErrorCode::PolicyViolation.code();
            described.configs = Some(Vec::new());
        }
    }
}

//! The limits and choices of the Kafka room. Each has a name, a unit and a default.

use std::net::SocketAddr;

use millrace_engine::catalog::config::TopicDefaults;
use millrace_engine::catalog::settings::SettingType;

/// How Kafka clients are served. One for the whole process, shared by every session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaConfig {
    /// Largest request, bytes: only Produce may reach it. Kafka's `socket.request.max.bytes`.
    pub request_bytes_max: usize,
    /// Largest request other than Produce, bytes.
    pub control_request_bytes_max: usize,
    /// Largest first request of a connection other than Produce and Fetch, bytes.
    pub first_request_bytes_max: usize,
    /// Array items and tagged fields of one request, all together.
    pub request_items_max: usize,
    /// Requests of one connection whose replies are not sent yet.
    pub pipeline_requests_max: usize,
    /// Commands that the shard has not answered yet, of one connection; the last request taken
    /// may go past it.
    pub pipeline_commands_max: usize,
    /// Bytes of one connection's replies that wait to be sent, past which no request is taken; the
    /// last reply may go past it.
    pub pipeline_reply_bytes_max: usize,
    /// Bytes of one reply other than a fetch's: what would be longer is not made.
    pub reply_bytes_max: usize,
    /// Record bytes of one fetch, whatever the client asks for. Kafka's `fetch.max.bytes`.
    pub fetch_bytes_max: usize,
    /// Longest wait of a fetch, milliseconds, whatever the client asks for.
    pub fetch_wait_ms_max: u64,
    /// Partitions of one fetch or fetch session.
    pub fetch_partitions_max: usize,
    /// Whether asking for a topic's metadata may create it. Kafka's `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// Topics in all past which nothing is created by asking for it.
    pub auto_create_topics_max: usize,
    /// Take any replication factor and any `min.insync.replicas` as 1, instead of refusing what
    /// one broker cannot do.
    pub replication_factor_clamp: bool,
    /// The one directory with everything in it, as an absolute path.
    pub data_directory: String,
    /// The broker's defaults for topics, as the shards have them.
    pub topic_defaults: TopicDefaults,
    /// What DescribeConfigs says of a broker.
    pub broker_settings: Vec<BrokerSetting>,
}

/// One setting of the broker as Kafka's tools show it: read-only, from the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSetting {
    /// Kafka's name, as `num.partitions`.
    pub name: &'static str,
    /// Its type.
    pub kind: SettingType,
    /// What it does.
    pub doc: String,
    /// The value in force.
    pub value: BrokerValue,
    /// What it would be otherwise, if the configuration sets it.
    pub default: Option<BrokerValue>,
}

/// A value of a broker's setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerValue {
    /// Of all nodes.
    Same(String),
    /// The node's id.
    NodeId,
    /// The address that the node listens on: that of node 1, of node 2 and so on.
    Listeners(Vec<SocketAddr>),
    /// The address that clients are told.
    Advertised,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            request_bytes_max: 100 << 20,
            control_request_bytes_max: 4 << 20,
            first_request_bytes_max: 64 << 10,
            request_items_max: 50_000,
            pipeline_requests_max: 64,
            pipeline_commands_max: 4096,
            pipeline_reply_bytes_max: 1 << 20,
            reply_bytes_max: 64 << 20,
            fetch_bytes_max: 55 << 20,
            fetch_wait_ms_max: 60_000,
            fetch_partitions_max: 20_000,
            auto_create_topics: true,
            auto_create_topics_max: 1000,
            replication_factor_clamp: false,
            data_directory: String::new(),
            topic_defaults: TopicDefaults::default(),
            broker_settings: Vec::new(),
        }
    }
}

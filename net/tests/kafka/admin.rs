//! Metadata, topics, settings and the cluster's view.

use std::net::SocketAddr;

use kafka_protocol::messages::alter_configs_request;
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    AlterConfigsRequest, BrokerId, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest,
    IncrementalAlterConfigsRequest, MetadataRequest, MetadataResponse,
};
use kafka_protocol::protocol::StrBytes;
use millrace_engine::catalog::change::Operation;
use millrace_engine::catalog::config::TopicOverrides;
use millrace_engine::catalog::settings::SettingType;
use millrace_net::kafka::{BrokerSetting, BrokerValue, KafkaConfig};
use millrace_net::session::{ProtocolSession, Refused};
use uuid::Uuid;

use crate::broker::Broker;
use crate::client::{Connection, frame, text, topic};

fn named(name: &'static str) -> MetadataRequestTopic {
    MetadataRequestTopic::default().with_name(Some(topic(name)))
}

/// Asks for topics, without creating them where the version can say so.
fn metadata(version: i16, topics: Option<Vec<MetadataRequestTopic>>) -> MetadataRequest {
    MetadataRequest::default()
        .with_topics(topics)
        .with_allow_auto_topic_creation(version < 4)
}

fn without_creation() -> KafkaConfig {
    KafkaConfig {
        auto_create_topics: false,
        ..KafkaConfig::default()
    }
}

fn codes(response: &MetadataResponse) -> Vec<i16> {
    response
        .topics
        .iter()
        .map(|topic| topic.error_code)
        .collect()
}

#[test]
fn every_version_of_metadata_tells_nodes_and_leaders() {
    for version in 0..=13 {
        let mut broker = Broker::new();
        let id = broker.add_topic("a", 2);
        let mut connection = Connection::with_config(broker, without_creation());
        let topics = vec![named("a"), named("b"), named("no/t")];
        let response = connection.ask(version, &metadata(version, Some(topics)));
        assert_eq!(codes(&response), [0, 3, 17]);
        let [node] = response.brokers.as_slice() else {
            panic!("one node");
        };
        // The address that the client came by, as a v4 client knows it.
        assert_eq!(
            (node.node_id.0, node.host.as_str(), node.port),
            (1, "127.0.0.9", 9092)
        );
        let controller = if version >= 1 { 1 } else { -1 };
        assert_eq!(response.controller_id.0, controller);
        assert_eq!(response.cluster_id.is_some(), version >= 2);
        let described = &response.topics[0];
        assert_eq!(described.name, Some(topic("a")));
        assert_eq!(
            described.topic_id,
            if version >= 10 { id } else { Uuid::nil() }
        );
        for (index, partition) in (0..).zip(&described.partitions) {
            assert_eq!(
                (partition.partition_index, partition.error_code),
                (index, 0)
            );
            assert_eq!(partition.leader_id.0, 1);
            assert_eq!(partition.leader_epoch, if version >= 7 { 0 } else { -1 });
            assert_eq!(partition.replica_nodes, [BrokerId(1)]);
            assert_eq!(partition.isr_nodes, [BrokerId(1)]);
            assert!(partition.offline_replicas.is_empty());
        }
        assert_eq!(described.partitions.len(), 2);
        assert_eq!(described.topic_authorized_operations, i32::MIN);
    }
}

#[test]
fn all_topics_are_asked_for_by_null_and_once_by_an_empty_list() {
    for version in 0..=13 {
        let mut broker = Broker::new();
        broker.add_topic("b", 1);
        broker.add_topic("a", 1);
        let mut connection = Connection::new(broker);
        let none = connection.ask(version, &metadata(version, Some(vec![])));
        assert_eq!(none.topics.len(), if version == 0 { 2 } else { 0 });
        if version >= 1 {
            let all = connection.ask(version, &metadata(version, None));
            let names: Vec<_> = all.topics.iter().map(|topic| topic.name.clone()).collect();
            assert_eq!(names, [Some(topic("a")), Some(topic("b"))]);
        }
    }
}

#[test]
fn topics_are_found_by_id_from_version_12_on() {
    for version in 10..=13 {
        let mut broker = Broker::new();
        let id = broker.add_topic("a", 1);
        let mut connection = Connection::new(broker);
        let by_id = |id| {
            MetadataRequestTopic::default()
                .with_topic_id(id)
                .with_name(None)
        };
        if version < 12 {
            continue;
        }
        let topics = Some(vec![by_id(id), by_id(Uuid::from_u128(5))]);
        let response = connection.ask(version, &metadata(version, topics));
        assert_eq!(codes(&response), [0, 100]);
        assert_eq!(response.topics[0].name, Some(topic("a")));
        assert_eq!(response.topics[1].name, None);
        assert_eq!(response.topics[1].topic_id, Uuid::from_u128(5));
    }
}

#[test]
fn asking_for_a_topic_creates_it_before_the_answer() {
    for version in 0..=13 {
        let mut connection = Connection::new(Broker::new());
        let topics = vec![named("new"), named("new"), named("no/t")];
        let request = MetadataRequest::default().with_topics(Some(topics));
        connection.send(version, &request);
        assert!(
            !connection.session.wants_input(),
            "what follows must see the topic"
        );
        connection.settle();
        assert!(connection.session.wants_input());
        connection.output();
        let again = MetadataRequest::default().with_topics(Some(vec![named("new")]));
        let response = connection.ask(version, &again);
        assert_eq!(codes(&response), [0]);
        assert_eq!(response.topics[0].partitions.len(), 3);
        assert_eq!(connection.broker.seen, ["write catalog"]);
    }
}

/// A program that reads one of these would find it empty, and believe it.
#[test]
fn kafkas_own_topics_are_never_created() {
    for name in ["__consumer_offsets", "__transaction_state"] {
        let mut connection = Connection::new(Broker::new());
        let request = MetadataRequest::default().with_topics(Some(vec![named(name)]));
        assert_eq!(codes(&connection.ask(9, &request)), [3]);
        let topics = vec![creatable(name, 1, 1), creatable("__mine", 1, 1)];
        let request = CreateTopicsRequest::default().with_topics(topics);
        let response = connection.ask(7, &request);
        assert_eq!(response.topics[0].error_code, 17);
        let words = response.topics[0].error_message.as_deref();
        assert!(words.is_some_and(|words| words.contains("this broker has none")));
        assert_eq!(response.topics[1].error_code, 0);
        assert_eq!(connection.broker.catalog.topic_count(), 1);
    }
}

#[test]
fn creation_by_asking_obeys_the_request_the_switch_and_the_limit() {
    let ask = |config: KafkaConfig, allow: bool| {
        let mut broker = Broker::new();
        broker.add_topic("there", 1);
        let mut connection = Connection::with_config(broker, config);
        let topics = Some(vec![named("b"), named("a"), named("there")]);
        let request = MetadataRequest::default()
            .with_topics(topics)
            .with_allow_auto_topic_creation(allow);
        let codes = codes(&connection.ask(9, &request));
        let refusals = connection.broker.refusals;
        assert!(refusals.iter().all(|what| *what == Refused::Creation));
        (codes, refusals.len())
    };
    assert_eq!(ask(KafkaConfig::default(), true), (vec![0, 0, 0], 0));
    assert_eq!(ask(KafkaConfig::default(), false), (vec![3, 3, 0], 0));
    assert_eq!(ask(without_creation(), true), (vec![3, 3, 0], 0));
    for (max, expected) in [
        (3, (vec![0, 0, 0], 0)),
        (2, (vec![3, 0, 0], 1)),
        (1, (vec![3, 3, 0], 1)),
        (0, (vec![3, 3, 0], 1)),
    ] {
        let limited = KafkaConfig {
            auto_create_topics_max: max,
            ..KafkaConfig::default()
        };
        assert_eq!(ask(limited, true), expected, "limit {max}");
    }
}

#[test]
fn in_node_mode_leaders_are_the_nodes_of_the_home_shards() {
    let mut broker = Broker::with_two_nodes();
    broker.add_topic("a", 3);
    let mut connection = Connection::new(broker);
    let response = connection.ask(9, &metadata(9, None));
    let nodes: Vec<_> = response
        .brokers
        .iter()
        .map(|node| (node.node_id.0, node.host.as_str(), node.port))
        .collect();
    assert_eq!(nodes, [(1, "127.0.0.9", 9092), (2, "second.example", 9093)]);
    let partitions = response.topics[0].partitions.iter();
    let leaders: Vec<i32> = partitions.map(|partition| partition.leader_id.0).collect();
    assert_eq!(leaders, [1, 2, 1]);
    assert_eq!(response.controller_id.0, 1);
}

#[test]
fn operations_are_told_to_those_who_ask() {
    for version in 8..=13 {
        let mut broker = Broker::new();
        broker.add_topic("a", 1);
        let mut connection = Connection::new(broker);
        let mut request = metadata(version, None).with_include_topic_authorized_operations(true);
        request.include_cluster_authorized_operations = version <= 10;
        let response = connection.ask(version, &request);
        assert_eq!(response.topics[0].topic_authorized_operations, 3576);
        let cluster = if version <= 10 { 8096 } else { i32::MIN };
        assert_eq!(response.cluster_authorized_operations, cluster);
    }
}

fn creatable(name: &'static str, partitions: i32, replicas: i16) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(topic(name))
        .with_num_partitions(partitions)
        .with_replication_factor(replicas)
}

#[test]
fn topics_are_created_or_refused_one_by_one() {
    for version in 2..=7 {
        let mut broker = Broker::new();
        broker.add_topic("there", 1);
        let mut connection = Connection::new(broker);
        let bad_setting = CreatableTopicConfig::default()
            .with_name(text("retention.ms"))
            .with_value(Some(text("soon")));
        let topics = vec![
            creatable("a", 2, 1),
            creatable("b", -1, -1),
            creatable("there", 1, 1),
            creatable("c", 1, 3),
            creatable("d", 0, 1),
            creatable("e", -7, 1),
            creatable("..", 1, 1),
            creatable("f", 1, 1).with_configs(vec![bad_setting]),
        ];
        let request = CreateTopicsRequest::default().with_topics(topics);
        let response = connection.ask(version, &request);
        let answers = response.topics.iter();
        let codes: Vec<i16> = answers.map(|topic| topic.error_code).collect();
        assert_eq!(codes, [0, 0, 36, 38, 37, 37, 17, 40]);
        // Clients show little more than the code: the log tells why.
        let told = [Refused::Placement, Refused::Setting];
        assert_eq!(connection.broker.refusals, told);
        assert_eq!(response.topics[0].error_message, None);
        assert!(response.topics[3].error_message.is_some());
        let created = &response.topics[0];
        if version >= 5 {
            assert_eq!((created.num_partitions, created.replication_factor), (2, 1));
            let settings = created.configs.as_ref().expect("settings");
            assert!(
                settings
                    .iter()
                    .any(|setting| setting.name == text("retention.ms"))
            );
        }
        assert_eq!(created.topic_id.is_nil(), version < 7);
        assert_eq!(connection.broker.catalog.topic_count(), 3);
    }
}

#[test]
fn a_replication_factor_can_be_clamped_by_choice() {
    let config = KafkaConfig {
        replication_factor_clamp: true,
        ..KafkaConfig::default()
    };
    let mut connection = Connection::with_config(Broker::new(), config);
    let topics = vec![
        creatable("a", 1, 3),
        creatable("b", 1, 0),
        creatable("c", 1, -2),
    ];
    let response = connection.ask(7, &CreateTopicsRequest::default().with_topics(topics));
    let codes: Vec<i16> = response
        .topics
        .iter()
        .map(|topic| topic.error_code)
        .collect();
    assert_eq!(codes, [0, 38, 38]);
    assert_eq!(response.topics[0].replication_factor, 1);
}

/// Whoever asks for three replicas asks that two be in sync.
#[test]
fn replicas_in_sync_are_clamped_with_the_replication_factor() {
    const NAME: &str = "min.insync.replicas";
    let ask = |replication_factor_clamp: bool, value: &'static str| {
        let config = KafkaConfig {
            replication_factor_clamp,
            ..KafkaConfig::default()
        };
        let mut broker = Broker::new();
        broker.add_topic("there", 1);
        let mut connection = Connection::with_config(broker, config);
        let setting = CreatableTopicConfig::default()
            .with_name(text(NAME))
            .with_value(Some(text(value)));
        let topics = vec![creatable("made", 1, -1).with_configs(vec![setting])];
        let request = CreateTopicsRequest::default().with_topics(topics);
        let made = connection.ask(7, &request).topics[0].error_code;
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text("there"))
            .with_configs(vec![alteration(NAME, 0, Some(value))]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let changed = connection.ask(1, &request).responses[0].error_code;
        let setting = alter_configs_request::AlterableConfig::default()
            .with_name(text(NAME))
            .with_value(Some(text(value)));
        let resource = alter_configs_request::AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text("there"))
            .with_configs(vec![setting]);
        let request = AlterConfigsRequest::default().with_resources(vec![resource]);
        let replaced = connection.ask(2, &request).responses[0].error_code;
        let topic = connection.broker.catalog.topic("there").expect("there");
        let kept = topic.overrides.get(NAME).map(ToOwned::to_owned);
        ([made, changed, replaced], kept)
    };
    assert_eq!(ask(true, "2"), ([0, 0, 0], Some("1".to_owned())));
    assert_eq!(ask(true, "0"), ([40, 40, 40], None));
    assert_eq!(ask(false, "2"), ([40, 40, 40], None));
}

#[test]
fn partitions_are_placed_by_hand_on_one_node_each() {
    let at = |index: i32, nodes: &[i32]| {
        CreatableReplicaAssignment::default()
            .with_partition_index(index)
            .with_broker_ids(nodes.iter().copied().map(BrokerId).collect())
    };
    let ask = |broker: Broker, assignments: Vec<CreatableReplicaAssignment>| {
        let topic = creatable("a", -1, -1).with_assignments(assignments);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]);
        let mut connection = Connection::new(broker);
        let response = connection.ask(7, &request);
        let code = response.topics[0].error_code;
        (code, homes(&connection.broker, "a"))
    };
    let nowhere = || (39, vec![]);
    // One node fronts every shard: which one it is, is for the broker to say.
    let chosen = vec![at(1, &[1]), at(0, &[1])];
    assert_eq!(ask(Broker::new(), chosen), (0, vec![0, 1]));
    assert_eq!(ask(Broker::new(), vec![at(0, &[2])]), nowhere());
    let chosen = vec![at(1, &[1]), at(0, &[2]), at(2, &[2])];
    assert_eq!(ask(Broker::with_two_nodes(), chosen), (0, vec![1, 0, 1]));
    for broker in [Broker::new, Broker::with_two_nodes] {
        assert_eq!(ask(broker(), vec![at(0, &[1]), at(2, &[1])]), nowhere());
        assert_eq!(ask(broker(), vec![at(0, &[3])]), nowhere());
        assert_eq!(ask(broker(), vec![at(0, &[1, 2])]), nowhere());
        assert_eq!(ask(broker(), vec![at(0, &[])]), nowhere());
    }
}

#[test]
fn new_partitions_are_placed_by_hand_too() {
    let grow = |count, nodes: &[&[i32]]| {
        let places = nodes.iter().map(|nodes| {
            let ids = nodes.iter().copied().map(BrokerId);
            CreatePartitionsAssignment::default().with_broker_ids(ids.collect())
        });
        CreatePartitionsTopic::default()
            .with_name(topic("a"))
            .with_count(count)
            .with_assignments(Some(places.collect()))
    };
    let mut broker = Broker::with_two_nodes();
    broker.add_topic("a", 2);
    let mut connection = Connection::new(broker);
    let mut ask = |growth| {
        let request = CreatePartitionsRequest::default().with_topics(vec![growth]);
        let response = connection.ask(3, &request);
        let code = response.results[0].error_code;
        (code, homes(&connection.broker, "a"))
    };
    for refused in [grow(4, &[&[1]]), grow(3, &[&[1, 2]]), grow(3, &[&[3]])] {
        assert_eq!(ask(refused), (39, vec![0, 1]));
    }
    assert_eq!(ask(grow(4, &[&[2], &[1]])), (0, vec![0, 1, 1, 0]));
}

/// Homes of a topic's partitions; none, if it is not there.
fn homes(broker: &Broker, name: &str) -> Vec<u16> {
    let topic = broker.catalog.topic(name);
    let partitions = topic.into_iter().flat_map(|topic| &topic.partitions);
    partitions.map(|partition| partition.home.0).collect()
}

#[test]
fn topics_are_deleted_by_name_and_by_id() {
    for version in 1..=6 {
        let mut broker = Broker::new();
        broker.add_topic("a", 1);
        let id = broker.add_topic("b", 1);
        let mut connection = Connection::new(broker);
        let mut request = DeleteTopicsRequest::default();
        let state = DeleteTopicState::default;
        if version >= 6 {
            request.topics = vec![
                state().with_name(Some(topic("a"))),
                state().with_name(Some(topic("nowhere"))),
                state().with_name(None).with_topic_id(id),
                state().with_name(None).with_topic_id(Uuid::from_u128(5)),
                state().with_name(None),
            ];
        } else {
            request.topic_names = vec![topic("a"), topic("nowhere"), topic("b")];
        }
        let response = connection.ask(version, &request);
        let answers = response.responses.iter();
        let codes: Vec<i16> = answers.map(|answer| answer.error_code).collect();
        let expected: &[i16] = if version >= 6 {
            &[0, 3, 0, 100, 42]
        } else {
            &[0, 3, 0]
        };
        assert_eq!(codes, expected);
        if version >= 6 {
            assert_eq!(response.responses[2].name, Some(topic("b")));
        }
        assert_eq!(connection.broker.catalog.topic_count(), 0);
    }
}

#[test]
fn topics_grow_and_never_shrink() {
    for version in 0..=3 {
        let mut broker = Broker::new();
        broker.add_topic("a", 2);
        let mut connection = Connection::new(broker);
        let grow = |name, count| {
            CreatePartitionsTopic::default()
                .with_name(topic(name))
                .with_count(count)
                .with_assignments(None)
        };
        let topics = vec![grow("a", 3), grow("a", 1), grow("b", 2), grow("a", -1)];
        let request = CreatePartitionsRequest::default().with_topics(topics);
        let response = connection.ask(version, &request);
        let results = response.results.iter();
        let codes: Vec<i16> = results.map(|result| result.error_code).collect();
        assert_eq!(codes, [0, 37, 3, 37]);
        let topic = connection.broker.catalog.topic("a").expect("there");
        assert_eq!(topic.partitions.len(), 3);
    }
}

fn broker_settings() -> Vec<BrokerSetting> {
    let same = |value: &str| BrokerValue::Same(value.to_owned());
    let listeners = vec![SocketAddr::from(([127, 0, 0, 9], 4_321))];
    let settings = [
        ("num.partitions", same("3"), Some(same("1"))),
        ("compression.type", same("producer"), None),
        ("broker.id", BrokerValue::NodeId, None),
        ("advertised.listeners", BrokerValue::Advertised, None),
        (
            "listeners",
            BrokerValue::Listeners(listeners),
            Some(same("")),
        ),
    ];
    let setting = |(name, value, default)| BrokerSetting {
        name,
        kind: SettingType::Int,
        doc: format!("what {name} is for"),
        value,
        default,
    };
    settings.map(setting).to_vec()
}

fn alteration(name: &'static str, operation: i8, value: Option<&'static str>) -> AlterableConfig {
    AlterableConfig::default()
        .with_name(text(name))
        .with_config_operation(operation)
        .with_value(value.map(text))
}

#[test]
fn settings_are_altered_and_described() {
    for version in 0..=1 {
        let mut broker = Broker::new();
        broker.add_topic("a", 1);
        let mut connection = Connection::new(broker);
        let resource = |kind, name, configs| {
            AlterConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configs(configs)
        };
        let set = || vec![alteration("retention.ms", 0, Some("5000"))];
        let resources = vec![
            resource(2, "a", set()),
            resource(2, "b", set()),
            resource(4, "1", set()),
            resource(9, "x", set()),
            resource(2, "a", vec![alteration("retention.ms", 0, None)]),
            resource(2, "a", vec![alteration("retention.ms", 7, Some("1"))]),
            resource(2, "a", vec![alteration("no.such.setting", 0, Some("1"))]),
            resource(
                2,
                "a",
                vec![alteration("cleanup.policy", 2, Some("delete"))],
            ),
            resource(2, "a", [set(), set()].concat()),
            resource(2, "a", vec![alteration("no.such.setting", 1, None)]),
        ];
        let request = IncrementalAlterConfigsRequest::default().with_resources(resources);
        let response = connection.ask(version, &request);
        let answers = response.responses.iter();
        let codes: Vec<i16> = answers.map(|answer| answer.error_code).collect();
        assert_eq!(codes, [0, 3, 40, 42, 42, 42, 40, 0, 42, 0]);
        assert_eq!(connection.broker.refusals, [Refused::Setting; 2]);
        assert_eq!(response.responses[0].error_message, None);
        let topic = connection.broker.catalog.topic("a").expect("there");
        assert_eq!(topic.overrides.get("retention.ms"), Some("5000"));
        let reset = vec![resource(2, "a", vec![alteration("retention.ms", 1, None)])];
        let request = IncrementalAlterConfigsRequest::default().with_resources(reset);
        assert_eq!(connection.ask(version, &request).responses[0].error_code, 0);
    }
}

#[test]
fn the_old_way_to_alter_settings_replaces_them_all() {
    for version in 0..=2 {
        let mut broker = Broker::new();
        broker.add_topic("a", 1);
        let mut connection = Connection::new(broker);
        let resource = |kind, name, settings: &[(&'static str, Option<&'static str>)]| {
            let setting = |(name, value): &(&'static str, Option<&'static str>)| {
                alter_configs_request::AlterableConfig::default()
                    .with_name(text(name))
                    .with_value(value.map(text))
            };
            alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configs(settings.iter().map(setting).collect())
        };
        let both = [
            ("retention.ms", Some("5000")),
            ("segment.bytes", Some("1048576")),
        ];
        let resources = vec![
            resource(2, "a", &both),
            resource(2, "b", &both),
            resource(4, "1", &both),
            resource(9, "x", &both),
            resource(2, "a", &[("retention.ms", None)]),
            resource(2, "a", &[("no.such.setting", Some("1"))]),
            resource(2, "a", &[both[0], both[0]]),
        ];
        let request = AlterConfigsRequest::default().with_resources(resources);
        let response = connection.ask(version, &request);
        let answers = response.responses.iter();
        let codes: Vec<i16> = answers.map(|answer| answer.error_code).collect();
        assert_eq!(codes, [0, 3, 40, 42, 42, 40, 42]);
        assert_eq!(connection.broker.refusals, [Refused::Setting; 2]);
        let own = |connection: &Connection| -> Vec<(&str, String)> {
            let topic = connection.broker.catalog.topic("a").expect("there");
            let own = topic.overrides.iter();
            own.map(|(name, value)| (name, value.to_owned())).collect()
        };
        assert_eq!(own(&connection).len(), 2);
        let one = vec![resource(2, "a", &[("retention.ms", Some("7000"))])];
        let request = AlterConfigsRequest::default().with_resources(one);
        assert_eq!(connection.ask(version, &request).responses[0].error_code, 0);
        assert_eq!(own(&connection), [("retention.ms", "7000".to_owned())]);
    }
}

#[test]
fn settings_of_topics_and_brokers_are_described() {
    for version in 1..=4 {
        let mut broker = Broker::new();
        broker.add_topic("a", 1);
        let id = broker.add_topic("b", 1);
        let own = [("retention.ms", Some("5000")), ("segment.ms", Some("7"))];
        let overrides = TopicOverrides::parse(own).expect("good");
        broker.apply(vec![Operation::TopicConfigured { id, overrides }]);
        let mut config = KafkaConfig {
            broker_settings: broker_settings(),
            ..KafkaConfig::default()
        };
        config.topic_defaults.retention_ms = Some(6000);
        let mut connection = Connection::with_config(broker, config);
        let resource = |kind, name: &'static str, keys: Option<Vec<StrBytes>>| {
            DescribeConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configuration_keys(keys)
        };
        let mut request = DescribeConfigsRequest::default().with_include_synonyms(true);
        request.include_documentation = version >= 3;
        request.resources = vec![
            resource(2, "a", None),
            resource(2, "a", Some(vec![text("retention.ms")])),
            resource(2, "nowhere", None),
            resource(2, "no/t", None),
            resource(4, "1", None),
            resource(4, "", None),
            resource(4, "2", None),
            resource(32, "group", None),
            resource(8, "1", None),
            resource(16, "subscription", None),
            resource(16, "", None),
            resource(2, "b", Some(vec![])),
        ];
        let response = connection.ask(version, &request);
        let results = &response.results;
        let codes: Vec<i16> = results.iter().map(|result| result.error_code).collect();
        assert_eq!(codes, [0, 0, 3, 17, 0, 0, 42, 42, 42, 0, 42, 0]);
        assert!(results[0].configs.len() > 20);
        assert_eq!(
            results[5].configs.len(),
            0,
            "nothing is set for all brokers"
        );
        assert_eq!(results[9].configs.len(), 0);
        check_own_settings(&results[11]);
        let [retention] = results[1].configs.as_slice() else {
            panic!("one setting was asked for");
        };
        assert_eq!(retention.value, Some(text("6000")));
        assert_eq!((retention.config_source, retention.read_only), (4, false));
        assert_eq!(retention.synonyms.len(), 2);
        assert_eq!(retention.config_type, if version >= 3 { 5 } else { 0 });
        let documentation = retention.documentation.as_ref().expect("a text");
        assert_eq!(documentation.is_empty(), version < 3);
        check_broker_settings(version, &results[4].configs);
    }
}

fn check_broker_settings(version: i16, of_broker: &[DescribeConfigsResourceResult]) {
    let values = of_broker.iter().map(|config| config.value.as_deref());
    let address = "PLAINTEXT://127.0.0.9:9092";
    let expected = ["3", "producer", "1", address, "PLAINTEXT://127.0.0.9:4321"];
    assert!(values.eq(expected.map(Some)), "{of_broker:?}");
    assert!(of_broker.iter().all(|config| config.read_only));
    let sources: Vec<i8> = of_broker
        .iter()
        .map(|config| config.config_source)
        .collect();
    assert_eq!(sources, [4, 5, 5, 5, 4]);
    let [set, default] = of_broker[0].synonyms.as_slice() else {
        panic!("the value that was set, and the one behind it");
    };
    assert_eq!((set.source, default.source), (4, 5));
    assert_eq!(default.value, Some(text("1")));
    let doc = of_broker[0].documentation.as_deref();
    let told = if version >= 3 {
        "what num.partitions is for"
    } else {
        ""
    };
    assert_eq!(doc, Some(told));
    assert_eq!(of_broker[1].synonyms.len(), 1);
    assert_eq!(of_broker[0].config_type, if version >= 3 { 3 } else { 0 });
}

/// All settings are told, each with what it would be otherwise.
fn check_own_settings(described: &DescribeConfigsResult) {
    assert!(described.configs.len() > 20, "an empty list asks for all");
    let synonyms = |name: &str| -> Vec<(String, String, i8)> {
        let mut configs = described.configs.iter();
        let found = configs.find(|config| config.name.as_str() == name);
        let synonyms = found.expect("a setting of that name").synonyms.iter();
        synonyms
            .map(|one| {
                let value = one.value.as_deref().unwrap_or_default();
                (one.name.to_string(), value.to_owned(), one.source)
            })
            .collect()
    };
    let expected = |rows: &[(&str, &str, i8)]| -> Vec<(String, String, i8)> {
        let rows = rows.iter();
        rows.map(|(name, value, source)| ((*name).to_owned(), (*value).to_owned(), *source))
            .collect()
    };
    let retention = [
        ("retention.ms", "5000", 1),
        ("log.retention.ms", "6000", 4),
        ("log.retention.ms", "604800000", 5),
    ];
    assert_eq!(synonyms("retention.ms"), expected(&retention));
    let roll = [("segment.ms", "7", 1), ("log.roll.ms", "604800000", 5)];
    assert_eq!(synonyms("segment.ms"), expected(&roll));
    let preallocate = [("log.preallocate", "false", 5)];
    assert_eq!(synonyms("preallocate"), expected(&preallocate));
}

#[test]
fn the_cluster_is_described_to_admin_clients() {
    for version in 0..=2 {
        let mut connection = Connection::new(Broker::with_two_nodes());
        let mut request = DescribeClusterRequest::default();
        request.include_cluster_authorized_operations = true;
        let response = connection.ask(version, &request);
        assert_eq!(response.error_code, 0);
        assert_eq!(response.cluster_id, text("cluster-of-these-tests"));
        assert_eq!(response.controller_id.0, 1);
        let ids: Vec<i32> = response
            .brokers
            .iter()
            .map(|node| node.broker_id.0)
            .collect();
        assert_eq!(ids, [1, 2]);
        assert_eq!(response.cluster_authorized_operations, 8096);
        for (endpoint, code) in [(2, 114), (3, 115)] {
            if version >= 1 {
                let request = DescribeClusterRequest::default().with_endpoint_type(endpoint);
                assert_eq!(connection.ask(version, &request).error_code, code);
            }
        }
    }
}

#[test]
fn what_follows_a_catalog_write_waits_for_it() {
    let mut connection = Connection::new(Broker::new());
    let create = CreateTopicsRequest::default().with_topics(vec![creatable("a", 1, 1)]);
    let describe = metadata(9, Some(vec![named("a")]));
    connection.input = [frame(7, 1, &create), frame(9, 2, &describe)].concat();
    connection.feed().expect("good requests");
    assert!(!connection.input.is_empty(), "the second request waits");
    assert!(!connection.session.wants_input());
    connection.settle();
    assert!(connection.input.is_empty());
    assert!(!connection.output().is_empty());
}

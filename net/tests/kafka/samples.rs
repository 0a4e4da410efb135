//! A good request of every API in every version, with something in every array.

pub(crate) mod admin;
pub(crate) mod groups;

use bytes::Bytes;
use kafka_protocol::messages::alter_configs_request;
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::fetch_request::{
    FetchPartition, FetchTopic, ForgottenTopic, ReplicaState,
};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    AlterConfigsRequest, ApiVersionsRequest, BrokerId, CreatePartitionsRequest,
    CreateTopicsRequest, DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest,
    FetchRequest, FindCoordinatorRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest,
    OffsetForLeaderEpochRequest, ProduceRequest,
};
use kafka_protocol::protocol::Request;
use uuid::Uuid;

use crate::broker::FIRST_TOPIC;
use crate::client::{batch, frame, frame_of_bytes, text, topic};

/// One good request.
pub(crate) struct Sample {
    /// File name in the stored corpus, without its end.
    pub(crate) api: &'static str,
    pub(crate) version: i16,
    pub(crate) frame: Vec<u8>,
}

/// All of them.
pub(crate) fn all() -> Vec<Sample> {
    let mut samples = Vec::new();
    add(&mut samples, "produce", 3..=13, |_| produce());
    add(&mut samples, "fetch", 4..=18, fetch);
    add(&mut samples, "list-offsets", 1..=11, |_| list_offsets());
    add(&mut samples, "metadata", 0..=13, metadata);
    add(&mut samples, "find-coordinator", 0..=6, find_coordinator);
    add(&mut samples, "api-versions", 0..=4, api_versions);
    add(&mut samples, "create-topics", 2..=7, |_| create_topics());
    add(&mut samples, "delete-topics", 1..=6, delete_topics);
    add(&mut samples, "init-producer-id", 0..=5, |_| {
        InitProducerIdRequest::default().with_transactional_id(None)
    });
    add(&mut samples, "offset-for-leader-epoch", 2..=4, |_| epochs());
    add(&mut samples, "describe-configs", 1..=4, |_| {
        describe_configs()
    });
    add(&mut samples, "create-partitions", 0..=3, |_| {
        create_partitions()
    });
    add(&mut samples, "incremental-alter-configs", 0..=1, |_| {
        alter_configs()
    });
    add(&mut samples, "alter-configs", 0..=2, |_| replace_configs());
    add(&mut samples, "describe-cluster", 0..=2, |_| {
        DescribeClusterRequest::default()
    });
    group_samples(&mut samples);
    admin::add_all(&mut samples);
    samples
}

fn group_samples(samples: &mut Vec<Sample>) {
    add(samples, "offset-commit", 2..=9, |_| groups::commit());
    let bytes = groups::commit_by_id();
    add_bytes::<OffsetCommitRequest>(samples, "offset-commit", 10, &bytes);
    add(samples, "offset-fetch", 1..=9, groups::fetch);
    add_bytes::<OffsetFetchRequest>(samples, "offset-fetch", 10, &groups::fetch_by_id());
    add(samples, "join-group", 0..=9, groups::join);
    add(samples, "heartbeat", 0..=4, groups::heartbeat);
    add(samples, "leave-group", 0..=5, groups::leave);
    add(samples, "sync-group", 0..=5, groups::sync);
    add(samples, "describe-groups", 0..=6, |_| groups::describe());
    add(samples, "list-groups", 0..=5, groups::list);
    add(samples, "delete-groups", 0..=2, |_| groups::delete());
    add(samples, "offset-delete", 0..=0, |_| {
        groups::delete_offsets()
    });
}

fn add<R: Request>(
    samples: &mut Vec<Sample>,
    api: &'static str,
    versions: std::ops::RangeInclusive<i16>,
    body: impl Fn(i16) -> R,
) {
    for version in versions {
        samples.push(Sample {
            api,
            version,
            frame: frame(version, 0x0102_0304, &body(version)),
        });
    }
}

/// As `add`, of a version that the message crate does not encode.
fn add_bytes<R: Request>(samples: &mut Vec<Sample>, api: &'static str, version: i16, body: &[u8]) {
    samples.push(Sample {
        api,
        version,
        frame: frame_of_bytes::<R>(version, 0x0102_0304, body),
    });
}

fn produce() -> ProduceRequest {
    let data = |index, records| {
        PartitionProduceData::default()
            .with_index(index)
            .with_records(records)
    };
    let first = TopicProduceData::default()
        .with_name(topic("a"))
        .with_topic_id(FIRST_TOPIC)
        .with_partition_data(vec![data(0, Some(batch(2, 0))), data(1, None)]);
    let second = TopicProduceData::default()
        .with_name(topic("b"))
        .with_topic_id(Uuid::from_u128(77))
        .with_partition_data(vec![data(0, Some(Bytes::from_static(b"no batch")))]);
    ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(1000)
        .with_topic_data(vec![first, second])
}

fn fetch(version: i16) -> FetchRequest {
    let partition = |index| {
        let mut partition = FetchPartition::default()
            .with_partition(index)
            .with_fetch_offset(3)
            .with_partition_max_bytes(1 << 20);
        if version >= 17 {
            partition.replica_directory_id = Uuid::from_u128(78);
        }
        if version >= 18 {
            partition.high_watermark = 2;
        }
        partition
    };
    let wanted = FetchTopic::default()
        .with_topic(topic("a"))
        .with_topic_id(FIRST_TOPIC)
        .with_partitions(vec![partition(0), partition(7)]);
    let mut request = FetchRequest::default()
        .with_max_bytes(1 << 20)
        .with_topics(vec![wanted]);
    if version >= 7 {
        let forgotten = ForgottenTopic::default()
            .with_topic(topic("b"))
            .with_topic_id(Uuid::from_u128(77))
            .with_partitions(vec![0, 1]);
        request.forgotten_topics_data = vec![forgotten];
    }
    if version >= 12 {
        request.cluster_id = Some(text("cluster"));
    }
    if version >= 15 {
        request.replica_state = ReplicaState::default().with_replica_epoch(1);
    }
    request
}

fn list_offsets() -> ListOffsetsRequest {
    let partition = |index, timestamp| {
        ListOffsetsPartition::default()
            .with_partition_index(index)
            .with_timestamp(timestamp)
    };
    let asked = ListOffsetsTopic::default()
        .with_name(topic("a"))
        .with_partitions(vec![partition(0, -1), partition(1, 1000)]);
    ListOffsetsRequest::default().with_topics(vec![asked])
}

fn metadata(version: i16) -> MetadataRequest {
    let named = |name| MetadataRequestTopic::default().with_name(Some(topic(name)));
    let mut topics = vec![named("a"), named("new")];
    if version >= 12 {
        let id = Uuid::from_u128(77);
        topics.push(
            MetadataRequestTopic::default()
                .with_name(None)
                .with_topic_id(id),
        );
    }
    MetadataRequest::default().with_topics(Some(topics))
}

fn find_coordinator(version: i16) -> FindCoordinatorRequest {
    let request = FindCoordinatorRequest::default();
    if version >= 4 {
        request.with_coordinator_keys(vec![text("group"), text("other")])
    } else {
        request.with_key(text("group"))
    }
}

fn api_versions(version: i16) -> ApiVersionsRequest {
    let request = ApiVersionsRequest::default();
    if version < 3 {
        return request;
    }
    request
        .with_client_software_name(text("sample"))
        .with_client_software_version(text("1.0"))
}

fn create_topics() -> CreateTopicsRequest {
    let setting = CreatableTopicConfig::default()
        .with_name(text("retention.ms"))
        .with_value(Some(text("1000")));
    let assignment = CreatableReplicaAssignment::default()
        .with_partition_index(0)
        .with_broker_ids(vec![BrokerId(1)]);
    let counted = CreatableTopic::default()
        .with_name(topic("new"))
        .with_num_partitions(2)
        .with_replication_factor(1)
        .with_configs(vec![setting]);
    let assigned = CreatableTopic::default()
        .with_name(topic("placed"))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(vec![assignment]);
    CreateTopicsRequest::default().with_topics(vec![counted, assigned])
}

fn delete_topics(version: i16) -> DeleteTopicsRequest {
    let request = DeleteTopicsRequest::default();
    if version < 6 {
        return request.with_topic_names(vec![topic("a"), topic("b")]);
    }
    let by_name = DeleteTopicState::default().with_name(Some(topic("a")));
    let by_id = DeleteTopicState::default()
        .with_name(None)
        .with_topic_id(Uuid::from_u128(77));
    request.with_topics(vec![by_name, by_id])
}

fn epochs() -> OffsetForLeaderEpochRequest {
    let partition = OffsetForLeaderPartition::default()
        .with_partition(0)
        .with_leader_epoch(0);
    let asked = OffsetForLeaderTopic::default()
        .with_topic(topic("a"))
        .with_partitions(vec![partition]);
    OffsetForLeaderEpochRequest::default().with_topics(vec![asked])
}

fn describe_configs() -> DescribeConfigsRequest {
    let resource = |kind, name, keys| {
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configuration_keys(keys)
    };
    let keys = Some(vec![text("retention.ms"), text("segment.bytes")]);
    let resources = vec![resource(2, "a", keys), resource(4, "1", None)];
    DescribeConfigsRequest::default().with_resources(resources)
}

fn create_partitions() -> CreatePartitionsRequest {
    let assignment = CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(1)]);
    let grown = CreatePartitionsTopic::default()
        .with_name(topic("a"))
        .with_count(3)
        .with_assignments(Some(vec![assignment]));
    CreatePartitionsRequest::default().with_topics(vec![grown])
}

fn replace_configs() -> AlterConfigsRequest {
    let setting = alter_configs_request::AlterableConfig::default()
        .with_name(text("retention.ms"))
        .with_value(Some(text("1000")));
    let resource = alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("a"))
        .with_configs(vec![setting]);
    AlterConfigsRequest::default().with_resources(vec![resource])
}

fn alter_configs() -> IncrementalAlterConfigsRequest {
    let change = AlterableConfig::default()
        .with_name(text("retention.ms"))
        .with_value(Some(text("1000")));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("a"))
        .with_configs(vec![change]);
    IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
}

//! Good requests of administrators: deletions, reports, and what is answered with a refusal.

use bytes::Bytes;
use kafka_protocol::messages::alter_client_quotas_request;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::alter_user_scram_credentials_request::{
    ScramCredentialDeletion, ScramCredentialUpsertion,
};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_topic_partitions_request::Cursor;
use kafka_protocol::messages::describe_user_scram_credentials_request::UserName;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::{
    AlterClientQuotasRequest, AlterPartitionReassignmentsRequest, AlterUserScramCredentialsRequest,
    BrokerId, CreateAclsRequest, DeleteAclsRequest, DeleteRecordsRequest, DescribeAclsRequest,
    DescribeClientQuotasRequest, DescribeLogDirsRequest, DescribeProducersRequest,
    DescribeTopicPartitionsRequest, DescribeTransactionsRequest,
    DescribeUserScramCredentialsRequest, ElectLeadersRequest, ListConfigResourcesRequest,
    ListPartitionReassignmentsRequest, ListTransactionsRequest, ProducerId, TransactionalId,
    describe_producers_request, describe_topic_partitions_request,
    list_partition_reassignments_request as reassignments,
};

use super::{Sample, add};
use crate::client::{text, topic};

pub(super) fn add_all(samples: &mut Vec<Sample>) {
    add(samples, "delete-records", 0..=2, |_| delete_records());
    add(samples, "describe-log-dirs", 1..=5, |_| log_dirs());
    add(samples, "describe-producers", 0..=0, |_| producers());
    add(samples, "describe-topic-partitions", 0..=0, |_| {
        topic_partitions()
    });
    add(samples, "list-config-resources", 0..=1, config_resources);
    add(samples, "describe-transactions", 0..=0, |_| {
        describe_transactions()
    });
    add(samples, "list-transactions", 0..=2, list_transactions);
    add(samples, "elect-leaders", 0..=2, |_| elect_leaders());
    add(
        samples,
        "alter-partition-reassignments",
        0..=1,
        alter_reassignments,
    );
    add(samples, "list-partition-reassignments", 0..=0, |_| {
        list_reassignments()
    });
    add(samples, "describe-acls", 1..=3, |_| describe_acls());
    add(samples, "create-acls", 1..=3, |_| create_acls());
    add(samples, "delete-acls", 1..=3, |_| delete_acls());
    add(samples, "describe-client-quotas", 0..=1, |_| quotas());
    add(samples, "alter-client-quotas", 0..=1, |_| alter_quotas());
    add(samples, "describe-user-scram-credentials", 0..=0, |_| {
        credentials(Some(&["u", "v"]))
    });
    add(samples, "alter-user-scram-credentials", 0..=0, |_| {
        alter_credentials()
    });
}

pub(crate) fn delete_records() -> DeleteRecordsRequest {
    let partition = |index, offset| {
        DeleteRecordsPartition::default()
            .with_partition_index(index)
            .with_offset(offset)
    };
    let partitions = vec![
        partition(0, 2),
        partition(1, -1),
        partition(1, 99),
        partition(0, -2),
        partition(7, 0),
    ];
    let known = DeleteRecordsTopic::default()
        .with_name(topic("a"))
        .with_partitions(partitions);
    let unknown = DeleteRecordsTopic::default()
        .with_name(topic("b"))
        .with_partitions(vec![partition(0, 0)]);
    DeleteRecordsRequest::default().with_topics(vec![known, unknown])
}

pub(crate) fn log_dirs() -> DescribeLogDirsRequest {
    let asked = DescribableLogDirTopic::default()
        .with_topic(topic("a"))
        .with_partitions(vec![0, 7]);
    DescribeLogDirsRequest::default().with_topics(Some(vec![asked]))
}

pub(crate) fn producers() -> DescribeProducersRequest {
    let asked = |name, partitions| {
        describe_producers_request::TopicRequest::default()
            .with_name(topic(name))
            .with_partition_indexes(partitions)
    };
    let topics = vec![
        asked("a", vec![0, 7]),
        asked("b", vec![0]),
        asked("no/t", vec![0]),
    ];
    DescribeProducersRequest::default().with_topics(topics)
}

pub(crate) fn topic_partitions() -> DescribeTopicPartitionsRequest {
    let asked = ["a", "b"].map(|name| {
        describe_topic_partitions_request::TopicRequest::default().with_name(topic(name))
    });
    let cursor = Cursor::default()
        .with_topic_name(topic("a"))
        .with_partition_index(1);
    DescribeTopicPartitionsRequest::default()
        .with_topics(asked.to_vec())
        .with_response_partition_limit(10)
        .with_cursor(Some(cursor))
}

pub(crate) fn config_resources(version: i16) -> ListConfigResourcesRequest {
    let request = ListConfigResourcesRequest::default();
    if version == 0 {
        return request;
    }
    request.with_resource_types(vec![2, 4])
}

pub(crate) fn list_transactions(version: i16) -> ListTransactionsRequest {
    let request = ListTransactionsRequest::default()
        .with_state_filters(vec![text("Ongoing"), text("Odd")])
        .with_producer_id_filters(vec![ProducerId(5)]);
    match version {
        0 => request,
        1 => request.with_duration_filter(1000),
        _ => request.with_transactional_id_pattern(Some(text("t.*"))),
    }
}

pub(crate) fn elect_leaders() -> ElectLeadersRequest {
    let asked = TopicPartitions::default()
        .with_topic(topic("a"))
        .with_partitions(vec![0, 7]);
    ElectLeadersRequest::default().with_topic_partitions(Some(vec![asked]))
}

pub(crate) fn alter_reassignments(version: i16) -> AlterPartitionReassignmentsRequest {
    let partition = |index, replicas: Option<Vec<i32>>| {
        let replicas = replicas.map(|replicas| replicas.into_iter().map(BrokerId).collect());
        ReassignablePartition::default()
            .with_partition_index(index)
            .with_replicas(replicas)
    };
    let asked = ReassignableTopic::default()
        .with_name(topic("a"))
        .with_partitions(vec![partition(0, Some(vec![1])), partition(1, None)]);
    let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![asked]);
    if version == 0 {
        return request;
    }
    request.with_allow_replication_factor_change(false)
}

pub(crate) fn list_reassignments() -> ListPartitionReassignmentsRequest {
    let asked = reassignments::ListPartitionReassignmentsTopics::default()
        .with_name(topic("a"))
        .with_partition_indexes(vec![0]);
    ListPartitionReassignmentsRequest::default().with_topics(Some(vec![asked]))
}

pub(crate) fn describe_acls() -> DescribeAclsRequest {
    DescribeAclsRequest::default()
        .with_resource_type_filter(2)
        .with_resource_name_filter(Some(text("a")))
        .with_pattern_type_filter(3)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(1)
        .with_permission_type(1)
}

pub(crate) fn create_acls() -> CreateAclsRequest {
    let creation = AclCreation::default()
        .with_resource_type(2)
        .with_resource_name(text("a"))
        .with_resource_pattern_type(3)
        .with_principal(text("User:u"))
        .with_host(text("*"))
        .with_operation(3)
        .with_permission_type(3);
    CreateAclsRequest::default().with_creations(vec![creation.clone(), creation])
}

pub(crate) fn delete_acls() -> DeleteAclsRequest {
    let filter = DeleteAclsFilter::default()
        .with_resource_type_filter(2)
        .with_resource_name_filter(None)
        .with_pattern_type_filter(3)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(3)
        .with_permission_type(3);
    DeleteAclsRequest::default().with_filters(vec![filter.clone(), filter])
}

pub(crate) fn quotas() -> DescribeClientQuotasRequest {
    let component = ComponentData::default()
        .with_entity_type(text("user"))
        .with_match_type(2)
        .with_match(None);
    DescribeClientQuotasRequest::default().with_components(vec![component])
}

pub(crate) fn alter_quotas() -> AlterClientQuotasRequest {
    let op = |remove| {
        alter_client_quotas_request::OpData::default()
            .with_key(text("consumer_byte_rate"))
            .with_value(1000.0)
            .with_remove(remove)
    };
    let entry = |remove| {
        let entity = alter_client_quotas_request::EntityData::default()
            .with_entity_type(text("user"))
            .with_entity_name(None);
        alter_client_quotas_request::EntryData::default()
            .with_entity(vec![entity])
            .with_ops(vec![op(remove)])
    };
    AlterClientQuotasRequest::default().with_entries(vec![entry(false), entry(true)])
}

pub(crate) fn alter_credentials() -> AlterUserScramCredentialsRequest {
    let deletion = ScramCredentialDeletion::default()
        .with_name(text("u"))
        .with_mechanism(1);
    let upsertion = ScramCredentialUpsertion::default()
        .with_name(text("v"))
        .with_mechanism(2)
        .with_iterations(4096)
        .with_salt(Bytes::from_static(b"salt"))
        .with_salted_password(Bytes::from_static(b"salted"));
    AlterUserScramCredentialsRequest::default()
        .with_deletions(vec![deletion])
        .with_upsertions(vec![upsertion])
}

pub(crate) fn describe_transactions() -> DescribeTransactionsRequest {
    let ids = ["t", "u"].map(|id| TransactionalId(text(id)));
    DescribeTransactionsRequest::default().with_transactional_ids(ids.to_vec())
}

pub(crate) fn credentials(users: Option<&[&'static str]>) -> DescribeUserScramCredentialsRequest {
    let users = users.map(|users| {
        let users = users.iter();
        let users = users.map(|user| UserName::default().with_name(text(user)));
        users.collect()
    });
    DescribeUserScramCredentialsRequest::default().with_users(users)
}

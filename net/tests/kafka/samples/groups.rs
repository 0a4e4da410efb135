//! The APIs of groups.

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, GroupId, HeartbeatRequest, JoinGroupRequest,
    LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest,
    OffsetFetchRequest, SyncGroupRequest,
};

use crate::client::{text, topic};

pub(crate) fn group(name: &'static str) -> GroupId {
    GroupId(text(name))
}

/// A consumer's subscription to `a`.
pub(crate) const SUBSCRIPTION: &[u8] = &[0, 1, 0, 0, 0, 1, 0, 1, b'a', 0xff, 0xff, 0xff, 0xff];

pub(crate) fn join(version: i16) -> JoinGroupRequest {
    let protocol = |name| {
        JoinGroupRequestProtocol::default()
            .with_name(text(name))
            .with_metadata(Bytes::from_static(SUBSCRIPTION))
    };
    let mut request = JoinGroupRequest::default()
        .with_group_id(group("g"))
        .with_session_timeout_ms(10_000)
        .with_member_id(text("m"))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol("range"), protocol("sticky")]);
    if version >= 1 {
        request.rebalance_timeout_ms = 60_000;
    }
    if version >= 5 {
        request.group_instance_id = Some(text("i"));
    }
    if version >= 8 {
        request.reason = Some(text("because"));
    }
    request
}

pub(crate) fn sync(version: i16) -> SyncGroupRequest {
    let share = |member| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(member))
            .with_assignment(Bytes::from_static(b"share"))
    };
    let mut request = SyncGroupRequest::default()
        .with_group_id(group("g"))
        .with_generation_id(3)
        .with_member_id(text("m"))
        .with_assignments(vec![share("m"), share("n")]);
    if version >= 3 {
        request.group_instance_id = Some(text("i"));
    }
    if version >= 5 {
        request.protocol_type = Some(text("consumer"));
        request.protocol_name = Some(text("range"));
    }
    request
}

pub(crate) fn heartbeat(version: i16) -> HeartbeatRequest {
    let request = HeartbeatRequest::default()
        .with_group_id(group("g"))
        .with_generation_id(3)
        .with_member_id(text("m"));
    if version < 3 {
        return request;
    }
    request.with_group_instance_id(Some(text("i")))
}

pub(crate) fn leave(version: i16) -> LeaveGroupRequest {
    let request = LeaveGroupRequest::default().with_group_id(group("g"));
    if version < 3 {
        return request.with_member_id(text("m"));
    }
    let named = MemberIdentity::default().with_member_id(text("m"));
    let by_instance = MemberIdentity::default().with_group_instance_id(Some(text("i")));
    request.with_members(vec![named, by_instance])
}

pub(crate) fn commit() -> OffsetCommitRequest {
    let partition = |index| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_offset(40 + i64::from(index))
            .with_committed_metadata(Some(text("words")))
    };
    let of = |name, indexes: &[i32]| {
        OffsetCommitRequestTopic::default()
            .with_name(topic(name))
            .with_partitions(indexes.iter().map(|index| partition(*index)).collect())
    };
    OffsetCommitRequest::default()
        .with_group_id(group("g"))
        .with_generation_id_or_member_epoch(3)
        .with_member_id(text("m"))
        .with_topics(vec![of("a", &[0, 1]), of("b", &[0])])
}

pub(crate) fn fetch(version: i16) -> OffsetFetchRequest {
    let request = OffsetFetchRequest::default();
    if version < 8 {
        let wanted = OffsetFetchRequestTopic::default()
            .with_name(topic("a"))
            .with_partition_indexes(vec![0, 1]);
        return request
            .with_group_id(group("g"))
            .with_topics(Some(vec![wanted]));
    }
    let wanted = OffsetFetchRequestTopics::default()
        .with_name(topic("a"))
        .with_partition_indexes(vec![0, 1]);
    let some = OffsetFetchRequestGroup::default()
        .with_group_id(group("g"))
        .with_topics(Some(vec![wanted]));
    let all = OffsetFetchRequestGroup::default()
        .with_group_id(group("h"))
        .with_topics(None);
    request.with_groups(vec![some, all])
}

pub(crate) fn describe() -> DescribeGroupsRequest {
    DescribeGroupsRequest::default().with_groups(vec![group("g"), group("h")])
}

pub(crate) fn list(version: i16) -> ListGroupsRequest {
    let mut request = ListGroupsRequest::default();
    if version >= 4 {
        request.states_filter = vec![text("Stable"), text("Empty")];
    }
    if version >= 5 {
        request.types_filter = vec![text("classic")];
    }
    request
}

pub(crate) fn delete() -> DeleteGroupsRequest {
    DeleteGroupsRequest::default().with_groups_names(vec![group("g"), group("h")])
}

pub(crate) fn delete_offsets() -> OffsetDeleteRequest {
    let partition = |index| OffsetDeleteRequestPartition::default().with_partition_index(index);
    let of = OffsetDeleteRequestTopic::default()
        .with_name(topic("a"))
        .with_partitions(vec![partition(0), partition(1)]);
    OffsetDeleteRequest::default()
        .with_group_id(group("g"))
        .with_topics(vec![of])
}

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
use uuid::Uuid;

use crate::broker::FIRST_TOPIC;
use crate::client::{text, topic};

/// An id that no topic has.
pub(crate) const UNKNOWN_TOPIC: Uuid = Uuid::from_u128(77);

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

/// Version 10: the body of [`commit`], but that topics are named by id: the first and one that
/// nobody has.
pub(crate) fn commit_by_id() -> Vec<u8> {
    let partition = |index: u8| {
        let mut bytes = vec![0, 0, 0, index, 0, 0, 0, 0, 0, 0, 0, 40 + index];
        bytes.extend([0xff; 4]);
        bytes.extend(*b"\x06words\0");
        bytes
    };
    let mut bytes = b"\x02g\0\0\0\x03\x02m\0\x03".to_vec();
    bytes.extend(FIRST_TOPIC.as_bytes());
    bytes.extend([&[3], &*partition(0), &*partition(1), &[0]].concat());
    bytes.extend(UNKNOWN_TOPIC.as_bytes());
    bytes.extend([&[2], &*partition(0), &[0, 0]].concat());
    bytes
}

/// Version 10: the body of [`fetch`], but that topics are named by id, and that the first group is
/// asked for one that nobody has too.
pub(crate) fn fetch_by_id() -> Vec<u8> {
    let mut bytes = b"\x03\x02g\0\xff\xff\xff\xff\x03".to_vec();
    bytes.extend(FIRST_TOPIC.as_bytes());
    bytes.extend([3, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    bytes.extend(UNKNOWN_TOPIC.as_bytes());
    bytes.extend([2, 0, 0, 0, 0, 0, 0]);
    bytes.extend(b"\x02h\x02m\xff\xff\xff\xff\0\0");
    bytes.extend([0, 0]);
    bytes
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

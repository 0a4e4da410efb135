//! OffsetCommit, versions 2 to 10; 10 names topics by id. Answered when the offsets are durable.

use std::sync::Arc;

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest, OffsetCommitResponse};
use millrace_engine::event::{Outcome, Refusal};
use millrace_engine::group::{
    CommitOffsets, GroupAnswer, GroupAsk, GroupRefusal, Membership, NewOffset,
};
use millrace_storage::units::{LeaderEpoch, Offset};

use super::groups::{GroupTopic, answer, ask, read_text, some};
use super::partitions::Partitions;
use super::{Call, Handled, Reply, ReplyTo, Work, decode, decode_with, text};
use crate::kafka::errors::{ErrorCode, group_error_code};
use crate::kafka::frame::Request;
use crate::kafka::wire::{DecodeError, Reader};
use crate::session::ProtocolViolation;

/// First version that tells a group that is gone from a generation that is.
const VERSION_NOT_FOUND_MIN: i16 = 9;
/// First version that names topics by id.
const VERSION_IDS_MIN: i16 = 10;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let has_ids = request.version >= VERSION_IDS_MIN;
    let body: OffsetCommitRequest = if has_ids {
        decode_with(call, request, read)?
    } else {
        decode(call, request)?
    };
    let mut partitions = Partitions::default();
    let mut offsets = Vec::new();
    for topic in &body.topics {
        let key = if has_ids {
            GroupTopic::Id(topic.topic_id)
        } else {
            GroupTopic::named(topic.name.clone())
        };
        partitions.begin_topic(key.clone());
        for asked in &topic.partitions {
            let index = asked.partition_index;
            let partition = key.partition(call.sink.catalog(), index);
            partitions.push(index, partition.map(drop));
            offsets.extend(partition.map(|partition| (partition, new_offset(asked))));
        }
    }
    let pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        partitions,
        results: Ok(Vec::new()),
    };
    if offsets.is_empty() {
        return Ok(Handled::Reply(pending.finish()?));
    }
    let commit = CommitOffsets {
        membership: Membership {
            generation: body.generation_id_or_member_epoch,
            member: body.member_id.to_string(),
            instance: some(body.group_instance_id.as_ref()),
        },
        retention_ms: u64::try_from(body.retention_time_ms).ok(),
        offsets,
    };
    ask(call, 0, &body.group_id, GroupAsk::Commit(commit));
    Ok(Handled::Wait(Work::OffsetCommit(pending)))
}

/// Reads a body of version 10.
fn read(reader: &mut Reader<'_>) -> Result<OffsetCommitRequest, DecodeError> {
    let mut body = OffsetCommitRequest::default()
        .with_group_id(GroupId(read_text(reader)?))
        .with_generation_id_or_member_epoch(reader.i32()?)
        .with_member_id(read_text(reader)?)
        .with_group_instance_id(reader.nullable_text()?.map(text));
    for _ in 0..reader.count()? {
        let mut topic = OffsetCommitRequestTopic::default().with_topic_id(reader.uuid()?);
        for _ in 0..reader.count()? {
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(reader.i32()?)
                .with_committed_offset(reader.i64()?)
                .with_committed_leader_epoch(reader.i32()?)
                .with_committed_metadata(reader.nullable_text()?.map(text));
            reader.tags()?;
            topic.partitions.push(partition);
        }
        reader.tags()?;
        body.topics.push(topic);
    }
    reader.tags()?;
    Ok(body)
}

/// Any offset is taken, as with Kafka. Some clients commit -2 and -1 and mean the earliest and the
/// latest one when they read them again.
fn new_offset(asked: &OffsetCommitRequestPartition) -> NewOffset {
    let epoch = asked.committed_leader_epoch;
    let words = asked.committed_metadata.as_deref().unwrap_or_default();
    NewOffset {
        offset: Offset(asked.committed_offset.cast_unsigned()),
        leader_epoch: (epoch >= 0).then_some(LeaderEpoch(epoch)),
        metadata: Arc::from(words),
    }
}

/// A request whose offsets are on their way to the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    /// What is wrong with some of them.
    partitions: Partitions<GroupTopic, Result<(), ErrorCode>>,
    /// One a partition that was asked for, or none at all and why.
    results: Result<Vec<Result<(), Refusal>>, ErrorCode>,
}

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        let version = self.reply_to.version;
        self.results = match answer(outcome) {
            Ok(GroupAnswer::OffsetsCommitted(results)) => {
                assert_eq!(results.len(), self.partitions.good().count());
                Ok(results)
            }
            Ok(other) => panic!("a commit ended with {other:?}"),
            Err(Refusal::Group(GroupRefusal::NotFound)) if version < VERSION_NOT_FOUND_MIN => {
                Err(ErrorCode::IllegalGeneration)
            }
            Err(refusal) => Err(group_error_code(&refusal)),
        };
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let mut results = self.results.map(Vec::into_iter);
        let mut committed = || match &mut results {
            Ok(results) => {
                let result = results.next().expect("counted when taken");
                result.map_err(|refusal| group_error_code(&refusal))
            }
            Err(code) => Err(*code),
        };
        let topics = self.partitions.into_topics(|index, checked| {
            let result = checked.and_then(|()| committed());
            let code = result.err().unwrap_or(ErrorCode::None);
            OffsetCommitResponsePartition::default()
                .with_partition_index(index)
                .with_error_code(code.code())
        });
        let topics = topics.map(|(topic, partitions)| {
            let (name, id) = topic.into_fields();
            OffsetCommitResponseTopic::default()
                .with_name(name)
                .with_topic_id(id)
                .with_partitions(partitions)
        });
        let response = OffsetCommitResponse::default().with_topics(topics.collect());
        self.reply_to.frame(&response)
    }
}

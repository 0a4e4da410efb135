//! OffsetDelete, version 0: forgets how far a group came with topics that it no longer reads.

use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};
use millrace_engine::event::{Outcome, Refusal};
use millrace_engine::group::{GroupAnswer, GroupAsk, GroupRefusal};
use millrace_storage::units::PartitionId;

use super::groups::{GroupTopic, answer, ask};
use super::partitions::Partitions;
use super::{Call, Handled, Reply, ReplyTo, Work, decode};
use crate::kafka::errors::{ErrorCode, group_error_code, group_refusal_code};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: OffsetDeleteRequest = decode(call, request)?;
    let mut partitions = Partitions::default();
    for topic in &body.topics {
        let name = GroupTopic::named(topic.name.clone());
        partitions.begin_topic(name.clone());
        for asked in &topic.partitions {
            let index = asked.partition_index;
            let partition = name.partition(call.sink.catalog(), index);
            partitions.push(index, partition);
        }
    }
    let ids: Vec<PartitionId> = partitions.good().copied().collect();
    ask(call, 0, &body.group_id, GroupAsk::DeleteOffsets(ids));
    Ok(Handled::Wait(Work::OffsetDelete(Pending {
        reply_to: ReplyTo::new(call.config, request),
        partitions,
        results: Ok(Vec::new()),
    })))
}

/// A request whose offsets are being forgotten.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    partitions: Partitions<GroupTopic, Result<PartitionId, ErrorCode>>,
    /// One a partition that was asked for, or none at all and why.
    results: Result<Vec<Result<(), GroupRefusal>>, ErrorCode>,
}

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        self.results = match answer(outcome) {
            Ok(GroupAnswer::OffsetsDeleted(results)) => Ok(results),
            Ok(other) => panic!("forgetting offsets ended with {other:?}"),
            Err(refusal) => Err(group_error_code(&refusal)),
        };
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let mut results = match self.results {
            Ok(results) => results.into_iter(),
            Err(code) => {
                // The topics are told only where something was done with them.
                let response = OffsetDeleteResponse::default().with_error_code(code.code());
                return self.reply_to.frame(&response);
            }
        };
        let topics = self.partitions.into_topics(|index, partition| {
            let result = partition.and_then(|_| {
                let result = results.next().expect("one result a partition");
                result.map_err(|refusal| group_refusal_code(&refusal))
            });
            let code = result.err().unwrap_or(ErrorCode::None);
            OffsetDeleteResponsePartition::default()
                .with_partition_index(index)
                .with_error_code(code.code())
        });
        let topics = topics.map(|(topic, partitions)| {
            OffsetDeleteResponseTopic::default()
                .with_name(topic.into_fields().0)
                .with_partitions(partitions)
        });
        let response = OffsetDeleteResponse::default().with_topics(topics.collect());
        self.reply_to.frame(&response)
    }
}

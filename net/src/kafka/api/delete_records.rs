//! DeleteRecords, versions 0 to 2: a partition forgets its first records. Answered when that is
//! durable.

use std::sync::Arc;

use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use millrace_engine::catalog::Catalog;
use millrace_engine::command::Command;
use millrace_engine::event::{Outcome, Refusal};
use millrace_storage::units::{Offset, PartitionId};

use super::{Call, Handled, Reply, ReplyTo, Work, decode, partition_of, topic_name};
use crate::kafka::errors::{ErrorCode, error_code};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

/// Asks for all that is readable to be deleted.
const HIGH_WATERMARK: i64 = -1;
/// Answers for a partition of which nothing was deleted.
const NO_LOW_WATERMARK: i64 = -1;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: DeleteRecordsRequest = decode(call, request)?;
    let mut pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        topics: Vec::with_capacity(body.topics.len()),
        partitions: Vec::new(),
    };
    for topic in &body.topics {
        for asked in &topic.partitions {
            let index = asked.partition_index;
            let result = match judge(call.sink.catalog(), &topic.name, index, asked.offset) {
                Ok((partition, keep_from)) => {
                    let delete = Command::DeleteRecords {
                        partition,
                        keep_from,
                    };
                    call.submit(pending.partitions.len(), delete);
                    None
                }
                Err(code) => Some(Err(code)),
            };
            pending.partitions.push((index, result));
        }
        let name = Arc::from(topic.name.as_str());
        pending.topics.push((name, pending.partitions.len()));
    }
    if call.submitted().commands == 0 {
        return pending.finish().map(Handled::Reply);
    }
    Ok(Handled::Wait(Work::DeleteRecords(pending)))
}

/// The partition, and the first offset to keep; `None` keeps nothing that is readable.
fn judge(
    catalog: &Catalog,
    topic: &str,
    index: i32,
    offset: i64,
) -> Result<(PartitionId, Option<Offset>), ErrorCode> {
    let partition = partition_of(catalog, topic, index, -1)?;
    if offset == HIGH_WATERMARK {
        return Ok((partition, None));
    }
    let offset = u64::try_from(offset).map_err(|_| ErrorCode::OffsetOutOfRange)?;
    Ok((partition, Some(Offset(offset))))
}

/// A request whose records are being deleted.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    /// Name, and where its partitions end in `partitions`.
    topics: Vec<(Arc<str>, usize)>,
    /// Index, and where it begins now; `None` while that is out.
    partitions: Vec<(i32, Option<Result<Offset, ErrorCode>>)>,
}

impl Pending {
    pub(super) fn take(&mut self, position: usize, outcome: Result<Outcome, Refusal>) {
        let result = match outcome {
            Ok(Outcome::RecordsDeleted(start)) => Ok(start),
            Ok(other) => panic!("a deletion of records ended with {other:?}"),
            Err(refusal) => Err(error_code(&refusal)),
        };
        let slot = &mut self.partitions[position].1;
        assert!(slot.is_none(), "one deletion has one outcome");
        *slot = Some(result);
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let mut start = 0;
        let topics = self.topics.iter().map(|(name, end)| {
            let partitions = &self.partitions[start..*end];
            start = *end;
            let partitions = partitions
                .iter()
                .map(|(index, result)| describe(*index, result.expect("every deletion has ended")));
            DeleteRecordsTopicResult::default()
                .with_name(topic_name(name))
                .with_partitions(partitions.collect())
        });
        let response = DeleteRecordsResponse::default().with_topics(topics.collect());
        self.reply_to.frame(&response)
    }
}

fn describe(index: i32, result: Result<Offset, ErrorCode>) -> DeleteRecordsPartitionResult {
    let described = DeleteRecordsPartitionResult::default().with_partition_index(index);
    match result {
        Ok(start) => {
            let start = i64::try_from(start.0).expect("offsets are in Kafka's range");
            described.with_low_watermark(start)
        }
        Err(code) => described
            .with_low_watermark(NO_LOW_WATERMARK)
            .with_error_code(code.code()),
    }
}

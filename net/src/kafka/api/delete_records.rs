//! DeleteRecords, versions 0 to 2: a partition forgets its first records. Answered when that is
//! durable.

use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse, TopicName};
use millrace_engine::catalog::Catalog;
use millrace_engine::command::Command;
use millrace_engine::event::{Outcome, Refusal};
use millrace_storage::units::Offset;

use super::partitions::Partitions;
use super::{Call, Handled, Reply, ReplyTo, Work, decode, partition_of};
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
    let mut partitions = Partitions::default();
    for topic in &body.topics {
        partitions.begin_topic(topic.name.clone());
        for asked in &topic.partitions {
            let index = asked.partition_index;
            match delete(call.sink.catalog(), &topic.name, index, asked.offset) {
                Ok(delete) => partitions.ask(call, index, delete),
                Err(code) => partitions.tell(index, Err(code)),
            }
        }
    }
    let reply_to = ReplyTo::new(call.config, request);
    let pending = Pending {
        reply_to,
        partitions,
    };
    if call.submitted().commands == 0 {
        return pending.finish().map(Handled::Reply);
    }
    Ok(Handled::Wait(Work::DeleteRecords(pending)))
}

/// What is to be deleted.
fn delete(
    catalog: &Catalog,
    topic: &str,
    index: i32,
    offset: i64,
) -> Result<Command<'static>, ErrorCode> {
    let partition = partition_of(catalog, topic, index, -1)?;
    let keep_from = match offset {
        HIGH_WATERMARK => None,
        offset => {
            let offset = u64::try_from(offset).map_err(|_| ErrorCode::OffsetOutOfRange)?;
            Some(Offset(offset))
        }
    };
    Ok(Command::DeleteRecords {
        partition,
        keep_from,
    })
}

/// A request whose records are being deleted.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    /// Where each begins now.
    partitions: Partitions<TopicName, Option<Result<Offset, ErrorCode>>>,
}

impl Pending {
    pub(super) fn take(&mut self, position: usize, outcome: Result<Outcome, Refusal>) {
        let start = match outcome {
            Ok(Outcome::RecordsDeleted(start)) => Ok(start),
            Ok(other) => panic!("a deletion of records ended with {other:?}"),
            Err(refusal) => Err(error_code(&refusal)),
        };
        self.partitions.take(position, start);
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let topics = self.partitions.into_answers(describe);
        let topics = topics.map(|(name, partitions)| {
            DeleteRecordsTopicResult::default()
                .with_name(name)
                .with_partitions(partitions)
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

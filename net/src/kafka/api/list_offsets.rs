//! ListOffsets, versions 1 to 11: the first, the last, or the offset of a time.

use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse, TopicName};
use millrace_engine::command::{Command, Isolation, OffsetQuery};
use millrace_engine::event::{FoundOffset, Outcome, Refusal};

use super::partitions::{Mention, Mentions, Partitions};
use super::{Call, Handled, Reply, ReplyTo, Work, decode_version, partition_of};
use crate::kafka::errors::{ErrorCode, error_code};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

/// First version with leader epochs.
const VERSION_EPOCHS_MIN: i16 = 4;
/// Last version with a format of its own: version 11 only brought a question more (KIP-1023).
const VERSION_FORMAT_MAX: i16 = 10;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let format = request.version.min(VERSION_FORMAT_MAX);
    let body: ListOffsetsRequest = decode_version(call, request, format)?;
    let isolation = match body.isolation_level {
        0 => Isolation::Uncommitted,
        1 => Isolation::Committed,
        other => return Err(request.malformed(format!("isolation level {other}"))),
    };
    let mut partitions = Partitions::default();
    let named = body.topics.iter().flat_map(|topic| {
        let indexes = topic.partitions.iter().map(|asked| asked.partition_index);
        indexes.map(|index| (topic.name.as_str(), index))
    });
    let mut mentions = Mentions::count(named);
    for topic in &body.topics {
        partitions.begin_topic(topic.name.clone());
        for asked in &topic.partitions {
            let (index, epoch) = (asked.partition_index, asked.current_leader_epoch);
            match mentions.next(topic.name.as_str(), index) {
                Mention::Only => {}
                Mention::Repeated => {
                    partitions.tell(index, Err(ErrorCode::InvalidRequest));
                    continue;
                }
                Mention::Again => continue,
            }
            let checked = query(request.version, asked.timestamp).and_then(|at| {
                let partition = partition_of(call.sink.catalog(), &topic.name, index, epoch)?;
                Ok(Command::FindOffset {
                    partition,
                    at,
                    isolation,
                })
            });
            match checked {
                Ok(find) => partitions.ask(call, index, find),
                Err(code) => partitions.tell(index, Err(code)),
            }
        }
    }
    let reply_to = ReplyTo::of_version(call.config, request, format);
    let pending = Pending {
        reply_to,
        partitions,
    };
    if call.submitted().commands == 0 {
        return pending.finish().map(Handled::Reply);
    }
    Ok(Handled::Wait(Work::ListOffsets(pending)))
}

/// What a timestamp asks for. Negative ones are questions of their own, each since a version.
fn query(version: i16, timestamp: i64) -> Result<OffsetQuery, ErrorCode> {
    let (since, query) = match timestamp {
        0.. => (1, OffsetQuery::AtOrAfter(timestamp)),
        -1 => (1, OffsetQuery::Latest),
        -2 => (1, OffsetQuery::Earliest),
        -3 => (7, OffsetQuery::MaxTimestamp),
        // First local offset, last tiered one, first that is still to be tiered: everything is
        // local and nothing is tiered.
        -4 => (8, OffsetQuery::Earliest),
        -5 => (9, OffsetQuery::Earliest),
        -6 => (11, OffsetQuery::Earliest),
        _ => return Err(ErrorCode::InvalidRequest),
    };
    if version < since {
        return Err(ErrorCode::UnsupportedVersion);
    }
    Ok(query)
}

/// A request whose offsets are being looked for.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    partitions: Partitions<TopicName, Option<Found>>,
}

type Found = Result<Option<FoundOffset>, ErrorCode>;

impl Pending {
    pub(super) fn take(&mut self, position: usize, outcome: Result<Outcome, Refusal>) {
        let found = match outcome {
            Ok(Outcome::OffsetFound(found)) => Ok(found),
            Ok(other) => panic!("a search for an offset ended with {other:?}"),
            Err(refusal) => Err(error_code(&refusal)),
        };
        self.partitions.take(position, found);
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let version = self.reply_to.version;
        let describe = |index, found| describe(version, index, found);
        let topics = self.partitions.into_answers(describe);
        let topics = topics.map(|(name, partitions)| {
            ListOffsetsTopicResponse::default()
                .with_name(name)
                .with_partitions(partitions)
        });
        let response = ListOffsetsResponse::default().with_topics(topics.collect());
        self.reply_to.frame(&response)
    }
}

fn describe(version: i16, index: i32, found: Found) -> ListOffsetsPartitionResponse {
    let described = ListOffsetsPartitionResponse::default().with_partition_index(index);
    match found {
        Err(code) => described.with_error_code(code.code()),
        // No record fits: offset and timestamp stay -1.
        Ok(None) => described,
        Ok(Some(found)) => {
            let offset = i64::try_from(found.offset.0).expect("offsets are in Kafka's range");
            let described = described
                .with_offset(offset)
                .with_timestamp(found.timestamp_ms.unwrap_or(-1));
            if version < VERSION_EPOCHS_MIN {
                return described;
            }
            described.with_leader_epoch(found.leader_epoch.0)
        }
    }
}

//! OffsetForLeaderEpoch, versions 2 to 4: where a leader epoch ended. A consumer asks after the
//! epoch rose, to learn whether what it read is still there.

use std::sync::Arc;

use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use millrace_engine::command::Command;
use millrace_engine::event::{Outcome, Refusal};
use millrace_storage::units::{LeaderEpoch, Offset};

use super::{Call, Handled, Reply, ReplyTo, Work, decode, partition_of, topic_name};
use crate::kafka::errors::{ErrorCode, error_code};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: OffsetForLeaderEpochRequest = decode(call, request)?;
    let mut pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        topics: Vec::with_capacity(body.topics.len()),
        partitions: Vec::new(),
    };
    for topic in &body.topics {
        for asked in &topic.partitions {
            let (index, epoch) = (asked.partition, asked.current_leader_epoch);
            let catalog = call.sink.catalog();
            let result = match partition_of(catalog, &topic.topic, index, epoch) {
                // No epoch is that old: nothing is known of its end.
                Ok(_) if asked.leader_epoch < 0 => Some(Ok(None)),
                Ok(partition) => {
                    let epoch = LeaderEpoch(asked.leader_epoch);
                    let find = Command::FindEpochEnd { partition, epoch };
                    call.submit(pending.partitions.len(), find);
                    None
                }
                Err(code) => Some(Err(code)),
            };
            pending.partitions.push((index, result));
        }
        let name = Arc::from(topic.topic.as_str());
        pending.topics.push((name, pending.partitions.len()));
    }
    if call.submitted().commands == 0 {
        return pending.finish().map(Handled::Reply);
    }
    Ok(Handled::Wait(Work::OffsetForLeaderEpoch(pending)))
}

/// A request whose epochs are being looked for.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    /// Name, and where its partitions end in `partitions`.
    topics: Vec<(Arc<str>, usize)>,
    /// Index, and what was found; `None` while that is out.
    partitions: Vec<(i32, Option<Found>)>,
}

type Found = Result<Option<(LeaderEpoch, Offset)>, ErrorCode>;

impl Pending {
    pub(super) fn take(&mut self, position: usize, outcome: Result<Outcome, Refusal>) {
        let result = match outcome {
            Ok(Outcome::EpochEnd(found)) => Ok(found),
            Ok(other) => panic!("a search for an epoch ended with {other:?}"),
            Err(refusal) => Err(error_code(&refusal)),
        };
        let slot = &mut self.partitions[position].1;
        assert!(slot.is_none(), "one search has one outcome");
        *slot = Some(result);
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let mut start = 0;
        let topics = self.topics.iter().map(|(name, end)| {
            let partitions = &self.partitions[start..*end];
            start = *end;
            let partitions = partitions
                .iter()
                .map(|(index, result)| describe(*index, result.expect("every search has ended")));
            OffsetForLeaderTopicResult::default()
                .with_topic(topic_name(name))
                .with_partitions(partitions.collect())
        });
        let response = OffsetForLeaderEpochResponse::default().with_topics(topics.collect());
        self.reply_to.frame(&response)
    }
}

fn describe(index: i32, found: Found) -> EpochEndOffset {
    let described = EpochEndOffset::default().with_partition(index);
    match found {
        Err(code) => described.with_error_code(code.code()),
        // No such epoch: both stay -1, and that is no error.
        Ok(None) => described,
        Ok(Some((epoch, end))) => {
            let end = i64::try_from(end.0).expect("offsets are in Kafka's range");
            described.with_leader_epoch(epoch.0).with_end_offset(end)
        }
    }
}

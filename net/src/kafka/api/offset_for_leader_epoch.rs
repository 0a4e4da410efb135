//! OffsetForLeaderEpoch, versions 2 to 4: where a leader epoch ended. A consumer asks after the
//! epoch rose, to learn whether what it read is still there.

use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, TopicName,
};
use millrace_engine::command::Command;
use millrace_engine::event::{Outcome, Refusal};
use millrace_storage::units::{LeaderEpoch, Offset};

use super::partitions::Partitions;
use super::{Call, Handled, Reply, ReplyTo, Work, decode, partition_of};
use crate::kafka::errors::{ErrorCode, error_code};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: OffsetForLeaderEpochRequest = decode(call, request)?;
    let mut partitions = Partitions::default();
    for topic in &body.topics {
        partitions.begin_topic(topic.topic.clone());
        for asked in &topic.partitions {
            let (index, epoch) = (asked.partition, asked.current_leader_epoch);
            match partition_of(call.sink.catalog(), &topic.topic, index, epoch) {
                // No epoch is that old: nothing is known of its end.
                Ok(_) if asked.leader_epoch < 0 => partitions.tell(index, Ok(None)),
                Ok(partition) => {
                    let epoch = LeaderEpoch(asked.leader_epoch);
                    partitions.ask(call, index, Command::FindEpochEnd { partition, epoch });
                }
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
    Ok(Handled::Wait(Work::OffsetForLeaderEpoch(pending)))
}

/// A request whose epochs are being looked for.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    partitions: Partitions<TopicName, Option<Found>>,
}

type Found = Result<Option<(LeaderEpoch, Offset)>, ErrorCode>;

impl Pending {
    pub(super) fn take(&mut self, position: usize, outcome: Result<Outcome, Refusal>) {
        let found = match outcome {
            Ok(Outcome::EpochEnd(found)) => Ok(found),
            Ok(other) => panic!("a search for an epoch ended with {other:?}"),
            Err(refusal) => Err(error_code(&refusal)),
        };
        self.partitions.take(position, found);
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let topics = self.partitions.into_answers(describe);
        let topics = topics.map(|(name, partitions)| {
            OffsetForLeaderTopicResult::default()
                .with_topic(name)
                .with_partitions(partitions)
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

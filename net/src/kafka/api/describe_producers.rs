//! DescribeProducers, version 0: the idempotent producers that partitions remember.

use std::collections::HashSet;

use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeProducersResponse, ProducerId, TopicName,
};
use millrace_engine::catalog::names::check_topic_name;
use millrace_engine::command::Command;
use millrace_engine::event::{Outcome, ProducerListing, Refusal};

use super::partitions::Partitions;
use super::{Call, Handled, Reply, ReplyTo, Work, decode, partition_of, text};
use crate::kafka::errors::{ErrorCode, Failure};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

/// What there is not without transactions: the coordinator's epoch and a transaction's start.
const NONE: i32 = -1;

/// Bytes that a producer, and a partition with an error's words, take.
const PRODUCER_BYTES: usize = 37;
const PARTITION_BYTES_MAX: usize = 128;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: DescribeProducersRequest = decode(call, request)?;
    let mut partitions = Partitions::default();
    let mut asked = HashSet::new();
    for topic in &body.topics {
        partitions.begin_topic(topic.name.clone());
        let named = check_topic_name(&topic.name);
        for index in topic.partition_indexes.iter().copied() {
            let found = match &named {
                Ok(()) => partition_of(call.sink.catalog(), &topic.name, index, -1),
                Err(_) => Err(ErrorCode::InvalidTopic),
            };
            match found {
                // Named again: a partition's list is long, and is told once.
                Ok(partition) if !asked.insert(partition) => {}
                Ok(partition) => {
                    partitions.ask(call, index, Command::ListProducers { partition });
                }
                Err(code) => partitions.tell(index, Err(unknown(code))),
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
    Ok(Handled::Wait(Work::DescribeProducers(pending)))
}

fn unknown(code: ErrorCode) -> Failure {
    match code {
        ErrorCode::InvalidTopic => Failure::new(code, "invalid topic name"),
        code => Failure::new(code, "unknown topic or partition"),
    }
}

/// A request whose producers are being listed.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    partitions: Partitions<TopicName, Option<Listed>>,
}

type Listed = Result<Vec<ProducerListing>, Failure>;

impl Pending {
    pub(super) fn take(&mut self, position: usize, outcome: Result<Outcome, Refusal>) {
        let listed = match outcome {
            Ok(Outcome::ProducersListed(listed)) => Ok(listed),
            Ok(other) => panic!("a list of producers ended with {other:?}"),
            Err(refusal) => Err(Failure::from(refusal)),
        };
        self.partitions.take(position, listed);
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        self.reply_to.check_bytes(self.bytes())?;
        let topics = self.partitions.into_answers(describe);
        let topics = topics.map(|(name, partitions)| {
            TopicResponse::default()
                .with_name(name)
                .with_partitions(partitions)
        });
        let response = DescribeProducersResponse::default().with_topics(topics.collect());
        self.reply_to.frame(&response)
    }

    /// About what the reply takes: a partition may have many producers.
    fn bytes(&self) -> usize {
        let listed = self.partitions.known().map(|listed| match listed {
            Some(Ok(listed)) => PARTITION_BYTES_MAX + listed.len() * PRODUCER_BYTES,
            _ => PARTITION_BYTES_MAX,
        });
        listed.sum()
    }
}

fn describe(index: i32, result: Listed) -> PartitionResponse {
    let described = PartitionResponse::default()
        .with_partition_index(index)
        .with_error_message(None);
    match result {
        Ok(listed) => described.with_active_producers(listed.iter().map(producer).collect()),
        Err(failure) => described
            .with_error_code(failure.code.code())
            .with_error_message(failure.message.map(text)),
    }
}

fn producer(listing: &ProducerListing) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(listing.id))
        .with_producer_epoch(i32::from(listing.epoch))
        .with_last_sequence(listing.last_sequence)
        .with_last_timestamp(listing.last_timestamp_ms.unwrap_or(-1))
        .with_coordinator_epoch(NONE)
        .with_current_txn_start_offset(i64::from(NONE))
}

//! DescribeProducers, version 0: the idempotent producers that partitions remember.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};
use millrace_engine::catalog::names::check_topic_name;
use millrace_engine::command::Command;
use millrace_engine::event::{Outcome, ProducerListing, Refusal};

use super::{Call, Handled, Reply, ReplyTo, Work, decode, partition_of, text, topic_name};
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
    let mut pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        topics: Vec::with_capacity(body.topics.len()),
        partitions: Vec::new(),
    };
    let mut asked = HashSet::new();
    for topic in &body.topics {
        let named = check_topic_name(&topic.name);
        for index in &topic.partition_indexes {
            let found = match &named {
                Ok(()) => partition_of(call.sink.catalog(), &topic.name, *index, -1),
                Err(_) => Err(ErrorCode::InvalidTopic),
            };
            let result = match found {
                // Named again: a partition's list is long, and is told once.
                Ok(partition) if !asked.insert(partition) => continue,
                Ok(partition) => {
                    let list = Command::ListProducers { partition };
                    call.submit(pending.partitions.len(), list);
                    None
                }
                Err(code) => Some(Err(unknown(code))),
            };
            pending.partitions.push((*index, result));
        }
        let name = Arc::from(topic.name.as_str());
        pending.topics.push((name, pending.partitions.len()));
    }
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
    /// Name, and where its partitions end in `partitions`.
    topics: Vec<(Arc<str>, usize)>,
    /// Index, and its producers; `None` while they are out.
    partitions: Vec<(i32, Option<Listed>)>,
}

type Listed = Result<Vec<ProducerListing>, Failure>;

impl Pending {
    pub(super) fn take(&mut self, position: usize, outcome: Result<Outcome, Refusal>) {
        let result = match outcome {
            Ok(Outcome::ProducersListed(listed)) => Ok(listed),
            Ok(other) => panic!("a list of producers ended with {other:?}"),
            Err(refusal) => Err(Failure::from(refusal)),
        };
        let slot = &mut self.partitions[position].1;
        assert!(slot.is_none(), "one list is asked for once");
        *slot = Some(result);
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        self.reply_to.check_bytes(self.bytes())?;
        let mut partitions = self.partitions.into_iter();
        let mut start = 0;
        let topics = self.topics.iter().map(|(name, end)| {
            let own = partitions.by_ref().take(*end - start);
            start = *end;
            let own = own
                .map(|(index, result)| describe(index, result.expect("every list has come")))
                .collect();
            TopicResponse::default()
                .with_name(topic_name(name))
                .with_partitions(own)
        });
        let response = DescribeProducersResponse::default().with_topics(topics.collect());
        self.reply_to.frame(&response)
    }

    /// About what the reply takes: a partition may have many producers.
    fn bytes(&self) -> usize {
        let listed = self.partitions.iter().map(|(_, result)| match result {
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

//! CreatePartitions, versions 0 to 3: topics only ever grow.

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse, TopicName};
use millrace_engine::command::{CatalogRequest, Command, Growth};
use millrace_engine::event::{Outcome, Refusal};

use super::{Call, Handled, Items, Reply, ReplyTo, Work, decode, text};
use crate::kafka::cluster;
use crate::kafka::errors::{ErrorCode, Failure};
use crate::kafka::frame::Request;
use crate::session::{CommandSink, ProtocolViolation};

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: CreatePartitionsRequest = decode(call, request)?;
    let judged = body.topics.into_iter().map(|asked| {
        let judged = judge(call.sink, &asked);
        (asked.name, judged)
    });
    let (items, topics) = Items::judged(judged);
    let reply_to = ReplyTo::new(call.config, request);
    let pending = Pending { reply_to, items };
    if topics.is_empty() {
        return pending.finish(call).map(Handled::Reply);
    }
    let create = CatalogRequest::CreatePartitions {
        topics,
        validate_only: body.validate_only,
    };
    call.submit(0, Command::WriteCatalog(create));
    Ok(Handled::Wait(Work::CreatePartitions(pending)))
}

/// What is asked for, if the placement can be had.
fn judge(sink: &dyn CommandSink, asked: &CreatePartitionsTopic) -> Result<Growth, Failure> {
    let total = u32::try_from(asked.count).map_err(|_| {
        let words = format!("{} partitions cannot be had", asked.count);
        Failure::new(ErrorCode::InvalidPartitions, words)
    })?;
    let mut growth = Growth {
        topic: asked.name.to_string(),
        total,
        homes: Vec::new(),
    };
    let Some(assignments) = &asked.assignments else {
        return Ok(growth);
    };
    let nodes = assignments.iter().map(|place| place.broker_ids.as_slice());
    growth.homes = cluster::homes_by_hand(sink.cluster(), nodes)?;
    let has = sink
        .catalog()
        .topic(&asked.name)
        .map(|topic| topic.partitions.len());
    let added = u64::from(total).checked_sub(has.unwrap_or(0) as u64);
    if has.is_some() && added != Some(assignments.len() as u64) {
        let words = "the assignment must name every new partition";
        return Err(Failure::new(ErrorCode::InvalidReplicaAssignment, words));
    }
    Ok(growth)
}

/// A request whose partitions are being created.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    items: Items<TopicName>,
}

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        self.items.take(outcome);
    }

    pub(super) fn finish(self, call: &mut Call<'_>) -> Result<Reply, ProtocolViolation> {
        self.items.log_refused(call, "topic", |name| name.as_str());
        let results = self.items.into_results().map(|(name, result)| {
            let described = CreatePartitionsTopicResult::default().with_name(name);
            match result {
                Ok(_) => described,
                Err(failure) => described
                    .with_error_code(failure.code.code())
                    .with_error_message(failure.message.map(text)),
            }
        });
        let response = CreatePartitionsResponse::default().with_results(results.collect());
        self.reply_to.frame(&response)
    }
}

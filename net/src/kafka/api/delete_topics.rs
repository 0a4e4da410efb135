//! DeleteTopics, versions 1 to 6: by name, since 6 also by id.

use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse};
use millrace_engine::command::{CatalogRequest, Command, TopicRef};
use millrace_engine::event::{Outcome, Refusal};

use super::{Call, Handled, Items, Reply, ReplyTo, Work, decode, text, topic_name};
use crate::kafka::errors::{ErrorCode, Failure};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: DeleteTopicsRequest = decode(call, request)?;
    let by_name = body.topic_names.iter();
    let by_name = by_name.map(|name| Some(TopicRef::Name(name.to_string())));
    let by_either = body.topics.iter().map(|topic| match &topic.name {
        Some(name) if topic.topic_id.is_nil() => Some(TopicRef::Name(name.to_string())),
        None if !topic.topic_id.is_nil() => Some(TopicRef::Id(topic.topic_id)),
        _ => None,
    });
    let asked: Vec<Option<TopicRef>> = by_name.chain(by_either).collect();
    let topics: Vec<TopicRef> = asked.iter().flatten().cloned().collect();
    let items = asked.into_iter().map(|asked| {
        let failure = asked.is_none().then(|| {
            let words = "a topic is named either by its name or by its id";
            Failure::new(ErrorCode::InvalidRequest, words)
        });
        (asked, failure)
    });
    let pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        items: Items::new(items.collect()),
    };
    if topics.is_empty() {
        return pending.finish().map(Handled::Reply);
    }
    let delete = CatalogRequest::DeleteTopics { topics };
    call.submit(0, Command::WriteCatalog(delete));
    Ok(Handled::Wait(Work::DeleteTopics(pending)))
}

/// A request whose topics are being deleted.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    items: Items<Option<TopicRef>>,
}

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        self.items.take(outcome);
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let version = self.reply_to.version;
        let responses = self.items.into_results().map(|(asked, result)| {
            let mut described = DeletableTopicResult::default();
            let is_by_id = matches!(asked, Some(TopicRef::Id(_)));
            match asked {
                Some(TopicRef::Name(name)) => described.name = Some(topic_name(&name)),
                Some(TopicRef::Id(id)) => described.topic_id = id,
                // Only version 6 can name both or neither, and it can name no name.
                None => {}
            }
            match result {
                Ok(answer) if version >= 6 => {
                    described.name = Some(topic_name(&answer.name));
                    described.topic_id = answer.id;
                }
                Ok(_) => {}
                Err(failure) => {
                    described.error_code = failure_code(&failure, is_by_id).code();
                    if version >= 5 {
                        described.error_message = failure.message.map(text);
                    }
                }
            }
            described
        });
        let response = DeleteTopicsResponse::default().with_responses(responses.collect());
        self.reply_to.frame(&response)
    }
}

fn failure_code(failure: &Failure, is_by_id: bool) -> ErrorCode {
    match failure.code {
        ErrorCode::UnknownTopicOrPartition if is_by_id => ErrorCode::UnknownTopicId,
        code => code,
    }
}

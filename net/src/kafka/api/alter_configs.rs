//! AlterConfigs, versions 0 to 2: replaces all settings of topics; what is not named goes back to
//! its default. Older clients know no other way to change a setting.

use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use millrace_engine::catalog::config::TopicOverrides;
use millrace_engine::command::{CatalogRequest, Command, ConfigAlteration, ConfigChange};
use millrace_engine::event::{Outcome, Refusal};

use super::{
    Call, Handled, Items, Reply, ReplyTo, Work, check_alterable, check_once, decode, text,
};
use crate::kafka::errors::{ErrorCode, Failure};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: AlterConfigsRequest = decode(call, request)?;
    let judged = body.resources.into_iter().map(|resource| {
        let judged = judge(&resource);
        ((resource.resource_type, resource.resource_name), judged)
    });
    let (items, topics) = Items::judged(judged);
    let reply_to = ReplyTo::new(call.config, request);
    let pending = Pending { reply_to, items };
    if topics.is_empty() {
        return pending.finish().map(Handled::Reply);
    }
    let alter = CatalogRequest::AlterTopicConfigs {
        topics,
        validate_only: body.validate_only,
    };
    call.submit(0, Command::WriteCatalog(alter));
    Ok(Handled::Wait(Work::AlterConfigs(pending)))
}

fn judge(resource: &AlterConfigsResource) -> Result<ConfigAlteration, Failure> {
    check_alterable(resource.resource_type)?;
    check_once(resource.configs.iter().map(|config| config.name.as_str()))?;
    let settings = resource.configs.iter().map(|config| {
        let words = || format!("{} has no value", config.name.as_str());
        let value = config.value.as_ref();
        let value = value.ok_or_else(|| Failure::new(ErrorCode::InvalidRequest, words()))?;
        Ok((config.name.as_str(), Some(value.as_str())))
    });
    let settings: Vec<_> = settings.collect::<Result<_, Failure>>()?;
    let overrides = TopicOverrides::parse(settings)?;
    Ok(ConfigAlteration {
        topic: resource.resource_name.to_string(),
        changes: vec![ConfigChange::ReplaceAll(overrides)],
    })
}

/// A request whose changes are under way.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    /// Resource type and name.
    items: Items<(i8, StrBytes)>,
}

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        self.items.take(outcome);
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let responses = self.items.into_results().map(|((kind, name), result)| {
            let described = AlterConfigsResourceResponse::default()
                .with_resource_type(kind)
                .with_resource_name(name)
                .with_error_message(None);
            match result {
                Ok(_) => described,
                Err(failure) => described
                    .with_error_code(failure.code.code())
                    .with_error_message(failure.message.map(text)),
            }
        });
        let response = AlterConfigsResponse::default().with_responses(responses.collect());
        self.reply_to.frame(&response)
    }
}

//! IncrementalAlterConfigs, versions 0 and 1: changes single settings of topics.

use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
use kafka_protocol::protocol::StrBytes;
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
    let body: IncrementalAlterConfigsRequest = decode(call, request)?;
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
    Ok(Handled::Wait(Work::IncrementalAlterConfigs(pending)))
}

fn judge(resource: &AlterConfigsResource) -> Result<ConfigAlteration, Failure> {
    check_alterable(resource.resource_type)?;
    check_once(resource.configs.iter().map(|config| config.name.as_str()))?;
    let changes: Result<_, Failure> = resource.configs.iter().map(change).collect();
    Ok(ConfigAlteration {
        topic: resource.resource_name.to_string(),
        changes: changes?,
    })
}

fn change(config: &AlterableConfig) -> Result<ConfigChange, Failure> {
    let name = config.name.to_string();
    let value = || {
        let value = config.value.as_ref().map(|value| value.to_string());
        let words = format!("{name} has no value");
        value.ok_or_else(|| Failure::new(ErrorCode::InvalidRequest, words))
    };
    Ok(match config.config_operation {
        0 => {
            let value = value()?;
            ConfigChange::Set { name, value }
        }
        1 => ConfigChange::Reset { name },
        operation @ (2 | 3) => {
            let values = value()?;
            ConfigChange::Amend {
                name,
                values,
                subtract: operation == 3,
            }
        }
        other => {
            let words = format!("{name}: operation {other} is unknown");
            return Err(Failure::new(ErrorCode::InvalidRequest, words));
        }
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
        let response = IncrementalAlterConfigsResponse::default();
        self.reply_to
            .frame(&response.with_responses(responses.collect()))
    }
}

//! AlterConfigs, versions 0 to 2, and IncrementalAlterConfigs, versions 0 and 1: topics' settings.
//! The one replaces all that a topic has, and what is not named goes back to its default: older
//! clients know no other way. The other changes single ones.

use std::collections::HashSet;

use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, alter_configs_request, alter_configs_response,
    incremental_alter_configs_request, incremental_alter_configs_response,
};
use kafka_protocol::protocol::StrBytes;
use millrace_engine::catalog::config::TopicOverrides;
use millrace_engine::command::{CatalogRequest, Command, ConfigAlteration, ConfigChange};
use millrace_engine::event::{Outcome, Refusal};

use super::{
    Call, Handled, Items, RESOURCE_BROKER, RESOURCE_TOPIC, Reply, ReplyTo, Work, clamped, decode,
    text,
};
use crate::kafka::config::KafkaConfig;
use crate::kafka::errors::{ErrorCode, Failure};
use crate::kafka::frame::Request;
use crate::kafka::versions::Api;
use crate::session::ProtocolViolation;

/// Kafka's numbers of what is done to a setting.
const SET: i8 = 0;
const RESET: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// Serves AlterConfigs.
pub(super) fn replace(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: AlterConfigsRequest = decode(call, request)?;
    let config = call.config;
    let judged = body.resources.into_iter().map(|asked| {
        let resource = Resource::new(asked.resource_type, asked.resource_name);
        let names = asked.configs.iter().map(|setting| &setting.name);
        let checked = resource.check(names);
        let changes = checked.and_then(|()| Ok(vec![replacement(config, &asked.configs)?]));
        (resource, changes)
    });
    submit(call, request, judged, body.validate_only)
}

fn replacement(
    config: &KafkaConfig,
    configs: &[alter_configs_request::AlterableConfig],
) -> Result<ConfigChange, Failure> {
    let settings = configs.iter().map(|setting| {
        let value = some_value(&setting.name, setting.value.as_ref())?;
        let value = clamped(config, &setting.name, value);
        Ok((setting.name.as_str(), Some(value)))
    });
    let settings: Vec<_> = settings.collect::<Result<_, Failure>>()?;
    Ok(ConfigChange::ReplaceAll(TopicOverrides::parse(settings)?))
}

/// Serves IncrementalAlterConfigs.
pub(super) fn change(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: IncrementalAlterConfigsRequest = decode(call, request)?;
    let config = call.config;
    let judged = body.resources.into_iter().map(|asked| {
        let resource = Resource::new(asked.resource_type, asked.resource_name);
        let names = asked.configs.iter().map(|setting| &setting.name);
        let checked = resource.check(names);
        let changes = asked.configs.iter();
        let changes = changes.map(|setting| single_change(config, setting));
        let changes = checked.and_then(|()| changes.collect());
        (resource, changes)
    });
    submit(call, request, judged, body.validate_only)
}

fn single_change(
    config: &KafkaConfig,
    setting: &incremental_alter_configs_request::AlterableConfig,
) -> Result<ConfigChange, Failure> {
    let name = setting.name.to_string();
    let value = || some_value(&setting.name, setting.value.as_ref()).map(ToString::to_string);
    Ok(match setting.config_operation {
        SET => {
            let value = clamped(config, &name, &value()?).to_owned();
            ConfigChange::Set { name, value }
        }
        RESET => ConfigChange::Reset { name },
        operation @ (APPEND | SUBTRACT) => {
            let values = value()?;
            ConfigChange::Amend {
                name,
                values,
                subtract: operation == SUBTRACT,
            }
        }
        other => {
            let words = format!("{name}: operation {other} is unknown");
            return Err(Failure::new(ErrorCode::InvalidRequest, words));
        }
    })
}

fn some_value<'a>(name: &str, value: Option<&'a StrBytes>) -> Result<&'a StrBytes, Failure> {
    let words = || format!("{name} has no value");
    value.ok_or_else(|| Failure::new(ErrorCode::InvalidRequest, words()))
}

/// What settings belong to.
#[derive(Debug)]
struct Resource {
    kind: i8,
    name: StrBytes,
}

impl Resource {
    fn new(kind: i8, name: StrBytes) -> Self {
        Self { kind, name }
    }

    /// Whether it has settings that a client may change, and each is named once, which Kafka asks
    /// for.
    fn check<'a>(&self, mut names: impl Iterator<Item = &'a StrBytes>) -> Result<(), Failure> {
        match self.kind {
            RESOURCE_TOPIC => {}
            RESOURCE_BROKER => {
                let words = "the broker's settings are changed in its configuration file";
                return Err(Failure::new(ErrorCode::InvalidConfig, words));
            }
            other => {
                let words = format!("resource type {other} has no settings here");
                return Err(Failure::new(ErrorCode::InvalidRequest, words));
            }
        }
        let mut seen = HashSet::new();
        match names.find(|name| !seen.insert(*name)) {
            None => Ok(()),
            Some(name) => {
                let words = format!("{} is named twice", name.as_str());
                Err(Failure::new(ErrorCode::InvalidRequest, words))
            }
        }
    }
}

fn submit(
    call: &mut Call<'_>,
    request: &Request<'_>,
    judged: impl Iterator<Item = (Resource, Result<Vec<ConfigChange>, Failure>)>,
    validate_only: bool,
) -> Result<Handled, ProtocolViolation> {
    let judged = judged.map(|(resource, changes)| {
        let topic = resource.name.to_string();
        let alteration = changes.map(|changes| ConfigAlteration { topic, changes });
        (resource, alteration)
    });
    let (items, topics) = Items::judged(judged);
    let reply_to = ReplyTo::new(call.config, request);
    let pending = Pending { reply_to, items };
    if topics.is_empty() {
        return pending.finish(call).map(Handled::Reply);
    }
    let alter = CatalogRequest::AlterTopicConfigs {
        topics,
        validate_only,
    };
    call.submit(0, Command::WriteCatalog(alter));
    Ok(Handled::Wait(Work::AlterConfigs(pending)))
}

/// A request whose changes are under way.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    items: Items<Resource>,
}

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        self.items.take(outcome);
    }

    pub(super) fn finish(self, call: &mut Call<'_>) -> Result<Reply, ProtocolViolation> {
        self.items
            .log_refused(call, "a change of", |resource| resource.name.as_str());
        let results = self.items.into_results().map(|(resource, result)| {
            let failure = result.err();
            (resource, failure.unwrap_or(Failure::bare(ErrorCode::None)))
        });
        if self.reply_to.api == Api::AlterConfigs {
            let responses = results.map(|(resource, Failure { code, message })| {
                alter_configs_response::AlterConfigsResourceResponse::default()
                    .with_resource_type(resource.kind)
                    .with_resource_name(resource.name)
                    .with_error_code(code.code())
                    .with_error_message(message.map(text))
            });
            let response = AlterConfigsResponse::default();
            let response = response.with_responses(responses.collect());
            return self.reply_to.frame(&response);
        }
        let responses = results.map(|(resource, Failure { code, message })| {
            incremental_alter_configs_response::AlterConfigsResourceResponse::default()
                .with_resource_type(resource.kind)
                .with_resource_name(resource.name)
                .with_error_code(code.code())
                .with_error_message(message.map(text))
        });
        let response = IncrementalAlterConfigsResponse::default();
        let response = response.with_responses(responses.collect());
        self.reply_to.frame(&response)
    }
}

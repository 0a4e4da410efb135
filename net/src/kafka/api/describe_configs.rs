//! DescribeConfigs, versions 1 to 4: the settings of topics and of the broker.

mod synonyms;

use std::collections::HashSet;

use kafka_protocol::messages::DescribeConfigsRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use millrace_engine::catalog::config::{SettingSource, SettingView, describe};
use millrace_engine::catalog::names::check_topic_name;
use millrace_engine::catalog::settings::{Setting, SettingType};

use super::{
    Call, Handled, RESOURCE_BROKER, RESOURCE_BROKER_LOGGER, RESOURCE_CLIENT_METRICS,
    RESOURCE_GROUP, RESOURCE_TOPIC, ReplyTo, decode, source_code, text,
};
use crate::kafka::cluster;
use crate::kafka::config::{BrokerSetting, BrokerValue};
use crate::kafka::errors::{ErrorCode, Failure, error_code};
use crate::kafka::frame::Request;
use crate::session::{Node, ProtocolViolation};

/// First version with types and explanations.
const VERSION_TYPES_MIN: i16 = 3;

/// What a client wants to know of each setting.
#[derive(Clone, Copy, Debug)]
struct Detail {
    version: i16,
    synonyms: bool,
    documentation: bool,
}

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: DescribeConfigsRequest = decode(call, request)?;
    let detail = Detail {
        version: request.version,
        synonyms: body.include_synonyms,
        documentation: body.include_documentation,
    };
    let reply_to = ReplyTo::new(call.config, request);
    let resources = once_each(body.resources).into_iter();
    let results = resources.map(|resource| describe_resource(call, resource, detail));
    reply_to.frame_of_items(results).map(Handled::Reply)
}

/// A resource that is named again, with the same settings asked for, is described once. As with
/// Kafka an empty list of settings asks for all.
fn once_each(mut resources: Vec<DescribeConfigsResource>) -> Vec<DescribeConfigsResource> {
    for resource in &mut resources {
        resource.configuration_keys.take_if(|keys| keys.is_empty());
    }
    let mut seen = HashSet::new();
    resources.retain(|resource| {
        let keys = resource.configuration_keys.clone();
        seen.insert((resource.resource_type, resource.resource_name.clone(), keys))
    });
    resources
}

fn describe_resource(
    call: &Call<'_>,
    resource: DescribeConfigsResource,
    detail: Detail,
) -> DescribeConfigsResult {
    let result = settings(call, &resource, detail);
    let described = DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name)
        .with_error_message(None);
    match result {
        Ok(settings) => described.with_configs(settings),
        Err(failure) => described
            .with_error_code(failure.code.code())
            .with_error_message(failure.message.map(text)),
    }
}

fn settings(
    call: &Call<'_>,
    resource: &DescribeConfigsResource,
    detail: Detail,
) -> Result<Vec<DescribeConfigsResourceResult>, Failure> {
    let name = resource.resource_name.as_str();
    let keys: Option<HashSet<&str>> = resource
        .configuration_keys
        .as_ref()
        .map(|keys| keys.iter().map(|key| key.as_str()).collect());
    let is_wanted = |name: &str| keys.as_ref().is_none_or(|keys| keys.contains(name));
    match resource.resource_type {
        RESOURCE_TOPIC => {
            check_topic_name(name)
                .map_err(|refusal| Failure::new(error_code(&refusal), refusal.to_string()))?;
            let topic = call.sink.catalog().topic(name);
            let topic = topic.ok_or(Failure::bare(ErrorCode::UnknownTopicOrPartition))?;
            let all = describe(&topic.overrides, &call.config.topic_defaults);
            let wanted = all.filter(|setting| is_wanted(setting.name));
            Ok(wanted
                .map(|setting| topic_setting(&setting, detail))
                .collect())
        }
        // What holds for all brokers unless they say otherwise can be set at run time alone, which
        // nothing here can.
        RESOURCE_BROKER if name.is_empty() => Ok(Vec::new()),
        RESOURCE_BROKER => {
            let node = node(call, name)?;
            let all = call.config.broker_settings.iter();
            let wanted = all.filter(|setting| is_wanted(setting.name));
            Ok(wanted
                .map(|setting| broker_setting(call, node, setting, detail))
                .collect())
        }
        // As with Kafka, a subscription that is not there has no settings, and that is no error.
        RESOURCE_CLIENT_METRICS if !name.is_empty() => Ok(Vec::new()),
        other => Err(Failure::new(ErrorCode::InvalidRequest, no_settings(other))),
    }
}

fn no_settings(resource_type: i8) -> String {
    match resource_type {
        RESOURCE_CLIENT_METRICS => "a subscription of client metrics has a name".to_owned(),
        RESOURCE_BROKER_LOGGER => "loggers have no settings here".to_owned(),
        RESOURCE_GROUP => "groups have no settings of their own here".to_owned(),
        other => format!("resource type {other} has no settings here"),
    }
}

/// The node of that name.
fn node<'a>(call: &'a Call<'_>, name: &str) -> Result<&'a Node, Failure> {
    let mut nodes = call.sink.cluster().nodes.iter();
    let found = nodes.find(|node| node.id.to_string() == name);
    found.ok_or_else(|| Failure::new(ErrorCode::InvalidRequest, "no such broker"))
}

fn topic_setting(setting: &SettingView, detail: Detail) -> DescribeConfigsResourceResult {
    let mut described = DescribeConfigsResourceResult::default()
        .with_name(text(setting.name))
        .with_value(Some(text(setting.value.as_str())))
        .with_read_only(setting.read_only())
        .with_config_source(source_code(setting.source));
    if detail.synonyms {
        described.synonyms = topic_synonyms(setting);
    }
    if detail.version >= VERSION_TYPES_MIN {
        described.config_type = type_code(setting.kind);
        described.documentation = detail.documentation.then(|| text(setting.doc));
    }
    described
}

/// The topic's own value if it has one, the broker's if that is set, and the built-in one: the
/// first is in force.
fn topic_synonyms(setting: &SettingView) -> Vec<DescribeConfigsSynonym> {
    let name = synonyms::of_broker(setting.name);
    let mut all = Vec::with_capacity(3);
    if setting.source == SettingSource::Topic {
        all.push(synonym(setting.name, &setting.value, setting.source));
    }
    let (inherited, from) = &setting.inherited;
    if *from == SettingSource::Broker {
        all.push(synonym(name, inherited, *from));
    }
    let built_in = Setting::find(setting.name).map_or("", |setting| setting.default);
    all.push(synonym(name, built_in, SettingSource::BuiltIn));
    all
}

fn synonym(name: &str, value: &str, source: SettingSource) -> DescribeConfigsSynonym {
    DescribeConfigsSynonym::default()
        .with_name(text(name))
        .with_value(Some(text(value)))
        .with_source(source_code(source))
}

fn broker_setting(
    call: &Call<'_>,
    node: &Node,
    setting: &BrokerSetting,
    detail: Detail,
) -> DescribeConfigsResourceResult {
    let value = broker_value(call, node, &setting.value);
    let default = setting.default.as_ref();
    let source = match default {
        Some(_) => SettingSource::Broker,
        None => SettingSource::BuiltIn,
    };
    let mut described = DescribeConfigsResourceResult::default()
        .with_name(text(setting.name))
        .with_value(Some(text(value.as_str())))
        .with_read_only(true)
        .with_config_source(source_code(source));
    if detail.synonyms {
        let default = default.map(|default| broker_value(call, node, default));
        let default = default.map(|value| synonym(setting.name, &value, SettingSource::BuiltIn));
        let own = synonym(setting.name, &value, source);
        described.synonyms = std::iter::once(own).chain(default).collect();
    }
    if detail.version >= VERSION_TYPES_MIN {
        described.config_type = type_code(setting.kind);
        described.documentation = detail.documentation.then(|| text(setting.doc.as_str()));
    }
    described
}

fn broker_value(call: &Call<'_>, node: &Node, value: &BrokerValue) -> String {
    match value {
        BrokerValue::Same(value) => value.clone(),
        BrokerValue::NodeId => node.id.to_string(),
        BrokerValue::Listeners(addresses) => {
            let nodes = call.sink.cluster().nodes.iter().zip(addresses);
            let mut own = nodes.filter(|(known, _)| known.id == node.id);
            own.next().map_or(String::new(), |(_, address)| {
                format!("PLAINTEXT://{address}")
            })
        }
        BrokerValue::Advertised => {
            let host = cluster::host(node, call.sink.addresses());
            let brackets = if host.contains(':') {
                ("[", "]")
            } else {
                ("", "")
            };
            format!(
                "PLAINTEXT://{}{host}{}:{}",
                brackets.0, brackets.1, node.port
            )
        }
    }
}

/// Kafka's number of a type.
fn type_code(kind: SettingType) -> i8 {
    match kind {
        SettingType::Boolean => 1,
        SettingType::String => 2,
        SettingType::Int => 3,
        SettingType::Long => 5,
        SettingType::Double => 6,
        SettingType::List => 7,
    }
}

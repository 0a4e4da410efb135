//! The broker's own settings as Kafka's tools know them: names of Kafka's with the values in force.
//!
//! What is here has an effect in this broker, or says truly what it always does. A setting of
//! Kafka's that means nothing here is left out: tools take that for "not told".

use std::net::SocketAddr;

use millrace_engine::catalog::settings::{Setting, SettingType};
use millrace_net::kafka::{BrokerSetting, BrokerValue, RELEASE};

use super::translate;
use crate::config::{Config, Place, Resolved};

/// A setting of Kafka's that one of ours stands behind.
struct Told {
    name: &'static str,
    /// Our setting: it says whether the configuration sets it.
    behind: &'static str,
    kind: SettingType,
    value: fn(&Config) -> String,
}

/// All settings, in name order. `listeners` has the address that each node listens on.
pub(super) fn broker_settings(resolved: &Resolved, listeners: &[SocketAddr]) -> Vec<BrokerSetting> {
    let told = TOLD.iter().map(|told| {
        let same = |config: &Config| BrokerValue::Same((told.value)(config));
        setting(resolved, told.name, told.behind, told.kind, same)
    });
    let fixed = FIXED.iter().map(|(name, kind, value)| BrokerSetting {
        name,
        kind: *kind,
        doc: "What this broker always does.".to_owned(),
        value: BrokerValue::Same((*value).to_owned()),
        default: None,
    });
    let of_nodes = [
        ("broker.id", SettingType::Int, BrokerValue::NodeId),
        ("node.id", SettingType::Int, BrokerValue::NodeId),
    ];
    let of_nodes = of_nodes.map(|(name, kind, value)| BrokerSetting {
        name,
        kind,
        doc: "The node's number: that of its shard, from 1 on.".to_owned(),
        value,
        default: None,
    });
    let advertised = setting(
        resolved,
        "advertised.listeners",
        "listeners.kafka.advertised_host",
        SettingType::String,
        |_| BrokerValue::Advertised,
    );
    let listeners = setting(
        resolved,
        "listeners",
        "listeners.kafka.address",
        SettingType::String,
        |_| BrokerValue::Listeners(listeners.to_vec()),
    );
    let mut all: Vec<BrokerSetting> = told.chain(fixed).chain(of_nodes).collect();
    all.extend([advertised, listeners]);
    all.sort_unstable_by_key(|setting| setting.name);
    all
}

fn setting(
    resolved: &Resolved,
    name: &'static str,
    behind: &str,
    kind: SettingType,
    value: impl Fn(&Config) -> BrokerValue,
) -> BrokerSetting {
    let is_set = *resolved.place(behind) != Place::Default;
    let meaning = resolved.meaning(behind);
    let meaning = meaning.expect("what stands behind is a setting");
    BrokerSetting {
        name,
        kind,
        doc: format!("{meaning} Set by {behind} in the configuration file."),
        value: value(&resolved.config),
        default: is_set.then(|| value(&Config::default())),
    }
}

/// What a topic has unless it sets its own, by the name of the topic's setting.
fn of_topics(config: &Config, name: &str) -> String {
    let setting = Setting::find(name).expect("a topic's setting");
    translate::engine(config).topic_defaults.value(setting)
}

const TOLD: &[Told] = &[
    Told {
        name: "auto.create.topics.enable",
        behind: "topics.auto_create",
        kind: SettingType::Boolean,
        value: |config| config.topics.auto_create.to_string(),
    },
    Told {
        name: "connections.max.idle.ms",
        behind: "limits.idle_timeout_ms",
        kind: SettingType::Long,
        value: |config| config.limits.idle_timeout_ms.to_string(),
    },
    Told {
        name: "fetch.max.bytes",
        behind: "listeners.kafka.fetch_bytes_max",
        kind: SettingType::Int,
        value: |config| config.kafka.fetch_bytes_max.to_string(),
    },
    Told {
        name: "log.dirs",
        behind: "server.data_dir",
        kind: SettingType::String,
        value: |config| config.server.data_dir.display().to_string(),
    },
    Told {
        name: "log.message.timestamp.type",
        behind: "topics.log_append_time",
        kind: SettingType::String,
        value: |config| of_topics(config, "message.timestamp.type"),
    },
    Told {
        name: "log.retention.bytes",
        behind: "topics.retention_bytes",
        kind: SettingType::Long,
        value: |config| of_topics(config, "retention.bytes"),
    },
    Told {
        name: "log.retention.check.interval.ms",
        behind: "settle.retention_check_ms",
        kind: SettingType::Long,
        value: |config| config.settle.retention_check_ms.to_string(),
    },
    Told {
        name: "log.retention.ms",
        behind: "topics.retention_ms",
        kind: SettingType::Long,
        value: |config| of_topics(config, "retention.ms"),
    },
    Told {
        name: "message.max.bytes",
        behind: "topics.max_message_bytes",
        kind: SettingType::Int,
        value: |config| config.topics.max_message_bytes.to_string(),
    },
    Told {
        name: "num.partitions",
        behind: "topics.partitions",
        kind: SettingType::Int,
        value: |config| config.topics.partitions.to_string(),
    },
    Told {
        name: "producer.id.expiration.ms",
        behind: "limits.producer_expiry_ms",
        kind: SettingType::Int,
        value: |config| config.limits.producer_expiry_ms.to_string(),
    },
    Told {
        name: "socket.request.max.bytes",
        behind: "listeners.kafka.request_bytes_max",
        kind: SettingType::Int,
        value: |config| config.kafka.request_bytes_max.to_string(),
    },
];

/// What cannot be set: how this broker always is.
const FIXED: &[(&str, SettingType, &str)] = &[
    ("authorizer.class.name", SettingType::String, ""),
    (
        "auto.leader.rebalance.enable",
        SettingType::Boolean,
        "false",
    ),
    ("compression.type", SettingType::String, "producer"),
    ("controlled.shutdown.enable", SettingType::Boolean, "false"),
    ("default.replication.factor", SettingType::Int, "1"),
    ("delete.topic.enable", SettingType::Boolean, "true"),
    // For tools that choose what to show by it.
    (
        "inter.broker.protocol.version",
        SettingType::String,
        RELEASE,
    ),
    ("log.cleanup.policy", SettingType::List, "delete"),
    // Every acknowledged message is synced.
    ("log.flush.interval.messages", SettingType::Long, "1"),
    ("min.insync.replicas", SettingType::Int, "1"),
    (
        "unclean.leader.election.enable",
        SettingType::Boolean,
        "false",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flag, Sources};

    fn find<'a>(settings: &'a [BrokerSetting], name: &str) -> &'a BrokerSetting {
        let found = settings.iter().find(|setting| setting.name == name);
        found.unwrap_or_else(|| panic!("{name} is told"))
    }

    #[test]
    fn values_are_those_in_force_and_say_whether_they_were_set() {
        let flag = |name: &str, value: &str| Flag {
            flag: "--set",
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let resolved = Resolved::from_sources(&Sources {
            flags: vec![
                flag("topics.retention_bytes", "1GiB"),
                flag("topics.log_append_time", "true"),
                flag("topics.partitions", "1"),
                flag("listeners.kafka.address", "127.0.0.1:0"),
            ],
            ..Sources::default()
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 4_321));
        let settings = broker_settings(&resolved.expect("good"), &[address]);
        assert!(settings.is_sorted_by(|a, b| a.name < b.name), "once each");
        let same = |text: &str| BrokerValue::Same(text.to_owned());
        for (name, value, default) in [
            ("log.retention.bytes", "1073741824", Some("-1")),
            (
                "log.message.timestamp.type",
                "LogAppendTime",
                Some("CreateTime"),
            ),
            ("num.partitions", "1", Some("1")),
            ("log.retention.ms", "604800000", None),
            ("message.max.bytes", "1048588", None),
            ("min.insync.replicas", "1", None),
        ] {
            let setting = find(&settings, name);
            assert_eq!(setting.value, same(value), "{name}");
            assert_eq!(setting.default, default.map(same), "{name}");
        }
        let listeners = find(&settings, "listeners");
        assert_eq!(listeners.value, BrokerValue::Listeners(vec![address]));
        assert!(listeners.default.is_some());
        assert_eq!(find(&settings, "advertised.listeners").default, None);
        let doc = &find(&settings, "log.retention.ms").doc;
        let ours = "Set by topics.retention_ms in the configuration file.";
        assert!(doc.ends_with(ours) && doc.len() > ours.len() + 10, "{doc}");
    }

    #[test]
    fn what_stands_behind_is_a_setting() {
        let resolved = Resolved::default();
        let names: Vec<String> = resolved.settings().map(|(name, ..)| name).collect();
        for told in TOLD {
            assert!(
                names.iter().any(|name| name == told.behind),
                "{}",
                told.behind
            );
        }
    }
}

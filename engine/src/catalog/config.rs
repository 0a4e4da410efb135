//! Topic settings at work: what a topic overrides, what the broker defaults to, what comes of it.

use std::collections::BTreeMap;

use super::settings::{SETTINGS, Setting, SettingType};
use crate::command::ConfigChange;
use crate::event::Refusal;

/// A topic's settings that differ from the broker's, by Kafka's name, checked and in canonical
/// form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicOverrides(BTreeMap<&'static str, String>);

impl TopicOverrides {
    /// Checks settings as a client names them.
    ///
    /// # Errors
    /// [`Refusal::InvalidConfig`] for an unknown name, a value out of its range, or none.
    pub fn parse<'a>(
        settings: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Result<Self, Refusal> {
        let mut overrides = Self::default();
        for (name, value) in settings {
            let Some(value) = value else {
                return Err(Refusal::InvalidConfig(format!("{name} has no value")));
            };
            overrides.set(name, value)?;
        }
        Ok(overrides)
    }

    /// The settings in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value set for `name`, if one is.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// These settings after `changes`, which are judged as a whole.
    ///
    /// # Errors
    /// [`Refusal::InvalidConfig`], naming the first change that cannot be made.
    pub fn changed(&self, changes: &[ConfigChange]) -> Result<Self, Refusal> {
        let mut after = self.clone();
        for change in changes {
            match change {
                ConfigChange::Set { name, value } => after.set(name, value)?,
                // One that is not known is at its default already: tools take away what they set
                // on other brokers.
                ConfigChange::Reset { name } => {
                    after.0.remove(name.as_str());
                }
                ConfigChange::Amend {
                    name,
                    values,
                    subtract,
                } => after.amend(name, values, *subtract)?,
                ConfigChange::ReplaceAll(overrides) => after = overrides.clone(),
            }
        }
        Ok(after)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        let setting = known(name)?;
        let value = setting.check(value).map_err(Refusal::InvalidConfig)?;
        self.0.insert(setting.name, value);
        Ok(())
    }

    fn amend(&mut self, name: &str, values: &str, subtract: bool) -> Result<(), Refusal> {
        let setting = known(name)?;
        if setting.kind() != SettingType::List {
            return Err(Refusal::InvalidConfig(format!("{name} is not a list")));
        }
        let current = self.get(name).unwrap_or(setting.default);
        let named: Vec<&str> = values.split(',').map(str::trim).collect();
        let mut words: Vec<&str> = current.split(',').collect();
        if subtract {
            words.retain(|word| !named.contains(word));
        } else {
            words.extend(named);
        }
        if words.is_empty() {
            return Err(Refusal::InvalidConfig(format!("{name} would be empty")));
        }
        let value = words.join(",");
        self.set(name, &value)
    }
}

fn known(name: &str) -> Result<&'static Setting, Refusal> {
    Setting::find(name)
        .ok_or_else(|| Refusal::InvalidConfig(format!("unknown topic setting {name:?}")))
}

/// The broker's defaults for topics: what the configuration file can set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDefaults {
    /// `max.message.bytes`. Default 1,048,588; at most `i32::MAX`.
    pub message_bytes_max: usize,
    /// `message.timestamp.type = LogAppendTime`. Default false.
    pub append_time: bool,
    /// `message.timestamp.before.max.ms`. Default no bound.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`. Default one hour.
    pub timestamp_after_max_ms: i64,
    /// `retention.ms`; `None` keeps for ever. Default seven days.
    pub retention_ms: Option<u64>,
    /// `retention.bytes` of each partition; `None` is no limit, the default.
    pub retention_bytes: Option<u64>,
    /// `segment.bytes`. Default 1 GiB; at most `i32::MAX`.
    pub segment_bytes: u64,
}

impl Default for TopicDefaults {
    fn default() -> Self {
        Self::from_texts(|name| Setting::find(name).expect("a setting of the table").default)
    }
}

impl TopicDefaults {
    /// Reads the settings that have an effect; `text` gives canonical values.
    fn from_texts<'a>(text: impl Fn(&str) -> &'a str) -> Self {
        let number = |name: &str| -> i64 { text(name).parse().expect("canonical values parse") };
        Self {
            message_bytes_max: usize::try_from(number("max.message.bytes"))
                .expect("checked not to be negative"),
            append_time: text("message.timestamp.type") == "LogAppendTime",
            timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
            // -1 is the only negative value: no limit.
            retention_ms: u64::try_from(number("retention.ms")).ok(),
            retention_bytes: u64::try_from(number("retention.bytes")).ok(),
            segment_bytes: u64::try_from(number("segment.bytes"))
                .expect("checked not to be negative"),
        }
    }

    /// The value that a topic has for `setting` unless it sets its own.
    #[must_use]
    pub fn value(&self, setting: &Setting) -> String {
        let limit = |value: Option<u64>| value.map_or("-1".to_owned(), |some| some.to_string());
        match setting.name {
            "max.message.bytes" => self.message_bytes_max.to_string(),
            "message.timestamp.type" if self.append_time => "LogAppendTime".to_owned(),
            "message.timestamp.type" => "CreateTime".to_owned(),
            "message.timestamp.before.max.ms" => self.timestamp_before_max_ms.to_string(),
            "message.timestamp.after.max.ms" => self.timestamp_after_max_ms.to_string(),
            "retention.ms" => limit(self.retention_ms),
            "retention.bytes" => limit(self.retention_bytes),
            "segment.bytes" => self.segment_bytes.to_string(),
            _ => setting.default.to_owned(),
        }
    }
}

/// A topic's settings in force: its own over the broker's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings(TopicDefaults);

impl TopicSettings {
    /// What `overrides` and `defaults` come to.
    #[must_use]
    pub fn resolve(overrides: &TopicOverrides, defaults: &TopicDefaults) -> Self {
        if overrides.is_empty() {
            return Self(defaults.clone());
        }
        let texts: BTreeMap<&str, String> = SETTINGS
            .iter()
            .map(|setting| match overrides.get(setting.name) {
                Some(value) => (setting.name, value.to_owned()),
                None => (setting.name, defaults.value(setting)),
            })
            .collect();
        Self(TopicDefaults::from_texts(|name| texts[name].as_str()))
    }
}

impl std::ops::Deref for TopicSettings {
    type Target = TopicDefaults;
    fn deref(&self) -> &TopicDefaults {
        &self.0
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingSource {
    /// The topic's own.
    Topic,
    /// The broker's configuration.
    Broker,
    /// Built in.
    BuiltIn,
}

/// A setting of one topic, as tools show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingView {
    /// Kafka's name.
    pub name: &'static str,
    /// The value in force.
    pub value: String,
    /// Where it comes from.
    pub source: SettingSource,
    /// Its type.
    pub kind: SettingType,
    /// What it does.
    pub doc: &'static str,
    /// The value without the topic's own, and where that one comes from.
    pub inherited: (String, SettingSource),
}

impl SettingView {
    /// Whether the topic does not set it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.source != SettingSource::Topic
    }

    /// Whether tools may not change it: none of a topic's is.
    #[must_use]
    pub fn read_only(&self) -> bool {
        false
    }
}

/// Every setting of a topic, in name order.
pub fn describe<'a>(
    overrides: &'a TopicOverrides,
    defaults: &'a TopicDefaults,
) -> impl Iterator<Item = SettingView> + 'a {
    SETTINGS.iter().map(|setting| {
        let value = defaults.value(setting);
        let source = if value == setting.default {
            SettingSource::BuiltIn
        } else {
            SettingSource::Broker
        };
        let inherited = (value, source);
        let (value, source) = match overrides.get(setting.name) {
            Some(own) => (own.to_owned(), SettingSource::Topic),
            None => inherited.clone(),
        };
        SettingView {
            name: setting.name,
            value,
            source,
            kind: setting.kind(),
            doc: setting.doc,
            inherited,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(settings: &[(&str, &str)]) -> TopicOverrides {
        TopicOverrides::parse(settings.iter().map(|(name, value)| (*name, Some(*value))))
            .expect("valid")
    }

    #[test]
    fn a_topics_own_settings_go_before_the_brokers() {
        let defaults = TopicDefaults {
            retention_ms: None,
            ..TopicDefaults::default()
        };
        let own = overrides(&[("retention.bytes", "100"), ("flush.ms", "1")]);
        let settings = TopicSettings::resolve(&own, &defaults);
        assert_eq!(settings.retention_bytes, Some(100));
        assert_eq!(settings.retention_ms, None);
        assert_eq!(settings.message_bytes_max, 1_048_588);
        assert_eq!(
            TopicSettings::resolve(&TopicOverrides::default(), &defaults).retention_ms,
            None
        );
    }

    #[test]
    fn every_setting_is_described_with_its_source() {
        let defaults = TopicDefaults {
            append_time: true,
            ..TopicDefaults::default()
        };
        let own = overrides(&[("retention.ms", "-1")]);
        let views: Vec<SettingView> = describe(&own, &defaults).collect();
        assert_eq!(views.len(), SETTINGS.len());
        let view = |name: &str| views.iter().find(|view| view.name == name).expect("there");
        assert_eq!(view("retention.ms").source, SettingSource::Topic);
        assert_eq!(view("retention.ms").inherited.0, "604800000");
        assert_eq!(view("message.timestamp.type").source, SettingSource::Broker);
        assert_eq!(view("message.timestamp.type").value, "LogAppendTime");
        assert!(view("segment.bytes").is_default());
        assert_eq!(view("segment.bytes").source, SettingSource::BuiltIn);
    }

    #[test]
    fn changes_are_judged_as_a_whole() {
        let before = overrides(&[("retention.ms", "5"), ("flush.ms", "6")]);
        let set = |name: &str, value: &str| ConfigChange::Set {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let reset = ConfigChange::Reset {
            name: "flush.ms".to_owned(),
        };
        let after = before
            .changed(&[set("retention.ms", "7"), reset])
            .expect("valid");
        assert_eq!(after, overrides(&[("retention.ms", "7")]));
        let unknown = ConfigChange::Reset {
            name: "no.such".to_owned(),
        };
        assert_eq!(before.changed(&[unknown]), Ok(before.clone()));
        let bad = before.changed(&[set("retention.ms", "7"), set("no.such", "1")]);
        assert!(matches!(bad, Err(Refusal::InvalidConfig(why)) if why.contains("no.such")));
        let replaced = before.changed(&[ConfigChange::ReplaceAll(TopicOverrides::default())]);
        assert_eq!(replaced, Ok(TopicOverrides::default()));
    }

    #[test]
    fn lists_can_be_amended_and_nothing_else() {
        let amend = |name: &str, values: &str, subtract| {
            TopicOverrides::default().changed(&[ConfigChange::Amend {
                name: name.to_owned(),
                values: values.to_owned(),
                subtract,
            }])
        };
        assert_eq!(
            amend("cleanup.policy", "delete", false),
            Ok(overrides(&[("cleanup.policy", "delete")]))
        );
        assert!(amend("cleanup.policy", "compact", false).is_err());
        assert!(amend("cleanup.policy", "delete", true).is_err());
        assert!(amend("retention.ms", "1", false).is_err());
        assert!(TopicOverrides::parse([("retention.ms", None)]).is_err());
    }
}

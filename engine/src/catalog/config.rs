//! Topic settings: the names that Kafka's tools use, their types, ranges and defaults.

use std::collections::BTreeMap;

/// A topic's settings that differ from the broker's, by Kafka's name, checked and in canonical
/// form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicOverrides(BTreeMap<&'static str, String>);

impl TopicOverrides {
    /// The settings in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// The value set for `name`, if one is.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

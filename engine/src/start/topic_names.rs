//! Topics as a refusal names them.

use std::collections::BTreeSet;
use std::fmt;

use millrace_storage::units::PartitionId;

use crate::catalog::Catalog;

/// Names in one message at most.
const SHOWN_MAX: usize = 20;

/// The topics of some partitions, as far as the catalog is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicNames {
    names: BTreeSet<String>,
    /// Partitions that the catalog does not know, or not any more.
    unknown: usize,
}

impl TopicNames {
    pub(super) fn of(partitions: &[PartitionId], catalog: &Catalog) -> Self {
        let mut topics = Self::default();
        for partition in partitions {
            match catalog.place(*partition) {
                Some(place) => {
                    topics.names.insert(place.topic.to_string());
                }
                None => topics.unknown += 1,
            }
        }
        topics
    }
}

impl fmt::Display for TopicNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.names.iter().take(SHOWN_MAX).cloned().collect();
        if self.names.len() > SHOWN_MAX {
            parts.push(format!("{} more", self.names.len() - SHOWN_MAX));
        }
        if self.unknown > 0 {
            parts.push(format!("{} partitions of no known topic", self.unknown));
        }
        match parts.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&parts.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_some_topics_and_counts_the_rest() {
        let named = |names: std::ops::Range<usize>, unknown| {
            let names = names.map(|number| format!("t{number:02}")).collect();
            TopicNames { names, unknown }.to_string()
        };
        assert_eq!(named(0..0, 0), "none");
        assert_eq!(named(0..2, 3), "t00, t01, 3 partitions of no known topic");
        assert!(named(0..25, 0).ends_with("t19, 5 more"));
    }
}

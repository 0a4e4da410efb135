//! Which protocols the members of a group speak.
//!
//! Counted by name, as Kafka's coordinator does: names are the members' to choose and to heap up,
//! and comparing everybody's lists with one another would take as long as they like.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::request::GroupProtocol;

/// How many members speak each protocol.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Spoken {
    /// At least 1 each.
    speakers: BTreeMap<Arc<str>, usize>,
}

impl Spoken {
    /// A member speaks `protocols`.
    pub(super) fn add(&mut self, protocols: &[GroupProtocol]) {
        for name in distinct(protocols) {
            *self.speakers.entry(Arc::clone(name)).or_default() += 1;
        }
    }

    /// A member of which [`Self::add`] was told speaks them no longer.
    pub(super) fn take(&mut self, protocols: &[GroupProtocol]) {
        for name in distinct(protocols) {
            let left = self.speakers.get_mut(name).expect("it was added");
            *left -= 1;
            if *left == 0 {
                self.speakers.remove(name);
            }
        }
    }

    /// Whether all of `members` speak it.
    pub(super) fn is_common(&self, name: &str, members: usize) -> bool {
        self.speakers.get(name).copied().unwrap_or(0) == members
    }
}

/// A name that a member says twice is one protocol.
fn distinct(protocols: &[GroupProtocol]) -> BTreeSet<&Arc<str>> {
    protocols.iter().map(|protocol| &protocol.name).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn protocols(names: &[&str]) -> Vec<GroupProtocol> {
        let protocol = |name: &&str| GroupProtocol {
            name: Arc::from(*name),
            metadata: Bytes::new(),
        };
        names.iter().map(protocol).collect()
    }

    #[test]
    fn a_protocol_is_common_while_everybody_speaks_it() {
        let (one, other) = (protocols(&["a", "b", "a"]), protocols(&["b", "c"]));
        let mut spoken = Spoken::default();
        assert!(spoken.is_common("a", 0), "nobody objects");
        spoken.add(&one);
        assert!(spoken.is_common("a", 1) && !spoken.is_common("c", 1));
        spoken.add(&other);
        assert!(spoken.is_common("b", 2) && !spoken.is_common("a", 2));
        spoken.take(&one);
        assert!(spoken.is_common("c", 1) && !spoken.is_common("a", 1));
        spoken.take(&other);
        assert!(spoken.speakers.is_empty());
    }
}

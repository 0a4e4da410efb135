//! What a fetch reads: the partitions of one request, or those that a fetch session remembers.
//!
//! With a session (KIP-227) a client names its partitions once and then only what changes, and the
//! answer leaves out partitions with nothing new. A session lives on the connection that opened it
//! and dies with it: a client that comes back is told that its session is unknown and names
//! everything again.
//!
//! A session names its topics either by name or, since Fetch 13, by id, for as long as it lives
//! (KIP-516). One by id never moves on to a topic of the same name that was created later.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use millrace_engine::catalog::{Catalog, CatalogEpoch};
use millrace_engine::event::Fetched;
use millrace_storage::units::{LeaderEpoch, Offset, PartitionId};
use uuid::Uuid;

use super::errors::ErrorCode;
use super::topic_key::{TopicKey, partition_at};

/// What `advance` saw to.
const ONE_KIND: &str = "a session's topics are all named by what it began with";

/// Partitions to read, in the order in which they were first named.
#[derive(Debug)]
pub(crate) struct FetchSet {
    /// 0: no session, only the partitions of one request.
    id: i32,
    /// The epoch that the session's next request must carry.
    next_epoch: i32,
    entries: Vec<Entry>,
    /// Where in `entries` a topic's partition stands. `None` without a session.
    places: Option<Places>,
    /// Where the next answer begins, so that every partition has its turn at the front.
    start: usize,
    /// The catalog's state that the entries were looked up in.
    resolved_at: Option<CatalogEpoch>,
}

/// Places of entries by topic and partition. A session's topics are named by one of the two.
#[derive(Debug)]
enum Places {
    ByName(HashMap<Arc<str>, BTreeMap<i32, usize>>),
    ById(HashMap<Uuid, BTreeMap<i32, usize>>),
}

/// One partition.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) topic: TopicKey<Arc<str>>,
    pub(crate) index: i32,
    pub(crate) wanted: Wanted,
    /// What the catalog knows as that, or why it does not.
    pub(crate) partition: Result<PartitionId, ErrorCode>,
    /// High watermark and log start as last told to the client.
    told: Option<(Offset, Offset)>,
}

/// What a client says of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// First offset; negative is out of range.
    pub(crate) from: i64,
    /// The leader epoch that it believes in.
    pub(crate) leader_epoch: Option<LeaderEpoch>,
    /// Record bytes.
    pub(crate) bytes_max: usize,
}

impl FetchSet {
    /// Without a session: lives for one request.
    pub(crate) fn sessionless() -> Self {
        Self {
            id: 0,
            next_epoch: 0,
            entries: Vec::new(),
            places: None,
            start: 0,
            resolved_at: None,
        }
    }

    /// A new session. The id only has to differ from what a client may still hold from another
    /// connection or an earlier life of the broker: `nonce` comes from the clock.
    pub(crate) fn session(nonce: u64, has_ids: bool) -> Self {
        // Multiplying by an odd constant spreads neighbouring times over the upper bits.
        let spread = nonce.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let id = i32::try_from(spread).expect("31 bits").max(1);
        let places = if has_ids {
            Places::ById(HashMap::new())
        } else {
            Places::ByName(HashMap::new())
        };
        Self {
            id,
            next_epoch: 1,
            places: Some(places),
            ..Self::sessionless()
        }
    }

    /// The session's id, 0 without one.
    pub(crate) fn id(&self) -> i32 {
        self.id
    }

    /// Whether a session remembers the partitions.
    pub(crate) fn is_session(&self) -> bool {
        self.places.is_some()
    }

    /// Accepts the session's next request. `has_ids`: it names topics by id.
    ///
    /// # Errors
    /// The request is out of step, or it names topics by what the session does not.
    pub(crate) fn advance(&mut self, epoch: i32, has_ids: bool) -> Result<(), ErrorCode> {
        if epoch != self.next_epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if has_ids != matches!(self.places, Some(Places::ById(_))) {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        // Epochs run from 1 and skip 0 and -1, which mean other things.
        self.next_epoch = epoch.checked_add(1).unwrap_or(1);
        Ok(())
    }

    /// How many partitions there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The partition at `place`.
    pub(crate) fn entry(&self, place: usize) -> &Entry {
        &self.entries[place]
    }

    /// Adds a partition, or changes what is wanted of it.
    pub(crate) fn put(&mut self, topic: TopicKey<&str>, index: i32, wanted: Wanted) {
        let places = self.places.as_ref();
        if let Some(place) = places.and_then(|places| places.find(topic, index)) {
            self.entries[place].wanted = wanted;
            return;
        }
        // Partitions of a topic come together, so that they mostly share one name.
        let topic = match self.entries.last() {
            Some(last) if last.topic.borrowed() == topic => last.topic.clone(),
            _ => topic.shared(None),
        };
        if let Some(places) = &mut self.places {
            places.set(&topic, index, self.entries.len());
        }
        self.entries.push(Entry {
            topic,
            index,
            wanted,
            partition: Err(ErrorCode::UnknownTopicOrPartition),
            told: None,
        });
        self.resolved_at = None;
    }

    /// Forgets a partition.
    pub(crate) fn remove(&mut self, topic: TopicKey<&str>, index: i32) {
        let Some(places) = &mut self.places else {
            return;
        };
        let Some(place) = places.remove(topic, index) else {
            return;
        };
        self.entries.swap_remove(place);
        if let Some(moved) = self.entries.get(place) {
            places.set(&moved.topic, moved.index, place);
        }
    }

    /// Looks every partition up, if the catalog has changed since.
    pub(crate) fn resolve(&mut self, catalog: &Catalog) {
        if self.resolved_at == Some(catalog.epoch()) {
            return;
        }
        let mut last = None;
        for entry in &mut self.entries {
            let found = match &last {
                Some((key, found)) if *key == entry.topic => *found,
                _ => {
                    let found = entry.topic.find(catalog);
                    last = Some((entry.topic.clone(), found));
                    found
                }
            };
            let partition = found.and_then(|topic| partition_at(topic, entry.index));
            if entry.partition != partition {
                // Another partition under the same name: what was told is not about it.
                entry.partition = partition;
                entry.told = None;
            }
        }
        self.resolved_at = Some(catalog.epoch());
    }

    /// Every place once, beginning with the one whose turn it is.
    pub(crate) fn places_in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let count = self.entries.len();
        let start = if count == 0 { 0 } else { self.start % count };
        (start..count).chain(0..start)
    }

    /// Notes that `place` got records, so that those behind it come first the next time.
    pub(crate) fn served(&mut self, place: usize) {
        self.start = place + 1;
    }

    /// Notes what the client is about to be told; whether it is news to it.
    pub(crate) fn tell(&mut self, place: usize, fetched: &Fetched) -> bool {
        let told = Some((fetched.high_watermark, fetched.log_start));
        let entry = &mut self.entries[place];
        let is_news = entry.told != told || !fetched.batches.is_empty();
        entry.told = told;
        is_news
    }

    /// Notes that the client is told of a failure: the next success is news.
    pub(crate) fn tell_failure(&mut self, place: usize) {
        self.entries[place].told = None;
    }
}

impl Places {
    /// Where that partition stands.
    fn find(&self, topic: TopicKey<&str>, index: i32) -> Option<usize> {
        let places = match (self, topic) {
            (Self::ByName(topics), TopicKey::Name(name)) => topics.get(name),
            (Self::ById(topics), TopicKey::Id(id)) => topics.get(&id),
            _ => unreachable!("{ONE_KIND}"),
        };
        places?.get(&index).copied()
    }

    /// Notes where a partition stands by now.
    fn set(&mut self, topic: &TopicKey<Arc<str>>, index: i32, place: usize) {
        let places = match (self, topic) {
            (Self::ByName(topics), TopicKey::Name(name)) => {
                topics.entry(Arc::clone(name)).or_default()
            }
            (Self::ById(topics), TopicKey::Id(id)) => topics.entry(*id).or_default(),
            _ => unreachable!("{ONE_KIND}"),
        };
        places.insert(index, place);
    }

    /// Forgets a partition, and says where it stood.
    fn remove(&mut self, topic: TopicKey<&str>, index: i32) -> Option<usize> {
        match (self, topic) {
            (Self::ByName(topics), TopicKey::Name(name)) => {
                let places = topics.get_mut(name)?;
                let place = places.remove(&index)?;
                if places.is_empty() {
                    topics.remove(name);
                }
                Some(place)
            }
            (Self::ById(topics), TopicKey::Id(id)) => {
                let places = topics.get_mut(&id)?;
                let place = places.remove(&index)?;
                if places.is_empty() {
                    topics.remove(&id);
                }
                Some(place)
            }
            _ => unreachable!("{ONE_KIND}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(from: i64) -> Wanted {
        Wanted {
            from,
            leader_epoch: None,
            bytes_max: 1,
        }
    }

    fn contents(set: &FetchSet) -> Vec<(String, i32, i64)> {
        let entries = set.entries.iter();
        let mut all: Vec<_> = entries
            .map(|entry| (format!("{:?}", entry.topic), entry.index, entry.wanted.from))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_session_remembers_changes_and_forgets() {
        let mut set = FetchSet::session(12345, false);
        assert!(set.id() > 0);
        for index in 0..3 {
            set.put(TopicKey::Name("a"), index, wanted(0));
            set.put(TopicKey::Name("b"), index, wanted(0));
        }
        set.put(TopicKey::Name("a"), 1, wanted(7));
        set.remove(TopicKey::Name("a"), 0);
        set.remove(TopicKey::Name("b"), 2);
        set.remove(TopicKey::Name("b"), 2);
        set.remove(TopicKey::Name("c"), 0);
        set.put(TopicKey::Name("b"), 1, wanted(9));
        let expected = [("a", 1, 7), ("a", 2, 0), ("b", 0, 0), ("b", 1, 9)];
        let expected =
            expected.map(|(topic, index, from)| (format!("Name({topic:?})"), index, from));
        assert_eq!(contents(&set), expected);
        for (place, entry) in set.entries.iter().enumerate() {
            let places = set.places.as_ref().expect("a session");
            assert_eq!(
                places.find(entry.topic.borrowed(), entry.index),
                Some(place)
            );
        }
    }

    #[test]
    fn epochs_go_in_step_and_wrap_past_zero() {
        let mut set = FetchSet::session(1, false);
        assert_eq!(set.advance(1, false), Ok(()));
        assert_eq!(
            set.advance(1, false),
            Err(ErrorCode::InvalidFetchSessionEpoch)
        );
        assert_eq!(set.advance(2, false), Ok(()));
        set.next_epoch = i32::MAX;
        assert_eq!(set.advance(i32::MAX, false), Ok(()));
        assert_eq!(set.advance(1, false), Ok(()));
    }

    #[test]
    fn every_partition_has_its_turn_at_the_front() {
        let mut set = FetchSet::session(1, false);
        assert_eq!(set.places_in_turn().count(), 0);
        for index in 0..3 {
            set.put(TopicKey::Name("a"), index, wanted(0));
        }
        assert!(set.places_in_turn().eq([0, 1, 2]));
        set.served(0);
        assert!(set.places_in_turn().eq([1, 2, 0]));
        set.served(2);
        assert!(set.places_in_turn().eq([0, 1, 2]));
        set.remove(TopicKey::Name("a"), 0);
        set.remove(TopicKey::Name("a"), 1);
        assert!(set.places_in_turn().eq([0]));
    }

    #[test]
    fn only_news_is_told() {
        let mut set = FetchSet::session(1, false);
        set.put(TopicKey::Name("a"), 0, wanted(0));
        let mut fetched = Fetched::default();
        assert!(set.tell(0, &fetched));
        assert!(!set.tell(0, &fetched));
        fetched.high_watermark = Offset(1);
        assert!(set.tell(0, &fetched));
        set.tell_failure(0);
        assert!(set.tell(0, &fetched));
        fetched.batches.push(bytes::Bytes::from_static(b"x"));
        assert!(set.tell(0, &fetched));
        assert!(set.tell(0, &fetched));
    }
}

//! Who is in a group, and what is asked of all of them together.
//!
//! Counts, bytes and times are kept while members change: a group may have thousands of them, and
//! no request walks them all to learn one number.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use millrace_storage::units::BootTime;

use super::Turn;
use super::request::{ClientIdentity, GroupProtocol, JoinGroup};
use super::spoken::Spoken;
use crate::command::RequestId;

/// Memory of a member besides its words, bytes.
const MEMBER_BYTES: usize = 512;
/// Memory of a protocol that a member speaks besides its words, bytes.
const PROTOCOL_BYTES: usize = 160;
/// Memory of a topic that a member reads besides its name, bytes.
const TOPIC_BYTES: usize = 32;
/// What a new member's id has besides the words that the client chose, bytes.
const ID_BYTES: usize = 37;
/// Memory of an id that was given away, besides the id, bytes.
const PENDING_BYTES: usize = 64;

/// The members of a group, and those that are about to be.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// By id.
    members: BTreeMap<Arc<str>, Member>,
    /// Ids that were given away and not joined with yet, and when they lapse.
    pending: BTreeMap<Arc<str>, BootTime>,
    /// Ids of `members` by number: in the order of their coming.
    in_order: BTreeMap<u64, Arc<str>>,
    /// What `members` speak.
    spoken: Spoken,
    tally: Tally,
    /// How often all members were walked.
    #[cfg(test)]
    pub(super) walks: std::cell::Cell<usize>,
}

/// What is kept of all members and pending ids.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    /// When each is out of time. Those that cannot run out of it are not in it.
    due: BTreeSet<(BootTime, Arc<str>)>,
    /// About how many they hold.
    bytes: usize,
    /// Members that will be in the next generation.
    joined: usize,
    /// Members with somebody who waits for the next generation.
    awaiting_generation: usize,
    /// Members that have not synced in this generation.
    awaiting_sync: usize,
}

impl Tally {
    fn add(&mut self, id: &Arc<str>, member: &Member) {
        self.bytes += member.bytes(id) + member.assignment.len();
        self.joined += usize::from(member.has_joined());
        self.awaiting_generation += usize::from(member.awaits_generation());
        self.awaiting_sync += usize::from(member.awaits_sync);
        if let Some(at) = member.due() {
            self.due.insert((at, Arc::clone(id)));
        }
    }

    fn take(&mut self, id: &Arc<str>, member: &Member) {
        self.bytes -= member.bytes(id) + member.assignment.len();
        self.joined -= usize::from(member.has_joined());
        self.awaiting_generation -= usize::from(member.awaits_generation());
        self.awaiting_sync -= usize::from(member.awaits_sync);
        if let Some(at) = member.due() {
            self.due.remove(&(at, Arc::clone(id)));
        }
    }
}

/// One member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance: Option<Arc<str>>,
    pub(super) client: ClientIdentity,
    pub(super) session_timeout_ms: u64,
    pub(super) rebalance_timeout_ms: u64,
    pub(super) said: Said,
    /// Empty while the group rebalances.
    pub(super) assignment: Bytes,
    /// It does not know its generation yet, so it cannot send heartbeats.
    pub(super) is_new: bool,
    /// It knows its id, or has an instance name: it can come back on another connection.
    pub(super) can_return: bool,
    pub(super) parked: Parked,
    /// It has not synced in this generation.
    pub(super) awaits_sync: bool,
    /// It is dropped then, unless it waits here.
    pub(super) deadline: BootTime,
    /// In the order of coming.
    pub(super) number: u64,
}

/// What a member says of itself when it joins.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) protocols: Vec<GroupProtocol>,
    pub(super) topics: Option<Vec<Arc<str>>>,
    /// About how many it takes.
    bytes: usize,
}

impl Said {
    pub(super) fn new(protocols: Vec<GroupProtocol>, topics: Option<Vec<Arc<str>>>) -> Self {
        Self {
            bytes: said_bytes(&protocols, topics.as_ref()),
            protocols,
            topics,
        }
    }
}

/// The request of a member that waits here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parked {
    No,
    Join(RequestId),
    Sync(RequestId),
    /// It has joined, and its connection closed since: nobody waits for the answer.
    Cut,
}

impl Parked {
    /// The request that is to be answered.
    pub(super) fn request(self) -> Option<RequestId> {
        match self {
            Self::Join(request) | Self::Sync(request) => Some(request),
            Self::No | Self::Cut => None,
        }
    }
}

impl Member {
    /// Whether it will be in the next generation.
    pub(super) fn has_joined(&self) -> bool {
        matches!(self.parked, Parked::Join(_) | Parked::Cut)
    }

    /// Whether somebody waits for the next generation.
    pub(super) fn awaits_generation(&self) -> bool {
        matches!(self.parked, Parked::Join(_))
    }

    /// When it is dropped. One that waits lives as long as its connection; a new one is dropped
    /// although it waits, for a connection may hang for ever.
    fn due(&self) -> Option<BootTime> {
        (self.is_new || self.parked.request().is_none()).then_some(self.deadline)
    }

    /// It lives.
    pub(super) fn renew(&mut self, turn: &Turn<'_>) {
        self.deadline = turn.now.boot.after_ms(self.session_timeout_ms);
    }

    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        let mut protocols = self.said.protocols.iter();
        let found = protocols.find(|one| *one.name == *protocol);
        found.map_or(Bytes::new(), |one| one.metadata.clone())
    }

    /// About how many bytes it holds under its id besides its share.
    fn bytes(&self, id: &str) -> usize {
        words_bytes(id, self.instance.as_deref(), &self.client) + self.said.bytes
    }
}

/// Bytes that a wish to join leaves here.
pub(super) fn join_bytes(join: &JoinGroup) -> usize {
    let instance = join.instance.as_deref();
    let new_id = if join.member.is_empty() {
        ID_BYTES + instance.unwrap_or(&join.client.id).len()
    } else {
        0
    };
    new_id
        + words_bytes(&join.member, instance, &join.client)
        + said_bytes(&join.protocols, join.topics.as_ref())
}

fn words_bytes(id: &str, instance: Option<&str>, client: &ClientIdentity) -> usize {
    let instance = instance.map_or(0, str::len);
    MEMBER_BYTES + id.len() + instance + client.id.len() + client.host.len()
}

fn said_bytes(protocols: &[GroupProtocol], topics: Option<&Vec<Arc<str>>>) -> usize {
    let said = protocols
        .iter()
        .map(|one| PROTOCOL_BYTES + one.name.len() + one.metadata.len());
    let topics = topics.into_iter().flatten();
    let topics = topics.map(|topic| TOPIC_BYTES + topic.len());
    said.sum::<usize>() + topics.sum::<usize>()
}

// Members.
impl Roster {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.members.contains_key(id)
    }

    pub(super) fn get(&self, id: &str) -> Option<&Member> {
        self.members.get(id)
    }

    /// A member's id, to be kept.
    pub(super) fn id_of(&self, id: &str) -> Arc<str> {
        let (id, _) = self.members.get_key_value(id).expect("a member's");
        Arc::clone(id)
    }

    /// By id. Walks all of them.
    pub(super) fn iter(&self) -> btree_map::Iter<'_, Arc<str>, Member> {
        self.note_walk();
        self.members.iter()
    }

    /// In the order of their coming.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (&Arc<str>, &Member)> {
        self.in_order.values().map(|id| (id, &self.members[id]))
    }

    /// Takes in a new member, or one that was removed and has another id now.
    pub(super) fn insert(&mut self, id: Arc<str>, member: Member) {
        self.tally.add(&id, &member);
        self.spoken.add(&member.said.protocols);
        self.in_order.insert(member.number, Arc::clone(&id));
        let before = self.members.insert(id, member);
        assert!(before.is_none(), "a member's id is its own");
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        let (id, member) = self.members.remove_entry(id)?;
        self.tally.take(&id, &member);
        self.spoken.take(&member.said.protocols);
        self.in_order.remove(&member.number);
        Some(member)
    }

    /// Changes a member; not what it says, nor its number.
    pub(super) fn change<R>(&mut self, id: &str, change: impl FnOnce(&mut Member) -> R) -> R {
        let only = (Bound::Included(id), Bound::Included(id));
        let mut found = self.members.range_mut::<str, _>(only);
        let (id, member) = found.next().expect("the caller checked it");
        self.tally.take(id, member);
        let result = change(member);
        self.tally.add(id, member);
        result
    }

    /// Changes every member, as [`Self::change`] does. Walks all of them.
    pub(super) fn change_all(&mut self, mut change: impl FnMut(&Arc<str>, &mut Member)) {
        self.note_walk();
        for (id, member) in &mut self.members {
            self.tally.take(id, member);
            change(id, member);
            self.tally.add(id, member);
        }
    }

    /// A member says something else of itself.
    pub(super) fn say(&mut self, id: &str, said: Said) {
        self.spoken.add(&said.protocols);
        let before = self.change(id, |member| std::mem::replace(&mut member.said, said));
        self.spoken.take(&before.protocols);
    }
}

// Ids that were given away.
impl Roster {
    pub(super) fn is_pending(&self, id: &str) -> bool {
        self.pending.contains_key(id)
    }

    pub(super) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Gives an id away.
    pub(super) fn add_pending(&mut self, id: Arc<str>, lapses: BootTime) {
        self.tally.bytes += id.len() + PENDING_BYTES;
        self.tally.due.insert((lapses, Arc::clone(&id)));
        let before = self.pending.insert(id, lapses);
        assert!(before.is_none(), "an id is given away once");
    }

    /// Takes an id back; whether there was one.
    pub(super) fn remove_pending(&mut self, id: &str) -> bool {
        let Some((id, lapses)) = self.pending.remove_entry(id) else {
            return false;
        };
        self.tally.bytes -= id.len() + PENDING_BYTES;
        self.tally.due.remove(&(lapses, id));
        true
    }
}

// All of them.
impl Roster {
    /// When the first member or id is out of time.
    pub(super) fn due(&self) -> Option<BootTime> {
        self.tally.due.first().map(|(at, _)| *at)
    }

    /// Who is out of time, in that order.
    pub(super) fn late(&self, now: BootTime) -> Vec<Arc<str>> {
        let late = self.tally.due.iter().take_while(|(at, _)| *at <= now);
        late.map(|(_, id)| Arc::clone(id)).collect()
    }

    /// About how many bytes they hold.
    pub(super) fn bytes(&self) -> usize {
        self.tally.bytes
    }

    /// About how many bytes a member holds besides its share, or an id that was given away.
    pub(super) fn bytes_of(&self, id: &str) -> usize {
        match self.members.get(id) {
            Some(member) => member.bytes(id),
            None if self.pending.contains_key(id) => PENDING_BYTES + id.len(),
            None => 0,
        }
    }

    /// Bytes of everybody's shares. Walks all members.
    pub(super) fn share_bytes(&self) -> usize {
        self.iter().map(|(_, member)| member.assignment.len()).sum()
    }

    /// Members that will be in the next generation.
    pub(super) fn joined(&self) -> usize {
        self.tally.joined
    }

    /// Whether anybody waits for the next generation.
    pub(super) fn awaits_generation(&self) -> bool {
        self.tally.awaiting_generation > 0
    }

    /// Whether the next generation need wait for nobody.
    pub(super) fn all_joined(&self) -> bool {
        self.pending.is_empty() && self.tally.joined == self.members.len()
    }

    /// Whether a member has not synced in this generation.
    pub(super) fn awaits_sync(&self) -> bool {
        self.tally.awaiting_sync > 0
    }

    /// Whether all members speak a protocol.
    pub(super) fn is_common(&self, protocol: &GroupProtocol) -> bool {
        self.spoken.is_common(&protocol.name, self.members.len())
    }

    #[allow(clippy::unused_self)]
    fn note_walk(&self) {
        #[cfg(test)]
        self.walks.set(self.walks.get() + 1);
    }

    /// What is kept, counted anew.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut counted = Tally::default();
        let mut spoken = Spoken::default();
        for (id, member) in &self.members {
            counted.add(id, member);
            spoken.add(&member.said.protocols);
            assert_eq!(self.in_order.get(&member.number), Some(id));
        }
        for (id, lapses) in &self.pending {
            counted.bytes += id.len() + PENDING_BYTES;
            counted.due.insert((*lapses, Arc::clone(id)));
        }
        assert_eq!(self.in_order.len(), self.members.len());
        assert_eq!(counted, self.tally);
        assert_eq!(spoken, self.spoken);
    }
}

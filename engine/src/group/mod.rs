//! Groups of consumers that share partitions: who is a member, who reads what, how far they came.
//!
//! [`Groups`] holds the groups homed at one shard. It is a state machine on its own: requests and
//! time go in, [`Effect`]s come out, and the shard carries them out. The rules are those of Apache
//! Kafka's classic groups, corner cases included: its clients are the judges.
//!
//! A group lives where its slot lives. The slot follows from the name and never changes; the home
//! of a slot is data in the catalog, so groups move with the cores like everything else, and every
//! shard knows the home of a group that does not exist yet.

mod committed;
mod join;
mod members;
mod offsets;
mod rebalance;
mod request;
mod roster;
mod spoken;
pub(crate) mod state;
mod sync;
#[cfg(test)]
mod tests;

pub use request::{
    ClientIdentity, CommitOffsets, CommittedOffset, GroupAnswer, GroupAsk, GroupDescription,
    GroupListing, GroupProtocol, GroupRefusal, GroupRequest, GroupStanding, JoinGroup, Joined,
    JoinedMember, LeavingMember, MemberDescription, Membership, NewOffset, SyncGroup, Synced,
};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use millrace_storage::record::checksum;
use millrace_storage::units::{BootTime, Now, PartitionId};
use rand_core::SeedableRng;
use rand_pcg::Pcg64Mcg;
use uuid::Builder;

use crate::catalog::Catalog;
use crate::command::RequestId;
use crate::event::Refusal;
use crate::limits::GroupSettings;
use crate::report::GroupReport;
use members::Group;
use state::{GroupChange, GroupState, GroupStates};

/// How many slots the groups of all times are spread over.
pub const GROUP_SLOTS: u16 = 64;

/// The slot of a group. Never changes: the log's groups are found by it.
#[must_use]
pub(crate) fn slot_of(group: &str) -> u16 {
    let slot = checksum(group.as_bytes()) % u32::from(GROUP_SLOTS);
    u16::try_from(slot).expect("below the count of slots")
}

/// What the shard does for a group, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Put it into the log.
    Log(GroupChange),
    /// End a request once everything that groups gave to the log before is durable.
    EndDurably(RequestId, Result<GroupAnswer, Refusal>),
    /// End a request.
    End(RequestId, Result<GroupAnswer, Refusal>),
}

/// What a group may use while it handles something.
pub(crate) struct Turn<'a> {
    pub(crate) now: Now,
    pub(crate) settings: &'a GroupSettings,
    name: &'a Arc<str>,
    random: &'a mut Pcg64Mcg,
    waiting: &'a mut BTreeMap<RequestId, Waiting>,
    effects: &'a mut VecDeque<Effect>,
}

/// Where a request waits.
#[derive(Clone, Debug)]
struct Waiting {
    group: Arc<str>,
    member: Arc<str>,
}

impl Turn<'_> {
    /// A request is about to wait in a member, until one of the three below ends it.
    fn wait(&mut self, request: RequestId, member: Arc<str>) {
        let group = Arc::clone(self.name);
        self.waiting.insert(request, Waiting { group, member });
    }

    fn end(&mut self, request: RequestId, answer: GroupAnswer) {
        self.waiting.remove(&request);
        self.effects.push_back(Effect::End(request, Ok(answer)));
    }

    fn end_durably(&mut self, request: RequestId, answer: GroupAnswer) {
        self.waiting.remove(&request);
        let effect = Effect::EndDurably(request, Ok(answer));
        self.effects.push_back(effect);
    }

    fn refuse(&mut self, request: RequestId, refusal: GroupRefusal) {
        self.waiting.remove(&request);
        let refusal = Refusal::Group(refusal);
        self.effects.push_back(Effect::End(request, Err(refusal)));
    }

    fn log(&mut self, change: GroupChange) {
        self.effects.push_back(Effect::Log(change));
    }

    /// An id that no member of any group ever had. It begins with what people know the member by,
    /// cut to what every protocol's names of members have room for.
    fn new_member_id(&mut self, prefix: &str) -> Arc<str> {
        let mut bytes = [0; 16];
        rand_core::Rng::fill_bytes(self.random, &mut bytes);
        let id = Builder::from_random_bytes(bytes).into_uuid();
        let prefix = &prefix[..prefix.floor_char_boundary(MEMBER_PREFIX_BYTES_MAX)];
        Arc::from(format!("{prefix}-{id}"))
    }
}

/// The groups homed at one shard.
#[derive(Debug)]
pub(crate) struct Groups {
    /// At most `groups_max`, those that a start found aside.
    groups: BTreeMap<Arc<str>, Group>,
    /// When a group is looked at next: each at most once, as its `armed` says.
    timers: BTreeSet<(BootTime, Arc<str>)>,
    /// Of groups, members and committed offsets, with all their words. What would take it above
    /// `bytes_max` is refused; a start that finds more keeps it.
    bytes: usize,
    random: Pcg64Mcg,
    /// Those that members wait with: each is one's `parked`.
    waiting: BTreeMap<RequestId, Waiting>,
    effects: VecDeque<Effect>,
    /// When the next few groups are looked through for what is to be forgotten; `None` until the
    /// first timeout has set it.
    sweep_at: Option<BootTime>,
    /// The first of them; `None` where a round begins.
    sweep_from: Option<Arc<str>>,
    /// Time between two steps of the present round, milliseconds.
    sweep_step_ms: u64,
}

/// Longest name of a group, and of what its members speak, bytes: what a 16-bit length can say.
pub const GROUP_NAME_BYTES_MAX: usize = i16::MAX as usize;
/// Bytes of a client's own name in the id that its member gets.
const MEMBER_PREFIX_BYTES_MAX: usize = 255;
/// Longest time between two steps of the sweep, milliseconds.
const SWEEP_STEP_MS: u64 = 10_000;
/// What a round of the sweep takes at most, unless groups come meanwhile, milliseconds.
const SWEEP_ROUND_MS: u64 = 30_000;
/// Groups that one step looks at.
const SWEEP_GROUPS: usize = 512;

impl Groups {
    /// Groups as a start found them: without members. `seed` is random at every start.
    pub(crate) fn new(states: GroupStates, seed: u64) -> Self {
        let mut groups = Self {
            groups: BTreeMap::new(),
            timers: BTreeSet::new(),
            bytes: 0,
            random: Pcg64Mcg::seed_from_u64(seed),
            waiting: BTreeMap::new(),
            effects: VecDeque::new(),
            sweep_at: None,
            sweep_from: None,
            sweep_step_ms: SWEEP_STEP_MS,
        };
        for (name, state) in states {
            let group = Group::new(&name, state);
            groups.bytes += group.counted_bytes;
            groups.groups.insert(name, group);
        }
        groups
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Bytes that they hold.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What survives a restart, by name.
    pub(crate) fn states(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &GroupState)> {
        self.groups.iter().map(|(name, group)| (name, &group.state))
    }

    /// All of them, by name.
    pub(crate) fn list(&self) -> Vec<GroupListing> {
        let groups = self.groups.iter();
        let listed = groups.map(|(name, group)| GroupListing {
            group: Arc::clone(name),
            protocol_type: group.state.protocol_type.clone(),
            standing: group.standing(),
        });
        listed.collect()
    }

    /// All of them in full, by name.
    pub(crate) fn report(&self) -> Vec<GroupReport> {
        let groups = self.groups.iter().map(|(name, group)| GroupReport {
            group: Arc::clone(name),
            description: group.describe(),
            offsets: BTreeMap::clone(&group.state.offsets),
        });
        groups.collect()
    }

    /// Serves a request.
    pub(crate) fn handle(
        &mut self,
        now: Now,
        settings: &GroupSettings,
        request: RequestId,
        asked: GroupRequest,
        catalog: &Catalog,
    ) {
        let GroupRequest { group: name, ask } = asked;
        if let Err(refusal) = self.admit(settings, &name, &ask) {
            self.effects.push_back(Effect::End(request, Err(refusal)));
            return;
        }
        let is_quiet = matches!(ask, GroupAsk::Heartbeat(_));
        if matches!(ask, GroupAsk::Delete) {
            self.delete(request, &name);
            return;
        }
        if !self.groups.contains_key(&name) {
            if !makes_group(&ask) {
                self.end_without_group(request, ask);
                return;
            }
            let state = GroupState {
                empty_since_ms: Some(now.wall_ms),
                ..GroupState::default()
            };
            let group = Group::new(&name, state);
            self.bytes += group.counted_bytes;
            self.groups.insert(Arc::clone(&name), group);
        }
        self.with(now, settings, &name, |group, turn| {
            group.handle(turn, request, ask, catalog);
        });
        if !is_quiet {
            self.note_changed(&name);
        }
    }

    /// Calls a group that exists with everything around it.
    fn with(
        &mut self,
        now: Now,
        settings: &GroupSettings,
        name: &Arc<str>,
        call: impl FnOnce(&mut Group, &mut Turn<'_>),
    ) {
        let group = self.groups.get_mut(name).expect("the caller found it");
        let mut turn = Turn {
            now,
            settings,
            name,
            random: &mut self.random,
            waiting: &mut self.waiting,
            effects: &mut self.effects,
        };
        call(group, &mut turn);
    }

    /// Whether a request waits in a group.
    pub(crate) fn holds(&self, request: RequestId) -> bool {
        self.waiting.contains_key(&request)
    }

    /// The connection of a request is gone: if it waits here, it ends, and nobody hears of it.
    pub(crate) fn withdraw(&mut self, now: Now, settings: &GroupSettings, request: RequestId) {
        let Some(Waiting {
            group: name,
            member,
        }) = self.waiting.get(&request).cloned()
        else {
            return;
        };
        self.with(now, settings, &name, |group, turn| {
            group.withdraw(turn, request, &member);
        });
        self.note_changed(&name);
    }

    /// Refuses what is refused whatever the group: bounds, and names.
    fn admit(
        &self,
        settings: &GroupSettings,
        name: &Arc<str>,
        ask: &GroupAsk,
    ) -> Result<(), Refusal> {
        let is_long = name.len() > GROUP_NAME_BYTES_MAX;
        if is_long || (name.is_empty() && needs_name(ask)) {
            return Err(Refusal::Group(GroupRefusal::InvalidName));
        }
        if let GroupAsk::Join(join) = ask {
            let (min, max) = (
                settings.session_timeout_ms_min,
                settings.session_timeout_ms_max,
            );
            if !(min..=max).contains(&join.session_timeout_ms) {
                let refusal = GroupRefusal::InvalidSessionTimeout { min, max };
                return Err(Refusal::Group(refusal));
            }
        }
        let is_new = makes_group(ask) && !self.groups.contains_key(name);
        if is_new && self.groups.len() >= settings.groups_max {
            return Err(Refusal::LimitReached {
                limit: "groups.groups_max",
                max: settings.groups_max as u64,
            });
        }
        let made = if is_new {
            members::group_bytes(name)
        } else {
            0
        };
        let left = made + bytes_of(ask);
        let has_room = |added: usize| added == 0 || self.bytes + added <= settings.bytes_max;
        // Who says again what it said before is served however full the shard is.
        if !has_room(left) && !has_room(left.saturating_sub(self.replaced_bytes(name, ask))) {
            return Err(Refusal::LimitReached {
                limit: "groups.bytes_max",
                max: settings.bytes_max as u64,
            });
        }
        Ok(())
    }

    /// Bytes in a group that a request takes the place of.
    fn replaced_bytes(&self, name: &Arc<str>, ask: &GroupAsk) -> usize {
        let group = self.groups.get(name);
        group.map_or(0, |group| group.replaced_bytes(ask))
    }

    /// Counts a group's bytes anew, and sets its timer.
    fn note_changed(&mut self, name: &Arc<str>) {
        let group = self.groups.get_mut(name).expect("it was just handled");
        self.bytes -= group.counted_bytes;
        group.counted_bytes = group.bytes(name);
        self.bytes += group.counted_bytes;
        let due = group.due();
        if due == group.armed {
            return;
        }
        if let Some(at) = group.armed {
            self.timers.remove(&(at, Arc::clone(name)));
        }
        group.armed = due;
        if let Some(at) = due {
            self.timers.insert((at, Arc::clone(name)));
        }
    }

    /// Ends a request to a group that does not exist. It may have existed until just now: that
    /// nothing is left of it is told once that is durable, for a crash would bring it back.
    fn end_without_group(&mut self, request: RequestId, ask: GroupAsk) {
        let tells_of_members = match ask {
            GroupAsk::Join(_) | GroupAsk::Sync(_) | GroupAsk::Heartbeat(_) | GroupAsk::Leave(_) => {
                true
            }
            GroupAsk::Commit(_)
            | GroupAsk::FetchOffsets(_)
            | GroupAsk::DeleteOffsets(_)
            | GroupAsk::Describe
            | GroupAsk::Delete => false,
        };
        let outcome = answer_without_group(ask);
        self.effects.push_back(if tells_of_members {
            Effect::End(request, outcome)
        } else {
            Effect::EndDurably(request, outcome)
        });
    }

    fn delete(&mut self, request: RequestId, name: &Arc<str>) {
        let Some(group) = self.groups.get(name) else {
            return self.end_without_group(request, GroupAsk::Delete);
        };
        if group.standing() != GroupStanding::Empty {
            let refused = Err(Refusal::Group(GroupRefusal::NotEmpty));
            self.effects.push_back(Effect::End(request, refused));
            return;
        }
        self.forget(name);
        let deleted = Effect::EndDurably(request, Ok(GroupAnswer::Deleted));
        self.effects.push_back(deleted);
    }

    /// Forgets an empty group.
    fn forget(&mut self, name: &Arc<str>) {
        let gone = self.groups.remove(name).expect("the caller found it");
        assert_eq!(gone.standing(), GroupStanding::Empty, "nobody is dropped");
        self.bytes -= gone.counted_bytes;
        if let Some(at) = gone.armed {
            self.timers.remove(&(at, Arc::clone(name)));
        }
        let group = Arc::clone(name);
        let change = GroupChange::Forgotten { group };
        self.effects.push_back(Effect::Log(change));
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn due(&self) -> Option<BootTime> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let sweep = self.sweep_at.unwrap_or_default();
        let sweep = (!self.groups.is_empty()).then_some(sweep);
        [timer, sweep].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Now, settings: &GroupSettings, catalog: &Catalog) {
        while let Some((at, name)) = self.timers.first().cloned()
            && at <= now.boot
        {
            self.with(now, settings, &name, Group::handle_timeout);
            self.note_changed(&name);
        }
        if self.sweep_at.unwrap_or_default() <= now.boot {
            if self.sweep_at.is_some() {
                self.sweep(now, settings, catalog);
            }
            if self.sweep_from.is_none() {
                let steps = self.groups.len().div_ceil(SWEEP_GROUPS).max(1);
                self.sweep_step_ms = SWEEP_STEP_MS.min(SWEEP_ROUND_MS / steps as u64);
            }
            self.sweep_at = Some(now.boot.after_ms(self.sweep_step_ms));
        }
    }

    /// Looks through the next few groups: forgets offsets that are out of their time, and groups
    /// of which nothing is left.
    fn sweep(&mut self, now: Now, settings: &GroupSettings, catalog: &Catalog) {
        let from = self.sweep_from.take().unwrap_or_else(|| Arc::from(""));
        let mut rest = self.groups.range(from..).map(|(name, _)| Arc::clone(name));
        let names: Vec<Arc<str>> = rest.by_ref().take(SWEEP_GROUPS).collect();
        self.sweep_from = rest.next();
        for name in names {
            let mut is_forgettable = false;
            self.with(now, settings, &name, |group, turn| {
                group.expire_offsets(turn, catalog);
                is_forgettable = group.is_forgettable(now.wall_ms);
            });
            if is_forgettable {
                self.forget(&name);
            } else {
                self.note_changed(&name);
            }
        }
    }

    /// Forgets the offsets of partitions that are no more. The log needs no word of it: a start
    /// drops what the catalog does not know.
    pub(crate) fn forget_partitions(&mut self, gone: &BTreeSet<PartitionId>) {
        for (name, group) in &mut self.groups {
            if !group.state.offsets.forget(gone) {
                continue;
            }
            self.bytes -= group.counted_bytes;
            group.counted_bytes = group.bytes(name);
            self.bytes += group.counted_bytes;
        }
    }

    /// The requests that wait in groups: the log is poisoned, so none of them gets an answer.
    pub(crate) fn abandon(&mut self) -> Vec<RequestId> {
        let groups = self.groups.values_mut();
        let mut parked: Vec<RequestId> = groups.flat_map(Group::abandon).collect();
        self.waiting.clear();
        parked.extend(self.effects.drain(..).filter_map(|effect| match effect {
            Effect::End(request, _) | Effect::EndDurably(request, _) => Some(request),
            Effect::Log(_) => None,
        }));
        parked
    }

    /// The next thing to do.
    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}

/// Whether a request brings a group into being.
fn makes_group(ask: &GroupAsk) -> bool {
    match ask {
        GroupAsk::Join(join) => join.member.is_empty(),
        GroupAsk::Commit(commit) => commit.membership.generation < 0,
        _ => false,
    }
}

/// The group without a name takes commits, as Kafka's does for the sake of its oldest clients.
fn needs_name(ask: &GroupAsk) -> bool {
    match ask {
        GroupAsk::Join(_)
        | GroupAsk::Sync(_)
        | GroupAsk::Heartbeat(_)
        | GroupAsk::Leave(_)
        | GroupAsk::DeleteOffsets(_) => true,
        GroupAsk::Commit(_) | GroupAsk::FetchOffsets(_) | GroupAsk::Describe | GroupAsk::Delete => {
            false
        }
    }
}

/// Bytes that a request may leave in a group.
fn bytes_of(ask: &GroupAsk) -> usize {
    match ask {
        GroupAsk::Join(join) => join.protocol_type.len() + roster::join_bytes(join),
        GroupAsk::Sync(sync) => sync.assignments.iter().map(|(_, share)| share.len()).sum(),
        GroupAsk::Commit(commit) => {
            let offsets = commit.offsets.iter();
            offsets.map(|(_, commit)| state::memory_bytes(commit)).sum()
        }
        GroupAsk::Heartbeat(_)
        | GroupAsk::Leave(_)
        | GroupAsk::FetchOffsets(_)
        | GroupAsk::DeleteOffsets(_)
        | GroupAsk::Describe
        | GroupAsk::Delete => 0,
    }
}

/// What is answered for a group that does not exist.
fn answer_without_group(ask: GroupAsk) -> Result<GroupAnswer, Refusal> {
    let refuse = |refusal| Err(Refusal::Group(refusal));
    match ask {
        GroupAsk::Join(_) | GroupAsk::Sync(_) | GroupAsk::Heartbeat(_) => {
            refuse(GroupRefusal::UnknownMember)
        }
        GroupAsk::Commit(_) | GroupAsk::DeleteOffsets(_) | GroupAsk::Delete => {
            refuse(GroupRefusal::NotFound)
        }
        GroupAsk::Leave(members) => {
            let unknown = members.iter().map(|_| Err(GroupRefusal::UnknownMember));
            Ok(GroupAnswer::Left(unknown.collect()))
        }
        GroupAsk::FetchOffsets(partitions) => {
            let none = partitions.unwrap_or_default().into_iter();
            let none = none.map(|partition| (partition, None));
            Ok(GroupAnswer::Offsets(none.collect()))
        }
        GroupAsk::Describe => Ok(GroupAnswer::Described(None)),
    }
}

//! What members of groups saw, and the rules that a group keeps for them whatever happened.
//!
//! A generation has one roll of members and one deal of shares, and its number is never given to
//! another. Who was told of a generation is on its roll, with the words that it said; its share is
//! the one that the leader dealt to it. Once anyone was told of a later generation, nothing that
//! is begun in the earlier one succeeds. Every commit carries a number of its own, so that a read
//! names the commit that it found: one that was begun and not refused, and not one that another
//! followed which was answered before the read began. What a read told stays told.
//!
//! *When* is a count of the events that clients saw. A commit without an answer may take effect
//! until its generation is over or its machine stops, and never after.

use std::collections::{BTreeMap, BTreeSet};

use crate::failure::{Checked, ensure};
use crate::kafka::groups::{JoinedGroup, RollMember};

/// The count of what clients did and saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

/// The generation in which a member is settled, and its share.
pub(crate) type Standing = (i32, BTreeSet<i32>);

/// All groups of a run.
#[derive(Debug, Default)]
pub(crate) struct Coordination {
    groups: BTreeMap<&'static str, Past>,
    /// Where each member stands, by number: group, generation and share; `None` for one that is
    /// not settled.
    settled: BTreeMap<usize, (&'static str, Option<Standing>)>,
    moment: u64,
    next_commit: i64,
    /// Nobody leaves or vanishes any more.
    pub(crate) is_quiet: bool,
    pub(crate) generations: u64,
    pub(crate) dealt: u64,
    pub(crate) committed: u64,
    pub(crate) told: u64,
    /// Requests of members that were refused.
    pub(crate) refused: u64,
}

/// One group.
#[derive(Debug, Default)]
struct Past {
    /// When somebody was first told of a generation.
    known: BTreeMap<i32, Moment>,
    /// Identity and words of each member, as the leader was told.
    rolls: BTreeMap<i32, BTreeMap<String, Vec<u8>>>,
    /// Who was told that they are in it.
    admitted: BTreeMap<i32, BTreeSet<String>>,
    /// The leader's shares by identity.
    dealt: BTreeMap<i32, BTreeMap<String, Vec<u8>>>,
    /// Everything that members said about themselves, by identity.
    said: BTreeSet<(String, Vec<u8>)>,
    commits: BTreeMap<i64, Commit>,
}

#[derive(Clone, Copy, Debug)]
struct Commit {
    partition: i32,
    generation: i32,
    begun: Moment,
    /// After which it cannot take effect any more.
    ended: Option<Moment>,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Unknown,
    /// It was answered with success, or somebody was told of it.
    Durable,
    Refused,
}

/// What stays of a member when its id changes: its instance name, if it has one.
pub(crate) fn identity<'a>(id: &'a str, instance: Option<&'a str>) -> &'a str {
    instance.unwrap_or(id)
}

impl Past {
    /// When somebody was first told of a generation after `generation`.
    fn over(&self, generation: i32) -> Option<Moment> {
        self.known.range(generation + 1..).map(|(_, at)| *at).min()
    }

    /// When a commit could last take effect, if that is known.
    fn end(&self, commit: &Commit) -> Option<Moment> {
        let over = self.over(commit.generation);
        commit.ended.into_iter().chain(over).min()
    }

    /// Nothing that was begun in a generation after a later one was known may succeed.
    fn check_current(&self, generation: i32, begun: Moment, what: &str) -> Checked<()> {
        let over = self.over(generation);
        ensure!(
            over.is_none_or(|over| over > begun),
            "{what} of generation {generation} succeeded, begun at {begun:?}, and a later one was \
             known at {over:?}"
        );
        Ok(())
    }
}

impl Coordination {
    /// The present, which nothing else shares.
    pub(crate) fn now(&mut self) -> Moment {
        self.moment += 1;
        Moment(self.moment)
    }

    fn past(&mut self, group: &'static str) -> &mut Past {
        self.groups.entry(group).or_default()
    }

    /// A member is about to join with these words.
    pub(crate) fn say(&mut self, group: &'static str, identity: &str, words: &[u8]) -> Moment {
        let said = (identity.to_owned(), words.to_vec());
        self.past(group).said.insert(said);
        self.now()
    }

    /// A member was told that it is in a generation.
    pub(crate) fn joined(
        &mut self,
        group: &'static str,
        instance: Option<&str>,
        begun: Moment,
        joined: &JoinedGroup,
    ) -> Checked<()> {
        let now = self.now();
        let past = self.groups.entry(group).or_default();
        let generation = joined.generation;
        past.check_current(generation, begun, "a join")?;
        let mine = identity(&joined.id, instance);
        if !past.known.contains_key(&generation) {
            self.generations += 1;
        }
        past.known.entry(generation).or_insert(now);
        let admitted = past.admitted.entry(generation).or_default();
        admitted.insert(mine.to_owned());
        if !joined.roll.is_empty() {
            ensure!(
                joined.leader == joined.id,
                "{group}: the roll of {generation} went to {joined:?}"
            );
            take_roll(past, group, generation, &joined.roll)?;
        }
        let Some(roll) = past.rolls.get(&generation) else {
            return Ok(());
        };
        let stray = past.admitted[&generation]
            .iter()
            .find(|identity| !roll.contains_key(*identity));
        ensure!(
            stray.is_none(),
            "{group}: {stray:?} is in generation {generation}, and not on its roll {roll:?}"
        );
        Ok(())
    }

    /// A leader is about to deal these shares, by identity.
    pub(crate) fn deal(
        &mut self,
        group: &'static str,
        generation: i32,
        shares: BTreeMap<String, Vec<u8>>,
    ) -> Checked<()> {
        self.dealt += 1;
        let past = self.past(group);
        let before = past
            .dealt
            .entry(generation)
            .or_insert_with(|| shares.clone());
        ensure!(
            *before == shares,
            "{group}: generation {generation} is dealt twice: {before:?} and {shares:?}"
        );
        Ok(())
    }

    /// A member was told its share.
    pub(crate) fn synced(
        &mut self,
        group: &'static str,
        generation: i32,
        (identity, begun): (&str, Moment),
        share: &[u8],
    ) -> Checked<()> {
        let past = self.past(group);
        past.check_current(generation, begun, "a sync")?;
        let dealt = past.dealt.get(&generation);
        let dealt = dealt.and_then(|shares| shares.get(identity));
        ensure!(
            dealt.is_some_and(|dealt| dealt == share),
            "{group}: the share of {identity} in {generation} is {share:?}, dealt was {dealt:?}"
        );
        Ok(())
    }

    /// A heartbeat succeeded.
    pub(crate) fn alive(
        &mut self,
        group: &'static str,
        generation: i32,
        begun: Moment,
    ) -> Checked<()> {
        self.past(group)
            .check_current(generation, begun, "a heartbeat")
    }

    /// A member is about to commit; returns the offset to commit, unique in the run.
    pub(crate) fn begin_commit(
        &mut self,
        group: &'static str,
        generation: i32,
        partition: i32,
    ) -> i64 {
        self.next_commit += 1;
        let id = self.next_commit;
        let begun = self.now();
        let commit = Commit {
            partition,
            generation,
            begun,
            ended: None,
            outcome: Outcome::Unknown,
        };
        self.past(group).commits.insert(id, commit);
        id
    }

    /// A commit was answered: durable, or refused.
    pub(crate) fn end_commit(
        &mut self,
        group: &'static str,
        id: i64,
        is_durable: bool,
    ) -> Checked<()> {
        let now = self.now();
        let past = self.groups.entry(group).or_default();
        let commit = past.commits.get_mut(&id).expect("begun");
        commit.ended = Some(commit.ended.unwrap_or(now).min(now));
        if !is_durable {
            ensure!(
                commit.outcome == Outcome::Unknown,
                "{group}: commit {id} was told of, and is refused"
            );
            commit.outcome = Outcome::Refused;
            return Ok(());
        }
        commit.outcome = Outcome::Durable;
        let (generation, begun) = (commit.generation, commit.begun);
        self.committed += 1;
        past.check_current(generation, begun, "a commit")
    }

    /// Somebody who asked at `begun` was told that `partition` is committed as far as `found`.
    pub(crate) fn tell(
        &mut self,
        group: &'static str,
        (partition, begun): (i32, Moment),
        found: Option<i64>,
    ) -> Checked<()> {
        let now = self.now();
        self.told += 1;
        let past = self.groups.entry(group).or_default();
        let commits = past.commits.iter();
        let before = commits.filter(|(_, commit)| {
            commit.partition == partition
                && commit.outcome == Outcome::Durable
                && commit.ended.is_some_and(|ended| ended < begun)
        });
        let newest = before.max_by_key(|(_, commit)| commit.begun);
        let newest = newest.map(|(id, commit)| (*id, commit.begun));
        let Some(id) = found else {
            ensure!(
                newest.is_none(),
                "{group}: nothing is committed in partition {partition}, {newest:?} was"
            );
            return Ok(());
        };
        let commit = past.commits.get(&id).copied();
        let fits = commit
            .filter(|commit| commit.partition == partition && commit.outcome != Outcome::Refused);
        ensure!(
            fits.is_some(),
            "{group}: partition {partition} is committed at {id}: {commit:?}"
        );
        let end = commit.and_then(|commit| past.end(&commit));
        let is_stale = newest.is_some_and(|(newest, newest_begun)| {
            newest != id && end.is_some_and(|end| end < newest_begun)
        });
        ensure!(
            !is_stale,
            "{group}: partition {partition} is back at {id}, {commit:?}, after {newest:?}"
        );
        // From now on everyone must be told of it.
        let commit = past.commits.get_mut(&id).expect("just seen");
        commit.outcome = Outcome::Durable;
        commit.ended = Some(commit.ended.unwrap_or(now).min(now));
        Ok(())
    }

    /// A member's request was refused.
    pub(crate) fn refuse(&mut self) {
        self.refused += 1;
    }

    /// The machine is gone, and everything that was under way with it: nobody is a member any more.
    pub(crate) fn machine_stopped(&mut self) {
        let now = self.now();
        for (_, place) in self.settled.values_mut() {
            *place = None;
        }
        for past in self.groups.values_mut() {
            for commit in past.commits.values_mut() {
                commit.ended.get_or_insert(now);
            }
        }
    }

    /// Where a member stands now.
    pub(crate) fn stand(&mut self, number: usize, group: &'static str, place: Option<Standing>) {
        self.settled.insert(number, (group, place));
    }

    /// The generation of each group, if all its members are settled in it and share `partitions`.
    pub(crate) fn settled(&self, partitions: i32) -> Option<BTreeMap<&'static str, i32>> {
        let mut all: BTreeMap<&'static str, Standing> = BTreeMap::new();
        for (group, place) in self.settled.values() {
            let (generation, share) = place.as_ref()?;
            let (shared, held) = all
                .entry(group)
                .or_insert_with(|| (*generation, BTreeSet::new()));
            if *shared != *generation || !held.is_disjoint(share) {
                return None;
            }
            held.extend(share);
        }
        let whole: BTreeSet<i32> = (0..partitions).collect();
        let is_whole = all.values().all(|(_, held)| *held == whole);
        let generations = all
            .into_iter()
            .map(|(group, (generation, _))| (group, generation));
        is_whole.then(|| generations.collect())
    }
}

/// The leader of a generation was told who is in it: the same whenever it is told.
fn take_roll(past: &mut Past, group: &str, generation: i32, roll: &[RollMember]) -> Checked<()> {
    let mut members = BTreeMap::new();
    for one in roll {
        let identity = identity(&one.id, one.instance.as_deref()).to_owned();
        let said = (identity.clone(), one.words.clone());
        ensure!(
            past.said.contains(&said),
            "{group}: {identity} is on the roll of {generation} with words that it never said"
        );
        members.insert(identity, one.words.clone());
    }
    let before = past
        .rolls
        .entry(generation)
        .or_insert_with(|| members.clone());
    ensure!(
        *before == members,
        "{group}: generation {generation} has two rolls: {before:?} and {members:?}"
    );
    Ok(())
}

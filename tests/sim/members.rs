//! Members of groups: they join, take their share, commit, leave, vanish and come back.

use std::collections::{BTreeMap, BTreeSet};

use millrace_storage::testing::Dice;

use crate::clients::TOPIC;
use crate::coordination::{Coordination, Moment, identity};
use crate::failure::{Checked, Failure, ensure};
use crate::kafka::Reply;
use crate::kafka::groups::{self, Caller, JoinedGroup, RollMember};

/// A group whose members give everything up when it rebalances.
pub(crate) const EAGER: &str = "eager";
/// A group whose members keep what they hold, and give up only what they must.
pub(crate) const COOPERATIVE: &str = "cooperative";
/// Longest session and rebalance timeouts of members, milliseconds.
pub(crate) const TIMEOUT_MS_MAX: u64 = 6_000;
/// Shortest ones.
pub(crate) const TIMEOUT_MS_MIN: u64 = 3_000;

/// One member, or somebody who wants to be one.
#[derive(Debug)]
pub(crate) struct Member {
    number: usize,
    group: &'static str,
    partitions: i32,
    /// A static member's name.
    instance: Option<String>,
    /// Session and rebalance timeout, milliseconds.
    timeouts_ms: (i32, i32),
    /// Empty for none.
    id: String,
    place: Place,
    /// What a cooperative member holds while it joins again.
    held: BTreeSet<i32>,
    /// It has joined so often: its words differ each time, but for a join whose answer was lost.
    joins: u32,
    /// Joins of which the connection broke.
    broken_joins: u32,
    /// The request under way, and its correlation id.
    asked: Option<(i32, Asked)>,
}

#[derive(Clone, Debug)]
enum Place {
    /// It must join.
    Outside,
    /// It is in a generation and has no share. The leader knows the roll.
    Joined(i32, Vec<RollMember>),
    /// It has its share, perhaps of nothing.
    Settled(i32, BTreeSet<i32>),
}

#[derive(Clone, Debug)]
enum Asked {
    Join(Moment),
    Sync(i32, Moment),
    Heartbeat(i32, Moment),
    Leave,
    Commit(i64),
    Tell(i32, Moment),
}

impl Member {
    pub(crate) fn new(
        number: usize,
        (group, is_static): (&'static str, bool),
        partitions: i32,
        dice: &mut Dice,
    ) -> Self {
        let mut ms = || {
            let ms = dice.between(TIMEOUT_MS_MIN, TIMEOUT_MS_MAX);
            i32::try_from(ms).expect("short")
        };
        Self {
            number,
            group,
            partitions,
            instance: is_static.then(|| format!("instance {number}")),
            timeouts_ms: (ms(), ms()),
            id: String::new(),
            place: Place::Outside,
            held: BTreeSet::new(),
            joins: 0,
            broken_joins: 0,
            asked: None,
        }
    }

    /// The connection is gone. What was under way may have come through or not.
    pub(crate) fn disconnected(&mut self) {
        let Some((_, Asked::Join(_))) = self.asked.take() else {
            return;
        };
        self.broken_joins += 1;
        if self.broken_joins.is_multiple_of(2) {
            // It was killed while it waited, and whoever comes in its place knows nothing of it.
            self.id.clear();
            self.held.clear();
        }
    }

    pub(crate) fn next_request(
        &mut self,
        correlation: i32,
        dice: &mut Dice,
        history: &mut Coordination,
    ) -> Checked<Option<Vec<u8>>> {
        if self.asked.is_some() {
            return Ok(None);
        }
        let (asked, request) = match self.place.clone() {
            Place::Outside => self.join(correlation, history),
            Place::Joined(generation, roll) => {
                let shares = self.deal(generation, &roll, history)?;
                let caller = self.caller(generation);
                let request = groups::sync(correlation, caller, &shares);
                (Asked::Sync(generation, history.now()), request)
            }
            Place::Settled(generation, share) => match dice.below(200) {
                0 if !history.is_quiet => {
                    let request = groups::leave(correlation, self.caller(generation));
                    self.go_out(true, history);
                    (Asked::Leave, request)
                }
                1 if !history.is_quiet => {
                    // It vanishes, and whoever comes in its place knows nothing of it.
                    self.go_out(true, history);
                    return Ok(None);
                }
                2 if !history.is_quiet => {
                    self.go_out(false, history);
                    self.join(correlation, history)
                }
                3..100 if !share.is_empty() => {
                    let shared: Vec<i32> = share.into_iter().collect();
                    let partition = *dice.pick(&shared);
                    // A part of it may not have heard of the generation yet.
                    let is_late = !history.is_quiet && dice.one_in(30);
                    let generation = generation - i32::from(is_late);
                    let offset = history.begin_commit(self.group, generation, partition);
                    let caller = self.caller(generation);
                    let place = (TOPIC, partition);
                    let request = groups::commit(correlation, caller, place, offset);
                    (Asked::Commit(offset), request)
                }
                100..120 => {
                    let any = dice.below(self.partitions.unsigned_abs().into());
                    let any = i32::try_from(any).expect("few partitions");
                    let request = groups::committed(correlation, self.group, (TOPIC, any));
                    (Asked::Tell(any, history.now()), request)
                }
                _ => {
                    let request = groups::heartbeat(correlation, self.caller(generation));
                    (Asked::Heartbeat(generation, history.now()), request)
                }
            },
        };
        self.asked = Some((correlation, asked));
        Ok(Some(request))
    }

    fn caller(&self, generation: i32) -> Caller<'_> {
        Caller {
            group: self.group,
            generation,
            id: &self.id,
            instance: self.instance.as_deref(),
        }
    }

    fn identity(&self) -> &str {
        identity(&self.id, self.instance.as_deref())
    }

    fn join(&mut self, correlation: i32, history: &mut Coordination) -> (Asked, Vec<u8>) {
        let words = Words {
            joins: self.joins,
            held: self.held.clone(),
        };
        let words = words.encode();
        let begun = history.say(self.group, self.identity(), &words);
        let caller = self.caller(-1);
        let request = groups::join(correlation, caller, self.timeouts_ms, &words);
        (Asked::Join(begun), request)
    }

    /// Everyone's share, if this member leads. The same roll always gives the same shares.
    fn deal(
        &self,
        generation: i32,
        roll: &[RollMember],
        history: &mut Coordination,
    ) -> Checked<Vec<(String, Vec<u8>)>> {
        if roll.is_empty() {
            return Ok(Vec::new());
        }
        let mut shares = deal(self.partitions, roll, self.group == COOPERATIVE);
        let mut by_identity = BTreeMap::new();
        let mut by_id = Vec::new();
        for one in roll {
            let name = identity(&one.id, one.instance.as_deref());
            let share = shares.remove(&one.id).unwrap_or_default();
            let share = encode_share(generation, name, &share);
            by_identity.insert(name.to_owned(), share.clone());
            by_id.push((one.id.clone(), share));
        }
        history.deal(self.group, generation, by_identity)?;
        Ok(by_id)
    }

    pub(crate) fn receive(
        &mut self,
        correlation: i32,
        reply: &mut Reply<'_>,
        history: &mut Coordination,
    ) -> Checked<()> {
        let asked = self.asked.take().filter(|(asked, _)| *asked == correlation);
        let Some((_, asked)) = asked else {
            return Err(Failure(format!("reply {correlation} to no question")));
        };
        let error = match &asked {
            Asked::Join(begun) => self.take_join(reply.joined_group(), *begun, history)?,
            Asked::Sync(generation, begun) => {
                self.take_sync((*generation, *begun), reply.synced_group(), history)?
            }
            Asked::Heartbeat(generation, begun) => {
                let heard = reply.heard();
                if heard == Some(0) {
                    history.alive(self.group, *generation, *begun)?;
                    let place = (*generation, self.held.clone());
                    history.stand(self.number, self.group, Some(place));
                }
                heard
            }
            // It is out already, whatever the answer.
            Asked::Leave => return Ok(()),
            Asked::Commit(id) => {
                let committed = reply.offset_committed();
                match committed {
                    Some(0) => history.end_commit(self.group, *id, true)?,
                    Some(groups::NOT_AVAILABLE) => {}
                    _ => history.end_commit(self.group, *id, false)?,
                }
                committed
            }
            Asked::Tell(partition, begun) => {
                let told = reply.offset_told();
                if let Some((0, found)) = told {
                    history.tell(self.group, (*partition, *begun), found)?;
                }
                told.map(|(error, _)| error)
            }
        };
        self.take_error(&asked, error, history)
    }

    fn take_join(
        &mut self,
        joined: Option<JoinedGroup>,
        begun: Moment,
        history: &mut Coordination,
    ) -> Checked<Option<i16>> {
        let Some(joined) = joined else {
            return Ok(None);
        };
        match joined.error {
            0 => {
                history.joined(self.group, self.instance.as_deref(), begun, &joined)?;
                self.joins += 1;
                self.id = joined.id;
                self.place = Place::Joined(joined.generation, joined.roll);
            }
            groups::ID_REQUIRED => self.id = joined.id,
            _ => {}
        }
        Ok(Some(joined.error))
    }

    fn take_sync(
        &mut self,
        (generation, begun): (i32, Moment),
        synced: Option<(i16, Vec<u8>)>,
        history: &mut Coordination,
    ) -> Checked<Option<i16>> {
        let Some((0, bytes)) = synced else {
            return Ok(synced.map(|(error, _)| error));
        };
        history.synced(self.group, generation, (self.identity(), begun), &bytes)?;
        let share = decode_share(&bytes);
        let gives_up = self.group == COOPERATIVE && !self.held.is_subset(&share);
        self.held = share;
        if gives_up {
            // What it held is free now: another rebalance deals it.
            self.place = Place::Outside;
        } else {
            let place = (generation, self.held.clone());
            history.stand(self.number, self.group, Some(place));
            self.place = Place::Settled(generation, self.held.clone());
        }
        Ok(Some(0))
    }

    /// Does what a client does that hears an error.
    fn take_error(
        &mut self,
        asked: &Asked,
        error: Option<i16>,
        history: &mut Coordination,
    ) -> Checked<()> {
        match error {
            Some(0 | groups::ID_REQUIRED) => return Ok(()),
            // It asks again.
            Some(groups::NOT_AVAILABLE) => {}
            Some(groups::REBALANCING | groups::ILLEGAL_GENERATION) => self.go_out(false, history),
            Some(groups::UNKNOWN_MEMBER | groups::FENCED) => self.go_out(true, history),
            _ => {
                ensure!(false, "{asked:?} of {self:?} is answered with {error:?}");
            }
        }
        history.refuse();
        Ok(())
    }

    /// It must join again, or anew under another id.
    fn go_out(&mut self, anew: bool, history: &mut Coordination) {
        self.place = Place::Outside;
        history.stand(self.number, self.group, None);
        if anew {
            self.id.clear();
        }
        if anew || self.group == EAGER {
            self.held.clear();
        }
    }
}

/// What a member says to its leader.
struct Words {
    joins: u32,
    held: BTreeSet<i32>,
}

impl Words {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.joins.to_be_bytes().to_vec();
        bytes.extend(self.held.iter().flat_map(|one| one.to_be_bytes()));
        bytes
    }
}

fn numbers(bytes: &[u8]) -> BTreeSet<i32> {
    let (numbers, _) = bytes.as_chunks();
    numbers.iter().map(|one| i32::from_be_bytes(*one)).collect()
}

/// Deals partitions in turn. Cooperative members keep what they hold up to a fair share, and what
/// another gives up is dealt when it is free.
fn deal(
    partitions: i32,
    roll: &[RollMember],
    is_cooperative: bool,
) -> BTreeMap<String, BTreeSet<i32>> {
    let mut shares: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    let all = usize::try_from(partitions).expect("few");
    let fair = all.div_ceil(roll.len());
    let mut free: BTreeSet<i32> = (0..partitions).collect();
    if is_cooperative {
        let mut kept: BTreeSet<i32> = BTreeSet::new();
        for one in roll {
            let held = numbers(&one.words[4..]);
            free = &free - &held;
            let keeps = held
                .into_iter()
                .filter(|part| kept.insert(*part))
                .take(fair);
            shares.insert(one.id.clone(), keeps.collect());
        }
    }
    for partition in free {
        let fewest = roll
            .iter()
            .min_by_key(|one| shares.get(&one.id).map_or(0, BTreeSet::len));
        let fewest = fewest.expect("a roll has members").id.clone();
        shares.entry(fewest).or_default().insert(partition);
    }
    shares
}

/// Generation and name, so that no share passes for another's, and the partitions.
fn encode_share(generation: i32, name: &str, share: &BTreeSet<i32>) -> Vec<u8> {
    let mut bytes = generation.to_be_bytes().to_vec();
    bytes.push(u8::try_from(name.len()).expect("short names"));
    bytes.extend(name.as_bytes());
    bytes.extend(share.iter().flat_map(|one| one.to_be_bytes()));
    bytes
}

fn decode_share(bytes: &[u8]) -> BTreeSet<i32> {
    let name_bytes = usize::from(bytes[4]);
    numbers(&bytes[5 + name_bytes..])
}

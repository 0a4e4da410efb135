//! Groups alone: requests and time in, answers and log entries out.

mod many;
mod members;
mod offsets;
mod rebalance;
mod statics;
mod withdrawals;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use millrace_storage::units::{BootTime, LeaderEpoch, Now, Offset, PartitionId, ShardId};
use uuid::Uuid;

use super::state::{self, GroupStates};
use super::*;
use crate::catalog::change::{CatalogChange, Operation};
use crate::catalog::config::TopicOverrides;
use crate::catalog::{CatalogEpoch, PartitionHome};
use crate::command::ConnectionId;
use crate::testing::WALL_MS;

type Ended = Result<GroupAnswer, Refusal>;

/// Session and rebalance timeouts of members here, milliseconds.
const SESSION_MS: u64 = 10_000;
const REBALANCE_MS: u64 = 60_000;

/// A few groups, with a log that is durable at once.
struct Bench {
    groups: Groups,
    settings: GroupSettings,
    catalog: Catalog,
    now: Now,
    sequence: u64,
    ended: BTreeMap<u64, Ended>,
    /// What the log came to.
    logged: GroupStates,
}

impl Bench {
    /// Topics `t` and `u` with partitions 0, 1 and 2, 3. First rebalances do not wait.
    fn new() -> Self {
        let settings = GroupSettings {
            initial_rebalance_delay_ms: 0,
            ..GroupSettings::default()
        };
        Self::with(settings)
    }

    fn with(settings: GroupSettings) -> Self {
        let topic = |name: &str, first: u32| Operation::TopicCreated {
            id: Uuid::from_u128(u128::from(first) + 1),
            name: Arc::from(name),
            partitions: (first..first + 2)
                .map(|id| PartitionHome {
                    id: PartitionId(id),
                    home: ShardId(0),
                    leader_epoch: LeaderEpoch(0),
                })
                .collect(),
            overrides: TopicOverrides::default(),
        };
        let mut catalog = Catalog::default();
        let change = CatalogChange {
            epoch: CatalogEpoch(1),
            operations: vec![topic("t", 0), topic("u", 2)],
        };
        catalog.apply(&change).expect("fits");
        Self {
            groups: Groups::new(GroupStates::new(), 9),
            settings,
            catalog,
            now: Now {
                boot: BootTime(1_000_000_000),
                wall_ms: WALL_MS,
            },
            sequence: 0,
            ended: BTreeMap::new(),
            logged: GroupStates::new(),
        }
    }

    fn submit_to(&mut self, group: &str, ask: GroupAsk) -> u64 {
        self.sequence += 1;
        let sequence = self.sequence;
        let group = Arc::from(group);
        let asked = GroupRequest { group, ask };
        self.groups.handle(
            self.now,
            &self.settings,
            request(sequence),
            asked,
            &self.catalog,
        );
        self.drain();
        sequence
    }

    fn submit(&mut self, ask: GroupAsk) -> u64 {
        self.submit_to("g", ask)
    }

    fn drain(&mut self) {
        while let Some(effect) = self.groups.poll_effect() {
            match effect {
                Effect::Log(change) => {
                    let entry = state::entry(&change);
                    state::apply_entry(&mut self.logged, &entry).expect("reads back");
                }
                Effect::End(request, ended) | Effect::EndDurably(request, ended) => {
                    let before = self.ended.insert(request.sequence, ended);
                    assert!(before.is_none(), "a request ends once");
                }
            }
        }
        self.check();
    }

    /// What holds after every step.
    fn check(&self) {
        let groups = self.groups.groups.iter();
        let counted: usize = groups.map(|(name, group)| group.bytes(name)).sum();
        assert_eq!(self.groups.bytes, counted, "bytes are counted right");
        for group in self.groups.groups.values() {
            let offsets = group.state.offsets.values();
            let bytes: usize = offsets.map(|one| state::memory_bytes(&one.commit)).sum();
            assert_eq!(group.state.offsets.bytes(), bytes);
        }
        let members = self
            .groups
            .groups
            .values()
            .flat_map(|group| group.members.iter());
        let parked = members.filter_map(|(_, member)| member.parked.request());
        let parked: BTreeSet<RequestId> = parked.collect();
        assert!(
            self.groups.waiting.keys().eq(&parked),
            "what waits is what members wait with"
        );
        for (name, group) in &self.groups.groups {
            group.members.check();
            let in_time = |due| group.armed.is_some_and(|armed| armed <= due);
            assert!(
                group.due().is_none_or(in_time),
                "{name}: no timer is missed"
            );
            let alone = group.members.is_empty();
            assert_eq!(
                group.leader.is_none(),
                alone,
                "{name}: members have a leader"
            );
            if alone {
                let at_rest = matches!(
                    group.standing(),
                    GroupStanding::Empty | GroupStanding::PreparingRebalance
                );
                assert!(at_rest, "{name}: {:?}", group.standing());
            }
            let logged = self.logged.get(name).map_or(0, |state| state.generation);
            assert_eq!(
                logged, group.state.generation,
                "{name}: generations are kept"
            );
        }
    }

    fn ask(&mut self, ask: GroupAsk) -> Ended {
        let sequence = self.submit(ask);
        self.taken(sequence).expect("it is answered at once")
    }

    fn taken(&mut self, sequence: u64) -> Option<Ended> {
        self.ended.remove(&sequence)
    }

    /// Lets time pass in steps of what is due.
    fn pass_ms(&mut self, ms: u64) {
        let end = self.now.boot.after_ms(ms);
        let end_wall = self.now.wall_ms + i64::try_from(ms).expect("a short while");
        while let Some(due) = self.groups.due()
            && due <= end
        {
            self.now.boot = self.now.boot.max(due);
            let left = (end.0 - self.now.boot.0) / 1_000_000;
            self.now.wall_ms = end_wall - i64::try_from(left).expect("a short while");
            self.groups
                .handle_timeout(self.now, &self.settings, &self.catalog);
            self.drain();
        }
        self.now.boot = end;
        self.now.wall_ms = end_wall;
    }

    fn standing(&self) -> Option<GroupStanding> {
        self.groups.groups.get("g").map(Group::standing)
    }

    /// A member joins as a new one; its number to ask by.
    fn join_new(&mut self) -> u64 {
        self.submit(GroupAsk::Join(join("")))
    }

    fn joined(&mut self, sequence: u64) -> Joined {
        match self.taken(sequence).expect("the join ended") {
            Ok(GroupAnswer::Joined(joined)) => *joined,
            other => panic!("{other:?}"),
        }
    }

    /// A stable group of `count` members: their ids, the leader's first.
    fn stable(&mut self, count: usize) -> Vec<Arc<str>> {
        let joins: Vec<u64> = (0..count).map(|_| self.join_new()).collect();
        self.pass_ms(0);
        let joined: Vec<Joined> = joins.into_iter().map(|join| self.joined(join)).collect();
        let ids: Vec<Arc<str>> = joined.iter().map(|one| Arc::clone(&one.member)).collect();
        self.sync_all(&ids, joined[0].generation);
        ids
    }

    /// Everyone syncs, the leader last; everyone's share is its own id.
    fn sync_all(&mut self, ids: &[Arc<str>], generation: i32) {
        let shares = ids
            .iter()
            .map(|id| (id.to_string(), Bytes::copy_from_slice(id.as_bytes())));
        let shares: Vec<(String, Bytes)> = shares.collect();
        let followers = ids[1..].iter();
        let mut syncs: Vec<(u64, Arc<str>)> = Vec::new();
        for id in followers {
            let asked = self.submit(sync(id, generation, Vec::new()));
            assert!(self.ended.is_empty(), "a follower waits for the leader");
            syncs.push((asked, Arc::clone(id)));
        }
        let asked = self.submit(sync(&ids[0], generation, shares));
        syncs.push((asked, Arc::clone(&ids[0])));
        for (asked, id) in syncs {
            match self.taken(asked).expect("the shares are dealt") {
                Ok(GroupAnswer::Synced(synced)) => assert_eq!(synced.assignment, id.as_bytes()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(self.standing(), Some(GroupStanding::Stable));
    }

    fn heartbeat(&mut self, id: &str, generation: i32) -> Ended {
        self.ask(GroupAsk::Heartbeat(membership(id, generation)))
    }
}

fn request(sequence: u64) -> RequestId {
    RequestId {
        origin: ShardId(0),
        connection: ConnectionId::CONTROL,
        sequence,
    }
}

fn membership(id: &str, generation: i32) -> Membership {
    Membership {
        generation,
        member: id.to_owned(),
        instance: None,
    }
}

/// A wish to join of a consumer of `t` that knows `range`, in words of its own.
fn join(id: &str) -> JoinGroup {
    JoinGroup {
        member: id.to_owned(),
        instance: None,
        client: ClientIdentity {
            id: "client".to_owned(),
            host: "/127.0.0.1".to_owned(),
        },
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: REBALANCE_MS,
        protocol_type: Arc::from("consumer"),
        protocols: vec![protocol("range", "words")],
        topics: Some(vec![Arc::from("t")]),
        id_first: false,
        may_skip_assignment: false,
    }
}

fn protocol(name: &str, metadata: &str) -> GroupProtocol {
    GroupProtocol {
        name: Arc::from(name),
        metadata: Bytes::copy_from_slice(metadata.as_bytes()),
    }
}

fn sync(id: &str, generation: i32, assignments: Vec<(String, Bytes)>) -> GroupAsk {
    GroupAsk::Sync(SyncGroup {
        membership: membership(id, generation),
        protocol_type: None,
        protocol: None,
        assignments,
    })
}

fn leave(id: &str) -> GroupAsk {
    GroupAsk::Leave(vec![LeavingMember {
        member: id.to_owned(),
        instance: None,
    }])
}

fn commit(membership: Membership, offsets: &[(u32, u64)]) -> GroupAsk {
    let offsets = offsets.iter().map(|(partition, offset)| {
        let offset = NewOffset {
            offset: Offset(*offset),
            leader_epoch: None,
            metadata: Arc::from("m"),
        };
        (PartitionId(*partition), offset)
    });
    GroupAsk::Commit(CommitOffsets {
        membership,
        retention_ms: None,
        offsets: offsets.collect(),
    })
}

fn refused(refusal: GroupRefusal) -> Ended {
    Err(Refusal::Group(refusal))
}

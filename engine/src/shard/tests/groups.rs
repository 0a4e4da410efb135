//! Groups over shards, on a disk: durable before the answer, found again, moved with the cores.

use std::sync::Arc;

use millrace_storage::LossRange;

use super::*;
use crate::group::{
    ClientIdentity, CommitOffsets, CommittedOffset, GroupAnswer, GroupAsk, GroupProtocol,
    GroupRefusal, GroupRequest, JoinGroup, Joined, LeavingMember, Membership, NewOffset,
};

fn group(name: &str, ask: GroupAsk) -> Command<'static> {
    let group = Arc::from(name);
    Command::Group(GroupRequest { group, ask })
}

fn commit(offsets: &[(PartitionId, u64)], metadata: &str) -> GroupAsk {
    let offsets = offsets.iter().map(|(partition, offset)| {
        let offset = NewOffset {
            offset: Offset(*offset),
            leader_epoch: None,
            metadata: Arc::from(metadata),
        };
        (*partition, offset)
    });
    GroupAsk::Commit(CommitOffsets {
        membership: Membership {
            generation: -1,
            member: String::new(),
            instance: None,
        },
        retention_ms: None,
        offsets: offsets.collect(),
    })
}

fn join() -> GroupAsk {
    GroupAsk::Join(JoinGroup {
        member: String::new(),
        instance: None,
        client: ClientIdentity::default(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: Arc::from("consumer"),
        protocols: vec![GroupProtocol {
            name: Arc::from("range"),
            metadata: bytes::Bytes::from_static(b"words"),
        }],
        topics: None,
        id_first: false,
        may_skip_assignment: false,
    })
}

impl World {
    fn offsets(&mut self, shard: u16, name: &str) -> Vec<(u32, u64)> {
        match self.ask(shard, group(name, GroupAsk::FetchOffsets(None))) {
            Ok(Outcome::Group(GroupAnswer::Offsets(offsets))) => {
                let offset = |found: Option<CommittedOffset>| found.expect("held").commit.offset.0;
                let offsets = offsets.into_iter();
                offsets.map(|(id, found)| (id.0, offset(found))).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, shard: u16, name: &str, offsets: &[(PartitionId, u64)]) {
        let answer = self.ask(shard, group(name, commit(offsets, "m")));
        let all = vec![Ok(()); offsets.len()];
        match answer {
            Ok(Outcome::Group(GroupAnswer::OffsetsCommitted(results))) => assert_eq!(results, all),
            other => panic!("{other:?}"),
        }
    }

    /// A member joins alone, and leaves again: the generation that it was in.
    fn pass_through(&mut self, shard: u16, name: &str) -> i32 {
        let sequence = self.submit(shard, group(name, join()));
        self.run();
        self.pass_ms(1_000);
        let joined: Joined = match self.ended(sequence) {
            Some(Ok(Outcome::Group(GroupAnswer::Joined(joined)))) => *joined,
            other => panic!("{other:?}"),
        };
        let leaving = LeavingMember {
            member: joined.member.to_string(),
            instance: None,
        };
        let left = self.ask(shard, group(name, GroupAsk::Leave(vec![leaving])));
        assert!(left.is_ok(), "{left:?}");
        joined.generation
    }

    /// Lets the background work until a request ended.
    fn ended_in_time(&mut self, sequence: u64) -> Result<Outcome, Refusal> {
        for _ in 0..1_000 {
            if let Some(ended) = self.ended(sequence) {
                return ended;
            }
            self.pass_ms(10);
        }
        panic!("{sequence} did not end");
    }

    fn group_counter(&self, shard: usize, name: &str) -> u64 {
        let counters = self.shards[shard].report().counters;
        let found = counters.iter().find(|(counter, _)| *counter == name);
        found.expect("a counter of that name").1
    }
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[test]
fn a_commit_is_answered_when_it_is_durable_and_read_only_then() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    let commits = world.submit(0, group("g", commit(&[(partition, 5)], "m")));
    let reads = world.submit(0, group("g", GroupAsk::FetchOffsets(None)));
    world.turn();
    assert!(world.ended.is_empty(), "nothing is durable yet");
    while world.ended.is_empty() {
        assert!(world.disk_step(), "the write ends");
        world.turn();
    }
    assert!(world.ended(commits).is_some_and(|ended| ended.is_ok()));
    assert!(world.ended(reads).is_some_and(|ended| ended.is_ok()));
    world.power_cut();
    assert_eq!(world.offsets(0, "g"), [(partition.0, 5)]);
}

#[test]
fn a_clean_stop_waits_for_no_member_of_a_group() {
    let mut world = World::new(2);
    // One of the two waits at home, the other's home is elsewhere.
    let waiting = [0, 1].map(|shard| world.submit(shard, group("g", join())));
    world.run();
    assert!(world.shards.iter().any(Shard::awaits_others));
    for _ in 0..20 {
        for shard in &mut world.shards {
            shard.close(world.now);
        }
        world.run();
    }
    for shard in &world.shards {
        assert!(!shard.awaits_others() && !shard.is_asked_by_others());
        assert!(shard.is_quiet());
    }
    assert!(
        waiting
            .iter()
            .all(|sequence| world.ended(*sequence).is_none())
    );
}

#[test]
fn a_member_whose_connection_closes_is_missed_wherever_it_came_in() {
    for shard in [0, 1] {
        let mut world = World::new(2);
        let waits = world.submit(shard, group("g", join()));
        world.run();
        let connection = world.request(shard, waits).connection;
        world.shards[usize::from(shard)].cancel_connection(connection);
        world.run();
        assert!(world.ended(waits).is_none(), "nobody hears of it");
        assert!(!world.shards[usize::from(shard)].awaits_others());
        // It did not know its id: it cannot come back.
        match world.ask(shard, group("g", GroupAsk::Describe)) {
            Ok(Outcome::Group(GroupAnswer::Described(Some(described)))) => {
                assert!(described.members.is_empty(), "{described:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_shard_answers_for_every_group() {
    let mut world = World::new(3);
    let partitions = world.create("t", 2);
    for (name, shard) in NAMES.iter().zip([0, 1, 2].into_iter().cycle()) {
        world.commit(shard, name, &[(partitions[0], 1), (partitions[1], 2)]);
        for other in 0..3 {
            let held = [(partitions[0].0, 1), (partitions[1].0, 2)];
            assert_eq!(world.offsets(other, name), held);
        }
    }
    let mut listed = Vec::new();
    for home in (0..4).map(ShardId) {
        match world.ask(1, Command::ListGroups { home }) {
            Ok(Outcome::GroupsListed(groups)) => {
                let here = groups.iter().map(|one| one.group.to_string());
                let is_home = |name: &String| world.shards[0].catalog().group_home(name) == home;
                assert!(here.clone().all(|name| is_home(&name)));
                listed.extend(here);
            }
            other => panic!("{other:?}"),
        }
    }
    listed.sort_unstable();
    assert_eq!(listed, NAMES);
    // A deleted topic takes its offsets with it, everywhere, also after a restart.
    let topics = vec![crate::command::TopicRef::Name("t".to_owned())];
    let deleted = world.ask(
        1,
        Command::WriteCatalog(CatalogRequest::DeleteTopics { topics }),
    );
    assert!(deleted.is_ok());
    for name in NAMES {
        assert_eq!(world.offsets(0, name), []);
    }
    world.power_cut();
    for name in NAMES {
        assert_eq!(world.offsets(0, name), []);
    }
}

#[test]
fn generations_and_offsets_go_with_the_cores() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    for (round, shards) in (0..).zip([1_u16, 3, 2, 4, 1, 3]) {
        world.config.shards = shards;
        world.power_cut();
        for (at, name) in (0_u16..).zip(NAMES) {
            let asked = at % shards;
            if round > 0 {
                assert_eq!(world.offsets(asked, name), [(partition.0, round)]);
            }
            let generation = world.pass_through(asked, name);
            assert_eq!(u64::try_from(generation), Ok(2 * round + 1), "{name}");
            world.commit(asked, name, &[(partition, round + 1)]);
        }
        let gone = format!("gone {round}");
        world.commit(0, &gone, &[(partition, 1)]);
        let deleted = world.ask(0, group(&gone, GroupAsk::Delete));
        assert!(matches!(deleted, Ok(Outcome::Group(GroupAnswer::Deleted))));
    }
    for shards in [2, 1] {
        world.config.shards = shards;
        world.power_cut();
        let held: u64 = (0..usize::from(shards))
            .map(|shard| world.group_counter(shard, "groups_now"))
            .sum();
        assert_eq!(held, NAMES.len() as u64, "a deleted group stays deleted");
    }
}

#[test]
fn a_deleted_group_does_not_come_back_from_a_shard_that_had_it_once() {
    let mut world = World::new(2);
    let partition = world.create("t", 1)[0];
    for name in NAMES {
        world.commit(0, name, &[(partition, 1)]);
    }
    for shards in [1, 2] {
        world.config.shards = shards;
        world.power_cut();
        if shards == 1 {
            for name in NAMES {
                let deleted = world.ask(0, group(name, GroupAsk::Delete));
                assert!(deleted.is_ok(), "{deleted:?}");
            }
        }
    }
    world.power_cut();
    for name in NAMES {
        let gone = world.ask(1, group(name, GroupAsk::Delete));
        let not_found = Refusal::Group(GroupRefusal::NotFound);
        assert_eq!(gone.err(), Some(not_found), "{name}");
    }
}

#[test]
fn settled_groups_are_found_again() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    let words = "w".repeat(4_000);
    for offset in 0..400 {
        let sequence = world.submit(0, group("g", commit(&[(partition, offset)], &words)));
        world.run();
        let ended = world.ended_in_time(sequence);
        assert!(ended.is_ok(), "{ended:?}");
    }
    assert!(
        world.group_counter(0, "snapshots") > 0,
        "the log went round"
    );
    for _ in 0..2 {
        world.power_cut();
        assert_eq!(world.offsets(0, "g"), [(partition.0, 399)]);
    }
}

#[test]
fn commits_wait_for_room_in_the_log_and_heartbeats_do_not() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    let words = "w".repeat(4_000);
    // Nothing completes, so the log runs out of room.
    let commits: Vec<u64> = (0..600)
        .map(|offset| world.submit(0, group("g", commit(&[(partition, offset)], &words))))
        .collect();
    world.turn();
    let beat = GroupAsk::Heartbeat(Membership {
        generation: 1,
        member: "who".to_owned(),
        instance: None,
    });
    let beat = world.submit(0, group("g", beat));
    world.turn();
    assert!(world.ended(beat).is_some(), "it waits for nothing");
    assert!(
        commits
            .iter()
            .all(|commit| !world.ended.contains_key(commit))
    );
    world.run();
    for commit in commits {
        let ended = world.ended_in_time(commit);
        assert!(ended.is_ok(), "{ended:?}");
    }
    world.power_cut();
    assert_eq!(world.offsets(0, "g"), [(partition.0, 599)]);
}

#[test]
fn a_stop_at_any_disk_operation_takes_no_commit_back() {
    for stop in (0..60).step_by(2) {
        let mut world = World::new(2);
        let partition = world.create("t", 1)[0];
        let start = world.disk.ops_started();
        world.disk.power_off_at(start + stop);
        let mut acknowledged = None;
        for offset in 0..20 {
            let sequence = world.submit(1, group("g", commit(&[(partition, offset)], "m")));
            world.run();
            if let Some(Ok(_)) = world.ended(sequence) {
                acknowledged = Some(offset);
            }
        }
        world.power_cut();
        let held = world.offsets(0, "g").first().map(|(_, offset)| *offset);
        assert!(
            held >= acknowledged,
            "stop {stop}: {held:?} {acknowledged:?}"
        );
    }
}

#[test]
fn a_move_of_groups_killed_at_any_disk_operation_is_done_again() {
    let mut before = World::new(2);
    let partitions = before.create("t", 3);
    let offsets: Vec<(PartitionId, u64)> = partitions.iter().map(|id| (*id, 7)).collect();
    for name in NAMES {
        before.commit(0, name, &offsets);
    }
    let expected: Vec<(u32, u64)> = offsets.iter().map(|(id, offset)| (id.0, *offset)).collect();
    let mut completed = false;
    let mut stop = 0;
    while !completed {
        assert!(stop < 2_000, "the move ends");
        let mut world = World::new(1);
        world.disk = before.disk.after_power_cut(Survival::Nothing, stop);
        world.directories = 2;
        let start = world.disk.ops_started();
        world.disk.power_off_at(start + stop);
        completed = world.try_start().is_ok();
        for shards in [1 + u16::try_from(stop % 3).expect("few"), 2] {
            world.config.shards = shards;
            world.power_cut();
            for name in NAMES {
                assert_eq!(world.offsets(0, name), expected, "{name}, stop {stop}");
            }
        }
        stop += 1;
    }
    assert!(stop > 20, "the move takes many operations");
}

#[test]
fn no_generation_comes_again_after_an_accepted_loss() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    world.commit(0, "c", &[(partition, 5)]);
    let told = (0..6).map(|_| world.pass_through(0, "c")).max();
    let told = told.expect("some");
    // Long enough for the log to note what is durable.
    world.pass_ms(20);
    world.disk = world.disk.after_power_cut(Survival::Nothing, 3);
    let (from, to) = world.damage_last_blocks();
    world.config.accept_loss = vec![(ShardId(0), LossRange { from, to })];
    // The group moves in the same start.
    world.config.shards = 2;
    world.start();
    assert_eq!(world.shards[0].catalog().group_home("c"), ShardId(1));
    world.config.accept_loss.clear();
    let next = world.pass_through(0, "c");
    assert!(next > told, "{next} after {told}");
    for _ in 0..2 {
        world.power_cut();
        // A later start does not skip again: members came and went in between.
        let again = world.pass_through(0, "c");
        assert!((next..next + 8).contains(&again), "{again} after {next}");
        assert_eq!(world.offsets(0, "c"), [(partition.0, 5)]);
    }
}

#[test]
fn members_that_wait_for_each_other_stop_no_producer() {
    let mut engine = EngineConfig::default();
    engine.limits.requests_max = 4;
    engine.limits.mesh_requests_max = 4;
    let mut world = World::with(2, engine);
    let partitions = world.create("t", 2);
    let waiting: Vec<u64> = (0..24)
        .map(|number| world.submit(0, group(&format!("g{}", number % 8), join())))
        .collect();
    world.run();
    assert!(world.ended.is_empty(), "the first rebalance waits for more");
    assert!(world.shards[0].accepts_appends());
    for partition in &partitions {
        assert!(world.append(0, *partition, &BatchMaker::new(1)).is_ok());
    }
    for _ in 0..5 {
        world.pass_ms(1_000);
    }
    for sequence in waiting {
        let ended = world.ended(sequence).expect("the rebalance is over");
        assert!(matches!(ended, Ok(Outcome::Group(GroupAnswer::Joined(_)))));
    }
    assert!(!world.shards[0].awaits_others());
}

/// A crash brings a group back whose deletion was not durable: nobody may have heard of that.
#[test]
fn that_a_group_is_gone_is_told_once_that_is_durable() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    world.commit(0, "g", &[(partition, 5)]);
    let deleting = world.submit(0, group("g", GroupAsk::Delete));
    let asks = [
        GroupAsk::FetchOffsets(None),
        GroupAsk::Describe,
        GroupAsk::DeleteOffsets(vec![partition]),
        GroupAsk::Delete,
    ];
    let asked = asks.map(|ask| world.submit(0, group("g", ask)));
    world.turn();
    for sequence in asked {
        assert!(
            world.ended(sequence).is_none(),
            "the log does not have it yet"
        );
    }
    world.run();
    assert!(world.ended(deleting).expect("ended").is_ok());
    let ends = asked.map(|sequence| world.ended(sequence).expect("ended"));
    assert!(matches!(
        &ends[0],
        Ok(Outcome::Group(GroupAnswer::Offsets(offsets))) if offsets.is_empty()
    ));
    assert!(matches!(
        ends[1],
        Ok(Outcome::Group(GroupAnswer::Described(None)))
    ));
    for end in &ends[2..] {
        assert!(matches!(end, Err(Refusal::Group(GroupRefusal::NotFound))));
    }
}

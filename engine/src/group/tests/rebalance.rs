//! From one generation to the next.

use super::*;

#[test]
fn a_new_member_makes_everyone_join_again() {
    let mut bench = Bench::new();
    let ids = bench.stable(2);
    let third = bench.join_new();
    let rebalancing = refused(GroupRefusal::Rebalancing);
    for id in &ids {
        assert_eq!(bench.heartbeat(id, 1), rebalancing);
        assert_eq!(bench.ask(sync(id, 1, Vec::new())), rebalancing);
    }
    let again: Vec<u64> = ids
        .iter()
        .map(|id| bench.submit(GroupAsk::Join(join(id))))
        .collect();
    let third = bench.joined(third);
    assert_eq!(third.generation, 2);
    assert_eq!(third.leader, ids[0], "the leader stays");
    let leader = bench.joined(again[0]);
    assert_eq!(leader.members.len(), 3);
    assert_eq!(bench.joined(again[1]).members.len(), 0);
    let all = [&ids[..], &[third.member]].concat();
    bench.sync_all(&all, 2);
}

#[test]
fn who_does_not_join_in_time_is_out() {
    let mut bench = Bench::new();
    let ids = bench.stable(3);
    let again = bench.submit(GroupAsk::Join(join(&ids[1])));
    assert_eq!(
        bench.joined(again).generation,
        1,
        "a follower with nothing new learns what it knows"
    );
    let leader = bench.submit(GroupAsk::Join(join(&ids[0])));
    let other = bench.submit(GroupAsk::Join(join(&ids[1])));
    for _ in 0..REBALANCE_MS / 5_000 {
        assert_eq!(bench.taken(leader), None);
        let alive = bench.heartbeat(&ids[2], 1);
        assert_eq!(alive, refused(GroupRefusal::Rebalancing));
        bench.pass_ms(5_000);
    }
    assert_eq!(bench.joined(leader).members.len(), 2);
    assert_eq!(bench.joined(other).generation, 2);
    let out = bench.heartbeat(&ids[2], 1);
    assert_eq!(out, refused(GroupRefusal::UnknownMember));
}

#[test]
fn a_leader_that_is_out_is_followed_by_one_that_joined() {
    let mut bench = Bench::new();
    let ids = bench.stable(3);
    assert!(bench.ask(leave(&ids[0])).is_ok());
    let third = bench.submit(GroupAsk::Join(join(&ids[2])));
    assert_eq!(bench.taken(third), None);
    let second = bench.submit(GroupAsk::Join(join(&ids[1])));
    let second = bench.joined(second);
    assert_eq!(second.leader, ids[1]);
    assert_eq!(second.members.len(), 2);
    assert_eq!(bench.joined(third).leader, ids[1]);
}

#[test]
fn a_member_without_heartbeats_is_dropped_after_its_session() {
    let mut bench = Bench::new();
    let ids = bench.stable(2);
    for _ in 0..3 {
        bench.pass_ms(SESSION_MS - 1);
        for id in &ids {
            assert_eq!(bench.heartbeat(id, 1), Ok(GroupAnswer::Alive));
        }
    }
    bench.pass_ms(SESSION_MS / 2);
    assert_eq!(bench.heartbeat(&ids[1], 1), Ok(GroupAnswer::Alive));
    bench.pass_ms(SESSION_MS / 2);
    let rebalancing = refused(GroupRefusal::Rebalancing);
    assert_eq!(bench.heartbeat(&ids[1], 1), rebalancing);
    let unknown = refused(GroupRefusal::UnknownMember);
    assert_eq!(bench.heartbeat(&ids[0], 1), unknown);
    let second = bench.submit(GroupAsk::Join(join(&ids[1])));
    assert_eq!(bench.joined(second).leader, ids[1]);
}

#[test]
fn everyone_gone_leaves_an_empty_group_of_a_new_generation() {
    let mut bench = Bench::new();
    bench.stable(2);
    bench.pass_ms(SESSION_MS);
    let logged = &bench.logged["g"];
    assert_eq!(bench.standing(), Some(GroupStanding::Empty));
    assert_eq!(logged.generation, 2);
    assert_eq!(logged.empty_since_ms, Some(bench.now.wall_ms));
    assert_eq!(logged.protocol_type.as_deref(), Some("consumer"));
    let next = bench.join_new();
    bench.pass_ms(0);
    assert_eq!(bench.joined(next).generation, 3, "generations go on");
}

#[test]
fn waiting_members_need_no_heartbeats_but_new_ones_do_not_wait_for_ever() {
    let mut bench = Bench::new();
    let ids = bench.stable(2);
    let slow = JoinGroup {
        rebalance_timeout_ms: 400_000,
        ..join("")
    };
    let new = bench.submit(GroupAsk::Join(slow));
    let waits = bench.submit(GroupAsk::Join(join(&ids[0])));
    for _ in 0..80 {
        bench.pass_ms(5_000);
        if bench.ended.is_empty() {
            let alive = bench.heartbeat(&ids[1], 1);
            assert_eq!(alive, refused(GroupRefusal::Rebalancing));
        }
        if bench.ended.contains_key(&new) {
            break;
        }
    }
    assert_eq!(
        bench.taken(new),
        Some(refused(GroupRefusal::UnknownMember)),
        "nobody could tell whether it is still there"
    );
    assert_eq!(bench.taken(waits), None, "the second one is still missing");
    let second = bench.submit(GroupAsk::Join(join(&ids[1])));
    assert_eq!(bench.joined(waits).members.len(), 2);
    assert_eq!(bench.joined(second).generation, 2);
}

#[test]
fn a_rebalance_while_shares_are_awaited_sends_everyone_back() {
    let mut bench = Bench::new();
    let joins = [bench.join_new(), bench.join_new()];
    bench.pass_ms(0);
    let ids = joins.map(|join| bench.joined(join).member);
    let waits = bench.submit(sync(&ids[1], 1, Vec::new()));
    // The same words again: it did not get its answer, and gets it again.
    let again = bench.submit(GroupAsk::Join(join(&ids[0])));
    assert_eq!(bench.joined(again).members.len(), 2);
    assert_eq!(bench.standing(), Some(GroupStanding::CompletingRebalance));
    bench.join_new();
    let rebalancing = refused(GroupRefusal::Rebalancing);
    assert_eq!(bench.taken(waits), Some(rebalancing.clone()));
    assert_eq!(bench.heartbeat(&ids[1], 1), rebalancing);
}

#[test]
fn other_words_begin_a_rebalance() {
    let mut bench = Bench::new();
    let ids = bench.stable(2);
    let asked = JoinGroup {
        protocols: vec![protocol("range", "other words")],
        ..join(&ids[1])
    };
    let second = bench.submit(GroupAsk::Join(asked));
    assert_eq!(bench.taken(second), None);
    let leader = bench.submit(GroupAsk::Join(join(&ids[0])));
    let leader = bench.joined(leader);
    assert_eq!(leader.generation, 2);
    let said = leader.members.iter().find(|one| one.member == ids[1]);
    assert_eq!(said.expect("a member").metadata, "other words");
    assert_eq!(bench.joined(second).generation, 2);
}

#[test]
fn a_member_that_never_asks_for_its_share_is_dropped() {
    let mut bench = Bench::new();
    let joins = [bench.join_new(), bench.join_new()];
    bench.pass_ms(0);
    let ids = joins.map(|join| bench.joined(join).member);
    let leader = bench.submit(sync(&ids[0], 1, Vec::new()));
    assert!(matches!(
        bench.taken(leader),
        Some(Ok(GroupAnswer::Synced(_)))
    ));
    // Not named by the leader: an empty share.
    for _ in 0..REBALANCE_MS / 5_000 {
        for id in &ids {
            assert_eq!(bench.heartbeat(id, 1), Ok(GroupAnswer::Alive));
        }
        bench.pass_ms(5_000);
    }
    let out = bench.heartbeat(&ids[1], 1);
    assert_eq!(out, refused(GroupRefusal::UnknownMember));
    let stays = bench.heartbeat(&ids[0], 1);
    assert_eq!(stays, refused(GroupRefusal::Rebalancing));
}

#[test]
fn a_late_sync_gets_the_share_and_a_wrong_protocol_does_not() {
    let mut bench = Bench::new();
    let joins = [bench.join_new(), bench.join_new()];
    bench.pass_ms(0);
    let ids = joins.map(|join| bench.joined(join).member);
    let share = vec![(ids[1].to_string(), Bytes::from_static(b"share"))];
    assert!(bench.ask(sync(&ids[0], 1, share)).is_ok());
    for (protocol_type, protocol) in [(Some("connect"), None), (None, Some("sticky"))] {
        let wrong = GroupAsk::Sync(SyncGroup {
            membership: membership(&ids[1], 1),
            protocol_type: protocol_type.map(str::to_owned),
            protocol: protocol.map(str::to_owned),
            assignments: Vec::new(),
        });
        let inconsistent = refused(GroupRefusal::InconsistentProtocol);
        assert_eq!(bench.ask(wrong), inconsistent);
    }
    match bench.ask(sync(&ids[1], 1, Vec::new())) {
        Ok(GroupAnswer::Synced(synced)) => assert_eq!(synced.assignment, "share"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn several_leave_in_one_request_and_each_hears_for_itself() {
    let mut bench = Bench::new();
    let ids = bench.stable(3);
    let leaving = [&*ids[0], "who", &*ids[2], &*ids[0]].map(|id| LeavingMember {
        member: id.to_owned(),
        instance: None,
    });
    let left = bench.ask(GroupAsk::Leave(leaving.to_vec()));
    let unknown = || Err(GroupRefusal::UnknownMember);
    let expected = vec![Ok(()), unknown(), Ok(()), unknown()];
    assert_eq!(left, Ok(GroupAnswer::Left(expected)));
    let last = bench.submit(GroupAsk::Join(join(&ids[1])));
    assert_eq!(bench.joined(last).members.len(), 1);
}

#[test]
fn a_member_that_leaves_while_it_waits_hears_of_it() {
    let mut bench = Bench::new();
    let ids = bench.stable(2);
    let waits = bench.submit(GroupAsk::Join(join(&ids[0])));
    assert!(bench.ask(leave(&ids[0])).is_ok());
    let unknown = Some(refused(GroupRefusal::UnknownMember));
    assert_eq!(bench.taken(waits), unknown);
}

#[test]
fn a_join_sent_twice_ends_twice() {
    let mut bench = Bench::new();
    let ids = bench.stable(2);
    let first = bench.submit(GroupAsk::Join(join(&ids[0])));
    let second = bench.submit(GroupAsk::Join(join(&ids[0])));
    assert_eq!(bench.taken(first), Some(refused(GroupRefusal::Rebalancing)));
    let other = bench.submit(GroupAsk::Join(join(&ids[1])));
    assert_eq!(bench.joined(second).members.len(), 2);
    assert_eq!(bench.joined(other).generation, 2);
}

#[test]
fn a_poisoned_log_gives_everyone_back() {
    let mut bench = Bench::new();
    let ids = bench.stable(2);
    let waits = bench.submit(GroupAsk::Join(join(&ids[0])));
    let parked = bench.groups.abandon();
    let parked: Vec<u64> = parked.iter().map(|request| request.sequence).collect();
    assert_eq!(parked, [waits]);
}

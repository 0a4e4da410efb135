//! Static members: they keep their place through their own restarts.

use super::*;

fn static_join(id: &str, instance: &str) -> JoinGroup {
    JoinGroup {
        instance: Some(instance.to_owned()),
        ..join(id)
    }
}

/// A stable group of static members `i0`, `i1` and so on: their ids, the leader's first.
fn stable(bench: &mut Bench, count: usize) -> Vec<Arc<str>> {
    let joins: Vec<u64> = (0..count)
        .map(|at| bench.submit(GroupAsk::Join(static_join("", &format!("i{at}")))))
        .collect();
    bench.pass_ms(0);
    let joined = joins.into_iter().map(|join| bench.joined(join).member);
    let ids: Vec<Arc<str>> = joined.collect();
    bench.sync_all(&ids, 1);
    ids
}

fn instance(id: &str, generation: i32, instance: &str) -> Membership {
    Membership {
        instance: Some(instance.to_owned()),
        ..membership(id, generation)
    }
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let mut bench = Bench::new();
    let ids = stable(&mut bench, 2);
    assert!(ids[1].starts_with("i1-"), "{}", ids[1]);
    let back = bench.submit(GroupAsk::Join(static_join("", "i1")));
    let back = bench.joined(back);
    assert_ne!(back.member, ids[1]);
    assert_eq!((back.generation, &back.leader), (1, &ids[0]));
    assert_eq!(bench.standing(), Some(GroupStanding::Stable));
    match bench.ask(sync(&back.member, 1, Vec::new())) {
        Ok(GroupAnswer::Synced(synced)) => {
            assert_eq!(synced.assignment, ids[1].as_bytes(), "its old share");
        }
        other => panic!("{other:?}"),
    }
    // The old one is fenced where it says its name, and unknown where it does not.
    let old = GroupAsk::Heartbeat(instance(&ids[1], 1, "i1"));
    assert_eq!(bench.ask(old), refused(GroupRefusal::InstanceFenced));
    let unknown = refused(GroupRefusal::UnknownMember);
    assert_eq!(bench.heartbeat(&ids[1], 1), unknown);
    let old = GroupAsk::Join(static_join(&ids[1], "i1"));
    assert_eq!(bench.ask(old), refused(GroupRefusal::InstanceFenced));
    let old = commit(instance(&ids[1], 1, "i1"), &[(0, 1)]);
    assert_eq!(bench.ask(old), refused(GroupRefusal::InstanceFenced));
    let stranger = GroupAsk::Heartbeat(instance(&ids[1], 1, "nobody"));
    assert_eq!(bench.ask(stranger), unknown);
}

#[test]
fn a_static_leader_that_comes_back_deals_nothing() {
    let mut bench = Bench::new();
    let ids = stable(&mut bench, 2);
    let back = bench.submit(GroupAsk::Join(static_join("", "i0")));
    let back = bench.joined(back);
    assert_eq!(back.leader, ids[0], "it must not think that it leads");
    assert!(back.members.is_empty() && !back.skip_assignment);

    let asked = JoinGroup {
        may_skip_assignment: true,
        ..static_join("", "i0")
    };
    let again = bench.submit(GroupAsk::Join(asked));
    let again = bench.joined(again);
    assert_eq!(again.leader, again.member);
    assert!(again.skip_assignment);
    assert_eq!(again.members.len(), 2);
    assert_eq!(bench.standing(), Some(GroupStanding::Stable));
}

#[test]
fn a_static_member_with_another_choice_of_protocol_begins_a_rebalance() {
    let mut bench = Bench::new();
    let asked = |instance, names: &[&str]| {
        let protocols = names.iter().map(|name| protocol(name, "words"));
        GroupAsk::Join(JoinGroup {
            protocols: protocols.collect(),
            ..static_join("", instance)
        })
    };
    let joins = [
        bench.submit(asked("i0", &["range", "sticky"])),
        bench.submit(asked("i1", &["range", "sticky"])),
    ];
    bench.pass_ms(0);
    let ids = joins.map(|join| bench.joined(join).member);
    bench.sync_all(&ids, 1);
    let back = bench.submit(asked("i1", &["sticky"]));
    assert_eq!(bench.taken(back), None);
    assert_eq!(bench.standing(), Some(GroupStanding::PreparingRebalance));
}

#[test]
fn a_twin_takes_over_from_the_one_that_waits() {
    let mut bench = Bench::new();
    let joins = ["i0", "i1"].map(|name| bench.submit(GroupAsk::Join(static_join("", name))));
    bench.pass_ms(0);
    let ids = joins.map(|join| bench.joined(join).member);
    let waits = bench.submit(sync(&ids[1], 1, Vec::new()));
    let twin = bench.submit(GroupAsk::Join(static_join("", "i1")));
    let fenced = Some(refused(GroupRefusal::InstanceFenced));
    assert_eq!(bench.taken(waits), fenced);
    assert_eq!(
        bench.standing(),
        Some(GroupStanding::PreparingRebalance),
        "the leader may know the old id"
    );
    let third = bench.submit(GroupAsk::Join(static_join("", "i1")));
    assert_eq!(bench.taken(twin), fenced);
    let leader = bench.submit(GroupAsk::Join(static_join(&ids[0], "i0")));
    assert_eq!(bench.joined(leader).members.len(), 2);
    assert_eq!(bench.joined(third).generation, 2);
}

#[test]
fn a_new_static_member_that_comes_back_while_it_waits_waits_on() {
    let mut bench = Bench::new();
    let slow = |id: &str, name: &str| JoinGroup {
        rebalance_timeout_ms: 10 * SESSION_MS,
        ..static_join(id, name)
    };
    let joined = bench.submit(GroupAsk::Join(slow("", "i0")));
    bench.pass_ms(0);
    let leader = bench.joined(joined).member;
    bench.sync_all(std::slice::from_ref(&leader), 1);
    bench.submit(GroupAsk::Join(slow("", "i1")));
    let back = bench.submit(GroupAsk::Join(slow("", "i1")));
    for _ in 0..8 {
        bench.pass_ms(SESSION_MS / 2);
        let alive = bench.heartbeat(&leader, 1);
        assert_eq!(alive, refused(GroupRefusal::Rebalancing));
        assert_eq!(
            bench.taken(back),
            None,
            "its connection says that it is there"
        );
    }
    let leader = bench.submit(GroupAsk::Join(slow(&leader, "i0")));
    assert_eq!(bench.joined(leader).members.len(), 2);
    assert_eq!(bench.joined(back).generation, 2);
}

#[test]
fn a_static_member_that_is_away_keeps_its_place_until_its_session_ends() {
    let mut bench = Bench::new();
    let ids = stable(&mut bench, 2);
    let slow = JoinGroup {
        rebalance_timeout_ms: 6_000,
        ..static_join(&ids[0], "i0")
    };
    let mut away = static_join(&ids[1], "i1");
    away.rebalance_timeout_ms = 6_000;
    away.session_timeout_ms = 300_000;
    let known = bench.submit(GroupAsk::Join(away));
    assert_eq!(bench.joined(known).generation, 1);
    // Its new timeouts count from its next join; make it one that changes something.
    let mut away = static_join(&ids[1], "i1");
    away.rebalance_timeout_ms = 6_000;
    away.session_timeout_ms = 300_000;
    away.protocols = vec![protocol("range", "other")];
    let second = bench.submit(GroupAsk::Join(away));
    let first = bench.submit(GroupAsk::Join(slow.clone()));
    assert_eq!(bench.joined(first).generation, 2);
    assert_eq!(bench.joined(second).generation, 2);
    bench.sync_all(&ids, 2);

    let first = bench.submit(GroupAsk::Join(slow));
    bench.pass_ms(6_000);
    let first = bench.joined(first);
    assert_eq!(first.generation, 3);
    assert_eq!(first.members.len(), 2, "the one that is away has its share");
}

#[test]
fn an_operator_removes_a_static_member_by_name() {
    let mut bench = Bench::new();
    let ids = stable(&mut bench, 2);
    let by_name = |name: &str| LeavingMember {
        member: String::new(),
        instance: Some(name.to_owned()),
    };
    let fenced = LeavingMember {
        member: "old".to_owned(),
        instance: Some("i0".to_owned()),
    };
    let leaving = vec![by_name("i1"), by_name("nobody"), fenced];
    let left = bench.ask(GroupAsk::Leave(leaving));
    let expected = vec![
        Ok(()),
        Err(GroupRefusal::UnknownMember),
        Err(GroupRefusal::InstanceFenced),
    ];
    assert_eq!(left, Ok(GroupAnswer::Left(expected)));
    let unknown = refused(GroupRefusal::UnknownMember);
    assert_eq!(bench.heartbeat(&ids[1], 1), unknown);
}

#[test]
fn static_members_only_and_none_there_end_with_their_sessions() {
    let mut bench = Bench::new();
    let ids = stable(&mut bench, 2);
    let asked = GroupAsk::Leave(vec![LeavingMember {
        member: ids[0].to_string(),
        instance: Some("i0".to_owned()),
    }]);
    assert!(bench.ask(asked).is_ok());
    assert_eq!(bench.standing(), Some(GroupStanding::PreparingRebalance));
    bench.pass_ms(SESSION_MS);
    assert_eq!(bench.standing(), Some(GroupStanding::Empty));
}

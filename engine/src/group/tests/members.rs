//! Becoming a member, and what is refused.

use super::*;

#[test]
fn a_lone_member_leads_and_gets_its_share() {
    let mut bench = Bench::new();
    let first = bench.join_new();
    assert_eq!(bench.taken(first), None, "the first rebalance takes a turn");
    bench.pass_ms(0);
    let joined = bench.joined(first);
    assert_eq!(joined.generation, 1);
    assert_eq!(joined.leader, joined.member);
    assert!(joined.member.starts_with("client-"), "{}", joined.member);
    assert_eq!(&*joined.protocol, "range");
    assert_eq!(joined.members.len(), 1);
    assert_eq!(joined.members[0].metadata, "words");
    assert!(!joined.skip_assignment);
    bench.sync_all(&[Arc::clone(&joined.member)], 1);
    assert_eq!(bench.heartbeat(&joined.member, 1), Ok(GroupAnswer::Alive));
}

#[test]
fn ids_stay_short_however_a_client_calls_itself() {
    let long = "ä".repeat(20_000);
    for instance in [None, Some(long.clone())] {
        let mut bench = Bench::new();
        let mut asked = join("");
        asked.client.id.clone_from(&long);
        asked.instance = instance;
        let asked = bench.submit(GroupAsk::Join(asked));
        bench.pass_ms(0);
        let id = bench.joined(asked).member;
        assert_eq!(id.len(), 254 + 37, "whole characters, and a random end");
        assert!(id.starts_with("ääää"));
    }
}

#[test]
fn the_first_rebalance_waits_for_others_but_not_for_ever() {
    let mut bench = Bench::with(GroupSettings {
        initial_rebalance_delay_ms: 3_000,
        ..GroupSettings::default()
    });
    let first = bench.join_new();
    bench.pass_ms(2_000);
    let second = bench.join_new();
    bench.pass_ms(1_000);
    assert_eq!(bench.taken(first), None, "one came, so it waits on");
    bench.pass_ms(3_000);
    let first = bench.joined(first);
    let second = bench.joined(second);
    assert_eq!((first.generation, second.generation), (1, 1));
    assert_eq!((first.members.len(), second.members.len()), (2, 0));
    assert_eq!(first.leader, second.leader);

    // So does that of a group that was left, as all are after a restart.
    for id in [&first.member, &second.member] {
        assert!(bench.ask(leave(id)).is_ok());
    }
    assert_eq!(bench.standing(), Some(GroupStanding::Empty));
    let joins = [0; 3].map(|_| {
        let join = bench.join_new();
        bench.pass_ms(2_000);
        join
    });
    assert!(bench.ended.is_empty(), "somebody came in each stretch");
    bench.pass_ms(3_000);
    let joined = joins.map(|join| bench.joined(join));
    assert!(
        joined
            .iter()
            .all(|one| one.generation == joined[0].generation)
    );

    // With newcomers all the time it ends with the rebalance timeout.
    let mut bench = Bench::with(bench.settings.clone());
    let first = bench.join_new();
    let mut waited_ms = 0;
    while bench.ended.is_empty() {
        assert!(waited_ms <= REBALANCE_MS, "it ends");
        bench.join_new();
        bench.pass_ms(1_000);
        waited_ms += 1_000;
    }
    assert_eq!(waited_ms, REBALANCE_MS);
    assert_eq!(bench.joined(first).generation, 1);
}

#[test]
fn an_id_comes_first_for_those_that_know_of_it() {
    let mut bench = Bench::new();
    let mut asked = join("");
    asked.id_first = true;
    let id = match bench.ask(GroupAsk::Join(asked.clone())) {
        Err(Refusal::Group(GroupRefusal::JoinWithId(id))) => id,
        other => panic!("{other:?}"),
    };
    assert_eq!(bench.standing(), Some(GroupStanding::Empty));
    asked.member = id.to_string();
    let joined = bench.submit(GroupAsk::Join(asked.clone()));
    bench.pass_ms(0);
    assert_eq!(bench.joined(joined).member, id);

    // An id that is not used in time lapses, and until then the others wait for its bearer.
    let mut another = join("");
    another.id_first = true;
    let lapsed = match bench.ask(GroupAsk::Join(another)) {
        Err(Refusal::Group(GroupRefusal::JoinWithId(id))) => id,
        other => panic!("{other:?}"),
    };
    bench.sync_all(std::slice::from_ref(&id), 1);
    let again = bench.submit(GroupAsk::Join(asked));
    assert_eq!(bench.taken(again), None);
    bench.pass_ms(SESSION_MS);
    assert_eq!(bench.joined(again).generation, 2);
    let late = bench.ask(GroupAsk::Join(join(&lapsed)));
    assert_eq!(late, refused(GroupRefusal::UnknownMember));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut bench = Bench::new();
    let unnamed = bench.submit_to("", GroupAsk::Join(join("")));
    assert_eq!(
        bench.taken(unnamed),
        Some(refused(GroupRefusal::InvalidName))
    );
    let unknown = bench.ask(GroupAsk::Join(join("who")));
    assert_eq!(unknown, refused(GroupRefusal::UnknownMember));
    assert_eq!(bench.groups.len(), 0, "no group comes of it");
    for session_timeout_ms in [0, 5_999, 1_800_001] {
        let asked = JoinGroup {
            session_timeout_ms,
            ..join("")
        };
        let refusal = GroupRefusal::InvalidSessionTimeout {
            min: 6_000,
            max: 1_800_000,
        };
        assert_eq!(bench.ask(GroupAsk::Join(asked)), refused(refusal));
    }
    let no_protocol = JoinGroup {
        protocols: Vec::new(),
        ..join("")
    };
    let inconsistent = refused(GroupRefusal::InconsistentProtocol);
    assert_eq!(bench.ask(GroupAsk::Join(no_protocol)), inconsistent);
    bench.stable(1);
    let other_type = JoinGroup {
        protocol_type: Arc::from("connect"),
        ..join("")
    };
    assert_eq!(bench.ask(GroupAsk::Join(other_type)), inconsistent);
    let other_protocol = JoinGroup {
        protocols: vec![protocol("sticky", "")],
        ..join("")
    };
    assert_eq!(bench.ask(GroupAsk::Join(other_protocol)), inconsistent);
    assert_eq!(bench.standing(), Some(GroupStanding::Stable));
}

#[test]
fn who_is_no_member_learns_it_and_disturbs_nobody() {
    let mut bench = Bench::new();
    let unknown = || refused(GroupRefusal::UnknownMember);
    assert_eq!(bench.heartbeat("who", 1), unknown());
    assert_eq!(bench.ask(sync("who", 1, Vec::new())), unknown());
    let ids = bench.stable(2);
    assert_eq!(bench.heartbeat("who", 1), unknown());
    assert_eq!(bench.ask(sync("who", 1, Vec::new())), unknown());
    let left = bench.ask(leave("who"));
    let none = Err(GroupRefusal::UnknownMember);
    assert_eq!(left, Ok(GroupAnswer::Left(vec![none])));
    let stale = refused(GroupRefusal::IllegalGeneration { current: 1 });
    for generation in [-1, 0, 2] {
        assert_eq!(bench.heartbeat(&ids[0], generation), stale);
        assert_eq!(bench.ask(sync(&ids[0], generation, Vec::new())), stale);
    }
    assert_eq!(bench.standing(), Some(GroupStanding::Stable));
}

#[test]
fn the_protocol_is_the_one_that_most_like_best_of_those_that_all_speak() {
    let mut bench = Bench::new();
    let asked = [
        vec!["a", "b", "c"],
        vec!["d", "b", "c"],
        vec!["c", "b"],
        vec!["c", "b", "a"],
    ];
    let joins = asked.map(|names| {
        let protocols = names.iter().map(|name| protocol(name, name));
        let asked = JoinGroup {
            protocols: protocols.collect(),
            ..join("")
        };
        bench.submit(GroupAsk::Join(asked))
    });
    bench.pass_ms(0);
    // Two vote for b and two for c; the first member likes b better.
    let leader = bench.joined(joins[0]);
    assert_eq!(&*leader.protocol, "b");
    assert!(leader.members.iter().all(|one| one.metadata == "b"));
}

#[test]
fn a_full_group_takes_no_more() {
    let mut bench = Bench::new();
    bench.settings.members_max = 2;
    bench.stable(2);
    let full = refused(GroupRefusal::Full { max: 2 });
    assert_eq!(bench.ask(GroupAsk::Join(join(""))), full);
    let mut with_id = join("");
    with_id.id_first = true;
    assert_eq!(bench.ask(GroupAsk::Join(with_id)), full);
    assert_eq!(bench.standing(), Some(GroupStanding::Stable));
}

#[test]
fn ids_that_nobody_joined_with_push_no_member_out() {
    let mut bench = Bench::new();
    bench.settings.members_max = 3;
    let members = bench.stable(2);
    let first = bench.submit(GroupAsk::Join(join(&members[0])));
    assert_eq!(bench.standing(), Some(GroupStanding::PreparingRebalance));
    let mut with_id = join("");
    with_id.id_first = true;
    let ids = [0; 2].map(|_| match bench.ask(GroupAsk::Join(with_id.clone())) {
        Err(Refusal::Group(GroupRefusal::JoinWithId(id))) => id,
        other => panic!("{other:?}"),
    });
    let full = refused(GroupRefusal::Full { max: 3 });
    assert_eq!(bench.ask(GroupAsk::Join(with_id)), full, "for all of them");
    let second = bench.submit(GroupAsk::Join(join(&members[1])));
    assert_eq!(bench.taken(second), None, "it is a member");
    let third = bench.submit(GroupAsk::Join(join(&ids[0])));
    assert_eq!(bench.taken(third), None, "there is room for one of the ids");
    assert_eq!(bench.ask(GroupAsk::Join(join(&ids[1]))), full);
    // Nobody waits for the one that was refused.
    for joined in [first, second, third] {
        assert_eq!(bench.joined(joined).generation, 2);
    }
}

#[test]
fn bounds_of_the_shard_are_told_by_name() {
    let mut bench = Bench::new();
    bench.settings.groups_max = 1;
    bench.stable(1);
    let sequence = bench.submit_to("other", GroupAsk::Join(join("")));
    let limit = "groups.groups_max";
    let reached = Some(Err(Refusal::LimitReached { limit, max: 1 }));
    assert_eq!(bench.taken(sequence), reached);
    bench.settings.groups_max = 2;
    bench.settings.bytes_max = bench.groups.bytes() + 100;
    let max = bench.settings.bytes_max as u64;
    let limit = "groups.bytes_max";
    let reached = Err(Refusal::LimitReached { limit, max });
    assert_eq!(bench.ask(GroupAsk::Join(join(""))), reached);
}

#[test]
fn a_full_shard_serves_its_groups_and_takes_nothing_more() {
    let mut bench = Bench::new();
    let ids = bench.stable(2);
    let committed = Ok(GroupAnswer::OffsetsCommitted(vec![Ok(())]));
    assert_eq!(
        bench.ask(commit(membership(&ids[0], 1), &[(0, 1)])),
        committed
    );
    // As after a start with fewer cores, or with a lower bound.
    bench.settings.bytes_max = 1;
    let reached = Err(Refusal::LimitReached {
        limit: "groups.bytes_max",
        max: 1,
    });
    assert_eq!(bench.heartbeat(&ids[0], 1), Ok(GroupAnswer::Alive));
    assert!(bench.ask(GroupAsk::FetchOffsets(None)).is_ok());
    assert!(bench.ask(GroupAsk::Describe).is_ok());
    assert_eq!(
        bench.ask(commit(membership(&ids[0], 1), &[(0, 2)])),
        committed
    );
    assert_eq!(
        bench.ask(commit(membership(&ids[0], 1), &[(1, 2)])),
        reached
    );
    let made = bench.submit_to("other", commit(membership("", -1), &[]));
    assert_eq!(
        bench.taken(made),
        Some(reached.clone()),
        "a group is something"
    );
    assert_eq!(bench.ask(GroupAsk::Join(join(""))), reached);

    // Members that say what they said before come to the next generation.
    let rejoin = |bench: &mut Bench, id: &str| bench.submit(GroupAsk::Join(join(id)));
    let joins = [rejoin(&mut bench, &ids[0]), rejoin(&mut bench, &ids[1])];
    for asked in joins {
        assert_eq!(bench.joined(asked).generation, 2);
    }
    bench.sync_all(&ids, 2);
    assert!(
        bench
            .ask(GroupAsk::DeleteOffsets(vec![PartitionId(2)]))
            .is_ok()
    );
    for id in &ids {
        let left = bench.ask(leave(id));
        assert_eq!(left, Ok(GroupAnswer::Left(vec![Ok(())])));
    }
    assert_eq!(bench.ask(GroupAsk::Delete), Ok(GroupAnswer::Deleted));
    assert_eq!(bench.groups.bytes(), 0);
}

#[test]
fn whatever_words_a_client_heaps_up_are_counted() {
    const LONG: usize = 20_000;
    let long = "x".repeat(LONG);
    let heaped: [fn(&mut JoinGroup, &str); 6] = [
        |join, long| join.instance = Some(long.to_owned()),
        |join, long| join.client.id = long.to_owned(),
        |join, long| join.client.host = long.to_owned(),
        |join, long| join.protocol_type = Arc::from(long),
        |join, long| join.topics = Some(vec![Arc::from(long)]),
        |join, _| join.protocols = vec![protocol("", ""); LONG / 64],
    ];
    for (number, heap) in heaped.into_iter().enumerate() {
        let mut bench = Bench::new();
        let mut asked = join("");
        heap(&mut asked, &long);
        bench.settings.bytes_max = LONG;
        let refused = bench.ask(GroupAsk::Join(asked.clone()));
        assert!(
            matches!(refused, Err(Refusal::LimitReached { .. })),
            "{number}"
        );
        bench.settings.bytes_max = 4 * LONG;
        bench.submit(GroupAsk::Join(asked));
        assert!(bench.groups.bytes() >= LONG, "{number}");
    }
    let mut bench = Bench::new();
    bench.settings.bytes_max = LONG;
    let named = bench.submit_to(&long, GroupAsk::Join(join("")));
    let refused = bench.taken(named);
    assert!(matches!(refused, Some(Err(Refusal::LimitReached { .. }))));
}

#[test]
fn a_group_that_nobody_uses_is_forgotten() {
    let mut bench = Bench::new();
    let ids = bench.stable(1);
    let left = bench.ask(leave(&ids[0]));
    assert_eq!(left, Ok(GroupAnswer::Left(vec![Ok(())])));
    assert_eq!(bench.standing(), Some(GroupStanding::Empty));
    bench.pass_ms(59_000);
    assert_eq!(bench.standing(), Some(GroupStanding::Empty));
    bench.pass_ms(30_000);
    assert_eq!(bench.standing(), None);
    assert!(bench.logged.is_empty(), "{:?}", bench.logged);
    assert_eq!(bench.groups.due(), None, "nothing is left to do");
    assert_eq!(bench.groups.bytes(), 0);
}

#[test]
fn many_groups_that_nobody_uses_are_forgotten_as_soon_as_few() {
    let mut bench = Bench::new();
    for at in 0..20 * SWEEP_GROUPS {
        let asked = GroupRequest {
            group: Arc::from(format!("g{at}")),
            ask: commit(membership("", -1), &[]),
        };
        let (now, settings, request) = (bench.now, &bench.settings, request(at as u64));
        bench
            .groups
            .handle(now, settings, request, asked, &bench.catalog);
    }
    bench.drain();
    assert_eq!(bench.groups.len(), 20 * SWEEP_GROUPS);
    bench.pass_ms(100_000);
    assert_eq!(bench.groups.len(), 0);
}

#[test]
fn a_group_is_deleted_only_without_members() {
    let mut bench = Bench::new();
    let not_found = refused(GroupRefusal::NotFound);
    assert_eq!(bench.ask(GroupAsk::Delete), not_found);
    let ids = bench.stable(1);
    let not_empty = refused(GroupRefusal::NotEmpty);
    assert_eq!(bench.ask(GroupAsk::Delete), not_empty);
    assert!(bench.ask(leave(&ids[0])).is_ok());
    assert_eq!(bench.ask(GroupAsk::Delete), Ok(GroupAnswer::Deleted));
    assert_eq!(bench.ask(GroupAsk::Delete), not_found);
    assert!(bench.logged.is_empty());
}

#[test]
fn a_description_shows_shares_only_while_they_hold() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.ask(GroupAsk::Describe),
        Ok(GroupAnswer::Described(None))
    );
    let ids = bench.stable(1);
    let described = |bench: &mut Bench| match bench.ask(GroupAsk::Describe) {
        Ok(GroupAnswer::Described(Some(described))) => *described,
        other => panic!("{other:?}"),
    };
    let stable = described(&mut bench);
    assert_eq!(stable.standing, GroupStanding::Stable);
    assert_eq!(stable.protocol.as_deref(), Some("range"));
    assert_eq!(stable.members[0].assignment, ids[0].as_bytes());
    assert_eq!(stable.members[0].metadata, "words");
    bench.join_new();
    let preparing = described(&mut bench);
    assert_eq!(preparing.standing, GroupStanding::PreparingRebalance);
    assert_eq!(preparing.protocol, None);
    assert_eq!(preparing.members.len(), 2);
    let listed = bench.groups.list();
    assert_eq!(listed[0].standing, GroupStanding::PreparingRebalance);
    assert_eq!(listed[0].protocol_type.as_deref(), Some("consumer"));
}

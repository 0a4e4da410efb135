//! Connections that close while a member waits on them.

use super::*;

impl Bench {
    /// The connection closed on which `sequence` was asked.
    fn withdraw(&mut self, sequence: u64) {
        self.groups
            .withdraw(self.now, &self.settings, request(sequence));
        self.drain();
        assert!(self.taken(sequence).is_some(), "it ends, unheard");
    }
}

/// A new member of version 4 and later, which knows its id before it waits.
fn join_with_id(bench: &mut Bench) -> (String, u64) {
    let asked = JoinGroup {
        id_first: true,
        ..join("")
    };
    let id = match bench.ask(GroupAsk::Join(asked)) {
        Err(Refusal::Group(GroupRefusal::JoinWithId(id))) => id.to_string(),
        other => panic!("{other:?}"),
    };
    let waits = bench.submit(GroupAsk::Join(join(&id)));
    (id, waits)
}

#[test]
fn a_session_counts_from_the_close_and_not_from_the_generation() {
    let mut bench = Bench::new();
    let ids = bench.stable(3);
    let leader = bench.submit(GroupAsk::Join(join(&ids[0])));
    let gone = bench.submit(GroupAsk::Join(join(&ids[1])));
    bench.withdraw(gone);
    bench.pass_ms(SESSION_MS / 2);
    let last = bench.submit(GroupAsk::Join(join(&ids[2])));
    // It is in the generation, as if its client still waited.
    let leader = bench.joined(leader);
    assert_eq!((leader.generation, leader.members.len()), (2, 3));
    assert_eq!(bench.joined(last).generation, 2);
    bench.pass_ms(SESSION_MS / 2 - 1);
    for id in [&ids[0], &ids[2]] {
        assert_eq!(bench.heartbeat(id, 2), Ok(GroupAnswer::Alive));
    }
    bench.pass_ms(1);
    let rebalancing = refused(GroupRefusal::Rebalancing);
    assert_eq!(bench.heartbeat(&ids[0], 2), rebalancing);
    assert_eq!(
        bench.heartbeat(&ids[1], 2),
        refused(GroupRefusal::UnknownMember)
    );
}

#[test]
fn who_comes_back_in_time_keeps_its_id_and_its_place() {
    let mut bench = Bench::new();
    let ids = bench.stable(3);
    let leader = bench.submit(GroupAsk::Join(join(&ids[0])));
    let gone = bench.submit(GroupAsk::Join(join(&ids[1])));
    bench.withdraw(gone);
    bench.pass_ms(SESSION_MS - 1);
    let alive = bench.heartbeat(&ids[2], 1);
    assert_eq!(alive, refused(GroupRefusal::Rebalancing));
    // Before the generation begins it waits again, for as long as that takes.
    let back = bench.submit(GroupAsk::Join(join(&ids[1])));
    bench.pass_ms(SESSION_MS - 1);
    let last = bench.submit(GroupAsk::Join(join(&ids[2])));
    for joined in [leader, back, last] {
        assert_eq!(bench.joined(joined).generation, 2);
    }
    // And after it began it is told of it at once.
    bench.sync_all(&ids, 2);
    let leader = bench.submit(GroupAsk::Join(join(&ids[0])));
    let gone = bench.submit(GroupAsk::Join(join(&ids[1])));
    bench.withdraw(gone);
    let last = bench.submit(GroupAsk::Join(join(&ids[2])));
    let back = bench.submit(GroupAsk::Join(join(&ids[1])));
    for joined in [leader, last, back] {
        assert_eq!(bench.joined(joined).generation, 3);
    }
    bench.sync_all(&ids, 3);
}

#[test]
fn a_close_after_the_client_came_back_changes_nothing() {
    let mut bench = Bench::new();
    let ids = bench.stable(2);
    let first = bench.submit(GroupAsk::Join(join(&ids[0])));
    let second = bench.submit(GroupAsk::Join(join(&ids[0])));
    bench.withdraw(first);
    bench.pass_ms(SESSION_MS - 1);
    let other = bench.submit(GroupAsk::Join(join(&ids[1])));
    let leader = bench.joined(second);
    assert_eq!((leader.generation, leader.leader), (2, ids[0].clone()));
    assert_eq!(bench.joined(other).generation, 2);
}

#[test]
fn who_is_cut_off_leads_nobody() {
    let mut bench = Bench::new();
    let ids = bench.stable(2);
    let gone = bench.submit(GroupAsk::Join(join(&ids[0])));
    bench.withdraw(gone);
    let other = bench.submit(GroupAsk::Join(join(&ids[1])));
    let other = bench.joined(other);
    assert_eq!(other.leader, ids[1]);
    assert_eq!(other.members.len(), 2);
    let alone = [Arc::clone(&ids[1])];
    bench.sync_all(&alone, 2);
}

#[test]
fn nobody_is_told_of_a_generation_that_nobody_waits_for() {
    let mut bench = Bench::new();
    let ids = bench.stable(3);
    for id in &ids[..2] {
        let gone = bench.submit(GroupAsk::Join(join(id)));
        bench.withdraw(gone);
    }
    assert!(bench.ask(leave(&ids[2])).is_ok());
    assert_eq!(bench.standing(), Some(GroupStanding::PreparingRebalance));
    let back = bench.submit(GroupAsk::Join(join(&ids[1])));
    let back = bench.joined(back);
    assert_eq!((back.generation, back.leader), (2, ids[1].clone()));
    bench.pass_ms(SESSION_MS);
    let alone = bench.heartbeat(&ids[1], 2);
    assert_eq!(alone, refused(GroupRefusal::UnknownMember), "it was silent");
    assert_eq!(bench.standing(), Some(GroupStanding::Empty));
}

#[test]
fn a_new_member_that_knows_its_id_may_come_back_and_others_cannot() {
    let mut bench = Bench::new();
    let ids = bench.stable(1);
    let (id, gone) = join_with_id(&mut bench);
    bench.withdraw(gone);
    let nameless = bench.join_new();
    bench.withdraw(nameless);
    assert_eq!(bench.groups.groups["g"].members.len(), 2, "one may return");
    let back = bench.submit(GroupAsk::Join(join(&id)));
    for _ in 0..4 {
        bench.pass_ms(SESSION_MS / 2);
        let _ = bench.heartbeat(&ids[0], 1);
    }
    let leader = bench.submit(GroupAsk::Join(join(&ids[0])));
    assert_eq!(bench.joined(leader).members.len(), 2, "it waits, and lives");
    assert_eq!(bench.joined(back).member, Arc::from(id));

    let (_, gone) = join_with_id(&mut bench);
    bench.withdraw(gone);
    let leader = bench.submit(GroupAsk::Join(join(&ids[0])));
    bench.pass_ms(SESSION_MS);
    assert_eq!(bench.joined(leader).members.len(), 1, "both were silent");
}

#[test]
fn a_static_member_keeps_its_place() {
    let mut bench = Bench::new();
    let ids = bench.stable(1);
    let named = || {
        GroupAsk::Join(JoinGroup {
            instance: Some("i".to_owned()),
            ..join("")
        })
    };
    let gone = bench.submit(named());
    bench.withdraw(gone);
    let leader = bench.submit(GroupAsk::Join(join(&ids[0])));
    let leader = bench.joined(leader);
    assert_eq!((leader.generation, leader.members.len()), (2, 2));
    let place = leader.members.iter().find(|one| one.instance.is_some());
    let place = Arc::clone(&place.expect("it is there").member);
    let shares = vec![(place.to_string(), Bytes::from_static(b"share"))];
    assert!(bench.ask(sync(&ids[0], 2, shares)).is_ok());
    bench.pass_ms(SESSION_MS - 1);
    let back = bench.submit(named());
    let back = bench.joined(back);
    assert_eq!(back.generation, 2, "nobody else notices");
    match bench.ask(sync(&back.member, 2, Vec::new())) {
        Ok(GroupAnswer::Synced(synced)) => assert_eq!(synced.assignment, "share"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_share_that_nobody_waited_for_is_there_when_its_member_comes_back() {
    let mut bench = Bench::new();
    let joins = [bench.join_new(), bench.join_new()];
    bench.pass_ms(0);
    let ids = joins.map(|join| bench.joined(join).member);
    let gone = bench.submit(sync(&ids[1], 1, Vec::new()));
    bench.withdraw(gone);
    let shares = vec![(ids[1].to_string(), Bytes::from_static(b"share"))];
    assert!(bench.ask(sync(&ids[0], 1, shares)).is_ok());
    bench.pass_ms(SESSION_MS - 1);
    match bench.ask(sync(&ids[1], 1, Vec::new())) {
        Ok(GroupAnswer::Synced(synced)) => assert_eq!(synced.assignment, "share"),
        other => panic!("{other:?}"),
    }
}

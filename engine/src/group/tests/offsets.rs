//! Committing, telling and forgetting offsets.

use super::*;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// One who shares partitions with nobody.
fn alone() -> Membership {
    membership("", -1)
}

impl Bench {
    fn offsets(&mut self) -> Vec<(u32, u64)> {
        match self.ask(GroupAsk::FetchOffsets(None)) {
            Ok(GroupAnswer::Offsets(offsets)) => offsets
                .into_iter()
                .map(|(partition, found)| (partition.0, found.expect("held").commit.offset.0))
                .collect(),
            other => panic!("{other:?}"),
        }
    }
}

fn committed(count: usize) -> Ended {
    Ok(GroupAnswer::OffsetsCommitted(vec![Ok(()); count]))
}

#[test]
fn who_reads_alone_commits_while_there_are_no_members() {
    let mut bench = Bench::new();
    assert_eq!(bench.offsets(), []);
    assert_eq!(bench.groups.len(), 0, "asking makes no group");
    assert_eq!(bench.ask(commit(alone(), &[(0, 5), (1, 6)])), committed(2));
    assert_eq!(bench.ask(commit(alone(), &[(0, 7)])), committed(1));
    assert_eq!(bench.offsets(), [(0, 7), (1, 6)]);
    assert_eq!(bench.logged["g"].offsets.len(), 2);
    let wanted = GroupAsk::FetchOffsets(Some(vec![PartitionId(1), PartitionId(2)]));
    match bench.ask(wanted) {
        Ok(GroupAnswer::Offsets(offsets)) => {
            assert_eq!(offsets.len(), 2);
            let found = offsets[0].1.as_ref().expect("committed");
            assert_eq!(&*found.commit.metadata, "m");
            assert_eq!(found.committed_ms, WALL_MS);
            assert_eq!(offsets[1], (PartitionId(2), None));
        }
        other => panic!("{other:?}"),
    }
    bench.stable(1);
    let unknown = refused(GroupRefusal::UnknownMember);
    assert_eq!(bench.ask(commit(alone(), &[(0, 9)])), unknown);
    assert_eq!(bench.offsets(), [(0, 7), (1, 6)], "offsets outlive members");
}

#[test]
fn members_commit_in_their_generation_only() {
    let mut bench = Bench::new();
    let not_found = refused(GroupRefusal::NotFound);
    assert_eq!(bench.ask(commit(membership("m", 1), &[(0, 1)])), not_found);
    let ids = bench.stable(2);
    let me = |generation| membership(&ids[0], generation);
    assert_eq!(bench.ask(commit(me(1), &[(0, 1)])), committed(1));
    let stale = refused(GroupRefusal::IllegalGeneration { current: 1 });
    for generation in [-1, 0, 2] {
        assert_eq!(bench.ask(commit(me(generation), &[(0, 9)])), stale);
    }
    let unknown = refused(GroupRefusal::UnknownMember);
    assert_eq!(bench.ask(commit(membership("who", 1), &[(0, 9)])), unknown);
    // While the group prepares, members save what they did; until the shares are dealt they wait.
    let third = bench.join_new();
    assert_eq!(bench.ask(commit(me(1), &[(0, 2)])), committed(1));
    for id in &ids {
        bench.submit(GroupAsk::Join(join(id)));
    }
    assert_eq!(bench.joined(third).generation, 2);
    let rebalancing = refused(GroupRefusal::Rebalancing);
    assert_eq!(bench.ask(commit(me(2), &[(0, 9)])), rebalancing);
    assert_eq!(bench.ask(commit(me(1), &[(0, 9)])), {
        refused(GroupRefusal::IllegalGeneration { current: 2 })
    });
    assert_eq!(bench.offsets(), [(0, 2)]);
}

#[test]
fn a_commit_is_a_sign_of_life() {
    let mut bench = Bench::new();
    let ids = bench.stable(1);
    for offset in 0..4 {
        bench.pass_ms(SESSION_MS - 1);
        let asked = commit(membership(&ids[0], 1), &[(0, offset)]);
        assert_eq!(bench.ask(asked), committed(1));
    }
    assert_eq!(bench.standing(), Some(GroupStanding::Stable));
}

#[test]
fn what_is_too_large_is_refused_and_the_rest_is_kept() {
    let mut bench = Bench::new();
    bench.settings.offset_metadata_bytes_max = 4;
    let mut asked = commit(alone(), &[(0, 1), (1, 2)]);
    if let GroupAsk::Commit(commit) = &mut asked {
        commit.offsets[0].1.metadata = Arc::from("fives");
    }
    let max = bench.settings.offset_metadata_bytes_max;
    let refusal = Refusal::Group(GroupRefusal::OffsetMetadataTooLarge { max });
    let results = vec![Err(refusal), Ok(())];
    assert_eq!(bench.ask(asked), Ok(GroupAnswer::OffsetsCommitted(results)));
    assert_eq!(bench.offsets(), [(1, 2)]);

    bench.settings.entry_bytes_max = 100;
    let asked = commit(alone(), &[(0, 1), (1, 2)]);
    let refusal = GroupRefusal::CommitTooLarge {
        bytes: 107,
        max: 100,
    };
    assert_eq!(bench.ask(asked), refused(refusal));
    assert_eq!(bench.offsets(), [(1, 2)]);
}

#[test]
fn offsets_of_deleted_partitions_are_gone_and_stay_gone() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(commit(alone(), &[(0, 1), (2, 2)])), committed(2));
    let id = bench.catalog.topic("u").expect("there").id;
    let change = CatalogChange {
        epoch: CatalogEpoch(2),
        operations: vec![Operation::TopicDeleted { id }],
    };
    bench.catalog.apply(&change).expect("fits");
    let gone = BTreeSet::from([PartitionId(2), PartitionId(3)]);
    bench.groups.forget_partitions(&gone);
    assert_eq!(bench.offsets(), [(0, 1)]);
    // A commit that was on its way. One for a partition that is only just known goes through.
    let late = bench.ask(commit(alone(), &[(2, 3), (4, 4)]));
    let results = vec![Err(Refusal::UnknownPartition), Ok(())];
    assert_eq!(late, Ok(GroupAnswer::OffsetsCommitted(results)));
}

#[test]
fn of_many_deleted_partitions_a_group_forgets_those_it_has() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(commit(alone(), &[(0, 1), (2, 2)])), committed(2));
    let many = (1..100).map(PartitionId);
    bench.groups.forget_partitions(&many.collect());
    assert_eq!(bench.offsets(), [(0, 1)]);
    bench
        .groups
        .forget_partitions(&BTreeSet::from([PartitionId(9)]));
    assert_eq!(bench.offsets(), [(0, 1)]);
}

#[test]
fn offsets_are_deleted_unless_members_read_the_topic() {
    let mut bench = Bench::new();
    let delete = |ids: &[u32]| {
        let ids = ids.iter().map(|id| PartitionId(*id));
        GroupAsk::DeleteOffsets(ids.collect())
    };
    assert_eq!(bench.ask(delete(&[0])), refused(GroupRefusal::NotFound));
    let all = [(0, 1), (1, 2), (2, 3)];
    assert_eq!(bench.ask(commit(alone(), &all)), committed(3));
    assert_eq!(
        bench.ask(delete(&[0, 3])),
        Ok(GroupAnswer::OffsetsDeleted(vec![Ok(()), Ok(())]))
    );
    assert_eq!(bench.logged["g"].offsets.len(), 2);
    bench.stable(1);
    let results = vec![Err(GroupRefusal::Subscribed), Ok(())];
    let deleted = bench.ask(delete(&[1, 2]));
    assert_eq!(deleted, Ok(GroupAnswer::OffsetsDeleted(results)));
    assert_eq!(bench.offsets(), [(1, 2)]);
    // Whoever speaks something else may read anything.
    let mut bench = Bench::new();
    let other = JoinGroup {
        protocol_type: Arc::from("connect"),
        ..join("")
    };
    bench.submit(GroupAsk::Join(other));
    assert_eq!(bench.ask(delete(&[0])), refused(GroupRefusal::NotEmpty));
}

#[test]
fn offsets_of_an_empty_group_last_a_week_from_when_it_was_left() {
    let mut bench = Bench::new();
    let ids = bench.stable(1);
    let asked = commit(membership(&ids[0], 1), &[(0, 1)]);
    assert_eq!(bench.ask(asked), committed(1));
    for _ in 0..100 {
        bench.pass_ms(DAY_MS / 10);
        if bench.standing() == Some(GroupStanding::Empty) {
            break;
        }
    }
    let left_ms = bench.logged["g"].empty_since_ms.expect("left");
    let retention_ms = i64::try_from(7 * DAY_MS).expect("a week");
    let most = left_ms + retention_ms - bench.now.wall_ms - 20_000;
    bench.pass_ms(u64::try_from(most).expect("later"));
    assert_eq!(bench.offsets(), [(0, 1)]);
    bench.pass_ms(40_000);
    assert_eq!(bench.offsets(), []);
    assert_eq!(bench.standing(), None, "and the group with them");
    assert!(bench.logged.is_empty());
}

#[test]
fn each_offset_of_one_who_reads_alone_lasts_from_its_commit() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(commit(alone(), &[(0, 1)])), committed(1));
    bench.pass_ms(6 * DAY_MS);
    let mut short = commit(alone(), &[(2, 3)]);
    if let GroupAsk::Commit(commit) = &mut short {
        commit.retention_ms = Some(60_000);
    }
    assert_eq!(bench.ask(short), committed(1));
    assert_eq!(bench.ask(commit(alone(), &[(1, 2)])), committed(1));
    bench.pass_ms(100_000);
    assert_eq!(bench.offsets(), [(0, 1), (1, 2)], "one asked for less");
    bench.pass_ms(DAY_MS);
    assert_eq!(bench.offsets(), [(1, 2)]);
    bench.settings.offsets_retention_ms = None;
    bench.pass_ms(100 * DAY_MS);
    assert_eq!(bench.offsets(), [(1, 2)], "for ever");
}

#[test]
fn a_stable_group_forgets_topics_that_it_no_longer_reads() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(commit(alone(), &[(0, 1), (2, 2)])), committed(2));
    let ids = bench.stable(1);
    for _ in 0..7 * 24 * 60 * 60 / 9 + 4 {
        bench.pass_ms(9_000);
        assert_eq!(bench.heartbeat(&ids[0], 1), Ok(GroupAnswer::Alive));
    }
    assert_eq!(bench.offsets(), [(0, 1)]);
}

#[test]
fn the_group_without_a_name_takes_commits() {
    let mut bench = Bench::new();
    let sequence = bench.submit_to("", commit(alone(), &[(0, 4)]));
    assert_eq!(bench.taken(sequence), Some(committed(1)));
    let sequence = bench.submit_to("", GroupAsk::FetchOffsets(None));
    assert!(matches!(
        bench.taken(sequence),
        Some(Ok(GroupAnswer::Offsets(offsets))) if offsets.len() == 1
    ));
    let sequence = bench.submit_to("", GroupAsk::Delete);
    assert_eq!(bench.taken(sequence), Some(Ok(GroupAnswer::Deleted)));
}

//! OffsetCommit, OffsetFetch and OffsetDelete.

use std::sync::Arc;

use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};
use millrace_engine::event::Refusal;
use millrace_engine::group::{CommittedOffset, GroupAnswer, GroupAsk, GroupRefusal, NewOffset};
use millrace_storage::units::{LeaderEpoch, Offset, PartitionId};

use crate::broker::Broker;
use crate::client::{Connection, topic};
use crate::samples::groups as samples;

fn connection(answers: Vec<Result<GroupAnswer, Refusal>>) -> Connection {
    let mut broker = Broker::new();
    broker.add_topic("a", 2);
    broker.group_answers = answers.into();
    Connection::new(broker)
}

#[test]
fn every_version_commits_what_it_knows_and_tells_each_partition() {
    for version in 2..=9 {
        let max = 4;
        let too_large = Refusal::Group(GroupRefusal::OffsetMetadataTooLarge { max });
        let results = vec![Ok(()), Err(too_large)];
        let mut connection = connection(vec![Ok(GroupAnswer::OffsetsCommitted(results))]);
        let mut request = samples::commit();
        if version <= 4 {
            request.retention_time_ms = 9;
        }
        if version >= 6 {
            request.topics[0].partitions[0].committed_leader_epoch = 5;
        }
        let response = connection.ask(version, &request);
        let codes: Vec<(i32, i16)> = response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|partition| (partition.partition_index, partition.error_code))
            .collect();
        assert_eq!(codes, [(0, 0), (1, 12), (0, 3)], "version {version}");
        assert_eq!(response.topics[1].name, topic("b"));
        let asked = connection.broker.asked_of_groups.remove(0).ask;
        let GroupAsk::Commit(commit) = asked else {
            panic!("{asked:?}");
        };
        assert_eq!(commit.membership.generation, 3);
        assert_eq!(commit.retention_ms, (version <= 4).then_some(9));
        let [first, second] = commit.offsets.as_slice() else {
            panic!("one is of no topic");
        };
        assert_eq!(first.0, PartitionId(0));
        assert_eq!(first.1.offset, Offset(40));
        let epoch = (version >= 6).then_some(LeaderEpoch(5));
        assert_eq!(first.1.leader_epoch, epoch);
        assert_eq!(&*second.1.metadata, "words");
    }
}

#[test]
fn a_refused_commit_is_told_of_every_partition_that_there_is() {
    for version in 2..=9 {
        let not_found = if version >= 9 { 69 } else { 22 };
        let refusals = [
            (GroupRefusal::NotFound, not_found),
            (GroupRefusal::IllegalGeneration { current: 1 }, 22),
            (GroupRefusal::UnknownMember, 25),
            (GroupRefusal::Rebalancing, 27),
            (GroupRefusal::InstanceFenced, 82),
            (GroupRefusal::CommitTooLarge { bytes: 2, max: 1 }, 28),
        ];
        for (refusal, code) in refusals {
            let mut connection = connection(vec![Err(Refusal::Group(refusal))]);
            let response = connection.ask(version, &samples::commit());
            let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            let codes: Vec<i16> = partitions.map(|one| one.error_code).collect();
            assert_eq!(codes, [code, code, 3]);
        }
    }
}

#[test]
fn a_commit_of_nothing_that_exists_asks_nobody() {
    let mut connection = connection(Vec::new());
    let mut request = samples::commit();
    request.topics.remove(0);
    let response = connection.ask(8, &request);
    assert_eq!(response.topics[0].partitions[0].error_code, 3);
    request.topics.clear();
    assert!(connection.ask(8, &request).topics.is_empty());
    assert!(connection.broker.asked_of_groups.is_empty());
}

#[test]
fn a_negative_offset_is_kept_and_told_as_it_came() {
    let kept = Ok(GroupAnswer::OffsetsCommitted(vec![Ok(()), Ok(())]));
    let mut connection_of_commit = connection(vec![kept]);
    let mut request = samples::commit();
    request.topics[0].partitions[0].committed_offset = -2;
    let response = connection_of_commit.ask(5, &request);
    assert_eq!(response.topics[0].partitions[0].error_code, 0);
    let asked = connection_of_commit.broker.asked_of_groups.remove(0).ask;
    let GroupAsk::Commit(commit) = asked else {
        panic!("{asked:?}");
    };
    let [(partition, offset), _] = commit.offsets.try_into().expect("two");
    assert_eq!(offset.position(), None);
    let found = CommittedOffset {
        commit: offset,
        committed_ms: 1,
        expires_ms: None,
    };
    let found = vec![(partition, Some(found)), (PartitionId(1), None)];
    let mut connection = connection(vec![Ok(GroupAnswer::Offsets(found))]);
    let response = connection.ask(4, &samples::fetch(4));
    assert_eq!(told(&response)[0].1, -2);
}

fn committed(offset: u64) -> Option<CommittedOffset> {
    Some(CommittedOffset {
        commit: NewOffset {
            offset: Offset(offset),
            leader_epoch: Some(LeaderEpoch(2)),
            metadata: Arc::from("words"),
        },
        committed_ms: 1,
        expires_ms: None,
    })
}

/// Index, offset, leader epoch, words and code of every partition told of.
fn told(response: &OffsetFetchResponse) -> Vec<(i32, i64, i32, String, i16)> {
    let old = response.topics.iter().flat_map(|topic| &topic.partitions);
    let old = old.map(|one| {
        let words = one.metadata.as_ref().expect("never null").to_string();
        let (offset, epoch) = (one.committed_offset, one.committed_leader_epoch);
        (one.partition_index, offset, epoch, words, one.error_code)
    });
    let groups = response.groups.iter().flat_map(|group| &group.topics);
    let new = groups.flat_map(|topic| &topic.partitions).map(|one| {
        let words = one.metadata.as_ref().expect("never null").to_string();
        let (offset, epoch) = (one.committed_offset, one.committed_leader_epoch);
        (one.partition_index, offset, epoch, words, one.error_code)
    });
    old.chain(new).collect()
}

#[test]
fn every_version_tells_offsets_and_their_lack() {
    for version in 1..=9 {
        let found = vec![(PartitionId(0), committed(7)), (PartitionId(1), None)];
        let all = vec![
            (PartitionId(1), committed(9)),
            (PartitionId(77), committed(1)),
        ];
        let answers = [found, all].map(|offsets| Ok(GroupAnswer::Offsets(offsets)));
        let mut connection = connection(answers.to_vec());
        let response = connection.ask(version, &samples::fetch(version));
        let epoch = if version >= 5 { 2 } else { -1 };
        let words = || "words".to_owned();
        let mut expected = vec![(0, 7, epoch, words(), 0), (1, -1, -1, String::new(), 0)];
        if version >= 8 {
            // The second group was asked for all; a partition that is gone is not told.
            expected.push((1, 9, 2, words(), 0));
            assert_eq!(response.groups[1].group_id, samples::group("h"));
            assert_eq!(response.groups[1].topics[0].name, topic("a"));
        }
        assert_eq!(told(&response), expected, "version {version}");
        let asked = &connection.broker.asked_of_groups;
        let wanted = vec![PartitionId(0), PartitionId(1)];
        assert_eq!(asked[0].ask, GroupAsk::FetchOffsets(Some(wanted)));
        if version >= 8 {
            assert_eq!(asked[1].ask, GroupAsk::FetchOffsets(None));
        }
    }
}

#[test]
fn null_asks_for_everything_and_unknown_partitions_have_no_offset() {
    for version in 2..=7 {
        let all = vec![(PartitionId(1), committed(9))];
        let mut connection = connection(vec![Ok(GroupAnswer::Offsets(all))]);
        let request = samples::fetch(version).with_topics(None);
        let response = connection.ask(version, &request);
        assert_eq!(told(&response)[0].1, 9);
        let mut unknown = samples::fetch(version);
        let topics = unknown.topics.as_mut().expect("named");
        topics[0].partition_indexes = vec![5, -1];
        let response = connection.ask(version, &unknown);
        let offsets: Vec<i64> = told(&response).iter().map(|one| one.1).collect();
        assert_eq!(offsets, [-1, -1]);
    }
}

#[test]
fn a_group_that_cannot_be_had_is_told_where_the_version_has_room() {
    for version in 1..=9 {
        let busy = || Err(Refusal::Busy("waiters_max"));
        let mut connection = connection(vec![busy(), busy()]);
        let response = connection.ask(version, &samples::fetch(version));
        if version >= 8 {
            let codes: Vec<i16> = response.groups.iter().map(|one| one.error_code).collect();
            assert_eq!(codes, [15, 15]);
        } else {
            let code = if version >= 2 { 15 } else { 0 };
            assert_eq!(response.error_code, code);
            assert!(told(&response).iter().all(|one| one.4 == 15));
        }
    }
    let mut connection = connection(Vec::new());
    let none: OffsetFetchRequest = OffsetFetchRequest::default();
    assert!(connection.ask(8, &none).groups.is_empty());
    let empty = OffsetFetchRequestGroup::default().with_topics(Some(Vec::new()));
    let response = connection.ask(9, &none.with_groups(vec![empty]));
    assert_eq!(response.groups[0].error_code, 0);
}

#[test]
fn offsets_are_deleted_one_by_one() {
    let results = vec![Ok(()), Err(GroupRefusal::Subscribed)];
    let not_empty = Err(Refusal::Group(GroupRefusal::NotEmpty));
    let mut connection = connection(vec![Ok(GroupAnswer::OffsetsDeleted(results)), not_empty]);
    let mut request = samples::delete_offsets();
    let mut unknown = request.topics[0].clone();
    unknown.name = topic("b");
    request.topics.push(unknown);
    let response = connection.ask(0, &request);
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    let codes: Vec<i16> = partitions.map(|one| one.error_code).collect();
    assert_eq!((response.error_code, codes), (0, vec![0, 86, 3, 3]));
    let refused = connection.ask(0, &request);
    assert_eq!((refused.error_code, refused.topics.len()), (68, 0));
}

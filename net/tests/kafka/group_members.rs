//! JoinGroup, SyncGroup, Heartbeat, LeaveGroup, DescribeGroups, ListGroups and DeleteGroups.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::{HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest};
use millrace_engine::event::Refusal;
use millrace_engine::group::{
    ClientIdentity, GroupAnswer, GroupAsk, GroupDescription, GroupListing, GroupRefusal,
    GroupStanding, Joined, JoinedMember, LeavingMember, MemberDescription, Synced,
};
use millrace_net::kafka::KafkaConfig;
use millrace_net::session::ProtocolSession;

use crate::broker::Broker;
use crate::client::{Connection, frame, reply, text};
use crate::samples::groups as samples;

fn connection(answers: Vec<Result<GroupAnswer, Refusal>>) -> Connection {
    let mut broker = Broker::new();
    broker.add_topic("a", 2);
    broker.group_answers = answers.into();
    Connection::new(broker)
}

fn joined() -> Joined {
    Joined {
        generation: 3,
        protocol_type: Arc::from("consumer"),
        protocol: Arc::from("range"),
        leader: Arc::from("m"),
        member: Arc::from("m"),
        skip_assignment: false,
        members: vec![JoinedMember {
            member: Arc::from("m"),
            instance: Some(Arc::from("i")),
            metadata: Bytes::from_static(b"said"),
        }],
    }
}

#[test]
fn the_topics_of_all_protocols_of_a_member_share_one_bound() {
    for (items_max, expected) in [(20, Some(vec![Arc::from("a")])), (6, None)] {
        let config = KafkaConfig {
            request_items_max: items_max,
            ..KafkaConfig::default()
        };
        let mut connection = Connection::with_config(Broker::new(), config);
        // Five topics in each of two protocols.
        let mut subscription = vec![0, 1, 0, 0, 0, 5];
        subscription.extend([0, 1, b'a'].repeat(5));
        subscription.extend([0xff; 4]);
        let mut request = samples::join(3);
        for protocol in &mut request.protocols {
            protocol.metadata = Bytes::from(subscription.clone());
        }
        connection.ask(3, &request);
        match &connection.broker.asked_of_groups[0].ask {
            GroupAsk::Join(join) => assert_eq!(join.topics, expected, "{items_max}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_version_of_joining_says_what_it_can() {
    for version in 0..=9 {
        let answer = GroupAnswer::Joined(Box::new(joined()));
        let mut connection = connection(vec![Ok(answer)]);
        let response = connection.ask(version, &samples::join(version));
        assert_eq!((response.error_code, response.generation_id), (0, 3));
        assert_eq!(response.protocol_name, Some(text("range")));
        assert_eq!(
            (response.leader, response.member_id),
            (text("m"), text("m"))
        );
        let [member] = response.members.as_slice() else {
            panic!("one member");
        };
        assert_eq!(member.metadata, "said");
        assert_eq!(
            member
                .group_instance_id
                .as_ref()
                .is_some_and(|id| !id.is_empty()),
            version >= 5
        );
        let asked = connection.broker.asked_of_groups.remove(0);
        let GroupAsk::Join(join) = asked.ask else {
            panic!("{asked:?}");
        };
        assert_eq!((&*asked.group, join.member.as_str()), ("g", "m"));
        assert_eq!(join.client.id, "transcript");
        assert_eq!(join.client.host, "/127.0.0.1");
        let rebalance_ms = if version >= 1 { 60_000 } else { 10_000 };
        let timeouts = (join.session_timeout_ms, join.rebalance_timeout_ms);
        assert_eq!(timeouts, (10_000, rebalance_ms));
        assert_eq!(join.topics, Some(vec![Arc::from("a")]));
        assert_eq!(join.protocols.len(), 2);
        assert_eq!(join.protocols[0].metadata, samples::SUBSCRIPTION);
        assert_eq!(join.instance.is_some(), version >= 5);
        assert!(
            !join.id_first || version == 4,
            "static ones need no id first"
        );
        assert_eq!(join.may_skip_assignment, version >= 9);
    }
}

#[test]
fn a_refused_join_names_the_member_and_the_id_to_come_with() {
    for version in 0..=9 {
        let refusals = [
            (GroupRefusal::JoinWithId(Arc::from("new")), 79, "new"),
            (GroupRefusal::UnknownMember, 25, "m"),
            (GroupRefusal::InconsistentProtocol, 23, "m"),
            (
                GroupRefusal::InvalidSessionTimeout { min: 1, max: 2 },
                26,
                "m",
            ),
            (GroupRefusal::Full { max: 1 }, 81, "m"),
            (GroupRefusal::InstanceFenced, 82, "m"),
            (GroupRefusal::InvalidName, 24, "m"),
        ];
        for (refusal, code, member) in refusals {
            let mut connection = connection(vec![Err(Refusal::Group(refusal))]);
            let response = connection.ask(version, &samples::join(version));
            assert_eq!(response.error_code, code);
            assert_eq!(response.member_id.as_str(), member);
            assert_eq!(response.generation_id, -1);
            assert_eq!(response.protocol_name.is_none(), version >= 7);
        }
        let mut connection = connection(vec![Err(Refusal::Busy("waiters_max"))]);
        let response = connection.ask(version, &samples::join(version));
        assert_eq!(response.error_code, 15, "clients look for it again");
    }
}

#[test]
fn negative_timeouts_are_the_groups_business() {
    let mut connection = connection(Vec::new());
    let request: JoinGroupRequest = samples::join(4)
        .with_session_timeout_ms(-1)
        .with_rebalance_timeout_ms(i32::MIN);
    connection.ask(4, &request);
    let asked = connection.broker.asked_of_groups.remove(0).ask;
    let GroupAsk::Join(join) = asked else {
        panic!("{asked:?}");
    };
    assert_eq!((join.session_timeout_ms, join.rebalance_timeout_ms), (0, 0));
    assert!(join.id_first);
}

#[test]
fn every_version_of_syncing_hands_shares_on() {
    for version in 0..=5 {
        let answer = Synced {
            protocol_type: Arc::from("consumer"),
            protocol: Arc::from("range"),
            assignment: Bytes::from_static(b"mine"),
        };
        let mut connection = connection(vec![
            Ok(GroupAnswer::Synced(answer)),
            Err(Refusal::Group(GroupRefusal::Rebalancing)),
        ]);
        let response = connection.ask(version, &samples::sync(version));
        assert_eq!(response.error_code, 0);
        assert_eq!(response.assignment, "mine");
        if version >= 5 {
            assert_eq!(response.protocol_name, Some(text("range")));
        }
        let asked = connection.broker.asked_of_groups.remove(0).ask;
        let GroupAsk::Sync(sync) = asked else {
            panic!("{asked:?}");
        };
        assert_eq!(sync.membership.generation, 3);
        assert_eq!(sync.membership.instance.is_some(), version >= 3);
        assert_eq!(sync.protocol.is_some(), version >= 5);
        assert_eq!(sync.assignments[1].0, "n");
        assert_eq!(sync.assignments[1].1, "share");
        let refused = connection.ask(version, &samples::sync(version));
        assert_eq!((refused.error_code, refused.assignment.len()), (27, 0));
    }
    let mut connection = connection(Vec::new());
    let request = samples::sync(5).with_protocol_name(None);
    assert_eq!(connection.ask(5, &request).error_code, 23);
    assert!(connection.broker.asked_of_groups.is_empty());
}

#[test]
fn a_heartbeat_hears_how_the_group_stands() {
    for version in 0..=4 {
        let refused = |refusal| Err(Refusal::Group(refusal));
        let mut connection = connection(vec![
            Ok(GroupAnswer::Alive),
            refused(GroupRefusal::Rebalancing),
            refused(GroupRefusal::IllegalGeneration { current: 4 }),
            refused(GroupRefusal::UnknownMember),
            refused(GroupRefusal::InstanceFenced),
            Err(Refusal::OutcomeUnknown),
        ]);
        let request: HeartbeatRequest = samples::heartbeat(version);
        for code in [0, 27, 22, 25, 82, 15] {
            assert_eq!(connection.ask(version, &request).error_code, code);
        }
        let asked = &connection.broker.asked_of_groups[0].ask;
        let GroupAsk::Heartbeat(membership) = asked else {
            panic!("{asked:?}");
        };
        assert_eq!(
            (membership.generation, membership.member.as_str()),
            (3, "m")
        );
        assert_eq!(membership.instance.is_some(), version >= 3);
    }
}

#[test]
fn who_leaves_hears_for_itself() {
    for version in 0..=5 {
        let unknown = || Err(GroupRefusal::UnknownMember);
        let one = GroupAnswer::Left(vec![unknown()]);
        let two = GroupAnswer::Left(vec![unknown(), Ok(())]);
        let answer = if version >= 3 { two } else { one };
        let invalid = Err(Refusal::Group(GroupRefusal::InvalidName));
        let mut connection = connection(vec![Ok(answer), invalid]);
        let request: LeaveGroupRequest = samples::leave(version);
        let response = connection.ask(version, &request);
        if version >= 3 {
            assert_eq!(response.error_code, 0);
            let codes: Vec<i16> = response.members.iter().map(|one| one.error_code).collect();
            assert_eq!(codes, [25, 0]);
            assert_eq!(response.members[1].group_instance_id, Some(text("i")));
        } else {
            assert_eq!(response.error_code, 25);
        }
        assert_eq!(connection.ask(version, &request).error_code, 24);
        let asked = &connection.broker.asked_of_groups[0].ask;
        let member = |member: &str, instance: Option<&str>| LeavingMember {
            member: member.to_owned(),
            instance: instance.map(str::to_owned),
        };
        let mut leaving = vec![member("m", None)];
        if version >= 3 {
            leaving.push(member("", Some("i")));
        }
        assert_eq!(asked, &GroupAsk::Leave(leaving));
    }
}

#[test]
fn one_request_of_a_connection_waits_for_a_group_and_others_are_served() {
    let mut connection = connection(vec![
        Ok(GroupAnswer::Joined(Box::new(joined()))),
        Ok(GroupAnswer::Alive),
    ]);
    connection.input = [
        frame(5, 1, &samples::join(5)),
        frame(3, 2, &samples::heartbeat(3)),
        frame(3, 3, &samples::sync(3)),
    ]
    .concat();
    connection.feed().expect("good requests");
    assert_eq!(connection.broker.asked_of_groups.len(), 2, "the sync waits");
    assert!(!connection.session.wants_input());
    connection.settle();
    assert_eq!(connection.broker.asked_of_groups.len(), 3);
    let mut out = Bytes::from(connection.output());
    let first = reply::<JoinGroupRequest>(5, 1, &mut out);
    assert_eq!(first.generation_id, 3);
    let second = reply::<HeartbeatRequest>(3, 2, &mut out);
    assert_eq!(second.error_code, 0, "in the order of the requests");
    assert!(!out.is_empty());
}

#[test]
fn groups_are_described_as_they_stand() {
    for version in 0..=6 {
        let described = GroupDescription {
            standing: GroupStanding::Stable,
            generation: 3,
            protocol_type: Some(Arc::from("consumer")),
            protocol: Some(Arc::from("range")),
            leader: Some(Arc::from("m")),
            members: vec![MemberDescription {
                member: Arc::from("m"),
                instance: Some(Arc::from("i")),
                client: ClientIdentity {
                    id: "client".to_owned(),
                    host: "/127.0.0.1".to_owned(),
                },
                metadata: Bytes::from_static(b"said"),
                assignment: Bytes::from_static(b"share"),
            }],
        };
        let described = GroupAnswer::Described(Some(Box::new(described)));
        let mut connection = connection(vec![Ok(described), Ok(GroupAnswer::Described(None))]);
        let mut request = samples::describe();
        request.include_authorized_operations = version >= 3;
        let response = connection.ask(version, &request);
        let [found, missing] = response.groups.as_slice() else {
            panic!("two groups");
        };
        assert_eq!(
            (found.error_code, found.group_state.as_str()),
            (0, "Stable")
        );
        assert_eq!(found.protocol_type.as_str(), "consumer");
        assert_eq!(found.protocol_data.as_str(), "range");
        assert_eq!(found.members[0].client_host.as_str(), "/127.0.0.1");
        assert_eq!(found.members[0].member_assignment, "share");
        let instance = found.members[0].group_instance_id.as_ref();
        assert_eq!(instance.is_some_and(|id| !id.is_empty()), version >= 4);
        let operations = if version >= 3 { 328 } else { i32::MIN };
        assert_eq!(found.authorized_operations, operations);
        assert_eq!(missing.group_state.as_str(), "Dead");
        let not_found = if version >= 6 { 69 } else { 0 };
        assert_eq!(missing.error_code, not_found);
    }
}

#[test]
fn each_node_lists_its_own_groups_by_state_and_type() {
    for version in 0..=5 {
        let mut connection = connection(Vec::new());
        let listed = |name: &str, standing| GroupListing {
            group: Arc::from(name),
            protocol_type: Some(Arc::from("consumer")),
            standing,
        };
        connection.broker.groups = vec![
            listed("g", GroupStanding::Stable),
            listed("h", GroupStanding::PreparingRebalance),
        ];
        let response = connection.ask(version, &samples::list(version));
        let names: Vec<&str> = response
            .groups
            .iter()
            .map(|group| group.group_id.as_str())
            .collect();
        let all = if version >= 4 {
            &["g"][..]
        } else {
            &["g", "h"]
        };
        assert_eq!((response.error_code, names.as_slice()), (0, all));
        assert_eq!(response.groups[0].protocol_type.as_str(), "consumer");
        if version >= 4 {
            assert_eq!(response.groups[0].group_state.as_str(), "Stable");
        }
        if version >= 5 {
            assert_eq!(response.groups[0].group_type.as_str(), "Classic");
            let request = samples::list(5).with_types_filter(vec![text("consumer")]);
            assert!(connection.ask(5, &request).groups.is_empty());
        }
    }
}

#[test]
fn deleted_groups_are_told_one_by_one() {
    for version in 0..=2 {
        let not_empty = Err(Refusal::Group(GroupRefusal::NotEmpty));
        let mut connection = connection(vec![Ok(GroupAnswer::Deleted), not_empty]);
        let response = connection.ask(version, &samples::delete());
        let codes: Vec<i16> = response.results.iter().map(|one| one.error_code).collect();
        assert_eq!(codes, [0, 68]);
        let missing = connection.ask(version, &samples::delete());
        assert_eq!(missing.results[0].error_code, 69);
        let none = samples::delete().with_groups_names(Vec::new());
        assert!(connection.ask(version, &none).results.is_empty());
    }
}

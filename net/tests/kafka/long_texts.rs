//! Texts as long as a 16-bit length can say, wherever a client or another member may put one.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::ApiVersionsRequest;
use millrace_engine::event::Refusal;
use millrace_engine::group::{
    ClientIdentity, GroupAnswer, GroupDescription, GroupListing, GroupRefusal, GroupStanding,
    Joined, JoinedMember, MemberDescription,
};
use millrace_net::session::ProtocolSession;

use crate::broker::Broker;
use crate::client::{Connection, NOW, frame};
use crate::samples::{self, groups};

/// The longest text that Kafka's older versions can say.
const LONG: usize = i16::MAX as usize;
/// Bytes of a frame before the client id.
const PREFIX_BYTES: usize = 12;

/// What looks like a text in a frame, from its length on: where it is and what takes its place.
/// A guess that is wrong makes a request that is refused.
fn texts(frame: &[u8]) -> Vec<(std::ops::Range<usize>, Vec<u8>)> {
    let is_text = |from: usize, bytes: usize| {
        let text = frame.get(from..from + bytes);
        bytes > 0 && text.is_some_and(|text| text.iter().all(u8::is_ascii_graphic))
    };
    let long = vec![b'x'; LONG];
    let mut found = Vec::new();
    for at in PREFIX_BYTES..frame.len().saturating_sub(2) {
        let fixed = usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        if is_text(at + 2, fixed) {
            found.push((at..at + 2 + fixed, [&[0x7f, 0xff], &long[..]].concat()));
        }
        let compact = usize::from(frame[at]);
        if (2..0x80).contains(&compact) && is_text(at + 1, compact - 1) {
            // The varint of the length + 1.
            let long = [&[0x80, 0x80, 0x02], &long[..]].concat();
            found.push((at..at + compact, long));
        }
    }
    found
}

/// Sends a request behind a handshake, answers what it asks, and takes what the client is told.
/// Whether the connection lives on.
fn serve(broker: Broker, request: &[u8]) -> bool {
    let mut connection = Connection::new(broker);
    connection.input = frame(0, 1, &ApiVersionsRequest::default());
    connection.input.extend(request);
    if connection.feed().is_err() {
        return false;
    }
    connection.settle();
    connection.output();
    connection.session.handle_timeout(NOW).is_ok()
}

fn with_length(mut frame: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(frame.len() - 4).expect("short");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

#[test]
fn any_text_of_any_request_may_be_as_long_as_its_length_can_say() {
    for sample in samples::all() {
        let mut served = 0;
        for (place, long) in texts(&sample.frame) {
            let mut request = sample.frame.clone();
            request.splice(place, long);
            let mut broker = Broker::new();
            broker.add_topic("a", 2);
            served += usize::from(serve(broker, &with_length(request)));
        }
        let (api, version) = (sample.api, sample.version);
        assert!(served > 0, "{api} {version}: at least its client id");
    }
}

#[test]
fn what_a_version_cannot_say_of_other_members_closes_the_connection() {
    let long: Arc<str> = Arc::from("x".repeat(LONG));
    let longer: Arc<str> = Arc::from("x".repeat(LONG + 1));
    for (name, fits) in [(&long, true), (&longer, false)] {
        let answers = |answer: GroupAnswer| {
            let mut broker = Broker::new();
            broker.group_answers.push_back(Ok(answer));
            broker
        };
        for version in 0..=9 {
            let fits = fits || version >= 6;
            let broker = answers(GroupAnswer::Joined(Box::new(joined(name))));
            let request = frame(version, 2, &groups::join(version));
            assert_eq!(serve(broker, &request), fits, "JoinGroup {version}");
            let mut broker = Broker::new();
            let refusal = Refusal::Group(GroupRefusal::JoinWithId(Arc::clone(name)));
            broker.group_answers.push_back(Err(refusal));
            assert_eq!(serve(broker, &request), fits, "JoinGroup {version}");
        }
        for version in 0..=6 {
            let fits = fits || version >= 5;
            let broker = answers(GroupAnswer::Described(Some(Box::new(described(name)))));
            let request = frame(version, 2, &groups::describe());
            assert_eq!(serve(broker, &request), fits, "DescribeGroups {version}");
        }
        for version in 0..=5 {
            let mut broker = Broker::new();
            broker.groups.push(GroupListing {
                group: Arc::clone(name),
                protocol_type: Some(Arc::clone(name)),
                standing: GroupStanding::Stable,
            });
            let request = frame(version, 2, &groups::list(version));
            let fits = fits || version >= 3;
            assert_eq!(serve(broker, &request), fits, "ListGroups {version}");
        }
    }
}

fn joined(name: &Arc<str>) -> Joined {
    Joined {
        generation: 1,
        protocol_type: Arc::clone(name),
        protocol: Arc::clone(name),
        leader: Arc::clone(name),
        member: Arc::clone(name),
        skip_assignment: false,
        members: vec![JoinedMember {
            member: Arc::clone(name),
            instance: Some(Arc::clone(name)),
            metadata: Bytes::new(),
        }],
    }
}

fn described(name: &Arc<str>) -> GroupDescription {
    GroupDescription {
        standing: GroupStanding::Stable,
        generation: 1,
        protocol_type: Some(Arc::clone(name)),
        protocol: Some(Arc::clone(name)),
        leader: Some(Arc::clone(name)),
        members: vec![MemberDescription {
            member: Arc::clone(name),
            instance: Some(Arc::clone(name)),
            client: ClientIdentity {
                id: name.to_string(),
                host: "/127.0.0.1".to_owned(),
            },
            metadata: Bytes::new(),
            assignment: Bytes::new(),
        }],
    }
}

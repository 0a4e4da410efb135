//! The requests of a member of a consumer group, as Kafka's own consumer encodes them.

use super::wire::{
    Reader, WireError, begin_frame, end_frame, put_count, put_i8, put_i16, put_i32, put_string,
};
use super::{KafkaClient, RequestKind, refusal};
use crate::client::{GroupMember, Joined, Node, Reply};

/// How long a member may be silent, and how long a rebalance waits for one.
const SESSION_TIMEOUT_MS: i32 = 45_000;
const REBALANCE_TIMEOUT_MS: i32 = 60_000;
/// What members agree on: the first is the kind of group, the second a way to share partitions.
const PROTOCOL_TYPE: &str = "consumer";
const PROTOCOL: &str = "range";
/// FindCoordinator: a group and not a transaction.
const GROUP: i8 = 0;

impl KafkaClient {
    pub(crate) fn find_coordinator(&mut self, out: &mut Vec<u8>, group: &str) {
        let start = self.begin(out, RequestKind::FindCoordinator);
        put_string(out, group);
        put_i8(out, GROUP);
        end_frame(out, start);
    }

    /// Joins, with a subscription to this client's topic that differs from one `round` to the
    /// next.
    pub(crate) fn join_group(&mut self, out: &mut Vec<u8>, member: &GroupMember<'_>, round: u32) {
        let start = self.begin(out, RequestKind::JoinGroup);
        put_string(out, member.group);
        put_i32(out, SESSION_TIMEOUT_MS);
        put_i32(out, REBALANCE_TIMEOUT_MS);
        put_string(out, member.id);
        put_string(out, PROTOCOL_TYPE);
        put_count(out, 1);
        put_string(out, PROTOCOL);
        let subscription = begin_frame(out);
        put_i16(out, 0); // version of the subscription
        put_count(out, 1);
        put_string(out, &self.topic);
        put_count(out, size_of_val(&round));
        out.extend_from_slice(&round.to_be_bytes());
        end_frame(out, subscription);
        end_frame(out, start);
    }

    /// Asks for the member's share; the group's leader says in `members` who is to get one: all
    /// get a partition by their place.
    pub(crate) fn sync_group(
        &mut self,
        out: &mut Vec<u8>,
        member: &GroupMember<'_>,
        generation: i32,
        members: &[String],
    ) {
        let start = self.begin(out, RequestKind::SyncGroup);
        put_string(out, member.group);
        put_i32(out, generation);
        put_string(out, member.id);
        put_count(out, members.len());
        for (partition, id) in (0..).zip(members) {
            put_string(out, id);
            let share = begin_frame(out);
            put_i16(out, 0); // version of the assignment
            put_count(out, 1);
            put_string(out, &self.topic);
            put_count(out, 1);
            put_i32(out, partition);
            put_i32(out, -1); // no user data
            end_frame(out, share);
        }
        end_frame(out, start);
    }
}

pub(super) fn coordinator<'a>(body: &mut Reader<'a>) -> Result<Reply<'a>, WireError> {
    body.i32()?; // throttle time
    let error = body.i16()?;
    body.nullable_string()?; // message
    let id = body.i32()?;
    let host = body.string()?.to_owned();
    let port = body.i32()?;
    Ok(Reply::Coordinator(match refusal(error) {
        Ok(()) => {
            let port = u16::try_from(port).map_err(|_| WireError::NegativeLength(port.into()))?;
            Ok(Node { id, host, port })
        }
        Err(refusal) => Err(refusal),
    }))
}

pub(super) fn joined<'a>(body: &mut Reader<'a>) -> Result<Reply<'a>, WireError> {
    body.i32()?; // throttle time
    let error = body.i16()?;
    let generation = body.i32()?;
    body.nullable_string()?; // protocol
    body.string()?; // leader
    let id = body.string()?.to_owned();
    let mut members = Vec::new();
    for _ in 0..body.count()? {
        members.push(body.string()?.to_owned());
        body.nullable_bytes()?; // subscription
    }
    let joined = Joined {
        generation,
        id,
        members,
    };
    Ok(Reply::Joined(refusal(error).map(|()| joined)))
}

pub(super) fn synced<'a>(body: &mut Reader<'a>) -> Result<Reply<'a>, WireError> {
    body.i32()?; // throttle time
    let error = body.i16()?;
    let share = body.nullable_bytes()?.unwrap_or_default();
    Ok(Reply::Synced(refusal(error).map(|()| !share.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Client, Decoded};

    /// The golden bytes follow Kafka's protocol guide for SyncGroup, version 2.
    #[test]
    fn a_leader_shares_out_one_partition_each() {
        let mut client = KafkaClient::new("t", -1);
        let member = GroupMember {
            group: "g",
            id: "a",
        };
        let mut out = Vec::new();
        client.sync_group(&mut out, &member, 7, &["a".into(), "b".into()]);
        let share = |id: u8, partition: u8| {
            let mut bytes = vec![0, 1, id, 0, 0, 0, 21, 0, 0, 0, 0, 0, 1, 0, 1, b't'];
            bytes.extend([0, 0, 0, 1, 0, 0, 0, partition, 0xff, 0xff, 0xff, 0xff]);
            bytes
        };
        let mut expected = vec![0, 1, b'g', 0, 0, 0, 7, 0, 1, b'a', 0, 0, 0, 2];
        expected.extend(share(b'a', 0));
        expected.extend(share(b'b', 1));
        assert!(out.ends_with(&expected), "{out:?}");
        let length = u32::from_be_bytes([out[0], out[1], out[2], out[3]]);
        assert_eq!(usize::try_from(length), Ok(out.len() - 4));
    }

    #[test]
    fn a_leader_learns_its_members() {
        let mut client = Client::kafka("t", -1);
        let member = GroupMember { group: "g", id: "" };
        client.join_group(&mut Vec::new(), &member, 1);
        let mut body = vec![0, 0, 0, 0]; // correlation
        body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 5]); // throttle, error, generation
        body.extend(b"range\0\x01a\0\x01a\0\0\0\x02\0\x01a\0\0\0\0\0\x01b\0\0\0\0");
        let mut frame = vec![0, 0, 0, u8::try_from(body.len()).expect("short")];
        frame.extend(body);
        let decoded = client.decode(&frame).expect("well formed");
        let Decoded::Complete { value, .. } = decoded else {
            panic!("whole")
        };
        let Reply::Joined(Ok(joined)) = value else {
            panic!("{value:?}")
        };
        assert_eq!(joined.generation, 9);
        assert_eq!((joined.id.as_str(), joined.members.len()), ("a", 2));
    }
}

//! Golden bytes of every request and reply, and every prefix of a reply.

use super::*;
use crate::args::Compression;
use crate::client::{Client, Node, Topology};

fn client() -> KafkaClient {
    KafkaClient::new("t", -1)
}

/// A frame: its length, then the parts.
fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = u32::try_from(body.len()).expect("short");
    [&length.to_be_bytes()[..], &body].concat()
}

/// Request header: key, version, correlation 0, client id.
fn header(key: u8, version: u8) -> Vec<u8> {
    [
        &[0, key, 0, version, 0, 0, 0, 0, 0, 14][..],
        b"millrace-bench",
    ]
    .concat()
}

const TOPIC: &[u8] = &[0, 0, 0, 1, 0, 1, b't'];
const ALL_ONES: &[u8] = &[0xff; 8];

#[test]
fn requests_are_golden_bytes() {
    let mut out = Vec::new();
    client().handshake(&mut out);
    assert_eq!(out, framed(&[&header(18, 0)]));

    out.clear();
    client().metadata(&mut out);
    assert_eq!(out, framed(&[&header(3, 4), TOPIC, &[0]]));

    out.clear();
    client().create_topic(&mut out, 3);
    let options = [
        0, 0, 0, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x75, 0x30, 0,
    ];
    assert_eq!(out, framed(&[&header(19, 2), TOPIC, &options]));

    out.clear();
    client().list_offsets(&mut out, &[7]);
    let partition = [0, 0, 0, 1, 0, 0, 0, 7];
    assert_eq!(
        out,
        framed(&[&header(2, 1), &ALL_ONES[..4], TOPIC, &partition, ALL_ONES])
    );
}

fn put_abc(_: u32, slot: RecordSlot<'_>) {
    slot.put(None, 3, |out| out.extend_from_slice(b"abc"));
}

#[test]
fn a_produce_request_wraps_one_batch() {
    let append = Append {
        partition: 2,
        count: 1,
        compression: Compression::None,
        now_ms: 5,
    };
    let mut out = Vec::new();
    let batch_bytes = client().produce(&mut out, append, put_abc);
    let mut batch = Vec::new();
    batch::put_batch(&mut batch, &append, Identity::NONE, put_abc);
    assert_eq!(batch_bytes, batch.len());
    let settings = [0xff, 0xff, 0xff, 0xff, 0, 0, 0x75, 0x30];
    let length = [0, 0, 0, u8::try_from(batch.len()).expect("short")];
    let partition = [0, 0, 0, 1, 0, 0, 0, 2];
    assert_eq!(
        out,
        framed(&[&header(0, 7), &settings, TOPIC, &partition, &length, &batch])
    );
}

/// Sequences count a producer's records by partition, from 0.
#[test]
fn an_idempotent_producer_numbers_its_records_by_partition() {
    let mut client = Client::kafka("t", -1);
    client.identify(&mut Vec::new());
    let producer = [0, 0, 0, 0, 0, 0, 0, 9, 0, 3]; // id 9, epoch 3
    let reply = framed(&[&[0, 0, 0, 0], &[0, 0, 0, 0], &[0, 0], &producer]);
    let decoded = client.decode(&reply).expect("well formed");
    assert!(matches!(
        decoded,
        Decoded::Complete {
            value: Reply::Identified(Ok(())),
            ..
        }
    ));
    for (partition, count, sequence) in [(0, 2, 0u8), (1, 1, 0), (0, 1, 2), (1, 1, 1)] {
        let append = Append {
            partition,
            count,
            compression: Compression::None,
            now_ms: 5,
        };
        let mut out = Vec::new();
        let batch_bytes = client.append(&mut out, append, put_abc);
        let batch = &out[out.len() - batch_bytes..];
        let identity = [&producer[..], &[0, 0, 0, sequence]].concat();
        assert_eq!(batch[43..57], identity, "partition {partition}");
    }
}

#[test]
fn a_sequence_begins_again_after_its_last() {
    let last = Identity {
        base_sequence: i32::MAX - 1,
        ..Identity::NONE
    };
    assert_eq!(last.after(1).base_sequence, i32::MAX);
    assert_eq!(last.after(3).base_sequence, 1);
}

#[test]
fn a_fetch_request_is_golden_bytes() {
    let limits = FetchLimits {
        wait_ms_max: 500,
        bytes_max: 0x0300,
        partition_bytes_max: 0x0200,
    };
    let mut out = Vec::new();
    client().fetch(
        &mut out,
        &[Cursor {
            partition: 1,
            next_offset: 9,
        }],
        limits,
    );
    let front = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0xf4, 0, 0, 0, 1, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0xff, 0xff,
        0xff, 0xff,
    ];
    let partition = [
        0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 9,
    ];
    let tail = [0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        out,
        framed(&[&header(1, 11), &front, TOPIC, &partition, ALL_ONES, &tail])
    );
}

/// Decodes `reply` to a request of `kind`, after checking that every prefix is incomplete.
fn decode(kind: RequestKind, reply: &[u8]) -> Result<Reply<'_>, ClientError> {
    for end in 0..reply.len() {
        let mut fresh = client();
        fresh.outstanding.push_back((0, kind));
        let decoded = fresh.decode(&reply[..end]);
        assert!(
            matches!(decoded, Ok(Decoded::Incomplete { .. })),
            "{end} of {}",
            reply.len()
        );
    }
    let mut fresh = client();
    fresh.outstanding.push_back((0, kind));
    match fresh.decode(reply)? {
        Decoded::Complete { value, bytes } => {
            assert_eq!(bytes, reply.len());
            Ok(value)
        }
        Decoded::Incomplete { .. } => panic!("the reply is whole"),
    }
}

#[test]
fn append_replies_carry_the_offset_or_the_error_by_name() {
    let front = [&[0; 4][..], TOPIC, &[0, 0, 0, 1, 0, 0, 0, 2]].concat();
    let offset = [0, 0, 0, 0, 0, 0, 1, 0];
    let good = framed(&[&front, &[0, 0], &offset, ALL_ONES, &[0; 8], &[0; 4]]);
    assert!(matches!(
        decode(RequestKind::Produce, &good),
        Ok(Reply::Appended(Ok(256)))
    ));
    let bad = framed(&[&front, &[0, 6], ALL_ONES, ALL_ONES, &[0; 8], &[0; 4]]);
    let Ok(Reply::Appended(Err(refusal))) = decode(RequestKind::Produce, &bad) else {
        panic!("refused");
    };
    assert_eq!(refusal.to_string(), "NOT_LEADER_OR_FOLLOWER (6)");
}

#[test]
fn fetch_replies_carry_batches_and_where_to_go_on() {
    let append = |count| Append {
        partition: 0,
        count,
        compression: Compression::None,
        now_ms: 5,
    };
    let mut batches = Vec::new();
    batch::put_batch(&mut batches, &append(2), Identity::NONE, |number, slot| {
        slot.put(None, 1, |out| out.push(b'a' + number as u8));
    });
    let whole_bytes = batches.len();
    batch::put_batch(&mut batches, &append(1), Identity::NONE, |_, slot| {
        slot.put(None, 1, |out| out.push(b'z'));
    });
    batches[whole_bytes + 7] = 2; // base offset of the second
    let cut = &batches[..batches.len() - 1];
    let length = u32::try_from(cut.len()).expect("short").to_be_bytes();
    let session = [0; 10];
    let partition = [
        &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0][..],
        &[0, 0, 0, 0, 0, 0, 0, 3],
    ]
    .concat();
    let rest = [&[0; 16][..], ALL_ONES].concat();
    let reply = framed(&[&[0; 4], &session, TOPIC, &partition, &rest, &length, cut]);
    let Ok(Reply::Fetched(Ok(partitions))) = decode(RequestKind::Fetch, &reply) else {
        panic!("fetched")
    };
    let [fetched] = &partitions[..] else {
        panic!("one partition")
    };
    assert_eq!((fetched.partition, fetched.readable_end), (2, Ok(3)));
    assert_eq!(batch::next_offset(fetched.bytes), Some(2));
    let mut seen = Vec::new();
    for_each_message(fetched.bytes, 1, |offset, value| {
        seen.push((offset, value.map(<[u8]>::to_owned)));
    })
    .expect("well formed");
    assert_eq!(seen, [(1, Some(b"b".to_vec()))]);
}

#[test]
fn topology_replies_name_nodes_and_leaders() {
    let node = [
        0, 0, 0, 1, 0, 0, 0, 5, 0, 1, b'h', 0, 0, 0x23, 0x84, 0xff, 0xff,
    ];
    let cluster = [0xff, 0xff, 0, 0, 0, 5];
    let topic = [0, 0, 0, 1, 0, 0, 0, 1, b't', 0, 0, 0, 0, 2];
    let second = [
        0, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let first = [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0,
    ];
    let reply = framed(&[&[0; 8], &node, &cluster, &topic, &second, &first]);
    let Ok(Reply::Topology(Ok(topology))) = decode(RequestKind::Metadata, &reply) else {
        panic!("topology");
    };
    let nodes = vec![Node {
        id: 5,
        host: "h".into(),
        port: 9092,
    }];
    let leaderless = Refusal {
        code: 5,
        name: "LEADER_NOT_AVAILABLE",
    };
    assert_eq!(
        topology,
        Topology {
            nodes,
            leaders: vec![Ok(5), Err(leaderless)]
        }
    );
}

#[test]
fn offsets_and_creation_replies_are_decoded() {
    let partition = [0, 0, 0, 1, 0, 0, 0, 7, 0, 0];
    let reply = framed(&[
        &[0; 4],
        TOPIC,
        &partition,
        ALL_ONES,
        &[0, 0, 0, 0, 0, 0, 0, 4],
    ]);
    let Ok(Reply::Ends(ends)) = decode(RequestKind::ListOffsets, &reply) else {
        panic!("ends")
    };
    assert_eq!(ends, [(7, Ok(4))]);
    let reply = framed(&[&[0; 8], TOPIC, &[0, 36, 0xff, 0xff]]);
    let Ok(Reply::Created(Err(refusal))) = decode(RequestKind::CreateTopics, &reply) else {
        panic!("created");
    };
    assert_eq!(refusal.name, "TOPIC_ALREADY_EXISTS");
}

#[test]
fn the_handshake_names_what_a_broker_does_not_serve() {
    let served = |produce_max: u8| {
        let ranges: Vec<u8> = RequestKind::ALL
            .iter()
            .flat_map(|kind| {
                let max = if *kind == RequestKind::Produce {
                    produce_max
                } else {
                    20
                };
                [0, u8::try_from(kind.key()).expect("small"), 0, 0, 0, max]
            })
            .collect();
        framed(&[&[0; 4], &[0, 0, 0, 0, 0, 6], &ranges])
    };
    assert!(matches!(
        decode(RequestKind::ApiVersions, &served(13)),
        Ok(Reply::Ready)
    ));
    let message = decode(RequestKind::ApiVersions, &served(3))
        .expect_err("too old")
        .to_string();
    assert_eq!(
        message,
        "the broker serves Produce 0 to 3; this client speaks 7"
    );
}

#[test]
fn a_peer_that_speaks_something_else_is_quoted() {
    let mut client = client();
    client.handshake(&mut Vec::new());
    let message = client
        .decode(b"HTTP/1.1 400 Bad Request\r\n")
        .expect_err("not Kafka");
    let expected = "the peer does not speak Kafka: its reply begins with \"HTTP/1.1 400 Bad\"";
    assert_eq!(message.to_string(), expected);
}

#[test]
fn a_reply_cut_inside_its_frame_is_malformed() {
    let mut client = client();
    client.outstanding.push_back((0, RequestKind::Produce));
    let reply = framed(&[&[0; 4], TOPIC, &[0, 0, 0, 1]]);
    assert!(matches!(
        client.decode(&reply),
        Err(ClientError::Malformed { .. })
    ));
}

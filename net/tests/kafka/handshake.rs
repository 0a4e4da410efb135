//! ApiVersions, and what happens to requests that are not served.

use bytes::Bytes;
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, FindCoordinatorRequest, InitProducerIdRequest,
    MetadataRequest,
};
use kafka_protocol::protocol::Decodable;
use millrace_engine::catalog::change::Operation;
use millrace_engine::group::GROUP_SLOTS;
use millrace_net::session::Refused;
use millrace_storage::units::ShardId;

use crate::broker::Broker;
use crate::client::{Connection, frame, text};

/// Key, first and last version of everything that is advertised.
const ADVERTISED: [(i16, i16, i16); 42] = [
    (0, 0, 13),
    (1, 4, 18),
    (2, 1, 11),
    (3, 0, 13),
    (8, 2, 10),
    (9, 1, 10),
    (10, 0, 6),
    (11, 0, 9),
    (12, 0, 4),
    (13, 0, 5),
    (14, 0, 5),
    (15, 0, 6),
    (16, 0, 5),
    (18, 0, 4),
    (19, 2, 7),
    (20, 1, 6),
    (21, 0, 2),
    (22, 0, 5),
    (23, 2, 4),
    (29, 1, 3),
    (30, 1, 3),
    (31, 1, 3),
    (32, 1, 4),
    (33, 0, 2),
    (35, 1, 5),
    (37, 0, 3),
    (42, 0, 2),
    (43, 0, 2),
    (44, 0, 1),
    (45, 0, 1),
    (46, 0, 0),
    (47, 0, 0),
    (48, 0, 1),
    (49, 0, 1),
    (50, 0, 0),
    (51, 0, 0),
    (60, 0, 2),
    (61, 0, 0),
    (65, 0, 0),
    (66, 0, 2),
    (74, 0, 1),
    (75, 0, 0),
];

fn rows(response: &ApiVersionsResponse) -> Vec<(i16, i16, i16)> {
    let rows = response.api_keys.iter();
    rows.map(|row| (row.api_key, row.min_version, row.max_version))
        .collect()
}

fn init_producer_id() -> InitProducerIdRequest {
    InitProducerIdRequest::default().with_transactional_id(None)
}

#[test]
fn every_version_of_api_versions_gets_the_table() {
    for version in 0..=4 {
        let mut connection = Connection::new(Broker::new());
        let mut request = ApiVersionsRequest::default();
        if version >= 3 {
            request = request
                .with_client_software_name(text("transcript"))
                .with_client_software_version(text("1.0"));
        }
        let response = connection.ask(version, &request);
        assert_eq!(response.error_code, 0);
        assert_eq!(rows(&response), ADVERTISED, "version {version}");
    }
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    for version in [5_i16, 99, i16::MAX, -1] {
        let mut connection = Connection::new(Broker::new());
        // A body that no version of ours has.
        let mut request = vec![0, 0, 0, 13, 0, 18];
        request.extend(version.to_be_bytes());
        request.extend([0, 0, 0, 77, 0xff, 0xff, 0, 3, 9]);
        connection.input = request;
        connection.feed().expect("answered");
        let mut out = Bytes::from(connection.output());
        assert_eq!(&out[4..8], [0, 0, 0, 77]);
        let mut body = out.split_off(8);
        let response = ApiVersionsResponse::decode(&mut body, 0).expect("version 0");
        assert_eq!(response.error_code, 35);
        assert_eq!(rows(&response), ADVERTISED);
        assert!(body.is_empty());
        // The client goes on with what it learned.
        let response = connection.ask(0, &ApiVersionsRequest::default());
        assert_eq!(response.error_code, 0);
    }
}

#[test]
fn the_golden_bytes_of_version_0() {
    let mut connection = Connection::new(Broker::new());
    connection.input = vec![0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 5, 0xff, 0xff];
    connection.feed().expect("a good request");
    let out = connection.output();
    let mut expected = vec![0, 0, 1, 6, 0, 0, 0, 5, 0, 0, 0, 0, 0, 42];
    for (key, first, last) in ADVERTISED {
        for number in [key, first, last] {
            expected.extend(number.to_be_bytes());
        }
    }
    assert_eq!(out, expected);
}

#[test]
fn unknown_apis_and_versions_close_the_connection() {
    let refusal = |bytes: &[u8]| {
        let mut connection = Connection::new(Broker::new());
        connection.input = bytes.to_vec();
        connection.feed().expect_err("refused").reason
    };
    // AddPartitionsToTxn is not served; judged before its body is there.
    let reason = refusal(&[0, 0, 0, 100, 0, 24, 0, 3, 0, 0, 0, 1]);
    assert!(reason.contains("API key 24"), "{reason}");
    let reason = refusal(&[0, 0, 0, 10, 0, 3, 0, 14, 0, 0, 0, 1, 0xff, 0xff]);
    assert!(reason.contains("Metadata version 14"), "{reason}");
    let reason = refusal(&[0, 0, 0, 10, 0, 1, 0, 3, 0, 0, 0, 1, 0xff, 0xff]);
    assert!(reason.contains("only 4 to 18"), "{reason}");
}

#[test]
fn transactions_and_share_groups_have_no_coordinator_for_good() {
    for version in 1..=6 {
        let mut connection = Connection::new(Broker::new());
        for (key_type, code) in [(1, 53), (2, 35), (9, 42)] {
            let mut request = FindCoordinatorRequest::default().with_key_type(key_type);
            if version >= 4 {
                request.coordinator_keys = vec![text("a"), text("b")];
            } else {
                request.key = text("a");
            }
            let response = connection.ask(version, &request);
            if version >= 4 {
                let codes: Vec<i16> = response.coordinators.iter().map(|c| c.error_code).collect();
                assert_eq!(codes, [code, code]);
                assert_eq!(response.coordinators[1].key, text("b"));
                assert_eq!(response.coordinators[1].node_id.0, -1);
            } else {
                assert_eq!(response.error_code, code);
                let words = response
                    .error_message
                    .expect("the crate's default is empty");
                assert!(!words.is_empty());
                assert_eq!(response.node_id.0, -1);
            }
        }
        // Clients show the code, which speaks of rights: the log tells why.
        assert_eq!(connection.broker.refusals, [Refused::Transactions]);
    }
}

#[test]
fn a_groups_coordinator_is_the_node_of_its_home() {
    for version in 0..=6 {
        let mut broker = Broker::with_two_nodes();
        broker.apply(vec![Operation::GroupSlotsHomed {
            homes: (0..GROUP_SLOTS).map(|slot| ShardId(slot % 2)).collect(),
        }]);
        let names = ["a", "b", "c", "d"];
        let homes = names.map(|name| broker.catalog.group_home(name).0);
        assert!(homes.contains(&0) && homes.contains(&1), "{homes:?}");
        let mut connection = Connection::new(broker);
        for (name, home) in names.into_iter().zip(homes) {
            let mut request = FindCoordinatorRequest::default();
            if version >= 4 {
                request.coordinator_keys = vec![text(name)];
            } else {
                request.key = text(name);
            }
            let mut response = connection.ask(version, &request);
            if version >= 4 {
                let found = response.coordinators.remove(0);
                assert_eq!(found.key, text(name));
                assert_eq!(found.error_message, None);
                response.node_id = found.node_id;
                response.host = found.host;
                response.port = found.port;
                response.error_code = found.error_code;
            }
            assert_eq!(response.error_code, 0);
            assert_eq!(response.node_id.0, i32::from(home) + 1);
            assert_eq!(response.port, 9092 + i32::from(home));
            let host = ["127.0.0.9", "second.example"][usize::from(home)];
            assert_eq!(response.host.as_str(), host);
        }
    }
}

#[test]
fn producer_ids_are_handed_out_without_a_transaction_only() {
    for version in 0..=5 {
        let mut connection = Connection::new(Broker::new());
        let response = connection.ask(version, &init_producer_id());
        assert_eq!((response.error_code, response.producer_id.0), (0, 7001));
        assert_eq!(response.producer_epoch, 0);
        for (id, code) in [("", 42), ("tx", 53)] {
            let request = init_producer_id();
            let request = request.with_transactional_id(Some(text(id).into()));
            let response = connection.ask(version, &request);
            assert_eq!((response.error_code, response.producer_id.0), (code, -1));
        }
        assert_eq!(connection.broker.seen, ["allocate producer id"]);
        assert_eq!(connection.broker.refusals, [Refused::Transactions]);
    }
}

#[test]
fn requests_sent_together_are_answered_in_order() {
    let mut connection = Connection::new(Broker::new());
    let init = frame(4, 1, &init_producer_id());
    let metadata = MetadataRequest::default().with_topics(None);
    let metadata = frame(9, 2, &metadata);
    let versions = frame(0, 3, &ApiVersionsRequest::default());
    connection.input = [init, metadata, versions].concat();
    let taken = connection.feed().expect("good requests");
    assert_eq!((connection.input.len(), taken.need_bytes), (0, 0));
    assert!(
        connection.output().is_empty(),
        "the first reply is not there yet"
    );
    connection.settle();
    let mut out = Bytes::from(connection.output());
    let mut correlations = Vec::new();
    while !out.is_empty() {
        let length = u32::from_be_bytes(out[..4].try_into().expect("four"));
        let frame = out.split_to(4 + length as usize);
        correlations.push(frame[7]);
    }
    assert_eq!(correlations, [1, 2, 3]);
}

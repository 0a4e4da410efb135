//! The other side of a transcript: encodes requests and decodes replies with the message crate.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use millrace_net::kafka::{KafkaConfig, Session};
use millrace_net::session::{ProtocolSession, ProtocolViolation, Taken};
use millrace_storage::record::checksum;
use millrace_storage::units::{BootTime, Now};

use crate::broker::Broker;

/// The time in these tests.
pub(crate) const NOW: Now = Now {
    boot: BootTime(1_000_000_000),
    wall_ms: 1_700_000_000_000,
};

/// Sends a first request may be; everything here is far smaller.
const OUT_BYTES_MAX: usize = 1 << 20;

/// A connection between a client and a session.
pub(crate) struct Connection {
    pub(crate) broker: Broker,
    pub(crate) session: Session,
    /// Bytes that the session has not taken.
    pub(crate) input: Vec<u8>,
    correlation: i32,
}

impl Connection {
    pub(crate) fn new(broker: Broker) -> Self {
        Self::with_config(broker, KafkaConfig::default())
    }

    pub(crate) fn with_config(broker: Broker, config: KafkaConfig) -> Self {
        Self {
            broker,
            session: Session::new(Arc::new(config)),
            input: Vec::new(),
            correlation: 100,
        }
    }

    /// Puts a request into the input and lets the session look at it.
    pub(crate) fn send<R: Request>(&mut self, version: i16, body: &R) -> i32 {
        self.correlation += 1;
        self.input.extend(frame(version, self.correlation, body));
        self.feed().expect("a good request");
        self.correlation
    }

    /// Lets the session look at its input.
    pub(crate) fn feed(&mut self) -> Result<Taken, ProtocolViolation> {
        let taken = self
            .session
            .handle_input(NOW, &self.input, &mut self.broker)?;
        self.input.drain(..taken.bytes);
        Ok(taken)
    }

    /// Delivers every outcome that is there, and what follows from it.
    pub(crate) fn settle(&mut self) {
        while let Some((sequence, outcome)) = self.broker.outcomes.pop_front() {
            self.session
                .handle_outcome(NOW, sequence, outcome, &mut self.broker);
            if self.session.wants_input() && !self.input.is_empty() {
                self.feed().expect("good requests");
            }
        }
    }

    /// Everything that the session has to send.
    pub(crate) fn output(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.poll_output(&mut out, OUT_BYTES_MAX);
        out
    }

    /// Sends a request and takes the one reply to it.
    pub(crate) fn ask<R: Request>(&mut self, version: i16, body: &R) -> R::Response {
        let correlation = self.send(version, body);
        self.answer::<R>(version, correlation)
    }

    /// Sends a request of bytes, whose version the message crate does not encode, and takes the one
    /// reply to it.
    pub(crate) fn ask_bytes<R: Request>(&mut self, version: i16, body: &[u8]) -> R::Response {
        self.correlation += 1;
        let frame = frame_of_bytes::<R>(version, self.correlation, body);
        self.input.extend(frame);
        self.feed().expect("a good request");
        self.answer::<R>(version, self.correlation)
    }

    fn answer<R: Request>(&mut self, version: i16, correlation: i32) -> R::Response {
        self.settle();
        let mut out = Bytes::from(self.output());
        let reply = reply::<R>(version, correlation, &mut out);
        assert!(out.is_empty(), "one reply");
        reply
    }
}

/// The version whose bodies a version has: the message crate does not know the newest ones, which
/// changed nothing in requests. In responses version 5 of DescribeLogDirs has a field more.
fn format(key: i16, version: i16) -> i16 {
    match (key, version) {
        (2, 11) => 10,
        (35, 5) => 4,
        _ => version,
    }
}

/// A whole request frame.
pub(crate) fn frame<R: Request>(version: i16, correlation: i32, body: &R) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    body.encode(&mut bytes, format(R::KEY, version))
        .expect("a body");
    frame_of_bytes::<R>(version, correlation, &bytes)
}

/// A whole request frame around such a body.
pub(crate) fn frame_of_bytes<R: Request>(version: i16, correlation: i32, body: &[u8]) -> Vec<u8> {
    let key = ApiKey::try_from(R::KEY).expect("a Kafka API");
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str("transcript")));
    let mut bytes = BytesMut::new();
    header
        .encode(&mut bytes, key.request_header_version(version))
        .expect("a header");
    let length = u32::try_from(bytes.len() + body.len()).expect("short");
    [&length.to_be_bytes()[..], &bytes, body].concat()
}

/// Takes one reply from the front of `bytes`.
pub(crate) fn reply<R: Request>(version: i16, correlation: i32, bytes: &mut Bytes) -> R::Response {
    let key = ApiKey::try_from(R::KEY).expect("a Kafka API");
    let length = usize::try_from(bytes.get_i32()).expect("a length");
    let mut frame = bytes.split_to(length);
    let header = ResponseHeader::decode(&mut frame, key.response_header_version(version));
    assert_eq!(header.expect("a header").correlation_id, correlation);
    let body = R::Response::decode(&mut frame, format(R::KEY, version)).expect("a body");
    assert!(frame.is_empty(), "{key:?} {version}: bytes follow the body");
    body
}

pub(crate) fn topic(name: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(name))
}

pub(crate) fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

/// A record batch of `records` empty records, as a producer sends it.
pub(crate) fn batch(records: u32, codec: u8) -> Bytes {
    let mut batch = vec![0; 61];
    for delta in 0..records {
        let delta = u8::try_from(delta).expect("few");
        // length 6, attributes, timestamp delta, offset delta (zigzag), no key, no value, headers
        batch.extend([12, 0, 0, delta * 2, 1, 1, 0]);
    }
    let length = i32::try_from(batch.len() - 12).expect("short");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    batch[22] = codec;
    batch[23..27].copy_from_slice(&(records - 1).to_be_bytes());
    batch[43..57].fill(0xff);
    batch[57..61].copy_from_slice(&records.to_be_bytes());
    let sum = checksum(&batch[21..]);
    batch[17..21].copy_from_slice(&sum.to_be_bytes());
    Bytes::from(batch)
}

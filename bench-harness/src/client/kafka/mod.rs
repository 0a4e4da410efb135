//! A Kafka client of one topic, by hand: the requests that a load generator needs, each in one
//! version that every broker since Kafka 2.1 serves, all of the encodings without tagged fields.
//!
//! | request     | key | version |
//! |-------------|----:|--------:|
//! | Produce     |   0 |       7 |
//! | Fetch       |   1 |      11 |
//! | ListOffsets |   2 |       1 |
//! | Metadata    |   3 |       4 |
//! | ApiVersions |  18 |       0 |
//! | CreateTopics|  19 |       2 |
//!
//! A member of a group ([`groups`]) needs three more and an idempotent producer one, which only
//! they ask the broker to serve:
//!
//! | request         | key | version |
//! |-----------------|----:|--------:|
//! | FindCoordinator |  10 |       1 |
//! | JoinGroup       |  11 |       3 |
//! | SyncGroup       |  14 |       2 |
//! | InitProducerId  |  22 |       1 |

pub(crate) mod batch;
mod codec;
pub(crate) mod errors;
mod groups;
mod replies;
pub(crate) mod wire;

use std::collections::{HashMap, VecDeque};

use self::batch::{Identity, RecordSlot};
use self::wire::{
    Reader, begin_frame, end_frame, patch_i32, put_count, put_i8, put_i16, put_i32, put_i64,
    put_string,
};
use super::{Append, ClientError, Cursor, Decoded, FetchLimits, Refusal, Reply};

/// Name that brokers see and log.
const CLIENT_ID: &str = "millrace-bench";
/// How long a broker may take over a produce or an admin request, by its own clock.
const REQUEST_TIMEOUT_MS: i32 = 30_000;
/// ListOffsets: "the readable end" instead of a timestamp.
const LATEST: i64 = -1;
/// Bytes of a foreign reply that an error quotes.
const QUOTED_BYTES_MAX: usize = 16;

/// How a TLS listener's records begin: content type, major version.
const TLS_ALERT: [u8; 2] = [21, 3];
const TLS_HANDSHAKE: [u8; 2] = [22, 3];

/// The requests spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    Produce,
    Fetch,
    ListOffsets,
    Metadata,
    ApiVersions,
    CreateTopics,
    FindCoordinator,
    JoinGroup,
    SyncGroup,
    InitProducerId,
}

impl RequestKind {
    /// What every broker that is driven has to serve.
    pub(crate) const ALL: [Self; 6] = [
        Self::Produce,
        Self::Fetch,
        Self::ListOffsets,
        Self::Metadata,
        Self::ApiVersions,
        Self::CreateTopics,
    ];

    pub(crate) fn key(self) -> i16 {
        match self {
            Self::Produce => 0,
            Self::Fetch => 1,
            Self::ListOffsets => 2,
            Self::Metadata => 3,
            Self::ApiVersions => 18,
            Self::CreateTopics => 19,
            Self::FindCoordinator => 10,
            Self::JoinGroup => 11,
            Self::SyncGroup => 14,
            Self::InitProducerId => 22,
        }
    }

    pub(crate) fn version(self) -> i16 {
        match self {
            Self::Produce => 7,
            Self::Fetch => 11,
            Self::ListOffsets => 1,
            Self::Metadata => 4,
            Self::ApiVersions => 0,
            Self::CreateTopics => 2,
            Self::FindCoordinator => 1,
            Self::JoinGroup => 3,
            Self::SyncGroup => 2,
            Self::InitProducerId => 1,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Produce => "Produce",
            Self::Fetch => "Fetch",
            Self::ListOffsets => "ListOffsets",
            Self::Metadata => "Metadata",
            Self::ApiVersions => "ApiVersions",
            Self::CreateTopics => "CreateTopics",
            Self::FindCoordinator => "FindCoordinator",
            Self::JoinGroup => "JoinGroup",
            Self::SyncGroup => "SyncGroup",
            Self::InitProducerId => "InitProducerId",
        }
    }
}

/// One connection's protocol state.
pub(crate) struct KafkaClient {
    topic: String,
    /// 0: no reply, 1: leader, -1: all in sync.
    acks: i16,
    next_correlation: i32,
    /// What the broker gave, with the next sequence of each partition that was written; `None`
    /// is a producer that is not idempotent.
    identity: Option<(Identity, HashMap<u32, Identity>)>,
    /// Requests whose replies are due, oldest first.
    outstanding: VecDeque<(i32, RequestKind)>,
}

impl KafkaClient {
    pub(crate) fn new(topic: &str, acks: i16) -> Self {
        Self {
            topic: topic.to_owned(),
            acks,
            next_correlation: 0,
            identity: None,
            outstanding: VecDeque::new(),
        }
    }

    pub(crate) fn handshake(&mut self, out: &mut Vec<u8>) {
        let start = self.begin(out, RequestKind::ApiVersions);
        end_frame(out, start);
    }

    pub(crate) fn create_topic(&mut self, out: &mut Vec<u8>, partitions: u32) {
        let start = self.begin(out, RequestKind::CreateTopics);
        put_count(out, 1);
        put_string(out, &self.topic);
        put_count(out, usize::try_from(partitions).expect("32 bits fit"));
        put_i16(out, 1); // replication factor
        put_count(out, 0); // assignments
        put_count(out, 0); // configs
        put_i32(out, REQUEST_TIMEOUT_MS);
        put_i8(out, 0); // not only validated
        end_frame(out, start);
    }

    pub(crate) fn metadata(&mut self, out: &mut Vec<u8>) {
        let start = self.begin(out, RequestKind::Metadata);
        put_count(out, 1);
        put_string(out, &self.topic);
        put_i8(out, 0); // no auto-creation: a misspelt topic is an error
        end_frame(out, start);
    }

    pub(crate) fn list_offsets(&mut self, out: &mut Vec<u8>, partitions: &[u32]) {
        let start = self.begin(out, RequestKind::ListOffsets);
        put_i32(out, -1); // not a replica
        put_count(out, 1);
        put_string(out, &self.topic);
        put_count(out, partitions.len());
        for partition in partitions {
            put_i32(out, partition.cast_signed());
            put_i64(out, LATEST);
        }
        end_frame(out, start);
    }

    pub(crate) fn produce(
        &mut self,
        out: &mut Vec<u8>,
        append: Append,
        fill: impl FnMut(u32, RecordSlot<'_>),
    ) -> usize {
        let start = self.begin(out, RequestKind::Produce);
        put_i16(out, -1); // no transactional id
        put_i16(out, self.acks);
        put_i32(out, REQUEST_TIMEOUT_MS);
        put_count(out, 1);
        put_string(out, &self.topic);
        put_count(out, 1);
        put_i32(out, append.partition.cast_signed());
        put_i32(out, 0);
        let batch_start = out.len();
        let identity = self.take_identity(append.partition, append.count);
        batch::put_batch(out, &append, identity, fill);
        let batch_bytes = out.len() - batch_start;
        patch_i32(out, batch_start - 4, batch_bytes);
        end_frame(out, start);
        batch_bytes
    }

    /// Asks for an identity, with which every batch is then sent; answered by
    /// [`Reply::Identified`].
    pub(crate) fn identify(&mut self, out: &mut Vec<u8>) {
        let start = self.begin(out, RequestKind::InitProducerId);
        put_i16(out, -1); // no transactional id
        put_i32(out, REQUEST_TIMEOUT_MS);
        end_frame(out, start);
    }

    /// The identity of the next `records` to `partition`.
    fn take_identity(&mut self, partition: u32, records: u32) -> Identity {
        let Some((first, by_partition)) = &mut self.identity else {
            return Identity::NONE;
        };
        let next = by_partition.entry(partition).or_insert(*first);
        std::mem::replace(next, next.after(records))
    }

    pub(crate) fn fetch(&mut self, out: &mut Vec<u8>, cursors: &[Cursor], limits: FetchLimits) {
        let start = self.begin(out, RequestKind::Fetch);
        put_i32(out, -1); // not a replica
        put_i32(out, limits.wait_ms_max.cast_signed());
        put_i32(out, 1); // least bytes before a reply
        put_i32(out, limits.bytes_max.cast_signed());
        put_i8(out, 0); // read uncommitted
        put_i32(out, 0); // no session
        put_i32(out, -1);
        put_count(out, 1);
        put_string(out, &self.topic);
        put_count(out, cursors.len());
        for cursor in cursors {
            put_i32(out, cursor.partition.cast_signed());
            put_i32(out, -1); // leader epoch not known
            put_i64(out, cursor.next_offset.cast_signed());
            put_i64(out, -1); // log start: followers only
            put_i32(out, limits.partition_bytes_max.cast_signed());
        }
        put_count(out, 0); // nothing forgotten
        put_string(out, ""); // no rack
        end_frame(out, start);
    }

    /// Starts a request and remembers that its reply is due.
    fn begin(&mut self, out: &mut Vec<u8>, kind: RequestKind) -> usize {
        let correlation = self.next_correlation;
        self.next_correlation = self.next_correlation.wrapping_add(1);
        if kind != RequestKind::Produce || self.acks != 0 {
            self.outstanding.push_back((correlation, kind));
        }
        let start = begin_frame(out);
        put_i16(out, kind.key());
        put_i16(out, kind.version());
        put_i32(out, correlation);
        put_string(out, CLIENT_ID);
        start
    }

    pub(crate) fn decode<'a>(
        &mut self,
        bytes: &'a [u8],
    ) -> Result<Decoded<Reply<'a>>, ClientError> {
        let (body, frame_bytes) = match wire::frame(bytes) {
            Ok(Decoded::Complete { value, bytes }) => (value, bytes),
            Ok(Decoded::Incomplete { need_bytes }) => {
                return Ok(Decoded::Incomplete { need_bytes });
            }
            Err(_) => return Err(wrong_protocol(bytes)),
        };
        let mut reader = Reader::new(body);
        let found = reader.i32().map_err(|_| wrong_protocol(bytes))?;
        let Some(&(expected, kind)) = self.outstanding.front() else {
            return Err(wrong_protocol(bytes));
        };
        if found != expected {
            return Err(match kind {
                RequestKind::ApiVersions => wrong_protocol(bytes),
                _ => ClientError::OutOfTurn { expected, found },
            });
        }
        self.outstanding.pop_front();
        let value = match kind {
            RequestKind::InitProducerId => self.take_producer(&mut reader)?,
            kind => replies::decode(kind, reader)?,
        };
        Ok(Decoded::Complete {
            value,
            bytes: frame_bytes,
        })
    }
}

impl KafkaClient {
    fn take_producer<'a>(&mut self, body: &mut Reader<'a>) -> Result<Reply<'a>, ClientError> {
        let identified = replies::producer(body)?;
        self.identity = identified.ok().map(|first| (first, HashMap::new()));
        Ok(Reply::Identified(identified.map(|_| ())))
    }
}

/// Calls `each` with the records of every whole batch in `bytes`, from `from_offset` on.
pub(crate) fn for_each_message(
    mut bytes: &[u8],
    from_offset: u64,
    mut each: impl FnMut(u64, Option<&[u8]>),
) -> Result<(), ClientError> {
    let malformed = |reason: batch::BatchError| ClientError::Malformed {
        request: RequestKind::Fetch.name(),
        reason: reason.to_string(),
    };
    while let Decoded::Complete { value, bytes: used } = batch::batch(bytes).map_err(malformed)? {
        bytes = &bytes[used..];
        if value.end_offset <= from_offset {
            continue;
        }
        let Some(records) = value.records() else {
            (from_offset.max(value.base_offset)..value.end_offset).for_each(|o| each(o, None));
            continue;
        };
        value
            .for_each_record(&records, |offset, record| {
                // A fetch brings the whole batch that its offset lies in.
                if offset >= from_offset {
                    each(offset, Some(record));
                }
            })
            .map_err(malformed)?;
    }
    Ok(())
}

pub(crate) fn refusal(code: i16) -> Result<(), Refusal> {
    match code {
        0 => Ok(()),
        code => Err(Refusal {
            code: code.into(),
            name: errors::name(code),
        }),
    }
}

fn wrong_protocol(bytes: &[u8]) -> ClientError {
    let quoted = &bytes[..bytes.len().min(QUOTED_BYTES_MAX)];
    let mut beginning = format!("\"{}\"", quoted.escape_ascii());
    if bytes.starts_with(&TLS_ALERT) || bytes.starts_with(&TLS_HANDSHAKE) {
        beginning += ", which is TLS; this generator speaks in the clear only";
    }
    ClientError::WrongProtocol {
        protocol: "Kafka",
        beginning,
    }
}

#[cfg(test)]
mod tests;

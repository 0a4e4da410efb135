//! Fetch, versions 4 to 18, with fetch sessions and long poll.
//!
//! | field                     | type            | versions |
//! |---------------------------|-----------------|----------|
//! | replica id                | i32             | - 14     |
//! | wait at most              | i32, ms         |          |
//! | record bytes at least     | i32             |          |
//! | record bytes at most      | i32             |          |
//! | isolation                 | i8              |          |
//! | session id, session epoch | i32, i32        | 7 +      |
//! | topics                    | array           |          |
//! | - name                    | string          | - 12     |
//! | - id                      | UUID            | 13 +     |
//! | - partitions              | array           |          |
//! | - - index                 | i32             |          |
//! | - - current leader epoch  | i32             | 9 +      |
//! | - - offset                | i64             |          |
//! | - - last fetched epoch    | i32             | 12 +     |
//! | - - log start             | i64             | 5 +      |
//! | - - record bytes at most  | i32             |          |
//! | forgotten topics          | array           | 7 +      |
//! | - name                    | string          | 7 - 12   |
//! | - id                      | UUID            | 13 +     |
//! | - partitions              | i32s            | 7 +      |
//! | rack                      | string          | 11 +     |
//!
//! Source: Kafka's `FetchRequest.json`. Replica id, last fetched epoch and log start are what
//! followers say, as are the tagged fields: replica state (15 +), directory id (17 +) and high
//! watermark (18 +). A broker without followers has no use for them, nor for the rack.

use std::sync::Arc;

use bytes::Bytes;
use millrace_engine::catalog::names::NAME_BYTES_MAX;
use millrace_engine::command::{Command, FetchPartition, FetchRequest, Isolation};
use millrace_engine::event::{Fetched, FetchedPartition, Outcome, Refusal};
use millrace_storage::record::BATCH_HEADER_BYTES;
use millrace_storage::units::{BootTime, LeaderEpoch, Offset, PartitionId};

use super::{Call, Handled, ReplyTo, Work};
use crate::kafka::config::KafkaConfig;
use crate::kafka::errors::{ErrorCode, fetch_error_code};
use crate::kafka::fetch_set::{FetchSet, Wanted};
use crate::kafka::frame::Request;
use crate::kafka::topic_key::TopicKey;
use crate::kafka::versions::Api;
use crate::kafka::wire::{DecodeError, Reader, Writer};
use crate::session::ProtocolViolation;

/// First version with sessions.
const VERSION_SESSIONS_MIN: i16 = 7;
/// First version whose clients know zstd.
const VERSION_ZSTD_MIN: i16 = 10;
/// First version that names topics by id.
const VERSION_IDS_MIN: i16 = 13;
/// Last version with a replica id that is no tagged field.
const VERSION_REPLICA_MAX: i16 = 14;
/// zstd's number in a batch's attributes, and where they are.
const CODEC_ZSTD: u8 = 4;
const ATTRIBUTES_LOW_AT: usize = 22;
/// Bytes that an answer's fields take without names and records, for a partition and in all.
const FIELD_BYTES_MAX: usize = 64;
/// Bytes of a frame that its length field can say.
const FRAME_BYTES_MAX: usize = i32::MAX as usize;
/// Session epochs with a meaning: open a session; no session, and end the one named.
const EPOCH_OPEN: i32 = 0;
const EPOCH_NONE: i32 = -1;

/// A request, borrowing its names.
#[derive(Debug)]
pub(crate) struct Decoded<'a> {
    wait_ms: i32,
    bytes_min: i32,
    bytes_max: i32,
    isolation: i8,
    session_id: i32,
    session_epoch: i32,
    /// Whether topics are named by id.
    has_ids: bool,
    partitions: Vec<(TopicKey<&'a str>, i32, Wanted)>,
    forgotten: Vec<(TopicKey<&'a str>, i32)>,
}

/// Reads a body of versions 4 to 18.
pub(crate) fn decode<'a>(
    version: i16,
    reader: &mut Reader<'a>,
) -> Result<Decoded<'a>, DecodeError> {
    if version <= VERSION_REPLICA_MAX {
        let _replica_id = reader.i32()?;
    }
    let mut decoded = Decoded {
        wait_ms: reader.i32()?,
        bytes_min: reader.i32()?,
        bytes_max: reader.i32()?,
        isolation: reader.i8()?,
        session_id: 0,
        session_epoch: EPOCH_NONE,
        has_ids: version >= VERSION_IDS_MIN,
        partitions: Vec::new(),
        forgotten: Vec::new(),
    };
    if version >= VERSION_SESSIONS_MIN {
        decoded.session_id = reader.i32()?;
        decoded.session_epoch = reader.i32()?;
    }
    for _ in 0..reader.count()? {
        let topic = read_topic(decoded.has_ids, reader)?;
        let count = reader.count()?;
        decoded.partitions.reserve(count);
        for _ in 0..count {
            let (index, wanted) = decode_partition(version, reader)?;
            decoded.partitions.push((topic, index, wanted));
        }
        reader.tags()?;
    }
    if version >= VERSION_SESSIONS_MIN {
        decode_forgotten(reader, &mut decoded)?;
    }
    if version >= 11 {
        reader.text()?;
    }
    reader.tags()?;
    Ok(decoded)
}

/// A name that no topic can have is no topic's: a session would keep it, and repeat it in answers.
fn read_topic<'a>(
    has_ids: bool,
    reader: &mut Reader<'a>,
) -> Result<TopicKey<&'a str>, DecodeError> {
    match TopicKey::read(has_ids, reader)? {
        TopicKey::Name(name) if name.len() > NAME_BYTES_MAX => Err(DecodeError::TopicName),
        topic => Ok(topic),
    }
}

fn decode_partition(version: i16, reader: &mut Reader<'_>) -> Result<(i32, Wanted), DecodeError> {
    let index = reader.i32()?;
    let leader_epoch = if version >= 9 { reader.i32()? } else { -1 };
    let from = reader.i64()?;
    if version >= 12 {
        let _last_fetched_epoch = reader.i32()?;
    }
    if version >= 5 {
        let _log_start = reader.i64()?;
    }
    let bytes_max = at_least_one(reader.i32()?);
    reader.tags()?;
    let wanted = Wanted {
        from,
        leader_epoch: (leader_epoch >= 0).then_some(LeaderEpoch(leader_epoch)),
        bytes_max,
    };
    Ok((index, wanted))
}

fn decode_forgotten<'a>(
    reader: &mut Reader<'a>,
    decoded: &mut Decoded<'a>,
) -> Result<(), DecodeError> {
    for _ in 0..reader.count()? {
        let topic = read_topic(decoded.has_ids, reader)?;
        let count = reader.count()?;
        decoded.forgotten.reserve(count);
        for _ in 0..count {
            decoded.forgotten.push((topic, reader.i32()?));
        }
        reader.tags()?;
    }
    Ok(())
}

/// Decodes any bytes: the first chooses the version, the others are the body.
pub fn fuzz_decode(bytes: &[u8]) {
    let Some((version, body)) = bytes.split_first() else {
        return;
    };
    let versions = Api::Fetch.versions();
    let version = i16::from(*version).clamp(versions.first, versions.last);
    let items_max = KafkaConfig::default().request_items_max;
    let mut reader = Reader::new(body, Api::Fetch.is_flexible(version), items_max);
    if let Ok(request) = decode(version, &mut reader) {
        assert!(request.partitions.len() + request.forgotten.len() <= items_max);
    }
}

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let items_max = call.config.request_items_max;
    let mut reader = Reader::new(request.body, request.is_flexible(), items_max);
    let decoded = decode(request.version, &mut reader).map_err(|error| request.malformed(error))?;
    let isolation = match decoded.isolation {
        0 => Isolation::Uncommitted,
        1 => Isolation::Committed,
        other => return Err(request.malformed(format!("isolation level {other}"))),
    };
    let reply_to = ReplyTo::new(call.config, request);
    let mut set = match choose_set(call, &decoded) {
        Ok(set) => set,
        Err(code) => {
            let reply = Reply::refused(reply_to, code);
            return Ok(Handled::Reply(super::Reply::Fetch(reply)));
        }
    };
    if set.len() > call.config.fetch_partitions_max {
        let max = call.config.fetch_partitions_max;
        let words = format!(
            "{} partitions, limits.fetch_partitions_max = {max}",
            set.len()
        );
        return Err(request.malformed(words));
    }
    set.resolve(call.sink.catalog());
    let pending = Pending {
        reply_to,
        is_committed: isolation == Isolation::Committed,
        tells_news_only: set.is_session() && decoded.session_epoch != EPOCH_OPEN,
        places: set.places_in_turn().collect(),
        fetched: Vec::new(),
        set,
    };
    let partitions = pending.partitions();
    if partitions.is_empty() {
        return pending.finish(call).map(Handled::Reply);
    }
    // Something to tell at once is not held back until records come.
    let has_failures = partitions.len() < pending.places.len();
    let wait_ms = if has_failures { 0 } else { decoded.wait_ms };
    let bytes_max = at_least_one(decoded.bytes_max).min(call.config.fetch_bytes_max);
    call.submit(
        0,
        Command::Fetch(FetchRequest {
            partitions,
            bytes_min: if wait_ms > 0 {
                // As with Kafka: who may not get as much as it waits for does not wait for it.
                at_least_zero(decoded.bytes_min).min(bytes_max)
            } else {
                0
            },
            bytes_max,
            deadline: deadline(call, wait_ms),
            isolation,
        }),
    );
    Ok(Handled::Wait(Work::Fetch(pending)))
}

fn deadline(call: &Call<'_>, wait_ms: i32) -> BootTime {
    let wait_ms = u64::try_from(wait_ms).unwrap_or(0);
    call.now
        .boot
        .after_ms(wait_ms.min(call.config.fetch_wait_ms_max))
}

/// The partitions to read, by the rules of KIP-227 and KIP-516.
fn choose_set(call: &mut Call<'_>, decoded: &Decoded<'_>) -> Result<FetchSet, ErrorCode> {
    let mut set = match decoded.session_epoch {
        EPOCH_OPEN | EPOCH_NONE => {
            // Whatever session there was: the client begins anew or ends it.
            *call.fetch_set = None;
            // Who finds no room for a session goes on without one, as with Kafka.
            let has_room = decoded.partitions.len() <= call.sink.remembered_partitions_left();
            if decoded.session_epoch == EPOCH_OPEN && has_room {
                FetchSet::session(call.now.boot.0, decoded.has_ids)
            } else {
                FetchSet::sessionless()
            }
        }
        epoch => {
            let id = decoded.session_id;
            let set = call.fetch_set.as_mut().filter(|set| set.id() == id);
            set.ok_or(ErrorCode::FetchSessionIdNotFound)?
                .advance(epoch, decoded.has_ids)?;
            if decoded.partitions.len() > call.sink.remembered_partitions_left() {
                *call.fetch_set = None;
                return Err(ErrorCode::FetchSessionIdNotFound);
            }
            call.fetch_set.take().expect("just found")
        }
    };
    for (topic, index, wanted) in &decoded.partitions {
        set.put(*topic, *index, *wanted);
    }
    for (topic, index) in &decoded.forgotten {
        set.remove(*topic, *index);
    }
    Ok(set)
}

/// A fetch on its way.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    is_committed: bool,
    tells_news_only: bool,
    set: FetchSet,
    /// The set's places in the order of this answer.
    places: Vec<usize>,
    /// Outcomes of the places that could be asked for, in their order.
    fetched: Vec<Result<Fetched, Refusal>>,
}

impl Pending {
    /// Partitions that it reads or remembers.
    pub(super) fn partitions_count(&self) -> usize {
        self.set.len()
    }

    /// What to ask the engine for.
    fn partitions(&self) -> Vec<FetchPartition> {
        let entries = self.places.iter().map(|place| self.set.entry(*place));
        let wanted = entries.filter_map(|entry| {
            let (partition, from) = judge(entry.partition, entry.wanted.from).ok()?;
            Some(FetchPartition {
                partition,
                from,
                bytes_max: entry.wanted.bytes_max,
                leader_epoch: entry.wanted.leader_epoch,
            })
        });
        wanted.collect()
    }

    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        let asked = self.partitions();
        self.fetched = match outcome {
            Ok(Outcome::Fetched(fetched)) => {
                let order = fetched.iter().map(|fetched| fetched.partition);
                assert!(
                    order.eq(asked.iter().map(|asked| asked.partition)),
                    "answers are in the order of the request"
                );
                fetched
                    .into_iter()
                    .map(|FetchedPartition { result, .. }| result)
                    .collect()
            }
            Ok(other) => panic!("a fetch ended with {other:?}"),
            Err(refusal) => vec![Err(refusal); asked.len()],
        };
    }

    pub(super) fn finish(mut self, call: &mut Call<'_>) -> Result<super::Reply, ProtocolViolation> {
        let mut partitions = Vec::new();
        let mut fetched = self.fetched.into_iter();
        for place in self.places {
            let entry = self.set.entry(place);
            let (topic, index) = (entry.topic.clone(), entry.index);
            let result = match judge(entry.partition, entry.wanted.from) {
                Ok(_) => {
                    let result = fetched.next().expect("one answer a partition asked for");
                    result.map_err(|refusal| failure_code(&refusal, &topic))
                }
                Err(code) => Err(code),
            };
            let result = result.and_then(|fetched| readable(fetched, self.reply_to.version));
            let is_told = match &result {
                Ok(fetched) => {
                    if !fetched.batches.is_empty() {
                        self.set.served(place);
                    }
                    self.set.tell(place, fetched) || !self.tells_news_only
                }
                Err(_) => {
                    self.set.tell_failure(place);
                    true
                }
            };
            if is_told {
                partitions.push(ReplyPartition {
                    topic,
                    index,
                    result,
                });
            }
        }
        // A session without partitions is over: the client is told so by the id 0.
        let lives = self.set.is_session() && self.set.len() > 0;
        let session_id = if lives { self.set.id() } else { 0 };
        if lives {
            *call.fetch_set = Some(self.set);
        }
        let reply = Reply {
            reply_to: self.reply_to,
            code: ErrorCode::None,
            session_id,
            is_committed: self.is_committed,
            partitions,
        };
        // Settings keep it below; a sum of many of them at their most may not.
        let records = reply.partitions.iter().map(ReplyPartition::record_bytes);
        let beside = reply.bytes() - records.sum::<usize>();
        reply.reply_to.check_bytes(beside)?;
        if reply.bytes() > FRAME_BYTES_MAX {
            let words = format!("{} bytes are longer than a length can say", reply.bytes());
            return Err(self.reply_to.too_long(words));
        }
        Ok(super::Reply::Fetch(reply))
    }
}

/// Judges what the engine is not asked about.
fn judge(
    partition: Result<PartitionId, ErrorCode>,
    from: i64,
) -> Result<(PartitionId, Offset), ErrorCode> {
    let partition = partition?;
    let from = u64::try_from(from).map_err(|_| ErrorCode::OffsetOutOfRange)?;
    Ok((partition, Offset(from)))
}

/// A partition goes only with its topic, and by then its id is one that no topic has.
fn failure_code(refusal: &Refusal, topic: &TopicKey<Arc<str>>) -> ErrorCode {
    match (fetch_error_code(refusal), topic) {
        (ErrorCode::UnknownTopicOrPartition, TopicKey::Id(_)) => ErrorCode::UnknownTopicId,
        (code, _) => code,
    }
}

/// Keeps zstd from clients that cannot read it: they would take it for damage.
fn readable(fetched: Fetched, version: i16) -> Result<Fetched, ErrorCode> {
    let is_zstd = |batch: &Bytes| {
        assert!(
            batch.len() >= BATCH_HEADER_BYTES,
            "stored batches are whole"
        );
        batch[ATTRIBUTES_LOW_AT] & 0b111 == CODEC_ZSTD
    };
    if version < VERSION_ZSTD_MIN && fetched.batches.iter().any(is_zstd) {
        return Err(ErrorCode::UnsupportedCompressionType);
    }
    Ok(fetched)
}

/// An answer whose records are still the engine's buffers.
#[derive(Debug)]
pub(crate) struct Reply {
    reply_to: ReplyTo,
    code: ErrorCode,
    session_id: i32,
    is_committed: bool,
    partitions: Vec<ReplyPartition>,
}

#[derive(Debug)]
struct ReplyPartition {
    topic: TopicKey<Arc<str>>,
    index: i32,
    result: Result<Fetched, ErrorCode>,
}

impl Reply {
    fn refused(reply_to: ReplyTo, code: ErrorCode) -> Self {
        Self {
            reply_to,
            code,
            session_id: 0,
            is_committed: false,
            partitions: Vec::new(),
        }
    }

    /// Bytes of the frame, or a few more.
    pub(super) fn bytes(&self) -> usize {
        let partitions = self.partitions.iter();
        let partitions = partitions
            .map(|partition| FIELD_BYTES_MAX + partition.topic.bytes() + partition.record_bytes());
        FIELD_BYTES_MAX + partitions.sum::<usize>()
    }

    /// Writes the frame: here records are copied, once.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let ReplyTo {
            version,
            correlation,
            api,
            ..
        } = self.reply_to;
        out.reserve(self.bytes());
        let mut writer = Writer::begin(out, correlation, api.is_flexible(version));
        writer.i32(0); // Throttle time, ms.
        if version >= VERSION_SESSIONS_MIN {
            writer.i16(self.code.code());
            writer.i32(self.session_id);
        }
        // Neighbours of one topic share an entry; a topic may come more than once.
        let topics = || self.partitions.chunk_by(|a, b| a.topic == b.topic);
        writer.length(Some(topics().count()));
        for topic in topics() {
            topic[0].topic.write(&mut writer);
            writer.length(Some(topic.len()));
            for partition in topic {
                partition.encode(version, self.is_committed, &mut writer);
            }
            writer.tags();
        }
        writer.tags();
        writer
            .end()
            .expect("its length was checked when it was made");
    }
}

impl ReplyPartition {
    fn record_bytes(&self) -> usize {
        let batches = self
            .result
            .as_ref()
            .map_or(&[][..], |fetched| &fetched.batches);
        batches.iter().map(Bytes::len).sum()
    }

    fn encode(&self, version: i16, is_committed: bool, writer: &mut Writer<'_>) {
        let fetched = self.result.as_ref().ok();
        let offset = |offset: fn(&Fetched) -> Offset| {
            fetched.map_or(-1, |fetched| {
                i64::try_from(offset(fetched).0).expect("offsets are in Kafka's range")
            })
        };
        let code = self
            .result
            .as_ref()
            .err()
            .copied()
            .unwrap_or(ErrorCode::None);
        writer.i32(self.index);
        writer.i16(code.code());
        writer.i64(offset(|fetched| fetched.high_watermark));
        writer.i64(offset(|fetched| fetched.last_stable));
        if version >= 5 {
            writer.i64(offset(|fetched| fetched.log_start));
        }
        // Aborted transactions: null where they were not asked for.
        writer.length((is_committed && fetched.is_some()).then_some(0));
        if version >= 11 {
            writer.i32(-1); // No other replica is nearer.
        }
        writer.length(Some(self.record_bytes()));
        for batch in fetched.map_or(&[][..], |fetched| &fetched.batches) {
            writer.raw(batch);
        }
        writer.tags();
    }
}

fn at_least_zero(value: i32) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// How many bytes at most: none would be no end of asking, and a first batch goes whatever its
/// size, as with Kafka.
fn at_least_one(value: i32) -> usize {
    at_least_zero(value).max(1)
}

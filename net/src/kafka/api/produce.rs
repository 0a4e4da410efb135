//! Produce, versions 3 to 13; 0 to 2 are advertised and refused in their own format.
//!
//! | field            | type             | versions |
//! |------------------|------------------|----------|
//! | transactional id | nullable string  | 3 +      |
//! | acks             | i16              |          |
//! | timeout          | i32, ms          |          |
//! | topics           | array            |          |
//! | - name           | string           | - 12     |
//! | - id             | UUID             | 13 +     |
//! | - partitions     | array            |          |
//! | - - index        | i32              |          |
//! | - - records      | nullable bytes   |          |
//!
//! Source: Kafka's `ProduceRequest.json`. The records are borrowed from the input and go down as
//! they are; the log makes the only copy. acks 1 and -1 mean the same on one broker: the batch is
//! on the disk. acks 0 asks for no reply; the batch is treated no worse.

use std::sync::Arc;

use millrace_engine::catalog::Catalog;
use millrace_engine::command::Command;
use millrace_engine::event::{Appended, Outcome, Refusal};
use millrace_storage::record::BatchHeader;
use millrace_storage::units::{Offset, PartitionId};

use super::{Call, Handled, Reply, ReplyTo, Work};
use crate::kafka::config::KafkaConfig;
use crate::kafka::errors::{ErrorCode, Failure};
use crate::kafka::frame::Request;
use crate::kafka::topic_key::{TopicKey, partition_at};
use crate::kafka::versions::Api;
use crate::kafka::wire::{DecodeError, Reader, Writer};
use crate::session::ProtocolViolation;

/// First version that is served.
const VERSION_SERVED_MIN: i16 = 3;
/// First version whose clients know zstd.
const VERSION_ZSTD_MIN: i16 = 7;
/// First version that names topics by id.
const VERSION_IDS_MIN: i16 = 13;
/// zstd's number in a batch's attributes.
const CODEC_ZSTD: u8 = 4;

/// A request, borrowing its names and records.
#[derive(Debug)]
pub(crate) struct ProduceRequest<'a> {
    acks: i16,
    topics: Vec<TopicData<'a>>,
    /// Of all topics, in order.
    partitions: Vec<PartitionData<'a>>,
}

#[derive(Debug)]
struct TopicData<'a> {
    key: TopicKey<&'a str>,
    /// Its partitions end here in the request's.
    partitions_end: usize,
}

#[derive(Debug)]
struct PartitionData<'a> {
    index: i32,
    records: Option<&'a [u8]>,
    /// Where the catalog has it; not there until it was looked up.
    home: Result<PartitionId, ErrorCode>,
}

/// Reads a body of versions 0 to 13.
pub(crate) fn decode<'a>(
    version: i16,
    reader: &mut Reader<'a>,
) -> Result<ProduceRequest<'a>, DecodeError> {
    if version >= VERSION_SERVED_MIN {
        // Whether a batch is transactional, the batch itself says.
        reader.nullable_text()?;
    }
    let acks = reader.i16()?;
    let _timeout_ms = reader.i32()?;
    let topic_count = reader.count()?;
    let mut topics = Vec::with_capacity(topic_count);
    let mut partitions = Vec::new();
    for _ in 0..topic_count {
        let key = TopicKey::read(version >= VERSION_IDS_MIN, reader)?;
        let count = reader.count()?;
        partitions.reserve(count);
        for _ in 0..count {
            let index = reader.i32()?;
            let records = reader.nullable_bytes()?;
            reader.tags()?;
            partitions.push(PartitionData {
                index,
                records,
                home: Err(ErrorCode::UnknownTopicOrPartition),
            });
        }
        reader.tags()?;
        topics.push(TopicData {
            key,
            partitions_end: partitions.len(),
        });
    }
    reader.tags()?;
    Ok(ProduceRequest {
        acks,
        topics,
        partitions,
    })
}

/// Decodes any bytes: the first chooses the version, the others are the body.
pub fn fuzz_decode(bytes: &[u8]) {
    let Some((version, body)) = bytes.split_first() else {
        return;
    };
    let versions = Api::Produce.versions();
    let version = i16::from(*version).clamp(versions.first, versions.last);
    let items_max = KafkaConfig::default().request_items_max;
    let mut reader = Reader::new(body, Api::Produce.is_flexible(version), items_max);
    if let Ok(request) = decode(version, &mut reader) {
        let ends = request.topics.iter().map(|topic| topic.partitions_end);
        assert!(
            ends.clone().is_sorted(),
            "topics share out the partitions in order"
        );
        assert_eq!(ends.max().unwrap_or(0), request.partitions.len());
    }
}

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let items_max = call.config.request_items_max;
    let mut reader = Reader::new(request.body, request.is_flexible(), items_max);
    let decoded = decode(request.version, &mut reader);
    let mut produce = decoded.map_err(|error| request.malformed(error))?;
    let mut pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        is_silent: produce.acks == 0,
        topics: produce.look_up(call.sink.catalog()),
        partitions: Vec::with_capacity(produce.partitions.len()),
    };
    let refused = refused_as_a_whole(&produce, request.version);
    for (position, data) in produce.partitions.iter().enumerate() {
        let checked = match &refused {
            Some(failure) => Err(failure.clone()),
            None => check(request.version, data),
        };
        pending.partitions.push(PartitionState {
            index: data.index,
            log_start: None,
            result: checked.as_ref().err().map(|failure| Err(failure.clone())),
        });
        if let Ok((partition, batch)) = checked {
            call.submit(position, Command::Append { partition, batch });
        }
    }
    if call.submitted().commands == 0 {
        return pending.finish().map(Handled::Reply);
    }
    Ok(Handled::Wait(Work::Produce(pending)))
}

impl ProduceRequest<'_> {
    /// Looks every partition up, each topic once. Returns what the answer keeps of the topics: what
    /// they are named by, and where their partitions end.
    fn look_up(&mut self, catalog: &Catalog) -> Vec<(TopicKey<Arc<str>>, usize)> {
        let mut start = 0;
        let topics = self.topics.iter().map(|topic| {
            let found = topic.key.find(catalog);
            for data in &mut self.partitions[start..topic.partitions_end] {
                data.home = found.and_then(|topic| partition_at(topic, data.index));
            }
            start = topic.partitions_end;
            (topic.key.shared(found.ok()), start)
        });
        topics.collect()
    }
}

/// What makes every partition fail.
fn refused_as_a_whole(produce: &ProduceRequest<'_>, version: i16) -> Option<Failure> {
    if version < VERSION_SERVED_MIN {
        return Some(Failure::bare(ErrorCode::UnsupportedVersion));
    }
    if !matches!(produce.acks, -1..=1) {
        let words = format!("acks is {}, must be 0, 1 or -1 (all)", produce.acks);
        return Some(Failure::new(ErrorCode::InvalidRequiredAcks, words));
    }
    None
}

/// Judges what the log does not: the place, and what depends on the client's version.
fn check<'a>(version: i16, data: &PartitionData<'a>) -> Result<(PartitionId, &'a [u8]), Failure> {
    let home = data.home.map_err(Failure::bare)?;
    let batch = data.records.filter(|records| !records.is_empty());
    let batch = batch.ok_or_else(|| {
        Failure::new(
            ErrorCode::InvalidRecord,
            "a partition needs one record batch",
        )
    })?;
    let is_zstd = BatchHeader::parse(batch).is_ok_and(|header| header.codec() == CODEC_ZSTD);
    if is_zstd && version < VERSION_ZSTD_MIN {
        let words = format!("zstd needs Produce {VERSION_ZSTD_MIN} or later");
        return Err(Failure::new(ErrorCode::UnsupportedCompressionType, words));
    }
    Ok((home, batch))
}

/// A request whose batches are on their way to the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    is_silent: bool,
    /// What each is named by, and where its partitions end in `partitions`.
    topics: Vec<(TopicKey<Arc<str>>, usize)>,
    partitions: Vec<PartitionState>,
}

#[derive(Debug)]
struct PartitionState {
    index: i32,
    /// First offset of the partition: of a success, and where the producer is unknown. Kafka's
    /// Java client sends such a batch again, unchanged, until it is told.
    log_start: Option<Offset>,
    /// `None` while the append is out.
    result: Option<Result<Appended, Failure>>,
}

impl Pending {
    pub(super) fn take(&mut self, position: usize, outcome: Result<Outcome, Refusal>) {
        let state = &mut self.partitions[position];
        assert!(state.result.is_none(), "one append has one outcome");
        state.result = Some(match outcome {
            Ok(Outcome::Appended(appended)) => {
                state.log_start = Some(appended.log_start);
                Ok(appended)
            }
            Ok(other) => panic!("an append ended with {other:?}"),
            Err(refusal) => {
                if let Refusal::UnknownProducer { log_start } = refusal {
                    state.log_start = Some(log_start);
                }
                Err(failure(refusal, self.reply_to.version))
            }
        });
    }

    /// With acks 0 there is no reply to say in what failed. Kafka closes the connection then, so
    /// that the client at least looks at the metadata again.
    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        if !self.is_silent {
            return self.encode();
        }
        let mut failures = self
            .partitions
            .iter()
            .filter_map(|state| match &state.result {
                Some(Err(failure)) => Some((state.index, failure)),
                _ => None,
            });
        match failures.next() {
            None => Ok(Reply::Silent),
            Some((index, failure)) => Err(ProtocolViolation {
                reason: format!(
                    "a produce request with acks=0 failed at partition {index} with {:?}: {}",
                    failure.code,
                    failure.message.as_deref().unwrap_or("no more is known")
                ),
            }),
        }
    }

    fn encode(&self) -> Result<Reply, ProtocolViolation> {
        let ReplyTo {
            version,
            correlation,
            api,
            ..
        } = self.reply_to;
        let mut out = Vec::with_capacity(64 + 64 * self.partitions.len());
        let mut writer = Writer::begin(&mut out, correlation, api.is_flexible(version));
        writer.length(Some(self.topics.len()));
        let mut start = 0;
        for (topic, end) in &self.topics {
            topic.write(&mut writer);
            writer.length(Some(end - start));
            for state in &self.partitions[start..*end] {
                state.encode(version, &mut writer);
            }
            writer.tags();
            start = *end;
        }
        if version >= 1 {
            writer.i32(0); // Throttle time, ms.
        }
        writer.tags();
        let ended = writer.end();
        ended.map_err(|error| self.reply_to.too_long(error))?;
        Ok(Reply::Frame(out))
    }
}

/// A partition goes only with its topic, and by then its id is one that no topic has.
fn failure(refusal: Refusal, version: i16) -> Failure {
    let mut failure = Failure::from(refusal);
    if version >= VERSION_IDS_MIN && failure.code == ErrorCode::UnknownTopicOrPartition {
        failure.code = ErrorCode::UnknownTopicId;
    }
    failure
}

impl PartitionState {
    fn encode(&self, version: i16, writer: &mut Writer<'_>) {
        let result = self.result.as_ref().expect("every append has ended");
        let appended = result.as_ref().ok();
        let failure = result.as_ref().err();
        let offset = |offset: u64| i64::try_from(offset).expect("offsets are in Kafka's range");
        writer.i32(self.index);
        writer.i16(
            failure
                .map_or(ErrorCode::None, |failure| failure.code)
                .code(),
        );
        writer.i64(appended.map_or(-1, |appended| offset(appended.base_offset.0)));
        if version >= 2 {
            writer.i64(
                appended
                    .and_then(|appended| appended.append_time_ms)
                    .unwrap_or(-1),
            );
        }
        if version >= 5 {
            writer.i64(self.log_start.map_or(-1, |start| offset(start.0)));
        }
        if version >= 8 {
            writer.length(Some(0)); // Errors of single records.
            writer.nullable_text(failure.and_then(|failure| failure.message.as_deref()));
        }
        writer.tags();
    }
}

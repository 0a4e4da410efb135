//! The little of Kafka's protocol that simulated clients speak: fixed versions, no compact fields.
//!
//! Written from the protocol guide and apart from the broker's codec, so that a mistake made there
//! is not made here too.

pub(crate) mod groups;

/// Reads and writes big-endian fields.
pub(crate) struct Frame(Vec<u8>);

const PRODUCE: i16 = 0;
const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;
const METADATA: i16 = 3;
const CREATE_TOPICS: i16 = 19;
const DELETE_TOPICS: i16 = 20;
const INIT_PRODUCER_ID: i16 = 22;
const INCREMENTAL_ALTER_CONFIGS: i16 = 44;

/// CORRUPT_MESSAGE: what is stored is damaged, as a fetch says it.
pub(crate) const CORRUPT_MESSAGE: i16 = 2;
/// OFFSET_OUT_OF_RANGE: nothing is held there.
pub(crate) const OFFSET_OUT_OF_RANGE: i16 = 1;
/// UNKNOWN_TOPIC_OR_PARTITION.
pub(crate) const UNKNOWN_TOPIC: i16 = 3;
/// TOPIC_ALREADY_EXISTS.
pub(crate) const TOPIC_EXISTS: i16 = 36;

impl Frame {
    fn request(api: i16, version: i16, correlation: i32) -> Self {
        let mut frame = Self(vec![0; 4]);
        frame.i16(api);
        frame.i16(version);
        frame.i32(correlation);
        frame.string("sim");
        frame
    }

    fn i8(&mut self, value: i8) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    fn i16(&mut self, value: i16) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    fn i32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    fn string(&mut self, text: &str) {
        self.i16(i16::try_from(text.len()).expect("names are short"));
        self.0.extend_from_slice(text.as_bytes());
    }
    fn bytes(&mut self, bytes: &[u8]) {
        self.i32(i32::try_from(bytes.len()).expect("batches are small"));
        self.0.extend_from_slice(bytes);
    }

    /// The frame with its length in front.
    fn finish(mut self) -> Vec<u8> {
        let length = i32::try_from(self.0.len() - 4).expect("frames are small");
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

/// CreateTopics 2: one topic, with the settings that it does not leave to the broker.
pub(crate) fn create_topic(
    correlation: i32,
    topic: &str,
    partitions: i32,
    settings: &[(&str, &str)],
) -> Vec<u8> {
    let mut frame = Frame::request(CREATE_TOPICS, 2, correlation);
    frame.i32(1);
    frame.string(topic);
    frame.i32(partitions);
    frame.i16(1);
    frame.i32(0);
    frame.i32(i32::try_from(settings.len()).expect("few settings"));
    for (name, value) in settings {
        frame.string(name);
        frame.string(value);
    }
    frame.i32(30_000);
    frame.i8(0);
    frame.finish()
}

/// DeleteTopics 1: one topic.
pub(crate) fn delete_topic(correlation: i32, topic: &str) -> Vec<u8> {
    let mut frame = Frame::request(DELETE_TOPICS, 1, correlation);
    frame.i32(1);
    frame.string(topic);
    frame.i32(30_000);
    frame.finish()
}

/// IncrementalAlterConfigs 0: sets one setting of a topic.
pub(crate) fn alter_topic(correlation: i32, topic: &str, setting: (&str, &str)) -> Vec<u8> {
    let mut frame = Frame::request(INCREMENTAL_ALTER_CONFIGS, 0, correlation);
    frame.i32(1);
    frame.i8(2);
    frame.string(topic);
    frame.i32(1);
    frame.string(setting.0);
    frame.i8(0);
    frame.string(setting.1);
    frame.i8(0);
    frame.finish()
}

/// Metadata 1: one topic.
pub(crate) fn metadata(correlation: i32, topic: &str) -> Vec<u8> {
    let mut frame = Frame::request(METADATA, 1, correlation);
    frame.i32(1);
    frame.string(topic);
    frame.finish()
}

/// InitProducerId 0, without a transaction.
pub(crate) fn init_producer_id(correlation: i32) -> Vec<u8> {
    let mut frame = Frame::request(INIT_PRODUCER_ID, 0, correlation);
    frame.i16(-1);
    frame.i32(30_000);
    frame.finish()
}

/// Produce 7: one batch, acknowledged when durable.
pub(crate) fn produce(correlation: i32, topic: &str, partition: i32, batch: &[u8]) -> Vec<u8> {
    let mut frame = Frame::request(PRODUCE, 7, correlation);
    frame.i16(-1);
    frame.i16(-1);
    frame.i32(30_000);
    frame.i32(1);
    frame.string(topic);
    frame.i32(1);
    frame.i32(partition);
    frame.bytes(batch);
    frame.finish()
}

/// What a fetch asks of each partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchFrom {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// Fetch 4: several partitions of one topic.
pub(crate) fn fetch(correlation: i32, topic: &str, from: &[FetchFrom], wait_ms: i32) -> Vec<u8> {
    let mut frame = Frame::request(FETCH, 4, correlation);
    frame.i32(-1);
    frame.i32(wait_ms);
    frame.i32(1);
    frame.i32(1 << 20);
    frame.i8(0);
    frame.i32(1);
    frame.string(topic);
    frame.i32(i32::try_from(from.len()).expect("few partitions"));
    for from in from {
        frame.i32(from.partition);
        frame.i64(from.offset);
        frame.i32(1 << 16);
    }
    frame.finish()
}

/// ListOffsets 1: one partition's end (-1) or start (-2), or the first record at or after a time.
pub(crate) fn list_offset(correlation: i32, topic: &str, partition: i32, at: i64) -> Vec<u8> {
    let mut frame = Frame::request(LIST_OFFSETS, 1, correlation);
    frame.i32(-1);
    frame.i32(1);
    frame.string(topic);
    frame.i32(1);
    frame.i32(partition);
    frame.i64(at);
    frame.finish()
}

/// The first whole frame of `input`, without its length: correlation and body.
pub(crate) fn take_frame(input: &mut Vec<u8>) -> Option<(i32, Vec<u8>)> {
    let length = i32::from_be_bytes(*input.first_chunk()?);
    let end = 4 + usize::try_from(length).expect("the broker sends lengths");
    if input.len() < end {
        return None;
    }
    let frame: Vec<u8> = input.drain(..end).collect();
    let correlation = i32::from_be_bytes(*frame[4..].first_chunk().expect("a correlation id"));
    Some((correlation, frame[8..].to_vec()))
}

/// Reads a reply's fields in order; `None` past its end.
pub(crate) struct Reply<'a>(pub(crate) &'a [u8]);

impl<'a> Reply<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(bytes)?;
        self.0 = tail;
        Some(head)
    }
    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(*self.take(2)?.first_chunk()?))
    }
    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(*self.take(4)?.first_chunk()?))
    }
    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(*self.take(8)?.first_chunk()?))
    }
    fn string(&mut self) -> Option<&'a [u8]> {
        let bytes = self.i16()?;
        self.take(usize::try_from(bytes).unwrap_or(0))
    }
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let bytes = self.i32()?;
        self.take(usize::try_from(bytes).unwrap_or(0))
    }

    /// CreateTopics: the topic's error code.
    pub(crate) fn topic_created(&mut self) -> Option<i16> {
        self.i32()?;
        self.i32()?;
        self.string()?;
        self.i16()
    }

    /// DeleteTopics: the topic's error code.
    pub(crate) fn topic_deleted(&mut self) -> Option<i16> {
        self.topic_created()
    }

    /// IncrementalAlterConfigs: the topic's error code.
    pub(crate) fn topic_altered(&mut self) -> Option<i16> {
        self.i32()?;
        self.i32()?;
        self.i16()
    }

    /// InitProducerId: error code, id, epoch.
    pub(crate) fn producer_id(&mut self) -> Option<(i16, i64, i16)> {
        self.i32()?;
        Some((self.i16()?, self.i64()?, self.i16()?))
    }

    /// Produce: error code and base offset.
    pub(crate) fn produced(&mut self) -> Option<(i16, i64)> {
        self.i32()?;
        self.string()?;
        self.i32()?;
        self.i32()?;
        Some((self.i16()?, self.i64()?))
    }

    /// ListOffsets: error code and offset.
    pub(crate) fn listed_offset(&mut self) -> Option<(i16, i64)> {
        let (error, _, offset) = self.listed()?;
        Some((error, offset))
    }

    /// ListOffsets: error code, timestamp and offset.
    pub(crate) fn listed(&mut self) -> Option<(i16, i64, i64)> {
        self.i32()?;
        self.string()?;
        self.i32()?;
        self.i32()?;
        Some((self.i16()?, self.i64()?, self.i64()?))
    }

    /// Fetch: what came of each partition.
    pub(crate) fn fetched(&mut self) -> Option<Vec<FetchedPartition<'a>>> {
        self.i32()?;
        let mut fetched = Vec::new();
        for _ in 0..self.i32()? {
            self.string()?;
            for _ in 0..self.i32()? {
                let partition = self.i32()?;
                let error = self.i16()?;
                let high_watermark = self.i64()?;
                self.i64()?;
                for _ in 0..self.i32()? {
                    self.take(16)?;
                }
                let records = self.bytes()?;
                fetched.push(FetchedPartition {
                    partition,
                    error,
                    high_watermark,
                    records,
                });
            }
        }
        Some(fetched)
    }

    /// Metadata: the topic's error code and its partitions' error codes.
    pub(crate) fn described(&mut self) -> Option<(i16, Vec<i16>)> {
        for _ in 0..self.i32()? {
            self.i32()?;
            self.string()?;
            self.i32()?;
            self.string()?;
        }
        self.i32()?;
        self.i32()?;
        let error = self.i16()?;
        self.string()?;
        self.take(1)?;
        let mut partitions = Vec::new();
        for _ in 0..self.i32()? {
            partitions.push(self.i16()?);
            self.take(8)?;
            for _ in 0..2 {
                let replicas = usize::try_from(self.i32()?).unwrap_or(0);
                self.take(4 * replicas)?;
            }
        }
        Some((error, partitions))
    }
}

/// One partition of a fetch's reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchedPartition<'a> {
    pub(crate) partition: i32,
    pub(crate) error: i16,
    pub(crate) high_watermark: i64,
    pub(crate) records: &'a [u8],
}

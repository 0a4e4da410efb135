//! Finding a record in a batch, which may have to be decompressed for it.
//!
//! Runs on a job thread. The records are read as a stream: nothing is held but the codec's own
//! window, and no more than [`SEARCH_BYTES_MAX`] bytes are looked through, whatever a batch claims
//! to unpack to. What a client sent is checked here for the first time, so everything is.
//!
//! A payload may be several compressed streams, one after the other: producers that flush make
//! such, and consumers read on.

use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;
use millrace_storage::record::{BATCH_HEADER_BYTES, BatchHeader};
use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::jobs::{JobResult, RecordQuery};
use crate::limits::SEARCH_BYTES_MAX;

/// A window that zstd may ask memory for, bytes: that of its highest level, 22. It is what zstd's
/// own decoder takes unasked.
const ZSTD_WINDOW_BYTES_MAX: u64 = 128 << 20;
/// How a frame begins that zstd and lz4 skip: the magic, in little-endian, but for its low four
/// bits. The length of what follows stands behind it, a little-endian u32.
const SKIPPED_MAGIC: u32 = 0x184d_2a50;
const SKIPPED_MAGIC_MASK: u32 = 0xffff_fff0;
/// How Java's snappy stream begins; librdkafka sends the same. Others send one raw block.
const SNAPPY_STREAM_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// That magic, and two version numbers.
const SNAPPY_STREAM_HEADER_BYTES: usize = 16;

/// Finds the record that `by` asks for, among those from offset delta `first` on.
pub(crate) fn find_record(batch: &Bytes, by: RecordQuery, first: u32) -> JobResult {
    match search(batch, (by, first), SEARCH_BYTES_MAX) {
        Ok(found) => JobResult::FoundRecord(found),
        Err(error) => JobResult::Unreadable(format!("a batch's records: {error}")),
    }
}

fn search(
    batch: &[u8],
    by: (RecordQuery, u32),
    bytes_max: usize,
) -> io::Result<Option<(u32, i64)>> {
    let header = BatchHeader::parse(batch).map_err(|error| broken(&error.to_string()))?;
    let payload = &batch[BATCH_HEADER_BYTES..];
    let limited = |input| Records::new(input, &header, bytes_max);
    match header.codec() {
        0 => limited(Box::new(payload) as Box<dyn Read + '_>).find(by),
        1 => limited(Box::new(flate2::read::MultiGzDecoder::new(payload))).find(by),
        2 => limited(Box::new(Snappy::new(payload, bytes_max))).find(by),
        3 => limited(Box::new(Lz4::new(payload))).find(by),
        4 => limited(Box::new(Zstd::new(payload))).find(by),
        codec => Err(broken(&format!("unknown codec {codec}"))),
    }
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Reads records one after the other.
///
/// A record: its length, attributes (one byte), timestamp delta, offset delta, and what is skipped
/// here: key, value, headers. Numbers but the attributes are zigzag varints.
struct Records<'a> {
    input: BufReader<io::Take<Box<dyn Read + 'a>>>,
    header: &'a BatchHeader,
}

impl<'a> Records<'a> {
    fn new(input: Box<dyn Read + 'a>, header: &'a BatchHeader, bytes_max: usize) -> Self {
        Self {
            input: BufReader::new(input.take(bytes_max as u64)),
            header,
        }
    }

    fn find(mut self, (by, first): (RecordQuery, u32)) -> io::Result<Option<(u32, i64)>> {
        let mut best: Option<(u32, i64)> = None;
        for _ in 0..self.header.records {
            let record = self.next()?;
            if record.0 < first {
                continue;
            }
            match by {
                RecordQuery::AtOrAfter(time_ms) if record.1 >= time_ms => return Ok(Some(record)),
                RecordQuery::AtOrAfter(_) => {}
                RecordQuery::MaxTimestamp if record.1 == self.header.max_timestamp_ms => {
                    return Ok(Some(record)); // None is larger: the header says so.
                }
                RecordQuery::MaxTimestamp => {
                    let larger = best.is_none_or(|(_, largest)| record.1 > largest);
                    best = if larger { Some(record) } else { best };
                }
            }
        }
        Ok(best)
    }

    /// The next record's offset delta and timestamp.
    fn next(&mut self) -> io::Result<(u32, i64)> {
        let mut unused = u64::MAX;
        let length = self.varint(&mut unused)?;
        let mut left = u64::try_from(length).map_err(|_| broken("a record of negative length"))?;
        self.byte(&mut left)?;
        let delta_ms = self.varint(&mut left)?;
        let offset_delta = self.varint(&mut left)?;
        let offset_delta = u32::try_from(offset_delta)
            .ok()
            .filter(|delta| *delta <= self.header.last_offset_delta)
            .ok_or_else(|| broken("a record's offset outside its batch"))?;
        self.skip(left)?;
        let timestamp_ms = self.header.base_timestamp_ms.saturating_add(delta_ms);
        Ok((offset_delta, timestamp_ms))
    }

    /// A zigzag varint of at most ten bytes; `left` counts down.
    fn varint(&mut self, left: &mut u64) -> io::Result<i64> {
        let mut bits = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(left)?;
            bits |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
            }
        }
        Err(broken("a number without an end"))
    }

    fn byte(&mut self, left: &mut u64) -> io::Result<u8> {
        *left = left
            .checked_sub(1)
            .ok_or_else(|| broken("a record shorter than its fields"))?;
        let byte = *self.input.fill_buf()?.first().ok_or_else(ended)?;
        self.input.consume(1);
        Ok(byte)
    }

    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let there = self.input.fill_buf()?.len();
            if there == 0 {
                return Err(ended());
            }
            let step = usize::try_from(bytes).unwrap_or(usize::MAX).min(there);
            self.input.consume(step);
            bytes -= step as u64;
        }
        Ok(())
    }
}

fn ended() -> io::Error {
    broken("the records end early, or unpack to more than is looked through")
}

/// Zstd: any number of frames.
struct Zstd<'a> {
    /// What the frame under way has not taken.
    rest: &'a [u8],
    decoder: FrameDecoder,
}

impl<'a> Zstd<'a> {
    fn new(payload: &'a [u8]) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW_BYTES_MAX);
        Self {
            rest: payload,
            decoder,
        }
    }

    /// Unpacks until there is something to read; `false` at the end of the last frame.
    fn advance(&mut self) -> Result<bool, FrameDecoderError> {
        while self.decoder.can_collect() == 0 {
            if !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.rest, one)?;
                continue;
            }
            self.rest = after_skipped(self.rest);
            if self.rest.is_empty() {
                return Ok(false);
            }
            self.decoder.reset(&mut self.rest)?;
        }
        Ok(true)
    }
}

impl Read for Zstd<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let is_there = self.advance();
        if is_there.map_err(|error| broken(&error.to_string()))? {
            self.decoder.read(out)
        } else {
            Ok(0)
        }
    }
}

/// Lz4: any number of frames.
struct Lz4<'a>(lz4_flex::frame::FrameDecoder<&'a [u8]>);

impl<'a> Lz4<'a> {
    fn new(payload: &'a [u8]) -> Self {
        Self(lz4_flex::frame::FrameDecoder::new(after_skipped(payload)))
    }
}

impl Read for Lz4<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let before = self.0.get_ref().len();
            let count = self.0.read(out)?;
            // It stops at the end of each frame, which it took from the input.
            if count > 0 || self.0.get_ref().len() == before {
                return Ok(count);
            }
            let rest = self.0.get_mut();
            *rest = after_skipped(rest);
        }
    }
}

/// What follows frames that are to be skipped; nothing where one is cut short.
fn after_skipped(mut frames: &[u8]) -> &[u8] {
    while let Some((magic, rest)) = frames.split_first_chunk()
        && u32::from_le_bytes(*magic) & SKIPPED_MAGIC_MASK == SKIPPED_MAGIC
    {
        let whole = rest.split_first_chunk().and_then(|(bytes, rest)| {
            let bytes = u32::from_le_bytes(*bytes) as usize;
            rest.get(bytes..)
        });
        frames = whole.unwrap_or_default();
    }
    frames
}

/// Snappy as Kafka's clients send it: blocks with a length before each, or one raw block.
struct Snappy<'a> {
    /// Compressed blocks to come, each with its length as a big-endian u32, and stream headers.
    rest: &'a [u8],
    /// The whole payload is one raw block, still to be unpacked.
    raw: bool,
    block: Vec<u8>,
    /// Bytes of `block` that were read.
    taken: usize,
    block_bytes_max: usize,
}

impl<'a> Snappy<'a> {
    fn new(payload: &'a [u8], block_bytes_max: usize) -> Self {
        Self {
            rest: payload,
            raw: !payload.starts_with(SNAPPY_STREAM_MAGIC),
            block: Vec::new(),
            taken: 0,
            block_bytes_max,
        }
    }

    /// The next compressed block.
    fn next_block(&mut self) -> io::Result<Option<&'a [u8]>> {
        if std::mem::take(&mut self.raw) {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        while self.rest.starts_with(SNAPPY_STREAM_MAGIC) {
            // Another stream: its magic cannot be a length.
            self.rest = self.rest.get(SNAPPY_STREAM_HEADER_BYTES..).unwrap_or(&[]);
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (length, rest) = self.rest.split_first_chunk().ok_or_else(ended)?;
        let (block, rest) = rest
            .split_at_checked(u32::from_be_bytes(*length) as usize)
            .ok_or_else(ended)?;
        self.rest = rest;
        Ok(Some(block))
    }
}

impl Read for Snappy<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.block.len() {
            let Some(block) = self.next_block()? else {
                return Ok(0);
            };
            let bytes = snap::raw::decompress_len(block)?;
            if bytes > self.block_bytes_max {
                return Err(broken("a snappy block larger than is looked through"));
            }
            self.block = snap::raw::Decoder::new().decompress_vec(block)?;
            self.taken = 0;
        }
        let left = &self.block[self.taken..];
        let count = left.len().min(out.len());
        out[..count].copy_from_slice(&left[..count]);
        self.taken += count;
        Ok(count)
    }
}

/// Searches whatever bytes a fuzzer makes up as if they were a stored batch: nothing may panic.
pub fn fuzz_search(batch: &[u8]) {
    const BYTES_MAX: usize = 1 << 20;
    for by in [RecordQuery::MaxTimestamp, RecordQuery::AtOrAfter(i64::MAX)] {
        drop(search(batch, (by, 0), BYTES_MAX));
    }
}

#[cfg(test)]
mod tests;

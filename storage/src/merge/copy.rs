//! Copies the live sections of some packs into one, checking each on the way.

use std::collections::{BTreeMap, VecDeque};

use crate::buf::AlignedBuf;
use crate::crc::Sum;
use crate::disk::{DiskDone, DiskError, DiskOp, DiskOutcome, DiskToken, DiskTokens, FileName};
use crate::error::ReadError;
use crate::log_index::LogIndex;
use crate::pack::file_bytes_max;
use crate::packs::{Packs, SectionRef};
use crate::record::BatchHeader;
use crate::section::{Section, SectionKind};
use crate::settle::Output;
use crate::units::{FilePosition, PAGE_BYTES, PackId, PartitionId};

/// Bytes of one read.
const READ_BYTES: u64 = 256 << 10;

/// One section to copy.
#[derive(Clone, Copy, Debug)]
struct Piece {
    at: SectionRef,
    /// It goes on in the section of the piece before it.
    joins: bool,
}

/// A merge's copying.
#[derive(Debug)]
pub(super) struct Copy {
    sources: Vec<PackId>,
    file: FileName,
    file_bytes_max: u64,
    /// The first one is being copied.
    pieces: VecDeque<Piece>,
    reading: Reading,
    in_flight: Option<DiskToken>,
}

/// How far the first piece is.
#[derive(Debug)]
struct Reading {
    /// Bytes of the section that were asked for.
    asked: u64,
    /// Bytes of the section in whole batches that were copied.
    copied: u64,
    /// What follows them, as far as it was read.
    data: Vec<u8>,
    /// Bytes of `data` that were copied.
    used: usize,
    /// Of the batches copied.
    sum: Sum,
}

impl Reading {
    fn new(data: Vec<u8>) -> Self {
        Self {
            asked: 0,
            copied: 0,
            data,
            used: 0,
            sum: Sum::new(),
        }
    }
}

impl Copy {
    /// Plans the copy: per log and in offset order, joining neighbours up to `section_bytes`, or
    /// less where the log wants less.
    pub(super) fn new(
        sources: Vec<PackId>,
        section_bytes: u64,
        logs: &LogIndex,
        packs: &mut Packs,
    ) -> Self {
        let mut by_log: BTreeMap<PartitionId, Vec<SectionRef>> = BTreeMap::new();
        for id in &sources {
            for at in packs.pack(*id).live(*id) {
                let section = packs.section(at);
                if section.kind == SectionKind::Batches {
                    by_log.entry(section.partition).or_default().push(at);
                }
            }
        }
        let mut pieces = VecDeque::new();
        let mut sizes: Vec<u64> = Vec::new();
        for (partition, chosen) in by_log {
            let wanted = logs.get(partition).map(|log| log.config.section_bytes());
            let section_bytes = section_bytes.min(wanted.unwrap_or(u64::MAX));
            let mut before_was_chosen = false;
            // Sections of other packs lie in between: what is not a neighbour is not joined.
            for (at, section) in packs.sections(partition) {
                let is_chosen = chosen.contains(&at);
                if is_chosen {
                    let fits = sizes
                        .last()
                        .is_some_and(|b| b + section.bytes <= section_bytes);
                    let joins = before_was_chosen && fits;
                    match sizes.last_mut().filter(|_| joins) {
                        Some(bytes) => *bytes += section.bytes,
                        None => sizes.push(section.bytes),
                    }
                    pieces.push_back(Piece { at, joins });
                }
                before_was_chosen = is_chosen;
            }
        }
        Self {
            sources,
            file: FileName::Pack(packs.take_id()),
            file_bytes_max: file_bytes_max(sizes.into_iter()),
            pieces,
            reading: Reading::new(Vec::new()),
            in_flight: None,
        }
    }

    pub(super) fn sources(&self) -> &[PackId] {
        &self.sources
    }

    /// The pack being read.
    pub(super) fn source(&self) -> Option<PackId> {
        self.pieces.front().map(|piece| piece.at.pack)
    }

    pub(super) fn file(&self) -> FileName {
        self.file
    }

    pub(super) fn file_bytes_max(&self) -> u64 {
        self.file_bytes_max
    }

    /// Whether all pieces were copied.
    pub(super) fn is_done(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether there is something to copy, or nothing left at all.
    pub(super) fn has_step(&self) -> bool {
        self.in_flight.is_none()
    }

    /// The next read: never while another is on its way or enough is at hand.
    pub(super) fn poll_disk(&mut self, tokens: &mut DiskTokens, packs: &Packs) -> Option<DiskOp> {
        let piece = self.pieces.front()?;
        let section = packs.section(piece.at);
        let at_hand = self.reading.data.len() - self.reading.used;
        let enough = self.need() <= at_hand;
        if self.in_flight.is_some() || enough || self.reading.asked == section.bytes {
            return None;
        }
        let from = section.position.0 + self.reading.asked;
        let bytes = READ_BYTES.min(section.bytes - self.reading.asked);
        let position = from - from % PAGE_BYTES as u64;
        let end = (from + bytes).next_multiple_of(PAGE_BYTES as u64);
        let buffer_bytes = usize::try_from(end - position).expect("a read fits memory");
        let token = tokens.issue();
        self.in_flight = Some(token);
        self.reading.asked += bytes;
        Some(DiskOp::Read {
            token,
            file: packs.pack(piece.at.pack).file,
            position: FilePosition(position),
            buffer: AlignedBuf::zeroed(buffer_bytes),
        })
    }

    /// Bytes that the next batch needs: its header, or all of it once that is known.
    fn need(&self) -> usize {
        let rest = &self.reading.data[self.reading.used..];
        BatchHeader::parse(rest).map_or(1, |header| header.batch_bytes)
    }

    /// Whether the operation in flight is this one.
    pub(super) fn owns(&self, token: DiskToken) -> bool {
        self.in_flight == Some(token)
    }

    /// Takes a read's completion.
    pub(super) fn handle(&mut self, done: DiskDone, packs: &Packs) -> Result<(), ReadError> {
        assert_eq!(self.in_flight.take(), Some(done.token), "one in flight");
        let buffer = match (done.result, done.buffer) {
            (Ok(DiskOutcome::Done), Some(buffer)) => buffer,
            (Err(error), _) => return Err(ReadError::Disk(error)),
            _ => return Err(ReadError::Disk(DiskError::Io { errno: 5 })),
        };
        let piece = self.pieces.front().expect("a piece is being read");
        let section = packs.section(piece.at);
        let reading = &mut self.reading;
        let had = reading.copied + (reading.data.len() - reading.used) as u64;
        let skip = (section.position.0 + had) % PAGE_BYTES as u64;
        let bytes = reading.asked - had;
        let skip = usize::try_from(skip).expect("less than a page");
        let bytes = usize::try_from(bytes).expect("was read into memory");
        reading.data.drain(..reading.used);
        reading.used = 0;
        reading.data.extend_from_slice(&buffer[skip..skip + bytes]);
        Ok(())
    }

    /// Copies about one buffer's worth of batches, and finishes the file after the last.
    pub(super) fn step(&mut self, output: &mut Output, packs: &Packs) -> Result<(), ReadError> {
        let Some(writer) = output.writer() else {
            return Ok(());
        };
        while writer.ready() == 0 {
            let Some(piece) = self.pieces.front() else {
                output.finish_file();
                return Ok(());
            };
            let section = packs.section(piece.at);
            let damaged = ReadError::Damaged {
                file: packs.pack(piece.at.pack).file,
                position: FilePosition(section.position.0 + self.reading.copied),
            };
            if self.reading.copied == section.bytes {
                if self.reading.sum.finish() != section.checksum {
                    return Err(damaged);
                }
                self.reading = Reading::new(std::mem::take(&mut self.reading.data));
                self.reading.data.clear();
                self.pieces.pop_front();
                continue;
            }
            if self.reading.copied == 0 && !piece.joins {
                writer.end_section();
            }
            let rest = &self.reading.data[self.reading.used..];
            let all_read = self.in_flight.is_none() && self.reading.asked == section.bytes;
            let Some((header, batch)) = next_batch(section, rest) else {
                // Cut by the read's end, or damaged if there is no more to read.
                return if all_read { Err(damaged) } else { Ok(()) };
            };
            self.reading.sum.update(batch);
            writer.batch(section.partition, &header, batch);
            self.reading.used += batch.len();
            self.reading.copied += batch.len() as u64;
        }
        Ok(())
    }
}

/// The whole batch at the start of `data`, if it belongs to `section`.
fn next_batch<'a>(section: &Section, data: &'a [u8]) -> Option<(BatchHeader, &'a [u8])> {
    let header = BatchHeader::parse(data).ok()?;
    let is_ours =
        header.base_offset >= section.base_offset && header.next_offset() <= section.end_offset;
    let batch = data.get(..header.batch_bytes)?;
    is_ours.then_some((header, batch))
}

//! From checked chunks to batches, and from batches back to an index.

use std::ops::Range;

use bytes::Bytes;

use super::page_floor;
use crate::index::{IndexBuilder, SectionIndex};
use crate::record::{BatchHeader, checksum};
use crate::section::Section;
use crate::units::PAGE_BYTES;

/// Batches in offset order.
pub(crate) type Walked = Vec<(BatchHeader, Bytes)>;

/// The batches of `chunks` of a section. `pages` holds them, from the page on in which the first
/// one begins. An error is the damage's position from the section's start.
pub(crate) fn walk(
    section: &Section,
    index: &SectionIndex,
    chunks: Range<usize>,
    pages: &Bytes,
) -> Result<Walked, u64> {
    let mut walked = Vec::new();
    let mut skip = None;
    for chunk in chunks {
        let (range, entry) = index
            .range(chunk)
            .zip(index.entry(chunk))
            .expect("chunks are chosen from the index");
        let from = section.position.0 + range.start;
        let pages_from = *skip.get_or_insert(page_floor(from));
        let bytes = slice(pages, from - pages_from, range.end - range.start).ok_or(range.start)?;
        if checksum(&bytes) != entry.checksum {
            return Err(range.start);
        }
        let mut at = 0;
        while at < bytes.len() {
            let (header, batch) = next(section, &bytes, at).ok_or(range.start)?;
            at += batch.len();
            walked.push((header, batch));
        }
    }
    Ok(walked)
}

fn slice(pages: &Bytes, from: u64, bytes: u64) -> Option<Bytes> {
    let from = usize::try_from(from).ok()?;
    let to = from.checked_add(usize::try_from(bytes).ok()?)?;
    (to <= pages.len()).then(|| pages.slice(from..to))
}

/// The batch that begins at `at`, if it is whole and belongs to the section.
fn next(section: &Section, bytes: &Bytes, at: usize) -> Option<(BatchHeader, Bytes)> {
    let header = BatchHeader::parse(bytes.get(at..)?).ok()?;
    let end = at.checked_add(header.batch_bytes)?;
    let is_ours = header.base_offset >= section.base_offset
        && header.base_offset < section.end_offset
        && header.next_offset() <= section.end_offset;
    (end <= bytes.len() && is_ours).then(|| (header, bytes.slice(at..end)))
}

/// Makes a damaged index anew from its section, front to back.
#[derive(Debug)]
pub(super) struct Rebuild {
    builder: IndexBuilder,
    /// Bytes of the section gone through.
    at: u64,
    /// Bytes that the next batch needs, once that is known to be more than usual.
    need: u64,
}

impl Rebuild {
    pub(super) fn new() -> Self {
        Self {
            builder: IndexBuilder::new(),
            at: 0,
            need: 0,
        }
    }

    /// The file range to read next, about `usual` bytes.
    pub(super) fn wants(&self, section: &Section, usual: u64) -> (u64, u64) {
        let left = section.bytes - self.at;
        let from = section.position.0 + self.at;
        (from, from + left.min(usual.max(self.need)))
    }

    /// Goes through the pages around the range that was wanted. Gives the index at the end, and
    /// the damage's position from the section's start as an error.
    pub(super) fn take(
        &mut self,
        section: &Section,
        pages: &[u8],
    ) -> Result<Option<SectionIndex>, u64> {
        self.need = 0;
        let skip = (section.position.0 + self.at) % PAGE_BYTES as u64;
        let left = usize::try_from(section.bytes - self.at).unwrap_or(usize::MAX);
        let data = pages.get(skip as usize..).ok_or(self.at)?;
        let data = &data[..data.len().min(left)];
        let mut used = 0;
        while used < data.len() {
            let rest = &data[used..];
            let Ok(header) = BatchHeader::parse(rest) else {
                break; // Cut by the range's end, or damaged: judged below.
            };
            let Some(batch) = rest.get(..header.batch_bytes) else {
                self.need = header.batch_bytes as u64;
                break;
            };
            self.builder.push(&header, batch);
            used += batch.len();
        }
        // A header cut by the range's end is read again with the next range.
        if used == 0 && self.need <= data.len() as u64 {
            return Err(self.at);
        }
        self.at += used as u64;
        if self.at < section.bytes {
            // A batch that reaches beyond the section is damage, not a reason to read on.
            let fits = self.need <= section.bytes - self.at;
            return if fits { Ok(None) } else { Err(self.at) };
        }
        let builder = std::mem::replace(&mut self.builder, IndexBuilder::new());
        match builder.finish() {
            Some((index, sum)) if sum == section.checksum => Ok(Some(index)),
            _ => Err(0),
        }
    }
}

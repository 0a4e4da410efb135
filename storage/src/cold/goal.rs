//! What a cold read is after, and which chunks bring it nearer.

use std::ops::Range;

use bytes::Bytes;

use super::{Cold, Walked};
use crate::index::SectionIndex;
use crate::packs::{Packs, SectionRef};
use crate::reads::{Want, What};
use crate::record::BatchHeader;
use crate::request::{Records, TimePoint};
use crate::section::Section;
use crate::units::Offset;

/// Chunks of one section to read next.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) section: SectionRef,
    pub(super) chunks: Range<usize>,
    /// Chunks that the section has.
    chunks_total: usize,
}

/// A read's aim and how far it came.
#[derive(Debug)]
pub(super) struct Goal {
    /// Nothing below counts: the log's first offset when the read began, or what was asked for.
    start: Offset,
    /// Nothing below is looked at any more.
    from: Offset,
    /// Chunks of this section below the number were looked at. Offsets alone would not do: a gap
    /// after a chunk's last record belongs to that chunk.
    cursor: Option<(SectionRef, usize)>,
    aim: Aim,
}

#[derive(Debug)]
enum Aim {
    Batches {
        bytes_max: usize,
    },
    /// The first batch that is at least so late.
    First {
        timestamp_ms: i64,
    },
    /// The first batch with the largest timestamp.
    Max {
        best: Option<(BatchHeader, Bytes)>,
        /// Sections that may have it, the most promising last.
        todo: Vec<SectionRef>,
        /// What was settled when `todo` was made; see [`Packs::version`].
        version: u64,
    },
}

impl Goal {
    pub(super) fn new(want: &Want, start: Offset, packs: &Packs) -> Self {
        let (from, aim) = match want.what {
            What::Batches { from, bytes_max } => (from.max(start), Aim::Batches { bytes_max }),
            What::Time {
                point: TimePoint::AtLeast(timestamp_ms),
                ..
            } => (start, Aim::First { timestamp_ms }),
            What::Time {
                point: TimePoint::Max,
                ..
            } => {
                let (todo, version) = (promising(want, start, packs), packs.version());
                let best = None;
                (
                    start,
                    Aim::Max {
                        best,
                        todo,
                        version,
                    },
                )
            }
        };
        Self {
            start,
            from,
            cursor: None,
            aim,
        }
    }

    /// The section to look at next; `None` when no section can bring the goal nearer.
    pub(super) fn section(&mut self, want: &Want, packs: &Packs) -> Option<SectionRef> {
        match &mut self.aim {
            Aim::Batches { .. } => packs.section_at(want.partition, self.from),
            Aim::First { timestamp_ms } => {
                let mut sections = packs.sections(want.partition);
                let found = sections.find(|(_, section)| {
                    section.end_offset > self.from && section.max_timestamp_ms >= *timestamp_ms
                });
                found.map(|(at, _)| at)
            }
            Aim::Max {
                best,
                todo,
                version,
            } => {
                // A merge or a pass may have put records elsewhere since.
                if *version != packs.version() {
                    *todo = promising(want, self.start, packs);
                    *version = packs.version();
                }
                // A section may have died since, and its bytes with it.
                while todo.last().is_some_and(|at| !packs.is_live(*at)) {
                    todo.pop();
                }
                let at = *todo.last()?;
                let section = packs.section(at);
                let may_be_better = best.as_ref().is_none_or(|(best, _)| {
                    let (time, known) = (section.max_timestamp_ms, best.max_timestamp_ms);
                    time > known || time == known && section.base_offset < best.base_offset
                });
                may_be_better.then_some(at)
            }
        }
    }

    /// Which chunks of `section` to read; `None` when it lies above what may be seen.
    pub(super) fn look(
        &self,
        want: &Want,
        at: SectionRef,
        (section, index): (&Section, &SectionIndex),
        bytes_max: u64,
    ) -> Option<Look> {
        if section.base_offset >= want.end {
            return None;
        }
        let after_cursor = match self.cursor {
            Some((cursor, chunk)) if cursor == at => chunk,
            _ => 0,
        };
        let seek = index.chunk_of(self.from).max(after_cursor);
        let (first, bytes_max) = match &self.aim {
            Aim::Batches { bytes_max: asked } => (seek, bytes_max.min(*asked as u64)),
            Aim::First { timestamp_ms } => {
                let late = index.chunk_at_time(*timestamp_ms).unwrap_or(0);
                (seek.max(late), 1)
            }
            Aim::Max { .. } if self.is_cut(want, section) => (seek, bytes_max),
            Aim::Max { .. } => {
                let late = index.chunk_at_time(section.max_timestamp_ms);
                (late.unwrap_or(0).max(after_cursor), 1)
            }
        };
        let start = index.range(first)?.start;
        let mut end = first + 1;
        while let Some(next) = index.range(end) {
            let so_far = next.start - start;
            if so_far >= bytes_max || next.end - start > super::READ_BYTES_MAX {
                break;
            }
            end += 1;
        }
        Some(Look {
            section: at,
            chunks: first..end,
            chunks_total: index.chunks(),
        })
    }

    /// Whether some of the section's batches do not count.
    fn is_cut(&self, want: &Want, section: &Section) -> bool {
        section.base_offset < self.start || section.end_offset > want.end
    }

    /// Takes the batches that were looked at. `None` when the goal is not reached.
    pub(super) fn take(
        &mut self,
        want: &Want,
        look: &Look,
        walked: Walked,
        section: &Section,
    ) -> Option<Cold> {
        let from = self.from;
        let is_cut = self.is_cut(want, section);
        let reaches_end = walked.iter().any(|(h, _)| h.base_offset >= want.end);
        let mut visible = walked
            .into_iter()
            .filter(|(h, _)| h.next_offset() > from && h.base_offset < want.end);
        match &mut self.aim {
            Aim::Batches { bytes_max } => {
                let records = gather(visible, *bytes_max);
                if reaches_end || !records.batches.is_empty() {
                    return Some(Cold::Done(Ok(records)));
                }
                self.pass(look, section);
            }
            Aim::First { timestamp_ms } => {
                let late = *timestamp_ms;
                let found = visible.find(|(h, _)| h.max_timestamp_ms >= late);
                let batches: Vec<Bytes> = found.into_iter().map(|(_, batch)| batch).collect();
                if reaches_end || !batches.is_empty() {
                    return Some(Cold::Done(Ok(Records { batches })));
                }
                self.pass(look, section);
            }
            Aim::Max { best, todo, .. } => {
                for (header, batch) in visible {
                    let is_better = best.as_ref().is_none_or(|(b, _)| {
                        let (time, known) = (header.max_timestamp_ms, b.max_timestamp_ms);
                        time > known || time == known && header.base_offset < b.base_offset
                    });
                    if is_better {
                        *best = Some((header, batch));
                    }
                }
                if is_cut && !reaches_end && look.chunks.end < look.chunks_total {
                    self.cursor = Some((look.section, look.chunks.end));
                } else {
                    todo.pop();
                    self.cursor = None;
                }
            }
        }
        None
    }

    /// The chunks had nothing: goes on behind them.
    fn pass(&mut self, look: &Look, section: &Section) {
        if look.chunks.end < look.chunks_total {
            self.cursor = Some((look.section, look.chunks.end));
        } else {
            self.from = section.end_offset;
            self.cursor = None;
        }
    }

    /// The answer when no section brings the goal nearer.
    pub(super) fn finish(self) -> Cold {
        match self.aim {
            Aim::Max {
                best: Some((header, batch)),
                ..
            } => {
                let batches = vec![batch];
                Cold::Max(header.max_timestamp_ms, Records { batches })
            }
            _ => Cold::Continue,
        }
    }
}

/// Sections that may have the log's largest timestamp, the most promising last. Of equal timestamps
/// the lower offset counts.
fn promising(want: &Want, start: Offset, packs: &Packs) -> Vec<SectionRef> {
    let sections = packs.sections(want.partition);
    let visible = sections
        .filter(|(_, section)| section.end_offset > start && section.base_offset < want.end);
    let mut todo: Vec<SectionRef> = visible.map(|(at, _)| at).collect();
    todo.reverse();
    todo.sort_by_key(|at| packs.section(*at).max_timestamp_ms);
    todo
}

/// The first batches within `bytes_max` bytes, at least one.
fn gather(batches: impl Iterator<Item = (BatchHeader, Bytes)>, bytes_max: usize) -> Records {
    let mut records = Records::default();
    let mut bytes = 0;
    for (_, batch) in batches {
        if bytes > 0 && bytes + batch.len() > bytes_max {
            break;
        }
        bytes += batch.len();
        records.batches.push(batch);
    }
    records
}

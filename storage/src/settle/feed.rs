//! What a pass writes where: the live batches of a loaded WAL file, sorted into files.

use std::collections::VecDeque;

use super::load::{Load, Run};
use super::output::Output;
use crate::disk::{DiskOp, FileName};
use crate::entry::Entries;
use crate::pack::{PackWriter, file_bytes_max};
use crate::packs::Packs;
use crate::record::BatchHeader;
use crate::section::SNAPSHOT_COPIES;
use crate::units::{Lsn, PartitionId};

/// The engine's state, to be settled with the pass.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) as_of: Lsn,
    pub(super) bytes: Vec<u8>,
}

/// Sorts a loaded file's batches into a pack, and a segment for each log with enough of them.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) load: Load,
    snapshot: Option<Snapshot>,
    targets: VecDeque<Target>,
    cursor: Cursor,
}

/// One file to write.
#[derive(Debug)]
struct Target {
    file: FileName,
    bytes_max: u64,
    logs: VecDeque<PartitionId>,
    has_snapshot: bool,
}

/// Where in its first log a target's writing stands.
#[derive(Debug, Default)]
struct Cursor {
    run: usize,
    /// Position in the run's piece; 0 for the run's start.
    at: usize,
    /// Bytes in the present section.
    section_bytes: u64,
}

impl Feed {
    /// Plans the files. Logs with `segment_bytes_min` or more get one each.
    pub(super) fn new(
        load: Load,
        snapshot: Option<Snapshot>,
        segment_bytes_min: u64,
        packs: &mut Packs,
    ) -> Self {
        let mut shared = VecDeque::new();
        let mut targets = VecDeque::new();
        for (partition, live) in &load.live {
            if live.bytes >= segment_bytes_min {
                targets.push_back(Target {
                    file: FileName::Segment(packs.take_id()),
                    bytes_max: file_bytes_max(live.sections.iter().copied()),
                    logs: VecDeque::from([*partition]),
                    has_snapshot: false,
                });
            } else {
                shared.push_back(*partition);
            }
        }
        if !shared.is_empty() || snapshot.is_some() {
            let batches = shared
                .iter()
                .flat_map(|partition| load.live[partition].sections.iter().copied());
            let copies = snapshot
                .iter()
                .flat_map(|snapshot| (0..SNAPSHOT_COPIES).map(|_| snapshot.bytes.len() as u64));
            targets.push_back(Target {
                file: FileName::Pack(packs.take_id()),
                bytes_max: file_bytes_max(batches.chain(copies)),
                logs: shared,
                has_snapshot: snapshot.is_some(),
            });
        }
        Self {
            load,
            snapshot,
            targets,
            cursor: Cursor::default(),
        }
    }

    /// The snapshot's LSN.
    pub(super) fn as_of(&self) -> Option<Lsn> {
        self.snapshot.as_ref().map(|snapshot| snapshot.as_of)
    }

    /// Begins the next file, or ends the output after the last one.
    pub(super) fn begin_next(&mut self, output: &mut Output, ops: &mut VecDeque<DiskOp>) {
        match self.targets.front() {
            Some(target) => output.begin(target.file, target.bytes_max, ops),
            None => output.end(ops),
        }
    }

    /// Copies about one buffer's worth of batches, or of the snapshot behind them, into the open
    /// file, and finishes it when that was all.
    pub(super) fn step(&mut self, output: &mut Output) {
        let Some(writer) = output.writer() else {
            return;
        };
        if self.fill(writer) {
            output.finish_file();
        }
    }

    /// Returns whether the present target is complete.
    fn fill(&mut self, writer: &mut PackWriter) -> bool {
        let target = self.targets.front_mut().expect("a file is open");
        while writer.ready() == 0 {
            let Some(partition) = target.logs.front().copied() else {
                if target.has_snapshot {
                    let snapshot = self.snapshot.as_mut().expect("planned with it");
                    if !writer.snapshot(snapshot.as_of, &snapshot.bytes) {
                        continue;
                    }
                    snapshot.bytes = Vec::new();
                }
                self.targets.pop_front();
                return true;
            };
            let live = &self.load.live[&partition];
            let runs = &live.runs;
            if self.cursor.run == runs.len() {
                target.logs.pop_front();
                self.cursor = Cursor::default();
                continue;
            }
            let Run { piece, start, end } = runs[self.cursor.run];
            self.cursor.at = self.cursor.at.max(start);
            let run = &self.load.piece(piece)[..end];
            let mut entries = Entries::new(run, self.cursor.at);
            let entry = entries.next().expect("a run has entries");
            let entry = entry.expect("entries were checked when they were loaded");
            let header = BatchHeader::parse(entry.body).expect("batches were checked too");
            let bytes = entry.body.len() as u64;
            if self.cursor.section_bytes + bytes > live.section_bytes {
                writer.end_section();
                self.cursor.section_bytes = 0;
            }
            writer.verified_batch(partition, &header, entry.body);
            self.cursor.section_bytes += bytes;
            self.cursor.at = entry.end;
            if entry.end == end {
                self.cursor.run += 1;
                self.cursor.at = 0;
            }
        }
        false
    }
}

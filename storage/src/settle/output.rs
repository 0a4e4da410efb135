//! Writes the files of one pass: packs and segments, one after the other.
//!
//! The order is the crash story:
//! 1. A file is created with all the space that it can need; then its buffers are written, as many
//!    at once as the caller asks for, so that commits of the same disk wait behind few.
//! 2. fdatasync of the file, after its last write completed.
//! 3. After the last file: sync of the directory. Only now may the manifest name the files. A
//!    crash before that leaves files that no manifest names, which the next start removes.
//!
//! A failure before the manifest's edit loses nothing: the files go, and the source is still
//! whole. They are never synced a second time; another try writes other files.

use std::collections::{BTreeSet, VecDeque};

use crate::buf::BufferPool;
use crate::disk::{
    DiskDone, DiskError, DiskOp, DiskOutcome, DiskToken, DiskTokens, FileName, WriteSync,
};
use crate::manifest::PackEntry;
use crate::pack::PackWriter;
use crate::section::Directory;
use crate::slots::SHORT_WRITE;
use crate::units::{PackId, ShardId};

/// Free buffers kept between writes.
const FREE_BUFFERS_MAX: usize = 4;

/// A file that is durable, for the manifest.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) id: PackId,
    pub(crate) entry: PackEntry,
    pub(crate) directory: Directory,
}

/// The files of one pass on their way.
#[derive(Debug)]
pub(crate) struct Output {
    shard: ShardId,
    pool: BufferPool,
    tokens: DiskTokens,
    stage: Stage,
    in_flight: BTreeSet<DiskToken>,
    /// Every file that was asked for, in case they have to go.
    files: Vec<FileName>,
    written: Vec<Written>,
}

#[derive(Debug)]
enum Stage {
    /// Ready for the next file.
    Idle,
    Creating(PackWriter),
    /// Takes batches.
    Open(PackWriter),
    /// The last buffers are on their way.
    Flushing(PackWriter, PackEntry, Directory),
    Syncing(PackEntry, Directory),
    SyncingDirectory,
    /// All files are durable.
    Durable,
    /// Waiting for what is in flight, then removing.
    Discarding,
    Discarded,
}

impl Output {
    /// Files written `buffer_bytes` at a time.
    pub(crate) fn new(shard: ShardId, tag: u8, buffer_bytes: usize) -> Self {
        Self {
            shard,
            pool: BufferPool::new(buffer_bytes, FREE_BUFFERS_MAX),
            tokens: DiskTokens::new(tag),
            stage: Stage::Idle,
            in_flight: BTreeSet::new(),
            files: Vec::new(),
            written: Vec::new(),
        }
    }

    /// Whether [`Output::begin`] or [`Output::end`] may be called.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Whether all files and their names are durable.
    pub(crate) fn is_durable(&self) -> bool {
        matches!(self.stage, Stage::Durable)
    }

    /// Whether nothing of the files is left.
    pub(crate) fn is_discarded(&self) -> bool {
        matches!(self.stage, Stage::Discarded)
    }

    /// Begins the next file, of at most `bytes`.
    pub(crate) fn begin(&mut self, file: FileName, bytes: u64, ops: &mut VecDeque<DiskOp>) {
        assert!(self.is_idle(), "one file at a time");
        self.files.push(file);
        let writer = PackWriter::new(self.shard, file, self.pool.clone());
        self.stage = Stage::Creating(writer);
        let token = self.issue();
        ops.push_back(DiskOp::Create { token, file, bytes });
    }

    /// Whether [`Output::writer`] has a file to write to.
    pub(crate) fn wants_batches(&self) -> bool {
        matches!(&self.stage, Stage::Open(writer) if writer.ready() == 0)
    }

    /// The open file, when it may take another buffer's worth of batches.
    pub(crate) fn writer(&mut self) -> Option<&mut PackWriter> {
        match &mut self.stage {
            Stage::Open(writer) if writer.ready() == 0 => Some(writer),
            _ => None,
        }
    }

    /// Whether a buffer is ready to be written.
    pub(crate) fn wants_write(&self) -> bool {
        match &self.stage {
            Stage::Open(writer) | Stage::Flushing(writer, ..) => writer.ready() > 0,
            _ => false,
        }
    }

    /// Operations on their way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Writes the next ready buffer; returns how many bytes those are.
    pub(crate) fn write_next(&mut self, ops: &mut VecDeque<DiskOp>) -> usize {
        let (Stage::Open(writer) | Stage::Flushing(writer, ..)) = &mut self.stage else {
            panic!("an open file is written");
        };
        let (position, buffer) = writer.pop_ready().expect("a buffer is ready");
        let (file, bytes) = (writer.file(), buffer.len());
        let token = self.issue();
        ops.push_back(DiskOp::Write {
            token,
            file,
            position,
            buffer,
            sync: WriteSync::None,
        });
        bytes
    }

    /// The open file has all its batches.
    pub(crate) fn finish_file(&mut self) {
        let Stage::Open(mut writer) = std::mem::replace(&mut self.stage, Stage::Idle) else {
            panic!("an open file is finished");
        };
        let (entry, directory) = writer.finish();
        self.stage = Stage::Flushing(writer, entry, directory);
    }

    /// Syncs a finished file after its last write.
    pub(crate) fn sync_when_flushed(&mut self, ops: &mut VecDeque<DiskOp>) {
        let is_flushed = matches!(&self.stage, Stage::Flushing(writer, ..) if writer.ready() == 0);
        if !is_flushed || !self.in_flight.is_empty() {
            return;
        }
        let stage = std::mem::replace(&mut self.stage, Stage::Idle);
        let Stage::Flushing(writer, entry, directory) = stage else {
            unreachable!("just seen");
        };
        let file = writer.file();
        self.stage = Stage::Syncing(entry, directory);
        let token = self.issue();
        ops.push_back(DiskOp::Sync { token, file });
    }

    /// There is no further file: makes their names durable.
    pub(crate) fn end(&mut self, ops: &mut VecDeque<DiskOp>) {
        assert!(self.is_idle(), "files are finished first");
        if self.written.is_empty() {
            self.stage = Stage::Durable;
            return;
        }
        self.stage = Stage::SyncingDirectory;
        let token = self.issue();
        ops.push_back(DiskOp::SyncDirectory { token });
    }

    /// What was written; all of it is durable.
    pub(crate) fn take_written(&mut self) -> Vec<Written> {
        assert!(self.is_durable(), "the manifest names durable files");
        std::mem::take(&mut self.written)
    }

    /// Gives the files up: whatever comes of them, they go.
    pub(crate) fn discard(&mut self, ops: &mut VecDeque<DiskOp>) {
        self.stage = Stage::Discarding;
        self.written.clear();
        self.remove_when_quiet(ops);
    }

    fn remove_when_quiet(&mut self, ops: &mut VecDeque<DiskOp>) {
        if !self.in_flight.is_empty() {
            return;
        }
        match self.files.pop() {
            Some(file) => {
                let token = self.issue();
                ops.push_back(DiskOp::Remove { token, file });
            }
            None => self.stage = Stage::Discarded,
        }
    }

    /// Takes a completion.
    ///
    /// # Errors
    /// The files cannot be trusted: [`Output::discard`] them.
    pub(crate) fn handle(
        &mut self,
        done: DiskDone,
        ops: &mut VecDeque<DiskOp>,
    ) -> Result<(), DiskError> {
        assert!(self.in_flight.remove(&done.token), "ours");
        if let Some(buffer) = done.buffer {
            self.pool.give(buffer);
        }
        if matches!(self.stage, Stage::Discarding) {
            // A file that was never created is not there; one that stays is removed by the next
            // start.
            self.remove_when_quiet(ops);
            return Ok(());
        }
        match done.result? {
            DiskOutcome::Transferred(_) => return Err(SHORT_WRITE),
            DiskOutcome::Done | DiskOutcome::Listed(_) | DiskOutcome::Space(_) => {}
        }
        self.stage = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Creating(writer) => Stage::Open(writer),
            Stage::Syncing(entry, directory) => {
                let id = directory.pack;
                self.written.push(Written {
                    id,
                    entry,
                    directory,
                });
                Stage::Idle
            }
            Stage::SyncingDirectory => Stage::Durable,
            stage => stage,
        };
        Ok(())
    }

    fn issue(&mut self) -> DiskToken {
        let token = self.tokens.issue();
        self.in_flight.insert(token);
        token
    }
}

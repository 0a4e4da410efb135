//! The manifest of one shard: a checksummed log of edits that says which files count.
//!
//! It holds references only: where the live WAL chain starts, how far the log is settled, which
//! packs hold the settled data, where logs begin. Every change of meaning on disk is one run of
//! edits here; files are created before the run that names them and removed after the run that
//! drops them. A file no manifest names was never committed.
//!
//! This module owns the file's life: appending runs one at a time, and rewriting the whole state
//! into the next file when the present one has grown. [`format`] is the bytes, [`replay`] the way
//! back, [`state`] the meaning.

mod format;
mod replay;
mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

pub use state::{ChainStart, ManifestEdit, ManifestState, PackEntry, SnapshotRef};

use crate::buf::AlignedBuf;
use crate::disk::{
    BlockingDisk, DiskDone, DiskError, DiskOp, DiskOutcome, DiskToken, DiskTokens, FileName,
    Listing, WriteSync,
};
use crate::error::StorageError;
use crate::units::{FilePosition, PAGE_BYTES, PackId, ShardId};
use format::RunIdentity;

/// The tag of the manifest's tokens.
pub const MANIFEST_TAG: u8 = 1;
/// No manifest is larger: each of [`LOGS_MAX`] logs with a start that was moved takes less than a
/// quarter of it, and the names of sections that were dropped have the rest.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Logs that a shard may have.
pub const LOGS_MAX: u64 = 10_000_000;
/// The most room for edits that may be asked for.
pub const ROOM_BYTES_MAX: u64 = 64 << 20;

const _: () = assert!(4 * ROOM_BYTES_MAX <= FILE_BYTES_MAX, "the state has room");
const _: () = assert!(4 * 2 * LOGS_MAX * format::LOG_START_BYTES as u64 <= FILE_BYTES_MAX);
// One write carries both copies, and the kernel takes 2 GiB less a page in one.
const _: () = assert!(FILE_BYTES_MAX <= (2 << 30) - PAGE_BYTES as u64);

/// Bytes of one read while opening.
const READ_BYTES: usize = 1 << 20;

/// Pairs a submission with its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EditTicket(pub u64);

/// The open manifest. One operation is in flight at most, so runs are durable in order.
#[derive(Debug)]
pub struct Manifest {
    shard: ShardId,
    /// What is durable: a submitted edit shows here once its ticket is done.
    state: ManifestState,
    /// The N of the current `manifest-N`; 0 before the first.
    number: u64,
    /// Preallocated length of the current file.
    file_bytes: u64,
    /// Where the next run goes.
    position: u64,
    /// Beyond this position the file asks to be rewritten.
    rewrite_from: u64,
    /// The next run's sequence number.
    sequence: u64,
    /// Checksum of the last run.
    previous_crc: u32,
    /// Room for edits behind the state that opens a file. Half full asks for a rewrite.
    room_bytes: u64,
    /// Why the next file could not be created: the disk had no space, or the process was short of
    /// something. Tried again after [`Manifest::retry_rewrite`].
    rewrite_blocked: Option<DiskError>,
    tokens: DiskTokens,
    next_ticket: u64,
    queued: VecDeque<(EditTicket, Vec<ManifestEdit>)>,
    step: Step,
    in_flight: Option<DiskToken>,
    done: VecDeque<EditTicket>,
}

/// A manifest as it was read. A start judges by it what else it finds; only if it goes on is the
/// manifest secured, and may the disk be changed by what it says.
#[derive(Debug)]
pub struct ReadManifest {
    manifest: Manifest,
    /// The file's.
    bytes: Vec<u8>,
    /// Numbers of the manifests that a rewrite left behind.
    older: Vec<u64>,
}

/// Reads a manifest's bytes and writes nothing: for an offline reader. Gives the state, and where a
/// copy of something is damaged whose twin is good.
pub(crate) fn read(
    shard: ShardId,
    number: u64,
    bytes: &[u8],
) -> Result<(ManifestState, Option<FilePosition>), (FilePosition, &'static str)> {
    let replayed = replay::replay(shard, number, bytes);
    replayed
        .map(|replayed| (replayed.state, replayed.damaged_copy))
        .map_err(|damage| (damage.position, damage.found))
}

/// What the current manifest of a directory says, and writes nothing; `None` without one.
pub(crate) fn peek(
    disk: &mut BlockingDisk<'_>,
    shard: ShardId,
    listing: &Listing,
) -> Result<Option<ManifestState>, StorageError> {
    let Some((number, file_bytes)) = numbered(listing).pop() else {
        return Ok(None);
    };
    let file = FileName::Manifest(number);
    let mut tokens = DiskTokens::new(MANIFEST_TAG);
    let bytes = read_whole(disk, &mut tokens, shard, file, file_bytes)?;
    let (state, _) =
        read(shard, number, &bytes).map_err(|(position, found)| StorageError::Corrupt {
            shard,
            file,
            position,
            found,
        })?;
    Ok(Some(state))
}

/// The manifests of a directory, number and size, ascending: the last is the current one.
fn numbered(listing: &Listing) -> Vec<(u64, u64)> {
    let manifests = listing.files.iter().filter_map(|(file, bytes)| match file {
        FileName::Manifest(number) => Some((*number, *bytes)),
        _ => None,
    });
    let mut found: Vec<(u64, u64)> = manifests.collect();
    found.sort_unstable();
    found
}

/// What the manifest is doing.
#[derive(Debug)]
enum Step {
    Idle,
    Append(Append),
    Rewrite(Rewrite),
    /// A write failed: what is durable is not known, so nothing more is written.
    Failed,
}

/// A run on its way.
#[derive(Debug)]
struct Append {
    /// Taken when the write is issued.
    buffer: Option<AlignedBuf>,
    edits: Vec<ManifestEdit>,
    tickets: Vec<EditTicket>,
    /// Position after the run.
    end: u64,
    crc: u32,
}

/// The next file on its way.
#[derive(Debug)]
struct Rewrite {
    stage: Stage,
    /// Taken when the write is issued.
    buffer: Option<AlignedBuf>,
    file_bytes: u64,
    /// Position after the state.
    end: u64,
    crc: u32,
}

/// The order is the crash story:
/// 1. The temporary file is whole and synced before it gets its name: a crash leaves the old
///    manifest, and a temporary that the next start removes.
/// 2. No edit goes to the new file before the directory is synced: until then the old file under
///    the old number is whole as well, so whichever name survives says the same.
/// 3. The old file goes last. A crash before that leaves two manifests; the higher number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    RemoveTemporary,
    Create,
    Write,
    Sync,
    Rename,
    SyncDirectory,
    RemoveOld,
}

impl Manifest {
    /// Writes the first manifest of a new store: durable on return. `room_bytes` is the room for
    /// edits behind the state that opens a file.
    ///
    /// # Errors
    /// [`StorageError::Io`] when the disk fails.
    pub fn create(
        disk: &mut BlockingDisk<'_>,
        shard: ShardId,
        chain_start: ChainStart,
        room_bytes: u64,
    ) -> Result<Self, StorageError> {
        let mut manifest = Self::new(shard, ManifestState::new(chain_start), room_bytes);
        manifest.start_rewrite();
        manifest.drive(disk)?;
        if manifest.number == 0 {
            return Err(manifest.io_error(DiskError::NoSpace));
        }
        Ok(manifest)
    }

    /// Reads the current manifest of `listing` and changes nothing; `None` when it names none.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] for damage that may hide committed edits, [`StorageError::Io`].
    pub fn read(
        disk: &mut BlockingDisk<'_>,
        shard: ShardId,
        listing: &Listing,
        room_bytes: u64,
    ) -> Result<Option<ReadManifest>, StorageError> {
        let mut found = numbered(listing);
        let Some((number, file_bytes)) = found.pop() else {
            return Ok(None);
        };
        let file = FileName::Manifest(number);
        let mut tokens = DiskTokens::new(MANIFEST_TAG);
        let bytes = read_whole(disk, &mut tokens, shard, file, file_bytes)?;
        let replayed =
            replay::replay(shard, number, &bytes).map_err(|damage| StorageError::Corrupt {
                shard,
                file,
                position: damage.position,
                found: damage.found,
            })?;
        let mut manifest = Self::new(shard, replayed.state, room_bytes);
        manifest.tokens = tokens;
        manifest.number = number;
        manifest.file_bytes = file_bytes;
        manifest.position = replayed.position;
        manifest.rewrite_from = file_bytes.saturating_sub(manifest.room_bytes / 2);
        manifest.sequence = replayed.sequence;
        manifest.previous_crc = replayed.previous_crc;
        if replayed.copy_damaged {
            tracing::warn!(%shard, %file, "one of two copies is damaged; writing a new manifest");
        }
        Ok(Some(ReadManifest {
            manifest,
            bytes,
            older: found.into_iter().map(|(number, _)| number).collect(),
        }))
    }

    fn new(shard: ShardId, state: ManifestState, room_bytes: u64) -> Self {
        Self {
            shard,
            state,
            number: 0,
            file_bytes: 0,
            position: 0,
            rewrite_from: 0,
            sequence: 1,
            previous_crc: 0,
            room_bytes,
            rewrite_blocked: None,
            tokens: DiskTokens::new(MANIFEST_TAG),
            next_ticket: 0,
            queued: VecDeque::new(),
            step: Step::Idle,
            in_flight: None,
            done: VecDeque::new(),
        }
    }

    /// Makes sure of what was read before anything is built on it. A run can be readable
    /// and not durable: the process died, or its sync failed, between the two. A second sync
    /// proves nothing after a failed one, so everything is written anew, into the next file; or,
    /// on a disk without room for it, over itself, where a torn write changes nothing.
    fn secure(&mut self, disk: &mut BlockingDisk<'_>, read: &[u8]) -> Result<(), StorageError> {
        let number = self.number;
        self.start_rewrite();
        self.drive(disk)?;
        if self.number > number {
            return Ok(());
        }
        let used = usize::try_from(self.position).expect("was read into memory");
        let used = read.get(..used).expect("runs lie within the file");
        for (at, part) in (0..).step_by(READ_BYTES).zip(used.chunks(READ_BYTES)) {
            let written = disk(DiskOp::Write {
                token: self.tokens.issue(),
                file: FileName::Manifest(number),
                position: FilePosition(at),
                buffer: format::aligned(&[part]),
                sync: WriteSync::Dsync,
            });
            self.expect_done(written)?;
        }
        let token = self.tokens.issue();
        self.expect_done(disk(DiskOp::SyncDirectory { token }))
    }

    fn expect_done(&self, done: DiskDone) -> Result<(), StorageError> {
        match done.result {
            Ok(DiskOutcome::Transferred(_)) => Err(self.io_error(SHORT_WRITE)),
            Ok(_) => Ok(()),
            Err(error) => Err(self.io_error(error)),
        }
    }

    /// What is durable.
    #[must_use]
    pub fn state(&self) -> &ManifestState {
        &self.state
    }

    /// Takes `edits` as one atomic change. It is durable when the ticket comes out of
    /// [`Manifest::poll_done`]; changes take effect in the order of their submission.
    pub fn submit(&mut self, edits: Vec<ManifestEdit>) -> EditTicket {
        assert!(!edits.is_empty(), "an edit changes something");
        let ticket = EditTicket(self.next_ticket);
        self.next_ticket += 1;
        self.queued.push_back((ticket, edits));
        ticket
    }

    /// Makes one change and waits for it: for start-up and re-homing.
    ///
    /// # Errors
    /// [`StorageError::Io`] when the disk fails.
    pub fn commit_blocking(
        &mut self,
        disk: &mut BlockingDisk<'_>,
        edits: Vec<ManifestEdit>,
    ) -> Result<(), StorageError> {
        let ticket = self.submit(edits);
        self.drive(disk)?;
        if self.done.contains(&ticket) {
            self.done.retain(|done| *done != ticket);
            Ok(())
        } else {
            // The file is full, and the next one cannot be had.
            let error = self.blocked_by().expect("every other failure is returned");
            Err(self.io_error(error))
        }
    }

    fn drive(&mut self, disk: &mut BlockingDisk<'_>) -> Result<(), StorageError> {
        while let Some(op) = self.poll_disk() {
            self.handle_disk(disk(op))?;
        }
        Ok(())
    }

    /// The next submission that became durable.
    pub fn poll_done(&mut self) -> Option<EditTicket> {
        self.done.pop_front()
    }

    /// Whether every submission is durable and nothing is in flight.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.in_flight.is_none() && self.queued.is_empty() && matches!(self.step, Step::Idle)
    }

    /// Whether submissions wait because the disk has no room for the next file.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        self.blocked_by() == Some(DiskError::NoSpace)
    }

    /// Why submissions wait for the next file.
    #[must_use]
    pub fn blocked_by(&self) -> Option<DiskError> {
        let is_waiting = self.in_flight.is_none() && !self.queued.is_empty();
        self.rewrite_blocked.filter(|_| is_waiting)
    }

    /// There may be again what a rewrite was short of: it may try once more.
    pub fn retry_rewrite(&mut self) {
        self.rewrite_blocked = None;
    }

    /// The next operation to perform.
    pub fn poll_disk(&mut self) -> Option<DiskOp> {
        if self.in_flight.is_some() {
            return None;
        }
        if matches!(self.step, Step::Idle) {
            self.start();
        }
        let token = match self.step {
            Step::Idle | Step::Failed => return None,
            Step::Append(_) | Step::Rewrite(_) => self.tokens.issue(),
        };
        self.in_flight = Some(token);
        Some(match &mut self.step {
            Step::Append(append) => DiskOp::Write {
                token,
                file: FileName::Manifest(self.number),
                position: FilePosition(self.position),
                buffer: append.buffer.take().expect("issued once"),
                sync: WriteSync::Dsync,
            },
            Step::Rewrite(rewrite) => rewrite.operation(token, self.number),
            Step::Idle | Step::Failed => unreachable!("handled above"),
        })
    }

    /// Takes an operation's completion.
    ///
    /// # Errors
    /// [`StorageError::Io`]: what is durable is not known any more, and the shard must stop.
    pub fn handle_disk(&mut self, done: DiskDone) -> Result<(), StorageError> {
        assert_eq!(self.in_flight.take(), Some(done.token), "one in flight");
        let result = match done.result {
            Ok(DiskOutcome::Transferred(_)) => Err(SHORT_WRITE),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        match std::mem::replace(&mut self.step, Step::Failed) {
            Step::Append(append) => {
                result.map_err(|error| self.io_error(error))?;
                self.finish_append(append);
            }
            Step::Rewrite(rewrite) => self.advance_rewrite(rewrite, result)?,
            Step::Idle | Step::Failed => unreachable!("nothing was in flight"),
        }
        Ok(())
    }

    /// Chooses what to do next.
    fn start(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        if self.position >= self.rewrite_from && self.rewrite_blocked.is_none() {
            self.start_rewrite();
            return;
        }
        let edits: Vec<_> = self.queued.iter().flat_map(|(_, e)| e.clone()).collect();
        let identity = self.next_identity(self.number, self.previous_crc);
        let (copy, crc) = format::encode_run(identity, &format::encode_edits(&edits));
        let end = self.position + 2 * file_length(copy.len());
        if end <= self.file_bytes {
            let tickets = self.queued.drain(..).map(|(ticket, _)| ticket).collect();
            self.step = Step::Append(Append {
                buffer: Some(format::aligned(&[&copy, &copy])),
                edits,
                tickets,
                end,
                crc,
            });
        } else if self.rewrite_blocked.is_none() {
            self.start_rewrite();
        }
    }

    fn finish_append(&mut self, append: Append) {
        for edit in append.edits {
            if let Err(why) = self.state.apply(edit) {
                panic!("our own edit does not fit our own state: {why}");
            }
        }
        self.position = append.end;
        self.previous_crc = append.crc;
        self.sequence += 1;
        self.done.extend(append.tickets);
        self.step = Step::Idle;
    }

    fn start_rewrite(&mut self) {
        let number = self.number + 1;
        let (page, header_crc) = format::encode_header(self.shard, number, self.sequence);
        let identity = self.next_identity(number, header_crc);
        let (copy, crc) = format::encode_run(identity, &format::encode_state(&self.state));
        let end = file_length(page.len() + 2 * copy.len());
        // Room for the largest change that may come: what is queued now, and edits to follow.
        let queued: Vec<_> = self.queued.iter().flat_map(|(_, e)| e.clone()).collect();
        let queued_bytes = 2 * file_length(format::encode_edits(&queued).len() + 2 * PAGE_BYTES);
        let queued_bytes = queued_bytes.next_multiple_of(file_length(PAGE_BYTES));
        let file_bytes = end + queued_bytes + self.room_bytes;
        assert!(
            file_bytes <= FILE_BYTES_MAX,
            "a start reads what is written: {file_bytes} bytes"
        );
        self.step = Step::Rewrite(Rewrite {
            stage: Stage::RemoveTemporary,
            buffer: Some(format::aligned(&[&page, &copy, &copy])),
            file_bytes,
            end,
            crc,
        });
    }

    fn next_identity(&self, number: u64, previous_crc: u32) -> RunIdentity {
        RunIdentity {
            shard: self.shard,
            number,
            sequence: self.sequence,
            previous_crc,
        }
    }

    fn advance_rewrite(
        &mut self,
        mut rewrite: Rewrite,
        result: Result<(), DiskError>,
    ) -> Result<(), StorageError> {
        match (rewrite.stage, result) {
            (Stage::RemoveTemporary, Ok(()) | Err(DiskError::NotFound)) => {
                rewrite.stage = Stage::Create;
            }
            (Stage::Create, Err(error)) if error == DiskError::NoSpace || error.is_shortage() => {
                self.rewrite_blocked = Some(error);
                self.step = Step::Idle;
                return Ok(());
            }
            (Stage::RemoveOld, Err(error)) if error != DiskError::Crashed => {
                // The next start removes it: the number says that it does not count.
                tracing::warn!(shard = %self.shard, %error, "an old manifest stays for now");
                self.finish_rewrite(&rewrite);
                return Ok(());
            }
            (_, Err(error)) => return Err(self.io_error(error)),
            (Stage::Create, Ok(())) => rewrite.stage = Stage::Write,
            (Stage::Write, Ok(())) => rewrite.stage = Stage::Sync,
            (Stage::Sync, Ok(())) => rewrite.stage = Stage::Rename,
            (Stage::Rename, Ok(())) => rewrite.stage = Stage::SyncDirectory,
            (Stage::SyncDirectory, Ok(())) if self.number > 0 => rewrite.stage = Stage::RemoveOld,
            (Stage::SyncDirectory | Stage::RemoveOld, Ok(())) => {
                self.finish_rewrite(&rewrite);
                return Ok(());
            }
        }
        self.step = Step::Rewrite(rewrite);
        Ok(())
    }

    fn finish_rewrite(&mut self, rewrite: &Rewrite) {
        self.number += 1;
        self.file_bytes = rewrite.file_bytes;
        self.position = rewrite.end;
        self.rewrite_from = rewrite.file_bytes - self.room_bytes / 2;
        self.previous_crc = rewrite.crc;
        self.sequence += 1;
        self.step = Step::Idle;
    }

    /// An id that no file of this shard has had since the store was opened, nor any committed
    /// one ever. A start removes files with uncommitted ids before it asks.
    #[must_use]
    pub fn first_free_pack(&self) -> PackId {
        self.state.next_pack
    }

    fn io_error(&self, error: DiskError) -> StorageError {
        StorageError::Io {
            shard: self.shard,
            file: FileName::Manifest(self.number).to_string(),
            error,
        }
    }
}

impl ReadManifest {
    /// What it says; perhaps not durable yet.
    #[must_use]
    pub fn state(&self) -> &ManifestState {
        &self.manifest.state
    }

    /// Makes durable what it says, and removes the manifests before it.
    ///
    /// # Errors
    /// [`StorageError::Io`] when the disk fails.
    pub fn secure(self, disk: &mut BlockingDisk<'_>) -> Result<Manifest, StorageError> {
        let mut manifest = self.manifest;
        manifest.secure(disk, &self.bytes)?;
        for number in self.older {
            let (token, file) = (manifest.tokens.issue(), FileName::Manifest(number));
            manifest.expect_done(disk(DiskOp::Remove { token, file }))?;
        }
        Ok(manifest)
    }
}

/// What `manifest-number` of `shard` says, read from the whole file's bytes and changing nothing:
/// for readers of a stopped store.
///
/// # Errors
/// What is wrong with the file, and where.
pub fn read_state(
    shard: ShardId,
    number: u64,
    bytes: &[u8],
) -> Result<ManifestState, (FilePosition, &'static str)> {
    let replayed = replay::replay(shard, number, bytes);
    let replayed = replayed.map_err(|damage| (damage.position, damage.found))?;
    Ok(replayed.state)
}

impl Rewrite {
    /// The operation of the present stage, while `manifest-old` is the current one.
    fn operation(&mut self, token: DiskToken, old: u64) -> DiskOp {
        let temporary = FileName::Temporary(old + 1);
        match self.stage {
            Stage::RemoveTemporary => DiskOp::Remove {
                token,
                file: temporary,
            },
            Stage::Create => DiskOp::Create {
                token,
                file: temporary,
                bytes: self.file_bytes,
            },
            Stage::Write => DiskOp::Write {
                token,
                file: temporary,
                position: FilePosition(0),
                buffer: self.buffer.take().expect("issued once"),
                sync: WriteSync::None,
            },
            Stage::Sync => DiskOp::Sync {
                token,
                file: temporary,
            },
            Stage::Rename => DiskOp::Rename {
                token,
                from: temporary,
                to: FileName::Manifest(old + 1),
            },
            Stage::SyncDirectory => DiskOp::SyncDirectory { token },
            Stage::RemoveOld => DiskOp::Remove {
                token,
                file: FileName::Manifest(old),
            },
        }
    }
}

fn read_whole(
    disk: &mut BlockingDisk<'_>,
    tokens: &mut DiskTokens,
    shard: ShardId,
    file: FileName,
    file_bytes: u64,
) -> Result<Vec<u8>, StorageError> {
    let corrupt = |position, found| StorageError::Corrupt {
        shard,
        file,
        position: FilePosition(position),
        found,
    };
    if file_bytes > FILE_BYTES_MAX {
        return Err(corrupt(FILE_BYTES_MAX, "larger than any manifest"));
    }
    let page_bytes = file_length(PAGE_BYTES);
    let whole_pages = file_bytes - file_bytes % page_bytes;
    let mut bytes = Vec::new();
    let step = READ_BYTES.min(usize::try_from(whole_pages).unwrap_or(READ_BYTES));
    let mut buffer = AlignedBuf::zeroed(step.max(PAGE_BYTES));
    while file_length(bytes.len()) < whole_pages {
        let position = file_length(bytes.len());
        let left = usize::try_from(whole_pages - position).unwrap_or(step);
        buffer.set_len(left.min(step));
        let done = disk(DiskOp::Read {
            token: tokens.issue(),
            file,
            position: FilePosition(position),
            buffer,
        });
        match done.result {
            Ok(DiskOutcome::Done) => {}
            Ok(_) => return Err(corrupt(position, "the file is shorter than its listing")),
            Err(error) => {
                let file = file.to_string();
                return Err(StorageError::Io { shard, file, error });
            }
        }
        buffer = done.buffer.expect("a read's buffer comes back");
        bytes.extend_from_slice(&buffer);
    }
    Ok(bytes)
}

fn file_length(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a length in memory fits 64 bits")
}

/// EIO: what a short write means for a file that must be whole.
const SHORT_WRITE: DiskError = DiskError::Io { errno: 5 };

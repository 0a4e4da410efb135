//! A shard's disk operations on the ring.
//!
//! A request holds everything that the kernel may touch (buffer, descriptor, names) until its last
//! completion. Creating, opening, renaming, linking, unlinking and punching run on the kernel's
//! worker threads; listing and asking for space are answered at once, from memory in practice.
//!
//! No more files are open at once than [`Files`] may keep: an operation on one more waits until
//! another file is idle, so that a crowd of readers takes no descriptor of those who write.

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};
use millrace_storage::buf::AlignedBuf;
use millrace_storage::disk::{
    DiskDone, DiskError, DiskOp, DiskOutcome, DiskToken, FileName, WriteSync,
};

use super::files::{self, Files};
use super::ring::{Completion, Ring};
use super::sys;
use super::token::{InFlight, Kind, Token};

/// One shard's disk.
pub struct Disk {
    files: Files,
    in_flight: InFlight<Request>,
    /// Writes among them that are durable when they end: commits.
    commits: usize,
    /// Files that are not open yet, with the operations that wait for them.
    opening: HashMap<FileName, Vec<DiskOp>>,
    /// Those of them that wait for another file to be idle, first come first served. Invariant: if
    /// there is any, the kernel has an operation whose completion looks again.
    to_open: VecDeque<FileName>,
    /// Descriptors that the kernel is about to give us.
    opens: usize,
    /// Finished, not yet polled.
    done: VecDeque<DiskDone>,
}

/// An operation that the kernel has.
struct Request {
    work: Work,
    /// What the kernel may still look at; dropped with the last completion.
    kept: Kept,
}

/// What an operation is for.
enum Work {
    /// Opens a file for the operations in `opening`.
    Open(FileName),
    /// Creates a file; its space is allocated next.
    Create {
        token: DiskToken,
        file: FileName,
        bytes: u64,
    },
    /// Allocates a created file's space.
    Allocate { token: DiskToken, file: FileName },
    /// Moves bytes.
    Transfer(Transfer),
    /// Renames a file.
    Rename {
        token: DiskToken,
        from: FileName,
        to: FileName,
    },
    /// Anything that changes nothing in the file table.
    Other(DiskToken),
}

/// Memory and descriptors kept for the kernel.
#[expect(dead_code, reason = "the kernel reads them, not we")]
enum Kept {
    /// The work itself, or the directories' descriptors, which outlive every request.
    Elsewhere,
    Descriptor(Arc<OwnedFd>),
    Name(CString),
    Names(CString, CString),
}

/// A read or a write.
struct Transfer {
    token: DiskToken,
    descriptor: Arc<OwnedFd>,
    buffer: AlignedBuf,
    position: u64,
    direction: Direction,
    /// Bytes moved so far.
    moved: usize,
    /// Completions to come: two when a sync is linked behind the write.
    completions_left: u8,
    /// First failure of the chain.
    failure: Option<i32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write(WriteSync),
}

impl Disk {
    /// Takes over the directory and what is open in it.
    #[must_use]
    pub fn new(files: Files) -> Self {
        Self {
            files,
            in_flight: InFlight::default(),
            commits: 0,
            opening: HashMap::new(),
            to_open: VecDeque::new(),
            opens: 0,
            done: VecDeque::new(),
        }
    }

    /// Starts an operation.
    pub fn submit(&mut self, ring: &mut Ring, op: DiskOp) {
        match op {
            DiskOp::Write { file, .. }
            | DiskOp::Read { file, .. }
            | DiskOp::Sync { file, .. }
            | DiskOp::PunchHole { file, .. } => match self.files.opened(file) {
                Some(descriptor) => self.submit_on(ring, descriptor, op),
                None => self.open_for(ring, file, op),
            },
            DiskOp::List { token } => {
                let result = self.files.list().map(DiskOutcome::Listed);
                self.finish(token, None, result.map_err(sys::disk_error));
            }
            DiskOp::Space { token } => {
                let result = self.files.space().map(DiskOutcome::Space);
                self.finish(token, None, result.map_err(sys::disk_error));
            }
            other => self.submit_on_directory(ring, other),
        }
    }

    /// Operations on an open file.
    fn submit_on(&mut self, ring: &mut Ring, descriptor: Arc<OwnedFd>, op: DiskOp) {
        let fd = types::Fd(descriptor.as_raw_fd());
        match op {
            DiskOp::Write {
                token,
                position,
                buffer,
                sync,
                ..
            } => {
                let transfer = Transfer::new(
                    token,
                    descriptor,
                    buffer,
                    position.0,
                    Direction::Write(sync),
                );
                self.submit_transfer(ring, transfer);
            }
            DiskOp::Read {
                token,
                position,
                buffer,
                ..
            } => {
                let transfer =
                    Transfer::new(token, descriptor, buffer, position.0, Direction::Read);
                self.submit_transfer(ring, transfer);
            }
            DiskOp::Sync { token, .. } => {
                let entry = data_sync(fd);
                self.submit_one(
                    ring,
                    entry,
                    Work::Other(token),
                    Kept::Descriptor(descriptor),
                );
            }
            DiskOp::PunchHole {
                token,
                position,
                bytes,
                ..
            } => {
                let entry = opcode::Fallocate::new(fd, bytes)
                    .offset(position.0)
                    .mode(sys::PUNCH_MODE)
                    .build();
                self.submit_one(
                    ring,
                    entry,
                    Work::Other(token),
                    Kept::Descriptor(descriptor),
                );
            }
            other => unreachable!("{other:?} is not on an open file"),
        }
    }

    /// Operations on names.
    fn submit_on_directory(&mut self, ring: &mut Ring, op: DiskOp) {
        let directory = types::Fd(self.files.directory().as_raw_fd());
        match op {
            DiskOp::Create { token, file, bytes } => self.create(ring, token, file, bytes),
            DiskOp::SyncDirectory { token } => {
                let entry = opcode::Fsync::new(directory).build();
                self.submit_one(ring, entry, Work::Other(token), Kept::Elsewhere);
            }
            DiskOp::Rename { token, from, to } => {
                self.files.forget(to);
                let (old, new) = (files::c_name(from), files::c_name(to));
                let entry =
                    opcode::RenameAt::new(directory, old.as_ptr(), directory, new.as_ptr()).build();
                let work = Work::Rename { token, from, to };
                self.submit_one(ring, entry, work, Kept::Names(old, new));
            }
            DiskOp::Link {
                token,
                from_shard,
                from,
                to,
            } => {
                let data_directory = types::Fd(self.files.data_directory().as_raw_fd());
                let (old, new) = (files::c_name_in_shard(from_shard, from), files::c_name(to));
                let entry =
                    opcode::LinkAt::new(data_directory, old.as_ptr(), directory, new.as_ptr())
                        .build();
                self.submit_one(ring, entry, Work::Other(token), Kept::Names(old, new));
            }
            DiskOp::Remove { token, file } => {
                self.files.forget(file);
                let name = files::c_name(file);
                let entry = opcode::UnlinkAt::new(directory, name.as_ptr()).build();
                self.submit_one(ring, entry, Work::Other(token), Kept::Name(name));
            }
            other => unreachable!("{other:?} is not on a name"),
        }
    }

    fn create(&mut self, ring: &mut Ring, token: DiskToken, file: FileName, bytes: u64) {
        let name = files::c_name(file);
        let entry = self.open_entry(&name, files::CREATE_FLAGS);
        let work = Work::Create { token, file, bytes };
        self.opens += 1;
        self.submit_one(ring, entry, work, Kept::Name(name));
    }

    /// Parks `op` until `file` is open. A log file is opened at once: commits wait for nobody.
    fn open_for(&mut self, ring: &mut Ring, file: FileName, op: DiskOp) {
        let waiting = self.opening.entry(file).or_default();
        waiting.push(op);
        if waiting.len() > 1 {
            return;
        }
        if matches!(file, FileName::Wal(_)) {
            return self.open(ring, file);
        }
        self.to_open.push_back(file);
        // Behind others there is no room: none has come since they found none.
        if self.to_open.len() == 1 {
            self.open_waiting(ring);
        }
    }

    /// Opens what waits for it, as far as there is room.
    fn open_waiting(&mut self, ring: &mut Ring) {
        while let Some(file) = self.to_open.front().copied()
            && self.files.makes_room(self.opens)
        {
            self.to_open.pop_front();
            self.open(ring, file);
        }
    }

    fn open(&mut self, ring: &mut Ring, file: FileName) {
        let name = files::c_name(file);
        let entry = self.open_entry(&name, 0);
        self.opens += 1;
        self.submit_one(ring, entry, Work::Open(file), Kept::Name(name));
    }

    fn open_entry(&self, name: &CString, flags: i32) -> Entry {
        let directory = types::Fd(self.files.directory().as_raw_fd());
        opcode::OpenAt::new(directory, name.as_ptr())
            .flags(sys::OPEN_FLAGS | flags)
            .mode(sys::CREATE_MODE)
            .build()
    }

    /// Submits an operation that ends with its one completion.
    fn submit_one(&mut self, ring: &mut Ring, entry: Entry, work: Work, kept: Kept) {
        let (index, life) = self.in_flight.insert(Request { work, kept });
        let kind = Kind::Disk;
        // SAFETY: names and descriptors that `entry` refers to are in `kept`, or in `files` for
        // the two directories, and the request stays until its completion.
        unsafe { ring.push(entry, Token { kind, index, life }) }
    }

    fn submit_transfer(&mut self, ring: &mut Ring, transfer: Transfer) {
        self.commits += usize::from(transfer.is_commit());
        let (index, life) = self.in_flight.insert(Request {
            work: Work::Transfer(transfer),
            kept: Kept::Elsewhere,
        });
        self.push_transfer(ring, index, life);
    }

    /// Hands the rest of a transfer to the kernel.
    fn push_transfer(&mut self, ring: &mut Ring, index: u32, life: u32) {
        let Work::Transfer(transfer) = &mut self.in_flight.get_mut(index, life).work else {
            unreachable!("only transfers are pushed again")
        };
        let token = |kind| Token { kind, index, life }.to_user_data();
        let entry = transfer.entry().user_data(token(Kind::Disk));
        if transfer.direction == Direction::Write(WriteSync::LinkedFdatasync) {
            transfer.completions_left = 2;
            let fd = types::Fd(transfer.descriptor.as_raw_fd());
            let chain = [
                entry.flags(Flags::IO_LINK),
                data_sync(fd).user_data(token(Kind::DiskSync)),
            ];
            // SAFETY: the buffer and the descriptor are owned by the transfer, which stays in the
            // table until both completions are in. A moved buffer keeps its memory in place.
            unsafe { ring.push_all(&chain) }
        } else {
            transfer.completions_left = 1;
            // SAFETY: as above, with one completion.
            unsafe { ring.push_all(&[entry]) }
        }
    }

    /// Takes a completion of kind [`Kind::Disk`] or [`Kind::DiskSync`].
    pub fn handle(&mut self, ring: &mut Ring, completion: Completion) {
        let Token { kind, index, life } = completion.token;
        if let Work::Transfer(transfer) = &mut self.in_flight.get_mut(index, life).work {
            match transfer.advance(kind, completion.outcome()) {
                Progress::Waiting => {}
                Progress::Resume => self.push_transfer(ring, index, life),
                Progress::Finished => self.handle_transferred(index, life),
            }
        } else {
            let Request { work, kept } = self.in_flight.remove(index, life);
            drop(kept);
            self.handle_work(ring, work, completion.outcome());
        }
        self.open_waiting(ring);
    }

    fn handle_work(&mut self, ring: &mut Ring, work: Work, outcome: Result<u32, i32>) {
        match work {
            Work::Open(file) => {
                self.opens -= 1;
                self.handle_opened(ring, file, outcome);
            }
            Work::Create { token, file, bytes } => {
                self.opens -= 1;
                match outcome {
                    Ok(raw) => self.allocate(ring, token, (file, bytes), owned(raw)),
                    Err(errno) => self.finish(token, None, Err(sys::disk_error(errno))),
                }
            }
            Work::Allocate { token, file } => {
                if outcome.is_err() {
                    self.files.uncreate(file);
                }
                self.finish(token, None, files::done(outcome.map(drop)));
            }
            Work::Rename { token, from, to } => {
                if outcome.is_ok() {
                    self.files.renamed(from, to);
                }
                self.finish(token, None, files::done(outcome.map(drop)));
            }
            Work::Other(token) => self.finish(token, None, files::done(outcome.map(drop))),
            Work::Transfer(_) => unreachable!("served above"),
        }
    }

    fn handle_transferred(&mut self, index: u32, life: u32) {
        let Work::Transfer(transfer) = self.in_flight.remove(index, life).work else {
            unreachable!("only transfers end here")
        };
        self.commits -= usize::from(transfer.is_commit());
        let result = transfer.result();
        self.finish(transfer.token, Some(transfer.buffer), result);
    }

    fn handle_opened(&mut self, ring: &mut Ring, file: FileName, answer: Result<u32, i32>) {
        let waiting = self.opening.remove(&file).unwrap_or_default();
        match answer {
            Ok(raw) => {
                let descriptor = self.files.opened_as(file, owned(raw));
                for op in waiting {
                    self.submit_on(ring, descriptor.clone(), op);
                }
            }
            Err(errno) => {
                for op in waiting {
                    let token = op.token();
                    let buffer = match op {
                        DiskOp::Write { buffer, .. } | DiskOp::Read { buffer, .. } => Some(buffer),
                        _ => None,
                    };
                    self.finish(token, buffer, Err(sys::disk_error(errno)));
                }
            }
        }
    }

    fn allocate(
        &mut self,
        ring: &mut Ring,
        token: DiskToken,
        (file, bytes): (FileName, u64),
        descriptor: OwnedFd,
    ) {
        let descriptor = self.files.opened_as(file, descriptor);
        if bytes == 0 {
            return self.finish(token, None, Ok(DiskOutcome::Done));
        }
        let entry = opcode::Fallocate::new(types::Fd(descriptor.as_raw_fd()), bytes).build();
        let work = Work::Allocate { token, file };
        self.submit_one(ring, entry, work, Kept::Descriptor(descriptor));
    }

    fn finish(
        &mut self,
        token: DiskToken,
        buffer: Option<AlignedBuf>,
        result: Result<DiskOutcome, DiskError>,
    ) {
        self.done.push_back(DiskDone {
            token,
            buffer,
            result,
        });
    }

    /// The next finished operation.
    pub fn poll_done(&mut self) -> Option<DiskDone> {
        self.done.pop_front()
    }

    /// Whether a commit is on its way.
    #[must_use]
    pub fn is_committing(&self) -> bool {
        self.commits > 0
    }

    /// Operations that the kernel has.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.in_flight.is_empty() {
            // The kernel may still write into these buffers: their memory is given up, not freed.
            std::mem::forget(std::mem::take(&mut self.in_flight));
        }
    }
}

/// What a completion made of a transfer.
enum Progress {
    Waiting,
    Resume,
    Finished,
}

impl Transfer {
    fn new(
        token: DiskToken,
        descriptor: Arc<OwnedFd>,
        buffer: AlignedBuf,
        position: u64,
        direction: Direction,
    ) -> Self {
        assert!(buffer.len() <= i32::MAX as usize, "one transfer fits a CQE");
        Self {
            token,
            descriptor,
            buffer,
            position,
            direction,
            moved: 0,
            completions_left: 0,
            failure: None,
        }
    }

    fn is_commit(&self) -> bool {
        matches!(
            self.direction,
            Direction::Write(WriteSync::Dsync | WriteSync::LinkedFdatasync)
        )
    }

    fn entry(&mut self) -> Entry {
        let fd = types::Fd(self.descriptor.as_raw_fd());
        let position = self.position + self.moved as u64;
        let rest = &mut self.buffer[self.moved..];
        let bytes = rest.len() as u32;
        match self.direction {
            Direction::Read => opcode::Read::new(fd, rest.as_mut_ptr(), bytes)
                .offset(position)
                .build(),
            Direction::Write(sync) => {
                let flags = match sync {
                    WriteSync::Dsync => libc::RWF_DSYNC,
                    _ => 0,
                };
                opcode::Write::new(fd, rest.as_ptr(), bytes)
                    .offset(position)
                    .rw_flags(flags)
                    .build()
            }
        }
    }

    fn advance(&mut self, kind: Kind, outcome: Result<u32, i32>) -> Progress {
        self.completions_left -= 1;
        match outcome {
            Ok(bytes) if kind == Kind::Disk => {
                let bytes = bytes as usize;
                self.moved += bytes;
                let more_to_read = self.direction == Direction::Read
                    && self.moved < self.buffer.len()
                    && !files::ends_file(bytes);
                if more_to_read {
                    return Progress::Resume;
                }
            }
            Ok(_) => {}
            // The write's own failure says more than the cancelling of the sync behind it.
            Err(errno) if kind == Kind::Disk => self.failure = Some(errno),
            Err(libc::ECANCELED) if self.moved < self.buffer.len() => {}
            Err(errno) => self.failure = self.failure.or(Some(errno)),
        }
        if self.completions_left == 0 {
            Progress::Finished
        } else {
            Progress::Waiting
        }
    }

    fn result(&self) -> Result<DiskOutcome, DiskError> {
        match self.failure {
            Some(errno) => Err(sys::disk_error(errno)),
            None => Ok(files::transferred(self.moved, self.buffer.len())),
        }
    }
}

fn data_sync(fd: types::Fd) -> Entry {
    opcode::Fsync::new(fd)
        .flags(types::FsyncFlags::DATASYNC)
        .build()
}

/// The descriptor that an open completed with.
fn owned(raw: u32) -> OwnedFd {
    // SAFETY: the kernel made this descriptor for our open and told nobody else.
    unsafe { OwnedFd::from_raw_fd(raw as i32) }
}

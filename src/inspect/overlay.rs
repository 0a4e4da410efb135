//! A shard's disk for a rehearsal: reads come from the stored files, writes stay in memory. A
//! store opened on it goes through the whole recovery, and the directory is as it was.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;
use std::rc::Rc;

use millrace_net::uring::sys;
use millrace_storage::buf::AlignedBuf;
use millrace_storage::disk::{
    DiskDone, DiskError, DiskOp, DiskOutcome, DiskSpace, FileName, Listing,
};
use millrace_storage::units::{FilePosition, PAGE_BYTES, ShardId};

use super::stored::StoredFile;

const PAGE: u64 = PAGE_BYTES as u64;

/// The error of an operation that a rehearsal has no use for: EIO.
const UNEXPECTED: DiskError = DiskError::Io { errno: 5 };

/// All shards of a data directory, as far as a rehearsal has changed them.
#[derive(Clone, Default)]
pub(super) struct Overlay(Rc<RefCell<BTreeMap<ShardId, Shard>>>);

#[derive(Default)]
struct Shard {
    files: BTreeMap<FileName, Layered>,
    foreign: Vec<String>,
}

/// A file: what is stored, under what was written since.
#[derive(Clone)]
struct Layered {
    below: Option<StoredFile>,
    /// By page number.
    written: HashMap<u64, Rc<[u8]>>,
    bytes: u64,
}

impl Overlay {
    /// Adds a shard's directory.
    pub(super) fn add(&self, shard: ShardId, directory: &Path) -> io::Result<()> {
        let mut found = Shard::default();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let parsed = FileName::parse(&name);
            let is_file = entry.metadata()?.is_file();
            let Some(file) = parsed.filter(|_| is_file) else {
                found.foreign.push(name);
                continue;
            };
            let stored = StoredFile::new(&entry.path())?;
            let layered = Layered {
                bytes: stored.bytes(),
                below: Some(stored),
                written: HashMap::new(),
            };
            found.files.insert(file, layered);
        }
        self.0.borrow_mut().insert(shard, found);
        Ok(())
    }

    /// Performs operations on one shard's directory.
    pub(super) fn disk(&self, shard: ShardId) -> impl FnMut(DiskOp) -> DiskDone + use<> {
        let overlay = self.clone();
        move |op| overlay.perform(shard, op)
    }

    /// The files of a shard as they lie in its directory, untouched by the rehearsal.
    pub(super) fn stored(&self, shard: ShardId) -> Vec<(FileName, StoredFile)> {
        let shards = self.0.borrow();
        let files = shards
            .get(&shard)
            .into_iter()
            .flat_map(|found| &found.files);
        files
            .filter_map(|(file, layered)| Some((*file, layered.below.clone()?)))
            .collect()
    }

    /// Length of the log's files, as far as there are any but the first one, which may be shorter.
    pub(super) fn wal_file_bytes(&self) -> Option<u64> {
        let shards = self.0.borrow();
        let files = shards.values().flat_map(|found| &found.files);
        let later = files.filter(|(file, _)| matches!(file, FileName::Wal(1..)));
        let bytes = later.map(|(_, layered)| layered.bytes);
        bytes.filter(|bytes| bytes.is_multiple_of(PAGE)).max()
    }

    fn perform(&self, shard: ShardId, op: DiskOp) -> DiskDone {
        let token = op.token();
        let (result, buffer) = match op {
            DiskOp::Link {
                from_shard,
                from,
                to,
                ..
            } => (self.link(from_shard, from, shard, to), None),
            // A directory that is missing is an empty one.
            op => self.0.borrow_mut().entry(shard).or_default().perform(op),
        };
        DiskDone {
            token,
            buffer,
            result,
        }
    }

    fn link(
        &self,
        from_shard: ShardId,
        from: FileName,
        to_shard: ShardId,
        to: FileName,
    ) -> Result<DiskOutcome, DiskError> {
        let mut shards = self.0.borrow_mut();
        let source = shards
            .get(&from_shard)
            .and_then(|found| found.files.get(&from));
        // The files that follow a partition to a new home are immutable: a copy is as good.
        let source = source.cloned().ok_or(DiskError::NotFound)?;
        let target = shards.entry(to_shard).or_default();
        if target.files.contains_key(&to) {
            return Err(DiskError::AlreadyExists);
        }
        target.files.insert(to, source);
        Ok(DiskOutcome::Done)
    }
}

type Performed = (Result<DiskOutcome, DiskError>, Option<AlignedBuf>);

impl Shard {
    fn perform(&mut self, op: DiskOp) -> Performed {
        let plain = |result: Result<(), DiskError>| (result.map(|()| DiskOutcome::Done), None);
        match op {
            DiskOp::Create { file, bytes, .. } => plain(self.create(file, bytes)),
            DiskOp::Write {
                file,
                position,
                buffer,
                ..
            } => {
                let written = self.file(file).map(|file| file.write(position, &buffer));
                (written.map(|()| DiskOutcome::Done), Some(buffer))
            }
            DiskOp::Read {
                file,
                position,
                mut buffer,
                ..
            } => {
                let file = self.file(file);
                let read = file.and_then(|file| file.read(position, &mut buffer));
                (read, Some(buffer))
            }
            DiskOp::Sync { .. } | DiskOp::SyncDirectory { .. } => plain(Ok(())),
            DiskOp::Rename { from, to, .. } => plain(match self.files.remove(&from) {
                None => Err(DiskError::NotFound),
                Some(file) => {
                    self.files.insert(to, file);
                    Ok(())
                }
            }),
            DiskOp::Link { .. } => plain(Err(UNEXPECTED)),
            DiskOp::Remove { file, .. } => plain(
                self.files
                    .remove(&file)
                    .map(drop)
                    .ok_or(DiskError::NotFound),
            ),
            // What is punched is never read again; leaving it is as good.
            DiskOp::PunchHole { file, .. } => plain(self.file(file).map(drop)),
            DiskOp::List { .. } => (Ok(DiskOutcome::Listed(self.listing())), None),
            DiskOp::Space { .. } => {
                let room = DiskSpace {
                    available_bytes: 1 << 40,
                    total_bytes: 1 << 40,
                };
                (Ok(DiskOutcome::Space(room)), None)
            }
        }
    }

    fn create(&mut self, file: FileName, bytes: u64) -> Result<(), DiskError> {
        if self.files.contains_key(&file) {
            return Err(DiskError::AlreadyExists);
        }
        let layered = Layered {
            below: None,
            written: HashMap::new(),
            bytes,
        };
        self.files.insert(file, layered);
        Ok(())
    }

    fn file(&mut self, file: FileName) -> Result<&mut Layered, DiskError> {
        self.files.get_mut(&file).ok_or(DiskError::NotFound)
    }

    fn listing(&self) -> Listing {
        Listing {
            files: self
                .files
                .iter()
                .map(|(file, layered)| (*file, layered.bytes))
                .collect(),
            foreign: self.foreign.clone(),
        }
    }
}

impl Layered {
    fn write(&mut self, position: FilePosition, bytes: &[u8]) {
        for (index, page) in (position.0 / PAGE..).zip(bytes.chunks(PAGE_BYTES)) {
            // A new file reads as zeros anyway: filling one with them costs nothing.
            let blank = self.below.is_none() && page.iter().all(|byte| *byte == 0);
            if !blank || self.written.contains_key(&index) {
                self.written.insert(index, page.into());
            }
        }
        self.bytes = self.bytes.max(position.0 + bytes.len() as u64);
    }

    fn read(&self, position: FilePosition, buffer: &mut [u8]) -> Result<DiskOutcome, DiskError> {
        let there = usize::try_from(self.bytes.saturating_sub(position.0)).unwrap_or(usize::MAX);
        let wanted = buffer.len();
        let reached = wanted.min(there);
        let pages = position.0 / PAGE..(position.0 + wanted as u64).div_ceil(PAGE);
        let is_written = pages.clone().any(|page| self.written.contains_key(&page));
        if is_written {
            for (page, part) in pages.zip(buffer.chunks_mut(PAGE_BYTES)) {
                match self.written.get(&page) {
                    Some(written) => part[..written.len()].copy_from_slice(written),
                    None => self.read_below(page * PAGE, part)?,
                }
            }
        } else {
            self.read_below(position.0, buffer)?;
        }
        Ok(if reached == wanted {
            DiskOutcome::Done
        } else {
            DiskOutcome::Transferred(reached)
        })
    }

    /// Reads what is stored. A sector that cannot be read fails as it would fail a broker.
    fn read_below(&self, position: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let Some(below) = &self.below else {
            buffer.fill(0);
            return Ok(());
        };
        let read = below.read(position, buffer);
        read.map_err(|error| error.raw_os_error().map_or(UNEXPECTED, sys::disk_error))
    }
}

#[cfg(test)]
mod tests {
    use millrace_storage::disk::{DiskToken, WriteSync};

    use super::*;

    const FILE: FileName = FileName::Wal(0);
    const TOKEN: DiskToken = DiskToken(1);

    fn page(byte: u8) -> AlignedBuf {
        let mut page = AlignedBuf::zeroed(PAGE_BYTES);
        page.fill(byte);
        page
    }

    fn write(file: FileName, position: u64, byte: u8) -> DiskOp {
        DiskOp::Write {
            token: TOKEN,
            file,
            position: FilePosition(position),
            buffer: page(byte),
            sync: WriteSync::Dsync,
        }
    }

    fn read(file: FileName, position: u64) -> DiskOp {
        DiskOp::Read {
            token: TOKEN,
            file,
            position: FilePosition(position),
            buffer: page(0xFF),
        }
    }

    #[test]
    fn writes_are_seen_and_never_reach_the_directory() {
        let name = format!("millrace-overlay-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("wal-000000"), [7; 2 * PAGE_BYTES]).unwrap();
        fs::write(directory.join("notes"), "mine").unwrap();
        let overlay = Overlay::default();
        overlay.add(ShardId(0), &directory).unwrap();
        let mut disk = overlay.disk(ShardId(0));

        assert_eq!(disk(write(FILE, PAGE, 9)).result, Ok(DiskOutcome::Done));
        assert_eq!(disk(read(FILE, 0)).buffer.unwrap()[0], 7);
        assert_eq!(disk(read(FILE, PAGE)).buffer.unwrap()[0], 9);
        let behind = disk(read(FILE, 2 * PAGE));
        assert_eq!(behind.result, Ok(DiskOutcome::Transferred(0)));
        let rename = DiskOp::Rename {
            token: TOKEN,
            from: FILE,
            to: FileName::Wal(5),
        };
        assert_eq!(disk(rename).result, Ok(DiskOutcome::Done));
        assert_eq!(disk(read(FILE, 0)).result, Err(DiskError::NotFound));
        let listed = disk(DiskOp::List { token: TOKEN }).result;
        let Ok(DiskOutcome::Listed(listing)) = listed else {
            panic!("not a listing: {listed:?}")
        };
        assert_eq!(listing.files, [(FileName::Wal(5), 2 * PAGE)]);
        assert_eq!(listing.foreign, ["notes"]);

        let untouched = fs::read(directory.join("wal-000000")).unwrap();
        assert!(untouched.iter().all(|byte| *byte == 7));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_filled_file_costs_only_what_is_not_zero() {
        let mut shard = Shard::default();
        shard.create(FILE, 0).unwrap();
        for index in 0..8 {
            let _ = shard.perform(write(FILE, index * PAGE, 0));
        }
        let _ = shard.perform(write(FILE, PAGE, 1));
        let file = shard.file(FILE).unwrap();
        assert_eq!((file.written.len(), file.bytes), (1, 8 * PAGE));
    }
}

//! One shard's directory: names, descriptors, and its operations one at a time.
//!
//! While a store opens, nothing else runs on its thread, so its operations are plain system calls
//! here ([`Files::run`]). Afterwards [`super::disk::Disk`] performs the same ones on the ring, with
//! the descriptors that are open by then.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_storage::disk::{
    DiskDone, DiskError, DiskOp, DiskOutcome, FileName, Listing, WriteSync,
};
use millrace_storage::units::{PAGE_BYTES, ShardId};

use super::sys::{self, Errno};

/// A shard's directory and its open files.
#[derive(Debug)]
pub struct Files {
    path: PathBuf,
    /// The data directory: other shards' files are linked from there.
    data_directory: Arc<OwnedFd>,
    directory: Arc<OwnedFd>,
    open: HashMap<FileName, OpenFile>,
    /// Descriptors kept at most; the least recently used idle one is closed for the next.
    files_open_max: usize,
    /// The same while a start runs, which goes through all shards' directories by turns.
    start_open_max: Option<usize>,
    /// Counts uses, to tell which file was used last.
    uses: u64,
}

/// A descriptor, shared with the operations that use it.
#[derive(Debug)]
struct OpenFile {
    descriptor: Arc<OwnedFd>,
    last_use: u64,
}

impl Files {
    /// Opens `shard-N` of the data directory, creating it if it is missing; it is there durably.
    ///
    /// # Errors
    /// The directory cannot be created or opened.
    pub fn open(data_dir: &Path, shard: ShardId, files_open_max: usize) -> io::Result<Self> {
        assert!(files_open_max > 0);
        sys::ignore_file_size_signal();
        let path = data_dir.join(directory_name(shard));
        let data_directory = OwnedFd::from(fs::File::open(data_dir)?);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Sync the parent too: a directory whose name is lost is lost with all its files. Also that
        // of one that was there: the start that made it may have been killed before it came here.
        sys::sync_all(data_directory.as_fd()).map_err(io::Error::from_raw_os_error)?;
        Ok(Self {
            directory: Arc::new(OwnedFd::from(fs::File::open(&path)?)),
            path,
            data_directory: Arc::new(data_directory),
            open: HashMap::new(),
            files_open_max,
            start_open_max: None,
            uses: 0,
        })
    }

    /// Keeps no more than so many files open, log files among them, until a driver takes over.
    pub fn limit_start(&mut self, files_open_max: usize) {
        assert!(files_open_max > 0);
        self.start_open_max = Some(files_open_max);
    }

    /// Keeps no more than so many files open from now on, for a driver.
    pub(super) fn limit(&mut self, files_open_max: usize) {
        assert!(files_open_max > 0);
        self.start_open_max = None;
        self.files_open_max = self.files_open_max.min(files_open_max);
        while self.open.len() > self.files_open_max && self.close_idle() {}
    }

    /// Descriptors kept at most now.
    fn open_max(&self) -> usize {
        let start = self.start_open_max.unwrap_or(self.files_open_max);
        start.min(self.files_open_max)
    }

    /// Performs one operation to its end.
    pub fn run(&mut self, op: DiskOp) -> DiskDone {
        let token = op.token();
        let (buffer, result) = match op {
            DiskOp::Write {
                file,
                position,
                buffer,
                sync,
                ..
            } => {
                let result = self.write(file, position.0, &buffer, sync);
                (Some(buffer), result)
            }
            DiskOp::Read {
                file,
                position,
                mut buffer,
                ..
            } => {
                let result = self.read(file, position.0, &mut buffer);
                (Some(buffer), result)
            }
            DiskOp::List { .. } => (None, self.list().map(DiskOutcome::Listed)),
            DiskOp::Space { .. } => (None, self.space().map(DiskOutcome::Space)),
            other => (None, self.change(&other).map(|()| DiskOutcome::Done)),
        };
        DiskDone {
            token,
            buffer,
            result: result.map_err(sys::disk_error),
        }
    }

    fn write(
        &mut self,
        file: FileName,
        position: u64,
        buffer: &[u8],
        sync: WriteSync,
    ) -> Errno<DiskOutcome> {
        let descriptor = self.descriptor(file)?;
        let dsync = sync == WriteSync::Dsync;
        let written = sys::write_at(descriptor.as_fd(), buffer, position, dsync)?;
        if written < buffer.len() {
            return Ok(DiskOutcome::Transferred(written));
        }
        if sync == WriteSync::LinkedFdatasync {
            sys::sync_data(descriptor.as_fd())?;
        }
        Ok(DiskOutcome::Done)
    }

    fn read(&mut self, file: FileName, position: u64, buffer: &mut [u8]) -> Errno<DiskOutcome> {
        let descriptor = self.descriptor(file)?;
        let mut filled = 0;
        while filled < buffer.len() {
            let from = position + filled as u64;
            let bytes = sys::read_at(descriptor.as_fd(), &mut buffer[filled..], from)?;
            filled += bytes;
            if ends_file(bytes) {
                break;
            }
        }
        Ok(transferred(filled, buffer.len()))
    }

    /// The operations that carry no buffer.
    fn change(&mut self, op: &DiskOp) -> Errno<()> {
        match op {
            DiskOp::Create { file, bytes, .. } => self.create(*file, *bytes),
            DiskOp::Sync { file, .. } => sys::sync_data(self.descriptor(*file)?.as_fd()),
            DiskOp::SyncDirectory { .. } => sys::sync_all(self.directory.as_fd()),
            DiskOp::Rename { from, to, .. } => {
                self.forget(*to);
                sys::rename_at(self.directory.as_fd(), &c_name(*from), &c_name(*to))?;
                self.renamed(*from, *to);
                Ok(())
            }
            DiskOp::Link {
                from_shard,
                from,
                to,
                ..
            } => sys::link_at(
                self.data_directory.as_fd(),
                &c_name_in_shard(*from_shard, *from),
                self.directory.as_fd(),
                &c_name(*to),
            ),
            DiskOp::Remove { file, .. } => {
                self.forget(*file);
                sys::unlink_at(self.directory.as_fd(), &c_name(*file))
            }
            DiskOp::PunchHole {
                file,
                position,
                bytes,
                ..
            } => sys::punch_hole(self.descriptor(*file)?.as_fd(), position.0, *bytes),
            DiskOp::Write { .. }
            | DiskOp::Read { .. }
            | DiskOp::List { .. }
            | DiskOp::Space { .. } => unreachable!("`run` serves these itself"),
        }
    }

    fn create(&mut self, file: FileName, bytes: u64) -> Errno<()> {
        let descriptor = self.open_now(file, sys::OPEN_FLAGS | CREATE_FLAGS)?;
        if bytes == 0 {
            return Ok(());
        }
        sys::allocate(descriptor.as_fd(), bytes).inspect_err(|_| self.uncreate(file))
    }

    /// Removes a file whose space could not be had: half a file must not pass for a created one.
    /// The creation is reported as failed in any case, so a failure here leaves an unused file.
    pub(super) fn uncreate(&mut self, file: FileName) {
        self.forget(file);
        if let Err(errno) = sys::unlink_at(self.directory.as_fd(), &c_name(file)) {
            tracing::warn!("{file}: cannot remove it after a failed creation: errno {errno}");
        }
    }

    /// The descriptor of a file, opened if need be.
    fn descriptor(&mut self, file: FileName) -> Errno<Arc<OwnedFd>> {
        match self.opened(file) {
            Some(descriptor) => Ok(descriptor),
            None => self.open_now(file, sys::OPEN_FLAGS),
        }
    }

    fn open_now(&mut self, file: FileName, flags: i32) -> Errno<Arc<OwnedFd>> {
        let descriptor = sys::open_at(self.directory.as_fd(), &c_name(file), flags)?;
        Ok(self.opened_as(file, descriptor))
    }

    /// The file's descriptor if it is open.
    pub(super) fn opened(&mut self, file: FileName) -> Option<Arc<OwnedFd>> {
        self.uses += 1;
        let open = self.open.get_mut(&file)?;
        open.last_use = self.uses;
        Some(open.descriptor.clone())
    }

    /// Keeps a descriptor that was opened for `file`.
    pub(super) fn opened_as(&mut self, file: FileName, descriptor: OwnedFd) -> Arc<OwnedFd> {
        while self.open.len() >= self.open_max() && self.close_idle() {}
        self.uses += 1;
        let descriptor = Arc::new(descriptor);
        let open = OpenFile {
            descriptor: descriptor.clone(),
            last_use: self.uses,
        };
        self.open.insert(file, open);
        descriptor
    }

    /// Whether another file may be opened beside so many that are being opened: closes an idle one
    /// if it must. While not, one is going to be idle: a completion is on its way.
    pub(super) fn makes_room(&mut self, opening: usize) -> bool {
        while self.open.len() + opening >= self.open_max() {
            if !self.close_idle() {
                // Where all is taken by what stays open, waiting would bring nothing.
                return opening == 0 && self.open.keys().all(|name| self.stays(*name));
            }
        }
        true
    }

    /// Once a driver has them, WAL files stay open: the next commit must not wait for an open.
    fn stays(&self, name: FileName) -> bool {
        matches!(name, FileName::Wal(_)) && self.start_open_max.is_none()
    }

    /// Closes the least recently used file that no operation uses. Whether there was one.
    fn close_idle(&mut self) -> bool {
        let idle = self
            .open
            .iter()
            .filter(|(name, open)| !self.stays(**name) && Arc::strong_count(&open.descriptor) == 1)
            .min_by_key(|(_, open)| open.last_use)
            .map(|(name, _)| *name);
        idle.is_some_and(|name| self.open.remove(&name).is_some())
    }

    /// Closes the file before its name goes, so that freeing its blocks is the unlinking thread's
    /// work and not that of whoever drops the last descriptor.
    pub(super) fn forget(&mut self, file: FileName) {
        self.open.remove(&file);
    }

    /// The file that was called `from` is called `to` now.
    pub(super) fn renamed(&mut self, from: FileName, to: FileName) {
        if let Some(open) = self.open.remove(&from) {
            self.open.insert(to, open);
        }
    }

    /// The shard's directory.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The data directory.
    pub(super) fn data_directory(&self) -> BorrowedFd<'_> {
        self.data_directory.as_fd()
    }

    /// The directory's files.
    pub(super) fn list(&self) -> Errno<Listing> {
        self.read_directory()
            .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    }

    fn read_directory(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let text = entry.file_name().to_string_lossy().into_owned();
            let metadata = entry.metadata()?;
            match FileName::parse(&text) {
                Some(name) if metadata.is_file() => listing.files.push((name, metadata.len())),
                _ => listing.foreign.push(text),
            }
        }
        listing.files.sort_unstable_by_key(|(name, _)| *name);
        listing.foreign.sort_unstable();
        Ok(listing)
    }

    /// The file system's space.
    pub(super) fn space(&self) -> Errno<millrace_storage::disk::DiskSpace> {
        sys::space(self.directory.as_fd())
    }
}

/// Name of a shard's directory.
#[must_use]
pub fn directory_name(shard: ShardId) -> String {
    format!("shard-{shard}")
}

/// Added to a file's flags to create it.
pub(super) const CREATE_FLAGS: i32 = libc::O_CREAT | libc::O_EXCL;

/// A file's name for the kernel.
pub(super) fn c_name(file: FileName) -> CString {
    CString::new(file.to_string()).expect("our names hold no zero byte")
}

/// A file's name relative to the data directory.
pub(super) fn c_name_in_shard(shard: ShardId, file: FileName) -> CString {
    CString::new(format!("{}/{file}", directory_name(shard))).expect("our names hold no zero byte")
}

/// How a read or write of `wanted` bytes is reported that moved `moved`.
pub(super) fn transferred(moved: usize, wanted: usize) -> DiskOutcome {
    assert!(moved <= wanted);
    if moved == wanted {
        DiskOutcome::Done
    } else {
        DiskOutcome::Transferred(moved)
    }
}

/// Whether one read of so many bytes met the file's end: O_DIRECT reads stop within a page there
/// and nowhere else.
pub(super) fn ends_file(bytes: usize) -> bool {
    bytes == 0 || !bytes.is_multiple_of(PAGE_BYTES)
}

/// The outcome of an operation that has nothing to say but an errno.
pub(super) fn done(result: Errno<()>) -> Result<DiskOutcome, DiskError> {
    result.map(|()| DiskOutcome::Done).map_err(sys::disk_error)
}

#[cfg(test)]
mod tests {
    use millrace_storage::disk::DiskToken;
    use millrace_storage::units::PackId;

    use super::*;

    fn create(files: &mut Files, file: FileName) {
        let op = DiskOp::Create {
            token: DiskToken(0),
            file,
            bytes: 0,
        };
        files.run(op).result.expect("created");
    }

    #[test]
    fn a_start_keeps_few_files_open_and_a_driver_all_of_the_log() {
        let name = format!("../target/files-{}", std::process::id());
        let data_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        fs::create_dir_all(&data_dir).expect("a directory");
        let mut files = Files::open(&data_dir, ShardId(0), 8).expect("it opens");
        files.limit_start(2);
        for number in 0..6 {
            create(&mut files, FileName::Wal(number));
            create(&mut files, FileName::Pack(PackId(u64::from(number))));
            assert!(files.open.len() <= 2, "{:?}", files.open.keys());
        }
        assert!(files.opened(FileName::Wal(5)).is_some(), "used last");
        files.limit(100);
        for number in 0..6 {
            let again = files.descriptor(FileName::Wal(number));
            again.expect("it is there");
        }
        for number in 0..6 {
            let again = files.descriptor(FileName::Pack(PackId(number)));
            again.expect("it is there");
            assert!(files.open.len() <= 8, "{:?}", files.open.keys());
        }
        files.limit(7);
        assert_eq!(files.open.len(), 7, "closed at once");
        let logs = files.open.keys().filter(|f| matches!(f, FileName::Wal(_)));
        assert_eq!(logs.count(), 6, "the log stays");
        fs::remove_dir_all(&data_dir).expect("removed");
    }
}

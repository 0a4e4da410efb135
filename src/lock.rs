//! One process per data directory: an advisory lock that dies with its holder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use crate::exit::Failure;

const LOCK_FILE: &str = "lock";

/// Holds a data directory until dropped. The kernel releases it when the process dies, however
/// it dies, so a lock file that is left behind means nothing.
#[derive(Debug)]
pub struct DirectoryLock {
    /// `None`: nobody can have locked it, see [`DirectoryLock::take_to_read`].
    _file: Option<File>,
}

impl DirectoryLock {
    /// Takes the directory, creating it when missing.
    ///
    /// # Errors
    /// [`Failure::Locked`] names the process that has it.
    pub fn take(directory: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(directory).map_err(Failure::io(directory))?;
        let file = open_to_write(directory).map_err(Failure::io(directory.join(LOCK_FILE)))?;
        lock(directory, file)
    }

    /// Takes a directory that must exist, and that is only read: it may be one that cannot be
    /// written to, as a snapshot.
    ///
    /// # Errors
    /// [`Failure::Locked`] names the process that has it.
    pub fn take_to_read(directory: &Path) -> Result<Self, Failure> {
        let path = directory.join(LOCK_FILE);
        let file = match open_to_write(directory) {
            Err(error) if is_read_only(error.kind()) => match File::open(&path) {
                // Whoever served it would have made one, and here nobody can.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Ok(Self { _file: None });
                }
                opened => opened,
            },
            opened => opened,
        };
        lock(directory, file.map_err(Failure::io(&path))?)
    }
}

fn open_to_write(directory: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(directory.join(LOCK_FILE))
}

fn is_read_only(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
    )
}

fn lock(directory: &Path, mut file: File) -> Result<DirectoryLock, Failure> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(error)) => {
            let path = directory.join(LOCK_FILE);
            return Err(Failure::Io { path, error });
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(Failure::Locked {
                path: directory.to_owned(),
                reason: format!("in use by process {}", holder.trim()),
            });
        }
    }
    // Always as long, so that it takes the place of the last holder's: a full disk has no block
    // for it otherwise. The number is for people, and the lock holds without it.
    let _ = file.write_all(format!("{:<20}\n", std::process::id()).as_bytes());
    Ok(DirectoryLock { _file: Some(file) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_second_holder_is_refused_by_name_until_the_first_lets_go() {
        let directory = std::env::temp_dir().join(format!("millrace-lock-{}", std::process::id()));
        let first = DirectoryLock::take(&directory).unwrap();
        let refusal = DirectoryLock::take(&directory).unwrap_err();
        let own = format!("in use by process {}", std::process::id());
        assert!(refusal.to_string().ends_with(&own), "{refusal}");
        drop(first);
        DirectoryLock::take_to_read(&directory).unwrap();
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_holder_writes_its_number_over_that_of_the_last() {
        let name = format!("millrace-lock-again-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        drop(DirectoryLock::take(&directory).unwrap());
        let path = directory.join(LOCK_FILE);
        let before = fs::metadata(&path).unwrap();
        fs::write(&path, format!("{:<20}\n", u32::MAX)).unwrap();
        drop(DirectoryLock::take(&directory).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim(), std::process::id().to_string());
        let after = fs::metadata(&path).unwrap();
        assert_eq!((after.len(), after.ino()), (before.len(), before.ino()));
        fs::remove_dir_all(&directory).unwrap();
    }

    /// `/sys` takes no files, as a file system that is mounted read-only.
    #[test]
    fn a_directory_that_nobody_can_write_to_is_read_without_a_lock_file() {
        let directory = Path::new("/sys/kernel");
        DirectoryLock::take_to_read(directory).unwrap();
        assert!(DirectoryLock::take(directory).is_err());
    }
}

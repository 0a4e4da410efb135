//! One process per data directory: an advisory lock that dies with its holder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::exit::Failure;

const LOCK_FILE: &str = "lock";

/// Holds a data directory until dropped. The kernel releases it when the process dies, however
/// it dies, so a lock file that is left behind means nothing.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the directory, creating it when missing.
    ///
    /// # Errors
    /// [`Failure::Locked`] names the process that has it.
    pub fn take(directory: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(directory).map_err(Failure::io(directory))?;
        Self::take_existing(directory)
    }

    /// Takes a directory that must exist.
    ///
    /// # Errors
    /// [`Failure::Locked`] names the process that has it.
    pub fn take_existing(directory: &Path) -> Result<Self, Failure> {
        let path = directory.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Failure::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(Failure::Io { path, error }),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                return Err(Failure::Locked {
                    path: directory.to_owned(),
                    reason: format!("in use by process {}", holder.trim()),
                });
            }
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(Failure::io(&path))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_by_name_until_the_first_lets_go() {
        let directory = std::env::temp_dir().join(format!("millrace-lock-{}", std::process::id()));
        let first = DirectoryLock::take(&directory).unwrap();
        let refusal = DirectoryLock::take(&directory).unwrap_err();
        let own = format!("in use by process {}", std::process::id());
        assert!(refusal.to_string().ends_with(&own), "{refusal}");
        drop(first);
        DirectoryLock::take_existing(&directory).unwrap();
        fs::remove_dir_all(&directory).unwrap();
    }
}

//! Files of a stopped data directory, mapped read-only. The only unsafe code of this crate.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// A file's bytes. An empty file has none to map.
pub(super) struct MappedFile(Option<Mmap>);

impl MappedFile {
    /// Maps the file at `path`, in a directory whose lock is held for as long as the map lives.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self(None));
        }
        // SAFETY: The bytes must not change while they are borrowed. Only a broker writes these
        // files, and `inspect` holds the directory's lock, which keeps every broker out.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self(Some(map)))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

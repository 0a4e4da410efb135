//! Files of a stopped data directory, read where they lie, and around what cannot be read.
//!
//! Nothing stays open: a directory may have more files than a process may have descriptors.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use millrace_storage::units::PAGE_BYTES;

/// Bytes of one read.
const STEP_BYTES: usize = 4 << 20;

/// A file that nobody writes: its directory is locked.
#[derive(Clone, Debug)]
pub(super) struct StoredFile {
    path: PathBuf,
    bytes: u64,
}

/// What a file holds, as far as it was asked for and can be read; zeros elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) bytes: Vec<u8>,
    /// What cannot be read, and why; whole pages, ascending.
    pub(super) unreadable: Vec<(Range<u64>, String)>,
}

impl StoredFile {
    /// The file at `path`.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            bytes: fs::metadata(path)?.len(),
        })
    }

    /// Its length.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fills `buffer` from `position` on, with zeros behind the file's end.
    pub(super) fn read(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        let file = File::open(&self.path)?;
        read_full(&|at, part| file.read_at(part, at), position, buffer)
    }

    /// The file's contents in `ranges`, which are in whole pages and ascend, up to the last one.
    pub(super) fn contents(&self, ranges: &[Range<u64>]) -> io::Result<Contents> {
        let file = File::open(&self.path)?;
        let end = ranges.last().map_or(0, |range| range.end.min(self.bytes));
        let length = usize::try_from(end).map_err(io::Error::other)?;
        let mut contents = Contents {
            bytes: vec![0; length],
            unreadable: Vec::new(),
        };
        for range in ranges {
            contents.read_range(range, &|at, part| file.read_at(part, at));
        }
        Ok(contents)
    }
}

/// Reads once at a position; returns how much that brought.
type ReadAt<'a> = dyn Fn(u64, &mut [u8]) -> io::Result<usize> + 'a;

fn read_full(read_at: &ReadAt<'_>, position: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read_at(position + filled as u64, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer[filled..].fill(0);
    Ok(())
}

impl Contents {
    /// Reads a range in large steps, and page by page where that fails.
    fn read_range(&mut self, range: &Range<u64>, read_at: &ReadAt<'_>) {
        let length = self.bytes.len();
        let within = |at: u64| usize::try_from(at).unwrap_or(length).min(length);
        let (mut at, end) = (within(range.start), within(range.end));
        while at < end {
            let step = at..end.min(at + STEP_BYTES);
            at = step.end;
            let buffer = &mut self.bytes[step.clone()];
            if read_full(read_at, step.start as u64, buffer).is_ok() {
                continue;
            }
            for page in step.clone().step_by(PAGE_BYTES) {
                let page = page..step.end.min(page + PAGE_BYTES);
                let buffer = &mut self.bytes[page.clone()];
                if let Err(error) = read_full(read_at, page.start as u64, buffer) {
                    buffer.fill(0);
                    self.note(page.start as u64..page.end as u64, &error);
                }
            }
        }
    }

    /// Notes that `page` cannot be read; neighbours that fail alike are one range.
    fn note(&mut self, page: Range<u64>, error: &io::Error) {
        let why = error.to_string();
        match self.unreadable.last_mut() {
            Some((range, known)) if range.end == page.start && *known == why => {
                range.end = page.end;
            }
            _ => self.unreadable.push((page, why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = PAGE_BYTES as u64;
    const EIO: i32 = 5;

    /// A file of 3000 pages, each filled with its number; `bad` pages cannot be read.
    fn read_at(bad: &[u64], at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let end = at + buffer.len() as u64;
        let fails = |page: &u64| *page * PAGE < end && (*page + 1) * PAGE > at;
        if bad.iter().any(fails) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        for (byte, at) in buffer.iter_mut().zip(at..) {
            *byte = (at / PAGE % 251) as u8;
        }
        Ok(buffer.len())
    }

    #[test]
    fn what_cannot_be_read_is_named_by_range_and_the_rest_is_there() {
        let bad = [0, 7, 8, 9, 1500, 2999];
        let mut contents = Contents {
            bytes: vec![0; 3000 * PAGE_BYTES],
            unreadable: Vec::new(),
        };
        let whole = 0..3000 * PAGE;
        contents.read_range(&whole, &|at, part| read_at(&bad, at, part));
        let ranges = contents.unreadable.iter().map(|(range, _)| range.clone());
        let ranges: Vec<Range<u64>> = ranges.collect();
        let pages = |from: u64, to: u64| from * PAGE..to * PAGE;
        let expected = [
            pages(0, 1),
            pages(7, 10),
            pages(1500, 1501),
            pages(2999, 3000),
        ];
        assert_eq!(ranges, expected);
        for (page, bytes) in (0..).zip(contents.bytes.chunks(PAGE_BYTES)) {
            let filled = if bad.contains(&page) { 0 } else { page % 251 };
            assert!(
                bytes.iter().all(|byte| u64::from(*byte) == filled),
                "{page}"
            );
        }
    }

    #[test]
    fn only_what_is_asked_for_is_read() {
        let path = std::env::temp_dir().join(format!("millrace-stored-{}", std::process::id()));
        fs::write(&path, vec![3; 4 * PAGE_BYTES + 5]).unwrap();
        let file = StoredFile::new(&path).unwrap();
        let contents = file.contents(&[0..PAGE, 3 * PAGE..file.bytes()]).unwrap();
        let sums = contents.bytes.chunks(PAGE_BYTES);
        let sums: Vec<usize> = sums
            .map(|page| page.iter().map(|byte| usize::from(*byte)).sum())
            .collect();
        let full = 3 * PAGE_BYTES;
        assert_eq!(sums, [full, 0, 0, full, 15]);
        let mut buffer = [9; 10];
        file.read(4 * PAGE, &mut buffer).unwrap();
        assert_eq!(buffer, [3, 3, 3, 3, 3, 0, 0, 0, 0, 0]);
        fs::remove_file(&path).unwrap();
    }
}

//! The seam between storage and whoever performs its I/O: the io_uring driver or the simulator.
//!
//! Storage hands out [`DiskOp`]s and takes [`DiskDone`]s back in any order. A file is named, not
//! opened: the driver keeps descriptors. Buffers move with the operation and come back with its
//! completion, so memory in flight cannot be touched. While a store opens nothing else runs, so
//! recovery calls a [`BlockingDisk`] instead: the same operations, one at a time, in straight code.

use std::fmt;

use crate::buf::AlignedBuf;
use crate::units::{FilePosition, PackId, ShardId};

/// Pairs a completion with its operation. Chosen by the store, unique while in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskToken(pub u64);

impl DiskToken {
    /// The component that issued the token: the `tag` of its [`DiskTokens`].
    #[must_use]
    pub fn tag(self) -> u8 {
        self.0.to_be_bytes()[0]
    }
}

/// One component's supply of tokens. The tag in their top byte tells the store whose completion
/// it holds, so components of one store number their operations independently.
#[derive(Debug)]
pub struct DiskTokens {
    /// The next token; its top byte is the tag, the other seven count up.
    next: u64,
}

impl DiskTokens {
    /// A supply under `tag`, which no other component of the same store uses.
    #[must_use]
    pub const fn new(tag: u8) -> Self {
        Self {
            next: (tag as u64) << 56,
        }
    }

    /// A token that this supply never gave before.
    pub fn issue(&mut self) -> DiskToken {
        let token = DiskToken(self.next);
        self.next += 1;
        assert_eq!(token.tag(), DiskToken(self.next).tag(), "2^56 operations");
        token
    }
}

/// The highest number in a file's name.
const NUMBER_MAX: u64 = u64::MAX >> 1;

/// A file of one shard's directory. Names from clients never reach the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// `wal-SLOT`: a fixed-size, zero-filled slot; its header says which life it is on.
    Wal(u32),
    /// `pack-ID`: sections of many partitions, written by one settle pass, then immutable.
    Pack(PackId),
    /// `segment-ID`: a pack with one partition in it.
    Segment(PackId),
    /// `manifest-N`: the edit log with the highest valid N is the current one.
    Manifest(u64),
    /// `temporary-N`: being written; renamed when whole, removed by the next start.
    Temporary(u64),
    /// `reserve`: space held back so that acks, deletes and restart work on a full disk.
    Reserve,
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wal(slot) => write!(f, "wal-{slot:06}"),
            Self::Pack(id) => write!(f, "pack-{id:012}"),
            Self::Segment(id) => write!(f, "segment-{id:012}"),
            Self::Manifest(number) => write!(f, "manifest-{number:012}"),
            Self::Temporary(number) => write!(f, "temporary-{number:012}"),
            Self::Reserve => f.write_str("reserve"),
        }
    }
}

impl FileName {
    /// The name that `text` spells, if it is one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "reserve" {
            return Some(Self::Reserve);
        }
        let (kind, digits) = text.split_once('-')?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        // Nothing counts that far: a name that says so is not ours, and the next number exists.
        let number: u64 = digits.parse().ok().filter(|n| *n <= NUMBER_MAX)?;
        let name = match kind {
            "wal" => Self::Wal(u32::try_from(number).ok()?),
            "pack" => Self::Pack(PackId(number)),
            "segment" => Self::Segment(PackId(number)),
            "manifest" => Self::Manifest(number),
            "temporary" => Self::Temporary(number),
            _ => return None,
        };
        (name.to_string() == text).then_some(name)
    }
}

/// When a write counts as finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteSync {
    /// In the device's or the kernel's cache: a later [`DiskOp::Sync`] makes it durable.
    None,
    /// Durable: written with `RWF_DSYNC`.
    Dsync,
    /// Durable: a write with an fdatasync linked behind it; one completion reports both.
    LinkedFdatasync,
    /// A planted bug, for the simulated disk: the same chain, but what is reported is the end of
    /// its write. The fdatasync follows when it may.
    #[cfg(any(test, feature = "testing"))]
    LinkedFdatasyncUnawaited,
}

/// An operation for the driver to perform. Buffers' lengths and positions are multiples of
/// [`crate::units::PAGE_BYTES`]; all file I/O bypasses the page cache (`O_DIRECT`).
#[derive(Debug)]
pub enum DiskOp {
    /// Creates `file` with `bytes` preallocated; an existing file is an error. Durable only after
    /// [`DiskOp::SyncDirectory`].
    Create {
        token: DiskToken,
        file: FileName,
        bytes: u64,
    },
    /// Writes all of `buffer` at `position`.
    Write {
        token: DiskToken,
        file: FileName,
        position: FilePosition,
        buffer: AlignedBuf,
        sync: WriteSync,
    },
    /// Fills `buffer` (its whole length) from `position`; less comes back only at the file's end.
    Read {
        token: DiskToken,
        file: FileName,
        position: FilePosition,
        buffer: AlignedBuf,
    },
    /// fdatasync of `file`.
    Sync { token: DiskToken, file: FileName },
    /// fsync of the shard's directory: makes creations, renames, links and removals durable.
    SyncDirectory { token: DiskToken },
    /// Renames within the directory, replacing `to`.
    Rename {
        token: DiskToken,
        from: FileName,
        to: FileName,
    },
    /// Hard-links a file of another shard's directory into this one: how a partition's packs
    /// follow it to a new home without a copy.
    Link {
        token: DiskToken,
        from_shard: ShardId,
        from: FileName,
        to: FileName,
    },
    /// Unlinks `file`; a missing one is an error.
    Remove { token: DiskToken, file: FileName },
    /// Gives a range back to the file system; reads of it return zeros.
    PunchHole {
        token: DiskToken,
        file: FileName,
        position: FilePosition,
        bytes: u64,
    },
    /// The directory's files with their sizes. Names that are not ours come back as `foreign`.
    List { token: DiskToken },
    /// Free space of the file system.
    Space { token: DiskToken },
}

impl DiskOp {
    /// The operation's token.
    #[must_use]
    pub fn token(&self) -> DiskToken {
        match self {
            Self::Create { token, .. }
            | Self::Write { token, .. }
            | Self::Read { token, .. }
            | Self::Sync { token, .. }
            | Self::SyncDirectory { token }
            | Self::Rename { token, .. }
            | Self::Link { token, .. }
            | Self::Remove { token, .. }
            | Self::PunchHole { token, .. }
            | Self::List { token }
            | Self::Space { token } => *token,
        }
    }
}

/// What became of an operation.
#[derive(Debug)]
pub struct DiskDone {
    /// The operation's token.
    pub token: DiskToken,
    /// The buffer that went down with a read or write.
    pub buffer: Option<AlignedBuf>,
    /// Its outcome. A short write is never [`DiskOutcome::Done`].
    pub result: Result<DiskOutcome, DiskError>,
}

/// What a successful operation gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOutcome {
    /// Success; of a read or a write, all of the buffer.
    Done,
    /// A read or a write moved only so many bytes: the file's end, or a short write.
    Transferred(usize),
    /// The directory's files.
    Listed(Listing),
    /// The file system's space.
    Space(DiskSpace),
}

/// A shard directory's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Our files with their sizes in bytes, in name order.
    pub files: Vec<(FileName, u64)>,
    /// Other names: reported, never touched.
    pub foreign: Vec<String>,
}

/// Room in the file system that holds the data directory, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// What an unprivileged writer may still take.
    pub available_bytes: u64,
    /// The file system's size.
    pub total_bytes: u64,
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// ENOSPC or EDQUOT.
    #[error("no space left on the device")]
    NoSpace,
    /// ENOENT.
    #[error("no such file")]
    NotFound,
    /// EEXIST.
    #[error("the file exists already")]
    AlreadyExists,
    /// EXDEV: a link between two file systems.
    #[error("the directories are on different file systems")]
    OtherFileSystem,
    /// Any other errno.
    #[error("{}", std::io::Error::from_raw_os_error(*errno))]
    Io {
        /// The kernel's error number.
        errno: i32,
    },
    /// The simulated machine lost power; nothing further happens in this life.
    #[error("the machine stopped")]
    Crashed,
}

impl DiskError {
    /// Whether the process ran out of something, and the same operation may succeed a little later.
    #[must_use]
    pub fn is_shortage(self) -> bool {
        const EINTR: i32 = 4;
        const EAGAIN: i32 = 11;
        const ENOMEM: i32 = 12;
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        const ENOBUFS: i32 = 105;
        let Self::Io { errno } = self else {
            return false;
        };
        matches!(errno, EINTR | EAGAIN | ENOMEM | ENFILE | EMFILE | ENOBUFS)
    }

    /// Whether a read failed because of what is stored there: the device or the file system has
    /// the place and cannot give its bytes, so they are as good as damaged. Any other failure says
    /// nothing about them: too few descriptors, no permission, a device that went away.
    #[must_use]
    pub fn is_unreadable(self) -> bool {
        // Linux, `blk_errors` in block/blk-core.c: a medium error is ENODATA, a protection error
        // EILSEQ, a target's own EREMOTEIO, the rest EIO. File systems: EFSCORRUPTED is EUCLEAN,
        // EFSBADCRC EBADMSG.
        const EIO: i32 = 5;
        const ENODATA: i32 = 61;
        const EBADMSG: i32 = 74;
        const EILSEQ: i32 = 84;
        const EUCLEAN: i32 = 117;
        const EREMOTEIO: i32 = 121;
        let Self::Io { errno } = self else {
            return false;
        };
        matches!(
            errno,
            EIO | ENODATA | EBADMSG | EILSEQ | EUCLEAN | EREMOTEIO
        )
    }
}

/// Runs one operation to its end: the form in which a store being opened does its I/O.
pub type BlockingDisk<'a> = dyn FnMut(DiskOp) -> DiskDone + 'a;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip_and_nothing_else_parses() {
        let names = [
            FileName::Wal(7),
            FileName::Pack(PackId(1)),
            FileName::Segment(PackId(NUMBER_MAX)),
            FileName::Manifest(12),
            FileName::Temporary(0),
            FileName::Reserve,
        ];
        for name in names {
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }
        for text in [
            "wal-7",
            "wal-0000007",
            "pack-",
            "pack-+1",
            "wal-4294967296",
            "pack-9223372036854775808",
            "segment-18446744073709551615",
            "manifest-18446744073709551615",
            "temporary-18446744073709551615",
            "x",
            "reserve-1",
        ] {
            assert_eq!(FileName::parse(text), None, "{text}");
        }
    }
}

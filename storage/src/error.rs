//! What storage reports: the disk's failures and the disk's lies, told apart.

use std::fmt;

use crate::disk::{DiskError, FileName};
use crate::units::{FilePosition, Lsn, PartitionId, ShardId};

/// Why a store cannot open, or had to stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// Acknowledged data is damaged. Nothing was changed on disk.
    #[error(
        "shard {shard}: acknowledged data is damaged from LSN {from} to {to} \
         ({file} at byte {position}: {found}); {intact}; the files are left as they are. \
         To start without that range: --accept-loss {shard}:{from}-{to}"
    )]
    Quarantine {
        /// The damaged shard.
        shard: ShardId,
        /// First damaged address.
        from: Lsn,
        /// End of what may have been acknowledged, exclusive.
        to: Lsn,
        /// Where the damage begins.
        file: FileName,
        /// Byte position in `file`.
        position: FilePosition,
        /// What stood there instead of a good block.
        found: &'static str,
        /// What else the range holds: giving it up gives that up too.
        intact: Box<Intact>,
    },
    /// Acknowledged data was found damaged by a store that runs: the process must end.
    #[error(
        "shard {shard}: acknowledged data in the log is damaged from LSN {from} to {to} \
         ({file} at byte {position}): it cannot be settled, so the log cannot go on; the files \
         are left as they are, and a start says what can be had of them"
    )]
    DamagedLog {
        /// The damaged shard.
        shard: ShardId,
        /// First damaged address.
        from: Lsn,
        /// End of the damaged block, exclusive. What follows it in its file was not looked at.
        to: Lsn,
        /// Where the damage is.
        file: FileName,
        /// Byte position in `file`.
        position: FilePosition,
    },
    /// A file that other files refer to is damaged, missing or of an unknown format.
    #[error("shard {shard}: {file} at byte {position}: {found}")]
    Corrupt {
        /// The shard.
        shard: ShardId,
        /// The damaged file.
        file: FileName,
        /// Byte position in `file`.
        position: FilePosition,
        /// What is wrong there.
        found: &'static str,
    },
    /// An operation failed while the store was being opened.
    #[error("shard {shard}: {file}: {error}")]
    Io {
        /// The shard.
        shard: ShardId,
        /// The file operated on, or the directory.
        file: String,
        /// The failure.
        error: DiskError,
    },
    /// Data that is to move to a shard lies on another file system than that shard's directory, and
    /// files move by links. Nothing was changed that a start as before would not find.
    #[error(
        "shard {shard}: what shard {from} has is to move here, as there are fewer cores, but its \
         directory is another file system or mount, so its files cannot be linked; start with as \
         many cores as before (--cores), or stop and copy both directories onto one file system"
    )]
    Apart {
        /// Where the data is to go.
        shard: ShardId,
        /// Where it is.
        from: ShardId,
    },
    /// A WAL write or sync failed: nothing more is acknowledged, and the process must end.
    #[error(
        "shard {shard}: a write to the log failed ({error}); what it carried was not \
         acknowledged, and nothing more will be: restart to recover"
    )]
    Poisoned {
        /// The shard.
        shard: ShardId,
        /// The failure.
        error: DiskError,
    },
}

/// What of a damaged range is whole all the same, as far as it can still be found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intact {
    /// Whole blocks in the range.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Logs with records in them, ascending. The damaged block may hold records of others.
    pub partitions: Vec<PartitionId>,
}

impl fmt::Display for Intact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blocks, bytes, .. } = self;
        match blocks {
            0 => f.write_str("nothing whole was found behind the damage"),
            _ => write!(
                f,
                "behind the damage {bytes} acknowledged bytes in {blocks} blocks are whole, and \
                 would be given up with it"
            ),
        }
    }
}

/// Why an append was not taken. The caller keeps the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Settling is behind: every WAL file holds data that is not in a pack yet. Try again after
    /// completions; stop reading from producers meanwhile.
    #[error("the log has no free file yet")]
    WalFull,
    /// The file system is down to its reserve.
    #[error("the disk is full")]
    DiskFull,
    /// Larger than `batch_bytes_max`.
    #[error("a batch of {bytes} bytes exceeds the limit of {bytes_max}")]
    TooLarge {
        /// The batch's size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A write to the log failed earlier.
    #[error("the log is poisoned by a failed write")]
    Poisoned,
}

/// Why a read gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No such log in this store.
    #[error("unknown partition {0}")]
    UnknownPartition(PartitionId),
    /// Outside what the log holds.
    #[error("offset out of range")]
    OutOfRange,
    /// What the disk returned is not what was written there.
    #[error("stored data is damaged: {file} at byte {position}")]
    Damaged {
        /// The file.
        file: FileName,
        /// Byte position in `file`.
        position: FilePosition,
    },
    /// The disk failed to read.
    #[error("reading failed: {0}")]
    Disk(DiskError),
}

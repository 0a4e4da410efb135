//! What a store is told when it opens. Every limit has a name, a unit and a default.

use crate::disk::WriteSync;
use crate::units::{Lsn, PAGE_BYTES, ShardId};

/// How one shard's store is set up. Sizes that end up on disk are whole pages.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The shard whose directory this is.
    pub shard: ShardId,
    /// Bytes of each WAL file, header included.
    pub wal_file_bytes: u64,
    /// WAL files at most. One is kept back for the next recovery.
    pub wal_files: u32,
    /// Bytes of a commit group's buffer: one write at most, unless one entry is larger.
    pub commit_buffer_bytes: usize,
    /// Commit groups on their way to the disk at once.
    pub groups_in_flight_max: usize,
    /// Bytes of closed groups that are not durable yet, waiting ones included. Past it appends
    /// are refused until completions come in.
    pub commit_queue_bytes_max: usize,
    /// How a commit group is made durable.
    pub backend: CommitBackend,
    /// Largest entry body.
    pub batch_bytes_max: usize,
    /// Memory for recently written blocks.
    pub tail_cache_bytes: usize,
    /// Memory for blocks that passes have still to settle; what is not kept they read back.
    pub unsettled_cache_bytes: usize,
    /// Memory for blocks read back from WAL files.
    pub read_cache_bytes: usize,
    /// A log with so many bytes in one settle pass gets a segment file of its own.
    pub segment_bytes_min: u64,
    /// More packs than this with less than `segment_bytes_min` alive are merged into one.
    pub small_packs_max: usize,
    /// Closed WAL files that wait for settling at most, before a pass begins; fewer when no
    /// further file can be put into use. `usize::MAX`: age alone begins passes.
    pub settle_files_max: usize,
    /// A WAL file whose oldest entry is older than this is closed and settled, milliseconds.
    pub settle_after_ms: u64,
    /// Space held back, so that settling, acknowledgements and deletes go on when the disk is
    /// full; less on a small disk.
    pub reserve_bytes: u64,
    /// Batches are refused while the disk has less room than this; less on a small disk.
    pub disk_low_bytes: u64,
    /// How often retention is applied, milliseconds.
    pub retention_check_ms: u64,
    /// Room for edits in the manifest; half of it used asks for a rewrite. Preallocated; at most
    /// [`crate::manifest::ROOM_BYTES_MAX`].
    pub manifest_bytes_max: u64,
    /// Damaged ranges that the operator gives up, each exactly as a refusal named it.
    pub accept_loss: Vec<LossRange>,
    /// Seed for the generations of WAL files: fresh randomness at every start.
    pub seed: u64,
    /// A planted bug that the harness must find.
    #[cfg(any(test, feature = "testing"))]
    pub seeded_bug: Option<SeededBug>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            shard: ShardId(0),
            wal_file_bytes: 64 << 20,
            wal_files: 8,
            commit_buffer_bytes: (1 << 20) + PAGE_BYTES,
            groups_in_flight_max: 4,
            commit_queue_bytes_max: 32 << 20,
            backend: CommitBackend::Dsync,
            batch_bytes_max: 16 << 20,
            tail_cache_bytes: 64 << 20,
            unsettled_cache_bytes: 512 << 20,
            read_cache_bytes: 16 << 20,
            segment_bytes_min: 32 << 20,
            small_packs_max: 64,
            settle_files_max: 1,
            settle_after_ms: 60_000,
            reserve_bytes: 160 << 20,
            disk_low_bytes: 256 << 20,
            retention_check_ms: 5_000,
            manifest_bytes_max: 1 << 20,
            accept_loss: Vec::new(),
            seed: 0,
            #[cfg(any(test, feature = "testing"))]
            seeded_bug: None,
        }
    }
}

impl StoreConfig {
    /// Checks what the code relies on; a wrong value is a bug of whoever resolved the config.
    pub(crate) fn assert_sound(&self) {
        let page = PAGE_BYTES as u64;
        assert!(self.wal_file_bytes.is_multiple_of(page) && self.wal_file_bytes >= 8 * page);
        assert!(
            self.wal_files >= WAL_FILES_MIN,
            "active, next, and kept back"
        );
        assert!(self.commit_buffer_bytes.is_multiple_of(PAGE_BYTES));
        assert!(self.commit_buffer_bytes >= PAGE_BYTES);
        assert!(self.groups_in_flight_max >= 1);
        assert!(
            self.manifest_bytes_max.is_multiple_of(page) && self.manifest_bytes_max >= 4 * page
        );
        assert!(self.manifest_bytes_max <= crate::manifest::ROOM_BYTES_MAX);
        let largest = crate::block::block_bytes_for(self.batch_bytes_max);
        assert!(
            largest as u64 + 4 * page <= self.wal_file_bytes,
            "a WAL file holds its header, the largest batch, a seal and some room"
        );
    }

    /// Whether the harness planted `bug`.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn bug(&self, bug: SeededBug) -> bool {
        self.seeded_bug == Some(bug)
    }

    /// No bug is planted outside the harness.
    #[cfg(not(any(test, feature = "testing")))]
    #[allow(clippy::unused_self)]
    pub(crate) const fn bug(&self, _bug: SeededBug) -> bool {
        false
    }
}

/// Fewest WAL files that a store works with.
pub const WAL_FILES_MIN: u32 = 3;

/// How a commit group is made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommitBackend {
    /// One write with `RWF_DSYNC`.
    #[default]
    Dsync,
    /// A write with an fdatasync linked behind it.
    LinkedFdatasync,
}

impl CommitBackend {
    pub(crate) fn write_sync(self) -> WriteSync {
        match self {
            Self::Dsync => WriteSync::Dsync,
            Self::LinkedFdatasync => WriteSync::LinkedFdatasync,
        }
    }

    /// What [`SeededBug::AckBeforeSync`] makes of it.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn write_without_sync(self) -> WriteSync {
        match self {
            Self::Dsync => WriteSync::None,
            Self::LinkedFdatasync => WriteSync::LinkedFdatasyncUnawaited,
        }
    }
}

/// A range of one shard's log that the operator accepts to lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossRange {
    /// First lost address.
    pub from: Lsn,
    /// End of what may have been acknowledged, exclusive.
    pub to: Lsn,
}

impl LossRange {
    /// Everything that a shard ever held.
    pub const WHOLE: Self = Self {
        from: Lsn(0),
        to: Lsn(u64::MAX),
    };
}

/// Bugs that the test harness plants to show that it would see them. Without the feature
/// `testing` none can be chosen and each check is a constant `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(any(test, feature = "testing")), allow(dead_code, unreachable_pub))]
pub enum SeededBug {
    /// A group counts as durable when its write returned: nothing syncs it, or the fdatasync that
    /// is linked behind it has not returned.
    AckBeforeSync,
    /// A failed commit is synced once more, and believed.
    RetryAfterFailedSync,
    /// Checksums are not seeded, and blocks are known by position and address alone.
    NoGenerationInChecksum,
    /// Recovery takes every bad block for the torn end of the log.
    TruncateBelowDurable,
    /// Recovery serves the tail that it found instead of writing it anew.
    ServeWithoutRepersist,
    /// A slot is reused under a reader, who does not check what came back.
    ReadFromRecycledFile,
}

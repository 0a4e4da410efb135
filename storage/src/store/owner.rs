//! Whose directory a store's is: what tells a lost or a foreign directory from a new one.
//!
//! Opening a directory without a manifest begins a new log in it. Whether that is right, or the
//! directory has lost everything, only the caller can tell, who knows what should be there: it
//! looks before it opens.

use super::Store;
use crate::blocking::StartDisk;
use crate::disk::BlockingDisk;
use crate::error::StorageError;
use crate::manifest::{self, ManifestEdit};
use crate::units::{BrokerId, ShardId};

/// What a shard's directory is, before it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenancy {
    /// It has no manifest: it is new, or has lost everything.
    Blank,
    /// A start began in it and did not get to its end.
    Begun,
    /// It is this broker's.
    Owned(BrokerId),
}

impl Store {
    /// Looks at a shard's directory and changes nothing.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when its manifest is damaged, [`StorageError::Io`].
    pub fn look(disk: &mut BlockingDisk<'_>, shard: ShardId) -> Result<Tenancy, StorageError> {
        let listing = StartDisk::new(disk, shard).list()?;
        Ok(match manifest::peek(disk, shard, &listing)? {
            None => Tenancy::Blank,
            Some(state) => state.owner.map_or(Tenancy::Begun, Tenancy::Owned),
        })
    }

    /// Makes the directory `owner`'s, which it is or nobody's: durable on return.
    ///
    /// # Errors
    /// [`StorageError::Io`] when the disk fails.
    pub fn claim(
        &mut self,
        disk: &mut BlockingDisk<'_>,
        owner: BrokerId,
    ) -> Result<(), StorageError> {
        let known = self.manifest.state().owner;
        if known == Some(owner) {
            return Ok(());
        }
        assert_eq!(known, None, "a directory has one owner");
        let edit = vec![ManifestEdit::Owned(owner)];
        let claimed = self.manifest.commit_blocking(disk, edit);
        // Edits that were queued before it are durable as well.
        self.take_edits();
        claimed
    }
}

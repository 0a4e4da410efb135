//! One operation at a time: how a store does its I/O while it opens, before anything else runs.

use crate::buf::AlignedBuf;
use crate::disk::{
    BlockingDisk, DiskDone, DiskError, DiskOp, DiskOutcome, DiskSpace, DiskTokens, FileName,
    Listing, WriteSync,
};
use crate::error::StorageError;
use crate::slots::SHORT_WRITE;
use crate::units::{FilePosition, ShardId};

/// The tag of start-up's tokens.
const START_TAG: u8 = 19;

/// A shard's directory as start-up sees it.
pub(crate) struct StartDisk<'a, 'd> {
    disk: &'a mut BlockingDisk<'d>,
    shard: ShardId,
    tokens: DiskTokens,
}

impl<'a, 'd> StartDisk<'a, 'd> {
    pub(crate) fn new(disk: &'a mut BlockingDisk<'d>, shard: ShardId) -> Self {
        Self {
            disk,
            shard,
            tokens: DiskTokens::new(START_TAG),
        }
    }

    /// The seam itself, for those who drive their own operations.
    pub(crate) fn inner(&mut self) -> &mut BlockingDisk<'d> {
        self.disk
    }

    /// `error` of an operation on `file`, or on the directory.
    pub(crate) fn error(&self, file: Option<FileName>, error: DiskError) -> StorageError {
        StorageError::Io {
            shard: self.shard,
            file: file.map_or_else(|| "directory".to_owned(), |file| file.to_string()),
            error,
        }
    }

    /// Runs `op`, which must be done in full.
    fn run(&mut self, file: Option<FileName>, op: DiskOp) -> Result<DiskDone, StorageError> {
        let done = (self.disk)(op);
        match done.result {
            Ok(DiskOutcome::Transferred(_)) => Err(self.error(file, SHORT_WRITE)),
            Ok(_) => Ok(done),
            Err(error) => Err(self.error(file, error)),
        }
    }

    pub(crate) fn list(&mut self) -> Result<Listing, StorageError> {
        let token = self.tokens.issue();
        match self.run(None, DiskOp::List { token })?.result {
            Ok(DiskOutcome::Listed(listing)) => Ok(listing),
            other => unreachable!("a listing answers a listing, not {other:?}"),
        }
    }

    pub(crate) fn space(&mut self) -> Result<DiskSpace, StorageError> {
        let token = self.tokens.issue();
        match self.run(None, DiskOp::Space { token })?.result {
            Ok(DiskOutcome::Space(space)) => Ok(space),
            other => unreachable!("room answers a question for room, not {other:?}"),
        }
    }

    pub(crate) fn create(&mut self, file: FileName, bytes: u64) -> Result<(), StorageError> {
        let token = self.tokens.issue();
        self.run(Some(file), DiskOp::Create { token, file, bytes })
            .map(drop)
    }

    pub(crate) fn remove(&mut self, file: FileName) -> Result<(), StorageError> {
        let token = self.tokens.issue();
        self.run(Some(file), DiskOp::Remove { token, file })
            .map(drop)
    }

    /// Links a file of another shard's directory into this one.
    pub(crate) fn link(
        &mut self,
        from_shard: ShardId,
        from: FileName,
        to: FileName,
    ) -> Result<(), StorageError> {
        let token = self.tokens.issue();
        let op = DiskOp::Link {
            token,
            from_shard,
            from,
            to,
        };
        self.run(Some(to), op).map(drop)
    }

    /// Removes `file`, which a crash may have removed already.
    pub(crate) fn remove_if_there(&mut self, file: FileName) -> Result<(), StorageError> {
        let token = self.tokens.issue();
        match (self.disk)(DiskOp::Remove { token, file }).result {
            Ok(_) | Err(DiskError::NotFound) => Ok(()),
            Err(error) => Err(self.error(Some(file), error)),
        }
    }

    pub(crate) fn sync(&mut self, file: FileName) -> Result<(), StorageError> {
        let token = self.tokens.issue();
        self.run(Some(file), DiskOp::Sync { token, file }).map(drop)
    }

    pub(crate) fn sync_directory(&mut self) -> Result<(), StorageError> {
        let token = self.tokens.issue();
        self.run(None, DiskOp::SyncDirectory { token }).map(drop)
    }

    /// Writes all of `buffer` and gives it back.
    pub(crate) fn write(
        &mut self,
        file: FileName,
        position: FilePosition,
        buffer: AlignedBuf,
        sync: WriteSync,
    ) -> Result<AlignedBuf, StorageError> {
        let token = self.tokens.issue();
        let op = DiskOp::Write {
            token,
            file,
            position,
            buffer,
            sync,
        };
        let done = self.run(Some(file), op)?;
        Ok(done.buffer.expect("a write's buffer comes back"))
    }

    /// Fills `buffer` from `position`. Says how many bytes came; `None` when the disk cannot give
    /// them, which is judged like damage.
    ///
    /// # Errors
    /// Reading failed in a way that says nothing about what is stored: nobody may judge by it.
    pub(crate) fn read(
        &mut self,
        file: FileName,
        position: FilePosition,
        buffer: AlignedBuf,
    ) -> Result<(AlignedBuf, Option<usize>), StorageError> {
        let token = self.tokens.issue();
        let length = buffer.len();
        let done = (self.disk)(DiskOp::Read {
            token,
            file,
            position,
            buffer,
        });
        let buffer = done.buffer.expect("a read's buffer comes back");
        match done.result {
            Ok(DiskOutcome::Transferred(bytes)) => Ok((buffer, Some(bytes.min(length)))),
            Ok(_) => Ok((buffer, Some(length))),
            Err(error) if error.is_unreadable() => {
                let shard = self.shard;
                tracing::warn!(%shard, %file, %position, %error, "the disk cannot read");
                Ok((buffer, None))
            }
            Err(error) => Err(self.error(Some(file), error)),
        }
    }
}

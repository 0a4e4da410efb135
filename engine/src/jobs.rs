//! Work too long for a turn: given to a small pool of threads with immutable bytes, and back.

use bytes::Bytes;

use crate::search;

/// Pairs a result with its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobToken(pub u64);

/// A job for the pool.
#[derive(Clone, Debug)]
pub struct JobOp {
    /// Returned with the result.
    pub token: JobToken,
    /// What to do.
    pub job: Job,
}

/// What can be given away.
#[derive(Clone, Debug)]
pub enum Job {
    /// Finds a record in a batch, which may have to be decompressed for it.
    FindRecord {
        /// One whole stored batch.
        batch: Bytes,
        /// Which record.
        by: RecordQuery,
        /// Offset delta of the first record that counts: those before it were deleted.
        first: u32,
    },
}

/// Which record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordQuery {
    /// The first stamped at or after this time, milliseconds since the Unix epoch.
    AtOrAfter(i64),
    /// The first of those with the largest timestamp.
    MaxTimestamp,
}

/// A finished job.
#[derive(Clone, Debug)]
pub struct JobDone {
    /// The job's token.
    pub token: JobToken,
    /// What came of it.
    pub result: JobResult,
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobResult {
    /// Offset delta and timestamp of the record, if the batch has one that fits.
    FoundRecord(Option<(u32, i64)>),
    /// The batch's records cannot be read: damaged, or larger than the bound on its output.
    Unreadable(String),
}

/// Does a job: what a thread of the pool, or a simulated one, calls.
#[must_use]
pub fn perform(op: JobOp) -> JobDone {
    let result = match op.job {
        Job::FindRecord { batch, by, first } => search::find_record(&batch, by, first),
    };
    JobDone {
        token: op.token,
        result,
    }
}

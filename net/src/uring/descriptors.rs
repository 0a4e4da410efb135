//! How the process's descriptors are shared out, so that connections never take those of the log.
//!
//! The kernel gives a descriptor to an accepted connection before anybody is asked, so a whole
//! backlog of them is kept free beside what connections may hold.

use std::io;

use super::sys;

/// Of the process as a whole: standard streams, the control socket, the lock, and some room.
const PROCESS: usize = 16;
/// Of each shard: its ring, its event counter, two directories, a listener, a spare.
const SHARD: usize = 8;
/// Files that a shard keeps open at least beside its log files: packs and segments.
const FILES_MIN: usize = 16;
const FILES_MAX: usize = 512;
/// Of each shard's directory while a start goes through it: itself, and the data directory.
const DIRECTORIES: usize = 2;
/// Files that a start keeps open at least in each shard's directory.
const START_FILES_MIN: usize = 2;
const BACKLOG_MIN: usize = 8;
const BACKLOG_MAX: usize = 1024;

/// One way of sharing them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorPlan {
    /// Connections of each shard.
    pub sockets_max: usize,
    /// Files of each shard that are kept open.
    pub files_open_max: usize,
    /// Connections that may wait to be accepted on a listener.
    pub backlog: usize,
}

impl DescriptorPlan {
    /// The plan for the process's limit. Each shard keeps `wal_files` open for good.
    ///
    /// # Errors
    /// The limit is too low for even one connection a shard.
    pub fn for_process(shards: usize, wal_files: usize) -> io::Result<Self> {
        let limit = sys::descriptor_limit().map_err(io::Error::from_raw_os_error)?;
        Self::for_limit(limit, shards, wal_files).ok_or_else(|| {
            let suffices = |limit: &usize| Self::for_limit(*limit, shards, wal_files).is_some();
            let needed = (limit..).find(suffices).expect("some limit is enough");
            io::Error::other(format!(
                "the limit of {limit} open files is too low for {shards} shards: \
                 raise it (ulimit -n) to {needed} at least, plus one for each connection"
            ))
        })
    }

    fn for_limit(limit: usize, shards: usize, wal_files: usize) -> Option<Self> {
        assert!(shards > 0);
        let files_open_max = (limit / 8 / shards)
            .min(FILES_MAX)
            .max(wal_files + FILES_MIN);
        let backlog = (limit / 8).clamp(BACKLOG_MIN, BACKLOG_MAX);
        let taken = PROCESS + backlog + shards * (SHARD + files_open_max);
        let sockets_max = limit.checked_sub(taken)? / shards;
        (sockets_max > 0).then_some(Self {
            sockets_max,
            files_open_max,
            backlog,
        })
    }
}

/// Files that a start may keep open in each of so many shards' directories, those of shards that
/// no longer run among them: all that it opens at once is half of the process's limit, so rings and
/// listeners find theirs.
///
/// # Errors
/// The limit is too low for so many directories.
pub fn files_at_start(directories: usize) -> io::Result<usize> {
    let limit = sys::descriptor_limit().map_err(io::Error::from_raw_os_error)?;
    files_within(limit, directories).ok_or_else(|| {
        let needed = 2 * directories * (DIRECTORIES + START_FILES_MIN);
        io::Error::other(format!(
            "the limit of {limit} open files is too low for {directories} shards' directories: \
             raise it (ulimit -n) to {needed} at least"
        ))
    })
}

fn files_within(limit: usize, directories: usize) -> Option<usize> {
    let each = (limit / 2).checked_div(directories)?;
    let files = each.checked_sub(DIRECTORIES)?;
    (files >= START_FILES_MIN).then_some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_descriptors_are_never_worse() {
        for (shards, wal_files) in [(2, 8), (16, 256)] {
            let is_enough = |limit| DescriptorPlan::for_limit(limit, shards, wal_files).is_some();
            let needed = (0..).find(|limit| is_enough(*limit)).expect("some is");
            assert!((needed..needed + 10_000).all(is_enough), "from {needed} on");
        }
    }

    #[test]
    fn a_plan_stays_within_the_limit() {
        for shards in [1, 2, 16, 64] {
            for limit in [64, 256, 1024, 20_000, 1 << 20] {
                let Some(plan) = DescriptorPlan::for_limit(limit, shards, 8) else {
                    assert!(limit < 64 * shards, "{limit} for {shards}");
                    continue;
                };
                let each = SHARD + plan.files_open_max + plan.sockets_max;
                assert!(PROCESS + plan.backlog + shards * each <= limit);
            }
        }
        let usual = DescriptorPlan::for_limit(20_000, 2, 8).expect("plenty");
        assert!(usual.sockets_max > 8_000, "{usual:?}");
        assert_eq!(usual.files_open_max, FILES_MAX);
    }

    #[test]
    fn a_start_opens_half_of_the_limit_at_most_and_asks_for_what_suffices() {
        for directories in [1, 2, 16, 200] {
            let needed = 2 * directories * (DIRECTORIES + START_FILES_MIN);
            assert_eq!(files_within(needed - 1, directories), None);
            for limit in [needed, 4 * needed, 1 << 20] {
                let files = files_within(limit, directories).expect("it suffices");
                assert!(directories * (DIRECTORIES + files) <= limit / 2);
            }
        }
        assert_eq!(files_within(1024, 2), Some(254));
    }

    #[test]
    fn log_files_take_nothing_from_connections_nor_from_packs() {
        let plan = DescriptorPlan::for_limit(20_000, 2, 1_024).expect("plenty");
        assert_eq!(plan.files_open_max, 1_024 + FILES_MIN);
        let each = SHARD + plan.files_open_max + plan.sockets_max;
        assert!(PROCESS + plan.backlog + 2 * each <= 20_000);
        assert_eq!(DescriptorPlan::for_limit(1_024, 2, 1_024), None);
    }
}

//! Which settled data a log may drop: by age and by bytes, whole sections from the oldest on.
//!
//! What the WAL holds stays until it is settled. A log of which everything is settled and too old
//! becomes empty: it begins where it ends, and the manifest remembers that with its start. A
//! section without any timestamp is never too old.

use crate::log_index::LogConfig;
use crate::units::Offset;

/// What retention needs to know of one section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) base_offset: Offset,
    pub(crate) bytes: u64,
    pub(crate) max_timestamp_ms: i64,
}

/// The log's new first offset, if retention moves it. `sections` ascend; `wal_bytes` follow them
/// from `rest` on, or the log ends there.
pub(crate) fn new_start(
    config: &LogConfig,
    wall_ms: i64,
    sections: impl Iterator<Item = Kept> + Clone,
    (wal_bytes, rest): (u64, Offset),
) -> Option<Offset> {
    let settled: u64 = sections.clone().map(|section| section.bytes).sum();
    let mut bytes = settled + wal_bytes;
    let mut start = None;
    let mut sections = sections.peekable();
    while let Some(section) = sections.next() {
        let next = sections.peek().map_or(rest, |next| next.base_offset);
        let too_large = config
            .retention_bytes
            .is_some_and(|limit| bytes - section.bytes >= limit);
        if !too_large && !is_too_old(config, wall_ms, section.max_timestamp_ms) {
            break;
        }
        bytes -= section.bytes;
        start = Some(next);
    }
    start
}

fn is_too_old(config: &LogConfig, wall_ms: i64, max_timestamp_ms: i64) -> bool {
    let Some(limit) = config.retention_ms else {
        return false;
    };
    let age = wall_ms.saturating_sub(max_timestamp_ms);
    max_timestamp_ms >= 0 && u64::try_from(age).is_ok_and(|age| age > limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(base: u64, bytes: u64, max_timestamp_ms: i64) -> Kept {
        Kept {
            base_offset: Offset(base),
            bytes,
            max_timestamp_ms,
        }
    }

    fn limits(retention_ms: Option<u64>, retention_bytes: Option<u64>) -> LogConfig {
        LogConfig {
            retention_ms,
            retention_bytes,
            segment_bytes: None,
        }
    }

    #[test]
    fn old_sections_go_from_the_front_and_the_first_young_one_stops_that() {
        let sections = [
            section(0, 10, 100),
            section(5, 10, 900),
            section(9, 10, 100),
        ];
        let start = |limit, wall_ms| {
            let config = limits(Some(limit), None);
            new_start(&config, wall_ms, sections.iter().copied(), (1, Offset(20)))
        };
        assert_eq!(start(1000, 1000), None);
        assert_eq!(start(1000, 1100), None, "exactly the limit is not too old");
        assert_eq!(start(1000, 1101), Some(Offset(5)));
        assert_eq!(start(1000, 1901), Some(Offset(20)));
        assert_eq!(
            start(1000, -5),
            None,
            "a clock before the data keeps everything"
        );
    }

    #[test]
    fn bytes_above_the_limit_go_but_never_below_it() {
        let sections = [section(0, 10, 0), section(5, 10, 0), section(9, 10, 0)];
        let start = |limit| {
            let config = limits(None, Some(limit));
            new_start(&config, 0, sections.iter().copied(), (5, Offset(20)))
        };
        assert_eq!(start(35), None);
        assert_eq!(start(26), None, "dropping one would leave 25");
        assert_eq!(start(25), Some(Offset(5)));
        assert_eq!(start(0), Some(Offset(20)));
    }

    #[test]
    fn what_is_all_too_old_goes_up_to_its_end_and_without_timestamps_nothing_is() {
        let start = |sections: [Kept; 2], config| {
            let rest = (0, Offset(12));
            new_start(&config, 1_000_000, sections.iter().copied(), rest)
        };
        let old = [section(0, 10, 0), section(5, 10, 0)];
        assert_eq!(start(old, limits(Some(1), None)), Some(Offset(12)));
        let timeless = [section(0, 10, -1), section(5, 10, -1)];
        assert_eq!(start(timeless, limits(Some(1), None)), None);
        assert_eq!(start(old, limits(None, Some(1))), Some(Offset(5)));
    }
}

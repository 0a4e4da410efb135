//! How fast a pass may go: it shares the disk with commits, which somebody waits for.
//!
//! A pass has to be through before the log needs the file. So while files are left, its I/O keeps
//! pace with the appends: half again as fast as the present file fills, and never slower than
//! what ends it within [`PASS_MS_MAX`], one small operation at a time. When the log is about to
//! run out of files it goes as fast as the disk allows.

use crate::units::{BootTime, Lsn, Now};

/// A pass that nobody hurries ends within this, milliseconds.
const PASS_MS_MAX: u64 = 5_000;
/// Bytes of one operation of a pass that has time, and of one that has not.
const CALM_BYTES: usize = 64 << 10;
const HURRIED_BYTES: usize = 1 << 20;
/// Operations on their way at most, of a pass that has time, and of one that has not.
const CALM_IN_FLIGHT_MAX: usize = 1;
const HURRIED_IN_FLIGHT_MAX: usize = 4;

/// The store's state, as far as it sets the pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    pub(crate) now: Now,
    /// End of everything appended.
    pub(crate) appended: Lsn,
    /// The log runs out of files.
    pub(crate) is_hurried: bool,
}

/// The pace of one pass.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    begun: BootTime,
    appended_at_begin: Lsn,
    /// Bytes of the file that is settled: so many are read, and at most about so many written.
    file_bytes: u64,
    /// Bytes of the operations so far, read and written.
    issued: u64,
    op_bytes: usize,
}

impl Pacer {
    pub(super) fn new(demand: Demand, file_bytes: u64) -> Self {
        Self {
            begun: demand.now.boot,
            appended_at_begin: demand.appended,
            file_bytes: file_bytes.max(1),
            issued: 0,
            op_bytes: if demand.is_hurried {
                HURRIED_BYTES
            } else {
                CALM_BYTES
            },
        }
    }

    /// Bytes of each of the pass's operations, but for the last of a file.
    pub(super) fn op_bytes(&self) -> usize {
        self.op_bytes
    }

    /// Whether another operation may go to the disk beside `in_flight` others.
    pub(super) fn allows(&self, demand: Demand, in_flight: usize) -> bool {
        if demand.is_hurried {
            return in_flight < HURRIED_IN_FLIGHT_MAX;
        }
        in_flight < CALM_IN_FLIGHT_MAX && self.due(demand) <= demand.now.boot
    }

    /// An operation of `bytes` goes to the disk.
    pub(super) fn note(&mut self, bytes: usize) {
        self.issued += bytes as u64;
    }

    /// When the next operation is due, unless appends make it due before.
    pub(super) fn due(&self, demand: Demand) -> BootTime {
        let planned = 2 * self.file_bytes;
        // Half again as fast as the file after this one fills up.
        let by_appends = 3 * (demand.appended - self.appended_at_begin);
        let by_time = self.issued.saturating_sub(by_appends).min(planned);
        let after_ns = u128::from(PASS_MS_MAX) * 1_000_000 * u128::from(by_time);
        let after_ns = after_ns / u128::from(planned);
        let after_ns = u64::try_from(after_ns).expect("a part of a pass's time");
        BootTime(self.begun.0.saturating_add(after_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_BYTES: u64 = 64 << 20;

    fn demand(ms: u64, appended: u64) -> Demand {
        Demand {
            now: Now {
                boot: BootTime(ms * 1_000_000),
                wall_ms: 0,
            },
            appended: Lsn(appended),
            is_hurried: false,
        }
    }

    /// Issues whatever is allowed with nothing in flight; bytes issued since the pass began.
    fn drive(pacer: &mut Pacer, demand: Demand) -> u64 {
        while pacer.issued < 2 * FILE_BYTES && pacer.allows(demand, 0) {
            pacer.note(CALM_BYTES);
        }
        pacer.issued
    }

    #[test]
    fn a_pass_without_appends_spreads_over_its_time_and_ends() {
        let mut pacer = Pacer::new(demand(1_000, 0), FILE_BYTES);
        let slack = CALM_BYTES as u64;
        for ms in 0..=PASS_MS_MAX {
            let expected = 2 * FILE_BYTES * ms / PASS_MS_MAX;
            let issued = drive(&mut pacer, demand(1_000 + ms, 0));
            assert!((expected..=expected + slack).contains(&issued), "{ms}");
        }
        assert_eq!(pacer.issued, 2 * FILE_BYTES);
    }

    #[test]
    fn a_pass_is_through_before_the_next_file_is_full() {
        let mut pacer = Pacer::new(demand(0, 500), FILE_BYTES);
        let at = 500 + FILE_BYTES * 2 / 3;
        assert!(drive(&mut pacer, demand(1, 500 + FILE_BYTES / 3)) < FILE_BYTES + (1 << 20));
        assert_eq!(drive(&mut pacer, demand(2, at)), 2 * FILE_BYTES);
    }

    #[test]
    fn what_is_due_is_allowed_then_and_not_before() {
        let mut pacer = Pacer::new(demand(0, 0), FILE_BYTES);
        drive(&mut pacer, demand(700, 9 << 20));
        let due = pacer.due(demand(700, 9 << 20));
        let at = |boot| Demand {
            now: Now { boot, wall_ms: 0 },
            ..demand(0, 9 << 20)
        };
        assert!(!pacer.allows(at(BootTime(due.0 - 1)), 0));
        assert!(pacer.allows(at(due), 0));
        assert!(!pacer.allows(at(due), 1), "one at a time");
    }

    #[test]
    fn a_hurried_pass_waits_for_nothing_but_its_own_operations() {
        let hurried = Demand {
            is_hurried: true,
            ..demand(0, 0)
        };
        let mut pacer = Pacer::new(hurried, FILE_BYTES);
        pacer.note(50 << 20);
        assert!(pacer.allows(hurried, HURRIED_IN_FLIGHT_MAX - 1));
        assert!(!pacer.allows(hurried, HURRIED_IN_FLIGHT_MAX));
        assert_eq!(pacer.op_bytes(), HURRIED_BYTES);
    }
}

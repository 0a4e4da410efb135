//! What waits for the log: every acknowledgement of a durable write leaves through here.

use std::collections::VecDeque;

use millrace_storage::units::{Lsn, Offset, PartitionId};

use crate::command::RequestId;
use crate::event::Appended;

/// What becomes true when the log is durable so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// A batch is readable and its producer may hear so.
    Appended {
        request: RequestId,
        partition: PartitionId,
        /// But for when it became durable.
        answer: Appended,
        /// The offset after its last record.
        end: Offset,
        /// Its size.
        bytes: usize,
    },
    /// A batch that was sent again, while its first life was not durable yet, is by now.
    Repeated {
        request: RequestId,
        /// As above.
        answer: Appended,
    },
    /// A batch that was sent again is durable by now; where it is, is forgotten.
    Forgotten { request: RequestId },
    /// The partition begins at `start` whatever happens.
    RecordsDeleted {
        request: RequestId,
        partition: PartitionId,
        start: Offset,
    },
    /// The catalog's change is under way no more.
    CatalogWritten,
    /// The oldest answer that the groups' log holds back may go.
    GroupAnswered,
}

impl Promise {
    /// The request that it would end, if one.
    pub(crate) fn request(&self) -> Option<RequestId> {
        match self {
            Self::Appended { request, .. }
            | Self::Repeated { request, .. }
            | Self::Forgotten { request }
            | Self::RecordsDeleted { request, .. } => Some(*request),
            Self::CatalogWritten | Self::GroupAnswered => None,
        }
    }
}

/// Promises by the address that makes them true.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// Invariant: sorted by address, equal ones in the order of arrival; every address lies above
    /// `durable`.
    queue: VecDeque<(Lsn, Promise)>,
    /// How far the log is durable. Monotone.
    durable: Lsn,
}

impl Waiters {
    /// Waiters of a log that is durable up to `durable`.
    pub(crate) fn new(durable: Lsn) -> Self {
        Self {
            queue: VecDeque::new(),
            durable,
        }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Adds a promise for when the log is durable up to `lsn`; hands it back if it already is.
    #[must_use]
    pub(crate) fn wait(&mut self, lsn: Lsn, promise: Promise) -> Option<Promise> {
        if lsn <= self.durable {
            return Some(promise);
        }
        // Appends come in order; only what was there before waits for an earlier address.
        let at = match self.queue.back() {
            Some((last, _)) if *last > lsn => self.queue.partition_point(|(at, _)| *at <= lsn),
            _ => self.queue.len(),
        };
        self.queue.insert(at, (lsn, promise));
        None
    }

    /// The next promise that came true, with the log durable up to `durable`.
    pub(crate) fn release(&mut self, durable: Lsn) -> Option<Promise> {
        assert!(durable >= self.durable, "the durable LSN moves forward");
        self.durable = durable;
        let (lsn, _) = self.queue.front()?;
        if *lsn > durable {
            return None;
        }
        self.queue.pop_front().map(|(_, promise)| promise)
    }

    /// The next promise that will never be known to come true: the log is poisoned.
    pub(crate) fn abandon(&mut self) -> Option<Promise> {
        self.queue.pop_front().map(|(_, promise)| promise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::ConnectionId;
    use millrace_storage::units::{BootTime, ShardId};

    fn promise(sequence: u64) -> Promise {
        Promise::Appended {
            request: RequestId {
                origin: ShardId(0),
                connection: ConnectionId::CONTROL,
                sequence,
            },
            partition: PartitionId(1),
            answer: Appended {
                base_offset: Offset(0),
                append_time_ms: None,
                log_start: Offset(0),
                durable_at: BootTime(0),
            },
            end: Offset(1),
            bytes: 1,
        }
    }

    #[test]
    fn promises_come_true_in_the_order_of_the_log() {
        let mut waiters = Waiters::new(Lsn(5));
        for (lsn, sequence) in [(10, 1), (30, 2), (20, 3), (30, 4), (10, 5)] {
            assert_eq!(waiters.wait(Lsn(lsn), promise(sequence)), None);
        }
        assert_eq!(waiters.release(Lsn(9)), None);
        for sequence in [1, 5, 3] {
            assert_eq!(waiters.release(Lsn(29)), Some(promise(sequence)));
        }
        assert_eq!(waiters.release(Lsn(29)), None);
        assert_eq!(waiters.len(), 2);
        assert_eq!(waiters.abandon(), Some(promise(2)));
        assert_eq!(waiters.abandon(), Some(promise(4)));
        assert_eq!(waiters.abandon(), None);
    }

    #[test]
    fn what_is_durable_already_does_not_wait() {
        let mut waiters = Waiters::new(Lsn(5));
        assert_eq!(waiters.wait(Lsn(5), promise(1)), Some(promise(1)));
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    #[should_panic(expected = "moves forward")]
    fn the_durable_lsn_never_falls() {
        Waiters::new(Lsn(5)).release(Lsn(4));
    }
}

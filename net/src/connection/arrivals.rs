//! When the bytes came that the session has not taken: a request that waits for the session, or for
//! the shard, waits since then.

use std::collections::VecDeque;

use millrace_storage::units::BootTime;

/// Arrivals known one by one; what comes on top counts as having come with the last of them.
const ARRIVALS_MAX: usize = 16;

/// A connection's arrivals.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Bytes that came since the connection opened.
    received: u64,
    /// Of these, how many the session took.
    taken: u64,
    /// Where the first of `queue` begins.
    begin: u64,
    /// Oldest first, with bytes in each that were not taken. At most [`ARRIVALS_MAX`].
    queue: VecDeque<Arrival>,
}

/// Bytes that came at once.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    at: BootTime,
    /// Position after its last byte.
    end: u64,
}

impl Arrivals {
    /// Bytes came.
    pub(super) fn note(&mut self, at: BootTime, bytes: usize) {
        self.received += bytes as u64;
        let end = self.received;
        let is_full = self.queue.len() == ARRIVALS_MAX;
        match self.queue.back_mut() {
            Some(last) if is_full => last.end = end,
            _ => self.queue.push_back(Arrival { at, end }),
        }
    }

    /// The session took `bytes` more; what is left waits for the peer if `awaits_peer`, and for us
    /// otherwise. Calls `parsed` with the time of each arrival of which no whole request is left,
    /// unless it brought the end of none.
    pub(super) fn take(
        &mut self,
        bytes: usize,
        awaits_peer: bool,
        mut parsed: impl FnMut(BootTime),
    ) {
        self.taken += bytes as u64;
        while let Some(first) = self.queue.front().filter(|first| first.end <= self.taken) {
            parsed(first.at);
            self.begin = first.end;
            self.queue.pop_front();
        }
        if awaits_peer {
            if let Some(first) = self.queue.front().filter(|_| self.taken > self.begin) {
                parsed(first.at);
            }
            self.queue.clear();
            self.begin = self.received;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes bytes and returns when those arrivals came that are through.
    fn take(arrivals: &mut Arrivals, bytes: usize, awaits_peer: bool) -> Vec<u64> {
        let mut through = Vec::new();
        arrivals.take(bytes, awaits_peer, |at| through.push(at.0));
        through
    }

    #[test]
    fn an_arrival_is_through_with_its_last_whole_request() {
        let mut arrivals = Arrivals::default();
        // Two requests at once, of which the session takes one.
        arrivals.note(BootTime(1), 20);
        assert_eq!(take(&mut arrivals, 10, false), [0; 0]);
        arrivals.note(BootTime(2), 15);
        assert_eq!(take(&mut arrivals, 0, false), [0; 0]);
        // The second, the third, and the beginning of a fourth that is the peer's to end.
        assert_eq!(take(&mut arrivals, 20, true), [1, 2]);
        arrivals.note(BootTime(3), 2);
        assert_eq!(take(&mut arrivals, 0, true), [0; 0], "no request ended");
        arrivals.note(BootTime(4), 3);
        assert_eq!(take(&mut arrivals, 10, false), [4]);
    }

    #[test]
    fn crumbs_cost_a_bounded_amount() {
        let mut arrivals = Arrivals::default();
        for at in 0..1000 {
            arrivals.note(BootTime(at), 1);
        }
        assert_eq!(arrivals.queue.len(), ARRIVALS_MAX);
        let through = take(&mut arrivals, 999, false);
        assert_eq!(through.len(), ARRIVALS_MAX - 1);
        assert_eq!(take(&mut arrivals, 1, false), [15]);
    }
}

//! Whose transfers take memory that others wait for: they are given up after a time.

use millrace_engine::command::ConnectionId;
use millrace_storage::units::{BootTime, Now};

use super::{Entry, Worker};
use crate::session::Gate;

/// A send may take so long while others wait for its memory, milliseconds.
const SLOWEST_SEND_MS: u64 = 5_000;
/// After nothing was given for so long to those who wait for memory for answers, somebody who has
/// it is ended, milliseconds.
const STALL_MS: u64 = 5_000;
/// How often slow transfers are looked at, milliseconds.
const SLOW_CHECK_MS: u64 = 500;

impl Worker {
    /// Ends transfers that are too slow for those that wait for their memory.
    pub(super) fn end_slow_transfers(&mut self, now: Now) {
        if self.slow_deadline().is_none_or(|at| at > now.boot) {
            return;
        }
        self.next_slow_check = now.boot.after_ms(SLOW_CHECK_MS);
        let answers_stall = self
            .answers_awaited_since
            .is_some_and(|at| at.after_ms(STALL_MS) <= now.boot);
        let is_ended = (answers_stall || !self.queued.is_empty()) && self.end_slowest_send(now);
        if answers_stall && !is_ended {
            self.end_largest_holder();
        }
        if !self.starved.is_empty() {
            self.end_slow_receives(now);
        }
    }

    /// When sends have used up their memory and others wait: ends the one that takes longest, once
    /// it has had its time. Whoever reads what it asked for is through long before. Says whether
    /// there was one.
    fn end_slowest_send(&mut self, now: Now) -> bool {
        let since =
            |entry: &Entry| Some((entry.connection.sending_since()?, entry.connection.id()));
        let slowest = self.table.iter().flatten().filter_map(since).min();
        if let Some((since, id)) = slowest
            && since.after_ms(SLOWEST_SEND_MS) <= now.boot
        {
            self.counters.connections_timed_out += 1;
            self.log_close(
                id,
                "it takes a reply slowly while others wait for the memory \
                 (memory.sending_bytes_max, memory.answer_bytes_max)",
            );
            self.close(id);
            return true;
        }
        false
    }

    /// When answers wait for memory, and none that is being sent is to blame: ends the connection
    /// whose finished replies, behind a request that has not ended, take most of it.
    fn end_largest_holder(&mut self) {
        let holder = |entry: &Entry| {
            let is_open = !entry.connection.is_closing();
            let bytes = entry.held.reply_bytes;
            (is_open && bytes > 0).then(|| (bytes, entry.connection.id()))
        };
        let largest = self.table.iter().flatten().filter_map(holder).max();
        if let Some((_, id)) = largest {
            self.counters.connections_timed_out += 1;
            self.log_close(
                id,
                "its replies wait for its earlier requests while others wait for the memory \
                 (memory.answer_bytes_max)",
            );
            self.close(id);
        }
    }

    /// When requests wait for memory: ends those that have it and arrive slowly.
    fn end_slow_receives(&mut self, now: Now) {
        let is_slow = |entry: &&Entry| {
            let deadline = entry.connection.receive_deadline();
            deadline.is_some_and(|at| at <= now.boot)
        };
        let slow = self.table.iter().flatten().filter(is_slow);
        let slow: Vec<ConnectionId> = slow.map(|entry| entry.connection.id()).collect();
        for id in slow {
            self.counters.connections_timed_out += 1;
            self.log_close(
                id,
                "it sends a request slowly while others wait for the memory \
                 (memory.assembly_bytes_max)",
            );
            self.close(id);
        }
    }

    /// When slow transfers are looked for again.
    pub(super) fn slow_deadline(&self) -> Option<BootTime> {
        let is_awaited = !self.queued.is_empty()
            || !self.starved.is_empty()
            || self.answers_awaited_since.is_some();
        is_awaited.then_some(self.next_slow_check)
    }

    /// Notes since when somebody waits for memory for an answer and none was given.
    pub(super) fn note_answers_awaited(&mut self, now: Now) {
        let question = self.blocked.awaits(Gate::Questions) || !self.postponed.is_empty();
        let fetch = self.shard.fetch_waits_since();
        self.answers_awaited_since = match (fetch, question) {
            (None, false) => None,
            (Some(since), _) => Some(since),
            (None, true) => self.answers_awaited_since.or(Some(now.boot)),
        };
    }
}

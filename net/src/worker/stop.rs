//! A clean stop: nothing new is read, what was accepted is answered, connections close.

use millrace_storage::units::Now;

use super::Worker;

/// How far a clean stop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// None was asked for.
    Running,
    /// Nothing new is read; what was accepted becomes durable and is answered.
    Settling,
    /// Answers go out and connections close.
    Draining,
    /// As before, but nobody is waited for any more.
    Ending,
}

impl Worker {
    /// Moves a clean stop on.
    ///
    /// A shard drains once what it accepted is durable, here and on the shards that it asked, and
    /// ends once nobody can ask it any more.
    pub(super) fn advance_stop(&mut self, now: Now) {
        if matches!(self.stop, Stop::Running | Stop::Ending) {
            return;
        }
        self.shard.close(now);
        let until = now.boot.after_ms(self.config.stop_ms_max);
        let is_late = *self.stop_until.get_or_insert(until) <= now.boot;
        match self.stop {
            Stop::Running | Stop::Ending => {}
            Stop::Settling => {
                let is_awaited = self.shard.awaits_others() || !self.postponed.is_empty();
                let is_answered = is_late || !is_awaited;
                if is_answered && self.shard.is_quiet() {
                    self.stop = Stop::Draining;
                    self.stop_until = Some(until);
                    self.drain(now);
                } else if is_late {
                    // Only our own disk is waited for from here on, and it tells when it is done.
                    self.stop_until = Some(until);
                }
            }
            Stop::Draining if is_late => {
                self.stop = Stop::Ending;
                self.stop_until = None;
                self.end_connections();
            }
            Stop::Draining => {}
        }
    }

    fn drain(&mut self, now: Now) {
        for slot in 0..self.table.len() {
            if let Some(entry) = &mut self.table[slot] {
                entry.connection.drain();
                self.touch(slot as u32);
            }
        }
        self.settle(now);
    }

    /// Closes whoever has not taken its replies by the end of a clean stop.
    fn end_connections(&mut self) {
        let left = self
            .table
            .iter()
            .flatten()
            .map(|entry| entry.connection.id());
        for id in left.collect::<Vec<_>>() {
            self.log_close(
                id,
                "its replies were not taken within limits.stop_timeout_ms",
            );
            self.close(id);
        }
    }
}

//! Whether the thread stood still: nothing is missed before what came meanwhile was looked at.
//!
//! A process that was stopped and goes on, or got no core for a while, finds deadlines that passed
//! and, in its sockets, what its peers sent in time. Some of that is for other shards, which find
//! the same. So what is due waits until all of them have looked.

use millrace_storage::units::BootTime;

/// One driver's.
#[derive(Debug)]
pub(super) struct Stall {
    /// When the driver meant to look again, at the latest.
    look_by: BootTime,
    /// Nothing that is due is done before.
    held_until: Option<BootTime>,
}

/// A driver that looks so much later than it meant to stood still, milliseconds.
const STALL_MS: u64 = 100;
/// And waits so long before it does what is due, milliseconds: many turns of all shards.
const HOLD_MS: u64 = 100;

impl Stall {
    pub(super) fn new() -> Self {
        Self {
            look_by: BootTime(u64::MAX),
            held_until: None,
        }
    }

    /// The driver looks again at this time, at the latest.
    pub(super) fn expect(&mut self, look_by: BootTime) {
        self.look_by = look_by;
    }

    /// A turn begins. After a hold what is due is done, however late this turn is too.
    pub(super) fn begin_turn(&mut self, now: BootTime) {
        match self.held_until {
            Some(until) if until <= now => self.held_until = None,
            Some(_) => {}
            None if now > self.look_by.after_ms(STALL_MS) => {
                self.held_until = Some(now.after_ms(HOLD_MS));
            }
            None => {}
        }
    }

    /// When what is due at that time may be done.
    pub(super) fn due(&self, at: BootTime) -> BootTime {
        self.held_until.map_or(at, |until| at.max(until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_waits_once_after_the_thread_stood_still() {
        let at = |ms| BootTime(0).after_ms(ms);
        let mut stall = Stall::new();
        stall.begin_turn(at(9_000));
        assert_eq!(stall.due(at(5)), at(5), "nothing was expected");
        stall.expect(at(10_000));
        stall.begin_turn(at(10_000 + STALL_MS));
        assert_eq!(stall.due(at(10_000)), at(10_000));
        // It was stopped for seven seconds.
        stall.begin_turn(at(17_000));
        let held = at(17_000 + HOLD_MS);
        assert_eq!(stall.due(at(16_000)), held);
        assert_eq!(stall.due(at(60_000)), at(60_000));
        // Late again: it is not held for ever.
        stall.expect(at(17_010));
        stall.begin_turn(at(17_020));
        assert_eq!(stall.due(at(16_000)), held);
        stall.begin_turn(at(30_000));
        assert_eq!(stall.due(at(16_000)), at(16_000));
        stall.begin_turn(at(40_000));
        assert_eq!(stall.due(at(16_000)), at(40_000 + HOLD_MS));
    }
}

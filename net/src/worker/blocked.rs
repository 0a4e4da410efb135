//! Connections whose next request waits for the shard, and how long the log kept them waiting.

use std::collections::BTreeSet;

use millrace_storage::units::{BootTime, Now};

use crate::session::Gate;

/// Who waits for what the shard does not accept for a while.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    /// Slots by what they wait for.
    slots: BTreeSet<(Gate, u32)>,
    /// Since when somebody waits for the log; `None` while nobody does.
    stalled_since: Option<BootTime>,
}

impl Blocked {
    /// A connection waits; whether that is new.
    pub(super) fn insert(&mut self, now: Now, gate: Gate, slot: u32) -> bool {
        if gate == Gate::Appends {
            self.stalled_since.get_or_insert(now.boot);
        }
        self.slots.insert((gate, slot))
    }

    /// Whether anybody waits for this.
    pub(super) fn awaits(&self, gate: Gate) -> bool {
        self.slots.range(all(gate)).next().is_some()
    }

    /// The gate is open: takes out those that waited for it.
    pub(super) fn open(&mut self, gate: Gate) -> Vec<u32> {
        let open = self.slots.extract_if(all(gate), |_| true);
        open.map(|(_, slot)| slot).collect()
    }

    /// The log takes appends again: since when somebody waited for that.
    pub(super) fn end_stall(&mut self) -> Option<BootTime> {
        self.stalled_since.take()
    }

    /// A connection is gone. With the last that waited for the log its stall is over: how long it
    /// would have lasted nobody will know.
    pub(super) fn forget(&mut self, slot: u32) {
        for gate in [Gate::Appends, Gate::Questions] {
            self.slots.remove(&(gate, slot));
        }
        if !self.awaits(Gate::Appends) {
            self.stalled_since = None;
        }
    }
}

fn all(gate: Gate) -> std::ops::RangeInclusive<(Gate, u32)> {
    (gate, 0)..=(gate, u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(boot: u64) -> Now {
        Now {
            boot: BootTime(boot),
            wall_ms: 0,
        }
    }

    #[test]
    fn a_stall_lasts_while_somebody_waits_for_the_log() {
        let mut blocked = Blocked::default();
        assert!(blocked.insert(at(5), Gate::Appends, 1));
        assert!(!blocked.insert(at(6), Gate::Appends, 1));
        assert!(blocked.insert(at(7), Gate::Appends, 2));
        assert!(blocked.insert(at(8), Gate::Questions, 3));
        blocked.forget(1);
        assert_eq!(blocked.open(Gate::Appends), [2]);
        assert_eq!(blocked.end_stall(), Some(BootTime(5)));
        assert!(!blocked.awaits(Gate::Appends) && blocked.awaits(Gate::Questions));
    }

    #[test]
    fn a_stall_that_nobody_is_left_to_wait_out_is_not_counted_with_the_next() {
        let mut blocked = Blocked::default();
        blocked.insert(at(5), Gate::Appends, 1);
        blocked.insert(at(5), Gate::Questions, 2);
        blocked.forget(1);
        blocked.insert(at(9_000), Gate::Appends, 4);
        assert_eq!(blocked.end_stall(), Some(BootTime(9_000)));
    }
}

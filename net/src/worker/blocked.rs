//! Connections whose next request waits for the shard, and how long the log kept them waiting.

use std::collections::{BTreeMap, BTreeSet};

use millrace_storage::units::{BootTime, Now};

use crate::session::Gate;

/// Who waits for what the shard does not accept for a while.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    /// The number that each slot drew, by what it waits for.
    numbers: BTreeMap<(Gate, u32), u64>,
    /// The same, those first that wait longest.
    order: BTreeSet<(Gate, u64, u32)>,
    next_number: u64,
    /// Since when somebody waits for the log; `None` while nobody does.
    stalled_since: Option<BootTime>,
}

impl Blocked {
    /// A connection waits; whether that is new.
    pub(super) fn insert(&mut self, now: Now, gate: Gate, slot: u32) -> bool {
        if gate == Gate::Appends {
            self.stalled_since.get_or_insert(now.boot);
        }
        if self.numbers.contains_key(&(gate, slot)) {
            return false;
        }
        self.numbers.insert((gate, slot), self.next_number);
        self.order.insert((gate, self.next_number, slot));
        self.next_number += 1;
        true
    }

    /// Whether anybody waits for this.
    pub(super) fn awaits(&self, gate: Gate) -> bool {
        self.first(gate).is_some()
    }

    /// The number that the next to wait will draw.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// The gate is open: takes out who waits longest, if its number is below `before`.
    pub(super) fn open(&mut self, gate: Gate, before: u64) -> Option<u32> {
        let (number, slot) = self.first(gate).filter(|(number, _)| *number < before)?;
        self.order.remove(&(gate, number, slot));
        self.numbers.remove(&(gate, slot));
        Some(slot)
    }

    fn first(&self, gate: Gate) -> Option<(u64, u32)> {
        let of_gate = (gate, 0, 0)..=(gate, u64::MAX, u32::MAX);
        let first = self.order.range(of_gate).next();
        first.map(|(_, number, slot)| (*number, *slot))
    }

    /// The log took appends again: since when somebody waited for that. Those who still wait do it
    /// anew.
    pub(super) fn end_stall(&mut self, now: Now) -> Option<BootTime> {
        let since = self.stalled_since.take();
        self.stalled_since = self.awaits(Gate::Appends).then_some(now.boot);
        since
    }

    /// A connection is gone. With the last that waited for the log its stall is over: how long it
    /// would have lasted nobody will know.
    pub(super) fn forget(&mut self, slot: u32) {
        for gate in [Gate::Appends, Gate::Questions] {
            if let Some(number) = self.numbers.remove(&(gate, slot)) {
                self.order.remove(&(gate, number, slot));
            }
        }
        if !self.awaits(Gate::Appends) {
            self.stalled_since = None;
        }
    }
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
        assert_eq!(blocked.open(Gate::Appends, u64::MAX), Some(2));
        assert_eq!(blocked.open(Gate::Appends, u64::MAX), None);
        assert_eq!(blocked.end_stall(at(9)), Some(BootTime(5)));
        assert_eq!(blocked.end_stall(at(9)), None);
        assert!(!blocked.awaits(Gate::Appends) && blocked.awaits(Gate::Questions));
    }

    #[test]
    fn a_stall_that_nobody_is_left_to_wait_out_is_not_counted_with_the_next() {
        let mut blocked = Blocked::default();
        blocked.insert(at(5), Gate::Appends, 1);
        blocked.insert(at(5), Gate::Questions, 2);
        blocked.forget(1);
        blocked.insert(at(9_000), Gate::Appends, 4);
        assert_eq!(blocked.end_stall(at(9_001)), Some(BootTime(9_000)));
        assert_eq!(blocked.end_stall(at(9_002)), Some(BootTime(9_001)));
    }

    #[test]
    fn who_waits_longest_goes_first_and_who_waits_again_goes_last() {
        let mut blocked = Blocked::default();
        for slot in [7, 3, 5] {
            blocked.insert(at(1), Gate::Questions, slot);
        }
        let before = blocked.next_number();
        assert_eq!(blocked.open(Gate::Questions, before), Some(7));
        blocked.insert(at(1), Gate::Questions, 7);
        assert_eq!(blocked.open(Gate::Questions, before), Some(3));
        assert_eq!(blocked.open(Gate::Questions, before), Some(5));
        assert_eq!(blocked.open(Gate::Questions, before), None, "each once");
        assert_eq!(blocked.open(Gate::Questions, u64::MAX), Some(7));
    }
}

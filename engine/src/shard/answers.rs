//! Memory of answers: what fetches are reading, what they read, and what sessions have not sent.
//!
//! A round of a fetch takes room for what it may bring before it begins, and waits while there is
//! none, first come first served. Near the bound rounds are made small, so that a few readers who
//! ask for much do not hold up many who ask for little; at least one batch is always read.

use std::collections::VecDeque;

use millrace_storage::units::BootTime;

use crate::gather::GatherId;

/// The room that this shard's answers have and take.
#[derive(Debug)]
pub(super) struct Answers {
    bytes_max: usize,
    /// What rounds under way may bring.
    reading: usize,
    /// What ended fetches and lists brought since [`Answers::note_taken`].
    ended: usize,
    /// What sessions hold, with what they took since then: that is counted twice for a while.
    held: usize,
    /// Fetches whose next round waits for room, with the time since when, the oldest first. Some
    /// may be gone.
    waiting: VecDeque<(GatherId, BootTime)>,
}

/// Room that a round got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Bytes that each home may bring.
    pub(crate) home_bytes_max: usize,
    /// Bytes taken for all of them.
    pub(crate) bytes: usize,
}

/// A read of one partition counts for this many bytes at least, however few are wanted.
pub(crate) const READ_BYTES_MIN: usize = 64 << 10;
/// This part of the room is for other questions than fetches: a client that begins needs a few
/// short answers, however many readers there are.
const QUESTIONS_PART: usize = 8;
/// A round gets this part of the room that is left.
const ROUND_PART: usize = 4;
/// And this many bytes at least, if there is room at all.
const ROUND_BYTES_MIN: usize = 1 << 20;

impl Answers {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            reading: 0,
            ended: 0,
            held: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.reading + self.ended + self.held
    }

    /// Whether nothing more should be asked for.
    pub(super) fn are_spent(&self) -> bool {
        self.used() >= self.bytes_max
    }

    /// Takes room for a round that wants `wanted` bytes of each of `homes`.
    pub(super) fn allow(&mut self, wanted: usize, homes: usize) -> Option<Allowance> {
        let rounds_max = self.bytes_max - self.bytes_max / QUESTIONS_PART;
        let room = rounds_max
            .checked_sub(self.used())
            .filter(|room| *room > 0)?;
        let homes = homes.max(1);
        let share = room / ROUND_PART / homes;
        let home_bytes_max = wanted.min(share.max(ROUND_BYTES_MIN));
        let bytes = home_bytes_max.saturating_mul(homes);
        self.reading += bytes;
        Some(Allowance {
            home_bytes_max,
            bytes,
        })
    }

    /// A round is over, and its fetch ended with `found` bytes or waits for more to come.
    pub(super) fn end(&mut self, allowance: Allowance, found: usize) {
        let reading = self.reading.checked_sub(allowance.bytes);
        self.reading = reading.expect("a round gives back what it took");
        self.ended += found;
    }

    /// An answer that no fetch asked for brought `bytes`.
    pub(super) fn note_brought(&mut self, bytes: usize) {
        self.ended += bytes;
    }

    /// Sessions hold `bytes`.
    pub(super) fn note_held(&mut self, bytes: usize) {
        self.held = bytes;
    }

    /// Sessions have everything that was ended.
    pub(super) fn note_taken(&mut self) {
        self.ended = 0;
    }

    pub(super) fn wait(&mut self, id: GatherId, since: BootTime) {
        self.waiting.push_back((id, since));
    }

    /// The fetch whose turn it is, and since when it waits.
    pub(super) fn first_waiting(&self) -> Option<(GatherId, BootTime)> {
        self.waiting.front().copied()
    }

    pub(super) fn pop_waiting(&mut self) {
        self.waiting.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn rounds_become_smaller_and_then_wait() {
        let mut answers = Answers::new(256 * MIB);
        let mut allowed = Vec::new();
        while let Some(round) = answers.allow(50 * MIB, 1) {
            allowed.push(round);
        }
        assert_eq!(allowed[0].home_bytes_max, 50 * MIB);
        assert_eq!(allowed.last().expect("many").home_bytes_max, MIB);
        assert!(allowed.is_sorted_by_key(|round| std::cmp::Reverse(round.bytes)));
        assert!(allowed.len() > 15, "{}", allowed.len());
        assert!(answers.used() < 226 * MIB && !answers.are_spent());
        for round in allowed {
            answers.end(round, MIB / 2);
        }
        assert!(answers.used() > 0);
        answers.note_taken();
        assert_eq!(answers.used(), 0);
        assert!(answers.allow(MIB, 2).is_some());
        answers.note_held(256 * MIB);
        assert!(answers.allow(1, 1).is_none());
    }
}

//! Replies leave in the order of their requests, whatever the order in which they were finished.
//!
//! A session takes a slot for each request as it is read, fills it when the outcome is there, and
//! takes finished replies from the front. Later requests are worked on while earlier ones wait.

use std::collections::VecDeque;

/// Replies of type `R` in the order of their requests.
#[derive(Debug)]
pub struct ReplyOrder<R> {
    /// Sequence of the slot at the front; rises by one as each reply leaves.
    first: u64,
    /// From the oldest request on; `None` until its reply is there.
    slots: VecDeque<Option<R>>,
}

impl<R> Default for ReplyOrder<R> {
    fn default() -> Self {
        Self {
            first: 0,
            slots: VecDeque::new(),
        }
    }
}

impl<R> ReplyOrder<R> {
    /// Takes the next slot; its sequence, counted from 0, names it.
    pub fn take_slot(&mut self) -> u64 {
        self.slots.push_back(None);
        self.first + (self.slots.len() as u64 - 1)
    }

    /// The sequence that the next slot will have.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// Puts the reply into its slot; each slot is filled once.
    pub fn fill(&mut self, sequence: u64, reply: R) {
        let index = sequence
            .checked_sub(self.first)
            .and_then(|index| usize::try_from(index).ok())
            .expect("a reply comes before its slot leaves");
        let slot = self.slots.get_mut(index).expect("a slot was taken");
        assert!(slot.is_none(), "a request has one reply");
        *slot = Some(reply);
    }

    /// Takes the reply at the front if it is there.
    pub fn pop_ready(&mut self) -> Option<R> {
        if !matches!(self.slots.front(), Some(Some(_))) {
            return None;
        }
        self.first += 1;
        self.slots.pop_front().flatten()
    }

    /// Looks at the reply at the front, if it is there.
    pub fn peek_ready(&mut self) -> Option<&mut R> {
        self.slots.front_mut()?.as_mut()
    }

    /// Requests whose replies have not left yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether every reply has left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_wait_for_their_predecessors() {
        let mut order = ReplyOrder::default();
        let slots = [order.take_slot(), order.take_slot(), order.take_slot()];
        assert_eq!(slots, [0, 1, 2]);
        order.fill(slots[2], "third");
        order.fill(slots[0], "first");
        assert_eq!(order.pop_ready(), Some("first"));
        assert_eq!(order.pop_ready(), None);
        order.fill(slots[1], "second");
        assert_eq!(order.peek_ready(), Some(&mut "second"));
        assert_eq!(order.pop_ready(), Some("second"));
        assert_eq!(order.pop_ready(), Some("third"));
        assert_eq!(order.pop_ready(), None);
        assert!(order.is_empty());
        assert_eq!(order.take_slot(), 3);
        assert_eq!(order.next_sequence(), 4);
    }
}

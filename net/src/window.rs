//! Bytes received and not yet taken by the session, and the budget that they count against.
//!
//! A large request reserves all the memory that it needs before it gets more than its first bytes:
//! who has a reservation can finish without another one, so requests cannot wait for each other.
//! Memory itself still follows the bytes that arrive.

use std::collections::BTreeSet;

/// A connection's input: bytes in the order in which they came.
///
/// ```text
/// buffer:  | taken | waiting for the session | room |
///          0     start                      end   len
/// ```
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Initialised throughout; lent to the driver while it receives into it.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    claim: Claim,
}

/// What a window has of the budget.
#[derive(Debug, Default)]
struct Claim {
    /// Bytes counted: at least the buffer's and what is reserved.
    charged: usize,
    /// Bytes up to which the window may grow without asking; 0 when nothing is reserved.
    reserved: usize,
    /// The class of `reserved`.
    class: Class,
    /// Its place among those that wait for memory.
    ticket: Option<(Class, u64)>,
}

/// Requests by size, so that a few large ones do not hold up many small ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    #[default]
    Small,
    Large,
}

/// Memory that all of a worker's windows may take together.
///
/// Reservations are granted in the order in which they were asked for, within a class. Invariant:
/// when none of a class is granted, its first is granted whatever else is in use, so somebody can
/// always finish. Small ones have a part of their own, which no large one takes from them. Past
/// `bytes_max` goes at most one request of each class, and what arrived by
/// shared buffers before anybody knew its size.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    used: usize,
    /// Bytes reserved, by class.
    reserved: [usize; 2],
    /// Tickets of those that wait, by class, the oldest first.
    waiting: [BTreeSet<u64>; 2],
    next_ticket: u64,
    /// Memory was short, and half of it is not free again.
    is_tight: bool,
    /// It became tight since [`Budget::take_tightened`] was last asked.
    has_tightened: bool,
    /// Bytes were given back since [`Budget::take_released`] was last asked.
    is_released: bool,
}

/// Requests of up to this many bytes are small.
const SMALL_BYTES_MAX: usize = 1 << 20;
/// This part of the budget is kept from large requests while small ones want it.
const SMALL_PART: usize = 8;

impl Class {
    fn of(bytes: usize) -> Self {
        if bytes <= SMALL_BYTES_MAX {
            Self::Small
        } else {
            Self::Large
        }
    }
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            used: 0,
            reserved: [0; 2],
            waiting: [BTreeSet::new(), BTreeSet::new()],
            next_ticket: 0,
            is_tight: false,
            has_tightened: false,
            is_released: false,
        }
    }

    /// Whether all of it is taken: what arrived must be kept, but no more is asked for.
    pub(crate) fn is_spent(&self) -> bool {
        self.used >= self.bytes_max
    }

    /// Whether connections should receive no more than they asked for: what arrives is kept, so an
    /// open receive is memory promised.
    pub(crate) fn is_tight(&self) -> bool {
        self.is_tight
    }

    /// Whether it became tight since this was last asked.
    pub(crate) fn take_tightened(&mut self) -> bool {
        std::mem::take(&mut self.has_tightened)
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Whether somebody who waits for memory should try again.
    pub(crate) fn take_released(&mut self) -> bool {
        std::mem::take(&mut self.is_released)
    }

    /// Reserves `bytes` in all for a window that holds `held`. When there is no room for them, the
    /// window has nothing reserved any more, and its place in the queue if it waits.
    fn reserve(&mut self, claim: &mut Claim, bytes: usize, held: usize, waits: bool) -> bool {
        self.unreserve(claim, held);
        let class = Class::of(bytes);
        if claim
            .ticket
            .is_some_and(|(waits_for, _)| waits_for != class)
        {
            self.leave_queue(claim);
        }
        let own = claim.ticket.map(|(_, number)| number);
        let first = self.waiting[class as usize].first().copied();
        let is_next = first.is_none() || first == own;
        if !is_next || !self.has_room(class, bytes, claim.charged) {
            if waits && claim.ticket.is_none() {
                claim.ticket = Some((class, self.next_ticket));
                self.waiting[class as usize].insert(self.next_ticket);
                self.next_ticket += 1;
            }
            return false;
        }
        self.leave_queue(claim);
        claim.reserved = bytes;
        claim.class = class;
        self.reserved[class as usize] += bytes;
        self.charge(claim, held);
        true
    }

    /// Whether `bytes` may be reserved by a window with `charged` bytes.
    fn has_room(&self, class: Class, bytes: usize, charged: usize) -> bool {
        let used = self.used - charged + bytes.max(charged);
        let [small, large] = self.reserved;
        let small_max = self.bytes_max / SMALL_PART;
        match class {
            Class::Small => {
                let large_waits = !self.waiting[Class::Large as usize].is_empty();
                let is_in_part = small + bytes <= small_max;
                let fits = used <= self.bytes_max && !large_waits;
                small == 0 || is_in_part || fits
            }
            Class::Large => {
                let fits = used <= self.bytes_max && large + bytes <= self.bytes_max - small_max;
                (large == 0 && small <= small_max) || fits
            }
        }
    }

    /// Gives up what is reserved; the window keeps the `held` bytes that it has.
    fn unreserve(&mut self, claim: &mut Claim, held: usize) {
        if claim.reserved > 0 {
            self.reserved[claim.class as usize] -= claim.reserved;
            claim.reserved = 0;
            // Whoever is next may be the only one now.
            self.is_released = true;
        }
        self.charge(claim, held);
    }

    fn leave_queue(&mut self, claim: &mut Claim) {
        if let Some((class, number)) = claim.ticket.take() {
            self.waiting[class as usize].remove(&number);
            // Whoever is next now should try.
            self.is_released = true;
        }
    }

    /// Counts what a window has: a buffer of `held` bytes, or what is reserved for it.
    fn charge(&mut self, claim: &mut Claim, held: usize) {
        let bytes = held.max(claim.reserved);
        self.is_released |= bytes < claim.charged;
        self.used = self.used - claim.charged + bytes;
        claim.charged = bytes;
        // Half of it: turning receives over costs each connection, and must not be easily provoked.
        if self.is_spent() && !self.is_tight {
            self.is_tight = true;
            self.has_tightened = true;
        } else if self.used <= self.bytes_max / 2 {
            self.is_tight = false;
        }
    }
}

/// A buffer that is empty and larger than this is freed: an idle connection keeps next to nothing.
const KEPT_BYTES_MAX: usize = 4096;

impl Window {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Bytes that the buffer can hold.
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes that are reserved for it.
    pub(crate) fn reserved(&self) -> usize {
        self.claim.reserved
    }

    /// The session took `bytes` from the front; what was reserved for them is free again.
    pub(crate) fn consume(&mut self, bytes: usize, budget: &mut Budget) {
        assert!(bytes <= self.len(), "a session takes what it was shown");
        self.start += bytes;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
        if bytes > 0 {
            budget.leave_queue(&mut self.claim);
            budget.unreserve(&mut self.claim, self.buffer.capacity());
        }
    }

    /// Copies what a shared buffer brought to the end. Never refused: it is here already.
    pub(crate) fn append(&mut self, bytes: &[u8], budget: &mut Budget) {
        if self.buffer.len() - self.end < bytes.len() {
            self.compact();
            self.buffer.truncate(self.end);
            self.buffer.extend_from_slice(bytes);
            self.end = self.buffer.len();
        } else {
            self.buffer[self.end..self.end + bytes.len()].copy_from_slice(bytes);
            self.end += bytes.len();
        }
        budget.charge(&mut self.claim, self.buffer.capacity());
    }

    /// Lends the buffer for a receive behind what is there, enlarged to `bytes` in all, of the
    /// `need` that the request has. `None` if the budget has no room for that; then the window
    /// keeps its place in the queue if it `waits`.
    pub(crate) fn lend(
        &mut self,
        bytes: usize,
        need: usize,
        waits: bool,
        budget: &mut Budget,
    ) -> Option<(Vec<u8>, usize)> {
        assert!(bytes > self.len(), "a receive has room");
        let need = need.max(bytes);
        let held = self.buffer.capacity();
        if need > self.claim.reserved && !budget.reserve(&mut self.claim, need, held, waits) {
            return None;
        }
        self.compact();
        if self.buffer.len() < bytes {
            self.buffer.reserve_exact(bytes - self.buffer.len());
            self.buffer.resize(bytes, 0);
        }
        budget.charge(&mut self.claim, self.buffer.capacity());
        Some((std::mem::take(&mut self.buffer), self.end))
    }

    /// Takes the lent buffer back with `bytes` more in it.
    pub(crate) fn take_back(&mut self, buffer: Vec<u8>, bytes: usize) {
        assert!(self.buffer.is_empty(), "a lent buffer comes back once");
        self.buffer = buffer;
        self.end += bytes;
        assert!(self.end <= self.buffer.len(), "a receive keeps to its room");
    }

    /// Waits for memory no longer.
    pub(crate) fn leave_queue(&mut self, budget: &mut Budget) {
        budget.leave_queue(&mut self.claim);
    }

    /// Frees the buffer if nothing is in it.
    pub(crate) fn shrink(&mut self, budget: &mut Budget) {
        self.shrink_to(KEPT_BYTES_MAX, budget);
    }

    /// Frees the buffer if nothing is in it and it is larger than `kept` bytes.
    pub(crate) fn shrink_to(&mut self, kept: usize, budget: &mut Budget) {
        if self.is_empty() && self.buffer.capacity() > kept {
            self.release(budget);
        }
    }

    /// Frees everything.
    pub(crate) fn release(&mut self, budget: &mut Budget) {
        budget.leave_queue(&mut self.claim);
        budget.unreserve(&mut self.claim, 0);
        *self = Self::default();
    }

    fn compact(&mut self) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn bytes_come_out_in_the_order_in_which_they_went_in() {
        let mut budget = Budget::new(MIB);
        let mut window = Window::default();
        window.append(b"abc", &mut budget);
        window.consume(1, &mut budget);
        window.append(b"defgh", &mut budget);
        assert_eq!(window.bytes(), b"bcdefgh");
        let lent = window.lend(16, 16, true, &mut budget);
        let (mut buffer, from) = lent.expect("within the budget");
        buffer[from..from + 2].copy_from_slice(b"ij");
        window.take_back(buffer, 2);
        assert_eq!(window.bytes(), b"bcdefghij");
        window.consume(9, &mut budget);
        assert!(window.is_empty());
    }

    #[test]
    fn the_budget_bounds_what_is_asked_for_and_follows_what_is_held() {
        let mut budget = Budget::new(10_000);
        let (mut first, mut second) = (Window::default(), Window::default());
        let lent = first.lend(8_000, 8_000, true, &mut budget);
        let (buffer, _) = lent.expect("within the budget");
        assert_eq!(budget.used(), 8_000);
        assert!(second.lend(4_000, 4_000, true, &mut budget).is_none());
        // What arrived by a shared buffer is kept even so.
        second.append(&[1; 3_000], &mut budget);
        assert!(budget.is_spent());
        first.take_back(buffer, 0);
        budget.take_released();
        first.shrink(&mut budget);
        assert!(budget.take_released());
        assert!(second.lend(4_000, 4_000, true, &mut budget).is_some());
        second.release(&mut budget);
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.reserved, [0, 0]);
    }

    /// A request that is received piece by piece, each as large as the last pieces allow.
    struct Transfer {
        window: Window,
        need: usize,
    }

    impl Transfer {
        fn new(need: usize) -> Self {
            let window = Window::default();
            Self { window, need }
        }

        /// Receives up to `bytes` in all; whether it could.
        fn receive(&mut self, bytes: usize, budget: &mut Budget) -> bool {
            let bytes = bytes.min(self.need);
            while self.window.len() < bytes {
                let more = (self.window.len() * 4).clamp(64 << 10, self.need);
                let Some((buffer, from)) = self.window.lend(more, self.need, true, budget) else {
                    return false;
                };
                let room = buffer.len().min(bytes) - from;
                self.window.take_back(buffer, room);
            }
            true
        }

        fn finish(&mut self, budget: &mut Budget) -> bool {
            let is_whole = self.receive(self.need, budget);
            if is_whole {
                self.window.consume(self.need, budget);
                self.window.shrink(budget);
            }
            is_whole
        }
    }

    #[test]
    fn two_large_requests_do_not_wait_for_each_other() {
        let mut budget = Budget::new(128 * MIB);
        let mut first = Transfer::new(100 * MIB);
        let mut second = Transfer::new(100 * MIB);
        assert!(first.receive(64 * MIB, &mut budget));
        assert!(!second.receive(64 * MIB, &mut budget));
        // A small one passes both.
        let mut small = Transfer::new(MIB / 2);
        assert!(small.finish(&mut budget));
        assert!(first.finish(&mut budget));
        assert!(budget.take_released());
        assert!(second.finish(&mut budget));
        assert_eq!((budget.used(), budget.reserved), (0, [0, 0]));
    }

    #[test]
    fn many_requests_in_lockstep_all_end() {
        let mut budget = Budget::new(128 * MIB);
        let mut all: Vec<Transfer> = (0..512).map(|_| Transfer::new(1_000_000)).collect();
        let mut most = 0;
        // Each sends 256 KiB before any of them sends more.
        for part in [64 << 10, 256 << 10, 1_000_000] {
            for transfer in &mut all {
                transfer.receive(part, &mut budget);
                most = most.max(budget.used());
            }
        }
        assert!(most <= 128 * MIB, "{most} bytes");
        let mut rounds = 0;
        while !all.is_empty() {
            let before = all.len();
            all.retain_mut(|transfer| !transfer.finish(&mut budget));
            assert!(all.len() < before, "{before} wait for each other");
            rounds += 1;
        }
        assert!(rounds <= 5, "{rounds} rounds");
        assert_eq!((budget.used(), budget.reserved), (0, [0, 0]));
    }

    #[test]
    fn a_window_that_must_grow_gives_its_reservation_up_while_it_waits() {
        // All of the memory is in windows that guessed too low.
        let mut budget = Budget::new(MIB);
        let mut guessed: Vec<Window> = (0..4).map(|_| Window::default()).collect();
        for window in &mut guessed {
            let lent = window.lend(256 << 10, 0, false, &mut budget);
            let (buffer, _) = lent.expect("within the budget");
            window.take_back(buffer, 256 << 10);
        }
        assert!(budget.is_spent());
        let mut grown = Vec::new();
        for number in (0..4).chain(0..4) {
            let window = &mut guessed[number];
            if let Some((buffer, _)) = window.lend(900_000, 900_000, true, &mut budget) {
                window.take_back(buffer, 900_000 - (256 << 10));
                grown.push(number);
            }
        }
        assert_eq!(grown.len(), 1, "one of them goes on");
        for number in grown {
            guessed[number].consume(900_000, &mut budget);
            guessed[number].shrink(&mut budget);
        }
        let next = guessed.iter_mut().filter(|window| !window.is_empty());
        let mut next = next.map(|window| window.lend(900_000, 900_000, true, &mut budget));
        assert!(next.any(|lent| lent.is_some()));
    }

    #[test]
    fn who_asked_first_is_served_first_and_who_leaves_is_not_waited_for() {
        let mut budget = Budget::new(80 * MIB);
        let mut first = Transfer::new(60 * MIB);
        let mut others: Vec<Transfer> = (0..3).map(|_| Transfer::new(50 * MIB)).collect();
        assert!(first.receive(MIB, &mut budget));
        for other in &mut others {
            assert!(!other.receive(MIB, &mut budget));
        }
        first.window.release(&mut budget);
        assert!(!others[1].receive(MIB, &mut budget), "not its turn");
        others[0].window.release(&mut budget);
        assert!(others[1].receive(MIB, &mut budget));
        assert!(!others[2].receive(MIB, &mut budget));
        others[1].window.release(&mut budget);
        assert!(others[2].receive(MIB, &mut budget));
        others[2].window.release(&mut budget);
        assert_eq!((budget.used(), budget.reserved), (0, [0, 0]));
    }
}

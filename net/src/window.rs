//! Bytes received and not yet taken by the session, and the budget that they count against.

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
    /// Bytes counted against the budget; at least the buffer's while it is lent.
    charged: usize,
}

/// Memory that all of a worker's windows may take together.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    used: usize,
    /// Bytes were given back since [`Budget::take_released`] was last asked.
    is_released: bool,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            used: 0,
            is_released: false,
        }
    }

    /// Whether all of it is taken: what arrived must be kept, but no more is asked for.
    pub(crate) fn is_spent(&self) -> bool {
        self.used >= self.bytes_max
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Whether somebody who waits for memory should try again.
    pub(crate) fn take_released(&mut self) -> bool {
        std::mem::take(&mut self.is_released)
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.used.saturating_add(bytes) <= self.bytes_max
    }

    fn recharge(&mut self, charged: &mut usize, bytes: usize) {
        self.is_released |= bytes < *charged;
        self.used = self.used - *charged + bytes;
        *charged = bytes;
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

    /// The session took `bytes` from the front.
    pub(crate) fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.len(), "a session takes what it was shown");
        self.start += bytes;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
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
        budget.recharge(&mut self.charged, self.buffer.capacity());
    }

    /// Lends the buffer for a receive behind what is there, enlarged to `bytes` in all. `None` if
    /// the budget has no room for that.
    pub(crate) fn lend(&mut self, bytes: usize, budget: &mut Budget) -> Option<(Vec<u8>, usize)> {
        assert!(bytes > self.len(), "a receive has room");
        let more = bytes.saturating_sub(self.charged);
        if more > 0 && !budget.has_room_for(more) {
            return None;
        }
        self.compact();
        if self.buffer.len() < bytes {
            self.buffer.reserve_exact(bytes - self.buffer.len());
            self.buffer.resize(bytes, 0);
        }
        budget.recharge(&mut self.charged, self.buffer.capacity());
        Some((std::mem::take(&mut self.buffer), self.end))
    }

    /// Takes the lent buffer back with `bytes` more in it.
    pub(crate) fn take_back(&mut self, buffer: Vec<u8>, bytes: usize) {
        assert!(self.buffer.is_empty(), "a lent buffer comes back once");
        self.buffer = buffer;
        self.end += bytes;
        assert!(self.end <= self.buffer.len(), "a receive keeps to its room");
    }

    /// Frees the buffer if nothing is in it.
    pub(crate) fn shrink(&mut self, budget: &mut Budget) {
        if self.is_empty() && self.buffer.capacity() > KEPT_BYTES_MAX {
            self.release(budget);
        }
    }

    /// Frees everything.
    pub(crate) fn release(&mut self, budget: &mut Budget) {
        budget.recharge(&mut self.charged, 0);
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

    #[test]
    fn bytes_come_out_in_the_order_in_which_they_went_in() {
        let mut budget = Budget::new(1 << 20);
        let mut window = Window::default();
        window.append(b"abc", &mut budget);
        window.consume(1);
        window.append(b"defgh", &mut budget);
        assert_eq!(window.bytes(), b"bcdefgh");
        let (mut buffer, from) = window.lend(16, &mut budget).expect("within the budget");
        buffer[from..from + 2].copy_from_slice(b"ij");
        window.take_back(buffer, 2);
        assert_eq!(window.bytes(), b"bcdefghij");
        window.consume(9);
        assert!(window.is_empty());
    }

    #[test]
    fn the_budget_bounds_what_is_asked_for_and_follows_what_is_held() {
        let mut budget = Budget::new(10_000);
        let (mut first, mut second) = (Window::default(), Window::default());
        let (buffer, _) = first.lend(8_000, &mut budget).expect("within the budget");
        assert_eq!(budget.used(), 8_000);
        assert!(second.lend(4_000, &mut budget).is_none());
        // What arrived by a shared buffer is kept even so.
        second.append(&[1; 3_000], &mut budget);
        assert!(budget.is_spent());
        first.take_back(buffer, 0);
        assert!(!budget.take_released());
        first.shrink(&mut budget);
        assert!(budget.take_released());
        assert!(second.lend(4_000, &mut budget).is_some());
        second.release(&mut budget);
        assert_eq!(budget.used(), 0);
    }
}

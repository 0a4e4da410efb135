//! Memory of sends: what is on its way, which is bounded, and buffers that nobody uses just now.

/// A worker's. Idle connections hold none.
#[derive(Debug)]
pub(crate) struct SendBuffers {
    /// Bytes of sends under way, past which none is begun.
    bytes_max: usize,
    used: usize,
    free: Vec<Vec<u8>>,
    /// Capacity of `free`.
    free_bytes: usize,
}

/// Memory kept by a worker for sends to come, bytes.
const FREE_BYTES_MAX: usize = 8 << 20;

impl SendBuffers {
    /// None yet; sends under way may hold `bytes_max` and one reply.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            used: 0,
            free: Vec::new(),
            free_bytes: 0,
        }
    }

    /// Whether no further send may begin.
    pub(crate) fn are_spent(&self) -> bool {
        self.used >= self.bytes_max
    }

    /// Bytes of sends under way.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// A buffer for a send, empty.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let buffer = self.free.pop().unwrap_or_default();
        self.free_bytes -= buffer.capacity();
        buffer
    }

    /// Counts a buffer of that capacity as on its way.
    pub(super) fn begin(&mut self, capacity: usize) {
        self.used += capacity;
    }

    /// Takes back the buffer of a send that ended.
    pub(crate) fn end(&mut self, buffer: Vec<u8>) {
        self.used -= buffer.capacity();
        self.keep(buffer);
    }

    /// Keeps a buffer for the next send, unless that would be too much.
    pub(super) fn keep(&mut self, mut buffer: Vec<u8>) {
        let is_useful = buffer.capacity() > 0;
        if is_useful && self.free_bytes + buffer.capacity() <= FREE_BYTES_MAX {
            buffer.clear();
            self.free_bytes += buffer.capacity();
            self.free.push(buffer);
        }
    }
}

//! The provided buffers that multishot receives fill.
//!
//! The kernel takes a buffer from this ring when bytes arrive, names it in the completion, and
//! has no further claim on it until it is given back. So ten thousand idle connections hold no
//! receive memory at all, and the sum of what they can pin is fixed.
//!
//! ```text
//! entry (16 bytes): address u64 | bytes u32 | id u16 | reserved u16
//! The reserved field of entry 0 is the ring's tail; the kernel keeps the head.
//! ```

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use millrace_storage::buf::AlignedBuf;
use millrace_storage::units::{PAGE_BYTES, page_ceil};

use super::ring::Ring;

/// A ring of equal buffers, registered with one io_uring.
pub struct Buffers {
    /// The entries, shared with the kernel. Touched only through `entry` and `publish`.
    entries: AlignedBuf,
    /// All buffers side by side. The kernel writes those that are not `held`. A zeroed vector of
    /// this size is resident only as far as it was written, which an aligned buffer is not.
    memory: Vec<u8>,
    /// By buffer id: named in a completion and not given back yet.
    held: Vec<bool>,
    /// Entries ever added, modulo 2^16: where the next one goes.
    tail: u16,
    buffer_bytes: usize,
}

/// The one group of provided buffers.
pub(super) const GROUP: u16 = 0;

impl Buffers {
    /// `count` (a power of two up to 32768) buffers of `buffer_bytes` (whole pages), all with the
    /// kernel. Their memory becomes resident as it is first used.
    ///
    /// # Errors
    /// The kernel refuses the ring.
    pub fn register(ring: &Ring, count: u16, buffer_bytes: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= 1 << 15);
        let entry_bytes = size_of::<BufRingEntry>();
        let mut buffers = Self {
            entries: AlignedBuf::zeroed(page_ceil(usize::from(count) * entry_bytes)),
            memory: vec![0; usize::from(count) * buffer_bytes],
            held: vec![true; usize::from(count)],
            tail: 0,
            buffer_bytes,
        };
        let address = buffers.entries.as_ptr() as u64;
        // SAFETY: `entries` is page-aligned memory for `count` entries. The driver drops its ring
        // before its buffers, and only after every receive has ended.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(address, count, GROUP, 0)?;
        }
        for id in 0..count {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    /// The first `bytes` of a buffer that a completion named.
    #[must_use]
    pub fn filled(&self, id: u16, bytes: usize) -> &[u8] {
        assert!(self.held[usize::from(id)], "a lent buffer is ours");
        assert!(bytes <= self.buffer_bytes);
        let start = usize::from(id) * self.buffer_bytes;
        &self.memory[start..start + bytes]
    }

    /// A completion named this buffer: it is ours until given back.
    pub fn take(&mut self, id: u16) {
        let held = &mut self.held[usize::from(id)];
        assert!(!*held, "the kernel fills only buffers that it has");
        *held = true;
    }

    /// Gives a buffer back to the kernel.
    pub fn give_back(&mut self, id: u16) {
        let held = &mut self.held[usize::from(id)];
        assert!(*held, "a buffer is given back once");
        *held = false;
        let start = usize::from(id) * self.buffer_bytes;
        let address = self.memory[start..].as_mut_ptr() as u64;
        let bytes = u32::try_from(self.buffer_bytes).expect("a buffer's size fits 32 bits");
        let slot = usize::from(self.tail) & (self.held.len() - 1);
        // SAFETY: `slot` is below the entry count and the memory is page-aligned, which is enough
        // for an entry. The kernel reads an entry only once the tail has passed it.
        unsafe {
            let entry = self.entries.as_mut_ptr().cast::<BufRingEntry>().add(slot);
            (*entry).set_addr(address);
            (*entry).set_len(bytes);
            (*entry).set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail is the reserved field of entry 0, aligned to two bytes; the kernel
        // reads it concurrently, so it is written as an atomic, after the entry.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr().cast::<BufRingEntry>());
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
    }

    /// Bytes of each buffer.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// Gives the memory up for good, for when the kernel may still write to it.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.memory));
        let placeholder = AlignedBuf::zeroed(PAGE_BYTES);
        std::mem::forget(std::mem::replace(&mut self.entries, placeholder));
    }
}

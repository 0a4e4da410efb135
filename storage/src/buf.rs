//! Page-aligned memory for O_DIRECT, and the pool that its buffers return to.
//!
//! The only unsafe code of this crate. A buffer is owned: giving it to the kernel moves it into
//! the operation, and it comes back with the completion. Shared for reading it becomes [`Bytes`],
//! whose last clone returns the memory to the pool, from whichever thread that happens on.
//!
//! A large buffer is a mapping of its own, made resident by one call: a fault for each 4 KiB of a
//! burst's memory, and the zeros written once more, were a third of a shard's time. Huge pages
//! would be cheaper still, where they are at hand: on a virtual machine whose host takes free ones
//! back, as balloons do, they cost ten times as much.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use memmap2::{Advice, MmapMut, MmapRaw};

use crate::units::PAGE_BYTES;

/// Buffers from this size on are mapped; smaller ones come from the global allocator.
const MAPPED_BYTES_MIN: usize = 256 << 10;

/// Zero-initialised memory, page-aligned, of a whole number of pages.
pub struct AlignedBuf {
    /// Start of `capacity` bytes, page-aligned, all initialised.
    start: NonNull<u8>,
    /// A positive multiple of [`PAGE_BYTES`].
    capacity: usize,
    /// What [`Deref`] shows; a multiple of [`PAGE_BYTES`], at most `capacity`.
    len: usize,
    /// Owns the memory; `None`: it is the global allocator's.
    mapping: Option<MmapRaw>,
}

impl AlignedBuf {
    /// `bytes` zeros; `bytes` must be a positive multiple of [`PAGE_BYTES`].
    #[must_use]
    pub fn zeroed(bytes: usize) -> Self {
        let layout = Self::layout(bytes);
        if bytes >= MAPPED_BYTES_MIN {
            return Self::mapped(layout);
        }
        // SAFETY: `layout` has a non-zero size, asserted in `layout`.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        Self {
            start,
            capacity: bytes,
            len: bytes,
            mapping: None,
        }
    }

    fn mapped(layout: Layout) -> Self {
        let Ok(mapping) = MmapMut::map_anon(layout.size()) else {
            handle_alloc_error(layout)
        };
        // A kernel before 5.14 cannot, and faults the pages in one by one.
        let _ = mapping.advise(Advice::PopulateWrite);
        let mapping = MmapRaw::from(mapping);
        Self {
            start: NonNull::new(mapping.as_mut_ptr()).expect("a mapping does not begin at 0"),
            capacity: layout.size(),
            len: layout.size(),
            mapping: Some(mapping),
        }
    }

    fn layout(bytes: usize) -> Layout {
        assert!(
            bytes > 0 && bytes.is_multiple_of(PAGE_BYTES),
            "{bytes} bytes are not whole pages"
        );
        Layout::from_size_align(bytes, PAGE_BYTES).expect("a buffer's size fits isize")
    }

    /// Bytes that the buffer can show.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Shows the first `bytes` (whole pages, at most the capacity) from now on.
    pub fn set_len(&mut self, bytes: usize) {
        assert!(bytes <= self.capacity && bytes.is_multiple_of(PAGE_BYTES));
        self.len = bytes;
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `capacity >= len` initialised bytes that this value owns.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.mapping.is_none() {
            // SAFETY: `start` came from `alloc_zeroed` with this very layout, and is freed only
            // here.
            unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
        }
    }
}

// SAFETY: the memory is owned by this value alone; nothing about it is tied to a thread.
unsafe impl Send for AlignedBuf {}
// SAFETY: `&AlignedBuf` gives only shared reads of plain bytes.
unsafe impl Sync for AlignedBuf {}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity)
    }
}

/// A bounded stock of equal buffers. Cloning shares the stock.
#[derive(Clone, Debug)]
pub struct BufferPool {
    free: Arc<ArrayQueue<AlignedBuf>>,
    /// Capacity of each buffer; whole pages.
    buffer_bytes: usize,
}

impl BufferPool {
    /// A pool that keeps up to `buffers_max` free buffers of `buffer_bytes` each.
    #[must_use]
    pub fn new(buffer_bytes: usize, buffers_max: usize) -> Self {
        assert!(buffer_bytes > 0 && buffer_bytes.is_multiple_of(PAGE_BYTES));
        Self {
            free: Arc::new(ArrayQueue::new(buffers_max)),
            buffer_bytes,
        }
    }

    /// Bytes of each buffer.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// A buffer at full length. Its content is whatever its last user left.
    #[must_use]
    pub fn take(&self) -> AlignedBuf {
        match self.free.pop() {
            Some(mut buffer) => {
                buffer.set_len(self.buffer_bytes);
                buffer
            }
            None => AlignedBuf::zeroed(self.buffer_bytes),
        }
    }

    /// Takes a buffer back, freeing it when the stock is full or the size is another's.
    pub fn give(&self, buffer: AlignedBuf) {
        if buffer.capacity() == self.buffer_bytes {
            // A full stock hands the buffer back, and dropping it here frees it: the bound holds.
            drop(self.free.push(buffer));
        }
    }

    /// Shares `buffer` for reading; its last reader gives it back to this pool.
    #[must_use]
    pub fn share(&self, buffer: AlignedBuf) -> Bytes {
        Bytes::from_owner(Pooled {
            buffer: Some(buffer),
            pool: self.clone(),
        })
    }
}

/// Owner of shared pool memory.
struct Pooled {
    /// `Some` until dropped.
    buffer: Option<AlignedBuf>,
    pool: BufferPool,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_deref().expect("shared until dropped")
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.give(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_zeroed_and_keeps_what_is_written() {
        for bytes in [2 * PAGE_BYTES, MAPPED_BYTES_MIN + PAGE_BYTES] {
            let mut buffer = AlignedBuf::zeroed(bytes);
            assert_eq!(buffer.as_ptr() as usize % PAGE_BYTES, 0);
            assert_eq!((buffer.len(), buffer.capacity()), (bytes, bytes));
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer[bytes - 1] = 7;
            buffer.set_len(PAGE_BYTES);
            assert_eq!(buffer.len(), PAGE_BYTES);
            buffer.set_len(bytes);
            assert_eq!(buffer[bytes - 1], 7);
        }
    }

    #[test]
    fn the_last_reader_returns_the_memory_to_its_pool() {
        let pool = BufferPool::new(PAGE_BYTES, 1);
        let first = pool.share(pool.take());
        let address = first.as_ptr();
        let slice = first.slice(8..16);
        drop(first);
        assert!(pool.free.is_empty());
        std::thread::spawn(move || drop(slice))
            .join()
            .expect("the reader ran");
        assert_eq!(pool.take().as_ptr(), address);
    }

    #[test]
    fn a_full_stock_frees_what_is_given_to_it() {
        let pool = BufferPool::new(PAGE_BYTES, 1);
        pool.give(AlignedBuf::zeroed(PAGE_BYTES));
        pool.give(AlignedBuf::zeroed(PAGE_BYTES));
        pool.give(AlignedBuf::zeroed(2 * PAGE_BYTES));
        assert_eq!(pool.free.len(), 1);
    }
}

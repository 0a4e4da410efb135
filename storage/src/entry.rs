//! What a block's payload is made of: entries, one behind the other, each padded to 8 bytes.
//!
//! | offset | bytes | type | field      | unit or meaning                                      |
//! |-------:|------:|------|------------|------------------------------------------------------|
//! |      0 |     1 | u8   | kind       | see [`EntryKind`]                                    |
//! |      1 |     1 | u8   | flags      | 0                                                    |
//! |      2 |     2 | u16  | reserved   | 0                                                    |
//! |      4 |     4 | u32  | body bytes | without padding                                      |
//! |      8 |     8 | u64  | id         | a partition, or the engine's key                     |
//! |     16 |       |      | body       | then zeros up to a multiple of 8                     |
//!
//! All numbers are little-endian. A block's checksums vouch for its entries, so a malformed one in
//! a good block was written by a newer version, or is damage: both refuse, neither is skipped.

/// Bytes of an entry before its body.
pub const ENTRY_HEADER_BYTES: usize = 16;
const ALIGNMENT_BYTES: usize = 8;

const _: () = assert!(ENTRY_HEADER_BYTES == 8 + size_of::<u64>());
const _: () = assert!(ENTRY_HEADER_BYTES.is_multiple_of(ALIGNMENT_BYTES));

/// Bytes that an entry with `body_bytes` takes, padding included.
pub(crate) const fn entry_bytes(body_bytes: usize) -> usize {
    ENTRY_HEADER_BYTES + body_bytes.div_ceil(ALIGNMENT_BYTES) * ALIGNMENT_BYTES
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// One record batch; the id is its partition.
    Batch = 1,
    /// A change of the engine's state, opaque here; the id is the engine's key.
    State = 2,
    /// Records below an offset are deleted; the id is the partition, the body the offset (u64).
    LogStart = 3,
}

/// Numbers kept for what later versions write: an exactly-once move to another shard, its
/// confirmation, a lease event, a transaction's end, and an epoch. This version refuses them.
pub const ENTRY_KINDS_RESERVED: [u8; 5] = [4, 5, 6, 7, 8];

impl EntryKind {
    fn decode(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Batch),
            2 => Some(Self::State),
            3 => Some(Self::LogStart),
            _ => None,
        }
    }
}

/// One entry of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it is.
    pub kind: EntryKind,
    /// A partition or the engine's key.
    pub id: u64,
    /// Its content.
    pub body: &'a [u8],
    /// Where the entry's header stands in the payload.
    pub start: usize,
    /// Where the next entry stands.
    pub end: usize,
}

/// Why a payload cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryError {
    /// An entry runs over the payload's end.
    Short,
    /// A kind, a flag or a reserved field that this version does not know.
    Newer,
}

impl EntryError {
    /// The words for a report.
    #[must_use]
    pub fn found(self) -> &'static str {
        match self {
            Self::Short => "an entry that runs over the end of its block",
            Self::Newer => "an entry of a newer format",
        }
    }
}

/// Writes the entry's header at the start of `space` (as long as [`entry_bytes`] says) and the
/// zeros behind the body, and returns the place of the body, to be filled by the caller.
pub(crate) fn encode(space: &mut [u8], kind: EntryKind, id: u64, body_bytes: usize) -> &mut [u8] {
    assert_eq!(space.len(), entry_bytes(body_bytes));
    let length = u32::try_from(body_bytes).expect("bodies are bounded by batch_bytes_max");
    let (header, rest) = space.split_at_mut(ENTRY_HEADER_BYTES);
    header[0] = kind as u8;
    header[1..4].fill(0);
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..].copy_from_slice(&id.to_le_bytes());
    let (body, padding) = rest.split_at_mut(body_bytes);
    padding.fill(0);
    body
}

/// The entries of a payload, in order; the first error ends it.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    payload: &'a [u8],
    next: usize,
}

impl<'a> Entries<'a> {
    /// Reads `payload` from `start`, where an entry begins.
    #[must_use]
    pub fn new(payload: &'a [u8], start: usize) -> Self {
        Self {
            payload,
            next: start,
        }
    }

    fn decode(&self) -> Result<Entry<'a>, EntryError> {
        let rest = self.payload.get(self.next..).ok_or(EntryError::Short)?;
        let header: &[u8; ENTRY_HEADER_BYTES] = rest.first_chunk().ok_or(EntryError::Short)?;
        let [kind, flags, reserved @ ..] = header;
        let kind = EntryKind::decode(*kind).ok_or(EntryError::Newer)?;
        if *flags != 0 || reserved[..2] != [0, 0] {
            return Err(EntryError::Newer);
        }
        let [_, _, _, _, l0, l1, l2, l3, id @ ..] = *header;
        let body_bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let body_end = ENTRY_HEADER_BYTES
            .checked_add(body_bytes)
            .ok_or(EntryError::Short)?;
        let body = rest
            .get(ENTRY_HEADER_BYTES..body_end)
            .ok_or(EntryError::Short)?;
        let end = self.next + entry_bytes(body_bytes);
        if end > self.payload.len() {
            return Err(EntryError::Short);
        }
        Ok(Entry {
            kind,
            id: u64::from_le_bytes(id),
            body,
            start: self.next,
            end,
        })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, EntryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.payload.len() {
            return None;
        }
        let entry = self.decode();
        self.next = match entry {
            Ok(entry) => entry.end,
            Err(_) => self.payload.len(),
        };
        Some(entry)
    }
}

/// Reads every entry of `bytes` as a payload: whatever they are, this returns.
#[doc(hidden)]
pub fn fuzz_decode(bytes: &[u8]) {
    for start in [0, bytes.len() / 2] {
        let _entries = Entries::new(bytes, start).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Vec<u8> {
        let mut payload = vec![0xff; entry_bytes(5) + entry_bytes(0) + entry_bytes(8)];
        let (first, rest) = payload.split_at_mut(entry_bytes(5));
        let (second, third) = rest.split_at_mut(entry_bytes(0));
        encode(first, EntryKind::Batch, 7, 5).copy_from_slice(b"batch");
        encode(second, EntryKind::State, u64::MAX, 0);
        encode(third, EntryKind::LogStart, 7, 8).copy_from_slice(&9_u64.to_le_bytes());
        payload
    }

    #[test]
    fn entries_are_these_bytes_and_come_back() {
        let payload = payload();
        let golden = [
            b"\x01\0\0\0\x05\0\0\0\x07\0\0\0\0\0\0\0batch\0\0\0".as_slice(),
            b"\x02\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x03\0\0\0\x08\0\0\0\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0",
        ];
        assert_eq!(payload, golden.concat());
        let entries: Vec<_> = Entries::new(&payload, 0)
            .map(|e| e.expect("good"))
            .collect();
        let kinds: Vec<_> = entries.iter().map(|entry| entry.kind).collect();
        assert_eq!(
            kinds,
            [EntryKind::Batch, EntryKind::State, EntryKind::LogStart]
        );
        assert_eq!((entries[0].id, entries[0].body), (7, &b"batch"[..]));
        assert_eq!((entries[1].start, entries[1].end), (24, 40));
        let from_second = Entries::new(&payload, 24).next();
        assert_eq!(from_second, Some(Ok(entries[1])));
    }

    #[test]
    fn every_prefix_ends_with_whole_entries_or_is_short() {
        let payload = payload();
        for end in 0..payload.len() {
            let last = Entries::new(&payload[..end], 0).last();
            match end {
                0 => assert_eq!(last, None),
                24 | 40 => assert!(last.is_some_and(|entry| entry.is_ok())),
                _ => assert_eq!(last, Some(Err(EntryError::Short)), "{end}"),
            }
        }
    }

    #[test]
    fn what_a_later_version_writes_is_refused_by_name() {
        let kinds = ENTRY_KINDS_RESERVED.into_iter().chain([0, 9, 255]);
        for (at, value) in kinds.map(|kind| (0, kind)).chain([(1, 1), (2, 1), (3, 1)]) {
            let mut payload = payload();
            payload[at] = value;
            let first = Entries::new(&payload, 0).next();
            assert_eq!(first, Some(Err(EntryError::Newer)), "{at} {value}");
        }
    }

    #[test]
    fn lengths_at_their_edges_are_short() {
        for length in [9, 65, 1 << 31, u32::MAX - 8, u32::MAX] {
            let mut payload = payload();
            payload[4..8].copy_from_slice(&u32::to_le_bytes(length));
            assert!(
                Entries::new(&payload, 0).any(|entry| entry.is_err()),
                "{length}"
            );
            fuzz_decode(&payload);
        }
        assert_eq!(Entries::new(&[], 1).next(), None);
    }
}

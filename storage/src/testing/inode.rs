//! One simulated file: what the running machine reads, and what a power cut would leave.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::units::PAGE_BYTES;

/// What a device writes whole or not at all.
pub(crate) const SECTOR_BYTES: usize = 512;

/// A slice of the write that brought it.
type Sector = Bytes;

static ZEROS: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];

/// Number of an un-synced change, ascending over the whole disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChangeId(pub(super) u64);

/// The bytes of a file. Absent sectors are zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// What reads return: the device's cache.
    current: BTreeMap<u64, Sector>,
    /// What certainly survives a power cut.
    durable: BTreeMap<u64, Sector>,
    /// Versions written since the sector was last made durable, oldest first. After a power cut
    /// the sector holds the durable one or any of these.
    pending: BTreeMap<u64, Vec<(ChangeId, Sector)>>,
    /// Length that reads see, bytes.
    size: u64,
    /// Length that certainly survives, bytes.
    durable_size: u64,
    /// Lengths taken on since the length was last made durable, oldest first.
    pending_sizes: Vec<(ChangeId, u64)>,
    /// Pages given back by punching; they take no space until written again.
    holes: BTreeSet<u64>,
}

/// Whether one part of an un-synced change reached the medium: a sector, the file's length, or a
/// directory entry. Asked once for each part.
pub(super) type Survives<'a> = dyn FnMut(ChangeId) -> bool + 'a;

impl Inode {
    pub(super) fn preallocated(change: ChangeId, bytes: u64) -> Self {
        Self {
            size: bytes,
            pending_sizes: vec![(change, bytes)],
            ..Self::default()
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Space taken, bytes.
    pub(super) fn allocated_bytes(&self) -> u64 {
        let page_bytes = PAGE_BYTES as u64;
        self.size.next_multiple_of(page_bytes) - self.holes.len() as u64 * page_bytes
    }

    /// Space that a write of `bytes` at `position` would take beyond what the file has.
    pub(super) fn growth_bytes(&self, position: u64, bytes: u64) -> u64 {
        let page_bytes = PAGE_BYTES as u64;
        let beyond = (position + bytes).saturating_sub(self.size);
        let pages = position / page_bytes..(position + bytes).div_ceil(page_bytes);
        beyond + self.holes.range(pages).count() as u64 * page_bytes
    }

    /// Fills `into` from `position`; returns how much of it lay within the file.
    pub(super) fn read(&self, position: u64, into: &mut [u8]) -> usize {
        let within = usize::try_from(self.size.saturating_sub(position)).unwrap_or(usize::MAX);
        let bytes = into.len().min(within);
        for (number, chunk) in sectors_of(position, &mut into[..bytes]) {
            match self.current.get(&number) {
                Some(sector) => chunk.copy_from_slice(&sector[..chunk.len()]),
                None => chunk.fill(0),
            }
        }
        bytes
    }

    /// Writes into the device's cache; `change` decides about it in a power cut.
    pub(super) fn write(&mut self, change: ChangeId, position: u64, bytes: &[u8]) {
        for (number, sector) in sectors_from(position, bytes) {
            self.pending
                .entry(number)
                .or_default()
                .push((change, sector.clone()));
            self.current.insert(number, sector);
        }
        self.extend(Some(change), position, bytes.len());
    }

    /// Writes through to the medium. Older un-synced versions of the same sectors can no longer
    /// come back.
    pub(super) fn write_durably(&mut self, position: u64, bytes: &[u8]) {
        for (number, sector) in sectors_from(position, bytes) {
            self.pending.remove(&number);
            self.durable.insert(number, sector.clone());
            self.current.insert(number, sector);
        }
        self.extend(None, position, bytes.len());
        self.size_is_durable();
    }

    /// Writes what reads will see and no power cut will keep: a write-back that failed after its
    /// pages were marked clean.
    pub(super) fn write_into_the_void(&mut self, position: u64, bytes: &[u8]) {
        for (number, sector) in sectors_from(position, bytes) {
            self.current.insert(number, sector);
        }
        self.extend(None, position, bytes.len());
    }

    /// Changes what is stored, behind everyone's back.
    pub(super) fn damage(&mut self, position: u64, bytes: &[u8]) {
        let end = usize::try_from(self.size.saturating_sub(position)).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(end)];
        let first = position / SECTOR_BYTES as u64 * SECTOR_BYTES as u64;
        let end = position + bytes.len() as u64;
        let span = end.next_multiple_of(SECTOR_BYTES as u64) - first;
        let mut whole = vec![0; usize::try_from(span).expect("damage fits memory")];
        self.read(first, &mut whole);
        let at = usize::try_from(position - first).expect("within a sector");
        whole[at..at + bytes.len()].copy_from_slice(bytes);
        for (number, sector) in sectors_from(first, &whole) {
            self.pending.remove(&number);
            self.durable.insert(number, sector.clone());
            self.current.insert(number, sector);
        }
    }

    /// Cuts the file to `bytes`, behind everyone's back.
    pub(super) fn cut(&mut self, bytes: u64) {
        self.size = self.size.min(bytes);
        self.durable_size = self.durable_size.min(bytes);
        self.pending_sizes.clear();
        self.forget_beyond_the_end();
    }

    /// Takes on what a write of `bytes` at `position` does to length and holes.
    fn extend(&mut self, change: Option<ChangeId>, position: u64, bytes: usize) {
        let end = position + bytes as u64;
        if end > self.size {
            self.size = end;
            self.pending_sizes
                .extend(change.map(|change| (change, end)));
        }
        let page_bytes = PAGE_BYTES as u64;
        let pages = position / page_bytes..end.div_ceil(page_bytes);
        self.holes.retain(|page| !pages.contains(page));
    }

    fn size_is_durable(&mut self) {
        self.durable_size = self.size;
        self.pending_sizes.clear();
    }

    /// Gives whole pages back; reads of them return zeros.
    pub(super) fn punch(&mut self, change: ChangeId, position: u64, bytes: u64) {
        let zeros = Bytes::from_static(&ZEROS);
        let first = position / SECTOR_BYTES as u64;
        let end = (position + bytes).min(self.size) / SECTOR_BYTES as u64;
        for number in first..end {
            if self.current.remove(&number).is_some() {
                let versions = self.pending.entry(number).or_default();
                versions.push((change, zeros.clone()));
            }
        }
        let page_bytes = PAGE_BYTES as u64;
        let last_page = (position + bytes).min(self.size).div_ceil(page_bytes);
        self.holes.extend(position / page_bytes..last_page);
    }

    /// fdatasync: everything written so far is on the medium.
    pub(super) fn sync(&mut self) {
        for (number, versions) in std::mem::take(&mut self.pending) {
            if let Some((_, newest)) = versions.into_iter().next_back() {
                self.durable.insert(number, newest);
            }
        }
        self.size_is_durable();
    }

    /// A failed fdatasync, as Linux does it: the pages stay readable, count as clean, and will
    /// never be written. The next fdatasync reports success.
    pub(super) fn sync_in_vain(&mut self) {
        self.pending.clear();
        self.pending_sizes.clear();
    }

    /// The file after a power cut: each un-synced part keeps the newest of its versions that
    /// `survives` says reached the medium.
    pub(super) fn after_power_cut(&self, survives: &mut Survives<'_>) -> Self {
        let mut durable = self.durable.clone();
        for (number, versions) in &self.pending {
            let mut newest_first = versions.iter().rev();
            if let Some((_, sector)) = newest_first.find(|(change, _)| survives(*change)) {
                durable.insert(*number, sector.clone());
            }
        }
        let mut newest_first = self.pending_sizes.iter().rev();
        let kept = newest_first.find(|(change, _)| survives(*change));
        let size = kept.map_or(self.durable_size, |(_, size)| *size);
        let mut inode = Self {
            current: durable.clone(),
            durable,
            pending: BTreeMap::new(),
            size,
            durable_size: size,
            pending_sizes: Vec::new(),
            holes: self.holes.clone(),
        };
        inode.forget_beyond_the_end();
        inode
    }

    fn forget_beyond_the_end(&mut self) {
        let end = self.size.div_ceil(SECTOR_BYTES as u64);
        self.current.split_off(&end);
        self.durable.split_off(&end);
        self.pending.split_off(&end);
        let end_page = self.size.div_ceil(PAGE_BYTES as u64);
        self.holes.split_off(&end_page);
    }
}

/// The sectors that `bytes` at `position` (sector-aligned) touch, each with its part of `bytes`.
fn sectors_of(position: u64, bytes: &mut [u8]) -> impl Iterator<Item = (u64, &mut [u8])> {
    assert!(position.is_multiple_of(SECTOR_BYTES as u64));
    (position / SECTOR_BYTES as u64..).zip(bytes.chunks_mut(SECTOR_BYTES))
}

/// The whole sectors of `bytes`, which begin at `position`.
fn sectors_from(position: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, Sector)> {
    assert!(position.is_multiple_of(SECTOR_BYTES as u64));
    assert!(
        bytes.len().is_multiple_of(SECTOR_BYTES),
        "devices write whole sectors"
    );
    let whole = Bytes::copy_from_slice(bytes);
    let starts = (0..bytes.len()).step_by(SECTOR_BYTES);
    (position / SECTOR_BYTES as u64..)
        .zip(starts)
        .map(move |(number, start)| (number, whole.slice(start..start + SECTOR_BYTES)))
}

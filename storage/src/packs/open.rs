//! Reads the packs' directories while a store opens; and, once it is sure that it does, clears away
//! what was never committed.

use super::{Packs, SectionRef};
use crate::blocking::StartDisk;
use crate::buf::AlignedBuf;
use crate::disk::{FileName, Listing};
use crate::error::StorageError;
use crate::log_index::LogIndex;
use crate::manifest::{ManifestState, PackEntry};
use crate::record::checksum;
use crate::section::{Directory, SectionKind};
use crate::units::{FilePosition, Lsn, Offset, PAGE_BYTES, PackId, ShardId, page_ceil};

/// A directory is never larger: that would be two million sections.
const FOOTER_BYTES_MAX: u32 = 256 << 20;

/// Opens every pack that the manifest names and changes nothing on disk. Foreign files are
/// reported.
///
/// # Errors
/// [`StorageError::Corrupt`] names a pack that is missing or whose directory is damaged twice,
/// [`StorageError::Io`].
pub(crate) fn open(
    disk: &mut StartDisk<'_, '_>,
    shard: ShardId,
    state: &ManifestState,
    listing: &Listing,
) -> Result<Packs, StorageError> {
    let mut packs = Packs::new(shard, state.next_pack);
    for (id, entry) in &state.packs {
        let listed = listing.files.iter().find(|(file, _)| *file == entry.file);
        let (_, file_bytes) = listed.ok_or_else(|| {
            let found = "a pack that the manifest names is missing";
            corrupt(shard, entry.file, FilePosition(0), found)
        })?;
        let directory = read_directory(disk, shard, entry, *file_bytes)?;
        packs.add(*id, entry, directory);
    }
    if let Some(at) = packs.overlap() {
        let found = "sections of one log overlap";
        return Err(corrupt(
            shard,
            packs.pack(at.pack).file,
            FilePosition(0),
            found,
        ));
    }
    if let Some(snapshot) = state.snapshot {
        let at = SectionRef {
            pack: snapshot.pack,
            number: snapshot.section,
        };
        let pack = packs.pack(at.pack);
        let section = pack.section(at.number);
        if !section.is_some_and(|s| s.kind == SectionKind::Snapshot && s.as_of == snapshot.as_of) {
            let found = "the snapshot that the manifest names is not there";
            return Err(corrupt(shard, pack.file, FilePosition(0), found));
        }
        packs.snapshot = Some(at);
    }
    for name in &listing.foreign {
        tracing::warn!(%shard, name, "a file that is not ours lies in the shard's directory");
    }
    packs.count_on_from(listing);
    Ok(packs)
}

fn corrupt(
    shard: ShardId,
    file: FileName,
    position: FilePosition,
    found: &'static str,
) -> StorageError {
    StorageError::Corrupt {
        shard,
        file,
        position,
        found,
    }
}

/// The pack's directory from whichever of its copies is good. The file has `file_bytes`.
///
/// # Errors
/// [`StorageError::Corrupt`] when neither copy is what `entry` says, [`StorageError::Io`].
pub(crate) fn read_directory(
    disk: &mut StartDisk<'_, '_>,
    shard: ShardId,
    entry: &PackEntry,
    file_bytes: u64,
) -> Result<Directory, StorageError> {
    let corrupt = |found| corrupt(shard, entry.file, entry.footer, found);
    let padded = page_ceil(entry.footer_bytes as usize);
    let end = entry.footer.0.checked_add(2 * padded as u64);
    let is_sound = entry.footer_bytes > 0
        && entry.footer_bytes <= FOOTER_BYTES_MAX
        && entry.footer.0.is_multiple_of(PAGE_BYTES as u64)
        && end == Some(entry.bytes);
    if !is_sound {
        return Err(corrupt("the manifest's entry contradicts itself"));
    }
    if file_bytes < entry.bytes {
        return Err(corrupt("the pack is cut short"));
    }
    let mut buffer = AlignedBuf::zeroed(padded);
    let mut found = "the pack's directory is damaged";
    for copy in [entry.footer.0, entry.footer.0 + padded as u64] {
        let (returned, read) = disk.read(entry.file, FilePosition(copy), buffer)?;
        buffer = returned;
        let bytes = buffer.get(..entry.footer_bytes as usize);
        if let Some(bytes) = bytes.filter(|_| read == Some(padded)) {
            match decode_directory(bytes, entry) {
                Ok(directory) => return Ok(directory),
                Err(why) => found = why,
            }
        }
    }
    Err(corrupt(found))
}

/// One copy of the directory that `entry` names.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn decode_directory(bytes: &[u8], entry: &PackEntry) -> Result<Directory, &'static str> {
    let directory = Directory::decode(bytes, entry.footer)?;
    // The directory's own checksum stands at 4 and covers what follows it.
    if bytes.get(8..).map(checksum) != Some(entry.footer_checksum) {
        return Err("the pack's directory is not the one that the manifest names");
    }
    let sections = directory.sections.len();
    let is_known = |number: &u32| usize::try_from(*number).is_ok_and(|n| n < sections);
    if !entry.dropped.iter().all(is_known) {
        return Err("the manifest drops a section that is not there");
    }
    Ok(directory)
}

/// Packs are not numbered from here on. A file of such a name was not made by us, and goes as
/// what no manifest names; counting on from it would end with names that are none.
const STRAY_MAX: u64 = 1 << 48;

/// Removes every pack that the manifest does not name, and all temporaries: they were never
/// committed, or are dropped. Only a manifest that is secured says so for certain, and only a start
/// that does not refuse needs no second copy of what they hold.
///
/// # Errors
/// [`StorageError::Io`].
pub(crate) fn remove_uncommitted(
    disk: &mut StartDisk<'_, '_>,
    state: &ManifestState,
    listing: &Listing,
) -> Result<(), StorageError> {
    for (file, _) in &listing.files {
        let is_stray = match file {
            FileName::Pack(id) | FileName::Segment(id) => {
                state.packs.get(id).is_none_or(|entry| entry.file != *file)
            }
            // The manifest's own one is gone already: securing it has renamed it.
            FileName::Temporary(_) => true,
            _ => false,
        };
        if is_stray {
            disk.remove_if_there(*file)?;
        }
    }
    Ok(())
}

impl Packs {
    /// New files get ids above those of all that are there.
    fn count_on_from(&mut self, listing: &Listing) {
        for (file, _) in &listing.files {
            if let FileName::Pack(id) | FileName::Segment(id) = file
                && id.0 < STRAY_MAX
            {
                self.next_pack = self.next_pack.max(PackId(id.0 + 1));
            }
        }
    }

    /// Makes every log with settled data known, up to where that ends.
    pub(crate) fn enter_ends(&self, logs: &mut LogIndex) {
        for partition in self.logs_after(None) {
            let ends = self
                .sections(partition)
                .map(|(_, section)| section.end_offset);
            let log = logs.entry(partition);
            log.end = ends.fold(log.end, Offset::max);
        }
    }

    /// The engine's settled snapshot, from whichever of its copies is good: its LSN and bytes.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when all of them are damaged: nothing else has what it says.
    /// [`StorageError::Io`].
    pub(crate) fn read_snapshot(
        &self,
        disk: &mut StartDisk<'_, '_>,
    ) -> Result<Option<(Lsn, Vec<u8>)>, StorageError> {
        let Some(at) = self.snapshot else {
            return Ok(None);
        };
        let (file, section) = (self.pack(at.pack).file, self.section(at));
        let found = "the snapshot is damaged";
        let damaged = || corrupt(self.shard, file, section.position, found);
        let length = usize::try_from(section.bytes).map_err(|_| damaged())?;
        let mut buffer = AlignedBuf::zeroed(page_ceil(length));
        for position in section.copy_positions() {
            let (returned, read) = disk.read(file, position, buffer)?;
            buffer = returned;
            let is_whole = read == Some(buffer.len());
            let bytes = buffer.get(..length).filter(|_| is_whole);
            if let Some(bytes) = bytes.filter(|bytes| checksum(bytes) == section.checksum) {
                return Ok(Some((section.as_of, bytes.to_vec())));
            }
            let shard = self.shard;
            tracing::error!(%shard, %file, %position, "a copy of the snapshot is damaged");
        }
        Err(damaged())
    }
}

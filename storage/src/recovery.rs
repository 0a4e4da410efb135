//! Opening a shard's directory: what a crash left becomes a log that can be served.

use std::collections::VecDeque;

use crate::block::{ChainPoint, FileHeader};
use crate::blocking::StartDisk;
use crate::buf::AlignedBuf;
use crate::config::StoreConfig;
use crate::disk::{BlockingDisk, FileName, WriteSync};
use crate::error::StorageError;
use crate::log_index::LogIndex;
use crate::manifest::{ChainStart, Manifest};
use crate::request::Replayed;
use crate::slots::Slots;
use crate::units::{FilePosition, LifeId, Lsn, PAGE_BYTES};
use crate::wal::{Generations, Wal, WalFile};

/// Bytes of one write or read while opening.
const STEP_BYTES: u64 = 4 << 20;

/// A store's parts, recovered.
pub(crate) struct Opened {
    pub(crate) wal: Wal,
    pub(crate) manifest: Manifest,
    pub(crate) logs: LogIndex,
    /// End of the log; everything below is durable.
    pub(crate) end: Lsn,
    /// How far the blocks record it as durable.
    pub(crate) recorded: Lsn,
}

pub(crate) fn open(
    config: &StoreConfig,
    disk: &mut BlockingDisk<'_>,
    _replay: &mut dyn FnMut(Replayed<'_>),
) -> Result<Opened, StorageError> {
    let mut disk = StartDisk::new(disk, config.shard);
    let listing = disk.list()?;
    match Manifest::open(disk.inner(), config.shard, &listing)? {
        None if listing.files.is_empty() => begin(config, &mut disk),
        _ => Err(StorageError::Corrupt {
            shard: config.shard,
            file: FileName::Wal(0),
            position: FilePosition(0),
            found: "a log to recover",
        }),
    }
}

/// Makes the first file of a new log, then the manifest: a crash between leaves a file without a
/// block in it, which the next start may overwrite.
fn begin(config: &StoreConfig, disk: &mut StartDisk<'_, '_>) -> Result<Opened, StorageError> {
    let life = LifeId(1);
    let header = FileHeader {
        shard: config.shard,
        slot: 0,
        life,
        generation: Generations::new(config).draw(life),
        first_lsn: Lsn(0),
        predecessor: ChainPoint::ORIGIN,
    };
    make_slot(disk, 0, config.wal_file_bytes)?;
    write_header(disk, &header)?;
    let chain_start = ChainStart {
        slot: header.slot,
        life,
        generation: header.generation,
    };
    let manifest = Manifest::create(disk.inner(), config.shard, chain_start)?;
    let mut slots = Slots::new(config.wal_file_bytes, config.wal_files);
    slots.add(0, config.wal_file_bytes, true);
    let mut current = WalFile::new(&header);
    current.header_durable = true;
    Ok(Opened {
        wal: Wal::new(config, slots, VecDeque::new(), current, 0),
        manifest,
        logs: LogIndex::default(),
        end: Lsn(0),
        recorded: Lsn(0),
    })
}

/// Creates a slot's file, zero-filled, its name durable.
fn make_slot(disk: &mut StartDisk<'_, '_>, slot: u32, bytes: u64) -> Result<(), StorageError> {
    let file = FileName::Wal(slot);
    disk.create(file, bytes)?;
    let step = usize::try_from(STEP_BYTES.min(bytes)).expect("a step fits memory");
    let mut buffer = AlignedBuf::zeroed(step);
    let mut position = 0;
    while position < bytes {
        let left = usize::try_from(bytes - position).unwrap_or(usize::MAX);
        buffer.set_len(step.min(left));
        let length = buffer.len() as u64;
        buffer = disk.write(file, FilePosition(position), buffer, WriteSync::None)?;
        position += length;
    }
    disk.sync(file)?;
    disk.sync_directory()
}

/// Writes a life's header, durable on return: the commit point of a new life.
fn write_header(disk: &mut StartDisk<'_, '_>, header: &FileHeader) -> Result<(), StorageError> {
    let mut page = AlignedBuf::zeroed(PAGE_BYTES);
    header.encode(&mut page);
    let file = FileName::Wal(header.slot);
    disk.write(file, FilePosition(0), page, WriteSync::Dsync)
        .map(drop)
}

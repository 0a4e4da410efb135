//! Opening a shard's directory: what a crash left becomes a log that can be served.
//!
//! 1. The manifest says where the chain of WAL files begins; [`survey`] reads all their headers.
//! 2. [`chain`] follows the blocks to the live end, telling the engine what they hold.
//! 3. [`judge`] tells whether that end is a torn tail or damage. Damage refuses: nothing was
//!    changed on disk so far.
//! 4. The manifest is made sure of, and what it does not name is removed: a pass that was cut short
//!    may have left the only whole copy of a damaged log file there.
//! 5. [`takeover`] decides where a new life goes on, and [`repersist`] copies the tail above the
//!    last surely durable point into it and commits that. Only now may anyone be told what the tail
//!    holds, and only now do appends go on.
//! 6. The manifest forgets files that the new life replaced whole, and their slots are free.
//!
//! A crash in between changes nothing that a second run would judge differently.

mod chain;
mod judge;
mod reader;
mod repersist;
mod replay;
mod survey;
mod takeover;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::block::{ChainPoint, FileHeader, Seeding, block_bytes_for};
use crate::blocking::StartDisk;
use crate::buf::AlignedBuf;
use crate::commit::seeding;
use crate::config::{LossRange, StoreConfig};
use crate::disk::{BlockingDisk, FileName, Listing, WriteSync};
use crate::error::StorageError;
use crate::log_index::LogIndex;
use crate::manifest::{ChainStart, Manifest, ReadManifest};
use crate::packs::{self, Packs};
use crate::request::Replayed;
use crate::slots::Slots;
use crate::space;
use crate::units::{FilePosition, LifeId, Lsn, PAGE_BYTES};
use crate::wal::{Generations, Wal, WalFile};
use chain::Chain;
use repersist::Tail;
use replay::Replay;
use survey::Survey;
use takeover::Plan;

/// Bytes of one write that fills a new file with zeros.
const FILL_BYTES: u64 = 4 << 20;

/// The first file of a new log is no larger than this, or than the largest batch asks for: filling
/// it is most of what a first start takes. The background makes the others meanwhile.
const FIRST_FILE_BYTES: u64 = 8 << 20;

/// A store's parts, recovered.
pub(crate) struct Opened {
    pub(crate) wal: Wal,
    pub(crate) manifest: Manifest,
    pub(crate) packs: Packs,
    /// Whether the directory has a reserve.
    pub(crate) has_reserve: bool,
    pub(crate) logs: LogIndex,
    /// How far the blocks record the log as durable. All of it is.
    pub(crate) recorded: Lsn,
    /// End of the last block with entries.
    pub(crate) content_end: Lsn,
}

/// Opens the directory; everything told to `replay` is durable when this returns.
pub(crate) fn open(
    config: &StoreConfig,
    disk: &mut BlockingDisk<'_>,
    replay: &mut dyn FnMut(Replayed<'_>),
) -> Result<Opened, StorageError> {
    let mut disk = StartDisk::new(disk, config.shard);
    let listing = disk.list()?;
    let mut survey = Survey::take(&mut disk, config.shard, &listing, seeding(config))?;
    match Manifest::read(
        disk.inner(),
        config.shard,
        &listing,
        config.manifest_bytes_max,
    )? {
        Some(manifest) => {
            let start = manifest.state().chain_start;
            survey.note_generation(start.generation, start.life);
            let mut recovery = Recovery {
                config,
                seeding: seeding(config),
                listing,
                survey,
                has_reserve: false,
            };
            recovery.run(&mut disk, manifest, replay)
        }
        None => {
            survey.believe_all();
            refuse_unless_new(config, &mut disk, &listing, &survey)?;
            space::prepare_start(&mut disk, config, &listing)?;
            begin(config, &mut disk, &listing)
        }
    }
}

/// A directory without a manifest is new only if there is nothing in it that one would name.
fn refuse_unless_new(
    config: &StoreConfig,
    disk: &mut StartDisk<'_, '_>,
    listing: &Listing,
    survey: &Survey,
) -> Result<(), StorageError> {
    let is_pack = |file: &FileName| matches!(file, FileName::Pack(_) | FileName::Segment(_));
    let pack = listing.files.iter().map(|(file, _)| *file).find(is_pack);
    let every_life = (config.shard, 0);
    let blocks = judge::hear_lives(disk, survey, every_life, seeding(config))?;
    let file = match pack {
        Some(pack) => pack,
        None if blocks.end > Lsn(0) => FileName::Wal(0),
        None => return Ok(()),
    };
    Err(StorageError::Corrupt {
        shard: config.shard,
        file,
        position: FilePosition(0),
        found: "data without a manifest: the manifest is lost",
    })
}

/// Makes the first file of a new log, then the manifest. A crash between leaves a file without a
/// block in it, which the next start makes anew.
fn begin(
    config: &StoreConfig,
    disk: &mut StartDisk<'_, '_>,
    listing: &Listing,
) -> Result<Opened, StorageError> {
    for (file, _) in &listing.files {
        if matches!(file, FileName::Wal(_)) {
            disk.remove(*file)?;
        }
    }
    let life = LifeId(1);
    let largest = block_bytes_for(config.batch_bytes_max) as u64;
    let first_bytes = FIRST_FILE_BYTES.max(repersist::file_bytes_for(largest));
    let first_bytes = first_bytes.min(config.wal_file_bytes);
    let header = FileHeader {
        shard: config.shard,
        slot: 0,
        life,
        generation: Generations::new(config).draw(life),
        first_lsn: Lsn(0),
        predecessor: ChainPoint::ORIGIN,
        file_bytes: first_bytes,
    };
    make_slot(disk, 0, first_bytes)?;
    write_header(disk, &header)?;
    let manifest = Manifest::create(
        disk.inner(),
        config.shard,
        start_at(&header),
        config.manifest_bytes_max,
    )?;
    let mut slots = Slots::new(config.wal_file_bytes, config.wal_files);
    slots.add(0, first_bytes, true);
    let mut current = WalFile::new(&header);
    current.header_durable = true;
    Ok(Opened {
        wal: Wal::new(config, slots, VecDeque::new(), current, 0),
        packs: Packs::new(config.shard, manifest.first_free_pack()),
        has_reserve: false,
        manifest,
        logs: LogIndex::default(),
        recorded: Lsn(0),
        content_end: Lsn(0),
    })
}

/// One run of the recovery of a directory with a manifest.
struct Recovery<'a> {
    config: &'a StoreConfig,
    seeding: Seeding,
    listing: Listing,
    survey: Survey,
    /// Known once room for the start is made.
    has_reserve: bool,
}

impl Recovery<'_> {
    fn run(
        &mut self,
        disk: &mut StartDisk<'_, '_>,
        manifest: ReadManifest,
        tell: &mut dyn FnMut(Replayed<'_>),
    ) -> Result<Opened, StorageError> {
        let state = manifest.state();
        let (settled, known) = (state.settled_lsn, state.durable_lsn());
        let chain_start = state.chain_start;
        let mut logs = LogIndex::default();
        for (partition, start) in &state.log_starts {
            logs.entry(*partition).expect_start(*start);
        }
        let packs = packs::open(disk, self.config.shard, state, &self.listing)?;
        packs.enter_ends(&mut logs);
        if let Some((as_of, bytes)) = packs.read_snapshot(disk)? {
            tell(Replayed::Snapshot {
                as_of,
                bytes: &bytes,
            });
        }
        let mut replay = Replay::new(self.config.shard, settled, &mut logs, tell);
        let plan = match self.start(disk, chain_start, (settled, known))? {
            Ok(start) => self.follow(disk, start, (settled, known), &mut replay)?,
            Err(lost) => Plan::without_chain(lost, chain_start.life),
        };
        if let Some(LossRange { from, to }) = plan.loss {
            replay.loss_accepted(from, to);
        }
        let content_end = replay.content_end();
        logs.apply_starts();
        // Nothing refuses any more.
        self.has_reserve = space::prepare_start(disk, self.config, &self.listing)?;
        let mut manifest = manifest.secure(disk.inner())?;
        packs::remove_uncommitted(disk, manifest.state(), &self.listing)?;
        self.secure_chain(disk, &plan)?;
        let (header, bytes) = self.new_life(disk, &plan, chain_start)?;
        let tail = Tail {
            files: &plan.files,
            survey: &self.survey,
            from: plan.keep_below,
            durable: plan.durable,
        };
        let (current, crc) = repersist::begin_life(disk, &header, &tail, self.seeding)?;
        let recorded = plan.durable;
        let kept = plan.kept_files();
        let first = kept.front().map_or(&header, |file| &file.header);
        takeover::move_chain_start(disk, &mut manifest, start_at(first))?;
        let slots = self.slots(disk, &kept, (header.slot, bytes))?;
        let closed = kept.into_iter().map(|file| file.file).collect();
        Ok(Opened {
            wal: Wal::new(self.config, slots, closed, current, crc),
            manifest,
            packs,
            has_reserve: self.has_reserve,
            logs,
            recorded,
            content_end,
        })
    }

    /// Follows the chain from `start` and decides where the new life takes over from it. All below
    /// `known` was durable.
    fn follow(
        &self,
        disk: &mut StartDisk<'_, '_>,
        start: FileHeader,
        (settled, known): (Lsn, Lsn),
        replay: &mut Replay<'_>,
    ) -> Result<Plan, StorageError> {
        let from = (start, settled, self.seeding);
        let chain = Chain::follow(disk, &self.survey, from, &mut |visit| replay.visit(visit))?;
        let testimony = judge::hear(disk, &self.survey, &chain, self.seeding)?;
        let loss = self.judge(disk, &chain, &testimony, known)?;
        self.take_over(chain, settled, loss, testimony.life)
    }
}

/// How the manifest names the life of `header`.
fn start_at(header: &FileHeader) -> ChainStart {
    ChainStart {
        slot: header.slot,
        life: header.life,
        generation: header.generation,
    }
}

/// Creates a slot's file, zero-filled, its name durable.
fn make_slot(disk: &mut StartDisk<'_, '_>, slot: u32, bytes: u64) -> Result<(), StorageError> {
    let file = FileName::Wal(slot);
    disk.create(file, bytes)?;
    let step = usize::try_from(FILL_BYTES.min(bytes)).expect("a step fits memory");
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

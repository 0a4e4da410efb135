//! The decisions of a recovery: whether the live end may be cut, where the new life goes on, which
//! slot it gets, and which files stay.

use std::collections::{BTreeSet, VecDeque};

use super::chain::{Chain, ChainFile};
use super::judge::Testimony;
use super::{Recovery, judge, make_slot, repersist, start_at};
use crate::block::{ChainPoint, FIRST_BLOCK, FileHeader};
use crate::blocking::StartDisk;
use crate::config::{LossRange, SeededBug};
use crate::disk::{DiskError, FileName};
use crate::error::{Intact, StorageError};
use crate::manifest::{ChainStart, Manifest, ManifestEdit};
use crate::slots::Slots;
use crate::units::{FilePosition, LifeId, Lsn};
use crate::wal::Generations;

/// A last file with no more than this in it is copied whole, so that a shard that is restarted
/// often does not collect nearly empty files.
const COPY_WHOLE_BYTES_MAX: u64 = 4 << 20;

/// What the chain's end was judged to be, and how the new life takes over from it.
#[derive(Debug)]
pub(super) struct Plan {
    /// The accepted chain, oldest first; empty when its beginning is lost.
    pub(super) files: Vec<ChainFile>,
    /// What the operator gave up.
    pub(super) loss: Option<LossRange>,
    /// The new life: above every other.
    pub(super) life: LifeId,
    /// Blocks below stay where they are; those above are copied.
    pub(super) keep_below: Lsn,
    /// The point where the kept blocks end.
    point: ChainPoint,
    /// The new life's first address.
    first_lsn: Lsn,
    /// Bytes of blocks to copy.
    tail_bytes: u64,
    /// Known to be durable once the new life is.
    pub(super) durable: Lsn,
}

impl Plan {
    /// The chain's beginning is lost: a new one begins above everything that it may have held.
    pub(super) fn without_chain(lost: LossRange, life: LifeId) -> Self {
        Self {
            files: Vec::new(),
            loss: Some(lost),
            life,
            keep_below: lost.to,
            point: ChainPoint::ORIGIN,
            first_lsn: lost.to,
            tail_bytes: 0,
            durable: lost.to,
        }
    }

    /// The chain's files as they stay: cut where the new life takes over.
    pub(super) fn kept_files(self) -> VecDeque<ChainFile> {
        let mut files: VecDeque<ChainFile> = self.files.into();
        files.retain_mut(|file| {
            file.cut(self.keep_below);
            file.file.header_durable = true;
            !file.crcs.is_empty()
        });
        files
    }
}

impl Recovery<'_> {
    /// The header of the file that the manifest names.
    ///
    /// It was durable before it was named, so if it is not whole now, that is damage. The range at
    /// stake is all that was not settled.
    pub(super) fn start(
        &self,
        disk: &mut StartDisk<'_, '_>,
        named: ChainStart,
        (settled, known): (Lsn, Lsn),
    ) -> Result<Result<FileHeader, LossRange>, StorageError> {
        let file = self.survey.slots.get(&named.slot);
        let header = file.and_then(|file| file.header);
        if let Some(header) = header.filter(|header| start_at(header) == named) {
            return Ok(Ok(header));
        }
        let later = (self.config.shard, named.life.0);
        let blocks = judge::hear_lives(disk, &self.survey, later, self.seeding)?;
        let to = self.loss_end(settled, &blocks, known);
        let lost = LossRange { from: settled, to };
        let at = (FileName::Wal(named.slot), FilePosition(0));
        let found = "no header of the life that the manifest names";
        if !self.is_accepted(lost) {
            let intact = judge::hear_intact(disk, &self.survey, later, lost, self.seeding)?;
            return Err(self.refusal(lost, at, found, intact));
        }
        Ok(Err(lost))
    }

    /// What the operator accepted to lose at the live end of `chain`; `None` when the end is torn
    /// in the ordinary way. All below `known` was durable.
    pub(super) fn judge(
        &self,
        disk: &mut StartDisk<'_, '_>,
        chain: &Chain,
        testimony: &Testimony,
        known: Lsn,
    ) -> Result<Option<LossRange>, StorageError> {
        let from = chain.end_lsn();
        let durable = testimony.durable.max(known);
        if durable <= from || self.config.bug(SeededBug::TruncateBelowDurable) {
            return Ok(None);
        }
        let to = self.loss_end(from, testimony, known);
        let lost = LossRange { from, to };
        if !self.is_accepted(lost) {
            let live = &chain.last().header;
            let lives = (live.shard, live.life.0);
            let intact = judge::hear_intact(disk, &self.survey, lives, lost, self.seeding)?;
            let at = (FileName::Wal(live.slot), chain.end_position());
            return Err(self.refusal(lost, at, chain.found, intact));
        }
        Ok(Some(lost))
    }

    /// Where a loss that begins at `from` ends: behind the last block that tells of it. Where the
    /// blocks do not reach what is `known` to have been durable, those that did are lost with the
    /// rest, and with them any that followed: all counts that a file has room for.
    fn loss_end(&self, from: Lsn, blocks: &Testimony, known: Lsn) -> Lsn {
        let told = blocks.durable.max(blocks.end);
        if told > from && told >= known {
            return told;
        }
        let files = self.survey.slots.values().map(|file| file.bytes);
        let file_bytes = files.fold(self.config.wal_file_bytes, u64::max);
        (known.max(from) + (file_bytes - FIRST_BLOCK.0)).page_ceil()
    }

    /// Whether the operator named exactly this range.
    fn is_accepted(&self, lost: LossRange) -> bool {
        let shard = self.config.shard;
        let LossRange { from, to } = lost;
        let is_accepted = self.config.accept_loss.contains(&lost);
        if is_accepted {
            tracing::warn!(%shard, %from, %to, "a damaged range is given up as the operator said");
        }
        is_accepted
    }

    fn refusal(
        &self,
        lost: LossRange,
        (file, position): (FileName, FilePosition),
        found: &'static str,
        intact: Intact,
    ) -> StorageError {
        StorageError::Quarantine {
            shard: self.config.shard,
            from: lost.from,
            to: lost.to,
            file,
            position,
            found,
            intact: Box::new(intact),
        }
    }

    /// Where the new life takes over from `chain`.
    pub(super) fn take_over(
        &self,
        chain: Chain,
        settled: Lsn,
        loss: Option<LossRange>,
        life_heard: LifeId,
    ) -> Result<Plan, StorageError> {
        let end = chain.end_lsn();
        let life = life_heard.max(chain.last_life());
        let Some(LossRange { to, .. }) = loss else {
            let durable = chain.recorded.max(settled).max(chain.first_lsn()).min(end);
            let keep_below = self.keep_below(&chain, durable);
            let point = chain.point_at(keep_below);
            return Ok(Plan {
                loss,
                life,
                keep_below,
                point: point.ok_or_else(|| self.not_a_boundary(&chain))?,
                first_lsn: keep_below,
                tail_bytes: end - keep_below,
                durable,
                files: chain.files,
            });
        };
        // The witnesses that the lost range was durable say the same of all below it.
        Ok(Plan {
            loss,
            life,
            keep_below: end,
            point: chain.last().end(),
            first_lsn: to,
            tail_bytes: 0,
            durable: to,
            files: chain.files,
        })
    }

    /// Up to where blocks may stay: what is above is copied.
    fn keep_below(&self, chain: &Chain, durable: Lsn) -> Lsn {
        let end = chain.end_lsn();
        if self.config.bug(SeededBug::ServeWithoutRepersist) {
            return end;
        }
        let last = chain.last().header.first_lsn;
        let copy_whole_max = COPY_WHOLE_BYTES_MAX.min(self.config.wal_file_bytes / 4);
        if end - last <= copy_whole_max {
            durable.min(last)
        } else {
            durable
        }
    }

    fn not_a_boundary(&self, chain: &Chain) -> StorageError {
        StorageError::Corrupt {
            shard: self.config.shard,
            file: FileName::Wal(chain.last().header.slot),
            position: chain.end_position(),
            found: "the log is recorded as durable up to the middle of a block",
        }
    }

    /// Makes the chain's files durable as they were read.
    ///
    /// The header of the last life may be there only by luck: an earlier start wrote it and ended
    /// before the disk had said so. Without that life what it replaced is still needed, and the new
    /// life may be about to take that very file.
    pub(super) fn secure_chain(
        &self,
        disk: &mut StartDisk<'_, '_>,
        plan: &Plan,
    ) -> Result<(), StorageError> {
        if self.config.bug(SeededBug::ServeWithoutRepersist) {
            return Ok(());
        }
        let mut slots = plan.files.iter().map(|file| file.header.slot);
        slots.try_for_each(|slot| disk.sync(FileName::Wal(slot)))
    }

    /// The header of the new life, for a slot that is ready to take it, and that file's bytes.
    ///
    /// The file that the manifest `named` stays as it is, even when another life replaced it whole:
    /// an earlier start may have ended before its edit. Until one comes, every start begins there.
    /// After an accepted loss, blocks off the chain are its only witnesses until the new life is
    /// durable: it gets a file of its own.
    pub(super) fn new_life(
        &mut self,
        disk: &mut StartDisk<'_, '_>,
        plan: &Plan,
        named: ChainStart,
    ) -> Result<(FileHeader, u64), StorageError> {
        let usual = self.config.wal_file_bytes;
        let need = repersist::file_bytes_for(plan.tail_bytes);
        let mut used: BTreeSet<u32> = plan.files.iter().map(|file| file.header.slot).collect();
        used.insert(named.slot);
        let free = self.survey.slots.iter().find(|(slot, file)| {
            let fits = file.bytes == usual && need <= usual;
            fits && !used.contains(slot) && plan.loss.is_none()
        });
        let (slot, bytes) = match free {
            Some((slot, file)) => (*slot, file.bytes),
            None => self.extra_slot(disk, usual.max(need))?,
        };
        let before = plan.life.max(self.survey.life_max());
        let life = before.0.checked_add(1).map(LifeId);
        let life = life.ok_or(StorageError::Corrupt {
            shard: self.config.shard,
            file: FileName::Wal(slot),
            position: FilePosition(0),
            found: "no life is left above those that the log's files name",
        })?;
        let header = FileHeader {
            shard: self.config.shard,
            slot,
            life,
            generation: Generations::new(self.config).draw(life),
            first_lsn: plan.first_lsn,
            predecessor: plan.point,
            file_bytes: bytes,
        };
        Ok((header, bytes))
    }

    /// Makes a file beside those that are there. On a full disk the reserve is given up for it.
    fn extra_slot(
        &mut self,
        disk: &mut StartDisk<'_, '_>,
        bytes: u64,
    ) -> Result<(u32, u64), StorageError> {
        let is_new = |slot: &u32| !self.survey.slots.contains_key(slot);
        let slot = (0..).find(is_new).expect("fewer than 2^32 files");
        let made = make_slot(disk, slot, bytes);
        let no_space = matches!(
            made,
            Err(StorageError::Io {
                error: DiskError::NoSpace,
                ..
            })
        );
        let mut files = self.listing.files.iter().map(|(file, _)| *file);
        if !no_space || !files.any(|file| file == FileName::Reserve) {
            return made.map(|()| (slot, bytes));
        }
        disk.remove(FileName::Reserve)?;
        self.has_reserve = false;
        if disk
            .list()?
            .files
            .iter()
            .any(|(file, _)| *file == FileName::Wal(slot))
        {
            disk.remove(FileName::Wal(slot))?;
        }
        make_slot(disk, slot, bytes)?;
        Ok((slot, bytes))
    }

    /// Every slot, now that it is known which are in use. Files of another size than new lives get
    /// are removed when nothing is in them.
    pub(super) fn slots(
        &self,
        disk: &mut StartDisk<'_, '_>,
        kept: &VecDeque<ChainFile>,
        current: (u32, u64),
    ) -> Result<Slots, StorageError> {
        let mut slots = Slots::new(self.config.wal_file_bytes, self.config.wal_files);
        slots.add(current.0, current.1, true);
        for (slot, file) in &self.survey.slots {
            if *slot == current.0 {
                continue;
            }
            let used = kept.iter().any(|kept| kept.header.slot == *slot);
            if used || file.bytes == self.config.wal_file_bytes {
                slots.add(*slot, file.bytes, used);
            } else {
                disk.remove(FileName::Wal(*slot))?;
            }
        }
        Ok(slots)
    }
}

/// Makes the manifest name `chain_start`, before the slots of files that came before it are used
/// for anything else.
pub(super) fn move_chain_start(
    disk: &mut StartDisk<'_, '_>,
    manifest: &mut Manifest,
    chain_start: ChainStart,
) -> Result<(), StorageError> {
    if manifest.state().chain_start == chain_start {
        return Ok(());
    }
    let edit = ManifestEdit::Settled {
        settled_lsn: manifest.state().settled_lsn,
        chain_start,
        packs: Vec::new(),
        snapshot: None,
        log_starts: Vec::new(),
    };
    manifest.commit_blocking(disk.inner(), vec![edit])
}

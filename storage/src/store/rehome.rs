//! Moving logs to another shard when the core count changed, before anything is served.
//!
//! No byte is copied: settled packs are hard-linked. The order is the crash story:
//! 1. The source is settled whole ([`Store::settle_everything`]): all that a log has is in packs.
//! 2. The source's manifest marks the packs as shared ([`Store::export`]): from now on nobody
//!    punches holes into them, so neither shard can hurt what the other still needs.
//! 3. The target links the files and syncs its directory. A crash leaves files that its manifest
//!    does not name, which its next start removes; the source's link is another one.
//! 4. The target's manifest names them ([`Store::adopt`]). After a crash here both shards have
//!    the logs; done again, step 4 finds the packs by who wrote them and adds nothing.
//! 5. The source forgets the logs ([`Store::release`]).

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use super::Store;
use crate::blocking::StartDisk;
use crate::disk::{BlockingDisk, DiskError, FileName};
use crate::error::{ReadError, StorageError};
use crate::log_index::LogStatus;
use crate::manifest::{ManifestEdit, PackEntry};
use crate::packs::read_directory;
use crate::request::StoreEvent;
use crate::section::Directory;
use crate::settle::SettleFailure;
use crate::slots::SHORT_WRITE;
use crate::units::{FilePosition, Now, PackId, PartitionId, ShardId};

/// Failed passes after which settling everything is given up.
const FAILED_PASSES_MAX: u64 = 8;
/// Turns in a row without the next manifest after which settling everything is given up: more
/// than it takes to give up the reserve.
const FULL_TURNS_MAX: u32 = 64;
/// How far the clock is taken forward when nothing is left to do now.
const IDLE_STEP_MS: u64 = 100;
/// Such steps since the last pass after which settling everything is given up: longer than a pass
/// that failed waits for its next try.
const IDLE_STEPS_MAX: u32 = 3_000;

/// Logs on offer, and the files that hold them.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The shard that has them.
    pub shard: ShardId,
    /// The logs, each with its range.
    pub logs: Vec<(PartitionId, LogStatus)>,
    packs: Vec<ExportedPack>,
}

#[derive(Clone, Debug)]
struct ExportedPack {
    file: FileName,
    /// As the target is to name it, but for the id: all else in it is dropped.
    entry: PackEntry,
    origin: (ShardId, PackId),
}

impl Store {
    /// Settles all that the log holds, whatever its age: durable on return. `snapshot` gives the
    /// engine's whole state when it is asked.
    ///
    /// # Errors
    /// [`StorageError::Io`] when the disk fails or has no room.
    pub fn settle_everything(
        &mut self,
        now: Now,
        disk: &mut BlockingDisk<'_>,
        snapshot: &mut dyn FnMut() -> Vec<u8>,
    ) -> Result<(), StorageError> {
        self.settle_all();
        let failed = self.settle.counters.discarded;
        let mut now = now;
        let (mut full_turns, mut idle_steps) = (0, 0);
        while !self.is_settled() {
            let passes = self.settle.counters.passes;
            if !self.drive_turn(now, disk, snapshot) {
                now.boot = now.boot.after_ms(IDLE_STEP_MS);
                idle_steps += 1;
            }
            self.check_alive()?;
            if self.settle.counters.discarded - failed > FAILED_PASSES_MAX {
                return Err(self.failure());
            }
            if self.settle.counters.passes > passes {
                idle_steps = 0;
            }
            // Nobody deletes anything meanwhile: what does not fit now never will.
            let blocked = self.manifest.blocked_by();
            full_turns = blocked.map_or(0, |_| full_turns + 1);
            if let Some(error) = blocked.filter(|_| full_turns > FULL_TURNS_MAX) {
                return Err(self.missing("the next manifest", error));
            }
            if idle_steps > IDLE_STEPS_MAX {
                return Err(self.missing("the next log file", DiskError::NoSpace));
            }
        }
        self.drive(now, disk);
        self.check_alive()
    }

    fn missing(&self, file: &str, error: DiskError) -> StorageError {
        StorageError::Io {
            shard: self.config.shard,
            file: file.to_owned(),
            error,
        }
    }

    /// One turn with every operation carried out at once. Returns whether there was any.
    fn drive_turn(
        &mut self,
        now: Now,
        disk: &mut BlockingDisk<'_>,
        snapshot: &mut dyn FnMut() -> Vec<u8>,
    ) -> bool {
        self.schedule.moving = true;
        self.close_group(now);
        self.handle_timeout(now);
        self.schedule.moving = false;
        let asked = self.events.len();
        self.events
            .retain(|event| *event != StoreEvent::WantsSnapshot);
        if self.events.len() < asked {
            self.provide_snapshot(now, snapshot());
        }
        let mut busy = self.has_work_now();
        while let Some(op) = self.poll_disk() {
            self.handle_disk(now, disk(op));
            busy = true;
        }
        busy
    }

    /// Turns until nothing is left to do.
    fn drive(&mut self, now: Now, disk: &mut BlockingDisk<'_>) {
        while self.drive_turn(now, disk, &mut Vec::new) {}
    }

    fn check_alive(&self) -> Result<(), StorageError> {
        let Some(error) = self.is_poisoned() else {
            return Ok(());
        };
        let shard = self.config.shard;
        let said = self.events.iter().find_map(|event| match event {
            StoreEvent::Poisoned(reason) => Some(reason.clone()),
            _ => None,
        });
        Err(said.unwrap_or(StorageError::Poisoned { shard, error }))
    }

    /// Why passes fail.
    fn failure(&self) -> StorageError {
        let shard = self.config.shard;
        let error = match self.schedule.last_failure {
            Some(SettleFailure::Source(ReadError::Damaged { file, position })) => {
                return StorageError::Corrupt {
                    shard,
                    file,
                    position,
                    found: "a block of the log is damaged, so it cannot be settled",
                };
            }
            Some(SettleFailure::Source(ReadError::Disk(error)) | SettleFailure::Output(error)) => {
                error
            }
            _ => SHORT_WRITE,
        };
        let file = "settling".to_owned();
        StorageError::Io { shard, file, error }
    }

    /// Offers logs to other shards: their packs count as shared from now on, durably. The log must
    /// be settled.
    ///
    /// # Errors
    /// [`StorageError::Io`] when the disk fails.
    pub fn export(
        &mut self,
        disk: &mut BlockingDisk<'_>,
        logs: &[PartitionId],
    ) -> Result<Exported, StorageError> {
        assert!(self.is_settled(), "only settled logs can move");
        let wanted: BTreeSet<PartitionId> = logs.iter().copied().collect();
        let mut ids = BTreeSet::new();
        for log in &wanted {
            ids.extend(self.packs.sections(*log).map(|(at, _)| at.pack));
        }
        let unmarked: Vec<PackId> = ids
            .iter()
            .copied()
            .filter(|id| !self.packs.pack(*id).shared)
            .collect();
        if !unmarked.is_empty() {
            let packs = unmarked.clone();
            self.manifest
                .commit_blocking(disk, vec![ManifestEdit::PacksShared { packs }])?;
            self.packs.share(&unmarked);
        }
        let packs = ids.into_iter().map(|id| self.offer(id, &wanted)).collect();
        let logs = wanted
            .into_iter()
            .filter_map(|log| Some((log, self.log(log)?)));
        Ok(Exported {
            shard: self.config.shard,
            logs: logs.collect(),
            packs,
        })
    }

    fn offer(&self, id: PackId, wanted: &BTreeSet<PartitionId>) -> ExportedPack {
        let pack = self.packs.pack(id);
        let mut entry = self.manifest.state().packs[&id].clone();
        let kept: BTreeSet<u32> = wanted
            .iter()
            .flat_map(|log| self.packs.sections(*log))
            .filter(|(at, _)| at.pack == id)
            .map(|(at, _)| at.number)
            .collect();
        let sections = pack.sections();
        entry.dropped = (0..sections).filter(|n| !kept.contains(n)).collect();
        entry.shared = true;
        ExportedPack {
            file: pack.file,
            entry,
            origin: pack.origin(),
        }
    }

    /// Takes over what another shard offers: durable on return. What is here already is left.
    ///
    /// # Errors
    /// [`StorageError::Io`] when the disk fails, [`StorageError::Apart`] when the two shards are on
    /// different file systems, [`StorageError::Corrupt`] when a linked pack is not what was
    /// offered, or other data of the same logs is here.
    pub fn adopt(
        &mut self,
        disk: &mut BlockingDisk<'_>,
        offer: &Exported,
    ) -> Result<(), StorageError> {
        let shard = self.config.shard;
        let mut start = StartDisk::new(disk, shard);
        let mut adopted: Vec<(PackId, PackEntry, Directory)> = Vec::new();
        for pack in &offer.packs {
            if self.packs.has_adopted(pack.origin, &pack.entry.dropped) {
                continue; // A crash came between the target's edit and the source's.
            }
            let id = self.packs.take_id();
            let mut entry = pack.entry.clone();
            entry.file = match pack.file {
                FileName::Segment(_) => FileName::Segment(id),
                _ => FileName::Pack(id),
            };
            let linked = start.link(offer.shard, pack.file, entry.file);
            linked.map_err(|error| apart(error, offer.shard))?;
            let directory = read_directory(&mut start, shard, &entry, entry.bytes)?;
            adopted.push((id, entry, directory));
        }
        if !adopted.is_empty() {
            start.sync_directory()?;
        }
        self.refuse_overlap(&adopted)?;
        self.commit_adoption(disk, offer, &adopted)?;
        for (id, entry, directory) in adopted {
            self.packs.add(id, &entry, directory);
        }
        for (partition, status) in &offer.logs {
            let log = self.logs.entry(*partition);
            log.config = status.config;
            log.raise_start(status.start);
            log.end = log.end.max(status.end);
        }
        Ok(())
    }

    fn commit_adoption(
        &mut self,
        disk: &mut BlockingDisk<'_>,
        offer: &Exported,
        adopted: &[(PackId, PackEntry, Directory)],
    ) -> Result<(), StorageError> {
        let starts = offer.logs.iter().map(|(log, status)| (*log, status.start));
        let mut edits = vec![ManifestEdit::LogStarts(starts.collect())];
        if !adopted.is_empty() {
            let packs = adopted.iter().map(|(id, entry, _)| (*id, entry.clone()));
            edits.push(ManifestEdit::PacksAdopted {
                packs: packs.collect(),
            });
        }
        self.manifest.commit_blocking(disk, edits)
    }

    /// A log that has records here that it also has there belongs to nobody: better no start.
    fn refuse_overlap(
        &self,
        adopted: &[(PackId, PackEntry, Directory)],
    ) -> Result<(), StorageError> {
        for (_, entry, directory) in adopted {
            for (number, section) in (0_u32..).zip(&directory.sections) {
                let is_taken = self
                    .packs
                    .section_at(section.partition, section.base_offset)
                    .is_some_and(|at| self.packs.section(at).base_offset < section.end_offset);
                if is_taken && !entry.dropped.contains(&number) {
                    return Err(StorageError::Corrupt {
                        shard: self.config.shard,
                        file: entry.file,
                        position: FilePosition(section.position.0),
                        found: "another shard's pack has records that this shard has already",
                    });
                }
            }
        }
        Ok(())
    }

    /// Forgets logs that another shard has adopted: durable on return.
    ///
    /// # Errors
    /// [`StorageError::Poisoned`] when the disk fails.
    pub fn release(
        &mut self,
        now: Now,
        disk: &mut BlockingDisk<'_>,
        logs: &[PartitionId],
    ) -> Result<(), StorageError> {
        for log in logs {
            self.logs.remove(*log);
        }
        self.logs_removed(logs.to_vec());
        self.drive(now, disk);
        self.check_alive()
    }
}

/// What a failed link of a file of shard `from` comes to.
fn apart(error: StorageError, from: ShardId) -> StorageError {
    match error {
        StorageError::Io {
            shard,
            error: DiskError::OtherFileSystem,
            ..
        } => StorageError::Apart { shard, from },
        error => error,
    }
}

//! The shard's settled data: every live pack with its directory, and each log's sections.
//!
//! Sections of a log are disjoint and ascend by offset. A section that is dead (its records are
//! below the log's start, or its log is gone) disappears for readers at once; its bytes go when
//! the manifest says durably that they are dead and no read holds the pack: see [`cleanup`].

mod cleanup;
mod open;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

pub(crate) use open::{decode_directory, open, read_directory, remove_uncommitted};

use crate::disk::FileName;
use crate::manifest::{EditTicket, ManifestEdit, PackEntry};
use crate::section::{Directory, Section, SectionKind};
use crate::units::{FilePosition, Offset, PackId, PartitionId, ShardId};
use cleanup::Cleanup;

pub(crate) use cleanup::PACKS_TAG;

/// Names one section of one pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SectionRef {
    pub(crate) pack: PackId,
    pub(crate) number: u32,
}

/// One pack whose file exists.
#[derive(Debug)]
pub(crate) struct Pack {
    pub(crate) file: FileName,
    /// Length of the file.
    pub(crate) bytes: u64,
    directory: Directory,
    /// Dead sections, whether the manifest says so yet or not.
    dead: BTreeSet<u32>,
    /// Bytes that the dead sections take.
    dead_bytes: u64,
    /// Reads and rewrites that need the file as it is.
    holds: u32,
    /// Another shard may have a link to the file: it is removed, never punched.
    pub(crate) shared: bool,
    /// A merge copies it: what dies of it is not told to the manifest before that ended.
    merging: bool,
    /// A merge found it damaged: it stays as it is.
    damaged: bool,
}

/// The settled part of one log.
#[derive(Debug, Default)]
struct LogSections {
    /// Ascending by offset.
    sections: VecDeque<SectionRef>,
    /// Bytes of their batches.
    bytes: u64,
}

/// All packs of the shard.
#[derive(Debug)]
pub(crate) struct Packs {
    shard: ShardId,
    packs: BTreeMap<PackId, Pack>,
    logs: BTreeMap<PartitionId, LogSections>,
    /// The engine's newest settled snapshot.
    snapshot: Option<SectionRef>,
    /// Above every id that a file has or had.
    next_pack: PackId,
    /// Sections found dead and not in an edit yet.
    newly_dead: BTreeSet<SectionRef>,
    /// Sections that died while their pack is being merged.
    deferred: BTreeSet<SectionRef>,
    /// Starts of the logs whose sections died below them, for the same edit: offsets must stay
    /// known when the last section goes.
    starts: BTreeMap<PartitionId, Offset>,
    /// Rises with each change of what is settled.
    version: u64,
    pub(crate) cleanup: Cleanup,
}

impl Packs {
    pub(crate) fn new(shard: ShardId, next_pack: PackId) -> Self {
        Self {
            shard,
            packs: BTreeMap::new(),
            logs: BTreeMap::new(),
            snapshot: None,
            next_pack,
            newly_dead: BTreeSet::new(),
            deferred: BTreeSet::new(),
            starts: BTreeMap::new(),
            version: 0,
            cleanup: Cleanup::new(),
        }
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    /// Rises with each pack: a read that waited meanwhile has to look here again.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// An id for a file that never was.
    pub(crate) fn take_id(&mut self) -> PackId {
        let id = self.next_pack;
        self.next_pack = PackId(id.0 + 1);
        id
    }

    /// Adds a pack that the manifest names. The sections of each log follow those present.
    pub(crate) fn add(&mut self, id: PackId, entry: &PackEntry, directory: Directory) {
        let mut pack = Pack {
            file: entry.file,
            bytes: entry.bytes,
            dead: entry.dropped.clone(),
            dead_bytes: 0,
            directory,
            holds: 0,
            shared: entry.shared,
            merging: false,
            damaged: false,
        };
        let dead = entry.dropped.iter().filter_map(|n| pack.section(*n));
        pack.dead_bytes = dead.map(Section::file_bytes).sum();
        let live: Vec<SectionRef> = pack.live(id).collect();
        let replaced = self.packs.insert(id, pack);
        assert!(replaced.is_none(), "pack {id} is added once");
        self.next_pack = self.next_pack.max(PackId(id.0 + 1));
        self.version += 1;
        for section in live {
            self.index(section);
        }
    }

    /// The files are about to be linked elsewhere.
    pub(crate) fn share(&mut self, ids: &[PackId]) {
        for id in ids {
            let pack = self.packs.get_mut(id).expect("a shared pack is there");
            pack.shared = true;
        }
    }

    /// Whether all sections but the `dropped` ones of a file that was written elsewhere are live
    /// here already, under whatever id.
    pub(crate) fn has_adopted(&self, origin: (ShardId, PackId), dropped: &BTreeSet<u32>) -> bool {
        self.packs.values().any(|own| {
            let mut dead = own.dead.iter();
            own.origin() == origin && dead.all(|number| dropped.contains(number))
        })
    }

    /// Enters a live section under its log.
    fn index(&mut self, new: SectionRef) {
        let section = section_of(&self.packs, new);
        if section.kind != SectionKind::Batches {
            return;
        }
        let (base, bytes) = (section.base_offset, section.bytes);
        let log = self.logs.entry(section.partition).or_default();
        let begins_below = |at: &SectionRef| section_of(&self.packs, *at).base_offset < base;
        // Nearly always the new section is the log's last.
        if log.sections.back().is_none_or(begins_below) {
            log.sections.push_back(new);
        } else {
            let at = log.sections.partition_point(begins_below);
            log.sections.insert(at, new);
        }
        log.bytes += bytes;
    }

    /// Whether each log's sections are disjoint, as they must be.
    pub(crate) fn overlap(&self) -> Option<SectionRef> {
        self.logs.values().find_map(|log| {
            let pairs = log.sections.iter().zip(log.sections.iter().skip(1));
            let mut overlaps =
                pairs.filter(|(a, b)| self.section(**a).end_offset > self.section(**b).base_offset);
            overlaps.next().map(|(_, second)| *second)
        })
    }

    /// Every pack in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PackId, &Pack)> + Clone {
        self.packs.iter().map(|(id, pack)| (*id, pack))
    }

    /// The pack of a section; it exists while the section is indexed or held.
    pub(crate) fn pack(&self, id: PackId) -> &Pack {
        &self.packs[&id]
    }

    /// A section that is indexed or held.
    pub(crate) fn section(&self, at: SectionRef) -> &Section {
        section_of(&self.packs, at)
    }

    /// Whether a section still counts: a dead one's bytes may be on their way out, whoever holds
    /// its pack from now on.
    pub(crate) fn is_live(&self, at: SectionRef) -> bool {
        let pack = self.packs.get(&at.pack);
        pack.is_some_and(|pack| !pack.dead.contains(&at.number))
    }

    /// Logs with settled data, those above `after`.
    pub(crate) fn logs_after(
        &self,
        after: Option<PartitionId>,
    ) -> impl Iterator<Item = PartitionId> + '_ {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let logs = self.logs.range((from, Bound::Unbounded));
        logs.map(|(partition, _)| *partition)
    }

    /// A log's sections in offset order.
    pub(crate) fn sections(
        &self,
        log: PartitionId,
    ) -> impl Iterator<Item = (SectionRef, &Section)> {
        let sections = self.logs.get(&log).map(|log| &log.sections);
        let sections = sections.into_iter().flatten();
        sections.map(|at| (*at, self.section(*at)))
    }

    /// The log's first section that ends above `offset`.
    pub(crate) fn section_at(&self, log: PartitionId, offset: Offset) -> Option<SectionRef> {
        let sections = &self.logs.get(&log)?.sections;
        let at = sections.partition_point(|s| self.section(*s).end_offset <= offset);
        sections.get(at).copied()
    }

    /// Bytes of a log's settled batches.
    pub(crate) fn log_bytes(&self, log: PartitionId) -> u64 {
        self.logs.get(&log).map_or(0, |log| log.bytes)
    }

    /// A newer snapshot (or the same one elsewhere) counts from now on: the old one is dead.
    pub(crate) fn set_snapshot(&mut self, new: SectionRef) {
        if let Some(old) = self.snapshot.replace(new).filter(|old| *old != new) {
            self.kill(old);
        }
    }

    /// The log's first sections up to one that ends above `start` are dead.
    pub(crate) fn kill_below(&mut self, log: PartitionId, start: Offset) {
        while let Some(first) = self.first_section(log) {
            if self.section(first).end_offset > start {
                return;
            }
            self.starts.insert(log, start);
            self.kill_first(log);
        }
    }

    /// All of the log's sections are dead.
    pub(crate) fn kill_log(&mut self, log: PartitionId) {
        while self.first_section(log).is_some() {
            self.kill_first(log);
        }
        self.starts.remove(&log);
    }

    fn first_section(&self, log: PartitionId) -> Option<SectionRef> {
        self.logs.get(&log)?.sections.front().copied()
    }

    fn kill_first(&mut self, partition: PartitionId) {
        let log = self.logs.get_mut(&partition).expect("the log has sections");
        let first = log.sections.pop_front().expect("the log has sections");
        let bytes = self.packs[&first.pack].directory.sections[first.number as usize].bytes;
        log.bytes -= bytes;
        if log.sections.is_empty() {
            self.logs.remove(&partition);
        }
        self.kill(first);
    }

    fn kill(&mut self, at: SectionRef) {
        let pack = self
            .packs
            .get_mut(&at.pack)
            .expect("a section's pack is there");
        let section = &pack.directory.sections[at.number as usize];
        let file_bytes = section.file_bytes();
        if pack.dead.insert(at.number) {
            pack.dead_bytes += file_bytes;
            let set = if pack.merging {
                &mut self.deferred
            } else {
                &mut self.newly_dead
            };
            set.insert(at);
        }
    }

    /// Whether [`Packs::take_edits`] has something to say.
    pub(crate) fn has_edits(&self) -> bool {
        !self.newly_dead.is_empty() || !self.starts.is_empty()
    }

    /// What died since the last time, for the manifest. Submit it, then call
    /// [`Packs::edits_submitted`].
    pub(crate) fn take_edits(&mut self) -> Vec<ManifestEdit> {
        let mut by_pack: BTreeMap<PackId, Vec<u32>> = BTreeMap::new();
        for at in std::mem::take(&mut self.newly_dead) {
            by_pack.entry(at.pack).or_default().push(at.number);
        }
        let mut edits = Vec::new();
        let starts = std::mem::take(&mut self.starts);
        if !starts.is_empty() {
            edits.push(ManifestEdit::LogStarts(starts.into_iter().collect()));
        }
        for (pack, sections) in by_pack {
            let of = &self.packs[&pack];
            if of.is_dead() && !of.merging {
                self.cleanup.plan_removal(pack);
                edits.push(ManifestEdit::PackDropped { pack });
            } else {
                if !self.packs[&pack].shared {
                    self.cleanup.plan_holes(pack, &sections);
                }
                edits.push(ManifestEdit::SectionsDropped { pack, sections });
            }
        }
        edits
    }

    /// The edits just taken are on their way under `ticket`: their bytes go after that.
    pub(crate) fn edits_submitted(&mut self, ticket: EditTicket) {
        self.cleanup.wait_for(ticket);
    }

    /// Whether a merge may take the pack: not the newest snapshot's, which soon dies whole.
    pub(crate) fn may_merge(&self, id: PackId) -> bool {
        let pack = self.pack(id);
        let has_snapshot = self.snapshot.is_some_and(|at| at.pack == id);
        !pack.merging && !pack.damaged && !pack.is_dead() && !has_snapshot
    }

    /// A merge copies these packs: they stay as they are until it ended.
    pub(crate) fn begin_merge(&mut self, sources: &[PackId]) {
        for id in sources {
            self.hold(*id);
            let pack = self.packs.get_mut(id).expect("just held");
            pack.merging = true;
        }
    }

    /// The merge of these packs was given up.
    pub(crate) fn end_merge(&mut self, sources: &[PackId]) {
        for id in sources {
            self.release(*id);
            let pack = self.packs.get_mut(id).expect("just released");
            pack.merging = false;
        }
        let deferred = std::mem::take(&mut self.deferred);
        self.newly_dead.extend(deferred);
    }

    /// A merge found the pack damaged: it is left to those who read what is good of it.
    pub(crate) fn refuse_merge(&mut self, id: PackId) {
        let pack = self.packs.get_mut(&id).expect("a merged pack is there");
        pack.damaged = true;
    }

    /// A merge put the live content of `sources` elsewhere, and a manifest edit said so durably:
    /// their sections disappear, their files go when no read holds them.
    pub(crate) fn replace(&mut self, sources: &[PackId]) {
        self.end_merge(sources);
        for id in sources {
            let live: Vec<SectionRef> = self.pack(*id).live(*id).collect();
            for at in live {
                self.unindex(at);
            }
            let pack = self.packs.get_mut(id).expect("just seen");
            pack.dead = (0..pack.sections()).collect();
            self.newly_dead.retain(|at| at.pack != *id);
            self.cleanup.remove_now(*id);
        }
    }

    fn unindex(&mut self, at: SectionRef) {
        let section = self.section(at);
        let (partition, bytes) = (section.partition, section.bytes);
        let Some(log) = self.logs.get_mut(&partition) else {
            return;
        };
        let before = log.sections.len();
        log.sections.retain(|section| *section != at);
        if log.sections.len() < before {
            log.bytes -= bytes;
        }
        if log.sections.is_empty() {
            self.logs.remove(&partition);
        }
    }

    /// A read needs the pack's file as it is until [`Packs::release`].
    pub(crate) fn hold(&mut self, id: PackId) {
        let pack = self.packs.get_mut(&id).expect("a held pack is there");
        pack.holds += 1;
    }

    pub(crate) fn release(&mut self, id: PackId) {
        let pack = self.packs.get_mut(&id).expect("a held pack is there");
        pack.holds = pack.holds.checked_sub(1).expect("holds are paired");
    }
}

impl Pack {
    pub(crate) fn section(&self, number: u32) -> Option<&Section> {
        self.directory.sections.get(usize::try_from(number).ok()?)
    }

    /// How many sections the pack has, dead ones included.
    pub(crate) fn sections(&self) -> u32 {
        u32::try_from(self.directory.sections.len()).expect("a directory counts in 32 bits")
    }

    /// The pack's live sections; `id` is its own.
    pub(crate) fn live(&self, id: PackId) -> impl Iterator<Item = SectionRef> + '_ {
        (0..self.sections())
            .filter(|number| !self.dead.contains(number))
            .map(move |number| SectionRef { pack: id, number })
    }

    /// Bytes of the file without what dead sections take.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.bytes - self.dead_bytes
    }

    /// Who wrote the file, and as which pack.
    pub(crate) fn origin(&self) -> (ShardId, PackId) {
        (self.directory.shard, self.directory.pack)
    }

    /// Whether nothing of the pack is needed any more.
    fn is_dead(&self) -> bool {
        self.dead.len() == self.directory.sections.len()
    }

    /// Whether a read or a rewrite needs the file as it is.
    fn is_held(&self) -> bool {
        self.holds > 0
    }

    /// Where a section lies with its index and padding.
    fn extent(&self, number: u32) -> Option<(FilePosition, u64)> {
        let section = self.section(number)?;
        Some((section.position, section.file_bytes()))
    }
}

fn section_of(packs: &BTreeMap<PackId, Pack>, at: SectionRef) -> &Section {
    packs[&at.pack]
        .section(at.number)
        .expect("a section's number is in its directory")
}

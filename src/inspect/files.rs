//! One file at a time: what its bytes say, and whether its checksums match.

use millrace_storage::block::{FileHeader, FileHeaderError};
use millrace_storage::disk::FileName;
use millrace_storage::entry::{Entries, EntryKind};
use millrace_storage::inspect::{self, Block, Blocks};
use millrace_storage::manifest::PackEntry;
use millrace_storage::record::{Batch, BatchHeader};
use millrace_storage::section::{Section, SectionKind};
use millrace_storage::units::{Lsn, ShardId};

use super::Depth;

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) summary: String,
    /// Lines below the summary.
    pub(super) details: Vec<String>,
    /// What is wrong with it.
    pub(super) damages: Vec<String>,
}

impl Description {
    pub(super) fn of(summary: impl Into<String>) -> Self {
        Self {
            summary: summary.into(),
            ..Self::default()
        }
    }

    fn damaged(damage: impl Into<String>) -> Self {
        let damage = damage.into();
        Self {
            summary: format!("DAMAGED: {damage}"),
            damages: vec![damage],
            ..Self::default()
        }
    }
}

/// What the blocks of a WAL file add up to.
#[derive(Default)]
struct WalContent {
    blocks: u64,
    batches: u64,
    states: u64,
    log_starts: u64,
    durable: Lsn,
    damages: Vec<String>,
}

/// Describes a WAL file. Behind the last block of a life lies what was never written, or what an
/// earlier life left; whether something acknowledged is missing there is for the rehearsal to say.
pub(super) fn wal((shard, name): (ShardId, FileName), file: &[u8], depth: Depth) -> Description {
    let life = match FileHeader::decode(file) {
        Ok(life) if life.shard == shard => life,
        Ok(life) => {
            let shard = life.shard;
            return Description::damaged(format!("the file belongs to shard {shard}"));
        }
        Err(FileHeaderError::Blank) => return Description::of("not used yet"),
        // The header is the last thing that a new life writes: before that the file is free.
        Err(FileHeaderError::Damaged) => return Description::of("no whole header: free"),
        Err(FileHeaderError::Newer) => return Description::damaged("written by a newer version"),
    };
    let mut content = WalContent::default();
    let mut blocks = Blocks::new(file, life);
    let mut end = life.first_lsn;
    let mut lines = Vec::new();
    for block in blocks.by_ref() {
        content.add(&block, depth.verify);
        if depth.blocks {
            lines.push(block_line(name, &block));
        }
        end = block.header.end_lsn();
    }
    let mut description = Description::of(format!(
        "life {}, LSN {} to {end}, durable to {} at the last block: {} blocks with {} batches, {} \
         state changes, {} log starts",
        life.life,
        life.first_lsn,
        content.durable,
        content.blocks,
        content.batches,
        content.states,
        content.log_starts,
    ));
    let before = life.predecessor;
    if before.life.0 > 0 {
        description.details.push(format!(
            "follows life {} (wal-{:06}) at LSN {}",
            before.life, before.slot, before.end_lsn
        ));
    }
    description.details.append(&mut lines);
    description.damages = content.damages;
    if depth.verify && FileHeader::is_copy_damaged(file) {
        let damage = "one of the header's two copies does not match its checksum";
        description.damages.push(damage.to_owned());
    }
    description
}

/// A block in words that scripts can cut apart.
fn block_line(file: FileName, block: &Block<'_>) -> String {
    let header = &block.header;
    format!(
        "block file={file} position={} lsn={} bytes={} entries={} durable_lsn={}",
        header.position, header.first_lsn, header.block_bytes, header.entries, header.durable_lsn
    )
}

impl WalContent {
    fn add(&mut self, block: &Block<'_>, verify: bool) {
        self.blocks += 1;
        self.durable = block.header.durable_lsn;
        for entry in Entries::new(block.payload, 0) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let at = block.header.position;
                    self.damages
                        .push(format!("block at byte {at}: {}", error.found()));
                    return;
                }
            };
            match entry.kind {
                EntryKind::Batch => self.batches += 1,
                EntryKind::State => self.states += 1,
                EntryKind::LogStart => self.log_starts += 1,
            }
            if verify
                && entry.kind == EntryKind::Batch
                && let Err(error) = Batch::check_stored(entry.body)
            {
                let at = block.header.position;
                let partition = entry.id;
                let place = format!("block at byte {at}, partition {partition}");
                self.damages.push(format!("{place}: {error}"));
            }
        }
    }
}

/// Describes a manifest.
pub(super) fn manifest(shard: ShardId, number: u64, file: &[u8]) -> Description {
    let (state, damaged_copy) = match inspect::manifest(shard, number, file) {
        Ok(found) => found,
        Err(damage) => return Description::damaged(damage),
    };
    let start = state.chain_start;
    let mut description = Description::of(format!(
        "format {}: the log is settled to LSN {} and begins in wal-{:06} with life {}; {} packs",
        state.format,
        state.settled_lsn,
        start.slot,
        start.life,
        state.packs.len()
    ));
    if let Some(owner) = state.owner {
        let broker = millrace_engine::catalog::cluster_name(owner);
        description.details.push(format!("of broker {broker}"));
    }
    for entry in state.packs.values() {
        let dropped = entry.dropped.len();
        let file = entry.file;
        description
            .details
            .push(format!("{file}: {dropped} sections dropped"));
    }
    if let Some(snapshot) = state.snapshot {
        description.details.push(format!(
            "state as of LSN {} in section {} of pack {}",
            snapshot.as_of, snapshot.section, snapshot.pack
        ));
    }
    if let Some(position) = damaged_copy {
        let damage = format!("at byte {position}: one of two copies is damaged");
        description.damages.push(damage);
    }
    description
}

/// Describes a pack or segment that the manifest knows as `entry`; with `verify`, all of it.
pub(super) fn pack(file: &[u8], entry: Option<&PackEntry>, verify: bool) -> Description {
    let Some(entry) = entry else {
        return Description::of("not in the manifest: the next start removes it");
    };
    let (directory, damaged_copy) = match inspect::pack(file, entry) {
        Ok(found) => found,
        Err(damage) => return Description::damaged(damage),
    };
    let count = directory.sections.len();
    let mut description = Description::of(format!(
        "written by shard {} as pack {}: {count} sections, {} of them dropped",
        directory.shard,
        directory.pack,
        entry.dropped.len()
    ));
    if let Some(damage) = damaged_copy {
        let damage = format!("one of the directory's two copies: {damage}");
        description.damages.push(damage);
    }
    for (number, section) in (0..).zip(&directory.sections) {
        if entry.dropped.contains(&number) {
            continue;
        }
        description.details.push(match section.kind {
            SectionKind::Snapshot => {
                format!("state as of LSN {}, {} bytes", section.as_of, section.bytes)
            }
            SectionKind::Batches => format!(
                "partition {}: offsets {} to {}, {} records, {} bytes",
                section.partition,
                section.base_offset,
                section.end_offset,
                section.records,
                section.bytes
            ),
        });
        if verify && let Err(damage) = check_section(file, section) {
            description
                .damages
                .push(format!("section {number}: {damage}"));
        }
    }
    description
}

/// Checks a section's own checksums, and those of the batches in it.
fn check_section(file: &[u8], section: &Section) -> Result<(), String> {
    let mut rest = inspect::section(file, section)?;
    while section.kind == SectionKind::Batches && !rest.is_empty() {
        let header = BatchHeader::parse(rest).map_err(|error| error.to_string())?;
        let (batch, behind) = rest
            .split_at_checked(header.batch_bytes)
            .ok_or("a batch runs over the end of its section")?;
        Batch::check_stored(batch).map_err(|error| error.to_string())?;
        rest = behind;
    }
    Ok(())
}

//! Reading a stopped broker's data directory: what its files hold, and what a start would find.
//!
//! The files are mapped, never written. [`files`] describes them one by one. Then a start is
//! rehearsed: every store is opened by the real recovery on an [`overlay`] that keeps writes in
//! memory, so that what is printed as the catalog is what a broker would serve, and a damage that
//! would keep it from starting is reported in the same words.

mod files;
mod map;
mod overlay;
mod rehearsal;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::rc::Rc;

use millrace_storage::disk::FileName;
use millrace_storage::manifest::PackEntry;
use millrace_storage::units::ShardId;

use crate::broker::{directories, identity};
use crate::exit::Failure;
use crate::lock::DirectoryLock;
use files::Description;
use map::MappedFile;
use overlay::Overlay;

/// What an inspection found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// For people.
    pub text: String,
    /// What is wrong, one line each; empty when all is well.
    pub damages: Vec<String>,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Check every checksum.
    pub verify: bool,
    /// List the blocks of the log, one line each.
    pub blocks: bool,
}

/// Inspects `directory`.
///
/// # Errors
/// The directory is in use, is none of ours, or cannot be read. Damage is no error but part of the
/// answer.
pub fn inspect(directory: &Path, depth: Depth) -> Result<Inspection, Failure> {
    let shards = directories::existing(directory)?;
    if shards.is_empty() {
        let reason = "there is no shard directory in it: not a data directory";
        return Err(Failure::Unfit(format!("{}: {reason}", directory.display())));
    }
    let _lock = DirectoryLock::take_to_read(directory)?;
    let overlay = Overlay::default();
    for shard in &shards {
        let path = directories::path(directory, *shard);
        overlay.add(*shard, &path).map_err(Failure::io(&path))?;
    }
    let mut found = Inspection::default();
    for shard in &shards {
        found.describe_shard(&overlay, *shard, depth);
    }
    let owner = identity::read(directory).unwrap_or_else(|failure| {
        found.damages.push(failure.to_string());
        None
    });
    match rehearsal::rehearse(&overlay, &shards, owner) {
        Ok(catalog) => found.text.push_str(&catalog),
        Err(error) => found.damages.push(format!("a start would refuse: {error}")),
    }
    Ok(found)
}

/// The packs that the current manifest names, by file. A damaged manifest names none, and is
/// reported as such.
fn packs(shard: ShardId, files: &[(FileName, Rc<MappedFile>)]) -> BTreeMap<FileName, PackEntry> {
    let manifests = files.iter().filter_map(|(file, bytes)| match file {
        FileName::Manifest(number) => Some((*number, bytes)),
        _ => None,
    });
    let current = manifests.max_by_key(|(number, _)| *number);
    let state = current
        .and_then(|(number, bytes)| millrace_storage::inspect::manifest(shard, number, bytes).ok());
    let packs = state
        .into_iter()
        .flat_map(|(state, _)| state.packs.into_values());
    packs.map(|entry| (entry.file, entry)).collect()
}

impl Inspection {
    fn describe_shard(&mut self, overlay: &Overlay, shard: ShardId, depth: Depth) {
        let _ = writeln!(self.text, "shard {shard}");
        let files = overlay.mapped(shard);
        let packs = packs(shard, &files);
        for (file, bytes) in &files {
            let description = match file {
                FileName::Wal(_) => files::wal((shard, *file), bytes, depth),
                FileName::Manifest(number) => files::manifest(shard, *number, bytes),
                FileName::Pack(_) | FileName::Segment(_) => {
                    files::pack(bytes, packs.get(file), depth.verify)
                }
                FileName::Temporary(_) => Description::of("left over: the next start removes it"),
                FileName::Reserve => Description::of("space held back for a full disk"),
            };
            let _ = writeln!(
                self.text,
                "  {file}  {} bytes  {}",
                bytes.len(),
                description.summary
            );
            for line in description.details {
                let _ = writeln!(self.text, "    {line}");
            }
            let damages = description.damages.into_iter();
            self.damages
                .extend(damages.map(|damage| format!("shard {shard}: {file}: {damage}")));
        }
    }
}

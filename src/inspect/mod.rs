//! Reading a stopped broker's data directory: what its files hold, and what a start would find.
//!
//! The files are read, never written. [`files`] describes them one by one. Then a start is
//! rehearsed: every store is opened by the real recovery on an [`overlay`] that keeps writes in
//! memory, so that what is printed as the catalog is what a broker would serve, and a damage that
//! would keep it from starting is reported in the same words.

mod files;
mod overlay;
mod rehearsal;
mod stored;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use millrace_storage::block::FileHeader;
use millrace_storage::disk::FileName;
use millrace_storage::manifest::PackEntry;
use millrace_storage::units::{PAGE_BYTES, ShardId};

use crate::broker::{directories, identity};
use crate::exit::Failure;
use crate::lock::DirectoryLock;
use files::Description;
use overlay::Overlay;
use stored::{Contents, StoredFile};

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
        let path = directories::path(directory, *shard);
        let described = found.describe_shard(&overlay, *shard, depth);
        described.map_err(Failure::io(&path))?;
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
fn packs(
    shard: ShardId,
    files: &[(FileName, StoredFile)],
) -> io::Result<BTreeMap<FileName, PackEntry>> {
    let manifests = files.iter().filter_map(|(file, stored)| match file {
        FileName::Manifest(number) => Some((*number, stored)),
        _ => None,
    });
    let Some((number, stored)) = manifests.max_by_key(|(number, _)| *number) else {
        return Ok(BTreeMap::new());
    };
    let whole = 0..stored.bytes();
    let contents = stored.contents(&[whole])?;
    let state = millrace_storage::inspect::manifest(shard, number, &contents.bytes).ok();
    let packs = state
        .into_iter()
        .flat_map(|(state, _)| state.packs.into_values());
    Ok(packs.map(|entry| (entry.file, entry)).collect())
}

/// What must be read of a file to describe it; `entry` is the manifest's, of a pack.
fn read(
    file: FileName,
    stored: &StoredFile,
    entry: Option<&PackEntry>,
    verify: bool,
) -> io::Result<Contents> {
    let whole = 0..stored.bytes();
    let first = 0..PAGE_BYTES as u64;
    match (file, entry) {
        (FileName::Wal(_), _) => {
            let contents = stored.contents(&[first])?;
            match FileHeader::decode(&contents.bytes) {
                Ok(_) => stored.contents(&[whole]),
                Err(_) => Ok(contents),
            }
        }
        (FileName::Pack(_) | FileName::Segment(_), Some(entry)) if !verify => {
            stored.contents(&[first, entry.footer.0..whole.end])
        }
        (FileName::Manifest(_), _) | (FileName::Pack(_) | FileName::Segment(_), Some(_)) => {
            stored.contents(&[whole])
        }
        _ => stored.contents(&[]),
    }
}

impl Inspection {
    fn describe_shard(
        &mut self,
        overlay: &Overlay,
        shard: ShardId,
        depth: Depth,
    ) -> io::Result<()> {
        let _ = writeln!(self.text, "shard {shard}");
        let files = overlay.stored(shard);
        let packs = packs(shard, &files)?;
        for (file, stored) in &files {
            let entry = packs.get(file);
            let Contents { bytes, unreadable } = read(*file, stored, entry, depth.verify)?;
            let mut description = match file {
                FileName::Wal(_) => files::wal((shard, *file), &bytes, depth),
                FileName::Manifest(number) => files::manifest(shard, *number, &bytes),
                FileName::Pack(_) | FileName::Segment(_) => {
                    files::pack(&bytes, entry, depth.verify)
                }
                FileName::Temporary(_) => Description::of("left over: the next start removes it"),
                FileName::Reserve => Description::of("space held back for a full disk"),
            };
            let _ = writeln!(
                self.text,
                "  {file}  {} bytes  {}",
                stored.bytes(),
                description.summary
            );
            for (range, why) in unreadable {
                let (from, to) = (range.start, range.end);
                let damage = format!("bytes {from} to {to} cannot be read: {why}");
                description.damages.push(damage);
            }
            for line in description.details {
                let _ = writeln!(self.text, "    {line}");
            }
            let damages = description.damages.into_iter();
            self.damages
                .extend(damages.map(|damage| format!("shard {shard}: {file}: {damage}")));
        }
        Ok(())
    }
}

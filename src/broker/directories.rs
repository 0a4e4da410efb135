//! The data directory's layout: `shard-N` for each shard that ever was.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use millrace_storage::units::ShardId;

use crate::exit::Failure;

/// A shard and its directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardDirectory {
    /// The shard.
    pub shard: ShardId,
    /// Its directory, which exists.
    pub path: PathBuf,
}

/// The shards whose directories exist, in order.
///
/// # Errors
/// The data directory cannot be listed.
pub fn existing(data_dir: &Path) -> Result<Vec<ShardDirectory>, Failure> {
    let entries = fs::read_dir(data_dir).map_err(Failure::io(data_dir))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Failure::io(data_dir))?;
        let name = entry.file_name();
        if let Some(shard) = name.to_str().and_then(parse) {
            found.push(ShardDirectory {
                shard,
                path: entry.path(),
            });
        }
    }
    found.sort();
    Ok(found)
}

/// Makes sure of a directory for each of the first `count` shards, and returns all that exist:
/// those of an earlier start with more cores as well.
pub(crate) fn prepare(data_dir: &Path, count: u16) -> Result<Vec<ShardDirectory>, Failure> {
    for shard in 0..count {
        let path = data_dir.join(format!("shard-{shard}"));
        match fs::create_dir(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(Failure::Io { path, error });
            }
            _ => {}
        }
    }
    // A directory that is used before its name is durable is lost with everything in it.
    let sync = File::open(data_dir).and_then(|directory| directory.sync_all());
    sync.map_err(Failure::io(data_dir))?;
    existing(data_dir)
}

/// `shard-N` in the one way that we write it.
fn parse(name: &str) -> Option<ShardId> {
    let number: u16 = name.strip_prefix("shard-")?.parse().ok()?;
    (format!("shard-{number}") == name).then_some(ShardId(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_outlive_the_core_count() {
        let name = format!("millrace-directories-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(directory.join("shard-01")).unwrap();
        assert_eq!(prepare(&directory, 3).unwrap().len(), 3);
        let shards: Vec<u16> = prepare(&directory, 1)
            .unwrap()
            .iter()
            .map(|found| found.shard.0)
            .collect();
        assert_eq!(shards, [0, 1, 2]);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn only_our_own_spelling_is_a_shard() {
        assert_eq!(parse("shard-12"), Some(ShardId(12)));
        for name in ["shard-", "shard-+1", "shard-012", "shard-70000", "lock"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}

//! The data directory's layout: `shard-N` for each shard that ever was.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use millrace_net::uring::files::directory_name;
use millrace_storage::units::ShardId;

use crate::exit::Failure;

/// Makes sure of the data directory, and that its name survives a power cut: also if it was there,
/// because the start that made it may have been killed before it synced anything.
pub(crate) fn create(data_dir: &Path) -> Result<(), Failure> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing = data_dir.ancestors().take_while(is_missing).count();
    fs::create_dir_all(data_dir).map_err(Failure::io(data_dir))?;
    let real = match fs::canonicalize(data_dir) {
        // Below a directory that we may not pass by its name, and made nothing in.
        Err(error) if error.kind() == ErrorKind::PermissionDenied && missing == 0 => return Ok(()),
        real => real.map_err(Failure::io(data_dir))?,
    };
    let device = device(&real)?;
    // The names are in the directories above; none of ours is on another file system.
    for (depth, above) in real.ancestors().skip(1).enumerate() {
        if self::device(above)? != device {
            break;
        }
        let synced = File::open(above).and_then(|directory| directory.sync_all());
        match synced {
            // One that we may not read, and in which we made nothing.
            Err(error) if error.kind() == ErrorKind::PermissionDenied && depth >= missing => {}
            synced => synced.map_err(Failure::io(above))?,
        }
    }
    Ok(())
}

/// The file system that `path` is on.
pub(crate) fn device(path: &Path) -> Result<u64, Failure> {
    let metadata = fs::metadata(path).map_err(Failure::io(path))?;
    Ok(metadata.dev())
}

/// The shards whose directories exist, in order.
pub(crate) fn existing(data_dir: &Path) -> Result<Vec<ShardId>, Failure> {
    let entries = fs::read_dir(data_dir).map_err(Failure::io(data_dir))?;
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(Failure::io(data_dir))?.file_name();
        found.extend(name.to_str().and_then(parse));
    }
    found.sort_unstable();
    Ok(found)
}

/// A shard's directory.
pub(crate) fn path(data_dir: &Path, shard: ShardId) -> PathBuf {
    data_dir.join(directory_name(shard))
}

/// `shard-N` in the one way that we write it.
fn parse(name: &str) -> Option<ShardId> {
    let number: u16 = name.strip_prefix("shard-")?.parse().ok()?;
    (directory_name(ShardId(number)) == name).then_some(ShardId(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_made_and_shards_are_found_in_it() {
        let name = format!("millrace-directories-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        create(&directory.join("below")).unwrap();
        create(&directory).unwrap();
        for name in ["shard-2", "shard-0", "shard-01", "below"] {
            let _ = fs::create_dir(directory.join(name));
        }
        assert_eq!(existing(&directory).unwrap(), [ShardId(0), ShardId(2)]);
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

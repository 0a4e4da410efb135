//! What is looked at before a start: each finding names its cause and what to do about it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::broker::directories;
use crate::config::Config;
use crate::exit::Failure;

pub(crate) mod kernel;

/// What a file system promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Survives a power cut, as far as the disk keeps its word.
    Durable,
    /// Memory: gone with the machine, or sooner.
    Volatile,
    /// Somebody else's disk: it depends on them.
    Remote,
    /// Not one that the broker was tried on.
    Untried,
}

/// A file system with data on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSystem {
    /// What is on it: the data directory, or a shard's.
    pub(crate) directory: PathBuf,
    /// Its name, or its magic number.
    pub(crate) name: String,
    /// What it promises.
    pub(crate) durability: Durability,
}

/// The file systems of a data directory: its own, and those of the shards' directories that are
/// mounted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSystems {
    /// The data directory's.
    pub(crate) own: FileSystem,
    /// The others, by shard.
    pub(crate) mounted: Vec<FileSystem>,
}

impl FileSystems {
    /// Asks the kernel.
    ///
    /// # Errors
    /// A directory cannot be looked at.
    pub(crate) fn of(data_dir: &Path) -> Result<Self, Failure> {
        let device = directories::device(data_dir)?;
        let mut mounted = Vec::new();
        for shard in directories::existing(data_dir)? {
            let directory = directories::path(data_dir, shard);
            if directories::device(&directory)? != device {
                mounted.push(FileSystem::of(&directory)?);
            }
        }
        Ok(Self {
            own: FileSystem::of(data_dir)?,
            mounted,
        })
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &FileSystem> {
        std::iter::once(&self.own).chain(&self.mounted)
    }

    /// What an acknowledgement means: no more than the least of them promises.
    #[must_use]
    pub(crate) fn acknowledgement(&self) -> &'static str {
        if self
            .iter()
            .any(|one| one.durability == Durability::Volatile)
        {
            "in memory only: this file system is NOT DURABLE"
        } else {
            "on the disk: written and synced before the reply"
        }
    }
}

impl FileSystem {
    fn of(directory: &Path) -> Result<Self, Failure> {
        let found = statfs(directory)
            .map_err(std::io::Error::from)
            .map_err(Failure::io(directory))?;
        #[allow(clippy::useless_conversion)] // The field's type differs between platforms.
        let magic = i64::from(found.f_type);
        Ok(Self::from_magic(directory, magic))
    }

    /// `statfs(2)` lists the numbers.
    fn from_magic(directory: &Path, magic: i64) -> Self {
        let directory = directory.to_owned();
        let (name, durability) = match magic {
            0xEF53 => ("ext4", Durability::Durable),
            0x5846_5342 => ("xfs", Durability::Durable),
            0x9123_683E => ("btrfs", Durability::Durable),
            0x2FC1_2FC1 => ("zfs", Durability::Durable),
            0xF2F5_2010 => ("f2fs", Durability::Durable),
            0x0102_1994 => ("tmpfs", Durability::Volatile),
            0x8584_58F6 => ("ramfs", Durability::Volatile),
            0x6969 => ("nfs", Durability::Remote),
            0xFF53_4D42 => ("cifs", Durability::Remote),
            0x6573_5546 => ("fuse", Durability::Remote),
            0x794C_7630 => ("overlayfs", Durability::Untried),
            _ => {
                return Self {
                    directory,
                    name: format!("file system {magic:#x}"),
                    durability: Durability::Untried,
                };
            }
        };
        Self {
            directory,
            name: name.to_owned(),
            durability,
        }
    }

    /// What the operator should know, if anything.
    #[must_use]
    pub(crate) fn warning(&self) -> Option<String> {
        let (name, directory) = (&self.name, self.directory.display());
        match self.durability {
            Durability::Durable => None,
            Durability::Volatile => Some(format!(
                "NOT DURABLE: {directory} is on {name}, which is memory: everything is lost with \
                 the machine; put it on a disk"
            )),
            Durability::Remote => Some(format!(
                "{directory} is on {name}: acknowledgements are as good as its server's word; put \
                 it on a local disk"
            )),
            Durability::Untried => Some(format!(
                "{directory} is on {name}, on which the broker was not tried; ext4 and xfs are"
            )),
        }
    }
}

/// Looks at what the process has before it starts, and returns what the operator should know.
pub(crate) fn look(
    config: &Config,
    file_systems: &FileSystems,
    shards: u16,
) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    warnings.extend(file_systems.iter().filter_map(FileSystem::warning));
    warnings.extend(listener_warning(config.kafka.address));
    warnings.extend(raise_descriptors(config, shards));
    Ok(warnings)
}

/// Takes as many descriptors as the process may have; says so when they are fewer than the
/// configured limits ask for.
fn raise_descriptors(config: &Config, shards: u16) -> Option<String> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        limit = getrlimit(Resource::Nofile);
    }
    let limits = &config.limits;
    let wanted = u64::from(shards) * (limits.connections_max + limits.files_open_max);
    let have = limit.current.unwrap_or(u64::MAX);
    (have < wanted).then(|| {
        format!(
            "{have} file descriptors are allowed, and `limits.connections_max` and \
             `limits.files_open_max` ask for {wanted} on {shards} shards; raise LimitNOFILE or \
             ulimit -n, or connections are refused early"
        )
    })
}

/// Fresh randomness for a start.
pub(crate) fn random_seed() -> u64 {
    let mut bytes = [0; 8];
    let filled = getrandom(&mut bytes[..], GetRandomFlags::empty());
    assert_eq!(
        filled,
        Ok(bytes.len()),
        "the kernel gives small amounts at once"
    );
    u64::from_le_bytes(bytes)
}

/// What an open address means, if it is open.
#[must_use]
pub(crate) fn listener_warning(address: SocketAddr) -> Option<String> {
    (!address.ip().is_loopback()).then(|| {
        format!(
            "listening on {address}, beyond this machine: there are no users and no TLS, so \
             whoever reaches the port can read and write everything; use a loopback address or a \
             firewall"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_called_not_durable_even_below_one_shard() {
        let file_system = |path, magic| FileSystem::from_magic(Path::new(path), magic);
        let tmpfs = file_system("data/shard-1", 0x0102_1994);
        let warning = tmpfs.warning().unwrap();
        assert!(warning.starts_with("NOT DURABLE: data/shard-1 is on tmpfs"));
        let own = file_system("data", 0xEF53);
        assert_eq!(own.warning(), None);
        let with = |mounted| FileSystems {
            own: own.clone(),
            mounted,
        };
        let durable = with(vec![own.clone()]).acknowledgement();
        assert!(durable.starts_with("on the disk"));
        let memory = with(vec![own.clone(), tmpfs]).acknowledgement();
        assert!(memory.contains("NOT DURABLE"));
        let unknown = file_system("data", 1).warning().unwrap();
        assert!(unknown.contains("0x1"), "{unknown}");
    }

    #[test]
    fn a_shard_without_a_mount_of_its_own_is_on_the_data_directory_s_file_system() {
        let name = format!("millrace-file-systems-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(directory.join("shard-0")).unwrap();
        let found = FileSystems::of(&directory).unwrap();
        assert_eq!((&found.own.directory, found.mounted.len()), (&directory, 0));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn an_open_address_is_warned_about() {
        assert_eq!(listener_warning("127.0.0.1:9092".parse().unwrap()), None);
        assert_eq!(listener_warning("[::1]:9092".parse().unwrap()), None);
        assert!(listener_warning("0.0.0.0:9092".parse().unwrap()).is_some());
    }
}

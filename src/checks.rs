//! What is looked at before a start: each finding names its cause and what to do about it.

use std::net::SocketAddr;
use std::path::Path;

use rustix::fs::statfs;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};

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

/// The file system of the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSystem {
    /// Its name, or its magic number.
    pub(crate) name: String,
    /// What it promises.
    pub(crate) durability: Durability,
}

impl FileSystem {
    /// Asks the kernel.
    ///
    /// # Errors
    /// `directory` cannot be looked at.
    pub(crate) fn of(directory: &Path) -> Result<Self, Failure> {
        let found = statfs(directory)
            .map_err(std::io::Error::from)
            .map_err(Failure::io(directory))?;
        #[allow(clippy::useless_conversion)] // The field's type differs between platforms.
        let magic = i64::from(found.f_type);
        Ok(Self::from_magic(magic))
    }

    /// `statfs(2)` lists the numbers.
    fn from_magic(magic: i64) -> Self {
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
                    name: format!("file system {magic:#x}"),
                    durability: Durability::Untried,
                };
            }
        };
        Self {
            name: name.to_owned(),
            durability,
        }
    }

    /// What the operator should know, if anything.
    #[must_use]
    pub(crate) fn warning(&self) -> Option<String> {
        let name = &self.name;
        match self.durability {
            Durability::Durable => None,
            Durability::Volatile => Some(format!(
                "NOT DURABLE: the data directory is on {name}, which is memory: everything is \
                 lost with the machine; put --data-dir on a disk"
            )),
            Durability::Remote => Some(format!(
                "the data directory is on {name}: acknowledgements are as good as its server's \
                 word; put --data-dir on a local disk"
            )),
            Durability::Untried => Some(format!(
                "the data directory is on {name}, on which the broker was not tried; ext4 and \
                 xfs are"
            )),
        }
    }

    /// What an acknowledgement means there.
    #[must_use]
    pub(crate) fn acknowledgement(&self) -> &'static str {
        match self.durability {
            Durability::Volatile => "in memory only: this file system is NOT DURABLE",
            Durability::Durable | Durability::Remote | Durability::Untried => {
                "on the disk: written and synced before the reply"
            }
        }
    }
}

/// Looks at what the process has before it starts, and returns what the operator should know.
pub(crate) fn look(
    config: &Config,
    file_system: &FileSystem,
    shards: u16,
) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    warnings.extend(file_system.warning());
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
    fn memory_is_called_not_durable() {
        let tmpfs = FileSystem::from_magic(0x0102_1994);
        assert!(tmpfs.warning().unwrap().starts_with("NOT DURABLE"));
        assert!(tmpfs.acknowledgement().contains("NOT DURABLE"));
        assert_eq!(FileSystem::from_magic(0xEF53).warning(), None);
        assert!(FileSystem::from_magic(1).warning().unwrap().contains("0x1"));
    }

    #[test]
    fn an_open_address_is_warned_about() {
        assert_eq!(listener_warning("127.0.0.1:9092".parse().unwrap()), None);
        assert_eq!(listener_warning("[::1]:9092".parse().unwrap()), None);
        assert!(listener_warning("0.0.0.0:9092".parse().unwrap()).is_some());
    }
}

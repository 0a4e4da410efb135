//! Whose data directory it is, in a file beside the shards' directories: what is left when none of
//! them is mounted.
//!
//! The file `identity` is one line: `millrace 1 ID CHECKSUM`, in hexadecimal: the broker's name and
//! the CRC-32C of all that stands before the checksum. It is written once, when a first start has
//! begun and marked every shard's directory and nothing listens yet.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use millrace_storage::record::checksum;
use millrace_storage::units::BrokerId;

use crate::exit::Failure;

const IDENTITY_FILE: &str = "identity";
const NEW_FILE: &str = "identity.new";

/// The broker that the directory is known to be of; `None` before its first start is through.
///
/// # Errors
/// [`Failure::Damaged`] when the file does not say.
pub(crate) fn read(data_dir: &Path) -> Result<Option<BrokerId>, Failure> {
    let path = data_dir.join(IDENTITY_FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::Io { path, error }),
    };
    let owner = str::from_utf8(&text).ok().and_then(decode);
    owner.map(Some).ok_or_else(|| {
        Failure::Damaged(format!(
            "{}: not what the broker wrote; restore it, or remove it if you are sure that every \
             shard's directory is in its place",
            path.display()
        ))
    })
}

/// Notes whose directory it is, durably, unless that is noted.
pub(crate) fn note(data_dir: &Path, owner: BrokerId) -> Result<(), Failure> {
    let path = data_dir.join(IDENTITY_FILE);
    if path.exists() {
        return Ok(());
    }
    let new = data_dir.join(NEW_FILE);
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(encode(owner).as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(data_dir)?.sync_all()
    });
    written.map_err(Failure::io(path))
}

fn encode(owner: BrokerId) -> String {
    let said = format!("millrace 1 {:032x}", owner.0);
    let sum = checksum(said.as_bytes());
    format!("{said} {sum:08x}\n")
}

fn decode(text: &str) -> Option<BrokerId> {
    let id = text.split(' ').nth(2)?;
    let owner = BrokerId(u128::from_str_radix(id, 16).ok()?);
    (encode(owner) == text).then_some(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_read_and_nothing_else_is() {
        let name = format!("millrace-identity-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        assert_eq!(read(&directory).unwrap(), None);
        let owner = BrokerId(0x0123_4567);
        note(&directory, owner).unwrap();
        note(&directory, BrokerId(9)).unwrap();
        assert_eq!(
            read(&directory).unwrap(),
            Some(owner),
            "the first one stays"
        );
        let good = encode(owner);
        for wrong in ["", &good[..good.len() - 1], &good.replace('7', "8")] {
            fs::write(directory.join(IDENTITY_FILE), wrong).unwrap();
            let refusal = read(&directory).unwrap_err();
            assert_eq!(refusal.code(), crate::exit::ExitCode::Quarantine, "{wrong}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}

//! What a start needs of kernel and file system, tried out before anything is built on it.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use io_uring::opcode;
use millrace_storage::buf::AlignedBuf;
use millrace_storage::units::PAGE_BYTES;

use super::buffers::Buffers;
use super::driver::DriverConfig;
use super::ring::Ring;
use super::sys;
use super::token::{Kind, Token};

/// Why a shard cannot have a ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// `io_uring_setup`, or enabling what it made.
    #[error("io_uring cannot be set up: {0}")]
    SetUp(io::Error),
    /// An operation or a feature that this kernel does not have.
    #[error("the kernel's io_uring lacks {0}")]
    Lacking(&'static str),
    /// `io_uring_register`.
    #[error("receive buffers cannot be registered with io_uring: {0}")]
    Buffers(io::Error),
    /// `io_uring_enter`.
    #[error("io_uring cannot be entered: {0}")]
    Enter(io::Error),
    /// The process may open too few files for what it has to do; the error says how many.
    #[error("{0}")]
    Descriptors(io::Error),
}

/// Why a directory cannot hold data.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The file system does not do what the log is built on.
    #[error("{what}: {error}")]
    Lacking {
        /// What was tried.
        what: &'static str,
        /// The answer.
        error: io::Error,
    },
    /// It failed otherwise, which has nothing to do with what it can.
    #[error("{0}")]
    Failed(io::Error),
}

/// An operation that does nothing.
const NOTHING: Token = Token {
    kind: Kind::Wake,
    index: 0,
    life: 0,
};

/// How long doing nothing may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The file that is written for a trial; a crash may leave it, and the next trial replaces it.
const TRIAL_FILE: &str = "trial";

/// A ring as a driver's, with its buffers, used once.
struct Trial {
    // The ring goes first: nothing that the kernel may touch is freed before it.
    ring: Ring,
    _buffers: Buffers,
}

/// Sets up, fills and enters a ring as a driver's, and gives it back.
///
/// # Errors
/// See [`RingError`].
pub fn try_ring(config: &DriverConfig) -> Result<(), RingError> {
    let ring = Ring::new(config.ring_entries).map_err(RingError::SetUp)?;
    if let Some(what) = ring.lacking().map_err(RingError::SetUp)? {
        return Err(RingError::Lacking(what));
    }
    let buffers = Buffers::register(&ring, config.receive_buffers, config.receive_buffer_bytes)
        .map_err(RingError::Buffers)?;
    let mut trial = Trial {
        ring,
        _buffers: buffers,
    };
    trial.ring.enable().map_err(RingError::SetUp)?;
    // SAFETY: the operation names no memory and no descriptor.
    unsafe { trial.ring.push(opcode::Nop::new().build(), NOTHING) };
    trial.ring.try_enter(PATIENCE).map_err(RingError::Enter)
}

/// Writes a page to the directory as the log does, past the page cache and durably, and reads it.
///
/// # Errors
/// See [`DirectoryError`]. A full disk is none: a broker starts on it, and deletes.
pub fn try_directory(data_dir: &Path) -> Result<(), DirectoryError> {
    sys::ignore_file_size_signal();
    let path = data_dir.join(TRIAL_FILE);
    let tried = write_and_read(data_dir);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound && tried.is_ok() => {
            return Err(DirectoryError::Failed(error));
        }
        _ => {}
    }
    match tried {
        Err(DirectoryError::Failed(error))
            if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) =>
        {
            Ok(())
        }
        tried => tried,
    }
}

fn write_and_read(data_dir: &Path) -> Result<(), DirectoryError> {
    let directory = fs::File::open(data_dir).map_err(DirectoryError::Failed)?;
    let name = c"trial";
    assert_eq!(name.to_bytes(), TRIAL_FILE.as_bytes());
    let flags = sys::OPEN_FLAGS | libc::O_CREAT | libc::O_TRUNC;
    let file = sys::open_at(directory.as_fd(), name, flags)
        .map_err(lacking("files cannot be opened with O_DIRECT"))?;
    let mut page = AlignedBuf::zeroed(PAGE_BYTES);
    page.fill(0x5A);
    let written = sys::write_at(file.as_fd(), &page, 0, true).map_err(lacking(
        "a page cannot be written with O_DIRECT and RWF_DSYNC",
    ))?;
    let mut found = AlignedBuf::zeroed(PAGE_BYTES);
    let read = sys::read_at(file.as_fd(), &mut found, 0)
        .map_err(lacking("a page cannot be read with O_DIRECT"))?;
    if (written, read) != (PAGE_BYTES, PAGE_BYTES) || found[..] != page[..] {
        let error = io::Error::other("a page that was written is read otherwise");
        return Err(DirectoryError::Failed(error));
    }
    Ok(())
}

/// What an errno says of a trial: that it cannot be done here, or that it failed.
fn lacking(what: &'static str) -> impl FnOnce(i32) -> DirectoryError {
    move |errno| {
        let error = io::Error::from_raw_os_error(errno);
        match errno {
            libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS => {
                DirectoryError::Lacking { what, error }
            }
            _ => DirectoryError::Failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_a_driver_would_get_passes() {
        try_ring(&DriverConfig::default()).expect("this kernel has all that it takes");
    }

    #[test]
    fn a_directory_on_a_disk_passes_and_is_left_as_it_was() {
        let name = format!("../target/probe-{}", std::process::id());
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join(TRIAL_FILE), "left by a crash").expect("written");
        try_directory(&directory).expect("the build's disk does it");
        assert_eq!(fs::read_dir(&directory).expect("there").count(), 0);
        let missing = directory.join("missing");
        let failed = try_directory(&missing);
        assert!(
            matches!(failed, Err(DirectoryError::Failed(_))),
            "{failed:?}"
        );
        fs::remove_dir_all(&directory).expect("removed");
    }

    #[test]
    fn an_errno_tells_what_cannot_be_done_from_what_failed() {
        for (errno, is_lacking) in [
            (libc::EINVAL, true),
            (libc::EOPNOTSUPP, true),
            (libc::EIO, false),
            (libc::ENOSPC, false),
            (libc::EROFS, false),
        ] {
            let error = lacking("a trial")(errno);
            let found = matches!(error, DirectoryError::Lacking { .. });
            assert_eq!(found, is_lacking, "{errno}: {error}");
        }
    }
}

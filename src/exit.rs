//! How the process ends: the one table of exit codes, and the errors that lead to them.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use std::{panic, process, thread};

use millrace_engine::start::OpenError;
use millrace_storage::error::StorageError;

use crate::config::ConfigError;

/// What a supervisor can tell apart. The numbers follow `sysexits.h` where it has a word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// A clean stop.
    Clean = 0,
    /// A measurement failed, or what it measured broke its promise.
    Measurement = 1,
    /// The command line is wrong.
    Usage = 64,
    /// Stored data is damaged or missing. Nothing was changed; starting again will not help.
    Quarantine = 65,
    /// No broker answers there.
    Unavailable = 69,
    /// We are wrong: an assertion failed.
    Bug = 70,
    /// The kernel lacks something, or refuses it.
    Kernel = 71,
    /// A listener's address cannot be had.
    Listen = 73,
    /// A file operation failed.
    Io = 74,
    /// A write to the log failed while serving: start again to recover.
    Poisoned = 75,
    /// A running broker refused what it was asked.
    Refused = 76,
    /// The data directory is in use.
    Locked = 77,
    /// The configuration is wrong.
    Config = 78,
    /// A second signal ended a clean stop: nothing acknowledged is lost, but the next start has
    /// more to recover.
    Interrupted = 79,
    /// A running broker did not answer in time: it may have done what it was asked.
    Unanswered = 80,
}

impl ExitCode {
    /// Every code, in order.
    pub const ALL: [Self; 15] = [
        Self::Clean,
        Self::Measurement,
        Self::Usage,
        Self::Quarantine,
        Self::Unavailable,
        Self::Bug,
        Self::Kernel,
        Self::Listen,
        Self::Io,
        Self::Poisoned,
        Self::Refused,
        Self::Locked,
        Self::Config,
        Self::Interrupted,
        Self::Unanswered,
    ];

    /// The number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What the configuration asks for does not exist here.
    #[error("{0}")]
    Unfit(String),
    /// The data directory's lock.
    #[error("{}: {reason}", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// Who holds it.
        reason: String,
    },
    /// A start-up check.
    #[error("{0}")]
    Kernel(String),
    /// An address.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// A file.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The failure.
        error: io::Error,
    },
    /// The stores.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What the stores say.
    #[error(transparent)]
    Engine(#[from] OpenError),
    /// A thread died.
    #[error("{0}: this is a bug; what was acknowledged is safe")]
    Bug(String),
    /// What an inspection found.
    #[error("damaged:\n{0}")]
    Damaged(String),
    /// A broker that should be there.
    #[error("{0}")]
    Unavailable(String),
    /// A broker's own words.
    #[error("refused: {0}")]
    Refused(String),
    /// A broker that is there.
    #[error("{0}")]
    Unanswered(String),
    /// A flag whose value only we can judge.
    #[error("{0}")]
    Usage(String),
    /// The load generator.
    #[error("{0}")]
    Bench(String),
}

impl Failure {
    /// The code that the process ends with.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Unfit(_) => ExitCode::Config,
            Self::Locked { .. } => ExitCode::Locked,
            Self::Bug(_) => ExitCode::Bug,
            Self::Kernel(_) => ExitCode::Kernel,
            Self::Listen { .. } => ExitCode::Listen,
            Self::Io { .. } => ExitCode::Io,
            Self::Unavailable(_) => ExitCode::Unavailable,
            Self::Refused(_) => ExitCode::Refused,
            Self::Unanswered(_) => ExitCode::Unanswered,
            Self::Usage(_) => ExitCode::Usage,
            Self::Bench(_) => ExitCode::Measurement,
            Self::Damaged(_)
            | Self::Engine(
                OpenError::State { .. }
                | OpenError::Quarantine { .. }
                | OpenError::Lost { .. }
                | OpenError::Foreign { .. },
            ) => ExitCode::Quarantine,
            Self::Engine(OpenError::NoRoom { .. }) => ExitCode::Io,
            Self::Storage(error) | Self::Engine(OpenError::Storage(error)) => match error {
                StorageError::Quarantine { .. }
                | StorageError::DamagedLog { .. }
                | StorageError::Corrupt { .. } => ExitCode::Quarantine,
                StorageError::Io { .. } | StorageError::Apart { .. } => ExitCode::Io,
                StorageError::Poisoned { .. } => ExitCode::Poisoned,
            },
        }
    }

    /// Wraps what a file operation failed with.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { path, error }
    }
}

/// Ends the process with [`ExitCode::Bug`] when a thread panics, whichever it is, once that is
/// told: an abort would say the same as a kill to whoever looks at the code alone.
pub fn end_on_panic() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        // Nobody may be reading standard error, and another thread may wait in it for ever.
        let _ = thread::Builder::new().spawn(|| {
            thread::sleep(TELLING_MAX);
            end(ExitCode::Bug)
        });
        tell(panic);
        let _ = writeln!(
            io::stderr(),
            "millrace: this is a bug; what was acknowledged is safe"
        );
        end(ExitCode::Bug)
    }));
}

/// So long a panic may take to be told.
const TELLING_MAX: Duration = Duration::from_secs(5);

/// Ends the process where it stands.
pub fn end(code: ExitCode) -> ! {
    process::exit(i32::from(code.number()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// In a process of its own, which is this test again.
    #[test]
    fn a_panic_of_any_thread_ends_the_process_with_its_code() {
        const PANICS: &str = "MILLRACE_TEST_PANICS";
        if std::env::var_os(PANICS).is_some() {
            end_on_panic();
            let _ = thread::spawn(|| panic!("as planned")).join();
            end(ExitCode::Clean);
        }
        let name = "exit::tests::a_panic_of_any_thread_ends_the_process_with_its_code";
        let mut command = Command::new(std::env::current_exe().unwrap());
        let command = command
            .env_remove("RUST_BACKTRACE")
            .args(["--exact", name, "--nocapture"]);
        let ended = command.env(PANICS, "1").output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(70), "{told}");
        assert!(told.contains("as planned"), "{told}");
        assert!(told.contains("this is a bug"), "{told}");
    }

    #[test]
    fn the_readme_lists_every_exit_code() {
        let readme = include_str!("../README.md");
        for code in ExitCode::ALL {
            let row = format!("| {} | ", code.number());
            assert!(readme.contains(&row), "{code:?}: no row `{row}`");
        }
    }

    #[test]
    fn codes_are_distinct_and_ascending() {
        let numbers: Vec<u8> = ExitCode::ALL.iter().map(|code| code.number()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b));
    }
}

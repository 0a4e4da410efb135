//! How the process ends: the one table of exit codes, and the errors that lead to them.

use std::net::SocketAddr;
use std::path::PathBuf;

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
    /// We are wrong: a thread of the broker died.
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

impl From<ExitCode> for std::process::ExitCode {
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
        error: std::io::Error,
    },
    /// A file.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The failure.
        error: std::io::Error,
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
                StorageError::Io { .. } => ExitCode::Io,
                StorageError::Poisoned { .. } => ExitCode::Poisoned,
            },
        }
    }

    /// Wraps what a file operation failed with.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { path, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

//! What can go wrong with the runner itself, and how a job fails.

use std::io;
use std::path::{Path, PathBuf};

use terrapool_protocol::job::FailureReason;

/// The runner cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// A folder of the sandbox is missing or not writable.
    #[error("the sandbox folder {} cannot be used", path.display())]
    Folder {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("the socket {} cannot be made: {source}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No runner answers on the socket.
    #[error("no runner listens on {}: {source}", path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refuses something that isolation needs.
    #[error("the kernel refuses to {what}: {source}")]
    Kernel {
        /// What was wanted.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Why a job failed, as the agent will hear it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Which step.
    pub reason: FailureReason,
    /// A sentence for people.
    pub message: String,
}

impl Failure {
    /// A failure of the given step.
    pub fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// An input or output error on one of the sandbox's volumes. A full disk is a limit, everything else is ours.
    pub fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        let reason = if full {
            FailureReason::Limit
        } else {
            FailureReason::Internal
        };
        Self::new(reason, format!("Cannot {what} {}: {error}", path.display()))
    }
}

/// Why a job does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Halt {
    /// A step failed.
    Failed(Failure),
    /// Somebody asked for the end.
    Stopped,
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

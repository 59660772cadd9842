//! Where a workspace's runs are executed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The execution mode of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutionMode {
    /// On the shared pool.
    Remote,
    /// On the machine of whoever runs the CLI; only the state is kept here.
    Local,
    /// On a pool of the organization.
    Agent,
}

impl ExecutionMode {
    /// The word in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Remote => "remote",
            Self::Local => "local",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Display for ExecutionMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A text that is no execution mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no execution mode: it has to be remote, local or agent")]
pub struct InvalidExecutionMode(pub String);

impl FromStr for ExecutionMode {
    type Err = InvalidExecutionMode;

    fn from_str(text: &str) -> Result<Self, InvalidExecutionMode> {
        match text {
            "remote" => Ok(Self::Remote),
            "local" => Ok(Self::Local),
            "agent" => Ok(Self::Agent),
            _ => Err(InvalidExecutionMode(text.chars().take(40).collect())),
        }
    }
}

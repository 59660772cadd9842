//! What people are shown of an agent. Leases do not depend on it.

use std::fmt;

use crate::time::Timestamp;
use crate::times::Times;

/// An agent's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AgentStatus {
    /// Connected, without a job.
    Idle,
    /// Connected, with a job.
    Busy,
    /// Silent for a moment.
    Unknown,
    /// Silent for long.
    Errored,
    /// Ended by itself.
    Exited,
}

impl AgentStatus {
    /// The status by the last ping and what the agent holds.
    pub fn of(last_ping: Timestamp, exited: bool, jobs: u64, now: Timestamp, times: &Times) -> Self {
        let silence = now - last_ping;
        if exited {
            Self::Exited
        } else if silence >= times.agent_errored {
            Self::Errored
        } else if silence >= times.agent_unknown {
            Self::Unknown
        } else if jobs > 0 {
            Self::Busy
        } else {
            Self::Idle
        }
    }

    /// Whether it counts as one of the pool's agents.
    pub fn is_counted(self) -> bool {
        match self {
            Self::Idle | Self::Busy | Self::Unknown => true,
            Self::Errored | Self::Exited => false,
        }
    }

    /// Whether it may be deleted.
    pub fn is_deletable(self) -> bool {
        match self {
            Self::Unknown | Self::Errored | Self::Exited => true,
            Self::Idle | Self::Busy => false,
        }
    }

    /// The API's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Unknown => "unknown",
            Self::Errored => "errored",
            Self::Exited => "exited",
        }
    }
}

impl fmt::Display for AgentStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_decides_what_is_shown() {
        let times = Times::default();
        let at = |seconds: i64, jobs| {
            AgentStatus::of(Timestamp(0), false, jobs, Timestamp(seconds * 1000), &times)
        };
        assert_eq!(at(1, 0), AgentStatus::Idle);
        assert_eq!(at(44, 1), AgentStatus::Busy);
        assert_eq!(at(45, 1), AgentStatus::Unknown);
        assert_eq!(at(300, 1), AgentStatus::Errored);
        assert_eq!(
            AgentStatus::of(Timestamp(0), true, 0, Timestamp(1), &times),
            AgentStatus::Exited
        );
    }
}

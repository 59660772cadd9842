//! The times of the protocol, with their defaults.

use serde::{Deserialize, Serialize};

use crate::job::Phase;
use crate::time::{Millis, Timestamp};

/// The times that bind leases, stops and locks. Pools may override some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    /// A sync is held open at most this long.
    pub hold: Millis,
    /// `F`: contacts reach the database at least this often.
    pub flush: Millis,
    /// `L` of a plan: silence after which the server gives it up.
    pub lease_plan: Millis,
    /// `L` of an apply: silence after which it is declared lost.
    pub lease_apply: Millis,
    /// `D` of a plan: the agent's own limit. `None` is never.
    pub contact_limit_plan: Option<Millis>,
    /// `D` of an apply: the agent's own limit. `None` is never.
    pub contact_limit_apply: Option<Millis>,
    /// `G` of a plan: first SIGINT to second SIGINT.
    pub grace_plan: Millis,
    /// `G` of an apply: first SIGINT to second SIGINT.
    pub grace_apply: Millis,
    /// `K`: second SIGINT to SIGKILL.
    pub kill_after: Millis,
    /// `W`: how long after its request a start grant may be used.
    pub start_window: Millis,
    /// `M`: margin for clocks and scheduling.
    pub margin: Millis,
    /// Between cancel and the first allowed force-cancel.
    pub cool_off: Millis,
    /// Silence after which an agent is shown as unknown.
    pub agent_unknown: Millis,
    /// Silence after which an agent is shown as errored.
    pub agent_errored: Millis,
    /// Silence after which an agent is removed.
    pub agent_removed: Millis,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            hold: Millis::from_seconds(25),
            flush: Millis::from_seconds(2),
            lease_plan: Millis::from_seconds(90),
            lease_apply: Millis::from_seconds(5 * 60),
            contact_limit_plan: Some(Millis::from_seconds(60)),
            contact_limit_apply: Some(Millis::from_seconds(30 * 60)),
            grace_plan: Millis::from_seconds(60),
            grace_apply: Millis::from_seconds(10 * 60),
            kill_after: Millis::from_seconds(10),
            start_window: Millis::from_seconds(20),
            margin: Millis::from_seconds(30),
            cool_off: Millis::from_seconds(60),
            agent_unknown: Millis::from_seconds(45),
            agent_errored: Millis::from_seconds(5 * 60),
            agent_removed: Millis::from_seconds(24 * 3600),
        }
    }
}

impl Times {
    /// `L` of a phase.
    pub fn lease(&self, phase: Phase) -> Millis {
        match phase {
            Phase::Plan => self.lease_plan,
            Phase::Apply => self.lease_apply,
        }
    }

    /// `D` of a phase; `None` is never.
    pub fn contact_limit(&self, phase: Phase) -> Option<Millis> {
        match phase {
            Phase::Plan => self.contact_limit_plan,
            Phase::Apply => self.contact_limit_apply,
        }
    }

    /// `G` of a phase.
    pub fn grace(&self, phase: Phase) -> Millis {
        match phase {
            Phase::Plan => self.grace_plan,
            Phase::Apply => self.grace_apply,
        }
    }

    /// From when on a job with this last contact may be given up.
    pub fn expires_at(&self, phase: Phase, last_contact: Timestamp) -> Timestamp {
        last_contact + self.flush + self.lease(phase)
    }

    /// From when on no engine of an apply with this last contact can be alive; `None` is never.
    pub fn safe_at(&self, last_contact: Timestamp) -> Option<Timestamp> {
        self.contact_limit_apply
            .map(|limit| last_contact + self.flush + limit + self.grace_apply + self.kill_after + self.margin)
    }
}

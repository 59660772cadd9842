//! A run and its statuses (protocol, section 3).

use crate::id::{RunId, StateVersionId};
use crate::job::{Phase, named};
use crate::time::Timestamp;
use crate::times::Times;

mod table;

pub use table::{End, RunEffect, RunEvent, transition};

named! {
    /// Where a run stands; the names are the API's.
    RunStatus {
        /// Waits for its workspace.
        Pending = "pending",
        /// Its plan waits for an agent.
        PlanQueued = "plan_queued",
        /// Its plan is being made.
        Planning = "planning",
        /// Waits for a person.
        Planned = "planned",
        /// Its plan can be applied later, as long as the state does not change.
        PlannedAndSaved = "planned_and_saved",
        /// There is nothing to apply, or it was plan-only.
        PlannedAndFinished = "planned_and_finished",
        /// Its apply waits for an agent, or for its start.
        ApplyQueued = "apply_queued",
        /// The start of its apply was granted.
        Applying = "applying",
        /// Applied.
        Applied = "applied",
        /// A person did not want it.
        Discarded = "discarded",
        /// Something failed.
        Errored = "errored",
        /// Canceled.
        Canceled = "canceled",
        /// Given up while its engine may have been alive.
        ForceCanceled = "force_canceled",
        /// A policy did not let it go on.
        PolicySoftFailed = "policy_soft_failed",
    }
}

impl RunStatus {
    /// Whether it never changes again.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Pending
            | Self::PlanQueued
            | Self::Planning
            | Self::Planned
            | Self::PlannedAndSaved
            | Self::ApplyQueued
            | Self::Applying => false,
            Self::PlannedAndFinished
            | Self::Applied
            | Self::Discarded
            | Self::Errored
            | Self::Canceled
            | Self::ForceCanceled
            | Self::PolicySoftFailed => true,
        }
    }

    /// The phase whose job is queued or held in this status.
    pub fn phase(self) -> Option<Phase> {
        match self {
            Self::PlanQueued | Self::Planning => Some(Phase::Plan),
            Self::ApplyQueued | Self::Applying => Some(Phase::Apply),
            Self::Pending
            | Self::Planned
            | Self::PlannedAndSaved
            | Self::PlannedAndFinished
            | Self::Applied
            | Self::Discarded
            | Self::Errored
            | Self::Canceled
            | Self::ForceCanceled
            | Self::PolicySoftFailed => None,
        }
    }

    /// Whether the log of a phase gets nothing more once the run stands here.
    pub fn has_ended(self, phase: Phase) -> bool {
        match phase {
            Phase::Apply => self.is_terminal(),
            Phase::Plan => match self {
                Self::Pending | Self::PlanQueued | Self::Planning => false,
                Self::Planned
                | Self::PlannedAndSaved
                | Self::PlannedAndFinished
                | Self::ApplyQueued
                | Self::Applying
                | Self::Applied
                | Self::Discarded
                | Self::Errored
                | Self::Canceled
                | Self::ForceCanceled
                | Self::PolicySoftFailed => true,
            },
        }
    }
}

named! {
    /// What was learnt of a run after its end.
    Aftermath {
        /// Nothing.
        None = "none",
        /// The attempt has delivered its end.
        Delivered = "delivered",
        /// A person unlocked the workspace while its engine may have been alive.
        Overridden = "overridden",
    }
}

named! {
    /// Why a run is errored.
    ErrorReason {
        /// The engine or a step before it failed; the message tells.
        Failed = "failed",
        /// The agent reports that the engine's end was not seen.
        EngineLost = "engine_lost",
        /// The agent fell silent.
        AgentLost = "agent_lost",
        /// Every try was given back or fell silent before anything started.
        NotStarted = "not_started",
        /// The database was restored from a backup.
        Restored = "restored",
    }
}

/// Which state a plan read, or is current.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateRef {
    /// The version.
    pub version: StateVersionId,
    /// Its serial, when the document can be read.
    pub serial: Option<u64>,
    /// Its lineage, when the document can be read.
    pub lineage: Option<String>,
    /// SHA-256 of the document, in hexadecimal, while it is known.
    pub sha256: Option<String>,
}

impl StateRef {
    /// Whether both name the same state: the same version, or the same document in two of them. Serial and lineage alone
    /// do not tell: two states that were pushed by hand may share both and say different things.
    pub fn is_same(one: Option<&Self>, other: Option<&Self>) -> bool {
        match (one, other) {
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
            (Some(one), Some(other)) => {
                one.version == other.version
                    || (one.sha256.is_some()
                        && one.sha256 == other.sha256
                        && one.serial == other.serial
                        && one.lineage == other.lineage)
            }
        }
    }
}

/// A run's row, as far as the protocol needs it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Where it stands.
    pub status: RunStatus,
    /// It never applies.
    pub plan_only: bool,
    /// Its plan is kept for later.
    pub save_plan: bool,
    /// It applies without being confirmed.
    pub auto_apply: bool,
    /// It may be applied without changes.
    pub allow_empty_apply: bool,
    /// The epoch at which it took the workspace's lock.
    pub lock_epoch: Option<u64>,
    /// Whether its plan has changes, once known.
    pub has_changes: Option<bool>,
    /// The state its plan read.
    pub plan_state: Option<StateRef>,
    /// Why it is errored.
    pub error: Option<ErrorReason>,
    /// What was learnt after its end.
    pub aftermath: Aftermath,
    /// When it was canceled first.
    pub cancel_asked_at: Option<Timestamp>,
    /// From when on it may be force-canceled.
    pub force_cancel_available_at: Option<Timestamp>,
}

impl Run {
    /// Whether it holds the workspace from its scheduling on.
    pub fn needs_lock(&self) -> bool {
        !self.plan_only && !self.save_plan
    }

    /// What people may do with it now.
    pub fn actions(&self, now: Timestamp) -> Actions {
        let forceable = match self.status {
            RunStatus::Planning | RunStatus::ApplyQueued | RunStatus::Applying => true,
            RunStatus::Pending
            | RunStatus::PlanQueued
            | RunStatus::Planned
            | RunStatus::PlannedAndSaved
            | RunStatus::PlannedAndFinished
            | RunStatus::Applied
            | RunStatus::Discarded
            | RunStatus::Errored
            | RunStatus::Canceled
            | RunStatus::ForceCanceled
            | RunStatus::PolicySoftFailed => false,
        };
        let cancelable = match self.status {
            RunStatus::Pending
            | RunStatus::PlanQueued
            | RunStatus::Planning
            | RunStatus::ApplyQueued
            | RunStatus::Applying => self.cancel_asked_at.is_none(),
            RunStatus::Planned
            | RunStatus::PlannedAndSaved
            | RunStatus::PlannedAndFinished
            | RunStatus::Applied
            | RunStatus::Discarded
            | RunStatus::Errored
            | RunStatus::Canceled
            | RunStatus::ForceCanceled
            | RunStatus::PolicySoftFailed => false,
        };
        let (confirmable, discardable) = match self.status {
            RunStatus::Planned | RunStatus::PlannedAndSaved => (true, true),
            RunStatus::Pending => (false, true),
            RunStatus::PlanQueued
            | RunStatus::Planning
            | RunStatus::PlannedAndFinished
            | RunStatus::ApplyQueued
            | RunStatus::Applying
            | RunStatus::Applied
            | RunStatus::Discarded
            | RunStatus::Errored
            | RunStatus::Canceled
            | RunStatus::ForceCanceled
            | RunStatus::PolicySoftFailed => (false, false),
        };
        Actions {
            is_cancelable: cancelable,
            is_confirmable: confirmable,
            is_discardable: discardable,
            is_force_cancelable: forceable
                && self.cancel_asked_at.is_some()
                && self.force_cancel_available_at.is_some_and(|at| now >= at),
        }
    }

    fn with(&self, status: RunStatus) -> Self {
        Self {
            status,
            ..self.clone()
        }
    }

    fn errored(&self, reason: ErrorReason) -> Self {
        Self {
            error: Some(reason),
            ..self.with(RunStatus::Errored)
        }
    }

    fn asked(&self, status: RunStatus, now: Timestamp, times: &Times) -> Self {
        Self {
            cancel_asked_at: self.cancel_asked_at.or(Some(now)),
            force_cancel_available_at: self.force_cancel_available_at.or(Some(now + times.cool_off)),
            ..self.with(status)
        }
    }
}

/// What people may do with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the API's four flags, each for itself"
)]
pub struct Actions {
    /// Cancel it.
    pub is_cancelable: bool,
    /// Confirm its plan.
    pub is_confirmable: bool,
    /// Discard it.
    pub is_discardable: bool,
    /// Force-cancel it.
    pub is_force_cancelable: bool,
}

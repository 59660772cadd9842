//! Rows, events and outcomes of the joint transition.

use crate::id::{AgentId, AttemptId};
use crate::job::{Job, JobResult, Phase};
use crate::lock::Workspace;
use crate::run::{End, Run, StateRef};
use crate::time::Timestamp;

/// The rows that an event may change together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rows {
    /// The workspace.
    pub workspace: Workspace,
    /// The run.
    pub run: Run,
    /// Its plan job, once there is one.
    pub plan: Option<Job>,
    /// Its apply job, once there is one.
    pub apply: Option<Job>,
}

impl Rows {
    /// The job of a phase.
    pub fn job(&self, phase: Phase) -> Option<&Job> {
        match phase {
            Phase::Plan => self.plan.as_ref(),
            Phase::Apply => self.apply.as_ref(),
        }
    }

    pub(super) fn set_job(&mut self, job: Job) {
        match job.phase {
            Phase::Plan => self.plan = Some(job),
            Phase::Apply => self.apply = Some(job),
        }
    }
}

/// An event on a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is the run's turn.
    Schedule,
    /// A person confirms the plan; `current` is the current state.
    Confirm {
        /// The current state.
        current: Option<StateRef>,
    },
    /// A person discards the run.
    Discard,
    /// A person cancels the run.
    Cancel,
    /// A person gives the run up.
    ForceCancel,
    /// An attempt claims a job.
    Claim(Claim),
    /// An apply's attempt asks for the start grant.
    Start {
        /// The assignment.
        generation: u64,
        /// The attempt.
        attempt: AttemptId,
    },
    /// An attempt was heard.
    Contact {
        /// Which job.
        phase: Phase,
        /// The assignment.
        generation: u64,
        /// The attempt.
        attempt: AttemptId,
        /// When.
        at: Timestamp,
    },
    /// An attempt reports its end; log, state and artifacts have arrived.
    Finish {
        /// Which job.
        phase: Phase,
        /// The assignment.
        generation: u64,
        /// The attempt.
        attempt: AttemptId,
        /// How it ended.
        end: End,
    },
    /// An attempt gives its assignment back: nothing was started.
    NeverStarted {
        /// Which job.
        phase: Phase,
        /// The assignment.
        generation: u64,
        /// The attempt.
        attempt: AttemptId,
    },
    /// The server looks whether a lease has ended.
    Expire {
        /// Which job.
        phase: Phase,
    },
    /// A newer session of the agent does not name the job.
    NotReported {
        /// Which job.
        phase: Phase,
        /// The newer session.
        session: u64,
    },
    /// An administrator unlocks the workspace although the lost apply may be running.
    ForceUnlock {
        /// The attempt that the request names.
        acknowledge: Option<AttemptId>,
    },
    /// The agent is cut off: its attempt is to stop now, whatever the run wants.
    CutOff {
        /// Which job.
        phase: Phase,
    },
    /// The database was restored from a backup.
    Restored,
}

/// An attempt's claim, with what the caller knows of its agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Which job.
    pub phase: Phase,
    /// The generation in the offer.
    pub generation_seen: u64,
    /// The attempt.
    pub attempt: AttemptId,
    /// The agent.
    pub agent: AgentId,
    /// Its session.
    pub session: u64,
    /// Whether that is its newest session.
    pub session_is_newest: bool,
    /// Whether the agent belongs to this incarnation.
    pub incarnation_is_equal: bool,
    /// Whether the agent is in the job's pool, and the pool still allowed for the workspace and giving
    /// something new to this agent.
    pub pool_is_allowed: bool,
    /// The current state, which the job will read.
    pub current: Option<StateRef>,
}

/// What else has to happen in the same transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// A job became ready: its pool wants to know.
    JobQueued(Phase),
    /// What its agent is told has changed.
    AgentTold(Phase),
    /// The lock became free: another run may be scheduled.
    LockFreed,
    /// The newest state copy of the apply job becomes the current state.
    SnapshotCurrent,
    /// A phase's log ends.
    LogEnded(Phase),
    /// A phase's log goes on with another attempt.
    LogRetried(Phase),
    /// The run has ended.
    RunEnded,
    /// A person overrode the quarantine of a lost apply.
    Overridden,
}

/// What an event did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The rows afterwards.
    pub rows: Rows,
    /// What else has to happen.
    pub effects: Vec<Effect>,
    /// What it did to the job it speaks of.
    pub job: Option<JobResult>,
}

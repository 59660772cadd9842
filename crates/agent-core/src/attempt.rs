//! One try at one job.
//!
//! The table of the protocol's section 6: states, the events that move them, and what has to be done. Actions are
//! carried out in order; [`Action::Journal`] has to be durable before the next one begins.

mod restart;
mod table;

pub use restart::{Found, restart};
pub use table::step;

use serde::{Deserialize, Serialize};
use terrapool_model::id::{AttemptId, JobId};
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{AttemptKey, AttemptReport, AttemptStage, Verdict};
use terrapool_protocol::job::{JobTimes, Outcome, Phase};
use terrapool_protocol::runner::{StopKind, StopReason};

/// Milliseconds of `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Boottime(pub u64);

impl Boottime {
    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

/// Where an attempt stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Minted and journaled; the claim is on its way.
    Claiming,
    /// The job is this attempt's; its sandbox is being made and the job is handed to it.
    Claimed,
    /// The runner has the job and prepares it: it unpacks, and runs `init`. What it prints belongs to the job's log.
    Preparing,
    /// An apply that asked for its start grant.
    Starting {
        /// When the request was sent.
        sent: Boottime,
    },
    /// The engine phase runs.
    Running,
    /// The runner was told to stop; the engine phase may run.
    Stopping {
        /// How far the stop sequence was escalated.
        kind: StopKind,
        /// Why. It decides what an end before the engine's start means: canceled, or given back.
        reason: StopReason,
    },
    /// Nothing was started; the assignment is being given back.
    Returning {
        /// Why, for people.
        message: String,
    },
    /// The end is known; log, state and artifacts are being delivered.
    Delivering {
        /// How it ended.
        outcome: Outcome,
    },
    /// Given up before it was an assignment.
    Dropped,
    /// Over: sandbox and volumes can go.
    Done,
}

/// One try at one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The job.
    pub job: JobId,
    /// Generation of the assignment; of the offer, as long as it is not claimed.
    pub generation: u64,
    /// This try.
    pub attempt: AttemptId,
    /// The job's phase.
    pub phase: Phase,
    /// Incarnation of the control plane that offered it.
    pub incarnation: u64,
    /// When the last answered sync that named this attempt was sent (or, before one did, the claim).
    pub contact: Boottime,
    /// Its times, once claimed.
    pub times: Option<JobTimes>,
    /// Where it stands.
    pub state: State,
}

/// What happened to an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The claim was answered: the job is ours.
    ClaimAccepted {
        /// Generation of the assignment.
        generation: u64,
        /// When the claim was sent.
        sent: Boottime,
        /// Times of the assignment.
        times: JobTimes,
    },
    /// The claim was refused, or not answered in time.
    ClaimFailed,
    /// No sandbox could be made, or it did not take the job.
    SandboxFailed {
        /// Why, for people.
        message: String,
    },
    /// The runner was given the job.
    HandedOver,
    /// The sandbox is ready, the engine verified, `init` done.
    Prepared,
    /// The start grant was answered.
    Granted,
    /// The start was refused, or not answered within its window.
    StartFailed {
        /// Why, for people.
        message: String,
    },
    /// The runner wrote its marker and executes the engine phase.
    EngineStarted,
    /// The runner reported the job's end.
    Ended {
        /// How.
        outcome: Outcome,
        /// Whether the runner's marker exists, that is, whether the engine phase was executed.
        marker: bool,
    },
    /// The sandbox is gone without a report.
    SandboxVanished {
        /// Whether the runner's marker exists on the job volume.
        marker: bool,
    },
    /// A sync that was sent then named this attempt and was answered.
    Verdict {
        /// When the sync was sent.
        sent: Boottime,
        /// What it said.
        verdict: Verdict,
    },
    /// Time has passed.
    Tick,
    /// The agent wants to end: stop gracefully.
    AgentEnds,
    /// The end was delivered and answered.
    FinishAnswered,
}

/// What has to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Append to the journal and make it durable.
    Journal,
    /// Fetch the bundle and prepare the sandbox.
    Prepare,
    /// Ask for the start grant.
    SendStart,
    /// Tell the runner to execute the apply.
    Go,
    /// Tell the runner to stop the engine.
    Stop {
        /// How.
        kind: StopKind,
        /// Why.
        reason: StopReason,
    },
    /// Tell the runner how long the engine may go on without another contact.
    Renew {
        /// `None` is for ever.
        remaining: Option<Millis>,
    },
    /// Deliver log, state and artifacts, then report this end until it is answered.
    Finish {
        /// The end.
        outcome: Outcome,
    },
    /// Remove the sandbox and its volumes.
    Remove,
}

/// An event that this state does not expect. Nothing changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("attempt {attempt} does not expect {event} now")]
pub struct Unexpected {
    /// The attempt.
    pub attempt: AttemptId,
    /// Name of the event.
    pub event: &'static str,
}

impl Attempt {
    /// A new try at an offered job. It has to be journaled before its claim is sent.
    pub fn new(
        job: JobId,
        generation: u64,
        attempt: AttemptId,
        phase: Phase,
        incarnation: u64,
        now: Boottime,
    ) -> Self {
        Self {
            job,
            generation,
            attempt,
            phase,
            incarnation,
            contact: now,
            times: None,
            state: State::Claiming,
        }
    }

    /// The key in messages.
    pub fn key(&self) -> AttemptKey {
        AttemptKey {
            job: self.job.clone(),
            generation: self.generation,
            attempt: self.attempt.clone(),
        }
    }

    /// Whether a slot is held for it.
    pub fn holds_slot(&self) -> bool {
        match self.state {
            State::Claiming
            | State::Claimed
            | State::Preparing
            | State::Starting { .. }
            | State::Running
            | State::Stopping { .. } => true,
            State::Returning { .. } | State::Delivering { .. } | State::Dropped | State::Done => false,
        }
    }

    /// The line in a sync; `None` when the control plane need not hear of it (any more).
    pub fn report(&self) -> Option<AttemptReport> {
        let stage = match self.state {
            State::Claimed | State::Preparing | State::Starting { .. } => AttemptStage::Preparing,
            State::Running => AttemptStage::Running,
            State::Stopping { .. } => AttemptStage::Stopping,
            State::Returning { .. } => AttemptStage::Returning,
            State::Delivering { .. } => AttemptStage::Delivering,
            State::Claiming | State::Dropped | State::Done => return None,
        };
        Some(AttemptReport {
            key: self.key(),
            phase: self.phase,
            stage,
            incarnation: self.incarnation,
        })
    }

    /// What is left of the contact limit `D`: zero when it has passed, `None` when there is no limit.
    pub fn remaining_contact(&self, now: Boottime) -> Option<Millis> {
        let limit = self.times?.contact_limit?;
        Some(Millis(limit.0.saturating_sub(now.since(self.contact).0)))
    }

    fn unexpected(&self, event: &'static str) -> Unexpected {
        Unexpected {
            attempt: self.attempt.clone(),
            event,
        }
    }

    fn runner_works(&self) -> bool {
        match self.state {
            State::Preparing | State::Starting { .. } | State::Running | State::Stopping { .. } => true,
            State::Claiming
            | State::Claimed
            | State::Returning { .. }
            | State::Delivering { .. }
            | State::Dropped
            | State::Done => false,
        }
    }
}

#[cfg(test)]
mod tests;

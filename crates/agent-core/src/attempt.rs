//! One try at one job.
//!
//! The table of the protocol's section 6: states, the events that move them, and what has to be done. Actions are
//! carried out in order; [`Action::Journal`] has to be durable before the next one begins.

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
    /// The job is this attempt's; its sandbox is being prepared.
    Claimed,
    /// An apply that asked for its start grant.
    Starting {
        /// When the request was sent.
        sent: Boottime,
    },
    /// The engine phase runs.
    Running,
    /// The engine phase runs and was told to stop.
    Stopping {
        /// How far the stop sequence was escalated.
        kind: StopKind,
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
    /// No sandbox could be made.
    SandboxFailed {
        /// Why, for people.
        message: String,
    },
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
            | State::Starting { .. }
            | State::Running
            | State::Stopping { .. } => true,
            State::Returning { .. } | State::Delivering { .. } | State::Dropped | State::Done => false,
        }
    }

    /// The line in a sync; `None` when the control plane need not hear of it (any more).
    pub fn report(&self) -> Option<AttemptReport> {
        let stage = match self.state {
            State::Claimed | State::Starting { .. } => AttemptStage::Preparing,
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

    fn to(&self, state: State, actions: Vec<Action>) -> (Self, Vec<Action>) {
        (
            Self {
                state,
                ..self.clone()
            },
            actions,
        )
    }

    fn returning(&self, message: &str) -> (Self, Vec<Action>) {
        let message = message.to_owned();
        let outcome = Outcome::NeverStarted {
            message: message.clone(),
        };
        self.to(
            State::Returning { message },
            vec![Action::Journal, Action::Finish { outcome }],
        )
    }

    fn delivering(&self, outcome: Outcome) -> (Self, Vec<Action>) {
        self.to(
            State::Delivering {
                outcome: outcome.clone(),
            },
            vec![Action::Journal, Action::Finish { outcome }],
        )
    }

    fn done(&self) -> (Self, Vec<Action>) {
        self.to(State::Done, vec![Action::Journal, Action::Remove])
    }

    /// Stops what runs, or escalates a stop that is under way; gives back what has not started.
    fn stop(&self, kind: StopKind, reason: StopReason) -> (Self, Vec<Action>) {
        match &self.state {
            State::Claimed => self.returning("stopped before the engine was started"),
            // The grant may be under way: the runner decides by its marker whether anything was started.
            State::Starting { .. } | State::Running => {
                self.to(State::Stopping { kind }, vec![Action::Stop { kind, reason }])
            }
            State::Stopping {
                kind: StopKind::Cancel,
            } if kind == StopKind::Kill => {
                self.to(State::Stopping { kind }, vec![Action::Stop { kind, reason }])
            }
            State::Stopping { .. }
            | State::Claiming
            | State::Returning { .. }
            | State::Delivering { .. }
            | State::Dropped
            | State::Done => self.to(self.state.clone(), Vec::new()),
        }
    }

    fn engine_runs(&self) -> bool {
        match self.state {
            State::Starting { .. } | State::Running | State::Stopping { .. } => true,
            State::Claiming
            | State::Claimed
            | State::Returning { .. }
            | State::Delivering { .. }
            | State::Dropped
            | State::Done => false,
        }
    }
}

/// Moves an attempt.
///
/// # Errors
/// [`Unexpected`] when the state does not know the event; the attempt is unchanged.
pub fn step(attempt: &Attempt, event: Event, now: Boottime) -> Result<(Attempt, Vec<Action>), Unexpected> {
    match event {
        Event::ClaimAccepted {
            generation,
            sent,
            times,
        } => match attempt.state {
            State::Claiming => {
                let claimed = Attempt {
                    generation,
                    contact: sent,
                    times: Some(times),
                    ..attempt.clone()
                };
                Ok(claimed.to(State::Claimed, vec![Action::Journal, Action::Prepare]))
            }
            _ => Err(attempt.unexpected("claim accepted")),
        },
        Event::ClaimFailed => match attempt.state {
            State::Claiming => Ok(attempt.to(State::Dropped, vec![Action::Journal, Action::Remove])),
            _ => Err(attempt.unexpected("claim failed")),
        },
        Event::SandboxFailed { message } => match attempt.state {
            State::Claimed => Ok(attempt.returning(&message)),
            _ => Err(attempt.unexpected("sandbox failed")),
        },
        Event::Prepared => match (&attempt.state, attempt.phase) {
            (State::Claimed, Phase::Plan) => Ok(attempt.to(State::Running, vec![Action::Journal])),
            (State::Claimed, Phase::Apply) => Ok(attempt.to(
                State::Starting { sent: now },
                vec![Action::Journal, Action::SendStart],
            )),
            _ => Err(attempt.unexpected("prepared")),
        },
        Event::Granted => granted(attempt, now),
        Event::StartFailed { message } => match attempt.state {
            State::Starting { .. } => Ok(attempt.returning(&message)),
            State::Stopping { .. } => Ok(attempt.to(attempt.state.clone(), Vec::new())),
            _ => Err(attempt.unexpected("start failed")),
        },
        Event::EngineStarted => match attempt.state {
            State::Claimed | State::Starting { .. } => Ok(attempt.to(State::Running, vec![Action::Journal])),
            State::Running | State::Stopping { .. } => Ok(attempt.to(attempt.state.clone(), Vec::new())),
            _ => Err(attempt.unexpected("engine started")),
        },
        Event::Ended { outcome, marker } => ended(attempt, outcome, marker),
        Event::SandboxVanished { marker } => vanished(attempt, marker),
        Event::Verdict { sent, verdict } => Ok(verdict_of(attempt, sent, verdict, now)),
        Event::Tick => Ok(tick(attempt, now)),
        Event::AgentEnds => Ok(attempt.stop(StopKind::Cancel, StopReason::AgentEnds)),
        Event::FinishAnswered => match attempt.state {
            State::Returning { .. } | State::Delivering { .. } => Ok(attempt.done()),
            _ => Err(attempt.unexpected("finish answered")),
        },
    }
}

/// A start grant may be used only within its window, counted from the sending of its request: after that the control
/// plane may have given the job to another attempt.
fn granted(attempt: &Attempt, now: Boottime) -> Result<(Attempt, Vec<Action>), Unexpected> {
    match attempt.state {
        State::Starting { sent } => {
            let window = attempt.times.map_or(Millis::ZERO, |times| times.start_window);
            if now.since(sent) < window {
                // The grant counts as a contact.
                let granted = Attempt {
                    contact: sent,
                    ..attempt.clone()
                };
                let remaining = granted.remaining_contact(now);
                Ok(granted.to(
                    State::Running,
                    vec![Action::Journal, Action::Renew { remaining }, Action::Go],
                ))
            } else {
                Ok(attempt.returning("the start grant came too late to be used"))
            }
        }
        // Told to stop while the grant was on its way: it is not used.
        State::Stopping { .. } => Ok(attempt.to(attempt.state.clone(), Vec::new())),
        _ => Err(attempt.unexpected("granted")),
    }
}

fn ended(attempt: &Attempt, outcome: Outcome, marker: bool) -> Result<(Attempt, Vec<Action>), Unexpected> {
    match attempt.state {
        State::Claimed | State::Starting { .. } | State::Running | State::Stopping { .. } => {
            if !marker && outcome == Outcome::Canceled {
                return Ok(attempt.returning("stopped before the engine was started"));
            }
            Ok(attempt.delivering(outcome))
        }
        State::Returning { .. } | State::Delivering { .. } => {
            Ok(attempt.to(attempt.state.clone(), Vec::new()))
        }
        State::Claiming | State::Dropped | State::Done => Err(attempt.unexpected("ended")),
    }
}

fn vanished(attempt: &Attempt, marker: bool) -> Result<(Attempt, Vec<Action>), Unexpected> {
    match attempt.state {
        State::Claimed | State::Starting { .. } | State::Running | State::Stopping { .. } => {
            if marker {
                let message = "the sandbox went away while the engine ran".to_owned();
                Ok(attempt.delivering(Outcome::EngineLost { message }))
            } else {
                Ok(attempt.returning("the sandbox went away before the engine was started"))
            }
        }
        State::Returning { .. } | State::Delivering { .. } | State::Dropped | State::Done => {
            Ok(attempt.to(attempt.state.clone(), Vec::new()))
        }
        State::Claiming => Err(attempt.unexpected("sandbox vanished")),
    }
}

fn verdict_of(attempt: &Attempt, sent: Boottime, verdict: Verdict, now: Boottime) -> (Attempt, Vec<Action>) {
    let renewed = Attempt {
        contact: attempt.contact.max(sent),
        ..attempt.clone()
    };
    let renew = |attempt: &Attempt| {
        if attempt.engine_runs() {
            vec![Action::Renew {
                remaining: attempt.remaining_contact(now),
            }]
        } else {
            Vec::new()
        }
    };
    match verdict {
        Verdict::Keep => (renewed.clone(), renew(&renewed)),
        Verdict::Cancel | Verdict::Kill => {
            let kind = if verdict == Verdict::Kill {
                StopKind::Kill
            } else {
                StopKind::Cancel
            };
            let mut actions = renew(&renewed);
            let (stopped, stop) = renewed.stop(kind, StopReason::Canceled);
            actions.extend(stop);
            (stopped, actions)
        }
        Verdict::Deliver => (renewed, Vec::new()),
        Verdict::Forget => match attempt.state {
            State::Returning { .. } | State::Delivering { .. } => attempt.done(),
            // Told to forget what still runs: end it first, what it leaves is delivered.
            State::Claimed => attempt.done(),
            State::Starting { .. } | State::Running | State::Stopping { .. } => {
                attempt.stop(StopKind::Kill, StopReason::Canceled)
            }
            State::Claiming | State::Dropped | State::Done => (attempt.clone(), Vec::new()),
        },
        Verdict::Surrender { kill } => match attempt.state {
            State::Claimed => attempt.done(),
            State::Starting { .. } | State::Running | State::Stopping { .. } if kill => {
                attempt.stop(StopKind::Cancel, StopReason::Canceled)
            }
            State::Returning { .. } => attempt.done(),
            State::Starting { .. }
            | State::Running
            | State::Stopping { .. }
            | State::Delivering { .. }
            | State::Claiming
            | State::Dropped
            | State::Done => (attempt.clone(), Vec::new()),
        },
    }
}

fn tick(attempt: &Attempt, now: Boottime) -> (Attempt, Vec<Action>) {
    if let State::Starting { sent } = attempt.state
        && attempt
            .times
            .is_some_and(|times| now.since(sent) >= times.start_window)
    {
        return attempt.returning("no start grant came in time");
    }
    match attempt.remaining_contact(now) {
        Some(Millis::ZERO) => attempt.stop(StopKind::Cancel, StopReason::LostContact),
        _ => (attempt.clone(), Vec::new()),
    }
}

#[cfg(test)]
mod tests;

//! The attempt table.

use terrapool_model::time::Millis;
use terrapool_protocol::agent::Verdict;
use terrapool_protocol::job::{Outcome, Phase};
use terrapool_protocol::runner::{StopKind, StopReason};

use super::{Action, Attempt, Boottime, Event, State, Unexpected};

pub(super) type Next = (Attempt, Vec<Action>);

/// Moves an attempt.
///
/// # Errors
/// [`Unexpected`] when the state does not know the event; the attempt is unchanged.
pub fn step(attempt: &Attempt, event: Event, now: Boottime) -> Result<Next, Unexpected> {
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
            State::Claimed
            | State::Preparing
            | State::Starting { .. }
            | State::Running
            | State::Stopping { .. }
            | State::Returning { .. }
            | State::Delivering { .. }
            | State::Dropped
            | State::Done => Err(attempt.unexpected("claim accepted")),
        },
        Event::ClaimFailed => match attempt.state {
            State::Claiming => Ok(attempt.to(State::Dropped, vec![Action::Journal, Action::Remove])),
            State::Claimed
            | State::Preparing
            | State::Starting { .. }
            | State::Running
            | State::Stopping { .. }
            | State::Returning { .. }
            | State::Delivering { .. }
            | State::Dropped
            | State::Done => Err(attempt.unexpected("claim failed")),
        },
        Event::SandboxFailed { message } => match attempt.state {
            State::Claimed => Ok(attempt.returning(&message)),
            State::Claiming
            | State::Preparing
            | State::Starting { .. }
            | State::Running
            | State::Stopping { .. }
            | State::Returning { .. }
            | State::Delivering { .. }
            | State::Dropped
            | State::Done => Err(attempt.unexpected("sandbox failed")),
        },
        Event::HandedOver => match attempt.state {
            State::Claimed => Ok(attempt.to(State::Preparing, Vec::new())),
            // Given back while it was handed over: nobody waits for what the runner would do.
            State::Returning { .. } => {
                let stop = Action::Stop {
                    kind: StopKind::Kill,
                    reason: StopReason::Canceled,
                };
                Ok(attempt.to(attempt.state.clone(), vec![stop]))
            }
            State::Claiming
            | State::Preparing
            | State::Starting { .. }
            | State::Running
            | State::Stopping { .. }
            | State::Delivering { .. }
            | State::Dropped
            | State::Done => Err(attempt.unexpected("handed over")),
        },
        Event::Prepared => match (&attempt.state, attempt.phase) {
            (State::Preparing, Phase::Plan) => Ok(attempt.to(State::Running, vec![Action::Journal])),
            (State::Preparing, Phase::Apply) => Ok(attempt.to(
                State::Starting { sent: now },
                vec![Action::Journal, Action::SendStart],
            )),
            (
                State::Claiming
                | State::Claimed
                | State::Starting { .. }
                | State::Running
                | State::Stopping { .. }
                | State::Returning { .. }
                | State::Delivering { .. }
                | State::Dropped
                | State::Done,
                Phase::Plan | Phase::Apply,
            ) => Err(attempt.unexpected("prepared")),
        },
        Event::Granted => granted(attempt, now),
        Event::StartFailed { message } => match attempt.state {
            State::Starting { .. } => Ok(attempt.returning(&message)),
            // Told to stop meanwhile: the runner's end is awaited.
            State::Stopping { .. } => Ok(attempt.unchanged()),
            State::Claiming
            | State::Claimed
            | State::Preparing
            | State::Running
            | State::Returning { .. }
            | State::Delivering { .. }
            | State::Dropped
            | State::Done => Err(attempt.unexpected("start failed")),
        },
        Event::EngineStarted => match attempt.state {
            State::Preparing | State::Starting { .. } => {
                Ok(attempt.to(State::Running, vec![Action::Journal]))
            }
            State::Running | State::Stopping { .. } => Ok(attempt.unchanged()),
            State::Claiming
            | State::Claimed
            | State::Returning { .. }
            | State::Delivering { .. }
            | State::Dropped
            | State::Done => Err(attempt.unexpected("engine started")),
        },
        Event::Ended { outcome, marker } => ended(attempt, outcome, marker),
        Event::SandboxVanished { marker } => vanished(attempt, marker),
        Event::Verdict { sent, verdict } => Ok(heard(attempt, sent, verdict, now)),
        Event::Tick => Ok(tick(attempt, now)),
        Event::AgentEnds => Ok(attempt.stop(StopKind::Cancel, StopReason::AgentEnds)),
        Event::FinishAnswered => match attempt.state {
            State::Returning { .. } | State::Delivering { .. } => Ok(attempt.done()),
            State::Claiming
            | State::Claimed
            | State::Preparing
            | State::Starting { .. }
            | State::Running
            | State::Stopping { .. }
            | State::Dropped
            | State::Done => Err(attempt.unexpected("finish answered")),
        },
    }
}

/// A start grant may be used only within its window, counted from the sending of its request: after that the control
/// plane may have given the job to another attempt.
fn granted(attempt: &Attempt, now: Boottime) -> Result<Next, Unexpected> {
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
        State::Stopping { .. } => Ok(attempt.unchanged()),
        State::Claiming
        | State::Claimed
        | State::Preparing
        | State::Running
        | State::Returning { .. }
        | State::Delivering { .. }
        | State::Dropped
        | State::Done => Err(attempt.unexpected("granted")),
    }
}

fn ended(attempt: &Attempt, outcome: Outcome, marker: bool) -> Result<Next, Unexpected> {
    let nothing_started = !marker && outcome == Outcome::Canceled;
    match attempt.state {
        // What a person stopped has ended, and what it printed is delivered; what only this host stopped can be done
        // elsewhere.
        State::Stopping {
            reason: StopReason::Canceled,
            ..
        } => Ok(attempt.delivering(outcome)),
        State::Claimed
        | State::Preparing
        | State::Starting { .. }
        | State::Running
        | State::Stopping {
            reason: StopReason::LostContact | StopReason::AgentEnds,
            ..
        } => {
            if nothing_started {
                Ok(attempt.returning("stopped before the engine was started"))
            } else {
                Ok(attempt.delivering(outcome))
            }
        }
        State::Returning { .. } | State::Delivering { .. } => Ok(attempt.unchanged()),
        State::Claiming | State::Dropped | State::Done => Err(attempt.unexpected("ended")),
    }
}

fn vanished(attempt: &Attempt, marker: bool) -> Result<Next, Unexpected> {
    match attempt.state {
        State::Claimed
        | State::Preparing
        | State::Starting { .. }
        | State::Running
        | State::Stopping { .. }
            if marker =>
        {
            let message = "the sandbox went away while the engine ran".to_owned();
            Ok(attempt.delivering(Outcome::EngineLost { message }))
        }
        State::Stopping {
            reason: StopReason::Canceled,
            ..
        } => Ok(attempt.delivering(Outcome::Canceled)),
        State::Claimed
        | State::Preparing
        | State::Starting { .. }
        | State::Running
        | State::Stopping {
            reason: StopReason::LostContact | StopReason::AgentEnds,
            ..
        } => Ok(attempt.returning("the sandbox went away before the engine was started")),
        State::Returning { .. } | State::Delivering { .. } | State::Dropped | State::Done => {
            Ok(attempt.unchanged())
        }
        State::Claiming => Err(attempt.unexpected("sandbox vanished")),
    }
}

fn heard(attempt: &Attempt, sent: Boottime, verdict: Verdict, now: Boottime) -> Next {
    let renewed = Attempt {
        contact: attempt.contact.max(sent),
        ..attempt.clone()
    };
    let renew = || {
        if renewed.runner_works() {
            vec![Action::Renew {
                remaining: renewed.remaining_contact(now),
            }]
        } else {
            Vec::new()
        }
    };
    let stopped = |kind| {
        let mut actions = renew();
        let (next, stop) = renewed.stop(kind, StopReason::Canceled);
        actions.extend(stop);
        (next, actions)
    };
    match verdict {
        Verdict::Keep => (renewed.clone(), renew()),
        Verdict::Cancel => stopped(StopKind::Cancel),
        Verdict::Kill => stopped(StopKind::Kill),
        Verdict::Deliver => (renewed, Vec::new()),
        Verdict::Forget => match attempt.state {
            State::Claimed | State::Returning { .. } => attempt.done(),
            // What it printed is still to be delivered, whatever the control plane thinks of the assignment.
            State::Preparing | State::Starting { .. } | State::Running | State::Stopping { .. } => {
                attempt.stop(StopKind::Kill, StopReason::Canceled)
            }
            // The delivery's own end tells that everything has arrived.
            State::Delivering { .. } => attempt.unchanged(),
            State::Claiming | State::Dropped | State::Done => attempt.unchanged(),
        },
        Verdict::Surrender { kill } => match attempt.state {
            State::Claimed | State::Returning { .. } => attempt.done(),
            // Nothing has started, and a grant of another history would be worth nothing.
            State::Preparing | State::Starting { .. } => attempt.stop(StopKind::Kill, StopReason::Canceled),
            State::Running | State::Stopping { .. } if kill => {
                attempt.stop(StopKind::Cancel, StopReason::Canceled)
            }
            State::Running
            | State::Stopping { .. }
            | State::Delivering { .. }
            | State::Claiming
            | State::Dropped
            | State::Done => attempt.unchanged(),
        },
    }
}

fn tick(attempt: &Attempt, now: Boottime) -> Next {
    if let State::Starting { sent } = attempt.state
        && attempt
            .times
            .is_some_and(|times| now.since(sent) >= times.start_window)
    {
        return attempt.returning("no start grant came in time");
    }
    match attempt.remaining_contact(now) {
        Some(Millis::ZERO) => attempt.stop(StopKind::Cancel, StopReason::LostContact),
        Some(_) | None => attempt.unchanged(),
    }
}

impl Attempt {
    pub(super) fn to(&self, state: State, actions: Vec<Action>) -> Next {
        (
            Self {
                state,
                ..self.clone()
            },
            actions,
        )
    }

    pub(super) fn unchanged(&self) -> Next {
        (self.clone(), Vec::new())
    }

    pub(super) fn returning(&self, message: &str) -> Next {
        let message = message.to_owned();
        let outcome = Outcome::NeverStarted {
            message: message.clone(),
        };
        self.to(
            State::Returning { message },
            vec![Action::Journal, Action::Finish { outcome }],
        )
    }

    fn delivering(&self, outcome: Outcome) -> Next {
        self.to(
            State::Delivering {
                outcome: outcome.clone(),
            },
            vec![Action::Journal, Action::Finish { outcome }],
        )
    }

    fn done(&self) -> Next {
        self.to(State::Done, vec![Action::Journal, Action::Remove])
    }

    /// Stops what the runner does, or escalates a stop that is under way; gives back what no runner has.
    fn stop(&self, kind: StopKind, reason: StopReason) -> Next {
        match &self.state {
            State::Claimed => self.returning("stopped before the engine was started"),
            // A grant may be under way: the runner tells by its marker whether anything was started.
            State::Preparing | State::Starting { .. } | State::Running => self.to(
                State::Stopping { kind, reason },
                vec![Action::Stop { kind, reason }],
            ),
            State::Stopping {
                kind: so_far,
                reason: first,
            } => {
                let next = State::Stopping {
                    kind: harder(*so_far, kind),
                    // What a person wants counts more than what befell this host.
                    reason: match reason {
                        StopReason::Canceled => StopReason::Canceled,
                        StopReason::LostContact | StopReason::AgentEnds => *first,
                    },
                };
                let actions = match (so_far, kind) {
                    (StopKind::Cancel, StopKind::Kill) => vec![Action::Stop { kind, reason }],
                    (StopKind::Cancel, StopKind::Cancel)
                    | (StopKind::Kill, StopKind::Cancel | StopKind::Kill) => Vec::new(),
                };
                self.to(next, actions)
            }
            State::Claiming
            | State::Returning { .. }
            | State::Delivering { .. }
            | State::Dropped
            | State::Done => self.unchanged(),
        }
    }
}

fn harder(one: StopKind, other: StopKind) -> StopKind {
    match (one, other) {
        (StopKind::Kill, StopKind::Cancel | StopKind::Kill) | (StopKind::Cancel, StopKind::Kill) => {
            StopKind::Kill
        }
        (StopKind::Cancel, StopKind::Cancel) => StopKind::Cancel,
    }
}

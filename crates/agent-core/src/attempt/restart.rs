//! What a new process of the agent makes of an attempt that its journal names.

use terrapool_protocol::job::{Outcome, Phase};
use terrapool_protocol::runner::{RunnerStage, StopKind, StopReason};

use super::table::Next;
use super::{Action, Attempt, Boottime, Event, State, step};

/// What is left of an attempt's sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Its runner answers, and says where it stands.
    Runner(RunnerStage),
    /// No runner answers any more.
    Gone {
        /// Whether the runner's marker exists on the job volume.
        marker: bool,
    },
}

/// Takes an attempt up again. `journaled` is the attempt with the state that the journal's newest line tells.
///
/// An attempt in [`State::Claiming`] stays there: the caller sends the same claim again, and the control plane gives the
/// same answer. A prepared apply asks for its start again, since the age of an earlier grant is not known. Where the
/// runner works or has ended, the attempt waits for its report as the process before did.
pub fn restart(journaled: &Attempt, found: Found, now: Boottime) -> Next {
    match (&journaled.state, found) {
        (State::Claiming, Found::Runner(_) | Found::Gone { .. }) => journaled.unchanged(),
        (
            State::Claimed
            | State::Preparing
            | State::Starting { .. }
            | State::Running
            | State::Stopping { .. },
            Found::Gone { marker },
        ) => {
            step(journaled, Event::SandboxVanished { marker }, now).unwrap_or_else(|_| journaled.unchanged())
        }
        (
            State::Claimed
            | State::Preparing
            | State::Starting { .. }
            | State::Running
            | State::Stopping { .. },
            Found::Runner(stage),
        ) => adopt(journaled, stage, now),
        (State::Returning { message }, found) => {
            let outcome = Outcome::NeverStarted {
                message: message.clone(),
            };
            let finish = Action::Finish { outcome };
            let actions = match found {
                Found::Runner(_) => {
                    let stop = Action::Stop {
                        kind: StopKind::Kill,
                        reason: StopReason::Canceled,
                    };
                    vec![stop, finish]
                }
                Found::Gone { .. } => vec![finish],
            };
            journaled.to(journaled.state.clone(), actions)
        }
        // The runner tells its end again, with what has to be delivered.
        (State::Delivering { .. }, Found::Runner(_)) => journaled.to(State::Running, Vec::new()),
        (State::Delivering { outcome }, Found::Gone { .. }) => {
            let outcome = outcome.clone();
            journaled.to(journaled.state.clone(), vec![Action::Finish { outcome }])
        }
        (State::Dropped | State::Done, Found::Runner(_) | Found::Gone { .. }) => {
            journaled.to(journaled.state.clone(), vec![Action::Remove])
        }
    }
}

fn adopt(journaled: &Attempt, stage: RunnerStage, now: Boottime) -> Next {
    match (stage, journaled.phase) {
        (RunnerStage::Waiting, Phase::Plan | Phase::Apply) => {
            journaled.returning("the agent was restarted before the sandbox had the job")
        }
        (RunnerStage::Preparing, Phase::Plan | Phase::Apply) => journaled.to(State::Preparing, Vec::new()),
        (RunnerStage::Prepared, Phase::Apply) => journaled.to(
            State::Starting { sent: now },
            vec![Action::Journal, Action::SendStart],
        ),
        (RunnerStage::Prepared, Phase::Plan) | (RunnerStage::Running, Phase::Plan | Phase::Apply) => {
            journaled.to(State::Running, vec![Action::Journal])
        }
        (RunnerStage::Finished, Phase::Plan | Phase::Apply) => journaled.to(State::Running, Vec::new()),
    }
}

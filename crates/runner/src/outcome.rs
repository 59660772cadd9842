//! How a job's end is told.

use terrapool_protocol::job::{FailureReason, Outcome, Phase, Usage};
use terrapool_protocol::runner::{FromRunner, StopReason};

use crate::children::Exit;
use crate::digest;
use crate::error::Failure;
use crate::shared::{Cause, Stop};
use crate::spool::Spool;

/// The end of a job that has no log.
pub(crate) fn finished_without_log(outcome: &Outcome) -> FromRunner {
    FromRunner::Finished {
        outcome: outcome.clone(),
        log_size: 0,
        log_sha256: digest::of(b""),
        state: None,
        artifacts: Vec::new(),
        schemas_key: None,
        usage: Usage::default(),
        memory: None,
        secrets: Vec::new(),
    }
}

pub(crate) fn failed(failure: Failure) -> Outcome {
    Outcome::Failed {
        reason: failure.reason,
        message: failure.message,
    }
}

pub(crate) fn masked(outcome: Outcome, spool: &Spool) -> Outcome {
    match outcome {
        Outcome::Failed { reason, message } => Outcome::Failed {
            reason,
            message: spool.mask(&message),
        },
        other => other,
    }
}

/// The outcome of a job that was stopped, in its engine phase or before it.
pub(crate) fn stopped(phase: Phase, stop: Stop) -> Outcome {
    let phase = phase.as_str();
    match stop.cause {
        Cause::Asked(StopReason::Canceled) => Outcome::Canceled,
        Cause::Asked(StopReason::LostContact) => {
            let message = format!(
                "The {phase} was stopped: the agent had no contact with the control plane for longer than allowed."
            );
            failed(Failure::new(FailureReason::LostContact, message))
        }
        Cause::Asked(StopReason::AgentEnds) => {
            let message = format!("The {phase} was stopped because its agent was shut down.");
            failed(Failure::new(FailureReason::Internal, message))
        }
        Cause::Limit(failure) => failed(failure),
    }
}

/// An exit in words.
pub(crate) fn describe(exit: Exit) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended without a status".to_owned(),
    }
}

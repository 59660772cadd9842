//! The run table.

use super::{Aftermath, ErrorReason, Run, RunStatus, StateRef};
use crate::job::{Desired, JobState, Phase};
use crate::lock::Lock;
use crate::refusal::Refusal;
use crate::time::Timestamp;
use crate::times::Times;

/// How an attempt ended, as a run sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The engine did its work.
    Succeeded {
        /// Whether a plan has changes.
        changes: bool,
    },
    /// The engine, or a step before it, failed.
    Failed,
    /// The engine ended after it was told to.
    Canceled,
    /// The engine's end was not seen.
    EngineLost,
}

/// What happens to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEvent {
    /// It is its turn.
    Schedule {
        /// The workspace's lock.
        lock: Lock,
    },
    /// A person wants its plan applied.
    Confirm {
        /// The workspace's lock.
        lock: Lock,
        /// The current state.
        current: Option<StateRef>,
    },
    /// A person does not want it.
    Discard,
    /// A person wants it stopped.
    Cancel {
        /// Where the job of its phase stands.
        job: Option<JobState>,
    },
    /// A person gives it up.
    ForceCancel {
        /// Where the job of its phase stands.
        job: Option<JobState>,
        /// Whether the start of its apply was granted.
        granted: bool,
    },
    /// A job of it was claimed.
    Claimed {
        /// Which.
        phase: Phase,
        /// The state that the job reads.
        current: Option<StateRef>,
    },
    /// The start of its apply was granted.
    Granted,
    /// A job of it is back in the queue.
    Requeued {
        /// Which.
        phase: Phase,
    },
    /// A job of it was given back, or fell silent before anything started, when nobody wanted it any more.
    Returned {
        /// Which.
        phase: Phase,
    },
    /// A job of it was given up.
    Lost {
        /// Which.
        phase: Phase,
        /// Whether an engine may be alive.
        granted: bool,
        /// Why.
        reason: ErrorReason,
    },
    /// A job of it has ended.
    Finished {
        /// Which.
        phase: Phase,
        /// How.
        end: End,
        /// What was wanted of it.
        desired: Desired,
        /// Whether the start of its apply was granted.
        granted: bool,
        /// Whether auto-apply is off after a lost apply of an earlier run.
        needs_person: bool,
    },
    /// The database was restored from a backup.
    Restored,
}

/// What else has to happen in the same transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEffect {
    /// Lock := Run(r), and the epoch grows.
    TakeLock,
    /// Lock := Free, if this run holds it.
    ReleaseLock,
    /// Lock := Lost(r, safe_at), if this run holds it.
    LoseLock,
    /// Lock := Lost(r, safe_at counted from now), if this run holds it or is in quarantine; auto-apply is off.
    QuarantineLock,
    /// A job is made and queued.
    QueueJob(Phase),
    /// The waiting job is taken out of the queue.
    WithdrawJob(Phase),
    /// The attempt that holds the job is told to stop.
    StopJob(Phase, Desired),
    /// The newest state copy becomes the current state.
    SnapshotCurrent,
    /// A person has looked at the state: auto-apply is on again.
    ClearLostRun,
    /// The log goes on with a new attempt.
    NoteRetry(Phase),
}

/// The statuses that never change.
macro_rules! terminal {
    () => {
        RunStatus::PlannedAndFinished
            | RunStatus::Applied
            | RunStatus::Discarded
            | RunStatus::Errored
            | RunStatus::Canceled
            | RunStatus::ForceCanceled
            | RunStatus::PolicySoftFailed
    };
}

type Next = Result<(Run, Vec<RunEffect>), Refusal>;

/// The run table.
///
/// # Errors
/// [`Refusal`] when the event may not happen; the row stays as it is.
pub fn transition(run: &Run, event: &RunEvent, now: Timestamp, times: &Times) -> Next {
    let wrong = |action| {
        Err(Refusal::WrongStatus {
            action,
            status: run.status,
        })
    };
    match event {
        RunEvent::Schedule { lock } => match run.status {
            RunStatus::Pending => schedule(run, lock),
            RunStatus::PlanQueued
            | RunStatus::Planning
            | RunStatus::Planned
            | RunStatus::PlannedAndSaved
            | RunStatus::ApplyQueued
            | RunStatus::Applying
            | terminal!() => wrong("scheduled"),
        },
        RunEvent::Confirm { lock, current } => match run.status {
            RunStatus::Planned => {
                fresh(run, current.as_ref())?;
                let effects = vec![RunEffect::QueueJob(Phase::Apply), RunEffect::ClearLostRun];
                Ok((run.with(RunStatus::ApplyQueued), effects))
            }
            RunStatus::PlannedAndSaved => {
                require_free(lock)?;
                fresh(run, current.as_ref())?;
                let effects = vec![
                    RunEffect::TakeLock,
                    RunEffect::QueueJob(Phase::Apply),
                    RunEffect::ClearLostRun,
                ];
                Ok((run.with(RunStatus::ApplyQueued), effects))
            }
            RunStatus::Pending
            | RunStatus::PlanQueued
            | RunStatus::Planning
            | RunStatus::ApplyQueued
            | RunStatus::Applying
            | terminal!() => wrong("confirmed"),
        },
        RunEvent::Discard => match run.status {
            RunStatus::Pending | RunStatus::Planned | RunStatus::PlannedAndSaved => {
                Ok((run.with(RunStatus::Discarded), vec![RunEffect::ReleaseLock]))
            }
            RunStatus::PlanQueued
            | RunStatus::Planning
            | RunStatus::ApplyQueued
            | RunStatus::Applying
            | terminal!() => wrong("discarded"),
        },
        RunEvent::Cancel { job } => cancel(run, *job, now, times),
        RunEvent::ForceCancel { job, granted } => force_cancel(run, *job, *granted, now),
        RunEvent::Claimed {
            phase: Phase::Plan,
            current,
        } => match run.status {
            RunStatus::PlanQueued => {
                let next = Run {
                    plan_state: current.clone(),
                    ..run.with(RunStatus::Planning)
                };
                Ok((next, Vec::new()))
            }
            RunStatus::Pending
            | RunStatus::Planning
            | RunStatus::Planned
            | RunStatus::PlannedAndSaved
            | RunStatus::ApplyQueued
            | RunStatus::Applying
            | terminal!() => wrong("planned"),
        },
        RunEvent::Claimed {
            phase: Phase::Apply, ..
        } => match run.status {
            RunStatus::ApplyQueued => Ok((run.clone(), Vec::new())),
            RunStatus::Pending
            | RunStatus::PlanQueued
            | RunStatus::Planning
            | RunStatus::Planned
            | RunStatus::PlannedAndSaved
            | RunStatus::Applying
            | terminal!() => wrong("applied"),
        },
        RunEvent::Granted => match run.status {
            RunStatus::ApplyQueued => Ok((run.with(RunStatus::Applying), Vec::new())),
            RunStatus::Pending
            | RunStatus::PlanQueued
            | RunStatus::Planning
            | RunStatus::Planned
            | RunStatus::PlannedAndSaved
            | RunStatus::Applying
            | terminal!() => wrong("applied"),
        },
        RunEvent::Requeued { phase } => match (run.status, phase) {
            (RunStatus::Planning, Phase::Plan) => Ok((
                run.with(RunStatus::PlanQueued),
                vec![RunEffect::NoteRetry(Phase::Plan)],
            )),
            (RunStatus::ApplyQueued | RunStatus::Applying, Phase::Apply) => Ok((
                run.with(RunStatus::ApplyQueued),
                vec![RunEffect::NoteRetry(Phase::Apply)],
            )),
            (RunStatus::Planning, Phase::Apply)
            | (RunStatus::ApplyQueued | RunStatus::Applying, Phase::Plan)
            | (
                RunStatus::Pending
                | RunStatus::PlanQueued
                | RunStatus::Planned
                | RunStatus::PlannedAndSaved
                | terminal!(),
                Phase::Plan | Phase::Apply,
            ) => wrong("queued again"),
        },
        RunEvent::Returned { phase } => match (run.status, phase) {
            (RunStatus::Planning, Phase::Plan)
            | (RunStatus::ApplyQueued | RunStatus::Applying, Phase::Apply) => {
                Ok((run.with(RunStatus::Canceled), vec![RunEffect::ReleaseLock]))
            }
            (terminal!(), Phase::Plan | Phase::Apply) => Ok((run.clone(), Vec::new())),
            (RunStatus::Planning, Phase::Apply)
            | (RunStatus::ApplyQueued | RunStatus::Applying, Phase::Plan)
            | (
                RunStatus::Pending | RunStatus::PlanQueued | RunStatus::Planned | RunStatus::PlannedAndSaved,
                Phase::Plan | Phase::Apply,
            ) => wrong("canceled"),
        },
        RunEvent::Lost {
            phase,
            granted,
            reason,
        } => lost(run, *phase, *granted, *reason),
        RunEvent::Finished {
            phase: Phase::Plan,
            end,
            desired,
            needs_person,
            ..
        } => match run.status {
            RunStatus::Planning => plan_finished(run, *end, *desired, *needs_person),
            terminal!() => Ok((delivered(run), Vec::new())),
            RunStatus::Pending
            | RunStatus::PlanQueued
            | RunStatus::Planned
            | RunStatus::PlannedAndSaved
            | RunStatus::ApplyQueued
            | RunStatus::Applying => wrong("finished"),
        },
        RunEvent::Finished {
            phase: Phase::Apply,
            end,
            granted,
            ..
        } => match run.status {
            RunStatus::ApplyQueued => apply_finished_before_start(run, *end),
            RunStatus::Applying if *granted => Ok(apply_finished(run, *end)),
            RunStatus::Applying => Err(Refusal::Unfitting("the start of the apply was not granted")),
            terminal!() => Ok((delivered(run), Vec::new())),
            RunStatus::Pending
            | RunStatus::PlanQueued
            | RunStatus::Planning
            | RunStatus::Planned
            | RunStatus::PlannedAndSaved => wrong("finished"),
        },
        RunEvent::Restored => match run.status {
            RunStatus::Pending
            | RunStatus::PlanQueued
            | RunStatus::Planning
            | RunStatus::Planned
            | RunStatus::PlannedAndSaved => Ok((
                run.errored(ErrorReason::Restored),
                vec![RunEffect::QuarantineLock],
            )),
            RunStatus::ApplyQueued | RunStatus::Applying => Ok((
                run.errored(ErrorReason::Restored),
                vec![RunEffect::SnapshotCurrent, RunEffect::QuarantineLock],
            )),
            terminal!() => Ok((run.clone(), vec![RunEffect::QuarantineLock])),
        },
    }
}

fn require_free(lock: &Lock) -> Result<(), Refusal> {
    match lock {
        Lock::Free => Ok(()),
        Lock::User(user) => Err(Refusal::LockedByUser(user.clone())),
        Lock::Run(run) => Err(Refusal::LockedByRun(run.clone())),
        Lock::Lost { run, safe_at } => Err(Refusal::LockedByLostRun {
            run: run.clone(),
            attempt: None,
            last_contact: None,
            safe_at: *safe_at,
        }),
    }
}

fn fresh(run: &Run, current: Option<&StateRef>) -> Result<(), Refusal> {
    if StateRef::is_same(run.plan_state.as_ref(), current) {
        Ok(())
    } else {
        Err(Refusal::StalePlan)
    }
}

fn delivered(run: &Run) -> Run {
    Run {
        aftermath: Aftermath::Delivered,
        ..run.clone()
    }
}

fn schedule(run: &Run, lock: &Lock) -> Next {
    let queued = RunEffect::QueueJob(Phase::Plan);
    if run.needs_lock() {
        require_free(lock)?;
        Ok((run.with(RunStatus::PlanQueued), vec![RunEffect::TakeLock, queued]))
    } else {
        Ok((run.with(RunStatus::PlanQueued), vec![queued]))
    }
}

fn cancel(run: &Run, job: Option<JobState>, now: Timestamp, times: &Times) -> Next {
    let wrong = Err(Refusal::WrongStatus {
        action: "canceled",
        status: run.status,
    });
    match (run.status, job) {
        (RunStatus::Pending, None | Some(_)) => Ok((
            run.asked(RunStatus::Canceled, now, times),
            vec![RunEffect::ReleaseLock],
        )),
        (RunStatus::PlanQueued, Some(JobState::Queued)) => Ok((
            run.asked(RunStatus::Canceled, now, times),
            vec![RunEffect::WithdrawJob(Phase::Plan), RunEffect::ReleaseLock],
        )),
        (RunStatus::ApplyQueued, Some(JobState::Queued)) => Ok((
            run.asked(RunStatus::Canceled, now, times),
            vec![RunEffect::WithdrawJob(Phase::Apply), RunEffect::ReleaseLock],
        )),
        (RunStatus::Planning, Some(JobState::Leased | JobState::Running)) => Ok((
            run.asked(RunStatus::Planning, now, times),
            vec![RunEffect::StopJob(Phase::Plan, Desired::Cancel)],
        )),
        (RunStatus::ApplyQueued | RunStatus::Applying, Some(JobState::Leased | JobState::Running)) => Ok((
            run.asked(run.status, now, times),
            vec![RunEffect::StopJob(Phase::Apply, Desired::Cancel)],
        )),
        (RunStatus::Planned | RunStatus::PlannedAndSaved, None | Some(_)) => {
            Err(Refusal::DiscardInstead(run.status))
        }
        (
            RunStatus::PlanQueued,
            None | Some(JobState::Leased | JobState::Running | JobState::Done | JobState::Lost),
        )
        | (RunStatus::ApplyQueued, None | Some(JobState::Done | JobState::Lost))
        | (
            RunStatus::Planning | RunStatus::Applying,
            None | Some(JobState::Queued | JobState::Done | JobState::Lost),
        )
        | (terminal!(), None | Some(_)) => wrong,
    }
}

fn force_cancel(run: &Run, job: Option<JobState>, granted: bool, now: Timestamp) -> Next {
    let wrong = Err(Refusal::WrongStatus {
        action: "force-canceled",
        status: run.status,
    });
    let phase = match (run.status, job) {
        (RunStatus::Planning, Some(JobState::Leased | JobState::Running)) => Phase::Plan,
        (RunStatus::ApplyQueued | RunStatus::Applying, Some(JobState::Leased | JobState::Running)) => {
            Phase::Apply
        }
        (
            RunStatus::Planning | RunStatus::ApplyQueued | RunStatus::Applying,
            None | Some(JobState::Queued | JobState::Done | JobState::Lost),
        )
        | (
            RunStatus::Pending
            | RunStatus::PlanQueued
            | RunStatus::Planned
            | RunStatus::PlannedAndSaved
            | terminal!(),
            None | Some(_),
        ) => return wrong,
    };
    match (run.cancel_asked_at, run.force_cancel_available_at) {
        (None, None | Some(_)) | (Some(_), None) => return Err(Refusal::NotCanceledYet),
        (Some(_), Some(available_at)) if now < available_at => {
            return Err(Refusal::CoolOff { available_at });
        }
        (Some(_), Some(_)) => {}
    }
    let mut effects = vec![RunEffect::StopJob(phase, Desired::Kill)];
    match phase {
        Phase::Apply if granted => effects.extend([RunEffect::SnapshotCurrent, RunEffect::LoseLock]),
        Phase::Apply | Phase::Plan => effects.push(RunEffect::ReleaseLock),
    }
    Ok((run.with(RunStatus::ForceCanceled), effects))
}

fn lost(run: &Run, phase: Phase, granted: bool, reason: ErrorReason) -> Next {
    match (run.status, phase) {
        (RunStatus::Planning, Phase::Plan) => Ok((run.errored(reason), vec![RunEffect::ReleaseLock])),
        (RunStatus::ApplyQueued | RunStatus::Applying, Phase::Apply) => {
            if granted {
                let effects = vec![RunEffect::SnapshotCurrent, RunEffect::LoseLock];
                Ok((run.errored(reason), effects))
            } else {
                Ok((run.errored(reason), vec![RunEffect::ReleaseLock]))
            }
        }
        (terminal!(), Phase::Plan | Phase::Apply) => Ok((run.clone(), Vec::new())),
        (RunStatus::Planning, Phase::Apply)
        | (RunStatus::ApplyQueued | RunStatus::Applying, Phase::Plan)
        | (
            RunStatus::Pending | RunStatus::PlanQueued | RunStatus::Planned | RunStatus::PlannedAndSaved,
            Phase::Plan | Phase::Apply,
        ) => Err(Refusal::WrongStatus {
            action: "given up",
            status: run.status,
        }),
    }
}

fn plan_finished(run: &Run, end: End, desired: Desired, needs_person: bool) -> Next {
    let released = vec![RunEffect::ReleaseLock];
    match (end, desired) {
        (End::Succeeded { changes }, Desired::Cancel | Desired::Kill) => {
            let next = Run {
                has_changes: Some(changes),
                ..run.with(RunStatus::Canceled)
            };
            Ok((next, released))
        }
        (End::Succeeded { changes }, Desired::Run) => {
            let known = Run {
                has_changes: Some(changes),
                ..run.clone()
            };
            if run.plan_only || !(changes || run.allow_empty_apply) {
                Ok((known.with(RunStatus::PlannedAndFinished), released))
            } else if run.save_plan {
                Ok((known.with(RunStatus::PlannedAndSaved), Vec::new()))
            } else if run.auto_apply && !needs_person {
                let effects = vec![RunEffect::QueueJob(Phase::Apply)];
                Ok((known.with(RunStatus::ApplyQueued), effects))
            } else {
                Ok((known.with(RunStatus::Planned), Vec::new()))
            }
        }
        (End::Failed, Desired::Run | Desired::Cancel | Desired::Kill) => {
            Ok((run.errored(ErrorReason::Failed), released))
        }
        (End::EngineLost, Desired::Run | Desired::Cancel | Desired::Kill) => {
            Ok((run.errored(ErrorReason::EngineLost), released))
        }
        (End::Canceled, Desired::Run | Desired::Cancel | Desired::Kill) => {
            Ok((run.with(RunStatus::Canceled), released))
        }
    }
}

fn apply_finished_before_start(run: &Run, end: End) -> Next {
    let released = vec![RunEffect::ReleaseLock];
    match end {
        End::Succeeded { .. } => Err(Refusal::Unfitting("the start of the apply was not granted")),
        End::Failed => Ok((run.errored(ErrorReason::Failed), released)),
        End::EngineLost => Ok((run.errored(ErrorReason::EngineLost), released)),
        End::Canceled => Ok((run.with(RunStatus::Canceled), released)),
    }
}

fn apply_finished(run: &Run, end: End) -> (Run, Vec<RunEffect>) {
    let effects = vec![RunEffect::SnapshotCurrent, RunEffect::ReleaseLock];
    let next = match end {
        End::Succeeded { .. } => run.with(RunStatus::Applied),
        End::Failed => run.errored(ErrorReason::Failed),
        End::EngineLost => run.errored(ErrorReason::EngineLost),
        End::Canceled => run.with(RunStatus::Canceled),
    };
    (next, effects)
}

#[cfg(test)]
#[path = "../run_tests.rs"]
mod tests;

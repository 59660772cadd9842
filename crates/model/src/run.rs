//! A run and its statuses (protocol, section 3).

use crate::id::{RunId, StateVersionId};
use crate::job::{Desired, JobState, Phase, named};
use crate::lock::Lock;
use crate::refusal::Refusal;
use crate::time::Timestamp;
use crate::times::Times;

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
}

impl StateRef {
    /// Whether both name the same state: by serial and lineage where they are known, else by version.
    pub fn is_same(one: Option<&Self>, other: Option<&Self>) -> bool {
        match (one, other) {
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
            (Some(one), Some(other)) => {
                one.version == other.version
                    || (one.serial.is_some()
                        && one.lineage.is_some()
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
#[path = "run_tests.rs"]
mod tests;

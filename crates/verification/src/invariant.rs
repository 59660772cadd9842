//! What must hold.

use terrapool_model::job::{Desired, Job, JobState, Phase};
use terrapool_model::lock::{Lock, Workspace};
use terrapool_model::run::RunStatus;

use crate::situation::Situation;
use crate::tables::{RunRows, Tables};

macro_rules! invariants {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A property of every situation, every step, or the whole graph.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Invariant {
            $($(#[$doc])* $variant,)*
        }

        impl Invariant {
            /// Every invariant.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its short name.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

invariants! {
    /// An apply is executed at most once.
    ExecutedOnce = "I1",
    /// Without an override at most one apply engine of a workspace lives at any instant.
    OneEngine = "I2",
    /// The current state is written only by the holder of the current lock epoch.
    HolderWrites = "I3",
    /// A state that reached an agent's disk is, when the attempt is over, current or kept apart.
    NoStateLost = "I4",
    /// A terminal status does not change.
    TerminalFinal = "I5",
    /// All runs terminal and the lock free can be reached.
    EndReachable = "I6",
    /// Generation and lock epoch never decrease.
    NumbersGrow = "I7",
    /// The current serial never decreases.
    SerialGrows = "I8",
    /// No job that is to stop is queued, claimed or started.
    StoppedStaysStopped = "J1",
    /// All runs terminal and the lock free can be reached by server and agents alone.
    EndReachableAlone = "J2",
    /// Server and agents do not go in circles while a run has not ended.
    NoCircle = "J3",
    /// A plan is applied only on the state it read.
    PlanFresh = "J4",
    /// Nobody is told to go on after a cancel.
    NoKeepAfterCancel = "J5",
    /// Run, jobs and lock agree.
    RowsAgree = "K1",
    /// The run of a live apply engine holds the workspace.
    EngineHolds = "K2",
    /// The end of an attempt is always answered.
    EndAnswered = "K3",
}

impl Invariant {
    /// Whether it may fail after a person has overridden a quarantine.
    pub fn is_exempt_after_override(self) -> bool {
        match self {
            Self::OneEngine | Self::EngineHolds | Self::PlanFresh => true,
            Self::ExecutedOnce
            | Self::HolderWrites
            | Self::NoStateLost
            | Self::TerminalFinal
            | Self::EndReachable
            | Self::NumbersGrow
            | Self::SerialGrows
            | Self::StoppedStaysStopped
            | Self::EndReachableAlone
            | Self::NoCircle
            | Self::NoKeepAfterCancel
            | Self::RowsAgree
            | Self::EndAnswered => false,
        }
    }
}

/// Whether every run has ended and nobody holds the lock.
pub fn is_over(situation: &Situation, runs: usize, tables: &Tables) -> bool {
    tables.workspace(situation.workspace).lock == Lock::Free
        && situation.runs[..runs]
            .iter()
            .all(|run| tables.rows(run.rows).run.status.is_terminal())
}

/// The first invariant that a situation breaks.
pub fn broken(
    situation: &Situation,
    runs: usize,
    tables: &Tables,
    wanted: impl Fn(Invariant) -> bool,
) -> Option<Invariant> {
    let holds = |invariant, check: bool| (!check && wanted(invariant)).then_some(invariant);
    holds(Invariant::OneEngine, situation.engines() <= 1)
        .or_else(|| {
            holds(
                Invariant::ExecutedOnce,
                situation.runs.iter().all(|run| run.executed <= 1),
            )
        })
        .or_else(|| holds(Invariant::EngineHolds, engines_hold(situation, tables)))
        .or_else(|| holds(Invariant::RowsAgree, rows_agree(situation, runs, tables)))
}

fn engines_hold(situation: &Situation, tables: &Tables) -> bool {
    let workspace = tables.workspace(situation.workspace);
    situation
        .slots
        .iter()
        .filter(|slot| slot.engine_lives())
        .all(|slot| {
            let run = &tables.rows(situation.runs[usize::from(slot.run)].rows).run;
            workspace.is_held_by(&run.id, run.lock_epoch) || workspace.is_lost_by(&run.id, run.lock_epoch)
        })
}

fn rows_agree(situation: &Situation, runs: usize, tables: &Tables) -> bool {
    let workspace = tables.workspace(situation.workspace);
    agree(
        workspace,
        situation.runs[..runs].iter().map(|place| tables.rows(place.rows)),
    )
}

/// Whether runs, jobs and lock agree ([`Invariant::RowsAgree`]).
pub fn agree<'r>(workspace: &Workspace, rows: impl Iterator<Item = &'r RunRows>) -> bool {
    let mut holder_is_active = match &workspace.lock {
        Lock::Free | Lock::User(_) => true,
        Lock::Run(_) | Lock::Lost { .. } => false,
    };
    for rows in rows {
        let run = &rows.run;
        let needs = match run.status {
            RunStatus::PlanQueued | RunStatus::Planning | RunStatus::Planned => run.needs_lock(),
            RunStatus::ApplyQueued | RunStatus::Applying => true,
            RunStatus::Pending
            | RunStatus::PlannedAndSaved
            | RunStatus::PlannedAndFinished
            | RunStatus::Applied
            | RunStatus::Discarded
            | RunStatus::Errored
            | RunStatus::Canceled
            | RunStatus::ForceCanceled
            | RunStatus::PolicySoftFailed => false,
        };
        if needs && !workspace.is_held_by(&run.id, run.lock_epoch) {
            return false;
        }
        holder_is_active |= match &workspace.lock {
            Lock::Run(holder) => *holder == run.id && needs,
            Lock::Lost { run: holder, .. } => *holder == run.id && run.status.is_terminal(),
            Lock::Free | Lock::User(_) => false,
        };
        if !jobs_agree(rows) {
            return false;
        }
    }
    holder_is_active
}

fn jobs_agree(rows: &RunRows) -> bool {
    let state = |phase: Phase| rows.job(phase).map(|job| job.state);
    let granted = |job: Option<&Job>| job.is_some_and(|job| job.start_granted);
    match rows.run.status {
        RunStatus::Pending => rows.plan.is_none() && rows.apply.is_none(),
        RunStatus::PlanQueued => state(Phase::Plan) == Some(JobState::Queued) && rows.apply.is_none(),
        RunStatus::Planning => state(Phase::Plan) == Some(JobState::Running) && rows.apply.is_none(),
        RunStatus::Planned | RunStatus::PlannedAndSaved => {
            state(Phase::Plan) == Some(JobState::Done) && rows.apply.is_none()
        }
        RunStatus::ApplyQueued => {
            matches!(state(Phase::Apply), Some(JobState::Queued | JobState::Leased))
                && !granted(rows.apply.as_ref())
        }
        RunStatus::Applying => state(Phase::Apply) == Some(JobState::Running) && granted(rows.apply.as_ref()),
        RunStatus::PlannedAndFinished
        | RunStatus::Applied
        | RunStatus::Discarded
        | RunStatus::Errored
        | RunStatus::Canceled
        | RunStatus::ForceCanceled
        | RunStatus::PolicySoftFailed => {
            state(Phase::Plan) != Some(JobState::Queued) && state(Phase::Apply) != Some(JobState::Queued)
        }
    }
}

/// The first invariant that a change of a run's rows breaks.
pub fn broken_by(before: &RunRows, after: &RunRows) -> Option<Invariant> {
    if before.run.status.is_terminal() && before.run.status != after.run.status {
        return Some(Invariant::TerminalFinal);
    }
    let canceled = before.run.cancel_asked_at.is_some();
    for phase in [Phase::Plan, Phase::Apply] {
        let (old, new) = (before.job(phase), after.job(phase));
        let stops = canceled || old.is_some_and(|job| job.desired != Desired::Run);
        let (Some(job), true) = (new, stops) else { continue };
        let state = old.map(|job| job.state);
        let begins = match job.state {
            JobState::Queued | JobState::Leased => state != Some(job.state),
            JobState::Running => {
                state != Some(JobState::Running) || old.is_some_and(|old| old.generation != job.generation)
            }
            JobState::Done | JobState::Lost => false,
        };
        if begins {
            return Some(Invariant::StoppedStaysStopped);
        }
    }
    for phase in [Phase::Plan, Phase::Apply] {
        if let (Some(old), Some(new)) = (before.job(phase), after.job(phase))
            && new.generation < old.generation
        {
            return Some(Invariant::NumbersGrow);
        }
    }
    None
}

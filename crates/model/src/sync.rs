//! What a sync answers for one reported attempt (protocol, section 9).

use serde::{Deserialize, Serialize};

use crate::id::AttemptId;
use crate::job::{Desired, Job, JobState, Phase};

/// Where an attempt stands (the states of the attempt table that a server needs to tell apart).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptStage {
    /// Claimed; the engine phase has not started.
    Preparing,
    /// The engine phase runs.
    Running,
    /// The engine phase runs and was told to stop.
    Stopping,
    /// The engine has ended; log, state and artifacts are being delivered.
    Delivering,
    /// Nothing was started; the assignment is being given back.
    Returning,
}

impl AttemptStage {
    /// The word for it, as in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Delivering => "delivering",
            Self::Returning => "returning",
        }
    }
}

/// What to do with an attempt. All of the first three renew its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// Go on.
    Keep,
    /// Stop gracefully: SIGINT, grace, SIGINT, kill.
    Cancel,
    /// Stop now: SIGINT, short grace, kill; deliver what there is.
    Kill,
    /// The assignment is gone; deliver what there is, then forget.
    Deliver,
    /// Everything has arrived, or nothing is wanted: remove sandbox and volumes.
    Forget,
    /// The control plane does not know this attempt (restored from a backup, or another history).
    Surrender {
        /// Stop the engine as well.
        kill: bool,
    },
}

/// One attempt as its agent reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The phase of its job.
    pub phase: Phase,
    /// The assignment.
    pub generation: u64,
    /// The attempt.
    pub attempt: AttemptId,
    /// Where it stands.
    pub stage: AttemptStage,
    /// Whether it was assigned in this incarnation.
    pub incarnation_is_equal: bool,
}

/// Whether the report is a contact that renews the job's lease (or moves its quarantine).
pub fn renews(report: &Report, job: Option<&Job>) -> bool {
    report.incarnation_is_equal
        && job.is_some_and(|job| {
            let live = match job.state {
                JobState::Leased | JobState::Running | JobState::Lost => true,
                JobState::Queued | JobState::Done => false,
            };
            live && job.is_of(report.generation, &report.attempt)
        })
}

fn wanted(desired: Desired) -> Verdict {
    match desired {
        Desired::Run => Verdict::Keep,
        Desired::Cancel => Verdict::Cancel,
        Desired::Kill => Verdict::Kill,
    }
}

/// The answer. `epoch_is_runs`: the workspace's lock epoch is still the one at which the run took the lock.
pub fn answer(report: &Report, job: Option<&Job>, epoch_is_runs: bool) -> Verdict {
    let Some(job) = job.filter(|_| report.incarnation_is_equal) else {
        // A plan protects nothing; an apply of another history goes on until a person decides.
        return Verdict::Surrender {
            kill: report.phase == Phase::Plan,
        };
    };
    if job.is_of(report.generation, &report.attempt) {
        return match (job.state, report.stage) {
            (
                JobState::Leased | JobState::Running,
                AttemptStage::Preparing
                | AttemptStage::Running
                | AttemptStage::Stopping
                | AttemptStage::Delivering
                | AttemptStage::Returning,
            ) => wanted(job.desired),
            (JobState::Lost, AttemptStage::Preparing | AttemptStage::Running | AttemptStage::Stopping) => {
                match report.phase {
                    Phase::Apply if epoch_is_runs => wanted(job.desired),
                    Phase::Apply | Phase::Plan => Verdict::Kill,
                }
            }
            (JobState::Lost, AttemptStage::Delivering | AttemptStage::Returning) => Verdict::Deliver,
            (
                JobState::Done | JobState::Queued,
                AttemptStage::Preparing | AttemptStage::Delivering | AttemptStage::Returning,
            ) => Verdict::Forget,
            (JobState::Done | JobState::Queued, AttemptStage::Running | AttemptStage::Stopping) => {
                Verdict::Kill
            }
        };
    }
    match report.stage {
        AttemptStage::Running | AttemptStage::Stopping => Verdict::Kill,
        AttemptStage::Preparing | AttemptStage::Returning => Verdict::Forget,
        AttemptStage::Delivering => Verdict::Deliver,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(byte: u8) -> AttemptId {
        AttemptId::from_random([byte; 16])
    }

    fn job(phase: Phase, state: JobState, desired: Desired) -> Job {
        Job {
            state,
            desired,
            generation: 2,
            attempt: Some(attempt(1)),
            ..Job::queued(phase)
        }
    }

    fn report(phase: Phase, stage: AttemptStage) -> Report {
        Report {
            phase,
            generation: 2,
            attempt: attempt(1),
            stage,
            incarnation_is_equal: true,
        }
    }

    #[test]
    fn the_holder_is_told_what_is_wanted() {
        for (desired, verdict) in [
            (Desired::Run, Verdict::Keep),
            (Desired::Cancel, Verdict::Cancel),
            (Desired::Kill, Verdict::Kill),
        ] {
            let row = job(Phase::Apply, JobState::Running, desired);
            let told = report(Phase::Apply, AttemptStage::Running);
            assert_eq!(answer(&told, Some(&row), true), verdict);
            assert!(renews(&told, Some(&row)));
        }
    }

    #[test]
    fn a_lost_apply_finishes_late_unless_the_lock_has_moved_on() {
        let row = job(Phase::Apply, JobState::Lost, Desired::Run);
        let told = report(Phase::Apply, AttemptStage::Running);
        assert_eq!(answer(&told, Some(&row), true), Verdict::Keep);
        assert_eq!(answer(&told, Some(&row), false), Verdict::Kill);
        assert_eq!(
            answer(&report(Phase::Apply, AttemptStage::Delivering), Some(&row), false),
            Verdict::Deliver
        );
    }

    #[test]
    fn a_superseded_plan_is_killed_and_delivers() {
        let row = Job {
            generation: 3,
            attempt: Some(attempt(9)),
            ..job(Phase::Plan, JobState::Running, Desired::Run)
        };
        assert_eq!(
            answer(&report(Phase::Plan, AttemptStage::Running), Some(&row), true),
            Verdict::Kill
        );
        assert_eq!(
            answer(&report(Phase::Plan, AttemptStage::Delivering), Some(&row), true),
            Verdict::Deliver
        );
        assert!(!renews(&report(Phase::Plan, AttemptStage::Running), Some(&row)));
    }

    #[test]
    fn an_apply_that_did_not_start_and_lost_its_job_is_forgotten() {
        for state in [JobState::Queued, JobState::Done] {
            let row = Job {
                generation: 3,
                attempt: None,
                ..job(Phase::Apply, state, Desired::Run)
            };
            assert_eq!(
                answer(&report(Phase::Apply, AttemptStage::Preparing), Some(&row), true),
                Verdict::Forget
            );
        }
    }

    #[test]
    fn what_is_done_is_forgotten_by_its_attempt() {
        let row = job(Phase::Apply, JobState::Done, Desired::Run);
        assert_eq!(
            answer(&report(Phase::Apply, AttemptStage::Delivering), Some(&row), true),
            Verdict::Forget
        );
    }

    #[test]
    fn another_history_is_surrendered_and_only_its_plans_are_killed() {
        let row = job(Phase::Apply, JobState::Running, Desired::Run);
        let mut told = report(Phase::Apply, AttemptStage::Running);
        told.incarnation_is_equal = false;
        assert_eq!(
            answer(&told, Some(&row), true),
            Verdict::Surrender { kill: false }
        );
        assert_eq!(
            answer(&report(Phase::Plan, AttemptStage::Running), None, true),
            Verdict::Surrender { kill: true }
        );
    }
}

//! What becomes of a state that an attempt uploads (protocol, section 7). No state is refused to its only witness.

use crate::job::{Job, JobState, Phase};
use crate::lock::{Lock, Workspace};
use crate::run::Run;

/// Serial and lineage, where the document could be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark {
    /// Serial.
    pub serial: Option<u64>,
    /// Lineage.
    pub lineage: Option<String>,
}

/// An upload, and what is known beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Whether these bytes were stored before for this job.
    pub is_stored: bool,
    /// Whether the uploader is the job's newest attempt.
    pub is_newest_attempt: bool,
    /// What was read of it.
    pub mark: Mark,
    /// The workspace's current state.
    pub current: Option<Mark>,
    /// The newest copy of this job that is not current yet.
    pub snapshot: Option<Mark>,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// It is the version that exists already.
    AlreadyStored,
    /// The newest copy; becomes current when the apply ends.
    Intermediate,
    /// Current at once.
    Current,
    /// Stored apart.
    KeptApart,
    /// Not wanted: a plan changes no state.
    Forbidden,
}

/// Decides.
pub fn decide(upload: &Upload, workspace: &Workspace, run: &Run, job: &Job) -> Fate {
    match job.phase {
        Phase::Plan => return Fate::Forbidden,
        Phase::Apply => {}
    }
    if upload.is_stored {
        return Fate::AlreadyStored;
    }
    if !upload.is_newest_attempt || Some(workspace.lock_epoch) != run.lock_epoch {
        return Fate::KeptApart;
    }
    let fate = match (job.state, &workspace.lock) {
        (JobState::Running, Lock::Run(holder)) if *holder == run.id => Fate::Intermediate,
        (JobState::Running | JobState::Lost, Lock::Free) => Fate::Current,
        (JobState::Running | JobState::Lost, Lock::Lost { run: holder, .. }) if *holder == run.id => {
            Fate::Current
        }
        (JobState::Running | JobState::Lost, Lock::Run(_) | Lock::User(_) | Lock::Lost { .. })
        | (
            JobState::Queued | JobState::Leased | JobState::Done,
            Lock::Free | Lock::Run(_) | Lock::User(_) | Lock::Lost { .. },
        ) => return Fate::KeptApart,
    };
    if follows(upload) { fate } else { Fate::KeptApart }
}

/// Whether the document goes on from the current state. One that can't be read is taken at its word.
fn follows(upload: &Upload) -> bool {
    let Some(serial) = upload.mark.serial else {
        return true;
    };
    let lineage = upload.current.as_ref().and_then(|mark| mark.lineage.as_ref());
    let same_lineage = lineage.is_none_or(|lineage| Some(lineage) == upload.mark.lineage.as_ref());
    let current = upload.current.as_ref().and_then(|mark| mark.serial);
    let snapshot = upload.snapshot.as_ref().and_then(|mark| mark.serial);
    same_lineage
        && current.is_none_or(|current| serial > current)
        // The engine may write twice with one serial; the later document wins.
        && snapshot.is_none_or(|snapshot| serial >= snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{AttemptId, RunId, UserId};
    use crate::run::{Aftermath, RunStatus};

    fn run() -> Run {
        Run {
            id: RunId::from_random([1; 16]),
            status: RunStatus::Applying,
            plan_only: false,
            save_plan: false,
            auto_apply: false,
            allow_empty_apply: false,
            lock_epoch: Some(3),
            has_changes: Some(true),
            plan_state: None,
            error: None,
            aftermath: Aftermath::None,
            cancel_asked_at: None,
            force_cancel_available_at: None,
        }
    }

    fn job(state: JobState) -> Job {
        Job {
            state,
            start_granted: true,
            generation: 1,
            attempt: Some(AttemptId::from_random([1; 16])),
            ..Job::queued(Phase::Apply)
        }
    }

    fn workspace(lock: Lock) -> Workspace {
        Workspace {
            lock,
            lock_epoch: 3,
            lost_run: None,
        }
    }

    fn mark(serial: u64) -> Mark {
        Mark {
            serial: Some(serial),
            lineage: Some("one".to_owned()),
        }
    }

    fn upload(serial: u64) -> Upload {
        Upload {
            is_stored: false,
            is_newest_attempt: true,
            mark: mark(serial),
            current: Some(mark(4)),
            snapshot: None,
        }
    }

    #[test]
    fn the_holder_of_the_lock_stores_copies_that_become_current_later() {
        let held = workspace(Lock::Run(run().id));
        assert_eq!(
            decide(&upload(5), &held, &run(), &job(JobState::Running)),
            Fate::Intermediate
        );
        assert_eq!(
            decide(&upload(4), &held, &run(), &job(JobState::Running)),
            Fate::KeptApart
        );
        let mut other = upload(5);
        other.mark.lineage = Some("two".to_owned());
        assert_eq!(
            decide(&other, &held, &run(), &job(JobState::Running)),
            Fate::KeptApart
        );
        let opaque = Upload {
            mark: Mark::default(),
            ..upload(0)
        };
        assert_eq!(
            decide(&opaque, &held, &run(), &job(JobState::Running)),
            Fate::Intermediate
        );
        let repeated = Upload {
            is_stored: true,
            ..upload(5)
        };
        assert_eq!(
            decide(&repeated, &held, &run(), &job(JobState::Running)),
            Fate::AlreadyStored
        );
    }

    #[test]
    fn a_copy_never_falls_behind_the_newest_one() {
        let held = workspace(Lock::Run(run().id));
        let older = Upload {
            snapshot: Some(mark(7)),
            ..upload(6)
        };
        assert_eq!(
            decide(&older, &held, &run(), &job(JobState::Running)),
            Fate::KeptApart
        );
        let again = Upload {
            snapshot: Some(mark(7)),
            ..upload(7)
        };
        assert_eq!(
            decide(&again, &held, &run(), &job(JobState::Running)),
            Fate::Intermediate
        );
    }

    #[test]
    fn in_quarantine_and_before_anybody_took_the_lock_a_copy_is_current_at_once() {
        for lock in [
            Lock::Lost {
                run: run().id,
                safe_at: None,
            },
            Lock::Free,
        ] {
            assert_eq!(
                decide(&upload(5), &workspace(lock), &run(), &job(JobState::Lost)),
                Fate::Current
            );
        }
    }

    #[test]
    fn after_somebody_took_the_lock_a_copy_is_kept_apart() {
        let moved = Workspace {
            lock_epoch: 4,
            ..workspace(Lock::User(UserId::from_random([1; 16])))
        };
        assert_eq!(
            decide(&upload(5), &moved, &run(), &job(JobState::Lost)),
            Fate::KeptApart
        );
        let superseded = Upload {
            is_newest_attempt: false,
            ..upload(5)
        };
        let held = workspace(Lock::Run(run().id));
        assert_eq!(
            decide(&superseded, &held, &run(), &job(JobState::Running)),
            Fate::KeptApart
        );
    }

    #[test]
    fn a_plan_stores_no_state() {
        let plan = Job {
            phase: Phase::Plan,
            ..job(JobState::Running)
        };
        assert_eq!(
            decide(&upload(5), &workspace(Lock::Free), &run(), &plan),
            Fate::Forbidden
        );
    }
}

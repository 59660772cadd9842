//! Why an event is refused. A refusal leaves every row as it was.

use crate::id::{AttemptId, RunId, UserId};
use crate::job::Desired;
use crate::run::RunStatus;
use crate::time::Timestamp;

/// An event that may not happen now. The texts are for people; clients of the API look for some of their words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The run is not in a status where this is possible.
    #[error("the run is {status} and cannot be {action}")]
    WrongStatus {
        /// What was asked, as a participle (`confirmed`).
        action: &'static str,
        /// Where the run stands.
        status: RunStatus,
    },
    /// The run waits for a person: discard it instead of canceling it.
    #[error("the run is {0} and nothing of it is being executed: discard it instead")]
    DiscardInstead(RunStatus),
    /// The state has moved on since the plan read it.
    #[error("the plan is stale: the state has changed since the plan was made; start a new run")]
    StalePlan,
    /// A run holds the workspace.
    #[error("the workspace is locked by Run {0}: wait for it, or cancel, discard or force-cancel it")]
    LockedByRun(RunId),
    /// The lost apply of a run holds the workspace.
    #[error("the workspace is locked by Run {run}: {}", lost_detail(*.last_contact, *.safe_at))]
    LockedByLostRun {
        /// The run.
        run: RunId,
        /// The attempt that may still be running.
        attempt: Option<AttemptId>,
        /// When its agent was last heard.
        last_contact: Option<Timestamp>,
        /// From when on it can't be running any more.
        safe_at: Option<Timestamp>,
    },
    /// The request names another attempt than the one that may still be running.
    #[error(
        "the workspace is locked by Run {run}: the request acknowledges another attempt than the one that may still \
         be running; read the workspace again"
    )]
    OtherAttemptAcknowledged {
        /// The run.
        run: RunId,
    },
    /// A user holds the workspace.
    #[error("the workspace is locked by User {0}")]
    LockedByUser(UserId),
    /// It is not locked.
    #[error("the workspace is already unlocked")]
    AlreadyUnlocked,
    /// A state version was announced whose bytes have not arrived.
    #[error("the workspace's latest state version is still pending: wait until its upload has ended")]
    StatePending,
    /// Cancel comes before force-cancel.
    #[error("the run cannot be force-canceled before it was canceled")]
    NotCanceledYet,
    /// Too soon after the cancel.
    #[error("the run cannot be force-canceled yet: its agent has a moment to stop it gracefully")]
    CoolOff {
        /// From when on it is allowed.
        available_at: Timestamp,
    },
    /// The job is held by another attempt, or nobody.
    #[error("the job is held by another attempt")]
    OtherAttempt,
    /// The offer is older than the job.
    #[error("the job was assigned since it was offered")]
    OtherGeneration,
    /// The job is over.
    #[error("the job has ended")]
    JobEnded,
    /// Somebody asked to stop the run.
    #[error("the run was asked to stop ({0})")]
    NotWanted(Desired),
    /// The run has ended.
    #[error("the run has ended ({0})")]
    RunEnded(RunStatus),
    /// The workspace's lock is not the one the run took.
    #[error("the run does not hold the workspace's lock any more")]
    LockMoved,
    /// The agent may not have this job.
    #[error("{0}")]
    NotAllowed(&'static str),
    /// The start was granted, so the attempt cannot say that init failed, or the other way round.
    #[error("this end does not fit: {0}")]
    Unfitting(&'static str),
    /// The deadline has not passed.
    #[error("it is not due yet")]
    NotDue,
    /// The event speaks of a job that does not exist.
    #[error("the run has no such job")]
    NoJob,
}

fn lost_detail(last_contact: Option<Timestamp>, safe_at: Option<Timestamp>) -> String {
    let heard = match last_contact {
        Some(at) => format!("its agent was last heard at {}", utc(at)),
        None => "its agent was not heard".to_owned(),
    };
    match safe_at {
        Some(at) => format!(
            "{heard} and its apply may still be running; the lock ends by itself at {}, or at once when the agent \
             reports the end. To unlock before, an administrator has to acknowledge the attempt that may be running \
             (acknowledge-running)",
            utc(at)
        ),
        None => format!(
            "{heard} and its apply may still be running; the lock ends when the agent reports the end, or when an \
             administrator acknowledges the attempt that may be running (acknowledge-running)"
        ),
    }
}

/// A time as people read it, in UTC, to the second.
pub(crate) fn utc(at: Timestamp) -> String {
    let seconds = at.0.div_euclid(1000);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since the epoch to a civil date: eras of 400 years, years beginning in March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_texts_are_civil_dates() {
        assert_eq!(utc(Timestamp(0)), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(Timestamp(951_782_400_000)), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(Timestamp(1_735_689_599_999)), "2024-12-31 23:59:59 UTC");
    }

    #[test]
    fn lock_refusals_carry_the_words_that_clients_look_for() {
        let run = RunId::from_random([1; 16]);
        assert!(
            Refusal::LockedByRun(run.clone())
                .to_string()
                .contains("is locked by Run")
        );
        let lost = Refusal::LockedByLostRun {
            run,
            attempt: None,
            last_contact: None,
            safe_at: None,
        };
        assert!(lost.to_string().contains("is locked by Run"));
        assert!(
            Refusal::LockedByUser(UserId::from_random([1; 16]))
                .to_string()
                .contains("is locked by User")
        );
        assert!(Refusal::AlreadyUnlocked.to_string().contains("already unlocked"));
        assert!(
            Refusal::StatePending
                .to_string()
                .contains("latest state version is still pending")
        );
    }
}

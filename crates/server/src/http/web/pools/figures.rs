//! Figures of a pool's last day, counted from its jobs.

use terrapool_model::time::{Millis, Timestamp};
use terrapool_protocol::job::{FailureReason, Outcome};
use terrapool_store::overview::JobView;

use crate::http::web::parts::Tone;
use crate::http::web::parts::chart::{Bars, Spark};
use crate::http::web::parts::time::Took;

/// Jobs of a pool that are counted at most.
pub(in crate::http::web) const MOST: u32 = 5000;
/// Pieces that a period is cut into.
const PIECES: usize = 24;

/// What a pool did in a period.
#[derive(Debug, Clone, Default)]
pub(in crate::http::web) struct Figures {
    /// Jobs that were taken.
    pub(in crate::http::web) jobs: u64,
    /// Jobs that failed for a reason that is not the configuration's.
    pub(in crate::http::web) failures: u64,
    /// Half of the jobs waited no longer.
    pub(in crate::http::web) median: Option<Millis>,
    /// 95 of 100 waited no longer.
    pub(in crate::http::web) p95: Option<Millis>,
    /// Longest wait in each piece of the period, milliseconds, oldest first.
    pub(in crate::http::web) waits: Vec<u64>,
    /// Jobs taken in each piece, oldest first.
    pub(in crate::http::web) taken: Vec<u64>,
}

/// Whether a job failed by our fault.
pub(in crate::http::web) fn is_platform_failure(job: &JobView) -> bool {
    match &job.outcome {
        Some(Outcome::EngineLost { .. }) => true,
        Some(Outcome::Failed { reason, .. }) => match reason {
            FailureReason::OutOfMemory
            | FailureReason::Limit
            | FailureReason::LostContact
            | FailureReason::Internal
            | FailureReason::Engine => true,
            FailureReason::Configuration
            | FailureReason::Init
            | FailureReason::Exit
            | FailureReason::PlanMismatch => false,
        },
        Some(Outcome::Succeeded { .. } | Outcome::Canceled | Outcome::NeverStarted { .. }) => false,
        // Ended without a report: given up.
        None => job.finished_at.is_some() && job.state == terrapool_model::job::JobState::Lost,
    }
}

/// Counts the jobs that were queued in a period that ends now.
pub(in crate::http::web) fn count(jobs: &[JobView], period: Millis, now: Timestamp) -> Figures {
    let mut figures = Figures {
        waits: vec![0; PIECES],
        taken: vec![0; PIECES],
        ..Figures::default()
    };
    let mut all = Vec::new();
    let piece = (period.0 / PIECES as u64).max(1);
    for job in jobs {
        let Some(started) = job.started_at else {
            continue;
        };
        let wait = (started - job.queued_at).0;
        let age = (now - job.queued_at).0 / piece;
        let index = PIECES.saturating_sub(1 + usize::try_from(age).unwrap_or(PIECES));
        figures.jobs += 1;
        figures.taken[index] += 1;
        figures.waits[index] = figures.waits[index].max(wait);
        figures.failures += u64::from(is_platform_failure(job));
        all.push(wait);
    }
    all.sort_unstable();
    let at = |hundredth: usize| {
        let index = (all.len() * hundredth).div_ceil(100).saturating_sub(1);
        all.get(index).copied().map(Millis)
    };
    figures.median = at(50);
    figures.p95 = at(95);
    figures
}

/// Waits up to this are calm: all charts are at least so high, so that a calm pool looks calm beside another one.
const CALM: Millis = Millis::from_seconds(60);

impl Figures {
    /// "1.6 s and 3 min 48 s".
    pub(in crate::http::web) fn wait_words(&self) -> String {
        match (self.median, self.p95) {
            (Some(median), Some(p95)) => format!("{} / {}", Took(median), Took(p95)),
            _ => "—".to_owned(),
        }
    }

    /// The longest waits over time.
    pub(in crate::http::web) fn spark(&self, of: &str) -> Spark {
        let most = Millis(self.waits.iter().copied().max().unwrap_or(0));
        Spark {
            values: self.waits.clone(),
            whole: CALM.0,
            tone: if most > CALM { Tone::Warn } else { Tone::Live },
            sentence: format!("Longest queue wait{of} over time, at most {}", Took(most)),
        }
    }

    /// The jobs over time.
    pub(in crate::http::web) fn bars(&self, of: &str) -> Bars {
        Bars {
            values: self.taken.clone(),
            tone: Tone::Live,
            sentence: format!("Jobs taken{of} over time, {} in all", self.jobs),
        }
    }
}

#[cfg(test)]
mod tests {
    use terrapool_model::id::{AgentPoolId, JobId, RunId};
    use terrapool_model::job::{JobState, Phase};
    use terrapool_protocol::job::Limits;

    use super::*;

    fn job(queued: i64, wait: i64) -> JobView {
        JobView {
            id: JobId::from_random([1; 16]),
            run_id: RunId::from_random([1; 16]),
            message: String::new(),
            workspace: String::new(),
            organization: String::new(),
            pool_id: AgentPoolId::from_random([1; 16]),
            phase: Phase::Plan,
            state: JobState::Done,
            generation: 1,
            attempt: None,
            agent_id: None,
            agent: None,
            tries: 1,
            last_contact: None,
            queued_at: Timestamp(queued),
            started_at: Some(Timestamp(queued + wait)),
            finished_at: None,
            limits: Limits::default(),
            outcome: None,
            usage: None,
        }
    }

    #[test]
    fn waits_are_counted_where_they_happened() {
        let period = Millis(24_000);
        let jobs: Vec<JobView> = (0..20)
            .map(|index| job(23_500, index * 10))
            .chain([job(500, 9_000)])
            .collect();
        let figures = count(&jobs, period, Timestamp(24_000));
        assert_eq!(figures.jobs, 21);
        assert_eq!(figures.median, Some(Millis(100)));
        assert_eq!(figures.p95, Some(Millis(190)));
        assert_eq!((figures.taken[0], figures.taken[23]), (1, 20));
        assert_eq!(figures.waits[0], 9_000);
        assert_eq!(count(&[], period, Timestamp(0)).wait_words(), "—");
    }
}

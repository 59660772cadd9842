//! How long an agent works when nobody tells it to end: autoscalers start agents for a job, or for as long as there are
//! some.

use std::time::Duration;

use terrapool_agent_core::attempt::Boottime;
use terrapool_model::time::Millis;

/// When an agent ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Never.
    UntilTold,
    /// Once it has finished one job.
    Once,
    /// Once it has held no job for so long.
    UntilIdle(Millis),
}

/// Why an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Told,
    /// It worked as long as it was to.
    Spent,
}

/// What an agent has done of it.
#[derive(Debug)]
pub(super) struct Span {
    lifetime: Lifetime,
    idle_since: Boottime,
}

impl Span {
    pub(super) fn new(lifetime: Lifetime, now: Boottime) -> Self {
        Self {
            lifetime,
            idle_since: now,
        }
    }

    /// Whether it takes no more jobs, now that it holds one or none.
    pub(super) fn is_over(&mut self, holds_job: bool, now: Boottime) -> bool {
        if holds_job {
            self.idle_since = now;
        }
        match self.lifetime {
            Lifetime::UntilTold => false,
            Lifetime::Once => holds_job,
            Lifetime::UntilIdle(limit) => now.since(self.idle_since) >= limit,
        }
    }

    /// When to look again at the latest.
    pub(super) fn look_again(&self, now: Boottime) -> Duration {
        match self.lifetime {
            Lifetime::UntilTold | Lifetime::Once => Duration::from_secs(3600),
            Lifetime::UntilIdle(limit) => {
                let left = limit.0.saturating_sub(now.since(self.idle_since).0);
                Millis(left.max(100)).to_std()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_job_is_enough() {
        let mut span = Span::new(Lifetime::Once, Boottime(0));
        assert!(!span.is_over(false, Boottime(1_000_000)));
        assert!(span.is_over(true, Boottime(1_000_001)));
    }

    #[test]
    fn idle_time_begins_anew_with_each_job() {
        let mut span = Span::new(Lifetime::UntilIdle(Millis(1000)), Boottime(0));
        assert!(!span.is_over(false, Boottime(999)));
        assert!(!span.is_over(true, Boottime(5000)));
        assert!(!span.is_over(false, Boottime(5999)));
        assert_eq!(span.look_again(Boottime(5800)), Duration::from_millis(200));
        assert!(span.is_over(false, Boottime(6000)));
    }
}

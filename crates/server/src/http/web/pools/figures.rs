//! Figures of a pool over a period, from what was kept of it minute by minute.

use terrapool_model::id::AgentPoolId;
use terrapool_model::pool_minutes::Activity;
use terrapool_model::time::{Millis, Timestamp};
use terrapool_store::db::Connection;
use terrapool_store::error::StoreError;
use terrapool_store::pool_minutes;

use crate::http::web::parts::Tone;
use crate::http::web::parts::chart::{Bars, Spark};
use crate::http::web::parts::time::Took;

/// Of a hundred jobs, 95 should wait no longer.
pub(in crate::http::web) const GOAL: Millis = Millis::from_seconds(10);

/// Waits up to this are calm: all charts are at least so high, so that a calm pool looks calm beside another one.
const CALM: Millis = Millis::from_seconds(60);

/// A period that ends now: how many pieces it is shown in, and how many minutes each of them has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http::web) struct Period {
    pieces: usize,
    minutes: i64,
}

/// The last hour.
pub(in crate::http::web) const HOUR: Period = Period {
    pieces: 20,
    minutes: 3,
};
/// The last 24 hours.
pub(in crate::http::web) const DAY: Period = Period {
    pieces: 24,
    minutes: 60,
};
/// The last seven days.
pub(in crate::http::web) const WEEK: Period = Period {
    pieces: 28,
    minutes: 360,
};

/// What a pool, or several, did in a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http::web) struct Figures {
    /// Oldest first.
    pieces: Vec<Activity>,
    whole: Activity,
}

/// Reads what a pool did in a period.
pub(in crate::http::web) async fn of(
    connection: &mut Connection,
    pool: &AgentPoolId,
    period: Period,
    now: Timestamp,
) -> Result<Figures, StoreError> {
    let pieces = pool_minutes::pieces(connection, pool, (period.pieces, period.minutes), now).await?;
    Ok(Figures::new(pieces))
}

impl Figures {
    fn new(pieces: Vec<Activity>) -> Self {
        let mut whole = Activity::default();
        for piece in &pieces {
            whole.merge(piece);
        }
        Self { pieces, whole }
    }

    /// What several pools did in the same period.
    pub(in crate::http::web) fn together<'a>(all: impl Iterator<Item = &'a Self>, period: Period) -> Self {
        let mut pieces = vec![Activity::default(); period.pieces];
        for figures in all {
            for (piece, other) in pieces.iter_mut().zip(&figures.pieces) {
                piece.merge_pool(other);
            }
        }
        Self::new(pieces)
    }

    /// Jobs that were taken.
    pub(in crate::http::web) fn jobs(&self) -> u64 {
        self.whole.waits.count()
    }

    /// Jobs that failed by a fault of the platform.
    pub(in crate::http::web) fn failures(&self) -> u64 {
        self.whole.failures
    }

    /// Whether 95 of 100 jobs waited no longer than they should.
    pub(in crate::http::web) fn is_within_goal(&self) -> bool {
        self.whole.percentile(95).is_none_or(|p95| p95 <= GOAL)
    }

    /// "1.6 s / 3 min 48 s".
    pub(in crate::http::web) fn wait_words(&self) -> String {
        match (self.whole.percentile(50), self.whole.percentile(95)) {
            (Some(median), Some(p95)) => format!("{} / {}", Took(median), Took(p95)),
            _ => "—".to_owned(),
        }
    }

    /// The longest waits over time.
    pub(in crate::http::web) fn spark(&self, of: &str) -> Spark {
        let most = self.whole.longest_wait;
        Spark {
            values: self.pieces.iter().map(|piece| piece.longest_wait.0).collect(),
            whole: CALM.0,
            tone: if most > CALM { Tone::Warn } else { Tone::Live },
            sentence: format!("Longest queue wait{of} over time, at most {}", Took(most)),
        }
    }

    /// The jobs over time.
    pub(in crate::http::web) fn jobs_over_time(&self) -> Bars {
        Bars {
            values: self.pieces.iter().map(|piece| piece.waits.count()).collect(),
            tone: Tone::Live,
            sentence: format!("Jobs taken over time, {} in all", self.jobs()),
        }
    }

    /// The slots in use over time.
    pub(in crate::http::web) fn used_over_time(&self, of: &str) -> Bars {
        Bars {
            values: self.pieces.iter().map(|piece| piece.most_used).collect(),
            tone: Tone::Live,
            sentence: format!("Slots in use{of} over time, at most {}", self.whole.most_used),
        }
    }

    /// The jobs that waited at once over time.
    pub(in crate::http::web) fn waiting_over_time(&self) -> Spark {
        Spark {
            values: self.pieces.iter().map(|piece| piece.most_waiting).collect(),
            whole: 0,
            tone: Tone::Live,
            sentence: format!(
                "Jobs waiting at once over time, at most {}",
                self.whole.most_waiting
            ),
        }
    }

    /// The failures by a fault of the platform over time.
    pub(in crate::http::web) fn failures_over_time(&self) -> Spark {
        Spark {
            values: self.pieces.iter().map(|piece| piece.failures).collect(),
            whole: 0,
            tone: Tone::Bad,
            sentence: format!("Failures by the platform over time, {} in all", self.failures()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(waits: impl Iterator<Item = u64>, used: u64) -> Activity {
        let mut piece = Activity {
            most_used: used,
            ..Activity::default()
        };
        for wait in waits {
            piece.waits.add(Millis(wait));
            piece.longest_wait = piece.longest_wait.max(Millis(wait));
        }
        piece
    }

    #[test]
    fn percentiles_are_those_of_all_pieces_and_pools_together() {
        let period = Period {
            pieces: 2,
            minutes: 1,
        };
        let quick = Figures::new(vec![piece((0..60).map(|_| 2), 1), piece((0..30).map(|_| 3), 2)]);
        let slow = Figures::new(vec![piece((0..10).map(|_| 20_000), 3), Activity::default()]);
        assert_eq!(quick.wait_words(), "0.0 s / 0.0 s");
        assert!(quick.is_within_goal() && !slow.is_within_goal());
        let both = Figures::together([&quick, &slow].into_iter(), period);
        assert_eq!(both.jobs(), 100);
        assert_eq!(both.whole.percentile(90), Some(Millis(3)));
        assert_eq!(both.whole.percentile(95), Some(Millis(19_456)));
        assert!(!both.is_within_goal());
        assert_eq!(both.used_over_time("").values, [4, 2]);
        assert_eq!(both.jobs_over_time().values, [70, 30]);
        assert_eq!(both.spark("").tone, Tone::Live);
        let none = Figures::together([].into_iter(), period);
        assert_eq!((none.wait_words().as_str(), none.is_within_goal()), ("—", true));
    }
}

//! Leases that end, with three brakes: nobody expires before this process has listened for the length of a lease; a
//! step of the clock makes it listen anew; and when many leases would end at once, a network or server is at fault
//! rather than agents, and one more lease is waited.

use std::time::{Duration, Instant};

use terrapool_model::id::JobId;
use terrapool_model::time::{Millis, Timestamp};
use terrapool_store::runs::TransitionError;
use terrapool_store::{jobs, locks};

use super::{ReconcileError, flush_contacts, report};
use crate::app::App;

/// Wall and monotonic time may drift apart by so much between two turns.
const DRIFT: Millis = Millis::from_seconds(5);

/// So many leases may end together in any case.
const FEW: usize = 5;

/// The pass over leases.
#[derive(Debug)]
pub struct Leases {
    last: Option<(Timestamp, Instant)>,
    /// Until when a mass expiry waits; after that it goes on.
    alarmed: Option<Instant>,
}

impl Leases {
    /// A pass that has not looked yet.
    pub fn new() -> Self {
        Self {
            last: None,
            alarmed: None,
        }
    }

    /// Gives up the jobs whose lease has ended.
    ///
    /// # Errors
    /// [`ReconcileError`] when the database fails.
    pub async fn expire(&mut self, app: &App) -> Result<(), ReconcileError> {
        flush_contacts(app).await?;
        let now = app.now();
        if self.clock_stepped(now) {
            tracing::warn!("the clock was set: leases are counted anew");
            app.presence.listen_anew();
            return Ok(());
        }
        let held = jobs::held(&mut app.db.read().await?).await?;
        let due: Vec<JobId> = held
            .iter()
            .filter(|job| now > job.expires_at && app.presence.may_expire(job.lease))
            .map(|job| job.id.clone())
            .collect();
        let longest = held.iter().map(|job| job.lease).max().unwrap_or(Millis::ZERO);
        if self.is_mass_expiry(due.len(), held.len(), longest) {
            return Ok(());
        }
        for job in due {
            expire(app, job).await?;
        }
        Ok(())
    }

    fn clock_stepped(&mut self, now: Timestamp) -> bool {
        let instant = Instant::now();
        let stepped = self.last.is_some_and(|(wall, monotonic)| {
            let expected = i64::try_from((instant - monotonic).as_millis()).unwrap_or(i64::MAX);
            let drift = (now.0 - wall.0).saturating_sub(expected).unsigned_abs();
            drift > DRIFT.0
        });
        self.last = Some((now, instant));
        stepped
    }

    fn is_mass_expiry(&mut self, due: usize, held: usize, longest: Millis) -> bool {
        if due <= FEW.max(held / 5) {
            if due == 0 {
                self.alarmed = None;
            }
            return false;
        }
        let now = Instant::now();
        let until = *self.alarmed.get_or_insert_with(|| {
            tracing::error!(
                due,
                held,
                "many agents fell silent together: their jobs are kept for one more lease"
            );
            now + longest.to_std()
        });
        now < until
    }
}

impl Default for Leases {
    fn default() -> Self {
        Self::new()
    }
}

async fn expire(app: &App, job: JobId) -> Result<(), ReconcileError> {
    let id = job.clone();
    let expired = app
        .db
        .write::<_, TransitionError, _>(move |tx| {
            let id = id.clone();
            Box::pin(async move { jobs::expire(tx, &id).await })
        })
        .await;
    match expired {
        Ok(()) => {
            tracing::warn!(
                job = job.as_str(),
                "a job was given up: its agent was not heard any more"
            );
            Ok(())
        }
        // Heard in the meantime, or ended.
        Err(TransitionError::NotFound | TransitionError::Refused(_)) => Ok(()),
        Err(TransitionError::Store(error)) => Err(error.into()),
    }
}

/// Frees workspaces whose lost apply cannot be running any more.
///
/// # Errors
/// [`ReconcileError`] when the database fails.
pub async fn end_quarantines(app: &App) -> Result<(), ReconcileError> {
    let ended = locks::ended_quarantines(&mut app.db.read().await?, app.now()).await?;
    for workspace in ended {
        let id = workspace.clone();
        let freed = app
            .db
            .write::<_, TransitionError, _>(move |tx| {
                let id = id.clone();
                Box::pin(async move { locks::end_quarantine(tx, &id).await })
            })
            .await;
        match freed {
            Ok(()) => tracing::warn!(
                workspace = workspace.as_str(),
                "the lock of a lost apply has ended"
            ),
            Err(TransitionError::NotFound | TransitionError::Refused(_)) => {}
            Err(TransitionError::Store(error)) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Both passes, forever.
pub(super) async fn run(app: App, each: Duration) {
    let mut leases = Leases::new();
    loop {
        tokio::time::sleep(each).await;
        report("leases", leases.expire(&app).await);
        report("quarantines", end_quarantines(&app).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mass_expiry_waits_one_more_lease_and_then_goes_on() {
        let mut leases = Leases::new();
        assert!(!leases.is_mass_expiry(5, 5, Millis(20)));
        assert!(!leases.is_mass_expiry(20, 100, Millis(20)));
        assert!(leases.is_mass_expiry(21, 100, Millis(20)));
        leases.alarmed = Some(Instant::now());
        assert!(!leases.is_mass_expiry(21, 100, Millis(20)));
    }

    #[test]
    fn a_step_of_the_clock_is_seen_in_both_directions() {
        let mut leases = Leases::new();
        assert!(!leases.clock_stepped(Timestamp(10_000_000)));
        assert!(!leases.clock_stepped(Timestamp(10_001_000)));
        assert!(leases.clock_stepped(Timestamp(13_600_000)));
        assert!(leases.clock_stepped(Timestamp(10_000_000)));
    }
}

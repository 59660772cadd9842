//! Leases and quarantines that end, as far as the [`brakes`] let them: nobody expires before this
//! process has listened for the length of a lease without interruption.

use std::time::Duration;

use terrapool_model::id::JobId;
use terrapool_model::time::Millis;
use terrapool_store::error::StoreError;
use terrapool_store::runs::TransitionError;
use terrapool_store::{deadlines, jobs, locks};

use super::brakes::{self, Brakes, Elapsed};
use super::{ReconcileError, flush_contacts, report};
use crate::app::App;

/// The pass over leases.
#[derive(Debug, Default)]
pub struct Leases {
    brakes: Brakes,
    /// By how much the clock was set since deadlines were last known to be in step with it.
    set: i64,
    /// By how much deadlines had been moved then, by any process.
    moved: i64,
}

impl Leases {
    /// A pass that has not looked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives up the jobs whose lease has ended, and frees the workspaces whose quarantine has.
    ///
    /// # Errors
    /// [`ReconcileError`] when the database fails. Then nobody's silence counts from before.
    pub async fn expire(&mut self, app: &App) -> Result<(), ReconcileError> {
        let passed = self.pass(app).await;
        if passed.is_err() {
            app.presence.listen_anew(app.monotonic());
        }
        passed
    }

    async fn pass(&mut self, app: &App) -> Result<(), ReconcileError> {
        let now = app.db.time().await?;
        match self.brakes.look(now, app.monotonic()) {
            Elapsed::Steadily => {}
            Elapsed::ClockSet(by) => {
                tracing::warn!(milliseconds = by, "the clock was set: deadlines move with it");
                self.set = self.set.saturating_add(by);
                app.presence.listen_anew(app.monotonic());
            }
            Elapsed::Standstill => {
                tracing::warn!("nobody listened to agents for a while: leases are counted anew");
                app.presence.listen_anew(app.monotonic());
            }
        }
        if self.set != 0 {
            return self.move_deadlines(app).await;
        }
        self.moved = deadlines::moved(&mut app.db.read().await?).await?;
        flush_contacts(app).await?;
        self.end_leases(app).await?;
        end_quarantines(app).await
    }

    /// Nothing ends in the turn that sees a clock that was set.
    async fn move_deadlines(&mut self, app: &App) -> Result<(), ReconcileError> {
        let (set, moved) = (self.set, self.moved);
        self.moved = app
            .db
            .write::<_, StoreError, _>(move |tx| {
                Box::pin(async move { deadlines::follow_clock(tx, set, moved).await })
            })
            .await?;
        self.set = 0;
        Ok(())
    }

    async fn end_leases(&mut self, app: &App) -> Result<(), ReconcileError> {
        let (now, monotonic) = (app.db.time().await?, app.monotonic());
        let held = jobs::held(&mut app.db.read().await?).await?;
        let ahead = |job: &jobs::HeldJob| {
            job.last_contact
                .is_some_and(|at| brakes::is_in_the_future(at, now))
        };
        let quarantine = deadlines::is_quarantine_ahead(&mut app.db.read().await?, now).await?;
        if quarantine || held.iter().any(ahead) {
            // The clock was set back while no process was looking; such a contact would keep its
            // lease, or its quarantine, for as long again.
            app.db
                .write::<_, StoreError, _>(|tx| Box::pin(deadlines::contacts_are_past(tx)))
                .await?;
            app.presence.listen_anew(monotonic);
            return Ok(());
        }
        let due: Vec<JobId> = held
            .iter()
            .filter(|job| now > job.expires_at && app.presence.may_expire(job.lease, monotonic))
            .map(|job| job.id.clone())
            .collect();
        let longest = held.iter().map(|job| job.lease).max().unwrap_or(Millis::ZERO);
        if !self.brakes.may_expire(due.len(), held.len(), longest, monotonic) {
            return Ok(());
        }
        for job in due {
            expire(app, job).await?;
        }
        Ok(())
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
    let now = app.db.time().await?;
    let ended = locks::ended_quarantines(&mut app.db.read().await?, now).await?;
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

/// The pass, forever.
pub(super) async fn run(app: App, each: Duration) {
    let mut leases = Leases::new();
    loop {
        tokio::time::sleep(each).await;
        report("leases", leases.expire(&app).await);
    }
}

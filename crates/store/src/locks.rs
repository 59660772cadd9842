//! The workspace's lock, as people take and release it.

use terrapool_model::id::{AttemptId, RunId, UserId, WorkspaceId};
use terrapool_model::lock::{Lock, Workspace};
use terrapool_model::refusal::Refusal;
use terrapool_model::transition::{Event, explain_lost};

use crate::db::{Hint, Tx};
use crate::error::StoreError;
use crate::lifecycle::{self, Details};
use crate::values;

pub use crate::lifecycle::TransitionError;

async fn load(tx: &mut Tx, workspace: &WorkspaceId) -> Result<Workspace, TransitionError> {
    let row = lifecycle::lock_workspace(tx, workspace)
        .await?
        .ok_or(TransitionError::NotFound)?;
    Ok(lifecycle::workspace_from_row(&row)?)
}

/// Adds to a refusal by a quarantine which attempt may be running and when it was heard.
async fn explained(tx: &mut Tx, refusal: Refusal) -> TransitionError {
    let Refusal::LockedByLostRun { run, .. } = &refusal else {
        return refusal.into();
    };
    let run: RunId = run.clone();
    match lifecycle::load(tx, &run).await {
        Ok(loaded) => explain_lost(refusal, &run, loaded.rows.apply.as_ref()).into(),
        Err(_) => refusal.into(),
    }
}

async fn require_no_pending_state(tx: &mut Tx, workspace: &WorkspaceId) -> Result<(), TransitionError> {
    let pending = tx
        .fetch_one(
            "SELECT COUNT(*) AS pending FROM state_versions WHERE workspace_id = $1 AND status = 'pending'",
            values![workspace],
        )
        .await?
        .count("pending")?;
    if pending > 0 {
        Err(Refusal::StatePending.into())
    } else {
        Ok(())
    }
}

async fn freed(tx: &mut Tx, workspace: &WorkspaceId) -> Result<(), StoreError> {
    tx.hint(Hint::Schedule);
    lifecycle::schedule(tx, workspace).await
}

/// A user locks the workspace: no run of it starts until it is unlocked.
///
/// # Errors
/// [`TransitionError::Refused`] when somebody holds the lock.
pub async fn lock_by_user(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    user: &UserId,
    reason: Option<&str>,
) -> Result<(), TransitionError> {
    let row = load(tx, workspace).await?;
    match row.lock_by_user(user) {
        Ok(next) => Ok(lifecycle::save_workspace(tx, workspace, &next, reason).await?),
        Err(refusal) => Err(explained(tx, refusal).await),
    }
}

/// The holder unlocks the workspace. A quarantine may be unlocked by anybody who may unlock, once it has ended.
///
/// # Errors
/// [`TransitionError::Refused`] when it is not locked, somebody else holds it, or a state upload is pending.
pub async fn unlock_by_user(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    user: Option<&UserId>,
) -> Result<(), TransitionError> {
    let row = load(tx, workspace).await?;
    match row.unlock_by_user(user, tx.now()) {
        Ok(next) => {
            require_no_pending_state(tx, workspace).await?;
            lifecycle::save_workspace(tx, workspace, &next, None).await?;
            Ok(freed(tx, workspace).await?)
        }
        Err(refusal) => Err(explained(tx, refusal).await),
    }
}

/// An administrator takes the lock away. `acknowledge` names the attempt of a lost apply that may still be running.
///
/// # Errors
/// [`TransitionError::Refused`] when it is not locked, a run is active, or the attempt is not named.
pub async fn force_unlock(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    _user: Option<&UserId>,
    acknowledge: Option<&AttemptId>,
) -> Result<(), TransitionError> {
    let row = load(tx, workspace).await?;
    match &row.lock {
        Lock::Lost { run, .. } => {
            // The run's rows change with it; the refusal of the joint table explains the attempt.
            let event = Event::ForceUnlock {
                acknowledge: acknowledge.cloned(),
            };
            lifecycle::drive(tx, &run.clone(), &event, &Details::default()).await?;
            Ok(())
        }
        Lock::Free | Lock::User(_) | Lock::Run(_) => {
            let done = row.force_unlock(None, acknowledge, tx.now())?;
            // The announced state versions of the holder will not come any more.
            tx.execute(
                "UPDATE state_versions SET status = 'discarded' WHERE workspace_id = $1 AND status = 'pending'",
                values![workspace],
            )
            .await?;
            lifecycle::save_workspace(tx, workspace, &done.workspace, None).await?;
            Ok(freed(tx, workspace).await?)
        }
    }
}

/// Frees a workspace whose quarantine has ended.
///
/// # Errors
/// [`TransitionError::Refused`] when there is none that has ended.
pub async fn end_quarantine(tx: &mut Tx, workspace: &WorkspaceId) -> Result<(), TransitionError> {
    let row = load(tx, workspace).await?;
    let next = row.quarantine_ended(tx.now())?;
    lifecycle::save_workspace(tx, workspace, &next, None).await?;
    Ok(freed(tx, workspace).await?)
}

/// Workspaces whose quarantine has ended at `now`.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn ended_quarantines(
    connection: &mut crate::db::Connection,
    now: terrapool_model::time::Timestamp,
) -> Result<Vec<WorkspaceId>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT id FROM workspaces WHERE lock_state = 'lost' AND lock_safe_at IS NOT NULL \
             AND lock_safe_at <= $1 LIMIT 200",
            values![now],
        )
        .await?;
    rows.iter().map(|row| row.parse("id")).collect()
}

/// Schedules whatever may be scheduled in a workspace; for sweeps, since every change does it by itself.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn schedule(tx: &mut Tx, workspace: &WorkspaceId) -> Result<(), StoreError> {
    if lifecycle::lock_workspace(tx, workspace).await?.is_some() {
        lifecycle::schedule(tx, workspace).await?;
    }
    Ok(())
}

/// Workspaces that have a pending run which nothing holds back.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn schedulable(connection: &mut crate::db::Connection) -> Result<Vec<WorkspaceId>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT DISTINCT w.id FROM workspaces w JOIN runs r ON r.workspace_id = w.id \
             WHERE r.status = 'pending' AND (w.lock_state = 'free' OR r.plan_only = $1 OR r.save_plan = $2) \
             LIMIT 200",
            values![true, true],
        )
        .await?;
    rows.iter().map(|row| row.parse("id")).collect()
}

//! Times in rows that have to follow the clock when it is set.

use terrapool_model::time::Timestamp;

use crate::db::{Connection, Tx};
use crate::error::StoreError;
use crate::values;

/// A clock that differs by less was not set.
const TOLERANCE: i64 = 5000;

/// By how many milliseconds deadlines were moved in all, by any process of the installation.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn moved(connection: &mut Connection) -> Result<i64, StoreError> {
    let row = connection
        .fetch_optional("SELECT clock_shift FROM installation", values![])
        .await?;
    row.map_or(Ok(0), |row| row.int("clock_shift"))
}

/// Moves contacts and deadlines by what the clock was set: `set` milliseconds in all since `moved` was read. What
/// another process has moved meanwhile counts. Returns by how much was moved in all.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn follow_clock(tx: &mut Tx, set: i64, moved: i64) -> Result<i64, StoreError> {
    let sql = format!("SELECT clock_shift FROM installation{}", tx.for_update());
    let Some(row) = tx.fetch_optional(&sql, values![]).await? else {
        return Ok(0);
    };
    let total = row.int("clock_shift")?;
    let by = set.saturating_sub(total.saturating_sub(moved));
    if by.saturating_abs() <= TOLERANCE {
        return Ok(total);
    }
    // Workspaces before runs before jobs, as everywhere.
    for sql in [
        "UPDATE workspaces SET lock_safe_at = lock_safe_at + $1 WHERE lock_state = 'lost' AND lock_safe_at IS NOT NULL",
        "UPDATE runs SET force_cancel_available_at = force_cancel_available_at + $1 \
         WHERE force_cancel_available_at IS NOT NULL AND status IN ('planning', 'apply_queued', 'applying')",
        "UPDATE jobs SET last_contact = last_contact + $1 \
         WHERE last_contact IS NOT NULL AND state IN ('leased', 'running', 'lost')",
        "UPDATE agents SET last_ping_at = last_ping_at + $1",
        "UPDATE installation SET clock_shift = clock_shift + $1",
    ] {
        tx.execute(sql, values![by]).await?;
    }
    Ok(total.saturating_add(by))
}

/// Whether a quarantine counts from a contact that lies in the future by more than clocks may differ.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn is_quarantine_ahead(connection: &mut Connection, now: Timestamp) -> Result<bool, StoreError> {
    let row = connection
        .fetch_optional(
            "SELECT 1 AS one FROM workspaces JOIN jobs ON jobs.run_id = workspaces.lock_run_id \
             WHERE workspaces.lock_state = 'lost' AND jobs.state IN ('running', 'lost') AND jobs.last_contact > $1 \
             LIMIT 1",
            values![Timestamp(now.0.saturating_add(TOLERANCE))],
        )
        .await?;
    Ok(row.is_some())
}

/// Contacts that lie in the future are taken for now, and quarantines count from there.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn contacts_are_past(tx: &mut Tx) -> Result<(), StoreError> {
    let now = tx.now();
    for sql in [
        "UPDATE workspaces SET lock_safe_at = lock_safe_at + $1 - \
         (SELECT MAX(last_contact) FROM jobs WHERE run_id = lock_run_id AND state IN ('running', 'lost')) \
         WHERE lock_state = 'lost' AND lock_safe_at IS NOT NULL AND EXISTS \
         (SELECT 1 FROM jobs WHERE run_id = lock_run_id AND state IN ('running', 'lost') AND last_contact > $1)",
        "UPDATE jobs SET last_contact = $1 WHERE last_contact > $1 AND state IN ('leased', 'running', 'lost')",
        "UPDATE agents SET last_ping_at = $1 WHERE last_ping_at > $1",
    ] {
        tx.execute(sql, values![now]).await?;
    }
    Ok(())
}

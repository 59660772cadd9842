//! The installation: one row.

use terrapool_model::id::{InstallationId, RunId};
use terrapool_model::time::Timestamp;
use terrapool_model::transition::Event;

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::lifecycle::{self, Details, TransitionError};
use crate::runs::ACTIVE;
use crate::values;

/// The installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallationRecord {
    /// Id.
    pub id: InstallationId,
    /// Grows when the database is restored from a backup.
    pub incarnation: u64,
    /// When it was made.
    pub created_at: Timestamp,
}

fn from_row(row: &Row) -> Result<InstallationRecord, StoreError> {
    Ok(InstallationRecord {
        id: row.parse("id")?,
        incarnation: row.count("incarnation")?,
        created_at: row.time("created_at")?,
    })
}

/// The installation, if it was made.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(connection: &mut Connection) -> Result<Option<InstallationRecord>, StoreError> {
    connection
        .fetch_optional("SELECT id, incarnation, created_at FROM installation", values![])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// The installation; made when there is none.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get_or_create(tx: &mut Tx) -> Result<InstallationRecord, StoreError> {
    if let Some(found) = get(tx).await? {
        return Ok(found);
    }
    let one = if tx.is_postgres() { "TRUE" } else { "1" };
    let (id, now) = (InstallationId::from_random(tx.draw()), tx.now());
    let sql = format!(
        "INSERT INTO installation (one, id, incarnation, created_at) VALUES ({one}, $1, 1, $2) \
         ON CONFLICT (one) DO NOTHING"
    );
    tx.execute(&sql, values![&id, now]).await?;
    get(tx).await?.ok_or(StoreError::Reference)
}

/// Notes that the rows come from a backup; [`finish_restore`] does what follows.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn mark_restored(tx: &mut Tx) -> Result<(), StoreError> {
    get_or_create(tx).await?;
    tx.execute("UPDATE installation SET restore_pending = $1", values![true])
        .await?;
    Ok(())
}

/// Does what follows from a restore that was noted and has not been dealt with; `None` when there is none.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn finish_restore(tx: &mut Tx) -> Result<Option<InstallationRecord>, StoreError> {
    let sql = format!("SELECT restore_pending FROM installation{}", tx.for_update());
    match tx.fetch_optional(&sql, values![]).await? {
        Some(row) if row.bool("restore_pending")? => restored(tx).await.map(Some),
        Some(_) | None => Ok(None),
    }
}

/// Raises the incarnation after a restore. What agents did since the backup is not known here, so every run that has
/// not ended ends as errored, quarantines are counted from now, and in every workspace the next run waits for a person
/// even where auto-apply is on: the state may be older than the infrastructure.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn restored(tx: &mut Tx) -> Result<InstallationRecord, StoreError> {
    get_or_create(tx).await?;
    tx.execute(
        "UPDATE installation SET incarnation = incarnation + 1, restore_pending = $1",
        values![false],
    )
    .await?;
    let sql = format!(
        "SELECT id FROM runs WHERE status IN ({ACTIVE}) \
         OR id IN (SELECT lock_run_id FROM workspaces WHERE lock_state = 'lost') ORDER BY workspace_id, number"
    );
    for row in tx.fetch_all(&sql, values![]).await? {
        let run: RunId = row.parse("id")?;
        match lifecycle::drive(tx, &run, &Event::Restored, &Details::default()).await {
            Ok(_) | Err(TransitionError::NotFound | TransitionError::Refused(_)) => {}
            Err(TransitionError::Store(error)) => return Err(error),
        }
    }
    // A run of the other history that these rows do not know: it never delivers, so only a person clears it.
    let unknown = RunId::from_random(tx.draw());
    tx.execute(
        "UPDATE workspaces SET lost_run_id = $1 WHERE lost_run_id IS NULL",
        values![&unknown],
    )
    .await?;
    get(tx).await?.ok_or(StoreError::Reference)
}

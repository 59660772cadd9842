//! The installation: one row.

use terrapool_model::id::{InstallationId, RunId};
use terrapool_model::time::Timestamp;
use terrapool_model::transition::Event;

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::lifecycle::{self, Details, TransitionError};
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

/// Raises the incarnation after a restore. Every run that has not ended ends as errored, since agents may have gone
/// further than this database knows, and quarantines are counted anew. Auto-apply is off in every workspace that ever had
/// a run, until a person has confirmed one.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn restored(tx: &mut Tx) -> Result<InstallationRecord, StoreError> {
    get_or_create(tx).await?;
    tx.execute("UPDATE installation SET incarnation = incarnation + 1", values![])
        .await?;
    let rows = tx
        .fetch_all(
            "SELECT id FROM runs WHERE status IN ('pending', 'plan_queued', 'planning', 'planned', \
             'planned_and_saved', 'apply_queued', 'applying') \
             OR id IN (SELECT lock_run_id FROM workspaces WHERE lock_state = 'lost') ORDER BY id",
            values![],
        )
        .await?;
    for row in rows {
        let run: RunId = row.parse("id")?;
        match lifecycle::drive(tx, &run, &Event::Restored, &Details::default()).await {
            Ok(_) | Err(TransitionError::NotFound | TransitionError::Refused(_)) => {}
            Err(TransitionError::Store(error)) => return Err(error),
        }
    }
    tx.execute(
        "UPDATE workspaces SET lost_run_id = current_run_id WHERE lost_run_id IS NULL",
        values![],
    )
    .await?;
    get(tx).await?.ok_or(StoreError::Reference)
}

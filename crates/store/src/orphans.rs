//! States that attempts of another history bring after a restore. What their jobs did is known to nobody here, so
//! their states never become current by themselves: a workspace that exists lists them as kept apart, the others wait
//! in an area of their own.

use terrapool_model::id::{JobId, StateVersionId, WorkspaceId};
use terrapool_model::state_copy::Fate;
use terrapool_model::time::Timestamp;

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::kept_apart::{self, Reason};
use crate::lifecycle::{self, TransitionError};
use crate::page::{Listed, Page};
use crate::runs::opt_count;
use crate::state_copies::{self, NewCopy};
use crate::{audit, values};

/// A state whose workspace is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrphanState {
    /// Id; the context of its object.
    pub id: StateVersionId,
    /// The workspace it belonged to.
    pub workspace_id: WorkspaceId,
    /// The job that brought it.
    pub job: JobId,
    /// The attempt that brought it.
    pub attempt: String,
    /// The incarnation that assigned the attempt.
    pub incarnation: u64,
    /// Serial, when the document could be read.
    pub serial: Option<u64>,
    /// Lineage, when the document could be read.
    pub lineage: Option<String>,
    /// MD5 of the bytes.
    pub md5: String,
    /// Bytes.
    pub size: u64,
    /// Where the bytes lie.
    pub object_key: String,
    /// When it arrived.
    pub created_at: Timestamp,
}

/// Stores a state of an attempt that another history assigned. It is never current.
///
/// # Errors
/// [`TransitionError::Store`] when the database fails.
pub async fn surrender(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    incarnation: u64,
    new: &NewCopy,
) -> Result<Fate, TransitionError> {
    let known = lifecycle::lock_workspace(tx, workspace).await?.is_some();
    if is_stored(tx, &new.job, &new.sha256).await? {
        return Ok(Fate::AlreadyStored);
    }
    if known {
        kept_apart::keep(tx, workspace, None, new, Reason::OtherHistory).await?;
        return Ok(Fate::KeptApart);
    }
    let now = tx.now();
    tx.execute(
        "INSERT INTO orphan_states (id, workspace_id, job_id, generation, attempt, incarnation, serial, lineage, md5, \
         sha256, size, object_key, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        values![
            &new.id,
            workspace,
            &new.job,
            new.generation,
            &new.attempt,
            incarnation,
            new.serial,
            new.lineage.as_deref(),
            &new.md5,
            &new.sha256,
            new.size,
            &new.object_key,
            now,
        ],
    )
    .await?;
    let detail =
        serde_json::json!({"workspace": workspace.as_str(), "job": new.job.as_str(), "serial": new.serial});
    audit::record(tx, None, "system", "state.orphaned", new.id.as_str(), &detail).await?;
    Ok(Fate::KeptApart)
}

/// Whether a state with this digest was stored for a job, with its workspace or apart.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn is_stored(connection: &mut Connection, job: &JobId, sha256: &str) -> Result<bool, StoreError> {
    if state_copies::is_stored(connection, job, sha256).await? {
        return Ok(true);
    }
    let row = connection
        .fetch_optional(
            "SELECT id FROM orphan_states WHERE job_id = $1 AND sha256 = $2 LIMIT 1",
            values![job, sha256],
        )
        .await?;
    Ok(row.is_some())
}

const COLUMNS: &str =
    "id, workspace_id, job_id, attempt, incarnation, serial, lineage, md5, size, object_key, created_at";

fn from_row(row: &Row) -> Result<OrphanState, StoreError> {
    Ok(OrphanState {
        id: row.parse("id")?,
        workspace_id: row.parse("workspace_id")?,
        job: row.parse("job_id")?,
        attempt: row.text("attempt")?,
        incarnation: row.count("incarnation")?,
        serial: opt_count(row, "serial")?,
        lineage: row.opt_text("lineage")?,
        md5: row.text("md5")?,
        size: row.count("size")?,
        object_key: row.text("object_key")?,
        created_at: row.time("created_at")?,
    })
}

/// A state of a workspace that is not known.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(
    connection: &mut Connection,
    id: &StateVersionId,
) -> Result<Option<OrphanState>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM orphan_states WHERE id = $1");
    connection
        .fetch_optional(&sql, values![id])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// States of workspaces that are not known, newest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn list(connection: &mut Connection, page: &Page) -> Result<Listed<OrphanState>, StoreError> {
    let total = connection
        .fetch_one("SELECT COUNT(*) AS total FROM orphan_states", values![])
        .await?
        .count("total")?;
    let sql = format!("SELECT {COLUMNS} FROM orphan_states ORDER BY created_at DESC, id LIMIT $1 OFFSET $2");
    let rows = connection
        .fetch_all(&sql, values![page.limit(), page.offset()])
        .await?;
    Ok(Listed {
        items: rows.iter().map(from_row).collect::<Result<_, _>>()?,
        total,
    })
}

//! States that attempts upload while they apply (protocol, section 7).

use terrapool_model::id::{AttemptId, JobId, OrganizationId, StateVersionId, WorkspaceId};
use terrapool_model::state_copy::{self, Fate, Mark, Upload};

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::jobs;
use crate::lifecycle::{self, TransitionError};
use crate::runs::opt_count;
use crate::{audit, values};

/// States kept apart for one job: the first and the newest two.
const KEPT_APART: usize = 3;

/// An uploaded state; its object is stored already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCopy {
    /// The version it becomes, drawn by the caller because the object is sealed with it.
    pub id: StateVersionId,
    /// The job.
    pub job: JobId,
    /// The assignment.
    pub generation: u64,
    /// The attempt.
    pub attempt: AttemptId,
    /// Serial, when the document could be read.
    pub serial: Option<u64>,
    /// Lineage, when the document could be read.
    pub lineage: Option<String>,
    /// MD5 of the bytes, lower-case hex, which the API shows.
    pub md5: String,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// Where the bytes lie.
    pub object_key: String,
}

fn mark(row: &Row) -> Result<Mark, StoreError> {
    Ok(Mark {
        serial: opt_count(row, "serial")?,
        lineage: row.opt_text("lineage")?,
    })
}

async fn mark_of(
    connection: &mut Connection,
    version: Option<&StateVersionId>,
) -> Result<Option<Mark>, StoreError> {
    let Some(version) = version else { return Ok(None) };
    connection
        .fetch_optional(
            "SELECT serial, lineage FROM state_versions WHERE id = $1",
            values![version],
        )
        .await?
        .as_ref()
        .map(mark)
        .transpose()
}

/// Whether a state with this digest was stored for a job.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn is_stored(connection: &mut Connection, job: &JobId, sha256: &str) -> Result<bool, StoreError> {
    let row = connection
        .fetch_optional(
            "SELECT id FROM state_versions WHERE job_id = $1 AND sha256 = $2 LIMIT 1",
            values![job, sha256],
        )
        .await?;
    Ok(row.is_some())
}

async fn snapshot(connection: &mut Connection, job: &JobId) -> Result<Option<StateVersionId>, StoreError> {
    let row = connection
        .fetch_optional("SELECT snapshot_id FROM jobs WHERE id = $1", values![job])
        .await?;
    row.map_or(Ok(None), |row| row.opt_parse("snapshot_id"))
}

/// Decides what becomes of an uploaded state and stores its row. With [`Fate::AlreadyStored`] and
/// [`Fate::Forbidden`] there is no new row, and the caller removes the object.
///
/// # Errors
/// [`TransitionError::NotFound`] when there is no such job.
pub async fn store(tx: &mut Tx, new: &NewCopy) -> Result<Fate, TransitionError> {
    let job = jobs::get(tx, &new.job).await?.ok_or(TransitionError::NotFound)?;
    let loaded = lifecycle::load(tx, &job.run_id).await?;
    let row = loaded.rows.job(job.row.phase).ok_or(TransitionError::NotFound)?;
    let newest = snapshot(tx, &new.job).await?;
    let upload = Upload {
        is_stored: is_stored(tx, &new.job, &new.sha256).await?,
        is_newest_attempt: row.is_of(new.generation, &new.attempt),
        mark: Mark {
            serial: new.serial,
            lineage: new.lineage.clone(),
        },
        current: mark_of(tx, loaded.current_state_version.as_ref()).await?,
        snapshot: mark_of(tx, newest.as_ref()).await?,
    };
    let fate = state_copy::decide(&upload, &loaded.rows.workspace, &loaded.rows.run, row);
    let status = match fate {
        Fate::AlreadyStored | Fate::Forbidden => return Ok(fate),
        Fate::Intermediate => "intermediate",
        Fate::Current => "finalized",
        Fate::KeptApart => "kept_apart",
    };
    let now = tx.now();
    tx.execute(
        "INSERT INTO state_versions (id, workspace_id, run_id, job_id, attempt, created_by, status, serial, \
         lineage, md5, sha256, size, object_key, engine_version, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        values![
            &new.id,
            &loaded.workspace_id,
            &loaded.run.id,
            &new.job,
            &new.attempt,
            loaded.run.created_by.as_ref(),
            status,
            new.serial,
            new.lineage.as_deref(),
            &new.md5,
            &new.sha256,
            new.size,
            &new.object_key,
            &loaded.run.engine_version,
            now,
        ],
    )
    .await?;
    match fate {
        Fate::Intermediate => {
            set_status(tx, newest.as_ref(), "discarded").await?;
            tx.execute(
                "UPDATE jobs SET snapshot_id = $2 WHERE id = $1",
                values![&new.job, &new.id],
            )
            .await?;
        }
        Fate::Current => make_current(tx, &loaded.workspace_id, &new.id).await?,
        Fate::KeptApart => kept_apart(tx, &loaded.workspace_id, new).await?,
        Fate::AlreadyStored | Fate::Forbidden => {}
    }
    Ok(fate)
}

async fn set_status(tx: &mut Tx, version: Option<&StateVersionId>, status: &str) -> Result<(), StoreError> {
    if let Some(version) = version {
        tx.execute(
            "UPDATE state_versions SET status = $2 WHERE id = $1",
            values![version, status],
        )
        .await?;
    }
    Ok(())
}

async fn make_current(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    version: &StateVersionId,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE workspaces SET current_state_version_id = $2, updated_at = $3 WHERE id = $1",
        values![workspace, version, now],
    )
    .await?;
    Ok(())
}

async fn kept_apart(tx: &mut Tx, workspace: &WorkspaceId, new: &NewCopy) -> Result<(), StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT id FROM state_versions WHERE job_id = $1 AND status = 'kept_apart' ORDER BY created_at, id",
            values![&new.job],
        )
        .await?;
    // The one just stored may sort before others of the same millisecond; it stays all the same.
    let spare = rows.len().saturating_sub(KEPT_APART);
    for row in rows.iter().skip(1).take(spare) {
        let version: StateVersionId = row.parse("id")?;
        if version != new.id {
            set_status(tx, Some(&version), "discarded").await?;
        }
    }
    let organization: OrganizationId = tx
        .fetch_one(
            "SELECT organization_id FROM workspaces WHERE id = $1",
            values![workspace],
        )
        .await?
        .parse("organization_id")?;
    let detail = serde_json::json!({
        "state-version": new.id.as_str(),
        "job": new.job.as_str(),
        "attempt": new.attempt.as_str(),
        "serial": new.serial,
    });
    audit::record(
        tx,
        Some(&organization),
        "system",
        "state.kept-apart",
        workspace.as_str(),
        &detail,
    )
    .await
}

/// The newest copy of a job, if it is not current yet, becomes the current state.
pub(crate) async fn promote_snapshot(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    job: &JobId,
) -> Result<(), StoreError> {
    let Some(version) = snapshot(tx, job).await? else {
        return Ok(());
    };
    set_status(tx, Some(&version), "finalized").await?;
    tx.execute(
        "UPDATE jobs SET snapshot_id = $2 WHERE id = $1",
        values![job, None::<StateVersionId>],
    )
    .await?;
    make_current(tx, workspace, &version).await
}

/// Objects of copies that a newer one has replaced: version and key.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn discarded_objects(
    connection: &mut Connection,
) -> Result<Vec<(StateVersionId, String)>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT id, object_key FROM state_versions WHERE status = 'discarded' AND job_id IS NOT NULL \
             AND object_key IS NOT NULL LIMIT 200",
            values![],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((row.parse("id")?, row.text("object_key")?)))
        .collect()
}

/// Notes that the object of a discarded copy is gone. Its digest stays, so that a repeated upload is known.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn object_removed(tx: &mut Tx, version: &StateVersionId) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE state_versions SET object_key = $2 WHERE id = $1 AND status = 'discarded'",
        values![version, None::<&str>],
    )
    .await?;
    Ok(())
}

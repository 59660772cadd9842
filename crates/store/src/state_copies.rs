//! States that attempts upload while they apply (protocol, section 7).

use terrapool_model::id::{AttemptId, JobId, StateVersionId, WorkspaceId};
use terrapool_model::state_copy::{self, Fate, Mark, Upload};

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::jobs;
use crate::kept_apart::{self, Reason};
use crate::lifecycle::{self, TransitionError};
use crate::runs::{RunRecord, opt_count};
use crate::state_versions::StateStatus;
use crate::values;

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
    let (workspace, run) = (&loaded.workspace_id, Some(&loaded.run));
    match fate {
        Fate::Intermediate => {
            insert(tx, workspace, run, new, StateStatus::Intermediate, None).await?;
            set_status(tx, newest.as_ref(), "discarded").await?;
            tx.execute(
                "UPDATE jobs SET snapshot_id = $2 WHERE id = $1",
                values![&new.job, &new.id],
            )
            .await?;
        }
        Fate::Current => {
            insert(tx, workspace, run, new, StateStatus::Finalized, None).await?;
            make_current(tx, workspace, &new.id).await?;
        }
        Fate::KeptApart => {
            let epoch = loaded.rows.workspace.lock_epoch;
            let reason = if !upload.is_newest_attempt {
                Reason::Superseded
            } else if Some(epoch) != loaded.rows.run.lock_epoch {
                Reason::LockMoved
            } else {
                Reason::NotFollowing
            };
            kept_apart::keep(tx, workspace, run, new, reason).await?;
        }
        Fate::AlreadyStored | Fate::Forbidden => {}
    }
    Ok(fate)
}

/// Stores the row of an uploaded state.
pub(crate) async fn insert(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    run: Option<&RunRecord>,
    new: &NewCopy,
    status: StateStatus,
    reason: Option<Reason>,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "INSERT INTO state_versions (id, workspace_id, run_id, job_id, attempt, created_by, status, serial, \
         lineage, md5, sha256, size, object_key, engine_version, created_at, kept_apart_reason) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
        values![
            &new.id,
            workspace,
            run.map(|run| &run.id),
            &new.job,
            &new.attempt,
            run.and_then(|run| run.created_by.as_ref()),
            status.as_str(),
            new.serial,
            new.lineage.as_deref(),
            &new.md5,
            &new.sha256,
            new.size,
            &new.object_key,
            run.map(|run| run.engine_version.as_str()),
            now,
            reason.map(Reason::as_str),
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn set_status(
    tx: &mut Tx,
    version: Option<&StateVersionId>,
    status: &str,
) -> Result<(), StoreError> {
    if let Some(version) = version {
        tx.execute(
            "UPDATE state_versions SET status = $2 WHERE id = $1",
            values![version, status],
        )
        .await?;
    }
    Ok(())
}

pub(crate) async fn make_current(
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

//! Files that jobs leave behind.

use terrapool_model::id::{AttemptId, JobId, RunId};
use terrapool_protocol::job::ArtifactName;

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::jobs;
use crate::lifecycle::TransitionError;
use crate::runs::ACTIVE;
use crate::values;

/// An artifact. Its object is sealed with the context [`ArtifactRecord::context`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactRecord {
    /// The job that made it.
    pub job: JobId,
    /// The assignment that made it.
    pub generation: u64,
    /// Where the bytes lie.
    pub object_key: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

impl ArtifactRecord {
    /// The context its object is sealed with.
    pub fn context(&self) -> &str {
        self.job.as_str()
    }
}

fn from_row(row: &Row) -> Result<ArtifactRecord, StoreError> {
    Ok(ArtifactRecord {
        job: row.parse("job_id")?,
        generation: row.count("generation")?,
        object_key: row.text("object_key")?,
        size: row.count("size")?,
        sha256: row.text("sha256")?,
    })
}

const COLUMNS: &str = "a.job_id, a.generation, a.object_key, a.size, a.sha256";

/// An artifact of a job.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(
    connection: &mut Connection,
    job: &JobId,
    name: ArtifactName,
) -> Result<Option<ArtifactRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM artifacts a WHERE a.job_id = $1 AND a.name = $2");
    connection
        .fetch_optional(&sql, values![job, name.as_str()])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// An artifact of any job of a run.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_run(
    connection: &mut Connection,
    run: &RunId,
    name: ArtifactName,
) -> Result<Option<ArtifactRecord>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM artifacts a JOIN jobs j ON j.id = a.job_id WHERE j.run_id = $1 AND a.name = $2 \
         ORDER BY a.created_at DESC LIMIT 1"
    );
    connection
        .fetch_optional(&sql, values![run, name.as_str()])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// What became of an uploaded artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    /// It is the job's; an older object with this key is not referred to any more.
    Stored {
        /// The replaced object.
        replaced: Option<String>,
    },
    /// The same bytes were there; the new object is not referred to.
    AlreadyStored,
    /// The attempt does not hold the job any more; the new object is not referred to.
    Superseded,
}

/// Refers to an uploaded artifact.
///
/// # Errors
/// [`TransitionError::NotFound`] when there is no such job.
pub async fn place(
    tx: &mut Tx,
    attempt: &AttemptId,
    name: ArtifactName,
    new: &ArtifactRecord,
) -> Result<Placed, TransitionError> {
    let job = jobs::get(tx, &new.job).await?.ok_or(TransitionError::NotFound)?;
    if !job.row.is_held() || !job.row.is_of(new.generation, attempt) {
        return Ok(Placed::Superseded);
    }
    let old = get(tx, &new.job, name).await?;
    if let Some(old) = &old
        && old.sha256 == new.sha256
        && old.generation == new.generation
    {
        return Ok(Placed::AlreadyStored);
    }
    let now = tx.now();
    tx.execute(
        "INSERT INTO artifacts (job_id, name, generation, object_key, size, sha256, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (job_id, name) DO UPDATE SET \
         generation = excluded.generation, object_key = excluded.object_key, size = excluded.size, \
         sha256 = excluded.sha256, created_at = excluded.created_at",
        values![
            &new.job,
            name.as_str(),
            new.generation,
            &new.object_key,
            new.size,
            &new.sha256,
            now
        ],
    )
    .await?;
    Ok(Placed::Stored {
        replaced: old.map(|old| old.object_key),
    })
}

/// Plan archives whose run has ended: they hold all variables in clear and are not needed any more.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn spent(connection: &mut Connection) -> Result<Vec<ArtifactRecord>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM artifacts a JOIN jobs j ON j.id = a.job_id JOIN runs r ON r.id = j.run_id \
         WHERE a.name = 'plan-archive' AND r.status NOT IN ({ACTIVE}) LIMIT 200"
    );
    connection
        .fetch_all(&sql, values![])
        .await?
        .iter()
        .map(from_row)
        .collect()
}

/// Forgets a plan archive whose object is gone.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn remove_archive(tx: &mut Tx, job: &JobId) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM artifacts WHERE job_id = $1 AND name = 'plan-archive'",
        values![job],
    )
    .await?;
    Ok(())
}

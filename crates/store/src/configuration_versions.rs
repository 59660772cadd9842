//! Uploaded configurations. The archive is an object whose context is the configuration version's id.

use std::fmt;
use std::str::FromStr;

use terrapool_model::id::{ConfigurationVersionId, WorkspaceId};
use terrapool_model::time::Timestamp;

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::values;

/// Where an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigurationStatus {
    /// Not uploaded yet.
    Pending,
    /// Ready for runs.
    Uploaded,
    /// What was uploaded is no configuration.
    Errored,
}

impl ConfigurationStatus {
    /// The word in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Uploaded => "uploaded",
            Self::Errored => "errored",
        }
    }
}

impl fmt::Display for ConfigurationStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for ConfigurationStatus {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "pending" => Ok(Self::Pending),
            "uploaded" => Ok(Self::Uploaded),
            "errored" => Ok(Self::Errored),
            _ => Err(()),
        }
    }
}

/// A configuration version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationVersionRecord {
    /// Id; the context of the archive object.
    pub id: ConfigurationVersionId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Where the upload stands.
    pub status: ConfigurationStatus,
    /// Short name of the problem with the upload.
    pub error: Option<String>,
    /// The problem in a sentence.
    pub error_message: Option<String>,
    /// Runs of it only plan.
    pub speculative: bool,
    /// It does not become the workspace's current one by itself (saved plans).
    pub provisional: bool,
    /// Whether uploading it makes a run.
    pub auto_queue_runs: bool,
    /// What made it.
    pub source: String,
    /// The archive, once uploaded.
    pub object_key: Option<String>,
    /// Bytes of the archive.
    pub size: Option<u64>,
    /// SHA-256 of the archive, lower-case hex.
    pub sha256: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When the upload ended.
    pub uploaded_at: Option<Timestamp>,
}

/// A configuration version to be made.
#[derive(Debug, Clone)]
pub struct NewConfigurationVersion {
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Runs of it only plan.
    pub speculative: bool,
    /// It does not become the workspace's current one by itself.
    pub provisional: bool,
    /// Whether uploading it makes a run.
    pub auto_queue_runs: bool,
    /// What makes it.
    pub source: String,
}

const COLUMNS: &str = "id, workspace_id, status, error, error_message, speculative, provisional, auto_queue_runs, \
     source, object_key, size, sha256, created_at, uploaded_at";

fn read(row: &Row) -> Result<ConfigurationVersionRecord, StoreError> {
    Ok(ConfigurationVersionRecord {
        id: row.parse("id")?,
        workspace_id: row.parse("workspace_id")?,
        status: row.parse("status")?,
        error: row.opt_text("error")?,
        error_message: row.opt_text("error_message")?,
        speculative: row.bool("speculative")?,
        provisional: row.bool("provisional")?,
        auto_queue_runs: row.bool("auto_queue_runs")?,
        source: row.text("source")?,
        object_key: row.opt_text("object_key")?,
        size: row.opt_int("size")?.and_then(|size| u64::try_from(size).ok()),
        sha256: row.opt_text("sha256")?,
        created_at: row.time("created_at")?,
        uploaded_at: row.opt_time("uploaded_at")?,
    })
}

/// Makes a configuration version that waits for its upload.
///
/// # Errors
/// [`StoreError::Reference`] when there is no such workspace.
pub async fn create(
    tx: &mut Tx,
    new: &NewConfigurationVersion,
) -> Result<ConfigurationVersionRecord, StoreError> {
    let id = ConfigurationVersionId::from_random(tx.draw());
    let now = tx.now();
    tx.execute(
        "INSERT INTO configuration_versions (id, workspace_id, status, speculative, provisional, auto_queue_runs, \
         source, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        values![
            &id,
            &new.workspace_id,
            ConfigurationStatus::Pending.as_str(),
            new.speculative,
            new.provisional,
            new.auto_queue_runs,
            &new.source,
            now
        ],
    )
    .await?;
    Ok(ConfigurationVersionRecord {
        id,
        workspace_id: new.workspace_id.clone(),
        status: ConfigurationStatus::Pending,
        error: None,
        error_message: None,
        speculative: new.speculative,
        provisional: new.provisional,
        auto_queue_runs: new.auto_queue_runs,
        source: new.source.clone(),
        object_key: None,
        size: None,
        sha256: None,
        created_at: now,
        uploaded_at: None,
    })
}

/// The configuration version with an id.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(
    connection: &mut Connection,
    id: &ConfigurationVersionId,
) -> Result<Option<ConfigurationVersionRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM configuration_versions WHERE id = $1");
    connection
        .fetch_optional(&sql, values![id])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// The newest uploaded configuration of a workspace that is neither speculative nor provisional: what a run uses when
/// it names none.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn newest_usable(
    connection: &mut Connection,
    workspace: &WorkspaceId,
) -> Result<Option<ConfigurationVersionRecord>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM configuration_versions WHERE workspace_id = $1 AND status = 'uploaded' \
         AND speculative = $2 AND provisional = $2 ORDER BY created_at DESC, id LIMIT 1"
    );
    connection
        .fetch_optional(&sql, values![workspace, false])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// A page of a workspace's configuration versions, newest first, and how many there are.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    limit: u32,
    offset: u64,
) -> Result<(Vec<ConfigurationVersionRecord>, u64), StoreError> {
    let total = connection
        .fetch_one(
            "SELECT COUNT(*) AS total FROM configuration_versions WHERE workspace_id = $1",
            values![workspace],
        )
        .await?
        .count("total")?;
    let sql = format!(
        "SELECT {COLUMNS} FROM configuration_versions WHERE workspace_id = $1 \
         ORDER BY created_at DESC, id LIMIT $2 OFFSET $3"
    );
    let rows = connection
        .fetch_all(&sql, values![workspace, limit, offset])
        .await?;
    let records = rows.iter().map(read).collect::<Result<_, _>>()?;
    Ok((records, total))
}

/// Notes that the archive is there. A second upload replaces the first one as long as no run uses it. Returns the key
/// of the archive that is not referred to any more, or `None` when nothing was replaced.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn finish_upload(
    tx: &mut Tx,
    id: &ConfigurationVersionId,
    object_key: &str,
    size: u64,
    sha256: &str,
) -> Result<Option<String>, StoreError> {
    let sql = format!(
        "SELECT object_key FROM configuration_versions WHERE id = $1{}",
        tx.for_update()
    );
    let old = tx
        .fetch_optional(&sql, values![id])
        .await?
        .map(|row| row.opt_text("object_key"))
        .transpose()?
        .flatten();
    let used = tx
        .fetch_optional(
            "SELECT id FROM runs WHERE configuration_version_id = $1 LIMIT 1",
            values![id],
        )
        .await?
        .is_some();
    if used && old.is_some() {
        return Ok(Some(object_key.to_owned()));
    }
    let now = tx.now();
    tx.execute(
        "UPDATE configuration_versions SET status = 'uploaded', error = NULL, error_message = NULL, \
         object_key = $2, size = $3, sha256 = $4, uploaded_at = $5 WHERE id = $1",
        values![id, object_key, size, sha256, now],
    )
    .await?;
    Ok(old)
}

/// Notes that what was uploaded is no configuration. One that was uploaded before stays as it is.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn fail_upload(
    tx: &mut Tx,
    id: &ConfigurationVersionId,
    error: &str,
    message: &str,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE configuration_versions SET status = 'errored', error = $2, error_message = $3, uploaded_at = $4 \
         WHERE id = $1 AND status <> 'uploaded'",
        values![id, error, message, now],
    )
    .await?;
    Ok(())
}

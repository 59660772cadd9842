//! State versions that clients make. The raw state is an object whose context is the state version's id; the JSON
//! state's context is the id with `/json` behind it, sealed outputs have the id with `/outputs`.

use std::fmt;
use std::str::FromStr;

use terrapool_model::id::{OrganizationId, RunId, StateVersionId, UserId, WorkspaceId};
use terrapool_model::time::Timestamp;

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::values;

/// Where a state version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateStatus {
    /// Announced; its bytes are not here yet.
    Pending,
    /// Complete.
    Finalized,
    /// A copy made while its apply was running.
    Intermediate,
    /// Delivered by an attempt that may not change the current state.
    KeptApart,
    /// Given up.
    Discarded,
}

impl StateStatus {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Finalized => "finalized",
            Self::Intermediate => "intermediate",
            Self::KeptApart => "kept_apart",
            Self::Discarded => "discarded",
        }
    }

    /// The word in the API, which knows three.
    pub fn api_name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Finalized | Self::Intermediate | Self::KeptApart => "finalized",
            Self::Discarded => "discarded",
        }
    }
}

impl fmt::Display for StateStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for StateStatus {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "pending" => Ok(Self::Pending),
            "finalized" => Ok(Self::Finalized),
            "intermediate" => Ok(Self::Intermediate),
            "kept_apart" => Ok(Self::KeptApart),
            "discarded" => Ok(Self::Discarded),
            _ => Err(()),
        }
    }
}

/// A state version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateVersionRecord {
    /// Id; the context of its objects.
    pub id: StateVersionId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// The run that made it.
    pub run_id: Option<RunId>,
    /// The user who made it.
    pub created_by: Option<UserId>,
    /// Where it stands.
    pub status: StateStatus,
    /// Serial, when it is known.
    pub serial: Option<u64>,
    /// Lineage, when it is known.
    pub lineage: Option<String>,
    /// MD5 of the raw state, lower-case hex, as the client said.
    pub md5: Option<String>,
    /// SHA-256 of the raw state, lower-case hex, once it has arrived.
    pub sha256: Option<String>,
    /// The version that it is a copy of: somebody rolled back to that.
    pub copy_of: Option<StateVersionId>,
    /// Bytes of the raw state.
    pub size: Option<u64>,
    /// The raw state.
    pub object_key: Option<String>,
    /// The state as `terraform show -json` gives it.
    pub json_object_key: Option<String>,
    /// Outputs that the client sent beside the state (JSON object), sealed.
    pub outputs: Option<Vec<u8>>,
    /// Resource instances, when they can be read.
    pub resource_count: Option<u64>,
    /// Version of the engine that wrote it.
    pub engine_version: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A state version to be made. Its id was drawn before, because objects and sealed outputs need it.
#[derive(Debug, Clone)]
pub struct NewStateVersion {
    /// Id.
    pub id: StateVersionId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// The run that makes it.
    pub run_id: Option<RunId>,
    /// The user who makes it.
    pub created_by: Option<UserId>,
    /// Serial.
    pub serial: Option<u64>,
    /// Lineage.
    pub lineage: Option<String>,
    /// MD5 that the raw state has to have.
    pub md5: Option<String>,
    /// Outputs beside the state, sealed.
    pub outputs: Option<Vec<u8>>,
}

/// The bytes of a state that has arrived.
#[derive(Debug, Clone)]
pub struct StateContent {
    /// The raw state.
    pub object_key: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Serial that the bytes say.
    pub serial: Option<u64>,
    /// Lineage that the bytes say.
    pub lineage: Option<String>,
    /// Resource instances, when they can be read.
    pub resource_count: Option<u64>,
    /// Version of the engine that wrote it.
    pub engine_version: Option<String>,
}

/// The resource count of a state that can't be read here.
const UNREADABLE: i64 = -1;

const COLUMNS: &str = "state_versions.id AS id, workspace_id, run_id, created_by, status, serial, lineage, md5, sha256, \
     copy_of, size, object_key, json_object_key, outputs, resource_count, state_versions.engine_version AS engine_version, \
     state_versions.created_at AS created_at";

fn read(row: &Row) -> Result<StateVersionRecord, StoreError> {
    let number = |column: &str| -> Result<Option<u64>, StoreError> {
        Ok(row.opt_int(column)?.and_then(|value| u64::try_from(value).ok()))
    };
    Ok(StateVersionRecord {
        id: row.parse("id")?,
        workspace_id: row.parse("workspace_id")?,
        run_id: row.opt_parse("run_id")?,
        created_by: row.opt_parse("created_by")?,
        status: row.parse("status")?,
        serial: number("serial")?,
        lineage: row.opt_text("lineage")?,
        md5: row.opt_text("md5")?,
        sha256: row.opt_text("sha256")?,
        copy_of: row.opt_parse("copy_of")?,
        size: number("size")?,
        object_key: row.opt_text("object_key")?,
        json_object_key: row.opt_text("json_object_key")?,
        outputs: row.opt_blob("outputs")?,
        resource_count: number("resource_count")?,
        engine_version: row.opt_text("engine_version")?,
        created_at: row.time("created_at")?,
    })
}

/// Announces a state version; its bytes follow.
///
/// # Errors
/// [`StoreError::Reference`] when there is no such workspace.
pub async fn create(tx: &mut Tx, new: &NewStateVersion) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "INSERT INTO state_versions (id, workspace_id, run_id, created_by, status, serial, lineage, md5, outputs, \
         created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        values![
            &new.id,
            &new.workspace_id,
            new.run_id.clone(),
            new.created_by.clone(),
            StateStatus::Pending.as_str(),
            new.serial,
            new.lineage.clone(),
            new.md5.clone(),
            new.outputs.clone(),
            now
        ],
    )
    .await?;
    Ok(())
}

/// The highest serial that a current state of the workspace has had.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn highest_serial(
    connection: &mut Connection,
    workspace: &WorkspaceId,
) -> Result<Option<u64>, StoreError> {
    let row = connection
        .fetch_one(
            "SELECT MAX(serial) AS highest FROM state_versions WHERE workspace_id = $1 AND status = 'finalized'",
            values![workspace],
        )
        .await?;
    Ok(row
        .opt_int("highest")?
        .and_then(|serial| u64::try_from(serial).ok()))
}

/// The bytes of an announced state version are stored: it becomes the workspace's current one. `false` when it is not
/// announced any more.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn finalize(tx: &mut Tx, id: &StateVersionId, content: &StateContent) -> Result<bool, StoreError> {
    let changed = tx
        .execute(
            "UPDATE state_versions SET status = 'finalized', object_key = $2, size = $3, sha256 = $4, \
             serial = COALESCE(serial, $5), lineage = COALESCE(lineage, $6), resource_count = $7, \
             engine_version = $8 WHERE id = $1 AND status = 'pending'",
            values![
                id,
                &content.object_key,
                content.size,
                &content.sha256,
                content.serial,
                content.lineage.clone(),
                content.resource_count,
                content.engine_version.clone()
            ],
        )
        .await?;
    if changed == 0 {
        return Ok(false);
    }
    tx.execute(
        "UPDATE workspaces SET current_state_version_id = $1 \
         WHERE id = (SELECT workspace_id FROM state_versions WHERE id = $1)",
        values![id],
    )
    .await?;
    Ok(true)
}

/// The JSON form of a state version is stored.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn set_json(tx: &mut Tx, id: &StateVersionId, object_key: &str) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE state_versions SET json_object_key = $2 WHERE id = $1",
        values![id, object_key],
    )
    .await?;
    Ok(())
}

/// Gives up what is announced for a workspace and has not arrived.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn discard_pending(tx: &mut Tx, workspace: &WorkspaceId) -> Result<u64, StoreError> {
    tx.execute(
        "UPDATE state_versions SET status = 'discarded' WHERE workspace_id = $1 AND status = 'pending'",
        values![workspace],
    )
    .await
}

/// The state version with an id.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(
    connection: &mut Connection,
    id: &StateVersionId,
) -> Result<Option<StateVersionRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM state_versions WHERE state_versions.id = $1");
    connection
        .fetch_optional(&sql, values![id])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// The current state version of a workspace.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn current(
    connection: &mut Connection,
    workspace: &WorkspaceId,
) -> Result<Option<StateVersionRecord>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM state_versions \
         JOIN workspaces ON workspaces.current_state_version_id = state_versions.id WHERE workspaces.id = $1"
    );
    connection
        .fetch_optional(&sql, values![workspace])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// A page of a workspace's state versions, newest first, and how many there are. Clients take the first one for the
/// current one, so what was kept apart is not among them: [`crate::kept_apart::list`].
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    limit: u32,
    offset: u64,
) -> Result<(Vec<StateVersionRecord>, u64), StoreError> {
    let total = connection
        .fetch_one(
            "SELECT COUNT(*) AS total FROM state_versions WHERE workspace_id = $1 AND status NOT IN ('discarded', 'kept_apart')",
            values![workspace],
        )
        .await?
        .count("total")?;
    let sql = format!(
        "SELECT {COLUMNS} FROM state_versions WHERE workspace_id = $1 AND status NOT IN ('discarded', 'kept_apart') \
         ORDER BY created_at DESC, serial DESC, id LIMIT $2 OFFSET $3"
    );
    let rows = connection
        .fetch_all(&sql, values![workspace, limit, offset])
        .await?;
    let records = rows.iter().map(read).collect::<Result<_, _>>()?;
    Ok((records, total))
}

/// The complete version of a workspace that came before another one.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn before(
    connection: &mut Connection,
    version: &StateVersionRecord,
) -> Result<Option<StateVersionRecord>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM state_versions WHERE workspace_id = $1 AND id <> $2 AND status = 'finalized' \
         AND (created_at < $3 OR (created_at = $3 AND serial < $4)) \
         ORDER BY created_at DESC, serial DESC, id LIMIT 1"
    );
    connection
        .fetch_optional(
            &sql,
            values![
                &version.workspace_id,
                &version.id,
                version.created_at,
                version.serial
            ],
        )
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// Complete state versions that runs delivered and whose resources were not counted yet: id and object.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn uncounted(connection: &mut Connection) -> Result<Vec<StateVersionRecord>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM state_versions JOIN workspaces ON current_state_version_id = state_versions.id \
         WHERE job_id IS NOT NULL AND resource_count IS NULL AND object_key IS NOT NULL LIMIT 50"
    );
    connection
        .fetch_all(&sql, values![])
        .await?
        .iter()
        .map(read)
        .collect()
}

/// Notes how many resources a state version has; `None`: it can't be read here, which is not looked at again.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn counted(tx: &mut Tx, id: &StateVersionId, resources: Option<u64>) -> Result<(), StoreError> {
    let count = resources.map_or(UNREADABLE, |count| i64::try_from(count).unwrap_or(i64::MAX));
    tx.execute(
        "UPDATE state_versions SET resource_count = $2 WHERE id = $1 AND resource_count IS NULL",
        values![id, count],
    )
    .await?;
    Ok(())
}

/// The organization that a state version belongs to.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn organization_of(
    connection: &mut Connection,
    id: &StateVersionId,
) -> Result<Option<OrganizationId>, StoreError> {
    connection
        .fetch_optional(
            "SELECT organization_id FROM workspaces JOIN state_versions ON workspace_id = workspaces.id \
             WHERE state_versions.id = $1",
            values![id],
        )
        .await?
        .map(|row| row.parse("organization_id"))
        .transpose()
}

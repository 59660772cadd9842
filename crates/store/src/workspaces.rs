//! Workspaces. Their lock is changed by [`crate::locks`] and by runs only.

use serde_json::{Map, Value as Json};
use terrapool_model::engine::EngineKind;
use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::{
    AgentPoolId, ConfigurationVersionId, OrganizationId, ProjectId, RunId, StateVersionId, WorkspaceId,
};
use terrapool_model::lock::Lock;
use terrapool_model::time::Timestamp;

use crate::db::{Connection, Row, Tx, Value};
use crate::error::StoreError;
use crate::values;

mod list;

pub use list::{TagFilter, WorkspaceFilter, WorkspaceOrder, list};

/// A workspace.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkspaceRecord {
    /// Id.
    pub id: WorkspaceId,
    /// Its organization.
    pub organization_id: OrganizationId,
    /// The organization's name.
    pub organization_name: String,
    /// Its project.
    pub project_id: ProjectId,
    /// Name, unique in the organization.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Where its runs go; none: as the project or organization says.
    pub execution_mode: Option<ExecutionMode>,
    /// The pool, when the workspace's own mode is agent.
    pub agent_pool_id: Option<AgentPoolId>,
    /// What holds for its runs, with what is inherited.
    pub effective: Effective,
    /// Which engine its runs use.
    pub engine: EngineKind,
    /// The engine's version, or `latest`.
    pub engine_version: String,
    /// The folder in the configuration that is the root module.
    pub working_directory: String,
    /// Whether plans with changes are applied without asking.
    pub auto_apply: bool,
    /// Whether every workspace of the organization may read its outputs.
    pub global_remote_state: bool,
    /// Whether a `cloud` block renders its runs from JSON.
    pub structured_run_output: bool,
    /// Settings that are stored and returned only.
    pub settings: Map<String, Json>,
    /// What made it (`tfe-api`, `terraform`).
    pub source: String,
    /// Who may change its state now.
    pub lock: Lock,
    /// What the holder of the lock said.
    pub lock_reason: Option<String>,
    /// Grows with every taking of the lock.
    pub lock_epoch: u64,
    /// A run whose lost apply may have done things that are not in the state; auto-apply is off while it is set.
    pub lost_run: Option<RunId>,
    /// The newest state.
    pub current_state_version_id: Option<StateVersionId>,
    /// The run that was the last one to start.
    pub current_run_id: Option<RunId>,
    /// The newest configuration that is not provisional.
    pub current_configuration_version_id: Option<ConfigurationVersionId>,
    /// Resource instances in the current state.
    pub resource_count: u64,
    /// Its runs so far.
    pub run_count: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its settings were last changed.
    pub updated_at: Timestamp,
}

/// Execution mode and pool of a workspace after inheritance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The mode.
    pub execution_mode: ExecutionMode,
    /// The pool, when the mode is agent.
    pub agent_pool_id: Option<AgentPoolId>,
}

/// A workspace to be made.
#[derive(Debug, Clone)]
pub struct NewWorkspace {
    /// Its organization.
    pub organization_id: OrganizationId,
    /// Its project.
    pub project_id: ProjectId,
    /// What is set.
    pub settings: WorkspaceSettings,
    /// What makes it.
    pub source: String,
}

/// What can be set of a workspace.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkspaceSettings {
    /// Name, unique in the organization.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Where its runs go; none: inherited.
    pub execution_mode: Option<ExecutionMode>,
    /// The pool, when the workspace's own mode is agent.
    pub agent_pool_id: Option<AgentPoolId>,
    /// Which engine its runs use.
    pub engine: EngineKind,
    /// The engine's version, or `latest`.
    pub engine_version: String,
    /// The folder in the configuration that is the root module.
    pub working_directory: String,
    /// Whether plans with changes are applied without asking.
    pub auto_apply: bool,
    /// Whether every workspace of the organization may read its outputs.
    pub global_remote_state: bool,
    /// Whether a `cloud` block renders its runs from JSON.
    pub structured_run_output: bool,
    /// Settings that are stored and returned only.
    pub further: Map<String, Json>,
}

const SELECT: &str = "SELECT workspaces.id AS id, workspaces.organization_id AS organization_id, \
     organizations.name AS organization_name, workspaces.project_id AS project_id, workspaces.name AS name, \
     workspaces.description AS description, workspaces.execution_mode AS execution_mode, \
     workspaces.agent_pool_id AS agent_pool_id, workspaces.engine AS engine, \
     workspaces.engine_version AS engine_version, workspaces.working_directory AS working_directory, \
     workspaces.auto_apply AS auto_apply, workspaces.global_remote_state AS global_remote_state, \
     workspaces.structured_run_output AS structured_run_output, workspaces.settings AS settings, \
     workspaces.source AS source, lock_state, lock_user_id, lock_run_id, lock_safe_at, lock_reason, lock_epoch, lost_run_id, \
     current_state_version_id, current_run_id, workspaces.created_at AS created_at, \
     workspaces.updated_at AS updated_at, \
     projects.default_execution_mode AS project_mode, projects.default_agent_pool_id AS project_pool, \
     organizations.default_execution_mode AS organization_mode, \
     organizations.default_agent_pool_id AS organization_pool, \
     (SELECT resource_count FROM state_versions WHERE state_versions.id = current_state_version_id) \
     AS resource_count, \
     (SELECT COUNT(*) FROM runs WHERE runs.workspace_id = workspaces.id) AS run_count, \
     (SELECT configuration_versions.id FROM configuration_versions \
     WHERE configuration_versions.workspace_id = workspaces.id AND provisional = $1 \
     ORDER BY configuration_versions.created_at DESC, configuration_versions.id LIMIT 1) AS current_configuration_id \
     FROM workspaces JOIN projects ON projects.id = workspaces.project_id \
     JOIN organizations ON organizations.id = workspaces.organization_id";

/// The value of `$1` in [`SELECT`]: booleans are written differently by the two engines.
const NOT_PROVISIONAL: bool = false;

fn read(row: &Row) -> Result<WorkspaceRecord, StoreError> {
    let own_mode: Option<ExecutionMode> = row.opt_parse("execution_mode")?;
    let project_mode: Option<ExecutionMode> = row.opt_parse("project_mode")?;
    let (mode, pool_column) = match (own_mode, project_mode) {
        (Some(mode), _) => (mode, "agent_pool_id"),
        (None, Some(mode)) => (mode, "project_pool"),
        (None, None) => (row.parse("organization_mode")?, "organization_pool"),
    };
    let engine = match row.text("engine")?.as_str() {
        "tofu" => EngineKind::Tofu,
        _ => EngineKind::Terraform,
    };
    Ok(WorkspaceRecord {
        id: row.parse("id")?,
        organization_id: row.parse("organization_id")?,
        organization_name: row.text("organization_name")?,
        project_id: row.parse("project_id")?,
        name: row.text("name")?,
        description: row.opt_text("description")?,
        execution_mode: own_mode,
        agent_pool_id: row.opt_parse("agent_pool_id")?,
        effective: Effective {
            execution_mode: mode,
            agent_pool_id: if mode == ExecutionMode::Agent {
                row.opt_parse(pool_column)?
            } else {
                None
            },
        },
        engine,
        engine_version: row.text("engine_version")?,
        working_directory: row.text("working_directory")?,
        auto_apply: row.bool("auto_apply")?,
        global_remote_state: row.bool("global_remote_state")?,
        structured_run_output: row.bool("structured_run_output")?,
        settings: row.json("settings")?,
        source: row.text("source")?,
        lock: read_lock(row)?,
        lock_reason: row.opt_text("lock_reason")?,
        lock_epoch: row.count("lock_epoch")?,
        lost_run: row.opt_parse("lost_run_id")?,
        current_state_version_id: row.opt_parse("current_state_version_id")?,
        current_run_id: row.opt_parse("current_run_id")?,
        current_configuration_version_id: row.opt_parse("current_configuration_id")?,
        resource_count: row
            .opt_int("resource_count")?
            .map_or(0, |count| u64::try_from(count).unwrap_or(0)),
        run_count: row.count("run_count")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

fn read_lock(row: &Row) -> Result<Lock, StoreError> {
    let state = row.text("lock_state")?;
    match state.as_str() {
        "free" => Ok(Lock::Free),
        "user" => Ok(Lock::User(row.parse("lock_user_id")?)),
        "run" => Ok(Lock::Run(row.parse("lock_run_id")?)),
        "lost" => Ok(Lock::Lost {
            run: row.parse("lock_run_id")?,
            safe_at: row.opt_time("lock_safe_at")?,
        }),
        _ => Err(StoreError::Corrupt {
            column: "lock_state".to_owned(),
            found: state,
        }),
    }
}

/// Makes a workspace.
///
/// # Errors
/// [`StoreError::Conflict`] when the organization has one of this name.
pub async fn create(tx: &mut Tx, new: &NewWorkspace) -> Result<WorkspaceId, StoreError> {
    let id = WorkspaceId::from_random(tx.draw());
    let now = tx.now();
    let settings = &new.settings;
    tx.execute(
        "INSERT INTO workspaces (id, organization_id, project_id, name, description, execution_mode, agent_pool_id, \
         engine, engine_version, working_directory, auto_apply, global_remote_state, structured_run_output, settings, \
         source, lock_state, lock_epoch, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 'free', 0, $16, $16)",
        values![
            &id,
            &new.organization_id,
            &new.project_id,
            &settings.name,
            settings.description.clone(),
            settings.execution_mode.map(ExecutionMode::as_str),
            settings.agent_pool_id.clone(),
            settings.engine.binary(),
            &settings.engine_version,
            &settings.working_directory,
            settings.auto_apply,
            settings.global_remote_state,
            settings.structured_run_output,
            Json::Object(settings.further.clone()).to_string(),
            &new.source,
            now
        ],
    )
    .await?;
    Ok(id)
}

/// Writes settings and project.
///
/// # Errors
/// [`StoreError::Conflict`] when the organization has another workspace of this name.
pub async fn update(
    tx: &mut Tx,
    id: &WorkspaceId,
    project: &ProjectId,
    settings: &WorkspaceSettings,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE workspaces SET project_id = $2, name = $3, description = $4, execution_mode = $5, \
         agent_pool_id = $6, engine = $7, engine_version = $8, working_directory = $9, auto_apply = $10, \
         global_remote_state = $11, structured_run_output = $12, settings = $13, updated_at = $14 WHERE id = $1",
        values![
            id,
            project,
            &settings.name,
            settings.description.clone(),
            settings.execution_mode.map(ExecutionMode::as_str),
            settings.agent_pool_id.clone(),
            settings.engine.binary(),
            &settings.engine_version,
            &settings.working_directory,
            settings.auto_apply,
            settings.global_remote_state,
            settings.structured_run_output,
            Json::Object(settings.further.clone()).to_string(),
            now
        ],
    )
    .await?;
    Ok(())
}

impl WorkspaceRecord {
    /// The settings, to be changed and written back.
    pub fn to_settings(&self) -> WorkspaceSettings {
        WorkspaceSettings {
            name: self.name.clone(),
            description: self.description.clone(),
            execution_mode: self.execution_mode,
            agent_pool_id: self.agent_pool_id.clone(),
            engine: self.engine,
            engine_version: self.engine_version.clone(),
            working_directory: self.working_directory.clone(),
            auto_apply: self.auto_apply,
            global_remote_state: self.global_remote_state,
            structured_run_output: self.structured_run_output,
            further: self.settings.clone(),
        }
    }
}

/// The workspace with an id.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(
    connection: &mut Connection,
    id: &WorkspaceId,
) -> Result<Option<WorkspaceRecord>, StoreError> {
    let sql = format!("{SELECT} WHERE workspaces.id = $2");
    connection
        .fetch_optional(&sql, values![NOT_PROVISIONAL, id])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// The workspace with an id, its row locked until the transaction ends.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get_locked(tx: &mut Tx, id: &WorkspaceId) -> Result<Option<WorkspaceRecord>, StoreError> {
    let sql = format!("SELECT id FROM workspaces WHERE id = $1{}", tx.for_update());
    if tx.fetch_optional(&sql, values![id]).await?.is_none() {
        return Ok(None);
    }
    get(tx, id).await
}

/// The workspace of an organization with a name.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn by_name(
    connection: &mut Connection,
    organization: &OrganizationId,
    name: &str,
) -> Result<Option<WorkspaceRecord>, StoreError> {
    let sql = format!("{SELECT} WHERE workspaces.organization_id = $2 AND workspaces.name = $3");
    connection
        .fetch_optional(&sql, values![NOT_PROVISIONAL, organization, name])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// Deletes a workspace with its states and runs. The caller has checked the lock in the same transaction.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn delete(tx: &mut Tx, id: &WorkspaceId) -> Result<bool, StoreError> {
    tx.execute("DELETE FROM runs WHERE workspace_id = $1", values![id])
        .await?;
    for subject in ["allowed-workspace", "excluded-workspace"] {
        forget_in_pools(tx, subject, id.as_str()).await?;
    }
    Ok(tx
        .execute("DELETE FROM workspaces WHERE id = $1", values![id])
        .await?
        > 0)
}

/// Takes something that is deleted out of the lists of all pools.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn forget_in_pools(tx: &mut Tx, subject: &str, id: &str) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM agent_pool_access WHERE subject = $1 AND subject_id = $2",
        values![subject, id],
    )
    .await?;
    Ok(())
}

/// Whether a workspace of a project may use a pool: the pool is of the same organization, and its access rule says so.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn may_use_pool(
    connection: &mut Connection,
    organization: &OrganizationId,
    workspace: Option<&WorkspaceId>,
    project: &ProjectId,
    pool: &AgentPoolId,
) -> Result<PoolUse, StoreError> {
    let Some(row) = connection
        .fetch_optional(
            "SELECT organization_scoped FROM agent_pools WHERE id = $1 AND organization_id = $2",
            values![pool, organization],
        )
        .await?
    else {
        return Ok(PoolUse::NoSuchPool);
    };
    let mut access = terrapool_model::access::PoolAccess {
        organization_scoped: row.bool("organization_scoped")?,
        ..Default::default()
    };
    let rows = connection
        .fetch_all(
            "SELECT subject, subject_id FROM agent_pool_access WHERE pool_id = $1",
            values![pool],
        )
        .await?;
    for row in &rows {
        match row.text("subject")?.as_str() {
            "allowed-workspace" => {
                access.allowed_workspaces.insert(row.parse("subject_id")?);
            }
            "excluded-workspace" => {
                access.excluded_workspaces.insert(row.parse("subject_id")?);
            }
            _ => {
                access.allowed_projects.insert(row.parse("subject_id")?);
            }
        }
    }
    let allowed = match workspace {
        Some(workspace) => access.allows(workspace, project),
        // A workspace that does not exist yet is named in no list.
        None => access.organization_scoped || access.allowed_projects.contains(project),
    };
    Ok(if allowed {
        PoolUse::Allowed
    } else {
        PoolUse::Refused
    })
}

/// The answer of [`may_use_pool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolUse {
    /// The workspace may use it.
    Allowed,
    /// The pool's access rule says no.
    Refused,
    /// The organization has no such pool.
    NoSuchPool,
}

/// A tag, or a binding of a key to a value. A plain tag has no value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag {
    /// Name or key.
    pub key: String,
    /// Value, empty for a plain tag.
    pub value: String,
}

/// The tags of a workspace in the order they were added.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn tags(connection: &mut Connection, id: &WorkspaceId) -> Result<Vec<Tag>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT key, value FROM workspace_tags WHERE workspace_id = $1 ORDER BY position, key",
            values![id],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Tag {
                key: row.text("key")?,
                value: row.text("value")?,
            })
        })
        .collect()
}

/// Adds tags; one that is there keeps its place and gets the new value.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn add_tags(tx: &mut Tx, id: &WorkspaceId, tags: &[Tag]) -> Result<(), StoreError> {
    let row = tx
        .fetch_one(
            "SELECT COALESCE(MAX(position), 0) AS last FROM workspace_tags WHERE workspace_id = $1",
            values![id],
        )
        .await?;
    let mut position = row.int("last")?;
    for tag in tags {
        position += 1;
        tx.execute(
            "INSERT INTO workspace_tags (workspace_id, key, value, position) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (workspace_id, key) DO UPDATE SET value = excluded.value",
            values![id, &tag.key, &tag.value, position],
        )
        .await?;
    }
    Ok(())
}

/// Removes tags by key; one that is not there is fine.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn remove_tags(tx: &mut Tx, id: &WorkspaceId, keys: &[String]) -> Result<(), StoreError> {
    for key in keys {
        tx.execute(
            "DELETE FROM workspace_tags WHERE workspace_id = $1 AND key = $2",
            values![id, key],
        )
        .await?;
    }
    Ok(())
}

/// Removes all tags.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn clear_tags(tx: &mut Tx, id: &WorkspaceId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM workspace_tags WHERE workspace_id = $1", values![id])
        .await?;
    Ok(())
}

/// The plain tags used in an organization with the number of workspaces that have each, by name.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn organization_tags(
    connection: &mut Connection,
    organization: &OrganizationId,
) -> Result<Vec<(String, u64)>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT key, COUNT(*) AS total FROM workspace_tags \
             JOIN workspaces ON workspaces.id = workspace_tags.workspace_id \
             WHERE organization_id = $1 AND value = '' GROUP BY key ORDER BY key",
            values![organization],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((row.text("key")?, row.count("total")?)))
        .collect()
}

/// Where the workspace stands on its newest announced state: whether its bytes are still missing.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn has_pending_state(connection: &mut Connection, id: &WorkspaceId) -> Result<bool, StoreError> {
    let row = connection
        .fetch_optional(
            "SELECT id FROM state_versions WHERE workspace_id = $1 AND status = 'pending' LIMIT 1",
            values![id],
        )
        .await?;
    Ok(row.is_some())
}

pub(crate) fn bind_first(values: Vec<Value>) -> Vec<Value> {
    let mut all = values![NOT_PROVISIONAL];
    all.extend(values);
    all
}

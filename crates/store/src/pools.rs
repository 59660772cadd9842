//! Agent pools, their access rules and settings.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use terrapool_model::access::PoolAccess;
use terrapool_model::id::{AgentPoolId, OrganizationId, ProjectId, WorkspaceId};
use terrapool_model::image::PinnedImage;
use terrapool_model::time::Timestamp;
use terrapool_model::times::Times;
use terrapool_protocol::job::{Limit, Limits, SandboxNetwork, SandboxProxy};

use crate::db::{CommandError, Connection, Row, Tx};
use crate::error::StoreError;
use crate::page::{Listed, Page};
use crate::runs::ACTIVE;
use crate::values;

/// Name of the pool that the operator of the control plane maintains.
pub const SHARED_POOL: &str = "shared";

/// What a workspace may ask for at most; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MaximumLimits {
    /// Memory in MiB.
    pub memory_mb: Option<u64>,
    /// CPU in thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Files that each process may have open.
    pub open_files: Option<u64>,
    /// Disk in MiB.
    pub disk_mb: Option<u64>,
    /// Log of one phase in MiB.
    pub log_mb: Option<u64>,
    /// Time of a plan in seconds.
    pub plan_seconds: Option<u64>,
    /// Time of an apply in seconds.
    pub apply_seconds: Option<u64>,
    /// Time without output in seconds.
    pub silence_seconds: Option<u64>,
}

/// The workspace setting that names the image of its sandboxes.
pub const IMAGE_SETTING: &str = "sandbox-image";

impl PoolSettings {
    /// The image of a job's sandbox; `None` is the agent's own. What a workspace chooses has to be on the pool's list.
    ///
    /// # Errors
    /// The name that is not on the list.
    pub fn image_for(
        &self,
        workspace: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Option<String>, String> {
        match workspace.get(IMAGE_SETTING).and_then(serde_json::Value::as_str) {
            Some(chosen) if self.images.iter().any(|image| image.as_str() == chosen) => {
                Ok(Some(chosen.to_owned()))
            }
            Some(chosen) if self.image.as_deref() != Some(chosen) => Err(chosen.to_owned()),
            Some(_) | None => Ok(self.image.clone()),
        }
    }
}

impl MaximumLimits {
    /// The most that a workspace may ask for of a limit.
    pub fn get(&self, limit: Limit) -> Option<u64> {
        match limit {
            Limit::Memory => self.memory_mb,
            Limit::Cpu => self.cpu_millis,
            Limit::Processes => self.processes,
            Limit::OpenFiles => self.open_files,
            Limit::Disk => self.disk_mb,
            Limit::Log => self.log_mb,
            Limit::PlanTime => self.plan_seconds,
            Limit::ApplyTime => self.apply_seconds,
            Limit::Silence => self.silence_seconds,
        }
    }

    /// Sets the most that a workspace may ask for of a limit.
    pub fn set(&mut self, limit: Limit, most: Option<u64>) {
        let place = match limit {
            Limit::Memory => &mut self.memory_mb,
            Limit::Cpu => &mut self.cpu_millis,
            Limit::Processes => &mut self.processes,
            Limit::OpenFiles => &mut self.open_files,
            Limit::Disk => &mut self.disk_mb,
            Limit::Log => &mut self.log_mb,
            Limit::PlanTime => &mut self.plan_seconds,
            Limit::ApplyTime => &mut self.apply_seconds,
            Limit::Silence => &mut self.silence_seconds,
        };
        *place = most;
    }
}

/// What a pool sets for its jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolSettings {
    /// Times of leases, stops and locks.
    pub times: Times,
    /// Limits of a sandbox whose workspace says nothing else.
    pub default_limits: Limits,
    /// What a workspace may ask for at most.
    pub maximum_limits: MaximumLimits,
    /// Image of sandboxes; `None` is the agent's own.
    pub image: Option<String>,
    /// Images that workspaces may choose.
    pub images: BTreeSet<PinnedImage>,
    /// What sandboxes reach.
    pub sandbox_network: SandboxNetwork,
    /// Which proxy sandboxes use.
    pub sandbox_proxy: SandboxProxy,
    /// Nothing is given to agents whose sandboxes run as root.
    pub root_refused: bool,
    /// A person has paused it: nothing new is given to its agents.
    pub paused: bool,
}

impl PoolSettings {
    /// Whether something new may be given to an agent of the pool.
    pub fn gives_to(&self, root_sandboxes: bool) -> bool {
        let refused = self.root_refused && root_sandboxes;
        !self.paused && !refused
    }
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRecord {
    /// Id.
    pub id: AgentPoolId,
    /// Its organization; `None` is the shared pool.
    pub organization_id: Option<OrganizationId>,
    /// Name, unique in the organization.
    pub name: String,
    /// Settings.
    pub settings: PoolSettings,
    /// Who may use it.
    pub access: PoolAccess,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What a new pool is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPool {
    /// Its organization.
    pub organization_id: OrganizationId,
    /// Its name.
    pub name: String,
    /// Who may use it.
    pub access: PoolAccess,
    /// Settings.
    pub settings: PoolSettings,
}

/// A change of a pool; what is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolChange {
    /// Name.
    pub name: Option<String>,
    /// Whether every workspace of the organization may use it.
    pub organization_scoped: Option<bool>,
    /// Workspaces that may.
    pub allowed_workspaces: Option<BTreeSet<WorkspaceId>>,
    /// Projects whose workspaces may.
    pub allowed_projects: Option<BTreeSet<ProjectId>>,
    /// Workspaces that may not.
    pub excluded_workspaces: Option<BTreeSet<WorkspaceId>>,
    /// Settings.
    pub settings: Option<PoolSettings>,
}

/// In which order pools are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PoolSort {
    /// By name.
    #[default]
    Name,
    /// By name, last first.
    NameDescending,
    /// Oldest first.
    Created,
    /// Newest first.
    CreatedDescending,
}

/// Which pools are listed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolFilter {
    /// Part of the name.
    pub query: Option<String>,
    /// Pools that the workspace of this name may use by scope or by being named.
    pub allowed_workspace: Option<String>,
    /// Pools that the project of this name may use by scope or by being named.
    pub allowed_project: Option<String>,
    /// Order.
    pub sort: PoolSort,
}

/// Why a pool was not changed.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// There is no such pool.
    #[error("the agent pool does not exist")]
    NotFound,
    /// It is used; the names tell by what.
    #[error("the agent pool is still used by {}: change their execution mode or pool first", .0.join(", "))]
    InUse(Vec<String>),
    /// The database failed; [`StoreError::Conflict`] for a name that exists.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CommandError for PoolError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::NotFound | Self::InUse(_) => None,
            Self::Store(error) => Some(error),
        }
    }
}

const COLUMNS: &str = "id, organization_id, name, organization_scoped, settings, created_at";

fn from_row(row: &Row) -> Result<PoolRecord, StoreError> {
    Ok(PoolRecord {
        id: row.parse("id")?,
        organization_id: row.opt_parse("organization_id")?,
        name: row.text("name")?,
        settings: row.json("settings")?,
        access: PoolAccess {
            organization_scoped: row.bool("organization_scoped")?,
            ..PoolAccess::default()
        },
        created_at: row.time("created_at")?,
    })
}

async fn with_access(connection: &mut Connection, mut pool: PoolRecord) -> Result<PoolRecord, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT subject, subject_id FROM agent_pool_access WHERE pool_id = $1",
            values![&pool.id],
        )
        .await?;
    for row in rows {
        let subject = row.text("subject")?;
        match subject.as_str() {
            "allowed-workspace" => {
                pool.access.allowed_workspaces.insert(row.parse("subject_id")?);
            }
            "allowed-project" => {
                pool.access.allowed_projects.insert(row.parse("subject_id")?);
            }
            "excluded-workspace" => {
                pool.access.excluded_workspaces.insert(row.parse("subject_id")?);
            }
            _ => {
                return Err(StoreError::Corrupt {
                    column: "subject".to_owned(),
                    found: subject,
                });
            }
        }
    }
    Ok(pool)
}

async fn replace_access(
    tx: &mut Tx,
    pool: &AgentPoolId,
    subject: &str,
    ids: Vec<String>,
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM agent_pool_access WHERE pool_id = $1 AND subject = $2",
        values![pool, subject],
    )
    .await?;
    for id in ids {
        tx.execute(
            "INSERT INTO agent_pool_access (pool_id, subject, subject_id) VALUES ($1, $2, $3)",
            values![pool, subject, id],
        )
        .await?;
    }
    Ok(())
}

fn workspace_ids(ids: &BTreeSet<WorkspaceId>) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn project_ids(ids: &BTreeSet<ProjectId>) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

async fn insert(
    tx: &mut Tx,
    organization: Option<&OrganizationId>,
    name: &str,
    access: &PoolAccess,
    settings: &PoolSettings,
) -> Result<AgentPoolId, StoreError> {
    let id = AgentPoolId::from_random(tx.draw());
    let now = tx.now();
    tx.execute(
        "INSERT INTO agent_pools (id, organization_id, name, organization_scoped, settings, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
        values![
            &id,
            organization,
            name,
            access.organization_scoped,
            serde_json::to_string(settings).unwrap_or_default(),
            now,
        ],
    )
    .await?;
    replace_access(
        tx,
        &id,
        "allowed-workspace",
        workspace_ids(&access.allowed_workspaces),
    )
    .await?;
    replace_access(tx, &id, "allowed-project", project_ids(&access.allowed_projects)).await?;
    replace_access(
        tx,
        &id,
        "excluded-workspace",
        workspace_ids(&access.excluded_workspaces),
    )
    .await?;
    Ok(id)
}

/// Makes a pool.
///
/// # Errors
/// [`StoreError::Conflict`] when the organization has one of this name.
pub async fn create(tx: &mut Tx, new: &NewPool) -> Result<PoolRecord, StoreError> {
    let id = insert(
        tx,
        Some(&new.organization_id),
        &new.name,
        &new.access,
        &new.settings,
    )
    .await?;
    get(tx, &id).await?.ok_or(StoreError::Reference)
}

/// The shared pool; made when there is none yet.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn shared(tx: &mut Tx) -> Result<PoolRecord, StoreError> {
    if let Some(pool) = find_shared(tx).await? {
        return Ok(pool);
    }
    let access = PoolAccess {
        organization_scoped: true,
        ..PoolAccess::default()
    };
    let id = insert(tx, None, SHARED_POOL, &access, &PoolSettings::default()).await?;
    get(tx, &id).await?.ok_or(StoreError::Reference)
}

/// The shared pool, if there is one.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn find_shared(connection: &mut Connection) -> Result<Option<PoolRecord>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM agent_pools WHERE organization_id IS NULL ORDER BY created_at, id LIMIT 1"
    );
    match connection.fetch_optional(&sql, values![]).await? {
        Some(row) => Ok(Some(with_access(connection, from_row(&row)?).await?)),
        None => Ok(None),
    }
}

/// A pool.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(connection: &mut Connection, id: &AgentPoolId) -> Result<Option<PoolRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM agent_pools WHERE id = $1");
    match connection.fetch_optional(&sql, values![id]).await? {
        Some(row) => Ok(Some(with_access(connection, from_row(&row)?).await?)),
        None => Ok(None),
    }
}

/// `%text%` with the wildcards of LIKE escaped by `\`.
fn containing(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{escaped}%")
}

/// An organization's pools.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn list(
    connection: &mut Connection,
    organization: &OrganizationId,
    filter: &PoolFilter,
    page: &Page,
) -> Result<Listed<PoolRecord>, StoreError> {
    const FROM: &str = "FROM agent_pools p WHERE p.organization_id = $1 \
        AND ($2 = '' OR LOWER(p.name) LIKE LOWER($2) ESCAPE '\\') \
        AND ($3 = '' OR p.organization_scoped = $4 OR EXISTS (SELECT 1 FROM agent_pool_access a \
            JOIN workspaces w ON w.id = a.subject_id WHERE a.pool_id = p.id AND a.subject = 'allowed-workspace' \
            AND w.name = $3)) \
        AND ($5 = '' OR p.organization_scoped = $6 OR EXISTS (SELECT 1 FROM agent_pool_access a \
            JOIN projects j ON j.id = a.subject_id WHERE a.pool_id = p.id AND a.subject = 'allowed-project' \
            AND j.name = $5))";
    let order = match filter.sort {
        PoolSort::Name => "p.name",
        PoolSort::NameDescending => "p.name DESC",
        PoolSort::Created => "p.created_at, p.id",
        PoolSort::CreatedDescending => "p.created_at DESC, p.id DESC",
    };
    let mut values = values![
        organization,
        filter.query.as_deref().map(containing).unwrap_or_default(),
        filter.allowed_workspace.clone().unwrap_or_default(),
        true,
        filter.allowed_project.clone().unwrap_or_default(),
        true,
    ];
    let total = connection
        .fetch_one(&format!("SELECT COUNT(*) AS total {FROM}"), values.clone())
        .await?
        .count("total")?;
    values.extend(values![page.limit(), page.offset()]);
    let sql = format!("SELECT {COLUMNS} {FROM} ORDER BY {order} LIMIT $7 OFFSET $8");
    let mut items = Vec::new();
    for row in connection.fetch_all(&sql, values).await? {
        items.push(with_access(connection, from_row(&row)?).await?);
    }
    Ok(Listed { items, total })
}

/// Changes a pool.
///
/// # Errors
/// [`PoolError::NotFound`], or [`StoreError::Conflict`] for a name that exists.
pub async fn update(tx: &mut Tx, id: &AgentPoolId, change: &PoolChange) -> Result<PoolRecord, PoolError> {
    let pool = get(tx, id).await?.ok_or(PoolError::NotFound)?;
    let settings = change.settings.as_ref().unwrap_or(&pool.settings);
    tx.execute(
        "UPDATE agent_pools SET name = $2, organization_scoped = $3, settings = $4 WHERE id = $1",
        values![
            id,
            change.name.as_ref().unwrap_or(&pool.name),
            change
                .organization_scoped
                .unwrap_or(pool.access.organization_scoped),
            serde_json::to_string(settings).unwrap_or_default(),
        ],
    )
    .await?;
    if let Some(ids) = &change.allowed_workspaces {
        replace_access(tx, id, "allowed-workspace", workspace_ids(ids)).await?;
    }
    if let Some(ids) = &change.allowed_projects {
        replace_access(tx, id, "allowed-project", project_ids(ids)).await?;
    }
    if let Some(ids) = &change.excluded_workspaces {
        replace_access(tx, id, "excluded-workspace", workspace_ids(ids)).await?;
    }
    tx.hint(crate::db::Hint::Pool(id.clone()));
    get(tx, id).await?.ok_or(PoolError::NotFound)
}

/// Ids and names of the workspaces that name this pool themselves.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn workspaces(
    connection: &mut Connection,
    id: &AgentPoolId,
) -> Result<Vec<(WorkspaceId, String)>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT id, name FROM workspaces WHERE agent_pool_id = $1 ORDER BY name",
            values![id],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((row.parse("id")?, row.text("name")?)))
        .collect()
}

/// Deletes a pool with its tokens and agents.
///
/// # Errors
/// [`PoolError::InUse`] while workspaces, defaults or active runs refer to it.
pub async fn delete(tx: &mut Tx, id: &AgentPoolId) -> Result<(), PoolError> {
    let mut users: Vec<String> = workspaces(tx, id)
        .await?
        .into_iter()
        .map(|(_, name)| format!("workspace {name}"))
        .collect();
    let named = [
        (
            "project",
            "SELECT name FROM projects WHERE default_agent_pool_id = $1 ORDER BY name".to_owned(),
        ),
        (
            "organization",
            "SELECT name FROM organizations WHERE default_agent_pool_id = $1 ORDER BY name".to_owned(),
        ),
        (
            "run",
            format!("SELECT id AS name FROM runs WHERE pool_id = $1 AND status IN ({ACTIVE}) ORDER BY id"),
        ),
    ];
    for (kind, sql) in named {
        for row in tx.fetch_all(&sql, values![id]).await? {
            users.push(format!("{kind} {}", row.text("name")?));
        }
    }
    if !users.is_empty() {
        return Err(PoolError::InUse(users));
    }
    let deleted = tx
        .execute("DELETE FROM agent_pools WHERE id = $1", values![id])
        .await?;
    if deleted == 0 {
        Err(PoolError::NotFound)
    } else {
        Ok(())
    }
}

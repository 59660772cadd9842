//! Projects.

use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::{AgentPoolId, OrganizationId, ProjectId};
use terrapool_model::time::Timestamp;

use crate::db::{Connection, Row, Tx, Value};
use crate::error::StoreError;
use crate::sight::Sight;
use crate::values;

/// A project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectRecord {
    /// Id.
    pub id: ProjectId,
    /// Its organization.
    pub organization_id: OrganizationId,
    /// Name, unique in the organization.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Whether it is the project that can't be deleted.
    pub is_default: bool,
    /// Where runs go; none: as the organization says.
    pub default_execution_mode: Option<ExecutionMode>,
    /// The pool, when the project's own mode is agent.
    pub default_agent_pool_id: Option<AgentPoolId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its workspaces.
    pub workspace_count: u64,
}

/// A project to be made.
#[derive(Debug, Clone)]
pub struct NewProject {
    /// Its organization.
    pub organization_id: OrganizationId,
    /// Name, unique in the organization.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Whether it is the project that can't be deleted.
    pub is_default: bool,
    /// Where runs go; none: as the organization says.
    pub default_execution_mode: Option<ExecutionMode>,
    /// The pool, when the project's own mode is agent.
    pub default_agent_pool_id: Option<AgentPoolId>,
}

impl NewProject {
    /// A project without settings of its own.
    pub fn new(organization_id: OrganizationId, name: String, is_default: bool) -> Self {
        Self {
            organization_id,
            name,
            description: String::new(),
            is_default,
            default_execution_mode: None,
            default_agent_pool_id: None,
        }
    }
}

const SELECT: &str = "SELECT id, organization_id, name, description, is_default, default_execution_mode, \
     default_agent_pool_id, created_at, \
     (SELECT COUNT(*) FROM workspaces WHERE workspaces.project_id = projects.id) AS workspace_count FROM projects";

fn read(row: &Row) -> Result<ProjectRecord, StoreError> {
    Ok(ProjectRecord {
        id: row.parse("id")?,
        organization_id: row.parse("organization_id")?,
        name: row.text("name")?,
        description: row.text("description")?,
        is_default: row.bool("is_default")?,
        default_execution_mode: row.opt_parse("default_execution_mode")?,
        default_agent_pool_id: row.opt_parse("default_agent_pool_id")?,
        created_at: row.time("created_at")?,
        workspace_count: row.count("workspace_count")?,
    })
}

/// Makes a project.
///
/// # Errors
/// [`StoreError::Conflict`] when the organization has one of this name.
pub async fn create(tx: &mut Tx, new: &NewProject) -> Result<ProjectRecord, StoreError> {
    let id = ProjectId::from_random(tx.draw());
    let now = tx.now();
    tx.execute(
        "INSERT INTO projects (id, organization_id, name, description, is_default, default_execution_mode, \
         default_agent_pool_id, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        values![
            &id,
            &new.organization_id,
            &new.name,
            &new.description,
            new.is_default,
            new.default_execution_mode.map(ExecutionMode::as_str),
            new.default_agent_pool_id.clone(),
            now
        ],
    )
    .await?;
    Ok(ProjectRecord {
        id,
        organization_id: new.organization_id.clone(),
        name: new.name.clone(),
        description: new.description.clone(),
        is_default: new.is_default,
        default_execution_mode: new.default_execution_mode,
        default_agent_pool_id: new.default_agent_pool_id.clone(),
        created_at: now,
        workspace_count: 0,
    })
}

/// The project with an id.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(connection: &mut Connection, id: &ProjectId) -> Result<Option<ProjectRecord>, StoreError> {
    let sql = format!("{SELECT} WHERE id = $1");
    connection
        .fetch_optional(&sql, values![id])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// The default project of an organization.
///
/// # Errors
/// [`StoreError`] when there is none, or the database fails.
pub async fn default_of(
    connection: &mut Connection,
    organization: &OrganizationId,
) -> Result<ProjectRecord, StoreError> {
    let sql = format!("{SELECT} WHERE organization_id = $1 AND is_default = $2");
    read(&connection.fetch_one(&sql, values![organization, true]).await?)
}

/// Which projects of an organization a list shows.
#[derive(Debug, Clone, Default)]
pub struct ProjectFilter {
    /// Only these names, when there are any.
    pub names: Vec<String>,
    /// Only names that contain this.
    pub search: Option<String>,
    /// Only projects that somebody sees.
    pub sight: Sight,
}

/// A page of an organization's projects, oldest first, and how many there are.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn list(
    connection: &mut Connection,
    organization: &OrganizationId,
    filter: &ProjectFilter,
    limit: u32,
    offset: u64,
) -> Result<(Vec<ProjectRecord>, u64), StoreError> {
    let mut values: Vec<Value> = values![organization];
    let mut condition = "organization_id = $1".to_owned();
    if !filter.names.is_empty() {
        let numbers: Vec<String> = filter
            .names
            .iter()
            .map(|name| {
                values.push(name.into());
                format!("${}", values.len())
            })
            .collect();
        condition.push_str(&format!(" AND name IN ({})", numbers.join(", ")));
    }
    if let Some(search) = &filter.search {
        values.push(crate::search::contains(search).into());
        condition.push_str(&format!(" AND LOWER(name) LIKE ${} ESCAPE '!'", values.len()));
    }
    let seen = filter.sight.of_projects("projects", &mut values);
    condition.push_str(&format!(" AND {seen}"));
    let total = connection
        .fetch_one(
            &format!("SELECT COUNT(*) AS total FROM projects WHERE {condition}"),
            values.clone(),
        )
        .await?
        .count("total")?;
    let (first, second) = (values.len() + 1, values.len() + 2);
    values.extend(values![limit, offset]);
    let sql = format!("{SELECT} WHERE {condition} ORDER BY created_at, id LIMIT ${first} OFFSET ${second}");
    let rows = connection.fetch_all(&sql, values).await?;
    let records = rows.iter().map(read).collect::<Result<_, _>>()?;
    Ok((records, total))
}

/// Writes what can be changed: name, description, defaults.
///
/// # Errors
/// [`StoreError::Conflict`] when the name is taken.
pub async fn update(tx: &mut Tx, record: &ProjectRecord) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE projects SET name = $2, description = $3, default_execution_mode = $4, default_agent_pool_id = $5 \
         WHERE id = $1",
        values![
            &record.id,
            &record.name,
            &record.description,
            record.default_execution_mode.map(ExecutionMode::as_str),
            record.default_agent_pool_id.clone()
        ],
    )
    .await?;
    Ok(())
}

/// Deletes a project without workspaces.
///
/// # Errors
/// [`StoreError::Reference`] when it has workspaces.
pub async fn delete(tx: &mut Tx, id: &ProjectId) -> Result<bool, StoreError> {
    let used = tx
        .fetch_optional(
            "SELECT id FROM workspaces WHERE project_id = $1 LIMIT 1",
            values![id],
        )
        .await?;
    if used.is_some() {
        return Err(StoreError::Reference);
    }
    Ok(tx
        .execute("DELETE FROM projects WHERE id = $1", values![id])
        .await?
        > 0)
}

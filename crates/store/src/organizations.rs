//! Organizations.

use serde_json::{Map, Value as Json};
use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::{AgentPoolId, OrganizationId, UserId};
use terrapool_model::time::Timestamp;

use crate::db::{Connection, Row, Tx, Value};
use crate::error::StoreError;
use crate::{memberships, projects, teams, values};

/// The project that every organization has.
pub const DEFAULT_PROJECT: &str = "Default Project";

/// An organization.
#[derive(Debug, Clone, PartialEq)]
pub struct OrganizationRecord {
    /// Id; clients know it by name.
    pub id: OrganizationId,
    /// Unique name.
    pub name: String,
    /// E-mail address of whoever is responsible.
    pub email: String,
    /// Where runs go unless project or workspace say otherwise.
    pub default_execution_mode: ExecutionMode,
    /// The pool, when the mode is agent.
    pub default_agent_pool_id: Option<AgentPoolId>,
    /// Settings that are stored and returned only.
    pub settings: Map<String, Json>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Which organizations a caller sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// All of them.
    All,
    /// Those that a user is a member of.
    MemberOf(UserId),
    /// One.
    Only(OrganizationId),
}

const COLUMNS: &str = "id, name, email, default_execution_mode, default_agent_pool_id, settings, created_at";

fn read(row: &Row) -> Result<OrganizationRecord, StoreError> {
    Ok(OrganizationRecord {
        id: row.parse("id")?,
        name: row.text("name")?,
        email: row.text("email")?,
        default_execution_mode: row.parse("default_execution_mode")?,
        default_agent_pool_id: row.opt_parse("default_agent_pool_id")?,
        settings: row.json("settings")?,
        created_at: row.time("created_at")?,
    })
}

/// Makes an organization with its default project and the team of its owners; the owner becomes a member.
///
/// # Errors
/// [`StoreError::Conflict`] when the name is taken.
pub async fn create(
    tx: &mut Tx,
    name: &str,
    email: &str,
    owner: Option<&UserId>,
    settings: &Map<String, Json>,
) -> Result<OrganizationRecord, StoreError> {
    let id = OrganizationId::from_random(tx.draw());
    let now = tx.now();
    let record = OrganizationRecord {
        id: id.clone(),
        name: name.to_owned(),
        email: email.to_owned(),
        default_execution_mode: ExecutionMode::Remote,
        default_agent_pool_id: None,
        settings: settings.clone(),
        created_at: now,
    };
    tx.execute(
        "INSERT INTO organizations (id, name, email, default_execution_mode, settings, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
        values![
            &id,
            name,
            email,
            record.default_execution_mode.as_str(),
            Json::Object(settings.clone()).to_string(),
            now
        ],
    )
    .await?;
    let owners = teams::create_owners(tx, &id).await?;
    if let Some(owner) = owner {
        memberships::add(tx, &id, owner).await?;
        teams::add_member(tx, &owners.id, owner).await?;
    }
    projects::create(
        tx,
        &projects::NewProject::new(id, DEFAULT_PROJECT.to_owned(), true),
    )
    .await?;
    Ok(record)
}

/// The organization with an id.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(
    connection: &mut Connection,
    id: &OrganizationId,
) -> Result<Option<OrganizationRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM organizations WHERE id = $1");
    connection
        .fetch_optional(&sql, values![id])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// The organization with a name.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn by_name(
    connection: &mut Connection,
    name: &str,
) -> Result<Option<OrganizationRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM organizations WHERE name = $1");
    connection
        .fetch_optional(&sql, values![name])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// A page of organizations, oldest first, and how many there are. `search` looks in names and addresses.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn list(
    connection: &mut Connection,
    visible: &Visible,
    search: Option<&str>,
    limit: u32,
    offset: u64,
) -> Result<(Vec<OrganizationRecord>, u64), StoreError> {
    let mut values: Vec<Value> = Vec::new();
    let mut condition = match visible {
        Visible::All => "1 = 1".to_owned(),
        Visible::MemberOf(user) => {
            values.push(user.into());
            "id IN (SELECT organization_id FROM organization_members WHERE user_id = $1)".to_owned()
        }
        Visible::Only(id) => {
            values.push(id.into());
            "id = $1".to_owned()
        }
    };
    if let Some(search) = search {
        values.push(crate::search::contains(search).into());
        let number = values.len();
        condition.push_str(&format!(
            " AND (LOWER(name) LIKE ${number} ESCAPE '!' OR LOWER(email) LIKE ${number} ESCAPE '!')"
        ));
    }
    let total = connection
        .fetch_one(
            &format!("SELECT COUNT(*) AS total FROM organizations WHERE {condition}"),
            values.clone(),
        )
        .await?
        .count("total")?;
    let (first, second) = (values.len() + 1, values.len() + 2);
    values.extend(values![limit, offset]);
    let sql = format!(
        "SELECT {COLUMNS} FROM organizations WHERE {condition} ORDER BY created_at, id LIMIT ${first} OFFSET ${second}"
    );
    let rows = connection.fetch_all(&sql, values).await?;
    let records = rows.iter().map(read).collect::<Result<_, _>>()?;
    Ok((records, total))
}

/// Writes what can be changed: name, address, defaults, settings.
///
/// # Errors
/// [`StoreError::Conflict`] when the name is taken.
pub async fn update(tx: &mut Tx, record: &OrganizationRecord) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE organizations SET name = $2, email = $3, default_execution_mode = $4, default_agent_pool_id = $5, \
         settings = $6 WHERE id = $1",
        values![
            &record.id,
            &record.name,
            &record.email,
            record.default_execution_mode.as_str(),
            record.default_agent_pool_id.clone(),
            Json::Object(record.settings.clone()).to_string()
        ],
    )
    .await?;
    Ok(())
}

/// Whether an apply of the organization may be changing infrastructure now.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn is_applying(connection: &mut Connection, id: &OrganizationId) -> Result<bool, StoreError> {
    let row = connection
        .fetch_optional(
            "SELECT jobs.id FROM jobs JOIN workspaces ON workspaces.id = jobs.workspace_id \
             WHERE workspaces.organization_id = $1 AND jobs.state = 'running' AND jobs.phase = 'apply' LIMIT 1",
            values![id],
        )
        .await?;
    Ok(row.is_some())
}

/// How many runs of the organization wait for their workspace, and how many are being worked on.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn run_counts(connection: &mut Connection, id: &OrganizationId) -> Result<(u64, u64), StoreError> {
    let row = connection
        .fetch_one(
            "SELECT COALESCE(SUM(CASE WHEN runs.status = 'pending' THEN 1 ELSE 0 END), 0) AS pending, \
             COALESCE(SUM(CASE WHEN runs.status <> 'pending' THEN 1 ELSE 0 END), 0) AS running \
             FROM runs JOIN workspaces ON workspaces.id = runs.workspace_id WHERE workspaces.organization_id = $1 \
             AND runs.status IN ('pending', 'plan_queued', 'planning', 'apply_queued', 'applying')",
            values![id],
        )
        .await?;
    Ok((row.count("pending")?, row.count("running")?))
}

/// Deletes an organization and everything in it.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn delete(tx: &mut Tx, id: &OrganizationId) -> Result<bool, StoreError> {
    // Children first: PostgreSQL checks references that do not cascade while it cascades the others.
    const STEPS: [&str; 5] = [
        "DELETE FROM runs WHERE workspace_id IN (SELECT id FROM workspaces WHERE organization_id = $1)",
        "DELETE FROM workspaces WHERE organization_id = $1",
        "DELETE FROM projects WHERE organization_id = $1",
        "DELETE FROM agent_pools WHERE organization_id = $1",
        "DELETE FROM organizations WHERE id = $1",
    ];
    let mut changed = 0;
    for sql in STEPS {
        changed = tx.execute(sql, values![id]).await?;
    }
    Ok(changed > 0)
}

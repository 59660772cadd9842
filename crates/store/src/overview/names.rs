//! Names of things that lists show by id.

use std::collections::BTreeMap;

use terrapool_model::id::{AgentId, AgentPoolId, OrganizationId, ProjectId, UserId, WorkspaceId};

use crate::db::{Connection, Value};
use crate::error::StoreError;
use crate::values;

/// Names of users.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn user_names(
    connection: &mut Connection,
    ids: impl IntoIterator<Item = UserId>,
) -> Result<BTreeMap<UserId, String>, StoreError> {
    let ids: std::collections::BTreeSet<UserId> = ids.into_iter().collect();
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let values: Vec<Value> = ids.iter().map(Value::from).collect();
    let sql = format!(
        "SELECT id, username FROM users WHERE id IN ({})",
        numbered(values.len(), 1)
    );
    let rows = connection.fetch_all(&sql, values).await?;
    rows.iter()
        .map(|row| Ok((row.parse("id")?, row.text("username")?)))
        .collect()
}

/// `$1, $2, …` for `IN (…)`, from a number on.
pub(crate) fn numbered(count: usize, first: usize) -> String {
    (first..first + count)
        .map(|number| format!("${number}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Ids and names of the pools that workspaces of an organization may know of: its own, and the shared one.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn pool_names(
    connection: &mut Connection,
    organization: &OrganizationId,
) -> Result<BTreeMap<AgentPoolId, String>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT id, name FROM agent_pools WHERE organization_id = $1 OR organization_id IS NULL",
            values![organization],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((row.parse("id")?, row.text("name")?)))
        .collect()
}

/// Ids and names of an organization's projects.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn project_names(
    connection: &mut Connection,
    organization: &OrganizationId,
) -> Result<BTreeMap<ProjectId, String>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT id, name FROM projects WHERE organization_id = $1",
            values![organization],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((row.parse("id")?, row.text("name")?)))
        .collect()
}

/// Ids, names and projects of an organization's workspaces, by name.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn workspace_names(
    connection: &mut Connection,
    organization: &OrganizationId,
) -> Result<Vec<(WorkspaceId, String, ProjectId)>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT id, name, project_id FROM workspaces WHERE organization_id = $1 ORDER BY name",
            values![organization],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((row.parse("id")?, row.text("name")?, row.parse("project_id")?)))
        .collect()
}

/// The name of the organization that something with this id belongs to, and what a page's address needs of it: for a
/// run its workspace's name, for an agent its pool's id.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn organization_of_subject(
    connection: &mut Connection,
    id: &str,
) -> Result<Option<(OrganizationId, String)>, StoreError> {
    let sql = match id.split_once('-') {
        Some(("run", _)) => {
            "SELECT w.organization_id AS organization, w.name AS place FROM runs r \
             JOIN workspaces w ON w.id = r.workspace_id WHERE r.id = $1"
        }
        Some(("ws", _)) => {
            "SELECT organization_id AS organization, name AS place FROM workspaces WHERE id = $1"
        }
        Some(("apool", _)) => {
            "SELECT organization_id AS organization, id AS place FROM agent_pools \
             WHERE id = $1 AND organization_id IS NOT NULL"
        }
        Some(("agent", _)) => {
            "SELECT p.organization_id AS organization, p.id AS place FROM agents a \
             JOIN agent_pools p ON p.id = a.pool_id WHERE a.id = $1 AND p.organization_id IS NOT NULL"
        }
        Some(("prj", _)) => "SELECT organization_id AS organization, id AS place FROM projects WHERE id = $1",
        Some(_) | None => return Ok(None),
    };
    connection
        .fetch_optional(sql, values![id])
        .await?
        .map(|row| Ok((row.parse("organization")?, row.text("place")?)))
        .transpose()
}

/// The pool, and the agent in it, that has a name in an organization; a pool goes before agents. `None` when no one or
/// more than one agent is called so.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn pool_or_agent_named(
    connection: &mut Connection,
    organization: &OrganizationId,
    name: &str,
) -> Result<Option<(AgentPoolId, Option<AgentId>)>, StoreError> {
    let pool = connection
        .fetch_optional(
            "SELECT id FROM agent_pools WHERE organization_id = $1 AND name = $2",
            values![organization, name],
        )
        .await?;
    if let Some(row) = pool {
        return Ok(Some((row.parse("id")?, None)));
    }
    let agents = connection
        .fetch_all(
            "SELECT a.id AS agent, p.id AS pool FROM agents a JOIN agent_pools p ON p.id = a.pool_id \
             WHERE p.organization_id = $1 AND a.name = $2 LIMIT 2",
            values![organization, name],
        )
        .await?;
    match agents.as_slice() {
        [row] => Ok(Some((row.parse("pool")?, Some(row.parse("agent")?)))),
        _ => Ok(None),
    }
}

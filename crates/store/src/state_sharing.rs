//! Whose runs may read a workspace's state.

use std::collections::BTreeSet;

use terrapool_model::access::{Reader, StateSharing};
use terrapool_model::id::{OrganizationId, WorkspaceId};

use crate::db::{Connection, Tx};
use crate::error::StoreError;
use crate::values;
use crate::workspaces::{self, WorkspaceRecord};

/// The setting of a workspace that shares its state with its project.
const WITH_PROJECT: &str = "project-remote-state";

/// Whose runs may read the state of a workspace.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of(connection: &mut Connection, record: &WorkspaceRecord) -> Result<StateSharing, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT consumer_id FROM remote_state_consumers WHERE workspace_id = $1",
            values![&record.id],
        )
        .await?;
    let consumers: Result<BTreeSet<WorkspaceId>, StoreError> =
        rows.iter().map(|row| row.parse("consumer_id")).collect();
    Ok(StateSharing {
        workspace: record.id.clone(),
        organization: record.organization_id.clone(),
        project: record.project_id.clone(),
        with_organization: record.global_remote_state,
        with_project: record
            .settings
            .get(WITH_PROJECT)
            .and_then(serde_json::Value::as_bool)
            == Some(true),
        consumers: consumers?,
    })
}

/// A workspace as one whose runs read the state of others.
pub fn reader(record: &WorkspaceRecord) -> Reader {
    Reader {
        workspace: record.id.clone(),
        organization: record.organization_id.clone(),
        project: record.project_id.clone(),
    }
}

/// The workspaces that are listed as consumers of a workspace's state, by name.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn consumers(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    limit: u32,
    offset: u64,
) -> Result<(Vec<WorkspaceRecord>, u64), StoreError> {
    let total = connection
        .fetch_one(
            "SELECT COUNT(*) AS total FROM remote_state_consumers WHERE workspace_id = $1",
            values![workspace],
        )
        .await?
        .count("total")?;
    let rows = connection
        .fetch_all(
            "SELECT consumer_id FROM remote_state_consumers JOIN workspaces ON workspaces.id = consumer_id \
             WHERE workspace_id = $1 ORDER BY workspaces.name LIMIT $2 OFFSET $3",
            values![workspace, limit, offset],
        )
        .await?;
    let mut records = Vec::new();
    for row in &rows {
        records.extend(workspaces::get(connection, &row.parse("consumer_id")?).await?);
    }
    Ok((records, total))
}

/// Whether all of these are workspaces of an organization.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn are_of(
    connection: &mut Connection,
    organization: &OrganizationId,
    ids: &BTreeSet<WorkspaceId>,
) -> Result<bool, StoreError> {
    for id in ids {
        let row = connection
            .fetch_optional(
                "SELECT id FROM workspaces WHERE id = $1 AND organization_id = $2",
                values![id, organization],
            )
            .await?;
        if row.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Adds consumers; one that is listed already is fine.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn add(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    consumers: &BTreeSet<WorkspaceId>,
) -> Result<(), StoreError> {
    for consumer in consumers {
        tx.execute(
            "INSERT INTO remote_state_consumers (workspace_id, consumer_id) VALUES ($1, $2) \
             ON CONFLICT (workspace_id, consumer_id) DO NOTHING",
            values![workspace, consumer],
        )
        .await?;
    }
    Ok(())
}

/// Removes consumers; one that is not listed is fine.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn remove(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    consumers: &BTreeSet<WorkspaceId>,
) -> Result<(), StoreError> {
    for consumer in consumers {
        tx.execute(
            "DELETE FROM remote_state_consumers WHERE workspace_id = $1 AND consumer_id = $2",
            values![workspace, consumer],
        )
        .await?;
    }
    Ok(())
}

/// Lists these consumers and no others.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn replace(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    consumers: &BTreeSet<WorkspaceId>,
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM remote_state_consumers WHERE workspace_id = $1",
        values![workspace],
    )
    .await?;
    add(tx, workspace, consumers).await
}

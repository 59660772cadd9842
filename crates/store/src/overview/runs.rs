//! Runs with the names that lists show.

use terrapool_model::id::{AgentPoolId, OrganizationId, RunId, UserId, WorkspaceId};

use super::names::numbered;
use crate::db::{Connection, Row, Value};
use crate::error::StoreError;
use crate::page::{Listed, Page};
use crate::runs::{self, RunRecord};
use crate::sight::Sight;
use crate::values;

/// A run with the names around it.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedRun {
    /// The run.
    pub run: RunRecord,
    /// Its workspace's name.
    pub workspace: String,
    /// Who made it, by name; `None` for a token that belongs to no user.
    pub creator: Option<String>,
    /// Its pool's name; `None` when the pool was deleted.
    pub pool: Option<String>,
}

impl ListedRun {
    /// Who made it.
    pub fn who(&self) -> &str {
        self.creator.as_deref().unwrap_or("organization token")
    }
}

/// Which runs of an organization are listed.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// In one of these statuses; all when there are none.
    pub statuses: Vec<&'static str>,
    /// In this pool.
    pub pool: Option<AgentPoolId>,
    /// Made by this user.
    pub user: Option<UserId>,
    /// Made by somebody whose name contains this.
    pub who: Option<String>,
    /// Of this workspace.
    pub workspace: Option<WorkspaceId>,
    /// In pools of these names.
    pub pool_names: Vec<String>,
    /// Of workspaces of these names.
    pub workspace_names: Vec<String>,
    /// Workspace or message contain this.
    pub text: Option<String>,
    /// Of workspaces that somebody sees.
    pub sight: Sight,
}

const FROM: &str = "FROM runs r JOIN workspaces w ON w.id = r.workspace_id \
     LEFT JOIN users u ON u.id = r.created_by LEFT JOIN agent_pools p ON p.id = r.pool_id";

fn columns() -> String {
    format!(
        "{}, w.name AS workspace_name, u.username AS creator_name, p.name AS pool_name",
        runs::COLUMNS
    )
}

fn read(row: &Row) -> Result<ListedRun, StoreError> {
    Ok(ListedRun {
        run: runs::from_row(row)?,
        workspace: row.text("workspace_name")?,
        creator: row.opt_text("creator_name")?,
        pool: row.opt_text("pool_name")?,
    })
}

/// A page of an organization's runs, newest first. At most [`Page::COUNTED`] that follow the page are counted: what a
/// page costs does not grow with the history.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn list_runs(
    connection: &mut Connection,
    organization: &OrganizationId,
    filter: &RunFilter,
    page: &Page,
) -> Result<Listed<ListedRun>, StoreError> {
    let mut values: Vec<Value> = values![organization];
    let mut condition = "r.organization_id = $1".to_owned();
    if !filter.statuses.is_empty() {
        let first = values.len() + 1;
        values.extend(filter.statuses.iter().map(|status| Value::from(*status)));
        condition.push_str(&format!(
            " AND r.status IN ({})",
            numbered(filter.statuses.len(), first)
        ));
    }
    for (column, id) in [
        ("r.pool_id", filter.pool.as_ref().map(Value::from)),
        ("r.created_by", filter.user.as_ref().map(Value::from)),
        ("r.workspace_id", filter.workspace.as_ref().map(Value::from)),
    ] {
        if let Some(id) = id {
            values.push(id);
            condition.push_str(&format!(" AND {column} = ${}", values.len()));
        }
    }
    for (column, names) in [
        ("w.name", &filter.workspace_names),
        (
            "(SELECT name FROM agent_pools WHERE id = r.pool_id)",
            &filter.pool_names,
        ),
    ] {
        if !names.is_empty() {
            let first = values.len() + 1;
            values.extend(names.iter().map(|name| Value::from(name.as_str())));
            condition.push_str(&format!(" AND {column} IN ({})", numbered(names.len(), first)));
        }
    }
    if let Some(text) = &filter.text {
        values.push(crate::search::contains(text).into());
        let number = values.len();
        condition.push_str(&format!(
            " AND (LOWER(w.name) LIKE ${number} ESCAPE '!' OR LOWER(r.message) LIKE ${number} ESCAPE '!')"
        ));
    }
    if let Some(who) = &filter.who {
        values.push(crate::search::contains(who).into());
        condition.push_str(&format!(
            " AND r.created_by IN (SELECT id FROM users WHERE LOWER(username) LIKE ${} ESCAPE '!')",
            values.len()
        ));
    }
    let seen = filter.sight.of_workspaces("w", &mut values);
    condition.push_str(&format!(" AND {seen}"));
    let most = page.offset() + page.limit() + i64::try_from(Page::COUNTED).unwrap_or(i64::MAX) + 1;
    let mut counted = values.clone();
    counted.push(most.into());
    let count = format!(
        "SELECT COUNT(*) AS total FROM (SELECT 1 AS one FROM runs r JOIN workspaces w ON w.id = r.workspace_id \
         WHERE {condition} LIMIT ${}) counted",
        counted.len()
    );
    let total = connection.fetch_one(&count, counted).await?.count("total")?;
    let (first, second) = (values.len() + 1, values.len() + 2);
    values.extend(values![page.limit(), page.offset()]);
    // Within a workspace both orders are the same, and the numbers are indexed.
    let order = match filter.workspace {
        Some(_) => "r.number DESC",
        None => "r.created_at DESC, r.number DESC",
    };
    let sql = format!(
        "SELECT {} {FROM} WHERE {condition} ORDER BY {order} LIMIT ${first} OFFSET ${second}",
        columns()
    );
    let rows = connection.fetch_all(&sql, values).await?;
    Ok(Listed {
        items: rows.iter().map(read).collect::<Result<_, _>>()?,
        total,
    })
}

/// The runs of an organization that were lost and still lock their workspace, then those that wait for a person;
/// oldest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn asking(
    connection: &mut Connection,
    organization: &OrganizationId,
    sight: &Sight,
    limit: u32,
) -> Result<Vec<ListedRun>, StoreError> {
    let mut values: Vec<Value> = values![organization, limit];
    let seen = sight.of_workspaces("w", &mut values);
    let sql = format!(
        "SELECT {} {FROM} WHERE w.organization_id = $1 AND (r.status = 'planned' \
         OR (w.lock_state = 'lost' AND w.lock_run_id = r.id)) AND {seen} ORDER BY CASE r.status WHEN 'planned' THEN 1 ELSE 0 END, \
         r.updated_at, r.id LIMIT $2",
        columns()
    );
    let rows = connection.fetch_all(&sql, values).await?;
    rows.iter().map(read).collect()
}

/// Runs by their ids, in no order.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn by_ids(connection: &mut Connection, ids: &[RunId]) -> Result<Vec<ListedRun>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let values: Vec<Value> = ids.iter().map(Value::from).collect();
    let sql = format!(
        "SELECT {} {FROM} WHERE r.id IN ({})",
        columns(),
        numbered(ids.len(), 1)
    );
    let rows = connection.fetch_all(&sql, values).await?;
    rows.iter().map(read).collect()
}

/// How many of an organization's workspaces have a current run in each status, and how many are locked by a person or
/// a lost run.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn current_statuses(
    connection: &mut Connection,
    organization: &OrganizationId,
    sight: &Sight,
) -> Result<(std::collections::BTreeMap<String, u64>, u64), StoreError> {
    let mut values: Vec<Value> = values![organization];
    let seen = sight.of_workspaces("w", &mut values);
    let sql = format!(
        "SELECT r.status, COUNT(*) AS workspaces FROM workspaces w JOIN runs r ON r.id = w.current_run_id \
         WHERE w.organization_id = $1 AND {seen} GROUP BY r.status"
    );
    let rows = connection.fetch_all(&sql, values.clone()).await?;
    let statuses = rows
        .iter()
        .map(|row| Ok((row.text("status")?, row.count("workspaces")?)))
        .collect::<Result<_, StoreError>>()?;
    let locked = connection
        .fetch_one(
            &format!(
                "SELECT COUNT(*) AS workspaces FROM workspaces w WHERE w.organization_id = $1 \
                 AND w.lock_state IN ('user', 'lost') AND {seen}"
            ),
            values,
        )
        .await?
        .count("workspaces")?;
    Ok((statuses, locked))
}

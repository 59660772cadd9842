//! Lists of workspaces.

use terrapool_model::id::{AgentPoolId, OrganizationId, ProjectId};

use super::{SELECT, Value, WorkspaceRecord, bind_first, read};
use crate::db::Connection;
use crate::error::StoreError;
use crate::sight::Sight;
use crate::{search, values};

/// A key, or a key with a value, that a workspace has to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagFilter {
    /// The key.
    pub key: String,
    /// The value, when it matters.
    pub value: Option<String>,
}

/// Which workspaces of an organization a list shows. Everything that is set has to hold.
#[derive(Debug, Clone, Default)]
pub struct WorkspaceFilter {
    /// Names that contain this.
    pub name: Option<String>,
    /// Names that match this, `*` standing for anything.
    pub wildcard_name: Option<String>,
    /// Workspaces with all of these.
    pub tagged: Vec<TagFilter>,
    /// Workspaces with none of these tags.
    pub exclude_tags: Vec<String>,
    /// Workspaces of a project.
    pub project: Option<ProjectId>,
    /// Workspaces whose own pool this is.
    pub pool: Option<AgentPoolId>,
    /// Workspaces whose current run has one of these statuses.
    pub run_statuses: Vec<String>,
    /// Only workspaces that a person or a lost run has locked.
    pub locked: bool,
    /// Workspaces that somebody sees.
    pub sight: Sight,
}

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WorkspaceOrder {
    /// Oldest first.
    #[default]
    Creation,
    /// By name.
    Name,
    /// By name, reversed.
    NameDescending,
    /// Newest first.
    CreationDescending,
    /// By the creation of the current run; without one last.
    CurrentRun,
    /// By the creation of the current run, newest first; without one last.
    CurrentRunDescending,
    /// By the last change of settings.
    Change,
    /// By the last change of settings, newest first.
    ChangeDescending,
}

impl WorkspaceOrder {
    /// `NULLS LAST` is understood by both engines.
    fn sql(self) -> &'static str {
        match self {
            Self::Creation => "workspaces.created_at, workspaces.id",
            Self::Name => "workspaces.name",
            Self::NameDescending => "workspaces.name DESC",
            Self::CreationDescending => "workspaces.created_at DESC, workspaces.id",
            Self::CurrentRun => {
                "(SELECT runs.created_at FROM runs WHERE runs.id = current_run_id) ASC NULLS LAST, \
                 workspaces.created_at, workspaces.id"
            }
            Self::CurrentRunDescending => {
                "(SELECT runs.created_at FROM runs WHERE runs.id = current_run_id) DESC NULLS LAST, \
                 workspaces.created_at, workspaces.id"
            }
            Self::Change => "workspaces.updated_at, workspaces.id",
            Self::ChangeDescending => "workspaces.updated_at DESC, workspaces.id",
        }
    }
}

/// A page of an organization's workspaces and how many there are.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn list(
    connection: &mut Connection,
    organization: &OrganizationId,
    filter: &WorkspaceFilter,
    order: WorkspaceOrder,
    limit: u32,
    offset: u64,
) -> Result<(Vec<WorkspaceRecord>, u64), StoreError> {
    let mut values: Vec<Value> = bind_first(values![organization]);
    let mut condition = "workspaces.organization_id = $2".to_owned();
    let add = |values: &mut Vec<Value>, value: Value| {
        values.push(value);
        values.len()
    };
    if let Some(name) = &filter.name {
        let number = add(&mut values, search::contains(name).into());
        condition.push_str(&format!(" AND LOWER(workspaces.name) LIKE ${number} ESCAPE '!'"));
    }
    if let Some(pattern) = &filter.wildcard_name {
        let number = add(&mut values, search::wildcard(pattern).into());
        condition.push_str(&format!(" AND LOWER(workspaces.name) LIKE ${number} ESCAPE '!'"));
    }
    for tag in &filter.tagged {
        // Tags are told apart without regard to case; clients search for them as they were written.
        let number = add(&mut values, tag.key.to_lowercase().into());
        let value = match &tag.value {
            Some(value) => format!(" AND value = ${}", add(&mut values, value.into())),
            None => String::new(),
        };
        condition.push_str(&format!(
            " AND EXISTS (SELECT 1 FROM workspace_tags WHERE workspace_id = workspaces.id AND LOWER(key) = ${number}{value})"
        ));
    }
    for tag in &filter.exclude_tags {
        let number = add(&mut values, tag.to_lowercase().into());
        condition.push_str(&format!(
            " AND NOT EXISTS (SELECT 1 FROM workspace_tags WHERE workspace_id = workspaces.id AND LOWER(key) = ${number})"
        ));
    }
    if let Some(project) = &filter.project {
        let number = add(&mut values, project.into());
        condition.push_str(&format!(" AND workspaces.project_id = ${number}"));
    }
    if let Some(pool) = &filter.pool {
        let number = add(&mut values, pool.into());
        condition.push_str(&format!(" AND workspaces.agent_pool_id = ${number}"));
    }
    if !filter.run_statuses.is_empty() {
        let numbers: Vec<String> = filter
            .run_statuses
            .iter()
            .map(|status| format!("${}", add(&mut values, status.into())))
            .collect();
        condition.push_str(&format!(
            " AND (SELECT runs.status FROM runs WHERE runs.id = current_run_id) IN ({})",
            numbers.join(", ")
        ));
    }
    if filter.locked {
        condition.push_str(" AND lock_state IN ('user', 'lost')");
    }
    let seen = filter.sight.of_workspaces("workspaces", &mut values);
    condition.push_str(&format!(" AND {seen}"));
    // `$1` belongs to the columns of the list; the count names it too, so that the numbers stay.
    let count = format!("SELECT COUNT(*) AS total FROM workspaces WHERE $1 = $1 AND {condition}");
    let total = connection
        .fetch_one(&count, values.clone())
        .await?
        .count("total")?;
    let (first, second) = (values.len() + 1, values.len() + 2);
    values.extend(values![limit, offset]);
    let order = order.sql();
    let sql = format!("{SELECT} WHERE {condition} ORDER BY {order} LIMIT ${first} OFFSET ${second}");
    let rows = connection.fetch_all(&sql, values).await?;
    let records = rows.iter().map(read).collect::<Result<_, _>>()?;
    Ok((records, total))
}

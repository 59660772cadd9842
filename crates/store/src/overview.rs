//! What people look at: lists that join what belongs to different aggregates, and counts. Read only.

use terrapool_model::id::OrganizationId;
use terrapool_model::time::Timestamp;

use crate::db::{Connection, Value};
use crate::error::StoreError;
use crate::sight::Sight;
use crate::values;

mod jobs;
mod names;
mod runs;

pub use jobs::{
    JobView, QueuedGroup, QueuedView, finished_since, memory_of, of_agent, of_run, platform_failures, queue,
    queued_groups, queued_of_organization, queued_runs, running_on, taken_by,
};
pub(crate) use names::numbered;
pub use names::{
    organization_of_subject, pool_names, pool_or_agent_named, project_names, user_names, workspace_names,
};
pub use runs::{ListedRun, RunFilter, asking, by_ids, current_statuses, list_runs};

/// Silence after which an agent does not count as connected: the default of `Times::agent_errored`.
pub(crate) const SILENCE: i64 = 5 * 60 * 1000;

/// What stands beside the links of an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Workspaces.
    pub workspaces: u64,
    /// Projects.
    pub projects: u64,
    /// Runs that wait for a person.
    pub asking: u64,
    /// Pools in which runs wait and no agent is heard from.
    pub stalled: u64,
}

/// The counts of what somebody sees of an organization.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn counts(
    connection: &mut Connection,
    organization: &OrganizationId,
    sight: &Sight,
    now: Timestamp,
) -> Result<Counts, StoreError> {
    let mut values: Vec<Value> = values![organization, false, Timestamp(now.0 - SILENCE)];
    let workspaces = sight.of_workspaces("w", &mut values);
    let projects = sight.of_projects("p", &mut values);
    let sql = format!(
        "SELECT (SELECT COUNT(*) FROM workspaces w WHERE w.organization_id = $1 AND {workspaces}) AS workspaces, \
         (SELECT COUNT(*) FROM projects p WHERE p.organization_id = $1 AND {projects}) AS projects, \
         (SELECT COUNT(*) FROM runs r JOIN workspaces w ON w.id = r.workspace_id \
         WHERE w.organization_id = $1 AND r.status = 'planned' AND {workspaces}) AS asking, \
         (SELECT COUNT(*) FROM agent_pools p WHERE p.organization_id = $1 \
         AND EXISTS (SELECT 1 FROM jobs j WHERE j.pool_id = p.id AND j.state = 'queued') \
         AND NOT EXISTS (SELECT 1 FROM agents a WHERE a.pool_id = p.id AND a.exited = $2 \
         AND a.last_ping_at > $3)) AS stalled"
    );
    let row = connection.fetch_one(&sql, values).await?;
    Ok(Counts {
        workspaces: row.count("workspaces")?,
        projects: row.count("projects")?,
        asking: row.count("asking")?,
        stalled: row.count("stalled")?,
    })
}

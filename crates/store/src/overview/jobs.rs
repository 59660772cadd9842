//! Jobs as people see them: what waits, what runs where, and how it ended.

use std::collections::{BTreeMap, BTreeSet};

use terrapool_model::id::{
    AgentId, AgentPoolId, AttemptId, JobId, OrganizationId, ProjectId, RunId, WorkspaceId,
};
use terrapool_model::job::{JobState, Phase};
use terrapool_model::time::Timestamp;
use terrapool_protocol::job::{Limits, Outcome, Usage};
use terrapool_protocol::memory::MemoryCurve;

use crate::db::{Connection, Row, Value};
use crate::error::StoreError;
use crate::jobs::{self, RecordedEnd};
use crate::overview::numbered;
use crate::{pool_minutes, values};

/// A job with the names around it.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    /// The job.
    pub id: JobId,
    /// Its run.
    pub run_id: RunId,
    /// The run's message.
    pub message: String,
    /// Its workspace's name.
    pub workspace: String,
    /// The name of its workspace's organization.
    pub organization: String,
    /// Its pool.
    pub pool_id: AgentPoolId,
    /// Its phase.
    pub phase: Phase,
    /// Where it stands.
    pub state: JobState,
    /// The newest assignment.
    pub generation: u64,
    /// The attempt that holds it, or held it last.
    pub attempt: Option<AttemptId>,
    /// The attempt's agent.
    pub agent_id: Option<AgentId>,
    /// The agent's name; `None` when it was removed.
    pub agent: Option<String>,
    /// Assignments so far.
    pub tries: u64,
    /// When its attempt was last heard, as far as it is written down.
    pub last_contact: Option<Timestamp>,
    /// Since when it waits or waited.
    pub queued_at: Timestamp,
    /// When an agent took it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// What its sandbox may use.
    pub limits: Limits,
    /// How it ended; `None` also for one that was given up.
    pub outcome: Option<Outcome>,
    /// What it used.
    pub usage: Option<Usage>,
}

impl JobView {
    /// Whether it failed by a fault of the platform: not by its configuration's, and not because somebody wanted it.
    pub fn is_platform_failure(&self) -> bool {
        let given_up = self.state == JobState::Lost && self.finished_at.is_some();
        pool_minutes::is_platform_failure(given_up, self.outcome.as_ref())
    }
}

const COLUMNS: &str = "j.id, j.run_id, r.message, w.name AS workspace_name, o.name AS organization_name, j.pool_id, \
     j.phase, j.state, j.generation, j.attempt, j.agent_id, a.name AS agent_name, j.tries, j.last_contact, j.queued_at, \
     j.started_at, j.finished_at, j.limits, j.outcome, j.usage";
const FROM: &str = "FROM jobs j JOIN runs r ON r.id = j.run_id JOIN workspaces w ON w.id = j.workspace_id \
     JOIN organizations o ON o.id = w.organization_id LEFT JOIN agents a ON a.id = j.agent_id";

fn read(row: &Row) -> Result<JobView, StoreError> {
    let recorded: Option<RecordedEnd> = row.opt_json("outcome")?;
    Ok(JobView {
        id: row.parse("id")?,
        run_id: row.parse("run_id")?,
        message: row.text("message")?,
        workspace: row.text("workspace_name")?,
        organization: row.text("organization_name")?,
        pool_id: row.parse("pool_id")?,
        phase: row.parse("phase")?,
        state: row.parse("state")?,
        generation: row.count("generation")?,
        attempt: row.opt_parse("attempt")?,
        agent_id: row.opt_parse("agent_id")?,
        agent: row.opt_text("agent_name")?,
        tries: row.count("tries")?,
        last_contact: row.opt_time("last_contact")?,
        queued_at: row.time("queued_at")?,
        started_at: row.opt_time("started_at")?,
        finished_at: row.opt_time("finished_at")?,
        limits: row.json("limits")?,
        outcome: recorded.map(|recorded| recorded.outcome),
        usage: row.opt_json("usage")?,
    })
}

async fn select(
    connection: &mut Connection,
    rest: &str,
    values: Vec<Value>,
) -> Result<Vec<JobView>, StoreError> {
    let sql = format!("SELECT {COLUMNS} {FROM} {rest}");
    connection
        .fetch_all(&sql, values)
        .await?
        .iter()
        .map(read)
        .collect()
}

/// The memory of the sandbox of a run's phase over time, and its limit in MiB; `None` while it runs, and where its agent
/// told none.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn memory_of(
    connection: &mut Connection,
    run: &RunId,
    phase: Phase,
) -> Result<Option<(MemoryCurve, u64)>, StoreError> {
    let found = connection
        .fetch_optional(
            "SELECT memory, limits FROM jobs WHERE run_id = $1 AND phase = $2",
            values![run, phase.as_str()],
        )
        .await?;
    let Some(row) = found else { return Ok(None) };
    let limits: Limits = row.json("limits")?;
    let curve: Option<MemoryCurve> = row.opt_json("memory")?;
    Ok(curve.map(|curve| (curve, limits.memory_mb)))
}

/// The jobs of a run: its plan, then its apply.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_run(connection: &mut Connection, run: &RunId) -> Result<Vec<JobView>, StoreError> {
    select(
        connection,
        "WHERE j.run_id = $1 ORDER BY j.phase DESC",
        values![run],
    )
    .await
}

/// The jobs that agents of a pool hold now.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn running_on(connection: &mut Connection, pool: &AgentPoolId) -> Result<Vec<JobView>, StoreError> {
    select(
        connection,
        "WHERE j.pool_id = $1 AND j.state IN ('leased', 'running') ORDER BY j.started_at, j.id",
        values![pool],
    )
    .await
}

/// The jobs that an agent took last, newest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_agent(
    connection: &mut Connection,
    agent: &AgentId,
    limit: u32,
) -> Result<Vec<JobView>, StoreError> {
    select(
        connection,
        "WHERE j.agent_id = $1 ORDER BY j.started_at DESC NULLS LAST, j.id LIMIT $2",
        values![agent, limit],
    )
    .await
}

/// How many jobs an agent has taken so far, as far as they are remembered.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn taken_by(connection: &mut Connection, agent: &AgentId) -> Result<u64, StoreError> {
    connection
        .fetch_one(
            "SELECT COUNT(*) AS jobs FROM jobs WHERE agent_id = $1",
            values![agent],
        )
        .await?
        .count("jobs")
}

/// The jobs of some pools that were queued since a time and have been taken, newest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn finished_since(
    connection: &mut Connection,
    pool: &AgentPoolId,
    since: Timestamp,
    limit: u32,
) -> Result<Vec<JobView>, StoreError> {
    select(
        connection,
        "WHERE j.pool_id = $1 AND j.queued_at >= $2 AND j.started_at IS NOT NULL \
         ORDER BY j.queued_at DESC, j.id LIMIT $3",
        values![pool, since, limit],
    )
    .await
}

/// Failed jobs that are looked at, for those of them that the platform is to blame for.
const LOOKED_AT: u32 = 500;

/// The jobs of an organization in a pool that ended since a time by a fault of the platform, newest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn platform_failures(
    connection: &mut Connection,
    organization: &OrganizationId,
    pool: &AgentPoolId,
    since: Timestamp,
) -> Result<Vec<JobView>, StoreError> {
    let mut found = select(
        connection,
        "WHERE w.organization_id = $1 AND j.pool_id = $2 AND j.finished_at IS NOT NULL AND j.finished_at >= $3 \
         AND (j.outcome IS NULL OR j.outcome NOT LIKE '{\"outcome\":{\"result\":\"succeeded\"%') \
         ORDER BY j.finished_at DESC, j.id LIMIT $4",
        values![organization, pool, since, LOOKED_AT],
    )
    .await?;
    found.retain(JobView::is_platform_failure);
    Ok(found)
}

/// A job that waits for an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedView {
    /// The job.
    pub job: JobView,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its workspace's project.
    pub project_id: ProjectId,
    /// The pool that the workspace names itself now.
    pub workspace_pool: Option<AgentPoolId>,
    /// Who made the run, by name.
    pub creator: Option<String>,
    /// Jobs that are offered before it.
    pub ahead: u64,
}

/// The jobs of a pool that wait for an agent, in the order in which they are offered; the first of them where they are
/// many.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn queue(connection: &mut Connection, pool: &AgentPoolId) -> Result<Vec<QueuedView>, StoreError> {
    let line = jobs::line(connection, pool).await?;
    let head = line.iter().take(jobs::HEAD).map(|candidate| &candidate.job);
    queued_jobs(connection, head.zip(0..).collect()).await
}

/// Those of some runs that wait in a pool for an agent, however many jobs are offered before theirs.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn queued_runs(
    connection: &mut Connection,
    pool: &AgentPoolId,
    runs: &[RunId],
) -> Result<Vec<QueuedView>, StoreError> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT id FROM jobs WHERE state = 'queued' AND run_id IN ({})",
        numbered(runs.len(), 1)
    );
    let mut wanted = BTreeSet::new();
    for row in connection
        .fetch_all(&sql, runs.iter().map(Value::from).collect())
        .await?
    {
        wanted.insert(row.parse::<JobId>("id")?);
    }
    let line = jobs::line(connection, pool).await?;
    let places = line.iter().map(|candidate| &candidate.job).zip(0..);
    let places = places.filter(|(job, _)| wanted.contains(*job)).collect();
    queued_jobs(connection, places).await
}

/// Jobs with their places in the line.
async fn queued_jobs(
    connection: &mut Connection,
    places: BTreeMap<&JobId, u64>,
) -> Result<Vec<QueuedView>, StoreError> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT {COLUMNS}, j.workspace_id, w.project_id, w.agent_pool_id AS workspace_pool, \
         u.username AS creator_name {FROM} LEFT JOIN users u ON u.id = r.created_by \
         WHERE j.state = 'queued' AND j.id IN ({})",
        numbered(places.len(), 1)
    );
    let values = places.keys().copied().map(Value::from).collect();
    let mut views = Vec::with_capacity(places.len());
    for row in &connection.fetch_all(&sql, values).await? {
        let job = read(row)?;
        views.push(QueuedView {
            ahead: places.get(&job.id).copied().unwrap_or_default(),
            job,
            workspace_id: row.parse("workspace_id")?,
            project_id: row.parse("project_id")?,
            workspace_pool: row.opt_parse("workspace_pool")?,
            creator: row.opt_text("creator_name")?,
        });
    }
    views.sort_by_key(|view| view.ahead);
    Ok(views)
}

/// Jobs of a workspace that wait for an agent and need the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedGroup {
    /// How many.
    pub jobs: u64,
    /// Since when the first of them waits.
    pub oldest: Timestamp,
    /// Memory that each needs, in MiB.
    pub needs_mb: u64,
    /// Their workspace.
    pub workspace_id: WorkspaceId,
    /// Their workspace's project.
    pub project_id: ProjectId,
    /// Their workspace's organization.
    pub organization_id: OrganizationId,
    /// The pool that the workspace names itself now.
    pub workspace_pool: Option<AgentPoolId>,
}

/// All jobs of a pool that wait for an agent, counted.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn queued_groups(
    connection: &mut Connection,
    pool: &AgentPoolId,
) -> Result<Vec<QueuedGroup>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT q.workspace_id, q.limits, q.jobs, q.oldest, w.project_id, w.organization_id, \
             w.agent_pool_id AS workspace_pool FROM (SELECT workspace_id, limits, COUNT(*) AS jobs, \
             MIN(queued_at) AS oldest FROM jobs WHERE pool_id = $1 AND state = 'queued' \
             GROUP BY workspace_id, limits) q JOIN workspaces w ON w.id = q.workspace_id ORDER BY q.oldest",
            values![pool],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let limits: Limits = row.json("limits")?;
            Ok(QueuedGroup {
                jobs: row.count("jobs")?,
                oldest: row.time("oldest")?,
                needs_mb: limits.memory_mb,
                workspace_id: row.parse("workspace_id")?,
                project_id: row.parse("project_id")?,
                organization_id: row.parse("organization_id")?,
                workspace_pool: row.opt_parse("workspace_pool")?,
            })
        })
        .collect()
}

/// How many jobs wait in each of the pools that an organization's runs go to, and since when the first one does.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn queued_of_organization(
    connection: &mut Connection,
    organization: &OrganizationId,
) -> Result<BTreeMap<AgentPoolId, (u64, Timestamp)>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT j.pool_id, COUNT(*) AS jobs, MIN(j.queued_at) AS oldest FROM jobs j \
             JOIN workspaces w ON w.id = j.workspace_id WHERE w.organization_id = $1 AND j.state = 'queued' \
             GROUP BY j.pool_id",
            values![organization],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((row.parse("pool_id")?, (row.count("jobs")?, row.time("oldest")?))))
        .collect()
}

//! What reconcilers and syncs read of jobs.

use std::collections::{BTreeMap, BTreeSet};

use terrapool_model::id::{AgentId, AgentPoolId, AttemptId, JobId, RunId, WorkspaceId};
use terrapool_model::job::{Job, Phase};
use terrapool_model::schedule::{self, Candidate};
use terrapool_model::time::{Millis, Timestamp};
use terrapool_protocol::job::Limits;

use super::{JobRecord, columns, from_row};
use crate::db::{Connection, Value};
use crate::error::StoreError;
use crate::overview::numbered;
use crate::{lifecycle, pools, values};

/// A job that an attempt holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldJob {
    /// The job.
    pub id: JobId,
    /// Its run.
    pub run_id: RunId,
    /// Its agent.
    pub agent: Option<AgentId>,
    /// The agent's session at the claim.
    pub session: Option<u64>,
    /// Which assignment.
    pub generation: u64,
    /// Which attempt.
    pub attempt: Option<AttemptId>,
    /// When it was last heard, as far as it is written down.
    pub last_contact: Option<Timestamp>,
    /// When its lease ends.
    pub expires_at: Timestamp,
    /// How long its attempt may be silent.
    pub lease: Millis,
}

/// Every job that an attempt holds.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn held(connection: &mut Connection) -> Result<Vec<HeldJob>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT j.id, j.run_id, j.phase, j.agent_id, j.session, j.generation, j.attempt, j.last_contact, \
             COALESCE(p.settings, '{}') AS settings FROM jobs j LEFT JOIN agent_pools p ON p.id = j.pool_id \
             WHERE j.state IN ('leased', 'running')",
            values![],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let settings: pools::PoolSettings = row.json("settings")?;
            let last_contact = row.opt_time("last_contact")?;
            let phase: Phase = row.parse("phase")?;
            Ok(HeldJob {
                id: row.parse("id")?,
                run_id: row.parse("run_id")?,
                agent: row.opt_parse("agent_id")?,
                session: crate::runs::opt_count(row, "session")?,
                generation: row.count("generation")?,
                attempt: row.opt_parse("attempt")?,
                last_contact,
                lease: settings.times.flush + settings.times.lease(phase),
                expires_at: last_contact
                    .map_or(Timestamp(0), |contact| settings.times.expires_at(phase, contact)),
            })
        })
        .collect()
}

/// What a sync has to know of a reported job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedJob {
    /// The row.
    pub row: Job,
    /// Whether the workspace's lock epoch is still the run's.
    pub epoch_is_runs: bool,
}

/// The jobs with these ids.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn reported(
    connection: &mut Connection,
    ids: &[JobId],
) -> Result<BTreeMap<JobId, ReportedJob>, StoreError> {
    let mut found = BTreeMap::new();
    for id in ids {
        let row = connection
            .fetch_optional(
                "SELECT j.id, j.run_id, j.phase, j.state, j.generation, j.attempt, j.agent_id, j.session, \
                 j.start_granted, j.desired, j.tries, j.last_contact, r.lock_epoch AS run_epoch, \
                 w.lock_epoch AS workspace_epoch FROM jobs j JOIN runs r ON r.id = j.run_id \
                 JOIN workspaces w ON w.id = j.workspace_id WHERE j.id = $1",
                values![id],
            )
            .await?;
        let Some(row) = row else { continue };
        let run_epoch = crate::runs::opt_count(&row, "run_epoch")?;
        let reported = ReportedJob {
            row: lifecycle::job_from_row(&row)?,
            epoch_is_runs: run_epoch == Some(row.count("workspace_epoch")?),
        };
        found.insert(id.clone(), reported);
    }
    Ok(found)
}

/// The attempts that an agent holds by its row.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn held_by(connection: &mut Connection, agent: &AgentId) -> Result<Vec<JobRecord>, StoreError> {
    let sql = format!(
        "SELECT {} FROM jobs WHERE agent_id = $1 AND state IN ('leased', 'running')",
        columns()
    );
    connection
        .fetch_all(&sql, values![agent])
        .await?
        .iter()
        .map(from_row)
        .collect()
}

/// A job that may be offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The job.
    pub job: JobId,
    /// Its generation.
    pub generation: u64,
    /// Its run.
    pub run: RunId,
    /// Its phase.
    pub phase: Phase,
    /// What its sandbox needs.
    pub limits: Limits,
    /// Image of its sandbox; `None` is the agent's own.
    pub image: Option<String>,
}

/// Jobs at the head of a pool's line that are read whole.
pub(crate) const HEAD: usize = 500;

/// All jobs of a pool that wait for an agent, in the order in which they are offered.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub(crate) async fn line(
    connection: &mut Connection,
    pool: &AgentPoolId,
) -> Result<Vec<Candidate>, StoreError> {
    // Of all of them, since the order is fair only among those that take part in it; few columns, since they may be many.
    let rows = connection
        .fetch_all(
            "SELECT id, workspace_id, priority, queued_at FROM jobs WHERE pool_id = $1 AND state = 'queued'",
            values![pool],
        )
        .await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut candidates = Vec::with_capacity(rows.len());
    for row in rows {
        candidates.push(Candidate {
            job: row.parse("id")?,
            workspace: row.parse("workspace_id")?,
            priority: u32::try_from(row.count("priority")?).unwrap_or(u32::MAX),
            queued_at: row.time("queued_at")?,
        });
    }
    let mut running = BTreeMap::new();
    let counts = connection
        .fetch_all(
            "SELECT workspace_id, COUNT(*) AS jobs FROM jobs WHERE pool_id = $1 \
             AND state IN ('leased', 'running') GROUP BY workspace_id",
            values![pool],
        )
        .await?;
    for row in counts {
        running.insert(row.parse::<WorkspaceId>("workspace_id")?, row.count("jobs")?);
    }
    Ok(schedule::order(candidates, &running))
}

/// The workspaces with jobs in a pool's line that may not use the pool any more.
async fn barred(
    connection: &mut Connection,
    pool: &AgentPoolId,
) -> Result<BTreeSet<WorkspaceId>, StoreError> {
    let Some(pool) = pools::get(connection, pool).await? else {
        return Ok(BTreeSet::new());
    };
    if pool.organization_id.is_none() {
        return Ok(BTreeSet::new());
    }
    let rows = connection
        .fetch_all(
            "SELECT id, project_id, agent_pool_id FROM workspaces WHERE id IN \
             (SELECT workspace_id FROM jobs WHERE pool_id = $1 AND state = 'queued')",
            values![&pool.id],
        )
        .await?;
    let mut barred = BTreeSet::new();
    for row in rows {
        let workspace: WorkspaceId = row.parse("id")?;
        let named: Option<AgentPoolId> = row.opt_parse("agent_pool_id")?;
        let moved = named.is_some_and(|named| named != pool.id);
        if moved || !pool.access.allows(&workspace, &row.parse("project_id")?) {
            barred.insert(workspace);
        }
    }
    Ok(barred)
}

/// Jobs of a pool that wait for an agent and whose workspaces may use the pool, in the order in which they are offered;
/// the first of them where they are many.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn ready(connection: &mut Connection, pool: &AgentPoolId) -> Result<Vec<Ready>, StoreError> {
    let line = line(connection, pool).await?;
    if line.is_empty() {
        return Ok(Vec::new());
    }
    // Their claims would be refused, and take the slots of others' offers.
    let barred = barred(connection, pool).await?;
    let open = line
        .iter()
        .filter(|candidate| !barred.contains(&candidate.workspace));
    let head: Vec<&JobId> = open.take(HEAD).map(|candidate| &candidate.job).collect();
    if head.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT id, run_id, phase, generation, limits, image FROM jobs WHERE state = 'queued' AND id IN ({})",
        numbered(head.len(), 1)
    );
    let mut jobs = BTreeMap::new();
    for row in connection
        .fetch_all(&sql, head.iter().copied().map(Value::from).collect())
        .await?
    {
        let job: JobId = row.parse("id")?;
        let ready = Ready {
            job: job.clone(),
            generation: row.count("generation")?,
            run: row.parse("run_id")?,
            phase: row.parse("phase")?,
            limits: row.json("limits")?,
            image: row.opt_text("image")?,
        };
        jobs.insert(job, ready);
    }
    Ok(head.into_iter().filter_map(|job| jobs.remove(job)).collect())
}

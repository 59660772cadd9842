//! Loads the rows of a workspace, a run and its jobs, applies the model's transition, and writes back what changed.
//!
//! Rows are locked in the order workspace, run, jobs.

use std::collections::BTreeMap;

use terrapool_model::id::{AgentPoolId, JobId, RunId, StateVersionId, UserId, WorkspaceId};
use terrapool_model::job::{Job, Phase};
use terrapool_model::lock::{Lock, Workspace};
use terrapool_model::refusal::Refusal;
use terrapool_model::run::{RunStatus, StateRef};
use terrapool_model::schedule;
use terrapool_model::time::Timestamp;
use terrapool_model::times::Times;
use terrapool_model::transition::{self, Effect, Event, Outcome, Rows};
use terrapool_protocol::job::{ChangeCounts, Limits};

use crate::db::{Connection, Hint, Retryable, Row, Tx};
use crate::error::StoreError;
use crate::pools::PoolSettings;
use crate::runs::{self, RunRecord, opt_count};
use crate::{audit, state_copies, values};

/// Why something was not done to a run, a job or a lock. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum TransitionError {
    /// There is no such run, job or workspace.
    #[error("it does not exist")]
    NotFound,
    /// It may not happen now; the text is for people.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Retryable for TransitionError {
    fn is_retryable(&self) -> bool {
        match self {
            Self::NotFound | Self::Refused(_) => false,
            Self::Store(error) => error.is_retryable(),
        }
    }
}

/// What an event brings along for the rows' other columns.
#[derive(Debug, Clone, Default)]
pub(crate) struct Details {
    pub comment: Option<String>,
    pub confirmed_by: Option<UserId>,
    pub error_message: Option<String>,
    pub counts: Option<(Phase, ChangeCounts)>,
    pub engine: Option<(String, Option<String>)>,
    pub outcome: Option<String>,
    pub usage: Option<String>,
}

/// A job's row.
#[derive(Debug, Clone)]
pub(crate) struct LoadedJob {
    pub id: JobId,
    pub row: Job,
}

/// The rows, locked.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub workspace_id: WorkspaceId,
    pub current_state_version: Option<StateVersionId>,
    pub workspace_settings: serde_json::Map<String, serde_json::Value>,
    pub run: RunRecord,
    pub plan: Option<LoadedJob>,
    pub apply: Option<LoadedJob>,
    pub rows: Rows,
    pub settings: PoolSettings,
}

impl Loaded {
    pub(crate) fn job_id(&self, phase: Phase) -> Option<&JobId> {
        match phase {
            Phase::Plan => self.plan.as_ref().map(|job| &job.id),
            Phase::Apply => self.apply.as_ref().map(|job| &job.id),
        }
    }

    pub(crate) fn times(&self) -> Times {
        self.settings.times
    }
}

pub(crate) const JOB_COLUMNS: &str = "id, run_id, phase, state, generation, attempt, agent_id, session, \
     start_granted, desired, tries, last_contact";

pub(crate) fn job_from_row(row: &Row) -> Result<Job, StoreError> {
    let tries = row.count("tries")?;
    Ok(Job {
        phase: row.parse("phase")?,
        state: row.parse("state")?,
        generation: row.count("generation")?,
        attempt: row.opt_parse("attempt")?,
        agent: row.opt_parse("agent_id")?,
        session: opt_count(row, "session")?,
        start_granted: row.bool("start_granted")?,
        desired: row.parse("desired")?,
        tries: u32::try_from(tries).unwrap_or(u32::MAX),
        last_contact: row.opt_time("last_contact")?,
    })
}

pub(crate) fn workspace_from_row(row: &Row) -> Result<Workspace, StoreError> {
    let state = row.text("lock_state")?;
    let lock = match state.as_str() {
        "free" => Lock::Free,
        "user" => Lock::User(row.parse("lock_user_id")?),
        "run" => Lock::Run(row.parse("lock_run_id")?),
        "lost" => Lock::Lost {
            run: row.parse("lock_run_id")?,
            safe_at: row.opt_time("lock_safe_at")?,
        },
        _ => {
            return Err(StoreError::Corrupt {
                column: "lock_state".to_owned(),
                found: state,
            });
        }
    };
    Ok(Workspace {
        lock,
        lock_epoch: row.count("lock_epoch")?,
        lost_run: row.opt_parse("lost_run_id")?,
    })
}

/// A workspace's row, locked.
pub(crate) async fn lock_workspace(tx: &mut Tx, id: &WorkspaceId) -> Result<Option<Row>, StoreError> {
    let sql = format!(
        "SELECT lock_state, lock_user_id, lock_run_id, lock_safe_at, lock_epoch, lost_run_id, \
         current_state_version_id, settings FROM workspaces WHERE id = $1{}",
        tx.for_update()
    );
    tx.fetch_optional(&sql, values![id]).await
}

/// Writes a workspace's lock.
pub(crate) async fn save_workspace(
    tx: &mut Tx,
    id: &WorkspaceId,
    workspace: &Workspace,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    let (state, user, run, safe_at) = match &workspace.lock {
        Lock::Free => ("free", None, None, None),
        Lock::User(user) => ("user", Some(user.clone()), None, None),
        Lock::Run(run) => ("run", None, Some(run.clone()), None),
        Lock::Lost { run, safe_at } => ("lost", None, Some(run.clone()), *safe_at),
    };
    tx.execute(
        "UPDATE workspaces SET lock_state = $2, lock_user_id = $3, lock_run_id = $4, lock_safe_at = $5, \
         lock_epoch = $6, lost_run_id = $7, lock_reason = $8 WHERE id = $1",
        values![
            id,
            state,
            user,
            run,
            safe_at,
            workspace.lock_epoch,
            workspace.lost_run.clone(),
            reason,
        ],
    )
    .await?;
    Ok(())
}

/// Settings of a pool, with its times.
pub(crate) async fn pool_settings(
    connection: &mut Connection,
    pool: &AgentPoolId,
) -> Result<PoolSettings, StoreError> {
    let row = connection
        .fetch_optional("SELECT settings FROM agent_pools WHERE id = $1", values![pool])
        .await?;
    row.map_or_else(|| Ok(PoolSettings::default()), |row| row.json("settings"))
}

/// Loads and locks the rows of a run.
pub(crate) async fn load(tx: &mut Tx, id: &RunId) -> Result<Loaded, TransitionError> {
    let row = tx
        .fetch_optional("SELECT workspace_id FROM runs WHERE id = $1", values![id])
        .await?
        .ok_or(TransitionError::NotFound)?;
    let workspace_id: WorkspaceId = row.parse("workspace_id")?;
    let workspace_row = lock_workspace(tx, &workspace_id)
        .await?
        .ok_or(TransitionError::NotFound)?;
    let sql = format!(
        "SELECT {} FROM runs r WHERE r.id = $1{}",
        runs::COLUMNS,
        tx.for_update()
    );
    let run_row = tx
        .fetch_optional(&sql, values![id])
        .await?
        .ok_or(TransitionError::NotFound)?;
    let run = runs::from_row(&run_row)?;
    let sql = format!(
        "SELECT {JOB_COLUMNS} FROM jobs WHERE run_id = $1 ORDER BY phase DESC{}",
        tx.for_update()
    );
    let (mut plan, mut apply) = (None, None);
    for row in tx.fetch_all(&sql, values![id]).await? {
        let job = LoadedJob {
            id: row.parse("id")?,
            row: job_from_row(&row)?,
        };
        match job.row.phase {
            Phase::Plan => plan = Some(job),
            Phase::Apply => apply = Some(job),
        }
    }
    let settings = pool_settings(tx, &run.pool_id).await?;
    let rows = Rows {
        workspace: workspace_from_row(&workspace_row)?,
        run: run.model(),
        plan: plan.as_ref().map(|job| job.row.clone()),
        apply: apply.as_ref().map(|job| job.row.clone()),
    };
    Ok(Loaded {
        workspace_id,
        current_state_version: workspace_row.opt_parse("current_state_version_id")?,
        workspace_settings: workspace_row.json("settings")?,
        run,
        plan,
        apply,
        rows,
        settings,
    })
}

/// A state version as plans remember it.
pub(crate) async fn state_ref(
    connection: &mut Connection,
    version: &StateVersionId,
) -> Result<Option<StateRef>, StoreError> {
    let row = connection
        .fetch_optional(
            "SELECT serial, lineage FROM state_versions WHERE id = $1",
            values![version],
        )
        .await?;
    row.map(|row| {
        Ok(StateRef {
            version: version.clone(),
            serial: opt_count(&row, "serial")?,
            lineage: row.opt_text("lineage")?,
        })
    })
    .transpose()
}

/// The current state of a run's workspace; its row is locked first, so that it stays current.
pub(crate) async fn current_state_of_run(
    tx: &mut Tx,
    run: &RunId,
) -> Result<Option<StateRef>, TransitionError> {
    let row = tx
        .fetch_optional("SELECT workspace_id FROM runs WHERE id = $1", values![run])
        .await?
        .ok_or(TransitionError::NotFound)?;
    let workspace: WorkspaceId = row.parse("workspace_id")?;
    let row = lock_workspace(tx, &workspace)
        .await?
        .ok_or(TransitionError::NotFound)?;
    match row.opt_parse("current_state_version_id")? {
        Some(version) => Ok(state_ref(tx, &version).await?),
        None => Ok(None),
    }
}

/// Applies an event to a run, and schedules the workspace's next run when the lock became free.
pub(crate) async fn drive(
    tx: &mut Tx,
    id: &RunId,
    event: &Event,
    details: &Details,
) -> Result<Outcome, TransitionError> {
    let loaded = load(tx, id).await?;
    drive_loaded(tx, loaded, event, details).await
}

/// The same, for rows that are loaded already.
pub(crate) async fn drive_loaded(
    tx: &mut Tx,
    loaded: Loaded,
    event: &Event,
    details: &Details,
) -> Result<Outcome, TransitionError> {
    let workspace = loaded.workspace_id.clone();
    let outcome = apply(tx, &loaded, event, details).await?;
    if outcome.effects.contains(&Effect::LockFreed) {
        schedule(tx, &workspace).await?;
    }
    Ok(outcome)
}

/// Schedules what may be scheduled in a workspace: every run that needs no lock, and the first one that does when
/// the lock is free.
pub(crate) async fn schedule(tx: &mut Tx, workspace: &WorkspaceId) -> Result<(), StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT id, plan_only, save_plan FROM runs WHERE workspace_id = $1 AND status = 'pending' \
             ORDER BY number",
            values![workspace],
        )
        .await?;
    let mut tried = false;
    for row in rows {
        let needs_lock = !row.bool("plan_only")? && !row.bool("save_plan")?;
        if needs_lock && tried {
            continue;
        }
        tried |= needs_lock;
        let run: RunId = row.parse("id")?;
        let applied = match load(tx, &run).await {
            Ok(loaded) => apply(tx, &loaded, &Event::Schedule, &Details::default()).await,
            Err(error) => Err(error),
        };
        match applied {
            Ok(_) | Err(TransitionError::NotFound | TransitionError::Refused(_)) => {}
            Err(TransitionError::Store(error)) => return Err(error),
        }
    }
    Ok(())
}

async fn apply(
    tx: &mut Tx,
    loaded: &Loaded,
    event: &Event,
    details: &Details,
) -> Result<Outcome, TransitionError> {
    let now = tx.now();
    let outcome = transition::transition(&loaded.rows, event, now, &loaded.times())?;
    save(tx, loaded, &outcome, details).await?;
    Ok(outcome)
}

async fn save(
    tx: &mut Tx,
    loaded: &Loaded,
    outcome: &Outcome,
    details: &Details,
) -> Result<(), TransitionError> {
    let (before, after) = (&loaded.rows, &outcome.rows);
    if before.workspace != after.workspace {
        save_workspace(tx, &loaded.workspace_id, &after.workspace, None).await?;
        if matches!(&after.workspace.lock, Lock::Run(run) if *run == loaded.run.id) {
            tx.execute(
                "UPDATE workspaces SET current_run_id = $2 WHERE id = $1",
                values![&loaded.workspace_id, &loaded.run.id],
            )
            .await?;
        }
    }
    save_run(tx, loaded, outcome, details).await?;
    let mut apply_id = loaded.job_id(Phase::Apply).cloned();
    for phase in [Phase::Plan, Phase::Apply] {
        let (old, new) = (before.job(phase), after.job(phase));
        if old == new {
            continue;
        }
        let Some(job) = new else { continue };
        match loaded.job_id(phase) {
            Some(id) => save_job(tx, id, old, job, details).await?,
            None => {
                let id = insert_job(tx, loaded, job).await?;
                if phase == Phase::Apply {
                    apply_id = Some(id);
                }
            }
        }
    }
    for effect in &outcome.effects {
        effect_on_rows(tx, loaded, *effect, apply_id.as_ref()).await?;
    }
    tx.hint(Hint::Run(loaded.run.id.clone()));
    Ok(())
}

async fn effect_on_rows(
    tx: &mut Tx,
    loaded: &Loaded,
    effect: Effect,
    apply: Option<&JobId>,
) -> Result<(), TransitionError> {
    match effect {
        Effect::JobQueued(_) | Effect::AgentTold(_) => tx.hint(Hint::Pool(loaded.run.pool_id.clone())),
        Effect::LockFreed => tx.hint(Hint::Schedule),
        Effect::SnapshotCurrent => {
            if let Some(job) = apply {
                state_copies::promote_snapshot(tx, &loaded.workspace_id, job).await?;
            }
        }
        Effect::LogEnded(phase) => {
            tx.execute(
                "UPDATE logs SET ended = $3 WHERE run_id = $1 AND phase = $2",
                values![&loaded.run.id, phase.as_str(), true],
            )
            .await?;
        }
        Effect::Overridden => {
            let detail = serde_json::json!({
                "run": loaded.run.id.as_str(),
                "attempt": loaded.rows.apply.as_ref().and_then(|job| job.attempt.as_ref()).map(|id| id.as_str()),
            });
            let organization = tx
                .fetch_one(
                    "SELECT organization_id FROM workspaces WHERE id = $1",
                    values![&loaded.workspace_id],
                )
                .await?
                .parse("organization_id")?;
            let subject = loaded.workspace_id.as_str();
            audit::record(
                tx,
                Some(&organization),
                "system",
                "workspace.override-lost-apply",
                subject,
                &detail,
            )
            .await?;
        }
        // The log store sees the new generation; the sweeps see the run's status.
        Effect::LogRetried(_) | Effect::RunEnded => {}
    }
    Ok(())
}

/// The API's names of the moments that a change of status is.
fn moments(before: RunStatus, after: RunStatus) -> &'static [&'static str] {
    match after {
        RunStatus::Pending => &["plan-queueable-at"],
        RunStatus::PlanQueued => &["queuing-at", "plan-queued-at"],
        RunStatus::Planning => &["planning-at"],
        RunStatus::Planned => &["planned-at"],
        RunStatus::PlannedAndSaved => &["planned-at", "planned-and-saved-at"],
        RunStatus::PlannedAndFinished => &["planned-at", "planned-and-finished-at"],
        RunStatus::ApplyQueued => match before {
            RunStatus::Planning => &["planned-at", "confirmed-at", "apply-queued-at"],
            RunStatus::Planned | RunStatus::PlannedAndSaved => &["confirmed-at", "apply-queued-at"],
            RunStatus::Pending
            | RunStatus::PlanQueued
            | RunStatus::PlannedAndFinished
            | RunStatus::ApplyQueued
            | RunStatus::Applying
            | RunStatus::Applied
            | RunStatus::Discarded
            | RunStatus::Errored
            | RunStatus::Canceled
            | RunStatus::ForceCanceled
            | RunStatus::PolicySoftFailed => &["apply-queued-at"],
        },
        RunStatus::Applying => &["applying-at"],
        RunStatus::Applied => &["applied-at"],
        RunStatus::Discarded => &["discarded-at"],
        RunStatus::Errored => &["errored-at"],
        RunStatus::Canceled => &["canceled-at"],
        RunStatus::ForceCanceled => &["force-canceled-at"],
        RunStatus::PolicySoftFailed => &["policy-soft-failed-at"],
    }
}

async fn save_run(
    tx: &mut Tx,
    loaded: &Loaded,
    outcome: &Outcome,
    details: &Details,
) -> Result<(), StoreError> {
    let (before, after) = (&loaded.rows.run, &outcome.rows.run);
    let informed = details.comment.is_some()
        || details.confirmed_by.is_some()
        || details.counts.is_some()
        || details.engine.is_some();
    if before == after && !informed {
        return Ok(());
    }
    let now = tx.now();
    let mut timestamps: BTreeMap<String, Timestamp> = loaded.run.status_timestamps.clone();
    if before.status != after.status {
        for moment in moments(before.status, after.status) {
            timestamps.insert((*moment).to_owned(), now);
        }
    }
    let errored_now = before.error.is_none() && after.error.is_some();
    let error_message = match (errored_now, after.error) {
        (true, Some(reason)) => Some(error_text(reason, details.error_message.as_deref())),
        (false, Some(_)) | (true | false, None) => loaded.run.error_message.clone(),
    };
    let (mut plan_counts, mut apply_counts) = (loaded.run.plan_counts, loaded.run.apply_counts);
    match details.counts {
        Some((Phase::Plan, counts)) => plan_counts = Some(counts),
        Some((Phase::Apply, counts)) => apply_counts = Some(counts),
        None => {}
    }
    let (version, sha256) = match &details.engine {
        Some((version, sha256)) => (version.clone(), sha256.clone()),
        None => (
            loaded.run.engine_version.clone(),
            loaded.run.engine_sha256.clone(),
        ),
    };
    let counts = |counts: Option<ChangeCounts>| counts.and_then(|counts| serde_json::to_string(&counts).ok());
    let state = after.plan_state.clone();
    let timestamps = serde_json::to_string(&timestamps).unwrap_or_default();
    tx.execute(
        "UPDATE runs SET status = $2, status_timestamps = $3, lock_epoch = $4, has_changes = $5, \
         plan_state_version_id = $6, plan_state_serial = $7, plan_state_lineage = $8, error_reason = $9, \
         error_message = $10, aftermath = $11, cancel_asked_at = $12, force_cancel_available_at = $13, \
         comment = $14, confirmed_by = $15, plan_counts = $16, apply_counts = $17, engine_version = $18, \
         engine_sha256 = $19, updated_at = $20 WHERE id = $1",
        values![
            &loaded.run.id,
            after.status.as_str(),
            timestamps,
            after.lock_epoch,
            after.has_changes,
            state.as_ref().map(|state| &state.version),
            state.as_ref().and_then(|state| state.serial),
            state.as_ref().and_then(|state| state.lineage.as_deref()),
            after.error.map(|reason| reason.as_str()),
            error_message,
            after.aftermath.as_str(),
            after.cancel_asked_at,
            after.force_cancel_available_at,
            details.comment.clone().or_else(|| loaded.run.comment.clone()),
            details
                .confirmed_by
                .clone()
                .or_else(|| loaded.run.confirmed_by.clone()),
            counts(plan_counts),
            counts(apply_counts),
            version,
            sha256,
            now,
        ],
    )
    .await?;
    Ok(())
}

fn error_text(reason: terrapool_model::run::ErrorReason, detail: Option<&str>) -> String {
    use terrapool_model::run::ErrorReason;
    let text = match reason {
        ErrorReason::Failed => "the run failed",
        ErrorReason::EngineLost => "the engine's end was not seen: its host or sandbox went away",
        ErrorReason::AgentLost => "the agent was lost: it was not heard any more",
        ErrorReason::NotStarted => "no agent could start it",
        ErrorReason::Restored => "the control plane was restored from a backup while this run was active",
    };
    match (reason, detail) {
        (ErrorReason::Failed, Some(detail)) => detail.to_owned(),
        (
            ErrorReason::EngineLost
            | ErrorReason::AgentLost
            | ErrorReason::NotStarted
            | ErrorReason::Restored,
            Some(detail),
        ) => format!("{text}: {detail}"),
        (
            ErrorReason::Failed
            | ErrorReason::EngineLost
            | ErrorReason::AgentLost
            | ErrorReason::NotStarted
            | ErrorReason::Restored,
            None,
        ) => text.to_owned(),
    }
}

fn limits(loaded: &Loaded) -> Limits {
    let mut limits = loaded.settings.default_limits;
    let number = |key: &str| {
        loaded
            .workspace_settings
            .get(key)
            .and_then(serde_json::Value::as_u64)
    };
    if let Some(memory) = number("memory-mb") {
        limits.memory_mb = memory;
    }
    if let Some(cpu) = number("cpu-millis") {
        limits.cpu_millis = cpu;
    }
    limits
}

async fn insert_job(tx: &mut Tx, loaded: &Loaded, job: &Job) -> Result<JobId, StoreError> {
    let id = JobId::from_random(tx.draw());
    let now = tx.now();
    let limits = serde_json::to_string(&limits(loaded)).unwrap_or_default();
    tx.execute(
        "INSERT INTO jobs (id, run_id, workspace_id, pool_id, phase, state, generation, start_granted, desired, \
         tries, priority, queued_at, limits) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        values![
            &id,
            &loaded.run.id,
            &loaded.workspace_id,
            &loaded.run.pool_id,
            job.phase.as_str(),
            job.state.as_str(),
            job.generation,
            job.start_granted,
            job.desired.as_str(),
            job.tries,
            schedule::priority(job.phase, loaded.run.plan_only),
            now,
            limits,
        ],
    )
    .await?;
    Ok(id)
}

async fn save_job(
    tx: &mut Tx,
    id: &JobId,
    old: Option<&Job>,
    job: &Job,
    details: &Details,
) -> Result<(), StoreError> {
    use terrapool_model::job::JobState;
    let now = tx.now();
    let was = old.map(|job| job.state);
    let started = (was != Some(job.state) && job.is_held()).then_some(now);
    let finished = match job.state {
        JobState::Done | JobState::Lost => (was != Some(job.state)).then_some(now),
        JobState::Queued | JobState::Leased | JobState::Running => None,
    };
    let requeued = (job.state == JobState::Queued && was != Some(JobState::Queued)).then_some(now);
    tx.execute(
        "UPDATE jobs SET state = $2, generation = $3, attempt = $4, agent_id = $5, session = $6, \
         start_granted = $7, desired = $8, tries = $9, last_contact = $10, \
         started_at = COALESCE($11, started_at), finished_at = COALESCE($12, finished_at), \
         queued_at = COALESCE($13, queued_at), outcome = COALESCE($14, outcome), usage = COALESCE($15, usage) \
         WHERE id = $1",
        values![
            id,
            job.state.as_str(),
            job.generation,
            job.attempt.clone(),
            job.agent.clone(),
            job.session,
            job.start_granted,
            job.desired.as_str(),
            job.tries,
            job.last_contact,
            started,
            finished,
            requeued,
            details.outcome.as_deref(),
            details.usage.as_deref(),
        ],
    )
    .await?;
    Ok(())
}

//! Loads the rows of a workspace, a run and its jobs, applies the model's transition, and writes back what changed.
//!
//! Rows are locked in the order workspace, run, jobs.

use terrapool_model::id::{AgentPoolId, JobId, RunId, StateVersionId, UserId, WorkspaceId};
use terrapool_model::job::{Job, Phase};
use terrapool_model::lock::{Lock, Workspace};
use terrapool_model::refusal::Refusal;
use terrapool_model::run::StateRef;
use terrapool_model::times::Times;
use terrapool_model::transition::{self, Effect, Event, Outcome, Rows};
use terrapool_protocol::job::ChangeCounts;

use crate::db::{CommandError, Connection, Row, Tx};
use crate::error::StoreError;
use crate::pools::PoolSettings;
use crate::runs::{self, RunRecord, opt_count};
use crate::values;

mod save;

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

impl CommandError for TransitionError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::NotFound | Self::Refused(_) => None,
            Self::Store(error) => Some(error),
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
    pub memory: Option<String>,
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
            "SELECT serial, lineage, sha256 FROM state_versions WHERE id = $1",
            values![version],
        )
        .await?;
    row.map(|row| {
        Ok(StateRef {
            version: version.clone(),
            serial: opt_count(&row, "serial")?,
            lineage: row.opt_text("lineage")?,
            sha256: row.opt_text("sha256")?,
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
    save::save(tx, loaded, &outcome, details).await?;
    Ok(outcome)
}

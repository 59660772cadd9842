//! Jobs: claims, grants, contacts, ends, and what is offered to agents.

use terrapool_model::id::{AgentId, AgentPoolId, AttemptId, JobId, RunId, WorkspaceId};
use terrapool_model::job::{Job, Phase};
use terrapool_model::refusal::Refusal;
use terrapool_model::run::End;
use terrapool_model::time::Timestamp;
use terrapool_model::transition::{Claim, Event};
use terrapool_protocol::agent::Finish;
use terrapool_protocol::job::{ArtifactName, Limits, Outcome};

use crate::db::{CommandError, Connection, Row, Tx};
use crate::error::StoreError;
use crate::lifecycle::{self, Details, JOB_COLUMNS, TransitionError};
use crate::runs::opt_count;
use crate::{artifacts, installation, pools, state_copies, values};

mod views;

pub(crate) use views::{HEAD, line};
pub use views::{HeldJob, Ready, ReportedJob, held, held_by, ready, reported};

/// A job's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    /// Id.
    pub id: JobId,
    /// Its run.
    pub run_id: RunId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its pool.
    pub pool_id: AgentPoolId,
    /// The row as the model's table sees it.
    pub row: Job,
    /// What its sandbox may use.
    pub limits: Limits,
    /// How it ended: the outcome and whether the run took it.
    pub recorded: Option<RecordedEnd>,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RecordedEnd {
    /// As the attempt reported it.
    pub outcome: Outcome,
    /// Whether the run took the result.
    pub accepted: bool,
}

fn from_row(row: &Row) -> Result<JobRecord, StoreError> {
    Ok(JobRecord {
        id: row.parse("id")?,
        run_id: row.parse("run_id")?,
        workspace_id: row.parse("workspace_id")?,
        pool_id: row.parse("pool_id")?,
        row: lifecycle::job_from_row(row)?,
        limits: row.json("limits")?,
        recorded: row.opt_json("outcome")?,
    })
}

fn columns() -> String {
    format!("{JOB_COLUMNS}, workspace_id, pool_id, limits, outcome")
}

/// A job.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(connection: &mut Connection, id: &JobId) -> Result<Option<JobRecord>, StoreError> {
    let sql = format!("SELECT {} FROM jobs WHERE id = $1", columns());
    connection
        .fetch_optional(&sql, values![id])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// The job of a phase of a run.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_run(
    connection: &mut Connection,
    run: &RunId,
    phase: Phase,
) -> Result<Option<JobRecord>, StoreError> {
    let sql = format!("SELECT {} FROM jobs WHERE run_id = $1 AND phase = $2", columns());
    connection
        .fetch_optional(&sql, values![run, phase.as_str()])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// A claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewClaim {
    /// The job.
    pub job: JobId,
    /// The generation in the offer.
    pub generation_seen: u64,
    /// The attempt.
    pub attempt: AttemptId,
    /// The agent.
    pub agent: AgentId,
    /// Its session.
    pub session: u64,
    /// The incarnation that the agent knows.
    pub incarnation: u64,
}

/// Claims a job. Repeating a claim with the same attempt gives the same assignment.
///
/// # Errors
/// [`TransitionError::Refused`] when another attempt has it, or the agent may not have it.
pub async fn claim(tx: &mut Tx, claim: &NewClaim) -> Result<JobRecord, TransitionError> {
    let job = get(tx, &claim.job).await?.ok_or(TransitionError::NotFound)?;
    let loaded = lifecycle::load(tx, &job.run_id).await?;
    let phase = job.row.phase;
    let agent = tx
        .fetch_optional(
            "SELECT pool_id, session, root_sandboxes FROM agents WHERE id = $1",
            values![&claim.agent],
        )
        .await?;
    let (agent_pool, newest, root): (Option<AgentPoolId>, Option<u64>, bool) = match agent {
        Some(row) => (
            Some(row.parse("pool_id")?),
            Some(row.count("session")?),
            row.bool("root_sandboxes")?,
        ),
        None => (None, None, false),
    };
    let allowed = agent_pool.as_ref() == Some(&job.pool_id) && may_use(tx, &job).await?;
    let gives = pools::get(tx, &job.pool_id)
        .await?
        .is_none_or(|pool| pool.settings.gives_to(root));
    let current = match (&loaded.current_state_version, phase) {
        (Some(version), Phase::Plan) => lifecycle::state_ref(tx, version).await?,
        (None, Phase::Plan) | (Some(_) | None, Phase::Apply) => None,
    };
    let incarnation = installation::get(tx)
        .await?
        .map(|installation| installation.incarnation);
    let event = Event::Claim(Claim {
        phase,
        generation_seen: claim.generation_seen,
        attempt: claim.attempt.clone(),
        agent: claim.agent.clone(),
        session: claim.session,
        session_is_newest: newest == Some(claim.session),
        incarnation_is_equal: incarnation == Some(claim.incarnation),
        pool_is_allowed: allowed && gives,
        current,
    });
    lifecycle::drive_loaded(tx, loaded, &event, &Details::default()).await?;
    get(tx, &claim.job).await?.ok_or(TransitionError::NotFound)
}

/// Whether the workspace of a job may still use the job's pool, and was not moved to another.
async fn may_use(tx: &mut Tx, job: &JobRecord) -> Result<bool, StoreError> {
    let Some(pool) = pools::get(tx, &job.pool_id).await? else {
        return Ok(false);
    };
    if pool.organization_id.is_none() {
        return Ok(true);
    }
    let row = tx
        .fetch_one(
            "SELECT project_id, agent_pool_id FROM workspaces WHERE id = $1",
            values![&job.workspace_id],
        )
        .await?;
    let moved = row
        .opt_parse::<AgentPoolId>("agent_pool_id")?
        .is_some_and(|other| other != job.pool_id);
    Ok(!moved && pool.access.allows(&job.workspace_id, &row.parse("project_id")?))
}

/// Grants the start of an apply. When this returns, the grant is durable.
///
/// # Errors
/// [`TransitionError::Refused`] unless the attempt holds the job, nobody wants it stopped, and the run holds its lock.
pub async fn start(
    tx: &mut Tx,
    job: &JobId,
    generation: u64,
    attempt: &AttemptId,
) -> Result<(), TransitionError> {
    let run = run_of(tx, job).await?;
    let event = Event::Start {
        generation,
        attempt: attempt.clone(),
    };
    lifecycle::drive(tx, &run, &event, &Details::default()).await?;
    Ok(())
}

async fn run_of(connection: &mut Connection, job: &JobId) -> Result<RunId, TransitionError> {
    let row = connection
        .fetch_optional("SELECT run_id FROM jobs WHERE id = $1", values![job])
        .await?
        .ok_or(TransitionError::NotFound)?;
    Ok(row.parse("run_id")?)
}

/// What an attempt's report of its end led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It is recorded.
    Recorded {
        /// Whether the run took the result.
        accepted: bool,
        /// The run, which may have moved on.
        run: RunId,
    },
    /// The assignment is not the attempt's any more, or has ended; nothing changed.
    Superseded,
}

/// Why an end was not recorded. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// Something has not arrived.
    #[error("the job cannot end yet: its state or artifacts have not arrived")]
    Incomplete {
        /// Whether the named state has not arrived.
        state_missing: bool,
        /// Artifacts that have not arrived.
        artifacts_missing: Vec<ArtifactName>,
    },
    /// See there.
    #[error(transparent)]
    Transition(#[from] TransitionError),
}

impl From<StoreError> for FinishError {
    fn from(error: StoreError) -> Self {
        Self::Transition(error.into())
    }
}

impl CommandError for FinishError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Incomplete { .. } => None,
            Self::Transition(error) => error.store_error(),
        }
    }
}

/// Records an attempt's end. The caller has made sure that the log has arrived. Repeating it gives the same answer.
///
/// # Errors
/// [`FinishError::Incomplete`] when state or artifacts have not arrived.
pub async fn finish(tx: &mut Tx, id: &JobId, finish: &Finish) -> Result<Ended, FinishError> {
    let run = run_of(tx, id).await?;
    let loaded = lifecycle::load(tx, &run).await?;
    let job = get(tx, id).await?.ok_or(TransitionError::NotFound)?;
    let phase = job.row.phase;
    if let Some(recorded) = &job.recorded
        && job.row.is_of(finish.generation, &finish.attempt)
    {
        return Ok(Ended::Recorded {
            accepted: recorded.accepted,
            run,
        });
    }
    let (event, message) = match &finish.outcome {
        Outcome::NeverStarted { message } => {
            let event = Event::NeverStarted {
                phase,
                generation: finish.generation,
                attempt: finish.attempt.clone(),
            };
            (event, Some(message.clone()))
        }
        Outcome::Succeeded { changes } => (ended(phase, finish, End::Succeeded { changes: *changes }), None),
        Outcome::Failed { message, .. } => (ended(phase, finish, End::Failed), Some(message.clone())),
        Outcome::Canceled => (ended(phase, finish, End::Canceled), None),
        Outcome::EngineLost { message } => (ended(phase, finish, End::EngineLost), Some(message.clone())),
    };
    let mine = job.row.is_of(finish.generation, &finish.attempt);
    let accepted = !loaded.run.status.is_terminal();
    if !matches!(finish.outcome, Outcome::NeverStarted { .. }) {
        let is_used = mine && accepted && job.row.is_held();
        require_delivered(tx, &job, finish, is_used).await?;
    }
    let recorded = RecordedEnd {
        outcome: finish.outcome.clone(),
        accepted,
    };
    let takes = accepted && mine;
    let details = Details {
        error_message: message,
        counts: finish.counts.filter(|_| takes).map(|counts| (phase, counts)),
        engine: finish
            .engine
            .as_ref()
            .filter(|_| takes && phase == Phase::Plan)
            .map(|engine| (engine.version.to_string(), finish.engine_sha256.clone())),
        outcome: match finish.outcome {
            // A job that goes back to the queue has not ended.
            Outcome::NeverStarted { .. } => None,
            Outcome::Succeeded { .. }
            | Outcome::Failed { .. }
            | Outcome::Canceled
            | Outcome::EngineLost { .. } => serde_json::to_string(&recorded).ok(),
        },
        usage: serde_json::to_string(&finish.usage).ok(),
        memory: finish
            .memory
            .clone()
            .and_then(|curve| serde_json::to_string(&curve.bounded()).ok()),
        ..Details::default()
    };
    match lifecycle::drive_loaded(tx, loaded, &event, &details).await {
        Ok(_) => Ok(Ended::Recorded { accepted, run }),
        Err(TransitionError::Refused(
            Refusal::OtherAttempt | Refusal::OtherGeneration | Refusal::JobEnded | Refusal::Unfitting(_),
        )) => Ok(Ended::Superseded),
        Err(error) => Err(error.into()),
    }
}

fn ended(phase: Phase, finish: &Finish, end: End) -> Event {
    Event::Finish {
        phase,
        generation: finish.generation,
        attempt: finish.attempt.clone(),
        end,
    }
}

/// Artifacts that no run will use are not asked for: they are not kept. The state is wanted from everybody, since no
/// one else has it.
async fn require_delivered(
    tx: &mut Tx,
    job: &JobRecord,
    finish: &Finish,
    is_used: bool,
) -> Result<(), FinishError> {
    let state_missing = match &finish.state {
        Some(mark) if job.row.phase == Phase::Apply => {
            !state_copies::is_stored(tx, &job.id, &mark.sha256).await?
        }
        Some(_) | None => false,
    };
    let mut artifacts_missing = Vec::new();
    for artifact in &finish.artifacts {
        if !is_used || artifact.name == ArtifactName::ProviderSchemas {
            continue;
        }
        let stored = artifacts::get(tx, &job.id, artifact.name).await?;
        let matches = stored
            .is_some_and(|stored| stored.sha256 == artifact.sha256 && stored.generation == finish.generation);
        if !matches {
            artifacts_missing.push(artifact.name);
        }
    }
    if state_missing || !artifacts_missing.is_empty() {
        return Err(FinishError::Incomplete {
            state_missing,
            artifacts_missing,
        });
    }
    Ok(())
}

/// A contact of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// The job.
    pub job: JobId,
    /// The assignment.
    pub generation: u64,
    /// The attempt.
    pub attempt: AttemptId,
    /// When.
    pub at: Timestamp,
}

/// Writes contacts down, many in one transaction. One whose assignment is over is passed over.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn flush_contacts(tx: &mut Tx, contacts: &[Contact]) -> Result<(), StoreError> {
    for contact in contacts {
        let changed = tx
            .execute(
                "UPDATE jobs SET last_contact = $4 WHERE id = $1 AND generation = $2 AND attempt = $3 \
                 AND state IN ('leased', 'running') AND desired <> 'kill' \
                 AND (last_contact IS NULL OR last_contact < $4)",
                values![&contact.job, contact.generation, &contact.attempt, contact.at],
            )
            .await?;
        if changed > 0 {
            continue;
        }
        // A job in quarantine is heard again: the quarantine moves with it.
        let Some(job) = get(tx, &contact.job).await? else {
            continue;
        };
        if !job.row.is_of(contact.generation, &contact.attempt) {
            continue;
        }
        let event = Event::Contact {
            phase: job.row.phase,
            generation: contact.generation,
            attempt: contact.attempt.clone(),
            at: contact.at,
        };
        match lifecycle::drive(tx, &job.run_id, &event, &Details::default()).await {
            Ok(_) | Err(TransitionError::NotFound | TransitionError::Refused(_)) => {}
            Err(TransitionError::Store(error)) => return Err(error),
        }
    }
    Ok(())
}

/// Gives a job up whose attempt is silent for too long.
///
/// # Errors
/// [`TransitionError::Refused`] when its lease has not ended.
pub async fn expire(tx: &mut Tx, job: &JobId) -> Result<(), TransitionError> {
    let phase = get(tx, job).await?.ok_or(TransitionError::NotFound)?.row.phase;
    let run = run_of(tx, job).await?;
    lifecycle::drive(tx, &run, &Event::Expire { phase }, &Details::default()).await?;
    Ok(())
}

/// Gives a job up that a newer session of its agent does not name.
///
/// # Errors
/// [`TransitionError::Refused`] when the session is not newer, or the attempt was heard lately.
pub async fn not_reported(tx: &mut Tx, job: &JobId, session: u64) -> Result<(), TransitionError> {
    let phase = get(tx, job).await?.ok_or(TransitionError::NotFound)?.row.phase;
    let run = run_of(tx, job).await?;
    lifecycle::drive(
        tx,
        &run,
        &Event::NotReported { phase, session },
        &Details::default(),
    )
    .await?;
    Ok(())
}

/// Serial of a job's newest state copy that is not current yet.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn newest_copy_serial(connection: &mut Connection, job: &JobId) -> Result<Option<u64>, StoreError> {
    let row = connection
        .fetch_optional(
            "SELECT s.serial FROM jobs j JOIN state_versions s ON s.id = j.snapshot_id WHERE j.id = $1",
            values![job],
        )
        .await?;
    row.map_or(Ok(None), |row| opt_count(&row, "serial"))
}

/// Tells the attempts of an agent to stop now.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn cut_off(tx: &mut Tx, agent: &AgentId) -> Result<(), StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT run_id, phase FROM jobs WHERE agent_id = $1 AND state IN ('leased', 'running') ORDER BY id",
            values![agent],
        )
        .await?;
    for row in rows {
        let (run, phase): (RunId, Phase) = (row.parse("run_id")?, row.parse("phase")?);
        match lifecycle::drive(tx, &run, &Event::CutOff { phase }, &Details::default()).await {
            Ok(_) | Err(TransitionError::NotFound | TransitionError::Refused(_)) => {}
            Err(TransitionError::Store(error)) => return Err(error),
        }
    }
    Ok(())
}

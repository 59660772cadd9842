//! Writes back what a transition changed.

use std::collections::BTreeMap;

use terrapool_model::id::JobId;
use terrapool_model::job::{Job, JobState, Phase};
use terrapool_model::lock::Lock;
use terrapool_model::run::{ErrorReason, RunStatus};
use terrapool_model::schedule;
use terrapool_model::time::Timestamp;
use terrapool_model::transition::{Effect, Outcome};
use terrapool_protocol::job::{ChangeCounts, Limit, Limits};

use super::{Details, Loaded, TransitionError, save_workspace};
use crate::db::{Hint, Tx};
use crate::error::StoreError;
use crate::{audit, state_copies, values};

pub(super) async fn save(
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

fn error_text(reason: ErrorReason, detail: Option<&str>) -> String {
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
    for limit in Limit::ALL {
        let own = loaded
            .workspace_settings
            .get(limit.setting())
            .and_then(serde_json::Value::as_u64);
        // The pool belongs to somebody else than the workspace.
        let most = loaded.settings.maximum_limits.get(limit);
        let wanted = own.or(limit.get(&limits));
        let allowed = match (wanted, most) {
            (Some(wanted), Some(most)) => Some(wanted.min(most)),
            (Some(only), None) | (None, Some(only)) => Some(only),
            (None, None) => None,
        };
        if let Some(value) = allowed {
            limit.set(&mut limits, value);
        }
    }
    limits
}

async fn insert_job(tx: &mut Tx, loaded: &Loaded, job: &Job) -> Result<JobId, StoreError> {
    let id = JobId::from_random(tx.draw());
    let now = tx.now();
    let limits = serde_json::to_string(&limits(loaded)).unwrap_or_default();
    // A run whose workspace chose another image is refused when it is made; what the pool takes off its list later is
    // replaced by its own.
    let image = loaded
        .settings
        .image_for(&loaded.workspace_settings)
        .unwrap_or_else(|_| loaded.settings.image.clone());
    tx.execute(
        "INSERT INTO jobs (id, run_id, workspace_id, pool_id, phase, state, generation, start_granted, desired, \
         tries, priority, queued_at, limits, image) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
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
            image,
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
         queued_at = COALESCE($13, queued_at), outcome = COALESCE($14, outcome), usage = COALESCE($15, usage), \
         memory = COALESCE($16, memory) \
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
            details.memory.as_deref(),
        ],
    )
    .await?;
    Ok(())
}

//! `POST claim` and `POST start`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use terrapool_model::id::{ApplyId, JobId, PlanId};
use terrapool_model::job::Phase;
use terrapool_protocol::agent::{Claim, Claimed, Start, Started};
use terrapool_store::job_specs;
use terrapool_store::jobs::{self, NewClaim};
use terrapool_store::runs::{RunRecord, TransitionError};

use super::credentials::Assignment;
use super::error::AgentApiError;
use super::{credentials, specs};
use crate::app::App;

/// The id of the log of a phase.
pub(super) fn log_id(run: &RunRecord, phase: Phase) -> &str {
    match phase {
        Phase::Plan => PlanId::as_str(&run.plan_id),
        Phase::Apply => ApplyId::as_str(&run.apply_id),
    }
}

pub(super) async fn claim(
    State(app): State<App>,
    Path(job): Path<JobId>,
    headers: HeaderMap,
    Json(request): Json<Claim>,
) -> Result<Json<Claimed>, AgentApiError> {
    let session = credentials::session(&app, &headers).await?;
    if session.is_superseded() {
        return Err(AgentApiError::Superseded);
    }
    if !session.token_is_valid {
        return Err(AgentApiError::Unauthorized);
    }
    if request.session != session.session {
        return Err(AgentApiError::Invalid(
            "the claim names another session than its credential".to_owned(),
        ));
    }
    let new = NewClaim {
        job: job.clone(),
        generation_seen: request.generation_seen,
        attempt: request.attempt.clone(),
        agent: session.agent.id.clone(),
        session: session.session,
        incarnation: request.incarnation,
    };
    let claimed = app
        .db
        .write::<_, TransitionError, _>(move |tx| {
            let new = new.clone();
            Box::pin(async move { jobs::claim(tx, &new).await })
        })
        .await;
    app.presence.release(&job);
    let claimed = match claimed {
        Ok(claimed) => claimed,
        // An offer of a job that went away is like one that another attempt took.
        Err(TransitionError::NotFound) => {
            return Err(AgentApiError::Refused("there is no such job".to_owned()));
        }
        Err(error) => return Err(error.into()),
    };
    let stored = job_specs::load(&mut app.db.read().await?, &job)
        .await?
        .ok_or(AgentApiError::NotFound)?;
    app.logs.begin(log_id(&stored.run, claimed.row.phase))?;
    let generation = claimed.row.generation;
    let assignment = Assignment {
        job: job.clone(),
        generation,
        attempt: request.attempt,
        incarnation: request.incarnation,
        workspace: claimed.workspace_id,
    };
    tracing::info!(
        job = job.as_str(),
        run = claimed.run_id.as_str(),
        phase = claimed.row.phase.as_str(),
        agent = session.agent.id.as_str(),
        generation,
        "a job was claimed"
    );
    Ok(Json(Claimed {
        generation,
        credential: credentials::job_credential(app.objects.keyring(), &assignment),
        spec: specs::spec(&app, &stored)?,
    }))
}

pub(super) async fn start(
    State(app): State<App>,
    Path(job): Path<JobId>,
    headers: HeaderMap,
    Json(request): Json<Start>,
) -> Result<Json<Started>, AgentApiError> {
    let attempt = credentials::attempt(&app, &headers, &job).await?;
    if attempt.generation != request.generation || attempt.attempt != request.attempt {
        return Err(AgentApiError::Invalid(
            "the request names another attempt than its credential".to_owned(),
        ));
    }
    let generation = request.generation;
    let id = job.clone();
    // `write` returns when the commit is durable: only then may the engine start.
    app.db
        .write::<_, TransitionError, _>(move |tx| {
            let (job, attempt) = (id.clone(), request.attempt.clone());
            Box::pin(async move { jobs::start(tx, &job, generation, &attempt).await })
        })
        .await?;
    tracing::info!(
        job = job.as_str(),
        run = attempt.job.run_id.as_str(),
        "the start of an apply was granted"
    );
    Ok(Json(Started { generation }))
}

//! `POST finish`: the end of an attempt.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use terrapool_model::id::JobId;
use terrapool_protocol::agent::{Finish, Finished, Incomplete, LogPosition};
use terrapool_protocol::job::Outcome;
use terrapool_store::jobs::{self, Ended, FinishError};
use terrapool_store::orphans;

use super::credentials::{Foreign, Origin};
use super::error::AgentApiError;
use super::{credentials, deliveries};
use crate::app::App;

pub(super) async fn finish(
    State(app): State<App>,
    Path(job): Path<JobId>,
    headers: HeaderMap,
    Json(request): Json<Finish>,
) -> Result<Response, AgentApiError> {
    let origin = credentials::origin(&app, &headers, &job).await?;
    let (generation, attempt) = match &origin {
        Origin::Here(attempt) => (attempt.generation, &attempt.attempt),
        Origin::Elsewhere(foreign) => (foreign.assignment.generation, &foreign.assignment.attempt),
    };
    if generation != request.generation || *attempt != request.attempt {
        return Err(AgentApiError::Invalid(
            "the request names another attempt than its credential".to_owned(),
        ));
    }
    let position = log_position(&app, &origin, &request).await?;
    if position.durable < request.log_size {
        let missing = Incomplete {
            log: position,
            state_missing: false,
            artifacts_missing: Vec::new(),
        };
        return Ok((StatusCode::CONFLICT, Json(missing)).into_response());
    }
    if let Origin::Elsewhere(Foreign { job: None, .. }) = &origin {
        return surrendered(&app, &job, position, &request).await;
    }
    let (id, report) = (job.clone(), request.clone());
    let ended = app
        .db
        .write::<_, FinishError, _>(move |tx| {
            let (id, report) = (id.clone(), report.clone());
            Box::pin(async move { jobs::finish(tx, &id, &report).await })
        })
        .await;
    match ended {
        Ok(Ended::Recorded { accepted, run }) => {
            tracing::info!(
                job = job.as_str(),
                run = run.as_str(),
                accepted,
                "a job has ended"
            );
            app.presence.forget_progress(&job);
            let accepted = accepted || matches!(request.outcome, Outcome::NeverStarted { .. });
            Ok(Json(Finished { accepted }).into_response())
        }
        Ok(Ended::Superseded) => {
            let accepted = matches!(request.outcome, Outcome::NeverStarted { .. });
            Ok(Json(Finished { accepted }).into_response())
        }
        Err(FinishError::Incomplete {
            state_missing,
            artifacts_missing,
        }) => {
            let missing = Incomplete {
                log: position,
                state_missing,
                artifacts_missing,
            };
            Ok((StatusCode::CONFLICT, Json(missing)).into_response())
        }
        Err(FinishError::Transition(error)) => Err(error.into()),
    }
}

/// The end of an attempt whose job these rows do not know: it is over once its state is here.
async fn surrendered(
    app: &App,
    job: &JobId,
    position: LogPosition,
    request: &Finish,
) -> Result<Response, AgentApiError> {
    let mut connection = app.db.read().await?;
    let state_missing = match &request.state {
        Some(mark) => !orphans::is_stored(&mut connection, job, &mark.sha256).await?,
        None => false,
    };
    if state_missing {
        let missing = Incomplete {
            log: position,
            state_missing,
            artifacts_missing: Vec::new(),
        };
        return Ok((StatusCode::CONFLICT, Json(missing)).into_response());
    }
    tracing::warn!(
        job = job.as_str(),
        "an attempt of another history delivered its end"
    );
    Ok(Json(Finished { accepted: false }).into_response())
}

/// How far the attempt's log has come; everything received is durable when this returns.
async fn log_position(app: &App, origin: &Origin, request: &Finish) -> Result<LogPosition, AgentApiError> {
    if matches!(request.outcome, Outcome::NeverStarted { .. }) || request.log_size == 0 {
        return Ok(LogPosition {
            received: 0,
            durable: request.log_size,
        });
    }
    let (log, writer) = deliveries::log_of(app, origin).await?;
    let done = app.logs.complete(&log, &writer).await?;
    if done.position.received == request.log_size && done.sha256 != request.log_sha256 {
        // The bytes cannot be asked for again; a run that never ends would help nobody.
        tracing::error!(
            log,
            received = done.sha256,
            reported = request.log_sha256,
            "a log is not what its agent sent"
        );
    }
    Ok(done.position)
}

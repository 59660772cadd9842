//! `POST finish`: the end of an attempt.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use terrapool_model::id::JobId;
use terrapool_protocol::agent::{Finish, Finished, Incomplete, LogPosition};
use terrapool_protocol::job::Outcome;
use terrapool_store::jobs::{self, Ended, FinishError};
use terrapool_store::runs;

use super::error::AgentApiError;
use super::{claims, credentials, deliveries};
use crate::app::App;

pub(super) async fn finish(
    State(app): State<App>,
    Path(job): Path<JobId>,
    headers: HeaderMap,
    Json(request): Json<Finish>,
) -> Result<Response, AgentApiError> {
    let attempt = credentials::attempt(&app, &headers, &job).await?;
    if attempt.generation != request.generation || attempt.attempt != request.attempt {
        return Err(AgentApiError::Invalid(
            "the request names another attempt than its credential".to_owned(),
        ));
    }
    let position = log_position(&app, &attempt, &request).await?;
    if position.durable < request.log_size {
        let missing = Incomplete {
            log: position,
            state_missing: false,
            artifacts_missing: Vec::new(),
        };
        return Ok((StatusCode::CONFLICT, Json(missing)).into_response());
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

/// How far the attempt's log has come; everything received is durable when this returns.
async fn log_position(
    app: &App,
    attempt: &credentials::Attempt,
    request: &Finish,
) -> Result<LogPosition, AgentApiError> {
    if matches!(request.outcome, Outcome::NeverStarted { .. }) || request.log_size == 0 {
        return Ok(LogPosition {
            received: 0,
            durable: request.log_size,
        });
    }
    let run = runs::get(&mut app.db.read().await?, &attempt.job.run_id)
        .await?
        .ok_or(AgentApiError::NotFound)?;
    let log = claims::log_id(&run, attempt.job.row.phase);
    let done = app.logs.complete(log, &deliveries::writer(attempt)).await?;
    if done.position.received == request.log_size && done.sha256 != request.log_sha256 {
        // The bytes cannot be asked for again; a run that never ends would help nobody.
        tracing::error!(
            job = attempt.job.id.as_str(),
            received = done.sha256,
            reported = request.log_sha256,
            "a log is not what its agent sent"
        );
    }
    Ok(done.position)
}

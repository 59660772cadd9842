//! Streams: the bundle to the attempt; log, states and artifacts from it.

use std::fmt::Write as _;

use axum::Json;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, stream};
use md5::{Digest as _, Md5};
use serde::Deserialize;
use terrapool_model::id::{JobId, StateVersionId};
use terrapool_model::job::Phase;
use terrapool_model::state_copy::Fate;
use terrapool_objects::{ObjectError, ObjectKey, ObjectReader, Objects, Stored};
use terrapool_protocol::agent::{
    CONTENT_SHA256, LogPosition, Progress, STATE_LINEAGE, STATE_SERIAL, StateFate, StateStored,
};
use terrapool_protocol::job::{ArtifactName, Limit};
use terrapool_store::artifacts::{self, ArtifactRecord, Placed};
use terrapool_store::runs::TransitionError;
use terrapool_store::state_copies::{self, NewCopy};
use terrapool_store::{job_specs, orphans, runs};

use super::credentials::{Foreign, Origin};
use super::error::AgentApiError;
use super::{claims, credentials, specs};
use crate::app::App;
use crate::logs::Writer;

/// Largest artifact in bytes: a plan archive may hold 256 MiB of files, and a plan as JSON may be larger than that.
const ARTIFACT_BYTES: u64 = 1 << 30;

/// What a log may have above its limit, in bytes: the words of runner and agent about what they left out and did.
const LOG_MARGIN: u64 = 1 << 20;

/// So much of a body that is too large is still read, in bytes.
const DRAINED_BYTES: u64 = 1 << 30;

/// Who appends to a log, for the log store.
pub(super) fn writer(attempt: &credentials::Attempt) -> Writer {
    Writer {
        generation: attempt.generation,
        attempt: attempt.attempt.clone(),
        holds_job: attempt.is_newest() && attempt.job.row.is_held(),
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Offset {
    offset: u64,
}

pub(super) async fn append_log(
    State(app): State<App>,
    Path(job): Path<JobId>,
    Query(query): Query<Offset>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<LogPosition>, AgentApiError> {
    let origin = credentials::origin(&app, &headers, &job).await?;
    let most = largest_log(&origin);
    if query.offset.saturating_add(body.len() as u64) > most {
        return Err(AgentApiError::TooLarge(most));
    }
    let (log, writer) = log_of(&app, &origin).await?;
    Ok(Json(app.logs.append(&log, &writer, query.offset, &body)?))
}

pub(super) async fn put_progress(
    State(app): State<App>,
    Path(job): Path<JobId>,
    headers: HeaderMap,
    Json(progress): Json<Progress>,
) -> Result<StatusCode, AgentApiError> {
    let attempt = credentials::attempt(&app, &headers, &job).await?;
    if attempt.is_newest() && attempt.job.row.is_held() {
        app.presence
            .note_progress(job, attempt.generation, progress, app.monotonic());
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Bytes that an attempt's log may have. The runner leaves out what comes above its job's limit, so an honest agent
/// never gets there.
fn largest_log(origin: &Origin) -> u64 {
    let limit = match origin {
        Origin::Here(attempt) => attempt.job.limits.log_mb,
        Origin::Elsewhere(Foreign { job: Some(job), .. }) => job.limits.log_mb,
        Origin::Elsewhere(Foreign { job: None, .. }) => Limit::Log.range().1,
    };
    (limit << 20) + LOG_MARGIN
}

/// The log that an attempt writes, and as whom. One of another history writes beside the log, never into it; without
/// rows its log is the job's own.
pub(super) async fn log_of(app: &App, origin: &Origin) -> Result<(String, Writer), AgentApiError> {
    let (job, writer) = match origin {
        Origin::Here(attempt) => (&attempt.job, writer(attempt)),
        Origin::Elsewhere(Foreign { assignment, job }) => {
            let writer = Writer {
                generation: assignment.generation,
                attempt: assignment.attempt.clone(),
                holds_job: false,
            };
            match job {
                Some(job) => (job, writer),
                None => return Ok((format!("orphan-{}", assignment.job), writer)),
            }
        }
    };
    let run = runs::get(&mut app.db.read().await?, &job.run_id)
        .await?
        .ok_or(AgentApiError::NotFound)?;
    Ok((claims::log_id(&run, job.row.phase).to_owned(), writer))
}

/// The pieces of a bundle, one object after the other.
struct Pieces {
    objects: Objects,
    waiting: std::vec::IntoIter<(ObjectKey, String)>,
    open: Option<ObjectReader>,
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>, ObjectError> {
        loop {
            if let Some(reader) = &mut self.open {
                if let Some(bytes) = reader.next().await? {
                    return Ok(Some(bytes));
                }
                self.open = None;
            }
            let Some((key, context)) = self.waiting.next() else {
                return Ok(None);
            };
            self.open = Some(self.objects.reader(&key, &context).await?);
        }
    }
}

pub(super) async fn bundle(
    State(app): State<App>,
    Path(job): Path<JobId>,
    headers: HeaderMap,
) -> Result<Response, AgentApiError> {
    let attempt = credentials::attempt(&app, &headers, &job).await?;
    if !attempt.is_newest() || !attempt.job.row.is_held() {
        return Err(AgentApiError::Refused(
            "the job is not this attempt's any more".to_owned(),
        ));
    }
    let stored = job_specs::load(&mut app.db.read().await?, &job)
        .await?
        .ok_or(AgentApiError::NotFound)?;
    let mut length = 0;
    let mut waiting = Vec::new();
    for (_, part) in specs::parts(&stored)? {
        length += part.size;
        waiting.push((ObjectKey::new(part.object_key.clone())?, part.context.clone()));
    }
    let pieces = Pieces {
        objects: app.objects.clone(),
        waiting: waiting.into_iter(),
        open: None,
    };
    let body = stream::try_unfold(pieces, |mut pieces| async move {
        let next = pieces.next().await;
        if let Err(error) = &next {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "a bundle could not be read"
            );
        }
        Ok::<_, ObjectError>(next?.map(|bytes| (bytes, pieces)))
    });
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_LENGTH, length.to_string()),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Streams a body into an object, and checks the digest that the header names.
async fn store(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    key: &ObjectKey,
    context: &str,
    limit: u64,
) -> Result<(Stored, String), AgentApiError> {
    let expected = header(headers, CONTENT_SHA256)
        .ok_or_else(|| AgentApiError::Invalid(format!("the header {CONTENT_SHA256} is missing")))?;
    let mut writer = app.objects.writer(key, context).await?;
    let mut md5 = Md5::new();
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(AgentApiError::Body)?;
        if writer.size() + piece.len() as u64 > limit {
            drain(pieces).await;
            return Err(AgentApiError::TooLarge(limit));
        }
        md5.update(&piece);
        writer.write(&piece).await?;
    }
    let stored = writer.finish().await?;
    if stored.sha256 != expected {
        app.objects.delete(key).await?;
        return Err(AgentApiError::Invalid(
            "the body does not have the digest that its header names".to_owned(),
        ));
    }
    Ok((stored, hex(&md5.finalize())))
}

/// Reads the rest of a body that is not wanted: who is still sending may not see an answer otherwise, and would send it
/// again and again.
async fn drain(mut pieces: BodyDataStream) {
    let mut left = DRAINED_BYTES;
    while let Some(Ok(piece)) = pieces.next().await {
        left = left.saturating_sub(piece.len() as u64);
        if left == 0 {
            return;
        }
    }
}

pub(super) async fn put_state(
    State(app): State<App>,
    Path(job): Path<JobId>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<StateStored>), AgentApiError> {
    let origin = credentials::origin(&app, &headers, &job).await?;
    let known = match &origin {
        Origin::Here(attempt) => Some(&attempt.job),
        Origin::Elsewhere(foreign) => foreign.job.as_ref(),
    };
    match known.map(|job| job.row.phase) {
        Some(Phase::Plan) => return Err(AgentApiError::Forbidden("a plan changes no state")),
        Some(Phase::Apply) | None => {}
    }
    let id = StateVersionId::from_random(app.db.entropy().draw());
    let key = ObjectKey::new(format!("states/{id}"))?;
    let limit = app.config.limits.state_bytes;
    let (stored, md5) = store(&app, &headers, body, &key, id.as_str(), limit).await?;
    let serial = header(&headers, STATE_SERIAL)
        .map(|text| text.parse::<u64>())
        .transpose()
        .map_err(|_| AgentApiError::Invalid(format!("the header {STATE_SERIAL} is no number")))?;
    let (generation, attempt) = match &origin {
        Origin::Here(attempt) => (attempt.generation, attempt.attempt.clone()),
        Origin::Elsewhere(foreign) => (foreign.assignment.generation, foreign.assignment.attempt.clone()),
    };
    let copy = NewCopy {
        id,
        job,
        generation,
        attempt,
        serial,
        lineage: header(&headers, STATE_LINEAGE).map(str::to_owned),
        md5,
        sha256: stored.sha256,
        size: stored.size,
        object_key: key.to_string(),
    };
    let other_history = match &origin {
        Origin::Here(_) => None,
        Origin::Elsewhere(foreign) => {
            let assignment = &foreign.assignment;
            Some((assignment.workspace.clone(), assignment.incarnation))
        }
    };
    let fate = app
        .db
        .write::<_, TransitionError, _>(move |tx| {
            let (copy, other_history) = (copy.clone(), other_history.clone());
            Box::pin(async move {
                match other_history {
                    None => state_copies::store(tx, &copy).await,
                    Some((workspace, incarnation)) => {
                        orphans::surrender(tx, &workspace, incarnation, &copy).await
                    }
                }
            })
        })
        .await?;
    let (status, fate) = match fate {
        Fate::Intermediate => (StatusCode::OK, StateFate::Intermediate),
        Fate::Current => (StatusCode::OK, StateFate::Current),
        Fate::KeptApart => (StatusCode::ACCEPTED, StateFate::KeptApart),
        Fate::AlreadyStored => {
            app.objects.delete(&key).await?;
            (StatusCode::OK, StateFate::AlreadyStored)
        }
        Fate::Forbidden => {
            app.objects.delete(&key).await?;
            return Err(AgentApiError::Forbidden("a plan changes no state"));
        }
    };
    Ok((status, Json(StateStored { fate })))
}

fn artifact_name(text: &str) -> Option<ArtifactName> {
    [
        ArtifactName::PlanArchive,
        ArtifactName::PlanJson,
        ArtifactName::PlanRedacted,
    ]
    .into_iter()
    .find(|name| name.as_str() == text)
}

pub(super) async fn put_artifact(
    State(app): State<App>,
    Path((job, name)): Path<(JobId, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, AgentApiError> {
    let origin = credentials::origin(&app, &headers, &job).await?;
    let name = artifact_name(&name)
        .ok_or_else(|| AgentApiError::Invalid("there is no artifact of this name".to_owned()))?;
    let key = ObjectKey::new(format!("artifacts/{job}/{}", hex(&app.db.entropy().draw())))?;
    let (stored, _) = store(&app, &headers, body, &key, job.as_str(), ARTIFACT_BYTES).await?;
    let attempt = match origin {
        Origin::Here(attempt) => attempt,
        // No run can use it any more; it is taken, so that the attempt can end.
        Origin::Elsewhere(_) => {
            app.objects.delete(&key).await?;
            return Ok(StatusCode::NO_CONTENT);
        }
    };
    let new = ArtifactRecord {
        job,
        generation: attempt.generation,
        object_key: key.to_string(),
        size: stored.size,
        sha256: stored.sha256,
    };
    let by = attempt.attempt;
    let placed = app
        .db
        .write::<_, TransitionError, _>(move |tx| {
            let (new, by) = (new.clone(), by.clone());
            Box::pin(async move { artifacts::place(tx, &by, name, &new).await })
        })
        .await?;
    match placed {
        Placed::Stored { replaced: Some(old) } => app.objects.delete(&ObjectKey::new(old)?).await?,
        Placed::Stored { replaced: None } => {}
        // What a superseded attempt brings is taken and forgotten, so that it can end.
        Placed::AlreadyStored | Placed::Superseded => app.objects.delete(&key).await?,
    }
    Ok(StatusCode::NO_CONTENT)
}

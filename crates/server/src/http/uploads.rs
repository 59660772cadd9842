//! Uploads of configurations and states, at URLs that authenticate themselves.

use std::io::Read as _;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use terrapool_model::id::{ConfigurationVersionId, StateVersionId};
use terrapool_objects::ObjectKey;
use terrapool_store::configuration_versions;
use tokio::sync::mpsc;

use super::answer::{Params, Result, collect};
use super::error::ApiError;
use super::tfe::state_versions;
use crate::app::App;
use crate::archive;
use crate::http::routes::{Routes, put};
use crate::urls;

pub(super) fn router() -> Routes {
    Routes::new()
        .route("/_uploads/configuration-versions/{id}", put(configuration))
        .route("/_uploads/state-versions/{id}/state", put(state))
        .route("/_uploads/state-versions/{id}/json-state", put(json_state))
}

/// The URL that a configuration is uploaded to.
pub(super) fn configuration_url(app: &App, id: &ConfigurationVersionId) -> String {
    urls::signed(
        app,
        &format!("/_uploads/configuration-versions/{id}"),
        urls::UPLOAD_LIFETIME,
    )
}

/// The URL that a raw state is uploaded to.
pub(super) fn state_url(app: &App, id: &StateVersionId) -> String {
    urls::signed(
        app,
        &format!("/_uploads/state-versions/{id}/state"),
        urls::UPLOAD_LIFETIME,
    )
}

/// The URL that a state's JSON form is uploaded to.
pub(super) fn json_state_url(app: &App, id: &StateVersionId) -> String {
    urls::signed(
        app,
        &format!("/_uploads/state-versions/{id}/json-state"),
        urls::UPLOAD_LIFETIME,
    )
}

/// Refuses a request whose URL was not made here, or has expired.
fn authenticate(app: &App, uri: &Uri, params: &Params) -> Result<()> {
    let (Some(expires), Some(signature)) = (params.get("expires"), params.get("signature")) else {
        return Err(ApiError::Unauthorized);
    };
    if urls::verify(app, uri.path(), expires, signature) {
        Ok(())
    } else {
        Err(ApiError::Unauthorized)
    }
}

/// A state, whole. It has to be read as well as kept.
async fn state_body(app: &App, body: Body) -> Result<bytes::Bytes> {
    let limit = usize::try_from(app.config.limits.state_bytes).unwrap_or(usize::MAX);
    collect(body, limit).await
}

async fn state(
    State(app): State<App>,
    Path(id): Path<StateVersionId>,
    uri: Uri,
    params: Params,
    body: Body,
) -> Result<Response> {
    authenticate(&app, &uri, &params)?;
    let bytes = state_body(&app, body).await?;
    state_versions::receive(&app, &id, bytes).await?;
    Ok(StatusCode::OK.into_response())
}

async fn json_state(
    State(app): State<App>,
    Path(id): Path<StateVersionId>,
    uri: Uri,
    params: Params,
    body: Body,
) -> Result<Response> {
    authenticate(&app, &uri, &params)?;
    let bytes = state_body(&app, body).await?;
    state_versions::receive_json(&app, &id, bytes).await?;
    Ok(StatusCode::OK.into_response())
}

/// A configuration is stored and checked as it arrives; neither waits for the whole of it.
async fn configuration(
    State(app): State<App>,
    Path(id): Path<ConfigurationVersionId>,
    uri: Uri,
    params: Params,
    body: Body,
) -> Result<Response> {
    authenticate(&app, &uri, &params)?;
    let mut connection = app.db.read().await?;
    configuration_versions::get(&mut connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    drop(connection);
    match store_configuration(&app, &id, body).await {
        Ok(()) => Ok(StatusCode::OK.into_response()),
        Err(error) => {
            let problem = match &error {
                ApiError::Invalid(problem) => Some(("invalid_archive", problem.detail.clone())),
                ApiError::TooLarge(detail) => Some(("too_large", detail.clone())),
                _ => None,
            };
            if let Some((name, detail)) = problem {
                app.db
                    .write(move |tx| {
                        let (id, detail) = (id.clone(), detail.clone());
                        Box::pin(
                            async move { configuration_versions::fail_upload(tx, &id, name, &detail).await },
                        )
                    })
                    .await
                    .map_err(ApiError::Store)?;
            }
            Err(error)
        }
    }
}

/// Chunks that may wait for the checker.
const CHUNKS: usize = 16;

async fn store_configuration(app: &App, id: &ConfigurationVersionId, body: Body) -> Result<()> {
    let random: String = app.db.entropy().draw()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let key = ObjectKey::new(format!("configurations/{id}-{random}"))?;
    let mut writer = app.objects.writer(&key, id.as_str()).await?;
    let limit = app.config.limits.configuration_bytes;
    let (chunks, receiver) = mpsc::channel::<bytes::Bytes>(CHUNKS);
    let checker = tokio::task::spawn_blocking(move || {
        let mut reader = ChunkReader::new(receiver);
        let result = archive::check(&mut reader);
        // What follows the archive is read, so that the sender is never stuck.
        let _ = std::io::copy(&mut reader.by_ref(), &mut std::io::sink());
        result
    });
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk =
            chunk.map_err(|error| ApiError::BadRequest(format!("the upload ended early: {error}")))?;
        if writer.size() + chunk.len() as u64 > limit {
            return Err(ApiError::TooLarge(format!(
                "The configuration has more than the {} MiB that are allowed: exclude what is not needed with a \
                 .terraformignore file, or raise limits.configuration_bytes on the control plane",
                limit >> 20
            )));
        }
        writer.write(&chunk).await?;
        // The checker has ended when it found a problem; its verdict comes below.
        let _ = chunks.send(chunk).await;
    }
    drop(chunks);
    let verdict = checker
        .await
        .map_err(|_| ApiError::Internal("the archive's check ended early".to_owned()))?;
    verdict.map_err(|error| {
        ApiError::from(terrapool_tfe::errors::Problem::new(
            "invalid configuration",
            error.to_string(),
        ))
    })?;
    let stored = writer.finish().await?;
    let (id, key) = (id.clone(), key.to_string());
    let unused = app
        .db
        .write(move |tx| {
            let (id, key, stored) = (id.clone(), key.clone(), stored.clone());
            Box::pin(async move {
                configuration_versions::finish_upload(tx, &id, &key, stored.size, &stored.sha256).await
            })
        })
        .await
        .map_err(ApiError::Store)?;
    if let Some(unused) = unused {
        app.objects.delete(&ObjectKey::new(unused)?).await?;
    }
    Ok(())
}

/// Chunks of an async stream, read from a thread that may block.
struct ChunkReader {
    receiver: mpsc::Receiver<bytes::Bytes>,
    current: bytes::Bytes,
}

impl ChunkReader {
    fn new(receiver: mpsc::Receiver<bytes::Bytes>) -> Self {
        Self {
            receiver,
            current: bytes::Bytes::new(),
        }
    }
}

impl std::io::Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

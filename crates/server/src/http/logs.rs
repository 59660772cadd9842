//! Log ranges for clients, at URLs that authenticate themselves.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::app::App;
use crate::http::routes::{Routes, get};

const PURPOSE: &str = "log-read";

/// Bytes of an answer when the client names no limit.
const DEFAULT_LIMIT: u64 = 64 << 10;
/// Most bytes of an answer.
const LARGEST: u64 = 1 << 20;

/// The routes.
pub fn router() -> Routes {
    Routes::new().route("/_logs/{id}/{signature}", get(read))
}

/// The absolute address of a plan's or apply's log. Always the same for the same log. Clients replace the whole query
/// by `limit` and `offset`, so the signature is part of the path.
pub fn log_read_url(app: &App, id: &str) -> String {
    let signature = URL_SAFE_NO_PAD.encode(app.objects.keyring().sign(PURPOSE, id));
    format!("{}/_logs/{id}/{signature}", app.config.public_url)
}

#[derive(Debug, Deserialize)]
struct Range {
    offset: Option<u64>,
    limit: Option<u64>,
}

/// Clients abort on any status from 400 on: what is not there yet is an empty answer.
async fn read(
    State(app): State<App>,
    Path((id, signature)): Path<(String, String)>,
    Query(range): Query<Range>,
) -> Response {
    let signed = URL_SAFE_NO_PAD
        .decode(&signature)
        .is_ok_and(|signature| app.objects.keyring().verify(PURPOSE, &id, &signature));
    if !signed {
        return (StatusCode::NOT_FOUND, "not found\n").into_response();
    }
    let limit = usize::try_from(range.limit.unwrap_or(DEFAULT_LIMIT).min(LARGEST)).unwrap_or(0);
    match app.logs.read(&id, range.offset.unwrap_or(0), limit).await {
        Ok(bytes) => {
            let headers = [
                (CONTENT_TYPE, "text/plain; charset=utf-8"),
                (CACHE_CONTROL, "no-store"),
            ];
            (headers, bytes).into_response()
        }
        Err(error) => {
            tracing::error!(
                log = id,
                error = &error as &dyn std::error::Error,
                "a log cannot be read"
            );
            // Clients retry server errors.
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

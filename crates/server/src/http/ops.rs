//! Operations: health, service discovery, metrics, packages.

use std::fmt::Write as _;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::json;
use terrapool_protocol::agent::SERVER_VERSION;
use terrapool_store::db::Connection;
use terrapool_store::error::StoreError;
use terrapool_store::gauges;

use super::error::ApiError;
use super::web::authorize;
use crate::app::App;
use crate::config::Login;
use crate::http::routes::{Routes, get};
use crate::packages::Fetch;

pub(super) fn router() -> Routes {
    Routes::new()
        .route("/healthz", get(health))
        .route("/.well-known/terraform.json", get(discovery))
        .route("/packages/{*path}", get(package))
}

/// 200 when the database answers, else 503.
async fn health(State(app): State<App>) -> Response {
    let check = async { gauges::ping(&mut app.db.read().await?).await };
    match check.await {
        Ok(()) => ([(SERVER_VERSION, env!("CARGO_PKG_VERSION"))], "ok\n").into_response(),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "not healthy");
            (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n").into_response()
        }
    }
}

/// Service discovery. The CLI's backend "remote" wants `tfe.v2.1`, the provider `tfe.v2.2`; with `login.v1` its `login`
/// goes through the browser, without it asks for a token to be pasted.
async fn discovery(State(app): State<App>) -> Response {
    let mut services = json!({
        "tfe.v2": "/api/v2/",
        "tfe.v2.1": "/api/v2/",
        "tfe.v2.2": "/api/v2/",
        "state.v2": "/api/v2/",
    });
    match app.config.login {
        Login::Token => {}
        Login::Browser => {
            services["login.v1"] = json!({
                "client": authorize::CLIENT,
                "grant_types": ["authz_code"],
                "authz": authorize::AUTHORIZE,
                "token": authorize::TOKEN,
                "ports": authorize::PORTS,
            });
        }
    }
    Json(services).into_response()
}

/// What the commands of a pool's pages add to a package's address.
#[derive(serde::Deserialize)]
struct For {
    pool: Option<String>,
}

/// A file of the packages folder.
async fn package(
    State(app): State<App>,
    Path(path): Path<String>,
    Query(wanted): Query<For>,
) -> Result<Response, ApiError> {
    let folder = app.config.packages_dir.as_ref().ok_or(ApiError::NotFound)?;
    let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains(['\\', '\0']);
    if !path.split('/').all(plain) {
        return Err(ApiError::NotFound);
    }
    let file = tokio::fs::File::open(folder.join(&path))
        .await
        .map_err(|_| ApiError::NotFound)?;
    let metadata = file.metadata().await.map_err(|_| ApiError::NotFound)?;
    if !metadata.is_file() {
        return Err(ApiError::NotFound);
    }
    if let Some(pool) = wanted.pool.and_then(|pool| pool.parse().ok()) {
        let at = app.now();
        app.fetches.note(pool, Fetch { file: path, at });
    }
    let length = HeaderValue::from(metadata.len());
    let body = axum::body::Body::from_stream(tokio_util::io::ReaderStream::new(file));
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(CONTENT_TYPE, kind), (CONTENT_LENGTH, length)], body).into_response())
}

/// The routes of the metrics listener.
pub fn metrics_router(app: &App) -> Router {
    Router::new()
        .route("/metrics", axum::routing::get(metrics))
        .with_state(app.clone())
}

async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let mut connection = app.db.read().await?;
    let text = exposition(&mut connection).await?;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}

/// Gauges in Prometheus' text format.
async fn exposition(connection: &mut Connection) -> Result<String, StoreError> {
    let found = gauges::read(connection).await?;
    let single = [
        ("terrapool_workspaces", "Workspaces.", found.workspaces),
        (
            "terrapool_workspaces_locked",
            "Workspaces whose lock is held.",
            found.workspaces_locked,
        ),
        ("terrapool_agents", "Registered agents.", found.agents),
    ];
    let mut text = String::new();
    for (name, help, total) in single {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {total}");
    }
    let name = "terrapool_jobs";
    let _ = writeln!(text, "# HELP {name} Jobs that wait or run.\n# TYPE {name} gauge");
    for (state, phase, total) in found.jobs {
        let _ = writeln!(text, "{name}{{state=\"{state}\",phase=\"{phase}\"}} {total}");
    }
    Ok(text)
}

//! All routes.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use terrapool_store::db::origin::{self, Origin};
use tracing::Instrument as _;

use crate::app::App;

pub mod agent;
pub mod answer;
pub mod audited;
pub mod error;
pub mod logs;
pub mod ops;
pub mod rate_limit;
pub mod routes;
pub mod tfe;
pub mod uploads;
pub mod web;

use error::ApiError;
use routes::Routes;

/// The header that names a request in answers and logs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The name of a request in answers and logs.
#[derive(Debug, Clone)]
pub struct RequestName(pub String);

/// Everything that is served.
pub fn routes(app: &App) -> Routes {
    Routes::new()
        .merge(ops::router())
        .merge(tfe::router(app))
        .merge(uploads::router())
        .merge(logs::router())
        .merge(agent::router())
        .merge(web::router(app))
}

/// Everything that is served, with what is around it.
pub fn router(app: &App) -> Router {
    routes(app)
        .into_router()
        .fallback(web::fallback)
        .layer(middleware::from_fn_with_state(app.clone(), trace))
        .with_state(app.clone())
}

/// The address that a request's connection came from, as the pauses after wrong passwords count it.
pub(in crate::http) fn peer(request: &Request) -> Option<String> {
    let ConnectInfo(address) = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
    Some(address.ip().to_string())
}

/// Gives each request an id, logs it, and turns a panic into an answer.
async fn trace(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id: String = app.db.entropy().draw()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    request.extensions_mut().insert(RequestName(id.clone()));
    // The path only: queries of signed URLs are credentials.
    let span = tracing::info_span!("request", id, method = %request.method(), path = request.uri().path());
    let origin = Origin {
        request_id: id.clone(),
        address: peer(&request),
    };
    let answer = async move {
        let started = Instant::now();
        let response = match AssertUnwindSafe(origin::within(origin, next.run(request)))
            .catch_unwind()
            .await
        {
            Ok(response) => response,
            Err(panic) => {
                let text = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_default();
                ApiError::Internal(format!("a handler panicked: {text}")).into_response()
            }
        };
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(status = response.status().as_u16(), milliseconds, "answered");
        response
    };
    let mut response = answer.instrument(span).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

//! Server-sent events: what changes on a page while somebody looks.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::sse::Event;
use terrapool_store::overview;

use super::assets;
use super::error::WebError;
use super::page::Page;
use super::runs;
use super::visitor::Visitor;
use super::watch;
use crate::app::App;
use crate::http::answer::Params;
use crate::http::routes::{Routes, get};

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new().route("/app/{org}/events", get(stream))
}

/// `GET /app/:org/events?run=` or `?page=`
async fn stream(
    State(app): State<App>,
    visitor: Visitor,
    Path(organization): Path<String>,
    params: Params,
    headers: HeaderMap,
) -> Page {
    let first = stale(&params);
    if let Some(run) = params.get("run") {
        let mut connection = app.db.read().await?;
        let found = overview::organization_of_subject(&mut connection, run).await?;
        drop(connection);
        let (_, workspace) = found.ok_or_else(WebError::not_found)?;
        let number = |name: &str| params.get(name).and_then(|lines| lines.parse().ok()).unwrap_or(0);
        let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok());
        let lines = resumed
            .and_then(runs::lines_at)
            .unwrap_or_else(|| (number("plan"), number("apply")));
        let names = (organization, workspace, run.to_owned());
        return runs::stream(app.clone(), visitor, names, lines, first).await;
    }
    let page = params.get("page").ok_or_else(WebError::not_found)?;
    watch::stream(app.clone(), visitor, &organization, page, first).await
}

/// Tells a page of another version of the server that it is one.
fn stale(params: &Params) -> Option<Event> {
    let version = params.get("v")?;
    (version != assets::version()).then(|| {
        Event::default()
            .event("stale")
            .data("The server was updated: this page is an older version’s.")
    })
}

//! The audit log as JSON lines: an entry each, newest first.

use axum::extract::{Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use terrapool_model::id::OrganizationId;
use terrapool_store::audit::{self, AuditRecord};
use terrapool_store::db::Connection;
use terrapool_tfe::time::iso8601;

use super::audit::Asked;
use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::answer::Params;
use crate::http::web::error::WebError;
use crate::http::web::page::Page;
use crate::http::web::visitor::Visitor;

/// Entries of an export; what is older is had by `before`.
const MOST: u32 = 10_000;

fn line(record: &AuditRecord) -> String {
    let entry = json!({
        "id": record.id.as_str(), "at": iso8601(record.at), "actor": record.actor, "action": record.action,
        "subject": record.subject, "detail": record.detail, "request-id": record.request_id,
        "address": record.address,
    });
    format!("{entry}\n")
}

/// The entries that fit, of an organization or of the installation itself.
pub(in crate::http::web) async fn of(
    connection: &mut Connection,
    organization: Option<&OrganizationId>,
    params: &Params,
) -> Result<Response, WebError> {
    let asked = Asked::of(params);
    let records = audit::list(connection, organization, &asked.filter, MOST).await?;
    let lines: String = records.iter().map(line).collect();
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/jsonl")),
        (
            CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment; filename=\"audit.jsonl\""),
        ),
    ];
    Ok((headers, lines).into_response())
}

/// `GET /app/:org/audit/export`
pub(super) async fn show(
    State(app): State<App>,
    visitor: Visitor,
    Path(name): Path<String>,
    params: Params,
) -> Page {
    let mut connection = app.db.read().await?;
    let place = visitor
        .organization(&app, &mut connection, &name, OrganizationPermission::Manage)
        .await?;
    of(&mut connection, Some(&place.organization.id), &params).await
}

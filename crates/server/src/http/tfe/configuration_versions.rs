//! Configuration versions.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, HeaderValue};
use axum::response::Response;
use serde_json::json;
use terrapool_objects::ObjectKey;
use terrapool_store::audit;
use terrapool_store::configuration_versions::{
    self, ConfigurationStatus, ConfigurationVersionRecord, NewConfigurationVersion,
};
use terrapool_store::db::Connection;
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::time::iso8601;

use super::{AppState, source};
use crate::auth::{self, Caller, WorkspacePermission};
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::error::ApiError;
use crate::http::uploads;

/// A configuration version as clients see it. The upload URL is only in the answer that makes it.
pub(super) fn resource(record: &ConfigurationVersionRecord, upload_url: Option<String>) -> Resource {
    let mut times = BTreeMap::from([("queued-at".to_owned(), iso8601(record.created_at))]);
    if let Some(at) = record.uploaded_at {
        let name = match record.status {
            ConfigurationStatus::Errored => "errored-at",
            ConfigurationStatus::Pending | ConfigurationStatus::Uploaded => "finished-at",
        };
        times.insert(name.to_owned(), iso8601(at));
    }
    let attributes = attributes::ConfigurationVersion {
        auto_queue_runs: record.auto_queue_runs,
        error: record.error.clone(),
        error_message: record.error_message.clone(),
        source: record.source.clone(),
        speculative: record.speculative,
        provisional: record.provisional,
        status: record.status.to_string(),
        status_timestamps: times,
        changed_files: Vec::new(),
        upload_url,
    };
    let path = format!("/api/v2/configuration-versions/{}", record.id);
    Resource::new(Kind::ConfigurationVersions, record.id.to_string(), &attributes)
        .maybe("ingress-attributes", None)
        .link("self", path.clone())
        .link("download", format!("{path}/download"))
}

/// `POST workspaces/:id/configuration-versions`
pub(super) async fn create(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::QueueRuns).await?;
    drop(connection);
    let source = match source(&headers) {
        "terraform+cloud" => "terraform",
        other => other,
    };
    let new = NewConfigurationVersion {
        workspace_id: workspace.id,
        speculative: body.flag("speculative")?.unwrap_or(false),
        provisional: body.flag("provisional")?.unwrap_or(false),
        auto_queue_runs: body.flag("auto-queue-runs")?.unwrap_or(true),
        source: source.to_owned(),
    };
    let (organization, actor) = (workspace.organization_id, caller.audit_name());
    let record = app
        .db
        .write::<_, ApiError, _>(move |tx| {
            let (new, organization, actor) = (new.clone(), organization.clone(), actor.clone());
            Box::pin(async move {
                let record = configuration_versions::create(tx, &new).await?;
                let detail = json!({"workspace": new.workspace_id.as_str(), "source": new.source});
                let (action, subject) = ("configuration-version.create", record.id.as_str());
                audit::record(tx, Some(&organization), &actor, action, subject, &detail).await?;
                Ok(record)
            })
        })
        .await?;
    let url = uploads::configuration_url(&app, &record.id);
    Ok(Answer::created(Document::one(resource(&record, Some(url)))))
}

async fn find(connection: &mut Connection, caller: &Caller, id: &str) -> Result<ConfigurationVersionRecord> {
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let record = configuration_versions::get(connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let workspace = record.workspace_id.as_str();
    auth::workspace(connection, caller, workspace, WorkspacePermission::Read).await?;
    Ok(record)
}

/// `GET configuration-versions/:id`
pub(super) async fn show(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let record = find(&mut connection, &caller, &id).await?;
    Ok(Answer::ok(Document::one(resource(&record, None))))
}

/// `GET workspaces/:id/configuration-versions`, newest first
pub(super) async fn list(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::Read).await?;
    let page = params.page();
    let (records, total) =
        configuration_versions::list(&mut connection, &workspace.id, page.size, page.offset()).await?;
    let resources = records.iter().map(|record| resource(record, None)).collect();
    Ok(Answer::ok(params.paged(resources, total)))
}

/// `GET configuration-versions/:id/download`: the bytes that were uploaded.
pub(super) async fn download(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response> {
    let mut connection = app.db.read().await?;
    let record = find(&mut connection, &caller, &id).await?;
    drop(connection);
    let key = record.object_key.ok_or(ApiError::NotFound)?;
    let reader = app
        .objects
        .reader(&ObjectKey::new(key)?, record.id.as_str())
        .await?;
    let mut response = super::plans::stream(reader, HeaderValue::from_static("application/gzip"));
    if let Some(size) = record.size {
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(size));
    }
    Ok(response)
}

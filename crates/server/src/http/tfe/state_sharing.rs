//! Workspaces whose runs may read another one's state.

use std::collections::BTreeSet;

use axum::extract::{Path, State};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use terrapool_model::id::WorkspaceId;
use terrapool_store::db::Tx;
use terrapool_store::state_sharing;
use terrapool_store::workspaces::WorkspaceRecord;
use terrapool_tfe::errors::Problem;
use terrapool_tfe::request::Body;

use super::{AppState, workspaces};
use crate::app::App;
use crate::auth::{self, Caller, WorkspacePermission};
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::audited::{self, Entry};
use crate::http::error::ApiError;

/// `GET workspaces/:id/relationships/remote-state-consumers`
pub(super) async fn list(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let record = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::Read).await?;
    let page = params.page();
    let (records, total) =
        state_sharing::consumers(&mut connection, &record.id, page.size, page.offset()).await?;
    let mut resources = Vec::new();
    for record in &records {
        resources.push(workspaces::resource(&mut connection, &caller, record).await?);
    }
    Ok(Answer::ok(params.paged(resources, total)))
}

/// What a request does to the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Replace,
    Remove,
}

/// `POST workspaces/:id/relationships/remote-state-consumers`
pub(super) async fn add(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    change(&app, &caller, &id, &body, Change::Add).await
}

/// `PATCH workspaces/:id/relationships/remote-state-consumers`
pub(super) async fn replace(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    change(&app, &caller, &id, &body, Change::Replace).await
}

/// `DELETE workspaces/:id/relationships/remote-state-consumers`
pub(super) async fn remove(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    change(&app, &caller, &id, &body, Change::Remove).await
}

fn missing(id: &str) -> ApiError {
    let id: String = id.chars().take(80).collect();
    Problem::relationship(
        "remote-state-consumers",
        format!("Workspace `{id}` does not exist in this organization"),
    )
    .into()
}

/// Who may read a workspace's state as the audit log tells of changes.
fn told(record: WorkspaceRecord) -> impl for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<Value>> {
    move |tx| {
        let record = record.clone();
        Box::pin(async move {
            let consumers = state_sharing::of(tx, &record).await?.consumers;
            Ok(json!({"consumers": consumers}))
        })
    }
}

async fn change(app: &App, caller: &Caller, id: &str, body: &Body, change: Change) -> Result {
    let mut connection = app.db.read().await?;
    let record = auth::workspace(&mut connection, caller, id, WorkspacePermission::Manage).await?;
    let mut named = BTreeSet::new();
    for item in &body.items {
        let text = item.id.as_deref().unwrap_or_default();
        let consumer: WorkspaceId = text.parse().map_err(|_| missing(text))?;
        let one = BTreeSet::from([consumer]);
        if change != Change::Remove
            && !state_sharing::are_of(&mut connection, &record.organization_id, &one).await?
        {
            return Err(missing(text));
        }
        named.extend(one);
    }
    drop(connection);
    let entry = Entry {
        organization: Some(record.organization_id.clone()),
        action: match change {
            Change::Add => "workspace.share-state",
            Change::Replace => "workspace.set-state-sharing",
            Change::Remove => "workspace.unshare-state",
        },
        subject: record.id.to_string(),
        detail: json!({"consumers": named}),
    };
    audited::change_with(app, caller, entry, told(record.clone()), move |tx| {
        let (id, named) = (record.id.clone(), named.clone());
        Box::pin(async move {
            match change {
                Change::Add => state_sharing::add(tx, &id, &named).await?,
                Change::Replace => state_sharing::replace(tx, &id, &named).await?,
                Change::Remove => state_sharing::remove(tx, &id, &named).await?,
            }
            Ok(())
        })
    })
    .await?;
    Ok(Answer::NoContent)
}

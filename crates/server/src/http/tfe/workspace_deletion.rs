//! Deleting workspaces: safely, when they manage nothing, or with force; never while their lock is held.

use axum::extract::{Path, State};
use serde_json::json;
use terrapool_model::lock::Lock;
use terrapool_store::db::Tx;
use terrapool_store::workspaces::{self, WorkspaceRecord};
use terrapool_store::{audit, kept_apart, state_versions};

use super::AppState;
use super::workspaces::by_name;
use crate::app::App;
use crate::auth::{self, Caller, WorkspacePermission};
use crate::http::answer::{Answer, Result};
use crate::http::error::ApiError;
use crate::reconcile;

/// How a workspace is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deletion {
    /// Only when it manages nothing.
    Safe,
    /// Whatever it manages.
    Force,
}

/// What keeps a workspace from being deleted safely, besides its lock. No text says that it is locked or processed:
/// clients take those words for other reasons.
async fn refuse_what_is_managed(tx: &mut Tx, record: &WorkspaceRecord) -> Result<()> {
    if workspaces::has_pending_state(tx, &record.id).await? {
        return Err(ApiError::Conflict(
            "the workspace's latest state is still being processed: try again in a moment".to_owned(),
        ));
    }
    let Some(current) = state_versions::current(tx, &record.id).await? else {
        return refuse_what_is_kept_apart(tx, record).await;
    };
    match current.resource_count {
        Some(0) => refuse_what_is_kept_apart(tx, record).await,
        Some(resources) => Err(ApiError::Conflict(format!(
            "the workspace manages {resources} resources: destroy them first, or delete it with force"
        ))),
        None => Err(ApiError::Conflict(
            "the workspace's state can't be read here, so it may manage resources: destroy them first, or delete it \
             with force"
                .to_owned(),
        )),
    }
}

async fn refuse_what_is_kept_apart(tx: &mut Tx, record: &WorkspaceRecord) -> Result<()> {
    match kept_apart::count(tx, &record.id).await? {
        0 => Ok(()),
        number => Err(ApiError::Conflict(format!(
            "{number} state(s) of lost runs were kept apart, and may manage resources: promote or dismiss them \
             first, or delete the workspace with force"
        ))),
    }
}

async fn deleted(app: &App, caller: &Caller, record: WorkspaceRecord, deletion: Deletion) -> Result {
    if deletion == Deletion::Safe {
        reconcile::count_resources(app)
            .await
            .map_err(|error| ApiError::Internal(format!("resources could not be counted: {error}")))?;
    }
    let actor = caller.audit_name();
    app.db
        .write(move |tx| {
            let (id, actor) = (record.id.clone(), actor.clone());
            Box::pin(async move {
                let record = workspaces::get_locked(tx, &id).await?.ok_or(ApiError::NotFound)?;
                match &record.lock {
                    Lock::Free => {}
                    Lock::User(user) => {
                        return Err(ApiError::Conflict(format!(
                            "the workspace is locked by User {user}: unlock it before deleting it"
                        )));
                    }
                    Lock::Run(run) | Lock::Lost { run, .. } => {
                        return Err(ApiError::Conflict(format!(
                            "the workspace is locked by Run {run}: wait until it has ended before deleting it"
                        )));
                    }
                }
                if deletion == Deletion::Safe {
                    refuse_what_is_managed(tx, &record).await?;
                }
                workspaces::delete(tx, &id).await?;
                let detail = json!({"name": record.name});
                let organization = Some(&record.organization_id);
                audit::record(tx, organization, &actor, "workspace.delete", id.as_str(), &detail).await?;
                Ok(())
            })
        })
        .await?;
    Ok(Answer::NoContent)
}

/// `DELETE workspaces/:id`
pub(in crate::http) async fn delete(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let record = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::Manage).await?;
    drop(connection);
    deleted(&app, &caller, record, Deletion::Force).await
}

/// `DELETE organizations/:org/workspaces/:name`
pub(super) async fn delete_by_name(
    State(app): AppState,
    caller: Caller,
    Path(names): Path<(String, String)>,
) -> Result {
    let mut connection = app.db.read().await?;
    let record = by_name(&mut connection, &caller, &names, WorkspacePermission::Manage).await?;
    drop(connection);
    deleted(&app, &caller, record, Deletion::Force).await
}

/// `POST workspaces/:id/actions/safe-delete`
pub(in crate::http) async fn safe_delete(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result {
    let mut connection = app.db.read().await?;
    let record = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::Manage).await?;
    drop(connection);
    deleted(&app, &caller, record, Deletion::Safe).await
}

/// `POST organizations/:org/workspaces/:name/actions/safe-delete`
pub(super) async fn safe_delete_by_name(
    State(app): AppState,
    caller: Caller,
    Path(names): Path<(String, String)>,
) -> Result {
    let mut connection = app.db.read().await?;
    let record = by_name(&mut connection, &caller, &names, WorkspacePermission::Manage).await?;
    drop(connection);
    deleted(&app, &caller, record, Deletion::Safe).await
}

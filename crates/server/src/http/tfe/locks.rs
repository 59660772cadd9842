//! Locking and unlocking workspaces.

use axum::extract::{Path, State};
use serde_json::json;
use terrapool_model::id::{AttemptId, OrganizationId, UserId, WorkspaceId};
use terrapool_model::job::Phase;
use terrapool_model::refusal::Refusal;
use terrapool_store::db::Tx;
use terrapool_store::error::StoreError;
use terrapool_store::locks::TransitionError;
use terrapool_store::{agents, audit, jobs, locks, workspaces};
use terrapool_tfe::document::Document;
use terrapool_tfe::errors::Problem;

use super::AppState;
use crate::app::App;
use crate::auth::{self, Caller, WorkspacePermission};
use crate::http::answer::{Answer, ApiBody, Result};
use crate::http::error::ApiError;

/// A lock is a person's: whose it is decides who may unlock.
fn person(caller: &Caller) -> Result<UserId> {
    caller.user_id().cloned().ok_or_else(|| {
        ApiError::Forbidden("an organization's token can't hold a lock: use a user's token".to_owned())
    })
}

async fn shown(app: &App, caller: &Caller, id: &WorkspaceId) -> Result {
    let mut connection = app.db.read().await?;
    let record = workspaces::get(&mut connection, id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let resource = super::workspaces::resource(&mut connection, caller, &record).await?;
    Ok(Answer::ok(Document::one(resource)))
}

async fn noted(
    tx: &mut Tx,
    organization: &OrganizationId,
    user: &UserId,
    action: &str,
    workspace: &WorkspaceId,
    detail: &serde_json::Value,
) -> std::result::Result<(), StoreError> {
    audit::record(
        tx,
        Some(organization),
        user.as_str(),
        action,
        workspace.as_str(),
        detail,
    )
    .await
}

/// A refusal, as clients are answered. One by a lost apply names the agent and the attempt that may be running.
async fn refused(app: &App, workspace: &WorkspaceId, error: TransitionError) -> Result<ApiError> {
    let refusal = match error {
        TransitionError::Refused(refusal) => refusal,
        error @ (TransitionError::NotFound | TransitionError::Store(_)) => return Ok(error.into()),
    };
    let Refusal::LockedByLostRun { run, attempt, .. } = &refusal else {
        return Ok(refusal.into());
    };
    let mut connection = app.db.read().await?;
    let job = jobs::of_run(&mut connection, run, Phase::Apply).await?;
    let agent = match job.as_ref().and_then(|job| job.row.agent.as_ref()) {
        Some(id) => agents::get(&mut connection, id).await?,
        None => None,
    };
    let agent = agent.map_or_else(
        || "an agent that was removed".to_owned(),
        |agent| format!("agent {} ({})", agent.name, agent.ip_address),
    );
    let attempt = attempt.as_ref().map_or("unknown", |attempt| attempt.as_str());
    Ok(ApiError::Conflict(format!(
        "{refusal}. Workspace {workspace}, {agent}, attempt {attempt}"
    )))
}

/// The same for a force-unlock. The stock CLI says \"already unlocked\" to every 409, so only that is one.
fn unprocessable(error: ApiError) -> ApiError {
    match error {
        ApiError::Conflict(detail) if !detail.contains("already unlocked") => {
            ApiError::Invalid(Box::new(Problem::new("unprocessable", detail)))
        }
        error => error,
    }
}

/// `POST workspaces/:id/actions/lock`
pub(in crate::http) async fn lock(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::Lock).await?;
    drop(connection);
    let user = person(&caller)?;
    let reason = body.text("reason")?.or_else(|| {
        let bare = body.bare.get("reason").and_then(serde_json::Value::as_str);
        bare.map(str::to_owned)
    });
    let (id, organization) = (workspace.id.clone(), workspace.organization_id);
    let done = app
        .db
        .write::<_, TransitionError, _>(move |tx| {
            let (id, organization, user, reason) =
                (id.clone(), organization.clone(), user.clone(), reason.clone());
            Box::pin(async move {
                locks::lock_by_user(tx, &id, &user, reason.as_deref()).await?;
                noted(tx, &organization, &user, "workspace.lock", &id, &json!({})).await?;
                Ok(())
            })
        })
        .await;
    if let Err(error) = done {
        return Err(refused(&app, &workspace.id, error).await?);
    }
    shown(&app, &caller, &workspace.id).await
}

/// `POST workspaces/:id/actions/unlock`
pub(in crate::http) async fn unlock(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::Lock).await?;
    drop(connection);
    let user = person(&caller)?;
    let (id, organization) = (workspace.id.clone(), workspace.organization_id);
    let done = app
        .db
        .write::<_, TransitionError, _>(move |tx| {
            let (id, organization, user) = (id.clone(), organization.clone(), user.clone());
            Box::pin(async move {
                locks::unlock_by_user(tx, &id, Some(&user)).await?;
                noted(tx, &organization, &user, "workspace.unlock", &id, &json!({})).await?;
                Ok(())
            })
        })
        .await;
    if let Err(error) = done {
        return Err(refused(&app, &workspace.id, error).await?);
    }
    shown(&app, &caller, &workspace.id).await
}

/// `POST workspaces/:id/actions/force-unlock`. What is announced and has not arrived is given up with the lock.
pub(in crate::http) async fn force_unlock(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::ForceUnlock).await?;
    drop(connection);
    let user = person(&caller)?;
    let acknowledged = body.text("acknowledge-running")?.or_else(|| {
        let bare = body
            .bare
            .get("acknowledge-running")
            .and_then(serde_json::Value::as_str);
        bare.map(str::to_owned)
    });
    let acknowledged: Option<AttemptId> =
        acknowledged.map(|text| text.parse()).transpose().map_err(|_| {
            ApiError::attribute(
                "acknowledge-running",
                "Acknowledge running has to be an attempt's id",
            )
        })?;
    let (id, organization) = (workspace.id.clone(), workspace.organization_id);
    let done = app
        .db
        .write::<_, TransitionError, _>(move |tx| {
            let (id, organization, user) = (id.clone(), organization.clone(), user.clone());
            let acknowledged = acknowledged.clone();
            Box::pin(async move {
                locks::force_unlock(tx, &id, Some(&user), acknowledged.as_ref()).await?;
                let detail = json!({"acknowledge-running": acknowledged.as_ref().map(AttemptId::as_str)});
                noted(tx, &organization, &user, "workspace.force-unlock", &id, &detail).await?;
                Ok(())
            })
        })
        .await;
    if let Err(error) = done {
        return Err(unprocessable(refused(&app, &workspace.id, error).await?));
    }
    shown(&app, &caller, &workspace.id).await
}

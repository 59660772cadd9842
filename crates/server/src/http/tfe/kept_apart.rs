//! States that could not become current by themselves, and the ways in which a person makes a state current.

use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::json;
use terrapool_model::id::{StateVersionId, UserId};
use terrapool_objects::ObjectKey;
use terrapool_store::kept_apart::{self, KeptApart, Rollback};
use terrapool_store::orphans::{self, OrphanState};
use terrapool_store::page::Page;
use terrapool_store::runs::TransitionError;
use terrapool_store::state_versions::{self, StateStatus};
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::errors::Problem;
use terrapool_tfe::state;
use terrapool_tfe::time::iso8601;

use super::AppState;
use super::plans::{JSON, stream};
use super::state_versions::{md5_of, new_key, resource as version_resource};
use crate::app::App;
use crate::auth::{self, Caller, WorkspacePermission};
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::audited;
use crate::http::error::ApiError;

fn page(params: &Params) -> Page {
    let page = params.page();
    Page {
        number: page.number,
        size: page.size,
    }
}

fn resource(app: &App, found: &KeptApart) -> Resource {
    let version = &found.version;
    let attributes = attributes::KeptApartState {
        reason: found
            .reason
            .map_or("unknown", |reason| reason.as_str())
            .to_owned(),
        message: found.reason.map_or("", |reason| reason.message()).to_owned(),
        serial: version.serial,
        lineage: version.lineage.clone(),
        md5: version.md5.clone(),
        size: version.size,
        job: found.job.as_ref().map(ToString::to_string),
        attempt: found.attempt.as_ref().map(ToString::to_string),
        created_at: iso8601(version.created_at),
        hosted_state_download_url: format!(
            "{}/api/v2/state-versions/{}/download",
            app.config.public_url, version.id
        ),
    };
    Resource::new(Kind::KeptApartStates, version.id.to_string(), &attributes)
        .one("workspace", Kind::Workspaces, version.workspace_id.to_string())
        .maybe(
            "run",
            version.run_id.as_ref().map(|id| (Kind::Runs, id.to_string())),
        )
}

/// `GET workspaces/:id/kept-apart-states`, newest first
pub(super) async fn list(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::ReadState).await?;
    let listed = kept_apart::list(&mut connection, &workspace.id, &page(&params)).await?;
    let resources = listed.items.iter().map(|found| resource(&app, found)).collect();
    Ok(Answer::ok(params.paged(resources, listed.total)))
}

/// What decides on a state is a person.
fn person(caller: &Caller) -> Result<UserId> {
    caller.user_id().cloned().ok_or_else(|| {
        ApiError::Forbidden("an organization's token can't decide on a state: use a user's token".to_owned())
    })
}

async fn found(app: &App, caller: &Caller, id: &str) -> Result<(StateVersionId, UserId)> {
    let id: StateVersionId = id.parse().map_err(|_| ApiError::NotFound)?;
    let mut connection = app.db.read().await?;
    let found = kept_apart::get(&mut connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let workspace = found.version.workspace_id.as_str();
    auth::workspace(
        &mut connection,
        caller,
        workspace,
        WorkspacePermission::WriteState,
    )
    .await?;
    Ok((id, person(caller)?))
}

async fn shown(app: &App, id: &StateVersionId) -> Result {
    let record = state_versions::get(&mut app.db.read().await?, id)
        .await?
        .ok_or(ApiError::NotFound)?;
    Ok(Answer::ok(Document::one(
        version_resource(app, &record, None).await?,
    )))
}

/// `POST kept-apart-states/:id/actions/promote`: it becomes the current state. The lock has to be free, or the
/// caller's.
pub(in crate::http) async fn promote(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let (id, user) = found(&app, &caller, &id).await?;
    let version = id.clone();
    app.db
        .write::<_, TransitionError, _>(move |tx| {
            let (version, user) = (version.clone(), user.clone());
            Box::pin(async move { kept_apart::promote(tx, &version, &user).await })
        })
        .await?;
    shown(&app, &id).await
}

/// `POST kept-apart-states/:id/actions/dismiss`: it is removed.
pub(in crate::http) async fn dismiss(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let (id, user) = found(&app, &caller, &id).await?;
    app.db
        .write::<_, TransitionError, _>(move |tx| {
            let (id, user) = (id.clone(), user.clone());
            Box::pin(async move { kept_apart::dismiss(tx, &id, &user).await })
        })
        .await?;
    Ok(Answer::NoContent)
}

/// `PATCH workspaces/:id/state-versions`: a copy of an earlier state version, named by the relationship
/// `rollback-state-version`, becomes the current one. The caller holds the lock. The copy's serial is above all that the
/// workspace has had, so that an engine which knows a later state takes it for a newer one; bytes that can't be changed
/// keep theirs.
pub(in crate::http) async fn roll_back(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::WriteState).await?;
    let user = person(&caller)?;
    let missing = || -> ApiError {
        Problem::relationship(
            "rollback-state-version",
            "Rollback state version has to name a state version of this workspace",
        )
        .into()
    };
    let to: StateVersionId = body
        .related("rollback-state-version")
        .value()
        .and_then(|id| id.parse().ok())
        .ok_or_else(missing)?;
    let earlier = state_versions::get(&mut connection, &to)
        .await?
        .filter(|version| version.workspace_id == workspace.id && version.status == StateStatus::Finalized)
        .ok_or_else(missing)?;
    let highest = state_versions::highest_serial(&mut connection, &workspace.id).await?;
    drop(connection);
    // The object is sealed with its version's id, so the copy is an object of its own.
    let key = ObjectKey::new(earlier.object_key.ok_or_else(missing)?)?;
    let mut bytes = app.objects.get(&key, to.as_str()).await?;
    let mut serial = highest.and_then(|highest| highest.checked_add(1));
    match serial.and_then(|serial| state::with_serial(&bytes, serial)) {
        Some(changed) => bytes = changed,
        None => serial = None,
    }
    let id = StateVersionId::from_random(app.db.entropy().draw());
    let key = new_key(&app, &id, "")?;
    let stored = app.objects.put(&key, id.as_str(), &bytes).await?;
    let rollback = Rollback {
        to,
        id: id.clone(),
        serial,
        object_key: key.to_string(),
        size: stored.size,
        md5: md5_of(&bytes),
        sha256: stored.sha256,
    };
    let done = app
        .db
        .write::<_, TransitionError, _>(move |tx| {
            let (workspace, rollback, user) = (workspace.id.clone(), rollback.clone(), user.clone());
            Box::pin(async move { kept_apart::roll_back(tx, &workspace, &rollback, &user).await })
        })
        .await;
    if let Err(error) = done {
        app.objects.delete(&key).await?;
        return Err(error.into());
    }
    shown(&app, &id).await
}

/// What is in no workspace is for those who look after the installation.
fn site_admin(caller: &Caller) -> Result<()> {
    match caller.user() {
        Some(user) if user.site_admin => Ok(()),
        Some(_) | None => Err(ApiError::NotFound),
    }
}

fn orphan(app: &App, state: &OrphanState) -> Resource {
    let attributes = attributes::KeptApartState {
        reason: "unknown-workspace".to_owned(),
        message: format!(
            "It was written by a run of workspace {}, which does not exist here: the control plane was restored from \
             a backup that does not have it, or the workspace was deleted.",
            state.workspace_id
        ),
        serial: state.serial,
        lineage: state.lineage.clone(),
        md5: Some(state.md5.clone()),
        size: Some(state.size),
        job: Some(state.job.to_string()),
        attempt: Some(state.attempt.clone()),
        created_at: iso8601(state.created_at),
        hosted_state_download_url: format!(
            "{}/api/v2/orphan-states/{}/download",
            app.config.public_url, state.id
        ),
    };
    Resource::new(Kind::KeptApartStates, state.id.to_string(), &attributes)
}

/// `GET orphan-states`: states of workspaces that are not known here. For site administrators.
pub(super) async fn orphans(State(app): AppState, caller: Caller, params: Params) -> Result {
    site_admin(&caller)?;
    let listed = orphans::list(&mut app.db.read().await?, &page(&params)).await?;
    let resources = listed.items.iter().map(|state| orphan(&app, state)).collect();
    Ok(Answer::ok(params.paged(resources, listed.total)))
}

/// `GET orphan-states/:id/download`
pub(super) async fn download_orphan(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response> {
    site_admin(&caller)?;
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let state = orphans::get(&mut app.db.read().await?, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    audited::reading(
        &app,
        &caller,
        None,
        "state.download",
        state.id.as_str(),
        json!({}),
    )
    .await?;
    let key = ObjectKey::new(state.object_key)?;
    let reader = app.objects.reader(&key, state.id.as_str()).await?;
    Ok(stream(reader, JSON))
}

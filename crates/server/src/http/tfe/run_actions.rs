//! What people do with runs.

use axum::extract::{Path, State};
use futures_util::future::BoxFuture;
use serde_json::json;
use terrapool_model::id::{RunId, UserId};
use terrapool_store::audit;
use terrapool_store::db::Tx;
use terrapool_store::runs::{self, RunRecord, TransitionError};

use super::AppState;
use crate::app::App;
use crate::auth::{self, Caller, WorkspacePermission};
use crate::http::answer::{Answer, ApiBody, Result};
use crate::http::error::ApiError;

#[derive(Debug, Clone, Copy)]
enum Action {
    Apply,
    Discard,
    Cancel,
    ForceCancel,
}

impl Action {
    fn audit_name(self) -> &'static str {
        match self {
            Self::Apply => "run.confirm",
            Self::Discard => "run.discard",
            Self::Cancel => "run.cancel",
            Self::ForceCancel => "run.force-cancel",
        }
    }

    /// What it takes. Whoever may plan may stop what only plans.
    fn permission(self, plan_only: bool) -> WorkspacePermission {
        match self {
            Self::Cancel if plan_only => WorkspacePermission::QueueRuns,
            Self::Apply | Self::Discard | Self::Cancel => WorkspacePermission::ApplyRuns,
            Self::ForceCancel => WorkspacePermission::ForceCancelRuns,
        }
    }

    fn perform<'t>(
        self,
        tx: &'t mut Tx,
        id: &'t RunId,
        user: Option<&'t UserId>,
        comment: Option<&'t str>,
    ) -> BoxFuture<'t, std::result::Result<RunRecord, TransitionError>> {
        match self {
            Self::Apply => Box::pin(runs::confirm(tx, id, user, comment)),
            Self::Discard => Box::pin(runs::discard(tx, id, user, comment)),
            Self::Cancel => Box::pin(runs::cancel(tx, id, user, comment)),
            Self::ForceCancel => Box::pin(runs::force_cancel(tx, id, user, comment)),
        }
    }
}

async fn act(app: &App, caller: &Caller, id: &str, action: Action, comment: Option<String>) -> Result {
    let mut connection = app.db.read().await?;
    let read = WorkspacePermission::Read;
    let (run, workspace) = super::runs::find(&mut connection, caller, id, read).await?;
    let permission = action.permission(run.plan_only);
    auth::require_in_workspace(&mut connection, caller, &workspace, permission).await?;
    drop(connection);
    let (user, actor) = (caller.user_id().cloned(), caller.audit_name());
    app.db
        .write(move |tx| {
            let (id, user, comment, actor) = (run.id.clone(), user.clone(), comment.clone(), actor.clone());
            let organization = workspace.organization_id.clone();
            Box::pin(async move {
                action.perform(tx, &id, user.as_ref(), comment.as_deref()).await?;
                let name = action.audit_name();
                audit::record(tx, Some(&organization), &actor, name, id.as_str(), &json!({})).await?;
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    Ok(Answer::Accepted)
}

/// `POST runs/:id/actions/apply`
pub(in crate::http) async fn apply(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    act(&app, &caller, &id, Action::Apply, body.comment()).await
}

/// `POST runs/:id/actions/discard`
pub(in crate::http) async fn discard(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    act(&app, &caller, &id, Action::Discard, body.comment()).await
}

/// `POST runs/:id/actions/cancel`
pub(in crate::http) async fn cancel(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    act(&app, &caller, &id, Action::Cancel, body.comment()).await
}

/// `POST runs/:id/actions/force-cancel`
pub(in crate::http) async fn force_cancel(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    act(&app, &caller, &id, Action::ForceCancel, body.comment()).await
}

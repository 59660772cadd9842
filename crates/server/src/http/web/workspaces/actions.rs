//! What people do with workspaces.

use axum::extract::{Path, State};
use serde_json::json;

use super::frame;
use crate::app::App;
use crate::auth::WorkspacePermission;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{SignedForm, made_id, own_headers, request, request_with};
use crate::http::web::page::{Page, see, see_with};
use crate::http::web::retyped::require_name;

/// `POST /app/:org/workspaces/:name/runs`
pub(super) async fn start_run(
    State(app): State<App>,
    Path(names): Path<(String, String)>,
    form: SignedForm,
) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let (place, record) = frame::opened(&app, &visitor, &names, WorkspacePermission::QueueRuns).await?;
    let kind = fields.text("kind");
    let attributes = json!({
        "message": fields.some("message").unwrap_or_else(|| title(kind).to_owned()),
        "plan-only": kind == "plan",
        "refresh-only": kind == "refresh",
        "is-destroy": kind == "destroy",
    });
    let body = request_with(attributes, &[("workspace", record.id.as_str())]);
    let answer = tfe::runs::create(State(app), visitor.caller, own_headers(&fields), body).await?;
    see(&place.address(&format!("/workspaces/{}/runs/{}", record.name, made_id(answer))))
}

/// The title of a run that was given none.
fn title(kind: &str) -> &'static str {
    match kind {
        "plan" => "Plan only",
        "refresh" => "Refresh only",
        "destroy" => "Destroy everything",
        _ => "Started in the web UI",
    }
}

/// `POST /app/:org/workspaces/:name/lock`
pub(super) async fn lock(
    State(app): State<App>,
    Path(names): Path<(String, String)>,
    form: SignedForm,
) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let (place, record) = frame::opened(&app, &visitor, &names, WorkspacePermission::Lock).await?;
    let body = request(json!({"reason": fields.some("reason")}));
    let id = Path(record.id.to_string());
    tfe::locks::lock(State(app), visitor.caller.clone(), id, body).await?;
    let address = place.address(&format!("/workspaces/{}", record.name));
    see_with(&visitor, &address, "The workspace is locked by you.")
}

/// `POST /app/:org/workspaces/:name/unlock`
pub(super) async fn unlock(
    State(app): State<App>,
    Path(names): Path<(String, String)>,
    form: SignedForm,
) -> Page {
    let visitor = form.visitor;
    let (place, record) = frame::opened(&app, &visitor, &names, WorkspacePermission::Lock).await?;
    let id = Path(record.id.to_string());
    tfe::locks::unlock(State(app), visitor.caller.clone(), id).await?;
    let address = place.address(&format!("/workspaces/{}", record.name));
    see_with(&visitor, &address, "The workspace is unlocked.")
}

/// `POST /app/:org/workspaces/:name/force-unlock`
pub(super) async fn force_unlock(
    State(app): State<App>,
    Path(names): Path<(String, String)>,
    form: SignedForm,
) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let (place, record) = frame::opened(&app, &visitor, &names, WorkspacePermission::ForceUnlock).await?;
    let address = place.address(&format!("/workspaces/{}", record.name));
    require_name(&fields, &record.name, "Take the lock away", &address)?;
    let attempt = fields.some("attempt");
    if attempt.is_some() && !fields.ticked("seen") {
        return Err(WebError::bad_request(
            "confirm that the host is off, or that no engine runs on it".to_owned(),
        ));
    }
    let body = request(json!({"acknowledge-running": attempt}));
    let id = Path(record.id.to_string());
    tfe::locks::force_unlock(State(app), visitor.caller.clone(), id, body).await?;
    see_with(&visitor, &address, "The lock was taken away.")
}

/// `POST /app/:org/workspaces/:name/delete`
pub(super) async fn delete(
    State(app): State<App>,
    Path(names): Path<(String, String)>,
    form: SignedForm,
) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let (place, record) = frame::opened(&app, &visitor, &names, WorkspacePermission::Manage).await?;
    let settings = place.address(&format!("/workspaces/{}/settings", record.name));
    require_name(&fields, &record.name, "Delete the workspace", &settings)?;
    let (caller, id) = (visitor.caller.clone(), Path(record.id.to_string()));
    if fields.ticked("abandon") {
        tfe::workspace_deletion::delete(State(app), caller, id).await?;
    } else {
        tfe::workspace_deletion::safe_delete(State(app), caller, id).await?;
    }
    let said = format!("Workspace {} is deleted.", record.name);
    see_with(&visitor, &place.address("/workspaces"), &said)
}

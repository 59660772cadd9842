//! What people do with runs.

use axum::extract::{Path, State};
use serde_json::json;
use terrapool_model::id::RunId;
use terrapool_protocol::job::Limit;
use terrapool_store::overview::ListedRun;

use super::load::{Names, find};
use crate::app::App;
use crate::auth::{self, WorkspacePermission};
use crate::http::answer::ApiBody;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{Fields, SignedForm, made_id, own_headers, request, request_with};
use crate::http::web::page::{Page, see, see_with};
use crate::http::web::parts::words::megabytes;
use crate::http::web::retyped::require_name;
use crate::http::web::visitor::{Place, Visitor};

/// The run, as far as the visitor sees it; what may be done with it is checked by the action.
async fn found(app: &App, visitor: &Visitor, names: &Names) -> Result<(Place, ListedRun), WebError> {
    let mut connection = app.db.read().await?;
    let (place, _, listed) = find(app, &mut connection, visitor, names, WorkspacePermission::Read).await?;
    Ok((place, listed))
}

fn comment(fields: &Fields) -> ApiBody {
    request(json!({"comment": fields.some("comment")}))
}

fn address(place: &Place, workspace: &str, run: &RunId) -> String {
    place.address(&format!("/workspaces/{workspace}/runs/{run}"))
}

/// `POST …/confirm`
pub(super) async fn confirm(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let (place, listed) = found(&app, &visitor, &names).await?;
    let run = &listed.run;
    let destroys = run.plan_counts.is_some_and(|counts| counts.destroy > 0);
    if destroys && !fields.ticked("seen") {
        return Err(WebError::bad_request(
            "this plan destroys resources: tick that you have read which ones, then confirm again".to_owned(),
        ));
    }
    if destroys && run.is_destroy {
        let page = address(&place, &listed.workspace, &run.id);
        require_name(&fields, &listed.workspace, "Destroy everything here", &page)?;
    }
    let id = Path(run.id.to_string());
    tfe::run_actions::apply(State(app), visitor.caller, id, comment(&fields)).await?;
    see(&address(&place, &listed.workspace, &run.id))
}

/// `POST …/discard`
pub(super) async fn discard(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let (place, listed) = found(&app, &visitor, &names).await?;
    let id = Path(listed.run.id.to_string());
    tfe::run_actions::discard(State(app), visitor.caller, id, comment(&fields)).await?;
    see(&address(&place, &listed.workspace, &listed.run.id))
}

/// `POST …/cancel`
pub(super) async fn cancel(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let (place, listed) = found(&app, &visitor, &names).await?;
    let id = Path(listed.run.id.to_string());
    tfe::run_actions::cancel(State(app), visitor.caller, id, comment(&fields)).await?;
    see(&address(&place, &listed.workspace, &listed.run.id))
}

/// `POST …/force-cancel`
pub(super) async fn force_cancel(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let (place, listed) = found(&app, &visitor, &names).await?;
    // Who may not is told nothing of what would have to be typed.
    auth::workspace(
        &mut app.db.read().await?,
        &visitor.caller,
        listed.run.workspace_id.as_str(),
        WorkspacePermission::ForceCancelRuns,
    )
    .await?;
    let page = address(&place, &listed.workspace, &listed.run.id);
    require_name(&fields, &listed.workspace, "Give the run up", &page)?;
    let id = Path(listed.run.id.to_string());
    tfe::run_actions::force_cancel(State(app), visitor.caller, id, comment(&fields)).await?;
    see(&page)
}

/// `POST …/memory`: the memory of the workspace's runs, and the run again with it.
pub(super) async fn raise_memory(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (place, listed) = found(&app, &form.visitor, &names).await?;
    let memory: u64 = form
        .fields
        .number("memory")
        .ok_or_else(|| WebError::bad_request("the memory is no number of mebibytes".to_owned()))?;
    let mut attributes = serde_json::Map::new();
    attributes.insert(Limit::Memory.setting().to_owned(), json!(memory));
    let (caller, id) = (
        form.visitor.caller.clone(),
        Path(listed.run.workspace_id.to_string()),
    );
    tfe::workspaces::update(State(app.clone()), caller, id, request(attributes.into())).await?;
    if form.fields.ticked("again") {
        return retry(State(app), Path(names), form).await;
    }
    let said = format!("Runs of {} have {} now.", listed.workspace, megabytes(memory));
    let address = address(&place, &listed.workspace, &listed.run.id);
    see_with(&form.visitor, &address, &said)
}

/// `POST …/retry`: another run like this one, of the same configuration.
pub(super) async fn retry(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let mut connection = app.db.read().await?;
    let (place, workspace, listed) = find(
        &app,
        &mut connection,
        &visitor,
        &names,
        WorkspacePermission::QueueRuns,
    )
    .await?;
    drop(connection);
    let run = &listed.run;
    let attributes = json!({
        "message": run.message,
        "plan-only": run.plan_only,
        "is-destroy": run.is_destroy,
        "refresh": run.refresh,
        "refresh-only": run.refresh_only,
        "allow-empty-apply": run.allow_empty_apply,
        "target-addrs": run.target_addrs,
        "replace-addrs": run.replace_addrs,
    });
    let relationships = [
        ("workspace", workspace.id.as_str()),
        ("configuration-version", run.configuration_version_id.as_str()),
    ];
    let body = request_with(attributes, &relationships);
    let answer = tfe::runs::create(State(app), visitor.caller, own_headers(&fields), body).await?;
    see(&place.address(&format!(
        "/workspaces/{}/runs/{}",
        listed.workspace,
        made_id(answer)
    )))
}

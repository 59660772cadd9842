//! Runs.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde_json::{Value, json};
use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::{AgentPoolId, RunId};
use terrapool_model::lock::Lock;
use terrapool_model::run::ErrorReason;
use terrapool_model::time::Timestamp;
use terrapool_protocol::job::{OutputFormat, RunVariable};
use terrapool_protocol::secret::Secret;
use terrapool_store::configuration_versions::{self, ConfigurationStatus, ConfigurationVersionRecord};
use terrapool_store::db::Connection;
use terrapool_store::page::Page;
use terrapool_store::runs::{self, NewRun, RunRecord};
use terrapool_store::workspaces::{self, PoolUse, WorkspaceRecord};
use terrapool_store::{audit, pools, users};
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::errors::Problem;
use terrapool_tfe::request::{Field, Item};
use terrapool_tfe::time::iso8601;

use super::{AppState, is_cloud_block, source, workspace_settings};
use crate::app::App;
use crate::auth::{self, Caller, OrganizationPermission, WorkspacePermission};
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::error::ApiError;
use crate::waiting;

/// Times by status, as clients read them.
pub(super) fn timestamps(times: &BTreeMap<String, Timestamp>) -> BTreeMap<String, String> {
    times
        .iter()
        .map(|(name, at)| (name.clone(), iso8601(*at)))
        .collect()
}

/// What the caller may do with runs of a workspace.
pub(super) async fn rights(
    connection: &mut Connection,
    caller: &Caller,
    workspace: &WorkspaceRecord,
) -> Result<RunRights> {
    let standing = auth::standing(connection, caller, &workspace.organization_id).await?;
    let may = |permission| standing.may_in_workspace(&workspace.id, &workspace.project_id, permission);
    Ok(RunRights {
        queue: may(WorkspacePermission::QueueRuns),
        apply: may(WorkspacePermission::ApplyRuns),
        force_cancel: may(WorkspacePermission::ForceCancelRuns),
        lock: workspace.lock.clone(),
    })
}

/// What somebody may do with runs of a workspace.
#[derive(Debug, Clone)]
pub(super) struct RunRights {
    queue: bool,
    apply: bool,
    force_cancel: bool,
    /// The workspace's lock, for which its runs may wait.
    lock: Lock,
}

impl RunRights {
    fn over(&self, run: &RunRecord) -> attributes::RunPermissions {
        attributes::RunPermissions {
            can_apply: self.apply,
            can_cancel: if run.plan_only { self.queue } else { self.apply },
            can_comment: self.queue,
            can_discard: self.apply,
            can_force_cancel: self.force_cancel,
            can_force_execute: self.apply,
            can_override_policy_check: false,
        }
    }
}

/// A run as clients see it. `plan` and `apply` are there from the start, whatever becomes of them.
pub(super) async fn resource(
    connection: &mut Connection,
    run: &RunRecord,
    rights: &RunRights,
    app: &App,
) -> Result<Resource> {
    let actions = run.actions(app.now());
    let position = runs::queue_position(connection, run).await?;
    let wait_reason = match waiting::under_lock(connection, run, &rights.lock, app.now()).await? {
        Some(reason) => Some(waiting::document(connection, &reason, &run.workspace_id).await?),
        None => None,
    };
    let variables = match &run.variables {
        None => None,
        Some(sealed) => Some(open_variables(app, run, sealed)?),
    };
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let canceled_at = run
        .status_timestamps
        .get("canceled-at")
        .or_else(|| run.status_timestamps.get("force-canceled-at"));
    let attributes = attributes::Run {
        status: run.status.to_string(),
        status_timestamps: timestamps(&run.status_timestamps),
        actions: attributes::RunActions {
            is_confirmable: actions.is_confirmable,
            is_discardable: actions.is_discardable,
            is_cancelable: actions.is_cancelable,
            is_force_cancelable: actions.is_force_cancelable,
        },
        permissions: rights.over(run),
        wait_reason,
        auto_apply: run.auto_apply,
        allow_config_generation: run.allow_config_generation,
        allow_empty_apply: run.allow_empty_apply,
        canceled_at: canceled_at.copied().map(iso8601),
        created_at: iso8601(run.created_at),
        updated_at: iso8601(run.updated_at),
        force_cancel_available_at: run.force_cancel_available_at.map(iso8601),
        has_changes: run.has_changes.unwrap_or(false),
        is_destroy: run.is_destroy,
        message: run.message.clone(),
        plan_only: run.plan_only,
        position_in_queue: Some(position),
        refresh: run.refresh,
        refresh_only: run.refresh_only,
        replace_addrs: some(&run.replace_addrs),
        target_addrs: some(&run.target_addrs),
        save_plan: run.save_plan,
        source: run.source.clone(),
        terraform_version: run.engine_version.clone(),
        trigger_reason: "manual",
        variables,
        error_message: run.error_message.clone(),
        error_reason: run.error_reason.map(ErrorReason::as_str),
        aftermath: run.aftermath.as_str(),
    };
    Ok(Resource::new(Kind::Runs, run.id.to_string(), &attributes)
        .one("workspace", Kind::Workspaces, run.workspace_id.to_string())
        .one(
            "configuration-version",
            Kind::ConfigurationVersions,
            run.configuration_version_id.to_string(),
        )
        .one("plan", Kind::Plans, run.plan_id.to_string())
        .one("apply", Kind::Applies, run.apply_id.to_string())
        .maybe(
            "created-by",
            run.created_by.as_ref().map(|id| (Kind::Users, id.to_string())),
        )
        .maybe(
            "confirmed-by",
            run.confirmed_by.as_ref().map(|id| (Kind::Users, id.to_string())),
        )
        .maybe("cost-estimate", None)
        .many("policy-checks", &[])
        .many("task-stages", &[])
        .many("comments", &[])
        .many("run-events", &[(Kind::RunEvents, created_event(&run.id))])
        .link("self", format!("/api/v2/runs/{}", run.id)))
}

fn open_variables(app: &App, run: &RunRecord, sealed: &[u8]) -> Result<Vec<attributes::RunVariable>> {
    let plain = app.objects.keyring().open_sealed(run.id.as_str(), sealed)?;
    let variables: Vec<RunVariable> = serde_json::from_slice(&plain)
        .map_err(|error| ApiError::Internal(format!("the variables of {} can't be read: {error}", run.id)))?;
    Ok(variables
        .into_iter()
        .map(|variable| attributes::RunVariable {
            key: variable.key,
            value: variable.value.expose().to_owned(),
        })
        .collect())
}

/// The id of the event that every run has.
fn created_event(run: &RunId) -> String {
    run.as_str().replacen("run-", "re-", 1)
}

/// The run with an id and its workspace, if the caller may do this.
pub(in crate::http) async fn find(
    connection: &mut Connection,
    caller: &Caller,
    id: &str,
    permission: WorkspacePermission,
) -> Result<(RunRecord, WorkspaceRecord)> {
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let run = runs::get(connection, &id).await?.ok_or(ApiError::NotFound)?;
    let workspace = auth::workspace(connection, caller, run.workspace_id.as_str(), permission).await?;
    Ok((run, workspace))
}

/// What `include` names of a run. The run itself is never among it, nor anything that includes it again.
async fn included(
    app: &App,
    connection: &mut Connection,
    caller: &Caller,
    run: &RunRecord,
    params: &Params,
) -> Result<Vec<Resource>> {
    let mut resources = Vec::new();
    for name in params.includes() {
        match name.as_str() {
            "workspace" => {
                if let Some(workspace) = workspaces::get(connection, &run.workspace_id).await? {
                    resources.push(super::workspaces::resource(connection, caller, &workspace).await?);
                }
            }
            "plan" => resources.push(super::plans::plan_resource(app, run)),
            "apply" => resources.push(super::plans::apply_resource(app, run)),
            "configuration_version" => {
                let found = configuration_versions::get(connection, &run.configuration_version_id).await?;
                resources.extend(found.map(|record| super::configuration_versions::resource(&record, None)));
            }
            "created_by" | "confirmed_by" => {
                let user = if name == "created_by" {
                    &run.created_by
                } else {
                    &run.confirmed_by
                };
                if let Some(user) = user
                    && let Some(user) = users::get(connection, user).await?
                {
                    resources.push(super::users::resource(&user, false));
                }
            }
            // Others have nothing in them here: cost_estimate, task_stages, run_events, comments.
            _ => {}
        }
    }
    Ok(resources)
}

/// `GET runs/:id`
pub(in crate::http) async fn show(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let (run, workspace) = find(&mut connection, &caller, &id, WorkspacePermission::Read).await?;
    let rights = rights(&mut connection, &caller, &workspace).await?;
    let more = included(&app, &mut connection, &caller, &run, &params).await?;
    Ok(Answer::ok(
        Document::one(resource(&mut connection, &run, &rights, &app).await?).include(more),
    ))
}

pub(super) fn page(params: &Params) -> Page {
    let page = params.page();
    Page {
        number: page.number,
        size: page.size,
    }
}

/// `GET workspaces/:id/runs`, newest first
pub(in crate::http) async fn of_workspace(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::Read).await?;
    let listed = runs::list_of_workspace(&mut connection, &workspace.id, &page(&params)).await?;
    let rights = rights(&mut connection, &caller, &workspace).await?;
    let (mut resources, mut more) = (Vec::new(), Vec::new());
    for run in &listed.items {
        resources.push(resource(&mut connection, run, &rights, &app).await?);
        more.extend(included(&app, &mut connection, &caller, run, &params).await?);
    }
    Ok(Answer::ok(params.paged(resources, listed.total).include(more)))
}

/// `GET organizations/:org/runs/queue`: what waits or runs
pub(in crate::http) async fn queue(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let read = OrganizationPermission::Read;
    let (organization, standing) =
        auth::organization_and_standing(&mut connection, &caller, &name, read).await?;
    let sight = auth::sight(&caller, &standing);
    let listed =
        runs::active_of_organization(&mut connection, &organization.id, &sight, &page(&params)).await?;
    let resources = of_several_workspaces(&app, &mut connection, &caller, listed.items.iter()).await?;
    Ok(Answer::ok(params.paged(resources, listed.total)))
}

/// Runs of whichever workspaces as clients see them.
pub(super) async fn of_several_workspaces(
    app: &App,
    connection: &mut Connection,
    caller: &Caller,
    runs: impl Iterator<Item = &RunRecord>,
) -> Result<Vec<Resource>> {
    let mut resources = Vec::new();
    for run in runs {
        let Some(workspace) = workspaces::get(connection, &run.workspace_id).await? else {
            continue;
        };
        let rights = rights(connection, caller, &workspace).await?;
        resources.push(resource(connection, run, &rights, app).await?);
    }
    Ok(resources)
}

/// `GET runs/:id/run-events`
pub(in crate::http) async fn events(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let (run, _) = find(&mut connection, &caller, &id, WorkspacePermission::Read).await?;
    let attributes = json!({
        "action": "created",
        "created-at": iso8601(run.created_at),
        "description": Value::Null,
    });
    let event = Resource::new(Kind::RunEvents, created_event(&run.id), &attributes)
        .maybe(
            "actor",
            run.created_by.as_ref().map(|id| (Kind::Users, id.to_string())),
        )
        .maybe("comment", None);
    Ok(Answer::ok(Document::list(vec![event])))
}

/// The configuration of a new run: the one it names, else the newest that is meant for runs.
async fn configuration(
    connection: &mut Connection,
    workspace: &WorkspaceRecord,
    item: &Item,
) -> Result<ConfigurationVersionRecord> {
    let problem = |detail: String| ApiError::from(Problem::relationship("configuration-version", detail));
    let Field::Value(text) = item.related("configuration-version") else {
        return configuration_versions::newest_usable(connection, &workspace.id)
            .await?
            .ok_or_else(|| {
                problem(format!(
                    "Workspace {} has no uploaded configuration: upload one first",
                    workspace.name
                ))
            });
    };
    let missing = || {
        problem(format!(
            "Configuration version `{text}` does not exist in this workspace"
        ))
    };
    let id = text.parse().map_err(|_| missing())?;
    let record = configuration_versions::get(connection, &id)
        .await?
        .ok_or_else(missing)?;
    if record.workspace_id != workspace.id {
        return Err(missing());
    }
    match record.status {
        ConfigurationStatus::Uploaded => Ok(record),
        ConfigurationStatus::Pending => Err(problem(format!(
            "Configuration version {id} is not uploaded yet: upload it, then create the run"
        ))),
        ConfigurationStatus::Errored => Err(problem(format!(
            "Configuration version {id} can't be used: {}",
            record.error_message.as_deref().unwrap_or("its upload failed")
        ))),
    }
}

/// The image that a workspace chooses has to be one that its pool offers.
async fn check_image(
    connection: &mut Connection,
    workspace: &WorkspaceRecord,
    pool: &AgentPoolId,
) -> Result<()> {
    let Some(pool) = pools::get(connection, pool).await? else {
        return Ok(());
    };
    match pool.settings.image_for(&workspace.settings) {
        Ok(_) => Ok(()),
        Err(image) => Err(ApiError::attribute(
            "sandbox-image",
            format!(
                "Workspace {} wants the sandbox image {image}, which is not on the list of agent pool {}: add it to the \
                 pool's `sandbox` attribute as one of its `images`, or choose another one",
                workspace.name, pool.name
            ),
        )),
    }
}

/// The pool that a run of the workspace goes to.
async fn pool(app: &App, connection: &mut Connection, workspace: &WorkspaceRecord) -> Result<AgentPoolId> {
    match workspace.effective.execution_mode {
        ExecutionMode::Local => Err(ApiError::Conflict(format!(
            "workspace {} has execution mode local: runs happen on your machine, none can be created here",
            workspace.name
        ))),
        ExecutionMode::Remote => {
            if let Some(pool) = pools::find_shared(connection).await? {
                return Ok(pool.id);
            }
            let made = app.db.write(|tx| Box::pin(pools::shared(tx))).await;
            Ok(made.map_err(ApiError::Store)?.id)
        }
        ExecutionMode::Agent => {
            let Some(pool) = &workspace.effective.agent_pool_id else {
                return Err(ApiError::Conflict(format!(
                    "workspace {} runs on agents but has no agent pool: set one",
                    workspace.name
                )));
            };
            let (organization, project) = (&workspace.organization_id, &workspace.project_id);
            let found =
                workspaces::may_use_pool(connection, organization, Some(&workspace.id), project, pool)
                    .await?;
            match found {
                // One that may not use its pool any more waits with that reason, as what it has queued before does: no
                // agent is given it.
                PoolUse::Allowed | PoolUse::Refused => Ok(pool.clone()),
                PoolUse::NoSuchPool => Err(ApiError::Conflict(format!(
                    "workspace {} runs on the agent pool {pool}, which does not exist in its organization: set another \
                     one",
                    workspace.name
                ))),
            }
        }
    }
}

fn addresses(item: &Item, name: &str) -> Result<Vec<String>> {
    let list = item.attribute::<Vec<String>>(name)?.value().unwrap_or_default();
    if list
        .iter()
        .any(|address| address.trim().is_empty() || address.starts_with('-'))
    {
        return Err(ApiError::attribute(
            name,
            format!("{name} holds something that is no resource address"),
        ));
    }
    Ok(list)
}

fn variables(app: &App, id: &RunId, item: &Item) -> Result<Option<Vec<u8>>> {
    let Some(list) = item.attribute::<Vec<Value>>("variables")?.value() else {
        return Ok(None);
    };
    let mut variables = Vec::new();
    for value in &list {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let (Some(key), Some(value)) = (text("key"), text("value")) else {
            return Err(ApiError::attribute(
                "variables",
                "Variables need a key and a value each",
            ));
        };
        variables.push(RunVariable {
            key: key.to_owned(),
            value: Secret::new(value),
        });
    }
    if variables.is_empty() {
        return Ok(None);
    }
    let plain = serde_json::to_vec(&variables)
        .map_err(|error| ApiError::Internal(format!("run variables can't be written: {error}")))?;
    Ok(Some(app.objects.keyring().seal(id.as_str(), &plain)?))
}

/// `POST runs`
pub(in crate::http) async fn create(
    State(app): AppState,
    caller: Caller,
    headers: HeaderMap,
    ApiBody(body): ApiBody,
) -> Result {
    let workspace = body
        .related("workspace")
        .value()
        .ok_or_else(|| Problem::relationship("workspace", "Workspace can't be blank"))?;
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(
        &mut connection,
        &caller,
        &workspace,
        WorkspacePermission::QueueRuns,
    )
    .await?;
    // What applies by itself needs somebody who may apply: else it stops and waits for one.
    let applies = WorkspacePermission::ApplyRuns;
    let may_apply = auth::standing(&mut connection, &caller, &workspace.organization_id)
        .await?
        .may_in_workspace(&workspace.id, &workspace.project_id, applies);
    let configuration = configuration(&mut connection, &workspace, &body).await?;
    let pool_id = pool(&app, &mut connection, &workspace).await?;
    check_image(&mut connection, &workspace, &pool_id).await?;
    drop(connection);
    let cloud = is_cloud_block(&headers);
    let id = RunId::from_random(app.db.entropy().draw());
    let plan_only = configuration.speculative || body.flag("plan-only")?.unwrap_or(false);
    let save_plan = !plan_only && body.flag("save-plan")?.unwrap_or(false);
    let (is_destroy, refresh_only) = (
        body.flag("is-destroy")?.unwrap_or(false),
        body.flag("refresh-only")?.unwrap_or(false),
    );
    if is_destroy && refresh_only {
        return Err(ApiError::attribute(
            "refresh-only",
            "Refresh only can't be combined with is destroy",
        ));
    }
    let engine_version = match body.text("terraform-version")?.filter(|_| plan_only) {
        Some(text) => workspace_settings::parse_version(&text)?,
        None => workspace.engine_version.clone(),
    };
    let new = NewRun {
        request_key: super::idempotency_key(&headers)?,
        workspace_id: workspace.id.clone(),
        configuration_version_id: configuration.id,
        source: source(&headers).to_owned(),
        message: body
            .text("message")?
            .filter(|message| !message.is_empty())
            .unwrap_or_else(|| message(&headers).to_owned()),
        created_by: caller.user_id().cloned(),
        plan_only,
        save_plan,
        auto_apply: may_apply && body.flag("auto-apply")?.unwrap_or(workspace.auto_apply),
        is_destroy,
        refresh: body.flag("refresh")?.unwrap_or(true),
        refresh_only,
        allow_empty_apply: body.flag("allow-empty-apply")?.unwrap_or(false),
        allow_config_generation: body.flag("allow-config-generation")?.unwrap_or(false),
        target_addrs: addresses(&body, "target-addrs")?,
        replace_addrs: addresses(&body, "replace-addrs")?,
        variables: variables(&app, &id, &body)?,
        // Backend "remote" prints lines as they are; only a `cloud` block renders JSON.
        output_format: if cloud && workspace.structured_run_output {
            OutputFormat::Json
        } else {
            OutputFormat::Plain
        },
        engine: workspace.engine,
        engine_version,
        pool_id,
        id,
    };
    let (organization, actor) = (workspace.organization_id.clone(), caller.audit_name());
    let run = app
        .db
        .write(move |tx| {
            let (new, organization, actor) = (new.clone(), organization.clone(), actor.clone());
            Box::pin(async move {
                if let Some(earlier) = runs::of_request(tx, &new).await? {
                    return Ok(earlier);
                }
                let run = runs::create(tx, &new).await?;
                let (subject, detail) = (run.id.as_str(), json!({"workspace": run.workspace_id.as_str()}));
                audit::record(tx, Some(&organization), &actor, "run.create", subject, &detail).await?;
                Ok::<_, ApiError>(run)
            })
        })
        .await?;
    let mut connection = app.db.read().await?;
    let rights = rights(&mut connection, &caller, &workspace).await?;
    Ok(Answer::created(Document::one(
        resource(&mut connection, &run, &rights, &app).await?,
    )))
}

fn message(headers: &HeaderMap) -> &'static str {
    match source(headers) {
        "tfe-api" => "Queued manually via the API",
        "tfe-ui" => "Started in the web UI",
        _ if super::is_tofu(headers) => "Queued manually using OpenTofu",
        _ => "Queued manually using Terraform",
    }
}

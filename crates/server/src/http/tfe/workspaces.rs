//! Workspaces.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde_json::json;
use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::{AgentPoolId, ProjectId, WorkspaceId};
use terrapool_model::lock::Lock;
use terrapool_model::permission::Standing;
use terrapool_store::db::Connection;
use terrapool_store::organizations::{self, OrganizationRecord};
use terrapool_store::projects::{self, ProjectRecord};
use terrapool_store::workspaces::{
    self, NewWorkspace, PoolUse, Tag, TagFilter, WorkspaceFilter, WorkspaceOrder, WorkspaceRecord,
};
use terrapool_store::{audit, runs, variables};
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::errors::Problem;
use terrapool_tfe::request::{Field, Item};
use terrapool_tfe::time::iso8601;

use super::AppState;
use super::execution::Own;
use super::tags::{self, parse_tags};
use super::workspace_settings as settings;
use crate::app::App;
use crate::auth::{self, Caller, OrganizationPermission, ProjectPermission, WorkspacePermission};
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::audited;
use crate::http::error::ApiError;

/// A workspace as clients see it.
pub(in crate::http) async fn resource(
    connection: &mut Connection,
    caller: &Caller,
    record: &WorkspaceRecord,
) -> Result<Resource> {
    let standing = auth::standing(connection, caller, &record.organization_id).await?;
    let tags = workspaces::tags(connection, &record.id).await?;
    let variables = variables::of_workspace(connection, &record.id).await?;
    let own = record.execution_mode.is_some();
    let mut further = settings::defaults();
    further.extend(record.settings.clone());
    let attributes = attributes::Workspace {
        name: record.name.clone(),
        description: record.description.clone(),
        created_at: iso8601(record.created_at),
        updated_at: iso8601(record.updated_at),
        environment: "default",
        execution_mode: record.effective.execution_mode.to_string(),
        operations: record.effective.execution_mode != ExecutionMode::Local,
        setting_overwrites: attributes::WorkspaceOverwrites {
            execution_mode: own,
            agent_pool: own,
        },
        terraform_version: record.engine_version.clone(),
        engine: record.engine.binary(),
        working_directory: record.working_directory.clone(),
        auto_apply: record.auto_apply,
        global_remote_state: record.global_remote_state,
        structured_run_output_enabled: record.structured_run_output,
        locked: record.lock != Lock::Free,
        locked_reason: record.lock_reason.clone().filter(|_| record.lock != Lock::Free),
        source: record.source.clone(),
        tag_names: tags
            .iter()
            .filter(|tag| tag.value.is_empty())
            .map(|tag| tag.key.clone())
            .collect(),
        resource_count: record.resource_count,
        workspace_kpis_runs_count: record.run_count,
        actions: BTreeMap::from([("is-destroyable", true)]),
        permissions: permissions(&standing, record),
        vcs_repo: None,
        settings: further,
    };
    let locked_by = match &record.lock {
        Lock::Free => None,
        Lock::User(user) => Some((Kind::Users, user.to_string())),
        Lock::Run(run) | Lock::Lost { run, .. } => Some((Kind::Runs, run.to_string())),
    };
    let variables: Vec<_> = variables
        .iter()
        .map(|variable| (Kind::Vars, variable.id.to_string()))
        .collect();
    let (organization, name) = (&record.organization_name, &record.name);
    let pool = record.effective.agent_pool_id.as_ref();
    let state = record.current_state_version_id.as_ref();
    let run = record.current_run_id.as_ref();
    let configuration = record.current_configuration_version_id.as_ref();
    Ok(
        Resource::new(Kind::Workspaces, record.id.to_string(), &attributes)
            .one("organization", Kind::Organizations, organization)
            .one("project", Kind::Projects, record.project_id.to_string())
            .maybe("agent-pool", pool.map(|id| (Kind::AgentPools, id.to_string())))
            .maybe("current-run", run.map(|id| (Kind::Runs, id.to_string())))
            .maybe(
                "current-state-version",
                state.map(|id| (Kind::StateVersions, id.to_string())),
            )
            .maybe(
                "current-configuration-version",
                configuration.map(|id| (Kind::ConfigurationVersions, id.to_string())),
            )
            .maybe("locked-by", locked_by)
            .maybe("ssh-key", None)
            .many("vars", &variables)
            .link(
                "self",
                format!("/api/v2/organizations/{organization}/workspaces/{name}"),
            )
            .link("self-html", format!("/app/{organization}/workspaces/{name}")),
    )
}

/// What the caller may do with a workspace.
fn permissions(standing: &Standing, record: &WorkspaceRecord) -> attributes::WorkspacePermissions {
    let may = |permission| standing.may_in_workspace(&record.id, &record.project_id, permission);
    let manage = may(WorkspacePermission::Manage);
    let apply = may(WorkspacePermission::ApplyRuns);
    let lock = may(WorkspacePermission::Lock);
    attributes::WorkspacePermissions {
        can_destroy: manage,
        can_force_delete: manage,
        can_force_unlock: may(WorkspacePermission::ForceUnlock),
        can_lock: lock,
        can_manage_run_tasks: false,
        can_manage_tags: manage,
        can_queue_apply: apply,
        can_queue_destroy: apply,
        can_queue_run: may(WorkspacePermission::QueueRuns),
        can_read_settings: may(WorkspacePermission::Read),
        can_read_state_outputs: may(WorkspacePermission::ReadOutputs),
        can_read_state_versions: may(WorkspacePermission::ReadState),
        can_create_state_versions: may(WorkspacePermission::WriteState),
        can_read_variable: may(WorkspacePermission::ReadVariables),
        can_unlock: lock,
        can_update: manage,
        can_update_variable: may(WorkspacePermission::WriteVariables),
    }
}

/// What `include` names of a workspace.
async fn included(
    app: &App,
    connection: &mut Connection,
    caller: &Caller,
    record: &WorkspaceRecord,
    params: &Params,
) -> Result<Vec<Resource>> {
    let names = params.includes();
    let standing = auth::standing(connection, caller, &record.organization_id).await?;
    let mut resources = Vec::new();
    if names.contains("organization")
        && let Some(organization) = organizations::get(connection, &record.organization_id).await?
    {
        resources.push(super::organizations::resource(connection, caller, &organization).await?);
    }
    if names.contains("project")
        && let Some(project) = projects::get(connection, &record.project_id).await?
        && let Some(organization) = organizations::get(connection, &record.organization_id).await?
    {
        resources.push(super::projects::resource(&standing, &project, &organization));
    }
    if (names.contains("current_run") || names.contains("current_run.plan"))
        && let Some(run) = &record.current_run_id
        && let Some(run) = runs::get(connection, run).await?
    {
        let rights = super::runs::rights(connection, caller, record).await?;
        resources.push(super::runs::resource(connection, &run, &rights, app).await?);
    }
    Ok(resources)
}

/// `GET organizations/:org/workspaces`
pub(in crate::http) async fn list(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let read = OrganizationPermission::Read;
    let (organization, standing) =
        auth::organization_and_standing(&mut connection, &caller, &name, read).await?;
    let page = params.page();
    let filter = WorkspaceFilter {
        sight: auth::sight(&caller, &standing),
        ..filter(&params)?
    };
    let (records, total) = workspaces::list(
        &mut connection,
        &organization.id,
        &filter,
        order(params.get("sort")),
        page.size,
        page.offset(),
    )
    .await?;
    let (mut resources, mut more) = (Vec::new(), Vec::new());
    for record in &records {
        resources.push(resource(&mut connection, &caller, record).await?);
        more.extend(included(&app, &mut connection, &caller, record, &params).await?);
    }
    Ok(Answer::ok(params.paged(resources, total).include(more)))
}

fn filter(params: &Params) -> Result<WorkspaceFilter> {
    let mut tagged: Vec<TagFilter> = params
        .list("search[tags]")
        .into_iter()
        .map(|key| TagFilter { key, value: None })
        .collect();
    let mut bindings: BTreeMap<&str, (Option<&str>, Option<&str>)> = BTreeMap::new();
    for (name, value) in params.pairs() {
        let Some(rest) = name.strip_prefix("filter[tagged][") else {
            continue;
        };
        match rest.split_once(']') {
            Some((index, "[key]")) => bindings.entry(index).or_default().0 = Some(value),
            Some((index, "[value]")) => bindings.entry(index).or_default().1 = Some(value),
            _ => {}
        }
    }
    tagged.extend(bindings.into_values().filter_map(|(key, value)| {
        key.map(|key| TagFilter {
            key: key.to_owned(),
            value: value.map(str::to_owned),
        })
    }));
    let project = match params.get("filter[project][id]") {
        // An id that is none matches nothing.
        Some(text) => Some(text.parse::<ProjectId>().map_err(|_| ApiError::NotFound)?),
        None => None,
    };
    Ok(WorkspaceFilter {
        name: params.get("search[name]").map(str::to_owned),
        wildcard_name: params.get("search[wildcard-name]").map(str::to_owned),
        tagged,
        exclude_tags: params.list("search[exclude-tags]"),
        project,
        pool: None,
        run_statuses: params.list("filter[current-run][status]"),
        ..WorkspaceFilter::default()
    })
}

fn order(sort: Option<&str>) -> WorkspaceOrder {
    match sort {
        Some("name") => WorkspaceOrder::Name,
        Some("-name") => WorkspaceOrder::NameDescending,
        Some("-created-at") => WorkspaceOrder::CreationDescending,
        Some("current-run.created-at") => WorkspaceOrder::CurrentRun,
        Some("-current-run.created-at") => WorkspaceOrder::CurrentRunDescending,
        Some("latest-change-at") => WorkspaceOrder::Change,
        Some("-latest-change-at") => WorkspaceOrder::ChangeDescending,
        _ => WorkspaceOrder::Creation,
    }
}

/// The project that a request names, which has to be of the organization.
async fn requested_project(
    connection: &mut Connection,
    organization: &OrganizationRecord,
    item: &Item,
) -> Result<Option<ProjectRecord>> {
    let Field::Value(text) = item.related("project") else {
        return Ok(None);
    };
    let missing = || {
        ApiError::from(Problem::relationship(
            "project",
            format!("Project `{text}` does not exist in this organization"),
        ))
    };
    let id = text.parse().map_err(|_| missing())?;
    match projects::get(connection, &id).await? {
        Some(project) if project.organization_id == organization.id => Ok(Some(project)),
        _ => Err(missing()),
    }
}

fn inherited(organization: &OrganizationRecord, project: &ProjectRecord) -> Own {
    match project.default_execution_mode {
        Some(mode) => Own {
            mode: Some(mode),
            pool: project.default_agent_pool_id.clone(),
        },
        None => Own {
            mode: Some(organization.default_execution_mode),
            pool: organization.default_agent_pool_id.clone(),
        },
    }
}

async fn check_pool(
    connection: &mut Connection,
    organization: &OrganizationRecord,
    workspace: Option<&WorkspaceId>,
    project: &ProjectId,
    pool: &AgentPoolId,
) -> Result<()> {
    match workspaces::may_use_pool(connection, &organization.id, workspace, project, pool).await? {
        PoolUse::Allowed => Ok(()),
        PoolUse::Refused => Err(ApiError::attribute(
            "agent-pool-id",
            "Agent pool workspace does not have access to use this agent pool",
        )),
        PoolUse::NoSuchPool => Err(ApiError::attribute(
            "agent-pool-id",
            format!("Agent pool {pool} does not exist in this organization"),
        )),
    }
}

/// `POST organizations/:org/workspaces`
pub(in crate::http) async fn create(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let read = OrganizationPermission::Read;
    let (organization, standing) =
        auth::organization_and_standing(&mut connection, &caller, &name, read).await?;
    auth::allow(standing.creates_workspaces())?;
    let name = body.required("name")?;
    let project = match requested_project(&mut connection, &organization, &body).await? {
        Some(project) => project,
        None => projects::default_of(&mut connection, &organization.id).await?,
    };
    auth::allow(standing.may_in_project(&project.id, ProjectPermission::CreateWorkspaces))?;
    let mut new = settings::fresh(&headers);
    settings::apply(&body, &mut new, &inherited(&organization, &project))?;
    if let Some(pool) = &new.agent_pool_id {
        check_pool(&mut connection, &organization, None, &project.id, pool).await?;
    }
    let tags = requested_tags(&body)?.unwrap_or_default();
    let source = if headers.contains_key("terraform-version") {
        "terraform"
    } else {
        "tfe-api"
    };
    let new = NewWorkspace {
        organization_id: organization.id.clone(),
        project_id: project.id,
        settings: new,
        source: body.text("source")?.unwrap_or_else(|| source.to_owned()),
    };
    let actor = caller.audit_name();
    let taken = format!("Name has already been taken: the organization has a workspace `{name}`");
    let id = app
        .db
        .write(move |tx| {
            let (new, tags, actor) = (new.clone(), tags.clone(), actor.clone());
            Box::pin(async move {
                let id = workspaces::create(tx, &new).await?;
                workspaces::add_tags(tx, &id, &tags).await?;
                let organization = Some(&new.organization_id);
                let detail = json!({"name": new.settings.name});
                audit::record(tx, organization, &actor, "workspace.create", id.as_str(), &detail).await?;
                Ok::<_, ApiError>(id)
            })
        })
        .await
        .map_err(|error| error.or_taken("name", &taken))?;
    let record = workspaces::get(&mut connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    Ok(Answer::created(Document::one(
        resource(&mut connection, &caller, &record).await?,
    )))
}

/// Tags and bindings in a request; `None` when it names neither.
fn requested_tags(item: &Item) -> Result<Option<Vec<Tag>>> {
    let (names, bindings) = (item.related_many("tags"), item.related_many("tag-bindings"));
    if names.is_none() && bindings.is_none() {
        return Ok(None);
    }
    let mut tags = parse_tags(&names.unwrap_or_default())?;
    tags.extend(tags::parse_bindings(&bindings.unwrap_or_default())?);
    Ok(Some(tags))
}

pub(super) async fn by_name(
    connection: &mut Connection,
    caller: &Caller,
    (organization, name): &(String, String),
    permission: WorkspacePermission,
) -> Result<WorkspaceRecord> {
    let organization =
        auth::organization(connection, caller, organization, OrganizationPermission::Read).await?;
    let record = workspaces::by_name(connection, &organization.id, name)
        .await?
        .ok_or(ApiError::NotFound)?;
    auth::require_in_workspace(connection, caller, &record, permission).await?;
    Ok(record)
}

/// `GET workspaces/:id`
pub(in crate::http) async fn show(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let record = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::Read).await?;
    shown(&app, &mut connection, &caller, &record, &params).await
}

/// `GET organizations/:org/workspaces/:name`
pub(in crate::http) async fn show_by_name(
    State(app): AppState,
    caller: Caller,
    Path(names): Path<(String, String)>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let record = by_name(&mut connection, &caller, &names, WorkspacePermission::Read).await?;
    shown(&app, &mut connection, &caller, &record, &params).await
}

async fn shown(
    app: &App,
    connection: &mut Connection,
    caller: &Caller,
    record: &WorkspaceRecord,
    params: &Params,
) -> Result {
    let more = included(app, connection, caller, record, params).await?;
    Ok(Answer::ok(
        Document::one(resource(connection, caller, record).await?).include(more),
    ))
}

/// `PATCH workspaces/:id`
pub(in crate::http) async fn update(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let record = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::Manage).await?;
    updated(&app, connection, &caller, record, &body).await
}

/// `PATCH organizations/:org/workspaces/:name`
pub(in crate::http) async fn update_by_name(
    State(app): AppState,
    caller: Caller,
    Path(names): Path<(String, String)>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let record = by_name(&mut connection, &caller, &names, WorkspacePermission::Manage).await?;
    updated(&app, connection, &caller, record, &body).await
}

async fn updated(
    app: &App,
    mut connection: Connection,
    caller: &Caller,
    record: WorkspaceRecord,
    item: &Item,
) -> Result {
    let organization = organizations::get(&mut connection, &record.organization_id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let project = match requested_project(&mut connection, &organization, item).await? {
        Some(project) => {
            if project.id != record.project_id {
                let standing = auth::standing(&mut connection, caller, &record.organization_id).await?;
                auth::allow(standing.may_in_project(&project.id, ProjectPermission::CreateWorkspaces))?;
            }
            project
        }
        None => projects::get(&mut connection, &record.project_id)
            .await?
            .ok_or(ApiError::NotFound)?,
    };
    let mut changed = record.to_settings();
    settings::apply(item, &mut changed, &inherited(&organization, &project))?;
    // A workspace keeps the pool it uses when the pool's access rule is narrowed.
    if let Some(pool) = &changed.agent_pool_id
        && record.agent_pool_id.as_ref() != Some(pool)
    {
        check_pool(
            &mut connection,
            &organization,
            Some(&record.id),
            &project.id,
            pool,
        )
        .await?;
    }
    let tags = requested_tags(item)?;
    let (key, id, actor) = (record.id.clone(), record.id.clone(), caller.audit_name());
    let names: Vec<String> = item.attributes.keys().cloned().collect();
    let before = settings::told(&record.to_settings(), &record.project_id);
    let after = settings::told(&changed, &project.id);
    app.db
        .write(move |tx| {
            let (id, project, changed, tags) =
                (id.clone(), project.id.clone(), changed.clone(), tags.clone());
            let (actor, organization, names) = (actor.clone(), record.organization_id.clone(), names.clone());
            let (before, after) = (before.clone(), after.clone());
            Box::pin(async move {
                workspaces::update(tx, &id, &project, &changed).await?;
                if let Some(tags) = tags {
                    workspaces::clear_tags(tx, &id).await?;
                    workspaces::add_tags(tx, &id, &tags).await?;
                }
                let detail = audited::with_change(json!({"attributes": names}), &before, &after);
                audit::record(
                    tx,
                    Some(&organization),
                    &actor,
                    "workspace.update",
                    id.as_str(),
                    &detail,
                )
                .await?;
                Ok::<_, ApiError>(())
            })
        })
        .await
        .map_err(|error| error.or_taken("name", "Name has already been taken"))?;
    let record = workspaces::get(&mut connection, &key)
        .await?
        .ok_or(ApiError::NotFound)?;
    Ok(Answer::ok(Document::one(
        resource(&mut connection, caller, &record).await?,
    )))
}

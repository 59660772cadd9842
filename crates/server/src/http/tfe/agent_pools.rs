//! Agent pools.

use std::collections::BTreeSet;

use axum::extract::{Path, State};
use serde_json::{Value, json};
use terrapool_model::access::PoolAccess;
use terrapool_model::id::{OrganizationId, ProjectId, WorkspaceId};
use terrapool_model::permission::Standing;
use terrapool_store::db::Connection;
use terrapool_store::error::StoreError;
use terrapool_store::organizations::{self, OrganizationRecord};
use terrapool_store::page::Page;
use terrapool_store::pools::{
    self, NewPool, PoolChange, PoolError, PoolFilter, PoolRecord, PoolSettings, PoolSort,
};
use terrapool_store::{agents, audit, overview, projects, workspaces};
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Reference, Resource};
use terrapool_tfe::errors::Problem;
use terrapool_tfe::request::Item;
use terrapool_tfe::time::iso8601;

use super::organizations::is_plain_name;
use super::{AppState, lease_times, sandbox_settings};
use crate::access_log;
use crate::app::App;
use crate::auth::{self, Caller, OrganizationPermission, ProjectPermission, WorkspacePermission};
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::audited::{self, Entry};
use crate::http::error::ApiError;

impl From<PoolError> for ApiError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::NotFound => Self::NotFound,
            PoolError::InUse(_) => Self::Conflict(error.to_string()),
            PoolError::Store(error) => Self::Store(error),
        }
    }
}

/// What the shared pool is called where a pool's id is wanted.
const SHARED: &str = "shared";

/// The pool with an id and its organization, if the caller may do this. The shared pool has none, and is the site
/// administrators'.
pub(in crate::http) async fn find(
    connection: &mut Connection,
    caller: &Caller,
    id: &str,
    permission: OrganizationPermission,
) -> Result<(PoolRecord, Option<OrganizationRecord>)> {
    let pool = match id {
        SHARED => pools::find_shared(connection).await?,
        id => pools::get(connection, &id.parse().map_err(|_| ApiError::NotFound)?).await?,
    };
    let pool = pool.ok_or(ApiError::NotFound)?;
    let Some(organization) = pool.organization_id.clone() else {
        let administers = caller.user().is_some_and(|user| user.site_admin);
        return if administers {
            Ok((pool, None))
        } else {
            Err(ApiError::NotFound)
        };
    };
    auth::require(connection, caller, &organization, permission).await?;
    let organization = organizations::get(connection, &organization)
        .await?
        .ok_or(ApiError::NotFound)?;
    Ok((pool, Some(organization)))
}

/// Which workspaces and projects the document of a pool names to somebody.
enum Named {
    /// All: to who sees how the organization's pools are used.
    All,
    /// Those that are there for them.
    Only(BTreeSet<WorkspaceId>, BTreeSet<ProjectId>),
}

impl Named {
    async fn to(
        connection: &mut Connection,
        standing: &Standing,
        organization: &OrganizationId,
    ) -> Result<Self> {
        if standing.may(OrganizationPermission::ReadQueues) {
            return Ok(Self::All);
        }
        let read = WorkspacePermission::Read;
        let workspaces = overview::workspace_names(connection, organization)
            .await?
            .into_iter()
            .filter(|(id, _, project)| standing.may_in_workspace(id, project, read))
            .map(|(id, _, _)| id)
            .collect();
        let projects = overview::project_names(connection, organization)
            .await?
            .into_keys()
            .filter(|id| standing.may_in_project(id, ProjectPermission::Read))
            .collect();
        Ok(Self::Only(workspaces, projects))
    }

    fn has_workspace(&self, id: &WorkspaceId) -> bool {
        match self {
            Self::All => true,
            Self::Only(workspaces, _) => workspaces.contains(id),
        }
    }

    fn has_project(&self, id: &ProjectId) -> bool {
        match self {
            Self::All => true,
            Self::Only(_, projects) => projects.contains(id),
        }
    }
}

async fn resource(
    app: &App,
    connection: &mut Connection,
    pool: &PoolRecord,
    organization: Option<&OrganizationRecord>,
    named: &Named,
) -> Result<Resource> {
    let users = pools::workspaces(connection, &pool.id).await?;
    let count = agents::count(connection, &pool.id, app.now(), &pool.settings.times).await?;
    let attributes = attributes::AgentPool {
        name: pool.name.clone(),
        created_at: iso8601(pool.created_at),
        organization_scoped: pool.access.organization_scoped,
        agent_count: count,
        paused: pool.settings.paused,
        lease_times: lease_times::shown(&pool.settings.times),
        sandbox: sandbox_settings::shown(&pool.settings),
    };
    let workspaces = |ids: &mut dyn Iterator<Item = &WorkspaceId>| -> Vec<Reference> {
        ids.filter(|id| named.has_workspace(id))
            .map(|id| (Kind::Workspaces, id.to_string()))
            .collect()
    };
    let projects: Vec<Reference> = pool
        .access
        .allowed_projects
        .iter()
        .filter(|id| named.has_project(id))
        .map(|id| (Kind::Projects, id.to_string()))
        .collect();
    let path = format!("/api/v2/agent-pools/{}", pool.id);
    let resource = Resource::new(Kind::AgentPools, pool.id.to_string(), &attributes);
    let resource = match organization {
        Some(organization) => resource.one("organization", Kind::Organizations, &organization.name),
        None => resource,
    };
    Ok(resource
        .related("agents", format!("{path}/agents"))
        .related("authentication-tokens", format!("{path}/authentication-tokens"))
        .many("workspaces", &workspaces(&mut users.iter().map(|(id, _)| id)))
        .many(
            "allowed-workspaces",
            &workspaces(&mut pool.access.allowed_workspaces.iter()),
        )
        .many("allowed-projects", &projects)
        .many(
            "excluded-workspaces",
            &workspaces(&mut pool.access.excluded_workspaces.iter()),
        )
        .link("self", path))
}

fn check_name(name: &str) -> Result<()> {
    if is_plain_name(name, 90) {
        Ok(())
    } else {
        Err(ApiError::attribute(
            "name",
            "Name can only include letters, numbers, - and _, and has at most 90 characters",
        ))
    }
}

/// The workspaces of a relationship; `None` when the request does not name it.
async fn requested_workspaces(
    connection: &mut Connection,
    organization: &OrganizationId,
    item: &Item,
    name: &str,
) -> Result<Option<BTreeSet<WorkspaceId>>> {
    let Some(items) = item.related_many(name) else {
        return Ok(None);
    };
    let mut ids = BTreeSet::new();
    for item in items {
        let text = item.id.unwrap_or_default();
        let missing = || {
            ApiError::from(Problem::relationship(
                name,
                format!("Workspace `{text}` does not exist"),
            ))
        };
        let id = text.parse().map_err(|_| missing())?;
        match workspaces::get(connection, &id).await? {
            Some(workspace) if workspace.organization_id == *organization => ids.insert(id),
            _ => return Err(missing()),
        };
    }
    Ok(Some(ids))
}

/// The projects of a relationship; `None` when the request does not name it.
async fn requested_projects(
    connection: &mut Connection,
    organization: &OrganizationId,
    item: &Item,
) -> Result<Option<BTreeSet<ProjectId>>> {
    let name = "allowed-projects";
    let Some(items) = item.related_many(name) else {
        return Ok(None);
    };
    let mut ids = BTreeSet::new();
    for item in items {
        let text = item.id.unwrap_or_default();
        let missing = || {
            ApiError::from(Problem::relationship(
                name,
                format!("Project `{text}` does not exist"),
            ))
        };
        let id = text.parse().map_err(|_| missing())?;
        match projects::get(connection, &id).await? {
            Some(project) if project.organization_id == *organization => ids.insert(id),
            _ => return Err(missing()),
        };
    }
    Ok(Some(ids))
}

/// The settings that a request asks for; `None` when it asks for none.
fn requested_settings(item: &Item, settings: &PoolSettings) -> Result<Option<PoolSettings>> {
    let times = lease_times::requested(item, &settings.times)?;
    let sandbox = sandbox_settings::requested(item, settings)?;
    let paused = item.flag("paused")?;
    let changed = times.is_some() || sandbox.is_some() || paused.is_some();
    let next = PoolSettings {
        times: times.unwrap_or(settings.times),
        paused: paused.unwrap_or(settings.paused),
        ..sandbox.unwrap_or_else(|| settings.clone())
    };
    Ok(changed.then_some(next))
}

/// What a request changes.
async fn requested(
    connection: &mut Connection,
    organization: &OrganizationId,
    item: &Item,
    settings: &PoolSettings,
) -> Result<PoolChange> {
    let name = item.text("name")?;
    if let Some(name) = &name {
        check_name(name)?;
    }
    Ok(PoolChange {
        name,
        organization_scoped: item.flag("organization-scoped")?,
        allowed_workspaces: requested_workspaces(connection, organization, item, "allowed-workspaces")
            .await?,
        allowed_projects: requested_projects(connection, organization, item).await?,
        excluded_workspaces: requested_workspaces(connection, organization, item, "excluded-workspaces")
            .await?,
        settings: requested_settings(item, settings)?,
    })
}

/// What a request changes of the shared pool: its settings.
fn requested_of_shared(item: &Item, settings: &PoolSettings) -> Result<PoolChange> {
    const FIXED: &str =
        "The shared pool is for every organization: its name and who may use it cannot be changed";
    if item.text("name")?.is_some() {
        return Err(ApiError::attribute("name", FIXED));
    }
    if item.flag("organization-scoped")?.is_some() {
        return Err(ApiError::attribute("organization-scoped", FIXED));
    }
    for name in ["allowed-workspaces", "allowed-projects", "excluded-workspaces"] {
        if item.related_many(name).is_some() {
            return Err(Problem::relationship(name, FIXED).into());
        }
    }
    Ok(PoolChange {
        settings: requested_settings(item, settings)?,
        ..PoolChange::default()
    })
}

/// `GET organizations/:org/agent-pools`
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
    // Clients write the filters' names with underscores or hyphens.
    let either = |one: &str, other: &str| params.get(one).or_else(|| params.get(other)).map(str::to_owned);
    let filter = PoolFilter {
        query: params.get("q").map(str::to_owned),
        allowed_workspace: either(
            "filter[allowed_workspaces][name]",
            "filter[allowed-workspaces][name]",
        ),
        allowed_project: either("filter[allowed_projects][name]", "filter[allowed-projects][name]"),
        sort: match params.get("sort") {
            Some("name") => PoolSort::Name,
            Some("-name") => PoolSort::NameDescending,
            Some("-created-at") => PoolSort::CreatedDescending,
            _ => PoolSort::Created,
        },
    };
    let page = params.page();
    let page = Page {
        number: page.number,
        size: page.size,
    };
    let listed = pools::list(&mut connection, &organization.id, &filter, &page).await?;
    let everything = pools::list(
        &mut connection,
        &organization.id,
        &PoolFilter::default(),
        &Page::first(1),
    )
    .await?;
    let named = Named::to(&mut connection, &standing, &organization.id).await?;
    let mut resources = Vec::new();
    for pool in &listed.items {
        resources.push(resource(&app, &mut connection, pool, Some(&organization), &named).await?);
    }
    let counts = json!({"total": everything.total, "matching": listed.total});
    Ok(Answer::ok(
        params
            .paged(resources, listed.total)
            .meta("status-counts", counts),
    ))
}

/// `POST organizations/:org/agent-pools`
pub(in crate::http) async fn create(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let organization = auth::organization(
        &mut connection,
        &caller,
        &name,
        OrganizationPermission::ManageAgentPools,
    )
    .await?;
    body.required("name")?;
    let change = requested(&mut connection, &organization.id, &body, &PoolSettings::default()).await?;
    let new = NewPool {
        organization_id: organization.id.clone(),
        name: change.name.unwrap_or_default(),
        access: PoolAccess {
            organization_scoped: change.organization_scoped.unwrap_or(true),
            allowed_workspaces: change.allowed_workspaces.unwrap_or_default(),
            allowed_projects: change.allowed_projects.unwrap_or_default(),
            excluded_workspaces: change.excluded_workspaces.unwrap_or_default(),
        },
        settings: change.settings.unwrap_or_default(),
    };
    let actor = caller.audit_name();
    let pool = app
        .db
        .write(move |tx| {
            let (new, actor) = (new.clone(), actor.clone());
            Box::pin(async move {
                let pool = pools::create(tx, &new).await?;
                let (organization, subject) = (Some(&new.organization_id), pool.id.as_str());
                let mut detail = json!({"name": pool.name});
                access_log::note(&mut detail, &PoolAccess::default(), &pool.access);
                audit::record(tx, organization, &actor, "agent-pool.create", subject, &detail).await?;
                Ok::<_, ApiError>(pool)
            })
        })
        .await
        .map_err(|error| error.or_taken("name", "Name has already been taken"))?;
    Ok(Answer::created(Document::one(
        resource(&app, &mut connection, &pool, Some(&organization), &Named::All).await?,
    )))
}

/// `GET agent-pools/:id`
pub(in crate::http) async fn show(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let (pool, organization) = find(&mut connection, &caller, &id, OrganizationPermission::Read).await?;
    let (mut included, mut named) = (Vec::new(), Named::All);
    if let Some(organization) = &organization {
        let standing = auth::standing(&mut connection, &caller, &organization.id).await?;
        named = Named::to(&mut connection, &standing, &organization.id).await?;
        if params.includes().contains("workspaces") {
            for (id, _) in pools::workspaces(&mut connection, &pool.id).await? {
                if let Some(workspace) = workspaces::get(&mut connection, &id).await?
                    && standing.may_in_workspace(&id, &workspace.project_id, WorkspacePermission::Read)
                {
                    included.push(super::workspaces::resource(&mut connection, &caller, &workspace).await?);
                }
            }
        }
    }
    let resource = resource(&app, &mut connection, &pool, organization.as_ref(), &named).await?;
    Ok(Answer::ok(Document::one(resource).include(included)))
}

/// A pool's settings as the audit log tells of their changes.
fn told(pool: &PoolRecord) -> Value {
    json!({
        "name": pool.name, "settings": pool.settings,
        "organization-scoped": pool.access.organization_scoped,
        "allowed-workspaces": pool.access.allowed_workspaces,
        "allowed-projects": pool.access.allowed_projects,
        "excluded-workspaces": pool.access.excluded_workspaces,
    })
}

/// A pool as a change makes it.
fn changed(pool: &PoolRecord, change: &PoolChange) -> PoolRecord {
    let mut changed = pool.clone();
    let (to, access) = (change.clone(), &mut changed.access);
    access.organization_scoped = to.organization_scoped.unwrap_or(access.organization_scoped);
    for (list, wanted) in [
        (&mut access.allowed_workspaces, to.allowed_workspaces),
        (&mut access.excluded_workspaces, to.excluded_workspaces),
    ] {
        if let Some(wanted) = wanted {
            *list = wanted;
        }
    }
    if let Some(projects) = to.allowed_projects {
        access.allowed_projects = projects;
    }
    changed.name = to.name.unwrap_or(changed.name);
    changed.settings = to.settings.unwrap_or(changed.settings);
    changed
}

/// `PATCH agent-pools/:id`: what is absent stays, a list that is sent replaces.
pub(in crate::http) async fn update(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let (pool, organization) = find(
        &mut connection,
        &caller,
        &id,
        OrganizationPermission::ManageAgentPools,
    )
    .await?;
    let change = match &organization {
        Some(organization) => requested(&mut connection, &organization.id, &body, &pool.settings).await?,
        None => requested_of_shared(&body, &pool.settings)?,
    };
    let after = changed(&pool, &change);
    let mut detail = audited::with_change(json!({"name": pool.name}), &told(&pool), &told(&after));
    access_log::note(&mut detail, &pool.access, &after.access);
    let entry = Entry {
        organization: pool.organization_id.clone(),
        action: "agent-pool.update",
        subject: pool.id.to_string(),
        detail,
    };
    let pool = audited::change(&app, &caller, entry, move |tx| {
        let (id, change) = (pool.id.clone(), change.clone());
        Box::pin(async move { Ok(pools::update(tx, &id, &change).await?) })
    })
    .await
    .map_err(|error| error.or_taken("name", "Name has already been taken"))?;
    Ok(Answer::ok(Document::one(
        resource(&app, &mut connection, &pool, organization.as_ref(), &Named::All).await?,
    )))
}

/// `DELETE agent-pools/:id`
pub(in crate::http) async fn delete(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let (pool, organization) = find(
        &mut connection,
        &caller,
        &id,
        OrganizationPermission::ManageAgentPools,
    )
    .await?;
    drop(connection);
    let Some(organization) = organization else {
        return Err(ApiError::Conflict(
            "the shared pool cannot be deleted: pause it, or revoke its tokens".to_owned(),
        ));
    };
    let actor = caller.audit_name();
    app.db
        .write(move |tx| {
            let (pool, organization, actor) = (pool.clone(), organization.id.clone(), actor.clone());
            Box::pin(async move {
                pools::delete(tx, &pool.id).await?;
                let (subject, detail) = (pool.id.as_str(), json!({"name": pool.name}));
                audit::record(
                    tx,
                    Some(&organization),
                    &actor,
                    "agent-pool.delete",
                    subject,
                    &detail,
                )
                .await?;
                Ok::<_, ApiError>(())
            })
        })
        .await
        .map_err(|error| match error {
            ApiError::Store(StoreError::Reference) => ApiError::Conflict(
                "the agent pool was used by runs that are still kept, and cannot be deleted".to_owned(),
            ),
            error => error,
        })?;
    Ok(Answer::NoContent)
}

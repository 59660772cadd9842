//! Organizations.

use axum::extract::{Path, State};
use serde_json::{Map, Value, json};
use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::{AgentPoolId, ProjectId};
use terrapool_model::permission::Standing;
use terrapool_store::db::Connection;
use terrapool_store::organizations::{self, OrganizationRecord};
use terrapool_store::{audit, pools, projects};
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::errors::Problem;
use terrapool_tfe::request::{Field, Item};
use terrapool_tfe::time::iso8601;

use super::AppState;
use super::execution::{self, parse_mode};
use crate::auth::{self, Caller, OrganizationPermission};
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::audited;
use crate::http::error::ApiError;

/// Settings that are stored and returned, with their defaults.
fn default_settings() -> Map<String, Value> {
    let defaults = json!({
        "aggregated-commit-status-enabled": true,
        "allow-force-delete-workspaces": false,
        "collaborator-auth-policy": "password",
        "owners-team-saml-role-id": null,
        "send-passing-statuses-for-untriggered-speculative-plans": false,
        "session-remember": null,
        "session-timeout": null,
        "speculative-plan-management-enabled": true,
        "user-tokens-enabled": true,
    });
    match defaults {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Takes over the attributes of a request that are known settings and have the right type.
fn merge_settings(settings: &mut Map<String, Value>, item: &Item) {
    for (name, default) in default_settings() {
        if let Some(value) = item.attributes.get(&name)
            && (default.is_null() || value.is_boolean() == default.is_boolean())
        {
            settings.insert(name, value.clone());
        }
    }
}

/// Letters, digits, `-` and `_`.
pub(super) fn is_plain_name(name: &str, longest: usize) -> bool {
    (1..=longest).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Names that stand in addresses of pages where those of organizations do.
const RESERVED: [&str; 5] = ["settings", "admin", "new", "organizations", "oauth"];

fn check_name(name: &str) -> Result<()> {
    if !is_plain_name(name, 60) {
        return Err(ApiError::attribute(
            "name",
            "Name can only include letters, numbers, - and _, and has at most 60 characters",
        ));
    }
    if RESERVED.contains(&name) {
        return Err(ApiError::attribute(
            "name",
            format!(
                "Name is reserved: pages of this server have `{name}` in their addresses; choose another one"
            ),
        ));
    }
    Ok(())
}

fn check_email(email: &str) -> Result<()> {
    match email.split_once('@') {
        Some((name, host))
            if !name.is_empty() && !host.is_empty() && !email.contains(char::is_whitespace) =>
        {
            Ok(())
        }
        _ => Err(ApiError::attribute("email", "Email is invalid")),
    }
}

/// What the caller may do in an organization.
fn permissions(standing: &Standing) -> attributes::OrganizationPermissions {
    let manage = standing.may(OrganizationPermission::Manage);
    attributes::OrganizationPermissions {
        can_update: manage,
        can_destroy: manage,
        can_access_via_teams: manage,
        can_create_team: manage,
        can_create_workspace: standing.creates_workspaces(),
        can_create_workspace_migration: standing.creates_workspaces(),
        can_create_project: standing.may(OrganizationPermission::CreateProjects),
        can_manage_users: manage,
        can_update_ssh_keys: manage,
        can_update_api_token: standing.may(OrganizationPermission::ManageTokens),
        can_update_agent_pools: standing.may(OrganizationPermission::ManageAgentPools),
        can_manage_tags: manage,
        can_traverse: standing.may(OrganizationPermission::Read),
        ..attributes::OrganizationPermissions::default()
    }
}

/// An organization with its default project.
pub(in crate::http) async fn resource(
    connection: &mut Connection,
    caller: &Caller,
    record: &OrganizationRecord,
) -> Result<Resource> {
    let standing = auth::standing(connection, caller, &record.id).await?;
    let project = projects::default_of(connection, &record.id).await?;
    let mut settings = default_settings();
    settings.extend(record.settings.clone());
    let attributes = attributes::Organization {
        name: record.name.clone(),
        external_id: record.id.to_string(),
        email: record.email.clone(),
        created_at: iso8601(record.created_at),
        default_execution_mode: record.default_execution_mode.to_string(),
        permissions: permissions(&standing),
        cost_estimation_enabled: false,
        assessments_enabled: false,
        stacks_enabled: false,
        saml_enabled: false,
        two_factor_conformant: true,
        is_unified: false,
        remaining_testable_count: 1_000,
        settings,
    };
    let pool = record.default_agent_pool_id.as_ref();
    Ok(Resource::new(Kind::Organizations, &record.name, &attributes)
        .one("default-project", Kind::Projects, project.id.to_string())
        .maybe(
            "default-agent-pool",
            pool.map(|id| (Kind::AgentPools, id.to_string())),
        )
        .one("entitlement-set", Kind::EntitlementSets, record.id.to_string())
        .link("self", format!("/api/v2/organizations/{}", record.name)))
}

/// `GET organizations`
pub(in crate::http) async fn list(State(app): AppState, caller: Caller, params: Params) -> Result {
    let mut connection = app.db.read().await?;
    let page = params.page();
    let (records, total) = organizations::list(
        &mut connection,
        &caller.visible(),
        params.get("q"),
        page.size,
        page.offset(),
    )
    .await?;
    let mut resources = Vec::new();
    for record in &records {
        resources.push(resource(&mut connection, &caller, record).await?);
    }
    Ok(Answer::ok(params.paged(resources, total)))
}

/// `POST organizations`: any user may, and becomes its owner.
pub(in crate::http) async fn create(State(app): AppState, caller: Caller, ApiBody(body): ApiBody) -> Result {
    let user = caller.user().ok_or(ApiError::NotFound)?.clone();
    let name = body.required("name")?;
    let email = body
        .text("email")?
        .filter(|email| !email.is_empty())
        .unwrap_or_else(|| user.email.clone());
    check_name(&name)?;
    check_email(&email)?;
    let mut settings = Map::new();
    merge_settings(&mut settings, &body);
    let mode = body
        .text("default-execution-mode")?
        .filter(|mode| !mode.is_empty());
    if let Some(mode) = mode
        && parse_mode("default-execution-mode", &mode)? == ExecutionMode::Agent
    {
        return Err(ApiError::attribute(
            "default-execution-mode",
            "A new organization has no agent pools: make one, then set the default execution mode to agent",
        ));
    }
    let actor = caller.audit_name();
    let record = app
        .db
        .write(move |tx| {
            let (name, email, settings) = (name.clone(), email.clone(), settings.clone());
            let (user, actor) = (user.id.clone(), actor.clone());
            Box::pin(async move {
                let record = organizations::create(tx, &name, &email, Some(&user), &settings).await?;
                audit::record(
                    tx,
                    Some(&record.id),
                    &actor,
                    "organization.create",
                    &name,
                    &json!({}),
                )
                .await?;
                Ok::<_, ApiError>(record)
            })
        })
        .await
        .map_err(|error| error.or_taken("name", "Name has already been taken"))?;
    let mut connection = app.db.read().await?;
    Ok(Answer::created(Document::one(
        resource(&mut connection, &caller, &record).await?,
    )))
}

/// `GET organizations/:org`
pub(in crate::http) async fn show(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let read = OrganizationPermission::Read;
    let (record, standing) = auth::organization_and_standing(&mut connection, &caller, &name, read).await?;
    let mut document = Document::one(resource(&mut connection, &caller, &record).await?);
    if params.includes().contains("default_project") {
        let project = projects::default_of(&mut connection, &record.id).await?;
        document = document.include([super::projects::resource(&standing, &project, &record)]);
    }
    Ok(Answer::ok(document))
}

/// An organization's settings as the audit log tells of their changes.
fn told(record: &OrganizationRecord) -> Value {
    json!({
        "name": record.name, "email": record.email, "settings": record.settings,
        "default-execution-mode": record.default_execution_mode.as_str(),
        "default-agent-pool": record.default_agent_pool_id.as_ref().map(AgentPoolId::as_str),
    })
}

/// `PATCH organizations/:org`
pub(in crate::http) async fn update(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let mut record =
        auth::organization(&mut connection, &caller, &name, OrganizationPermission::Manage).await?;
    let before = told(&record);
    // One that has its name already keeps it.
    if let Some(name) = body.text("name")?.filter(|name| *name != record.name) {
        check_name(&name)?;
        record.name = name;
    }
    if let Some(email) = body.text("email")? {
        check_email(&email)?;
        record.email = email;
    }
    merge_settings(&mut record.settings, &body);
    let (mode, pool) = new_defaults(&body, &record)?;
    if let Some(pool) = pool
        .as_ref()
        .filter(|pool| record.default_agent_pool_id.as_ref() != Some(*pool))
    {
        check_pool(&mut connection, &record, &DefaultOf::Organization, pool).await?;
    }
    record.default_execution_mode = mode;
    record.default_agent_pool_id = pool;
    let changed = record.clone();
    let detail = audited::with_change(json!({}), &before, &told(&record));
    let actor = caller.audit_name();
    app.db
        .write(move |tx| {
            let (record, actor, detail) = (changed.clone(), actor.clone(), detail.clone());
            Box::pin(async move {
                organizations::update(tx, &record).await?;
                audit::record(
                    tx,
                    Some(&record.id),
                    &actor,
                    "organization.update",
                    &record.name,
                    &detail,
                )
                .await?;
                Ok::<_, ApiError>(())
            })
        })
        .await
        .map_err(|error| error.or_taken("name", "Name has already been taken"))?;
    Ok(Answer::ok(Document::one(
        resource(&mut connection, &caller, &record).await?,
    )))
}

/// Mode and pool after a request. A mode other than agent clears the pool.
fn new_defaults(
    item: &Item,
    record: &OrganizationRecord,
) -> std::result::Result<(ExecutionMode, Option<AgentPoolId>), Problem> {
    let mode = match item
        .text("default-execution-mode")?
        .filter(|mode| !mode.is_empty())
    {
        Some(mode) => parse_mode("default-execution-mode", &mode)?,
        None => record.default_execution_mode,
    };
    let pool = execution::requested_pool(item, execution::PROJECT)?;
    if mode != ExecutionMode::Agent {
        return match pool {
            Field::Value(_) => Err(Problem::attribute(
                "default-agent-pool-id",
                "Default agent pool must not be specified unless using 'agent' execution mode",
            )),
            Field::Absent | Field::Null => Ok((mode, None)),
        };
    }
    let pool = match pool {
        Field::Value(pool) => Some(pool),
        Field::Absent => record.default_agent_pool_id.clone(),
        Field::Null => None,
    };
    if pool.is_none() {
        return Err(Problem::attribute(
            "default-agent-pool-id",
            "Default agent pool must be specified when using 'agent' execution mode",
        ));
    }
    Ok((mode, pool))
}

/// Whose default a pool is to be.
pub(super) enum DefaultOf {
    /// The organization's.
    Organization,
    /// A project's that is made.
    NewProject,
    /// A project's.
    Project(ProjectId),
}

/// A default pool has to be of the organization, and for those whose default it is to be.
pub(super) async fn check_pool(
    connection: &mut Connection,
    organization: &OrganizationRecord,
    of: &DefaultOf,
    pool: &AgentPoolId,
) -> Result<()> {
    let refused = |detail: String| ApiError::attribute("default-agent-pool-id", detail);
    let found = pools::get(connection, pool)
        .await?
        .filter(|found| found.organization_id.as_ref() == Some(&organization.id))
        .ok_or_else(|| refused(format!("Agent pool {pool} does not exist in this organization")))?;
    let (allowed, what) = match of {
        DefaultOf::Organization => (
            found.access.organization_scoped,
            "is not for every project: make it organization-scoped, or choose another one",
        ),
        // No list can name it yet.
        DefaultOf::NewProject => (
            found.access.organization_scoped,
            "is not for every project: make the project, allow it in the pool's access, then set the pool",
        ),
        DefaultOf::Project(project) => (
            found.access.allows_project(project),
            "is not for this project: allow the project in the pool's access, or choose another pool",
        ),
    };
    if allowed {
        Ok(())
    } else {
        Err(refused(format!("Agent pool {} {what}", found.name)))
    }
}

/// `DELETE organizations/:org`
pub(in crate::http) async fn delete(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
) -> Result {
    let mut connection = app.db.read().await?;
    let record = auth::organization(&mut connection, &caller, &name, OrganizationPermission::Manage).await?;
    drop(connection);
    let actor = caller.audit_name();
    app.db
        .write(move |tx| {
            let (record, actor) = (record.clone(), actor.clone());
            Box::pin(async move {
                if organizations::is_applying(tx, &record.id).await? {
                    return Err(ApiError::Conflict(
                        "an apply is running in this organization: wait until it has ended, or cancel it"
                            .to_owned(),
                    ));
                }
                organizations::delete(tx, &record.id).await?;
                audit::record(tx, None, &actor, "organization.delete", &record.name, &json!({})).await?;
                Ok(())
            })
        })
        .await?;
    Ok(Answer::NoContent)
}

/// `GET organizations/:org/entitlement-set`
pub(in crate::http) async fn entitlements(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
) -> Result {
    let mut connection = app.db.read().await?;
    let record = auth::organization(&mut connection, &caller, &name, OrganizationPermission::Read).await?;
    let set = Resource::new(
        Kind::EntitlementSets,
        record.id.to_string(),
        &attributes::EntitlementSet::default(),
    );
    Ok(Answer::ok(Document::one(set)))
}

/// `GET organizations/:org/capacity`
pub(in crate::http) async fn capacity(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
) -> Result {
    let mut connection = app.db.read().await?;
    let record = auth::organization(&mut connection, &caller, &name, OrganizationPermission::Read).await?;
    let (pending, running) = organizations::run_counts(&mut connection, &record.id).await?;
    let attributes = json!({"pending": pending, "running": running});
    Ok(Answer::ok(Document::one(Resource::new(
        Kind::OrganizationCapacity,
        &record.name,
        &attributes,
    ))))
}

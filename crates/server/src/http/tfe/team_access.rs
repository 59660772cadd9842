//! Which teams have which roles in projects and workspaces.

use axum::extract::{Path, State};
use serde_json::json;
use terrapool_model::id::{OrganizationId, TeamId};
use terrapool_model::permission::{InvalidRole, ProjectRole, WorkspaceRole};
use terrapool_store::db::Connection;
use terrapool_store::teams::{self, TeamProject, TeamRecord, TeamWorkspace};
use terrapool_store::workspaces::WorkspaceRecord;
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::errors::Problem;
use terrapool_tfe::request::Item;

use super::AppState;
use crate::auth::{self, Caller, ProjectPermission, WorkspacePermission};
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::audited::{self, Entry};
use crate::http::error::ApiError;

/// What a role in a workspace allows, in the API's words.
fn workspace_attributes(role: WorkspaceRole) -> attributes::TeamWorkspace {
    let writes = role >= WorkspaceRole::Write;
    attributes::TeamWorkspace {
        access: role.as_str(),
        runs: if writes {
            "apply"
        } else if role == WorkspaceRole::Plan {
            "plan"
        } else {
            "read"
        },
        variables: if writes { "write" } else { "read" },
        state_versions: if writes { "write" } else { "read" },
        sentinel_mocks: if writes { "read" } else { "none" },
        workspace_locking: writes,
        run_tasks: false,
        policy_overrides: false,
    }
}

fn project_attributes(role: ProjectRole) -> attributes::TeamProject {
    let inside = workspace_attributes(role.in_workspaces());
    let maintains = role >= ProjectRole::Maintain;
    let admin = role == ProjectRole::Admin;
    attributes::TeamProject {
        access: role.as_str(),
        project_access: attributes::ProjectAccess {
            settings: if admin { "delete" } else { "read" },
            teams: if admin { "manage" } else { "none" },
            variable_sets: "none",
        },
        workspace_access: attributes::WorkspaceAccess {
            runs: inside.runs,
            sentinel_mocks: inside.sentinel_mocks,
            state_versions: inside.state_versions,
            variables: inside.variables,
            create: maintains,
            locking: inside.workspace_locking,
            moves: maintains,
            delete: maintains,
            run_tasks: false,
            policy_overrides: false,
        },
    }
}

fn of_workspace(record: &TeamWorkspace) -> Resource {
    let attributes = workspace_attributes(record.role);
    Resource::new(Kind::TeamWorkspaces, record.id.to_string(), &attributes)
        .one("team", Kind::Teams, record.team_id.to_string())
        .one("workspace", Kind::Workspaces, record.workspace_id.to_string())
        .link("self", format!("/api/v2/team-workspaces/{}", record.id))
}

fn of_project(record: &TeamProject) -> Resource {
    let attributes = project_attributes(record.role);
    Resource::new(Kind::TeamProjects, record.id.to_string(), &attributes)
        .one("team", Kind::Teams, record.team_id.to_string())
        .one("project", Kind::Projects, record.project_id.to_string())
        .link("self", format!("/api/v2/team-projects/{}", record.id))
}

/// The role that a request names.
fn role<R: std::str::FromStr<Err = InvalidRole>>(item: &Item) -> Result<R> {
    item.required("access")?
        .parse()
        .map_err(|error: InvalidRole| ApiError::attribute("access", format!("Access is invalid: {error}")))
}

/// What a relationship of a request names.
fn named(item: &Item, relationship: &str) -> Result<String> {
    item.related(relationship)
        .value()
        .ok_or_else(|| Problem::relationship(relationship, format!("{relationship} can't be blank")).into())
}

/// What the audit log says of a team's role.
fn entry(
    organization: &OrganizationId,
    subject: &str,
    action: &'static str,
    team: &TeamId,
    access: Option<&str>,
) -> Entry {
    let mut detail = json!({"team": team.as_str()});
    if let Some(access) = access {
        detail["access"] = json!(access);
    }
    Entry {
        organization: organization.clone(),
        action,
        subject: subject.to_owned(),
        detail,
    }
}

/// The team that a request names, which has to be of the organization and not the owners, who may do everything.
async fn team(
    connection: &mut Connection,
    caller: &Caller,
    organization: &OrganizationId,
    item: &Item,
) -> Result<TeamRecord> {
    let team = super::teams::visible(connection, caller, &named(item, "team")?).await?;
    auth::allow(team.organization_id == *organization)?;
    if team.is_owners {
        return Err(Problem::relationship("team", "The owners may do everything already").into());
    }
    Ok(team)
}

async fn managed_workspace(
    connection: &mut Connection,
    caller: &Caller,
    id: &str,
) -> Result<WorkspaceRecord> {
    auth::workspace(connection, caller, id, WorkspacePermission::Manage).await
}

/// `GET team-workspaces?filter[workspace][id]=`
pub(in crate::http) async fn list_of_workspace(
    State(app): AppState,
    caller: Caller,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let id = params.get("filter[workspace][id]").ok_or(ApiError::NotFound)?;
    let workspace = managed_workspace(&mut connection, &caller, id).await?;
    let records = teams::of_workspace(&mut connection, &workspace.id).await?;
    let total = records.len() as u64;
    let resources = params.page().cut(records).iter().map(of_workspace).collect();
    Ok(Answer::ok(params.paged(resources, total)))
}

/// `POST team-workspaces`
pub(in crate::http) async fn grant_workspace(
    State(app): AppState,
    caller: Caller,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let id = named(&body, "workspace")?;
    let workspace = managed_workspace(&mut connection, &caller, &id).await?;
    let team = team(&mut connection, &caller, &workspace.organization_id, &body).await?;
    let role = role::<WorkspaceRole>(&body)?;
    drop(connection);
    let (id, entry) = (
        workspace.id.clone(),
        entry(
            &workspace.organization_id,
            workspace.id.as_str(),
            "team-access.create",
            &team.id,
            Some(role.as_str()),
        ),
    );
    let record = audited::change(&app, &caller, entry, move |tx| {
        let (team, id) = (team.id.clone(), id.clone());
        Box::pin(async move { Ok(teams::grant_workspace(tx, &team, &id, role).await?) })
    })
    .await
    .map_err(|error| error.or_taken("team", "Team already has access to this workspace"))?;
    Ok(Answer::created(Document::one(of_workspace(&record))))
}

async fn workspace_role(
    connection: &mut Connection,
    caller: &Caller,
    id: &str,
) -> Result<(TeamWorkspace, OrganizationId)> {
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let record = teams::workspace_role(connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let workspace = managed_workspace(connection, caller, record.workspace_id.as_str()).await?;
    Ok((record, workspace.organization_id))
}

/// `GET team-workspaces/:id`
pub(in crate::http) async fn show_workspace(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result {
    let mut connection = app.db.read().await?;
    let (record, _) = workspace_role(&mut connection, &caller, &id).await?;
    Ok(Answer::ok(Document::one(of_workspace(&record))))
}

/// `PATCH team-workspaces/:id`
pub(in crate::http) async fn change_workspace(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let (mut record, organization) = workspace_role(&mut connection, &caller, &id).await?;
    record.role = role::<WorkspaceRole>(&body)?;
    drop(connection);
    let entry = entry(
        &organization,
        record.workspace_id.as_str(),
        "team-access.update",
        &record.team_id,
        Some(record.role.as_str()),
    );
    let (id, role) = (record.id.clone(), record.role);
    audited::change(&app, &caller, entry, move |tx| {
        let id = id.clone();
        Box::pin(async move { Ok(teams::set_workspace_role(tx, &id, role).await?) })
    })
    .await?;
    Ok(Answer::ok(Document::one(of_workspace(&record))))
}

/// `DELETE team-workspaces/:id`
pub(in crate::http) async fn revoke_workspace(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result {
    let mut connection = app.db.read().await?;
    let (record, organization) = workspace_role(&mut connection, &caller, &id).await?;
    drop(connection);
    let entry = entry(
        &organization,
        record.workspace_id.as_str(),
        "team-access.delete",
        &record.team_id,
        None,
    );
    audited::change(&app, &caller, entry, move |tx| {
        let id = record.id.clone();
        Box::pin(async move { Ok(teams::revoke_workspace(tx, &id).await?) })
    })
    .await?;
    Ok(Answer::NoContent)
}

async fn managed_project(
    connection: &mut Connection,
    caller: &Caller,
    id: &str,
) -> Result<terrapool_store::projects::ProjectRecord> {
    let (project, ..) = super::projects::find(connection, caller, id, ProjectPermission::Manage).await?;
    Ok(project)
}

/// `GET team-projects?filter[project][id]=`
pub(in crate::http) async fn list_of_project(State(app): AppState, caller: Caller, params: Params) -> Result {
    let mut connection = app.db.read().await?;
    let id = params.get("filter[project][id]").ok_or(ApiError::NotFound)?;
    let project = managed_project(&mut connection, &caller, id).await?;
    let records = teams::of_project(&mut connection, &project.id).await?;
    let total = records.len() as u64;
    let resources = params.page().cut(records).iter().map(of_project).collect();
    Ok(Answer::ok(params.paged(resources, total)))
}

/// `POST team-projects`
pub(in crate::http) async fn grant_project(
    State(app): AppState,
    caller: Caller,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let id = named(&body, "project")?;
    let project = managed_project(&mut connection, &caller, &id).await?;
    let team = team(&mut connection, &caller, &project.organization_id, &body).await?;
    let role = role::<ProjectRole>(&body)?;
    drop(connection);
    let (id, entry) = (
        project.id.clone(),
        entry(
            &project.organization_id,
            project.id.as_str(),
            "team-access.create",
            &team.id,
            Some(role.as_str()),
        ),
    );
    let record = audited::change(&app, &caller, entry, move |tx| {
        let (team, id) = (team.id.clone(), id.clone());
        Box::pin(async move { Ok(teams::grant_project(tx, &team, &id, role).await?) })
    })
    .await
    .map_err(|error| error.or_taken("team", "Team already has access to this project"))?;
    Ok(Answer::created(Document::one(of_project(&record))))
}

async fn project_role(
    connection: &mut Connection,
    caller: &Caller,
    id: &str,
) -> Result<(TeamProject, OrganizationId)> {
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let record = teams::project_role(connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let project = managed_project(connection, caller, record.project_id.as_str()).await?;
    Ok((record, project.organization_id))
}

/// `GET team-projects/:id`
pub(in crate::http) async fn show_project(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result {
    let mut connection = app.db.read().await?;
    let (record, _) = project_role(&mut connection, &caller, &id).await?;
    Ok(Answer::ok(Document::one(of_project(&record))))
}

/// `PATCH team-projects/:id`
pub(in crate::http) async fn change_project(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let (mut record, organization) = project_role(&mut connection, &caller, &id).await?;
    record.role = role::<ProjectRole>(&body)?;
    drop(connection);
    let entry = entry(
        &organization,
        record.project_id.as_str(),
        "team-access.update",
        &record.team_id,
        Some(record.role.as_str()),
    );
    let (id, role) = (record.id.clone(), record.role);
    audited::change(&app, &caller, entry, move |tx| {
        let id = id.clone();
        Box::pin(async move { Ok(teams::set_project_role(tx, &id, role).await?) })
    })
    .await?;
    Ok(Answer::ok(Document::one(of_project(&record))))
}

/// `DELETE team-projects/:id`
pub(in crate::http) async fn revoke_project(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result {
    let mut connection = app.db.read().await?;
    let (record, organization) = project_role(&mut connection, &caller, &id).await?;
    drop(connection);
    let entry = entry(
        &organization,
        record.project_id.as_str(),
        "team-access.delete",
        &record.team_id,
        None,
    );
    audited::change(&app, &caller, entry, move |tx| {
        let id = record.id.clone();
        Box::pin(async move { Ok(teams::revoke_project(tx, &id).await?) })
    })
    .await?;
    Ok(Answer::NoContent)
}

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
        organization: Some(organization.clone()),
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

async fn managed_project(
    connection: &mut Connection,
    caller: &Caller,
    id: &str,
) -> Result<terrapool_store::projects::ProjectRecord> {
    let (project, ..) = super::projects::find(connection, caller, id, ProjectPermission::Manage).await?;
    Ok(project)
}

/// The routes of teams' roles in one kind of place.
macro_rules! routes {
    (
        $place:literal, $record:ident, $place_id:ident, $role:ident, $managed:ident, $resource:ident,
        $list:ident = $of_place:ident, $grant:ident = $store_grant:ident, $found:ident = $get:ident, $show:ident,
        $change:ident = $set:ident, $revoke:ident = $store_revoke:ident
    ) => {
        #[doc = concat!("`GET team-", $place, "s?filter[", $place, "][id]=`")]
        pub(in crate::http) async fn $list(State(app): AppState, caller: Caller, params: Params) -> Result {
            let mut connection = app.db.read().await?;
            let id = params
                .get(concat!("filter[", $place, "][id]"))
                .ok_or(ApiError::NotFound)?;
            let place = $managed(&mut connection, &caller, id).await?;
            let records = teams::$of_place(&mut connection, &place.id).await?;
            let total = records.len() as u64;
            let resources = params.page().cut(records).iter().map($resource).collect();
            Ok(Answer::ok(params.paged(resources, total)))
        }

        #[doc = concat!("`POST team-", $place, "s`")]
        pub(in crate::http) async fn $grant(
            State(app): AppState,
            caller: Caller,
            ApiBody(body): ApiBody,
        ) -> Result {
            let mut connection = app.db.read().await?;
            let id = named(&body, $place)?;
            let place = $managed(&mut connection, &caller, &id).await?;
            let team = team(&mut connection, &caller, &place.organization_id, &body).await?;
            let role = role::<$role>(&body)?;
            drop(connection);
            let action = "team-access.create";
            let entry = entry(
                &place.organization_id,
                place.id.as_str(),
                action,
                &team.id,
                Some(role.as_str()),
            );
            let record = audited::change(&app, &caller, entry, move |tx| {
                let (team, id) = (team.id.clone(), place.id.clone());
                Box::pin(async move { Ok(teams::$store_grant(tx, &team, &id, role).await?) })
            })
            .await
            .map_err(|error| error.or_taken("team", concat!("Team already has access to this ", $place)))?;
            Ok(Answer::created(Document::one($resource(&record))))
        }

        async fn $found(
            connection: &mut Connection,
            caller: &Caller,
            id: &str,
        ) -> Result<($record, OrganizationId)> {
            let id = id.parse().map_err(|_| ApiError::NotFound)?;
            let record = teams::$get(connection, &id)
                .await?
                .ok_or(ApiError::NotFound)?;
            let place = $managed(connection, caller, record.$place_id.as_str()).await?;
            Ok((record, place.organization_id))
        }

        #[doc = concat!("`GET team-", $place, "s/:id`")]
        pub(in crate::http) async fn $show(
            State(app): AppState,
            caller: Caller,
            Path(id): Path<String>,
        ) -> Result {
            let mut connection = app.db.read().await?;
            let (record, _) = $found(&mut connection, &caller, &id).await?;
            Ok(Answer::ok(Document::one($resource(&record))))
        }

        #[doc = concat!("`PATCH team-", $place, "s/:id`")]
        pub(in crate::http) async fn $change(
            State(app): AppState,
            caller: Caller,
            Path(id): Path<String>,
            ApiBody(body): ApiBody,
        ) -> Result {
            let mut connection = app.db.read().await?;
            let (mut record, organization) = $found(&mut connection, &caller, &id).await?;
            let before = json!({"access": record.role.as_str()});
            record.role = role::<$role>(&body)?;
            drop(connection);
            let (action, access) = ("team-access.update", Some(record.role.as_str()));
            let mut entry = entry(
                &organization,
                record.$place_id.as_str(),
                action,
                &record.team_id,
                access,
            );
            let after = json!({"access": record.role.as_str()});
            entry.detail = audited::with_change(entry.detail, &before, &after);
            let (id, role) = (record.id.clone(), record.role);
            audited::change(&app, &caller, entry, move |tx| {
                let id = id.clone();
                Box::pin(async move { Ok(teams::$set(tx, &id, role).await?) })
            })
            .await?;
            Ok(Answer::ok(Document::one($resource(&record))))
        }

        #[doc = concat!("`DELETE team-", $place, "s/:id`")]
        pub(in crate::http) async fn $revoke(
            State(app): AppState,
            caller: Caller,
            Path(id): Path<String>,
        ) -> Result {
            let mut connection = app.db.read().await?;
            let (record, organization) = $found(&mut connection, &caller, &id).await?;
            drop(connection);
            let (place, action) = (record.$place_id.as_str(), "team-access.delete");
            let entry = entry(&organization, place, action, &record.team_id, None);
            audited::change(&app, &caller, entry, move |tx| {
                let id = record.id.clone();
                Box::pin(async move { Ok(teams::$store_revoke(tx, &id).await?) })
            })
            .await?;
            Ok(Answer::NoContent)
        }
    };
}

routes! {
    "workspace", TeamWorkspace, workspace_id, WorkspaceRole, managed_workspace, of_workspace,
    list_of_workspace = of_workspace, grant_workspace = grant_workspace, workspace_role = workspace_role, show_workspace,
    change_workspace = set_workspace_role, revoke_workspace = revoke_workspace
}

routes! {
    "project", TeamProject, project_id, ProjectRole, managed_project, of_project,
    list_of_project = of_project, grant_project = grant_project, project_role = project_role, show_project,
    change_project = set_project_role, revoke_project = revoke_project
}

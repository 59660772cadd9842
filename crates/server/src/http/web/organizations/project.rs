//! A project: its workspaces, where their runs go, and who may do what in it.

use askama::Template;
use axum::extract::{Path, State};
use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::ProjectId;
use terrapool_model::permission::{Grants, ProjectRole};
use terrapool_store::db::Connection;
use terrapool_store::page::Page as StorePage;
use terrapool_store::pools::{self, PoolFilter};
use terrapool_store::projects;
use terrapool_store::teams::{self, TeamRecord};
use terrapool_store::workspaces::{self, WorkspaceFilter, WorkspaceOrder, WorkspaceRecord};

use super::projects::{choices, runs_on, usable};
use crate::app::App;
use crate::auth::{OrganizationPermission, ProjectPermission};
use crate::http::answer::Params;
use crate::http::web::error::WebError;
use crate::http::web::page::{Page, Section, Shell, html};
use crate::http::web::paging::Paging;
use crate::http::web::parts::time::Ago;
use crate::http::web::parts::{Icon, words};
use crate::http::web::visitor::{Place, Visitor};

#[derive(Template)]
#[template(path = "organization/project.html")]
struct ProjectPage {
    shell: Shell,
    base: String,
    id: String,
    name: String,
    description: String,
    is_default: bool,
    may_edit: bool,
    may_create: bool,
    workspaces: Vec<Workspace>,
    paging: Paging,
    facts: Vec<(&'static str, String)>,
    /// Who may do what, as far as the visitor may know.
    roles: Vec<Role>,
}

struct Workspace {
    name: String,
    description: String,
    resources: String,
    runs_on: String,
    updated: Ago,
}

/// What a team may do.
struct Role {
    team: String,
    /// The team's page, for who manages teams.
    address: Option<String>,
    role: &'static str,
    means: &'static str,
    from: &'static str,
}

/// What a role in a project allows.
fn means(role: ProjectRole) -> &'static str {
    match role {
        ProjectRole::Read => "sees runs and states",
        ProjectRole::Plan => "starts runs, which somebody else confirms",
        ProjectRole::Write => "confirms runs, changes variables, locks",
        ProjectRole::Maintain => "makes and deletes workspaces",
        ProjectRole::Admin => "changes and deletes the project",
    }
}

/// The role that a team has in all projects by what it may do everywhere.
fn everywhere(team: &TeamRecord, project: &ProjectId) -> Option<ProjectRole> {
    let grants = Grants {
        owner: team.is_owners,
        everywhere: team.access(),
        ..Grants::default()
    };
    grants.project_role(project)
}

/// The teams that may do something in a project, those that may most first.
async fn roles(
    connection: &mut Connection,
    place: &Place,
    project: &ProjectId,
) -> Result<Vec<Role>, WebError> {
    let grants = teams::of_project(connection, project).await?;
    let all = teams::of_organization(connection, &place.organization.id).await?;
    let mut found: Vec<(ProjectRole, Role)> = Vec::new();
    for team in all {
        let own = grants
            .iter()
            .find(|grant| grant.team_id == team.id)
            .map(|grant| grant.role);
        let everywhere = everywhere(&team, project);
        let Some(role) = own.max(everywhere) else { continue };
        let row = Role {
            address: Some(place.address(&format!("/people/teams/{}", team.id))),
            team: team.name,
            role: role.as_str(),
            means: means(role),
            from: if everywhere == Some(role) {
                "in every project"
            } else {
                "in this project"
            },
        };
        found.push((role, row));
    }
    found.sort_by(|one, two| two.0.cmp(&one.0).then_with(|| one.1.team.cmp(&two.1.team)));
    Ok(found.into_iter().map(|(_, row)| row).collect())
}

/// `GET /app/:org/projects/:id`
pub(super) async fn show(
    State(app): State<App>,
    visitor: Visitor,
    Path((organization, id)): Path<(String, String)>,
    params: Params,
) -> Page {
    let mut connection = app.db.read().await?;
    let place = visitor
        .organization(&app, &mut connection, &organization, OrganizationPermission::Read)
        .await?;
    let id: ProjectId = id.parse().map_err(|_| WebError::not_found())?;
    let project = projects::get(&mut connection, &id)
        .await?
        .filter(|project| project.organization_id == place.organization.id)
        .filter(|project| {
            place
                .standing
                .may_in_project(&project.id, ProjectPermission::Read)
        })
        .ok_or_else(WebError::not_found)?;
    let paging = Paging::new(
        &params,
        &place.address(&format!("/projects/{id}")),
        &[],
        "by name",
    );
    let filter = WorkspaceFilter {
        project: Some(id.clone()),
        sight: place.sight.clone(),
        ..WorkspaceFilter::default()
    };
    let organization = &place.organization;
    let offset = u64::try_from(paging.page.offset()).unwrap_or(0);
    let (records, total) = workspaces::list(
        &mut connection,
        &organization.id,
        &filter,
        WorkspaceOrder::Name,
        paging.page.size,
        offset,
    )
    .await?;
    let first = StorePage::first(200);
    let pools = pools::list(&mut connection, &organization.id, &PoolFilter::default(), &first)
        .await?
        .items;
    let name_of = |mode: Option<ExecutionMode>, pool: Option<String>| {
        let chosen = runs_on(mode, pool);
        let found = choices(&pools).into_iter().find(|(value, _)| *value == chosen);
        found.map_or_else(|| "in a pool".to_owned(), |(_, words)| words)
    };
    let pool = |id: &Option<terrapool_model::id::AgentPoolId>| id.as_ref().map(ToString::to_string);
    let row = |record: &WorkspaceRecord| Workspace {
        name: record.name.clone(),
        description: record.description.clone().unwrap_or_default(),
        resources: words::count(record.resource_count, "resource", "resources"),
        runs_on: name_of(
            Some(record.effective.execution_mode),
            pool(&record.effective.agent_pool_id),
        ),
        updated: Ago::new(record.updated_at, app.now()),
    };
    let default = match project.default_execution_mode {
        Some(mode) => format!(
            "{}, set here",
            name_of(Some(mode), pool(&project.default_agent_pool_id))
        ),
        None => format!(
            "{}, as the organization says",
            name_of(
                Some(organization.default_execution_mode),
                pool(&organization.default_agent_pool_id)
            )
        ),
    };
    let usable: Vec<String> = usable(&pools, &id).iter().map(|pool| pool.name.clone()).collect();
    let manages = place.may(OrganizationPermission::Manage);
    let page = ProjectPage {
        shell: place
            .shell(Section::Projects, project.name.clone())
            .behind("Projects", place.address("/projects")),
        base: place.address(""),
        roles: if manages {
            roles(&mut connection, &place, &id).await?
        } else {
            Vec::new()
        },
        workspaces: records.iter().map(row).collect(),
        paging: paging.of(total),
        facts: vec![
            ("Its workspaces run", default),
            (
                "Pools it may use",
                if usable.is_empty() {
                    "none".to_owned()
                } else {
                    words::some(&usable, 8)
                },
            ),
            (
                "Made",
                crate::http::web::parts::time::Day::new(project.created_at, app.now()).words(),
            ),
            ("Id", id.to_string()),
        ],
        may_edit: place.standing.may_in_project(&id, ProjectPermission::Manage),
        may_create: place
            .standing
            .may_in_project(&id, ProjectPermission::CreateWorkspaces),
        id: id.to_string(),
        name: project.name,
        description: project.description,
        is_default: project.is_default,
    };
    html(&page)
}

//! Who may use a pool.

use askama::Template;
use axum::extract::{Path, State};
use serde_json::json;
use terrapool_store::overview;

use super::frame::{self, Frame, Names, Tab};
use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::tfe;
use crate::http::web::form::{SignedForm, request_with_lists};
use crate::http::web::page::{Page, Section, Shell, html, see_with};
use crate::http::web::parts::Icon;
use crate::http::web::visitor::Visitor;

#[derive(Template)]
#[template(path = "pool/access.html")]
struct AccessPage {
    shell: Shell,
    frame: Frame,
    organization: String,
    matrix: String,
    scoped: bool,
    projects: Vec<Choice>,
    workspaces: Vec<Choice>,
    all: u64,
    allowed: u64,
}

/// Something that may be chosen.
struct Choice {
    id: String,
    name: String,
    about: String,
    allowed: bool,
    excluded: bool,
}

/// `GET /app/:org/agent-pools/:id/access`
pub(super) async fn show(State(app): State<App>, visitor: Visitor, Path(names): Path<Names>) -> Page {
    let mut connection = app.db.read().await?;
    let seen = frame::see(&app, &mut connection, &visitor, &names, Tab::Access).await?;
    let organization = &seen.place.organization;
    let projects = overview::project_names(&mut connection, &organization.id).await?;
    let workspaces = overview::workspace_names(&mut connection, &organization.id).await?;
    let access = &seen.pool().access;
    let allowed = workspaces
        .iter()
        .filter(|(id, _, project)| access.allows(id, project))
        .count();
    let mut choices: Vec<Choice> = projects
        .iter()
        .map(|(id, name)| Choice {
            id: id.to_string(),
            name: name.clone(),
            about: format!(
                "{} workspaces",
                workspaces.iter().filter(|(_, _, project)| project == id).count()
            ),
            allowed: access.allowed_projects.contains(id),
            excluded: false,
        })
        .collect();
    choices.sort_by(|one, two| one.name.cmp(&two.name));
    let page = AccessPage {
        shell: seen.shell("Access"),
        organization: organization.name.clone(),
        matrix: seen.place.address("/access"),
        scoped: access.organization_scoped,
        projects: choices,
        all: workspaces.len() as u64,
        allowed: allowed as u64,
        workspaces: workspaces
            .iter()
            .map(|(id, name, project)| Choice {
                id: id.to_string(),
                name: name.clone(),
                about: projects.get(project).cloned().unwrap_or_default(),
                allowed: access.allowed_workspaces.contains(id),
                excluded: access.excluded_workspaces.contains(id),
            })
            .collect(),
        frame: seen.frame,
    };
    html(&page)
}

/// `POST /app/:org/agent-pools/:id/access`
pub(super) async fn save(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let mut connection = app.db.read().await?;
    let (place, pool) = frame::pool(
        &app,
        &mut connection,
        &visitor,
        &names,
        OrganizationPermission::ManageAgentPools,
    )
    .await?;
    drop(connection);
    let body = request_with_lists(
        json!({"organization-scoped": fields.text("scope") == "organization"}),
        &[
            ("allowed-projects", fields.all("project")),
            ("allowed-workspaces", fields.all("workspace")),
            ("excluded-workspaces", fields.all("excluded")),
        ],
    );
    let id = Path(pool.id.to_string());
    tfe::agent_pools::update(State(app), visitor.caller.clone(), id, body).await?;
    let address = place.address(&format!("/agent-pools/{}/access", pool.id));
    see_with(
        &visitor,
        &address,
        "Access is saved. It holds for runs that are claimed from now on.",
    )
}

//! The choice of an organization.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::json;
use terrapool_store::organizations;
use terrapool_store::overview;
use terrapool_store::workspaces::{self, WorkspaceRecord};

use crate::app::App;
use crate::auth::{self, OrganizationPermission, ProjectPermission, WorkspacePermission};
use crate::http::answer::Params;
use crate::http::tfe;
use crate::http::web::encoded;
use crate::http::web::error::WebError;
use crate::http::web::form::{SignedForm, request};
use crate::http::web::page::{Page, Section, Shell, html_with, see, see_with};
use crate::http::web::parts::Icon;
use crate::http::web::visitor::Visitor;

#[derive(Template)]
#[template(path = "organization/choice.html")]
struct ChoicePage {
    shell: Shell,
    rows: Vec<(String, String)>,
    name: String,
    email: String,
    problem: Option<String>,
}

/// `GET /app`: the organization, when there is only one.
pub(super) async fn home(State(app): State<App>, visitor: Visitor) -> Page {
    let mut connection = app.db.read().await?;
    let (found, _) = organizations::list(&mut connection, &visitor.caller.visible(), None, 2, 0).await?;
    match found.as_slice() {
        [one] => see(&format!("/app/{}/workspaces", one.name)),
        _ => see("/app/organizations"),
    }
}

/// `GET /app/:org`
pub(super) async fn of_organization(Path(name): Path<String>) -> Page {
    see(&format!("/app/{}/workspaces", encoded(&name)))
}

async fn page(
    app: &App,
    visitor: &Visitor,
    status: StatusCode,
    filled: (String, String),
    problem: Option<String>,
) -> Page {
    let mut connection = app.db.read().await?;
    let (found, _) = organizations::list(&mut connection, &visitor.caller.visible(), None, 500, 0).await?;
    let page = ChoicePage {
        shell: Shell::new(visitor, Section::Organizations, "Organizations"),
        rows: found
            .into_iter()
            .map(|organization| (organization.name, organization.email))
            .collect(),
        name: filled.0,
        email: filled.1,
        problem,
    };
    html_with(status, &page)
}

/// `GET /app/organizations`
pub(super) async fn show(State(app): State<App>, visitor: Visitor) -> Page {
    let filled = (String::new(), visitor.user.email.clone());
    page(&app, &visitor, StatusCode::OK, filled, None).await
}

/// `POST /app/organizations`
pub(super) async fn create(State(app): State<App>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let (name, email) = (fields.text("name").to_owned(), fields.text("email").to_owned());
    let refused = StatusCode::UNPROCESSABLE_ENTITY;
    let body = request(json!({"name": name, "email": email}));
    let made = tfe::organizations::create(State(app.clone()), visitor.caller.clone(), body).await;
    match made.map_err(WebError::from) {
        Ok(_) => see_with(
            &visitor,
            &format!("/app/{name}/workspaces"),
            &format!("Organization {name} is there."),
        ),
        Err(error) => {
            let problem = error.problem()?;
            page(&app, &visitor, refused, (name, email), Some(problem)).await
        }
    }
}

/// `GET /app/:org/search?q=`: an exact id or name leads straight there.
pub(super) async fn search(
    State(app): State<App>,
    visitor: Visitor,
    Path(name): Path<String>,
    params: Params,
) -> Page {
    let query = params.get("q").unwrap_or_default().trim().to_owned();
    let mut connection = app.db.read().await?;
    let read = OrganizationPermission::Read;
    let (organization, standing) =
        auth::organization_and_standing(&mut connection, &visitor.caller, &name, read).await?;
    let base = format!("/app/{name}");
    let found = overview::organization_of_subject(&mut connection, &query).await?;
    let visible = |record: &WorkspaceRecord| {
        standing.may_in_workspace(&record.id, &record.project_id, WorkspacePermission::Read)
    };
    if let Some((_, place)) = found.filter(|(id, _)| *id == organization.id) {
        let kind = query.split('-').next().unwrap_or_default();
        // Where somebody is led to tells a name, so it has to be there for them.
        let is_there = match kind {
            "run" | "ws" => workspaces::by_name(&mut connection, &organization.id, &place)
                .await?
                .as_ref()
                .is_some_and(visible),
            "prj" => query
                .parse()
                .is_ok_and(|id| standing.may_in_project(&id, ProjectPermission::Read)),
            _ => true,
        };
        if is_there {
            return see(&match kind {
                "run" => format!("{base}/workspaces/{place}/runs/{query}"),
                "ws" => format!("{base}/workspaces/{place}"),
                "apool" => format!("{base}/agent-pools/{query}"),
                "agent" => format!("{base}/agent-pools/{place}/agents/{query}"),
                _ => format!("{base}/projects?edit={query}#edit"),
            });
        }
    }
    let named = workspaces::by_name(&mut connection, &organization.id, &query).await?;
    if named.as_ref().is_some_and(visible) {
        return see(&format!("{base}/workspaces/{query}"));
    }
    if standing.may(OrganizationPermission::ReadQueues)
        && let Some((pool, agent)) =
            overview::pool_or_agent_named(&mut connection, &organization.id, &query).await?
    {
        let agent = agent.map_or_else(String::new, |agent| format!("/agents/{agent}"));
        return see(&format!("{base}/agent-pools/{pool}{agent}"));
    }
    see(&format!("{base}/workspaces?q={}", encoded(&query)))
}

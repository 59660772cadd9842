//! Settings of an organization.

use askama::Template;
use axum::extract::{Path, State};
use serde_json::json;
use terrapool_store::memberships::{self, MembershipRecord};
use terrapool_store::page::Page as StorePage;
use terrapool_store::pools::{self, PoolFilter};

use super::projects::{choices, runs_on};
use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{self, SignedForm, request};
use crate::http::web::page::{Page, Section, Shell, html_with, see_with};
use crate::http::web::parts::Icon;
use crate::http::web::visitor::Visitor;

#[derive(Template)]
#[template(path = "organization/settings.html")]
struct SettingsPage {
    shell: Shell,
    base: String,
    organization: String,
    problem: Option<String>,
    email: String,
    runs_on: String,
    choices: Vec<(String, String)>,
    members: Vec<MembershipRecord>,
}

async fn page(app: &App, visitor: &Visitor, name: &str, problem: Option<String>) -> Page {
    let mut connection = app.db.read().await?;
    let place = visitor
        .organization(app, &mut connection, name, OrganizationPermission::Manage)
        .await?;
    let organization = &place.organization;
    let filter = PoolFilter::default();
    let pools = pools::list(&mut connection, &organization.id, &filter, &StorePage::first(200)).await?;
    let pool = organization
        .default_agent_pool_id
        .as_ref()
        .map(ToString::to_string);
    let status = form::status(problem.is_some());
    let page = SettingsPage {
        shell: place.shell(Section::Settings, "Settings"),
        base: place.address(""),
        organization: organization.name.clone(),
        problem,
        email: organization.email.clone(),
        runs_on: runs_on(Some(organization.default_execution_mode), pool),
        choices: choices(&pools.items),
        members: memberships::of_organization(&mut connection, &organization.id).await?,
    };
    html_with(status, &page)
}

/// `GET /app/:org/settings`
pub(super) async fn show(State(app): State<App>, visitor: Visitor, Path(name): Path<String>) -> Page {
    page(&app, &visitor, &name, None).await
}

/// `POST /app/:org/settings`
pub(super) async fn save(State(app): State<App>, Path(name): Path<String>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let mut attributes = match fields.text("runs-on") {
        mode @ ("remote" | "local") => json!({"default-execution-mode": mode}),
        pool => json!({"default-execution-mode": "agent", "default-agent-pool-id": pool}),
    };
    attributes["email"] = json!(fields.text("email"));
    let (caller, path) = (visitor.caller.clone(), Path(name.clone()));
    let saved = tfe::organizations::update(State(app.clone()), caller, path, request(attributes)).await;
    match saved.map_err(WebError::from) {
        Ok(_) => see_with(
            &visitor,
            &format!("/app/{name}/settings"),
            "The settings are saved.",
        ),
        Err(error) => {
            let problem = error.problem()?;
            page(&app, &visitor, &name, Some(problem)).await
        }
    }
}

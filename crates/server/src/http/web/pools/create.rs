//! A new pool.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::json;

use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{SignedForm, made_id, request};
use crate::http::web::page::{Page, Section, Shell, html_with, see};
use crate::http::web::parts::Icon;
use crate::http::web::visitor::{Place, Visitor};

#[derive(Template)]
#[template(path = "pools/new.html")]
struct NewPage {
    shell: Shell,
    base: String,
    organization: String,
    name: String,
    problem: Option<String>,
}

fn page(place: &Place, status: StatusCode, name: String, problem: Option<String>) -> Page {
    let page = NewPage {
        shell: place
            .shell(Section::Pools, "New agent pool")
            .behind("Agent pools", place.address("/agent-pools")),
        base: place.address(""),
        organization: place.organization.name.clone(),
        name,
        problem,
    };
    html_with(status, &page)
}

/// `GET /app/:org/agent-pools/new`
pub(super) async fn show(State(app): State<App>, visitor: Visitor, Path(organization): Path<String>) -> Page {
    let mut connection = app.db.read().await?;
    let place = visitor
        .organization(
            &app,
            &mut connection,
            &organization,
            OrganizationPermission::ManageAgentPools,
        )
        .await?;
    page(&place, StatusCode::OK, String::new(), None)
}

/// `POST /app/:org/agent-pools`
pub(super) async fn create(
    State(app): State<App>,
    Path(organization): Path<String>,
    form: SignedForm,
) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let attributes = json!({
        "name": fields.text("name"),
        "organization-scoped": fields.text("scope") != "listed",
    });
    let (caller, path) = (visitor.caller.clone(), Path(organization.clone()));
    let made = tfe::agent_pools::create(State(app.clone()), caller, path, request(attributes)).await;
    match made.map_err(WebError::from) {
        Ok(answer) => see(&format!(
            "/app/{organization}/agent-pools/{}/connect",
            made_id(answer)
        )),
        Err(error) => {
            let problem = error.problem()?;
            let mut connection = app.db.read().await?;
            let place = visitor
                .organization(
                    &app,
                    &mut connection,
                    &organization,
                    OrganizationPermission::ManageAgentPools,
                )
                .await?;
            let name = fields.text("name").to_owned();
            page(&place, StatusCode::UNPROCESSABLE_ENTITY, name, Some(problem))
        }
    }
}

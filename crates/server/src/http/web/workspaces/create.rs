//! A new workspace.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use terrapool_store::db::Connection;
use terrapool_store::page::Page as StorePage;
use terrapool_store::pools::{self, PoolFilter};

use crate::app::App;
use crate::auth::{self, OrganizationPermission, ProjectPermission};
use crate::http::answer::Params;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{Fields, SignedForm, own_headers, request_with};
use crate::http::web::page::{Page, Section, Shell, html_with, see_with};
use crate::http::web::parts::Icon;
use crate::http::web::visitor::{Place, Visitor};

#[derive(Template)]
#[template(path = "workspaces/new.html")]
struct NewPage {
    shell: Shell,
    base: String,
    problem: Option<String>,
    filled: Filled,
    projects: Vec<(String, String)>,
    pools: Vec<(String, String)>,
}

/// What was filled in.
#[derive(Default)]
struct Filled {
    name: String,
    description: String,
    project: String,
    mode: String,
    pool: String,
    engine: String,
    version: String,
}

impl Filled {
    fn of(fields: &Fields) -> Self {
        let text = |name: &str| fields.text(name).to_owned();
        Self {
            name: text("name"),
            description: text("description"),
            project: text("project"),
            mode: text("mode"),
            pool: text("pool"),
            engine: text("engine"),
            version: text("version"),
        }
    }
}

async fn page(
    connection: &mut Connection,
    place: &Place,
    status: StatusCode,
    filled: Filled,
    problem: Option<String>,
) -> Page {
    let organization = &place.organization.id;
    let projects = place
        .projects(connection, ProjectPermission::CreateWorkspaces)
        .await?;
    let listed = pools::list(
        connection,
        organization,
        &PoolFilter::default(),
        &StorePage::first(200),
    )
    .await?;
    let page = NewPage {
        shell: place
            .shell(Section::Workspaces, "New workspace")
            .behind("Workspaces", place.address("/workspaces")),
        base: place.address(""),
        problem,
        filled,
        projects,
        pools: listed
            .items
            .into_iter()
            .map(|pool| (pool.id.to_string(), pool.name))
            .collect(),
    };
    html_with(status, &page)
}

/// `GET /app/:org/workspaces/new`
pub(super) async fn show(
    State(app): State<App>,
    visitor: Visitor,
    Path(organization): Path<String>,
    params: Params,
) -> Page {
    let mut connection = app.db.read().await?;
    let place = visitor
        .organization(&app, &mut connection, &organization, OrganizationPermission::Read)
        .await?;
    auth::allow(place.standing.creates_workspaces())?;
    let pool = params.get("pool").unwrap_or_default().to_owned();
    let filled = Filled {
        mode: if pool.is_empty() {
            String::new()
        } else {
            "agent".to_owned()
        },
        pool,
        ..Filled::default()
    };
    page(&mut connection, &place, StatusCode::OK, filled, None).await
}

/// What the settings' forms say of mode and pool, as the API takes it.
pub(super) fn execution(fields: &Fields) -> Value {
    match fields.text("mode") {
        "" => json!({"setting-overwrites": {"execution-mode": false, "agent-pool": false}}),
        "agent" => json!({"execution-mode": "agent", "agent-pool-id": fields.text("pool")}),
        mode => json!({"execution-mode": mode}),
    }
}

/// `POST /app/:org/workspaces`
pub(super) async fn create(
    State(app): State<App>,
    Path(organization): Path<String>,
    form: SignedForm,
) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let mut attributes = execution(&fields);
    attributes["name"] = json!(fields.text("name"));
    attributes["description"] = json!(fields.some("description"));
    attributes["engine"] = json!(fields.some("engine"));
    attributes["terraform-version"] = json!(fields.some("version"));
    attributes["source"] = json!("tfe-ui");
    let project = fields.text("project");
    let relationships: &[(&str, &str)] = if project.is_empty() {
        &[]
    } else {
        &[("project", project)]
    };
    let body = request_with(attributes, relationships);
    let caller = visitor.caller.clone();
    let path = Path(organization.clone());
    let made = tfe::workspaces::create(State(app.clone()), caller, path, own_headers(&fields), body).await;
    match made.map_err(WebError::from) {
        Ok(_) => {
            let name = fields.text("name");
            let address = format!("/app/{organization}/workspaces/{name}");
            see_with(&visitor, &address, &format!("Workspace {name} is there."))
        }
        Err(error) => {
            let problem = error.problem()?;
            let mut connection = app.db.read().await?;
            let place = visitor
                .organization(&app, &mut connection, &organization, OrganizationPermission::Read)
                .await?;
            let (status, filled) = (StatusCode::UNPROCESSABLE_ENTITY, Filled::of(&fields));
            page(&mut connection, &place, status, filled, Some(problem)).await
        }
    }
}

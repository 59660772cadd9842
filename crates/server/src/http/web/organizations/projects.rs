//! Projects: groups of workspaces with a default pool.

use askama::Template;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::ProjectId;
use terrapool_store::page::Page as StorePage;
use terrapool_store::pools::{self, PoolFilter, PoolRecord};
use terrapool_store::projects::{self, ProjectFilter, ProjectRecord};

use crate::app::App;
use crate::auth::{OrganizationPermission, ProjectPermission};
use crate::http::answer::Params;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{self, Fields, SignedForm, request};
use crate::http::web::page::{Page, Section, Shell, html_with, see_with};
use crate::http::web::parts::{Icon, words};
use crate::http::web::visitor::Visitor;

#[derive(Template)]
#[template(path = "organization/projects.html")]
struct ProjectsPage {
    shell: Shell,
    may_create: bool,
    may_edit: bool,
    base: String,
    rows: Vec<Row>,
    filled: Filled,
    choices: Vec<(String, String)>,
    problem: Option<String>,
}

struct Row {
    id: String,
    name: String,
    description: String,
    may_edit: bool,
    is_default: bool,
    workspaces: u64,
    runs_on: String,
    pools: String,
}

/// The pools that the workspaces of a project may use because of it.
pub(super) fn usable<'p>(pools: &'p [PoolRecord], project: &ProjectId) -> Vec<&'p PoolRecord> {
    pools
        .iter()
        .filter(|pool| pool.access.organization_scoped || pool.access.allowed_projects.contains(project))
        .collect()
}

#[derive(Default)]
struct Filled {
    id: String,
    name: String,
    description: String,
    runs_on: String,
    is_default: bool,
}

/// A mode and its pool as one value of a list: empty for inherited.
pub(super) fn runs_on(mode: Option<ExecutionMode>, pool: Option<String>) -> String {
    match (mode, pool) {
        (None, _) => String::new(),
        (Some(ExecutionMode::Agent), Some(pool)) => pool,
        (Some(mode), _) => mode.to_string(),
    }
}

/// The choices of such a list.
pub(super) fn choices(pools: &[PoolRecord]) -> Vec<(String, String)> {
    let mut choices = vec![
        ("remote".to_owned(), "in the shared pool".to_owned()),
        ("local".to_owned(), "on the caller’s machine".to_owned()),
    ];
    choices.extend(
        pools
            .iter()
            .map(|pool| (pool.id.to_string(), format!("in pool {}", pool.name))),
    );
    choices
}

/// What a choice says, as the API takes it of projects.
fn execution(choice: &str) -> Value {
    let overwrites = |own: bool| json!({"default-execution-mode": own, "default-agent-pool": own});
    match choice {
        "" => json!({"setting-overwrites": overwrites(false)}),
        "remote" | "local" => {
            json!({"default-execution-mode": choice, "setting-overwrites": overwrites(true)})
        }
        pool => json!({"default-execution-mode": "agent", "default-agent-pool-id": pool}),
    }
}

async fn page(
    app: &App,
    visitor: &Visitor,
    organization: &str,
    edit: Option<&str>,
    refused: Option<(Filled, String)>,
) -> Page {
    let mut connection = app.db.read().await?;
    let place = visitor
        .organization(app, &mut connection, organization, OrganizationPermission::Read)
        .await?;
    let id = &place.organization.id;
    let filter = ProjectFilter {
        sight: place.sight.clone(),
        ..ProjectFilter::default()
    };
    let (records, _) = projects::list(&mut connection, id, &filter, 500, 0).await?;
    let pools = pools::list(
        &mut connection,
        id,
        &PoolFilter::default(),
        &StorePage::first(200),
    )
    .await?
    .items;
    let status = form::status(refused.is_some());
    let (filled, problem) = form::filled(refused, || {
        let chosen = records.iter().find(|record| Some(record.id.as_str()) == edit);
        chosen.map(stored).unwrap_or_default()
    });
    let name_of = |choice: &str| {
        choices(&pools)
            .into_iter()
            .find(|(value, _)| value == choice)
            .map_or_else(|| "as the organization says".to_owned(), |(_, words)| words)
    };
    let row = |record: &ProjectRecord| {
        let usable = usable(&pools, &record.id).into_iter();
        let usable: Vec<String> = usable.map(|pool| pool.name.clone()).collect();
        Row {
            id: record.id.to_string(),
            name: record.name.clone(),
            description: record.description.clone(),
            is_default: record.is_default,
            may_edit: place
                .standing
                .may_in_project(&record.id, ProjectPermission::Manage),
            workspaces: record.workspace_count,
            runs_on: name_of(&stored(record).runs_on),
            pools: if usable.is_empty() {
                "none".to_owned()
            } else {
                words::some(&usable, 3)
            },
        }
    };
    let mut offered = vec![(String::new(), "as the organization says".to_owned())];
    offered.extend(choices(&pools));
    let page = ProjectsPage {
        shell: place.shell(Section::Projects, "Projects"),
        may_create: place.may(OrganizationPermission::CreateProjects),
        may_edit: filled
            .id
            .parse()
            .is_ok_and(|id| place.standing.may_in_project(&id, ProjectPermission::Manage)),
        base: place.address(""),
        rows: records.iter().map(row).collect(),
        choices: offered,
        filled,
        problem,
    };
    html_with(status, &page)
}

fn stored(record: &ProjectRecord) -> Filled {
    let pool = record.default_agent_pool_id.as_ref().map(ToString::to_string);
    Filled {
        id: record.id.to_string(),
        name: record.name.clone(),
        description: record.description.clone(),
        runs_on: runs_on(record.default_execution_mode, pool),
        is_default: record.is_default,
    }
}

/// `GET /app/:org/projects`
pub(super) async fn show(
    State(app): State<App>,
    visitor: Visitor,
    Path(organization): Path<String>,
    params: Params,
) -> Page {
    page(&app, &visitor, &organization, params.get("edit"), None).await
}

/// `POST /app/:org/projects`
pub(super) async fn save(State(app): State<App>, Path(organization): Path<String>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let mut attributes = execution(fields.text("runs-on"));
    attributes["name"] = json!(fields.text("name"));
    attributes["description"] = json!(fields.text("description"));
    let (caller, id) = (visitor.caller.clone(), fields.text("id"));
    let saved = if id.is_empty() {
        let path = Path(organization.clone());
        tfe::projects::create(State(app.clone()), caller, path, request(attributes)).await
    } else {
        tfe::projects::update(
            State(app.clone()),
            caller,
            Path(id.to_owned()),
            request(attributes),
        )
        .await
    };
    match saved.map_err(WebError::from) {
        Ok(_) => see_with(
            &visitor,
            &format!("/app/{organization}/projects"),
            &format!("Project {} is saved.", fields.text("name")),
        ),
        Err(error) => {
            let problem = error.problem()?;
            page(
                &app,
                &visitor,
                &organization,
                None,
                Some((filled(&fields), problem)),
            )
            .await
        }
    }
}

fn filled(fields: &Fields) -> Filled {
    Filled {
        id: fields.text("id").to_owned(),
        name: fields.text("name").to_owned(),
        description: fields.text("description").to_owned(),
        runs_on: fields.text("runs-on").to_owned(),
        is_default: false,
    }
}

/// `POST /app/:org/projects/delete`
pub(super) async fn delete(
    State(app): State<App>,
    Path(organization): Path<String>,
    form: SignedForm,
) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let id = Path(fields.text("id").to_owned());
    tfe::projects::delete(State(app), visitor.caller.clone(), id).await?;
    see_with(
        &visitor,
        &format!("/app/{organization}/projects"),
        "The project is deleted.",
    )
}

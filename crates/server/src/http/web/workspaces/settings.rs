//! Settings of a workspace.

use askama::Template;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use terrapool_model::engine::EngineKind;
use terrapool_model::execution::ExecutionMode;
use terrapool_protocol::job::Limits;
use terrapool_store::overview;
use terrapool_store::page::Page as StorePage;
use terrapool_store::pools::{self, PoolFilter};
use terrapool_store::projects;
use terrapool_store::workspaces::WorkspaceRecord;

use super::create::execution;
use super::frame::{self, Frame, LockEnd, Tab};
use super::origin::Origin;
use crate::app::App;
use crate::auth::{ProjectPermission, WorkspacePermission};
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{self, Fields, SignedForm, request_with};
use crate::http::web::page::{Page, Section, Shell, html_with, see_with};
use crate::http::web::parts::{Code, Icon};
use crate::http::web::pools::status as pool_status;
use crate::http::web::visitor::Visitor;
use crate::waiting;

#[derive(Template)]
#[template(path = "workspace/settings.html")]
struct SettingsPage {
    shell: Shell,
    frame: Frame,
    problem: Option<String>,
    filled: Filled,
    projects: Vec<(String, String)>,
    pools: Vec<(String, String)>,
    /// Pools that it may not use.
    refused: Vec<String>,
    inherited: String,
    /// Who says so.
    origin: Origin,
    pool_memory: u64,
    pool_cpu: u64,
    resources: u64,
    access: String,
    audit: String,
    code: Code,
}

struct Filled {
    name: String,
    description: String,
    project: String,
    mode: String,
    pool: String,
    engine: String,
    version: String,
    memory: String,
    cpu: String,
    auto_apply: bool,
    directory: String,
    shared: bool,
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
            memory: text("memory"),
            cpu: text("cpu"),
            auto_apply: !fields.text("auto").is_empty(),
            directory: text("directory"),
            shared: fields.ticked("shared"),
        }
    }

    fn stored(record: &WorkspaceRecord) -> Self {
        let limit = |name: &str| {
            let number = record.settings.get(name).and_then(Value::as_u64);
            number.map_or_else(String::new, |number| number.to_string())
        };
        let pool = record.agent_pool_id.as_ref();
        Self {
            name: record.name.clone(),
            description: record.description.clone().unwrap_or_default(),
            project: record.project_id.to_string(),
            mode: record
                .execution_mode
                .map_or_else(String::new, |mode| mode.to_string()),
            pool: pool.map_or_else(String::new, ToString::to_string),
            engine: match record.engine {
                EngineKind::Terraform => "terraform",
                EngineKind::Tofu => "tofu",
            }
            .to_owned(),
            version: record.engine_version.clone(),
            memory: limit("memory-mb"),
            cpu: limit("cpu-millis"),
            auto_apply: record.auto_apply,
            directory: record.working_directory.clone(),
            shared: record.global_remote_state,
        }
    }
}

async fn page(
    app: &App,
    visitor: &Visitor,
    names: &(String, String),
    refused: Option<(Filled, String)>,
) -> Page {
    let mut connection = app.db.read().await?;
    let permission = WorkspacePermission::Read;
    let seen = frame::see(app, &mut connection, visitor, names, Tab::Settings, permission).await?;
    let (record, organization) = (&seen.record, &seen.place.organization);
    let listed = pools::list(
        &mut connection,
        &organization.id,
        &PoolFilter::default(),
        &StorePage::first(200),
    )
    .await?;
    let (usable, others): (Vec<_>, Vec<_>) = listed.items.into_iter().partition(|pool| {
        pool.access.allows(&record.id, &record.project_id) || record.agent_pool_id.as_ref() == Some(&pool.id)
    });
    let mut usable_states = Vec::new();
    for pool in usable {
        usable_states.push(waiting::of_pool(&mut connection, pool, seen.now).await?);
    }
    let own_pool = usable_states
        .iter()
        .map(|state| &state.pool)
        .find(|pool| record.effective.agent_pool_id.as_ref() == Some(&pool.id));
    let limits = match own_pool {
        Some(pool) => pool.settings.default_limits,
        None => pools::find_shared(&mut connection)
            .await?
            .map_or_else(Limits::default, |pool| pool.settings.default_limits),
    };
    let project = projects::get(&mut connection, &record.project_id).await?;
    let names_of_pools = overview::pool_names(&mut connection, &organization.id).await?;
    let (mode, pool) = match &project {
        Some(project) if project.default_execution_mode.is_some() => (
            project.default_execution_mode,
            project.default_agent_pool_id.clone(),
        ),
        _ => (
            Some(organization.default_execution_mode),
            organization.default_agent_pool_id.clone(),
        ),
    };
    let inherited = match mode {
        Some(ExecutionMode::Agent) => {
            let name = pool.and_then(|id| names_of_pools.get(&id).cloned());
            format!("pool {}", name.unwrap_or_default())
        }
        Some(ExecutionMode::Local) => "on the caller’s machine".to_owned(),
        Some(ExecutionMode::Remote) | None => "in the shared pool".to_owned(),
    };
    let mut projects = seen
        .place
        .projects(&mut connection, ProjectPermission::CreateWorkspaces)
        .await?;
    let own = record.project_id.to_string();
    if let Some(project) = project
        .as_ref()
        .filter(|_| !projects.iter().any(|(id, _)| *id == own))
    {
        projects.insert(0, (own, project.name.clone()));
    }
    let status = form::status(refused.is_some());
    let (filled, problem) = form::filled(refused, || Filled::stored(record));
    let page = SettingsPage {
        shell: seen.shell("Settings"),
        problem,
        filled,
        projects,
        pools: usable_states
            .iter()
            .map(|state| {
                let about = pool_status::offer(state, seen.now);
                (state.pool.id.to_string(), format!("{}: {about}", state.pool.name))
            })
            .collect(),
        refused: others.into_iter().map(|pool| pool.name).collect(),
        inherited,
        origin: Origin::inherited(project.as_ref(), organization),
        pool_memory: limits.memory_mb,
        pool_cpu: limits.cpu_millis,
        resources: record.resource_count,
        access: seen.place.address(&format!("/access?workspace={}", record.name)),
        audit: seen.place.address(&format!("/audit?q={}", record.id)),
        code: as_code(record),
        frame: seen.frame,
    };
    html_with(status, &page)
}

fn as_code(record: &WorkspaceRecord) -> Code {
    let mut text = format!(
        "resource \"tfe_workspace_settings\" \"this\" {{\n  workspace_id   = \"{}\"\n  execution_mode = \"{}\"\n",
        record.id, record.effective.execution_mode
    );
    if let Some(pool) = &record.effective.agent_pool_id {
        text.push_str(&format!("  agent_pool_id  = \"{pool}\"\n"));
    }
    text.push('}');
    Code::new("tfe", text)
}

/// `GET /app/:org/workspaces/:name/settings`
pub(super) async fn show(
    State(app): State<App>,
    visitor: Visitor,
    Path(names): Path<(String, String)>,
) -> Page {
    page(&app, &visitor, &names, None).await
}

/// `POST /app/:org/workspaces/:name/settings`
pub(super) async fn save(
    State(app): State<App>,
    Path(names): Path<(String, String)>,
    form: SignedForm,
) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let (place, record) = frame::opened(&app, &visitor, &names, WorkspacePermission::Manage).await?;
    let mut attributes = execution(&fields);
    attributes["name"] = json!(fields.text("name"));
    attributes["description"] = json!(fields.some("description"));
    attributes["engine"] = json!(fields.text("engine"));
    attributes["terraform-version"] = json!(fields.text("version"));
    attributes["working-directory"] = json!(fields.text("directory"));
    attributes["auto-apply"] = json!(!fields.text("auto").is_empty());
    attributes["global-remote-state"] = json!(fields.ticked("shared"));
    for (field, attribute) in [("memory", "memory-mb"), ("cpu", "cpu-millis")] {
        attributes[attribute] = match fields.some(field) {
            None => Value::Null,
            // What is no number is refused by its text.
            Some(text) => text
                .parse::<u64>()
                .map_or_else(|_| json!(text), |number| json!(number)),
        };
    }
    let body = request_with(attributes, &[("project", fields.text("project"))]);
    let (caller, id) = (visitor.caller.clone(), Path(record.id.to_string()));
    match tfe::workspaces::update(State(app.clone()), caller, id, body)
        .await
        .map_err(WebError::from)
    {
        Ok(_) => {
            let address = place.address(&format!("/workspaces/{}/settings", fields.text("name")));
            see_with(&visitor, &address, "The settings are saved.")
        }
        Err(error) => {
            let problem = error.problem()?;
            page(&app, &visitor, &names, Some((Filled::of(&fields), problem))).await
        }
    }
}

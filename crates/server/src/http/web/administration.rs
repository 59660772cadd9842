//! The installation itself: for site administrators.

use askama::Template;
use axum::extract::State;
use serde_json::json;
use terrapool_store::organizations::{self, Visible};
use terrapool_store::page::Page as StorePage;
use terrapool_store::{agent_tokens, audit, gauges, installation, overview, pools, users};

use super::error::WebError;
use super::form::{self, SignedForm};
use super::organizations::audit::{Asked, page as audit_page};
use super::organizations::audit_export;
use super::page::{Page, Section, Shell, html, html_with, see_with};
use super::parts::status::{self as statuses, Status};
use super::parts::time::Ago;
use super::parts::words::{self, megabytes};
use super::parts::{Code, Icon};
use super::pools::{status, tokens};
use super::visitor::Visitor;
use crate::admin::{self, AdminError};
use crate::app::App;
use crate::http::answer::Params;
use crate::http::error::ApiError;
use crate::http::routes::{Routes, get, post};
use crate::{shared_agent, waiting};

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new()
        .route("/app/admin", get(show))
        .route("/app/admin/shared-token", post(create_shared_token))
        .route("/app/admin/shared-token/revoke", post(revoke_shared_token))
        .route("/app/admin/users/disable", post(disable_user))
        .route("/app/admin/users/enable", post(enable_user))
        .route("/app/admin/audit", get(show_audit))
        .route("/app/admin/audit/export", get(export_audit))
}

#[derive(Template)]
#[template(path = "admin/admin.html")]
struct AdminPage {
    shell: Shell,
    new: Option<Code>,
    problem: Option<String>,
    /// Tokens of the shared pool.
    rows: Vec<tokens::Row>,
    /// Where one is revoked.
    revoke: &'static str,
    shared: Option<Shared>,
    organizations: Vec<(String, String)>,
    users: Vec<Account>,
    facts: Vec<(&'static str, String)>,
}

struct Account {
    username: String,
    email: String,
    site_admin: bool,
    has_password: bool,
    enabled: bool,
    /// Of the one who looks.
    own: bool,
}

struct Shared {
    status: Status,
    reason: String,
    paused: bool,
    agents: Vec<SharedAgent>,
    waiting: Vec<(Status, String, String)>,
    /// How many wait behind those.
    unlisted: Option<String>,
}

struct SharedAgent {
    id: String,
    name: String,
    status: Status,
    slots: String,
    memory: String,
    version: String,
    seen: Ago,
    /// A person wants it drained.
    drained: bool,
}

/// Others are told that there is nothing.
pub(super) fn require_administrator(visitor: &Visitor) -> Result<(), WebError> {
    if visitor.user.site_admin {
        Ok(())
    } else {
        Err(WebError::not_found())
    }
}

async fn page(app: &App, visitor: &Visitor, new: Option<Code>, problem: Option<String>) -> Page {
    let mut connection = app.db.read().await?;
    let now = app.now();
    let mut rows = Vec::new();
    let shared = match pools::find_shared(&mut connection).await? {
        None => None,
        Some(pool) => {
            let needs = pool.settings.default_limits.memory_mb;
            let state = waiting::of_pool(&mut connection, pool, now).await?;
            let (status, reason) = status::of(&state, now);
            let valid = agent_tokens::list(&mut connection, &state.pool.id, &StorePage::first(200)).await?;
            let creators = valid.items.iter().filter_map(|token| token.created_by.clone());
            let creators = overview::user_names(&mut connection, creators).await?;
            rows = tokens::rows(&state, &valid.items, &creators, now);
            Some(Shared {
                status,
                reason,
                paused: state.pool.settings.paused,
                agents: state
                    .agents
                    .iter()
                    .map(|agent| {
                        let capacity = &agent.capacity;
                        SharedAgent {
                            id: agent.id.to_string(),
                            name: agent.name.clone(),
                            status: statuses::of_agent(agent, now, needs, &state.pool.settings.times),
                            slots: format!("{} of {} free", capacity.free_slots, capacity.slots),
                            memory: format!(
                                "{} of {}",
                                megabytes(capacity.free_memory_mb),
                                megabytes(capacity.memory_mb)
                            ),
                            version: agent.version.clone(),
                            seen: Ago::new(agent.last_ping_at, now),
                            drained: agent.drain_wanted,
                        }
                    })
                    .collect(),
                unlisted: words::more_runs(state.unlisted()),
                waiting: state
                    .queue
                    .iter()
                    .map(|(waiting, reason)| {
                        (
                            statuses::of_wait(reason),
                            format!("{}/{}", waiting.job.organization, waiting.job.workspace),
                            waiting::words(reason),
                        )
                    })
                    .collect(),
            })
        }
    };
    let (found, _) = organizations::list(&mut connection, &Visible::All, None, 500, 0).await?;
    let counted = gauges::read(&mut connection).await?;
    let installation = installation::get(&mut connection).await?;
    let mut facts = vec![
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Address", app.config.public_url.clone()),
        (
            "Database",
            if app.db.is_postgres() {
                "PostgreSQL"
            } else {
                "SQLite"
            }
            .to_owned(),
        ),
        ("Workspaces", counted.workspaces.to_string()),
        ("Locked", counted.workspaces_locked.to_string()),
        ("Agents", counted.agents.to_string()),
    ];
    if let Some(installation) = installation {
        facts.push(("Incarnation", installation.incarnation.to_string()));
        facts.push(("Installation", installation.id.to_string()));
    }
    let status = form::status(problem.is_some());
    let page = AdminPage {
        problem,
        shell: Shell::new(visitor, Section::Admin, "Administration"),
        new,
        rows,
        revoke: "/app/admin/shared-token/revoke",
        shared,
        organizations: found
            .into_iter()
            .map(|organization| (organization.name, organization.email))
            .collect(),
        users: users::all(&mut connection)
            .await?
            .into_iter()
            .map(|user| Account {
                enabled: user.is_enabled(),
                own: user.id == visitor.user.id,
                username: user.username,
                email: user.email,
                site_admin: user.site_admin,
                has_password: user.password_hash.is_some(),
            })
            .collect(),
        facts,
    };
    html_with(status, &page)
}

/// `GET /app/admin`
async fn show(State(app): State<App>, visitor: Visitor) -> Page {
    require_administrator(&visitor)?;
    page(&app, &visitor, None, None).await
}

/// `POST /app/admin/shared-token`
async fn create_shared_token(State(app): State<App>, form: SignedForm) -> Page {
    let visitor = form.visitor;
    require_administrator(&visitor)?;
    let secret = shared_agent::create_token(&app, "made in the web UI").await?;
    let actor = visitor.caller.audit_name();
    app.db
        .write(move |tx| {
            let actor = actor.clone();
            Box::pin(async move {
                audit::record(tx, None, &actor, "agent-token.create", "shared", &json!({})).await?;
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    let new = Code::new("shared-token", secret.expose());
    page(&app, &visitor, Some(new), None).await
}

/// `POST /app/admin/shared-token/revoke`
async fn revoke_shared_token(State(app): State<App>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    require_administrator(&visitor)?;
    let pool = pools::find_shared(&mut app.db.read().await?)
        .await?
        .ok_or_else(WebError::not_found)?;
    match tokens::revoke_as_sent(&app, &visitor, &pool, &fields).await? {
        Err(problem) => page(&app, &visitor, None, Some(problem)).await,
        Ok(said) => see_with(&visitor, "/app/admin", &said),
    }
}

/// `POST /app/admin/users/disable`
async fn disable_user(State(app): State<App>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    require_administrator(&visitor)?;
    let name = fields.text("user");
    if name == visitor.user.username {
        let problem = "You can't disable your own account: another site administrator can.".to_owned();
        return page(&app, &visitor, None, Some(problem)).await;
    }
    let done = admin::disable_user(&app, name, &visitor.caller.audit_name()).await;
    let said = format!("{name} is disabled: signed out everywhere, and no token of theirs is accepted.");
    changed_user(&app, &visitor, done, &said).await
}

/// `POST /app/admin/users/enable`
async fn enable_user(State(app): State<App>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    require_administrator(&visitor)?;
    let name = fields.text("user");
    let done = admin::enable_user(&app, name, &visitor.caller.audit_name()).await;
    let said = format!("{name} is enabled.");
    changed_user(&app, &visitor, done, &said).await
}

async fn changed_user(app: &App, visitor: &Visitor, done: Result<(), AdminError>, said: &str) -> Page {
    match done {
        Ok(()) => see_with(visitor, "/app/admin", said),
        Err(AdminError::Store(error)) => Err(ApiError::from(error).into()),
        Err(refused) => page(app, visitor, None, Some(refused.to_string())).await,
    }
}

/// `GET /app/admin/audit`
async fn show_audit(State(app): State<App>, visitor: Visitor, params: Params) -> Page {
    require_administrator(&visitor)?;
    let mut connection = app.db.read().await?;
    let shell = Shell::new(&visitor, Section::Admin, "Audit log").behind("Administration", "/app/admin");
    let path = "/app/admin/audit".to_owned();
    let page = audit_page(&mut connection, shell, path, None, Asked::of(&params), app.now()).await?;
    html(&page)
}

/// `GET /app/admin/audit/export`
async fn export_audit(State(app): State<App>, visitor: Visitor, params: Params) -> Page {
    require_administrator(&visitor)?;
    audit_export::of(&mut app.db.read().await?, None, &params).await
}

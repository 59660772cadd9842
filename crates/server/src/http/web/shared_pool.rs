//! Settings of the shared pool, and what site administrators do with its agents.

use askama::Template;
use axum::extract::{Path, State};
use terrapool_store::db::Connection;
use terrapool_store::pools::{self, PoolRecord};

use super::administration::require_administrator;
use super::error::WebError;
use super::form::{self, SignedForm};
use super::page::{Page, Section, Shell, html_with, see_with};
use super::parts::Icon;
use super::pools::settings::{self, Refused, SettingsForm};
use super::visitor::Visitor;
use crate::app::App;
use crate::http::routes::{Routes, get, post};
use crate::http::tfe;

/// The page, and where its form is sent to.
const ADDRESS: &str = "/app/admin/shared-pool";

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new()
        .route(ADDRESS, get(show).post(save))
        .route("/app/admin/shared-pool/pause", post(pause))
        .route("/app/admin/shared-pool/agents/{agent}/drain", post(drain))
        .route("/app/admin/shared-pool/agents/{agent}/resume", post(resume))
}

#[derive(Template)]
#[template(path = "admin/shared-pool.html")]
struct SharedPoolPage {
    shell: Shell,
    problem: Option<String>,
    form: SettingsForm,
}

/// It is made when the first agent or run needs it: until then there is nothing to set.
async fn found(connection: &mut Connection) -> Result<PoolRecord, WebError> {
    pools::find_shared(connection)
        .await?
        .ok_or_else(WebError::not_found)
}

async fn page(app: &App, visitor: &Visitor, refused: Option<Refused>) -> Page {
    let mut connection = app.db.read().await?;
    let pool = found(&mut connection).await?;
    let status = form::status(refused.is_some());
    let (form, problem) =
        SettingsForm::of(&mut connection, &pool, ADDRESS.to_owned(), refused, app.now()).await?;
    let page = SharedPoolPage {
        shell: Shell::new(visitor, Section::Admin, "Settings of the shared pool")
            .behind("Administration", "/app/admin"),
        problem,
        form,
    };
    html_with(status, &page)
}

/// `GET /app/admin/shared-pool`
async fn show(State(app): State<App>, visitor: Visitor) -> Page {
    require_administrator(&visitor)?;
    page(&app, &visitor, None).await
}

/// `POST /app/admin/shared-pool`
async fn save(State(app): State<App>, form: SignedForm) -> Page {
    let visitor = form.visitor;
    require_administrator(&visitor)?;
    let pool = found(&mut app.db.read().await?).await?;
    match settings::save_as_sent(&app, &visitor, &pool, &form.fields).await? {
        Err(refused) => page(&app, &visitor, Some(refused)).await,
        Ok(()) => see_with(&visitor, ADDRESS, "The settings are saved."),
    }
}

/// `POST /app/admin/shared-pool/pause`
async fn pause(State(app): State<App>, form: SignedForm) -> Page {
    let visitor = form.visitor;
    require_administrator(&visitor)?;
    let pool = found(&mut app.db.read().await?).await?;
    let said = settings::pause_as_sent(&app, &visitor, pool.id.to_string(), &form.fields).await?;
    see_with(&visitor, "/app/admin", said)
}

/// The id of one of the shared pool's agents; those of organizations are not this page's.
async fn agent(app: &App, id: String) -> Result<Path<String>, WebError> {
    let mut connection = app.db.read().await?;
    let pool = found(&mut connection).await?;
    let parsed = id.parse().map_err(|_| WebError::not_found())?;
    terrapool_store::agents::get(&mut connection, &parsed)
        .await?
        .filter(|agent| agent.pool_id == pool.id)
        .ok_or_else(WebError::not_found)?;
    Ok(Path(id))
}

/// `POST /app/admin/shared-pool/agents/:agent/drain`
async fn drain(State(app): State<App>, Path(id): Path<String>, form: SignedForm) -> Page {
    let visitor = form.visitor;
    require_administrator(&visitor)?;
    let id = agent(&app, id).await?;
    tfe::agents::drain(State(app), visitor.caller.clone(), id).await?;
    let said = "The agent takes no new run. What it holds goes on to its end.";
    see_with(&visitor, "/app/admin", said)
}

/// `POST /app/admin/shared-pool/agents/:agent/resume`
async fn resume(State(app): State<App>, Path(id): Path<String>, form: SignedForm) -> Page {
    let visitor = form.visitor;
    require_administrator(&visitor)?;
    let id = agent(&app, id).await?;
    tfe::agents::resume(State(app), visitor.caller.clone(), id).await?;
    see_with(&visitor, "/app/admin", "The agent takes runs again.")
}

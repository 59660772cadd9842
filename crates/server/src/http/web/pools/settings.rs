//! Settings of a pool.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use terrapool_model::time::Timestamp;
use terrapool_protocol::job::SandboxNetwork;
use terrapool_store::db::Connection;
use terrapool_store::overview;
use terrapool_store::pools::{self, PoolRecord, PoolSettings};

use super::figures;
use super::frame::{self, Frame, Names, Seen, Tab};
use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{Fields, SignedForm, request};
use crate::http::web::page::{Page, Section, Shell, html_with, see_with};
use crate::http::web::parts::time::Day;
use crate::http::web::parts::{Icon, words};
use crate::http::web::visitor::Visitor;
use crate::http::web::workspaces::require_name;

/// Milliseconds of a minute.
const MINUTE: u64 = 60_000;
/// Seconds of a minute.
const SECONDS: u64 = 60;

#[derive(Template)]
#[template(path = "pool/settings.html")]
struct SettingsPage {
    shell: Shell,
    frame: Frame,
    problem: Option<String>,
    filled: Filled,
    peaks: String,
    created: Day,
    users: Vec<String>,
    networks: &'static [(&'static str, &'static str)],
}

/// The choices of a sandbox's network, as the API names them, and their words.
const NETWORKS: [(&str, &str); 3] = [
    ("closed", "Everything but the clouds’ metadata services"),
    (
        "metadata",
        "The metadata services too: runs may use the host’s cloud identity",
    ),
    ("none", "Nothing at all"),
];

fn name_of(network: SandboxNetwork) -> &'static str {
    match network {
        SandboxNetwork::Closed => "closed",
        SandboxNetwork::Metadata => "metadata",
        SandboxNetwork::None => "none",
    }
}

struct Filled {
    name: String,
    memory: String,
    cpu: String,
    image: String,
    network: String,
    grace: String,
    contact: String,
}

impl Filled {
    fn of(fields: &Fields) -> Self {
        let text = |name: &str| fields.text(name).to_owned();
        Self {
            name: text("name"),
            memory: text("memory"),
            cpu: text("cpu"),
            image: text("image"),
            network: text("network"),
            grace: text("grace"),
            contact: text("contact"),
        }
    }

    fn stored(name: &str, settings: &PoolSettings) -> Self {
        let limits = &settings.default_limits;
        let contact = settings.times.contact_limit_apply;
        Self {
            name: name.to_owned(),
            memory: limits.memory_mb.to_string(),
            cpu: limits.cpu_millis.to_string(),
            image: settings.image.clone().unwrap_or_default(),
            network: name_of(settings.sandbox_network).to_owned(),
            grace: (settings.times.grace_apply.0 / MINUTE).to_string(),
            contact: contact.map_or_else(String::new, |limit| (limit.0 / MINUTE).to_string()),
        }
    }
}

/// What the API is asked to set. What is no number is sent as it was typed: the API says what it wants.
fn wanted(pool: &PoolRecord, fields: &Fields) -> Value {
    let number = |name: &str, times: u64| match fields.number::<u64>(name) {
        Some(number) => json!(number.saturating_mul(times)),
        None => json!(fields.text(name)),
    };
    let contact = match fields.text("contact") {
        "" => Value::Null,
        _ => number("contact", SECONDS),
    };
    let mut sandbox = json!({
        "memory-mb": number("memory", 1),
        "cpu-millis": number("cpu", 1),
        "network": fields.text("network"),
    });
    // One that was set before it had to be pinned may stay.
    let image = fields.some("image");
    if image != pool.settings.image {
        sandbox["image"] = json!(image);
    }
    json!({
        "name": fields.text("name"),
        "sandbox": sandbox,
        "lease-times": {"apply-grace": number("grace", SECONDS), "apply-contact-limit": contact},
    })
}

async fn peaks(connection: &mut Connection, seen: &Seen) -> Result<String, WebError> {
    let since = Timestamp(seen.now.0 - 30 * 24 * 3_600_000);
    let jobs = overview::finished_since(connection, &seen.pool().id, since, figures::MOST).await?;
    let mut peaks: Vec<u64> = jobs
        .iter()
        .filter_map(|job| job.usage?.peak_memory_bytes)
        .map(|bytes| bytes >> 20)
        .collect();
    peaks.sort_unstable();
    let at = |hundredth: usize| peaks.get((peaks.len() * hundredth).div_ceil(100).saturating_sub(1));
    Ok(match (at(95), peaks.last()) {
        (Some(p95), Some(most)) => format!(
            "Peak of the last 30 days: {} for 95 of 100 jobs, {} at most.",
            words::megabytes(*p95),
            words::megabytes(*most)
        ),
        _ => String::new(),
    })
}

async fn page(app: &App, visitor: &Visitor, names: &Names, refused: Option<(Filled, String)>) -> Page {
    let mut connection = app.db.read().await?;
    let seen = frame::see(app, &mut connection, visitor, names, Tab::Settings).await?;
    let users = pools::workspaces(&mut connection, &seen.pool().id).await?;
    let peaks = peaks(&mut connection, &seen).await?;
    let status = if refused.is_some() {
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::OK
    };
    let (filled, problem) = match refused {
        Some((filled, problem)) => (filled, Some(problem)),
        None => (Filled::stored(&seen.pool().name, &seen.pool().settings), None),
    };
    let page = SettingsPage {
        shell: seen.shell("Settings"),
        problem,
        filled,
        peaks,
        created: Day::new(seen.pool().created_at, seen.now),
        users: users.into_iter().map(|(_, name)| name).collect(),
        networks: &NETWORKS,
        frame: seen.frame,
    };
    html_with(status, &page)
}

/// `GET /app/:org/agent-pools/:id/settings`
pub(super) async fn show(State(app): State<App>, visitor: Visitor, Path(names): Path<Names>) -> Page {
    page(&app, &visitor, &names, None).await
}

/// `POST /app/:org/agent-pools/:id/settings`
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
    let (caller, id) = (visitor.caller.clone(), Path(pool.id.to_string()));
    let body = request(wanted(&pool, &fields));
    if let Err(error) = tfe::agent_pools::update(State(app.clone()), caller, id, body).await {
        let problem = WebError::from(error).problem()?;
        return page(&app, &visitor, &names, Some((Filled::of(&fields), problem))).await;
    }
    let address = place.address(&format!("/agent-pools/{}/settings", pool.id));
    see_with(&visitor, &address, "The settings are saved.")
}

/// `POST /app/:org/agent-pools/:id/pause`
pub(super) async fn pause(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (visitor, paused) = (form.visitor, form.fields.text("paused") == "yes");
    let (caller, id) = (visitor.caller.clone(), Path(names.1.clone()));
    tfe::agent_pools::update(State(app), caller, id, request(json!({"paused": paused}))).await?;
    let said = if paused {
        "The pool is paused. What runs goes on; nothing new is given out."
    } else {
        "The pool gives out runs again."
    };
    see_with(
        &visitor,
        &format!("/app/{}/agent-pools/{}", names.0, names.1),
        said,
    )
}

/// `POST /app/:org/agent-pools/:id/delete`
pub(super) async fn delete(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
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
    require_name(fields.text("name"), &pool.name)?;
    let id = Path(pool.id.to_string());
    tfe::agent_pools::delete(State(app), visitor.caller.clone(), id).await?;
    let said = format!("Pool {} is deleted.", pool.name);
    see_with(&visitor, &place.address("/agent-pools"), &said)
}

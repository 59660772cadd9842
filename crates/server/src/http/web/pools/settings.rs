//! Settings of a pool.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Path, State};
use serde_json::{Map, Value, json};
use terrapool_model::id::AgentPoolId;
use terrapool_model::image::PinnedImage;
use terrapool_model::time::{Millis, Timestamp};
use terrapool_protocol::job::{Limit, SandboxNetwork, SandboxProxy};
use terrapool_store::db::Connection;
use terrapool_store::overview;
use terrapool_store::pools::{self, PoolRecord, PoolSettings};

use super::frame::{self, Frame, Names, Tab};
use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{self, Fields, SignedForm, request};
use crate::http::web::page::{Page, Section, Shell, html_with, see_with};
use crate::http::web::parts::time::Day;
use crate::http::web::parts::{Icon, words};
use crate::http::web::retyped::require_name;
use crate::http::web::visitor::Visitor;

/// Seconds of a minute.
const SECONDS: u64 = 60;

#[derive(Template)]
#[template(path = "pool/settings.html")]
struct SettingsPage {
    shell: Shell,
    frame: Frame,
    problem: Option<String>,
    form: SettingsForm,
    created: Day,
    users: Vec<String>,
}

/// The form with a pool's settings.
pub(in crate::http::web) struct SettingsForm {
    /// Where it is sent to.
    pub(in crate::http::web) action: String,
    /// The pool has a name of its own.
    pub(in crate::http::web) named: bool,
    pub(in crate::http::web) filled: Filled,
    /// What runs of the pool needed lately.
    pub(in crate::http::web) peaks: String,
    pub(in crate::http::web) networks: &'static [(&'static str, &'static str)],
}

/// What was sent and is not saved, and why not.
pub(in crate::http::web) type Refused = (Filled, String);

impl SettingsForm {
    /// The form of a pool, filled with what is stored or with what was refused, and what is wrong with that.
    pub(in crate::http::web) async fn of(
        connection: &mut Connection,
        pool: &PoolRecord,
        action: String,
        refused: Option<Refused>,
        now: Timestamp,
    ) -> Result<(Self, Option<String>), WebError> {
        let peaks = peaks(connection, &pool.id, now).await?;
        let (filled, problem) = form::filled(refused, || Filled::stored(&pool.name, &pool.settings));
        let form = Self {
            action,
            named: pool.organization_id.is_some(),
            filled,
            peaks,
            networks: &NETWORKS,
        };
        Ok((form, problem))
    }
}

/// Saves what was sent for a pool by the API's handler, which says who may.
pub(in crate::http::web) async fn save_as_sent(
    app: &App,
    visitor: &Visitor,
    pool: &PoolRecord,
    fields: &Fields,
) -> Result<Result<(), Refused>, WebError> {
    let (caller, id) = (visitor.caller.clone(), Path(pool.id.to_string()));
    let body = request(wanted(pool, fields));
    match tfe::agent_pools::update(State(app.clone()), caller, id, body).await {
        Ok(_) => Ok(Ok(())),
        Err(error) => Ok(Err((Filled::of(fields), WebError::from(error).problem()?))),
    }
}

/// Pauses a pool, or ends that, as the form says. Answers what to tell.
pub(in crate::http::web) async fn pause_as_sent(
    app: &App,
    visitor: &Visitor,
    pool: String,
    fields: &Fields,
) -> Result<&'static str, WebError> {
    let paused = fields.text("paused") == "yes";
    let body = request(json!({"paused": paused}));
    tfe::agent_pools::update(State(app.clone()), visitor.caller.clone(), Path(pool), body).await?;
    Ok(if paused {
        "The pool is paused. What runs goes on; nothing new is given out."
    } else {
        "The pool gives out runs again."
    })
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

/// A number of the form: its field, the setting that it is, and how many of the setting's units are one of the field's.
struct Number {
    field: &'static str,
    setting: &'static str,
    times: u64,
}

const fn number(field: &'static str, setting: &'static str, times: u64) -> Number {
    Number {
        field,
        setting,
        times,
    }
}

/// The limits that the form sets; those that are left out are set by the API.
const NUMBERS: [Number; 8] = [
    number("memory", "memory-mb", 1),
    number("cpu", "cpu-millis", 1),
    number("most-memory", "maximum-memory-mb", 1),
    number("most-cpu", "maximum-cpu-millis", 1),
    number("plan", "plan-seconds", SECONDS),
    number("apply", "apply-seconds", SECONDS),
    number("silence", "silence-seconds", SECONDS),
    number("log", "log-mb", 1),
];

impl Number {
    /// What is stored, as the field has it; empty where there is no limit.
    fn stored(&self, settings: &PoolSettings) -> String {
        let value = match self.setting.strip_prefix("maximum-") {
            Some(name) => Limit::of(name).and_then(|limit| settings.maximum_limits.get(limit)),
            None => Limit::of(self.setting).and_then(|limit| limit.get(&settings.default_limits)),
        };
        value.map_or_else(String::new, |value| value.div_ceil(self.times).to_string())
    }
}

/// A number as it is sent. What is no number is sent as it was typed: the API says what it wants.
fn typed(text: &str, times: u64) -> Value {
    match text.parse::<u64>() {
        _ if text.is_empty() => Value::Null,
        Ok(number) => json!(number.saturating_mul(times)),
        Err(_) => json!(text),
    }
}

/// Texts of the form.
const TEXTS: [&str; 6] = ["name", "image", "images", "root", "network", "proxy"];

/// The times of the form: field, setting, and how many seconds are one of the field's units.
const TIMES: [(&str, &str, u64); 4] = [
    ("grace", "apply-grace", SECONDS),
    ("contact", "apply-contact-limit", SECONDS),
    ("plan-lease", "plan-lease", 1),
    ("apply-lease", "apply-lease", 1),
];

/// What is in the form.
pub(in crate::http::web) struct Filled(BTreeMap<&'static str, String>);

impl Filled {
    /// The text of a field.
    pub(in crate::http::web) fn get(&self, field: &str) -> &str {
        self.0.get(field).map_or("", String::as_str)
    }

    fn of(fields: &Fields) -> Self {
        let names = TEXTS
            .into_iter()
            .chain(NUMBERS.map(|number| number.field))
            .chain(TIMES.map(|(field, _, _)| field));
        Self(
            names
                .filter(|name| fields.ticked(name))
                .map(|name| (name, fields.text(name).replace("\r\n", "\n")))
                .collect(),
        )
    }

    fn stored(name: &str, settings: &PoolSettings) -> Self {
        let images: Vec<&str> = settings.images.iter().map(PinnedImage::as_str).collect();
        let mut texts = BTreeMap::from([
            ("name", name.to_owned()),
            ("image", settings.image.clone().unwrap_or_default()),
            ("images", images.join("\n")),
            ("network", name_of(settings.sandbox_network).to_owned()),
            (
                "proxy",
                match settings.sandbox_proxy {
                    SandboxProxy::None => "none",
                    SandboxProxy::Agent => "agent",
                }
                .to_owned(),
            ),
            (
                "root",
                if settings.root_refused { "no" } else { "yes" }.to_owned(),
            ),
        ]);
        let times = &settings.times;
        let stored = [
            Some(times.grace_apply),
            times.contact_limit_apply,
            Some(times.lease_plan),
            Some(times.lease_apply),
        ];
        texts.extend(TIMES.iter().zip(stored).map(|((field, _, seconds), time)| {
            let units = |time: Millis| (time.0 / 1000).div_ceil(*seconds).to_string();
            (*field, time.map_or_else(String::new, units))
        }));
        texts.extend(NUMBERS.map(|number| (number.field, number.stored(settings))));
        Self(texts)
    }
}

/// What the API is asked to set: what was sent and is not as it was. The form shows minutes where the API has seconds, and an image
/// that was set before it had to be pinned may stay.
fn wanted(pool: &PoolRecord, fields: &Fields) -> Value {
    let (before, after) = (Filled::stored(&pool.name, &pool.settings), Filled::of(fields));
    let changed = |name: &str| {
        let text = after.0.get(name).map(String::as_str);
        text.filter(|text| *text != before.get(name))
    };
    let mut sandbox = Map::new();
    for Number {
        field,
        setting,
        times,
    } in NUMBERS
    {
        if let Some(text) = changed(field) {
            sandbox.insert(setting.to_owned(), typed(text, times));
        }
    }
    for name in ["network", "proxy"] {
        if let Some(choice) = changed(name) {
            sandbox.insert(name.to_owned(), json!(choice));
        }
    }
    if let Some(image) = changed("image") {
        sandbox.insert(
            "image".to_owned(),
            json!(Some(image).filter(|name| !name.is_empty())),
        );
    }
    if let Some(images) = changed("images") {
        let images: Vec<&str> = images.split_whitespace().collect();
        sandbox.insert("images".to_owned(), json!(images));
    }
    if let Some(root) = changed("root") {
        sandbox.insert("root-allowed".to_owned(), json!(root == "yes"));
    }
    let mut times = Map::new();
    for (field, setting, seconds) in TIMES {
        if let Some(text) = changed(field) {
            times.insert(setting.to_owned(), typed(text, seconds));
        }
    }
    let mut attributes = json!({"sandbox": sandbox, "lease-times": times});
    // The shared pool's is not in the form.
    if let Some(name) = changed("name").filter(|_| pool.organization_id.is_some()) {
        attributes["name"] = json!(name);
    }
    attributes
}

/// Jobs whose memory is looked at.
const COUNTED: u32 = 5000;

async fn peaks(connection: &mut Connection, pool: &AgentPoolId, now: Timestamp) -> Result<String, WebError> {
    let since = Timestamp(now.0 - 30 * 24 * 3_600_000);
    let jobs = overview::finished_since(connection, pool, since, COUNTED).await?;
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

async fn page(app: &App, visitor: &Visitor, names: &Names, refused: Option<Refused>) -> Page {
    let mut connection = app.db.read().await?;
    let seen = frame::see(app, &mut connection, visitor, names, Tab::Settings).await?;
    let users = pools::workspaces(&mut connection, &seen.pool().id).await?;
    let status = form::status(refused.is_some());
    let action = format!("{}/settings", seen.frame.base);
    let (form, problem) = SettingsForm::of(&mut connection, seen.pool(), action, refused, seen.now).await?;
    let page = SettingsPage {
        shell: seen.shell("Settings"),
        problem,
        form,
        created: Day::new(seen.pool().created_at, seen.now),
        users: users.into_iter().map(|(_, name)| name).collect(),
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
    if let Err(refused) = save_as_sent(&app, &visitor, &pool, &fields).await? {
        return page(&app, &visitor, &names, Some(refused)).await;
    }
    let address = place.address(&format!("/agent-pools/{}/settings", pool.id));
    see_with(&visitor, &address, "The settings are saved.")
}

/// `POST /app/:org/agent-pools/:id/pause`
pub(super) async fn pause(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let visitor = form.visitor;
    let said = pause_as_sent(&app, &visitor, names.1.clone(), &form.fields).await?;
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
    let settings = place.address(&format!("/agent-pools/{}/settings", pool.id));
    require_name(&fields, &pool.name, "Delete the pool", &settings)?;
    let id = Path(pool.id.to_string());
    tfe::agent_pools::delete(State(app), visitor.caller.clone(), id).await?;
    let said = format!("Pool {} is deleted.", pool.name);
    see_with(&visitor, &place.address("/agent-pools"), &said)
}

//! The audit log.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::extract::{Path, State};
use chrono::{Days, NaiveDate, NaiveTime};
use serde_json::{Map, Value};
use terrapool_model::id::UserId;
use terrapool_model::time::Timestamp;
use terrapool_store::audit::{self, AuditFilter, AuditRecord, Before};
use terrapool_store::db::Connection;
use terrapool_store::overview;
use terrapool_tfe::time::iso8601;

use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::answer::Params;
use crate::http::web::error::WebError;
use crate::http::web::page::{Page, Section, Shell, html};
use crate::http::web::paging::with_query;
use crate::http::web::parts::time::{Clock, Day};
use crate::http::web::parts::{Icon, NamedIcon, Tone};
use crate::http::web::visitor::Visitor;

/// Entries of a page.
const ROWS: u32 = 50;

/// Kinds: value in the address, word, what their actions begin with.
const KINDS: [(&str, &str, &[&str]); 6] = [
    ("", "Everything", &[]),
    ("runs", "Runs", &["run."]),
    (
        "workspaces",
        "Workspaces, variables and states",
        &["workspace.", "variable.", "state", "configuration-version."],
    ),
    ("agents", "Pools, agents and tokens", &["agent", "token."]),
    (
        "organization",
        "Organization and projects",
        &["organization.", "project."],
    ),
    (
        "people",
        "People, teams and sign-in",
        &["sign", "session.", "user.", "membership.", "team"],
    ),
];

#[derive(Template)]
#[template(path = "organization/audit.html")]
pub(in crate::http::web) struct AuditPage {
    shell: Shell,
    path: String,
    query: String,
    /// First and last day.
    from: String,
    to: String,
    filtered: bool,
    kinds: Vec<(&'static str, &'static str, bool)>,
    rows: Vec<Row>,
    older: Option<String>,
    export: String,
}

struct Row {
    day: Day,
    clock: Clock,
    icon: &'static str,
    kind: &'static str,
    actor: String,
    tone: Tone,
    action: String,
    times: u32,
    subject: String,
    address: Option<String>,
    detail: String,
    /// The entry's id, and where it is shown open.
    id: String,
    open: String,
    /// What an open row tells.
    more: Option<More>,
}

/// What the row of an entry opens to.
struct More {
    facts: Vec<(&'static str, String)>,
    /// Name, before, after.
    changed: Vec<(String, String, String)>,
}

/// What a request asks of the log.
pub(in crate::http::web) struct Asked {
    query: String,
    kind: String,
    /// First and last day, as they were typed.
    days: (String, String),
    pub(super) filter: AuditFilter,
    /// The entry whose row is open.
    open: String,
}

impl Asked {
    pub(in crate::http::web) fn of(params: &Params) -> Self {
        let query = params.get("q").unwrap_or_default().to_owned();
        let kind = params.get("kind").unwrap_or_default().to_owned();
        let days = ["from", "to"].map(|name| params.get(name).unwrap_or_default().to_owned());
        let days: (String, String) = days.into();
        let begins = KINDS
            .iter()
            .find(|(value, _, _)| *value == kind)
            .map_or(&[][..], |(_, _, begins)| begins);
        Self {
            filter: AuditFilter {
                text: Some(query.clone()).filter(|query| !query.is_empty()),
                kinds: begins.to_vec(),
                from: midnight(&days.0, 0),
                until: midnight(&days.1, 1),
                before: params.get("before").and_then(|place| place.parse().ok()),
            },
            open: params.get("open").unwrap_or_default().to_owned(),
            query,
            kind,
            days,
        }
    }
}

impl Asked {
    /// What narrows the list, as parameters of its addresses.
    fn filters(&self) -> [(&'static str, &str); 4] {
        [
            ("q", &self.query),
            ("kind", &self.kind),
            ("from", &self.days.0),
            ("to", &self.days.1),
        ]
    }
}

/// The beginning of a day, or of one so many days later, in UTC; `None` for what is no day.
fn midnight(day: &str, later: u64) -> Option<Timestamp> {
    let day = day
        .parse::<NaiveDate>()
        .ok()?
        .checked_add_days(Days::new(later))?;
    Some(Timestamp(
        day.and_time(NaiveTime::MIN).and_utc().timestamp_millis(),
    ))
}

/// The page of a log: an organization's, or the installation's own.
pub(in crate::http::web) async fn page(
    connection: &mut Connection,
    shell: Shell,
    path: String,
    organization: Option<(&terrapool_model::id::OrganizationId, &str)>,
    asked: Asked,
    now: Timestamp,
) -> Result<AuditPage, WebError> {
    let id = organization.map(|(id, _)| id);
    let records = audit::list(connection, id, &asked.filter, ROWS).await?;
    let actors = records
        .iter()
        .filter_map(|record| record.actor.parse::<UserId>().ok());
    let subjects = records
        .iter()
        .filter_map(|record| record.subject.parse::<UserId>().ok());
    let names = overview::user_names(connection, actors.chain(subjects)).await?;
    let older = (records.len() == ROWS as usize)
        .then(|| records.last())
        .flatten()
        .map(|last| {
            let before = Before::entry(last).to_string();
            with_query(
                &path,
                &[asked.filters().as_slice(), &[("before", before.as_str())]].concat(),
            )
        });
    let mut rows: Vec<(AuditRecord, Row)> = Vec::new();
    for record in records {
        match rows.last_mut() {
            Some((last, row)) if is_repeated(last, &record) => row.fold(&record),
            _ => {
                let mut row = row(&record, &names, organization.map(|(_, name)| name), now);
                if asked.open == record.id.as_str() {
                    row.more = Some(more(&record));
                }
                row.open = here(&asked, record.id.as_str());
                rows.push((record, row));
            }
        }
    }
    Ok(AuditPage {
        export: with_query(&format!("{path}/export"), &asked.filters()),
        shell,
        filtered: asked.filters().iter().any(|(_, value)| !value.is_empty()) || asked.filter.before.is_some(),
        from: asked.days.0,
        to: asked.days.1,
        query: asked.query,
        kinds: KINDS
            .iter()
            .map(|(value, word, _)| (*value, *word, *value == asked.kind))
            .collect(),
        rows: rows.into_iter().map(|(_, row)| row).collect(),
        older,
        path,
    })
}

/// The same list with an entry open.
fn here(asked: &Asked, entry: &str) -> String {
    let before = asked.filter.before.as_ref().map(Before::to_string);
    let open = [("before", before.as_deref().unwrap_or_default()), ("open", entry)];
    let address = with_query("", &[asked.filters().as_slice(), &open].concat());
    format!("{address}#{entry}")
}

impl Row {
    /// One more that is equal, and older.
    fn fold(&mut self, older: &AuditRecord) {
        self.times += 1;
        if let Some(more) = &mut self.more {
            more.facts.retain(|(name, _)| *name != "First");
            more.facts.push(("First", iso8601(older.at)));
        }
    }
}

/// What is known of an entry besides its row.
fn more(record: &AuditRecord) -> More {
    let mut facts = vec![("Entry", record.id.to_string())];
    let request = record.request_id.clone().map(|id| ("Request id", id));
    let address = record.address.clone().map(|address| ("Address", address));
    let subject = ("On what", record.subject.clone());
    let detail = ("Detail", detail(&record.detail));
    facts.extend(request.into_iter().chain(address).chain([subject, detail]));
    facts.retain(|(_, text)| !text.is_empty());
    let side = |name: &str| record.detail.get(name).and_then(Value::as_object);
    let text = |members: Option<&Map<String, Value>>, name: &str| match members.and_then(|all| all.get(name))
    {
        None | Some(Value::Null) => "—".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "empty".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let (before, after) = (side("before"), side("after"));
    let names: BTreeSet<&String> = [before, after]
        .into_iter()
        .flatten()
        .flat_map(Map::keys)
        .collect();
    More {
        facts,
        changed: names
            .into_iter()
            .map(|name| (name.clone(), text(before, name), text(after, name)))
            .collect(),
    }
}

fn is_repeated(one: &AuditRecord, other: &AuditRecord) -> bool {
    (&one.actor, &one.action, &one.subject, &one.detail)
        == (&other.actor, &other.action, &other.subject, &other.detail)
}

fn row(
    record: &AuditRecord,
    names: &BTreeMap<UserId, String>,
    organization: Option<&str>,
    now: Timestamp,
) -> Row {
    let user = |text: &str| text.parse::<UserId>().ok().and_then(|id| names.get(&id).cloned());
    let (icon, kind) = if record.actor.starts_with("user-") {
        ("user", "user")
    } else if record.actor.starts_with("at-") {
        ("key", "token")
    } else if record.actor.starts_with("agent-") {
        ("agent", "agent")
    } else {
        ("gear", "system")
    };
    let subject = user(&record.subject).unwrap_or_else(|| record.subject.clone());
    let place = |path: String| organization.map(|name| format!("/app/{name}{path}"));
    let address = match record.subject.split_once('-') {
        Some(("run" | "ws" | "apool" | "agent" | "prj", _)) => place(format!("/search?q={}", record.subject)),
        _ => None,
    };
    Row {
        day: Day::new(record.at, now),
        clock: Clock(record.at),
        icon,
        kind,
        actor: user(&record.actor).unwrap_or_else(|| record.actor.clone()),
        tone: tone(&record.action),
        action: record.action.clone(),
        times: 1,
        subject,
        address,
        detail: detail(&record.detail),
        id: record.id.to_string(),
        open: String::new(),
        more: None,
    }
}

fn tone(action: &str) -> Tone {
    let has = |parts: &[&str]| parts.iter().any(|part| action.contains(part));
    if has(&["refused", "override", "lost"]) {
        Tone::Bad
    } else if has(&[
        "delete", "revoke", "force", "cut-off", "download", "settings", "token",
    ]) {
        Tone::Warn
    } else {
        Tone::Mute
    }
}

/// The members of a detail in words.
fn detail(detail: &Value) -> String {
    let Some(members) = detail.as_object() else {
        return String::new();
    };
    members
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "before" | "after"))
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name} {text}"),
            Value::Array(items) => {
                let items: Vec<String> = items
                    .iter()
                    .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                    .collect();
                format!("{name} {}", items.join(", "))
            }
            value => {
                let text: String = value.to_string().chars().take(120).collect();
                format!("{name} {text}")
            }
        })
        .collect::<Vec<_>>()
        .join("; ")
}

/// `GET /app/:org/audit`
pub(super) async fn show(
    State(app): State<App>,
    visitor: Visitor,
    Path(name): Path<String>,
    params: Params,
) -> Page {
    let mut connection = app.db.read().await?;
    let place = visitor
        .organization(&app, &mut connection, &name, OrganizationPermission::Manage)
        .await?;
    let (shell, path) = (place.shell(Section::Audit, "Audit log"), place.address("/audit"));
    let organization = Some((&place.organization.id, place.organization.name.as_str()));
    let page = page(
        &mut connection,
        shell,
        path,
        organization,
        Asked::of(&params),
        app.now(),
    )
    .await?;
    html(&page)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_day_of_the_log_ends_with_the_next_one() {
        let next = midnight("2026-11-24", 1);
        assert_eq!(next, midnight("2026-11-25", 0));
        assert_eq!(next, Some(Timestamp(1_795_564_800_000)));
        assert_eq!(midnight("soon", 0), None);
    }

    #[test]
    fn details_are_words_and_dangerous_actions_stand_out() {
        assert_eq!(
            detail(&json!({"name": "a", "attributes": ["b", "c"]})),
            "attributes b, c; name a"
        );
        assert_eq!(
            detail(&json!({"name": "a", "before": {"b": 1}, "after": {"b": 2}})),
            "name a"
        );
        assert_eq!(tone("sign-in.refused"), Tone::Bad);
        assert_eq!(tone("workspace.delete"), Tone::Warn);
        assert_eq!(tone("run.create"), Tone::Mute);
    }
}

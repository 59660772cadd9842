//! States of a workspace and what differs between them.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Path, State};
use serde_json::json;
use terrapool_model::id::{RunId, UserId, WorkspaceId};
use terrapool_model::lock::Lock;
use terrapool_objects::ObjectKey;
use terrapool_store::db::Connection;
use terrapool_store::kept_apart;
use terrapool_store::overview::{self, ListedRun};
use terrapool_store::page::Page as StorePage;
use terrapool_store::state_versions::{self, StateStatus, StateVersionRecord};
use terrapool_store::workspaces::WorkspaceRecord;

use super::frame::{self, Frame, LockEnd, Seen, Tab, plain};
use crate::app::App;
use crate::auth::WorkspacePermission;
use crate::http::answer::Params;
use crate::http::tfe;
use crate::http::web::changes::{self, Module, raw, state};
use crate::http::web::error::WebError;
use crate::http::web::form::{SignedForm, request, request_with};
use crate::http::web::page::{Page, Section, Shell, html, see_with};
use crate::http::web::paging::{Paging, with_query};
use crate::http::web::parts::time::Day;
use crate::http::web::parts::words::{self, Number};
use crate::http::web::parts::{Breaking, Icon, Tone};
use crate::http::web::retyped::require_name;
use crate::http::web::visitor::Visitor;

/// Largest state that is compared on a page, bytes.
const LARGEST: u64 = 64 << 20;

/// Largest state that is compared line by line, bytes.
const LARGEST_RAW: u64 = 8 << 20;

/// An output of a state.
pub(in crate::http::web) struct Output {
    pub(in crate::http::web) name: String,
    /// `None` for one that is sensitive.
    pub(in crate::http::web) value: Option<String>,
    pub(in crate::http::web) kind: String,
}

/// A state as it can be read; `None` when it can't.
pub(in crate::http::web) async fn read(
    app: &App,
    version: &StateVersionRecord,
) -> Result<Option<state::Document>, WebError> {
    let bytes = bytes(app, version, LARGEST).await?;
    Ok(bytes.and_then(|bytes| state::Document::read(&bytes)))
}

/// A state of at most so many bytes that has arrived.
async fn bytes(app: &App, version: &StateVersionRecord, most: u64) -> Result<Option<Vec<u8>>, WebError> {
    let Some(key) = &version.object_key else {
        return Ok(None);
    };
    if version.size.is_some_and(|size| size > most) {
        return Ok(None);
    }
    let key = ObjectKey::new(key.as_str())?;
    Ok(Some(app.objects.get(&key, version.id.as_str()).await?))
}

/// The outputs of a state as people read them.
pub(in crate::http::web) fn outputs(document: &state::Document) -> Vec<Output> {
    let output = |(name, output): (&String, &serde_json::Value)| {
        let kind = match &output["type"] {
            serde_json::Value::Array(parts) => parts.first().cloned().unwrap_or_default(),
            kind => kind.clone(),
        };
        let sensitive = output["sensitive"] == true;
        Output {
            name: name.clone(),
            value: (!sensitive).then(|| output["value"].to_string()),
            kind: kind.as_str().unwrap_or("value").to_owned(),
        }
    };
    document.outputs().iter().map(output).collect()
}

/// Types of resources that are listed; the rest are counted together.
const MOST_TYPES: usize = 8;
/// States that are kept apart and listed.
const KEPT_APART: u32 = 20;

/// How many resources of each type a state has.
pub(super) fn types(document: &state::Document) -> Vec<(String, u64)> {
    let mut types = document.types();
    if types.len() > MOST_TYPES {
        let rest = types.split_off(MOST_TYPES);
        let number = rest.iter().map(|(_, number)| number).sum();
        types.push((format!("{} more types", rest.len()), number));
    }
    types
}

#[derive(Template)]
#[template(path = "workspace/states.html")]
struct StatesPage {
    shell: Shell,
    frame: Frame,
    versions: Vec<Version>,
    paging: Paging,
    chosen: Option<Chosen>,
    may_read: bool,
    may_write: bool,
    current: String,
    heading: String,
    unreadable: Option<&'static str>,
    modules: Vec<Module>,
    /// The lines that differ, where they are asked for instead.
    raw: Vec<raw::Line>,
    /// The address of either view, and whether it is shown.
    views: [(&'static str, String, bool); 2],
    footer: String,
}

struct Version {
    id: String,
    serial: String,
    tag: Option<(Tone, &'static str)>,
    by: String,
    stored: Day,
    size: String,
    /// The first digits of its SHA-256.
    digest: String,
    is_to: bool,
    is_from: bool,
}

struct Chosen {
    id: String,
    serial: String,
    facts: Vec<(&'static str, String)>,
    kept_apart: bool,
    earlier: bool,
}

fn serial(version: &StateVersionRecord) -> String {
    version
        .serial
        .map_or_else(|| "unknown".to_owned(), |serial| serial.to_string())
}

/// `GET /app/:org/workspaces/:name/states?to=&from=`
pub(super) async fn show(
    State(app): State<App>,
    visitor: Visitor,
    Path(names): Path<(String, String)>,
    params: Params,
) -> Page {
    let mut connection = app.db.read().await?;
    let permission = WorkspacePermission::Read;
    let seen = frame::see(&app, &mut connection, &visitor, &names, Tab::States, permission).await?;
    let path = format!("{}/states", seen.frame.base);
    let paging = Paging::new(&params, &path, &[], "newest first");
    let offset = u64::try_from(paging.page.offset()).unwrap_or(0);
    let (listed, total) =
        state_versions::list(&mut connection, &seen.record.id, paging.page.size, offset).await?;
    let mut records = if offset == 0 {
        kept_apart(&mut connection, &seen.record.id).await?
    } else {
        Vec::new()
    };
    records.extend(listed);
    let (may_read, may_write) = (seen.frame.rights.read_state, seen.frame.rights.write_state);
    let to = chosen(&mut connection, &seen, params.get("to"), &records).await?;
    let from = match (params.get("from"), &to) {
        (Some(id), _) => chosen(&mut connection, &seen, Some(id), &records).await?,
        (None, Some(to)) => state_versions::before(&mut connection, to).await?,
        (None, None) => None,
    };
    // Also when it stands on another page of the list.
    let current = match &seen.record.current_state_version_id {
        Some(id) => state_versions::get(&mut connection, id).await?,
        None => None,
    };
    let makers = makers(&mut connection, &records).await?;
    let is_raw = params.get("view") == Some("raw");
    let compared = match &to {
        None => Compared::default(),
        Some(_) if !may_read => Compared::refused("Your account may not read states."),
        Some(to) if is_raw => compare_raw(&app, from.as_ref(), to).await?,
        Some(to) => compare(&app, from.as_ref(), to).await?,
    };
    let id = |record: &Option<StateVersionRecord>| {
        record.as_ref().map_or("", |record| record.id.as_str()).to_owned()
    };
    let view = |name: &str| with_query(&path, &[("to", &id(&to)), ("from", &id(&from)), ("view", name)]);
    let views = [
        ("Resources", view(""), !is_raw),
        ("Raw JSON", view("raw"), is_raw),
    ];
    let page = StatesPage {
        shell: seen.shell("States"),
        versions: records
            .iter()
            .map(|record| version(record, &seen, &makers, to.as_ref(), from.as_ref()))
            .collect(),
        paging: paging.of(total),
        chosen: to.as_ref().map(|record| Chosen {
            id: record.id.to_string(),
            serial: serial(record),
            facts: facts(record, &seen),
            kept_apart: record.status == StateStatus::KeptApart,
            earlier: record.status == StateStatus::Finalized
                && seen.record.current_state_version_id.as_ref() != Some(&record.id),
        }),
        may_write,
        current: current.as_ref().map_or_else(|| "none".to_owned(), serial),
        may_read,
        heading: match (&from, &to) {
            (Some(from), Some(to)) => format!("Serial {} → {}", serial(from), serial(to)),
            (None, Some(to)) => format!("Everything in serial {}", serial(to)),
            _ => String::new(),
        },
        unreadable: compared.unreadable,
        footer: compared.footer,
        modules: compared.modules,
        raw: compared.raw,
        views,
        frame: seen.frame,
    };
    html(&page)
}

/// States that a person has to decide on: they stand before all others.
async fn kept_apart(
    connection: &mut Connection,
    workspace: &WorkspaceId,
) -> Result<Vec<StateVersionRecord>, WebError> {
    let listed = kept_apart::list(connection, workspace, &StorePage::first(KEPT_APART)).await?;
    Ok(listed.items.into_iter().map(|kept| kept.version).collect())
}

/// The version with an id, of this workspace; without an id the newest one that is current or was.
async fn chosen(
    connection: &mut Connection,
    seen: &Seen,
    id: Option<&str>,
    records: &[StateVersionRecord],
) -> Result<Option<StateVersionRecord>, WebError> {
    let Some(id) = id else {
        let current = seen.record.current_state_version_id.as_ref();
        let found = records.iter().find(|record| Some(&record.id) == current);
        return Ok(found.or(records.first()).cloned());
    };
    let id = id.parse().map_err(|_| WebError::not_found())?;
    let record = state_versions::get(connection, &id)
        .await?
        .filter(|record| record.workspace_id == seen.record.id)
        .ok_or_else(WebError::not_found)?;
    Ok(Some(record))
}

/// Who made versions.
struct Makers {
    runs: BTreeMap<RunId, ListedRun>,
    users: BTreeMap<UserId, String>,
}

async fn makers(connection: &mut Connection, records: &[StateVersionRecord]) -> Result<Makers, WebError> {
    let ids: Vec<RunId> = records
        .iter()
        .filter_map(|record| record.run_id.clone())
        .collect();
    let runs = overview::by_ids(connection, &ids)
        .await?
        .into_iter()
        .map(|listed| (listed.run.id.clone(), listed))
        .collect();
    let users = records.iter().filter_map(|record| record.created_by.clone());
    Ok(Makers {
        runs,
        users: overview::user_names(connection, users).await?,
    })
}

fn version(
    record: &StateVersionRecord,
    seen: &Seen,
    makers: &Makers,
    to: Option<&StateVersionRecord>,
    from: Option<&StateVersionRecord>,
) -> Version {
    let is_current = seen.record.current_state_version_id.as_ref() == Some(&record.id);
    let run = record.run_id.as_ref().and_then(|id| makers.runs.get(id));
    let user = record.created_by.as_ref().and_then(|id| makers.users.get(id));
    Version {
        id: record.id.to_string(),
        serial: serial(record),
        tag: match record.status {
            _ if is_current => Some((Tone::Good, "current")),
            _ if record.copy_of.is_some() => Some((Tone::Mute, "rollback")),
            StateStatus::Pending => Some((Tone::Warn, "announced")),
            StateStatus::Intermediate => Some((Tone::Mute, "during apply")),
            StateStatus::KeptApart => Some((Tone::Warn, "kept apart")),
            StateStatus::Finalized | StateStatus::Discarded => None,
        },
        by: match (run, user) {
            (_, Some(user)) if record.copy_of.is_some() => format!("rolled back by {user}"),
            (Some(listed), _) => format!("{}, {}", words::theirs(&listed.run.message), listed.who()),
            (None, Some(user)) => format!("from the command line, {user}"),
            (None, None) => "uploaded".to_owned(),
        },
        stored: Day::new(record.created_at, seen.now),
        size: record.size.map(words::bytes).unwrap_or_default(),
        digest: record
            .sha256
            .iter()
            .flat_map(|digest| digest.chars().take(8))
            .collect(),
        is_to: to.is_some_and(|to| to.id == record.id),
        is_from: from.is_some_and(|from| from.id == record.id),
    }
}

fn facts(record: &StateVersionRecord, seen: &Seen) -> Vec<(&'static str, String)> {
    let mut facts = vec![("Stored", plain(Day::new(record.created_at, seen.now)))];
    if let Some(size) = record.size {
        facts.push(("Size", format!("{}, encrypted", words::bytes(size))));
    }
    if let Some(number) = record.resource_count {
        facts.push(("Resources", Number(number).to_string()));
    }
    if let Some(version) = &record.engine_version {
        facts.push(("Written by", version.clone()));
    }
    if let Some(digest) = &record.sha256 {
        facts.push(("SHA-256", digest.clone()));
    }
    if let Some(lineage) = &record.lineage {
        facts.push(("Lineage", lineage.clone()));
    }
    facts.push(("Id", record.id.to_string()));
    facts
}

/// What differs, or why that can't be told.
#[derive(Default)]
struct Compared {
    modules: Vec<Module>,
    raw: Vec<raw::Line>,
    unreadable: Option<&'static str>,
    footer: String,
}

impl Compared {
    fn refused(reason: &'static str) -> Self {
        Self {
            unreadable: Some(reason),
            ..Self::default()
        }
    }
}

async fn compare(
    app: &App,
    from: Option<&StateVersionRecord>,
    to: &StateVersionRecord,
) -> Result<Compared, WebError> {
    let old = match from {
        Some(from) => read(app, from).await?,
        None => Some(state::Document::default()),
    };
    let (Some(old), Some(new)) = (old, read(app, to).await?) else {
        return Ok(Compared::refused(
            "The state can’t be read here: its engine encrypted it, or it has not arrived. A download gives it as it is.",
        ));
    };
    let (changes, unchanged) = state::difference(&old, &new);
    Ok(Compared {
        modules: changes::by_module(changes),
        raw: Vec::new(),
        unreadable: None,
        footer: format!(
            "{} unchanged. Sensitive values are never shown.",
            words::count(unchanged as u64, "resource", "resources")
        ),
    })
}

/// The same of the states as they are written.
async fn compare_raw(
    app: &App,
    from: Option<&StateVersionRecord>,
    to: &StateVersionRecord,
) -> Result<Compared, WebError> {
    let old = match from {
        Some(from) => bytes(app, from, LARGEST_RAW).await?,
        None => Some(b"{\"resources\":[]}".to_vec()),
    };
    let (Some(old), Some(new)) = (old, bytes(app, to, LARGEST_RAW).await?) else {
        return Ok(Compared::refused(
            "The states are too large to be compared line by line here, or have not arrived. A download gives them as they are.",
        ));
    };
    // Long texts take a moment, and the executor has others to serve.
    let lines = tokio::task::spawn_blocking(move || {
        let (old, new) = (raw::masked(&old)?, raw::masked(&new)?);
        Some(raw::difference(&old, &new))
    });
    Ok(match lines.await.unwrap_or_default() {
        None => Compared::refused(
            "The state can’t be read here: its engine encrypted it. A download gives it as it is.",
        ),
        Some(None) => Compared::refused("The two differ in too many lines. Their resources tell more."),
        Some(Some(lines)) => Compared {
            raw: lines,
            footer: "Members in the order of their names. Sensitive values are never shown.".to_owned(),
            ..Compared::default()
        },
    })
}

/// `GET /app/:org/workspaces/:name/states/:id/download`
pub(super) async fn download(
    State(app): State<App>,
    visitor: Visitor,
    Path((organization, name, id)): Path<(String, String, String)>,
) -> Page {
    let mut connection = app.db.read().await?;
    let names = (organization, name);
    frame::workspace(
        &app,
        &mut connection,
        &visitor,
        &names,
        WorkspacePermission::ReadState,
    )
    .await?;
    drop(connection);
    Ok(tfe::state_versions::download(State(app), visitor.caller, Path(id)).await?)
}

/// `POST /app/:org/workspaces/:name/states/:id/{promote,dismiss,roll-back}`
pub(super) async fn act(
    State(app): State<App>,
    Path((organization, name, id, action)): Path<(String, String, String, String)>,
    form: SignedForm,
) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let mut connection = app.db.read().await?;
    let names = (organization, name);
    let (place, record) = frame::workspace(
        &app,
        &mut connection,
        &visitor,
        &names,
        WorkspacePermission::WriteState,
    )
    .await?;
    let version = id.parse().map_err(|_| WebError::not_found())?;
    let version = state_versions::get(&mut connection, &version)
        .await?
        .filter(|version| version.workspace_id == record.id)
        .ok_or_else(WebError::not_found)?;
    drop(connection);
    let button = match action.as_str() {
        "promote" => "Make it current",
        "dismiss" => "Remove",
        "roll-back" => "Roll back",
        _ => return Err(WebError::not_found()),
    };
    let address = place.address(&format!("/workspaces/{}/states", record.name));
    require_name(
        &fields,
        &serial(&version),
        button,
        &format!("{address}?to={}", version.id),
    )?;
    let (caller, id) = (visitor.caller.clone(), Path(version.id.to_string()));
    let said = match action.as_str() {
        "promote" => {
            tfe::kept_apart::promote(State(app), caller, id).await?;
            "The state is the current one now."
        }
        "dismiss" => {
            tfe::kept_apart::dismiss(State(app), caller, id).await?;
            "The state is removed."
        }
        "roll-back" => {
            roll_back(&app, &visitor, &record, &version).await?;
            "The earlier state is the current one again. Plan to see what follows."
        }
        _ => return Err(WebError::not_found()),
    };
    see_with(&visitor, &address, said)
}

/// A copy of an earlier state becomes current. It needs the workspace's lock, which is taken for it when it is free.
async fn roll_back(
    app: &App,
    visitor: &Visitor,
    record: &WorkspaceRecord,
    version: &StateVersionRecord,
) -> Result<(), WebError> {
    let (caller, id) = (|| visitor.caller.clone(), || Path(record.id.to_string()));
    let own = record.lock == Lock::Free;
    if own {
        let reason = request(json!({"reason": "rolling the state back"}));
        tfe::locks::lock(State(app.clone()), caller(), id(), reason).await?;
    }
    let body = request_with(json!({}), &[("rollback-state-version", version.id.as_str())]);
    let done = tfe::kept_apart::roll_back(State(app.clone()), caller(), id(), body).await;
    if own {
        tfe::locks::unlock(State(app.clone()), caller(), id()).await?;
    }
    done?;
    Ok(())
}

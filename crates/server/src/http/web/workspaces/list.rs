//! The organization's home: its workspaces, and what needs somebody.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Path, State};
use terrapool_model::engine::EngineKind;
use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::RunId;
use terrapool_model::lock::Lock;
use terrapool_model::run::RunStatus;
use terrapool_model::time::Timestamp;
use terrapool_store::db::Connection;
use terrapool_store::overview::{self, ListedRun};
use terrapool_store::pools::PoolFilter;
use terrapool_store::workspaces::{self, TagFilter, WorkspaceFilter, WorkspaceOrder, WorkspaceRecord};
use terrapool_store::{page::Page as StorePage, pools};

use super::engine_words;
use crate::app::App;
use crate::auth::{OrganizationPermission, ProjectPermission};
use crate::http::answer::Params;
use crate::http::web::error::WebError;
use crate::http::web::page::{Page, Section, Shell, html};
use crate::http::web::paging::{Chip, Paging, with_query};
use crate::http::web::parts::status::{self, Status};
use crate::http::web::parts::time::Ago;
use crate::http::web::parts::{Code, Icon, Tone, words};
use crate::http::web::pools::{here, own_ca};
use crate::http::web::runs::change_words;
use crate::http::web::visitor::{Place, Visitor};
use crate::waiting;

/// What does not move by itself is shown up to this many.
const MOST_NEEDS: u32 = 8;

#[derive(Template)]
#[template(path = "workspaces/list.html")]
struct ListPage {
    shell: Shell,
    base: String,
    summary: String,
    needs: Vec<Need>,
    everything: u64,
    has_pool: bool,
    may_create: bool,
    may_pool: bool,
    cloud: Code,
    first: Code,
    query: String,
    /// Ids, names, and which one is chosen.
    projects: Vec<(String, String, bool)>,
    tag: String,
    chosen: String,
    chips: Vec<Chip>,
    rows: Vec<Row>,
    paging: Paging,
}

/// Something that does not move by itself.
struct Need {
    tone: Tone,
    icon: &'static str,
    address: String,
    what: String,
    place: String,
    detail: String,
    since: Option<Ago>,
    action: &'static str,
}

struct Row {
    name: String,
    locked: bool,
    project: String,
    run_address: Option<String>,
    status: Status,
    why: Option<String>,
    message: String,
    who: String,
    resources: u64,
    pool: String,
    engine: String,
    updated: Ago,
}

/// The chips: word, picture, value in the address, statuses of the current run.
const CHIPS: [(&str, Option<&str>, &str, &[&str]); 5] = [
    ("All", None, "", &[]),
    ("Needs confirmation", Some("ask"), "ask", &["planned"]),
    ("Active", Some("run"), "active", &["planning", "applying"]),
    (
        "Waiting",
        Some("clock"),
        "waiting",
        &["pending", "plan_queued", "apply_queued"],
    ),
    ("Errored", Some("bad"), "errored", &["errored"]),
];

/// The chip of workspaces that a person or a lost run has locked.
const LOCKED: &str = "locked";

/// `GET /app/:org/workspaces`
pub(super) async fn show(
    State(app): State<App>,
    visitor: Visitor,
    Path(name): Path<String>,
    params: Params,
) -> Page {
    let mut connection = app.db.read().await?;
    let place = visitor
        .organization(&app, &mut connection, &name, OrganizationPermission::Read)
        .await?;
    let now = app.now();
    let base = place.address("");
    let query = params.get("q").unwrap_or_default();
    let chosen = params.get("status").unwrap_or_default();
    let path = format!("{base}/workspaces");
    let project = params.get("project").unwrap_or_default();
    let tag = params.get("tag").unwrap_or_default().trim();
    let filters = |status| {
        [
            ("q", query),
            ("project", project),
            ("tag", tag),
            ("status", status),
        ]
    };
    let paging = Paging::new(&params, &path, &filters(chosen), "newest activity first");
    let statuses = CHIPS
        .iter()
        .find(|(_, _, value, _)| *value == chosen)
        .map_or(&[][..], |(_, _, _, statuses)| statuses);
    let filter = WorkspaceFilter {
        name: Some(query.to_owned()).filter(|query| !query.is_empty()),
        run_statuses: statuses.iter().map(|status| (*status).to_owned()).collect(),
        // What is no project's id is no project's.
        project: Some(project)
            .filter(|project| !project.is_empty())
            .map(|project| project.parse().map_err(|_| WebError::not_found()))
            .transpose()?,
        tagged: tag_filter(tag).into_iter().collect(),
        locked: chosen == LOCKED,
        sight: place.sight.clone(),
        ..WorkspaceFilter::default()
    };
    let organization = &place.organization.id;
    let (records, total) = workspaces::list(
        &mut connection,
        organization,
        &filter,
        WorkspaceOrder::CurrentRunDescending,
        paging.page.size,
        u64::try_from(paging.page.offset()).unwrap_or(0),
    )
    .await?;
    let (counts, locked) = overview::current_statuses(&mut connection, organization, &place.sight).await?;
    let rows = rows(&mut connection, &place, &records, now).await?;
    let pools = pools::list(
        &mut connection,
        organization,
        &PoolFilter::default(),
        &StorePage::first(1),
    )
    .await?;
    let counted =
        |statuses: &[&str]| -> u64 { statuses.iter().filter_map(|status| counts.get(*status)).sum() };
    let page = ListPage {
        shell: place.shell(Section::Workspaces, "Workspaces"),
        summary: format!(
            "{} in {}; {} active, {} waiting",
            words::count(place.counts.workspaces, "workspace", "workspaces"),
            words::count(place.counts.projects, "project", "projects"),
            words::Number(counted(CHIPS[2].3)),
            words::Number(counted(CHIPS[3].3)),
        ),
        needs: needs(&mut connection, &place, now).await?,
        everything: place.counts.workspaces,
        has_pool: pools.total > 0,
        may_create: place.standing.creates_workspaces(),
        may_pool: place.may(OrganizationPermission::ManageAgentPools),
        cloud: cloud_block(&app, &place.organization.name, "my-workspace"),
        first: first_commands(&app, EngineKind::Terraform).await,
        query: query.to_owned(),
        chips: CHIPS
            .iter()
            .map(|(word, icon, value, statuses)| Chip {
                word,
                icon: *icon,
                count: Some(if statuses.is_empty() {
                    place.counts.workspaces
                } else {
                    counted(statuses)
                }),
                address: with_query(&path, &filters(value)),
                current: *value == chosen,
            })
            .chain([Chip {
                word: "Locked",
                icon: Some("lock"),
                count: Some(locked),
                address: with_query(&path, &filters(LOCKED)),
                current: chosen == LOCKED,
            }])
            .collect(),
        projects: place
            .projects(&mut connection, ProjectPermission::Read)
            .await?
            .into_iter()
            .map(|(id, name)| {
                let is_chosen = id == project;
                (id, name, is_chosen)
            })
            .collect(),
        tag: tag.to_owned(),
        chosen: chosen.to_owned(),
        rows,
        paging: paging.of(total),
        base,
    };
    html(&page)
}

/// "team" or "team:network" as a filter.
fn tag_filter(text: &str) -> Option<TagFilter> {
    let (key, value) = match text.split_once(':') {
        Some((key, value)) => (key.trim(), Some(value.trim().to_owned())),
        None => (text, None),
    };
    (!key.is_empty()).then(|| TagFilter {
        key: key.to_owned(),
        value: value.filter(|value| !value.is_empty()),
    })
}

/// The block that a configuration needs.
pub(super) fn cloud_block(app: &App, organization: &str, workspace: &str) -> Code {
    let host = host(app);
    Code::new(
        "cloud",
        format!(
            "terraform {{\n  cloud {{\n    hostname     = \"{host}\"\n    organization = \"{organization}\"\n    \
             workspaces {{ name = \"{workspace}\" }}\n  }}\n}}"
        ),
    )
}

/// What is typed beside that block, the first time on a machine.
pub(super) async fn first_commands(app: &App, engine: EngineKind) -> Code {
    let trust = own_ca(app).await.map_or_else(String::new, |pem| {
        let file = here("terrapool-ca.pem", "CA", &pem);
        format!("{file}export SSL_CERT_FILE=$PWD/terrapool-ca.pem\n")
    });
    let host = host(app);
    Code::new(
        "first",
        format!("{trust}{engine} login {host}\n{engine} init\n{engine} apply"),
    )
}

/// The server as command lines name it.
fn host(app: &App) -> &str {
    let url = app.config.public_url.as_str();
    url.split_once("://").map_or(url, |(_, host)| host)
}

async fn rows(
    connection: &mut Connection,
    place: &Place,
    records: &[WorkspaceRecord],
    now: Timestamp,
) -> Result<Vec<Row>, WebError> {
    let ids: Vec<RunId> = records
        .iter()
        .filter_map(|record| record.current_run_id.clone())
        .collect();
    let runs: BTreeMap<RunId, ListedRun> = overview::by_ids(connection, &ids)
        .await?
        .into_iter()
        .map(|listed| (listed.run.id.clone(), listed))
        .collect();
    let current = runs.values().map(|listed| &listed.run);
    let waits = waiting::of_runs(connection, current, now).await?;
    let projects = overview::project_names(connection, &place.organization.id).await?;
    let pools = overview::pool_names(connection, &place.organization.id).await?;
    let row = |record: &WorkspaceRecord| {
        let latest = record.current_run_id.as_ref().and_then(|id| runs.get(id));
        let wait = latest.and_then(|listed| waits.get(&listed.run.id));
        let status = match (latest, wait) {
            (Some(_), Some(wait)) => status::of_wait(&wait.reason),
            (Some(listed), None) => status::of_run(&listed.run),
            (None, _) => Status::new(Tone::Mute, "pend", "No runs yet"),
        };
        Row {
            name: record.name.clone(),
            locked: matches!(record.lock, Lock::User(_) | Lock::Lost { .. }),
            project: projects.get(&record.project_id).cloned().unwrap_or_default(),
            run_address: latest
                .map(|listed| place.address(&format!("/workspaces/{}/runs/{}", record.name, listed.run.id))),
            status,
            why: wait.map(|wait| wait.sentence.clone()),
            message: latest.map_or_else(String::new, |listed| listed.run.message.clone()),
            who: latest.map_or_else(String::new, |listed| listed.who().to_owned()),
            resources: record.resource_count,
            pool: match record.effective.execution_mode {
                ExecutionMode::Local => "caller’s machine".to_owned(),
                ExecutionMode::Remote => "shared".to_owned(),
                ExecutionMode::Agent => record
                    .effective
                    .agent_pool_id
                    .as_ref()
                    .and_then(|id| pools.get(id).cloned())
                    .unwrap_or_default(),
            },
            engine: engine_words(record),
            updated: Ago::new(
                latest.map_or(record.updated_at, |listed| listed.run.updated_at),
                now,
            ),
        }
    };
    Ok(records.iter().map(row).collect())
}

/// What does not move by itself, worst first.
async fn needs(connection: &mut Connection, place: &Place, now: Timestamp) -> Result<Vec<Need>, WebError> {
    let organization = &place.organization.id;
    let mut needs = Vec::new();
    let asking = overview::asking(connection, organization, &place.sight, MOST_NEEDS).await?;
    for listed in &asking {
        let (run, workspace) = (&listed.run, &listed.workspace);
        let address = place.address(&format!("/workspaces/{workspace}/runs/{}", run.id));
        let message = format!("{}, “{}”", listed.who(), words::theirs(&run.message));
        let since = Some(Ago::new(run.updated_at, now));
        needs.push(if run.status == RunStatus::Planned {
            Need {
                tone: Tone::Ask,
                icon: "ask",
                address,
                what: format!("Confirm: {}", change_words(run)),
                place: format!("in {workspace}"),
                detail: message,
                since,
                action: "Review",
            }
        } else {
            Need {
                tone: Tone::Bad,
                icon: "lost",
                address,
                what: "Agent lost during an apply".to_owned(),
                place: format!("in {workspace}. The workspace is locked; its engine may still run."),
                detail: message,
                since,
                action: "Decide",
            }
        });
    }
    for state in waiting::of_organization(connection, organization, false, now).await? {
        let stalled = state.stalled();
        if stalled == 0
            || state.pool.organization_id.is_none()
            || !place.may(OrganizationPermission::ReadQueues)
        {
            continue;
        }
        let connected = state.connected(now).count();
        let oldest = state.oldest();
        needs.push(Need {
            tone: Tone::Bad,
            icon: "warn",
            address: place.address(&format!("/agent-pools/{}", state.pool.id)),
            what: if connected == 0 {
                format!("Pool {} has no agents", state.pool.name)
            } else {
                format!("Pool {} cannot take every run", state.pool.name)
            },
            place: format!("and {} cannot start.", words::count(stalled, "run", "runs")),
            detail: "The oldest was queued".to_owned(),
            since: oldest.map(|at| Ago::new(at, now)),
            action: "Open pool",
        });
    }
    needs.sort_by_key(|need| std::cmp::Reverse(need.tone));
    Ok(needs)
}

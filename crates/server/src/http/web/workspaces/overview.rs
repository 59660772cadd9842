//! The overview of a workspace, and its runs.

use askama::Template;
use axum::extract::{Path, State};
use terrapool_model::execution::ExecutionMode;
use terrapool_model::run::RunStatus;
use terrapool_protocol::job::Limits;
use terrapool_store::db::Connection;
use terrapool_store::overview::{self, RunFilter};
use terrapool_store::page::Page as StorePage;
use terrapool_store::{pools, projects, state_versions};

use super::frame::{self, Frame, LockEnd, Seen, Tab};
use super::list::{cloud_block, first_commands};
use super::origin::{Origin, limit};
use super::states::{self, Output};
use crate::app::App;
use crate::auth::WorkspacePermission;
use crate::http::answer::Params;
use crate::http::web::error::WebError;
use crate::http::web::page::{Page, Section, Shell, html};
use crate::http::web::paging::Paging;
use crate::http::web::parts::status::{self, Status};
use crate::http::web::parts::time::between;
use crate::http::web::parts::words::{Number, megabytes};
use crate::http::web::parts::{Code, Icon};
use crate::http::web::runs::{RunRow, change_words, rows};
use crate::http::web::visitor::Visitor;
use crate::waiting;

#[derive(Template)]
#[template(path = "workspace/overview.html")]
struct OverviewPage {
    shell: Shell,
    frame: Frame,
    verdict: Option<Verdict>,
    runs: Vec<RunRow>,
    serial: Option<u64>,
    outputs: Vec<Output>,
    no_outputs: &'static str,
    facts: Vec<(&'static str, String)>,
    types: Vec<(String, u64)>,
    cloud: Code,
    first: Code,
}

/// What the newest run does, in a sentence.
struct Verdict {
    status: Status,
    address: String,
    message: String,
    words: &'static str,
    detail: String,
    asks: bool,
    action: &'static str,
}

/// `GET /app/:org/workspaces/:name`
pub(super) async fn show(
    State(app): State<App>,
    visitor: Visitor,
    Path(names): Path<(String, String)>,
) -> Page {
    let mut connection = app.db.read().await?;
    let permission = WorkspacePermission::Read;
    let seen = frame::see(&app, &mut connection, &visitor, &names, Tab::Overview, permission).await?;
    let filter = RunFilter {
        workspace: Some(seen.record.id.clone()),
        ..RunFilter::default()
    };
    let organization = &seen.place.organization.id;
    let listed = overview::list_runs(&mut connection, organization, &filter, &StorePage::first(8)).await?;
    let may_read = seen
        .place
        .may_in_workspace(&seen.record, WorkspacePermission::ReadOutputs);
    let current = state_versions::current(&mut connection, &seen.record.id).await?;
    let document = match &current {
        Some(version) if may_read => states::read(&app, version).await?,
        _ => None,
    };
    let facts = facts(&mut connection, &seen).await?;
    let page = OverviewPage {
        shell: seen.shell("Overview"),
        verdict: verdict(&mut connection, &seen).await?,
        runs: rows(&mut connection, &seen.place, &listed.items, false, seen.now).await?,
        serial: current.as_ref().and_then(|version| version.serial),
        outputs: document.as_ref().map(states::outputs).unwrap_or_default(),
        no_outputs: match (&current, &document) {
            (None, _) => "No state yet: outputs appear after the first apply.",
            (Some(_), None) => "The state can’t be read here: it is encrypted by the engine, or not for you.",
            (Some(_), Some(_)) => "The configuration has no outputs.",
        },
        facts,
        types: document.as_ref().map(states::types).unwrap_or_default(),
        cloud: cloud_block(&app, &seen.place.organization.name, &seen.record.name),
        first: first_commands(&app, seen.record.engine).await,
        frame: seen.frame,
    };
    html(&page)
}

async fn verdict(connection: &mut Connection, seen: &Seen) -> Result<Option<Verdict>, WebError> {
    let Some(listed) = &seen.latest else {
        return Ok(None);
    };
    let run = &listed.run;
    let reason = waiting::of_run(connection, run, &seen.record, seen.now).await?;
    let status = reason
        .as_ref()
        .map_or_else(|| status::of_run(run), status::of_wait);
    let (words, action) = match run.status {
        RunStatus::Pending | RunStatus::PlanQueued | RunStatus::ApplyQueued => ("waits", "Open"),
        RunStatus::Planning => ("is being planned", "Watch"),
        RunStatus::Applying => ("is being applied", "Watch"),
        RunStatus::Planned | RunStatus::PlannedAndSaved => ("needs confirmation", "Review"),
        RunStatus::PlannedAndFinished => ("changes nothing", "Open"),
        RunStatus::Applied => ("was applied", "Open"),
        RunStatus::Discarded => ("was discarded", "Open"),
        RunStatus::Errored | RunStatus::PolicySoftFailed => ("failed", "Open"),
        RunStatus::Canceled | RunStatus::ForceCanceled => ("was canceled", "Open"),
    };
    let detail = match (&reason, &run.error_message) {
        (Some(reason), _) => waiting::sentence(connection, reason, &run.workspace_id).await?,
        (None, Some(message)) => message.clone(),
        (None, None) if run.has_changes == Some(true) => {
            format!("{}. Started by {}.", change_words(run), listed.who())
        }
        (None, None) => format!("Started by {}.", listed.who()),
    };
    Ok(Some(Verdict {
        asks: run.status == RunStatus::Planned,
        address: format!("{}/runs/{}", seen.frame.base, run.id),
        message: run.message.clone(),
        status,
        words,
        detail,
        action,
    }))
}

async fn facts(connection: &mut Connection, seen: &Seen) -> Result<Vec<(&'static str, String)>, WebError> {
    let record = &seen.record;
    let project = projects::get(connection, &record.project_id).await?;
    let origin = Origin::of(record, project.as_ref(), &seen.place.organization);
    let pool = match &record.effective.agent_pool_id {
        Some(id) => pools::get(connection, id).await?,
        None => None,
    };
    let limits = match &pool {
        Some(pool) => pool.settings.default_limits,
        None => pools::find_shared(connection)
            .await?
            .map_or_else(Limits::default, |pool| pool.settings.default_limits),
    };
    let own = |name: &str| record.settings.get(name).and_then(serde_json::Value::as_u64);
    let pool = pool.as_ref().map(|pool| pool.name.as_str());
    let mut facts = vec![
        ("Runs on", format!("{}, {origin}", seen.frame.pool)),
        ("Engine", seen.frame.engine.clone()),
        (
            "Apply",
            if record.auto_apply {
                "at once after the plan"
            } else {
                "waits for a person"
            }
            .to_owned(),
        ),
        (
            "Folder",
            if record.working_directory.is_empty() {
                "/"
            } else {
                &record.working_directory
            }
            .to_owned(),
        ),
        ("Resources", Number(record.resource_count).to_string()),
        ("Created", format!("{} ago", between(record.created_at, seen.now))),
    ];
    if record.effective.execution_mode != ExecutionMode::Local {
        let memory = limit(own("memory-mb"), pool, limits.memory_mb, megabytes);
        let cpu = limit(own("cpu-millis"), pool, limits.cpu_millis, |millis| {
            format!("{}.{:03}", millis / 1000, millis % 1000)
                .trim_end_matches('0')
                .trim_end_matches('.')
                .to_owned()
        });
        facts.insert(2, ("Memory of a run", memory));
        facts.insert(3, ("CPU of a run", cpu));
    }
    if let Some(description) = record.description.as_ref().filter(|text| !text.is_empty()) {
        facts.insert(0, ("Description", description.clone()));
    }
    Ok(facts)
}

#[derive(Template)]
#[template(path = "workspace/runs.html")]
struct RunsPage {
    shell: Shell,
    frame: Frame,
    runs: Vec<RunRow>,
    paging: Paging,
}

/// `GET /app/:org/workspaces/:name/runs`
pub(super) async fn runs(
    State(app): State<App>,
    visitor: Visitor,
    Path(names): Path<(String, String)>,
    params: Params,
) -> Page {
    let mut connection = app.db.read().await?;
    let permission = WorkspacePermission::Read;
    let seen = frame::see(&app, &mut connection, &visitor, &names, Tab::Runs, permission).await?;
    let paging = Paging::new(&params, &format!("{}/runs", seen.frame.base), &[], "newest first");
    let filter = RunFilter {
        workspace: Some(seen.record.id.clone()),
        ..RunFilter::default()
    };
    let organization = &seen.place.organization.id;
    let listed = overview::list_runs(&mut connection, organization, &filter, &paging.page).await?;
    let page = RunsPage {
        shell: seen.shell("Runs"),
        runs: rows(&mut connection, &seen.place, &listed.items, false, seen.now).await?,
        paging: paging.counted(listed.total),
        frame: seen.frame,
    };
    html(&page)
}

//! Reads everything that the page of a run shows.

use terrapool_model::job::{JobState, Phase};
use terrapool_model::lock::Lock;
use terrapool_model::run::{Aftermath, ErrorReason, RunStatus};
use terrapool_model::time::{Millis, Timestamp};
use terrapool_model::times::Times;
use terrapool_model::wait::WaitReason;
use terrapool_objects::ObjectKey;
use terrapool_protocol::job::{ArtifactName, Limit};
use terrapool_protocol::memory::MemoryCurve;
use terrapool_store::audit::{self, AuditFilter};
use terrapool_store::db::Connection;
use terrapool_store::overview::{self, JobView, ListedRun, RunFilter};
use terrapool_store::page::Page as StorePage;
use terrapool_store::runs::RunRecord;
use terrapool_store::state_versions::{self, StateVersionRecord};
use terrapool_store::workspaces::{self, WorkspaceRecord};
use terrapool_store::{artifacts, pools, users, variables};

use super::lost;
use crate::app::App;
use crate::auth::{OrganizationPermission, WorkspacePermission};
use crate::http::web::changes::plan::{self, Plan};
use crate::http::web::changes::state::Document;
use crate::http::web::error::WebError;
use crate::http::web::logs::diagnostics::Diagnostic;
use crate::http::web::logs::{Delivery, LogView};
use crate::http::web::parts::status;
use crate::http::web::visitor::{Place, Visitor};
use crate::http::web::workspaces::read_document;
use crate::logs::LogError;
use crate::waiting;

/// Largest state of a lost run that is looked into, bytes: its page is made anew each second while somebody looks.
const LARGEST_LOST_STATE: u64 = 1 << 20;

/// Largest plan that is shown as a tree, bytes.
const LARGEST_PLAN: u64 = 64 << 20;

/// The names in a run's address: organization, workspace, run.
pub(super) type Names = (String, String, String);

/// A run with everything around it.
pub(super) struct Loaded {
    pub(super) listed: ListedRun,
    pub(super) workspace: WorkspaceRecord,
    pub(super) base: String,
    pub(super) organization: String,
    pub(super) plan_job: Option<JobView>,
    pub(super) apply_job: Option<JobView>,
    pub(super) reason: Option<(WaitReason, String)>,
    pub(super) confirmed_by: Option<String>,
    pub(super) plan: Option<Plan>,
    plan_log: Option<LogView>,
    apply_log: Option<LogView>,
    pub(super) behind: Vec<ListedRun>,
    pub(super) states: Vec<StateVersionRecord>,
    pub(super) current: Option<StateVersionRecord>,
    /// The newest state that the run's apply wrote, with its serial, when the run is over: for what is said of it.
    pub(super) document: Option<(Option<u64>, Document)>,
    /// The first errors that the engine told of a run that is errored, with the phase and the line of each.
    pub(super) diagnostics: Vec<(Phase, usize, Diagnostic)>,
    /// The memory of the newest phase that told of it.
    pub(super) memory: Option<Memory>,
    /// The times of the run's pool.
    pub(super) times: Times,
    /// The memory that a run of the workspace gets now, and the most that its pool allows, MiB.
    pub(super) memory_mb: u64,
    pub(super) most_memory_mb: Option<u64>,
    /// Whether the engine is told to log everything, as far as the visitor may know.
    pub(super) is_verbose: bool,
    /// Who asked it to stop, while it does.
    pub(super) canceled_by: Option<String>,
    /// How long the phase that is worked on took the last time in this workspace.
    pub(super) last_took: Option<Millis>,
    pub(super) rights: Rights,
    pub(super) now: Timestamp,
}

/// The memory of a phase over time.
pub(super) struct Memory {
    pub(super) phase: Phase,
    pub(super) curve: MemoryCurve,
    /// MiB.
    pub(super) limit_mb: u64,
    /// It goes on.
    pub(super) is_live: bool,
}

/// What the visitor may do with the run: for the buttons that are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rights {
    pub(super) queue: bool,
    pub(super) apply: bool,
    pub(super) force_cancel: bool,
    pub(super) manage: bool,
    pub(super) read_outputs: bool,
    pub(super) read_variables: bool,
    pub(super) reads_queues: bool,
}

impl Loaded {
    /// The log of a phase.
    pub(super) fn log(&self, phase: Phase) -> Option<&LogView> {
        match phase {
            Phase::Plan => self.plan_log.as_ref(),
            Phase::Apply => self.apply_log.as_ref(),
        }
    }

    /// How many lines the log of a phase has.
    pub(super) fn lines(&self, phase: Phase) -> usize {
        self.log(phase).map_or(0, LogView::len)
    }

    /// The job of a phase, once there is one.
    pub(super) fn job(&self, phase: Phase) -> Option<&JobView> {
        match phase {
            Phase::Plan => self.plan_job.as_ref(),
            Phase::Apply => self.apply_job.as_ref(),
        }
    }

    /// How long the engine has to stop in good order.
    pub(super) fn grace(&self) -> Millis {
        self.times
            .grace(self.listed.run.status.phase().unwrap_or(Phase::Plan))
    }

    /// Whether the workspace is locked because this run was lost.
    pub(super) fn quarantine(&self) -> Option<Option<Timestamp>> {
        match &self.workspace.lock {
            Lock::Lost { run, safe_at } if *run == self.listed.run.id => Some(*safe_at),
            Lock::Free | Lock::User(_) | Lock::Run(_) | Lock::Lost { .. } => None,
        }
    }
}

/// The run with these names, if the visitor may do this with it.
pub(super) async fn find(
    app: &App,
    connection: &mut Connection,
    visitor: &Visitor,
    (organization, workspace, run): &Names,
    permission: WorkspacePermission,
) -> Result<(Place, WorkspaceRecord, ListedRun), WebError> {
    let place = visitor
        .organization(app, connection, organization, OrganizationPermission::Read)
        .await?;
    let record = workspaces::by_name(connection, &place.organization.id, workspace)
        .await?
        .filter(|record| place.may_in_workspace(record, permission))
        .ok_or_else(WebError::not_found)?;
    let id = run.parse().map_err(|_| WebError::not_found())?;
    let listed = overview::by_ids(connection, std::slice::from_ref(&id))
        .await?
        .pop()
        .filter(|listed| listed.run.workspace_id == record.id)
        .ok_or_else(WebError::not_found)?;
    Ok((place, record, listed))
}

/// The same with everything that the page shows.
pub(super) async fn load(
    app: &App,
    connection: &mut Connection,
    visitor: &Visitor,
    names: &Names,
) -> Result<(Place, Loaded), WebError> {
    let (place, workspace, listed) = find(app, connection, visitor, names, WorkspacePermission::Read).await?;
    let (now, run) = (app.now(), &listed.run);
    let mut jobs = overview::of_run(connection, &run.id).await?;
    let live = jobs.iter_mut().rev().find_map(|job| live(app, job));
    let apply_job = jobs
        .iter()
        .position(|job| job.phase == Phase::Apply)
        .map(|at| jobs.swap_remove(at));
    let reason = match waiting::of_run(connection, run, &workspace, now).await? {
        Some(reason) => {
            let sentence = waiting::sentence(connection, &reason, &run.workspace_id).await?;
            Some((reason, sentence))
        }
        None => None,
    };
    let confirmed_by = match &run.confirmed_by {
        Some(id) => users::get(connection, id).await?.map(|user| user.username),
        None => None,
    };
    let behind = behind(connection, &place, &workspace, &listed).await?;
    let (states, _) = state_versions::list(connection, &workspace.id, 30, 0).await?;
    let states: Vec<StateVersionRecord> = states
        .into_iter()
        .filter(|version| version.run_id.as_ref() == Some(&run.id))
        .collect();
    let may = |permission| place.may_in_workspace(&workspace, permission);
    let rights = Rights {
        queue: may(WorkspacePermission::QueueRuns),
        apply: may(WorkspacePermission::ApplyRuns),
        force_cancel: may(WorkspacePermission::ForceCancelRuns),
        manage: may(WorkspacePermission::Manage),
        read_outputs: may(WorkspacePermission::ReadOutputs),
        read_variables: may(WorkspacePermission::ReadVariables),
        reads_queues: place.may(OrganizationPermission::ReadQueues),
    };
    let plan_job = jobs.pop();
    let pool = pools::get(connection, &run.pool_id).await?;
    let settings = pool.map(|pool| pool.settings).unwrap_or_default();
    let document = match states.first() {
        Some(version) if run.status == RunStatus::Applied => read_state(app, version, u64::MAX).await?,
        Some(version) if lost::is_lost(run, apply_job.as_ref()) => {
            read_state(app, version, LARGEST_LOST_STATE).await?
        }
        Some(_) | None => None,
    };
    let plan_log = shown_log(app, run, Phase::Plan, plan_job.as_ref()).await;
    let apply_log = shown_log(app, run, Phase::Apply, apply_job.as_ref()).await;
    let last = if apply_job.is_some() {
        (Phase::Apply, apply_log.as_ref())
    } else {
        (Phase::Plan, plan_log.as_ref())
    };
    let loaded = Loaded {
        diagnostics: diagnostics(run, last).await,
        rights,
        base: place.address(&format!("/workspaces/{}/runs/{}", workspace.name, run.id)),
        organization: place.organization.name.clone(),
        document,
        memory: match live {
            Some(memory) => Some(memory),
            None => memory_of(connection, run).await?,
        },
        memory_mb: workspace
            .settings
            .get(Limit::Memory.setting())
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(settings.default_limits.memory_mb)
            .min(settings.maximum_limits.memory_mb.unwrap_or(u64::MAX)),
        most_memory_mb: settings.maximum_limits.memory_mb,
        times: settings.times,
        is_verbose: rights.read_variables && is_verbose(connection, &workspace, run).await?,
        canceled_by: canceled_by(connection, &place, run).await?,
        last_took: last_took(connection, &place, &workspace, run).await?,
        reason,
        confirmed_by,
        plan: plan_of(app, connection, &listed).await?,
        plan_log,
        apply_log,
        plan_job,
        apply_job,
        behind,
        states,
        current: state_versions::current(connection, &workspace.id).await?,
        workspace,
        listed,
        now,
    };
    Ok((place, loaded))
}

/// The log of a phase with what its job's attempt delivered after it had been closed.
pub(super) async fn log(
    app: &App,
    run: &RunRecord,
    phase: Phase,
    job: Option<&JobView>,
) -> Result<LogView, LogError> {
    let log = LogView::open(&app.logs, &app.log_lines, log_id(run, phase)).await?;
    match delivery(run, job) {
        Some(delivery) => log.with_delivery(&app.log_lines, &delivery).await,
        None => Ok(log),
    }
}

/// What an attempt may have delivered after its log had been closed.
pub(super) fn delivery(run: &RunRecord, job: Option<&JobView>) -> Option<Delivery> {
    let job = job?;
    Some(Delivery {
        generation: job.generation,
        attempt: job.attempt.clone()?,
        complete: run.aftermath == Aftermath::Delivered,
        mark: if run.error_reason == Some(ErrorReason::AgentLost) {
            "\u{1b}[1;33mContact was lost here. What follows was delivered later, when the agent came back.\u{1b}[0m"
        } else {
            "\u{1b}[1;33mThe run was over here. What follows was delivered later.\u{1b}[0m"
        },
    })
}

/// The log of a phase by its id.
pub(super) fn log_id(run: &RunRecord, phase: Phase) -> &str {
    match phase {
        Phase::Plan => run.plan_id.as_str(),
        Phase::Apply => run.apply_id.as_str(),
    }
}

/// A log; none when the disk refuses: the page is worth showing without.
async fn shown_log(app: &App, run: &RunRecord, phase: Phase, job: Option<&JobView>) -> Option<LogView> {
    match log(app, run, phase, job).await {
        Ok(log) => Some(log),
        Err(error) => {
            tracing::error!(
                log = log_id(run, phase),
                error = &error as &dyn std::error::Error,
                "a log cannot be read"
            );
            None
        }
    }
}

/// The first errors that the engine told of a run that is errored.
async fn diagnostics(
    run: &RunRecord,
    (phase, log): (Phase, Option<&LogView>),
) -> Vec<(Phase, usize, Diagnostic)> {
    let Some(log) = log.filter(|_| run.status == RunStatus::Errored) else {
        return Vec::new();
    };
    let found = log.diagnostics().await.unwrap_or_else(|error| {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "the errors in a log cannot be read"
        );
        Vec::new()
    });
    let found = found.into_iter();
    found
        .map(|(line, diagnostic)| (phase, line, diagnostic))
        .collect()
}

/// A state that can be read, with its serial; larger ones are left.
async fn read_state(
    app: &App,
    version: &StateVersionRecord,
    most: u64,
) -> Result<Option<(Option<u64>, Document)>, WebError> {
    if version.size.is_none_or(|size| size > most) {
        return Ok(None);
    }
    let document = read_document(app, version).await?;
    Ok(document.map(|document| (version.serial, document)))
}

/// The memory of the newest phase that is over and told of it.
async fn memory_of(connection: &mut Connection, run: &RunRecord) -> Result<Option<Memory>, WebError> {
    for phase in [Phase::Apply, Phase::Plan] {
        if let Some((curve, limit_mb)) = overview::memory_of(connection, &run.id, phase).await? {
            return Ok(Some(Memory {
                phase,
                curve,
                limit_mb,
                is_live: false,
            }));
        }
    }
    Ok(None)
}

/// What an agent told lately of a job that it works on: the job gets what it has used so far, and its memory is
/// answered.
fn live(app: &App, job: &mut JobView) -> Option<Memory> {
    if !matches!(job.state, JobState::Leased | JobState::Running) {
        return None;
    }
    let progress = app.presence.progress(&job.id, job.generation, app.monotonic())?;
    job.usage = Some(progress.usage);
    Some(Memory {
        phase: job.phase,
        curve: progress.memory?,
        limit_mb: job.limits.memory_mb,
        is_live: true,
    })
}

/// Whether the workspace of a run that its memory ended tells the engine to log everything.
async fn is_verbose(
    connection: &mut Connection,
    workspace: &WorkspaceRecord,
    run: &RunRecord,
) -> Result<bool, WebError> {
    if !status::is_out_of_memory(run) {
        return Ok(false);
    }
    let variables = variables::of_workspace(connection, &workspace.id).await?;
    Ok(variables.iter().any(|variable| variable.key == "TF_LOG"))
}

/// Who asked a run to stop that has not stopped yet.
async fn canceled_by(
    connection: &mut Connection,
    place: &Place,
    run: &RunRecord,
) -> Result<Option<String>, WebError> {
    if run.cancel_asked_at.is_none() || run.status.is_terminal() {
        return Ok(None);
    }
    let filter = AuditFilter {
        kinds: vec!["run.cancel"],
        ..AuditFilter::default()
    };
    let entries = audit::list(connection, Some(&place.organization.id), &filter, 50).await?;
    let Some(entry) = entries
        .into_iter()
        .rfind(|entry| entry.subject == run.id.as_str())
    else {
        return Ok(None);
    };
    let name = match entry.actor.parse() {
        Ok(id) => users::get(connection, &id).await?.map(|user| user.username),
        Err(_) => None,
    };
    Ok(Some(name.unwrap_or(entry.actor)))
}

/// How long the phase that is worked on took the last time in the workspace.
async fn last_took(
    connection: &mut Connection,
    place: &Place,
    workspace: &WorkspaceRecord,
    run: &RunRecord,
) -> Result<Option<Millis>, WebError> {
    let (begin, ends): (&str, &[&str]) = match run.status {
        RunStatus::Planning => (
            "planning-at",
            &["planned-at", "planned-and-finished-at", "planned-and-saved-at"],
        ),
        RunStatus::Applying => ("applying-at", &["applied-at"]),
        RunStatus::Pending
        | RunStatus::PlanQueued
        | RunStatus::Planned
        | RunStatus::PlannedAndSaved
        | RunStatus::PlannedAndFinished
        | RunStatus::ApplyQueued
        | RunStatus::Applied
        | RunStatus::Discarded
        | RunStatus::Errored
        | RunStatus::Canceled
        | RunStatus::ForceCanceled
        | RunStatus::PolicySoftFailed => return Ok(None),
    };
    let filter = RunFilter {
        workspace: Some(workspace.id.clone()),
        ..RunFilter::default()
    };
    let organization = &place.organization.id;
    let runs = overview::list_runs(connection, organization, &filter, &StorePage::first(20)).await?;
    let took = |listed: &ListedRun| {
        let times = &listed.run.status_timestamps;
        let end = ends.iter().find_map(|name| times.get(*name))?;
        Some(*end - *times.get(begin)?)
    };
    let others = runs.items.iter().filter(|listed| listed.run.id != run.id);
    Ok(others.filter_map(took).next())
}

async fn behind(
    connection: &mut Connection,
    place: &Place,
    workspace: &WorkspaceRecord,
    listed: &ListedRun,
) -> Result<Vec<ListedRun>, WebError> {
    if listed.run.status.is_terminal() || workspace.lock != Lock::Run(listed.run.id.clone()) {
        return Ok(Vec::new());
    }
    let filter = RunFilter {
        statuses: vec!["pending"],
        workspace: Some(workspace.id.clone()),
        ..RunFilter::default()
    };
    let organization = &place.organization.id;
    let waiting = overview::list_runs(connection, organization, &filter, &StorePage::first(20)).await?;
    Ok(waiting.items)
}

/// The plan, once there is one that can be read.
async fn plan_of(
    app: &App,
    connection: &mut Connection,
    listed: &ListedRun,
) -> Result<Option<Plan>, WebError> {
    let run = &listed.run;
    if matches!(
        run.status,
        RunStatus::Pending | RunStatus::PlanQueued | RunStatus::Planning
    ) {
        return Ok(None);
    }
    let found = artifacts::of_run(connection, &run.id, ArtifactName::PlanRedacted).await?;
    let Some(record) = found.filter(|record| record.size <= LARGEST_PLAN) else {
        return Ok(None);
    };
    let key = ObjectKey::new(record.object_key.as_str())?;
    let bytes = app.objects.get(&key, record.context()).await?;
    Ok(plan::read(&bytes))
}

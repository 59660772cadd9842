//! Reads everything that the page of a run shows.

use terrapool_model::job::Phase;
use terrapool_model::lock::Lock;
use terrapool_model::run::RunStatus;
use terrapool_model::time::Timestamp;
use terrapool_model::wait::WaitReason;
use terrapool_objects::ObjectKey;
use terrapool_protocol::job::ArtifactName;
use terrapool_store::db::Connection;
use terrapool_store::overview::{self, JobView, ListedRun, RunFilter};
use terrapool_store::page::Page as StorePage;
use terrapool_store::state_versions::{self, StateVersionRecord};
use terrapool_store::workspaces::{self, WorkspaceRecord};
use terrapool_store::{artifacts, users};

use crate::app::App;
use crate::auth::{OrganizationPermission, WorkspacePermission};
use crate::http::web::changes::plan::{self, Plan};
use crate::http::web::error::WebError;
use crate::http::web::logs::LogView;
use crate::http::web::visitor::{Place, Visitor};
use crate::waiting;

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
    pub(super) rights: Rights,
    pub(super) now: Timestamp,
}

/// What the visitor may do with the run: for the buttons that are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rights {
    pub(super) queue: bool,
    pub(super) apply: bool,
    pub(super) force_cancel: bool,
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
    let apply_job = jobs
        .iter()
        .position(|job| job.phase == Phase::Apply)
        .map(|at| jobs.swap_remove(at));
    let reason = match waiting::of_run(connection, run, &workspace, now).await? {
        Some(reason) => {
            let sentence = waiting::sentence(connection, &reason).await?;
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
    let states = states
        .into_iter()
        .filter(|version| version.run_id.as_ref() == Some(&run.id))
        .collect();
    let may = |permission| place.may_in_workspace(&workspace, permission);
    let rights = Rights {
        queue: may(WorkspacePermission::QueueRuns),
        apply: may(WorkspacePermission::ApplyRuns),
        force_cancel: may(WorkspacePermission::ForceCancelRuns),
        reads_queues: place.may(OrganizationPermission::ReadQueues),
    };
    let loaded = Loaded {
        rights,
        base: place.address(&format!("/workspaces/{}/runs/{}", workspace.name, run.id)),
        organization: place.organization.name.clone(),
        plan_job: jobs.pop(),
        apply_job,
        reason,
        confirmed_by,
        plan: plan_of(app, connection, &listed).await?,
        plan_log: log(app, run.plan_id.as_str()).await,
        apply_log: log(app, run.apply_id.as_str()).await,
        behind,
        states,
        current: state_versions::current(connection, &workspace.id).await?,
        workspace,
        listed,
        now,
    };
    Ok((place, loaded))
}

/// A log; none when the disk refuses: the page is worth showing without.
async fn log(app: &App, id: &str) -> Option<LogView> {
    match LogView::open(&app.logs, &app.log_lines, id).await {
        Ok(log) => Some(log),
        Err(error) => {
            tracing::error!(
                log = id,
                error = &error as &dyn std::error::Error,
                "a log cannot be read"
            );
            None
        }
    }
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

//! What all tabs of a workspace have around them.

use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::{AttemptId, UserId};
use terrapool_model::job::Phase;
use terrapool_model::lock::Lock;
use terrapool_model::time::Timestamp;
use terrapool_store::db::Connection;
use terrapool_store::overview::{self, ListedRun};
use terrapool_store::workspaces::{self, WorkspaceRecord};
use terrapool_store::{
    configuration_versions, jobs, kept_apart, pools, projects, state_versions, users, variables,
};

use super::engine_words;
use crate::app::App;
use crate::auth::{OrganizationPermission, WorkspacePermission};
use crate::http::web::error::WebError;
use crate::http::web::page::{Current, Section, Shell};
use crate::http::web::parts::status::{self, Status};
use crate::http::web::parts::time::Day;
use crate::http::web::parts::words;
use crate::http::web::visitor::{Place, Visitor};
use crate::waiting;

/// A tab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Runs,
    States,
    Variables,
    Settings,
}

/// How a lock can be ended from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LockEnd {
    /// By an unlock.
    Unlock,
    /// By taking it from another person.
    Force,
    /// By overriding an attempt that may still be alive.
    Override,
    /// By deciding on the run that holds it.
    Run,
}

/// A lock that is held.
#[derive(Debug, Clone)]
pub(super) struct LockView {
    /// Who holds it, and why.
    pub(super) words: String,
    /// How it can be ended.
    pub(super) end: LockEnd,
    /// The attempt that an override has to name.
    pub(super) attempt: Option<AttemptId>,
}

/// What all tabs show.
pub(super) struct Frame {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) base: String,
    pub(super) status: Option<Status>,
    pub(super) lock: Option<LockView>,
    pub(super) project: String,
    pub(super) pool: String,
    pub(super) pool_address: Option<String>,
    pub(super) engine: String,
    pub(super) auto_apply: bool,
    pub(super) can_run: bool,
    pub(super) why_no_run: &'static str,
    pub(super) configuration: Option<String>,
    pub(super) resources_words: String,
    pub(super) runs: u64,
    pub(super) states: u64,
    /// States that an attempt delivered too late: a person decides on them.
    pub(super) kept_apart: u64,
    pub(super) variables: u64,
    pub(super) rights: Rights,
    tab: Tab,
}

/// What the visitor may do here: for the buttons that are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rights {
    pub(super) queue: bool,
    pub(super) lock: bool,
    pub(super) force_unlock: bool,
    pub(super) write_variables: bool,
    pub(super) write_state: bool,
    pub(super) read_state: bool,
    pub(super) manage: bool,
    /// Pages that show what waits and runs everywhere.
    pub(super) reads_queues: bool,
    /// Pages of owners.
    pub(super) owns: bool,
}

impl Rights {
    fn of(place: &Place, record: &WorkspaceRecord) -> Self {
        let may = |permission| place.may_in_workspace(record, permission);
        Self {
            queue: may(WorkspacePermission::QueueRuns),
            lock: may(WorkspacePermission::Lock),
            force_unlock: may(WorkspacePermission::ForceUnlock),
            write_variables: may(WorkspacePermission::WriteVariables),
            write_state: may(WorkspacePermission::WriteState),
            read_state: may(WorkspacePermission::ReadState),
            manage: may(WorkspacePermission::Manage),
            reads_queues: place.may(OrganizationPermission::ReadQueues),
            owns: place.may(OrganizationPermission::Manage),
        }
    }
}

impl Frame {
    /// Marks the tab that is shown.
    pub(super) fn current(&self, tab: Tab) -> Current {
        Current(self.tab == tab)
    }
}

/// A workspace that a visitor looks at.
pub(super) struct Seen {
    pub(super) place: Place,
    pub(super) record: WorkspaceRecord,
    pub(super) latest: Option<ListedRun>,
    pub(super) frame: Frame,
    pub(super) now: Timestamp,
}

impl Seen {
    /// The frame of the page.
    pub(super) fn shell(&self, title: &str) -> Shell {
        let name = &self.record.name;
        let shell = self.place.shell(Section::Workspaces, name.clone());
        match self.frame.tab {
            Tab::Overview => shell,
            Tab::Runs | Tab::States | Tab::Variables | Tab::Settings => {
                let mut shell = self
                    .place
                    .shell(Section::Workspaces, title)
                    .behind(name.clone(), self.frame.base.clone());
                shell.title = format!("{title} of {name} · {}", self.place.organization.name);
                shell
            }
        }
    }
}

/// The workspace of an organization with a name, if the visitor may see it.
pub(super) async fn workspace(
    app: &App,
    connection: &mut Connection,
    visitor: &Visitor,
    (organization, name): &(String, String),
    permission: WorkspacePermission,
) -> Result<(Place, WorkspaceRecord), WebError> {
    let place = visitor
        .organization(app, connection, organization, OrganizationPermission::Read)
        .await?;
    let record = workspaces::by_name(connection, &place.organization.id, name)
        .await?
        .filter(|record| place.may_in_workspace(record, permission))
        .ok_or_else(WebError::not_found)?;
    Ok((place, record))
}

/// The same for a form that was sent, with a connection of its own.
pub(super) async fn opened(
    app: &App,
    visitor: &Visitor,
    names: &(String, String),
    permission: WorkspacePermission,
) -> Result<(Place, WorkspaceRecord), WebError> {
    workspace(app, &mut app.db.read().await?, visitor, names, permission).await
}

/// The same with everything that the tabs show.
pub(super) async fn see(
    app: &App,
    connection: &mut Connection,
    visitor: &Visitor,
    names: &(String, String),
    tab: Tab,
    permission: WorkspacePermission,
) -> Result<Seen, WebError> {
    let (place, record) = workspace(app, connection, visitor, names, permission).await?;
    let now = app.now();
    let latest = match &record.current_run_id {
        Some(id) => overview::by_ids(connection, std::slice::from_ref(id))
            .await?
            .pop(),
        None => None,
    };
    let status = match &latest {
        Some(listed) => Some(
            match waiting::of_run(connection, &listed.run, &record, now).await? {
                Some(reason) => status::of_wait(&reason),
                None => status::of_run(&listed.run),
            },
        ),
        None => None,
    };
    let (pool, pool_address) = pool(connection, &place, &record).await?;
    let configuration = configuration_versions::newest_usable(connection, &record.id).await?;
    let is_local = record.effective.execution_mode == ExecutionMode::Local;
    let (_, states) = state_versions::list(connection, &record.id, 1, 0).await?;
    let project = projects::get(connection, &record.project_id).await?;
    let frame = Frame {
        id: record.id.to_string(),
        name: record.name.clone(),
        base: place.address(&format!("/workspaces/{}", record.name)),
        status,
        lock: lock(connection, &record, &visitor.user.id, now).await?,
        project: project.map_or_else(String::new, |project| project.name),
        pool,
        pool_address,
        engine: engine_words(&record),
        auto_apply: record.auto_apply,
        can_run: configuration.is_some() && !is_local,
        why_no_run: if is_local {
            "Runs of this workspace happen on the caller’s machine; this server keeps its state only."
        } else {
            "No configuration was uploaded for runs yet: a terraform plan uploads one for itself only. Run \
             terraform apply once with the cloud block from the overview; after that runs can be started here."
        },
        configuration: configuration.map(|version| version.id.to_string()),
        resources_words: words::count(record.resource_count, "resource", "resources"),
        runs: record.run_count,
        states,
        kept_apart: kept_apart::count(connection, &record.id).await?,
        variables: variables::of_workspace(connection, &record.id).await?.len() as u64,
        rights: Rights::of(&place, &record),
        tab,
    };
    Ok(Seen {
        place,
        record,
        latest,
        frame,
        now,
    })
}

async fn pool(
    connection: &mut Connection,
    place: &Place,
    record: &WorkspaceRecord,
) -> Result<(String, Option<String>), WebError> {
    Ok(
        match (record.effective.execution_mode, &record.effective.agent_pool_id) {
            (ExecutionMode::Local, _) => ("caller’s machine".to_owned(), None),
            (ExecutionMode::Remote, _) => ("shared pool".to_owned(), None),
            (ExecutionMode::Agent, None) => ("no pool yet".to_owned(), None),
            (ExecutionMode::Agent, Some(id)) => {
                let pool = pools::get(connection, id).await?;
                (
                    pool.map_or_else(|| id.to_string(), |pool| pool.name),
                    place
                        .may(OrganizationPermission::ReadQueues)
                        .then(|| place.address(&format!("/agent-pools/{id}"))),
                )
            }
        },
    )
}

async fn lock(
    connection: &mut Connection,
    record: &WorkspaceRecord,
    own: &UserId,
    now: Timestamp,
) -> Result<Option<LockView>, WebError> {
    let because = |words: String| match &record.lock_reason {
        Some(reason) if !reason.is_empty() => format!("{words}: {reason}"),
        _ => words,
    };
    Ok(match &record.lock {
        Lock::Free => None,
        Lock::User(user) if user == own => Some(LockView {
            words: because("Locked by you".to_owned()),
            end: LockEnd::Unlock,
            attempt: None,
        }),
        Lock::User(user) => {
            let name = users::get(connection, user).await?.map(|user| user.username);
            Some(LockView {
                words: because(format!("Locked by {}", name.unwrap_or_else(|| user.to_string()))),
                end: LockEnd::Force,
                attempt: None,
            })
        }
        Lock::Run(run) => Some(LockView {
            words: format!("Locked by {run}"),
            end: LockEnd::Run,
            attempt: None,
        }),
        Lock::Lost { run, safe_at } => {
            let job = jobs::of_run(connection, run, Phase::Apply).await?;
            let is_safe = safe_at.is_some_and(|at| now >= at);
            Some(LockView {
                words: match safe_at {
                    Some(at) => format!("Locked, engine may still run until {}", plain(Day::new(*at, now))),
                    None => "Locked, engine may still run".to_owned(),
                },
                end: if is_safe {
                    LockEnd::Unlock
                } else {
                    LockEnd::Override
                },
                attempt: job.and_then(|job| job.row.attempt),
            })
        }
    })
}

/// A time's words without its tag.
pub(super) fn plain(day: Day) -> String {
    let tagged = day.to_string();
    tagged.split(['>', '<']).nth(2).unwrap_or_default().to_owned() + " UTC"
}

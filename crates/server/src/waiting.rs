//! Why runs wait: reads what the model's pure functions decide on, and puts their answer into words.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use terrapool_model::agent_status::AgentStatus;
use terrapool_model::id::{AgentPoolId, OrganizationId, ProjectId, RunId, WorkspaceId};
use terrapool_model::lock::Lock;
use terrapool_model::run::RunStatus;
use terrapool_model::time::Timestamp;
use terrapool_model::wait::{self, PoolAgent, QueuedJob, WaitReason};
use terrapool_store::agents::{self, AgentRecord};
use terrapool_store::db::Connection;
use terrapool_store::error::StoreError;
use terrapool_store::overview::{self, QueuedGroup, QueuedView};
use terrapool_store::page::Page;
use terrapool_store::pools::{self, PoolRecord};
use terrapool_store::runs::{self, RunRecord};
use terrapool_store::users;
use terrapool_store::workspaces::{self, WorkspaceRecord};

/// Agents of a pool that are looked at.
const MOST_AGENTS: u32 = 500;

/// A pool with its agents and what waits for them.
#[derive(Debug, Clone)]
pub struct PoolState {
    /// The pool.
    pub pool: PoolRecord,
    /// Its agents, oldest first.
    pub agents: Vec<AgentRecord>,
    /// What waits, first in line first, and why; the first of them where they are many.
    pub queue: Vec<(QueuedView, WaitReason)>,
    /// All that waits, counted. The reasons are without the places in the line.
    groups: Vec<(QueuedGroup, WaitReason)>,
}

/// What waits in a pool, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// How much.
    pub jobs: u64,
    /// How much of it cannot start unless somebody changes something.
    pub stalled: u64,
    /// Since when what waits longest does.
    pub oldest: Option<Timestamp>,
}

impl PoolState {
    /// Agents that are heard from.
    pub fn connected(&self, now: Timestamp) -> impl Iterator<Item = &AgentRecord> {
        self.agents
            .iter()
            .filter(move |agent| is_connected(agent, now, &self.pool))
    }

    /// How much waits.
    pub fn waiting(&self) -> u64 {
        self.count(|_, _| true)
    }

    /// What waits of an organization, counted.
    pub fn waiting_of(&self, organization: &OrganizationId) -> Waiting {
        let is_theirs = |group: &QueuedGroup| group.organization_id == *organization;
        let theirs = self.groups.iter().filter(|(group, _)| is_theirs(group));
        Waiting {
            jobs: self.count(|group, _| is_theirs(group)),
            stalled: self.count(|group, reason| is_theirs(group) && reason.is_stalled()),
            oldest: theirs.map(|(group, _)| group.oldest).min(),
        }
    }

    /// How much waits and cannot start unless somebody changes something.
    pub fn stalled(&self) -> u64 {
        self.count(|_, reason| reason.is_stalled())
    }

    fn count(&self, counts: impl Fn(&QueuedGroup, &WaitReason) -> bool) -> u64 {
        self.groups
            .iter()
            .filter(|(group, reason)| counts(group, reason))
            .map(|(group, _)| group.jobs)
            .sum()
    }

    /// How much waits behind what the queue lists.
    pub fn unlisted(&self) -> u64 {
        self.waiting().saturating_sub(self.queue.len() as u64)
    }

    /// Since when what waits longest does.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.groups.iter().map(|(group, _)| group.oldest).min()
    }

    /// Why something cannot start unless somebody changes something.
    pub fn why_stalled(&self) -> Option<&WaitReason> {
        let stalled = self.groups.iter().find(|(_, reason)| reason.is_stalled());
        stalled.map(|(_, reason)| reason)
    }

    /// Whether something waits for slots or memory.
    pub fn lacks_capacity(&self) -> bool {
        self.groups.iter().any(|(_, reason)| reason.is_capacity())
    }
}

/// Whether an agent is heard from.
pub fn is_connected(agent: &AgentRecord, now: Timestamp, pool: &PoolRecord) -> bool {
    match agent.status(now, &pool.settings.times) {
        AgentStatus::Idle | AgentStatus::Busy => true,
        AgentStatus::Unknown | AgentStatus::Errored | AgentStatus::Exited => false,
    }
}

fn pool_agent(agent: &AgentRecord, now: Timestamp, pool: &PoolRecord) -> PoolAgent {
    PoolAgent {
        name: agent.name.clone(),
        connected: is_connected(agent, now, pool),
        draining: agent.draining || agent.drain_wanted,
        refused: agent.root_sandboxes && pool.settings.root_refused,
        slots: agent.capacity.slots,
        free_slots: agent.capacity.free_slots,
        memory_mb: agent.capacity.memory_mb,
        free_memory_mb: agent.capacity.free_memory_mb,
    }
}

/// What decides why jobs of a pool wait.
struct Seen {
    pool: PoolRecord,
    agents: Vec<AgentRecord>,
    seen: Vec<PoolAgent>,
    /// When an agent was heard from last.
    last_heard: Option<Timestamp>,
}

impl Seen {
    /// Whether a workspace may use the pool. `named` is the pool that the workspace names itself.
    fn allows(&self, workspace: &WorkspaceId, project: &ProjectId, named: Option<&AgentPoolId>) -> bool {
        let moved = named.is_some_and(|named| *named != self.pool.id);
        self.pool.organization_id.is_none() || (!moved && self.pool.access.allows(workspace, project))
    }

    fn reason(&self, needs_mb: u64, ahead: u64, allowed: bool) -> WaitReason {
        let job = QueuedJob {
            needs_mb,
            ahead,
            allowed,
            paused: self.pool.settings.paused,
            last_heard: self.last_heard,
        };
        wait::of_job(&job, &self.seen)
    }

    fn reason_of(&self, waiting: &QueuedView) -> WaitReason {
        let named = waiting.workspace_pool.as_ref();
        let allowed = self.allows(&waiting.workspace_id, &waiting.project_id, named);
        self.reason(waiting.job.limits.memory_mb, waiting.ahead, allowed)
    }
}

async fn look_at(connection: &mut Connection, pool: PoolRecord, now: Timestamp) -> Result<Seen, StoreError> {
    let page = Page::first(MOST_AGENTS);
    let agents = agents::list(connection, &pool.id, None, false, &page)
        .await?
        .items;
    let seen: Vec<PoolAgent> = agents.iter().map(|agent| pool_agent(agent, now, &pool)).collect();
    let last_heard = agents.iter().map(|agent| agent.last_ping_at).max();
    Ok(Seen {
        pool,
        agents,
        seen,
        last_heard,
    })
}

/// A pool with its agents and what waits for them.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_pool(
    connection: &mut Connection,
    pool: PoolRecord,
    now: Timestamp,
) -> Result<PoolState, StoreError> {
    let seen = look_at(connection, pool, now).await?;
    let queue = overview::queue(connection, &seen.pool.id)
        .await?
        .into_iter()
        .map(|waiting| {
            let reason = seen.reason_of(&waiting);
            (waiting, reason)
        })
        .collect();
    let groups = overview::queued_groups(connection, &seen.pool.id)
        .await?
        .into_iter()
        .map(|group| {
            let (workspace, project) = (&group.workspace_id, &group.project_id);
            let allowed = seen.allows(workspace, project, group.workspace_pool.as_ref());
            let reason = seen.reason(group.needs_mb, 0, allowed);
            (group, reason)
        })
        .collect();
    Ok(PoolState {
        pool: seen.pool,
        agents: seen.agents,
        queue,
        groups,
    })
}

/// The pools of an organization and, when runs of the organization wait there or `with_shared`, the shared one.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_organization(
    connection: &mut Connection,
    organization: &OrganizationId,
    with_shared: bool,
    now: Timestamp,
) -> Result<Vec<PoolState>, StoreError> {
    let filter = pools::PoolFilter::default();
    let mut found = pools::list(connection, organization, &filter, &Page::first(200))
        .await?
        .items;
    let waiting = overview::queued_of_organization(connection, organization).await?;
    if let Some(shared) = pools::find_shared(connection).await?
        && (with_shared || waiting.contains_key(&shared.id))
    {
        found.push(shared);
    }
    let mut states = Vec::new();
    for pool in found {
        states.push(of_pool(connection, pool, now).await?);
    }
    Ok(states)
}

/// Why a run of a list waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The reason.
    pub reason: WaitReason,
    /// The same as a sentence.
    pub sentence: String,
}

/// Why each of these runs waits that does.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_runs(
    connection: &mut Connection,
    runs: impl Iterator<Item = &RunRecord>,
    now: Timestamp,
) -> Result<BTreeMap<RunId, Wait>, StoreError> {
    let runs: Vec<&RunRecord> = runs.collect();
    let mut queued = of_queued_runs(connection, &runs, now).await?;
    let mut locks: BTreeMap<WorkspaceId, Lock> = BTreeMap::new();
    let mut waits = BTreeMap::new();
    for run in runs {
        let reason = match run.status {
            RunStatus::PlanQueued | RunStatus::ApplyQueued => queued.remove(&run.id),
            RunStatus::Pending => {
                if !locks.contains_key(&run.workspace_id)
                    && let Some(workspace) = workspaces::get(connection, &run.workspace_id).await?
                {
                    locks.insert(workspace.id, workspace.lock);
                }
                match locks.get(&run.workspace_id) {
                    Some(lock) => under_lock(connection, run, lock, now).await?,
                    None => None,
                }
            }
            _ => None,
        };
        if let Some(reason) = reason {
            let sentence = match &reason {
                // A list has many of them.
                WaitReason::BehindRun { ahead, .. } => {
                    format!("Behind {} of its workspace.", runs_in_words((*ahead).max(1)))
                }
                reason => sentence(connection, reason, &run.workspace_id).await?,
            };
            waits.insert(run.id.clone(), Wait { reason, sentence });
        }
    }
    Ok(waits)
}

/// Why each of these runs waits that is queued.
async fn of_queued_runs(
    connection: &mut Connection,
    runs: &[&RunRecord],
    now: Timestamp,
) -> Result<BTreeMap<RunId, WaitReason>, StoreError> {
    let mut queued: BTreeMap<&AgentPoolId, Vec<RunId>> = BTreeMap::new();
    for run in runs {
        if matches!(run.status, RunStatus::PlanQueued | RunStatus::ApplyQueued) {
            queued.entry(&run.pool_id).or_default().push(run.id.clone());
        }
    }
    let mut reasons = BTreeMap::new();
    for (pool, runs) in queued {
        let Some(pool) = pools::get(connection, pool).await? else {
            continue;
        };
        let seen = look_at(connection, pool, now).await?;
        for waiting in overview::queued_runs(connection, &seen.pool.id, &runs).await? {
            let reason = seen.reason_of(&waiting);
            reasons.insert(waiting.job.run_id, reason);
        }
    }
    Ok(reasons)
}

/// Why a run waits; `None` when it does not, or waits for a person to decide on it.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_run(
    connection: &mut Connection,
    run: &RunRecord,
    workspace: &WorkspaceRecord,
    now: Timestamp,
) -> Result<Option<WaitReason>, StoreError> {
    under_lock(connection, run, &workspace.lock, now).await
}

/// The same, by the lock of the run's workspace.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn under_lock(
    connection: &mut Connection,
    run: &RunRecord,
    lock: &Lock,
    now: Timestamp,
) -> Result<Option<WaitReason>, StoreError> {
    match run.status {
        RunStatus::Pending => {
            let ahead = runs::queue_position(connection, run).await?;
            Ok(Some(wait::of_pending(&run.id, lock, ahead)))
        }
        RunStatus::PlanQueued | RunStatus::ApplyQueued => {
            Ok(of_queued_runs(connection, &[run], now).await?.remove(&run.id))
        }
        RunStatus::Planning
        | RunStatus::Planned
        | RunStatus::PlannedAndSaved
        | RunStatus::PlannedAndFinished
        | RunStatus::Applying
        | RunStatus::Applied
        | RunStatus::Discarded
        | RunStatus::Errored
        | RunStatus::Canceled
        | RunStatus::ForceCanceled
        | RunStatus::PolicySoftFailed => Ok(None),
    }
}

/// A reason as a sentence, with its figures and the words of whoever locked the workspace.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn sentence(
    connection: &mut Connection,
    reason: &WaitReason,
    workspace: &WorkspaceId,
) -> Result<String, StoreError> {
    Ok(match reason {
        WaitReason::LockedByUser { user } => {
            let name = users::get(connection, user).await?.map(|user| user.username);
            let why = workspaces::get(connection, workspace)
                .await?
                .and_then(|workspace| workspace.lock_reason)
                .map_or_else(String::new, |why| format!(": “{why}”"));
            format!(
                "The workspace is locked by {}{why}. It starts when the lock is gone.",
                name.unwrap_or_else(|| user.to_string())
            )
        }
        other => words(other),
    })
}

/// A reason as the API gives it: its word, whether the run can start unless somebody changes something, a sentence, and
/// the figures of the word.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn document(
    connection: &mut Connection,
    reason: &WaitReason,
    workspace: &WorkspaceId,
) -> Result<Value, StoreError> {
    let mut figures = figures(reason);
    figures["reason"] = json!(reason.as_str());
    figures["stalled"] = json!(reason.is_stalled());
    figures["message"] = json!(sentence(connection, reason, workspace).await?);
    Ok(figures)
}

fn figures(reason: &WaitReason) -> Value {
    let time = |at: &Option<Timestamp>| at.map(terrapool_tfe::time::iso8601);
    match reason {
        WaitReason::NoAgent { since } => json!({"since": time(since)}),
        WaitReason::RootRefused { agents } | WaitReason::Draining { agents } => json!({"agents": agents}),
        WaitReason::TooLarge {
            needs_mb,
            largest_mb,
            lost,
        } => json!({"needs-mb": needs_mb, "largest-mb": largest_mb, "lost-agent": lost}),
        WaitReason::NoMemory {
            needs_mb,
            most_free_mb,
        } => json!({"needs-mb": needs_mb, "most-free-mb": most_free_mb}),
        WaitReason::NoSlot { slots, ahead } => json!({"slots": slots, "ahead": ahead}),
        WaitReason::Ahead { ahead } => json!({"ahead": ahead}),
        WaitReason::BehindRun { run, ahead } => json!({"run": run.as_str(), "ahead": ahead}),
        WaitReason::LockedByUser { user } => json!({"user": user.as_str()}),
        WaitReason::Quarantined { run, until } => json!({"run": run.as_str(), "until": time(until)}),
        WaitReason::Next | WaitReason::NotAllowed | WaitReason::Paused | WaitReason::Scheduling => json!({}),
    }
}

/// "3 runs", "1 run".
fn runs_in_words(number: u64) -> String {
    if number == 1 {
        "1 run".to_owned()
    } else {
        format!("{number} runs")
    }
}

/// A reason as a sentence; whose lock it is stands in it by id only.
pub fn words(reason: &WaitReason) -> String {
    match reason {
        WaitReason::NoAgent { since: None } => {
            "No agent is in the pool. It starts by itself when one connects.".to_owned()
        }
        WaitReason::NoAgent { since: Some(since) } => format!(
            "No agent of the pool is heard from since {}. It starts by itself when one connects.",
            minute(*since)
        ),
        WaitReason::Draining { agents: 1 } => "The pool's only agent takes no new runs.".to_owned(),
        WaitReason::Draining { agents } => format!("All {agents} agents of the pool take no new runs."),
        WaitReason::TooLarge {
            needs_mb,
            largest_mb,
            lost: None,
        } => format!(
            "It needs {needs_mb} MB, and the pool's largest agent has {largest_mb} MB. Lower the memory of the \
             workspace, or connect a larger agent."
        ),
        WaitReason::TooLarge {
            needs_mb,
            lost: Some(lost),
            ..
        } => format!(
            "It needs {needs_mb} MB. The only agent that large, {lost}, is not heard from. Bring it back, or lower \
             the memory of the workspace."
        ),
        WaitReason::NoMemory {
            needs_mb,
            most_free_mb,
        } => format!("No agent has {needs_mb} MB free now; the most that one has is {most_free_mb} MB."),
        WaitReason::NoSlot { slots, ahead: 0 } => {
            format!("All {slots} slots of the pool are in use. It is next.")
        }
        WaitReason::NoSlot { slots, ahead } => format!(
            "All {slots} slots of the pool are in use, and {} before it.",
            match ahead {
                1 => "1 run is".to_owned(),
                ahead => format!("{ahead} runs are"),
            }
        ),
        WaitReason::Ahead { ahead } => {
            format!(
                "{} before it; applies go before plans.",
                match ahead {
                    1 => "1 run is".to_owned(),
                    ahead => format!("{ahead} runs are"),
                }
            )
        }
        WaitReason::Next => "An agent takes it in a moment.".to_owned(),
        WaitReason::NotAllowed => {
            "The workspace may not use this pool any more. Change the pool's access, or \
             cancel the run and give the workspace another pool."
                .to_owned()
        }
        WaitReason::RootRefused { agents } => {
            format!(
                "{} heard from, and {} sandboxes run as root, which this pool does not allow. Allow it in the pool's \
                 settings, or connect an agent without `--user=root`.",
                match agents {
                    1 => "1 agent is".to_owned(),
                    agents => format!("{agents} agents are"),
                },
                if *agents == 1 { "its" } else { "their" }
            )
        }
        WaitReason::Paused => {
            "The pool is paused: its agents are given nothing new until a person ends the pause.".to_owned()
        }
        WaitReason::BehindRun { run, ahead } if *ahead > 1 => {
            format!(
                "{} of this workspace come first, {run} before all.",
                runs_in_words(*ahead)
            )
        }
        WaitReason::BehindRun { run, .. } => {
            format!("{run} of this workspace has to end, or to be decided on, first.")
        }
        WaitReason::LockedByUser { user } => format!("The workspace is locked by {user}."),
        WaitReason::Quarantined {
            run,
            until: Some(until),
        } => format!(
            "The agent of {run} was lost, and its engine may still run. The lock ends by itself at {}.",
            minute(*until)
        ),
        WaitReason::Quarantined { run, until: None } => format!(
            "The agent of {run} was lost, and its engine may still run. The lock ends when the agent delivers, or by \
             a person."
        ),
        WaitReason::Scheduling => "It is scheduled in a moment.".to_owned(),
    }
}

/// "14:33 UTC", with the day.
fn minute(at: Timestamp) -> String {
    chrono::DateTime::from_timestamp_millis(at.0)
        .unwrap_or_default()
        .format("%-d %b, %H:%M UTC")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_hold_the_figures() {
        let large = WaitReason::TooLarge {
            needs_mb: 4096,
            largest_mb: 2048,
            lost: None,
        };
        assert!(words(&large).starts_with("It needs 4096 MB, and the pool's largest agent has 2048 MB."));
        assert_eq!(
            words(&WaitReason::NoSlot { slots: 4, ahead: 1 }),
            "All 4 slots of the pool are in use, and 1 run is before it."
        );
        let never = words(&WaitReason::NoAgent { since: None });
        assert!(never.starts_with("No agent is in the pool."), "{never}");
        let since = words(&WaitReason::NoAgent {
            since: Some(Timestamp(1_796_000_000_000)),
        });
        assert!(
            since.contains("since 29 Nov, 23:06 UTC") || since.contains("UTC"),
            "{since}"
        );
    }
}

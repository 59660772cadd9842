//! A pool's agents and its queue: why runs wait.

use askama::Template;
use axum::extract::{Path, State};
use terrapool_model::job::Phase;
use terrapool_model::wait::WaitReason;
use terrapool_store::agents::AgentRecord;
use terrapool_store::db::Connection;
use terrapool_store::overview::{self, JobView, QueuedView};

use super::frame::{self, Frame, Names, Seen, Tab};
use super::observed::{self, Observed};
use super::{figures, status};
use crate::app::App;
use crate::auth::WorkspacePermission;
use crate::http::web::error::WebError;
use crate::http::web::page::{Page, Section, Shell, TokenField, html};
use crate::http::web::parts::chart::{Bars, Meter, Pips, Spark};
use crate::http::web::parts::status::{self as statuses, Status};
use crate::http::web::parts::time::{Ago, Took, between};
use crate::http::web::parts::words::{self, megabytes};
use crate::http::web::parts::{Icon, Tone};
use crate::http::web::visitor::Visitor;
use crate::waiting;

#[derive(Template)]
#[template(path = "pool/agents.html")]
struct AgentsPage<'a> {
    shell: Shell,
    frame: Frame,
    live: Live,
    token: TokenField<'a>,
}

#[derive(Template)]
#[template(path = "pool/live.html")]
struct LivePart<'a> {
    live: Live,
    token: TokenField<'a>,
}

/// What changes while somebody looks.
struct Live {
    base: String,
    manages: bool,
    banner: Option<Banner>,
    queue: Vec<QueueRow>,
    /// How many wait, listed or not.
    waiting: u64,
    /// How many wait behind those that are listed.
    unlisted: Option<String>,
    /// Whether there is a row that may be canceled.
    cancels: bool,
    stalled: u64,
    running: u32,
    slots: u64,
    connected: usize,
    agents: Vec<AgentRow>,
    no_agents: String,
    observed: Option<Observed>,
    wait: String,
    spark: Spark,
    jobs: u64,
    bars: Bars,
    used: Bars,
    waited: Spark,
}

/// The bottleneck, in a sentence.
struct Banner {
    tone: Tone,
    icon: &'static str,
    heading: String,
    text: String,
    connect: bool,
}

struct QueueRow {
    place: String,
    address: Option<String>,
    workspace: String,
    what: String,
    waits: Took,
    needs: String,
    status: Status,
    why: String,
    stalled: bool,
    may_cancel: bool,
}

struct AgentRow {
    id: String,
    name: String,
    status: Status,
    connected: bool,
    pips: Pips,
    used: u32,
    slots: u32,
    memory: String,
    meter: Meter,
    jobs: Vec<JobLine>,
    why: Option<String>,
    duplicate: bool,
    version: String,
    old: bool,
    seen: Ago,
}

struct JobLine {
    address: String,
    workspace: String,
    detail: String,
}

async fn live(app: &App, connection: &mut Connection, seen: &Seen) -> Result<Live, WebError> {
    let (now, state, pool) = (seen.now, &seen.state, seen.pool());
    let running = overview::running_on(connection, &pool.id).await?;
    let figures = figures::of(connection, &pool.id, figures::DAY, now).await?;
    let (used, slots) = status::slots(state, now);
    let connected = state.connected(now).count();
    let organization = &seen.place.organization.name;
    let place = |waiting: &QueuedView| {
        (waiting.job.organization == *organization).then(|| {
            format!(
                "/app/{organization}/workspaces/{}/runs/{}",
                waiting.job.workspace, waiting.job.run_id
            )
        })
    };
    let mut queue: Vec<QueueRow> = state
        .queue
        .iter()
        .map(|(waiting, reason)| QueueRow {
            place: if reason.is_stalled() {
                "—".to_owned()
            } else {
                (waiting.ahead + 1).to_string()
            },
            address: place(waiting),
            workspace: waiting.job.workspace.clone(),
            what: format!(
                "{}, {}",
                phase_word(waiting.job.phase),
                waiting.creator.as_deref().unwrap_or("organization token")
            ),
            waits: between(waiting.job.queued_at, now),
            needs: megabytes(waiting.job.limits.memory_mb),
            status: statuses::of_wait(reason),
            why: waiting::words(reason),
            stalled: reason.is_stalled(),
            may_cancel: waiting.job.organization == *organization
                && seen.place.standing.may_in_workspace(
                    &waiting.workspace_id,
                    &waiting.project_id,
                    WorkspacePermission::ApplyRuns,
                ),
        })
        .collect();
    // What cannot start stands last, not in line.
    queue.sort_by_key(|row| row.stalled);
    let newest = state.agents.iter().map(|agent| agent.last_ping_at).max();
    Ok(Live {
        base: seen.frame.base.clone(),
        manages: seen.frame.manages,
        banner: banner(seen, connected).or_else(|| lost(seen, connected, &running)),
        stalled: state.stalled(),
        cancels: queue.iter().any(|row| row.may_cancel),
        queue,
        waiting: state.waiting(),
        unlisted: words::more_runs(state.unlisted()),
        running: used,
        slots: u64::from(slots),
        connected,
        agents: state
            .agents
            .iter()
            .map(|agent| agent_row(agent, seen, &running))
            .collect(),
        observed: observed::of(app, connection, seen).await?,
        no_agents: newest.map_or_else(
            || "None ever was, or it was removed a day after it was last heard from.".to_owned(),
            |at| format!("The last one was heard from {} ago.", between(at, now)),
        ),
        wait: figures.wait_words(),
        spark: figures.spark(""),
        jobs: figures.jobs(),
        bars: figures.jobs_over_time(),
        used: figures.used_over_time(""),
        waited: figures.waiting_over_time(),
    })
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Plan => "Plan",
        Phase::Apply => "Apply",
    }
}

/// An agent that is not heard from is told also when nothing waits: what it runs is in the balance.
fn lost(seen: &Seen, connected: usize, running: &[JobView]) -> Option<Banner> {
    let (state, now) = (&seen.state, seen.now);
    let gone: Vec<&AgentRecord> = state
        .agents
        .iter()
        .filter(|agent| !agent.exited && !waiting::is_connected(agent, now, seen.pool()))
        .collect();
    let held = running
        .iter()
        .filter(|job| gone.iter().any(|agent| job.agent_id.as_ref() == Some(&agent.id)))
        .count();
    let first = gone.iter().min_by_key(|agent| agent.last_ping_at)?;
    if held == 0 {
        return None;
    }
    Some(Banner {
        tone: Tone::Bad,
        icon: "lost",
        heading: if gone.len() == 1 {
            format!(
                "{} is not heard from for {}",
                first.name,
                between(first.last_ping_at, now)
            )
        } else {
            format!("{} agents are not heard from", gone.len())
        },
        text: format!(
            "{} there. A plan starts again on another agent; an apply is never started twice: its run’s page says \
             what is known. The page of the agent says what to type on its host.",
            words::count(held as u64, "job runs", "jobs run")
        ),
        connect: connected == 0,
    })
}

fn banner(seen: &Seen, connected: usize) -> Option<Banner> {
    let (state, now) = (&seen.state, seen.now);
    let waiting = state.waiting();
    let oldest = between(state.oldest()?, now);
    if connected == 0 {
        return Some(Banner {
            tone: Tone::Bad,
            icon: "warn",
            heading: format!("No agents, {} waiting", words::count(waiting, "run", "runs")),
            text: format!(
                "Nothing can run in this pool. The oldest run has waited {oldest}. They start by themselves when an \
                 agent connects, and wait until then or until someone cancels them."
            ),
            connect: true,
        });
    }
    let stalled = state.stalled();
    if stalled > 0 {
        let reason = state.why_stalled()?;
        return Some(Banner {
            tone: Tone::Warn,
            icon: "warn",
            heading: words::count(stalled, "run cannot start", "runs cannot start"),
            text: waiting::words(reason),
            connect: false,
        });
    }
    let (first, reason) = state.queue.iter().find(|(_, reason)| reason.is_capacity())?;
    let heading = match reason {
        WaitReason::NoMemory { .. } => "Runs wait because this pool is short of memory, not of agents",
        WaitReason::Draining { .. } => "Runs wait because every agent takes no new ones",
        _ => "Runs wait because every slot is in use",
    };
    Some(Banner {
        tone: Tone::Warn,
        icon: "clock",
        heading: heading.to_owned(),
        text: format!(
            "{} is first. {} The oldest has waited {oldest}.",
            words::theirs(&first.job.workspace),
            waiting::words(reason)
        ),
        connect: false,
    })
}

fn agent_row(agent: &AgentRecord, seen: &Seen, running: &[JobView]) -> AgentRow {
    let (now, pool) = (seen.now, seen.pool());
    let needs = pool.settings.default_limits.memory_mb;
    let status = statuses::of_agent(agent, now, needs, &pool.settings.times);
    let connected = waiting::is_connected(agent, now, pool);
    let capacity = &agent.capacity;
    let used = if connected {
        capacity.slots.saturating_sub(capacity.free_slots)
    } else {
        0
    };
    let draining = agent.draining || agent.drain_wanted;
    let offered = if connected && !draining {
        u32::try_from(capacity.free_memory_mb / needs.max(1))
            .unwrap_or(u32::MAX)
            .min(capacity.free_slots)
    } else {
        0
    };
    let in_use = capacity.memory_mb.saturating_sub(capacity.free_memory_mb);
    let jobs: Vec<JobLine> = running
        .iter()
        .filter(|job| job.agent_id.as_ref() == Some(&agent.id) && connected)
        .map(|job| JobLine {
            address: format!(
                "/app/{}/workspaces/{}/runs/{}",
                job.organization, job.workspace, job.run_id
            ),
            workspace: job.workspace.clone(),
            detail: format!(
                "{}, {}",
                job.phase.as_str(),
                between(job.started_at.unwrap_or(now), now)
            ),
        })
        .collect();
    let why = if !connected {
        Some(if agent.exited {
            "Stopped by itself. It is removed from this list a day after it was last heard from.".to_owned()
        } else {
            format!("Not heard from for {}.", between(agent.last_ping_at, now))
        })
    } else if draining {
        Some("Takes no new run.".to_owned())
    } else if capacity.free_slots > 0 && offered == 0 {
        Some(format!(
            "Takes no run: {} MB free, a run needs {needs} MB; {} MB are kept for the host.",
            capacity.free_memory_mb, capacity.reserve_mb
        ))
    } else {
        None
    };
    AgentRow {
        id: agent.id.to_string(),
        name: agent.name.clone(),
        status,
        connected,
        pips: Pips {
            used,
            free: offered,
            gone: capacity.slots.saturating_sub(used + offered),
        },
        used,
        slots: capacity.slots,
        memory: format!(
            "{} of {}",
            megabytes(capacity.free_memory_mb),
            megabytes(capacity.memory_mb)
        ),
        meter: Meter::of(
            in_use,
            capacity.memory_mb,
            format!(
                "{} of {} in use",
                megabytes(in_use),
                megabytes(capacity.memory_mb)
            ),
        ),
        jobs,
        why,
        duplicate: agent.duplicate(now, &pool.settings.times).is_some(),
        old: agent.version != env!("CARGO_PKG_VERSION"),
        version: agent.version.clone(),
        seen: Ago::new(agent.last_ping_at, now),
    }
}

/// `GET /app/:org/agent-pools/:id`
pub(super) async fn show(State(app): State<App>, visitor: Visitor, Path(names): Path<Names>) -> Page {
    let mut connection = app.db.read().await?;
    let seen = frame::see(&app, &mut connection, &visitor, &names, Tab::Agents).await?;
    let live = live(&app, &mut connection, &seen).await?;
    let events = seen
        .place
        .address(&format!("/events?page=pool:{}", seen.frame.id));
    let page = AgentsPage {
        shell: seen.shell("Agents").live(events),
        live,
        token: TokenField::of(&visitor),
        frame: seen.frame,
    };
    html(&page)
}

/// The part of the page that changes.
pub(super) async fn live_parts(app: &App, visitor: &Visitor, names: &Names) -> Result<Vec<String>, WebError> {
    let mut connection = app.db.read().await?;
    let seen = frame::see(app, &mut connection, visitor, names, Tab::Agents).await?;
    let live = live(app, &mut connection, &seen).await?;
    let token = TokenField::of(visitor);
    let part = LivePart { live, token };
    Ok(vec![
        part.render()
            .map_err(|error| WebError::internal(error.to_string()))?,
    ])
}

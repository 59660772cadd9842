//! An agent: is it well, and if not, what to type on its host.

use askama::Template;
use axum::extract::{Path, State};
use terrapool_model::job::{JobState, Phase};
use terrapool_model::time::Timestamp;
use terrapool_store::agent_tokens;
use terrapool_store::agents::{self, AgentRecord};
use terrapool_store::db::Connection;
use terrapool_store::host_memory;
use terrapool_store::overview::{self, JobView};

use super::frame::{self, Seen, Tab};
use super::health::{self, Check};
use crate::app::App;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::SignedForm;
use crate::http::web::page::{Page, Section, Shell, TokenField, html, see_with};
use crate::http::web::parts::chart::{Meter, Spark};
use crate::http::web::parts::status::{self, Status};
use crate::http::web::parts::time::{Ago, Day, between};
use crate::http::web::parts::words::{count, megabytes};
use crate::http::web::parts::{Code, Icon, Tone};
use crate::http::web::visitor::Visitor;
use crate::http::web::workspaces::engine_name;
use crate::waiting;

/// The names in an agent's address: organization, pool, agent.
type Names = (String, String, String);

/// Jobs that are listed.
const MOST: u32 = 50;
/// The pool's average is over this many jobs at most.
const AVERAGED_JOBS: u32 = 500;
/// And over this time, in milliseconds: 30 days.
const AVERAGED: i64 = 30 * 24 * 3_600_000;

#[derive(Template)]
#[template(path = "pool/agent.html")]
struct AgentPage<'a> {
    shell: Shell,
    view: View,
    token: TokenField<'a>,
}

/// The agent's status, in the page's head.
#[derive(Template)]
#[template(path = "pool/agent-status.html")]
struct StatusPart<'a> {
    view: &'a View,
}

/// What may be done with the agent.
#[derive(Template)]
#[template(path = "pool/agent-actions.html")]
struct ActionsPart<'a> {
    view: &'a View,
    token: TokenField<'a>,
}

/// Everything else.
#[derive(Template)]
#[template(path = "pool/agent-live.html")]
struct LivePart<'a> {
    view: &'a View,
}

/// What the page shows of the agent.
struct View {
    base: String,
    name: String,
    id: String,
    pool: String,
    pool_address: String,
    status: Status,
    deletable: bool,
    can_drain: bool,
    can_resume: bool,
    held: u64,
    trouble: Option<Trouble>,
    duplicate: Option<String>,
    running: Vec<Running>,
    idle: String,
    jobs: Vec<Job>,
    history: Vec<(Tone, String)>,
    summary: String,
    average: Option<String>,
    facts: Vec<Fact>,
    token: Option<(String, String)>,
    heard: Ago,
    connected: Day,
    taken: u64,
    memory: String,
    meter: Meter,
    reserve: String,
    host_memory: Option<Spark>,
    engines: String,
    health: Vec<Check>,
}

struct Fact {
    name: &'static str,
    value: String,
    /// A word beside it, in its colour.
    mark: Option<(Tone, &'static str)>,
}

/// What is wrong, and what to do on the host.
struct Trouble {
    heading: String,
    text: String,
    commands: Code,
    hint: String,
}

struct Running {
    address: String,
    workspace: String,
    phase: &'static str,
    detail: String,
}

struct Job {
    address: String,
    workspace: String,
    phase: &'static str,
    result: Status,
    started: String,
    took: String,
    peak: String,
    limit: String,
}

fn address(job: &JobView) -> String {
    format!(
        "/app/{}/workspaces/{}/runs/{}",
        job.organization, job.workspace, job.run_id
    )
}

async fn found(
    app: &App,
    visitor: &Visitor,
    (organization, pool, agent): &Names,
) -> Result<(Seen, AgentRecord, Vec<JobView>), WebError> {
    let mut connection = app.db.read().await?;
    let names = (organization.clone(), pool.clone());
    let seen = frame::see(app, &mut connection, visitor, &names, Tab::Agents).await?;
    let id = agent.parse().map_err(|_| WebError::not_found())?;
    let agent = agents::get(&mut connection, &id)
        .await?
        .filter(|agent| agent.pool_id == seen.pool().id)
        .ok_or_else(WebError::not_found)?;
    let jobs = overview::of_agent(&mut connection, &agent.id, MOST).await?;
    Ok((seen, agent, jobs))
}

/// Of a hundred jobs of the pool, how many fail, in words.
async fn average(connection: &mut Connection, seen: &Seen) -> Result<Option<String>, WebError> {
    let since = Timestamp(seen.now.0 - AVERAGED);
    let jobs = overview::finished_since(connection, &seen.pool().id, since, AVERAGED_JOBS).await?;
    let ended: Vec<Tone> = jobs
        .iter()
        .filter(|job| job.finished_at.is_some())
        .map(|job| result(job).tone)
        .collect();
    let failed = ended.iter().filter(|tone| **tone == Tone::Bad).count();
    Ok((!ended.is_empty()).then(|| {
        format!(
            "In the whole pool {failed} of {} failed in 30 days.",
            count(ended.len() as u64, "job", "jobs")
        )
    }))
}

async fn view(
    connection: &mut Connection,
    seen: &Seen,
    agent: &AgentRecord,
    jobs: &[JobView],
) -> Result<View, WebError> {
    let (now, pool) = (seen.now, seen.pool());
    let needs = pool.settings.default_limits.memory_mb;
    let status = status::of_agent(agent, now, needs, &pool.settings.times);
    let (held, ended): (Vec<&JobView>, Vec<&JobView>) = jobs
        .iter()
        .partition(|job| matches!(job.state, JobState::Leased | JobState::Running));
    let results: Vec<(Tone, String)> = ended
        .iter()
        .rev()
        .map(|job| {
            let result = result(job);
            (result.tone, format!("{}: {}", job.workspace, result.word))
        })
        .collect();
    let of = |tone: Tone| results.iter().filter(|(found, _)| *found == tone).count();
    let capacity = &agent.capacity;
    let in_use = capacity.memory_mb.saturating_sub(capacity.free_memory_mb);
    let memory = format!(
        "{} of {} handed out, {} free",
        megabytes(in_use),
        megabytes(capacity.memory_mb),
        megabytes(capacity.free_memory_mb)
    );
    let connected = waiting::is_connected(agent, now, pool);
    let token = match &agent.token_id {
        Some(id) if seen.frame.manages => agent_tokens::get(connection, id).await?,
        Some(_) | None => None,
    };
    Ok(View {
        base: format!("{}/agents/{}", seen.frame.base, agent.id),
        name: agent.name.clone(),
        id: agent.id.to_string(),
        pool: seen.frame.name.clone(),
        pool_address: seen.frame.base.clone(),
        deletable: seen.frame.manages && agent.status(now, &pool.settings.times).is_deletable(),
        can_drain: seen.frame.manages && connected && !agent.drain_wanted,
        can_resume: seen.frame.manages && agent.drain_wanted,
        held: held.len() as u64,
        trouble: trouble(seen, agent, held.len()),
        duplicate: agent.duplicate(now, &pool.settings.times).map(|other| {
            format!(
                "Two live processes use this agent’s key: the newer one at {}, which gets the work, and an older one \
                 at {}, which may only finish what it holds. Unless the older one is about to end, a machine was \
                 cloned with the agent’s data folder: remove that folder on one of them and start the agent there \
                 again.",
                agent.ip_address, other.ip_address
            )
        }),
        status,
        running: held
            .iter()
            .map(|job| Running {
                address: address(job),
                workspace: job.workspace.clone(),
                phase: job.phase.as_str(),
                detail: format!("for {}", between(job.started_at.unwrap_or(now), now)),
            })
            .collect(),
        idle: if connected {
            "Nothing.".to_owned()
        } else {
            let slots = count(u64::from(capacity.slots), "slot counts", "slots count");
            format!("Nothing. Its {slots} as gone until it is heard from.")
        },
        summary: format!(
            "{} good, {} failed, {} other",
            of(Tone::Good),
            of(Tone::Bad),
            of(Tone::Mute)
        ),
        average: average(connection, seen).await?,
        history: results,
        jobs: ended.iter().map(|job| row(job, seen)).collect(),
        facts: facts(agent, connected),
        token: token.map(|token| (token.description, format!("{}/tokens", seen.frame.base))),
        heard: Ago::new(agent.last_ping_at, now),
        connected: Day::new(agent.created_at, now),
        taken: overview::taken_by(connection, &agent.id).await?,
        meter: Meter::of(in_use, capacity.memory_mb, memory.clone()),
        memory,
        reserve: megabytes(capacity.reserve_mb),
        host_memory: of_host(connection, agent, connected).await?,
        health: agent
            .health
            .as_ref()
            .map(|health| health::checks(health, &agent.driver, capacity.reserve_mb))
            .unwrap_or_default(),
        engines: if agent.engines.is_empty() {
            "None".to_owned()
        } else {
            agent
                .engines
                .iter()
                .map(|engine| engine_name(engine.kind, &engine.version.to_string()))
                .collect::<Vec<_>>()
                .join(", ")
        },
    })
}

/// The memory in use on the agent's host over the last hour that was heard of it.
async fn of_host(
    connection: &mut Connection,
    agent: &AgentRecord,
    connected: bool,
) -> Result<Option<Spark>, WebError> {
    let Some(memory) = agent.health.as_ref().and_then(|health| health.memory) else {
        return Ok(None);
    };
    let values = host_memory::until(connection, &agent.id, agent.last_ping_at).await?;
    // One figure is no line.
    let ([first, .., last], Some(most)) = (values.as_slice(), values.iter().max()) else {
        return Ok(None);
    };
    let sentence = format!(
        "In use on the host: from {} to {} of {} in {} until {}; at most {}",
        megabytes(*first),
        megabytes(*last),
        megabytes(memory.total_mb),
        count(values.len() as u64, "minute", "minutes"),
        if connected { "now" } else { "it was last heard" },
        megabytes(*most)
    );
    let tone = Meter::of(*most, memory.total_mb, String::new()).tone;
    Ok(Some(Spark {
        whole: memory.total_mb,
        tone,
        sentence,
        values,
    }))
}

/// `GET /app/:org/agent-pools/:pool/agents/:id`
pub(super) async fn show(State(app): State<App>, visitor: Visitor, Path(names): Path<Names>) -> Page {
    let (seen, agent, jobs) = found(&app, &visitor, &names).await?;
    let view = view(&mut app.db.read().await?, &seen, &agent, &jobs).await?;
    let events = seen.place.address(&format!("/events?page=agent:{}", agent.id));
    let page = AgentPage {
        shell: seen
            .place
            .shell(Section::Pools, agent.name.clone())
            .behind("Agent pools", seen.place.address("/agent-pools"))
            .behind(seen.frame.name.clone(), seen.frame.base.clone())
            .live(events),
        view,
        token: TokenField::of(&visitor),
    };
    html(&page)
}

/// The parts of the page that change.
pub(super) async fn live_parts(
    app: &App,
    visitor: &Visitor,
    organization: &str,
    id: &str,
) -> Result<Vec<String>, WebError> {
    let agent = id.parse().map_err(|_| WebError::not_found())?;
    let agent = agents::get(&mut app.db.read().await?, &agent)
        .await?
        .ok_or_else(WebError::not_found)?;
    let names = (organization.to_owned(), agent.pool_id.to_string(), id.to_owned());
    let (seen, agent, jobs) = found(app, visitor, &names).await?;
    let view = &view(&mut app.db.read().await?, &seen, &agent, &jobs).await?;
    let token = TokenField::of(visitor);
    [
        StatusPart { view }.render(),
        ActionsPart { view, token }.render(),
        LivePart { view }.render(),
    ]
    .into_iter()
    .map(|part| part.map_err(|error| WebError::internal(error.to_string())))
    .collect()
}

fn result(job: &JobView) -> Status {
    if job.state == JobState::Queued {
        return Status::new(Tone::Mute, "undo", "Queued again");
    }
    status::of_outcome(job.outcome.as_ref(), job.phase == Phase::Apply)
}

fn row(job: &JobView, seen: &Seen) -> Job {
    let peak = job.usage.and_then(|usage| usage.peak_memory_bytes);
    Job {
        address: address(job),
        workspace: job.workspace.clone(),
        phase: match job.phase {
            Phase::Plan => "Plan",
            Phase::Apply => "Apply",
        },
        result: result(job),
        started: job
            .started_at
            .map_or_else(|| "—".to_owned(), |at| format!("{} ago", between(at, seen.now))),
        took: match (job.started_at, job.finished_at) {
            (Some(from), Some(to)) => between(from, to).to_string(),
            _ => "—".to_owned(),
        },
        peak: peak.map_or_else(|| "—".to_owned(), |bytes| megabytes(bytes >> 20)),
        limit: megabytes(job.limits.memory_mb),
    }
}

fn facts(agent: &AgentRecord, connected: bool) -> Vec<Fact> {
    let fact = |name, value| Fact {
        name,
        value,
        mark: None,
    };
    let capacity = &agent.capacity;
    let current = agent.version == env!("CARGO_PKG_VERSION");
    vec![
        Fact {
            name: "Version",
            value: agent.version.clone(),
            mark: Some(if current {
                (Tone::Good, "as this server")
            } else {
                (Tone::Warn, "update")
            }),
        },
        fact("Host", format!("{}, {}", agent.hostname, agent.ip_address)),
        fact("System", agent.kernel.clone()),
        fact("Driver", agent.driver.clone()),
        fact(
            "Slots",
            if connected {
                format!(
                    "{} of {} in use",
                    capacity.slots.saturating_sub(capacity.free_slots),
                    capacity.slots
                )
            } else {
                capacity.slots.to_string()
            },
        ),
        fact(
            "Memory",
            format!(
                "{} to hand out, {} kept for the host",
                megabytes(capacity.memory_mb),
                megabytes(capacity.reserve_mb)
            ),
        ),
    ]
}

fn trouble(seen: &Seen, agent: &AgentRecord, held: usize) -> Option<Trouble> {
    let (now, pool) = (seen.now, seen.pool());
    if waiting::is_connected(agent, now, pool) || agent.exited {
        return None;
    }
    let others = seen.state.connected(now).count();
    Some(Trouble {
        heading: format!("Not heard from for {}", between(agent.last_ping_at, now)),
        text: format!(
            "The last call came from {}. {} A plan that it held is started again elsewhere when its lease ends; an \
             apply never is: its run becomes errored, and its workspace stays locked until no engine can be alive. If \
             the agent comes back, it delivers the rest.",
            agent.ip_address,
            match held {
                0 => "It held nothing.".to_owned(),
                held => format!("It held {}.", count(held as u64, "job", "jobs")),
            }
        ),
        commands: Code::new(
            "chk",
            "systemctl status terrapool-agent\njournalctl -u terrapool-agent --since -1h | tail -50\nsudo terrapool-agent doctor",
        ),
        hint: if others > 0 {
            format!(
                "{} of the pool heard from, so a fault of the host is more likely than one of the link.",
                count(others as u64, "other agent is", "other agents are")
            )
        } else {
            "No other agent of the pool is heard from: look at the network between them and this server first.".to_owned()
        },
    })
}

/// `POST /app/:org/agent-pools/:pool/agents/:id/delete`
pub(super) async fn delete(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let visitor = form.visitor;
    let (seen, agent, _) = found(&app, &visitor, &names).await?;
    let id = Path(agent.id.to_string());
    tfe::agents::delete(State(app), visitor.caller.clone(), id).await?;
    see_with(
        &visitor,
        &seen.frame.base,
        &format!("{} is removed from the pool.", agent.name),
    )
}

/// `POST /app/:org/agent-pools/:pool/agents/:id/drain`
pub(super) async fn drain(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let visitor = form.visitor;
    let (seen, agent, _) = found(&app, &visitor, &names).await?;
    let id = Path(agent.id.to_string());
    tfe::agents::drain(State(app), visitor.caller.clone(), id).await?;
    let said = format!("{} takes no new run, and finishes what it holds.", agent.name);
    see_with(
        &visitor,
        &format!("{}/agents/{}", seen.frame.base, agent.id),
        &said,
    )
}

/// `POST /app/:org/agent-pools/:pool/agents/:id/resume`
pub(super) async fn resume(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let visitor = form.visitor;
    let (seen, agent, _) = found(&app, &visitor, &names).await?;
    let id = Path(agent.id.to_string());
    tfe::agents::resume(State(app), visitor.caller.clone(), id).await?;
    let said = format!("{} takes runs again.", agent.name);
    see_with(
        &visitor,
        &format!("{}/agents/{}", seen.frame.base, agent.id),
        &said,
    )
}

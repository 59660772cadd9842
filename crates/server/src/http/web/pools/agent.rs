//! An agent: is it well, and if not, what to type on its host.

use askama::Template;
use axum::extract::{Path, State};
use terrapool_model::job::{JobState, Phase};
use terrapool_store::agents::{self, AgentRecord};
use terrapool_store::overview::{self, JobView};

use super::frame::{self, Seen, Tab};
use crate::app::App;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::SignedForm;
use crate::http::web::page::{Page, Section, Shell, html, see_with};
use crate::http::web::parts::chart::Meter;
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

#[derive(Template)]
#[template(path = "pool/agent.html")]
struct AgentPage {
    shell: Shell,
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
    running: Vec<Running>,
    idle: &'static str,
    jobs: Vec<Job>,
    history: Vec<(Tone, String)>,
    summary: String,
    facts: Vec<(&'static str, String)>,
    heard: Ago,
    connected: Day,
    memory: String,
    meter: Meter,
    reserve: String,
    engines: String,
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

/// `GET /app/:org/agent-pools/:pool/agents/:id`
pub(super) async fn show(State(app): State<App>, visitor: Visitor, Path(names): Path<Names>) -> Page {
    let (seen, agent, jobs) = found(&app, &visitor, &names).await?;
    let (now, pool) = (seen.now, seen.pool());
    let needs = pool.settings.default_limits.memory_mb;
    let status = status::of_agent(&agent, now, needs, &pool.settings.times);
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
        "{} of {} handed out",
        megabytes(in_use),
        megabytes(capacity.memory_mb)
    );
    let base = format!("{}/agents/{}", seen.frame.base, agent.id);
    let page = AgentPage {
        shell: seen
            .place
            .shell(Section::Pools, agent.name.clone())
            .behind("Agent pools", seen.place.address("/agent-pools"))
            .behind(seen.frame.name.clone(), seen.frame.base.clone()),
        base,
        name: agent.name.clone(),
        id: agent.id.to_string(),
        pool: seen.frame.name.clone(),
        pool_address: seen.frame.base.clone(),
        deletable: seen.frame.manages && agent.status(now, &pool.settings.times).is_deletable(),
        can_drain: seen.frame.manages && waiting::is_connected(&agent, now, pool) && !agent.drain_wanted,
        can_resume: seen.frame.manages && agent.drain_wanted,
        held: held.len() as u64,
        trouble: trouble(&seen, &agent, held.len()),
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
        idle: "Nothing.",
        summary: format!(
            "{} good, {} failed, {} other",
            of(Tone::Good),
            of(Tone::Bad),
            of(Tone::Mute)
        ),
        history: results,
        jobs: ended.iter().map(|job| row(job, &seen)).collect(),
        facts: facts(&agent),
        heard: Ago::new(agent.last_ping_at, now),
        connected: Day::new(agent.created_at, now),
        meter: Meter::of(in_use, capacity.memory_mb, memory.clone()),
        memory,
        reserve: megabytes(capacity.reserve_mb),
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
    };
    html(&page)
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

fn facts(agent: &AgentRecord) -> Vec<(&'static str, String)> {
    let latest = agent.version == env!("CARGO_PKG_VERSION");
    vec![
        (
            "Version",
            format!(
                "{}{}",
                agent.version,
                if latest {
                    ", as this server"
                } else {
                    ", another than this server’s"
                }
            ),
        ),
        ("Host", format!("{}, {}", agent.hostname, agent.ip_address)),
        ("Kernel", agent.kernel.clone()),
        ("Driver", agent.driver.clone()),
        ("Slots", agent.capacity.slots.to_string()),
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
            "systemctl status terrapool-agent\njournalctl -u terrapool-agent --since -1h | tail -50\nterrapool-agent doctor",
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

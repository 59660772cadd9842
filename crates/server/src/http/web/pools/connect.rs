//! Connecting the first agent, and watching it arrive.

use askama::Template;
use axum::extract::{Path, State};
use terrapool_model::time::{Millis, Timestamp};
use terrapool_store::agent_tokens::{self, AgentTokenRecord};
use terrapool_store::agents::AgentRecord;
use terrapool_store::db::Connection;
use terrapool_store::overview;
use terrapool_store::page::Page as StorePage;

use super::frame::{self, Names, Seen, Tab};
use super::install::{Commands, Ingredients, NewToken, commands, own_ca};
use super::{health, observed};
use crate::app::App;
use crate::http::web::error::WebError;
use crate::http::web::page::{Page, Section, Shell, html};
use crate::http::web::parts::status::Status;
use crate::http::web::parts::time::{Ago, between};
use crate::http::web::parts::words::megabytes;
use crate::http::web::parts::{Code, Icon, Tone, words};
use crate::http::web::visitor::Visitor;
use crate::packages::Offered;
use crate::waiting;

#[derive(Template)]
#[template(path = "pool/connect.html")]
struct ConnectPage {
    shell: Shell,
    base: String,
    name: String,
    host: String,
    needs: String,
    new: Option<NewToken>,
    had_token: Option<String>,
    commands: Commands,
    arrival: Arrival,
    waiting: Vec<(String, String)>,
}

#[derive(Template)]
#[template(path = "pool/arrival.html")]
struct ArrivalPart {
    arrival: Arrival,
}

/// How far the first agent has come.
struct Arrival {
    base: String,
    heading: Status,
    detail: String,
    checks: Vec<Check>,
    connected: bool,
}

/// Something that was seen, or is waited for.
pub(super) struct Check {
    pub(super) status: Status,
    pub(super) text: String,
    pub(super) more: String,
    pub(super) at: Option<Ago>,
}

fn done(text: impl Into<String>, more: impl Into<String>, at: Option<Ago>) -> Check {
    Check {
        status: Status::new(Tone::Good, "ok", ""),
        text: text.into(),
        more: more.into(),
        at,
    }
}

fn now_doing(text: &str, more: &str) -> Check {
    Check {
        status: Status::new(Tone::Live, "run", ""),
        text: text.to_owned(),
        more: more.to_owned(),
        at: None,
    }
}

fn to_come(text: &str, more: &str) -> Check {
    Check {
        status: Status::new(Tone::Mute, "pend", ""),
        text: text.to_owned(),
        more: more.to_owned(),
        at: None,
    }
}

const SANDBOX: &str = "Sandbox started, limited and connected";
const WHY_SANDBOX: &str = "proves engine, image, memory and network before your first run does";

/// Whether a sandbox as the pool wants it could be made.
fn sandbox(agent: &AgentRecord, now: Timestamp) -> Check {
    let test = agent.health.as_ref().and_then(|health| health.self_test.as_ref());
    let Some(test) = test else {
        let answers = agent.health.as_ref().is_none_or(|health| health.driver_answers);
        return if answers && now - agent.created_at <= LATE {
            now_doing("Sandbox started", WHY_SANDBOX)
        } else if answers {
            // Agents of older versions do not tell, and one that is busy makes none ahead.
            to_come("Sandbox started", "the agent has not told of one yet")
        } else {
            Check {
                status: Status::new(Tone::Bad, "bad", ""),
                text: "No sandbox can be made".to_owned(),
                more: "its container engine does not answer. On that machine: sudo terrapool-agent doctor"
                    .to_owned(),
                at: None,
            }
        };
    };
    let found = health::of_self_test(test);
    let good = found.tone == Tone::Good;
    Check {
        status: Status::new(found.tone, found.icon, ""),
        text: if good {
            SANDBOX
        } else {
            "The sandbox is not as the pool wants it"
        }
        .to_owned(),
        more: found.found,
        at: None,
    }
}

/// A step that takes longer than so has the usual causes beside it.
const LATE: Millis = Millis::from_seconds(60);

fn not_presented(is_late: bool, refused: bool, host: &str) -> String {
    let mut text = "not yet: no agent has registered with this token".to_owned();
    if refused {
        text.push_str(
            ". A registration was refused lately, because nobody knows its token: it was cut when it was pasted, or it \
             is another server’s",
        );
    }
    if is_late {
        text.push_str(&format!(
            ". Usual causes: the commands did not come to their end (systemctl status terrapool-agent); the host reaches \
             {host} by a proxy only; it does not trust this server’s certificate; its clock is wrong"
        ));
    }
    text
}

async fn newest_token(
    connection: &mut Connection,
    seen: &Seen,
) -> Result<Option<AgentTokenRecord>, WebError> {
    let listed = agent_tokens::list(connection, &seen.pool().id, &StorePage::first(1)).await?;
    Ok(listed.items.into_iter().next())
}

/// The agent that arrived last with the newest token. Those of older tokens are no news to who has just made one.
fn arrived<'a>(
    connected: impl Iterator<Item = &'a AgentRecord>,
    token: Option<&AgentTokenRecord>,
) -> Option<&'a AgentRecord> {
    connected
        .filter(|agent| {
            token.is_none_or(|token| {
                agent.token_id.as_ref() == Some(&token.id) || agent.created_at >= token.created_at
            })
        })
        .max_by_key(|agent| agent.created_at)
}

/// Whether a pool has another agent of the same name, which people then cannot tell from this one.
fn namesake(seen: &Seen, agent: &AgentRecord) -> Option<Check> {
    let others = seen.state.agents.iter();
    let mut others = others.filter(|other| !other.exited && other.id != agent.id && other.name == agent.name);
    others.next().map(|other| Check {
        status: Status::new(Tone::Warn, "warn", ""),
        text: format!(
            "Another agent of this pool is called {}, too",
            words::theirs(&agent.name)
        ),
        more: format!(
            "it is on {}. Give one another name: sudo terrapool-agent configure --name=…",
            words::theirs(&other.hostname)
        ),
        at: None,
    })
}

async fn arrival(app: &App, connection: &mut Connection, seen: &Seen) -> Result<Arrival, WebError> {
    let (now, pool) = (seen.now, seen.pool());
    let token = newest_token(connection, seen).await?;
    let agent = arrived(seen.state.connected(now), token.as_ref());
    let heading = if seen.state.connected(now).next().is_some() {
        "Waiting for the next agent"
    } else {
        "Waiting for the first agent"
    };
    let running = overview::running_on(connection, &pool.id).await?;
    let base = seen.frame.base.clone();
    let Some(agent) = agent else {
        let presented = token.as_ref().and_then(|token| token.last_used_at);
        let since = token.map_or(seen.now, |token| token.created_at);
        let package = match app.fetches.last(&pool.id) {
            Some(fetch) => Some(done("Package fetched", fetch.file, Some(Ago::new(fetch.at, now)))),
            None if presented.is_some() || Offered::find(app.config.packages_dir.as_deref()).is_empty() => {
                None
            }
            None => Some(now_doing(
                "Package fetched",
                "not yet, by the commands above; where it is installed already it need not be",
            )),
        };
        let token = match presented {
            Some(at) => done("Token presented", "", Some(Ago::new(at, now))),
            None => {
                // The step before was the package, if there was one.
                let fetched = app.fetches.last(&pool.id).map_or(since, |fetch| fetch.at);
                let is_late = now - since.max(fetched) > LATE;
                let refused = observed::unknown_lately(app, now).is_some();
                now_doing(
                    "Token presented",
                    &not_presented(is_late, refused, app.config.public_host()),
                )
            }
        };
        let rest = [
            token,
            to_come("Registered, clock and version checked", ""),
            to_come(SANDBOX, WHY_SANDBOX),
            to_come(
                "First run taken",
                "the first one that waits, or the next one that is started",
            ),
        ];
        return Ok(Arrival {
            base,
            heading: Status::new(Tone::Live, "run", heading),
            detail: between(since, now).to_string(),
            checks: package.into_iter().chain(rest).collect(),
            connected: false,
        });
    };
    let taken = running
        .iter()
        .find(|job| job.agent_id.as_ref() == Some(&agent.id));
    let capacity = &agent.capacity;
    let mut checks: Vec<Check> = namesake(seen, agent).into_iter().collect();
    checks.extend([
        done(
            "Token presented",
            format!("from {}", agent.ip_address),
            Some(Ago::new(agent.created_at, now)),
        ),
        done(
            "Registered, version checked",
            format!("{}, {} on {}", agent.version, agent.kernel, agent.hostname),
            Some(Ago::new(agent.created_at, now)),
        ),
        sandbox(agent, now),
        match taken {
            Some(job) => done(
                format!("First run taken: {}, {}", job.workspace, job.phase.as_str()),
                format!(
                    "had waited {}",
                    between(job.queued_at, job.started_at.unwrap_or(now))
                ),
                job.started_at.map(|at| Ago::new(at, now)),
            ),
            None if seen.state.queue.is_empty() => to_come("First run taken", "nothing waits: start one"),
            None => now_doing("First run taken", "it is offered now"),
        },
    ]);
    Ok(Arrival {
        base,
        heading: Status::new(Tone::Good, "ok", format!("{} is connected", agent.name)),
        detail: format!(
            "{} slots, {}, {}",
            capacity.slots,
            megabytes(capacity.memory_mb),
            agent.driver
        ),
        checks,
        connected: true,
    })
}

/// The page, with a token that was just made or without.
pub(super) async fn page(app: &App, seen: Seen, new: Option<NewToken>) -> Page {
    let ca = own_ca(app).await;
    let mut connection = app.db.read().await?;
    let arrival = arrival(app, &mut connection, &seen).await?;
    let token = newest_token(&mut connection, &seen).await?;
    let needs_mb = seen.pool().settings.default_limits.memory_mb;
    let offered = Offered::find(app.config.packages_dir.as_deref());
    let pool = seen.pool().id.clone();
    let made = Ingredients {
        url: &app.config.public_url,
        ca: ca.as_deref(),
        token: new.as_ref().map(|token| token.secret.as_str()),
        needs_mb,
        pool: pool.as_str(),
        offered: &offered,
    };
    let events = seen
        .place
        .address(&format!("/events?page=connect:{}", seen.frame.id));
    let mut shell = seen.shell("Connect an agent").live(events);
    // A page with a token on it must not reload by itself.
    shell.refreshes = new.is_none();
    let page = ConnectPage {
        shell,
        base: seen.frame.base.clone(),
        name: seen.frame.name.clone(),
        host: app.config.public_host().to_owned(),
        needs: megabytes(needs_mb + 256),
        commands: commands(&made),
        had_token: token.map(|token| token.description),
        new,
        arrival,
        waiting: seen
            .state
            .queue
            .iter()
            .take(8)
            .map(|(view, reason)| {
                (
                    view.job.workspace.clone(),
                    format!(
                        "{}, {}. {}",
                        view.job.phase.as_str(),
                        between(view.job.queued_at, seen.now),
                        waiting::words(reason)
                    ),
                )
            })
            .collect(),
    };
    html(&page)
}

/// `GET /app/:org/agent-pools/:id/connect`
pub(super) async fn show(State(app): State<App>, visitor: Visitor, Path(names): Path<Names>) -> Page {
    let mut connection = app.db.read().await?;
    let seen = frame::see(&app, &mut connection, &visitor, &names, Tab::Install).await?;
    drop(connection);
    page(&app, seen, None).await
}

/// The part of the page that changes.
pub(super) async fn live_parts(app: &App, visitor: &Visitor, names: &Names) -> Result<Vec<String>, WebError> {
    let mut connection = app.db.read().await?;
    let seen = frame::see(app, &mut connection, visitor, names, Tab::Install).await?;
    let part = ArrivalPart {
        arrival: arrival(app, &mut connection, &seen).await?,
    };
    Ok(vec![
        part.render()
            .map_err(|error| WebError::internal(error.to_string()))?,
    ])
}

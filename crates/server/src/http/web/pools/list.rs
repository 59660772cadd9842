//! The pools of an organization.

use askama::Template;
use axum::extract::{Path, State};
use terrapool_model::time::Timestamp;
use terrapool_store::db::Connection;
use terrapool_store::pools;

use super::{figures, frame, status};
use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::web::error::WebError;
use crate::http::web::page::{Page, Section, Shell, html};
use crate::http::web::parts::chart::{Pips, Spark};
use crate::http::web::parts::status::Status;
use crate::http::web::parts::time::between;
use crate::http::web::parts::{Icon, Tone, words};
use crate::http::web::visitor::{Place, Visitor};
use crate::waiting::{self, PoolState};

#[derive(Template)]
#[template(path = "pools/list.html")]
struct ListPage {
    shell: Shell,
    manages: bool,
    base: String,
    stalled: Vec<Stalled>,
    rows: Vec<Row>,
    connected: usize,
    agents: usize,
    used: u32,
    slots: u32,
    waiting: u64,
}

struct Row {
    name: String,
    address: Option<String>,
    about: String,
    status: Status,
    reason: String,
    connected: usize,
    agents: usize,
    pips: Pips,
    used: u32,
    slots: u32,
    memory: String,
    waiting: u64,
    oldest: String,
    spark: Spark,
    access: String,
    users: String,
}

/// A pool in which nothing that waits can start.
struct Stalled {
    name: String,
    why: String,
    /// What helps, and where.
    button: &'static str,
    address: String,
}

fn stalled(row: &Row, state: &PoolState) -> Option<Stalled> {
    let address = row.address.clone().filter(|address| !address.is_empty())?;
    let name = row.name.clone();
    if row.connected == 0 {
        return Some(Stalled {
            name,
            why: format!(
                "It has no connected agent. {} for one; {}. They start by themselves as soon as an agent connects.",
                words::count(row.waiting, "run waits", "runs wait"),
                row.oldest
            ),
            button: "Connect an agent",
            address: format!("{address}/connect"),
        });
    }
    let listed = state.queue.iter().find(|(_, reason)| reason.is_stalled());
    let why = match listed {
        Some((first, reason)) => {
            format!(
                "{}: {}",
                words::theirs(&first.job.workspace),
                waiting::words(reason)
            )
        }
        None => waiting::words(state.why_stalled()?),
    };
    Some(Stalled {
        name,
        why,
        button: "Look at its queue",
        address,
    })
}

/// `GET /app/:org/agent-pools`
pub(super) async fn show(State(app): State<App>, visitor: Visitor, Path(name): Path<String>) -> Page {
    let mut connection = app.db.read().await?;
    let place = visitor
        .organization(&app, &mut connection, &name, OrganizationPermission::Read)
        .await?;
    let now = app.now();
    let states = waiting::of_organization(&mut connection, &place.organization.id, true, now).await?;
    let mut rows = Vec::new();
    for state in &states {
        rows.push(row(&mut connection, &place, state, now).await?);
    }
    let stalled = rows
        .iter()
        .zip(&states)
        .filter(|(row, _)| row.status.tone == Tone::Bad)
        .filter_map(|(row, state)| stalled(row, state))
        .collect();
    rows.sort_by(|one, two| {
        (trouble(one.status.tone), &one.name).cmp(&(trouble(two.status.tone), &two.name))
    });
    let page = ListPage {
        shell: place.shell(Section::Pools, "Agent pools"),
        manages: place.may(OrganizationPermission::ManageAgentPools),
        base: place.address(""),
        stalled,
        connected: rows.iter().map(|row| row.connected).sum(),
        agents: rows.iter().map(|row| row.agents).sum(),
        used: rows.iter().map(|row| row.used).sum(),
        slots: rows.iter().map(|row| row.slots).sum(),
        waiting: rows.iter().map(|row| row.waiting).sum(),
        rows,
    };
    html(&page)
}

/// Trouble first.
fn trouble(tone: Tone) -> u8 {
    match tone {
        Tone::Bad => 0,
        Tone::Warn => 1,
        Tone::Good | Tone::Live | Tone::Ask | Tone::Mute => 2,
    }
}

async fn row(
    connection: &mut Connection,
    place: &Place,
    state: &PoolState,
    now: Timestamp,
) -> Result<Row, WebError> {
    let pool = &state.pool;
    let shared = pool.organization_id.is_none();
    let (status, reason) = status::of(state, now);
    let (used, slots) = status::slots(state, now);
    let free: u64 = state
        .connected(now)
        .map(|agent| agent.capacity.free_memory_mb)
        .sum();
    let figures = figures::of(connection, &pool.id, figures::DAY, now).await?;
    let oldest = state.oldest();
    let users = pools::workspaces(connection, &pool.id).await?.len();
    Ok(Row {
        name: pool.name.clone(),
        address: (!shared && place.may(OrganizationPermission::ReadQueues))
            .then(|| place.address(&format!("/agent-pools/{}", pool.id))),
        about: if shared {
            "Kept by the operators of this server".to_owned()
        } else {
            String::new()
        },
        status,
        reason,
        connected: state.connected(now).count(),
        agents: state.agents.len(),
        pips: Pips {
            used,
            free: slots.saturating_sub(used),
            gone: 0,
        },
        used,
        slots,
        memory: if slots > 0 {
            words::megabytes(free)
        } else {
            "—".to_owned()
        },
        waiting: state.waiting(),
        oldest: oldest.map_or_else(String::new, |at| format!("oldest {}", between(at, now))),
        spark: figures.spark(&format!(" in {}", pool.name)),
        access: if shared {
            "Everyone".to_owned()
        } else {
            frame::access_words(pool, &place.organization.name)
        },
        users: if shared {
            String::new()
        } else {
            format!(
                "{} of their own",
                words::count(users as u64, "workspace", "workspaces")
            )
        },
    })
}

//! Where the wait is, and what fails by our fault.

use askama::Template;
use axum::extract::{Path, State};
use terrapool_model::job::Phase;
use terrapool_model::time::{Millis, Timestamp};
use terrapool_store::overview::{self, JobView};

use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::answer::Params;
use crate::http::web::page::{Page, Section, Shell, html};
use crate::http::web::parts::chart::{Bars, Spark};
use crate::http::web::parts::status::{self as statuses, Status};
use crate::http::web::parts::time::{Took, between};
use crate::http::web::parts::{Icon, Tone, words};
use crate::http::web::pools::figures::{self, Figures};
use crate::http::web::pools::status;
use crate::http::web::visitor::Visitor;
use crate::waiting;

/// Rows of the two lists.
const MOST: usize = 12;

/// Periods: value in the address, word, milliseconds, in words.
const PERIODS: [(&str, &str, Millis, &str); 3] = [
    ("1h", "1 h", Millis::from_seconds(3600), "hour"),
    ("24h", "24 h", Millis::from_seconds(24 * 3600), "24 hours"),
    ("7d", "7 d", Millis::from_seconds(7 * 24 * 3600), "7 days"),
];

#[derive(Template)]
#[template(path = "organization/fleet.html")]
struct FleetPage {
    shell: Shell,
    base: String,
    summary: String,
    period_words: &'static str,
    periods: Vec<(&'static str, &'static str, bool)>,
    waiting: usize,
    stalled: usize,
    longest: (String, String),
    all: Figures,
    used: u32,
    slots: u32,
    rows: Vec<Row>,
    queue: Vec<Line>,
    failures: Vec<Line>,
}

struct Row {
    name: String,
    address: Option<String>,
    status: Status,
    reason: String,
    waiting: usize,
    oldest: String,
    figures: Figures,
    spark: Spark,
    bars: Bars,
    used: u32,
    slots: u32,
}

/// A run in one of the two lists.
struct Line {
    address: String,
    workspace: String,
    pool: String,
    status: Status,
    why: String,
    waits: Took,
}

fn address(job: &JobView) -> String {
    format!(
        "/app/{}/workspaces/{}/runs/{}",
        job.organization, job.workspace, job.run_id
    )
}

/// `GET /app/:org/fleet?period=`
pub(super) async fn show(
    State(app): State<App>,
    visitor: Visitor,
    Path(name): Path<String>,
    params: Params,
) -> Page {
    let mut connection = app.db.read().await?;
    let place = visitor
        .organization(&app, &mut connection, &name, OrganizationPermission::ReadQueues)
        .await?;
    let now = app.now();
    let chosen = params.get("period").unwrap_or("24h");
    let (_, _, period, period_words) = PERIODS
        .into_iter()
        .find(|(value, _, _, _)| *value == chosen)
        .unwrap_or(PERIODS[1]);
    let since = Timestamp(now.0 - i64::try_from(period.0).unwrap_or(0));
    let states = waiting::of_organization(&mut connection, &place.organization.id, false, now).await?;
    let (mut rows, mut everything, mut queue) = (Vec::new(), Vec::new(), Vec::new());
    for state in &states {
        let pool = &state.pool;
        let jobs = overview::finished_since(&mut connection, &pool.id, since, figures::MOST).await?;
        let figures = figures::count(&jobs, period, now);
        let (status, reason) = status::of(state, now);
        let (used, slots) = status::slots(state, now);
        let oldest = state.queue.iter().map(|(waiting, _)| waiting.job.queued_at).min();
        for (waiting, reason) in &state.queue {
            if waiting.job.organization == place.organization.name {
                let line = Line {
                    address: address(&waiting.job),
                    workspace: waiting.job.workspace.clone(),
                    pool: pool.name.clone(),
                    status: statuses::of_wait(reason),
                    why: waiting::words(reason),
                    waits: between(waiting.job.queued_at, now),
                };
                queue.push((line, reason.is_stalled()));
            }
        }
        let of = format!(" in {}", pool.name);
        rows.push(Row {
            name: pool.name.clone(),
            address: pool
                .organization_id
                .is_some()
                .then(|| place.address(&format!("/agent-pools/{}", pool.id))),
            status,
            reason,
            waiting: state.queue.len(),
            oldest: oldest.map_or_else(String::new, |at| format!("oldest {}", between(at, now))),
            spark: figures.spark(&of),
            bars: figures.bars(&of),
            figures,
            used,
            slots,
        });
        everything.extend(jobs.into_iter().map(|job| (pool.name.clone(), job)));
    }
    rows.sort_by_key(|row| match row.status.tone {
        Tone::Bad => 0,
        Tone::Warn => 1,
        Tone::Good | Tone::Live | Tone::Ask | Tone::Mute => 2,
    });
    queue.sort_by_key(|(line, _)| std::cmp::Reverse(line.waits));
    let agents: usize = states.iter().map(|state| state.agents.len()).sum();
    let slots: u32 = rows.iter().map(|row| row.slots).sum();
    let failures = everything
        .iter()
        .filter(|(_, job)| figures::is_platform_failure(job))
        .take(MOST)
        .map(|(pool, job)| Line {
            address: address(job),
            workspace: job.workspace.clone(),
            pool: pool.clone(),
            status: statuses::of_outcome(job.outcome.as_ref(), job.phase == Phase::Apply),
            why: job.agent.clone().unwrap_or_default(),
            waits: between(job.finished_at.unwrap_or(job.queued_at), now),
        })
        .collect();
    let jobs: Vec<JobView> = everything.into_iter().map(|(_, job)| job).collect();
    let page = FleetPage {
        shell: place.shell(Section::Fleet, "Fleet"),
        base: place.address(""),
        summary: format!(
            "{}, {}, {}",
            words::count(rows.len() as u64, "pool", "pools"),
            words::count(agents as u64, "agent", "agents"),
            words::count(u64::from(slots), "slot", "slots")
        ),
        period_words,
        periods: PERIODS
            .into_iter()
            .map(|(value, word, _, words)| (value, word, words == period_words))
            .collect(),
        waiting: queue.len(),
        stalled: queue.iter().filter(|(_, stalled)| *stalled).count(),
        longest: queue.first().map_or_else(
            || ("—".to_owned(), String::new()),
            |(line, _)| (line.waits.to_string(), line.workspace.clone()),
        ),
        all: figures::count(&jobs, period, now),
        used: rows.iter().map(|row| row.used).sum(),
        slots,
        rows,
        queue: queue.into_iter().map(|(line, _)| line).take(MOST).collect(),
        failures,
    };
    html(&page)
}

//! Where the wait is, and what fails by our fault.

use askama::Template;
use axum::extract::{Path, State};
use terrapool_model::time::Timestamp;
use terrapool_store::overview::{self, JobView};

use super::trouble::{self, Addresses, Trouble};
use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::answer::Params;
use crate::http::web::page::{Page, Section, Shell, html};
use crate::http::web::parts::chart::{Bars, Spark};
use crate::http::web::parts::status::{self as statuses, Status};
use crate::http::web::parts::time::{Took, between};
use crate::http::web::parts::{Icon, Tone, words};
use crate::http::web::pools::figures::{self, Figures, GOAL, Period};
use crate::http::web::pools::status;
use crate::http::web::visitor::Visitor;
use crate::waiting;

/// Rows of the lists.
const MOST: usize = 12;

/// Periods: value in the address, word, the period, in words.
const PERIODS: [(&str, &str, Period, &str); 3] = [
    ("1h", "1 h", figures::HOUR, "hour"),
    ("24h", "24 h", figures::DAY, "24 hours"),
    ("7d", "7 d", figures::WEEK, "7 days"),
];

#[derive(Template)]
#[template(path = "organization/fleet.html")]
struct FleetPage {
    shell: Shell,
    base: String,
    summary: String,
    period_words: &'static str,
    periods: Vec<(&'static str, &'static str, bool)>,
    waiting: u64,
    stalled: u64,
    /// How many wait that are not in the queue here.
    unlisted: Option<String>,
    longest: (String, String),
    all: Figures,
    jobs: u64,
    goal: Took,
    used: u32,
    slots: u32,
    rows: Vec<Row>,
    queue: Vec<Line>,
    trouble: Vec<Trouble>,
}

struct Row {
    name: String,
    address: Option<String>,
    status: Status,
    reason: String,
    waiting: u64,
    oldest: String,
    figures: Figures,
    jobs: u64,
    spark: Spark,
    bars: Bars,
    used: u32,
    slots: u32,
}

/// A run that waits.
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
    let since = Timestamp(now.0 - i64::try_from(trouble::DAY.0).unwrap_or(0));
    let states = waiting::of_organization(&mut connection, &place.organization.id, false, now).await?;
    let (mut rows, mut queue) = (Vec::new(), Vec::new());
    let (mut waits, mut stalled, mut longest) = (0, 0, None);
    let (mut failures, mut refused) = (Vec::new(), Vec::new());
    for state in &states {
        let pool = &state.pool;
        let figures = figures::of(&mut connection, &pool.id, period, now).await?;
        failures.extend(
            overview::platform_failures(&mut connection, &place.organization.id, &pool.id, since).await?,
        );
        if pool.organization_id.is_some() {
            let lately = app.refusals.of(&pool.id).into_iter();
            refused.extend(
                lately
                    .filter(|refusal| refusal.tries.last >= since)
                    .map(|refusal| (state, refusal)),
            );
        }
        let (status, reason) = status::of(state, now);
        let (used, slots) = status::slots(state, now);
        let oldest = state.oldest();
        let theirs = state.waiting_of(&place.organization.id);
        (waits, stalled) = (waits + theirs.jobs, stalled + theirs.stalled);
        longest = longest.max(theirs.oldest.map(|at| between(at, now)));
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
                queue.push(line);
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
            waiting: state.waiting(),
            oldest: oldest.map_or_else(String::new, |at| format!("oldest {}", between(at, now))),
            jobs: figures.jobs(),
            spark: figures.spark(&of),
            bars: figures.used_over_time(&of),
            figures,
            used,
            slots,
        });
    }
    rows.sort_by_key(|row| match row.status.tone {
        Tone::Bad => 0,
        Tone::Warn => 1,
        Tone::Good | Tone::Live | Tone::Ask | Tone::Mute => 2,
    });
    queue.sort_by_key(|line| std::cmp::Reverse(line.waits));
    let agents: usize = states.iter().map(|state| state.agents.len()).sum();
    let slots: u32 = rows.iter().map(|row| row.slots).sum();
    failures.sort_by_key(|job| std::cmp::Reverse(job.finished_at));
    let base = place.address("");
    let addresses = Addresses {
        base: &base,
        run: address,
    };
    let mut trouble = trouble::of(&addresses, &states, &failures, &refused, now);
    trouble.truncate(MOST);
    let all = Figures::together(rows.iter().map(|row| &row.figures), period);
    let page = FleetPage {
        shell: place.shell(Section::Fleet, "Fleet"),
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
        waiting: waits,
        stalled,
        longest: longest.map_or_else(
            || ("—".to_owned(), String::new()),
            |longest| {
                let line = queue.iter().find(|line| line.waits == longest);
                let workspace = line.map_or_else(String::new, |line| line.workspace.clone());
                (longest.to_string(), workspace)
            },
        ),
        unlisted: words::more_runs(waits.saturating_sub(queue.len().min(MOST) as u64)),
        jobs: all.jobs(),
        all,
        goal: Took(GOAL),
        used: rows.iter().map(|row| row.used).sum(),
        slots,
        rows,
        queue: queue.into_iter().take(MOST).collect(),
        trouble,
        base,
    };
    html(&page)
}

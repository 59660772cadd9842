//! Runs: the list, the page of each, and what people do with them.

use terrapool_model::time::Timestamp;
use terrapool_store::db::Connection;
use terrapool_store::overview::ListedRun;
use terrapool_store::runs::RunRecord;

use super::error::WebError;
use super::parts::status::{self, Status};
use super::parts::time::{Ago, between};
use super::visitor::Place;
use crate::http::routes::{Routes, get, post};
use crate::waiting;

mod actions;
mod curve;
mod events;
mod facts;
mod hits;
mod list;
mod load;
mod log;
mod lost;
mod memory;
mod page;
mod progress;
mod story;
mod verdict;
mod view;

pub(super) use events::{lines_at, stream, swap};

/// The routes.
pub(super) fn routes() -> Routes {
    const RUN: &str = "/app/{org}/workspaces/{name}/runs/{run}";
    Routes::new()
        .route("/app/{org}/runs", get(list::show))
        .route("/app/{org}/{name}/runs/{run}", get(page::from_cli))
        .route(RUN, get(page::show))
        .route(&format!("{RUN}/confirm"), post(actions::confirm))
        .route(&format!("{RUN}/discard"), post(actions::discard))
        .route(&format!("{RUN}/cancel"), post(actions::cancel))
        .route(&format!("{RUN}/force-cancel"), post(actions::force_cancel))
        .route(&format!("{RUN}/retry"), post(actions::retry))
        .route(&format!("{RUN}/memory"), post(actions::raise_memory))
        .route(&format!("{RUN}/lines"), get(log::lines))
        .route(&format!("{RUN}/plan.log"), get(log::raw_plan))
        .route(&format!("{RUN}/apply.log"), get(log::raw_apply))
        .route(&format!("{RUN}/plan.json"), get(log::plan_json))
}

/// A run in a list.
pub(super) struct RunRow {
    pub(super) address: String,
    pub(super) message: String,
    pub(super) workspace: Option<String>,
    pub(super) who: String,
    pub(super) status: Status,
    pub(super) why: Option<String>,
    pub(super) changes: String,
    pub(super) took: String,
    pub(super) started: Ago,
}

/// Runs as rows of a list.
pub(super) async fn rows(
    connection: &mut Connection,
    place: &Place,
    listed: &[ListedRun],
    with_workspace: bool,
    now: Timestamp,
) -> Result<Vec<RunRow>, WebError> {
    let runs = listed.iter().map(|listed| &listed.run);
    let waits = waiting::of_runs(connection, runs, now).await?;
    let row = |listed: &ListedRun| {
        let (run, wait) = (&listed.run, waits.get(&listed.run.id));
        RunRow {
            address: place.address(&format!("/workspaces/{}/runs/{}", listed.workspace, run.id)),
            message: if run.message.trim().is_empty() {
                run.id.to_string()
            } else {
                run.message.clone()
            },
            workspace: with_workspace.then(|| listed.workspace.clone()),
            who: listed.who().to_owned(),
            status: wait.map_or_else(|| status::of_run(run), |wait| status::of_wait(&wait.reason)),
            why: wait.map(|wait| wait.sentence.clone()),
            changes: changes(run),
            took: took(run, now),
            started: Ago::new(run.created_at, now),
        }
    };
    Ok(listed.iter().map(row).collect())
}

/// "+5 ~3 −2".
fn changes(run: &RunRecord) -> String {
    let Some(counts) = run.apply_counts.or(run.plan_counts) else {
        return String::new();
    };
    [
        ("+", counts.add),
        ("~", counts.change),
        ("−", counts.destroy),
        ("imported ", counts.import),
    ]
    .into_iter()
    .filter(|(_, number)| *number > 0)
    .map(|(sign, number)| format!("{sign}{number}"))
    .collect::<Vec<_>>()
    .join(" ")
}

/// "5 to add, 3 to change, 2 to destroy".
pub(super) fn change_words(run: &RunRecord) -> String {
    let counts = run.plan_counts.unwrap_or_default();
    let words: Vec<String> = [
        ("to add", counts.add),
        ("to change", counts.change),
        ("to destroy", counts.destroy),
        ("to import", counts.import),
    ]
    .into_iter()
    .filter(|(_, number)| *number > 0)
    .map(|(word, number)| format!("{number} {word}"))
    .collect();
    if words.is_empty() {
        "only outputs or the state change".to_owned()
    } else {
        words.join(", ")
    }
}

/// How long a run was worked on, from its first start to its last end.
fn took(run: &RunRecord, now: Timestamp) -> String {
    let Some(begin) = run.status_timestamps.get("planning-at") else {
        return "—".to_owned();
    };
    let end = [
        "applied-at",
        "errored-at",
        "canceled-at",
        "force-canceled-at",
        "planned-at",
    ]
    .iter()
    .find_map(|name| run.status_timestamps.get(*name));
    between(*begin, end.copied().unwrap_or(now)).to_string()
}

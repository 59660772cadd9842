//! Logs on the page of a run, their lines by range, and the raw files.

use std::fmt::Write as _;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use axum::response::IntoResponse as _;
use terrapool_model::job::Phase;
use terrapool_model::run::RunStatus;
use terrapool_store::runs::RunRecord;

use super::load::{Loaded, Names, find};
use crate::app::App;
use crate::auth::WorkspacePermission;
use crate::http::answer::Params;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::logs::{self, CHUNK, Line};
use crate::http::web::page::Page;
use crate::http::web::parts::Icon;
use crate::http::web::parts::words::{self, Number};
use crate::http::web::visitor::Visitor;
use crate::logs::{ETX, STX};

/// Lines that are on a page at first; the chunks before them are filled when they come near the eye.
const FIRST: usize = 1000;
/// Lines of a page without scripts.
const PAGE: usize = 1000;
/// Lines from which on a log is not made of chunks: browsers cap heights.
const MOST_IN_CHUNKS: usize = 500_000;

/// The panel of a log.
#[derive(Template)]
#[template(path = "runs/log.html")]
pub(super) struct Panel {
    pub(super) phase: &'static str,
    pub(super) heading: &'static str,
    base: String,
    total: usize,
    chunks: Vec<Chunk>,
    open: bool,
    live: bool,
    /// The page is one of several, without scripts: links to its neighbours.
    earlier: Option<String>,
    later: Option<String>,
    query: String,
    hits: Option<String>,
    empty: &'static str,
    ended: Option<&'static str>,
}

/// Up to 500 lines; empty ones are filled by the script.
struct Chunk {
    from: usize,
    to: usize,
    full: bool,
    html: String,
}

impl askama::filters::HtmlSafe for Panel {}

/// Which lines a request wants to see.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) phase: String,
    pub(super) from: Option<usize>,
    pub(super) query: String,
}

impl Wanted {
    pub(super) fn of(params: &Params) -> Self {
        Self {
            phase: params.get("phase").unwrap_or_default().to_owned(),
            from: params.get("from").and_then(|from| from.parse().ok()),
            query: params.get("find").unwrap_or_default().to_owned(),
        }
    }
}

/// The panels of a run, the one that matters now first.
pub(super) fn panels(loaded: &Loaded, wanted: &Wanted) -> Vec<Panel> {
    let run = &loaded.listed.run;
    let mut phases = Vec::new();
    if loaded
        .apply_job
        .as_ref()
        .is_some_and(|job| job.started_at.is_some())
    {
        phases.push(Phase::Apply);
    }
    if loaded
        .plan_job
        .as_ref()
        .is_some_and(|job| job.started_at.is_some())
    {
        phases.push(Phase::Plan);
    }
    let first = phases.first().copied();
    phases
        .into_iter()
        .map(|phase| panel(loaded, phase, wanted, first == Some(phase) && is_telling(run)))
        .collect()
}

/// Whether the newest log says what the page is looked at for.
fn is_telling(run: &RunRecord) -> bool {
    match run.status {
        RunStatus::Planning
        | RunStatus::Applying
        | RunStatus::ApplyQueued
        | RunStatus::Errored
        | RunStatus::Canceled
        | RunStatus::ForceCanceled => true,
        RunStatus::Pending
        | RunStatus::PlanQueued
        | RunStatus::Planned
        | RunStatus::PlannedAndSaved
        | RunStatus::PlannedAndFinished
        | RunStatus::Applied
        | RunStatus::Discarded
        | RunStatus::PolicySoftFailed => false,
    }
}

fn panel(loaded: &Loaded, phase: Phase, wanted: &Wanted, telling: bool) -> Panel {
    let run = &loaded.listed.run;
    let lines = match phase {
        Phase::Plan => &loaded.plan_log,
        Phase::Apply => &loaded.apply_log,
    };
    let name = phase.as_str();
    let asked = wanted.phase == name;
    let live = !run.status.has_ended(phase);
    let query = if asked { wanted.query.as_str() } else { "" };
    let found = hits(lines, query);
    let from = match (wanted.from.filter(|_| asked), found.first()) {
        (Some(from), _) => Some(from),
        // Without a number a search shows its first hit.
        (None, Some(first)) => Some(first.saturating_sub(PAGE / 2).max(1)),
        (None, None) => None,
    };
    let (chunks, window) = match from {
        Some(from) => {
            let from = from.clamp(1, lines.len().max(1));
            let to = (from + PAGE - 1).min(lines.len());
            (vec![chunk(name, lines, from, to, true, &found)], Some((from, to)))
        }
        None if lines.len() > MOST_IN_CHUNKS => {
            let (from, to) = (lines.len() - PAGE + 1, lines.len());
            (vec![chunk(name, lines, from, to, true, &found)], Some((from, to)))
        }
        None => (windowed(name, lines), None),
    };
    let page = |from: usize| {
        crate::http::web::paging::with_query(
            &loaded.base,
            &[("phase", name), ("from", &from.to_string()), ("find", query)],
        ) + &format!("#{name}-log")
    };
    Panel {
        phase: name,
        heading: match phase {
            Phase::Plan => "Plan log",
            Phase::Apply => "Apply log",
        },
        base: loaded.base.clone(),
        total: lines.len(),
        open: telling || asked,
        live,
        earlier: match window {
            Some((from, _)) if from > 1 => Some(page(from.saturating_sub(PAGE).max(1))),
            None if lines.len() > FIRST => Some(page(1)),
            Some(_) | None => None,
        },
        later: match window {
            Some((_, to)) if to < lines.len() => Some(page(to + 1)),
            Some(_) | None => None,
        },
        hits: (!query.is_empty()).then(|| match found.first() {
            Some(first) => format!(
                "{}, the first in line {}",
                words::count(found.len() as u64, "line", "lines"),
                Number(*first as u64)
            ),
            None => "Not found".to_owned(),
        }),
        query: query.to_owned(),
        chunks,
        empty: if live {
            "Nothing written yet."
        } else {
            "Nothing was written."
        },
        ended: (phase == Phase::Apply
            && run.error_reason == Some(terrapool_model::run::ErrorReason::AgentLost))
        .then_some("Contact was lost here. The log ends in mid-apply; nothing was cut by us."),
    }
}

fn chunk(phase: &str, lines: &[String], from: usize, to: usize, filled: bool, hits: &[usize]) -> Chunk {
    let mut html = String::new();
    if filled {
        for (number, text) in (from..=to).zip(lines.iter().skip(from - 1)) {
            let hit = hits.binary_search(&number).is_ok();
            let _ = write!(
                html,
                "{}",
                Line {
                    phase,
                    number,
                    text,
                    hit
                }
            );
        }
    }
    Chunk {
        from,
        to,
        full: to - from + 1 == CHUNK,
        html,
    }
}

/// All chunks of a log, of which the last ones are filled.
fn windowed(phase: &str, lines: &[String]) -> Vec<Chunk> {
    (0..lines.len().div_ceil(CHUNK))
        .map(|index| {
            let (from, to) = (index * CHUNK + 1, ((index + 1) * CHUNK).min(lines.len()));
            chunk(phase, lines, from, to, to + FIRST > lines.len(), &[])
        })
        .collect()
}

/// Numbers of the lines that hold a text, whatever its case.
fn hits(lines: &[String], query: &str) -> Vec<usize> {
    if query.is_empty() {
        return Vec::new();
    }
    let query = query.to_lowercase();
    (1..)
        .zip(lines)
        .filter(|(_, line)| line.to_lowercase().contains(&query))
        .map(|(number, _)| number)
        .collect()
}

fn log_id(run: &RunRecord, phase: &str) -> Option<String> {
    match phase {
        "plan" => Some(run.plan_id.to_string()),
        "apply" => Some(run.apply_id.to_string()),
        _ => None,
    }
}

/// `GET …/lines?phase=&from=&to=`: ready lines for a chunk.
pub(super) async fn lines(
    State(app): State<App>,
    visitor: Visitor,
    Path(names): Path<Names>,
    params: Params,
) -> Page {
    let mut connection = app.db.read().await?;
    let (_, _, listed) = find(&app, &mut connection, &visitor, &names, WorkspacePermission::Read).await?;
    drop(connection);
    let phase = params.get("phase").unwrap_or_default();
    let id = log_id(&listed.run, phase).ok_or_else(WebError::not_found)?;
    let lines = logs::lines(&app, &id)
        .await
        .map_err(|error| WebError::internal(error.to_string()))?;
    let number = |name: &str| params.get(name).and_then(|number| number.parse::<usize>().ok());
    let from = number("from").unwrap_or(1).max(1);
    let to = number("to").unwrap_or(from).min(from + PAGE - 1).min(lines.len());
    let html = if from <= to {
        chunk(phase, &lines, from, to, true, &[]).html
    } else {
        String::new()
    };
    Ok(([(CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response())
}

async fn raw(app: App, visitor: Visitor, names: Names, phase: &str) -> Page {
    let mut connection = app.db.read().await?;
    let (_, _, listed) = find(&app, &mut connection, &visitor, &names, WorkspacePermission::Read).await?;
    drop(connection);
    let id = log_id(&listed.run, phase).ok_or_else(WebError::not_found)?;
    let mut bytes = app
        .logs
        .read(&id, 0, usize::MAX)
        .await
        .map_err(|error| WebError::internal(error.to_string()))?;
    // The marks are ours.
    if bytes.first() == Some(&STX) {
        bytes.remove(0);
    }
    if bytes.last() == Some(&ETX) {
        bytes.pop();
    }
    let name = format!("attachment; filename=\"{}-{phase}.log\"", listed.run.id);
    let headers = [
        (
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        ),
        (
            CONTENT_DISPOSITION,
            HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("attachment")),
        ),
    ];
    Ok((headers, bytes).into_response())
}

/// `GET …/plan.log`
pub(super) async fn raw_plan(State(app): State<App>, visitor: Visitor, Path(names): Path<Names>) -> Page {
    raw(app, visitor, names, "plan").await
}

/// `GET …/apply.log`
pub(super) async fn raw_apply(State(app): State<App>, visitor: Visitor, Path(names): Path<Names>) -> Page {
    raw(app, visitor, names, "apply").await
}

/// `GET …/plan.json`: with sensitive values in clear, so it needs the right to read states.
pub(super) async fn plan_json(State(app): State<App>, visitor: Visitor, Path(names): Path<Names>) -> Page {
    let mut connection = app.db.read().await?;
    let (_, _, listed) = find(
        &app,
        &mut connection,
        &visitor,
        &names,
        WorkspacePermission::ReadState,
    )
    .await?;
    drop(connection);
    let plan = Path(listed.run.plan_id.to_string());
    let mut answer = tfe::plans::json_output(State(app), visitor.caller, plan).await?;
    answer.headers_mut().insert(
        CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment; filename=\"plan.json\""),
    );
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_keeps_at_most_a_few_chunks_of_lines_in_the_page() {
        let lines: Vec<String> = (0..128_006).map(|number| format!("line {number}")).collect();
        let chunks = windowed("plan", &lines);
        assert_eq!(chunks.len(), 257);
        let filled: usize = chunks
            .iter()
            .map(|chunk| chunk.html.matches("class=\"ln\"").count())
            .sum();
        assert!((FIRST..=FIRST + CHUNK).contains(&filled), "{filled}");
        assert_eq!(
            (chunks[256].from, chunks[256].to, chunks[256].full),
            (128_001, 128_006, false)
        );
        assert!(chunks[0].full && chunks[0].html.is_empty());
    }

    #[test]
    fn lines_are_found_whatever_their_case() {
        let lines = ["Alpha", "beta", "ALPHABET"].map(str::to_owned).to_vec();
        assert_eq!(hits(&lines, "alpha"), [1, 3]);
        assert!(hits(&lines, "").is_empty());
    }
}

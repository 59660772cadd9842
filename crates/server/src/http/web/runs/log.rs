//! Logs on the page of a run, their lines by range, and the raw files.

use std::fmt::Write as _;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use axum::response::IntoResponse as _;
use terrapool_model::job::Phase;
use terrapool_model::run::{ErrorReason, RunStatus};
use terrapool_store::overview::{self, JobView};
use terrapool_store::runs::RunRecord;

use super::hits::{self, Hits};
use super::load::{self, Loaded, Names, find};
use crate::app::App;
use crate::auth::WorkspacePermission;
use crate::http::answer::Params;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::logs::{CHUNK, Line, LogView};
use crate::http::web::page::Page;
use crate::http::web::paging::with_query;
use crate::http::web::parts::Icon;
use crate::http::web::parts::time::{Took, between};
use crate::http::web::parts::words;
use crate::http::web::visitor::Visitor;
use crate::logs::{ETX, LogError, STX};

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
    /// How long it is, as [`count`] says it.
    count: String,
    chunks: Vec<Chunk>,
    open: bool,
    live: bool,
    /// The page is one of several, without scripts: links to its neighbours.
    earlier: Option<String>,
    later: Option<String>,
    query: String,
    /// Where each attempt begins, when there was more than one: its name, and whether it is the newest.
    attempts: Vec<(String, String, bool)>,
    hits: Option<Hits>,
    /// How long the phase took, once it has ended.
    took: Option<Took>,
    empty: &'static str,
    ended: Option<&'static str>,
    /// The agent may come back and deliver the rest.
    awaits: bool,
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
    /// The line that is looked at.
    at: Option<usize>,
    /// That line is shown with everything that it has.
    whole: bool,
}

impl Wanted {
    pub(super) fn of(params: &Params) -> Self {
        let number = |name: &str| params.get(name).and_then(|number| number.parse().ok());
        Self {
            phase: params.get("phase").unwrap_or_default().to_owned(),
            from: number("from"),
            query: params.get("find").unwrap_or_default().to_owned(),
            at: number("at"),
            whole: params.get("whole").is_some(),
        }
    }

    /// Whether it asks for certain lines.
    pub(super) fn is_for_lines(&self) -> bool {
        self.from.is_some() || self.at.is_some()
    }
}

/// Where a search leads that names no lines: to the line whose number is typed, or to the first one that was found.
pub(super) async fn destination(loaded: &Loaded, wanted: &Wanted) -> Option<String> {
    if wanted.query.is_empty() || wanted.is_for_lines() {
        return None;
    }
    let phase = phase_of(&wanted.phase).ok()?;
    let log = loaded.log(phase)?;
    if let Some(line) = hits::line_number(&wanted.query) {
        let line = line.clamp(1, log.len().max(1));
        return Some(address_of(loaded, wanted, "", line));
    }
    let found = log.find(&wanted.query).await.unwrap_or_default();
    Some(address_of(loaded, wanted, &wanted.query, *found.first()?))
}

/// The address of a line that is looked at.
fn address_of(loaded: &Loaded, wanted: &Wanted, query: &str, line: usize) -> String {
    let (phase, at) = (wanted.phase.as_str(), line.to_string());
    let parameters = [("phase", phase), ("find", query), ("at", &at)];
    format!("{}#{phase}-L{line}", with_query(&loaded.base, &parameters))
}

/// The phases whose logs a run has, the one that matters now first.
pub(super) fn phases(loaded: &Loaded) -> Vec<Phase> {
    let begun = |phase: &Phase| loaded.job(*phase).is_some_and(|job| job.started_at.is_some());
    [Phase::Apply, Phase::Plan].into_iter().filter(begun).collect()
}

/// The panels of a run, the one that matters now first.
pub(super) async fn panels(loaded: &Loaded, wanted: &Wanted) -> Vec<Panel> {
    let mut panels = Vec::new();
    for phase in phases(loaded) {
        let telling = panels.is_empty() && is_telling(&loaded.listed.run);
        panels.push(panel(loaded, phase, wanted, telling).await);
    }
    panels
}

/// How long a log is, as an element that can be replaced while it grows.
pub(super) fn count(phase: Phase, lines: usize) -> String {
    let words = words::counted(&(lines as u64), "line", "lines");
    format!(
        r#"<span class="sub" id="{}-count">{words}</span>"#,
        phase.as_str()
    )
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

/// What a log has at these lines; nothing when the disk refuses: the page is worth showing without.
async fn text(log: Option<&LogView>, (from, to): (usize, usize)) -> Vec<String> {
    let Some(log) = log else {
        return Vec::new();
    };
    log.range(from, to).await.unwrap_or_else(|error| {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "lines of a log cannot be read"
        );
        Vec::new()
    })
}

async fn panel(loaded: &Loaded, phase: Phase, wanted: &Wanted, telling: bool) -> Panel {
    let run = &loaded.listed.run;
    let (log, total) = (loaded.log(phase), loaded.lines(phase));
    let name = phase.as_str();
    let asked = wanted.phase == name;
    let live = !run.status.has_ended(phase);
    let awaits = phase == Phase::Apply && loaded.quarantine().is_some();
    let query = if asked { wanted.query.as_str() } else { "" };
    let found = match log {
        Some(log) => log.find(query).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let at = wanted.at.filter(|_| asked);
    // The line that is looked at stands amid its page.
    let amid = at.map(|at| at.saturating_sub(PAGE / 2).max(1));
    let from = wanted.from.filter(|_| asked).or(amid);
    let whole = at.filter(|_| wanted.whole);
    let window = match from {
        Some(from) => {
            let from = from.clamp(1, total.max(1));
            Some((from, (from + PAGE - 1).min(total)))
        }
        None if total > MOST_IN_CHUNKS => Some((total - PAGE + 1, total)),
        None => None,
    };
    let chunks = match window {
        Some((from, to)) => {
            let lines = text(log, (from, to)).await;
            vec![chunk(name, (from, to), &lines, &found, whole)]
        }
        None => {
            let error = log.and_then(LogView::last_error).filter(|_| !live);
            let mut chunks = Vec::new();
            for (from, to, filled) in windowed(total, error) {
                let lines = if filled {
                    text(log, (from, to)).await
                } else {
                    Vec::new()
                };
                chunks.push(chunk(name, (from, to), &lines, &[], None));
            }
            chunks
        }
    };
    let page = |from: usize| {
        with_query(
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
        total,
        count: count(phase, total),
        open: telling || asked,
        live,
        earlier: match window {
            Some((from, _)) if from > 1 => Some(page(from.saturating_sub(PAGE).max(1))),
            None if total > FIRST => Some(page(1)),
            Some(_) | None => None,
        },
        later: match window {
            Some((_, to)) if to < total => Some(page(to + 1)),
            Some(_) | None => None,
        },
        hits: (!query.is_empty()).then(|| {
            let address = |line: usize| address_of(loaded, wanted, query, line);
            Hits::of(&found, at, window.unwrap_or((1, total)), address)
        }),
        attempts: attempts(loaded, phase),
        took: loaded
            .job(phase)
            .and_then(|job| Some(between(job.started_at?, job.finished_at?)))
            .filter(|_| !live),
        query: query.to_owned(),
        chunks,
        empty: if live {
            "Nothing written yet."
        } else {
            "Nothing was written."
        },
        awaits,
        // What was delivered later stands behind a line that says so.
        ended: (phase == Phase::Apply
            && run.error_reason == Some(ErrorReason::AgentLost)
            && !log.is_some_and(LogView::has_delivery))
        .then_some("Contact was lost here, in mid-apply; nothing was cut by us."),
    }
}

/// The attempts that wrote a log: the address of the first line of each, its name, and whether it is the newest.
fn attempts(loaded: &Loaded, phase: Phase) -> Vec<(String, String, bool)> {
    let later = loaded.log(phase).map_or(&[][..], LogView::attempts);
    let made_again = loaded.job(phase).is_some_and(|job| job.generation > 1);
    if later.is_empty() || !made_again {
        return Vec::new();
    }
    let begins = std::iter::once(&1).chain(later);
    (1..)
        .zip(begins)
        .map(|(number, line)| {
            let newest = number == later.len() + 1;
            (link(loaded, phase, *line), format!("Attempt {number}"), newest)
        })
        .collect()
}

fn chunk(
    phase: &str,
    (from, to): (usize, usize),
    lines: &[String],
    hits: &[usize],
    whole: Option<usize>,
) -> Chunk {
    let mut html = String::new();
    for (number, text) in (from..=to).zip(lines) {
        let hit = hits.binary_search(&number).is_ok();
        let _ = write!(
            html,
            "{}",
            Line {
                phase,
                number,
                text,
                hit,
                whole: whole == Some(number),
            }
        );
    }
    Chunk {
        from,
        to,
        full: to - from + 1 == CHUNK,
        html,
    }
}

/// The chunks of a log: first line, last line, and whether it is on the page at first. The last ones are, and the one
/// with the last error, where the page opens.
fn windowed(total: usize, error: Option<usize>) -> Vec<(usize, usize, bool)> {
    (0..total.div_ceil(CHUNK))
        .map(|index| {
            let (from, to) = (index * CHUNK + 1, ((index + 1) * CHUNK).min(total));
            let has_error = error.is_some_and(|line| (from..=to).contains(&line));
            (from, to, has_error || to + FIRST > total)
        })
        .collect()
}

/// The address of a line of a log: of the page itself when the line is on it at first, else of the page of lines that
/// has it, so that it leads there without scripts too.
pub(super) fn link(loaded: &Loaded, phase: Phase, line: usize) -> String {
    let (total, name) = (loaded.lines(phase), phase.as_str());
    let error = loaded.log(phase).and_then(LogView::last_error);
    let shown = windowed(total, error)
        .iter()
        .any(|(from, to, filled)| *filled && (*from..=*to).contains(&line));
    if shown && total <= MOST_IN_CHUNKS {
        return format!("#{name}-L{line}");
    }
    let from = line.saturating_sub(PAGE / 2).max(1).to_string();
    let address = with_query(&loaded.base, &[("phase", name), ("from", &from)]);
    format!("{address}#{name}-L{line}")
}

/// The phase of an address.
fn phase_of(name: &str) -> Result<Phase, WebError> {
    [Phase::Plan, Phase::Apply]
        .into_iter()
        .find(|phase| phase.as_str() == name)
        .ok_or_else(WebError::not_found)
}

/// The run whose log is asked for, and the job of the phase.
async fn found(
    app: &App,
    visitor: &Visitor,
    names: &Names,
    phase: Phase,
) -> Result<(RunRecord, Option<JobView>), WebError> {
    let mut connection = app.db.read().await?;
    let (_, _, listed) = find(app, &mut connection, visitor, names, WorkspacePermission::Read).await?;
    let jobs = overview::of_run(&mut connection, &listed.run.id).await?;
    let job = jobs.into_iter().find(|job| job.phase == phase);
    Ok((listed.run, job))
}

/// `GET …/lines?phase=&from=&to=`: ready lines for a chunk.
pub(super) async fn lines(
    State(app): State<App>,
    visitor: Visitor,
    Path(names): Path<Names>,
    params: Params,
) -> Page {
    let phase = phase_of(params.get("phase").unwrap_or_default())?;
    let (run, job) = found(&app, &visitor, &names, phase).await?;
    let refused = |error: LogError| WebError::internal(error.to_string());
    let log = load::log(&app, &run, phase, job.as_ref())
        .await
        .map_err(refused)?;
    let number = |name: &str| params.get(name).and_then(|number| number.parse::<usize>().ok());
    let from = number("from").unwrap_or(1).max(1);
    let to = number("to").unwrap_or(from).min(from + PAGE - 1).min(log.len());
    let html = if from <= to {
        let lines = log.range(from, to).await.map_err(refused)?;
        chunk(phase.as_str(), (from, to), &lines, &[], None).html
    } else {
        String::new()
    };
    Ok(([(CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response())
}

async fn raw(app: App, visitor: Visitor, names: Names, phase: Phase) -> Page {
    let (run, job) = found(&app, &visitor, &names, phase).await?;
    let refused = |error: LogError| WebError::internal(error.to_string());
    let id = load::log_id(&run, phase);
    let mut bytes = app.logs.read(id, 0, usize::MAX).await.map_err(refused)?;
    // The marks are ours.
    if bytes.first() == Some(&STX) {
        bytes.remove(0);
    }
    if bytes.pop_if(|last| *last == ETX).is_some()
        && let Some(delivery) = load::delivery(&run, job.as_ref())
    {
        let by = (delivery.generation, &delivery.attempt);
        bytes.extend(
            app.logs
                .read_later(id, by, 0, usize::MAX)
                .await
                .map_err(refused)?,
        );
    }
    let name = format!("attachment; filename=\"{}-{}.log\"", run.id, phase.as_str());
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
    raw(app, visitor, names, Phase::Plan).await
}

/// `GET …/apply.log`
pub(super) async fn raw_apply(State(app): State<App>, visitor: Visitor, Path(names): Path<Names>) -> Page {
    raw(app, visitor, names, Phase::Apply).await
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
        let filled = |error| -> usize {
            let chunks = windowed(128_006, error);
            assert_eq!(chunks.len(), 257);
            assert_eq!((chunks[256].0, chunks[256].1), (128_001, 128_006));
            let filled = chunks.iter().filter(|(_, _, filled)| *filled);
            filled.map(|(from, to, _)| to - from + 1).sum()
        };
        assert!((FIRST..=FIRST + CHUNK).contains(&filled(None)));
        assert_eq!(filled(Some(128_000)), filled(None));
        assert_eq!(filled(Some(77)), filled(None) + CHUNK);
        assert!(windowed(128_006, Some(77))[0].2);
    }
}

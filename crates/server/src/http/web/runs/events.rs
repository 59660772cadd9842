//! What changes on a run's page while somebody looks: ready elements, and new lines of its log.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use terrapool_model::job::Phase;

use super::load::{self, Loaded, Names};
use super::log::{self, Wanted};
use super::page;
use super::view::{self, Filter};
use crate::app::App;
use crate::http::web::encoded;
use crate::http::web::error::WebError;
use crate::http::web::logs::Line;
use crate::http::web::parts::words::Number;
use crate::http::web::visitor::Visitor;

/// How often a page that is looked at is made anew.
const EACH: Duration = Duration::from_millis(1000);
/// Lines that are sent at once.
const MOST_LINES: usize = 200;
/// Lines that are sent after one look. Of a log that grows faster than anybody reads, the page gets the end.
const MOST_AFTER_A_LOOK: usize = 4 * MOST_LINES;
/// The browser connects again after this, and then gets what is new.
const LONGEST: Duration = Duration::from_secs(10 * 60);

/// What a browser has of a run.
struct Watched {
    app: App,
    visitor: Visitor,
    names: Names,
    sent: Vec<String>,
    logs: Vec<Phase>,
    plan: usize,
    apply: usize,
    status: String,
}

/// The events of a run's page. `plan` and `apply` are the lines that the page has; `first` is told before
/// all others.
pub(in crate::http::web) async fn stream(
    app: App,
    visitor: Visitor,
    names: Names,
    (plan, apply): (usize, usize),
    first: Option<Event>,
) -> Result<Response, WebError> {
    let mut connection = app.db.read().await?;
    let (_, loaded) = load::load(&app, &mut connection, &visitor, &names).await?;
    drop(connection);
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Event, Infallible>>(16);
    let mut watched = Watched {
        logs: log::phases(&loaded),
        app,
        visitor,
        names,
        sent: Vec::new(),
        plan,
        apply,
        status: String::new(),
    };
    tokio::spawn(async move {
        let begun = tokio::time::Instant::now();
        if let Some(first) = first
            && sender.send(Ok(first)).await.is_err()
        {
            return;
        }
        while begun.elapsed() < LONGEST
            && watched.app.presence.holds()
            && watched.visitor.is_still_signed_in(&watched.app).await
        {
            let (events, active) = match watched.look().await {
                Ok(seen) => seen,
                Err(error) => {
                    // The browser connects again, and goes on from the lines it has.
                    tracing::debug!(%error, "what is new in a run could not be told");
                    return;
                }
            };
            for event in events {
                if sender.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            if !active {
                let _ = sender.send(Ok(Event::default().event("end").data("over"))).await;
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(EACH) => {}
                () = sender.closed() => return,
            }
        }
    });
    let events = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|event| (event, receiver))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

impl Watched {
    /// What is new since the last look, and whether there is more to come.
    async fn look(&mut self) -> Result<(Vec<Event>, bool), WebError> {
        let mut connection = self.app.db.read().await?;
        let (_, loaded) = load::load(&self.app, &mut connection, &self.visitor, &self.names).await?;
        drop(connection);
        let mut events = Vec::new();
        let view = view::view(&loaded, &Filter::default(), Vec::new());
        let parts =
            page::parts(&view, &self.visitor).map_err(|error| WebError::internal(error.to_string()))?;
        for (index, part) in parts.iter().enumerate() {
            if self.sent.get(index) != Some(part) {
                events.push(swap(part));
            }
        }
        self.sent = parts;
        self.logs(&loaded, &mut events).await?;
        let word = view.status.word.to_string();
        if word != self.status {
            if !self.status.is_empty() {
                events.push(
                    Event::default()
                        .event("say")
                        .data(format!("The run is now: {word}")),
                );
            }
            events.push(Event::default().event("title").data(page::title(&loaded, &view)));
            self.status = word;
        }
        Ok((events, view.active))
    }

    /// New lines; a panel that the page does not have, or has without lines, comes whole, with all logs.
    async fn logs(&mut self, loaded: &Loaded, events: &mut Vec<Event>) -> Result<(), WebError> {
        let now = log::phases(loaded);
        let begins = |phase, seen| seen == 0 && loaded.lines(phase) > 0;
        if now != self.logs || begins(Phase::Plan, self.plan) || begins(Phase::Apply, self.apply) {
            let panels: String = log::panels(loaded, &Wanted::default())
                .await
                .iter()
                .map(ToString::to_string)
                .collect();
            (self.plan, self.apply) = (loaded.lines(Phase::Plan), loaded.lines(Phase::Apply));
            let whole = swap(&format!(r#"<div class="col" id="logs">{panels}</div>"#));
            events.push(whole.id(position(self.plan, self.apply)));
            self.logs = now;
            return Ok(());
        }
        for phase in [Phase::Plan, Phase::Apply] {
            let Some(log) = loaded.log(phase) else {
                continue;
            };
            let (name, total) = (phase.as_str(), log.len());
            let mut seen = self.lines(phase);
            if seen < total {
                events.push(swap(&log::count(phase, total)));
            }
            if let Some(first) = left_out(seen, total) {
                let (organization, workspace, run) = &self.names;
                let more = format!(
                    r##"<a class="more" href="/app/{}/workspaces/{}/runs/{}?phase={name}&amp;from={first}#{name}-L{first}">{} lines more</a>"##,
                    encoded(organization),
                    encoded(workspace),
                    encoded(run),
                    Number((total - MOST_LINES - seen) as u64),
                );
                seen = total - MOST_LINES;
                events.push(self.appended(phase, seen, &more));
            }
            while seen < total {
                let new = log
                    .range(seen + 1, seen + MOST_LINES)
                    .await
                    .map_err(|error| WebError::internal(error.to_string()))?;
                if new.is_empty() {
                    break;
                }
                let html: String = (seen + 1..)
                    .zip(&new)
                    .map(|(number, text)| {
                        let line = Line {
                            phase: name,
                            number,
                            text,
                            hit: false,
                            whole: false,
                        };
                        line.to_string()
                    })
                    .collect();
                seen += new.len();
                events.push(self.appended(phase, seen, &html));
            }
        }
        Ok(())
    }

    /// Lines of a log that the page has.
    fn lines(&self, phase: Phase) -> usize {
        match phase {
            Phase::Plan => self.plan,
            Phase::Apply => self.apply,
        }
    }

    /// HTML that is put at the end of a log, after which the page has this many lines of it.
    fn appended(&mut self, phase: Phase, seen: usize, html: &str) -> Event {
        match phase {
            Phase::Plan => self.plan = seen,
            Phase::Apply => self.apply = seen,
        }
        let data = json!({"into": format!("{}-lines", phase.as_str()), "html": html});
        let event = Event::default().event("log").data(data.to_string());
        event.id(position(self.plan, self.apply))
    }
}

/// The lines that a browser has, as it says when it connects again (`Last-Event-ID`).
fn position(plan: usize, apply: usize) -> String {
    format!("{plan}.{apply}")
}

/// What [`position`] said.
pub(in crate::http::web) fn lines_at(position: &str) -> Option<(usize, usize)> {
    let (plan, apply) = position.split_once('.')?;
    Some((plan.parse().ok()?, apply.parse().ok()?))
}

/// The first line that is left out of a page that has `seen` lines of a log of `total`; `None` when all new ones are
/// sent.
fn left_out(seen: usize, total: usize) -> Option<usize> {
    (total.saturating_sub(seen) > MOST_AFTER_A_LOOK).then_some(seen + 1)
}

/// An element that replaces its namesake. Line breaks between elements mean nothing in HTML, and would cut the event
/// into lines that the browser puts together again.
pub(in crate::http::web) fn swap(html: &str) -> Event {
    Event::default().event("swap").data(html.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_that_connects_again_says_which_lines_it_has() {
        assert_eq!(lines_at(&position(12, 128_006)), Some((12, 128_006)));
        assert_eq!(lines_at("twelve.1"), None);
        assert_eq!(lines_at(""), None);
    }

    #[test]
    fn of_a_log_that_grows_faster_than_anybody_reads_the_page_gets_the_end() {
        assert_eq!(left_out(100, 900), None);
        assert_eq!(left_out(100, 901), Some(101));
        assert_eq!(left_out(0, 128_006), Some(1));
        assert_eq!(left_out(10, 5), None);
    }
}

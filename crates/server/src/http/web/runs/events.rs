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

/// The events of a run's page. `plan` and `apply` are the lines that the page has.
pub(in crate::http::web) async fn stream(
    app: App,
    visitor: Visitor,
    names: Names,
    (plan, apply): (usize, usize),
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
        while begun.elapsed() < LONGEST && watched.app.presence.holds() {
            let Ok((events, active)) = watched.look().await else {
                return;
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

    /// New lines; a panel that the page does not have comes whole, with all logs.
    async fn logs(&mut self, loaded: &Loaded, events: &mut Vec<Event>) -> Result<(), WebError> {
        let now = log::phases(loaded);
        if now != self.logs {
            let panels: String = log::panels(loaded, &Wanted::default())
                .await
                .iter()
                .map(ToString::to_string)
                .collect();
            events.push(swap(&format!(r#"<div class="col" id="logs">{panels}</div>"#)));
            (self.plan, self.apply) = (loaded.lines(Phase::Plan), loaded.lines(Phase::Apply));
            self.logs = now;
            return Ok(());
        }
        for (phase, seen) in [(Phase::Plan, &mut self.plan), (Phase::Apply, &mut self.apply)] {
            let Some(log) = loaded.log(phase) else {
                continue;
            };
            let phase = phase.as_str();
            let total = log.len();
            if let Some(first) = left_out(*seen, total) {
                let (organization, workspace, run) = &self.names;
                let more = format!(
                    r##"<a class="more" href="/app/{}/workspaces/{}/runs/{}?phase={phase}&amp;from={first}#{phase}-L{first}">{} lines more</a>"##,
                    encoded(organization),
                    encoded(workspace),
                    encoded(run),
                    Number((total - MOST_LINES - *seen) as u64),
                );
                *seen = total - MOST_LINES;
                let data = json!({"into": format!("{phase}-lines"), "html": more});
                events.push(Event::default().event("log").data(data.to_string()));
            }
            while *seen < total {
                let new = log
                    .range(*seen + 1, *seen + MOST_LINES)
                    .await
                    .map_err(|error| WebError::internal(error.to_string()))?;
                if new.is_empty() {
                    break;
                }
                let html: String = (*seen + 1..)
                    .zip(&new)
                    .map(|(number, text)| {
                        let line = Line {
                            phase,
                            number,
                            text,
                            hit: false,
                        };
                        line.to_string()
                    })
                    .collect();
                *seen += new.len();
                let data = json!({"into": format!("{phase}-lines"), "html": html});
                events.push(Event::default().event("log").data(data.to_string()));
            }
        }
        Ok(())
    }
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
    fn of_a_log_that_grows_faster_than_anybody_reads_the_page_gets_the_end() {
        assert_eq!(left_out(100, 900), None);
        assert_eq!(left_out(100, 901), Some(101));
        assert_eq!(left_out(0, 128_006), Some(1));
        assert_eq!(left_out(10, 5), None);
    }
}

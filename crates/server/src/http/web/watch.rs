//! Events of pages whose parts are simply made anew: a pool, the arrival of its first agent, an agent.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};

use super::error::WebError;
use super::pools;
use super::runs::swap;
use super::visitor::Visitor;
use crate::app::App;

/// How often the parts are made anew.
const EACH: Duration = Duration::from_millis(1500);
/// The browser connects again after this.
const LONGEST: Duration = Duration::from_secs(10 * 60);

/// The events of a page: `pool:<id>`, `connect:<id>` or `agent:<id>`.
pub(super) async fn stream(
    app: App,
    visitor: Visitor,
    organization: &str,
    page: &str,
    first: Option<Event>,
) -> Result<Response, WebError> {
    let (kind, id) = page.split_once(':').ok_or_else(WebError::not_found)?;
    let (organization, kind, id) = (organization.to_owned(), kind.to_owned(), id.to_owned());
    // Refused before the stream begins: a browser does not connect again to what it may not see.
    pools::live_parts(&app, &visitor, &organization, &kind, &id).await?;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Event, Infallible>>(16);
    tokio::spawn(async move {
        let begun = tokio::time::Instant::now();
        let mut sent: Vec<String> = Vec::new();
        if let Some(first) = first
            && sender.send(Ok(first)).await.is_err()
        {
            return;
        }
        while begun.elapsed() < LONGEST && app.presence.holds() && visitor.is_still_signed_in(&app).await {
            let Ok(parts) = pools::live_parts(&app, &visitor, &organization, &kind, &id).await else {
                return;
            };
            for (index, part) in parts.iter().enumerate() {
                if sent.get(index) != Some(part) && sender.send(Ok(swap(part))).await.is_err() {
                    return;
                }
            }
            sent = parts;
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

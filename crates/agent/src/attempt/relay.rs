//! What a sandbox asks the control plane for, handed on with the credential of the job.
//!
//! What comes from a sandbox is not trusted: the list of routes, the headers and the number of open requests are looked
//! at here again, and the control plane decides at each request what the run may read.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, Response};
use terrapool_model::id::JobId;
use terrapool_protocol::frame::CHUNK;
use terrapool_protocol::relay::{ANSWER_HEADERS, LARGEST_BODY, MOST_OPEN, PREFIX, REQUEST_HEADERS, Route};
use terrapool_protocol::runner::ToRunner;
use terrapool_protocol::secret::Secret;
use tokio::sync::mpsc;

use crate::control_plane::{CallError, ControlPlane};
use crate::runner_link::{LinkClosed, RunnerSender};

/// How long whoever asked may take for a piece of the answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request, as the runner hands it on.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) credential: Option<Secret>,
    pub(super) body: Vec<u8>,
}

/// How a request goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// The run reads something that is on the list.
    OfTheRun,
    /// The configuration brought a credential of its own, which opens what it opens.
    Own(Secret),
    /// It is not handed on.
    Refused,
}

impl Asked {
    /// How a request goes on.
    pub(super) fn way(&self) -> Way {
        let path = self.path.split(['?', '#']).next().unwrap_or_default();
        if let Some(credential) = &self.credential {
            let plain = |segment: &str| !matches!(segment, "." | "..") && !segment.contains(['%', '\\']);
            return if path.starts_with(PREFIX)
                && path.split('/').all(plain)
                && self.body.len() <= LARGEST_BODY as usize
            {
                Way::Own(credential.clone())
            } else {
                Way::Refused
            };
        }
        match (self.method.as_str(), Route::of(path)) {
            ("GET" | "HEAD", Some(_)) => Way::OfTheRun,
            _ => Way::Refused,
        }
    }
}

/// The requests of one sandbox that are open.
#[derive(Debug, Default)]
pub(super) struct Relay {
    open: BTreeMap<u64, Open>,
}

/// Asks for the next piece; the request ends when this is dropped. It is not aborted: half a frame would take the whole
/// stream with it.
#[derive(Debug)]
struct Open(mpsc::Sender<()>);

impl Relay {
    /// Answers a request in the background.
    pub(super) fn begin(
        &mut self,
        request: u64,
        asked: Asked,
        job: (ControlPlane, JobId, Secret),
        runner: RunnerSender,
    ) {
        self.open.retain(|_, open| !open.0.is_closed());
        let too_many = self.open.len() >= MOST_OPEN;
        let (more, inbox) = mpsc::channel(1);
        self.open.insert(request, Open(more));
        tokio::spawn(async move {
            // The stream's end is noticed by whoever reads it.
            let _ = if too_many {
                refuse(request, 429, "too many requests of this run are open", &runner).await
            } else {
                serve(request, asked, job, &runner, inbox).await
            };
        });
    }

    /// The next piece of an answer may follow.
    pub(super) fn more(&self, request: u64) {
        if let Some(open) = self.open.get(&request) {
            let _ = open.0.try_send(());
        }
    }

    /// Whoever asked is gone.
    pub(super) fn close(&mut self, request: u64) {
        self.open.remove(&request);
    }

    /// The stream to the runner has ended.
    pub(super) fn clear(&mut self) {
        self.open.clear();
    }
}

async fn serve(
    request: u64,
    asked: Asked,
    (control_plane, job, credential): (ControlPlane, JobId, Secret),
    runner: &RunnerSender,
    mut more: mpsc::Receiver<()>,
) -> Result<(), LinkClosed> {
    let headers: Vec<(String, String)> = asked
        .headers
        .iter()
        .filter(|(name, _)| REQUEST_HEADERS.contains(&name.as_str()))
        .cloned()
        .collect();
    let ask = async {
        match asked.way() {
            Way::Refused => None,
            Way::OfTheRun => Some(
                control_plane
                    .relay(&credential, &job, &asked.path, &headers)
                    .await,
            ),
            Way::Own(own) => {
                let method = asked.method.parse::<Method>().ok()?;
                let body = asked.body.into();
                let answer = control_plane.forward(&own, method, &asked.path, &headers, body);
                Some(answer.await)
            }
        }
    };
    let answered = tokio::select! {
        answered = ask => answered,
        None = more.recv() => return Ok(()),
    };
    let Some(answered) = answered else {
        let detail = "a run reads states, outputs and workspaces that are shared with its workspace; for everything \
                      else the configuration has to bring a token of its own";
        return refuse(request, 403, detail, runner).await;
    };
    match answered {
        Ok(response) => hand_on(request, response, runner, &mut more).await,
        Err(error) => refuse(request, 502, &unreachable(&error), runner).await,
    }
}

fn unreachable(error: &CallError) -> String {
    format!("the control plane does not answer the agent of this run: {error}")
}

async fn hand_on(
    request: u64,
    mut response: Response,
    runner: &RunnerSender,
    more: &mut mpsc::Receiver<()>,
) -> Result<(), LinkClosed> {
    let headers = ANSWER_HEADERS.iter().filter_map(|name| {
        let value = response.headers().get(*name)?.to_str().ok()?;
        Some(((*name).to_owned(), value.to_owned()))
    });
    let head = ToRunner::Answer {
        request,
        status: response.status().as_u16(),
        headers: headers.collect(),
        length: response.content_length(),
    };
    runner.send(&head).await?;
    loop {
        let piece = tokio::select! {
            piece = response.chunk() => piece,
            None = more.recv() => return Ok(()),
        };
        // A body that breaks off is not ended: its client waits for more, and is told by the connection's end.
        let Ok(piece) = piece else { return Ok(()) };
        let Some(bytes) = piece else {
            return runner
                .send_body(&ToRunner::AnswerPart { request, last: true }, b"")
                .await;
        };
        for piece in bytes.chunks(CHUNK) {
            let part = ToRunner::AnswerPart { request, last: false };
            runner.send_body(&part, piece).await?;
            if !matches!(tokio::time::timeout(PATIENCE, more.recv()).await, Ok(Some(()))) {
                return Ok(());
            }
        }
    }
}

async fn refuse(request: u64, status: u16, detail: &str, runner: &RunnerSender) -> Result<(), LinkClosed> {
    let error = serde_json::json!({"status": status.to_string(), "title": "not handed on", "detail": detail});
    let body = Bytes::from(serde_json::json!({"errors": [error]}).to_string());
    let head = ToRunner::Answer {
        request,
        status,
        headers: vec![("content-type".to_owned(), "application/vnd.api+json".to_owned())],
        length: Some(body.len() as u64),
    };
    runner.send(&head).await?;
    runner
        .send_body(&ToRunner::AnswerPart { request, last: true }, &body)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(method: &str, path: &str, credential: Option<&str>) -> Way {
        let asked = Asked {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            credential: credential.map(Secret::new),
            body: Vec::new(),
        };
        asked.way()
    }

    #[test]
    fn case_08_without_a_token_of_its_own_a_run_only_reads_what_is_on_the_list() {
        let listed = "/api/v2/workspaces/ws-1/current-state-version?include=outputs";
        assert_eq!(way("GET", listed, None), Way::OfTheRun);
        for (method, path) in [
            ("POST", listed),
            ("DELETE", "/api/v2/workspaces/ws-1"),
            ("GET", "/api/v2/workspaces/ws-1/vars"),
            ("POST", "/api/v2/workspaces/ws-1/state-versions"),
            ("POST", "/api/v2/workspaces/ws-1/actions/lock"),
            ("GET", "/agent/v1/jobs/job-1/bundle"),
            ("GET", "/api/v2/../../agent/v1/sync"),
        ] {
            assert_eq!(way(method, path, None), Way::Refused, "{method} {path}");
        }
    }

    #[test]
    fn a_token_that_the_configuration_brings_goes_to_the_api_and_nowhere_else() {
        let own = || Way::Own(Secret::new("own"));
        assert_eq!(
            way("POST", "/api/v2/organizations/acme/workspaces", Some("own")),
            own()
        );
        assert_eq!(
            way("GET", "/api/v2/workspaces/ws-1/vars?page[size]=9", Some("own")),
            own()
        );
        for path in [
            "/agent/v1/register",
            "/api/v2/../../agent/v1/register",
            "/api/v2/%2e%2e/x",
            "/healthz",
            "@evil.example.com/",
        ] {
            assert_eq!(way("GET", path, Some("own")), Way::Refused, "{path}");
        }
    }
}

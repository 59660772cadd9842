//! Requests of agents: how they are written, and what their answers mean.

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Request, StatusCode};
use serde_json::to_vec;
use terrapool_model::id::{AttemptId, JobId};
use terrapool_protocol::agent::{
    CONTENT_SHA256, Claim, Claimed, Finish, Finished, Incomplete, LogPosition, Refused, Register, Registered,
    STATE_LINEAGE, STATE_SERIAL, Start, StateStored, Sync, Synced,
};
use terrapool_protocol::job::ArtifactName;
use terrapool_protocol::secret::Secret;
use terrapool_testkit::agent::{Answer, sha256};

/// A request of the agent protocol.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Register(Register),
    Sync(Sync),
    Claim(JobId, Claim),
    Start(JobId, Start),
    Bundle(JobId),
    Log(JobId, u64, Vec<u8>),
    State(JobId, Copy),
    PlanArchive(JobId, Vec<u8>),
    Finish(JobId, Box<Finish>),
}

/// A state, as the runner saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) serial: u64,
    pub(crate) lineage: String,
    pub(crate) bytes: Vec<u8>,
}

impl Copy {
    pub(crate) fn sha256(&self) -> String {
        sha256(&self.bytes)
    }
}

/// Which attempt a call speaks for; a process speaks for itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Speaker {
    Process,
    Attempt(AttemptId),
}

/// What an answer means to the agent.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Registered(Box<Registered>),
    Synced(Box<Synced>),
    Claimed(Box<Claimed>),
    Started,
    Bundle(Vec<u8>),
    Log(LogPosition),
    /// What became of it is told to people only.
    State(#[expect(dead_code, reason = "shown in traces")] StateStored),
    Stored,
    Finished(Finished),
    Incomplete(Incomplete),
    Refused(#[expect(dead_code, reason = "shown in traces")] Refused),
    Unauthorized,
    Superseded,
    /// No answer, or one that says to try again.
    Unavailable,
    /// An answer that no agent understands.
    Unexpected(String),
}

impl Call {
    /// The name for people.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Register(_) => "register",
            Self::Sync(_) => "sync",
            Self::Claim(..) => "claim",
            Self::Start(..) => "start",
            Self::Bundle(_) => "bundle",
            Self::Log(..) => "log",
            Self::State(..) => "state",
            Self::PlanArchive(..) => "plan archive",
            Self::Finish(..) => "finish",
        }
    }

    /// The request.
    pub(crate) fn request(&self, credential: &Secret) -> anyhow::Result<Request<Body>> {
        let json = |path: String, body: Vec<u8>| {
            (
                "POST",
                path,
                vec![(CONTENT_TYPE.as_str(), "application/json".to_owned())],
                body,
            )
        };
        let job = |job: &JobId, rest: &str| format!("/agent/v1/jobs/{job}/{rest}");
        let (method, path, headers, body) = match self {
            Self::Register(body) => json("/agent/v1/register".to_owned(), to_vec(body)?),
            Self::Sync(body) => json("/agent/v1/sync".to_owned(), to_vec(body)?),
            Self::Claim(id, body) => json(job(id, "claim"), to_vec(body)?),
            Self::Start(id, body) => json(job(id, "start"), to_vec(body)?),
            Self::Finish(id, body) => json(job(id, "finish"), to_vec(body)?),
            Self::Bundle(id) => ("GET", job(id, "bundle"), Vec::new(), Vec::new()),
            Self::Log(id, offset, bytes) => (
                "PATCH",
                job(id, &format!("log?offset={offset}")),
                Vec::new(),
                bytes.clone(),
            ),
            Self::State(id, copy) => (
                "PUT",
                job(id, "state"),
                vec![
                    (STATE_SERIAL, copy.serial.to_string()),
                    (STATE_LINEAGE, copy.lineage.clone()),
                    (CONTENT_SHA256, copy.sha256()),
                ],
                copy.bytes.clone(),
            ),
            Self::PlanArchive(id, bytes) => (
                "PUT",
                job(id, &format!("artifacts/{}", ArtifactName::PlanArchive.as_str())),
                vec![(CONTENT_SHA256, sha256(bytes))],
                bytes.clone(),
            ),
        };
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header(AUTHORIZATION, format!("Bearer {}", credential.expose()));
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        Ok(builder.body(Body::from(body))?)
    }

    /// What the answer means, as the agent's client reads it.
    pub(crate) fn read(&self, answer: &Answer) -> Reply {
        let unexpected = || {
            Reply::Unexpected(format!(
                "{} was answered {}: {}",
                self.name(),
                answer.status,
                String::from_utf8_lossy(&answer.body)
            ))
        };
        if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS {
            return Reply::Unavailable;
        }
        match (answer.status, self) {
            (StatusCode::UNAUTHORIZED, _) => Reply::Unauthorized,
            (StatusCode::GONE, _) => Reply::Superseded,
            (StatusCode::CONFLICT, Self::Finish(..)) => Reply::Incomplete(answer.json()),
            (StatusCode::CONFLICT, _) => Reply::Refused(answer.json()),
            (StatusCode::RANGE_NOT_SATISFIABLE, Self::Log(..)) => Reply::Log(answer.json()),
            (status, _) if !status.is_success() => unexpected(),
            (_, Self::Register(_)) => Reply::Registered(answer.json()),
            (_, Self::Sync(_)) => Reply::Synced(answer.json()),
            (_, Self::Claim(..)) => Reply::Claimed(answer.json()),
            (_, Self::Start(..)) => Reply::Started,
            (_, Self::Bundle(_)) => Reply::Bundle(answer.body.clone()),
            (_, Self::Log(..)) => Reply::Log(answer.json()),
            (_, Self::State(..)) => Reply::State(answer.json()),
            (_, Self::PlanArchive(..)) => Reply::Stored,
            (_, Self::Finish(..)) => Reply::Finished(answer.json()),
        }
    }
}

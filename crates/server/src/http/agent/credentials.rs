//! Credentials of sessions and attempts.
//!
//! Both are derived with the key ring from what they stand for, so that a repeated registration or claim gets the same
//! credential again, an attempt that was superseded can still deliver what it holds, and nothing of them is stored.

use std::fmt::Write as _;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use terrapool_model::id::{AgentId, AttemptId, JobId, WorkspaceId};
use terrapool_objects::Keyring;
use terrapool_protocol::secret::Secret;
use terrapool_store::agents::{self, AgentRecord};
use terrapool_store::db::Connection;
use terrapool_store::{agent_tokens, installation, jobs};

use super::error::AgentApiError;
use crate::app::App;
use crate::secrets::TokenKind;

const SESSION: &str = "agent-session";
const ATTEMPT: &str = "agent-attempt";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

fn signed(keyring: &Keyring, kind: TokenKind, purpose: &str, content: &str) -> Secret {
    let signature = hex(&keyring.sign(purpose, content));
    Secret::new(format!("{}{content}.{signature}", kind.prefix()))
}

fn verified<'t>(keyring: &Keyring, kind: TokenKind, purpose: &str, token: &'t str) -> Option<&'t str> {
    let (content, signature) = token.strip_prefix(kind.prefix())?.rsplit_once('.')?;
    keyring
        .verify(purpose, content, &unhex(signature)?)
        .then_some(content)
}

/// The bearer token of a request.
pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, AgentApiError> {
    headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::trim)
        .ok_or(AgentApiError::Unauthorized)
}

/// The credential of a session, which began in an incarnation.
pub(super) fn session_token(keyring: &Keyring, agent: &AgentId, session: u64, incarnation: u64) -> Secret {
    signed(
        keyring,
        TokenKind::Session,
        SESSION,
        &format!("{agent}.{session}.{incarnation}"),
    )
}

/// What the credential of an attempt says. Whoever restores the database from a backup may have neither the job nor
/// the run, and can still tell whose state the attempt brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) job: JobId,
    pub(super) generation: u64,
    pub(super) attempt: AttemptId,
    /// The incarnation that assigned it.
    pub(super) incarnation: u64,
    pub(super) workspace: WorkspaceId,
}

impl Assignment {
    fn content(&self) -> String {
        format!(
            "{}.{}.{}.{}.{}",
            self.job, self.generation, self.attempt, self.incarnation, self.workspace
        )
    }

    fn parse(content: &str) -> Option<Self> {
        let mut parts = content.split('.');
        let assignment = Self {
            job: parts.next()?.parse().ok()?,
            generation: parts.next()?.parse().ok()?,
            attempt: parts.next()?.parse().ok()?,
            incarnation: parts.next()?.parse().ok()?,
            workspace: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(assignment)
    }
}

/// The credential of an attempt at a job.
pub(super) fn job_credential(keyring: &Keyring, assignment: &Assignment) -> Secret {
    signed(keyring, TokenKind::Job, ATTEMPT, &assignment.content())
}

async fn incarnation(connection: &mut Connection) -> Result<u64, AgentApiError> {
    let installation = installation::get(connection).await?;
    Ok(installation.map_or(0, |installation| installation.incarnation))
}

/// A session that authenticated itself.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) agent: AgentRecord,
    /// The session of the credential.
    pub(super) session: u64,
    /// Whether its agent token is still valid.
    pub(super) token_is_valid: bool,
}

impl Session {
    /// Whether a newer process of the agent has registered.
    pub(super) fn is_superseded(&self) -> bool {
        self.session != self.agent.session
    }
}

/// Checks the credential of a session.
pub(super) async fn session(app: &App, headers: &HeaderMap) -> Result<Session, AgentApiError> {
    let content = verified(
        app.objects.keyring(),
        TokenKind::Session,
        SESSION,
        bearer(headers)?,
    )
    .ok_or(AgentApiError::Unauthorized)?;
    let mut parts = content.split('.');
    let (Some(agent), Some(session), Some(began_in)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(AgentApiError::Unauthorized);
    };
    let agent: AgentId = agent.parse().map_err(|_| AgentApiError::Unauthorized)?;
    let session: u64 = session.parse().map_err(|_| AgentApiError::Unauthorized)?;
    let mut connection = app.db.read().await?;
    if began_in != incarnation(&mut connection).await?.to_string() {
        return Err(AgentApiError::OtherHistory);
    }
    let agent = agents::get(&mut connection, &agent)
        .await?
        .ok_or(AgentApiError::Unauthorized)?;
    let token = match &agent.token_id {
        Some(id) => agent_tokens::get(&mut connection, id).await?,
        None => None,
    };
    let token_is_valid = token.is_some_and(|token| token.is_valid(app.now()));
    Ok(Session {
        agent,
        session,
        token_is_valid,
    })
}

/// An attempt that authenticated itself.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) job: jobs::JobRecord,
    pub(super) generation: u64,
    pub(super) attempt: AttemptId,
}

impl Attempt {
    /// Whether the job's newest assignment is this one.
    pub(super) fn is_newest(&self) -> bool {
        self.job.row.is_of(self.generation, &self.attempt)
    }
}

/// Whose attempt authenticated itself.
#[derive(Debug)]
pub(super) enum Origin {
    /// It was assigned by these rows.
    Here(Attempt),
    /// It was assigned in another history, or its job was deleted with its workspace. What it brings is kept apart.
    Elsewhere(Foreign),
}

/// An attempt of another history.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) assignment: Assignment,
    /// The row with its job's id, if these rows have one.
    pub(super) job: Option<jobs::JobRecord>,
}

/// Checks the credential of an attempt at `job`, wherever it was assigned.
pub(super) async fn origin(app: &App, headers: &HeaderMap, job: &JobId) -> Result<Origin, AgentApiError> {
    let content = verified(app.objects.keyring(), TokenKind::Job, ATTEMPT, bearer(headers)?)
        .ok_or(AgentApiError::Unauthorized)?;
    let assignment = Assignment::parse(content).ok_or(AgentApiError::Unauthorized)?;
    if assignment.job != *job {
        return Err(AgentApiError::Unauthorized);
    }
    let mut connection = app.db.read().await?;
    let found = jobs::get(&mut connection, job).await?;
    let is_here = incarnation(&mut connection).await? == assignment.incarnation;
    Ok(match found {
        Some(job) if is_here => Origin::Here(Attempt {
            job,
            generation: assignment.generation,
            attempt: assignment.attempt,
        }),
        job => Origin::Elsewhere(Foreign { assignment, job }),
    })
}

/// Checks the credential of an attempt at `job` that was assigned by these rows.
pub(super) async fn attempt(app: &App, headers: &HeaderMap, job: &JobId) -> Result<Attempt, AgentApiError> {
    match origin(app, headers, job).await? {
        Origin::Here(attempt) => Ok(attempt),
        Origin::Elsewhere(Foreign { job: None, .. }) => Err(AgentApiError::NotFound),
        Origin::Elsewhere(_) => Err(AgentApiError::Refused(
            "the job was assigned before the control plane was restored from a backup".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_opens_only_what_it_was_made_for() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Keyring::open_or_create(&folder.path().join("keyring")).unwrap();
        let token = session_token(&keyring, &AgentId::from_random([1; 16]), 7, 1);
        let content = verified(&keyring, TokenKind::Session, SESSION, token.expose());
        assert_eq!(
            content,
            Some(format!("{}.7.1", AgentId::from_random([1; 16])).as_str())
        );
        assert_eq!(
            verified(&keyring, TokenKind::Session, ATTEMPT, token.expose()),
            None
        );
        let assignment = Assignment {
            job: JobId::from_random([1; 16]),
            generation: 3,
            attempt: AttemptId::from_random([2; 16]),
            incarnation: 1,
            workspace: WorkspaceId::from_random([4; 16]),
        };
        assert_eq!(Assignment::parse(&assignment.content()), Some(assignment));
        let forged = token.expose().replacen(".7.", ".8.", 1);
        assert_eq!(verified(&keyring, TokenKind::Session, SESSION, &forged), None);
        assert_eq!(
            verified(&keyring, TokenKind::Session, SESSION, "tps_nonsense"),
            None
        );
    }
}

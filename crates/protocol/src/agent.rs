//! Control plane and agent. Requests go to `/agent/v1/…`; bodies and answers are JSON unless the row says otherwise.
//!
//! | call | credential | body | answer |
//! |---|---|---|---|
//! | `POST register` | agent token | [`Register`] | [`Registered`] |
//! | `POST sync` | session | [`Sync`] | [`Synced`] |
//! | `POST jobs/:id/claim` | session | [`Claim`] | [`Claimed`], 409 [`Refused`] |
//! | `POST jobs/:id/start` | job | [`Start`] | [`Started`], 409 [`Refused`] |
//! | `GET jobs/:id/bundle` | job | – | raw bytes: the parts, in order |
//! | `GET jobs/:id/relay/…` | job | – | as the API answers what is on the list of [`relay`](crate::relay) |
//! | `PATCH jobs/:id/log?offset=N` | job | raw bytes | [`LogPosition`], 416 [`LogPosition`] |
//! | `PUT jobs/:id/state` | job | raw bytes; headers [`STATE_SERIAL`], [`STATE_LINEAGE`], [`CONTENT_SHA256`] | [`StateStored`] |
//! | `PUT jobs/:id/artifacts/:name` | job | raw bytes; header [`CONTENT_SHA256`] | 204 |
//! | `PUT jobs/:id/progress` | job | [`Progress`] | 204 |
//! | `POST jobs/:id/finish` | job | [`Finish`] | [`Finished`], 409 [`Incomplete`] |
//!
//! Credentials are bearer tokens. 401 means the credential is not valid (any more), for a session also that the control
//! plane was restored from a backup since: the process finishes what it holds and registers again. 410 means that a
//! newer process of the same agent has registered: it finishes what it holds and ends. Log, state and finish of an
//! attempt that another history assigned are taken, and kept apart. 503 and 507 (the control plane's disk is full) are
//! worth another try.

use serde::{Deserialize, Serialize};
use terrapool_model::engine::Engine;
use terrapool_model::id::{AgentId, AgentPoolId, AttemptId, InstallationId, JobId, RunId};
pub use terrapool_model::sync::{AttemptStage, Verdict};
use terrapool_model::time::{Millis, Timestamp};

use crate::health::Health;
use crate::job::{Artifact, ChangeCounts, JobSpec, Limits, Outcome, Phase, SandboxNetwork, StateMark, Usage};
use crate::memory::MemoryCurve;
use crate::secret::Secret;

/// What an attempt has used so far, told every few seconds while it runs. It is for people: nothing is decided by it,
/// none of it is kept, and what does not arrive is not sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What it has used.
    pub usage: Usage,
    /// Its memory since its start, where the kernel tells it.
    pub memory: Option<MemoryCurve>,
}

/// Header of a state upload: the serial, when the document could be read.
pub const STATE_SERIAL: &str = "terrapool-state-serial";
/// Header of a state upload: the lineage, when the document could be read.
pub const STATE_LINEAGE: &str = "terrapool-state-lineage";
/// Header of uploads: SHA-256 of the body, lower-case hex.
pub const CONTENT_SHA256: &str = "terrapool-content-sha256";

/// Header of the answer to `GET /healthz`: the control plane's version.
pub const SERVER_VERSION: &str = "terrapool-version";

/// Makes a process known. A newer session of the same instance key supersedes the older one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Register {
    /// Names the installed agent; drawn once, kept in its data folder (128 random bits, hex).
    pub instance_key: Secret,
    /// Names this process; drawn at its start (128 random bits, hex). A repeated request with the same nonce gives the
    /// same session.
    pub process_nonce: String,
    /// Name for people.
    pub name: String,
    /// Version of the agent.
    pub version: String,
    /// Host name.
    pub hostname: String,
    /// Kernel release, as `uname -r`.
    pub kernel: String,
    /// How jobs are isolated (`docker`).
    pub driver: String,
    /// What it can take.
    pub capacity: Capacity,
    /// Engines that need no download.
    pub engines: Vec<Engine>,
    /// Its sandboxes run as root.
    #[serde(default)]
    pub root: bool,
}

/// What an agent can take, as it counts now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// Jobs it may hold at once.
    pub slots: u32,
    /// Of these, free.
    pub free_slots: u32,
    /// Memory it may hand out in all, in MiB.
    pub memory_mb: u64,
    /// Memory not handed out, in MiB.
    pub free_memory_mb: u64,
    /// Memory kept for the operating system, in MiB.
    pub reserve_mb: u64,
}

/// The answer to [`Register`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Registered {
    /// The agent's id; the same for the same instance key.
    pub agent: AgentId,
    /// Its pool.
    pub pool: AgentPoolId,
    /// The pool's name.
    pub pool_name: String,
    /// Grows with each new process.
    pub session: u64,
    /// Credential of the session.
    pub session_token: Secret,
    /// The control plane's installation.
    pub installation: InstallationId,
    /// Grows when the database is restored from a backup.
    pub incarnation: u64,
    /// Times and defaults.
    pub settings: Settings,
}

/// What the control plane wants from the agent's loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// A sync may be held open this long.
    pub hold: Millis,
    /// Wait before an immediate retry after an error; the agent doubles it, with jitter, up to `retry_max`.
    pub retry_min: Millis,
    /// Longest wait between retries.
    pub retry_max: Millis,
    /// Limits of a sandbox whose job says nothing else: what warm sandboxes are made with.
    pub default_limits: Limits,
    /// Image of warm sandboxes; `None` is the agent's own.
    #[serde(default)]
    pub image: Option<String>,
    /// What warm sandboxes reach.
    #[serde(default)]
    pub network: SandboxNetwork,
    /// An agent whose sandboxes run as root takes nothing.
    #[serde(default)]
    pub root_refused: bool,
}

/// Heartbeat, lease renewal and request for work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sync {
    /// The session that [`Registered`] gave.
    pub session: u64,
    /// What it can take now.
    pub capacity: Capacity,
    /// The agent takes no new jobs (it drains).
    pub draining: bool,
    /// How long the answer may be held when there is nothing to say. Zero: answer at once.
    pub hold: Millis,
    /// Every attempt the agent knows and has not been told to forget.
    pub attempts: Vec<AttemptReport>,
    /// What it finds when it looks at itself and its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// Names an assignment and the process that holds it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptKey {
    /// The job.
    pub job: JobId,
    /// Which assignment of it.
    pub generation: u64,
    /// Which try.
    pub attempt: AttemptId,
}

/// One attempt, as the agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptReport {
    /// Which one.
    #[serde(flatten)]
    pub key: AttemptKey,
    /// The phase of its job.
    pub phase: Phase,
    /// Where it stands.
    pub stage: AttemptStage,
    /// Incarnation that assigned it.
    pub incarnation: u64,
}

/// The answer to [`Sync`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Synced {
    /// One for each reported attempt.
    pub answers: Vec<AttemptAnswer>,
    /// Work the agent may claim, at most as much as it has free slots.
    pub offers: Vec<Offer>,
    /// Whether the agent may take work at all.
    pub mode: SyncMode,
    /// A person wants the agent drained: it claims nothing new, finishes what it holds, and stays connected without
    /// work until this is false again. [`Sync::draining`] speaks only of the agent's own decision to end.
    #[serde(default)]
    pub drain: bool,
    /// Settings, as they hold now.
    pub settings: Settings,
    /// The control plane's clock, to tell people of clock skew.
    pub now: Timestamp,
}

/// Whether an agent may take work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncMode {
    /// It may.
    Normal,
    /// Only finish what it holds: superseded, draining, or its token was revoked.
    FinishOnly,
}

/// What to do with one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptAnswer {
    /// Which one.
    #[serde(flatten)]
    pub key: AttemptKey,
    /// What to do.
    pub verdict: Verdict,
}

/// A job that may be claimed. Costs the control plane no write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The job.
    pub job: JobId,
    /// Its generation, which the claim has to repeat.
    pub generation: u64,
    /// Its run, for people.
    pub run: RunId,
    /// Its phase.
    pub phase: Phase,
    /// What its sandbox needs.
    pub limits: Limits,
    /// Image of the sandbox; `None` is the agent's default.
    pub image: Option<String>,
    /// What the sandbox reaches.
    #[serde(default)]
    pub network: SandboxNetwork,
}

/// Takes a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claim {
    /// The session.
    pub session: u64,
    /// The generation in the offer.
    pub generation_seen: u64,
    /// The attempt, journaled before this is sent.
    pub attempt: AttemptId,
    /// The incarnation that [`Registered`] gave.
    pub incarnation: u64,
}

/// The job is this attempt's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claimed {
    /// The assignment's generation.
    pub generation: u64,
    /// Credential for (job, generation, attempt).
    pub credential: Secret,
    /// What to do.
    pub spec: JobSpec,
}

/// A claim or start that is refused; nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// A sentence for the agent's log.
    pub reason: String,
}

/// Asks for the start grant of an apply: the point of no return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The assignment.
    pub generation: u64,
    /// The attempt.
    pub attempt: AttemptId,
}

/// The start grant; committed durably before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The assignment.
    pub generation: u64,
}

/// How far a log has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPosition {
    /// Bytes received; the next append starts here.
    pub received: u64,
    /// Bytes that survive a crash of the control plane; the agent keeps everything above.
    pub durable: u64,
}

/// What became of an uploaded state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateFate {
    /// Stored; becomes current when the apply ends.
    Intermediate,
    /// Stored and current.
    Current,
    /// Stored apart; a person may promote it.
    KeptApart,
    /// The same bytes were stored before.
    AlreadyStored,
}

/// The answer to a state upload. A state is never refused to its only witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateStored {
    /// What became of it.
    pub fate: StateFate,
}

/// Reports a job's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finish {
    /// The assignment.
    pub generation: u64,
    /// The attempt.
    pub attempt: AttemptId,
    /// How it ended.
    pub outcome: Outcome,
    /// Bytes of the whole log.
    pub log_size: u64,
    /// SHA-256 of the whole log, lower-case hex.
    pub log_sha256: String,
    /// The newest state, for an apply that started; uploaded before.
    pub state: Option<StateMark>,
    /// Artifacts, uploaded before.
    pub artifacts: Vec<Artifact>,
    /// SHA-256 of the engine binary that was used.
    pub engine_sha256: Option<String>,
    /// The engine that was used (`latest` resolved).
    pub engine: Option<Engine>,
    /// What a plan would change, or an apply changed, where it is known.
    pub counts: Option<ChangeCounts>,
    /// What it used.
    pub usage: Usage,
    /// Its memory over time; older agents tell none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryCurve>,
}

/// The end was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Whether the run took the result; false when it had ended before (agent lost, force-canceled).
    pub accepted: bool,
}

/// The end can't be recorded yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incomplete {
    /// How far the log has come.
    pub log: LogPosition,
    /// Whether the named state has not arrived.
    pub state_missing: bool,
    /// Artifacts that have not arrived.
    pub artifacts_missing: Vec<crate::job::ArtifactName>,
}

//! Agent and runner.
//!
//! The runner is PID 1 of a sandbox and listens on a Unix socket on its job volume ([`SOCKET`]). The agent reaches it
//! through `terrapool-runner connect`, which joins its own stdin and stdout to that socket. One connection at a time;
//! a newer one replaces the older, so a restarted agent finds its sandbox again. Everything on the stream is a
//! [`frame`](crate::frame).
//!
//! Nothing is lost with a connection: log, states and artifacts lie on volumes, and [`ToRunner::Hello`] says from where
//! the agent wants to hear again.

use serde::{Deserialize, Serialize};
use terrapool_model::engine::{Engine, EngineKind};
use terrapool_model::time::Millis;

use crate::job::{Artifact, ArtifactName, JobSpec, Outcome, StateMark, Usage};
use crate::memory::MemoryCurve;
use crate::secret::Secret;

/// Where engines and the runner's own binary are mounted, read-only.
pub const BIN: &str = "/terrapool/bin";
/// The job volume: spool, marker, socket, home, plan file.
pub const JOB: &str = "/terrapool/job";
/// The work volume. The configuration is unpacked into `config` below it.
pub const WORK: &str = "/terrapool/work";
/// The state volume.
pub const STATE: &str = "/terrapool/state";
/// Provider mirror and cache, where the agent has one.
pub const PROVIDERS: &str = "/terrapool/providers";
/// What the job has changed of the host's files, read-only, where a sandbox shows these to root.
pub const CHANGES: &str = "/terrapool/changes";
/// The runner's socket, below [`JOB`].
pub const SOCKET: &str = "runner.sock";

/// Name of the file in an engine's folder below [`BIN`] whose time says when a job used it last.
pub const ENGINE_USED: &str = "used";

/// A folder of an engine below [`BIN`]: a line of `terrapool-runner engines`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineFolder {
    /// Its name.
    pub name: String,
    /// Bytes of its files.
    pub size: u64,
    /// When a job used it last, in seconds since 1970.
    pub used: u64,
}

impl std::fmt::Display for EngineFolder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {} {}", self.size, self.used, self.name)
    }
}

impl EngineFolder {
    /// Reads a line; `None` when it is something else.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, ' ');
        Some(Self {
            size: words.next()?.parse().ok()?,
            used: words.next()?.parse().ok()?,
            name: words.next()?.to_owned(),
        })
    }
}

/// By which way an engine and its providers reach the network. Empty: directly, with the certificates of the image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Egress {
    /// Environment variables that name proxies, with their values. These may hold passwords.
    pub proxy: Vec<(String, Secret)>,
    /// Certificates to trust besides those of the image (PEM).
    pub certificates: String,
}

/// The three lines that every log begins with: clients drop them of an apply's log, and show them of a plan's.
pub fn log_head(engine: &Engine) -> String {
    let name = match engine.kind {
        EngineKind::Terraform => "Terraform",
        EngineKind::Tofu => "OpenTofu",
    };
    // Go's names of machines.
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "{name} v{}\non linux_{architecture}\nInitializing plugins and modules...\n",
        engine.version
    )
}

/// From agent to runner.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToRunner {
    /// First message of every connection. The first connection sets the key; later ones have to repeat it.
    Hello {
        /// Random, kept in the agent's journal; keeps processes inside the sandbox from talking to the runner.
        key: Secret,
        /// The runner sends the log from this offset on.
        log_from: u64,
    },
    /// The job. Sent once; the parts of the bundle follow as [`ToRunner::Part`] bodies.
    Work {
        /// What to do.
        spec: Box<JobSpec>,
        /// Path of the engine binary below [`BIN`].
        engine_path: String,
        /// The engine, with `latest` resolved.
        engine: Engine,
        /// SHA-256 that the engine binary has to have.
        engine_sha256: String,
        /// Whether the agent has verified it, in a volume that sandboxes cannot write to; else the runner does.
        #[serde(default)]
        engine_verified: bool,
        /// Lock-file digests (see [`FromRunner::Finished`]) for which the agent holds the provider schemas.
        known_schemas: Vec<String>,
        /// Names by which configurations may call the control plane (host, with its port unless that is 443). Requests
        /// to them are served by the runner, which hands them on as [`FromRunner::Request`].
        #[serde(default)]
        hosts: Vec<String>,
        /// The way out to the network, where the pool says that it is the agent's.
        #[serde(default)]
        egress: Egress,
        /// What the agent has put into the log already, from its first byte ([`log_head`] included): the runner's copy
        /// begins with it, too. Empty when there was nothing to tell.
        #[serde(default)]
        preface: String,
    },
    /// Bytes of the bundle, in order; the cuts mean nothing.
    Part,
    /// The start grant of an apply: execute now.
    Go,
    /// The contact limit, anew: the engine is stopped when this much time passes without another.
    Renew {
        /// `None` is never.
        remaining: Option<Millis>,
    },
    /// Everything below this offset was taken; the runner sends at most [`LOG_WINDOW`] bytes above it.
    LogTaken {
        /// Offset.
        offset: u64,
    },
    /// Send the log again from here.
    LogFrom {
        /// Offset.
        offset: u64,
    },
    /// The state with this digest was taken; the next may follow.
    StateTaken {
        /// SHA-256, lower-case hex.
        sha256: String,
    },
    /// Send the newest state again, although it was taken: whoever took it does not have it any more.
    StateAgain,
    /// Send an artifact, as [`FromRunner::ArtifactData`].
    Fetch {
        /// Which one.
        name: ArtifactName,
    },
    /// Stop the engine. Repeating it is harmless; `kill` after `cancel` escalates.
    Stop {
        /// How.
        kind: StopKind,
        /// Becomes the outcome's message when the engine is stopped for a reason of ours.
        reason: StopReason,
    },
    /// The beginning of the answer to [`FromRunner::Request`].
    Answer {
        /// Which request.
        request: u64,
        /// HTTP status.
        status: u16,
        /// Headers, as [`crate::relay::ANSWER_HEADERS`] lists them.
        headers: Vec<(String, String)>,
        /// Bytes of the body, where they are known.
        length: Option<u64>,
    },
    /// The body is a piece of an answer's body, of at most [`crate::frame::CHUNK`] bytes. The next one is sent once
    /// [`FromRunner::More`] asks for it.
    AnswerPart {
        /// Which request.
        request: u64,
        /// Whether it is the last piece.
        last: bool,
    },
    /// Everything was delivered; the runner ends and its sandbox may be removed.
    Release,
}

/// How to stop an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopKind {
    /// SIGINT to the engine, `G`, SIGINT, `K`, SIGKILL of everything.
    Cancel,
    /// SIGINT to the engine, `K`, SIGKILL of everything.
    Kill,
}

/// Why an engine is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// A person asked for it.
    Canceled,
    /// No contact with the control plane for longer than allowed.
    LostContact,
    /// The agent ends.
    AgentEnds,
}

/// Bytes of log above the taken offset that the runner sends without waiting.
pub const LOG_WINDOW: u64 = 256 << 10;

/// From runner to agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromRunner {
    /// Answer to [`ToRunner::Hello`].
    Ready {
        /// The runner's version.
        version: String,
        /// Where it stands.
        stage: RunnerStage,
        /// The engine of its job and the digest of its binary, once it has one.
        #[serde(default)]
        engine: Option<(Engine, String)>,
        /// The most memory in bytes that the kernel lets the sandbox use, as it is seen from inside; `u64::MAX` when
        /// there is no limit, `None` when that cannot be seen.
        #[serde(default)]
        memory_limit: Option<u64>,
    },
    /// `init` is done and the engine is verified. An apply now waits for [`ToRunner::Go`]; a plan goes on by itself.
    Prepared,
    /// The `started` marker was written and the engine phase (plan or apply) executes.
    Started,
    /// The body is log bytes.
    Log {
        /// Where they belong.
        offset: u64,
    },
    /// The body is a whole state document.
    State {
        /// What was read of it.
        mark: StateMark,
    },
    /// The body is a piece of an artifact.
    ArtifactData {
        /// Which one.
        name: ArtifactName,
        /// Where the piece belongs.
        offset: u64,
        /// Whether it is the last piece.
        last: bool,
    },
    /// Somebody in the sandbox asks the control plane for something; the body is the request's. Sent again on a new
    /// connection while it is not answered, when repeating it is harmless.
    Request {
        /// Names it on this runner.
        request: u64,
        /// HTTP method.
        method: String,
        /// Path and query.
        path: String,
        /// Headers, as [`crate::relay::REQUEST_HEADERS`] lists them.
        headers: Vec<(String, String)>,
        /// A credential that the configuration brings itself; none: the run asks.
        credential: Option<Secret>,
    },
    /// A piece of an answer was taken: the next one may follow.
    More {
        /// Which request.
        request: u64,
    },
    /// Whoever made a request is gone.
    Close {
        /// Which request.
        request: u64,
    },
    /// What the job has used so far. Sent every few seconds while it runs.
    Progress {
        /// What it has used.
        usage: Usage,
        /// Its memory since its start, where the kernel tells it.
        memory: Option<MemoryCurve>,
    },
    /// The job has ended; log and files are complete. Sent again on each new connection.
    Finished {
        /// How.
        outcome: Outcome,
        /// Bytes of the whole log.
        log_size: u64,
        /// SHA-256 of the whole log, lower-case hex.
        log_sha256: String,
        /// The newest state, for an apply that started.
        state: Option<StateMark>,
        /// Files to fetch.
        artifacts: Vec<Artifact>,
        /// SHA-256 of the dependency lock file and the engine's digest: the key of the provider schemas.
        schemas_key: Option<String>,
        /// What it used.
        usage: Usage,
        /// Its memory over time, where the kernel tells it.
        #[serde(default)]
        memory: Option<MemoryCurve>,
        /// Values that nothing may show that is made of its artifacts.
        #[serde(default)]
        secrets: Vec<Secret>,
    },
}

/// Where a runner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunnerStage {
    /// Warm: no job yet.
    Waiting,
    /// Receiving the bundle, unpacking, `init`.
    Preparing,
    /// Waiting for [`ToRunner::Go`].
    Prepared,
    /// The engine phase executes.
    Running,
    /// The engine has ended.
    Finished,
}

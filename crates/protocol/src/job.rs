//! What a job is: everything a sandbox has to know to execute one phase of one run.

use serde::{Deserialize, Serialize};
use terrapool_model::engine::{EngineKind, EngineVersion};
use terrapool_model::id::{ConfigurationVersionId, RunId, WorkspaceId};
pub use terrapool_model::job::Phase;
use terrapool_model::time::Millis;

pub use crate::limits::{Limit, Limits};
use crate::secret::Secret;

/// How the engine writes its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputFormat {
    /// The machine-readable UI (`-json`), which a `cloud` block renders.
    Json,
    /// Text for people, which backend `remote` prints as it is.
    Plain,
}

/// What kind of plan is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanMode {
    /// Towards the configuration.
    Normal,
    /// Remove everything (`-destroy`).
    Destroy,
    /// Only update the state (`-refresh-only`).
    RefreshOnly,
}

/// Where a variable goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VariableCategory {
    /// An input variable of the root module.
    Terraform,
    /// An environment variable of the engine.
    Env,
}

/// A variable of the workspace, as it holds for this run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    /// Name.
    pub key: String,
    /// Value; HCL text when `hcl` is set, else a plain string.
    pub value: Secret,
    /// Input variable or environment variable.
    pub category: VariableCategory,
    /// Whether the value is HCL text.
    pub hcl: bool,
    /// Whether the value is masked in output.
    pub sensitive: bool,
}

/// An input variable that the client gave with the run (`-var`). The value is HCL literal text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunVariable {
    /// Name.
    pub key: String,
    /// HCL literal text, for example `"\"b\""`.
    pub value: Secret,
}

/// A piece of the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartName {
    /// The configuration as it was uploaded (tar, gzip).
    Configuration,
    /// The current state, raw.
    State,
    /// What the plan job left for the apply job (see [`ArtifactName::PlanArchive`]).
    PlanArchive,
}

/// One piece of the bundle. The bundle's body is the pieces' bytes, one behind the other, in the order listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundlePart {
    /// Which piece.
    pub name: PartName,
    /// Bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

/// A file that a job leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactName {
    /// tar+gzip of what is new or changed in the work folder after the plan: the plan file, the lock file, modules and
    /// files made at plan time. Holds all variables in clear.
    PlanArchive,
    /// `show -json` of the plan. Holds sensitive values in clear.
    PlanJson,
    /// The plan as the CLI renders it (`json-output-redacted`), without sensitive values. Made by the agent.
    PlanRedacted,
    /// `providers schema -json`, only asked for when the agent does not hold it yet; never uploaded.
    ProviderSchemas,
}

impl ArtifactName {
    /// The name in URLs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PlanArchive => "plan-archive",
            Self::PlanJson => "plan-json",
            Self::PlanRedacted => "plan-redacted",
            Self::ProviderSchemas => "provider-schemas",
        }
    }
}

/// What is known of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Which one.
    pub name: ArtifactName,
    /// Bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

/// A file where an engine can be had that no engines folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineDownload {
    /// Which version it is: what `latest` means when the agent has none itself.
    pub version: EngineVersion,
    /// Address of a zip archive with the binary inside, or of the binary itself.
    pub url: String,
    /// SHA-256 of what the address gives, lower-case hex.
    pub sha256: String,
}

/// Which engine a job wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineRequest {
    /// The program.
    pub kind: EngineKind,
    /// A version, or `latest`.
    pub version: String,
    /// Where the catalogue has it.
    pub download: Option<EngineDownload>,
}

/// What a sandbox reaches on the network. Other sandboxes, its gateway and the host's own addresses it never reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxNetwork {
    /// Everything else, but not the clouds' metadata services.
    #[default]
    Closed,
    /// Everything else, metadata services too: engines may use the host's cloud identity.
    Metadata,
    /// Nothing at all.
    None,
}

/// Which proxy a sandbox uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxProxy {
    /// None.
    #[default]
    None,
    /// The agent's own, with the certificates that the agent trusts besides its system's. What runs inside can read its
    /// password.
    Agent,
}

/// The times that bind this attempt; the control plane sends them, agents hard-code none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobTimes {
    /// `D`: time since the last answered sync was sent, after which the engine is stopped. `None` is never.
    pub contact_limit: Option<Millis>,
    /// `G`: first SIGINT to second SIGINT.
    pub grace: Millis,
    /// `K`: second SIGINT to SIGKILL.
    pub kill_after: Millis,
    /// `W`: a start grant may be used only this long after its request was sent.
    pub start_window: Millis,
}

/// Everything a sandbox has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The run.
    pub run: RunId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// The workspace's name, which `terraform.workspace` gives.
    pub workspace_name: String,
    /// The organization's name.
    pub organization: String,
    /// The project's name.
    pub project: String,
    /// The uploaded configuration.
    pub configuration_version: ConfigurationVersionId,
    /// Which phase.
    pub phase: Phase,
    /// Which engine. For an apply: exactly what the plan used.
    pub engine: EngineRequest,
    /// SHA-256 of the engine binary that made the plan; an apply refuses another one.
    pub engine_sha256: Option<String>,
    /// Folder inside the configuration where the engine runs; empty for its root.
    pub working_directory: String,
    /// Output format of the logs.
    pub output: OutputFormat,
    /// Kind of plan.
    pub mode: PlanMode,
    /// `-refresh`.
    pub refresh: bool,
    /// `-target`, each.
    pub targets: Vec<String>,
    /// `-replace`, each.
    pub replace: Vec<String>,
    /// Whether configuration is generated for import blocks (`-generate-config-out`).
    pub generate_config: bool,
    /// The workspace's variables.
    pub variables: Vec<Variable>,
    /// The run's own variables.
    pub run_variables: Vec<RunVariable>,
    /// What the bundle holds.
    pub parts: Vec<BundlePart>,
    /// What the sandbox may use.
    pub limits: Limits,
    /// The times of this attempt.
    pub times: JobTimes,
    /// The name by which people call the control plane (host, with its port unless that is 443).
    #[serde(default)]
    pub hostname: String,
    /// Which proxy the sandbox uses.
    #[serde(default)]
    pub proxy: SandboxProxy,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Outcome {
    /// The engine did its work. For a plan `changes` is exit code 2 of `-detailed-exitcode`.
    Succeeded {
        /// Whether the plan has changes.
        changes: bool,
    },
    /// The engine, or a step before it, failed.
    Failed {
        /// Which step.
        reason: FailureReason,
        /// A sentence for people.
        message: String,
    },
    /// The engine ended after it was told to.
    Canceled,
    /// Nothing was started: the attempt gives its assignment back.
    NeverStarted {
        /// A sentence for people.
        message: String,
    },
    /// The engine was started but its end was not seen: host or sandbox went away.
    EngineLost {
        /// A sentence for people.
        message: String,
    },
}

/// Which step failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureReason {
    /// The configuration archive could not be unpacked, or is refused.
    Configuration,
    /// `init` failed.
    Init,
    /// The engine could not be had or started.
    Engine,
    /// The engine exited with an error.
    Exit,
    /// The kernel killed a process for memory.
    OutOfMemory,
    /// A disk, size or entry limit.
    Limit,
    /// The plan can't be applied here: another engine, lock file or configuration.
    PlanMismatch,
    /// The agent had no contact for longer than it may.
    LostContact,
    /// Something of ours.
    Internal,
}

/// Whether a state copy was taken, as the runner read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateMark {
    /// Serial, when the document can be read.
    pub serial: Option<u64>,
    /// Lineage, when the document can be read.
    pub lineage: Option<String>,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// What a job used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Highest memory use of the sandbox in bytes, where the kernel tells it.
    pub peak_memory_bytes: Option<u64>,
    /// CPU time of the sandbox in milliseconds, where the kernel tells it.
    pub cpu_ms: Option<u64>,
    /// Time from the engine's first start to its last end in milliseconds.
    pub engine_ms: Option<u64>,
    /// Time from the agent's claim until a sandbox had the job, in milliseconds.
    pub sandbox_ms: Option<u64>,
    /// Time from then on until the configuration was unpacked and `init` was done, in milliseconds; none when it did
    /// not get there.
    pub init_ms: Option<u64>,
}

/// How many resources a plan or apply touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChangeCounts {
    /// Created.
    pub add: u64,
    /// Updated in place.
    pub change: u64,
    /// Destroyed.
    pub destroy: u64,
    /// Imported.
    pub import: u64,
}

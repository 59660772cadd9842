//! Sandboxes, whoever makes them.

use serde::{Deserialize, Serialize};
use terrapool_model::engine::Engine;
use terrapool_protocol::job::{Limits, SandboxNetwork};
use terrapool_protocol::runner::{FromRunner, RunnerStage, ToRunner};
use terrapool_protocol::secret::Secret;

use crate::config::SandboxUser;
use crate::runner_link::RunnerLink;

/// A runner that runs answers at once; on a machine under load it may take a while to be started.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(60);

/// What a warm sandbox has to agree in with the job that takes it. Memory and CPU can be changed at the last moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxKey {
    /// Image.
    pub image: String,
    /// User inside.
    pub user: SandboxUser,
    /// What it reaches.
    pub network: SandboxNetwork,
    /// Limits it was made with.
    pub limits: Limits,
}

impl SandboxKey {
    /// Whether a sandbox that was made for this one serves the other, once it has its limits.
    pub fn is_of_kind(&self, other: &Self) -> bool {
        self.image == other.image && self.user == other.user && self.network == other.network
    }
}

/// How far the pull of an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// The image.
    pub image: String,
    /// A line for people who wait for it.
    pub line: String,
}

/// A running sandbox with a runner that waits for its job, or works on it.
#[derive(Debug)]
pub struct Sandbox {
    /// The container, or the sandbox itself.
    pub id: String,
    /// The runner's key, which a later connection has to repeat.
    pub runner_key: Secret,
    /// The stream to the runner.
    pub link: RunnerLink,
    /// What it was made for.
    pub key: SandboxKey,
    /// What had to be done for it that people may want to know.
    pub note: Option<String>,
    /// The most memory in bytes that the kernel lets it use, as its runner sees that.
    pub memory_limit: Option<u64>,
    /// What it was connected with, where sandboxes share a network.
    pub(super) connection: Option<Connection>,
    /// What the names of its volumes begin with.
    pub(super) name: String,
}

impl Sandbox {
    /// The name its volumes begin with.
    pub fn volumes(&self) -> &str {
        &self.name
    }

    /// How it is found again.
    pub fn place(&self) -> Place {
        Place {
            id: self.id.clone(),
            volumes: self.name.clone(),
            user: self.key.user,
            runner_key: self.runner_key.clone(),
        }
    }
}

/// The network of a container engine that a sandbox was connected with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connection {
    /// Its id.
    pub(super) network: String,
    /// The index of its bridge, where this process sees the engine's host: one that is made anew has another.
    pub(super) bridge: Option<u32>,
}

/// A sandbox, as far as it has to be found again, read after its end, and removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The container.
    pub id: String,
    /// What the names of its volumes begin with.
    pub volumes: String,
    /// Who owns what is on them.
    pub user: SandboxUser,
    /// The runner's key.
    pub runner_key: Secret,
}

/// A sandbox that was found again, or what serves its volumes.
#[derive(Debug)]
pub struct Found {
    /// Where it is now.
    pub place: Place,
    /// The stream to it.
    pub link: RunnerLink,
    /// Where its runner stands.
    pub stage: RunnerStage,
    /// The engine of its job.
    pub engine: Option<(Engine, String)>,
    /// The sandbox itself is gone: this serves what it left.
    pub remains: bool,
}

/// A runner's answer to the first message.
pub(super) struct Greeting {
    pub(super) stage: RunnerStage,
    pub(super) engine: Option<(Engine, String)>,
    pub(super) memory_limit: Option<u64>,
}

/// Says hello and waits for the runner's answer.
pub(super) async fn greet(link: &mut RunnerLink, key: &Secret, log_from: u64) -> Option<Greeting> {
    link.sender
        .send(&ToRunner::Hello {
            key: key.clone(),
            log_from,
        })
        .await
        .ok()?;
    let answer = tokio::time::timeout(ANSWER, link.receiver.next()).await.ok()??;
    match answer {
        (
            FromRunner::Ready {
                stage,
                engine,
                memory_limit,
                ..
            },
            _,
        ) => Some(Greeting {
            stage,
            engine,
            memory_limit,
        }),
        _ => None,
    }
}

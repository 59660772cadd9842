//! Sandboxes as containers of a Docker-compatible engine.
//!
//! Everything the driver makes carries labels (the agent and what it is for), so that what a dead agent left can be found.

mod adopt;
mod bin_volume;
mod helper;
mod image;
mod network;
mod podman;
pub(crate) mod promises;
mod pull;
mod registries;
pub(crate) mod rootless;
mod sandbox;

use std::collections::HashMap;
use std::sync::Arc;

use bollard::Docker;
use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::{ListContainersOptions, RemoveContainerOptions, RemoveVolumeOptions};
use terrapool_protocol::job::{Limits, SandboxNetwork};
use tokio::sync::{Mutex, watch};

use super::DriverError;
use super::sandbox::{PullProgress, SandboxKey};
use crate::config::{Config, SandboxUser};

pub use bin_volume::BinVolume;
pub(super) use sandbox::state_volume;

fn is_status(error: &bollard::errors::Error, status: u16) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code, .. } if *status_code == status)
}

/// Label of everything an agent makes: its identity.
const LABEL_AGENT: &str = "io.terrapool.agent";
/// Label that says what a thing is for: `sandbox`, `loader`, `bin`.
const LABEL_ROLE: &str = "io.terrapool.role";
/// Label that joins a sandbox and its volumes: what the names of these begin with.
const LABEL_SANDBOX: &str = "io.terrapool.sandbox";
/// Label with the time something was made at, in seconds since the Unix epoch.
const LABEL_CREATED: &str = "io.terrapool.created";

/// How many containers of agents an engine has.
///
/// # Errors
/// [`DriverError`] when it cannot list them.
pub async fn count_containers(docker: &Docker) -> Result<usize, DriverError> {
    let options = ListContainersOptions {
        all: true,
        filters: Some(HashMap::from([("label".to_owned(), vec![LABEL_ROLE.to_owned()])])),
        ..Default::default()
    };
    let containers = docker
        .list_containers(Some(options))
        .await
        .map_err(DriverError::call("listing the sandboxes"))?;
    Ok(containers.len())
}

/// A container engine, prepared for sandboxes.
#[derive(Debug)]
pub struct DockerDriver {
    docker: Docker,
    /// The engine's own API, where it is Podman.
    podman: Option<podman::Podman>,
    /// The agent's identity, part of every label and name.
    identity: String,
    /// The id of the sandboxes' network. Held while it is made again.
    network: Mutex<String>,
    host_addresses: Mutex<network::HostAddresses>,
    image: String,
    user: SandboxUser,
    bin: BinVolume,
    registries: registries::Registries,
    /// Held while an image is pulled.
    pulling: Mutex<()>,
    /// What there is to tell of the image that is being pulled.
    pulls: watch::Sender<Option<PullProgress>>,
    /// Whether the engine answers, as far as is known.
    answers: watch::Sender<bool>,
}

/// How often the removal of a container is tried that the engine refuses for now, and the wait in between.
const REMOVALS: u32 = 10;
const REMOVE_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// How often an engine that is away is looked for.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

impl DockerDriver {
    /// Connects, and prepares image, network and the volume with engines and runner.
    ///
    /// # Errors
    /// [`DriverError`], which names the cure.
    pub async fn prepare(config: &Config, identity: &str) -> Result<Arc<Self>, DriverError> {
        let docker = connect(config).await?;
        promises::refuse_unprotected(&docker).await?;
        let image = match &config.image {
            Some(image) => image.clone(),
            None => image::load_default(&docker).await?,
        };
        let podman = podman::Podman::behind(&docker, &address(config)).await;
        let network = network::ensure(&docker, podman.as_ref()).await?;
        let bin = BinVolume::prepare(&docker, &image, identity).await?;
        Ok(Arc::new(Self {
            docker,
            podman,
            identity: identity.to_owned(),
            network: Mutex::new(network),
            host_addresses: Mutex::default(),
            image,
            user: config.user,
            bin,
            registries: registries::Registries::new(config.registry_auth.as_deref()),
            pulling: Mutex::default(),
            pulls: watch::Sender::new(None),
            answers: watch::Sender::new(true),
        }))
    }

    /// Whether the engine answers, as far as is known. While it does not, no job should be taken.
    pub fn answers(&self) -> watch::Receiver<bool> {
        self.answers.subscribe()
    }

    /// What there is to tell of the image that is being pulled.
    pub fn pulls(&self) -> watch::Receiver<Option<PullProgress>> {
        self.pulls.subscribe()
    }

    /// Asks whether the engine answers; one that does not counts as away until it does again.
    pub async fn check(self: &Arc<Self>) -> bool {
        if self.docker.ping().await.is_ok() {
            return true;
        }
        if !self.answers.send_replace(false) {
            return false;
        }
        tracing::warn!("the container engine does not answer; no jobs are taken until it does");
        let driver = Arc::clone(self);
        tokio::spawn(async move {
            while driver.docker.ping().await.is_err() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            tracing::info!("the container engine answers again");
            driver.answers.send_replace(true);
        });
        false
    }

    /// The volume with engines.
    pub fn bin(&self) -> &BinVolume {
        &self.bin
    }

    /// What a sandbox for a job with this image, network and limits has to be.
    pub fn key(&self, image: Option<&str>, network: SandboxNetwork, limits: Limits) -> SandboxKey {
        SandboxKey {
            image: image.unwrap_or(&self.image).to_owned(),
            user: self.user,
            network,
            limits,
        }
    }

    pub(super) async fn remove_container(&self, id: &str) {
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            ..Default::default()
        };
        for attempt in 1..=REMOVALS {
            let removed = self.docker.remove_container(id, Some(options.clone())).await;
            let Err(error) = removed else { return };
            if is_status(&error, 404) {
                return;
            }
            // It ends, or is removed, at this very moment.
            if attempt < REMOVALS && (is_status(&error, 409) || is_status(&error, 500)) {
                tokio::time::sleep(REMOVE_AGAIN).await;
                continue;
            }
            tracing::warn!(
                sandbox = id,
                error = &error as &dyn std::error::Error,
                "a sandbox could not be removed"
            );
            return;
        }
    }

    async fn remove_volume(&self, name: &str) {
        let options = RemoveVolumeOptions { force: true };
        if let Err(error) = self.docker.remove_volume(name, Some(options)).await
            && !is_status(&error, 404)
        {
            tracing::warn!(
                volume = name,
                error = &error as &dyn std::error::Error,
                "a volume could not be removed"
            );
        }
    }

    async fn create_volume(&self, sandbox: &str, name: &str) -> Result<(), DriverError> {
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(labels(&self.identity, "sandbox", sandbox)),
            ..Default::default()
        };
        self.docker
            .create_volume(request)
            .await
            .map_err(DriverError::call(format!("making volume {name}")))?;
        Ok(())
    }
}

/// The labels of something an agent makes; `sandbox` is the name that a sandbox shares with its volumes.
fn labels(identity: &str, role: &str, sandbox: &str) -> HashMap<String, String> {
    HashMap::from([
        (LABEL_AGENT.to_owned(), identity.to_owned()),
        (LABEL_ROLE.to_owned(), role.to_owned()),
        (LABEL_SANDBOX.to_owned(), sandbox.to_owned()),
        (LABEL_CREATED.to_owned(), seconds_since_epoch().to_string()),
    ])
}

fn seconds_since_epoch() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// Where the engine is found.
fn address(config: &Config) -> String {
    let named = config.docker_host.clone();
    named.unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned())
}

/// Connects and agrees on an API version that both sides speak.
///
/// # Errors
/// [`DriverError::NoEngine`] when nothing answers.
pub async fn connect(config: &Config) -> Result<Docker, DriverError> {
    let address = address(config);
    let no_engine = |source| DriverError::NoEngine {
        address: address.clone(),
        source,
    };
    let docker = Docker::connect_with_host(&address).map_err(no_engine)?;
    docker
        .with_timeout(std::time::Duration::from_secs(300))
        .negotiate_version()
        .await
        .map_err(no_engine)
}

//! How a job is isolated.

pub mod docker;
mod error;
pub mod native;
mod runner_file;
mod sandbox;
mod warm;

use std::collections::BTreeSet;
use std::sync::Arc;

use terrapool_protocol::job::{Limits, SandboxNetwork};
use tokio::sync::watch;

use crate::config::{Config, DriverKind};
use crate::engines;
use docker::DockerDriver;
use native::NativeDriver;

pub use error::DriverError;
pub use sandbox::{Found, Place, PullProgress, Sandbox, SandboxKey};
pub use warm::{WarmSandboxes, Working};

/// What makes sandboxes.
#[derive(Debug)]
pub enum Driver {
    /// Containers of a Docker-compatible engine.
    Docker(Arc<DockerDriver>),
    /// Namespaces of the kernel, without an engine.
    Native(Box<NativeDriver>),
}

impl Driver {
    /// Prepares the driver that the configuration names. `identity` is part of every name that it gives.
    ///
    /// # Errors
    /// [`DriverError`], which names the cure.
    pub async fn prepare(config: &Config, identity: &str) -> Result<Arc<Self>, DriverError> {
        let driver = match config.driver {
            DriverKind::Docker => Self::Docker(DockerDriver::prepare(config, identity).await?),
            DriverKind::Native => Self::Native(Box::new(NativeDriver::prepare(config, identity).await?)),
        };
        Ok(Arc::new(driver))
    }

    /// Whether sandboxes can be made, as far as is known. While they cannot, no job should be taken.
    pub fn answers(&self) -> watch::Receiver<bool> {
        match self {
            Self::Docker(docker) => docker.answers(),
            Self::Native(native) => native.answers(),
        }
    }

    /// Looks whether sandboxes can be made; where they cannot, it is looked for until they can.
    pub async fn check(&self) -> bool {
        match self {
            Self::Docker(docker) => docker.check().await,
            // The kernel does not go away.
            Self::Native(_) => true,
        }
    }

    /// Puts an engine where sandboxes find it, and returns its path below [`terrapool_protocol::runner::BIN`].
    ///
    /// # Errors
    /// [`DriverError`] when it cannot be copied or read back.
    pub async fn offer_engine(&self, engine: &engines::Found) -> Result<String, DriverError> {
        match self {
            Self::Docker(docker) => docker.bin().ensure(engine).await,
            Self::Native(native) => native.offer_engine(engine).await,
        }
    }

    /// Removes engines that no job has used for long, or that are too many, as of `now` (seconds since 1970). Answers
    /// their folders.
    ///
    /// # Errors
    /// [`DriverError`] when they cannot be looked at or removed.
    pub async fn remove_old_engines(&self, now: u64) -> Result<Vec<String>, DriverError> {
        match self {
            Self::Docker(docker) => docker.remove_old_engines(now).await,
            Self::Native(native) => native.remove_old_engines(now).await,
        }
    }

    /// What a sandbox for a job with this image, network and limits has to be.
    pub fn key(&self, image: Option<&str>, network: SandboxNetwork, limits: Limits) -> SandboxKey {
        match self {
            Self::Docker(docker) => docker.key(image, network, limits),
            Self::Native(native) => native.key(image, network, limits),
        }
    }

    /// What there is to tell of the image that is being pulled; `None` where there are no images.
    pub fn pulls(&self) -> Option<watch::Receiver<Option<PullProgress>>> {
        match self {
            Self::Docker(docker) => Some(docker.pulls()),
            Self::Native(_) => None,
        }
    }

    /// Makes a sandbox and waits until its runner answers.
    ///
    /// # Errors
    /// [`DriverError`]; nothing is left behind.
    pub async fn create_sandbox(&self, key: &SandboxKey) -> Result<Sandbox, DriverError> {
        match self {
            Self::Docker(docker) => docker.create_sandbox(key).await,
            Self::Native(native) => native.create_sandbox(key).await,
        }
    }

    /// Whether a sandbox that waits still reaches what it was made to reach: somebody else may have taken the host's side
    /// of its network away.
    pub async fn is_connected(&self, sandbox: &Sandbox) -> bool {
        match self {
            Self::Docker(docker) => docker.is_connected(sandbox).await,
            Self::Native(native) => native.is_connected(sandbox).await,
        }
    }

    /// Gives a warm sandbox the limits of the job that takes it, and, where people can see it, its name.
    ///
    /// # Errors
    /// [`DriverError`] when they are refused.
    pub async fn assign(&self, sandbox: &mut Sandbox, limits: Limits, name: &str) -> Result<(), DriverError> {
        match self {
            Self::Docker(docker) => docker.assign(sandbox, limits, name).await,
            Self::Native(native) => native.assign(sandbox, limits),
        }
    }

    /// Whether a file exists on the job volume of a sandbox, running or not; `None` when that cannot be told.
    pub async fn job_file_exists(&self, id: &str, file: &str) -> Option<bool> {
        match self {
            Self::Docker(docker) => docker.job_file_exists(id, file).await,
            Self::Native(native) => Some(native.job_file_exists(id, file)),
        }
    }

    /// Removes a sandbox and its volumes. `volumes` is the name it was made with.
    pub async fn remove_sandbox(&self, id: &str, volumes: &str) {
        match self {
            Self::Docker(docker) => docker.remove_sandbox(id, volumes).await,
            Self::Native(native) => native.remove_sandbox(volumes).await,
        }
    }

    /// Ends a sandbox whose volumes a person needs.
    pub async fn leave_volumes(&self, place: &Place) {
        match self {
            Self::Docker(docker) => docker.remove_container(&place.id).await,
            Self::Native(native) => native.end(&place.volumes).await,
        }
    }

    /// Where the state of a sandbox is, as people find it on this host.
    pub fn state_place(&self, place: &Place) -> String {
        match self {
            Self::Docker(_) => format!("the volume {}", docker::state_volume(place)),
            Self::Native(native) => format!("the folder {}", native.state_folder(place)),
        }
    }

    /// Connects anew to a sandbox that an earlier connection, or process, used. When the sandbox has ended, another one
    /// serves what is on its volumes. `None`: nothing is left of it.
    pub async fn find(&self, place: &Place, log_from: u64) -> Option<Found> {
        match self {
            Self::Docker(docker) => docker.find(place, log_from).await,
            Self::Native(native) => native.find(place, log_from).await,
        }
    }

    /// Looks through everything of this agent: removes what no job needs, keeps what jobs in the journal still need
    /// (`keep`), and keeps the volumes of jobs that no journal knows for seven days. `over` are the volumes of jobs that
    /// are known to be over.
    ///
    /// # Errors
    /// [`DriverError`] when it cannot be listed.
    pub async fn take_stock(&self, keep: &[Place], over: &BTreeSet<String>) -> Result<(), DriverError> {
        match self {
            Self::Docker(docker) => docker.take_stock(keep, over).await,
            Self::Native(native) => native.take_stock(keep, over).await,
        }
    }
}

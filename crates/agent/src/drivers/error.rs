//! Why a sandbox cannot be had.

/// What went wrong with the container engine or with the kernel.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// No engine answers.
    #[error(
        "no container engine answers at {address}: start one (systemctl start docker), or name another one in \
         DOCKER_HOST"
    )]
    NoEngine {
        /// Where it was looked for.
        address: String,
        /// The client's error.
        #[source]
        source: bollard::errors::Error,
    },
    /// The engine is rootless and cannot keep the limits of sandboxes here.
    #[error("the container engine is rootless and cannot limit sandboxes: {0}")]
    Unlimited(String),
    /// The engine, or the kernel below it, does not keep what every sandbox is promised.
    #[error("the container engine cannot isolate jobs: {0}")]
    Unprotected(String),
    /// A sandbox may use more memory than it was made for.
    #[error(
        "a sandbox was not used, because it could take more memory than the {wanted_mb} MiB that it was made for \
         (terrapool-agent doctor names the cause)"
    )]
    Loose {
        /// Its limit, in MiB, as it should be.
        wanted_mb: u64,
    },
    /// A call to the engine failed.
    #[error("{action} failed")]
    Call {
        /// What was tried.
        action: String,
        /// The engine's answer.
        #[source]
        source: bollard::errors::Error,
    },
    /// The default image is neither loaded nor beside the agent.
    #[error(
        "there is no sandbox image: name one in TERRAPOOL_AGENT_IMAGE, or put sandbox-image.tar (made by `cargo xtask \
         image`, part of the agent's packages) beside the agent"
    )]
    NoImage,
    /// This host cannot give what the native driver promises.
    #[error("the native driver cannot isolate jobs on this host: {0}")]
    NotNative(String),
    /// A local file cannot be used.
    #[error("{path} cannot be used")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// An image cannot be had.
    #[error("the sandbox image {image} cannot be had: {reason}")]
    Image {
        /// The image.
        image: String,
        /// Why not.
        reason: String,
    },
    /// A helper container did not do its work.
    #[error("{action} failed with status {status}: {output}")]
    Helper {
        /// What it was for.
        action: &'static str,
        /// Its exit status.
        status: i64,
        /// What it printed.
        output: String,
    },
    /// The sandbox ended before its runner answered.
    #[error(
        "the sandbox ended before its runner answered: image {image} may not run programs of this architecture"
    )]
    RunnerSilent {
        /// The image.
        image: String,
    },
}

impl DriverError {
    pub(super) fn call(action: impl Into<String>) -> impl FnOnce(bollard::errors::Error) -> Self {
        let action = action.into();
        move |source| Self::Call { action, source }
    }
}

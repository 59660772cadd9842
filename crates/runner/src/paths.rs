//! Where everything lies inside a sandbox.

use std::path::PathBuf;

use terrapool_protocol::runner;

/// The folders of a sandbox. Tests put them below a temporary folder; a plan can only be applied where all of them are
/// the same as they were when it was made.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Engines, read-only.
    pub bin: PathBuf,
    /// The job volume.
    pub job: PathBuf,
    /// The work volume.
    pub work: PathBuf,
    /// The state volume.
    pub state: PathBuf,
    /// What the job has changed of the host's files, where it may do that.
    pub changes: PathBuf,
    /// Provider mirror, where there is one.
    pub providers: PathBuf,
    /// The system's folder for temporary files.
    pub tmp: PathBuf,
    /// The control group file system.
    pub cgroup: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            bin: runner::BIN.into(),
            job: runner::JOB.into(),
            work: runner::WORK.into(),
            state: runner::STATE.into(),
            changes: runner::CHANGES.into(),
            providers: runner::PROVIDERS.into(),
            tmp: "/tmp".into(),
            cgroup: "/sys/fs/cgroup".into(),
        }
    }
}

impl Paths {
    /// The socket on which the runner listens.
    pub fn socket(&self) -> PathBuf {
        self.job.join(runner::SOCKET)
    }

    /// Certificates of the image and of the agent, in one file.
    pub fn certificates(&self) -> PathBuf {
        self.job.join("certificates.pem")
    }

    /// The log spool.
    pub fn log(&self) -> PathBuf {
        self.job.join("log")
    }

    /// The marker that an engine phase was started. It is made once and never removed.
    pub fn marker(&self) -> PathBuf {
        self.job.join("started")
    }

    /// How the job ended, for whoever opens the volumes after the sandbox is gone.
    pub fn end(&self) -> PathBuf {
        self.job.join("end.json")
    }

    /// Parts of the bundle as they arrive.
    pub fn bundle(&self) -> PathBuf {
        self.job.join("bundle")
    }

    /// Artifacts for the agent to fetch.
    pub fn artifacts(&self) -> PathBuf {
        self.job.join("artifacts")
    }

    /// State copies made while applying.
    pub fn state_copies(&self) -> PathBuf {
        self.job.join("states")
    }

    /// Folder of the plan file and of generated configuration.
    pub fn plan(&self) -> PathBuf {
        self.job.join("plan")
    }

    /// The plan file.
    pub fn plan_file(&self) -> PathBuf {
        self.plan().join("tfplan")
    }

    /// The engine's home folder.
    pub fn home(&self) -> PathBuf {
        self.job.join("home")
    }

    /// The engine's CLI configuration.
    pub fn cli_config(&self) -> PathBuf {
        self.job.join("cli.tfrc")
    }

    /// Where the configuration is unpacked.
    pub fn configuration(&self) -> PathBuf {
        self.work.join("config")
    }

    /// The provider mirror.
    pub fn mirror(&self) -> PathBuf {
        self.providers.join("mirror")
    }

    /// The path that the local backend is given, and the state file of the workspace `default`.
    pub fn backend_path(&self) -> PathBuf {
        self.state.join("terraform.tfstate")
    }

    /// Folder of the state files of all other workspaces.
    pub fn backend_workspaces(&self) -> PathBuf {
        self.state.join("d")
    }

    /// The state file that the engine uses for a workspace.
    pub fn state_file(&self, workspace: &str) -> PathBuf {
        if workspace == "default" {
            self.backend_path()
        } else {
            self.backend_workspaces()
                .join(workspace)
                .join("terraform.tfstate")
        }
    }
}

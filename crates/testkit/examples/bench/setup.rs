//! The installation that is measured.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use terrapool_testkit::installation::{AgentProcess, Installation};
use terrapool_testkit::wait::until;

use crate::docker::{Container, Docker};
use crate::probe;

/// An agent and its pool.
pub(crate) struct Pool {
    pub(crate) id: String,
    pub(crate) agent: AgentProcess,
    name: &'static str,
}

/// Sandboxes that an agent keeps ready.
const WAITING: usize = 2;

/// Everything that measurements use.
pub(crate) struct Bench {
    pub(crate) installation: Installation,
    pub(crate) docker: Docker,
    pub(crate) image: String,
    /// Four slots, as agents have by default on such a machine or better.
    pub(crate) pool: Pool,
    pub(crate) engines: PathBuf,
    /// Version of the real terraform.
    pub(crate) version: String,
    counter: Cell<u32>,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let image = std::env::var("TERRAPOOL_BENCH_IMAGE").expect("run it by `cargo xtask bench`");
        let installation = Installation::start().await;
        let engines = installation.scratch("engines");
        probe::write(&engines);
        let version = real_terraform(&engines);
        let docker = Docker::connect();
        let mut bench = Self {
            pool: start_pool(&installation, "bench", &engines, "4").await,
            installation,
            docker,
            image,
            engines,
            version,
            counter: Cell::new(0),
        };
        // The engines are copied into the sandboxes' volume, and provider schemas kept, by the first runs.
        for version in [probe::VERSION.to_owned(), bench.version.clone()] {
            let workspace = bench.workspace(&bench.pool.id, &version, CONFIGURATION).await;
            let run = bench.create_run(&workspace).await;
            bench.ended(&run, "applied").await;
        }
        bench.counter = Cell::new(100);
        bench
    }

    /// A pool of its own with an agent that takes one job at a time.
    pub(crate) async fn narrow_pool(&self) -> Pool {
        start_pool(&self.installation, "narrow", &self.engines, "1").await
    }

    /// A name that was not used before.
    pub(crate) fn name(&self) -> String {
        let number = self.counter.get();
        self.counter.set(number + 1);
        format!("bench-{number}")
    }

    /// Waits until all waiting sandboxes are there and listened to, none works, and none is on its way out.
    pub(crate) async fn settle(&self) {
        self.settle_pool(&self.pool).await;
    }

    /// The same for another pool.
    pub(crate) async fn settle_pool(&self, pool: &Pool) {
        let settled = until(Duration::from_secs(60), async || {
            let mine = self.sandboxes(pool).await;
            // A sandbox that is taken gets the name of its run.
            let waiting = format!("/terrapool-{}-", self.identity(pool));
            let all_wait = mine.iter().all(|sandbox| sandbox.name.starts_with(&waiting));
            if mine.len() != WAITING || !all_wait {
                return None;
            }
            for sandbox in &mine {
                self.docker.is_listened_to(&sandbox.id).await.then_some(())?;
            }
            Some(())
        })
        .await;
        assert!(settled.is_some(), "no sandboxes wait:\n{}", self.pool.agent.log());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }

    /// Running sandboxes of a pool's agent.
    pub(crate) async fn sandboxes(&self, pool: &Pool) -> Vec<Container> {
        let identity = self.identity(pool);
        self.docker
            .running(&format!("io.terrapool.agent%3D{identity}"))
            .await
    }

    fn identity(&self, pool: &Pool) -> String {
        use sha2::Digest as _;
        let key = self
            .installation
            .scratch(&format!("agent-{}", pool.name))
            .join("instance.key");
        let key = std::fs::read_to_string(key).expect("an agent has a key");
        let digest = sha2::Sha256::digest(key.trim());
        let text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        text[..12].to_owned()
    }
}

/// One resource that needs no provider.
pub(crate) const CONFIGURATION: &str = "resource \"terraform_data\" \"a\" {\n  input = \"a\"\n}\n";

async fn start_pool(
    installation: &Installation,
    name: &'static str,
    engines: &std::path::Path,
    slots: &str,
) -> Pool {
    let (id, token) = installation.create_pool(name).await;
    let engines = engines.to_string_lossy().into_owned();
    let environment = [
        ("TERRAPOOL_AGENT_ENGINES", engines.as_str()),
        ("TERRAPOOL_AGENT_CONCURRENCY", slots),
        ("TERRAPOOL_LOG", "info"),
    ];
    let agent = installation.start_agent(name, &token, &environment).await;
    Pool { id, agent, name }
}

/// Puts the terraform of PATH among the engines, and returns its version.
fn real_terraform(engines: &std::path::Path) -> String {
    let output = Command::new("terraform")
        .args(["version", "-json"])
        .env("CHECKPOINT_DISABLE", "1")
        .output()
        .expect("terraform is installed");
    let version: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("terraform says its version");
    let version = version["terraform_version"]
        .as_str()
        .expect("terraform has a version")
        .to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let binary = std::env::split_paths(&path)
        .map(|folder| folder.join("terraform"))
        .find(|file| file.is_file())
        .expect("terraform is on PATH");
    let folder = engines.join(format!("terraform_{version}"));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    std::fs::copy(binary, folder.join("terraform")).expect("terraform can be copied");
    version
}

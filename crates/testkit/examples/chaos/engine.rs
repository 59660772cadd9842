//! A container engine that may be killed: in a network namespace of its own, so that it disturbs no other one.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

const NAMESPACE: &str = "terrapool-chaos";

/// The address of this side of the cable into the namespace; from the sandboxes it is beyond their host.
pub(crate) const OUTSIDE: &str = "10.98.0.1";

/// The engine. With live-restore: containers outlive it.
#[derive(Debug)]
pub(crate) struct ContainerEngine {
    folder: tempfile::TempDir,
    daemon: Child,
}

/// Runs a command to its end; whether it succeeded, and its output.
pub(crate) async fn output(program: &str, arguments: &[&str]) -> (bool, String) {
    match Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
    {
        Ok(output) => (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        ),
        Err(error) => (false, error.to_string()),
    }
}

async fn clear_network() {
    output("ip", &["link", "del", "terrapool-c0"]).await;
    output("ip", &["netns", "del", NAMESPACE]).await;
}

impl ContainerEngine {
    /// Makes the namespace and starts the engine.
    pub(crate) async fn start() -> Self {
        clear_network().await;
        let steps = [
            "netns add terrapool-chaos",
            "link add terrapool-c0 type veth peer name terrapool-c1 netns terrapool-chaos",
            "addr add 10.98.0.1/30 dev terrapool-c0",
            "link set terrapool-c0 up",
            "-n terrapool-chaos addr add 10.98.0.2/30 dev terrapool-c1",
            "-n terrapool-chaos link set lo up",
            "-n terrapool-chaos link set terrapool-c1 up",
        ];
        for step in steps {
            let (done, text) = output("ip", &step.split(' ').collect::<Vec<_>>()).await;
            assert!(done, "ip {step}: {text} (root is needed)");
        }
        let folder = tempfile::Builder::new()
            .prefix("terrapool-chaos-docker-")
            .tempdir()
            .expect("a temporary folder");
        let daemon = Self::spawn(&folder);
        let mut engine = Self { folder, daemon };
        engine.ready().await;
        engine
    }

    fn spawn(folder: &tempfile::TempDir) -> Child {
        let path = folder.path();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path.join("dockerd.log"))
            .expect("a log can be made");
        // Not `ip netns exec`, which would hide the control groups.
        Command::new("nsenter")
            .arg(format!("--net=/run/netns/{NAMESPACE}"))
            .args(["dockerd", "--live-restore"])
            .arg("--data-root")
            .arg(path.join("data"))
            .arg("--exec-root")
            .arg(path.join("exec"))
            .arg("--pidfile")
            .arg(path.join("dockerd.pid"))
            .arg("-H")
            .arg(format!("unix://{}", path.join("docker.sock").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log can be shared"))
            .stderr(log)
            .spawn()
            .expect("dockerd starts")
    }

    /// For `DOCKER_HOST`.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("docker.sock").display())
    }

    /// Runs the client.
    pub(crate) async fn docker(&self, arguments: &[&str]) -> (bool, String) {
        let host = self.host();
        output("docker", &[&["-H", &host], arguments].concat()).await
    }

    async fn ready(&mut self) {
        let mut up = false;
        let deadline = std::time::Instant::now() + Duration::from_secs(240);
        while !up && std::time::Instant::now() < deadline {
            // It gives up when what it was killed with holds on for too long; a service manager starts it again.
            if !matches!(self.daemon.try_wait(), Ok(None)) {
                let _ = std::fs::remove_file(self.folder.path().join("dockerd.pid"));
                self.daemon = Self::spawn(&self.folder);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            up = self.docker(&["version"]).await.0;
        }
        let log: PathBuf = self.folder.path().join("dockerd.log");
        assert!(
            up,
            "dockerd does not answer:\n{}",
            std::fs::read_to_string(log).unwrap_or_default()
        );
    }

    /// Kills the engine and starts it again after a while.
    pub(crate) async fn kill_and_restart(&mut self, away: Duration) {
        // `nsenter` has become the program that it started.
        let _ = self.daemon.kill().await;
        tokio::time::sleep(away).await;
        let _ = std::fs::remove_file(self.folder.path().join("dockerd.pid"));
        self.daemon = Self::spawn(&self.folder);
        self.ready().await;
    }

    /// The processes that are PID 1 of a sandbox, as this machine numbers them.
    pub(crate) async fn runners(&self) -> Vec<u32> {
        let (_, ids) = self
            .docker(&["ps", "-q", "--filter", "label=io.terrapool.role=sandbox"])
            .await;
        let mut found = Vec::new();
        for id in ids.lines() {
            let (known, pid) = self.docker(&["inspect", "-f", "{{.State.Pid}}", id]).await;
            if let (true, Ok(pid)) = (known, pid.trim().parse()) {
                found.push(pid);
            }
        }
        found
    }

    /// Removes every container, ends the engine and what it has started.
    pub(crate) async fn stop(mut self) {
        let (_, ids) = self.docker(&["ps", "-aq"]).await;
        for id in ids.lines() {
            self.docker(&["rm", "-f", id]).await;
        }
        if let Some(pid) = self.daemon.id() {
            output("kill", &[&pid.to_string()]).await;
            let ended = tokio::time::timeout(Duration::from_secs(30), self.daemon.wait()).await;
            if ended.is_err() {
                let _ = self.daemon.kill().await;
            }
        }
        let containerd = self.folder.path().join("exec/containerd/containerd.pid");
        if let Ok(pid) = std::fs::read_to_string(containerd) {
            output("kill", &[pid.trim()]).await;
        }
        clear_network().await;
    }
}

//! A container engine that may be killed: in a network namespace of its own, so that it disturbs no other one.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

/// What the namespaces' names begin with; the id of the process that made one follows.
const NAMESPACE: &str = "terrapool-chaos-";

/// The engine. With live-restore: containers outlive it.
#[derive(Debug)]
pub struct ContainerEngine {
    folder: tempfile::TempDir,
    daemon: Child,
}

/// The name of this process's namespace.
fn namespace() -> String {
    format!("{NAMESPACE}{}", std::process::id())
}

/// Both ends of the cable into the namespace. Processes side by side have different ones.
fn addresses() -> [String; 2] {
    let block = std::process::id() % (1 << 14);
    let (third, fourth) = (block / 64, block % 64 * 4);
    [1, 2].map(|end| format!("10.98.{third}.{}", fourth + end))
}

/// Runs a command to its end; whether it succeeded, and its output.
pub async fn output(program: &str, arguments: &[&str]) -> (bool, String) {
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

/// Removes what processes that were killed have left.
async fn clear_networks() {
    let (_, list) = output("ip", &["netns", "list"]).await;
    for line in list.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let owner = name.strip_prefix(NAMESPACE);
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            output("ip", &["netns", "del", name]).await;
        }
    }
}

impl ContainerEngine {
    /// Makes the namespace and starts the engine. Needs root.
    pub async fn start() -> Self {
        clear_networks().await;
        let name = namespace();
        let cable = format!("tpc{}", std::process::id());
        let [outside, inside] = addresses();
        let steps = [
            format!("netns add {name}"),
            format!("link add {cable} type veth peer name inside netns {name}"),
            format!("addr add {outside}/30 dev {cable}"),
            format!("link set {cable} up"),
            format!("-n {name} addr add {inside}/30 dev inside"),
            format!("-n {name} link set lo up"),
            format!("-n {name} link set inside up"),
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
            .arg(format!("--net=/run/netns/{}", namespace()))
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

    /// The address of this side of the cable; from the sandboxes it is beyond their host.
    pub fn outside(&self) -> String {
        let [outside, _] = addresses();
        outside
    }

    /// For `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("docker.sock").display())
    }

    /// Runs the client.
    pub async fn docker(&self, arguments: &[&str]) -> (bool, String) {
        let host = self.host();
        output("docker", &[&["-H", &host], arguments].concat()).await
    }

    /// The file that its network namespace is entered by.
    pub fn network_namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(namespace())
    }

    /// Runs `ip` in its network namespace.
    pub async fn ip(&self, arguments: &[&str]) -> (bool, String) {
        output("ip", &[&["-n", &namespace()], arguments].concat()).await
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
    pub async fn kill_and_restart(&mut self, away: Duration) {
        // `nsenter` has become the program that it started.
        let _ = self.daemon.kill().await;
        tokio::time::sleep(away).await;
        let _ = std::fs::remove_file(self.folder.path().join("dockerd.pid"));
        self.daemon = Self::spawn(&self.folder);
        self.ready().await;
    }

    /// The process that is PID 1 of the sandbox of a run's phase, as this machine numbers it, while it runs.
    pub async fn runner_of(&self, run: &str, phase: &str) -> Option<u32> {
        let name = format!("name=terrapool-{run}-{phase}");
        let (_, id) = self.docker(&["ps", "-q", "--filter", &name]).await;
        let (_, pid) = self.docker(&["inspect", "-f", "{{.State.Pid}}", id.trim()]).await;
        pid.trim().parse().ok()
    }

    /// The processes that are PID 1 of a sandbox, as this machine numbers them.
    pub async fn runners(&self) -> Vec<u32> {
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
}

impl Drop for ContainerEngine {
    /// Removes every container, ends the engine and what it has started, also after a panic.
    fn drop(&mut self) {
        let ids = run("docker", &["-H", &self.host(), "ps", "-aq"]);
        let ids: Vec<&str> = ids.lines().collect();
        if !ids.is_empty() {
            run(
                "docker",
                &[&["-H", &self.host(), "rm", "-f", "-v"], ids.as_slice()].concat(),
            );
        }
        if let Some(pid) = self.daemon.id() {
            run("kill", &[&pid.to_string()]);
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while matches!(self.daemon.try_wait(), Ok(None)) && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.daemon.start_kill();
        // Its containerd and what stands between that and the containers live on when it was killed.
        for pid in processes_of(self.folder.path()) {
            run("kill", &["-9", &pid.to_string()]);
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for point in points.filter(|point| Path::new(point).starts_with(self.folder.path())) {
            run("umount", &["-l", point]);
        }
        // The cable goes with it.
        run("ip", &["netns", "del", &namespace()]);
    }
}

/// Runs a command to its end; its output, empty when it fails.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(_) | Err(_) => String::new(),
    }
}

/// Processes whose command line names a folder.
fn processes_of(folder: &Path) -> Vec<u32> {
    let folder = folder.to_string_lossy().into_owned();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&folder))
        })
        .collect()
}

/// The terraform that a runner executes now, both as this machine numbers processes.
pub fn engine_of(runner: u32) -> Option<u32> {
    std::fs::read_dir(format!("/proc/{runner}/task"))
        .ok()?
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|children| {
            children
                .split_whitespace()
                .filter_map(|child| child.parse().ok())
                .collect::<Vec<u32>>()
        })
        .find(|child| {
            std::fs::read_to_string(format!("/proc/{child}/comm"))
                .is_ok_and(|name| name.trim() == "terraform")
        })
}

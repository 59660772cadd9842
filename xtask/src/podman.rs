//! Tests of the Docker driver on Podman's service, which answers to the same API.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::command::{cargo, check, program, target_dir};
use crate::{image, packages};

/// The sandboxes' bridge has one name on every engine of a host, so this one has a network of its own.
const NETWORK: &str = "terrapool-podman";

/// Limits that processes without CAP_SYS_RESOURCE may give, and the runtime that knows both versions of control groups.
const CONFIGURATION: &str = "\
[containers]
default_ulimits = [\"nofile=10000:10000\", \"nproc=10000:10000\"]

[engine]
runtime = \"runc\"
cgroup_manager = \"cgroupfs\"
events_logger = \"file\"
";

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    packages::ensure(&[packages::BUILD, packages::IMAGE, packages::PODMAN])?;
    packages::ensure_terraform()?;
    if !packages::is_root() {
        bail!("Podman is started as root: sudo cargo xtask podman");
    }
    check(cargo().args(["build", "--locked", "--workspace", "--bins"]))?;
    image::make("debug")?;
    let podman = Podman::start()?;
    for arguments in [
        ["sandbox", "sandbox"].as_slice(),
        ["sandbox_cases", "docker::"].as_slice(),
    ] {
        let [test, filter] = arguments else { continue };
        let mut tests = cargo();
        tests
            .args(["test", "--locked", "--workspace", "--test", test, "--", filter])
            .env("DOCKER_HOST", podman.host())
            .env("TERRAPOOL_BIN_DIR", target_dir().join("debug"));
        check(&mut tests)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The service. It ends with this value, and so does everything that it holds.
struct Podman {
    folder: tempfile::TempDir,
    service: Option<Child>,
}

impl Podman {
    fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("terrapool-podman-").tempdir()?;
        let mut podman = Self {
            folder,
            service: None,
        };
        let networks = podman.path("networks");
        std::fs::create_dir_all(&networks)?;
        let configuration = format!(
            "{CONFIGURATION}\n[network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = \"{}\"\n",
            networks.display()
        );
        std::fs::write(podman.path("containers.conf"), configuration)?;
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            podman.path("graph").display(),
            podman.path("run").display()
        );
        std::fs::write(podman.path("storage.conf"), storage)?;
        // Left by a task that was killed.
        let _ = program("ip")
            .args(["netns", "del", NETWORK])
            .stderr(Stdio::null())
            .status();
        check(program("ip").args(["netns", "add", NETWORK]))?;
        check(program("ip").args(["-n", NETWORK, "link", "set", "lo", "up"]))?;
        let log = std::fs::File::create(podman.path("service.log"))?;
        let mut service = program("nsenter");
        service
            .arg(format!("--net=/var/run/netns/{NETWORK}"))
            .args(["podman", "system", "service", "--time", "0"])
            .arg(podman.host());
        let started = podman
            .settings(&mut service)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        podman.service = Some(started.context("podman could not be started")?);
        let deadline = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(podman.path("podman.sock")).is_err() {
            if Instant::now() > deadline {
                let said = std::fs::read_to_string(podman.path("service.log")).unwrap_or_default();
                bail!("Podman's service does not answer:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(podman)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// For `DOCKER_HOST`.
    fn host(&self) -> String {
        format!("unix://{}", self.path("podman.sock").display())
    }

    fn settings<'command>(&self, command: &'command mut Command) -> &'command mut Command {
        command
            .env("CONTAINERS_CONF", self.path("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.path("storage.conf"))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if let Some(service) = &mut self.service {
            let _ = service.kill();
            let _ = service.wait();
        }
        let mut reset = program("podman");
        reset.args(["system", "reset", "--force"]);
        let _ = self
            .settings(&mut reset)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = program("ip").args(["netns", "del", NETWORK]).status();
    }
}

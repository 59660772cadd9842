//! A Debian host with systemd, booted in a container with a network namespace and container engines of its own.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::net::{TcpStream, UnixListener};
use tokio::process::Command;

use crate::wait::until;

/// A file or folder that `cargo xtask test` has made.
pub fn made(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: `cargo xtask test` makes what it names"));
    PathBuf::from(path)
}

/// The packages that `cargo xtask test` has made.
pub fn packages() -> PathBuf {
    made("TERRAPOOL_TEST_PACKAGES")
}

/// A package whose name begins and ends like this, in a folder.
pub fn package(folder: &Path, begin: &str, end: &str) -> PathBuf {
    let entries = std::fs::read_dir(folder).expect("the packages' folder can be read");
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(begin) && name.ends_with(end)
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(named)
        .unwrap_or_else(|| panic!("{} has no {begin}…{end}", folder.display()))
}

/// Where a program of this machine is.
pub fn on_path(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not on PATH"))
}

fn blocks<'a>(manual: &'a str, heading: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let section = manual
        .split("\n## ")
        .find(|section| section.starts_with(heading))
        .unwrap_or_else(|| panic!("the manual has no section `{heading}`"));
    section.split("```\n").skip(1).step_by(2)
}

/// The commands of a manual's section, as they stand there.
pub fn documented(manual: &str, heading: &str) -> String {
    blocks(manual, heading).collect()
}

/// The first block of a manual's section that says this.
pub fn documented_with(manual: &str, heading: &str, wanted: &str) -> String {
    blocks(manual, heading)
        .find(|block| block.contains(wanted))
        .unwrap_or_else(|| panic!("`{heading}` has no commands with `{wanted}`"))
        .to_owned()
}

/// The host. It is removed when it is dropped.
#[derive(Debug)]
pub struct System {
    name: String,
    share: tempfile::TempDir,
}

/// cgroup controllers, each bound by itself: with the whole tree systemd would change the machine's.
const CONTROLLERS: [&str; 9] = [
    "systemd", "memory", "cpu", "cpuacct", "pids", "devices", "freezer", "blkio", "cpuset",
];

const SUDO: &str = "\
#!/bin/sh
if [ \"$1\" = -u ]; then
    user=$2
    shift 2
    exec runuser -u \"$user\" -- env \"$@\"
fi
exec env \"$@\"
";

async fn docker(arguments: &[&str]) -> Output {
    Command::new("docker")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("the docker client is there")
}

impl System {
    /// Boots one and waits until it runs.
    pub async fn boot() -> Self {
        let share = tempfile::Builder::new()
            .prefix("terrapool-system-")
            .tempdir()
            .expect("a temporary folder");
        let name = share
            .path()
            .file_name()
            .expect("a folder has a name")
            .to_string_lossy()
            .into_owned();
        let image = made("TERRAPOOL_TEST_SYSTEM").display().to_string();
        let shared = format!("{}:/mnt", share.path().display());
        let mut arguments: Vec<String> = [
            "run",
            "-d",
            "--name",
            &name,
            "--cap-add=ALL",
            "--cap-drop=SYS_RESOURCE",
            "--security-opt=seccomp=unconfined",
            "--security-opt=systempaths=unconfined",
            "--cgroupns=host",
            "-e",
            "container=docker",
            "--tmpfs=/run:rw,exec,mode=755",
            "--tmpfs=/run/lock",
            "--tmpfs=/tmp",
            "-v",
            &shared,
            "-v",
            "/var/lib/terrapool-docker",
            "--stop-signal=SIGRTMIN+3",
        ]
        .map(str::to_owned)
        .to_vec();
        // Machines with the unified tree have none of the controllers.
        let controllers = CONTROLLERS.map(|name| format!("/sys/fs/cgroup/{name}"));
        let first = controllers.iter().filter(|path| Path::new(path).exists());
        let bound: Vec<String> = first.map(|path| format!("{path}:{path}:rw")).collect();
        if !bound.is_empty() {
            arguments.push("--tmpfs=/sys/fs/cgroup:ro".to_owned());
        }
        for path in bound {
            arguments.extend(["-v".to_owned(), path]);
        }
        let boot = "mount --make-rshared / && exec /lib/systemd/systemd";
        arguments.extend([&image, "sh", "-c", boot].map(str::to_owned));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let started = docker(&arguments).await;
        let system = Self { name, share };
        assert!(
            started.status.success(),
            "a container with systemd cannot be started: {}",
            String::from_utf8_lossy(&started.stderr)
        );
        let running = until(Duration::from_secs(120), async || {
            let state = system.try_run("systemctl is-system-running").await;
            matches!(
                String::from_utf8_lossy(&state.stdout).trim(),
                "running" | "degraded"
            )
            .then_some(())
        })
        .await;
        if running.is_none() {
            let logs = docker(&["logs", &system.name]).await;
            panic!(
                "systemd does not come up in a container of this engine: {}{}",
                String::from_utf8_lossy(&logs.stdout),
                String::from_utf8_lossy(&logs.stderr)
            );
        }
        // The manual's commands are those of a user who may become root; here everything is root.
        std::fs::write(system.share().join("sudo"), SUDO).expect("a file can be written");
        system.run("install -m 755 sudo /usr/local/bin/sudo").await;
        system
    }

    /// The folder that the host sees at `/mnt`.
    pub fn share(&self) -> &Path {
        self.share.path()
    }

    /// Puts a file into the shared folder.
    pub fn bring(&self, file: &Path) {
        let name = file.file_name().expect("a file has a name");
        std::fs::copy(file, self.share.path().join(name))
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }

    /// Runs commands in a shell, in the shared folder.
    pub async fn try_run(&self, script: &str) -> Output {
        docker(&["exec", "-w", "/mnt", &self.name, "sh", "-ec", script]).await
    }

    /// Runs commands that have to succeed and returns what they printed.
    pub async fn run(&self, script: &str) -> String {
        let output = self.try_run(script).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{script}\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Waits until commands print a text.
    pub async fn prints(&self, script: &str, wanted: &str) -> String {
        let mut last = String::new();
        let seen = until(Duration::from_secs(180), async || {
            let output = self.try_run(script).await;
            last = String::from_utf8_lossy(&output.stdout).into_owned();
            last.contains(wanted).then(|| last.clone())
        })
        .await;
        seen.unwrap_or_else(|| panic!("`{script}` does not print `{wanted}`:\n{last}"))
    }

    /// Lets the host find a port of this machine's loopback on its own.
    pub async fn relay(&self, port: u16) {
        let listener =
            UnixListener::bind(self.share.path().join(format!("{port}.sock"))).expect("a socket can be made");
        tokio::spawn(async move {
            while let Ok((mut inside, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut outside) = TcpStream::connect(("127.0.0.1", port)).await {
                        let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                    }
                });
            }
        });
        self.run(&format!(
            "systemd-run --quiet --unit relay-{port} socat TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr \
             UNIX-CONNECT:/mnt/{port}.sock"
        ))
        .await;
        self.prints(&format!("ss -ltn 'sport = :{port}'"), "LISTEN").await;
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = std::process::Command::new("docker")
                .args([
                    "exec",
                    &self.name,
                    "journalctl",
                    "--no-pager",
                    "-n",
                    "60",
                    "-o",
                    "cat",
                ])
                .output();
            if let Ok(journal) = journal {
                eprintln!("--- journal\n{}", String::from_utf8_lossy(&journal.stdout));
            }
        }
        let _ = std::process::Command::new("docker")
            .args(["rm", "-fv", &self.name])
            .output();
    }
}

//! A Docker engine: the one that answers, or a private one that ends with the task.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::command::{find_program, program};
use crate::packages;

/// An engine that can be used until this value is dropped.
pub(crate) struct ContainerEngine {
    /// For `DOCKER_HOST`.
    pub(crate) host: String,
    private: Option<Private>,
}

struct Private {
    daemon: Child,
    folder: tempfile::TempDir,
}

const SYSTEM_SOCKET: &str = "/var/run/docker.sock";

impl ContainerEngine {
    /// An engine that answers.
    pub(crate) fn find() -> Option<Self> {
        if let Ok(host) = std::env::var("DOCKER_HOST")
            && !host.is_empty()
        {
            return Some(Self { host, private: None });
        }
        UnixStream::connect(SYSTEM_SOCKET).ok()?;
        Some(Self {
            host: format!("unix://{SYSTEM_SOCKET}"),
            private: None,
        })
    }

    /// Finds an engine, or starts one.
    pub(crate) fn obtain() -> anyhow::Result<Self> {
        if let Some(found) = Self::find() {
            return Ok(found);
        }
        packages::ensure(&[packages::CONTAINERS])?;
        Self::start_private()
    }

    fn start_private() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("terrapool-docker-").tempdir()?;
        let path = folder.path();
        let socket = path.join("docker.sock");
        let log = path.join("dockerd.log");
        let output = std::fs::File::create(&log)?;
        let dockerd = find_program("dockerd").context("dockerd is not installed")?;
        eprintln!(
            "no Docker engine answers; starting a private one in {}",
            path.display()
        );
        let daemon = program(&dockerd.to_string_lossy())
            .arg("--data-root")
            .arg(path.join("data"))
            .arg("--exec-root")
            .arg(path.join("exec"))
            .arg("--pidfile")
            .arg(path.join("dockerd.pid"))
            .arg("-H")
            .arg(format!("unix://{}", socket.display()))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("dockerd could not be started")?;
        let mut engine = Self {
            host: format!("unix://{}", socket.display()),
            private: Some(Private { daemon, folder }),
        };
        engine.wait_until_ready(&socket, &log)?;
        Ok(engine)
    }

    fn wait_until_ready(&mut self, socket: &Path, log: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if answers(socket) {
                return Ok(());
            }
            let ended = match &mut self.private {
                Some(private) => private.daemon.try_wait()?.is_some(),
                None => false,
            };
            if ended || Instant::now() > deadline {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(15).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                bail!(
                    "the private Docker engine did not start (root is needed). Its last lines:\n{}",
                    tail.join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn answers(socket: &Path) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = UnixStream::connect(socket) else {
        return false;
    };
    let asked = stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n").is_ok();
    let mut answer = [0; 12];
    asked && stream.read_exact(&mut answer).is_ok() && answer.ends_with(b"200")
}

impl Drop for ContainerEngine {
    fn drop(&mut self) {
        let Some(private) = &mut self.private else { return };
        private.end();
        private.unmount();
    }
}

impl Private {
    fn end(&mut self) {
        // SIGTERM lets it end its containers and unmount their file systems.
        let _ = program("kill").arg(self.daemon.id().to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if matches!(self.daemon.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!(
            "the private Docker engine in {} does not end; killing it",
            self.folder.path().display()
        );
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }

    /// A network namespace stays mounted; with it the folder could not be removed.
    fn unmount(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut places: Vec<&str> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|place| Path::new(place).starts_with(self.folder.path()))
            .collect();
        places.reverse();
        for place in places {
            let _ = program("umount").args(["--lazy", place]).status();
        }
    }
}

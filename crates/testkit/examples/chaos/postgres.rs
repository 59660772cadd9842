//! A PostgreSQL server that may be killed. It syncs its disk as one that people rely on does.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use terrapool_testkit::container_engine::output;
use terrapool_testkit::database::{command_as, postgres_programs, unprivileged};
use terrapool_testkit::wait::until;
use tokio::process::{Child, Command};

/// The server.
#[derive(Debug)]
pub(crate) struct Postgres {
    folder: tempfile::TempDir,
    server: Child,
}

impl Postgres {
    /// Makes a database and starts its server.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("terrapool-chaos-postgres-")
            .tempdir()
            .expect("a temporary folder");
        let user = unprivileged();
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid))
                .expect("a folder can be given away");
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))
            .expect("a folder can be opened");
        let made = command_as(&postgres_programs().join("initdb"), user)
            .arg("-D")
            .arg(folder.path().join("data"))
            .args([
                "-U",
                "terrapool",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-instructions",
            ])
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = Self::spawn(&folder);
        let postgres = Self { folder, server };
        postgres.ready().await;
        postgres
    }

    fn spawn(folder: &tempfile::TempDir) -> Child {
        let mut command = command_as(&postgres_programs().join("postgres"), unprivileged());
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.path().join("log"))
            .expect("a log can be made");
        command
            .arg("-D")
            .arg(folder.path().join("data"))
            .arg("-k")
            .arg(folder.path())
            .args(["-c", "listen_addresses=", "-c", "max_connections=200"])
            .stdout(log.try_clone().expect("a log can be shared"))
            .stderr(log);
        Command::from(command).spawn().expect("postgres starts")
    }

    /// Its address.
    pub(crate) fn address(&self) -> String {
        format!(
            "postgres://terrapool@localhost/postgres?host={}",
            self.folder.path().display()
        )
    }

    async fn ready(&self) {
        let up = until(Duration::from_secs(60), async || {
            let mut psql = command_as(&postgres_programs().join("psql"), None);
            psql.args(["-X", "-U", "terrapool", "-d", "postgres", "-c", "SELECT 1", "-h"])
                .arg(self.folder.path());
            Command::from(psql)
                .output()
                .await
                .is_ok_and(|output| output.status.success())
                .then_some(())
        })
        .await;
        assert!(up.is_some(), "PostgreSQL does not answer");
    }

    /// Kills the server and starts it again after a while.
    pub(crate) async fn kill_and_restart(&mut self, away: Duration) {
        let _ = self.server.kill().await;
        // Its children end when they notice; a new server waits for the last of them.
        tokio::time::sleep(away).await;
        for _ in 0..50 {
            let _ = std::fs::remove_file(self.folder.path().join("data/postmaster.pid"));
            self.server = Self::spawn(&self.folder);
            tokio::time::sleep(Duration::from_millis(500)).await;
            if matches!(self.server.try_wait(), Ok(None)) {
                break;
            }
        }
        self.ready().await;
    }

    /// Ends the server, without a word to its clients.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = self.server.id() {
            output("kill", &["-s", "QUIT", &pid.to_string()]).await;
        }
        let ended = tokio::time::timeout(Duration::from_secs(30), self.server.wait()).await;
        if ended.is_err() {
            let _ = self.server.kill().await;
        }
    }
}

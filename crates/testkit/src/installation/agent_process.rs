//! A real agent's process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::{Folder, tail};
use crate::wait::until;

/// An agent in a process of its own. Ends, and removes its sandboxes, when it is dropped.
#[derive(Debug)]
pub struct AgentProcess {
    pub(super) child: Child,
    pub(super) log: PathBuf,
    /// Where this process's part of the log begins.
    pub(super) begin: u64,
    pub(super) _folder: Arc<Folder>,
}

impl AgentProcess {
    /// What it has logged.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let begin = usize::try_from(self.begin).unwrap_or(usize::MAX);
        String::from_utf8_lossy(bytes.get(begin..).unwrap_or_default()).into_owned()
    }

    /// Waits until it has logged a text.
    pub async fn logs(&self, wanted: &str) {
        let seen = until(Duration::from_secs(120), async || {
            self.log().contains(wanted).then_some(())
        })
        .await;
        assert!(
            seen.is_some(),
            "the agent does not log `{wanted}`:\n{}",
            self.log()
        );
    }

    /// Kills it, as a crash would.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a running agent can be killed");
    }

    /// Sends it a signal: `TERM`, `STOP`, `CONT`.
    pub async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("the agent runs").to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().await;
        assert!(
            status.is_ok_and(|status| status.success()),
            "kill -s {name} {pid}"
        );
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end and returns its exit code.
    pub async fn wait(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await;
        let Ok(ended) = ended else {
            panic!("the agent does not end:\n{}", self.log())
        };
        ended.ok().and_then(|status| status.code())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), tail(&self.log()));
        }
        let Some(pid) = self.child.id() else { return };
        for _ in 0..3 {
            let _ = std::process::Command::new("kill").arg(pid.to_string()).status();
            for _ in 0..100 {
                if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = self.child.start_kill();
    }
}

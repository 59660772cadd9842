//! The agent's own socket: `terrapool-agent status` and `drain` ask the running agent through it.
//!
//! One JSON line is sent, one is answered. The socket lies in the data folder, which belongs to the agent's user alone.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use terrapool_model::id::{AgentId, JobId};
use terrapool_protocol::agent::{AttemptStage, Capacity};
use terrapool_protocol::job::Phase;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::clock;

/// Name of the socket in the data folder.
pub const SOCKET: &str = "agent.sock";
/// Longest request.
const LONGEST: u64 = 64 << 10;

/// What is asked of a running agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// What it does now.
    Status,
    /// Take no new jobs.
    Drain,
    /// Take jobs again.
    Resume,
}

/// What an agent does now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Its id, once it has registered.
    pub agent: Option<AgentId>,
    /// Its name for people.
    pub name: String,
    /// Its pool.
    pub pool: Option<String>,
    /// The control plane.
    pub url: String,
    /// Its version.
    pub version: String,
    /// Milliseconds since a sync was answered last; `None` before the first.
    pub last_contact_ms: Option<u64>,
    /// Why the last call failed, while the control plane does not answer.
    pub trouble: Option<String>,
    /// Why it takes no new jobs.
    pub draining: Option<Draining>,
    /// What it can take.
    pub capacity: Capacity,
    /// What it holds.
    pub jobs: Vec<JobStatus>,
    /// Whether the container engine answers.
    pub engine_answers: bool,
    /// By how many seconds this host's clock is ahead of the control plane's; `None` before its first answer.
    pub clock_ahead_seconds: Option<i64>,
    /// What has happened since the process started.
    pub counters: Counters,
}

/// What has happened since an agent's process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Jobs that were offered and that it tried to take.
    pub offers: u64,
    /// Registrations and syncs that were not answered as they should be.
    pub failed_calls: u64,
}

/// Why an agent takes no new jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Draining {
    /// It was told to end.
    Ending,
    /// `terrapool-agent drain`.
    Local,
    /// A person said so to the control plane.
    ControlPlane,
    /// A newer process has its place, or its token is not valid any more.
    FinishOnly,
}

/// A job that an agent holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobStatus {
    /// The job.
    pub job: JobId,
    /// Its phase.
    pub phase: Phase,
    /// Where it stands; `None` while it is claimed.
    pub stage: Option<AttemptStage>,
    /// Memory in MiB that its sandbox holds.
    pub memory_mb: u64,
}

/// A request and where its answer goes.
pub type Question = (Request, oneshot::Sender<Status>);

/// Why a running agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error(
        "no agent listens on {socket}: it does not run, uses another data folder (--data-dir), or belongs to another user"
    )]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The answer is no answer.
    #[error("the agent on {socket} did not answer")]
    Answer {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Listens in the data folder. What is asked goes into the channel.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(data_dir: &Path, questions: mpsc::Sender<Question>) -> std::io::Result<()> {
    let path = data_dir.join(SOCKET);
    // Left by a process before: the journal's lock says that it is gone.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let questions = questions.clone();
            tokio::spawn(async move { answer(stream, questions).await });
        }
    });
    Ok(())
}

async fn answer(stream: UnixStream, questions: mpsc::Sender<Question>) -> Option<()> {
    let (input, mut output) = stream.into_split();
    let mut line = String::new();
    BufReader::new(input.take(LONGEST))
        .read_line(&mut line)
        .await
        .ok()?;
    let request = serde_json::from_str(&line).ok()?;
    let (reply, answer) = oneshot::channel();
    questions.send((request, reply)).await.ok()?;
    let mut bytes = serde_json::to_vec(&answer.await.ok()?).ok()?;
    bytes.push(b'\n');
    output.write_all(&bytes).await.ok()
}

/// Asks the agent that uses a data folder.
///
/// # Errors
/// [`AskError`].
pub async fn ask(data_dir: &Path, request: Request) -> Result<Status, AskError> {
    let socket = data_dir.join(SOCKET);
    let stream = UnixStream::connect(&socket)
        .await
        .map_err(|source| AskError::NotRunning {
            socket: socket.clone(),
            source,
        })?;
    let exchange = async move {
        let (input, mut output) = stream.into_split();
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        output.write_all(&line).await?;
        let mut text = String::new();
        BufReader::new(input).read_line(&mut text).await?;
        serde_json::from_str(&text).map_err(std::io::Error::from)
    };
    exchange
        .await
        .map_err(|source| AskError::Answer { socket, source })
}

impl std::fmt::Display for Status {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unregistered = "not registered yet";
        writeln!(
            formatter,
            "agent      {} ({}), version {}",
            self.name,
            self.agent.as_ref().map_or(unregistered, |agent| agent.as_str()),
            self.version
        )?;
        writeln!(
            formatter,
            "pool       {}",
            self.pool.as_deref().unwrap_or(unregistered)
        )?;
        let contact = match (&self.trouble, self.last_contact_ms) {
            (Some(trouble), Some(ms)) => format!("last answer {} s ago: {trouble}", ms / 1000),
            (Some(trouble), None) => format!("no answer yet: {trouble}"),
            (None, Some(ms)) => format!("connected, last answer {} s ago", ms / 1000),
            (None, None) => "no answer yet".to_owned(),
        };
        writeln!(formatter, "server     {}: {contact}", self.url)?;
        if let Some(words) = self.clock_ahead_seconds.and_then(clock::disagreement) {
            writeln!(formatter, "clock      {words}")?;
        }
        if !self.engine_answers {
            writeln!(formatter, "engine     the container engine does not answer")?;
        }
        writeln!(
            formatter,
            "capacity   {} of {} slots free, {} of {} MiB free, {} MiB kept for the operating system",
            self.capacity.free_slots,
            self.capacity.slots,
            self.capacity.free_memory_mb,
            self.capacity.memory_mb,
            self.capacity.reserve_mb
        )?;
        let draining = match self.draining {
            None => "takes jobs",
            Some(Draining::Ending) => "takes no new jobs: it was told to end",
            Some(Draining::Local) => {
                "takes no new jobs: drained (terrapool-agent drain --undo takes that back)"
            }
            Some(Draining::ControlPlane) => "takes no new jobs: drained by the control plane",
            Some(Draining::FinishOnly) => {
                "takes no new jobs: a newer process has its place, or its token is not valid any more"
            }
        };
        write!(formatter, "work       {draining}")?;
        for job in &self.jobs {
            let stage = job.stage.map_or("claiming", AttemptStage::as_str);
            write!(
                formatter,
                "\n  {} {} {stage}, {} MiB",
                job.job,
                job.phase.as_str(),
                job.memory_mb
            )?;
        }
        if self.jobs.is_empty() {
            write!(formatter, "\n  no jobs")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn status() -> Status {
        Status {
            agent: None,
            name: "north".to_owned(),
            pool: None,
            url: "https://localhost:1".to_owned(),
            version: "0.1.0".to_owned(),
            last_contact_ms: None,
            trouble: None,
            draining: None,
            capacity: Capacity::default(),
            jobs: Vec::new(),
            engine_answers: true,
            clock_ahead_seconds: None,
            counters: Counters::default(),
        }
    }

    #[tokio::test]
    async fn a_running_agent_is_asked_through_its_data_folder() {
        let folder = tempfile::tempdir().unwrap();
        let error = ask(folder.path(), Request::Status).await.unwrap_err();
        assert!(matches!(error, AskError::NotRunning { .. }));
        let (sender, mut questions) = mpsc::channel(4);
        listen(folder.path(), sender).unwrap();
        let agent = tokio::spawn(async move {
            let (request, reply) = questions.recv().await.unwrap();
            reply.send(status()).unwrap();
            request
        });
        let answered = ask(folder.path(), Request::Drain).await.unwrap();
        assert_eq!(answered.name, "north");
        assert_eq!(agent.await.unwrap(), Request::Drain);
    }

    #[test]
    fn a_status_says_in_words_what_the_agent_does() {
        let text = status().to_string();
        assert!(text.contains("north (not registered yet)"), "{text}");
        assert!(text.ends_with("no jobs"), "{text}");
    }
}

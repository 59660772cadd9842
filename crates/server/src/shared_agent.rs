//! The agent of the shared pool that the server starts beside itself, for installations on one machine.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use terrapool_protocol::secret::Secret;
use terrapool_store::agent_tokens;
use terrapool_store::error::StoreError;
use terrapool_store::pools;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::config::Tls;
use crate::secrets::{self, TokenKind};
use crate::tls::CA_FILE;

/// The agent's program, looked for beside the server's own.
const PROGRAM: &str = "terrapool-agent";
/// Its folder in the data folder.
const FOLDER: &str = "shared-agent";
/// Between its end and its next start.
const RESTART: Duration = Duration::from_secs(5);
/// How long it may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(20);

/// The shared pool's agent can't be started.
#[derive(Debug, thiserror::Error)]
pub enum SharedAgentError {
    /// The program is not there.
    #[error(
        "{0} does not exist: install terrapool-agent beside the server's program, or set TERRAPOOL_SHARED_AGENT=false"
    )]
    Missing(PathBuf),
    /// A file can't be written or read.
    #[error("the shared agent's file {path} can't be used")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A supervised agent process.
#[derive(Debug)]
pub struct SharedAgent {
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
}

impl SharedAgent {
    /// Asks the agent to end, waits for it a while, and kills it then.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.supervisor.await;
    }
}

/// Makes a token for an agent of the shared pool.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn create_token(app: &App, description: &str) -> Result<Secret, StoreError> {
    let secret = secrets::new_token(TokenKind::Agent, app.db.entropy().as_ref());
    let (hash, description) = (secrets::hash(secret.expose()), description.to_owned());
    app.db
        .write(move |tx| {
            let (hash, description) = (hash.clone(), description.clone());
            Box::pin(async move {
                let pool = pools::shared(tx).await?;
                agent_tokens::create(tx, &pool.id, &hash, &description, None, None).await
            })
        })
        .await?;
    Ok(secret)
}

/// Starts the agent and keeps it running.
///
/// # Errors
/// [`SharedAgentError`] when there is no agent, or its token can't be stored.
pub async fn start(app: &App) -> Result<SharedAgent, SharedAgentError> {
    let program = program();
    if !program.is_file() {
        return Err(SharedAgentError::Missing(program));
    }
    let folder = app.config.data_dir.join(FOLDER);
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| SharedAgentError::Io { path, source }
    };
    std::fs::create_dir_all(&folder).map_err(fail(&folder))?;
    let token_file = folder.join("token");
    if !is_valid(app, &token_file).await? {
        let token = create_token(app, "agent that the server starts").await?;
        let _ = std::fs::remove_file(&token_file);
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&token_file)?;
            file.write_all(token.expose().as_bytes())?;
            file.sync_all()
        };
        write().map_err(fail(&token_file))?;
    }
    let mut command = Command::new(program);
    command
        .arg("run")
        .env("TERRAPOOL_URL", &app.config.public_url)
        .env("TERRAPOOL_TOKEN_FILE", &token_file)
        .env("TERRAPOOL_AGENT_DATA_DIR", folder.join("data"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    // What belongs to the server is not for the agent.
    for name in ["TERRAPOOL_CONFIG", "TERRAPOOL_DATABASE_URL", "TERRAPOOL_TOKEN"] {
        command.env_remove(name);
    }
    if std::env::var_os("TERRAPOOL_AGENT_NAME").is_none() {
        command.env("TERRAPOOL_AGENT_NAME", "shared");
    }
    if app.config.tls == Tls::Local {
        command.env("TERRAPOOL_CA_FILE", app.config.data_dir.join(CA_FILE));
    }
    let stop = CancellationToken::new();
    let supervisor = tokio::spawn(supervise(command, stop.clone()));
    Ok(SharedAgent { stop, supervisor })
}

fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent().unwrap_or(Path::new("/")).join(PROGRAM)
}

/// Whether the file holds a token that is accepted.
async fn is_valid(app: &App, file: &Path) -> Result<bool, StoreError> {
    let Ok(text) = std::fs::read_to_string(file) else {
        return Ok(false);
    };
    let mut connection = app.db.read().await?;
    let record = agent_tokens::by_hash(&mut connection, &secrets::hash(text.trim())).await?;
    Ok(record.is_some_and(|record| record.revoked_at.is_none()))
}

async fn supervise(mut command: Command, stopping: CancellationToken) {
    loop {
        match command.spawn() {
            Ok(mut child) => {
                tracing::info!(pid = child.id(), "the shared pool's agent was started");
                tokio::select! {
                    ended = child.wait() => tracing::warn!(?ended, "the shared pool's agent has ended"),
                    () = stopping.cancelled() => return end(child).await,
                }
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the shared pool's agent can't be started"
            ),
        }
        tokio::select! {
            () = tokio::time::sleep(RESTART) => {}
            () = stopping.cancelled() => return,
        }
    }
}

async fn end(mut child: Child) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

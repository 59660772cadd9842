//! The agent's loop: register, sync, hand offers to attempts, until it is told to end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use terrapool_agent_core::attempt::Attempt;
use terrapool_agent_core::backoff;
use terrapool_agent_core::capacity::{Held, OVERHEAD_MB, free_memory, free_slots, reserve};
use terrapool_model::id::AttemptId;
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{
    AttemptReport, Capacity, Register, Registered, Settings, Sync, SyncMode, Synced,
};
use terrapool_protocol::secret::Secret;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::attempt::{self, Handle, Shared, Word};
use crate::clock::{boottime, random};
use crate::config::{self, Config};
use crate::control_plane::{CallError, ControlPlane};
use crate::drivers::docker::{DockerDriver, DriverError, WarmSandboxes};
use crate::engines::{Engines, hex};
use crate::host;
use crate::journal::{Journal, JournalError};
use crate::schemas::SchemaCache;

/// Why an agent ends, other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The container engine.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The control plane's client.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The data folder.
    #[error("data folder {path} cannot be used")]
    DataDir {
        /// The folder.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The control plane does not know the token.
    #[error(
        "the control plane at {url} does not accept the agent token: it is wrong, revoked or of another kind. Make a \
         new token on the pool's page and put it into the token file"
    )]
    Token {
        /// The control plane.
        url: String,
    },
}

/// Shortest hold, for networks that cut idle connections early.
const HOLD_MIN: Millis = Millis(5000);

struct Service {
    config: Config,
    shared: Arc<Shared>,
    registered: Registered,
    settings: Settings,
    handles: BTreeMap<AttemptId, Handle>,
    hold: Millis,
    draining: bool,
    mode: SyncMode,
    failures: u32,
}

/// Signals count: finish, cancel, leave.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn open_data_dir(path: &Path) -> std::io::Result<Secret> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    let file = path.join("instance.key");
    match std::fs::read_to_string(&file) {
        Ok(text) if !text.trim().is_empty() => Ok(Secret::new(text.trim())),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(_) | Err(_) => {
            use std::io::Write as _;
            let key = hex(&random());
            let temporary = path.join(".instance.key");
            let mut options = std::fs::OpenOptions::new();
            let mut new = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            writeln!(new, "{key}")?;
            new.sync_all()?;
            std::fs::rename(&temporary, &file)?;
            Ok(Secret::new(key))
        }
    }
}

/// Runs the agent until it is told to end and has finished what it holds.
///
/// # Errors
/// [`ServiceError`] when it cannot work at all.
pub async fn run(config: Config) -> Result<(), ServiceError> {
    let data_dir = |source| ServiceError::DataDir {
        path: config.data_dir.clone(),
        source,
    };
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate()).map_err(data_dir)?,
        interrupt: signal(SignalKind::interrupt()).map_err(data_dir)?,
    };
    let instance_key = open_data_dir(&config.data_dir).map_err(data_dir)?;
    let (journal, open) = Journal::open(&config.data_dir.join("journal"))?;
    let schemas = SchemaCache::open(config.data_dir.join("schemas")).map_err(data_dir)?;
    // Names and labels of what this agent makes must not give its key away.
    let identity = hex(&Sha256::digest(instance_key.expose()))[..12].to_owned();
    let driver = DockerDriver::prepare(&config, &identity).await?;
    let control_plane = ControlPlane::new(&config)?;
    let engines = Engines::discover(&config, control_plane.http().clone()).await;
    let key = driver.key(None, terrapool_protocol::job::Limits::default());
    let shared = Arc::new(Shared {
        control_plane,
        warm: WarmSandboxes::new(Arc::clone(&driver), key),
        driver,
        engines,
        schemas: Arc::new(schemas),
        journal: Arc::new(journal),
        changed: Notify::new(),
    });
    let keep: Vec<String> = open.iter().filter_map(|record| record.sandbox.clone()).collect();
    shared.driver.reap(&keep).await?;
    shared.warm.refill();
    let body = register_body(&config, &shared, instance_key).await;
    let registered = tokio::select! {
        registered = register(&config, &shared.control_plane, &body) => registered?,
        () = signals.next() => {
            shared.warm.close().await;
            return Ok(());
        }
    };
    tracing::info!(
        agent = %registered.agent, pool = registered.pool_name, session = registered.session, slots = config.concurrency,
        "registered; waiting for jobs"
    );
    let mut handles = BTreeMap::new();
    for record in open {
        handles.insert(
            record.attempt.clone(),
            attempt::resume(Arc::clone(&shared), record),
        );
    }
    let settings = registered.settings;
    let mut service = Service {
        config,
        shared,
        registered,
        settings,
        handles,
        hold: settings.hold,
        draining: false,
        mode: SyncMode::Normal,
        failures: 0,
    };
    let ended = service.serve(&mut signals).await;
    service.shared.warm.close().await;
    ended
}

async fn register_body(config: &Config, shared: &Shared, instance_key: Secret) -> Register {
    let host = host::read(config);
    Register {
        instance_key,
        process_nonce: hex(&random()),
        name: config.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: config::hostname(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        driver: "docker".to_owned(),
        capacity: capacity(config, Held::default(), 512, reserve(host.total_mb)),
        engines: shared.engines.list().await,
    }
}

/// Registers, however long the control plane is away.
async fn register(
    config: &Config,
    control_plane: &ControlPlane,
    body: &Register,
) -> Result<Registered, ServiceError> {
    let mut failures = 0;
    loop {
        match control_plane.register(&config.token, body).await {
            Ok(registered) => return Ok(registered),
            Err(CallError::Unauthorized) => {
                return Err(ServiceError::Token {
                    url: config.url.clone(),
                });
            }
            Err(error) if error.is_transient() => {
                let wait = jittered(Millis(500), Millis(30_000), failures);
                failures += 1;
                tracing::warn!(
                    url = config.url, reason = %error, next_try_ms = wait.0,
                    "the control plane cannot be reached yet; trying again"
                );
                tokio::time::sleep(wait.to_std()).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn jittered(shortest: Millis, longest: Millis, failures: u32) -> Millis {
    let random = random()
        .iter()
        .fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    backoff::wait(shortest, longest, failures, random)
}

fn capacity(config: &Config, held: Held, memory_per_job_mb: u64, reserve_mb: u64) -> Capacity {
    let host = host::read(config);
    let free = free_slots(host, held, memory_per_job_mb);
    Capacity {
        slots: free + held.jobs,
        free_slots: free,
        memory_mb: free_memory(host, held) + held.memory_mb,
        free_memory_mb: free_memory(host, held),
        reserve_mb,
    }
}

impl Service {
    fn held(&self) -> Held {
        let holding = self
            .handles
            .values()
            .filter(|handle| handle.attempt.borrow().holds_slot());
        holding.fold(Held::default(), |held, handle| Held {
            jobs: held.jobs + 1,
            memory_mb: held.memory_mb + handle.memory_mb + OVERHEAD_MB,
            resident_mb: 0,
        })
    }

    fn report(&self) -> Sync {
        let reserve_mb = reserve(host::read(&self.config).total_mb);
        let attempts: Vec<AttemptReport> = self
            .handles
            .values()
            .filter_map(|handle| handle.attempt.borrow().report())
            .collect();
        Sync {
            session: self.registered.session,
            capacity: capacity(
                &self.config,
                self.held(),
                self.settings.default_limits.memory_mb,
                reserve_mb,
            ),
            draining: self.draining,
            hold: self.hold.min(self.settings.hold),
            attempts,
        }
    }

    fn forget_ended(&mut self) {
        self.handles.retain(|_, handle| !handle.words.is_closed());
    }

    async fn serve(&mut self, signals: &mut Signals) -> Result<(), ServiceError> {
        let mut told = 0_u32;
        loop {
            self.forget_ended();
            if (self.draining || self.mode == SyncMode::FinishOnly) && self.handles.is_empty() {
                tracing::info!("everything is finished; ending");
                return Ok(());
            }
            let body = self.report();
            let sent = boottime();
            let control_plane = self.shared.control_plane.clone();
            let session = self.registered.session_token.clone();
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                answer = control_plane.sync(&session, &body) => {
                    let waited = boottime().since(sent);
                    match answer {
                        Ok(synced) => {
                            self.failures = 0;
                            self.hear(sent, synced);
                        }
                        Err(CallError::Superseded) => {
                            tracing::error!("a newer process of this agent has registered: finishing only");
                            self.mode = SyncMode::FinishOnly;
                            self.pause(signals).await;
                        }
                        Err(CallError::Unauthorized) => {
                            if self.handles.is_empty() {
                                return Err(ServiceError::Token { url: self.config.url.clone() });
                            }
                            self.mode = SyncMode::FinishOnly;
                            self.pause(signals).await;
                        }
                        Err(error) => self.trouble(error, waited, signals).await,
                    }
                }
                () = shared.changed.notified() => {}
                () = signals.next() => {
                    told += 1;
                    match told {
                        1 => {
                            tracing::info!(jobs = self.handles.len(), "told to end: taking no more jobs, finishing these");
                            self.draining = true;
                            self.shared.warm.drain().await;
                        }
                        2 => {
                            tracing::warn!("told again: stopping the engines gracefully");
                            for handle in self.handles.values() {
                                let _ = handle.words.send(Word::AgentEnds);
                            }
                        }
                        _ => {
                            tracing::warn!("told a third time: leaving; the next start finds the sandboxes again");
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    async fn trouble(&mut self, error: CallError, waited: Millis, signals: &mut Signals) {
        if waited >= HOLD_MIN {
            // Cut while it was held: a proxy with a short idle limit.
            self.hold = Millis((self.hold.0 / 2).max(HOLD_MIN.0));
        }
        tracing::warn!(reason = %error, "a sync was not answered; trying again");
        self.pause(signals).await;
    }

    async fn pause(&mut self, signals: &mut Signals) {
        let wait = jittered(self.settings.retry_min, self.settings.retry_max, self.failures);
        self.failures += 1;
        tokio::select! {
            () = tokio::time::sleep(wait.to_std()) => {}
            () = signals.next() => self.draining = true,
        }
    }

    fn hear(&mut self, sent: terrapool_agent_core::attempt::Boottime, synced: Synced) {
        self.settings = synced.settings;
        if self.mode != synced.mode {
            tracing::info!(mode = ?synced.mode, "the control plane changed what this agent may do");
            self.mode = synced.mode;
        }
        for answer in synced.answers {
            if let Some(handle) = self.handles.get(&answer.key.attempt) {
                let _ = handle.words.send(Word::Verdict {
                    sent,
                    verdict: answer.verdict,
                });
            }
        }
        for offer in synced.offers {
            let fits = free_slots(host::read(&self.config), self.held(), offer.limits.memory_mb) > 0;
            // An offer may be repeated while its claim is on its way.
            let known = self
                .handles
                .values()
                .any(|handle| handle.attempt.borrow().job == offer.job);
            if self.draining || self.mode == SyncMode::FinishOnly || !fits || known {
                continue;
            }
            let id = AttemptId::from_random(random());
            let attempt = Attempt::new(
                offer.job.clone(),
                offer.generation,
                id.clone(),
                offer.phase,
                self.registered.incarnation,
                boottime(),
            );
            let session = (self.registered.session, self.registered.session_token.clone());
            let handle = attempt::start(
                Arc::clone(&self.shared),
                session,
                offer,
                attempt,
                self.settings.hold,
            );
            self.handles.insert(id, handle);
        }
    }
}

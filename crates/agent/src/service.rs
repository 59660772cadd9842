//! The agent's loop: register, sync, hand offers to attempts, until it is told to end.

mod lifetime;
mod report;
mod trouble;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use terrapool_agent_core::attempt::{Attempt, Boottime, State};
use terrapool_agent_core::capacity::{Held, free_slots, reserve};
use terrapool_model::id::AttemptId;
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{Register, Registered, Settings, Sync, SyncMode, Synced};
use terrapool_protocol::health::SelfTest;
use terrapool_protocol::job::{Limits, SandboxNetwork};
use terrapool_protocol::secret::Secret;
use tokio::sync::{Notify, mpsc, watch};

use crate::attempt::{self, Handle, Session, Shared, Word};
use crate::clock::{boottime, random, wall_seconds};
use crate::config::{self, Config, SandboxUser};
use crate::control::{self, Counters, Question, Request};
use crate::control_plane::{CallError, ControlPlane};
use crate::drivers::{Driver, DriverError, Place, WarmSandboxes};
use crate::egress;
use crate::engines::{Engines, hex};
use crate::host;
use crate::journal::{Journal, JournalError};
use crate::monitoring;
use crate::schemas::SchemaCache;
use crate::signals::{Signals, Told};
use crate::supervisor::Supervisor;
use lifetime::Span;
pub use lifetime::{Ended, Lifetime};
use report::{capacity, size};

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
         new token on the pool's page, hand it to `terrapool-agent configure --token-stdin`, and start the agent again"
    )]
    Token {
        /// The control plane.
        url: String,
    },
    /// Another process has its place.
    #[error(
        "another agent with the same key has its place: this machine was cloned with {path}, or the other was. On one of \
         them, remove that folder and start the agent again"
    )]
    Superseded {
        /// The data folder.
        path: std::path::PathBuf,
    },
    /// The address for health and metrics.
    #[error("{address} cannot be listened on for /healthz and /metrics: choose another one as `listen`")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// An agent that ends waits so long for the answer to its last word.
const GOODBYE: Duration = Duration::from_secs(2);

struct Service {
    config: Config,
    shared: Arc<Shared>,
    /// What this process tells of itself when it registers.
    body: Register,
    registered: Option<Registered>,
    settings: Settings,
    handles: BTreeMap<AttemptId, Handle>,
    hold: Millis,
    /// How often it was told to end.
    told: u32,
    /// Drained on this host.
    drained: bool,
    /// Drained by the control plane.
    drain_wanted: bool,
    mode: SyncMode,
    /// A newer process has its place.
    is_superseded: bool,
    failures: u32,
    /// When the last sync was answered.
    contact: Option<Boottime>,
    trouble: Option<String>,
    /// What the last call that was not answered met with.
    last_failure: Option<String>,
    counters: Counters,
    /// The clocks differ, and that was said.
    clock_said: bool,
    /// Nothing is sent before this.
    pause: Option<tokio::time::Instant>,
    /// Whether the container engine answers.
    engine_answers: watch::Receiver<bool>,
    /// What came of the first sandbox with the pool's settings.
    tested: watch::Receiver<Option<SelfTest>>,
    /// How long it works by itself.
    span: Span,
    /// It has worked so long.
    is_spent: bool,
    supervisor: Supervisor,
}

/// What an agent goes by until its control plane has told it.
const FIRST_SETTINGS: Settings = Settings {
    hold: Millis::from_seconds(25),
    retry_min: Millis(500),
    retry_max: Millis::from_seconds(30),
    default_limits: Limits::DEFAULT,
    image: None,
    network: SandboxNetwork::Closed,
    root_refused: false,
};

/// What the loop hears.
enum Heard {
    Registered(Result<Box<Registered>, CallError>),
    Synced(Boottime, Result<Synced, CallError>),
    Rested,
    Changed,
    Told(Told),
    Asked(Question),
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
pub async fn run(config: Config, lifetime: Lifetime) -> Result<Ended, ServiceError> {
    let data_dir = |source| ServiceError::DataDir {
        path: config.data_dir.clone(),
        source,
    };
    let mut signals = Signals::watch().map_err(data_dir)?;
    let instance_key = open_data_dir(&config.data_dir).map_err(data_dir)?;
    let (journal, past) = Journal::open(&config.data_dir.join("journal"))?;
    let (asking, mut questions) = mpsc::channel(4);
    control::listen(&config.data_dir, asking.clone()).map_err(data_dir)?;
    if let Some(address) = config.listen {
        let address = monitoring::listen(address, asking)
            .await
            .map_err(|source| ServiceError::Listen { address, source })?;
        tracing::info!(%address, "answering /healthz and /metrics");
    }
    let schemas = SchemaCache::open(config.data_dir.join("schemas")).map_err(data_dir)?;
    // Names and labels of what this agent makes must not give its key away.
    let identity = hex(&Sha256::digest(instance_key.expose()))[..12].to_owned();
    let driver = Driver::prepare(&config, &identity).await?;
    let control_plane = ControlPlane::new(&config)?;
    let engines = Engines::discover(&config, control_plane.http().clone()).await;
    let key = driver.key(None, SandboxNetwork::default(), Limits::default());
    let shared = Arc::new(Shared {
        egress: egress::own(&config),
        control_plane,
        warm: WarmSandboxes::new(Arc::clone(&driver), key),
        driver,
        engines,
        schemas: Arc::new(schemas),
        journal: Arc::new(journal),
        session: watch::Sender::new(None),
        changed: Notify::new(),
    });
    let keep: Vec<Place> = past
        .open
        .iter()
        .filter_map(|record| record.place.clone())
        .collect();
    shared.driver.take_stock(&keep, &past.over).await?;
    shared.warm.refill();
    let body = register_body(&config, &shared, instance_key).await;
    let mut handles = BTreeMap::new();
    for record in past.open {
        tracing::info!(job = %record.job, stage = ?record.stage, "taking up a job of the process before");
        handles.insert(
            record.attempt.clone(),
            attempt::resume(Arc::clone(&shared), record),
        );
    }
    let engine_answers = shared.driver.answers();
    let tested = shared.warm.tested();
    let driver = Arc::clone(&shared.driver);
    let tidying = tokio::spawn(remove_old_engines(driver));
    let mut service = Service {
        config,
        shared,
        body,
        registered: None,
        settings: FIRST_SETTINGS,
        handles,
        hold: FIRST_SETTINGS.hold,
        told: 0,
        drained: false,
        drain_wanted: false,
        mode: SyncMode::Normal,
        is_superseded: false,
        failures: 0,
        contact: None,
        trouble: None,
        last_failure: None,
        counters: Counters::default(),
        clock_said: false,
        pause: None,
        engine_answers,
        tested,
        span: Span::new(lifetime, boottime()),
        is_spent: false,
        supervisor: Supervisor::start(),
    };
    service.supervisor.ready();
    let ended = service.serve(&mut signals, &mut questions).await;
    tidying.abort();
    service.say_goodbye().await;
    service.shared.warm.close().await;
    ended.map(|()| {
        if service.is_spent {
            Ended::Spent
        } else {
            Ended::Told
        }
    })
}

/// Once a day, and some minutes after the start, when what was taken up goes on again.
async fn remove_old_engines(driver: Arc<Driver>) {
    const FIRST: Duration = Duration::from_secs(300);
    const DAILY: Duration = Duration::from_secs(24 * 3600);
    let mut pace = tokio::time::interval_at(tokio::time::Instant::now() + FIRST, DAILY);
    loop {
        pace.tick().await;
        let now = u64::try_from(wall_seconds()).unwrap_or(0);
        match driver.remove_old_engines(now).await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => {
                tracing::info!(
                    engines = removed.join(", "),
                    "removed engines that no job has used for long from the sandboxes' volume"
                );
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "old engines stay in the sandboxes' volume; looked at again tomorrow"
                );
            }
        }
    }
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
        driver: config.driver.as_str().to_owned(),
        capacity: capacity(
            config,
            Held::default(),
            size(Limits::DEFAULT),
            reserve(host.total_mb),
        ),
        engines: shared.engines.list().await,
        root: config.user == SandboxUser::Root,
    }
}

impl Service {
    fn forget_ended(&mut self) {
        self.handles.retain(|_, handle| !handle.words.is_closed());
    }

    /// Whether it takes no more jobs, and ends once it holds none.
    fn ends(&self) -> bool {
        self.told > 0 || self.is_spent
    }

    /// Whether it holds a job, or delivers what one left.
    fn holds_job(&self) -> bool {
        self.handles
            .values()
            .any(|handle| handle.attempt.borrow().state != State::Claiming)
    }

    /// An agent that leaves nothing behind says so, and is shown as ended instead of lost. It is only a courtesy.
    async fn say_goodbye(&self) {
        let Some(registered) = self.registered.as_ref().filter(|_| self.handles.is_empty()) else {
            return;
        };
        let sync = Sync {
            hold: Millis::ZERO,
            ..self.report(registered.session)
        };
        let call = self.shared.control_plane.sync(&registered.session_token, &sync);
        let _ = tokio::time::timeout(GOODBYE, call).await;
    }

    async fn serve(
        &mut self,
        signals: &mut Signals,
        questions: &mut mpsc::Receiver<Question>,
    ) -> Result<(), ServiceError> {
        loop {
            self.forget_ended();
            self.supervisor.turn(&self.summary());
            let holds_job = self.holds_job();
            if !self.ends() && self.span.is_over(holds_job, boottime()) {
                tracing::info!("worked as long as it was to: taking no more jobs");
                self.is_spent = true;
                self.shared.warm.drain().await;
            }
            let ending = self.ends() || self.mode == SyncMode::FinishOnly;
            let is_left_open = !self.ends() && !self.is_superseded;
            if ending && self.handles.is_empty() && is_left_open {
                if self.registered.is_some() {
                    tracing::info!("everything is finished; asking whether this agent may go on");
                    self.register_anew();
                }
            } else if ending && self.handles.is_empty() {
                tracing::info!("everything is finished; ending");
                return if self.is_superseded && !self.ends() {
                    Err(ServiceError::Superseded {
                        path: self.config.data_dir.clone(),
                    })
                } else {
                    Ok(())
                };
            }
            let shared = Arc::clone(&self.shared);
            let paused = self.pause.is_some();
            let mut engine_answers = self.engine_answers.clone();
            let mut tested = self.tested.clone();
            let look_again = self.span.look_again(boottime());
            let heard = tokio::select! {
                // What it can take has changed.
                Ok(()) = engine_answers.changed(), if !paused => Heard::Changed,
                Ok(()) = tested.changed(), if !paused => Heard::Changed,
                heard = self.exchange() => heard,
                () = shared.changed.notified(), if !paused => Heard::Changed,
                told = signals.next() => Heard::Told(told),
                Some(question) = questions.recv() => Heard::Asked(question),
                () = tokio::time::sleep(look_again), if !self.ends() => Heard::Changed,
            };
            match heard {
                Heard::Registered(Ok(registered)) => self.begin(*registered),
                Heard::Synced(sent, Ok(synced)) => self.hear(sent, synced),
                Heard::Registered(Err(error)) => self.not_registered(error)?,
                Heard::Synced(sent, Err(error)) => self.not_synced(boottime().since(sent), &error),
                Heard::Rested => self.pause = None,
                Heard::Changed => {
                    self.engine_answers.mark_unchanged();
                    self.tested.mark_unchanged();
                }
                Heard::Told(told) => {
                    if !self.told_to_end(told).await {
                        return Ok(());
                    }
                }
                Heard::Asked((request, reply)) => {
                    match request {
                        Request::Status => {}
                        Request::Drain => self.drained = true,
                        Request::Resume => self.drained = false,
                    }
                    // Whoever asked may be gone.
                    let _ = reply.send(self.status());
                }
            }
        }
    }

    /// Rests when it has to, registers when it has not, else syncs.
    fn exchange(&self) -> impl Future<Output = Heard> + use<> {
        let control_plane = self.shared.control_plane.clone();
        let pause = self.pause;
        let sync = self
            .registered
            .as_ref()
            .map(|registered| (registered.session_token.clone(), self.report(registered.session)));
        let register = sync
            .is_none()
            .then(|| (self.config.token.clone(), self.body.clone()));
        async move {
            if let Some(until) = pause {
                tokio::time::sleep_until(until).await;
                return Heard::Rested;
            }
            match (sync, register) {
                (Some((session, body)), _) => {
                    let sent = boottime();
                    Heard::Synced(sent, control_plane.sync(&session, &body).await)
                }
                (None, Some((token, body))) => {
                    Heard::Registered(control_plane.register(&token, &body).await.map(Box::new))
                }
                (None, None) => Heard::Rested,
            }
        }
    }

    fn begin(&mut self, registered: Registered) {
        tracing::info!(
            agent = %registered.agent, pool = registered.pool_name, session = registered.session,
            slots = self.config.concurrency, "registered; waiting for jobs"
        );
        self.set(registered.settings.clone());
        self.hold = self.hold.min(self.settings.hold);
        self.shared.session.send_replace(Some(Session {
            number: registered.session,
            token: registered.session_token.clone(),
        }));
        self.mode = SyncMode::Normal;
        self.registered = Some(registered);
        self.answered();
    }

    fn set(&mut self, settings: Settings) {
        let key = self.shared.driver.key(
            settings.image.as_deref(),
            settings.network,
            settings.default_limits,
        );
        self.shared.warm.keep(&key);
        self.settings = settings;
    }

    /// Told to end: finish, then cancel, then leave. Answers whether to go on.
    async fn told_to_end(&mut self, told: Told) -> bool {
        self.told += 1;
        self.supervisor.stopping();
        match self.told {
            _ if told == Told::Leave => {
                tracing::info!(
                    jobs = self.handles.len(),
                    "told to leave: the next start finds the sandboxes again"
                );
                false
            }
            1 => {
                let jobs = self.handles.len();
                tracing::info!(jobs, "told to end: taking no more jobs, finishing these");
                self.shared.warm.drain().await;
                true
            }
            2 => {
                tracing::warn!("told again: stopping the engines gracefully");
                for handle in self.handles.values() {
                    let _ = handle.words.send(Word::AgentEnds);
                }
                true
            }
            _ => {
                tracing::warn!("told a third time: leaving; the next start finds the sandboxes again");
                false
            }
        }
    }

    fn hear(&mut self, sent: Boottime, synced: Synced) {
        self.answered();
        if synced.mode == SyncMode::Normal {
            self.set(synced.settings);
        }
        if self.drain_wanted != synced.drain {
            tracing::info!(
                drain = synced.drain,
                "the control plane changed whether this agent takes jobs"
            );
            self.drain_wanted = synced.drain;
        }
        // To an agent that said itself that it takes nothing, this is only the echo.
        let mode = if self.ends() || self.drained {
            SyncMode::Normal
        } else {
            synced.mode
        };
        if self.mode != mode {
            tracing::info!(?mode, "the control plane changed what this agent may do");
            self.mode = mode;
        }
        for answer in synced.answers {
            if let Some(handle) = self.handles.get(&answer.key.attempt) {
                let _ = handle.words.send(Word::Verdict {
                    sent,
                    verdict: answer.verdict,
                });
            }
        }
        // The pool may have been told so after this agent was offered work.
        let refused = self.config.user == SandboxUser::Root && self.settings.root_refused;
        for offer in synced.offers {
            let fits = free_slots(host::read(&self.config), self.held(), size(offer.limits)) > 0;
            // An offer may be repeated while its claim is on its way.
            let known = self
                .handles
                .values()
                .any(|handle| handle.attempt.borrow().job == offer.job);
            let Some(incarnation) = self.registered.as_ref().map(|registered| registered.incarnation) else {
                continue;
            };
            if self.draining().is_some() || !*self.engine_answers.borrow() || !fits || known || refused {
                continue;
            }
            self.counters.offers += 1;
            let id = AttemptId::from_random(random());
            let attempt = Attempt::new(
                offer.job.clone(),
                offer.generation,
                id.clone(),
                offer.phase,
                incarnation,
                boottime(),
            );
            let handle = attempt::start(Arc::clone(&self.shared), offer, attempt, self.settings.hold);
            self.handles.insert(id, handle);
        }
    }
}

//! The control plane under test: real routes, reconcilers and store, on a clock of the simulation.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection};
use terrapool_objects::{Keyring, ObjectKey, Objects};
use terrapool_protocol::secret::Secret;
use terrapool_server::app::App;
use terrapool_server::auth::attempts::Attempts;
use terrapool_server::config::Config;
use terrapool_server::http::{self, rate_limit::RateLimiter};
use terrapool_server::logs::LogStore;
use terrapool_server::presence::Presence;
use terrapool_server::reconcile::{self, Leases};
use terrapool_server::secrets::{self, TokenKind};
use terrapool_store::agent_tokens;
use terrapool_store::db::Db;
use terrapool_store::error::StoreError;
use terrapool_testkit::agent::{Answer, send};
use terrapool_testkit::database::{self, DatabaseKind};
use terrapool_testkit::seed::Seed;

use crate::clock::{SeededEntropy, VirtualClock};

/// What a configuration's object holds.
pub(crate) const CONFIGURATION: &[u8] = b"x";

/// One process of the control plane.
struct Replica {
    app: App,
    router: Router,
    leases: Leases,
}

/// The control plane, its database and its folder.
pub(crate) struct ControlPlane {
    pub(crate) seed: Seed,
    /// The agents' token.
    pub(crate) token: Secret,
    clock: Arc<VirtualClock>,
    entropy: Arc<SeededEntropy>,
    address: String,
    postgres_clock: Option<PgConnection>,
    told_postgres: i64,
    replicas: Vec<Option<Replica>>,
    objects: Objects,
    /// Processes of one host share it.
    logs: LogStore,
    /// Rows that tests look at are read through it, also while every process is down.
    pub(crate) db: Db,
    folder: tempfile::TempDir,
    _postgres: Option<database::PostgresDatabase>,
}

/// What became of a request.
pub(crate) enum Handled {
    /// It was answered.
    Answered(Answer),
    /// Nobody listens.
    Down,
    /// Its handler was cut off in its middle.
    CutOff,
}

/// Where simulations keep their files: in memory, where the machine offers that.
fn folder() -> std::io::Result<tempfile::TempDir> {
    let memory = std::path::Path::new("/dev/shm");
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("terrapool-simulation-");
        builder
    };
    builder().tempdir_in(memory).or_else(|_| builder().tempdir())
}

/// PostgreSQL tells the time itself. A function of the same name that the search path finds first tells ours.
async fn simulate_postgres_clock(address: &str) -> anyhow::Result<PgConnection> {
    let options: sqlx::postgres::PgConnectOptions = address.parse()?;
    let database = options.get_database().unwrap_or_default().to_owned();
    let mut connection = PgConnection::connect_with(&options.disable_statement_logging()).await?;
    for statement in [
        "CREATE SCHEMA simulation".to_owned(),
        // A sequence, because setting it leaves no dead rows behind to be read over; an expression alone, because such
        // a function is put into the statements that call it.
        "CREATE SEQUENCE simulation.clock MINVALUE 0".to_owned(),
        "SELECT setval('simulation.clock', 0)".to_owned(),
        "CREATE FUNCTION simulation.clock_timestamp() RETURNS TIMESTAMPTZ LANGUAGE sql VOLATILE AS \
         'SELECT to_timestamp(pg_sequence_last_value(''simulation.clock''::regclass)::numeric / 1000)'"
            .to_owned(),
        format!("ALTER DATABASE {database} SET search_path = simulation, pg_catalog, public"),
        format!("ALTER DATABASE {database} SET synchronous_commit = on"),
    ] {
        connection.execute(sqlx::AssertSqlSafe(statement)).await?;
    }
    Ok(connection)
}

impl ControlPlane {
    /// A new control plane of so many processes; SQLite allows one.
    pub(crate) async fn start(
        kind: DatabaseKind,
        clock: Arc<VirtualClock>,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let folder = folder()?;
        let entropy = Arc::new(SeededEntropy::new(seed));
        let (address, postgres_clock, postgres) = match kind {
            DatabaseKind::Sqlite => {
                let path = folder.path().join("terrapool.db");
                (format!("sqlite:{}", path.display()), None, None)
            }
            DatabaseKind::Postgres => {
                let database = database::empty_postgres().await;
                let connection = simulate_postgres_clock(&database.address).await?;
                (database.address.clone(), Some(connection), Some(database))
            }
        };
        let keyring = Arc::new(Keyring::open_or_create(&folder.path().join("keyring"))?);
        let objects = Objects::open(&folder.path().join("objects"), keyring)?;
        let db = Db::open(&address, clock.clone(), entropy.clone()).await?;
        let processes = if postgres_clock.is_some() { 2 } else { 1 };
        let mut plane = Self {
            seed: Seed::new(&db).await,
            token: secrets::new_token(TokenKind::Agent, db.entropy().as_ref()),
            clock,
            entropy,
            address,
            postgres_clock,
            told_postgres: 0,
            replicas: (0..processes).map(|_| None).collect(),
            objects,
            logs: LogStore::open(&folder.path().join("logs"))?,
            db,
            folder,
            _postgres: postgres,
        };
        plane.tell_postgres().await?;
        let (pool, hash) = (plane.seed.pool.clone(), secrets::hash(plane.token.expose()));
        plane
            .db
            .write::<_, StoreError, _>(move |tx| {
                let (pool, hash) = (pool.clone(), hash.clone());
                Box::pin(async move { agent_tokens::create(tx, &pool, &hash, "agents", None, None).await })
            })
            .await?;
        for number in 0..processes {
            plane.begin(number).await?;
        }
        Ok(plane)
    }

    /// How many processes there are, up or down.
    pub(crate) fn processes(&self) -> usize {
        self.replicas.len()
    }

    /// Whether a process listens.
    pub(crate) fn is_up(&self, number: usize) -> bool {
        self.replicas.get(number).is_some_and(Option::is_some)
    }

    /// Starts a process.
    pub(crate) async fn begin(&mut self, number: usize) -> anyhow::Result<()> {
        if self.replicas.iter().all(Option::is_none) {
            self.logs = LogStore::open(&self.folder.path().join("logs"))?;
        }
        let app = App {
            db: Db::open(&self.address, self.clock.clone(), self.entropy.clone()).await?,
            objects: self.objects.clone(),
            logs: self.logs.clone(),
            log_lines: Default::default(),
            presence: Presence::default(),
            rate_limiter: RateLimiter::default(),
            sign_in_attempts: Attempts::default(),
            fetches: Default::default(),
            refusals: Default::default(),
            config: Arc::new(Config {
                public_url: "https://localhost".to_owned(),
                ..Config::in_folder(self.folder.path())
            }),
        };
        app.presence.listen_anew(app.monotonic());
        self.replicas[number] = Some(Replica {
            router: http::router(&app),
            app,
            leases: Leases::new(),
        });
        Ok(())
    }

    /// Kills a process. Transactions that have begun are committed; what it knew in memory is gone.
    pub(crate) fn kill(&mut self, number: usize) {
        self.replicas[number] = None;
    }

    /// Uploads the configuration of a workspace.
    pub(crate) async fn put_configuration(
        &self,
        id: &terrapool_model::id::ConfigurationVersionId,
    ) -> anyhow::Result<()> {
        let key = ObjectKey::new(format!("configurations/{id}"))?;
        self.objects.put(&key, id.as_str(), CONFIGURATION).await?;
        Ok(())
    }

    /// Reads a stored object.
    pub(crate) async fn object(&self, key: &str, id: &str) -> anyhow::Result<Vec<u8>> {
        let bytes = self.objects.get(&ObjectKey::new(key.to_owned())?, id).await;
        bytes.with_context(|| format!("the object {key} cannot be read"))
    }

    /// The bytes of a log's file, or of what was delivered apart from it.
    pub(crate) fn log_file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join("logs").join(name)).unwrap_or_default()
    }

    /// PostgreSQL's clock is moved where ours is.
    pub(crate) async fn tell_postgres(&mut self) -> anyhow::Result<()> {
        let now = self.clock.wall().0;
        let Some(connection) = &mut self.postgres_clock else {
            return Ok(());
        };
        if self.told_postgres != now {
            let statement = format!("SELECT setval('simulation.clock', {now})");
            connection.execute(sqlx::AssertSqlSafe(statement)).await?;
            self.told_postgres = now;
        }
        Ok(())
    }

    /// Handles a request.
    pub(crate) async fn handle(&mut self, number: usize, request: Request<Body>) -> anyhow::Result<Handled> {
        self.tell_postgres().await?;
        let Some(replica) = self.replicas.get(number).and_then(Option::as_ref) else {
            return Ok(Handled::Down);
        };
        let router = replica.router.clone();
        let handled = tokio::select! {
            biased;
            () = self.clock.cut() => Handled::CutOff,
            answer = send(&router, request) => Handled::Answered(answer),
        };
        self.clock.never_cut();
        Ok(handled)
    }

    /// What the reconcilers do at their turns.
    pub(crate) async fn reconcile(&mut self) -> anyhow::Result<()> {
        self.tell_postgres().await?;
        for replica in self.replicas.iter_mut().flatten() {
            replica.leases.expire(&replica.app).await?;
            reconcile::schedule(&replica.app).await?;
        }
        if let Some(replica) = self.replicas.iter().flatten().next() {
            reconcile::seal_logs(&replica.app).await?;
            reconcile::sweep_objects(&replica.app).await?;
        }
        Ok(())
    }
}

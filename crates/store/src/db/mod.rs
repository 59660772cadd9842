//! The database: SQLite with one group-committing writer, or PostgreSQL.
//!
//! Writes are *commands*: closures over a [`Tx`] that may be run again. On SQLite they queue for the one writer and
//! are committed in groups; on PostgreSQL each is a transaction of its own, run again on serialization failures.
//! `write` returns when the commit is durable.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use terrapool_model::time::{Millis, Timestamp};
use tokio::sync::{broadcast, mpsc, oneshot};

mod connection;
pub mod origin;
mod value;
mod writability;
mod writer;

pub use connection::{Connection, Hint, Tx};
pub use value::{Row, Value};

use crate::error::StoreError;
use connection::Inner;
use origin::Origin;
use writability::Writability;

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("./migrations/sqlite");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("./migrations/postgres");

/// The schema on PostgreSQL.
pub(crate) fn postgres_migrations() -> &'static Migrator {
    &POSTGRES_MIGRATIONS
}

/// The file that an address names, when it is one of SQLite.
pub(crate) fn sqlite_path(address: &str) -> Option<PathBuf> {
    let path = address.strip_prefix("sqlite:")?;
    Some(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))
}

/// How often a PostgreSQL transaction is run again before its error is returned.
const RETRIES: u32 = 10;

/// Where `now` comes from. On PostgreSQL transactions use the database's own clock, so that replicas agree.
pub trait Clock: Send + Sync + 'static {
    /// The current time.
    fn now(&self) -> Timestamp;

    /// Time since some moment before, by a clock that is never set: ages and silences are measured with it.
    fn monotonic(&self) -> Millis {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        Millis(u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let elapsed = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Where random bytes come from: ids that a transaction makes are drawn from it.
pub trait Entropy: Send + Sync + 'static {
    /// Sixteen fresh random bytes.
    fn draw(&self) -> [u8; 16];
}

/// The operating system's random generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn draw(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        if getrandom::fill(&mut bytes).is_err() {
            // Without random numbers neither tokens nor ids can be made; going on would be worse than ending.
            std::process::abort();
        }
        bytes
    }
}

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    engine: Engine,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    hints: broadcast::Sender<Hint>,
    writability: Writability,
}

#[derive(Clone)]
enum Engine {
    Sqlite {
        readers: SqlitePool,
        writer: mpsc::Sender<Box<dyn writer::Command>>,
    },
    Postgres {
        pool: PgPool,
    },
}

impl std::fmt::Debug for Db {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.engine {
            Engine::Sqlite { .. } => "Db(sqlite)",
            Engine::Postgres { .. } => "Db(postgres)",
        })
    }
}

impl Db {
    /// Opens the database named by `sqlite:<path>` or `postgres://…` and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError`] when the address is none, the database is away, or its schema is newer than this program.
    pub async fn open(
        address: &str,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, StoreError> {
        let (hints, _) = broadcast::channel(1024);
        let writability = Writability::default();
        if let Some(path) = sqlite_path(address) {
            let (readers, writer_pool) = open_sqlite(&path).await?;
            let writer = writer::start(
                writer_pool,
                Arc::clone(&clock),
                Arc::clone(&entropy),
                hints.clone(),
                writability.clone(),
            );
            return Ok(Self {
                engine: Engine::Sqlite { readers, writer },
                clock,
                entropy,
                hints,
                writability,
            });
        }
        if address.starts_with("postgres://") || address.starts_with("postgresql://") {
            let pool = open_postgres(address).await?;
            return Ok(Self {
                engine: Engine::Postgres { pool },
                clock,
                entropy,
                hints,
                writability,
            });
        }
        // The address may hold a password; only its scheme is shown.
        let scheme = address.split(':').next().unwrap_or_default();
        Err(StoreError::Address(scheme.chars().take(20).collect()))
    }

    /// The clock that transactions read. Handlers use it too.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Where ids and tokens come from. Handlers use it too.
    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.entropy
    }

    /// Whether this is PostgreSQL.
    pub fn is_postgres(&self) -> bool {
        matches!(self.engine, Engine::Postgres { .. })
    }

    /// Hints of this process's commits, from now on.
    pub fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.subscribe()
    }

    /// A connection to read from.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when none can be had.
    pub async fn read(&self) -> Result<Connection, StoreError> {
        let fail = |source| StoreError::from_driver("connecting", source);
        let inner = match &self.engine {
            Engine::Sqlite { readers, .. } => Inner::Sqlite(readers.acquire().await.map_err(fail)?),
            Engine::Postgres { pool } => Inner::Postgres(pool.acquire().await.map_err(fail)?),
        };
        Ok(Connection { inner })
    }

    /// Runs a command and returns when its commit is durable. An error takes back everything the command wrote.
    /// The command may be run more than once, so it must not have effects outside the transaction.
    ///
    /// # Errors
    /// Whatever the command returns, and [`StoreError::Unavailable`] when nothing could be committed.
    pub async fn write<T, E, F>(&self, command: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: Send + From<StoreError> + CommandError + 'static,
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + Sync + 'static,
    {
        match &self.engine {
            Engine::Sqlite { writer, .. } => {
                let (reply, answer) = oneshot::channel();
                let gone = || StoreError::Unavailable {
                    context: "the writer has ended".to_owned(),
                    source: None,
                };
                writer
                    .send(Box::new(writer::Pending::new(command, reply)))
                    .await
                    .map_err(|_| gone())?;
                answer.await.map_err(|_| E::from(gone()))?
            }
            Engine::Postgres { pool } => {
                let (db, pool) = (self.clone(), pool.clone());
                let origin = origin::current();
                // A task of its own: a request that is dropped half-way must not leave a transaction open.
                let task = tokio::spawn(async move {
                    let mut tries = 0;
                    loop {
                        let result = db.write_postgres(&pool, &command, origin.clone()).await;
                        let failure = result.as_ref().err().and_then(CommandError::store_error);
                        if tries >= RETRIES || !failure.is_some_and(StoreError::is_retryable) {
                            // A refusal tells nothing: what was written is taken back.
                            if result.is_ok() || failure.is_some() {
                                db.writability.note(failure, || db.clock.now());
                            }
                            return result;
                        }
                        // Before the wait, so that nothing of the result is held across it.
                        drop(result);
                        tries += 1;
                        tokio::time::sleep(Duration::from_millis(u64::from(tries) * 5)).await;
                    }
                });
                match task.await {
                    Ok(result) => result,
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => resume_unwind(panic),
                        Err(_) => Err(StoreError::Unavailable {
                            context: "the program is ending".to_owned(),
                            source: None,
                        }
                        .into()),
                    },
                }
            }
        }
    }

    /// Since when the database has taken no writes, although it answers: its disk is full, or it is read-only. `None`
    /// when the last write was taken.
    pub fn read_only_since(&self) -> Option<Timestamp> {
        self.writability.refused_since()
    }

    /// The time by the clock that transactions use.
    ///
    /// # Errors
    /// [`StoreError`] when the database is away.
    pub async fn time(&self) -> Result<Timestamp, StoreError> {
        match &self.engine {
            Engine::Sqlite { .. } => Ok(self.clock.now()),
            Engine::Postgres { .. } => {
                let sql = format!("SELECT {NOW} AS now");
                self.read().await?.fetch_one(&sql, Vec::new()).await?.time("now")
            }
        }
    }

    async fn write_postgres<T, E, F>(
        &self,
        pool: &PgPool,
        command: &F,
        origin: Option<Arc<Origin>>,
    ) -> Result<T, E>
    where
        E: From<StoreError>,
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, E>>,
    {
        let connection = pool
            .acquire()
            .await
            .map_err(|source| StoreError::from_driver("connecting", source))?;
        let mut tx = Tx {
            connection: Connection {
                inner: Inner::Postgres(connection),
            },
            now: Timestamp(0),
            entropy: Arc::clone(&self.entropy),
            hints: Vec::new(),
            origin,
        };
        tx.execute("BEGIN", Vec::new()).await?;
        let begun = tx
            .fetch_one(&format!("SELECT {NOW} AS now, {DURABLE}"), Vec::new())
            .await;
        let result = match begun.and_then(|row| row.time("now")) {
            Ok(now) => {
                tx.now = now;
                AssertUnwindSafe(command(&mut tx)).catch_unwind().await
            }
            Err(error) => Ok(Err(error.into())),
        };
        let result = match result {
            Ok(result) => result,
            Err(panic) => {
                tx.connection.discard().await;
                resume_unwind(panic);
            }
        };
        let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
        if let Err(error) = tx.execute(end, Vec::new()).await {
            tx.connection.discard().await;
            return result.and(Err(error.into()));
        }
        if result.is_ok() {
            for hint in tx.hints {
                let _ = self.hints.send(hint);
            }
        }
        result
    }
}

/// The time on PostgreSQL, in milliseconds.
const NOW: &str = "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";

/// Makes the commit of a transaction durable before it is answered, whatever the server's default is.
const DURABLE: &str = "CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') \
     THEN set_config('synchronous_commit', 'on', true) END AS durable";

/// What a command may end with: refusals of its own, and failures of the database.
pub trait CommandError {
    /// The failure of the database, if it is one.
    fn store_error(&self) -> Option<&StoreError>;
}

impl CommandError for StoreError {
    fn store_error(&self) -> Option<&StoreError> {
        Some(self)
    }
}

async fn open_sqlite(path: &Path) -> Result<(SqlitePool, SqlitePool), StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // With NORMAL a power cut can take back a commit that was answered: a start grant must survive.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10));
    let fail = |source| StoreError::from_driver(&format!("opening {}", path.display()), source);
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options.clone())
        .await
        .map_err(fail)?;
    migrate(&SQLITE_MIGRATIONS, SQLITE_MIGRATIONS.run(&writer).await)?;
    let readers = SqlitePoolOptions::new()
        .max_connections(8)
        .acquire_timeout(Duration::from_secs(10))
        .connect_with(options.read_only(true).create_if_missing(false))
        .await
        .map_err(fail)?;
    Ok((readers, writer))
}

async fn open_postgres(address: &str) -> Result<PgPool, StoreError> {
    let options =
        PgConnectOptions::from_str(address).map_err(|_| StoreError::Address("postgres".to_owned()))?;
    let pool = PgPoolOptions::new()
        .max_connections(16)
        .acquire_timeout(Duration::from_secs(10))
        .connect_with(options)
        .await
        .map_err(|source| StoreError::from_driver("connecting to PostgreSQL", source))?;
    migrate(&POSTGRES_MIGRATIONS, POSTGRES_MIGRATIONS.run(&pool).await)?;
    Ok(pool)
}

fn migrate(migrator: &Migrator, result: Result<(), MigrateError>) -> Result<(), StoreError> {
    result.map_err(|error| {
        let known = migrator
            .iter()
            .map(|migration| migration.version)
            .max()
            .unwrap_or(0);
        match error {
            MigrateError::VersionMissing(found) if found > known => StoreError::NewerSchema { found, known },
            error => StoreError::Migration(Box::new(error)),
        }
    })
}

//! Databases for tests: SQLite in a temporary folder, and a PostgreSQL server of the test process.
//!
//! The server is Debian's, runs as another user than root, listens on a Unix socket in a temporary folder only, and is
//! stopped and removed when the test process ends, however it ends. Each test gets a database of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use terrapool_store::db::{Clock, Db, SystemClock, SystemEntropy};
use tokio::sync::OnceCell;

/// A database of one test.
#[derive(Debug)]
pub struct TestDatabase {
    /// The database.
    pub db: Db,
    /// Its address, to open it again.
    pub address: String,
    /// Holds SQLite's file.
    _folder: Option<TempDir>,
    _postgres: Option<PostgresDatabase>,
}

/// A database on the PostgreSQL server of this process, which is removed when this is dropped: many of them would fill a
/// disk.
#[derive(Debug)]
pub struct PostgresDatabase {
    /// Its address, for an application that opens it.
    pub address: String,
    name: String,
}

impl PostgresDatabase {
    fn create(socket: &Path, name: String, template: &str) -> Self {
        psql(socket, &format!("CREATE DATABASE {name} TEMPLATE {template}"));
        Self {
            address: address(socket, &name),
            name,
        }
    }
}

impl Drop for PostgresDatabase {
    fn drop(&mut self) {
        let Some(server) = SERVER.get() else { return };
        // What cannot be removed goes with the server.
        let removal = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let _ = psql_command(&server.socket, &removal).output();
    }
}

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseKind {
    /// SQLite in a temporary folder.
    Sqlite,
    /// A database on the PostgreSQL server of this process.
    Postgres,
}

/// Opens a database.
pub async fn open(address: &str) -> Db {
    Db::open(address, Arc::new(SystemClock), Arc::new(SystemEntropy))
        .await
        .unwrap_or_else(|error| panic!("the test database cannot be opened: {error:?}"))
}

/// An empty database of this kind, with its schema.
pub async fn database(kind: DatabaseKind) -> TestDatabase {
    match kind {
        DatabaseKind::Sqlite => sqlite().await,
        DatabaseKind::Postgres => postgres().await,
    }
}

/// An empty SQLite database.
pub async fn sqlite() -> TestDatabase {
    sqlite_by(Arc::new(SystemClock)).await
}

/// An empty SQLite database whose transactions read this clock.
pub async fn sqlite_by(clock: Arc<dyn Clock>) -> TestDatabase {
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
    let address = format!("sqlite:{}", folder.path().join("test.db").display());
    TestDatabase {
        db: Db::open(&address, clock, Arc::new(SystemEntropy))
            .await
            .unwrap_or_else(|error| panic!("the test database cannot be opened: {error:?}")),
        address,
        _folder: Some(folder),
        _postgres: None,
    }
}

/// A new PostgreSQL database without a schema.
pub async fn bare_postgres() -> PostgresDatabase {
    let socket = &SERVER.get_or_init(start).await.socket;
    let name = format!("bare_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    PostgresDatabase::create(socket, name, "template0")
}

/// The server of this process. The pipe to its shell stays open until this process ends.
struct Server {
    socket: PathBuf,
    _shell: Child,
}

static SERVER: OnceCell<Server> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(1);

const TEMPLATE: &str = "terrapool_template";

fn address(socket: &Path, database: &str) -> String {
    format!(
        "postgres://terrapool@localhost/{database}?host={}",
        socket.display()
    )
}

/// An empty PostgreSQL database, made from a template that has the schema.
pub async fn postgres() -> TestDatabase {
    let database = empty_postgres().await;
    TestDatabase {
        db: open(&database.address).await,
        address: database.address.clone(),
        _folder: None,
        _postgres: Some(database),
    }
}

/// A new PostgreSQL database that has the schema.
pub async fn empty_postgres() -> PostgresDatabase {
    let socket = &SERVER.get_or_init(start).await.socket;
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    PostgresDatabase::create(socket, name, TEMPLATE)
}

/// The folder with PostgreSQL's programs.
pub fn postgres_programs() -> PathBuf {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    versions.extend(std::env::split_paths(&path));
    versions
        .into_iter()
        .find(|folder| folder.join("initdb").is_file() && folder.join("pg_ctl").is_file())
        .unwrap_or_else(|| panic!("PostgreSQL is not installed: apt-get install postgresql"))
}

/// PostgreSQL refuses to run as root: this account, which owns nothing else here, runs it then.
pub fn unprivileged() -> Option<(u32, u32)> {
    let own = std::fs::metadata("/proc/self").map(|data| std::os::unix::fs::MetadataExt::uid(&data));
    if !matches!(own, Ok(0)) {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let account = |name: &str| {
        accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then_some(())?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some((uid, gid))
        })
    };
    account("postgres").or_else(|| account("nobody"))
}

/// A program that this account runs.
pub fn command_as(program: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").current_dir("/");
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

fn run(mut command: Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn psql(socket: &Path, sql: &str) -> String {
    run(psql_command(socket, sql))
}

fn psql_command(socket: &Path, sql: &str) -> Command {
    let mut psql = Command::new(postgres_programs().join("psql"));
    psql.args([
        "-X",
        "-q",
        "-t",
        "-A",
        "-v",
        "ON_ERROR_STOP=1",
        "-U",
        "terrapool",
        "-d",
        "postgres",
        "-h",
    ])
    .arg(socket)
    .args(["-c", sql])
    .stdin(Stdio::null());
    psql
}

async fn start() -> Server {
    let server = tokio::task::spawn_blocking(start_server)
        .await
        .unwrap_or_else(|error| panic!("PostgreSQL could not be started: {error}"));
    let socket = &server.socket;
    psql(socket, &format!("CREATE DATABASE {TEMPLATE}"));
    drop(open(&address(socket, TEMPLATE)).await);
    // A template must have no connections; the pool's close a moment after it.
    psql(
        socket,
        &format!("UPDATE pg_database SET datallowconn = false WHERE datname = '{TEMPLATE}'"),
    );
    psql(
        socket,
        &format!("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{TEMPLATE}'"),
    );
    server
}

fn start_server() -> Server {
    let programs = postgres_programs();
    let user = unprivileged();
    let folder = tempfile::Builder::new()
        .prefix("terrapool-postgres-")
        .tempdir()
        .unwrap_or_else(|error| panic!("no temporary folder: {error}"))
        .keep();
    if let Some((uid, gid)) = user {
        std::os::unix::fs::chown(&folder, Some(uid), Some(gid))
            .unwrap_or_else(|error| panic!("the folder cannot be given away: {error}"));
    }
    // Root's tests connect through the socket below it.
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))
        .unwrap_or_else(|error| panic!("the folder cannot be opened: {error}"));
    let data = folder.join("data");
    let mut initdb = command_as(&programs.join("initdb"), user);
    initdb.arg("-D").arg(&data).args([
        "-U",
        "terrapool",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
        "--no-instructions",
    ]);
    run(initdb);
    // The shell stands between: when this process ends, for whatever reason, its end of the pipe closes, and the shell
    // stops the server and removes the folder.
    let script = "\
        options=\"-k '$2' -c listen_addresses='' -c fsync=off -c synchronous_commit=off -c full_page_writes=off \
        -c max_connections=400 -c shared_buffers=64MB\"\n\
        \"$1/pg_ctl\" -D \"$2/data\" -l \"$2/log\" -w -t 60 -o \"$options\" start >/dev/null 2>&1 || exit 1\n\
        echo started\n\
        read _line\n\
        \"$1/pg_ctl\" -D \"$2/data\" -m immediate -w stop >/dev/null 2>&1\n\
        rm -rf \"$2\"/*\n\
        rmdir \"$2\" 2>/dev/null\n\
        exit 0\n";
    let mut shell = command_as(Path::new("/bin/sh"), user);
    shell
        .args(["-c", script, "sh"])
        .arg(&programs)
        .arg(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Out of the terminal's process group, so that an interrupt reaches it only through the pipe.
        .process_group(0);
    let mut child = shell
        .spawn()
        .unwrap_or_else(|error| panic!("/bin/sh cannot be run: {error}"));
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        let mut output = std::io::BufReader::new(output);
        let _ = std::io::BufRead::read_line(&mut output, &mut line);
    }
    if line.trim() != "started" {
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        panic!("PostgreSQL did not start:\n{log}");
    }
    Server {
        socket: folder,
        _shell: child,
    }
}

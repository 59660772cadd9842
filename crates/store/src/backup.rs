//! Consistent copies of the whole database, taken while it is used, and their way back into an empty one.
//!
//! On SQLite a copy is a database file; on PostgreSQL a folder with one file a table, all read in one snapshot. A copy
//! is marked as restored before anybody can open it, so that what follows from a restore is never forgotten.

use std::fs::File;
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tokio::io::AsyncWriteExt as _;

use crate::db::{Connection, Db, postgres_migrations, sqlite_path};
use crate::error::StoreError;
use crate::values;

/// A copy could not be made or brought back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The database that should receive a copy has something in it.
    #[error(
        "the database that the copy should go into is not empty: restore into a new one, or move the old one away"
    )]
    NotEmpty,
    /// A file can't be read or written.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The list of tables can't be read.
    #[error("{path} is damaged: it is no list of tables")]
    Tables {
        /// The file.
        path: PathBuf,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { action, path, source }
}

fn failed(context: &str) -> impl FnOnce(sqlx::Error) -> BackupError {
    let context = context.to_owned();
    move |source| StoreError::from_driver(&context, source).into()
}

/// A table of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Table {
    name: String,
    columns: Vec<String>,
}

/// The tables of a copy, those that others refer to first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Tables {
    schema: i64,
    tables: Vec<Table>,
}

const LIST: &str = "tables.json";

/// The newest migration of a database.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn schema(connection: &mut Connection) -> Result<i64, StoreError> {
    connection
        .fetch_one("SELECT MAX(version) AS version FROM _sqlx_migrations", values![])
        .await?
        .int("version")
}

/// Every object that rows refer to.
const REFERENCES: &str = "\
    SELECT object_key AS key FROM configuration_versions WHERE object_key IS NOT NULL \
    UNION SELECT object_key FROM artifacts \
    UNION SELECT object_key FROM state_versions WHERE object_key IS NOT NULL AND status <> 'discarded' \
    UNION SELECT json_object_key FROM state_versions WHERE json_object_key IS NOT NULL AND status <> 'discarded' \
    UNION SELECT object_key FROM orphan_states";

/// Copies the database to `target`, which does not exist yet. Returns the keys of the objects that the copy refers to.
///
/// # Errors
/// [`BackupError`] when the database or the disk fails.
pub async fn copy(db: &Db, target: &Path) -> Result<Vec<String>, BackupError> {
    let mut connection = db.read().await?;
    if connection.is_postgres() {
        let copied = copy_postgres(&mut connection, target).await;
        // A transaction that failed half-way must not go back to the pool.
        connection.discard().await;
        return copied;
    }
    let path = target.to_string_lossy().into_owned();
    connection.fetch_all("VACUUM INTO $1", values![path]).await?;
    sync_file(target)?;
    let mut copy = open_sqlite(target).await?;
    let rows = sqlx::query_scalar::<_, String>(REFERENCES)
        .fetch_all(&mut copy)
        .await
        .map_err(failed("reading the copy"))?;
    copy.close().await.map_err(failed("closing the copy"))?;
    Ok(rows)
}

async fn open_sqlite(path: &Path) -> Result<SqliteConnection, BackupError> {
    SqliteConnectOptions::new()
        .filename(path)
        .connect()
        .await
        .map_err(failed("opening the copy"))
}

fn sync_file(path: &Path) -> Result<(), BackupError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(io("syncing", path))
}

async fn copy_postgres(connection: &mut Connection, target: &Path) -> Result<Vec<String>, BackupError> {
    std::fs::create_dir_all(target).map_err(io("creating", target))?;
    connection
        .fetch_all("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", values![])
        .await?;
    let schema = schema(connection).await?;
    let tables = tables(connection).await?;
    for table in &tables {
        let path = target.join(format!("{}.copy", table.name));
        let statement = format!("COPY {} ({}) TO STDOUT", table.name, table.columns.join(", "));
        let mut file = tokio::fs::File::create(&path)
            .await
            .map_err(io("creating", &path))?;
        let postgres = connection.postgres().ok_or(StoreError::Reference)?;
        let mut pieces = postgres
            .copy_out_raw(&statement)
            .await
            .map_err(failed(&statement))?;
        while let Some(piece) = pieces.try_next().await.map_err(failed(&statement))? {
            file.write_all(&piece).await.map_err(io("writing", &path))?;
        }
        file.flush().await.map_err(io("writing", &path))?;
        file.sync_all().await.map_err(io("syncing", &path))?;
    }
    let rows = connection.fetch_all(REFERENCES, values![]).await?;
    let references = rows.iter().map(|row| row.text("key")).collect::<Result<_, _>>()?;
    connection.fetch_all("ROLLBACK", values![]).await?;
    let path = target.join(LIST);
    let list = serde_json::to_vec_pretty(&Tables { schema, tables }).unwrap_or_default();
    std::fs::write(&path, list).map_err(io("writing", &path))?;
    sync_file(&path)?;
    Ok(references)
}

/// The tables in the order in which rows can be put in: those that others refer to first.
async fn tables(connection: &mut Connection) -> Result<Vec<Table>, BackupError> {
    let columns = connection
        .fetch_all(
            "SELECT table_name AS owner, column_name AS name FROM information_schema.columns \
             WHERE table_schema = current_schema() AND table_name <> '_sqlx_migrations' \
             ORDER BY table_name, ordinal_position",
            values![],
        )
        .await?;
    let mut waiting: Vec<Table> = Vec::new();
    for row in columns {
        let (owner, name) = (row.text("owner")?, row.text("name")?);
        match waiting.last_mut() {
            Some(table) if table.name == owner => table.columns.push(name),
            Some(_) | None => waiting.push(Table {
                name: owner,
                columns: vec![name],
            }),
        }
    }
    let rows = connection
        .fetch_all(
            "SELECT CAST(c.relname AS TEXT) AS owner, CAST(f.relname AS TEXT) AS referred FROM pg_constraint k \
             JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class f ON f.oid = k.confrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE k.contype = 'f' AND n.nspname = current_schema() AND c.oid <> f.oid",
            values![],
        )
        .await?;
    let mut references = Vec::new();
    for row in rows {
        references.push((row.text("owner")?, row.text("referred")?));
    }
    let mut ordered: Vec<Table> = Vec::new();
    while !waiting.is_empty() {
        let is_ready = |table: &Table| {
            references.iter().all(|(owner, referred)| {
                *owner != table.name || ordered.iter().any(|done| done.name == *referred)
            })
        };
        let next = waiting.iter().position(is_ready).unwrap_or(0);
        ordered.push(waiting.remove(next));
    }
    Ok(ordered)
}

/// Brings a copy into the database at `address`, which has to be empty, and marks it as restored.
///
/// # Errors
/// [`BackupError::NotEmpty`] when there is something; [`BackupError`] when database or disk fail, and nothing is there
/// then.
pub async fn bring_back(address: &str, copy: &Path) -> Result<(), BackupError> {
    match sqlite_path(address) {
        Some(path) => bring_back_sqlite(&path, copy).await,
        None => bring_back_postgres(address, copy).await,
    }
}

async fn bring_back_sqlite(path: &Path, copy: &Path) -> Result<(), BackupError> {
    if path.exists() {
        return Err(BackupError::NotEmpty);
    }
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder).map_err(io("creating", folder))?;
    let mut name = path.as_os_str().to_owned();
    name.push(".restoring");
    let staging = PathBuf::from(name);
    std::fs::copy(copy, &staging).map_err(io("copying", copy))?;
    let mut database = open_sqlite(&staging).await?;
    sqlx::query("UPDATE installation SET restore_pending = 1")
        .execute(&mut database)
        .await
        .map_err(failed("marking the copy"))?;
    database.close().await.map_err(failed("closing the copy"))?;
    sync_file(&staging)?;
    std::fs::rename(&staging, path).map_err(io("publishing", path))?;
    sync_file(folder)
}

async fn bring_back_postgres(address: &str, copy: &Path) -> Result<(), BackupError> {
    let path = copy.join(LIST);
    let list = std::fs::read(&path).map_err(io("reading", &path))?;
    let list: Tables =
        serde_json::from_slice(&list).map_err(|_| BackupError::Tables { path: path.clone() })?;
    let options: PgConnectOptions = address
        .parse()
        .map_err(|_| StoreError::Address("postgres".to_owned()))?;
    let mut database = options
        .connect()
        .await
        .map_err(failed("connecting to PostgreSQL"))?;
    let there: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM pg_tables WHERE schemaname = current_schema()")
        .fetch_one(&mut database)
        .await
        .map_err(failed("looking for tables"))?;
    if there > 0 {
        return Err(BackupError::NotEmpty);
    }
    let filled = fill_postgres(&mut database, &list, copy).await;
    if filled.is_err() {
        // The tables are ours: nothing was there before.
        let names: Vec<&str> = list.tables.iter().map(|table| table.name.as_str()).collect();
        let drop = format!(
            "DROP TABLE IF EXISTS {}, _sqlx_migrations CASCADE",
            names.join(", ")
        );
        let _ = sqlx::query(AssertSqlSafe("ROLLBACK"))
            .execute(&mut database)
            .await;
        let _ = sqlx::query(AssertSqlSafe(drop)).execute(&mut database).await;
    }
    let _ = database.close().await;
    filled
}

async fn fill_postgres(database: &mut PgConnection, list: &Tables, copy: &Path) -> Result<(), BackupError> {
    postgres_migrations()
        .run_to(list.schema, &mut *database)
        .await
        .map_err(|error| StoreError::Migration(Box::new(error)))?;
    let run = async |database: &mut PgConnection, sql: &'static str| {
        sqlx::query(AssertSqlSafe(sql))
            .execute(database)
            .await
            .map_err(failed(sql))
    };
    run(database, "BEGIN").await?;
    for table in &list.tables {
        let path = copy.join(format!("{}.copy", table.name));
        let file = tokio::fs::File::open(&path).await.map_err(io("opening", &path))?;
        let statement = format!("COPY {} ({}) FROM STDIN", table.name, table.columns.join(", "));
        let mut sink = database
            .copy_in_raw(&statement)
            .await
            .map_err(failed(&statement))?;
        sink.read_from(file).await.map_err(failed(&statement))?;
        sink.finish().await.map_err(failed(&statement))?;
    }
    run(database, "UPDATE installation SET restore_pending = TRUE").await?;
    run(database, "COMMIT").await?;
    Ok(())
}

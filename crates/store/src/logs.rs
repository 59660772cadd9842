//! Rows of logs. The bytes lie in the log store.

use terrapool_model::id::RunId;
use terrapool_model::job::Phase;

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::values;

/// A log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The id of the plan or apply.
    pub id: String,
    /// Its run.
    pub run_id: RunId,
    /// Its phase.
    pub phase: Phase,
    /// The phase is over.
    pub ended: bool,
    /// Bytes of the whole file, once the end mark is in it.
    pub size: Option<u64>,
}

fn from_row(row: &Row) -> Result<LogRecord, StoreError> {
    Ok(LogRecord {
        id: row.text("id")?,
        run_id: row.parse("run_id")?,
        phase: row.parse("phase")?,
        ended: row.bool("ended")?,
        size: crate::runs::opt_count(row, "size")?,
    })
}

const COLUMNS: &str = "id, run_id, phase, ended, size";

/// A log, by the id of its plan or apply.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(connection: &mut Connection, id: &str) -> Result<Option<LogRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM logs WHERE id = $1");
    connection
        .fetch_optional(&sql, values![id])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// The logs of a run.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_run(connection: &mut Connection, run: &RunId) -> Result<Vec<LogRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM logs WHERE run_id = $1 ORDER BY phase DESC");
    connection
        .fetch_all(&sql, values![run])
        .await?
        .iter()
        .map(from_row)
        .collect()
}

/// Logs whose phase is over and whose end mark is not known to be written.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn unsealed(connection: &mut Connection) -> Result<Vec<LogRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM logs WHERE ended = $1 AND size IS NULL ORDER BY id LIMIT 500");
    connection
        .fetch_all(&sql, values![true])
        .await?
        .iter()
        .map(from_row)
        .collect()
}

/// Notes that the end mark is written.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn sealed(tx: &mut Tx, id: &str, size: u64) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE logs SET size = $2 WHERE id = $1 AND ended = $3",
        values![id, size, true],
    )
    .await?;
    Ok(())
}

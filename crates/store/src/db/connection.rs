//! One connection, on either engine, and the transaction that commands write through.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Postgres, Sqlite};
use terrapool_model::id::{AgentPoolId, RunId};
use terrapool_model::time::Timestamp;

use super::Entropy;
use super::origin::Origin;
use super::value::{Row, Value};
use crate::error::StoreError;

/// A connection that reads. Functions that take it cannot write.
pub struct Connection {
    pub(super) inner: Inner,
}

pub(super) enum Inner {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.inner {
            Inner::Sqlite(_) => "Connection(sqlite)",
            Inner::Postgres(_) => "Connection(postgres)",
        })
    }
}

macro_rules! bound {
    ($query:expr, $values:expr) => {{
        let mut query = $query;
        for value in $values {
            query = match value {
                Value::Text(value) => query.bind(value),
                Value::Int(value) => query.bind(value),
                Value::Bool(value) => query.bind(value),
                Value::Blob(value) => query.bind(value),
            };
        }
        query
    }};
}

impl Connection {
    /// Whether this is PostgreSQL, for the few statements whose text differs.
    pub fn is_postgres(&self) -> bool {
        matches!(self.inner, Inner::Postgres(_))
    }

    /// `FOR UPDATE` where rows have to be locked one by one; nothing on SQLite, whose one writer holds them all.
    pub fn for_update(&self) -> &'static str {
        if self.is_postgres() { " FOR UPDATE" } else { "" }
    }

    /// The driver's connection, on PostgreSQL.
    pub(crate) fn postgres(&mut self) -> Option<&mut sqlx::PgConnection> {
        match &mut self.inner {
            Inner::Sqlite(_) => None,
            Inner::Postgres(connection) => Some(&mut *connection),
        }
    }

    /// Closes it instead of giving it back: its state is not known.
    pub(crate) async fn discard(self) {
        let closed = match self.inner {
            Inner::Sqlite(connection) => connection.close().await,
            Inner::Postgres(connection) => connection.close().await,
        };
        // What matters is that nobody uses it again.
        drop(closed);
    }

    /// All rows of a query. The text uses `$1`, `$2`, …; parameters come from `values!`.
    ///
    /// # Errors
    /// [`StoreError`] when the statement fails or the database is away.
    pub async fn fetch_all(&mut self, sql: &str, values: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        let fail = |source| StoreError::from_driver(sql, source);
        match &mut self.inner {
            Inner::Sqlite(connection) => {
                let query = bound!(sqlx::query(AssertSqlSafe(sql)), values);
                Ok(query
                    .fetch_all(&mut **connection)
                    .await
                    .map_err(fail)?
                    .into_iter()
                    .map(Row::Sqlite)
                    .collect())
            }
            Inner::Postgres(connection) => {
                let query = bound!(sqlx::query(AssertSqlSafe(sql)), values);
                Ok(query
                    .fetch_all(&mut **connection)
                    .await
                    .map_err(fail)?
                    .into_iter()
                    .map(Row::Postgres)
                    .collect())
            }
        }
    }

    /// The first row of a query, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] when the statement fails or the database is away.
    pub async fn fetch_optional(&mut self, sql: &str, values: Vec<Value>) -> Result<Option<Row>, StoreError> {
        let fail = |source| StoreError::from_driver(sql, source);
        match &mut self.inner {
            Inner::Sqlite(connection) => {
                let query = bound!(sqlx::query(AssertSqlSafe(sql)), values);
                Ok(query
                    .fetch_optional(&mut **connection)
                    .await
                    .map_err(fail)?
                    .map(Row::Sqlite))
            }
            Inner::Postgres(connection) => {
                let query = bound!(sqlx::query(AssertSqlSafe(sql)), values);
                Ok(query
                    .fetch_optional(&mut **connection)
                    .await
                    .map_err(fail)?
                    .map(Row::Postgres))
            }
        }
    }

    /// The one row of a query that always has one (`COUNT(*)`).
    ///
    /// # Errors
    /// [`StoreError`] when there is none, the statement fails or the database is away.
    pub async fn fetch_one(&mut self, sql: &str, values: Vec<Value>) -> Result<Row, StoreError> {
        self.fetch_optional(sql, values)
            .await?
            .ok_or_else(|| StoreError::Statement {
                context: sql.to_owned(),
                source: sqlx::Error::RowNotFound,
            })
    }

    pub(super) async fn run(&mut self, sql: &str, values: Vec<Value>) -> Result<u64, StoreError> {
        let fail = |source| StoreError::from_driver(sql, source);
        match &mut self.inner {
            Inner::Sqlite(connection) => {
                let query = bound!(sqlx::query(AssertSqlSafe(sql)), values);
                Ok(query
                    .execute(&mut **connection)
                    .await
                    .map_err(fail)?
                    .rows_affected())
            }
            Inner::Postgres(connection) => {
                let query = bound!(sqlx::query(AssertSqlSafe(sql)), values);
                Ok(query
                    .execute(&mut **connection)
                    .await
                    .map_err(fail)?
                    .rows_affected())
            }
        }
    }
}

/// Something that readers may want to look at again. Sent after the commit; never the only way to learn of a change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Hint {
    /// Jobs of this pool became ready, or what its agents are told has changed.
    Pool(AgentPoolId),
    /// This run has changed.
    Run(RunId),
    /// Runs may be schedulable: a lock was released, or a run was created.
    Schedule,
}

/// A running write transaction. `now` was read at its start and is the only clock its decisions use.
pub struct Tx {
    pub(super) connection: Connection,
    pub(super) now: Timestamp,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) hints: Vec<Hint>,
    pub(super) origin: Option<Arc<Origin>>,
}

impl std::fmt::Debug for Tx {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Tx({:?}, {:?})", self.connection, self.now)
    }
}

impl Tx {
    /// Sixteen random bytes, for an id: `RunId::from_random(tx.draw())`.
    pub fn draw(&self) -> [u8; 16] {
        self.entropy.draw()
    }

    /// The time of this transaction.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The request that it is made for.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    /// Sends a hint once the transaction is committed.
    pub fn hint(&mut self, hint: Hint) {
        if !self.hints.contains(&hint) {
            self.hints.push(hint);
        }
    }

    /// Executes a statement and returns how many rows it changed.
    ///
    /// # Errors
    /// [`StoreError`] when the statement fails or the database is away.
    pub async fn execute(&mut self, sql: &str, values: Vec<Value>) -> Result<u64, StoreError> {
        self.connection.run(sql, values).await
    }
}

impl Deref for Tx {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

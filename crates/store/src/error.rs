//! What can go wrong between the product and its database.

/// A database operation that did not succeed. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or does not take writes now. The same request may succeed later.
    #[error("the database is not available: {context}")]
    Unavailable {
        /// What was tried.
        context: String,
        /// The driver's error.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// The disk of the database is full. The same request may succeed once there is room.
    #[error("the disk of the database is full: {context}")]
    StorageFull {
        /// What was tried.
        context: String,
        /// The driver's error.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// A statement failed: a mistake of ours.
    #[error("a statement failed: {context}")]
    Statement {
        /// The statement.
        context: String,
        /// The driver's error.
        #[source]
        source: sqlx::Error,
    },
    /// A unique name or id exists already.
    #[error("it exists already")]
    Conflict,
    /// A row refers to another one that does not exist, or is still referred to.
    #[error("it is still in use, or refers to something that does not exist")]
    Reference,
    /// A stored value cannot be read as what it should be.
    #[error("column `{column}` holds `{found}`, which this version cannot read")]
    Corrupt {
        /// The column.
        column: String,
        /// What is in it.
        found: String,
    },
    /// The schema was made by a newer version of the program.
    #[error(
        "the database was written by a newer version of terrapool (schema {found}, this program knows up to {known}): \
         install that version, or restore the backup made before the upgrade"
    )]
    NewerSchema {
        /// Newest migration in the database.
        found: i64,
        /// Newest migration that this program knows.
        known: i64,
    },
    /// The schema could not be brought up to date.
    #[error("the database could not be migrated")]
    Migration(#[source] Box<sqlx::migrate::MigrateError>),
    /// The address names no database that is supported.
    #[error("`{0}` is no database address: write sqlite:<path> or postgres://user@host/name")]
    Address(String),
}

impl StoreError {
    /// Whether the same request may succeed later without any change.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::StorageFull { .. })
    }

    /// Whether the disk of the database is full.
    pub fn is_storage_full(&self) -> bool {
        matches!(self, Self::StorageFull { .. })
    }

    /// Sorts a driver's error.
    pub(crate) fn from_driver(context: &str, source: sqlx::Error) -> Self {
        if let sqlx::Error::Database(error) = &source {
            let code = error.code().unwrap_or_default();
            if error.is_unique_violation() {
                return Self::Conflict;
            }
            if error.is_foreign_key_violation() {
                return Self::Reference;
            }
            // SQLite: BUSY, LOCKED, READONLY, IOERR, CANTOPEN in the low byte of the extended code. PostgreSQL:
            // connection, resources, operator intervention, serialization and deadlock.
            let primary = code.parse::<u32>().map(|code| code & 0xff);
            if (code.len() != 5 && primary == Ok(13)) || code == "53100" {
                return Self::StorageFull {
                    context: context.to_owned(),
                    source: Some(source),
                };
            }
            let sqlite_transient = matches!(primary, Ok(5 | 6 | 8 | 10 | 14));
            let postgres_transient = ["08", "53", "57", "58"]
                .iter()
                .any(|class| code.starts_with(class))
                || code == "40001"
                || code == "40P01"
                || code == "25006";
            let transient = if code.len() == 5 {
                postgres_transient
            } else {
                sqlite_transient
            };
            if transient {
                return Self::Unavailable {
                    context: context.to_owned(),
                    source: Some(source),
                };
            }
            return Self::Statement {
                context: context.to_owned(),
                source,
            };
        }
        match source {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable {
                context: context.to_owned(),
                source: Some(source),
            },
            source => Self::Statement {
                context: context.to_owned(),
                source,
            },
        }
    }

    /// Whether a transaction on PostgreSQL should be run again: serialization failure or deadlock.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable {
                source: Some(sqlx::Error::Database(error)),
                ..
            } => {
                matches!(error.code().as_deref(), Some("40001" | "40P01"))
            }
            _ => false,
        }
    }
}

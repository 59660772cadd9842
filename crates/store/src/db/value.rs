//! Values that go into statements and rows that come out, the same for both engines.

use std::str::FromStr;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use terrapool_model::id;
use terrapool_model::time::Timestamp;

use crate::error::StoreError;

/// A bound parameter. The type is kept for NULL too, since PostgreSQL wants to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// TEXT.
    Text(Option<String>),
    /// BIGINT.
    Int(Option<i64>),
    /// BOOLEAN.
    Bool(Option<bool>),
    /// BYTEA or BLOB.
    Blob(Option<Vec<u8>>),
}

macro_rules! value_from {
    ($($type:ty => $variant:ident, $convert:expr;)*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                let convert: fn($type) -> _ = $convert;
                Self::$variant(Some(convert(value)))
            }
        }
        impl From<Option<$type>> for Value {
            fn from(value: Option<$type>) -> Self {
                let convert: fn($type) -> _ = $convert;
                Self::$variant(value.map(convert))
            }
        }
    )*};
}

value_from! {
    String => Text, |value| value;
    &String => Text, |value| value.clone();
    &str => Text, str::to_owned;
    i64 => Int, |value| value;
    u64 => Int, |value| i64::try_from(value).unwrap_or(i64::MAX);
    u32 => Int, i64::from;
    Timestamp => Int, |value| value.0;
    bool => Bool, |value| value;
    Vec<u8> => Blob, |value| value;
    &Vec<u8> => Blob, |value| value.clone();
    &[u8] => Blob, <[u8]>::to_vec;
}

macro_rules! value_from_ids {
    ($($name:ident)*) => {$(
        value_from! {
            id::$name => Text, |value| value.as_str().to_owned();
            &id::$name => Text, |value| value.as_str().to_owned();
        }
    )*};
}

value_from_ids! {
    OrganizationId ProjectId WorkspaceId VariableId ConfigurationVersionId RunId PlanId ApplyId JobId StateVersionId
    StateVersionOutputId AgentPoolId AgentId TokenId UserId InstallationId EngineVersionId AuditId AttemptId
    TeamId MembershipId TeamProjectId TeamWorkspaceId
}

/// Builds the parameters of a statement: `values![&run_id, 7_i64, Some("text")]`.
#[macro_export]
macro_rules! values {
    ($($value:expr),* $(,)?) => { ::std::vec![$($crate::db::Value::from($value)),*] };
}

/// A row of a result.
pub enum Row {
    /// From SQLite.
    Sqlite(SqliteRow),
    /// From PostgreSQL.
    Postgres(PgRow),
}

impl std::fmt::Debug for Row {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Row")
    }
}

macro_rules! getter {
    ($kind:literal, $optional:ident, $required:ident, $type:ty) => {
        #[doc = concat!("A ", $kind, " column that may be NULL.")]
        ///
        /// # Errors
        /// [`StoreError`] when there is no such column, or it holds something else.
        pub fn $optional(&self, column: &str) -> Result<Option<$type>, StoreError> {
            match self {
                Self::Sqlite(row) => row.try_get(column),
                Self::Postgres(row) => row.try_get(column),
            }
            .map_err(|source| StoreError::Statement {
                context: format!("reading column {column}"),
                source,
            })
        }

        #[doc = concat!("A ", $kind, " column that is never NULL.")]
        ///
        /// # Errors
        /// [`StoreError`] when there is no such column, or it holds NULL or something else.
        pub fn $required(&self, column: &str) -> Result<$type, StoreError> {
            self.$optional(column)?.ok_or_else(|| null(column))
        }
    };
}

fn null(column: &str) -> StoreError {
    StoreError::Corrupt {
        column: column.to_owned(),
        found: "NULL".to_owned(),
    }
}

impl Row {
    getter!("TEXT", opt_text, text, String);
    getter!("BIGINT", opt_int, int, i64);
    getter!("BYTEA", opt_blob, blob, Vec<u8>);

    /// A BOOLEAN column that may be NULL.
    ///
    /// # Errors
    /// [`StoreError`] when there is no such column, or it holds something else.
    pub fn opt_bool(&self, column: &str) -> Result<Option<bool>, StoreError> {
        match self {
            Self::Sqlite(row) => row
                .try_get::<Option<i64>, _>(column)
                .map(|value| value.map(|number| number != 0)),
            Self::Postgres(row) => row.try_get(column),
        }
        .map_err(|source| StoreError::Statement {
            context: format!("reading column {column}"),
            source,
        })
    }

    /// A BOOLEAN column that is never NULL.
    ///
    /// # Errors
    /// [`StoreError`] when there is no such column, or it holds NULL or something else.
    pub fn bool(&self, column: &str) -> Result<bool, StoreError> {
        self.opt_bool(column)?.ok_or_else(|| null(column))
    }

    /// A BIGINT column that is never NULL or negative.
    ///
    /// # Errors
    /// [`StoreError`] as [`Row::int`], and for a negative number.
    pub fn count(&self, column: &str) -> Result<u64, StoreError> {
        let value = self.int(column)?;
        u64::try_from(value).map_err(|_| StoreError::Corrupt {
            column: column.to_owned(),
            found: value.to_string(),
        })
    }

    /// A time that may be NULL.
    ///
    /// # Errors
    /// [`StoreError`] as [`Row::opt_int`].
    pub fn opt_time(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.opt_int(column)?.map(Timestamp))
    }

    /// A time.
    ///
    /// # Errors
    /// [`StoreError`] as [`Row::int`].
    pub fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        Ok(Timestamp(self.int(column)?))
    }

    /// A TEXT column that holds an id or another type with a text form, or NULL.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the text is none.
    pub fn opt_parse<T: FromStr>(&self, column: &str) -> Result<Option<T>, StoreError> {
        self.opt_text(column)?
            .map(|found| {
                found.parse().map_err(|_| StoreError::Corrupt {
                    column: column.to_owned(),
                    found: found.clone(),
                })
            })
            .transpose()
    }

    /// A TEXT column that holds an id or another type with a text form.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the text is none, or NULL.
    pub fn parse<T: FromStr>(&self, column: &str) -> Result<T, StoreError> {
        self.opt_parse(column)?.ok_or_else(|| null(column))
    }

    /// A TEXT column that holds JSON.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is not what was expected.
    pub fn json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        let text = self.text(column)?;
        serde_json::from_str(&text).map_err(|_| StoreError::Corrupt {
            column: column.to_owned(),
            found: text,
        })
    }

    /// A TEXT column that holds JSON, or NULL.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is not what was expected.
    pub fn opt_json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<Option<T>, StoreError> {
        self.opt_text(column)?
            .map(|text| {
                serde_json::from_str(&text).map_err(|_| StoreError::Corrupt {
                    column: column.to_owned(),
                    found: text,
                })
            })
            .transpose()
    }
}

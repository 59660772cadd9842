//! Sessions of the web UI. Only a hash of the cookie is stored.

use terrapool_model::id::{TokenId, UserId};
use terrapool_model::time::{Millis, Timestamp};

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::values;

/// A session is over when it was not used for so long.
pub const IDLE: Millis = Millis::from_seconds(7 * 24 * 3600);
/// A session is over so long after the sign-in, however much it is used.
pub const LONGEST: Millis = Millis::from_seconds(30 * 24 * 3600);
/// Uses within this time of the noted one are not written.
const NOTE_USE_EACH: Millis = Millis::from_seconds(60);

/// A session, without its cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Id of the record.
    pub id: TokenId,
    /// Whose it is.
    pub user_id: UserId,
    /// What the browser called itself.
    pub browser: String,
    /// The address it signed in from.
    pub address: String,
    /// When it signed in.
    pub created_at: Timestamp,
    /// When it was last used, to the minute.
    pub last_used_at: Timestamp,
    /// From when on it is not accepted, however much it is used.
    pub expires_at: Timestamp,
}

impl SessionRecord {
    /// Whether the session is accepted at a time.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        now < self.expires_at && now < self.last_used_at + IDLE
    }

    /// Whether [`touch`] would change anything.
    pub fn is_use_worth_noting(&self, now: Timestamp) -> bool {
        now - self.last_used_at >= NOTE_USE_EACH
    }
}

const COLUMNS: &str = "id, user_id, browser, address, created_at, last_used_at, expires_at";

fn read(row: &Row) -> Result<SessionRecord, StoreError> {
    Ok(SessionRecord {
        id: row.parse("id")?,
        user_id: row.parse("user_id")?,
        browser: row.text("browser")?,
        address: row.text("address")?,
        created_at: row.time("created_at")?,
        last_used_at: row.time("last_used_at")?,
        expires_at: row.time("expires_at")?,
    })
}

/// Begins a session. Sessions of the user that are over are removed by the way.
///
/// # Errors
/// [`StoreError::Reference`] when there is no such user.
pub async fn create(
    tx: &mut Tx,
    user: &UserId,
    hash: &[u8],
    browser: &str,
    address: &str,
) -> Result<SessionRecord, StoreError> {
    let (id, now) = (TokenId::from_random(tx.draw()), tx.now());
    let idle_since = Timestamp(now.0 - i64::try_from(IDLE.0).unwrap_or(i64::MAX));
    tx.execute(
        "DELETE FROM web_sessions WHERE user_id = $1 AND (expires_at <= $2 OR last_used_at <= $3)",
        values![user, now, idle_since],
    )
    .await?;
    let expires_at = now + LONGEST;
    tx.execute(
        "INSERT INTO web_sessions (id, hash, user_id, browser, address, created_at, last_used_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $6, $7)",
        values![&id, hash, user, browser, address, now, expires_at],
    )
    .await?;
    Ok(SessionRecord {
        id,
        user_id: user.clone(),
        browser: browser.to_owned(),
        address: address.to_owned(),
        created_at: now,
        last_used_at: now,
        expires_at,
    })
}

/// The session with a cookie's hash, also when it is over.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn by_hash(connection: &mut Connection, hash: &[u8]) -> Result<Option<SessionRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM web_sessions WHERE hash = $1");
    connection
        .fetch_optional(&sql, values![hash])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// A user's sessions, the one used last first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_user(connection: &mut Connection, user: &UserId) -> Result<Vec<SessionRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM web_sessions WHERE user_id = $1 ORDER BY last_used_at DESC, id");
    connection
        .fetch_all(&sql, values![user])
        .await?
        .iter()
        .map(read)
        .collect()
}

/// Notes that a session was used.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn touch(tx: &mut Tx, id: &TokenId) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE web_sessions SET last_used_at = $2 WHERE id = $1",
        values![id, now],
    )
    .await?;
    Ok(())
}

/// Ends a session of a user. Returns whether there was one.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn end(tx: &mut Tx, user: &UserId, id: &TokenId) -> Result<bool, StoreError> {
    let ended = tx
        .execute(
            "DELETE FROM web_sessions WHERE id = $1 AND user_id = $2",
            values![id, user],
        )
        .await?;
    Ok(ended > 0)
}

/// Ends all sessions of a user.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn end_all(tx: &mut Tx, user: &UserId) -> Result<u64, StoreError> {
    tx.execute("DELETE FROM web_sessions WHERE user_id = $1", values![user])
        .await
}

/// Whether a session was not ended by anybody.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn is_kept(connection: &mut Connection, id: &TokenId) -> Result<bool, StoreError> {
    let found = connection
        .fetch_optional("SELECT id FROM web_sessions WHERE id = $1", values![id])
        .await?;
    Ok(found.is_some())
}

/// Ends all sessions of a user but one.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn end_others(tx: &mut Tx, user: &UserId, kept: &TokenId) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM web_sessions WHERE user_id = $1 AND id <> $2",
        values![user, kept],
    )
    .await
}

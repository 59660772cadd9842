//! Tokens of agent pools. Only a SHA-256 of the secret is kept.

use terrapool_model::id::{AgentPoolId, TokenId, UserId};
use terrapool_model::time::{Millis, Timestamp};

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::page::{Listed, Page};
use crate::values;

/// Uses are written down at most this often.
const USED_EACH: Millis = Millis::from_seconds(60);

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentTokenRecord {
    /// Id of the record.
    pub id: TokenId,
    /// Its pool.
    pub pool_id: AgentPoolId,
    /// What it is for.
    pub description: String,
    /// Who made it.
    pub created_by: Option<UserId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was used last.
    pub last_used_at: Option<Timestamp>,
    /// From when on it is not valid.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl AgentTokenRecord {
    /// Whether agents may register with it.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

const COLUMNS: &str =
    "id, pool_id, description, created_by, created_at, last_used_at, expires_at, revoked_at";

fn from_row(row: &Row) -> Result<AgentTokenRecord, StoreError> {
    Ok(AgentTokenRecord {
        id: row.parse("id")?,
        pool_id: row.parse("pool_id")?,
        description: row.text("description")?,
        created_by: row.opt_parse("created_by")?,
        created_at: row.time("created_at")?,
        last_used_at: row.opt_time("last_used_at")?,
        expires_at: row.opt_time("expires_at")?,
        revoked_at: row.opt_time("revoked_at")?,
    })
}

/// Makes a token's record. `hash` is the SHA-256 of the secret.
///
/// # Errors
/// [`StoreError::Reference`] when there is no such pool.
pub async fn create(
    tx: &mut Tx,
    pool: &AgentPoolId,
    hash: &[u8],
    description: &str,
    created_by: Option<&UserId>,
    expires_at: Option<Timestamp>,
) -> Result<AgentTokenRecord, StoreError> {
    let (id, now) = (TokenId::from_random(tx.draw()), tx.now());
    tx.execute(
        "INSERT INTO agent_tokens (id, hash, pool_id, description, created_by, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        values![&id, hash, pool, description, created_by, now, expires_at],
    )
    .await?;
    get(tx, &id).await?.ok_or(StoreError::Reference)
}

/// A token that was not revoked.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(connection: &mut Connection, id: &TokenId) -> Result<Option<AgentTokenRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM agent_tokens WHERE id = $1 AND revoked_at IS NULL");
    connection
        .fetch_optional(&sql, values![id])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// The token of a secret, revoked or not.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn by_hash(
    connection: &mut Connection,
    hash: &[u8],
) -> Result<Option<AgentTokenRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM agent_tokens WHERE hash = $1");
    connection
        .fetch_optional(&sql, values![hash])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// A pool's tokens that were not revoked, newest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn list(
    connection: &mut Connection,
    pool: &AgentPoolId,
    page: &Page,
) -> Result<Listed<AgentTokenRecord>, StoreError> {
    const FROM: &str = "FROM agent_tokens WHERE pool_id = $1 AND revoked_at IS NULL";
    let total = connection
        .fetch_one(&format!("SELECT COUNT(*) AS total {FROM}"), values![pool])
        .await?
        .count("total")?;
    let sql = format!("SELECT {COLUMNS} {FROM} ORDER BY created_at DESC, id LIMIT $2 OFFSET $3");
    let rows = connection
        .fetch_all(&sql, values![pool, page.limit(), page.offset()])
        .await?;
    Ok(Listed {
        items: rows.iter().map(from_row).collect::<Result<_, _>>()?,
        total,
    })
}

/// A pool's tokens that were revoked, the last one first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn revoked(
    connection: &mut Connection,
    pool: &AgentPoolId,
    limit: u32,
) -> Result<Vec<AgentTokenRecord>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM agent_tokens WHERE pool_id = $1 AND revoked_at IS NOT NULL \
         ORDER BY revoked_at DESC, id LIMIT $2"
    );
    let rows = connection.fetch_all(&sql, values![pool, limit]).await?;
    rows.iter().map(from_row).collect()
}

/// Notes a use.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn used(tx: &mut Tx, id: &TokenId) -> Result<(), StoreError> {
    let now = tx.now();
    let before = Timestamp(now.0 - i64::try_from(USED_EACH.0).unwrap_or(i64::MAX));
    tx.execute(
        "UPDATE agent_tokens SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $3)",
        values![id, now, before],
    )
    .await?;
    Ok(())
}

/// Revokes a token: its agents may only finish what they hold. `false` when there is none.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn revoke(tx: &mut Tx, id: &TokenId) -> Result<bool, StoreError> {
    let Some(token) = get(tx, id).await? else {
        return Ok(false);
    };
    let now = tx.now();
    tx.execute(
        "UPDATE agent_tokens SET revoked_at = $2 WHERE id = $1",
        values![id, now],
    )
    .await?;
    tx.hint(crate::db::Hint::Pool(token.pool_id));
    Ok(true)
}

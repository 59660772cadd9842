//! Tokens of users and organizations. Only a hash of the secret is stored.

use terrapool_model::id::{OrganizationId, TokenId, UserId};
use terrapool_model::time::{Millis, Timestamp};

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::values;

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenOwner {
    /// A user's.
    User(UserId),
    /// An organization's.
    Organization(OrganizationId),
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiTokenRecord {
    /// Id of the record.
    pub id: TokenId,
    /// Whose it is.
    pub owner: TokenOwner,
    /// What it is for.
    pub description: String,
    /// The user who made it.
    pub created_by: Option<UserId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// From when on it is not accepted.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl ApiTokenRecord {
    /// Whether the token is accepted at a time.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }

    /// Whether [`touch`] would change anything.
    pub fn is_use_worth_noting(&self, now: Timestamp) -> bool {
        self.last_used_at.is_none_or(|last| now - last >= NOTE_USE_EACH)
    }
}

/// Uses within this time of the noted one are not written.
const NOTE_USE_EACH: Millis = Millis::from_seconds(60);

/// A token to be stored.
#[derive(Debug, Clone)]
pub struct NewApiToken {
    /// SHA-256 of the secret.
    pub hash: Vec<u8>,
    /// Whose it is.
    pub owner: TokenOwner,
    /// What it is for.
    pub description: String,
    /// The user who makes it.
    pub created_by: Option<UserId>,
    /// From when on it is not accepted.
    pub expires_at: Option<Timestamp>,
}

const COLUMNS: &str =
    "id, user_id, organization_id, description, created_by, created_at, last_used_at, expires_at, revoked_at";

fn read(row: &Row) -> Result<ApiTokenRecord, StoreError> {
    let owner = match row.opt_parse("user_id")? {
        Some(user) => TokenOwner::User(user),
        None => TokenOwner::Organization(row.parse("organization_id")?),
    };
    Ok(ApiTokenRecord {
        id: row.parse("id")?,
        owner,
        description: row.text("description")?,
        created_by: row.opt_parse("created_by")?,
        created_at: row.time("created_at")?,
        last_used_at: row.opt_time("last_used_at")?,
        expires_at: row.opt_time("expires_at")?,
        revoked_at: row.opt_time("revoked_at")?,
    })
}

/// Stores a token.
///
/// # Errors
/// [`StoreError::Reference`] when the owner does not exist.
pub async fn create(tx: &mut Tx, new: &NewApiToken) -> Result<ApiTokenRecord, StoreError> {
    let id = TokenId::from_random(tx.draw());
    let now = tx.now();
    let (user, organization) = match &new.owner {
        TokenOwner::User(user) => (Some(user), None),
        TokenOwner::Organization(organization) => (None, Some(organization)),
    };
    tx.execute(
        "INSERT INTO api_tokens (id, hash, user_id, organization_id, description, created_by, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        values![
            &id,
            &new.hash,
            user.cloned(),
            organization.cloned(),
            &new.description,
            new.created_by.clone(),
            now,
            new.expires_at
        ],
    )
    .await?;
    Ok(ApiTokenRecord {
        id,
        owner: new.owner.clone(),
        description: new.description.clone(),
        created_by: new.created_by.clone(),
        created_at: now,
        last_used_at: None,
        expires_at: new.expires_at,
        revoked_at: None,
    })
}

/// The token with a secret's hash, also when it is revoked or expired.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn by_hash(connection: &mut Connection, hash: &[u8]) -> Result<Option<ApiTokenRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM api_tokens WHERE hash = $1");
    connection
        .fetch_optional(&sql, values![hash])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// A token that is not revoked.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(connection: &mut Connection, id: &TokenId) -> Result<Option<ApiTokenRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM api_tokens WHERE id = $1 AND revoked_at IS NULL");
    connection
        .fetch_optional(&sql, values![id])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// The tokens of an owner that are not revoked, oldest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_owner(
    connection: &mut Connection,
    owner: &TokenOwner,
) -> Result<Vec<ApiTokenRecord>, StoreError> {
    let (column, id) = match owner {
        TokenOwner::User(user) => ("user_id", user.as_str()),
        TokenOwner::Organization(organization) => ("organization_id", organization.as_str()),
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM api_tokens WHERE {column} = $1 AND revoked_at IS NULL ORDER BY created_at, id"
    );
    connection
        .fetch_all(&sql, values![id])
        .await?
        .iter()
        .map(read)
        .collect()
}

/// Revokes a token. Returns whether it was valid until now.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn revoke(tx: &mut Tx, id: &TokenId) -> Result<bool, StoreError> {
    let now = tx.now();
    let changed = tx
        .execute(
            "UPDATE api_tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL",
            values![id, now],
        )
        .await?;
    Ok(changed > 0)
}

/// Notes that a token was used.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn touch(tx: &mut Tx, id: &TokenId) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE api_tokens SET last_used_at = $2 WHERE id = $1",
        values![id, now],
    )
    .await?;
    Ok(())
}

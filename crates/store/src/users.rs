//! Users.

use terrapool_model::id::UserId;
use terrapool_model::time::Timestamp;
use terrapool_protocol::secret::Secret;

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::values;

/// A user.
#[derive(Debug, Clone)]
pub struct UserRecord {
    /// Id.
    pub id: UserId,
    /// Unique name.
    pub username: String,
    /// E-mail address.
    pub email: String,
    /// May do everything in every organization.
    pub site_admin: bool,
    /// Derived from the password; none when the user has no password.
    pub password_hash: Option<Secret>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when it signs nobody in and its tokens are refused; none when it is enabled.
    pub disabled_at: Option<Timestamp>,
}

impl UserRecord {
    /// Whether the account may be used: by a session as by a token.
    pub fn is_enabled(&self) -> bool {
        self.disabled_at.is_none()
    }
}

/// A user to be made.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// Unique name.
    pub username: String,
    /// E-mail address.
    pub email: String,
    /// May do everything in every organization.
    pub site_admin: bool,
    /// Derived from the password.
    pub password_hash: Option<Secret>,
}

const COLUMNS: &str = "id, username, email, site_admin, password_hash, created_at, disabled_at";

fn read(row: &Row) -> Result<UserRecord, StoreError> {
    Ok(UserRecord {
        id: row.parse("id")?,
        username: row.text("username")?,
        email: row.text("email")?,
        site_admin: row.bool("site_admin")?,
        password_hash: row.opt_text("password_hash")?.map(Secret::new),
        created_at: row.time("created_at")?,
        disabled_at: row.opt_time("disabled_at")?,
    })
}

/// Makes a user.
///
/// # Errors
/// [`StoreError::Conflict`] when the name is taken.
pub async fn create(tx: &mut Tx, new: &NewUser) -> Result<UserRecord, StoreError> {
    let id = UserId::from_random(tx.draw());
    let now = tx.now();
    tx.execute(
        "INSERT INTO users (id, username, email, site_admin, password_hash, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
        values![
            &id,
            &new.username,
            &new.email,
            new.site_admin,
            new.password_hash.as_ref().map(Secret::expose),
            now
        ],
    )
    .await?;
    Ok(UserRecord {
        id,
        username: new.username.clone(),
        email: new.email.clone(),
        site_admin: new.site_admin,
        password_hash: new.password_hash.clone(),
        created_at: now,
        disabled_at: None,
    })
}

/// The user with an id.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(connection: &mut Connection, id: &UserId) -> Result<Option<UserRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM users WHERE id = $1");
    connection
        .fetch_optional(&sql, values![id])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// The user with a name.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn by_username(
    connection: &mut Connection,
    username: &str,
) -> Result<Option<UserRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM users WHERE username = $1");
    connection
        .fetch_optional(&sql, values![username])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// Changes name and address.
///
/// # Errors
/// [`StoreError::Conflict`] when the name is taken.
pub async fn update(tx: &mut Tx, id: &UserId, username: &str, email: &str) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE users SET username = $2, email = $3 WHERE id = $1",
        values![id, username, email],
    )
    .await?;
    Ok(())
}

/// Sets the password.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn set_password(tx: &mut Tx, id: &UserId, password_hash: &Secret) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE users SET password_hash = $2 WHERE id = $1",
        values![id, password_hash.expose()],
    )
    .await?;
    Ok(())
}

/// Disables an account from now on, or enables it.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn set_disabled(tx: &mut Tx, id: &UserId, disabled: bool) -> Result<(), StoreError> {
    let since = disabled.then(|| tx.now());
    tx.execute(
        "UPDATE users SET disabled_at = $2 WHERE id = $1",
        values![id, since],
    )
    .await?;
    Ok(())
}

/// Sets whether a user may do everything in every organization.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn set_site_admin(tx: &mut Tx, id: &UserId, site_admin: bool) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE users SET site_admin = $2 WHERE id = $1",
        values![id, site_admin],
    )
    .await?;
    Ok(())
}

/// The site administrators whose accounts are enabled. They stay so until the transaction ends, so that two changes at
/// once can't leave none.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn enabled_site_admins(tx: &mut Tx) -> Result<Vec<UserId>, StoreError> {
    let sql = format!(
        "SELECT id FROM users WHERE site_admin = $1 AND disabled_at IS NULL ORDER BY id{}",
        tx.for_update()
    );
    tx.fetch_all(&sql, values![true])
        .await?
        .iter()
        .map(|row| row.parse("id"))
        .collect()
}

/// The user with a name or an e-mail address; by address only when it is one user's.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn by_login(connection: &mut Connection, login: &str) -> Result<Option<UserRecord>, StoreError> {
    if let Some(user) = by_username(connection, login).await? {
        return Ok(Some(user));
    }
    let sql = format!("SELECT {COLUMNS} FROM users WHERE LOWER(email) = $1 ORDER BY id LIMIT 2");
    let rows = connection.fetch_all(&sql, values![login.to_lowercase()]).await?;
    match rows.as_slice() {
        [row] => Ok(Some(read(row)?)),
        _ => Ok(None),
    }
}

/// All users, by name.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn all(connection: &mut Connection) -> Result<Vec<UserRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM users ORDER BY username");
    connection
        .fetch_all(&sql, Vec::new())
        .await?
        .iter()
        .map(read)
        .collect()
}

/// How many users there are.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn count(connection: &mut Connection) -> Result<u64, StoreError> {
    let row = connection
        .fetch_one("SELECT COUNT(*) AS total FROM users", Vec::new())
        .await?;
    row.count("total")
}

/// Whether two users are members of one organization.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn share_organization(
    connection: &mut Connection,
    one: &UserId,
    other: &UserId,
) -> Result<bool, StoreError> {
    let found = connection
        .fetch_optional(
            "SELECT mine.organization_id FROM organization_members mine \
             JOIN organization_members theirs ON theirs.organization_id = mine.organization_id \
             WHERE mine.user_id = $1 AND theirs.user_id = $2 LIMIT 1",
            values![one, other],
        )
        .await?;
    Ok(found.is_some())
}

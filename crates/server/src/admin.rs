//! What an operator does on the command line. Works with the server running or stopped.

use std::path::PathBuf;

use terrapool_objects::{Keyring, ObjectError};
use terrapool_protocol::secret::Secret;
use terrapool_store::api_tokens::{self, NewApiToken, TokenOwner};
use terrapool_store::error::StoreError;
use terrapool_store::users::{self, NewUser};

use crate::app::App;
use crate::auth::password;
use crate::config::Config;
use crate::secrets::{self, TokenKind};

/// Something that an operator asked for was not done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The name is taken.
    #[error("there is a user named {0} already: choose another name")]
    UserExists(String),
    /// The name can't be one.
    #[error("`{0}` can't be a user's name: it may have letters, numbers, - and _, 60 at most")]
    UserName(String),
    /// The address is none.
    #[error("`{0}` is no e-mail address")]
    Email(String),
    /// The password is too short.
    #[error("a password has at least 8 characters")]
    Password,
    /// The password can't be hashed.
    #[error(transparent)]
    Hash(#[from] password::HashError),
    /// The key ring is there already, and may be in use.
    #[error(
        "{0} exists already and is left as it is: data that it sealed could never be read again without it"
    )]
    KeyringExists(PathBuf),
    /// The key ring can't be made.
    #[error(transparent)]
    Keyring(#[from] ObjectError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes the key ring that the configuration names. A control plane on SQLite makes its own; one on PostgreSQL may have
/// replicas, which have to share one, so it is never made by the way there.
///
/// # Errors
/// [`AdminError::KeyringExists`] when there is one, [`AdminError::Keyring`] when it can't be written.
pub fn create_keyring(config: &Config) -> Result<PathBuf, AdminError> {
    let path = &config.keyring_file;
    if path.exists() {
        return Err(AdminError::KeyringExists(path.clone()));
    }
    Keyring::open_or_create(path)?;
    Ok(path.clone())
}

/// A user to be made.
#[derive(Debug, Clone)]
pub struct UserRequest {
    /// Name.
    pub username: String,
    /// E-mail address.
    pub email: String,
    /// Whether it may do everything everywhere.
    pub site_admin: bool,
    /// Password for the web UI.
    pub password: Option<Secret>,
}

/// Makes a user and a token for it.
///
/// # Errors
/// [`AdminError`] when name, address or password can't be used, or the database fails.
pub async fn create_user(app: &App, request: UserRequest) -> Result<Secret, AdminError> {
    let name = &request.username;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.is_empty() || name.len() > 60 || !name.bytes().all(plain) {
        return Err(AdminError::UserName(name.clone()));
    }
    if !request.email.contains('@') || request.email.contains(char::is_whitespace) {
        return Err(AdminError::Email(request.email));
    }
    let password_hash = match &request.password {
        Some(password) if password.expose().chars().count() < password::SHORTEST => {
            return Err(AdminError::Password);
        }
        Some(password) => Some(password::hash(password, app.db.entropy().as_ref())?),
        None => None,
    };
    let token = secrets::new_token(TokenKind::User, app.db.entropy().as_ref());
    let new = NewUser {
        username: request.username.clone(),
        email: request.email,
        site_admin: request.site_admin,
        password_hash,
    };
    let hash = secrets::hash(token.expose());
    let made: Result<(), StoreError> = app
        .db
        .write(move |tx| {
            let (new, hash) = (new.clone(), hash.clone());
            Box::pin(async move {
                let user = users::create(tx, &new).await?;
                let token = NewApiToken {
                    hash,
                    owner: TokenOwner::User(user.id.clone()),
                    description: "made by terrapool admin create-user".to_owned(),
                    created_by: Some(user.id),
                    expires_at: None,
                };
                api_tokens::create(tx, &token).await?;
                Ok(())
            })
        })
        .await;
    match made {
        Ok(()) => Ok(token),
        Err(StoreError::Conflict) => Err(AdminError::UserExists(request.username)),
        Err(error) => Err(error.into()),
    }
}

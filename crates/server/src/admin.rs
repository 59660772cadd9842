//! What an operator does on the command line. Works with the server running or stopped.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use terrapool_objects::{Keyring, ObjectError};
use terrapool_protocol::secret::Secret;
use terrapool_store::api_tokens::{self, NewApiToken, TokenOwner};
use terrapool_store::db::{CommandError, Tx};
use terrapool_store::error::StoreError;
use terrapool_store::users::{self, NewUser, UserRecord};
use terrapool_store::{audit, web_sessions};

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
    /// Nobody has the name.
    #[error("there is no user named {0}: the page Administration lists the names")]
    NoUser(String),
    /// Nobody could administer the installation any more.
    #[error("{0} is the last enabled site administrator: make or enable another one first")]
    LastSiteAdministrator(String),
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

impl CommandError for AdminError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

/// How the audit log names who works on the command line.
pub const COMMAND_LINE: &str = "system";

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
        Some(password) => Some(password_hash(app, password)?),
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
                let detail = json!({"username": user.username, "site-admin": user.site_admin});
                audit::record(tx, None, COMMAND_LINE, "user.create", user.id.as_str(), &detail).await?;
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

fn password_hash(app: &App, password: &Secret) -> Result<Secret, AdminError> {
    if password.expose().chars().count() < password::SHORTEST {
        return Err(AdminError::Password);
    }
    Ok(password::hash(password, app.db.entropy().as_ref())?)
}

/// Gives a user a new password and ends their sessions. Their tokens go on.
///
/// # Errors
/// [`AdminError`] when there is no such user, the password can't be one, or the database fails.
pub async fn reset_password(app: &App, name: &str, password: &Secret) -> Result<(), AdminError> {
    let hash = password_hash(app, password)?;
    change_user(app, name, COMMAND_LINE, move |tx, user| {
        let hash = hash.clone();
        Box::pin(async move {
            users::set_password(tx, &user.id, &hash).await?;
            web_sessions::end_all(tx, &user.id).await?;
            Ok(Some(("user.password", json!({"reset": true}))))
        })
    })
    .await
}

/// Disables an account: its sessions end, and until it is enabled it signs nobody in and its tokens are refused. Nothing
/// happens to an account that is disabled already.
///
/// # Errors
/// [`AdminError::LastSiteAdministrator`] when nobody else could administer the installation; others when there is no such
/// user or the database fails.
pub async fn disable_user(app: &App, name: &str, actor: &str) -> Result<(), AdminError> {
    change_user(app, name, actor, |tx, user| {
        Box::pin(async move {
            if !user.is_enabled() {
                return Ok(None);
            }
            keep_an_administrator(tx, &user).await?;
            users::set_disabled(tx, &user.id, true).await?;
            web_sessions::end_all(tx, &user.id).await?;
            Ok(Some(("user.disable", json!({}))))
        })
    })
    .await
}

/// Enables an account again; its tokens are accepted as before. Nothing happens to one that is enabled.
///
/// # Errors
/// [`AdminError`] when there is no such user, or the database fails.
pub async fn enable_user(app: &App, name: &str, actor: &str) -> Result<(), AdminError> {
    change_user(app, name, actor, |tx, user| {
        Box::pin(async move {
            if user.is_enabled() {
                return Ok(None);
            }
            users::set_disabled(tx, &user.id, false).await?;
            Ok(Some(("user.enable", json!({}))))
        })
    })
    .await
}

/// Sets whether a user may do everything in every organization.
///
/// # Errors
/// As of [`disable_user`].
pub async fn set_site_admin(app: &App, name: &str, site_admin: bool) -> Result<(), AdminError> {
    change_user(app, name, COMMAND_LINE, move |tx, user| {
        Box::pin(async move {
            if user.site_admin == site_admin {
                return Ok(None);
            }
            if !site_admin {
                keep_an_administrator(tx, &user).await?;
            }
            users::set_site_admin(tx, &user.id, site_admin).await?;
            let detail = json!({"before": {"site-admin": !site_admin}, "after": {"site-admin": site_admin}});
            Ok(Some(("user.update", detail)))
        })
    })
    .await
}

/// Refuses to lose the last one who can administer the installation.
async fn keep_an_administrator(tx: &mut Tx, user: &UserRecord) -> Result<(), AdminError> {
    if users::enabled_site_admins(tx).await? == [user.id.clone()] {
        return Err(AdminError::LastSiteAdministrator(user.username.clone()));
    }
    Ok(())
}

/// Changes the user with a name, and writes what the change returns into the installation's audit log: the action and its
/// detail, or none when nothing was to be changed.
async fn change_user<F>(app: &App, name: &str, actor: &str, change: F) -> Result<(), AdminError>
where
    F: for<'t> Fn(&'t mut Tx, UserRecord) -> BoxFuture<'t, Result<Option<(&'static str, Value)>, AdminError>>
        + Send
        + Sync
        + 'static,
{
    let (name, actor) = (name.to_owned(), actor.to_owned());
    let change = Arc::new(change);
    app.db
        .write(move |tx| {
            let (name, actor, change) = (name.clone(), actor.clone(), Arc::clone(&change));
            Box::pin(async move {
                let user = users::by_username(tx, &name)
                    .await?
                    .ok_or(AdminError::NoUser(name))?;
                let id = user.id.clone();
                if let Some((action, detail)) = change(tx, user).await? {
                    audit::record(tx, None, &actor, action, id.as_str(), &detail).await?;
                }
                Ok(())
            })
        })
        .await
}

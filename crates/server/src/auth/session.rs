//! Sessions of the web UI: the cookie, and who it belongs to.

use axum::http::HeaderMap;
use axum::http::header::COOKIE;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use terrapool_model::id::UserId;
use terrapool_protocol::secret::Secret;
use terrapool_store::users::{self, UserRecord};
use terrapool_store::web_sessions::{self, SessionRecord};

use super::{Caller, Principal};
use crate::app::App;
use crate::http::error::ApiError;
use crate::secrets::{self, TokenKind};

/// Purpose of the key that form tokens are signed with.
const FORM_PURPOSE: &str = "web-form";

/// Whether the UI is reached over HTTPS, where cookies can be bound to it.
pub fn is_secure(app: &App) -> bool {
    app.config.public_url.starts_with("https://")
}

/// The name of a cookie: with `__Host-` in front browsers take it over HTTPS only, and from this host only.
pub fn cookie_name(app: &App, name: &str) -> String {
    if is_secure(app) {
        format!("__Host-terrapool-{name}")
    } else {
        format!("terrapool-{name}")
    }
}

/// A `Set-Cookie` header's value. Without an age the cookie ends with the browser; an age of 0 removes it.
pub fn cookie(app: &App, name: &str, value: &str, max_age: Option<u64>) -> String {
    let secure = if is_secure(app) { "; Secure" } else { "" };
    let age = max_age.map_or_else(String::new, |seconds| format!("; Max-Age={seconds}"));
    format!(
        "{}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{age}",
        cookie_name(app, name)
    )
}

/// The value of a cookie of ours.
pub fn cookie_value<'h>(app: &App, headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let name = cookie_name(app, name);
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// Somebody who is signed in.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// The session.
    pub session: SessionRecord,
    /// The user.
    pub user: UserRecord,
}

impl SignedIn {
    /// The user as the API's handlers know callers.
    pub fn caller(&self) -> Caller {
        Caller {
            principal: Principal::User(self.user.clone()),
            token: self.session.id.clone(),
        }
    }
}

/// Begins a session. Returns the cookie's value.
///
/// # Errors
/// [`ApiError`] when the database fails.
pub async fn begin(app: &App, user: &UserId, browser: &str, address: &str) -> Result<Secret, ApiError> {
    let secret = secrets::new_token(TokenKind::Browser, app.db.entropy().as_ref());
    let hash = secrets::hash(secret.expose());
    let (user, address) = (user.clone(), address.to_owned());
    let browser: String = browser.chars().take(200).collect();
    app.db
        .write(move |tx| {
            let (user, hash, browser, address) =
                (user.clone(), hash.clone(), browser.clone(), address.clone());
            Box::pin(async move {
                web_sessions::create(tx, &user, &hash, &browser, &address).await?;
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    Ok(secret)
}

/// Who is signed in, by the request's cookie.
///
/// # Errors
/// [`ApiError`] when the database fails.
pub async fn find(app: &App, headers: &HeaderMap) -> Result<Option<SignedIn>, ApiError> {
    let Some(secret) = cookie_value(app, headers, "session") else {
        return Ok(None);
    };
    let mut connection = app.db.read().await?;
    let now = app.now();
    let found = web_sessions::by_hash(&mut connection, &secrets::hash(secret)).await?;
    let Some(session) = found.filter(|session| session.is_valid(now)) else {
        return Ok(None);
    };
    let user = users::get(&mut connection, &session.user_id).await?;
    let Some(user) = user.filter(UserRecord::is_enabled) else {
        return Ok(None);
    };
    if session.is_use_worth_noting(now) {
        let (db, id) = (app.db.clone(), session.id.clone());
        // Not awaited: a page must not wait for, or fail with, the note that it was read.
        tokio::spawn(async move {
            let noted = db
                .write(move |tx| {
                    let id = id.clone();
                    Box::pin(async move { web_sessions::touch(tx, &id).await })
                })
                .await;
            if let Err(error) = noted {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a session's use could not be noted"
                );
            }
        });
    }
    Ok(Some(SignedIn { session, user }))
}

/// The token that forms of a page carry: only pages of this control plane can know it. `bound_to` is the session's id,
/// or for the sign-in form the value of a cookie of its own.
pub fn form_token(app: &App, bound_to: &str) -> String {
    URL_SAFE_NO_PAD.encode(app.objects.keyring().sign(FORM_PURPOSE, bound_to))
}

/// Whether a form's token is the one of [`form_token`].
pub fn is_form_token(app: &App, bound_to: &str, token: &str) -> bool {
    URL_SAFE_NO_PAD
        .decode(token)
        .is_ok_and(|token| app.objects.keyring().verify(FORM_PURPOSE, bound_to, &token))
}

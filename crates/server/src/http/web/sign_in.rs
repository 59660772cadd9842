//! Signing in and out.

use askama::Template;
use axum::extract::{Request, State};
use axum::http::header::{SET_COOKIE, USER_AGENT};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Redirect};
use serde_json::json;
use terrapool_protocol::secret::Secret;
use terrapool_store::users::{self, UserRecord};
use terrapool_store::{audit, web_sessions};

use super::error::WebError;
use super::form::{Fields, SignedForm};
use super::page::{Page, RootAttributes, html_with};
use super::parts::time::Day;
use super::parts::{Icon, words};
use super::visitor::root_attributes;
use crate::app::App;
use crate::auth::{password, session};
use crate::http::answer::Params;
use crate::http::error::ApiError;
use crate::http::routes::{Routes, get, post};

/// Seconds that a session's cookie is kept; the session may be over before.
const COOKIE_SECONDS: u64 = web_sessions::LONGEST.0 / 1000;

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new()
        .route("/", get(|| async { Redirect::to("/app") }))
        .route("/sign-in", get(show).post(sign_in))
        .route("/sign-out", post(sign_out))
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    root: RootAttributes,
    host: String,
    token: String,
    to: String,
    login: String,
    problem: Option<String>,
}

/// Only pages of the UI: a link to the sign-in page must not lead elsewhere.
fn destination(text: &str) -> String {
    let local = text == "/app" || text.starts_with("/app/") || text.starts_with("/app?");
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if local && plain { text } else { "/app" }.to_owned()
}

fn page(
    app: &App,
    headers: &HeaderMap,
    status: StatusCode,
    filled: (String, String),
    problem: Option<String>,
) -> Page {
    let (to, login) = filled;
    // The form of somebody who is not signed in yet is bound to a cookie of its own.
    let nonce = session::cookie_value(app, headers, "form").map_or_else(
        || {
            app.db
                .entropy()
                .draw()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        },
        str::to_owned,
    );
    let page = SignInPage {
        root: root_attributes(app, headers),
        host: app.config.public_host().to_owned(),
        token: session::form_token(app, &format!("sign-in {nonce}")),
        to,
        login,
        problem,
    };
    let cookie = session::cookie(app, "form", &nonce, None);
    Ok(([(SET_COOKIE, cookie)], html_with(status, &page)?).into_response())
}

/// `GET /sign-in`
async fn show(State(app): State<App>, headers: HeaderMap, params: Params) -> Page {
    let to = destination(params.get("to").unwrap_or_default());
    if session::find(&app, &headers).await?.is_some() {
        return Ok(Redirect::to(&to).into_response());
    }
    page(&app, &headers, StatusCode::OK, (to, String::new()), None)
}

/// `POST /sign-in`
async fn sign_in(State(app): State<App>, headers: HeaderMap, request: Request) -> Page {
    let address = crate::http::peer(&request).unwrap_or_default();
    let fields = Fields::read(request).await?;
    let nonce = session::cookie_value(&app, &headers, "form").unwrap_or_default();
    let filled = (destination(fields.raw("to")), fields.text("login").to_owned());
    if nonce.is_empty() || !session::is_form_token(&app, &format!("sign-in {nonce}"), fields.raw("token")) {
        let problem =
            "Your browser sent no cookie with this form. Allow cookies for this server, then try again.";
        return page(
            &app,
            &headers,
            StatusCode::FORBIDDEN,
            filled,
            Some(problem.to_owned()),
        );
    }
    let login = filled.1.clone();
    if let Some(until) = app.sign_in_attempts.paused_until(&login, &address, app.now()) {
        let problem = format!(
            "Too many wrong passwords. Try again at {} UTC.",
            clock_words(until)
        );
        return page(
            &app,
            &headers,
            StatusCode::TOO_MANY_REQUESTS,
            filled,
            Some(problem),
        );
    }
    let mut connection = app.db.read().await?;
    let user = users::by_login(&mut connection, &login).await?;
    drop(connection);
    let stored = user.as_ref().and_then(|user| user.password_hash.clone());
    let right = password::check(Secret::new(fields.raw("password")), stored).await;
    match user.filter(|_| right) {
        // Only to who knows the password: others learn of no account.
        Some(user) if !user.is_enabled() => {
            note(&app, user.id.as_str(), "sign-in.refused", &address).await?;
            let problem = "This account is disabled. A site administrator of this server can enable it.";
            page(
                &app,
                &headers,
                StatusCode::FORBIDDEN,
                filled,
                Some(problem.to_owned()),
            )
        }
        Some(user) => {
            app.sign_in_attempts.succeeded(&login);
            let browser = headers
                .get(USER_AGENT)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            let secret = session::begin(&app, &user.id, browser, &address).await?;
            note(&app, user.id.as_str(), "sign-in", &address).await?;
            let cookies = AppendHeaders([
                (
                    SET_COOKIE,
                    session::cookie(&app, "session", secret.expose(), Some(COOKIE_SECONDS)),
                ),
                (SET_COOKIE, session::cookie(&app, "form", "", Some(0))),
            ]);
            Ok((cookies, Redirect::to(&filled.0)).into_response())
        }
        None => {
            let left = app.sign_in_attempts.failed(&login, &address, app.now());
            note(&app, &login, "sign-in.refused", &address).await?;
            let problem = match left {
                0 => "That name and password do not match. Signing in pauses for 15 minutes.".to_owned(),
                left => format!(
                    "That name and password do not match. {} left before a pause of 15 minutes.",
                    words::count(u64::from(left), "try", "tries")
                ),
            };
            page(&app, &headers, StatusCode::UNAUTHORIZED, filled, Some(problem))
        }
    }
}

fn clock_words(at: terrapool_model::time::Timestamp) -> String {
    let full = Day::new(at, at).to_string();
    // The words between the tags.
    full.split(['>', '<']).nth(2).unwrap_or_default().to_owned()
}

/// Writes a sign-in down. Names that were typed in may be passwords by mistake, so only those of users are kept.
async fn note(app: &App, actor: &str, action: &'static str, address: &str) -> Result<(), WebError> {
    let (actor, address) = (actor.to_owned(), address.to_owned());
    app.db
        .write(move |tx| {
            let (actor, address) = (actor.clone(), address.clone());
            Box::pin(async move {
                let known = match actor.parse() {
                    Ok(id) => Some(id),
                    Err(_) => users::by_login(tx, &actor).await?.map(|user: UserRecord| user.id),
                };
                let actor = known.as_ref().map_or("somebody", |id| id.as_str());
                audit::record(tx, None, actor, action, actor, &json!({"address": address})).await?;
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    Ok(())
}

/// `POST /sign-out`
async fn sign_out(State(app): State<App>, form: SignedForm) -> Page {
    let (user, id) = (form.visitor.user.id.clone(), form.visitor.session.id.clone());
    app.db
        .write(move |tx| {
            let (user, id) = (user.clone(), id.clone());
            Box::pin(async move {
                web_sessions::end(tx, &user, &id).await?;
                audit::record(tx, None, user.as_str(), "sign-out", user.as_str(), &json!({})).await?;
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    let cookie = session::cookie(&app, "session", "", Some(0));
    Ok(([(SET_COOKIE, cookie)], Redirect::to("/sign-in")).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_leads_to_pages_of_the_ui_only() {
        assert_eq!(
            destination("/app/acme/runs?status=ask"),
            "/app/acme/runs?status=ask"
        );
        for elsewhere in [
            "https://evil.example",
            "//evil.example",
            "/appx",
            "/app/\\evil",
            "",
            "/sign-out",
        ] {
            assert_eq!(destination(elsewhere), "/app", "{elsewhere}");
        }
    }
}

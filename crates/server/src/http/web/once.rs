//! Forms that are sent twice do their work once: each names itself by a hidden field, and what it was answered is kept.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};
use terrapool_model::time::Millis;
use terrapool_store::db::origin;
use terrapool_store::error::StoreError;
use terrapool_store::form_answers::{self, FormAnswer, Sent};
use tracing::Instrument as _;

use super::error::WebError;
use super::form::Fields;
use super::parts::time::Ago;
use super::visitor::Visitor;
use crate::app::App;
use crate::auth::session;

/// How long a form that is sent again waits for the answer to the first one.
const PATIENCE: Duration = Duration::from_secs(10);
/// A form that is sent again later than so is no double click.
const LATE: Millis = Millis::from_seconds(10);
/// How often it looks for that answer.
const LOOK_EACH: Duration = Duration::from_millis(50);

/// Where a form's digest is noted when its work was claimed, so that the answer can be kept by it.
#[derive(Debug, Clone, Default)]
struct Claimed(Arc<OnceLock<Vec<u8>>>);

/// The digest of who sent what to where.
fn digest(session: &str, path: &str, fields: &Fields) -> Vec<u8> {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        // With lengths, so that no two forms have the same bytes.
        hash.update(text.len().to_be_bytes());
        hash.update(text.as_bytes());
    };
    add(session);
    add(path);
    for (name, value) in fields.pairs() {
        add(name);
        add(value);
    }
    hash.finalize().to_vec()
}

/// Claims a form's work for this request.
///
/// # Errors
/// [`WebError::Repeated`] with the answer, when the form was sent before and that one did its work or still does.
pub(super) async fn claim(
    app: &App,
    parts: &Parts,
    visitor: &Visitor,
    fields: &Fields,
) -> Result<(), WebError> {
    let (Some(claimed), false) = (parts.extensions.get::<Claimed>(), fields.text("once").is_empty()) else {
        return Ok(());
    };
    let digest = digest(visitor.session.id.as_str(), &visitor.path, fields);
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let taken = match take(app, &digest).await {
            // What a form changes in the database is not changed now either; the choice of a theme is a cookie.
            Err(error) if error.is_unavailable() => return Ok(()),
            taken => taken?,
        };
        let Some(sent) = taken else {
            // Each request has one form.
            let _ = claimed.0.set(digest);
            return Ok(());
        };
        if let Some(answer) = sent.answer {
            let late = app.now() - sent.at > LATE;
            return Err(WebError::Repeated(Some(if late {
                told_late(answer, visitor, &Ago::new(sent.at, app.now()))
            } else {
                answer
            })));
        }
        if tokio::time::Instant::now() >= until {
            return Err(WebError::Repeated(None));
        }
        // The first one is refused or answered at some time: then this one's work is to be done, or its answer known.
        tokio::time::sleep(LOOK_EACH).await;
    }
}

async fn take(app: &App, digest: &[u8]) -> Result<Option<Sent>, StoreError> {
    if let Some(sent) = form_answers::get(&mut app.db.read().await?, digest).await? {
        return Ok(Some(sent));
    }
    let digest = digest.to_vec();
    app.db
        .write(move |tx| {
            let digest = digest.clone();
            Box::pin(async move { form_answers::claim(tx, &digest).await })
        })
        .await
}

/// The answer with another sentence than the first one's: what that tells may have changed since.
fn told_late(mut answer: FormAnswer, visitor: &Visitor, ago: &Ago) -> FormAnswer {
    answer.cookies.push(visitor.flash_cookie(&format!(
        "This form was sent already ({}), and did its work then. Nothing was done now.",
        ago.words()
    )));
    answer
}

/// The answer to a form that was sent before, as it was; `None` where a page was shown that is not kept.
pub(super) fn again(answer: &FormAnswer) -> Option<Response> {
    let location = HeaderValue::from_str(answer.location.as_deref()?).ok()?;
    let mut response = StatusCode::from_u16(answer.status).ok()?.into_response();
    response.headers_mut().insert(LOCATION, location);
    for cookie in &answer.cookies {
        response
            .headers_mut()
            .append(SET_COOKIE, HeaderValue::from_str(cookie).ok()?);
    }
    Some(response)
}

/// Keeps the answers to forms, and lets their work end also when the browser does not wait for it.
pub(super) async fn keep(State(app): State<App>, mut request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let claimed = Claimed::default();
    request.extensions_mut().insert(claimed.clone());
    let (kept_by, of_form) = (app.clone(), claimed.clone());
    // A task of its own: a browser that sends a form twice drops the first request, whose work is half done then.
    let work = async move {
        let response = next.run(request).await;
        if let Some(digest) = claimed.0.get() {
            let answer = answer_of(&app, &response);
            note(&app, digest.clone(), answer).await;
        }
        response
    };
    match tokio::spawn(origin::carried(work).in_current_span()).await {
        Ok(response) => response,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => {
                // It may be sent again, as one whose work failed otherwise.
                if let Some(digest) = of_form.0.get() {
                    note(&kept_by, digest.clone(), None).await;
                }
                std::panic::resume_unwind(panic)
            }
            Err(_) => WebError::internal("the program is ending".to_owned()).into_response(),
        },
    }
}

/// What a form was answered that did its work; `None` when it was refused or failed.
fn answer_of(app: &App, response: &Response) -> Option<FormAnswer> {
    let status = response.status();
    (status.is_success() || status.is_redirection()).then(|| FormAnswer {
        status: status.as_u16(),
        location: text(response.headers().get(LOCATION)),
        cookies: cookies(app, response.headers()),
    })
}

/// Writes down what a form was answered; one that did nothing may be sent again.
async fn note(app: &App, digest: Vec<u8>, answer: Option<FormAnswer>) {
    let noted = app
        .db
        .write::<_, StoreError, _>(move |tx| {
            let (digest, answer) = (digest.clone(), answer.clone());
            Box::pin(async move {
                match &answer {
                    Some(answer) => form_answers::answer(tx, &digest, answer).await,
                    None => form_answers::release(tx, &digest).await,
                }
            })
        })
        .await;
    if let Err(error) = noted {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the answer to a form was not noted"
        );
    }
}

/// The cookies of an answer that may be sent again: the session's is a credential, which is stored nowhere.
fn cookies(app: &App, headers: &HeaderMap) -> Vec<String> {
    let session = format!("{}=", session::cookie_name(app, "session"));
    headers
        .get_all(SET_COOKIE)
        .iter()
        .filter_map(|cookie| text(Some(cookie)))
        .filter(|cookie| !cookie.starts_with(&session))
        .collect()
}

fn text(value: Option<&HeaderValue>) -> Option<String> {
    value.and_then(|value| value.to_str().ok()).map(str::to_owned)
}

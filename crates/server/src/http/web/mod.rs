//! The web UI. Pages are HTML that works without scripts; scripts only remove waiting.
//!
//! A page's handler reads by the store, decides by pure functions, and fills a template. What changes something goes
//! through the API's own handlers.

use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, SET_COOKIE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};

use super::error::ApiError;
use super::routes::Routes;
use crate::app::App;

pub mod assets;
pub mod error;
pub mod form;
pub mod page;
pub mod parts;
pub mod visitor;

mod account;
mod administration;
pub(super) mod authorize;
pub mod changes;
mod events;
mod failure;
pub mod logs;
mod once;
mod organizations;
pub mod paging;
mod pools;
mod retyped;
mod runs;
mod shared_pool;
mod sign_in;
mod watch;
mod workspaces;

/// What pages may load and do: their own files, nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; frame-ancestors 'none'; form-action ";

/// The policy of a page whose forms, with what they lead to, go to these places.
fn policy_with_form_action(places: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("{POLICY}{places}"))
        .unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// The routes.
pub fn router(app: &App) -> Routes {
    let pages = Routes::new()
        .merge(sign_in::routes())
        .merge(events::routes())
        .merge(workspaces::routes())
        .merge(runs::routes())
        .merge(pools::routes())
        .merge(organizations::routes())
        .merge(account::routes())
        .merge(authorize::routes())
        .merge(administration::routes())
        .merge(shared_pool::routes())
        .around(|router| {
            router
                .layer(middleware::from_fn_with_state(app.clone(), once::keep))
                .layer(middleware::from_fn_with_state(app.clone(), dress))
        });
    Routes::new()
        .merge(assets::routes())
        .merge(authorize::token_routes())
        .merge(pages)
}

/// Gives pages their headers, and failures their page.
async fn dress(State(app): State<App>, request: Request, next: Next) -> Response {
    let asked = failure::Asked::of(&request);
    let response = next.run(request).await;
    dressed(&app, &asked, response).await
}

/// What is answered where there is nothing: a page to somebody who looks for one.
pub async fn fallback(State(app): State<App>, request: Request) -> Response {
    let path = request.uri().path();
    if path != "/app" && !path.starts_with("/app/") {
        return ApiError::NotFound.into_response();
    }
    let asked = failure::Asked::of(&request);
    dressed(&app, &asked, error::WebError::not_found().into_response()).await
}

async fn dressed(app: &App, asked: &failure::Asked, mut response: Response) -> Response {
    if let Some(failure) = response.extensions_mut().remove::<error::Failure>() {
        // It shows no sentence about what was done: that one waits for the next page.
        response = failure::page(app, asked, response.status(), failure).await;
    } else if response.extensions().get::<page::WholePage>().is_some()
        && let Some(shown) = visitor::flash_shown(app, &asked.headers)
    {
        response.headers_mut().append(SET_COOKIE, shown);
    }
    let headers = response.headers_mut();
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert_with(|| policy_with_form_action("'self'"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    );
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// A text as part of an address.
pub fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

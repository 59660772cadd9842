//! The rate limit of each token, off unless it is configured.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use terrapool_model::id::TokenId;
use terrapool_model::time::Timestamp;

use super::error::ApiError;
use crate::app::App;
use crate::auth;

/// Requests of the running second, for each token. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct RateLimiter {
    windows: Arc<Mutex<(i64, HashMap<TokenId, u32>)>>,
}

impl RateLimiter {
    /// Counts a request. Returns how many are left in this second, or `None` when it is one too many.
    fn take(&self, token: &TokenId, limit: u32, now: Timestamp) -> Option<u32> {
        let second = now.0.div_euclid(1000);
        let mut windows = self
            .windows
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if windows.0 != second {
            *windows = (second, HashMap::new());
        }
        let used = windows.1.entry(token.clone()).or_insert(0);
        if *used >= limit {
            return None;
        }
        *used += 1;
        Some(limit - *used)
    }
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// Answers 429 when a token has used up its second. Requests without a token pass; they are refused further in.
pub(super) async fn limit(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(limit) = app.config.rate_limit else {
        return next.run(request).await;
    };
    let (mut parts, body) = request.into_parts();
    let caller = match auth::bearer(&parts) {
        Some(token) => match auth::authenticate(&app, token).await {
            Ok(caller) => caller,
            Err(error) => return error.into_response(),
        },
        None => return next.run(Request::from_parts(parts, body)).await,
    };
    let now = app.now();
    let left = app.rate_limiter.take(&caller.token, limit, now);
    #[expect(clippy::cast_precision_loss, reason = "a fraction of a second")]
    let reset = (1000 - now.0.rem_euclid(1000)) as f64 / 1000.0;
    let mut response = match left {
        Some(_) => {
            parts.extensions.insert(caller);
            next.run(Request::from_parts(parts, body)).await
        }
        None => ApiError::TooMany { reset }.into_response(),
    };
    let headers = response.headers_mut();
    // Clients divide by three and round down: less than 4 would stop them altogether.
    set(headers, "x-ratelimit-limit", &limit.max(4).to_string());
    set(headers, "x-ratelimit-remaining", &left.unwrap_or(0).to_string());
    set(headers, "x-ratelimit-reset", &format!("{reset:.3}"));
    response
}

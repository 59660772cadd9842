//! The agent protocol at `/agent/v1/`. The messages are documented in the protocol crate.

use crate::http::routes::{Routes, get, patch, post, put};

mod claims;
mod credentials;
mod deliveries;
mod error;
mod finish;
mod register;
mod relay;
mod specs;
mod sync;

/// Largest piece of a log in one request, in bytes.
const LOG_BYTES: usize = 16 << 20;

/// The routes.
pub fn router() -> Routes {
    let jobs = "/agent/v1/jobs/{job}";
    Routes::new()
        .route("/agent/v1/register", post(register::register))
        .route("/agent/v1/sync", post(sync::sync))
        .route(&format!("{jobs}/claim"), post(claims::claim))
        .route(&format!("{jobs}/start"), post(claims::start))
        .route(&format!("{jobs}/bundle"), get(deliveries::bundle))
        .route(
            &format!("{jobs}/log"),
            patch(deliveries::append_log)
                .around(|router| router.layer(axum::extract::DefaultBodyLimit::max(LOG_BYTES))),
        )
        .route(&format!("{jobs}/state"), put(deliveries::put_state))
        .route(
            &format!("{jobs}/artifacts/{{name}}"),
            put(deliveries::put_artifact),
        )
        .route(&format!("{jobs}/progress"), put(deliveries::put_progress))
        .route(&format!("{jobs}/finish"), post(finish::finish))
        .merge(
            Routes::new()
                .route(&format!("{jobs}/relay/{{*path}}"), get(relay::read))
                .around(|router| router.layer(axum::middleware::from_fn(super::tfe::headers))),
        )
}

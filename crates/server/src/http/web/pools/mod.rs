//! Agent pools and their agents.

use super::error::WebError;
use super::visitor::Visitor;
use crate::app::App;
use crate::http::routes::{Routes, get, post};

mod access;
mod agent;
mod agents;
mod connect;
mod create;
pub(super) mod figures;
mod frame;
mod health;
mod install;
mod list;
mod observed;
pub(super) mod settings;
pub(super) mod status;
pub(super) mod tokens;

pub(super) use install::{here, own_ca};

/// The routes.
pub(super) fn routes() -> Routes {
    const POOL: &str = "/app/{org}/agent-pools/{pool}";
    Routes::new()
        .route("/app/{org}/agent-pools", get(list::show).post(create::create))
        .route("/app/{org}/agent-pools/new", get(create::show))
        .route(POOL, get(agents::show))
        .route(&format!("{POOL}/install"), get(install::show))
        .route(&format!("{POOL}/connect"), get(connect::show))
        .route(&format!("{POOL}/tokens"), get(tokens::show).post(tokens::create))
        .route(&format!("{POOL}/tokens/revoke"), post(tokens::revoke))
        .route(&format!("{POOL}/access"), get(access::show).post(access::save))
        .route(
            &format!("{POOL}/settings"),
            get(settings::show).post(settings::save),
        )
        .route(&format!("{POOL}/pause"), post(settings::pause))
        .route(&format!("{POOL}/delete"), post(settings::delete))
        .route(&format!("{POOL}/agents/{{agent}}"), get(agent::show))
        .route(&format!("{POOL}/agents/{{agent}}/delete"), post(agent::delete))
        .route(&format!("{POOL}/agents/{{agent}}/drain"), post(agent::drain))
        .route(&format!("{POOL}/agents/{{agent}}/resume"), post(agent::resume))
}

/// The parts of a pool's page that change while somebody looks.
pub(super) async fn live_parts(
    app: &App,
    visitor: &Visitor,
    organization: &str,
    kind: &str,
    id: &str,
) -> Result<Vec<String>, WebError> {
    let names = (organization.to_owned(), id.to_owned());
    match kind {
        "pool" => agents::live_parts(app, visitor, &names).await,
        "connect" => connect::live_parts(app, visitor, &names).await,
        "agent" => agent::live_parts(app, visitor, organization, id).await,
        _ => Err(WebError::not_found()),
    }
}

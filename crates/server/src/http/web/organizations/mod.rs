//! What belongs to a whole organization.

use axum::Router;
use axum::routing::{get, post};

use crate::app::App;

mod access;
pub(super) mod audit;
mod choice;
mod fleet;
mod projects;
mod settings;

/// The routes.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/app", get(choice::home))
        .route("/app/organizations", get(choice::show).post(choice::create))
        .route("/app/{org}", get(choice::of_organization))
        .route("/app/{org}/search", get(choice::search))
        .route("/app/{org}/projects", get(projects::show).post(projects::save))
        .route("/app/{org}/projects/delete", post(projects::delete))
        .route("/app/{org}/projects/{id}", get(projects::show_one))
        .route("/app/{org}/access", get(access::show))
        .route("/app/{org}/fleet", get(fleet::show))
        .route("/app/{org}/audit", get(audit::show))
        .route("/app/{org}/settings", get(settings::show).post(settings::save))
}

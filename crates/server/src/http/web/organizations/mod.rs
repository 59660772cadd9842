//! What belongs to a whole organization.

use crate::http::routes::{Routes, get, post};

mod access;
pub(super) mod audit;
pub(super) mod audit_export;
mod choice;
mod fleet;
mod people;
mod project;
mod projects;
mod settings;
mod trouble;
mod why;

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new()
        .route("/app", get(choice::home))
        .route("/app/organizations", get(choice::show).post(choice::create))
        .route("/app/{org}", get(choice::of_organization))
        .route("/app/{org}/search", get(choice::search))
        .route("/app/{org}/projects", get(projects::show).post(projects::save))
        .route("/app/{org}/projects/delete", post(projects::delete))
        .route("/app/{org}/projects/{id}", get(project::show))
        .route("/app/{org}/access", get(access::show).post(why::change))
        .route("/app/{org}/fleet", get(fleet::show))
        .route("/app/{org}/audit", get(audit::show))
        .route("/app/{org}/audit/export", get(audit_export::show))
        .route("/app/{org}/people", get(people::show).post(people::add))
        .route("/app/{org}/people/remove", post(people::remove))
        .route("/app/{org}/people/teams", post(people::create_team))
        .route(
            "/app/{org}/people/teams/{id}",
            get(people::show_team).post(people::save_team),
        )
        .route("/app/{org}/people/teams/{id}/members", post(people::add_to_team))
        .route(
            "/app/{org}/people/teams/{id}/members/remove",
            post(people::remove_from_team),
        )
        .route("/app/{org}/people/teams/{id}/access", post(people::grant))
        .route("/app/{org}/people/teams/{id}/access/revoke", post(people::revoke))
        .route("/app/{org}/people/teams/{id}/delete", post(people::delete_team))
        .route("/app/{org}/settings", get(settings::show).post(settings::save))
}

//! Workspaces and their tabs.

use terrapool_model::engine::EngineKind;
use terrapool_store::workspaces::WorkspaceRecord;

use crate::http::routes::{Routes, get, post};

mod actions;
mod create;
mod frame;
mod list;
mod origin;
mod overview;
mod settings;
mod states;
mod variables;

pub(super) use states::{Output, outputs, read as read_document};

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new()
        .route("/app/{org}/workspaces", get(list::show).post(create::create))
        .route("/app/{org}/workspaces/new", get(create::show))
        .route("/app/{org}/workspaces/{name}", get(overview::show))
        .route(
            "/app/{org}/workspaces/{name}/runs",
            get(overview::runs).post(actions::start_run),
        )
        .route("/app/{org}/workspaces/{name}/lock", post(actions::lock))
        .route("/app/{org}/workspaces/{name}/unlock", post(actions::unlock))
        .route(
            "/app/{org}/workspaces/{name}/force-unlock",
            post(actions::force_unlock),
        )
        .route("/app/{org}/workspaces/{name}/delete", post(actions::delete))
        .route("/app/{org}/workspaces/{name}/states", get(states::show))
        .route(
            "/app/{org}/workspaces/{name}/states/{id}/{action}",
            post(states::act),
        )
        .route(
            "/app/{org}/workspaces/{name}/states/{id}/download",
            get(states::download),
        )
        .route(
            "/app/{org}/workspaces/{name}/variables",
            get(variables::show).post(variables::save),
        )
        .route(
            "/app/{org}/workspaces/{name}/variables/delete",
            post(variables::delete),
        )
        .route(
            "/app/{org}/workspaces/{name}/settings",
            get(settings::show).post(settings::save),
        )
}

/// "Terraform 1.11.4".
pub(super) fn engine_words(record: &WorkspaceRecord) -> String {
    engine_name(record.engine, &record.engine_version)
}

/// An engine and its version as people read it.
pub(super) fn engine_name(kind: EngineKind, version: &str) -> String {
    let name = match kind {
        EngineKind::Terraform => "Terraform",
        EngineKind::Tofu => "OpenTofu",
    };
    format!("{name} {version}")
}

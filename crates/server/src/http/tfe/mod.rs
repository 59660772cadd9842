//! The Terraform Enterprise API, at exactly `/api/v2/`.

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

use super::error::{ApiError, JSON_API};
use super::rate_limit;
use crate::app::App;
use crate::http::routes::{Routes, get, patch, post};

pub(super) mod agent_pools;
pub(super) mod agents;
mod configuration_versions;
mod engine_versions;
mod execution;
pub(super) mod kept_apart;
pub(super) mod lease_times;
pub(super) mod locks;
pub(super) mod memberships;
mod organization_runs;
pub(super) mod organizations;
pub(super) mod plans;
pub(super) mod projects;
pub(super) mod run_actions;
pub(super) mod runs;
mod sandbox_settings;
pub(crate) mod state_outputs;
mod state_sharing;
pub(crate) mod state_versions;
mod tags;
pub(super) mod team_access;
pub(super) mod teams;
pub(super) mod tokens;
pub(super) mod users;
pub(super) mod variables;
pub(super) mod whereabouts;
pub(super) mod workspace_deletion;
mod workspace_settings;
pub(super) mod workspaces;

pub(super) fn router(app: &App) -> Routes {
    let api = Routes::new()
        .route("/ping", get(ping))
        .merge(organization_routes())
        .merge(team_routes())
        .merge(workspace_routes())
        .merge(state_routes())
        .merge(run_routes())
        .merge(agent_routes())
        .merge(engine_versions::routes())
        .around(|router| {
            router
                .fallback(|| async { ApiError::NotFound })
                .method_not_allowed_fallback(|| async { ApiError::NotFound })
                .layer(middleware::from_fn_with_state(app.clone(), rate_limit::limit))
                .layer(middleware::from_fn(headers))
        });
    api.below(super::answer::PREFIX)
}

fn organization_routes() -> Routes {
    Routes::new()
        .route("/account/details", get(users::details))
        .route("/account/update", patch(users::update))
        .route("/users/{id}", get(users::show))
        .route(
            "/users/{id}/authentication-tokens",
            get(tokens::of_user).post(tokens::create_for_user),
        )
        .route(
            "/authentication-tokens/{id}",
            get(tokens::show).delete(tokens::delete),
        )
        .route(
            "/organizations",
            get(organizations::list).post(organizations::create),
        )
        .route(
            "/organizations/{org}",
            get(organizations::show)
                .patch(organizations::update)
                .delete(organizations::delete),
        )
        .route(
            "/organizations/{org}/entitlement-set",
            get(organizations::entitlements),
        )
        .route("/organizations/{org}/capacity", get(organizations::capacity))
        .route("/organizations/{org}/tags", get(tags::of_organization))
        .route(
            "/organizations/{org}/authentication-token",
            get(tokens::of_organization)
                .post(tokens::create_for_organization)
                .delete(tokens::delete_of_organization),
        )
        .route(
            "/organizations/{org}/projects",
            get(projects::list).post(projects::create),
        )
        .route(
            "/projects/{id}",
            get(projects::show)
                .patch(projects::update)
                .delete(projects::delete),
        )
}

fn team_routes() -> Routes {
    Routes::new()
        .route(
            "/organizations/{org}/organization-memberships",
            get(memberships::list).post(memberships::create),
        )
        .route(
            "/organization-memberships/{id}",
            get(memberships::show).delete(memberships::delete),
        )
        .route("/organizations/{org}/teams", get(teams::list).post(teams::create))
        .route(
            "/teams/{id}",
            get(teams::show).patch(teams::update).delete(teams::delete),
        )
        .route(
            "/teams/{id}/relationships/users",
            post(teams::add_users).delete(teams::remove_users),
        )
        .route(
            "/teams/{id}/relationships/organization-memberships",
            post(teams::add_memberships).delete(teams::remove_memberships),
        )
        .route(
            "/team-workspaces",
            get(team_access::list_of_workspace).post(team_access::grant_workspace),
        )
        .route(
            "/team-workspaces/{id}",
            get(team_access::show_workspace)
                .patch(team_access::change_workspace)
                .delete(team_access::revoke_workspace),
        )
        .route(
            "/team-projects",
            get(team_access::list_of_project).post(team_access::grant_project),
        )
        .route(
            "/team-projects/{id}",
            get(team_access::show_project)
                .patch(team_access::change_project)
                .delete(team_access::revoke_project),
        )
}

fn workspace_routes() -> Routes {
    Routes::new()
        .route(
            "/organizations/{org}/workspaces",
            get(workspaces::list).post(workspaces::create),
        )
        .route(
            "/organizations/{org}/workspaces/{name}",
            get(workspaces::show_by_name)
                .patch(workspaces::update_by_name)
                .delete(workspace_deletion::delete_by_name),
        )
        .route(
            "/organizations/{org}/workspaces/{name}/actions/safe-delete",
            post(workspace_deletion::safe_delete_by_name),
        )
        .route(
            "/workspaces/{id}",
            get(workspaces::show)
                .patch(workspaces::update)
                .delete(workspace_deletion::delete),
        )
        .route(
            "/workspaces/{id}/actions/safe-delete",
            post(workspace_deletion::safe_delete),
        )
        .route("/workspaces/{id}/actions/lock", post(locks::lock))
        .route("/workspaces/{id}/actions/unlock", post(locks::unlock))
        .route("/workspaces/{id}/actions/force-unlock", post(locks::force_unlock))
        .route(
            "/workspaces/{id}/relationships/tags",
            get(tags::list).post(tags::add).delete(tags::remove),
        )
        .route(
            "/workspaces/{id}/tag-bindings",
            get(tags::bindings).patch(tags::add_bindings),
        )
        .route(
            "/workspaces/{id}/effective-tag-bindings",
            get(tags::effective_bindings),
        )
        .route(
            "/workspaces/{id}/relationships/remote-state-consumers",
            get(state_sharing::list)
                .post(state_sharing::add)
                .patch(state_sharing::replace)
                .delete(state_sharing::remove),
        )
        .route(
            "/workspaces/{id}/vars",
            get(variables::list).post(variables::create),
        )
        .route(
            "/workspaces/{id}/vars/{variable}",
            get(variables::show)
                .patch(variables::update)
                .delete(variables::delete),
        )
        .route("/workspaces/{id}/all-vars", get(variables::list))
        // The older form of the same, still used by scripts.
        .route(
            "/vars",
            get(variables::list_by_name).post(variables::create_by_relationship),
        )
        .route(
            "/vars/{variable}",
            patch(variables::update_by_id).delete(variables::delete_by_id),
        )
}

fn state_routes() -> Routes {
    Routes::new()
        .route(
            "/workspaces/{id}/configuration-versions",
            get(configuration_versions::list).post(configuration_versions::create),
        )
        .route("/configuration-versions/{id}", get(configuration_versions::show))
        .route(
            "/configuration-versions/{id}/download",
            get(configuration_versions::download),
        )
        .route("/state-versions", get(state_versions::list_by_name))
        .route(
            "/workspaces/{id}/state-versions",
            get(state_versions::list)
                .post(state_versions::create)
                .patch(kept_apart::roll_back),
        )
        .route("/workspaces/{id}/kept-apart-states", get(kept_apart::list))
        .route(
            "/kept-apart-states/{id}/actions/promote",
            post(kept_apart::promote),
        )
        .route(
            "/kept-apart-states/{id}/actions/dismiss",
            post(kept_apart::dismiss),
        )
        .route("/orphan-states", get(kept_apart::orphans))
        .route("/orphan-states/{id}/download", get(kept_apart::download_orphan))
        .route(
            "/workspaces/{id}/current-state-version",
            get(state_versions::current),
        )
        .route(
            "/workspaces/{id}/current-state-version-outputs",
            get(state_outputs::current),
        )
        .route("/state-versions/{id}", get(state_versions::show))
        .route("/state-versions/{id}/download", get(state_versions::download))
        .route(
            "/state-versions/{id}/json-download",
            get(state_versions::download_json),
        )
        .route("/state-versions/{id}/outputs", get(state_outputs::of_version))
        .route("/state-version-outputs/{id}", get(state_outputs::show))
}

fn run_routes() -> Routes {
    Routes::new()
        .route("/runs", post(runs::create))
        .route("/runs/{id}", get(runs::show))
        .route("/runs/{id}/run-events", get(runs::events))
        .route("/runs/{id}/whereabouts", get(whereabouts::show))
        .route("/runs/{id}/actions/apply", post(run_actions::apply))
        .route("/runs/{id}/actions/discard", post(run_actions::discard))
        .route("/runs/{id}/actions/cancel", post(run_actions::cancel))
        .route("/runs/{id}/actions/force-cancel", post(run_actions::force_cancel))
        .route("/runs/{id}/plan", get(plans::plan_of_run))
        .route("/runs/{id}/apply", get(plans::apply_of_run))
        .route("/workspaces/{id}/runs", get(runs::of_workspace))
        .route("/organizations/{org}/runs", get(organization_runs::all))
        .route("/organizations/{org}/runs/queue", get(runs::queue))
        .route("/plans/{id}", get(plans::plan))
        .route("/plans/{id}/json-output", get(plans::json_output))
        .route(
            "/plans/{id}/json-output-redacted",
            get(plans::json_output_redacted),
        )
        .route("/applies/{id}", get(plans::apply))
}

fn agent_routes() -> Routes {
    Routes::new()
        .route(
            "/organizations/{org}/agent-pools",
            get(agent_pools::list).post(agent_pools::create),
        )
        .route(
            "/agent-pools/{id}",
            get(agent_pools::show)
                .patch(agent_pools::update)
                .delete(agent_pools::delete),
        )
        .route(
            "/agent-pools/{id}/authentication-tokens",
            get(tokens::of_pool).post(tokens::create_for_pool),
        )
        .route("/agent-pools/{id}/agents", get(agents::list))
        .route("/agents/{id}", get(agents::show).delete(agents::delete))
        .route("/agents/{id}/actions/drain", post(agents::drain))
        .route("/agents/{id}/actions/resume", post(agents::resume))
}

/// What clients ask first, for the headers. Needs no token: the CLI calls it before it knows whether its token is good.
pub(super) async fn ping() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// The API version that clients look for in the answer to `ping`.
const API_VERSION: HeaderValue = HeaderValue::from_static("2.6");
/// Shown by the CLI, which knows two names; this is the one that does not claim to be a service of its maker.
const APP_NAME: HeaderValue = HeaderValue::from_static("Terraform Enterprise");
/// Makes the CLI render structured output. It has to have this form: a plain version breaks `terraform plan`.
const TFE_VERSION: HeaderValue = HeaderValue::from_static("v202506-1");
const CURRENT_VERSION: HeaderValue = HeaderValue::from_static("1.0.0");

/// Marks answers as those of the API.
pub(super) async fn headers(request: Request, next: Next) -> Response {
    let is_get = request.method() == Method::GET;
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("tfp-api-version"), API_VERSION);
    headers.insert(HeaderName::from_static("tfp-appname"), APP_NAME);
    headers.insert(HeaderName::from_static("x-tfe-version"), TFE_VERSION);
    headers.insert(HeaderName::from_static("x-tfe-current-version"), CURRENT_VERSION);
    headers.entry(CONTENT_TYPE).or_insert(JSON_API);
    if is_get {
        headers
            .entry(axum::http::header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));
    }
    response
}

/// Which client made a request.
pub(super) fn is_tofu(headers: &HeaderMap) -> bool {
    headers
        .get(axum::http::header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|agent| agent.starts_with("OpenTofu/"))
}

/// Whether a `cloud` block made a request.
pub(super) fn is_cloud_block(headers: &HeaderMap) -> bool {
    headers
        .get("x-terraform-integration")
        .is_some_and(|value| value.as_bytes() == b"cloud")
}

/// Names what a request makes: the same name makes it once.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Longest of these names, in characters.
const LONGEST_KEY: usize = 128;

/// The name that a request gives to what it makes, if it does.
///
/// # Errors
/// [`ApiError::BadRequest`] when it is too long or no text.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    value
        .to_str()
        .ok()
        .filter(|text| (1..=LONGEST_KEY).contains(&text.len()))
        .map(|text| Some(text.to_owned()))
        .ok_or_else(|| {
            ApiError::BadRequest(format!(
                "idempotency-key has to be a text of 1 to {LONGEST_KEY} plain characters"
            ))
        })
}

/// Marks what the web UI does by the API's handlers.
pub(super) const WEB_UI: HeaderName = HeaderName::from_static("terrapool-web-ui");

/// What `source` says of a request's client.
pub(super) fn source(headers: &HeaderMap) -> &'static str {
    if headers.contains_key(WEB_UI) {
        "tfe-ui"
    } else if is_cloud_block(headers) {
        "terraform+cloud"
    } else if headers.contains_key("terraform-version") {
        "terraform"
    } else {
        "tfe-api"
    }
}

/// A state shared by handlers that only need the application.
pub(super) type AppState = State<App>;

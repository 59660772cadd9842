//! What a run reads of the control plane, asked for by its agent with the credential of the job.

use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use terrapool_model::id::{JobId, TokenId};
use terrapool_protocol::relay::{PREFIX, Route};
use terrapool_store::{runs, state_sharing, workspaces};

use super::credentials;
use super::error::AgentApiError;
use crate::app::App;
use crate::auth::{Caller, Principal, RunScope};
use crate::http::answer::Params;
use crate::http::error::{ApiError, JSON_API};
use crate::http::tfe;

/// The run of a job, for as long as an attempt holds the job: who is behind the request.
async fn run(app: &App, headers: &HeaderMap, job: &JobId) -> Result<Caller, AgentApiError> {
    let attempt = match credentials::attempt(app, headers, job).await {
        // A job that is gone has no run that could read anything.
        Err(AgentApiError::NotFound | AgentApiError::Refused(_)) => return Err(AgentApiError::Unauthorized),
        other => other?,
    };
    if !attempt.is_newest() || !attempt.job.row.is_held() {
        return Err(AgentApiError::Unauthorized);
    }
    let mut connection = app.db.read().await?;
    let run = runs::get(&mut connection, &attempt.job.run_id)
        .await?
        .ok_or(AgentApiError::Unauthorized)?;
    let workspace = workspaces::get(&mut connection, &run.workspace_id)
        .await?
        .ok_or(AgentApiError::Unauthorized)?;
    Ok(Caller {
        principal: Principal::Run(RunScope {
            run: run.id,
            reader: state_sharing::reader(&workspace),
        }),
        // Only requests with tokens of their own are counted.
        token: TokenId::from_random([0; 16]),
    })
}

/// `GET jobs/:id/relay/api/v2/…`
pub(super) async fn read(
    State(app): State<App>,
    Path((job, path)): Path<(JobId, String)>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, AgentApiError> {
    let caller = run(&app, &headers, &job).await?;
    let Some(route) = Route::of(&format!("/{path}")) else {
        return Ok(ApiError::NotFound.into_response());
    };
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(&uri)
        .map(|Query(pairs)| pairs)
        .unwrap_or_default();
    let pairs: Vec<(&str, &str)> = pairs
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let params = Params::of(&pairs);
    let app = State(app);
    let answer = match route {
        Route::Ping => return Ok(tfe::ping().await),
        Route::StateDownload { version } => {
            let answer = tfe::state_versions::download(app, caller, Path(version)).await;
            return Ok(answer.unwrap_or_else(IntoResponse::into_response));
        }
        Route::CurrentState { workspace } => {
            let public_url = app.config.public_url.clone();
            let answer = tfe::state_versions::current(app, caller, Path(workspace), params).await;
            return Ok(match answer {
                Ok(answer) => with_own_addresses(answer.into_value(), &public_url),
                Err(error) => error.into_response(),
            });
        }
        Route::Entitlements { organization } => {
            tfe::organizations::entitlements(app, caller, Path(organization)).await
        }
        Route::WorkspaceByName { organization, name } => {
            tfe::workspaces::show_by_name(app, caller, Path((organization, name)), params).await
        }
        Route::Workspace { id } => tfe::workspaces::show(app, caller, Path(id), params).await,
        Route::CurrentOutputs { workspace } => {
            tfe::state_outputs::current(app, caller, Path(workspace), params, headers).await
        }
        Route::Output { id } => tfe::state_outputs::show(app, caller, Path(id)).await,
    };
    Ok(answer.into_response())
}

/// The answer with addresses that lead back to where the request came from: a sandbox may reach nothing else.
fn with_own_addresses(mut document: Value, public_url: &str) -> Response {
    for name in ["hosted-state-download-url", "hosted-json-state-download-url"] {
        let address = &mut document["data"]["attributes"][name];
        let path = address
            .as_str()
            .and_then(|address| address.strip_prefix(public_url))
            .filter(|path| path.starts_with(PREFIX))
            .map(str::to_owned);
        if let Some(path) = path {
            *address = Value::String(path);
        }
    }
    let text = document.to_string();
    let length = HeaderValue::from(text.len());
    ([(CONTENT_TYPE, JSON_API), (CONTENT_LENGTH, length)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn addresses_of_the_control_plane_become_paths() {
        let document = json!({"data": {"attributes": {
            "hosted-state-download-url": "https://tp.example.com/api/v2/state-versions/sv-1/download",
            "hosted-json-state-download-url": null,
            "serial": 3,
        }}});
        let answer = with_own_addresses(document, "https://tp.example.com");
        let bytes = axum::body::to_bytes(answer.into_body(), 1 << 16).await.unwrap();
        let read: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            read["data"]["attributes"],
            json!({"hosted-state-download-url": "/api/v2/state-versions/sv-1/download",
                "hosted-json-state-download-url": null, "serial": 3})
        );
    }
}

//! Outputs of states, read from the raw state at each request.
//!
//! Outputs have no rows. Their ids are made of the state version's id and a digest of the output's name, so that an id
//! leads back to both.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use terrapool_model::id::StateVersionId;
use terrapool_objects::ObjectKey;
use terrapool_store::state_versions::{self, StateVersionRecord};
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::state::{self, Output};

use super::AppState;
use crate::app::App;
use crate::auth::{self, Caller, WorkspacePermission};
use crate::http::answer::{Answer, Params, Result};
use crate::http::error::ApiError;

const PREFIX: &str = "wsout-";
/// Characters of an output's id that tell its name.
const DIGEST: usize = 12;

/// The id of an output.
pub(super) fn id(version: &StateVersionId, name: &str) -> String {
    let digest: String = Sha256::digest(name)
        .iter()
        .take(DIGEST / 2)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let version = version.as_str().trim_start_matches(StateVersionId::PREFIX);
    format!("{PREFIX}{version}{digest}")
}

/// The state version in an output's id.
fn version_of(id: &str) -> Option<StateVersionId> {
    let rest = id.strip_prefix(PREFIX)?;
    let (version, _) = rest.split_at_checked(rest.len().checked_sub(DIGEST)?)?;
    format!("{}{version}", StateVersionId::PREFIX).parse().ok()
}

/// The context that outputs sent beside a state are sealed with.
pub(super) fn sealed_context(id: &StateVersionId) -> String {
    format!("{id}/outputs")
}

/// The outputs of a state version: from the raw state, else those that the client sent beside one that can't be read.
pub(crate) async fn of(app: &App, record: &StateVersionRecord) -> Result<Vec<Output>> {
    Ok(known(app, record).await?.unwrap_or_default())
}

/// As [`of`]; `None` when the state can't be read here and nothing was sent beside it.
async fn known(app: &App, record: &StateVersionRecord) -> Result<Option<Vec<Output>>> {
    let Some(key) = &record.object_key else {
        return Ok(Some(Vec::new()));
    };
    let bytes = app
        .objects
        .get(&ObjectKey::new(key.as_str())?, record.id.as_str())
        .await?;
    if let Some(contents) = state::read(&bytes).contents {
        return Ok(Some(contents.outputs));
    }
    let Some(sealed) = &record.outputs else {
        return Ok(None);
    };
    let plain = app
        .objects
        .keyring()
        .open_sealed(&sealed_context(&record.id), sealed)?;
    Ok(Some(state::read_outputs(&plain).unwrap_or_default()))
}

/// Whether sensitive values are in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sensitive {
    Shown,
    Null,
}

fn resource(version: &StateVersionId, output: Output, sensitive: Sensitive) -> Resource {
    let hidden = output.sensitive && sensitive == Sensitive::Null;
    let id = id(version, &output.name);
    let link = format!("/api/v2/state-version-outputs/{id}");
    let attributes = attributes::StateVersionOutput {
        simple_type: output.simple_type(),
        sensitive: output.sensitive,
        value: if hidden { Value::Null } else { output.value },
        detailed_type: output.detailed_type,
        name: output.name,
    };
    Resource::new(Kind::StateVersionOutputs, id, &attributes).link("self", link)
}

/// The outputs of a state version as clients see them.
pub(super) async fn resources(
    app: &App,
    record: &StateVersionRecord,
    sensitive: Sensitive,
) -> Result<Vec<Resource>> {
    let outputs = of(app, record).await?;
    Ok(outputs
        .into_iter()
        .map(|output| resource(&record.id, output, sensitive))
        .collect())
}

/// What tells OpenTofu to read, and decrypt, the whole state: it does so when an output has no detailed type. Without it
/// `tofu output` would say that a state which a run encrypted has no outputs.
fn read_the_state(version: &StateVersionId) -> Resource {
    let unknown = Output {
        name: "encrypted".to_owned(),
        sensitive: false,
        value: Value::Null,
        detailed_type: Value::Null,
    };
    resource(version, unknown, Sensitive::Null)
}

/// `GET workspaces/:id/current-state-version-outputs`: an empty list when there is no state; the CLI fails on 404.
pub(in crate::http) async fn current(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::ReadOutputs).await?;
    let record = state_versions::current(&mut connection, &workspace.id).await?;
    drop(connection);
    let all = match &record {
        Some(record) => match known(&app, record).await? {
            Some(outputs) => outputs
                .into_iter()
                .map(|output| resource(&record.id, output, Sensitive::Null))
                .collect(),
            // Only OpenTofu encrypts states.
            None if super::is_tofu(&headers) => vec![read_the_state(&record.id)],
            None => Vec::new(),
        },
        None => Vec::new(),
    };
    Ok(listed(&params, all))
}

fn listed(params: &Params, all: Vec<Resource>) -> Answer {
    // The CLI reads the first page only, and asks for no size.
    if params.get("page[size]").is_none() && params.get("page[number]").is_none() {
        return Answer::ok(Document::list(all));
    }
    let total = all.len() as u64;
    Answer::ok(params.paged(params.page().cut(all), total))
}

/// `GET state-versions/:id/outputs`
pub(super) async fn of_version(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let record =
        super::state_versions::find(&mut connection, &caller, &id, WorkspacePermission::ReadState).await?;
    drop(connection);
    Ok(listed(&params, resources(&app, &record, Sensitive::Shown).await?))
}

/// `GET state-version-outputs/:id`
pub(in crate::http) async fn show(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let version = version_of(&id).ok_or(ApiError::NotFound)?;
    let mut connection = app.db.read().await?;
    let record = super::state_versions::find(
        &mut connection,
        &caller,
        version.as_str(),
        WorkspacePermission::ReadOutputs,
    )
    .await?;
    drop(connection);
    let output = of(&app, &record)
        .await?
        .into_iter()
        .find(|output| self::id(&record.id, &output.name) == id)
        .ok_or(ApiError::NotFound)?;
    Ok(Answer::ok(Document::one(resource(
        &record.id,
        output,
        Sensitive::Shown,
    ))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outputs_id_leads_back_to_its_state_version() {
        let version = StateVersionId::from_random([9; 16]);
        assert_eq!(version_of(&id(&version, "name")), Some(version.clone()));
        assert_ne!(id(&version, "name"), id(&version, "other"));
        assert_eq!(version_of("wsout-short"), None);
        assert_eq!(version_of("ws-abc"), None);
    }
}

//! State versions.

use axum::body::Body as HttpBody;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, HeaderValue};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use md5::Digest as _;
use serde_json::json;
use terrapool_model::id::{RunId, StateVersionId, UserId, WorkspaceId};
use terrapool_model::lock::Lock;
use terrapool_objects::ObjectKey;
use terrapool_store::db::{Connection, Tx};
use terrapool_store::state_versions::{self, NewStateVersion, StateContent, StateStatus, StateVersionRecord};
use terrapool_store::workspaces::{self, WorkspaceRecord};
use terrapool_store::{audit, runs};
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::errors::Problem;
use terrapool_tfe::request::{Body, Item};
use terrapool_tfe::state;
use terrapool_tfe::time::iso8601;

use super::plans::{JSON, stream};
use super::{AppState, is_cloud_block, state_outputs};
use crate::app::App;
use crate::auth::{self, Caller, Principal, WorkspacePermission};
use crate::http::answer::{Answer, Params, Result, collect};
use crate::http::audited;
use crate::http::error::ApiError;
use crate::http::uploads;

/// URLs to upload to, in the answer that announces a state version.
pub(super) struct UploadUrls {
    raw: String,
    json: String,
}

/// A state version as clients see it.
pub(super) async fn resource(
    app: &App,
    record: &StateVersionRecord,
    urls: Option<UploadUrls>,
) -> Result<Resource> {
    let path = format!("{}/api/v2/state-versions/{}", app.config.public_url, record.id);
    let (raw_upload, json_upload) = urls.map_or((None, None), |urls| (Some(urls.raw), Some(urls.json)));
    let attributes = attributes::StateVersion {
        created_at: iso8601(record.created_at),
        serial: record.serial,
        lineage: record.lineage.clone(),
        md5: record.md5.clone(),
        size: record.size,
        status: record.status.api_name().to_owned(),
        intermediate: record.status == StateStatus::Intermediate,
        state_version: 4,
        terraform_version: record.engine_version.clone(),
        resources_processed: record.status != StateStatus::Pending,
        hosted_state_download_url: record.object_key.as_ref().map(|_| format!("{path}/download")),
        hosted_json_state_download_url: record
            .json_object_key
            .as_ref()
            .map(|_| format!("{path}/json-download")),
        hosted_state_upload_url: raw_upload,
        hosted_json_state_upload_url: json_upload,
        billable_rum_count: record.resource_count.unwrap_or(0),
        resources: Vec::new(),
        vcs_commit_sha: None,
        vcs_commit_url: None,
    };
    let outputs: Vec<_> = state_outputs::of(app, record)
        .await?
        .iter()
        .map(|output| {
            (
                Kind::StateVersionOutputs,
                state_outputs::id(&record.id, &output.name),
            )
        })
        .collect();
    Ok(
        Resource::new(Kind::StateVersions, record.id.to_string(), &attributes)
            .maybe(
                "run",
                record.run_id.as_ref().map(|id| (Kind::Runs, id.to_string())),
            )
            .maybe(
                "created-by",
                record.created_by.as_ref().map(|id| (Kind::Users, id.to_string())),
            )
            .one("workspace", Kind::Workspaces, record.workspace_id.to_string())
            .many("outputs", &outputs)
            .link("self", format!("/api/v2/state-versions/{}", record.id)),
    )
}

async fn shown(app: &App, record: &StateVersionRecord, params: &Params) -> Result {
    let included = if params.includes().contains("outputs") {
        state_outputs::resources(app, record, state_outputs::Sensitive::Shown).await?
    } else {
        Vec::new()
    };
    Ok(Answer::ok(
        Document::one(resource(app, record, None).await?).include(included),
    ))
}

/// The state version with an id, if the caller may do this.
pub(super) async fn find(
    connection: &mut Connection,
    caller: &Caller,
    id: &str,
    permission: WorkspacePermission,
) -> Result<StateVersionRecord> {
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let record = state_versions::get(connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    auth::workspace(connection, caller, record.workspace_id.as_str(), permission).await?;
    Ok(record)
}

/// `GET state-versions/:id`
pub(super) async fn show(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let record = find(&mut connection, &caller, &id, WorkspacePermission::ReadState).await?;
    drop(connection);
    shown(&app, &record, &params).await
}

/// `GET workspaces/:id/current-state-version`
pub(in crate::http) async fn current(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::ReadState).await?;
    let record = state_versions::current(&mut connection, &workspace.id)
        .await?
        .ok_or(ApiError::NotFound)?;
    drop(connection);
    shown(&app, &record, &params).await
}

/// `GET workspaces/:id/state-versions`, newest first
pub(super) async fn list(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::ReadState).await?;
    listed(&app, connection, &workspace.id, &params).await
}

/// `GET state-versions?filter[organization][name]&filter[workspace][name]`
pub(super) async fn list_by_name(State(app): AppState, caller: Caller, params: Params) -> Result {
    let mut connection = app.db.read().await?;
    let filters = (
        params.get("filter[organization][name]"),
        params.get("filter[workspace][name]"),
    );
    let (Some(organization), Some(workspace)) = filters else {
        return Err(ApiError::BadRequest(
            "filter[organization][name] and filter[workspace][name] are both required".to_owned(),
        ));
    };
    let names = (organization.to_owned(), workspace.to_owned());
    let permission = WorkspacePermission::ReadState;
    let workspace = super::workspaces::by_name(&mut connection, &caller, &names, permission).await?;
    listed(&app, connection, &workspace.id, &params).await
}

async fn listed(app: &App, mut connection: Connection, workspace: &WorkspaceId, params: &Params) -> Result {
    let page = params.page();
    let (records, total) = state_versions::list(&mut connection, workspace, page.size, page.offset()).await?;
    drop(connection);
    let mut resources = Vec::new();
    for record in &records {
        resources.push(resource(app, record, None).await?);
    }
    Ok(Answer::ok(params.paged(resources, total)))
}

/// What a request announces.
struct Announced {
    new: NewStateVersion,
    force: bool,
    state: Option<Vec<u8>>,
    json: Option<Vec<u8>>,
}

fn decoded(item: &Item, name: &str) -> Result<Option<Vec<u8>>> {
    let Some(text) = item.text(name)?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match BASE64.decode(text.trim()) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(_) => Err(ApiError::attribute(name, format!("{name} has to be base64"))),
    }
}

fn announced(app: &App, item: &Item, workspace: &WorkspaceId, user: &UserId) -> Result<Announced> {
    let id = StateVersionId::from_random(app.db.entropy().draw());
    let serial = item
        .attribute::<u64>("serial")?
        .value()
        .ok_or_else(|| ApiError::attribute("serial", "Serial can't be blank"))?;
    let md5 = item.required("md5")?.trim().to_lowercase();
    let outputs = match decoded(item, "json-state-outputs")? {
        Some(outputs) => {
            let context = state_outputs::sealed_context(&id);
            Some(app.objects.keyring().seal(&context, &outputs)?)
        }
        None => None,
    };
    let run = item
        .related("run")
        .value()
        .and_then(|run| run.parse::<RunId>().ok());
    Ok(Announced {
        new: NewStateVersion {
            id,
            workspace_id: workspace.clone(),
            run_id: run,
            created_by: Some(user.clone()),
            serial: Some(serial),
            lineage: item.text("lineage")?.filter(|lineage| !lineage.is_empty()),
            md5: Some(md5),
            outputs,
        },
        force: item.flag("force")?.unwrap_or(false),
        state: decoded(item, "state")?,
        json: decoded(item, "json-state")?,
    })
}

/// Whether the caller may announce this state now. The row is locked.
///
/// A lower serial is accepted: the caller holds the workspace's lock. From a `cloud` block everything is (`trusted`):
/// the CLI compares serial and lineage itself, under the lock, and its `state push -force` does not say in the request
/// that it is one.
async fn check(
    tx: &mut Tx,
    workspace: &WorkspaceRecord,
    user: &UserId,
    new: &NewStateVersion,
    trusted: bool,
) -> Result<()> {
    match &workspace.lock {
        Lock::User(holder) if holder == user => {}
        Lock::Free => {
            return Err(ApiError::Conflict(
                "the workspace is not locked: lock it before creating a state version".to_owned(),
            ));
        }
        Lock::User(holder) => {
            return Err(ApiError::Conflict(format!(
                "the workspace is locked by User {holder}"
            )));
        }
        Lock::Run(run) | Lock::Lost { run, .. } => {
            return Err(ApiError::Conflict(format!(
                "the workspace is locked by Run {run}"
            )));
        }
    }
    if let Some(run) = &new.run_id
        && runs::get(tx, run)
            .await?
            .is_none_or(|run| run.workspace_id != workspace.id)
    {
        return Err(
            Problem::relationship("run", format!("Run `{run}` does not exist in this workspace")).into(),
        );
    }
    let Some(current) = state_versions::current(tx, &workspace.id).await? else {
        return Ok(());
    };
    if trusted {
        return Ok(());
    }
    if let (Some(old), Some(sent)) = (&current.lineage, &new.lineage)
        && old != sent
    {
        return Err(ApiError::Conflict(format!(
            "The lineage provided in the state file does not match the value currently known for the workspace \
             ({sent} instead of {old}): this is the state of something else; to replace it all the same, send it \
             with force"
        )));
    }
    if current.serial == new.serial && current.md5.is_some() && current.md5 != new.md5 {
        return Err(ApiError::Conflict(format!(
            "The workspace has another state with serial {}: somebody else has written since this one was read; to \
             replace it all the same, send it with force",
            new.serial.unwrap_or(0)
        )));
    }
    Ok(())
}

/// `POST workspaces/:id/state-versions`
pub(super) async fn create(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: HttpBody,
) -> Result {
    let cloud = is_cloud_block(&headers);
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::WriteState).await?;
    drop(connection);
    let user = caller.user_id().ok_or(ApiError::NotFound)?.clone();
    // A state that is sent inline is a third longer in base64, and its JSON form comes with it.
    let limit = usize::try_from(app.config.limits.state_bytes.saturating_mul(3)).unwrap_or(usize::MAX);
    let body = Body::parse(&collect(body, limit).await?)?;
    let Announced {
        new,
        force,
        state,
        json,
    } = announced(&app, &body, &workspace.id, &user)?;
    let id = new.id.clone();
    let content = match &state {
        Some(bytes) => {
            verify_md5(new.md5.as_deref(), bytes)?;
            Some(store(&app, &id, bytes).await?)
        }
        None => None,
    };
    let json_key = match &json {
        Some(bytes) if content.is_some() => Some(store_json(&app, &id, bytes).await?),
        _ => None,
    };
    let actor = caller.audit_name();
    let record = app
        .db
        .write(move |tx| {
            let (new, user, actor) = (new.clone(), user.clone(), actor.clone());
            let (content, json_key) = (content.clone(), json_key.clone());
            Box::pin(async move {
                let workspace = workspaces::get_locked(tx, &new.workspace_id)
                    .await?
                    .ok_or(ApiError::NotFound)?;
                check(tx, &workspace, &user, &new, force || cloud).await?;
                // What the same holder announced before and never delivered is given up.
                state_versions::discard_pending(tx, &workspace.id).await?;
                state_versions::create(tx, &new).await?;
                if let Some(content) = &content {
                    state_versions::finalize(tx, &new.id, content).await?;
                }
                if let Some(key) = &json_key {
                    state_versions::set_json(tx, &new.id, key).await?;
                }
                let (organization, subject) = (Some(&workspace.organization_id), new.id.as_str());
                let detail =
                    json!({"workspace": workspace.id.as_str(), "serial": new.serial, "force": force});
                audit::record(tx, organization, &actor, "state-version.create", subject, &detail).await?;
                state_versions::get(tx, &new.id).await?.ok_or(ApiError::NotFound)
            })
        })
        .await?;
    let urls = (record.status == StateStatus::Pending).then(|| UploadUrls {
        raw: uploads::state_url(&app, &record.id),
        json: uploads::json_state_url(&app, &record.id),
    });
    Ok(Answer::created(Document::one(
        resource(&app, &record, urls).await?,
    )))
}

/// Compares the digest that the client announced.
fn verify_md5(expected: Option<&str>, bytes: &[u8]) -> Result<()> {
    let found = md5_of(bytes);
    match expected {
        Some(expected) if expected != found => Err(ApiError::attribute(
            "md5",
            format!(
                "MD5 of the state is {found}, not {expected} as announced: it was damaged on its way, or changed"
            ),
        )),
        _ => Ok(()),
    }
}

/// MD5 of a state, lower-case hex.
pub(super) fn md5_of(bytes: &[u8]) -> String {
    md5::Md5::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A key that no other upload has.
pub(super) fn new_key(app: &App, id: &StateVersionId, end: &str) -> Result<ObjectKey> {
    let random: String = app.db.entropy().draw()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(ObjectKey::new(format!("states/{id}-{random}{end}"))?)
}

async fn store(app: &App, id: &StateVersionId, bytes: &[u8]) -> Result<StateContent> {
    // Encrypted states are documents, too.
    if !state::is_document(bytes) {
        return Err(Problem::new(
            "invalid state",
            "The state is no JSON document: upload what `terraform state pull` or the state file gives",
        )
        .into());
    }
    let key = new_key(app, id, "")?;
    let stored = app.objects.put(&key, id.as_str(), bytes).await?;
    let read = state::read(bytes);
    Ok(StateContent {
        object_key: key.to_string(),
        size: stored.size,
        sha256: stored.sha256,
        serial: read.serial,
        lineage: read.lineage,
        resource_count: read.contents.map(|contents| contents.resource_count),
        engine_version: read.engine_version,
    })
}

async fn store_json(app: &App, id: &StateVersionId, bytes: &[u8]) -> Result<String> {
    let key = new_key(app, id, "-json")?;
    app.objects.put(&key, &json_context(id), bytes).await?;
    Ok(key.to_string())
}

fn json_context(id: &StateVersionId) -> String {
    format!("{id}/json")
}

/// The raw bytes of an announced state version arrive. The same bytes may arrive again.
pub(crate) async fn receive(app: &App, id: &StateVersionId, bytes: Bytes) -> Result<()> {
    let mut connection = app.db.read().await?;
    let record = state_versions::get(&mut connection, id)
        .await?
        .ok_or(ApiError::NotFound)?;
    drop(connection);
    verify_md5(record.md5.as_deref(), &bytes)?;
    match record.status {
        StateStatus::Pending => {}
        StateStatus::Finalized => return Ok(()),
        StateStatus::Discarded | StateStatus::Intermediate | StateStatus::KeptApart => {
            return Err(ApiError::Conflict(format!(
                "state version {id} is not expected any more: its lock was taken away, or another one was announced"
            )));
        }
    }
    let content = store(app, id, &bytes).await?;
    let key = id.clone();
    let current = app
        .db
        .write(move |tx| {
            let (id, workspace, content) = (key.clone(), record.workspace_id.clone(), content.clone());
            Box::pin(async move {
                // The workspace's row first, as everywhere.
                workspaces::get_locked(tx, &workspace).await?;
                Ok::<_, ApiError>(state_versions::finalize(tx, &id, &content).await?)
            })
        })
        .await?;
    if current {
        return Ok(());
    }
    Err(ApiError::Conflict(format!(
        "state version {id} is not expected any more"
    )))
}

/// The JSON form of an announced state version arrives, before or after the raw bytes.
pub(crate) async fn receive_json(app: &App, id: &StateVersionId, bytes: Bytes) -> Result<()> {
    let mut connection = app.db.read().await?;
    let record = state_versions::get(&mut connection, id)
        .await?
        .ok_or(ApiError::NotFound)?;
    drop(connection);
    if record.status == StateStatus::Discarded {
        return Err(ApiError::Conflict(format!(
            "state version {id} is not expected any more"
        )));
    }
    let key = store_json(app, id, &bytes).await?;
    let id = id.clone();
    app.db
        .write(move |tx| {
            let (id, key) = (id.clone(), key.clone());
            Box::pin(async move { state_versions::set_json(tx, &id, &key).await })
        })
        .await
        .map_err(ApiError::Store)
}

/// Writes into the audit log who reads a state as it is. Runs that read what is shared with them are not written: what
/// they may read is, where it is decided.
async fn note_download(app: &App, caller: &Caller, record: &StateVersionRecord) -> Result<()> {
    if matches!(caller.principal, Principal::Run(_)) {
        return Ok(());
    }
    let mut connection = app.db.read().await?;
    let workspace = workspaces::get(&mut connection, &record.workspace_id)
        .await?
        .ok_or(ApiError::NotFound)?;
    drop(connection);
    let detail = json!({"workspace": record.workspace_id.as_str(), "serial": record.serial});
    let organization = Some(workspace.organization_id);
    audited::reading(
        app,
        caller,
        organization,
        "state.download",
        record.id.as_str(),
        detail,
    )
    .await
}

/// `GET state-versions/:id/download`: the bytes that were uploaded.
pub(in crate::http) async fn download(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response> {
    let mut connection = app.db.read().await?;
    let record = find(&mut connection, &caller, &id, WorkspacePermission::ReadState).await?;
    drop(connection);
    let key = record.object_key.clone().ok_or(ApiError::NotFound)?;
    note_download(&app, &caller, &record).await?;
    let reader = app
        .objects
        .reader(&ObjectKey::new(key)?, record.id.as_str())
        .await?;
    let mut response = stream(reader, JSON);
    if let Some(size) = record.size {
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(size));
    }
    Ok(response)
}

/// `GET state-versions/:id/json-download`
pub(super) async fn download_json(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response> {
    let mut connection = app.db.read().await?;
    let record = find(&mut connection, &caller, &id, WorkspacePermission::ReadState).await?;
    drop(connection);
    let key = record.json_object_key.clone().ok_or(ApiError::NotFound)?;
    note_download(&app, &caller, &record).await?;
    let reader = app
        .objects
        .reader(&ObjectKey::new(key)?, &json_context(&record.id))
        .await?;
    Ok(stream(reader, JSON))
}

//! Variables of workspaces.

use axum::extract::{Path, State};
use serde_json::{Value, json};
use terrapool_model::id::VariableId;
use terrapool_protocol::job::VariableCategory;
use terrapool_store::audit;
use terrapool_store::db::Connection;
use terrapool_store::variables::{self, VariableRecord, category_name};
use terrapool_store::workspaces::WorkspaceRecord;
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::errors::Problem;
use terrapool_tfe::request::{Field, Item};
use terrapool_tfe::time::iso8601;

use super::AppState;
use crate::app::App;
use crate::auth::{self, Caller, WorkspacePermission};
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::audited;
use crate::http::error::ApiError;

/// Longest description, characters.
const LONGEST_DESCRIPTION: usize = 512;
/// Longest value, bytes.
const LONGEST_VALUE: usize = 256 << 10;

fn resource(record: &VariableRecord) -> Resource {
    // A sensitive value leaves the control plane towards agents only.
    let value = (!record.sensitive).then(|| String::from_utf8_lossy(&record.value).into_owned());
    let attributes = attributes::Variable {
        key: record.key.clone(),
        value,
        description: record.description.clone(),
        category: category_name(record.category),
        hcl: record.hcl,
        sensitive: record.sensitive,
        version_id: record.version_id.clone(),
        created_at: iso8601(record.created_at),
    };
    let workspace = &record.workspace_id;
    Resource::new(Kind::Vars, record.id.to_string(), &attributes)
        .one("configurable", Kind::Workspaces, workspace.to_string())
        .link(
            "self",
            format!("/api/v2/workspaces/{workspace}/vars/{}", record.id),
        )
}

fn new_version(app: &App) -> String {
    app.db
        .entropy()
        .draw()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Takes over what a request sets. A sensitive variable never becomes readable again.
fn apply(app: &App, item: &Item, record: &mut VariableRecord) -> Result<()> {
    if let Some(key) = item.text("key")? {
        let key = key.trim().to_owned();
        if key.is_empty() || key.len() > 255 || key.contains(['\0', '=', '\n']) {
            return Err(ApiError::attribute(
                "key",
                "Key can't be blank, and can't contain =, line breaks or NUL",
            ));
        }
        record.key = key;
    }
    if let Some(category) = item.text("category")? {
        record.category = match category.as_str() {
            "terraform" => VariableCategory::Terraform,
            "env" => VariableCategory::Env,
            _ => {
                return Err(ApiError::attribute(
                    "category",
                    "Category has to be terraform or env",
                ));
            }
        };
    }
    if let Some(hcl) = item.flag("hcl")? {
        record.hcl = hcl;
    }
    if let Some(description) = item.text("description")? {
        if description.chars().count() > LONGEST_DESCRIPTION {
            return Err(ApiError::attribute(
                "description",
                format!("Description is too long: at most {LONGEST_DESCRIPTION} characters"),
            ));
        }
        record.description = description;
    }
    let was_sensitive = record.sensitive;
    if let Some(sensitive) = item.flag("sensitive")? {
        if was_sensitive && !sensitive {
            return Err(ApiError::attribute(
                "sensitive",
                "Sensitive can't be taken back: delete the variable and make a new one",
            ));
        }
        record.sensitive = sensitive;
    }
    let plain = match item.attribute::<String>("value")? {
        Field::Value(value) => Some(value.into_bytes()),
        Field::Null => Some(Vec::new()),
        Field::Absent if record.sensitive && !was_sensitive => Some(record.value.clone()),
        Field::Absent => None,
    };
    if let Some(plain) = plain {
        if plain.len() > LONGEST_VALUE {
            return Err(ApiError::attribute(
                "value",
                format!("Value is too large: at most {LONGEST_VALUE} bytes"),
            ));
        }
        record.value = if record.sensitive {
            app.objects.keyring().seal(record.id.as_str(), &plain)?
        } else {
            plain
        };
    }
    record.version_id = new_version(app);
    Ok(())
}

fn listed(records: &[VariableRecord]) -> Answer {
    let resources: Vec<Resource> = records.iter().map(resource).collect();
    Answer::ok(Document::list(resources))
}

/// `GET workspaces/:id/vars`
pub(in crate::http) async fn list(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let workspace =
        auth::workspace(&mut connection, &caller, &id, WorkspacePermission::ReadVariables).await?;
    Ok(listed(
        &variables::of_workspace(&mut connection, &workspace.id).await?,
    ))
}

/// `GET vars?filter[organization][name]&filter[workspace][name]`
pub(in crate::http) async fn list_by_name(State(app): AppState, caller: Caller, params: Params) -> Result {
    let mut connection = app.db.read().await?;
    let organization = params
        .get("filter[organization][name]")
        .ok_or(ApiError::NotFound)?;
    let name = params.get("filter[workspace][name]").ok_or(ApiError::NotFound)?;
    let names = (organization.to_owned(), name.to_owned());
    let permission = WorkspacePermission::ReadVariables;
    let workspace = super::workspaces::by_name(&mut connection, &caller, &names, permission).await?;
    Ok(listed(
        &variables::of_workspace(&mut connection, &workspace.id).await?,
    ))
}

async fn created(app: &App, caller: &Caller, workspace: WorkspaceRecord, item: &Item) -> Result {
    item.required("key")?;
    let mut record = VariableRecord {
        id: VariableId::from_random(app.db.entropy().draw()),
        workspace_id: workspace.id.clone(),
        key: String::new(),
        value: Vec::new(),
        category: VariableCategory::Terraform,
        hcl: false,
        sensitive: false,
        description: String::new(),
        version_id: String::new(),
        created_at: app.now(),
    };
    if item.text("category")?.is_none() {
        return Err(ApiError::attribute("category", "Category can't be blank"));
    }
    apply(app, item, &mut record)?;
    let stored = record.clone();
    let actor = caller.audit_name();
    app.db
        .write(move |tx| {
            let (record, actor) = (stored.clone(), actor.clone());
            let organization = workspace.organization_id.clone();
            Box::pin(async move {
                variables::create(tx, &record).await?;
                let detail = json!({"key": record.key, "workspace": record.workspace_id.as_str()});
                let subject = record.id.as_str();
                audit::record(
                    tx,
                    Some(&organization),
                    &actor,
                    "variable.create",
                    subject,
                    &detail,
                )
                .await?;
                Ok::<_, ApiError>(())
            })
        })
        .await
        .map_err(|error| error.or_taken("key", "Key has already been taken"))?;
    Ok(Answer::created(Document::one(resource(&record))))
}

/// `POST workspaces/:id/vars`
pub(in crate::http) async fn create(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace =
        auth::workspace(&mut connection, &caller, &id, WorkspacePermission::WriteVariables).await?;
    drop(connection);
    created(&app, &caller, workspace, &body).await
}

/// `POST vars`, the workspace being a relationship
pub(in crate::http) async fn create_by_relationship(
    State(app): AppState,
    caller: Caller,
    ApiBody(body): ApiBody,
) -> Result {
    let id = body
        .related("workspace")
        .value()
        .ok_or_else(|| Problem::relationship("workspace", "Workspace can't be blank"))?;
    let mut connection = app.db.read().await?;
    let workspace =
        auth::workspace(&mut connection, &caller, &id, WorkspacePermission::WriteVariables).await?;
    drop(connection);
    created(&app, &caller, workspace, &body).await
}

/// The variable with an id, and its workspace when `workspace` names the right one.
async fn find(
    connection: &mut Connection,
    caller: &Caller,
    workspace: Option<&str>,
    id: &str,
    permission: WorkspacePermission,
) -> Result<(VariableRecord, WorkspaceRecord)> {
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let record = variables::get(connection, &id).await?.ok_or(ApiError::NotFound)?;
    if workspace.is_some_and(|workspace| workspace != record.workspace_id.as_str()) {
        return Err(ApiError::NotFound);
    }
    let workspace = auth::workspace(connection, caller, record.workspace_id.as_str(), permission).await?;
    Ok((record, workspace))
}

/// `GET workspaces/:id/vars/:variable`
pub(in crate::http) async fn show(
    State(app): AppState,
    caller: Caller,
    Path((workspace, id)): Path<(String, String)>,
) -> Result {
    let mut connection = app.db.read().await?;
    let (record, _) = find(
        &mut connection,
        &caller,
        Some(&workspace),
        &id,
        WorkspacePermission::ReadVariables,
    )
    .await?;
    Ok(Answer::ok(Document::one(resource(&record))))
}

/// `PATCH workspaces/:id/vars/:variable`
pub(in crate::http) async fn update(
    State(app): AppState,
    caller: Caller,
    Path((workspace, id)): Path<(String, String)>,
    ApiBody(body): ApiBody,
) -> Result {
    updated(&app, &caller, Some(&workspace), &id, &body).await
}

/// `PATCH vars/:variable`
pub(in crate::http) async fn update_by_id(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    updated(&app, &caller, None, &id, &body).await
}

/// A variable as the audit log tells of its changes: of the value only that it is another one, for what is no secret by
/// its setting may be one by mistake.
fn told(record: &VariableRecord, before: &VariableRecord) -> Value {
    json!({
        "key": record.key, "category": variables::category_name(record.category), "hcl": record.hcl,
        "sensitive": record.sensitive, "description": record.description,
        "value": if record.value == before.value { "as it was" } else { "another one" },
    })
}

async fn updated(app: &App, caller: &Caller, workspace: Option<&str>, id: &str, item: &Item) -> Result {
    let mut connection = app.db.read().await?;
    let (mut record, workspace) = find(
        &mut connection,
        caller,
        workspace,
        id,
        WorkspacePermission::WriteVariables,
    )
    .await?;
    drop(connection);
    let before = record.clone();
    apply(app, item, &mut record)?;
    let stored = record.clone();
    let detail = json!({"key": record.key, "workspace": record.workspace_id.as_str()});
    let detail = audited::with_change(detail, &told(&before, &before), &told(&record, &before));
    let actor = caller.audit_name();
    app.db
        .write(move |tx| {
            let (record, actor, detail) = (stored.clone(), actor.clone(), detail.clone());
            let organization = workspace.organization_id.clone();
            Box::pin(async move {
                variables::update(tx, &record).await?;
                let subject = record.id.as_str();
                audit::record(
                    tx,
                    Some(&organization),
                    &actor,
                    "variable.update",
                    subject,
                    &detail,
                )
                .await?;
                Ok::<_, ApiError>(())
            })
        })
        .await
        .map_err(|error| error.or_taken("key", "Key has already been taken"))?;
    Ok(Answer::ok(Document::one(resource(&record))))
}

/// `DELETE workspaces/:id/vars/:variable`
pub(in crate::http) async fn delete(
    State(app): AppState,
    caller: Caller,
    Path((workspace, id)): Path<(String, String)>,
) -> Result {
    deleted(&app, &caller, Some(&workspace), &id).await
}

/// `DELETE vars/:variable`
pub(in crate::http) async fn delete_by_id(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result {
    deleted(&app, &caller, None, &id).await
}

async fn deleted(app: &App, caller: &Caller, workspace: Option<&str>, id: &str) -> Result {
    let mut connection = app.db.read().await?;
    let (record, workspace) = find(
        &mut connection,
        caller,
        workspace,
        id,
        WorkspacePermission::WriteVariables,
    )
    .await?;
    drop(connection);
    let actor = caller.audit_name();
    app.db
        .write(move |tx| {
            let (record, actor) = (record.clone(), actor.clone());
            let organization = workspace.organization_id.clone();
            Box::pin(async move {
                variables::delete(tx, &record.id).await?;
                let detail = json!({"key": record.key, "workspace": record.workspace_id.as_str()});
                let subject = record.id.as_str();
                audit::record(
                    tx,
                    Some(&organization),
                    &actor,
                    "variable.delete",
                    subject,
                    &detail,
                )
                .await?;
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    Ok(Answer::NoContent)
}

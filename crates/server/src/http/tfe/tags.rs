//! Tags and key-value bindings of workspaces.

use axum::extract::{Path, State};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use terrapool_model::id::{OrganizationId, WorkspaceId};
use terrapool_store::db::Tx;
use terrapool_store::workspaces::{self, Tag, WorkspaceRecord};
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::page::PageRequest;
use terrapool_tfe::request::Item;

use super::AppState;
use crate::app::App;
use crate::auth::{self, Caller, OrganizationPermission, WorkspacePermission};
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::audited::{self, Entry};
use crate::http::error::ApiError;

/// Bindings that a workspace may have.
const MOST_BINDINGS: usize = 10;

/// A tag's id: its organization and its name, since tags have no rows of their own.
fn tag_id(organization: &OrganizationId, name: &str) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(format!("{organization}\n{name}"));
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("tag-{hex}")
}

fn tag(organization: (&OrganizationId, &str), name: &str, count: u64) -> Resource {
    let attributes = attributes::Tag {
        name: name.to_owned(),
        instance_count: count,
    };
    Resource::new(Kind::Tags, tag_id(organization.0, name), &attributes).one(
        "organization",
        Kind::Organizations,
        organization.1,
    )
}

/// Tags in a request, by name.
pub(super) fn parse_tags(items: &[Item]) -> Result<Vec<Tag>> {
    items
        .iter()
        .filter(|item| !item.attributes.is_empty())
        .map(|item| {
            let key = item.required("name")?;
            // Names are compared in lower case, so they are kept so.
            checked(key.to_lowercase(), String::new())
        })
        .collect()
}

/// Bindings in a request.
pub(super) fn parse_bindings(items: &[Item]) -> Result<Vec<Tag>> {
    if items.len() > MOST_BINDINGS {
        return Err(ApiError::attribute(
            "tag-bindings",
            format!("Tag bindings are limited to {MOST_BINDINGS}"),
        ));
    }
    items
        .iter()
        .map(|item| checked(item.required("key")?, item.text("value")?.unwrap_or_default()))
        .collect()
}

fn checked(key: String, value: String) -> Result<Tag> {
    let allowed = |character: char| character.is_alphanumeric() || " _.:=+-@/".contains(character);
    if key.len() <= 255 && value.len() <= 255 && key.chars().chain(value.chars()).all(allowed) {
        Ok(Tag { key, value })
    } else {
        Err(ApiError::attribute(
            "name",
            format!(
                "Tag `{key}` is invalid: letters, numbers, spaces and _.:=+-@/ are allowed, 255 characters at most"
            ),
        ))
    }
}

/// `GET organizations/:org/tags`
pub(super) async fn of_organization(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let organization =
        auth::organization(&mut connection, &caller, &name, OrganizationPermission::Read).await?;
    let search = params.get("q").map(str::to_lowercase);
    let all: Vec<Resource> = workspaces::organization_tags(&mut connection, &organization.id)
        .await?
        .into_iter()
        .filter(|(name, _)| {
            search
                .as_ref()
                .is_none_or(|search| name.to_lowercase().contains(search))
        })
        .map(|(name, count)| tag((&organization.id, &organization.name), &name, count))
        .collect();
    Ok(paged(&params, all))
}

fn paged(params: &Params, all: Vec<Resource>) -> Answer {
    let total = all.len() as u64;
    let page: PageRequest = params.page();
    Answer::ok(params.paged(page.cut(all), total))
}

/// `GET workspaces/:id/relationships/tags`
pub(super) async fn list(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::Read).await?;
    let organization = (&workspace.organization_id, workspace.organization_name.as_str());
    let wanted = params.get("name");
    let all = workspaces::tags(&mut connection, &workspace.id)
        .await?
        .iter()
        .filter(|found| found.value.is_empty() && wanted.is_none_or(|name| found.key.contains(name)))
        .map(|found| tag(organization, &found.key, 1))
        .collect();
    Ok(paged(&params, all))
}

/// The keys that a request names, by name or by tag id.
async fn keys(
    connection: &mut terrapool_store::db::Connection,
    organization: &OrganizationId,
    items: &[Item],
) -> Result<Vec<String>> {
    let known = workspaces::organization_tags(connection, organization).await?;
    Ok(items
        .iter()
        .filter_map(|item| match &item.id {
            Some(id) => known
                .iter()
                .find(|(name, _)| tag_id(organization, name) == *id)
                .map(|(name, _)| name.clone()),
            None => item.text("name").ok().flatten().map(|name| name.to_lowercase()),
        })
        .collect())
}

/// What the audit log says of a workspace's tags.
fn entry(workspace: &WorkspaceRecord, action: &'static str, keys: &[String]) -> Entry {
    Entry {
        organization: Some(workspace.organization_id.clone()),
        action,
        subject: workspace.id.to_string(),
        detail: json!({"tags": keys}),
    }
}

/// A workspace's tags as the audit log tells of their changes: `key` or `key=value`.
fn told(id: WorkspaceId) -> impl for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<Value>> {
    move |tx| {
        let id = id.clone();
        Box::pin(async move {
            let tags = workspaces::tags(tx, &id).await?;
            let tags = tags.into_iter().map(|Tag { key, value }| match value.as_str() {
                "" => key,
                value => format!("{key}={value}"),
            });
            Ok(json!({"tags": tags.collect::<Vec<_>>()}))
        })
    }
}

async fn add_all(app: &App, caller: &Caller, workspace: &WorkspaceRecord, tags: Vec<Tag>) -> Result<()> {
    let keys: Vec<String> = tags.iter().map(|tag| tag.key.clone()).collect();
    let (id, entry) = (
        workspace.id.clone(),
        entry(workspace, "workspace.add-tags", &keys),
    );
    audited::change_with(app, caller, entry, told(id.clone()), move |tx| {
        let (id, tags) = (id.clone(), tags.clone());
        Box::pin(async move { Ok(workspaces::add_tags(tx, &id, &tags).await?) })
    })
    .await
}

/// `POST workspaces/:id/relationships/tags`
pub(super) async fn add(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::Manage).await?;
    parse_tags(&body.items)?;
    let tags: Vec<Tag> = keys(&mut connection, &workspace.organization_id, &body.items)
        .await?
        .into_iter()
        .map(|key| Tag {
            key,
            value: String::new(),
        })
        .collect();
    drop(connection);
    add_all(&app, &caller, &workspace, tags).await?;
    Ok(Answer::NoContent)
}

/// `DELETE workspaces/:id/relationships/tags`
pub(super) async fn remove(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::Manage).await?;
    let keys = keys(&mut connection, &workspace.organization_id, &body.items).await?;
    drop(connection);
    let entry = entry(&workspace, "workspace.remove-tags", &keys);
    let told = told(workspace.id.clone());
    audited::change_with(&app, &caller, entry, told, move |tx| {
        let (id, keys) = (workspace.id.clone(), keys.clone());
        Box::pin(async move { Ok(workspaces::remove_tags(tx, &id, &keys).await?) })
    })
    .await?;
    Ok(Answer::NoContent)
}

fn bindings_of(kind: Kind, workspace: &str, tags: &[Tag]) -> Document {
    let resources = tags
        .iter()
        .map(|tag| {
            let attributes = attributes::TagBinding {
                key: tag.key.clone(),
                value: tag.value.clone(),
            };
            Resource::new(kind, format!("tb-{workspace}-{}", tag.key), &attributes)
        })
        .collect();
    Document::list(resources)
}

async fn shown(app: &App, caller: &Caller, id: &str, kind: Kind) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, caller, id, WorkspacePermission::Read).await?;
    let tags = workspaces::tags(&mut connection, &workspace.id).await?;
    Ok(Answer::ok(bindings_of(kind, workspace.id.as_str(), &tags)))
}

/// `GET workspaces/:id/tag-bindings`
pub(super) async fn bindings(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    shown(&app, &caller, &id, Kind::TagBindings).await
}

/// `GET workspaces/:id/effective-tag-bindings`
pub(super) async fn effective_bindings(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result {
    shown(&app, &caller, &id, Kind::EffectiveTagBindings).await
}

/// `PATCH workspaces/:id/tag-bindings`: adds.
pub(super) async fn add_bindings(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let workspace = auth::workspace(&mut connection, &caller, &id, WorkspacePermission::Manage).await?;
    drop(connection);
    let tags = parse_bindings(&body.items)?;
    add_all(&app, &caller, &workspace, tags).await?;
    shown(&app, &caller, &id, Kind::TagBindings).await
}

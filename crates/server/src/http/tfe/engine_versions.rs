//! The engine catalogue, for site administrators: `admin/terraform-versions` and `admin/opentofu-versions`.

use axum::extract::{Path, State};
use serde_json::{Value, json};
use terrapool_model::engine::EngineKind;
use terrapool_model::id::EngineVersionId;
use terrapool_store::audit;
use terrapool_store::db::Connection;
use terrapool_store::engine_versions::{
    self, EngineVersionFilter, EngineVersionRecord, EngineVersionSettings,
};
use terrapool_store::error::StoreError;
use terrapool_store::page::Page;
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::errors::Problem;
use terrapool_tfe::request::{Field, Item};
use terrapool_tfe::time::iso8601;

use super::AppState;
use crate::auth::Caller;
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::audited::{self, Entry};
use crate::http::error::ApiError;
use crate::http::routes::{Routes, get};

const MOST_URL_BYTES: usize = 2000;

pub(super) fn routes() -> Routes {
    routes_of(EngineKind::Terraform).merge(routes_of(EngineKind::Tofu))
}

fn collection(kind: EngineKind) -> &'static str {
    match kind {
        EngineKind::Terraform => "terraform-versions",
        EngineKind::Tofu => "opentofu-versions",
    }
}

fn routes_of(kind: EngineKind) -> Routes {
    let path = format!("/admin/{}", collection(kind));
    let one = format!("{path}/{{id}}");
    Routes::new()
        .route(
            &path,
            get(move |state: AppState, caller: Caller, params: Params| list(kind, state, caller, params))
                .post(move |state: AppState, caller: Caller, body: ApiBody| {
                    create(kind, state, caller, body)
                }),
        )
        .route(
            &one,
            get(move |state: AppState, caller: Caller, id: Path<String>| show(kind, state, caller, id))
                .patch(
                    move |state: AppState, caller: Caller, id: Path<String>, body: ApiBody| {
                        update(kind, state, caller, id, body)
                    },
                )
                .delete(move |state: AppState, caller: Caller, id: Path<String>| {
                    delete(kind, state, caller, id)
                }),
        )
}

/// Everyone else is told that there is nothing.
fn require_site_admin(caller: &Caller) -> Result<()> {
    if caller.user().is_some_and(|user| user.site_admin) {
        Ok(())
    } else {
        Err(ApiError::NotFound)
    }
}

fn resource(record: &EngineVersionRecord) -> Resource {
    let settings = &record.settings;
    let attributes = attributes::EngineVersion {
        version: settings.version.to_string(),
        url: settings.url.clone(),
        sha: settings.sha256.clone(),
        enabled: settings.enabled,
        official: settings.official,
        beta: settings.beta,
        deprecated: settings.deprecated,
        deprecated_reason: settings.deprecated_reason.clone(),
        usage: record.usage,
        created_at: iso8601(record.created_at),
    };
    let kind = match record.kind {
        EngineKind::Terraform => Kind::TerraformVersions,
        EngineKind::Tofu => Kind::OpentofuVersions,
    };
    Resource::new(kind, record.id.to_string(), &attributes).link(
        "self",
        format!("/api/v2/admin/{}/{}", collection(record.kind), record.id),
    )
}

fn answer(record: &EngineVersionRecord) -> Document {
    Document::one(resource(record))
}

/// The settings that a request leaves behind: what it names, else what was there.
fn requested(item: &Item, old: Option<&EngineVersionSettings>) -> Result<EngineVersionSettings> {
    let text = |name: &str, old: Option<String>| match (item.text(name)?, old) {
        (None, Some(old)) => Ok(old),
        _ => item.required(name),
    };
    let flag = |name: &str, old: Option<bool>, default: bool| -> std::result::Result<bool, Problem> {
        Ok(item.flag(name)?.or(old).unwrap_or(default))
    };
    let version = text("version", old.map(|old| old.version.to_string()))?;
    let settings = EngineVersionSettings {
        version: version
            .parse()
            .map_err(|error| ApiError::attribute("version", format!("Version {error}")))?,
        url: text("url", old.map(|old| old.url.clone()))?,
        sha256: text("sha", old.map(|old| old.sha256.clone()))?.to_ascii_lowercase(),
        enabled: flag("enabled", old.map(|old| old.enabled), true)?,
        official: flag("official", old.map(|old| old.official), false)?,
        beta: flag("beta", old.map(|old| old.beta), false)?,
        deprecated: flag("deprecated", old.map(|old| old.deprecated), false)?,
        deprecated_reason: match item.attribute("deprecated-reason")? {
            Field::Absent => old.and_then(|old| old.deprecated_reason.clone()),
            Field::Null => None,
            Field::Value(reason) => Some(reason),
        },
    };
    if !settings.url.starts_with("https://")
        || settings.url.len() > MOST_URL_BYTES
        || settings.url.parse::<axum::http::Uri>().is_err()
    {
        return Err(ApiError::attribute(
            "url",
            "Url has to be an https:// address: agents download from nowhere else",
        ));
    }
    let is_digest =
        settings.sha256.len() == 64 && settings.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_digest {
        return Err(ApiError::attribute(
            "sha",
            "Sha has to be the SHA-256 of what the url gives, in 64 hexadecimal digits",
        ));
    }
    Ok(settings)
}

const TAKEN: &str = "Version is in the catalogue already";

async fn find(connection: &mut Connection, kind: EngineKind, id: &str) -> Result<EngineVersionRecord> {
    let id: EngineVersionId = id.parse().map_err(|_| ApiError::NotFound)?;
    engine_versions::get(connection, kind, &id)
        .await?
        .ok_or(ApiError::NotFound)
}

async fn list(kind: EngineKind, State(app): AppState, caller: Caller, params: Params) -> Result {
    require_site_admin(&caller)?;
    let filter = EngineVersionFilter {
        version: params.get("filter[version]").map(str::to_owned),
        search: params.get("search[version]").map(str::to_owned),
    };
    let page = params.page();
    let page = Page {
        number: page.number,
        size: page.size,
    };
    let mut connection = app.db.read().await?;
    let listed = engine_versions::list(&mut connection, kind, &filter, &page).await?;
    let resources = listed.items.iter().map(resource).collect();
    Ok(Answer::ok(params.paged(resources, listed.total)))
}

async fn create(kind: EngineKind, State(app): AppState, caller: Caller, ApiBody(body): ApiBody) -> Result {
    require_site_admin(&caller)?;
    let new = requested(&body, None)?;
    let actor = caller.audit_name();
    let record = app
        .db
        .write::<_, StoreError, _>(move |tx| {
            let (new, actor) = (new.clone(), actor.clone());
            Box::pin(async move {
                let record = engine_versions::create(tx, kind, &new).await?;
                let detail =
                    json!({"engine": kind, "version": new.version, "url": new.url, "sha": new.sha256});
                audit::record(
                    tx,
                    None,
                    &actor,
                    "engine-version.create",
                    record.id.as_str(),
                    &detail,
                )
                .await?;
                Ok(record)
            })
        })
        .await
        .map_err(|error| ApiError::from(error).or_taken("version", TAKEN))?;
    Ok(Answer::created(answer(&record)))
}

async fn show(kind: EngineKind, State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    require_site_admin(&caller)?;
    let record = find(&mut app.db.read().await?, kind, &id).await?;
    Ok(Answer::ok(answer(&record)))
}

/// An entry of the catalogue as the audit log tells of its changes.
fn told(settings: &EngineVersionSettings) -> Value {
    json!({
        "version": settings.version, "url": settings.url, "sha": settings.sha256, "enabled": settings.enabled,
        "official": settings.official, "beta": settings.beta, "deprecated": settings.deprecated,
        "deprecated-reason": settings.deprecated_reason,
    })
}

async fn update(
    kind: EngineKind,
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    require_site_admin(&caller)?;
    let old = find(&mut app.db.read().await?, kind, &id).await?;
    let new = requested(&body, Some(&old.settings))?;
    let detail = json!({"engine": kind, "version": new.version, "url": new.url, "sha": new.sha256,
        "enabled": new.enabled});
    let entry = Entry {
        organization: None,
        action: "engine-version.update",
        subject: old.id.to_string(),
        detail: audited::with_change(detail, &told(&old.settings), &told(&new)),
    };
    let record = audited::change(&app, &caller, entry, move |tx| {
        let (id, new) = (old.id.clone(), new.clone());
        Box::pin(async move { Ok(engine_versions::update(tx, kind, &id, &new).await?) })
    })
    .await
    .map_err(|error| error.or_taken("version", TAKEN))?
    .ok_or(ApiError::NotFound)?;
    Ok(Answer::ok(answer(&record)))
}

async fn delete(kind: EngineKind, State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    require_site_admin(&caller)?;
    let record = find(&mut app.db.read().await?, kind, &id).await?;
    if record.usage > 0 {
        return Err(Problem::new(
            "unprocessable entity",
            format!(
                "{} {} is used by {} workspaces: set another version there, or disable the entry",
                record.kind, record.settings.version, record.usage
            ),
        )
        .into());
    }
    let actor = caller.audit_name();
    app.db
        .write::<_, StoreError, _>(move |tx| {
            let (record, actor) = (record.clone(), actor.clone());
            Box::pin(async move {
                engine_versions::delete(tx, &record.id).await?;
                let detail = json!({"engine": kind, "version": record.settings.version});
                audit::record(
                    tx,
                    None,
                    &actor,
                    "engine-version.delete",
                    record.id.as_str(),
                    &detail,
                )
                .await
            })
        })
        .await?;
    Ok(Answer::NoContent)
}

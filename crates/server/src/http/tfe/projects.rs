//! Projects.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use serde_json::{Value, json};
use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::AgentPoolId;
use terrapool_model::permission::Standing;
use terrapool_store::db::Connection;
use terrapool_store::error::StoreError;
use terrapool_store::organizations::{self, OrganizationRecord};
use terrapool_store::projects::{self, NewProject, ProjectFilter, ProjectRecord};
use terrapool_store::{audit, workspaces};
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::time::iso8601;

use super::AppState;
use super::execution::{self, Own};
use super::organizations::{DefaultOf, check_pool};
use crate::auth::{self, Caller, OrganizationPermission, ProjectPermission};
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::audited::{self, Entry};
use crate::http::error::ApiError;

/// A project as clients see it.
pub(super) fn resource(
    standing: &Standing,
    record: &ProjectRecord,
    organization: &OrganizationRecord,
) -> Resource {
    let own = record.default_execution_mode.is_some();
    let pool = if own {
        record.default_agent_pool_id.as_ref()
    } else {
        organization.default_agent_pool_id.as_ref()
    };
    let may = |permission| standing.may_in_project(&record.id, permission);
    let manage = may(ProjectPermission::Manage);
    let permissions = BTreeMap::from([
        ("can-read", may(ProjectPermission::Read)),
        ("can-update", manage),
        ("can-destroy", manage),
        ("can-create-workspace", may(ProjectPermission::CreateWorkspaces)),
    ]);
    let attributes = attributes::Project {
        name: record.name.clone(),
        description: record.description.clone(),
        created_at: iso8601(record.created_at),
        default_execution_mode: record
            .default_execution_mode
            .unwrap_or(organization.default_execution_mode)
            .to_string(),
        setting_overwrites: attributes::ProjectOverwrites {
            default_execution_mode: own,
            default_agent_pool: own,
        },
        auto_destroy_activity_duration: None,
        is_unified: false,
        workspace_count: record.workspace_count,
        permissions,
    };
    Resource::new(Kind::Projects, record.id.to_string(), &attributes)
        .one("organization", Kind::Organizations, &organization.name)
        .maybe(
            "default-agent-pool",
            pool.map(|id| (Kind::AgentPools, id.to_string())),
        )
        .link("self", format!("/api/v2/projects/{}", record.id))
}

fn check_name(name: &str) -> Result<()> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || matches!(character, ' ' | '-' | '_');
    if name.len() <= 80 && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(ApiError::attribute(
            "name",
            "Name may only contain letters, numbers, spaces, - and _, and has at most 80 characters",
        ))
    }
}

pub(super) async fn find(
    connection: &mut Connection,
    caller: &Caller,
    id: &str,
    permission: ProjectPermission,
) -> Result<(ProjectRecord, OrganizationRecord, Standing)> {
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let record = projects::get(connection, &id).await?.ok_or(ApiError::NotFound)?;
    let standing = auth::standing(connection, caller, &record.organization_id).await?;
    auth::allow(standing.may_in_project(&record.id, permission))?;
    let organization = organizations::get(connection, &record.organization_id)
        .await?
        .ok_or(ApiError::NotFound)?;
    Ok((record, organization, standing))
}

/// `GET organizations/:org/projects`
pub(in crate::http) async fn list(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let read = OrganizationPermission::Read;
    let (organization, standing) =
        auth::organization_and_standing(&mut connection, &caller, &name, read).await?;
    let filter = ProjectFilter {
        sight: auth::sight(&caller, &standing),
        names: params.list("filter[names]"),
        search: params.get("q").map(str::to_owned),
    };
    let page = params.page();
    let (records, total) = projects::list(
        &mut connection,
        &organization.id,
        &filter,
        page.size,
        page.offset(),
    )
    .await?;
    let resources = records
        .iter()
        .map(|record| resource(&standing, record, &organization))
        .collect();
    Ok(Answer::ok(params.paged(resources, total)))
}

/// `POST organizations/:org/projects`
pub(in crate::http) async fn create(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let create = OrganizationPermission::CreateProjects;
    let (organization, standing) =
        auth::organization_and_standing(&mut connection, &caller, &name, create).await?;
    let name = body.required("name")?;
    check_name(&name)?;
    let inherited = Own {
        mode: Some(organization.default_execution_mode),
        pool: organization.default_agent_pool_id.clone(),
    };
    let none = Own {
        mode: None,
        pool: None,
    };
    let own = execution::resolve(&body, execution::PROJECT, &none, &inherited)?;
    if let Some(pool) = &own.pool {
        check_pool(&mut connection, &organization, &DefaultOf::NewProject, pool).await?;
    }
    let new = NewProject {
        description: body.text("description")?.unwrap_or_default(),
        default_execution_mode: own.mode,
        default_agent_pool_id: own.pool,
        ..NewProject::new(organization.id.clone(), name, false)
    };
    let actor = caller.audit_name();
    let record = app
        .db
        .write(move |tx| {
            let (new, actor) = (new.clone(), actor.clone());
            Box::pin(async move {
                let record = projects::create(tx, &new).await?;
                let organization = Some(&new.organization_id);
                audit::record(
                    tx,
                    organization,
                    &actor,
                    "project.create",
                    record.id.as_str(),
                    &json!({}),
                )
                .await?;
                Ok::<_, ApiError>(record)
            })
        })
        .await
        .map_err(|error| error.or_taken("name", "Name has already been taken"))?;
    Ok(Answer::created(Document::one(resource(
        &standing,
        &record,
        &organization,
    ))))
}

/// `GET projects/:id`
pub(in crate::http) async fn show(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let (record, organization, standing) =
        find(&mut connection, &caller, &id, ProjectPermission::Read).await?;
    Ok(Answer::ok(Document::one(resource(
        &standing,
        &record,
        &organization,
    ))))
}

/// A project's settings as the audit log tells of their changes.
fn told(record: &ProjectRecord) -> Value {
    json!({
        "name": record.name, "description": record.description,
        "default-execution-mode": record.default_execution_mode.map(ExecutionMode::as_str),
        "default-agent-pool": record.default_agent_pool_id.as_ref().map(AgentPoolId::as_str),
    })
}

/// `PATCH projects/:id`
pub(in crate::http) async fn update(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let (mut record, organization, standing) =
        find(&mut connection, &caller, &id, ProjectPermission::Manage).await?;
    let before = told(&record);
    if let Some(name) = body.text("name")? {
        check_name(&name)?;
        record.name = name;
    }
    if let Some(description) = body.text("description")? {
        record.description = description;
    }
    let inherited = Own {
        mode: Some(organization.default_execution_mode),
        pool: organization.default_agent_pool_id.clone(),
    };
    let now = Own {
        mode: record.default_execution_mode,
        pool: record.default_agent_pool_id.clone(),
    };
    let own = execution::resolve(&body, execution::PROJECT, &now, &inherited)?;
    if let Some(pool) = own.pool.as_ref().filter(|pool| now.pool.as_ref() != Some(*pool)) {
        let project = DefaultOf::Project(record.id.clone());
        check_pool(&mut connection, &organization, &project, pool).await?;
    }
    record.default_execution_mode = own.mode;
    record.default_agent_pool_id = own.pool;
    let entry = Entry {
        organization: Some(record.organization_id.clone()),
        action: "project.update",
        subject: record.id.to_string(),
        detail: audited::with_change(json!({"name": record.name}), &before, &told(&record)),
    };
    let changed = record.clone();
    audited::change(&app, &caller, entry, move |tx| {
        let record = changed.clone();
        Box::pin(async move { Ok(projects::update(tx, &record).await?) })
    })
    .await
    .map_err(|error| error.or_taken("name", "Name has already been taken"))?;
    Ok(Answer::ok(Document::one(resource(
        &standing,
        &record,
        &organization,
    ))))
}

/// `DELETE projects/:id`
pub(in crate::http) async fn delete(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let (record, ..) = find(&mut connection, &caller, &id, ProjectPermission::Manage).await?;
    if record.is_default {
        return Err(ApiError::Conflict(format!(
            "{} is the organization's default project and cannot be deleted",
            record.name
        )));
    }
    drop(connection);
    let entry = Entry {
        organization: Some(record.organization_id.clone()),
        action: "project.delete",
        subject: record.id.to_string(),
        detail: json!({"name": record.name}),
    };
    let deleted = audited::change(&app, &caller, entry, move |tx| {
        let id = record.id.clone();
        Box::pin(async move {
            projects::delete(tx, &id).await?;
            Ok(workspaces::forget_in_pools(tx, "allowed-project", id.as_str()).await?)
        })
    })
    .await;
    match deleted {
        Err(ApiError::Store(StoreError::Reference)) => Err(ApiError::Conflict(
            "the project still has workspaces: move or delete them first".to_owned(),
        )),
        other => other.map(|()| Answer::NoContent),
    }
}

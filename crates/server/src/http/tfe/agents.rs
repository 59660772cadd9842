//! Agents, as people see them.

use axum::extract::{Path, State};
use serde_json::json;
use terrapool_model::time::Timestamp;
use terrapool_model::times::Times;
use terrapool_store::agents::{self, AgentError, AgentRecord};
use terrapool_store::audit;
use terrapool_store::page::Page;
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::time::{iso8601, parse};

use super::AppState;
use super::agent_pools::find;
use crate::app::App;
use crate::auth::{Caller, OrganizationPermission};
use crate::http::answer::{Answer, Params, Result};
use crate::http::error::ApiError;

impl From<AgentError> for ApiError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::NotFound => Self::NotFound,
            AgentError::Alive(_) => Self::Precondition(error.to_string()),
            AgentError::Store(error) => Self::Store(error),
        }
    }
}

fn resource(record: &AgentRecord, now: Timestamp, times: &Times) -> Resource {
    let attributes = attributes::Agent {
        name: Some(record.name.clone()).filter(|name| !name.is_empty()),
        status: record.status(now, times).as_str(),
        ip_address: record.ip_address.clone(),
        last_ping_at: iso8601(record.last_ping_at),
        created_at: iso8601(record.created_at),
        version: record.version.clone(),
        draining: record.draining,
        drain_wanted: record.drain_wanted,
        jobs: record.jobs,
        health: record.health.as_ref().and_then(|health| serde_json::to_value(health).ok()),
        duplicate_identity: record
            .duplicate(now, times)
            .map(|other| attributes::DuplicateIdentity {
                ip_address: other.ip_address.clone(),
                last_ping_at: iso8601(other.last_ping_at),
                message: format!(
                    "two live processes use this agent's key: the newer one at {}, which gets the work, and an older \
                     one at {}. Unless the older one is about to end, a machine was cloned with the agent's data \
                     folder: remove that folder on one of them and start the agent there again",
                    record.ip_address, other.ip_address
                ),
            }),
    };
    Resource::new(Kind::Agents, record.id.to_string(), &attributes)
        .one("agent-pool", Kind::AgentPools, record.pool_id.to_string())
        .link("self", format!("/api/v2/agents/{}", record.id))
}

/// `GET agent-pools/:id/agents`
pub(in crate::http) async fn list(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let (pool, _) = find(&mut connection, &caller, &id, OrganizationPermission::Read).await?;
    let page = params.page();
    let page = Page {
        number: page.number,
        size: page.size,
    };
    let since = params.get("filter[last-ping-since]").and_then(parse);
    let newest_first = params.get("sort") == Some("-created-at");
    let listed = agents::list(&mut connection, &pool.id, since, newest_first, &page).await?;
    let now = app.now();
    let resources = listed
        .items
        .iter()
        .map(|agent| resource(agent, now, &pool.settings.times))
        .collect();
    Ok(Answer::ok(params.paged(resources, listed.total)))
}

/// `GET agents/:id`
pub(in crate::http) async fn show(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let agent = agents::get(&mut connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let (pool, _) = find(
        &mut connection,
        &caller,
        agent.pool_id.as_str(),
        OrganizationPermission::Read,
    )
    .await?;
    Ok(Answer::ok(Document::one(resource(
        &agent,
        app.now(),
        &pool.settings.times,
    ))))
}

/// `POST agents/:id/actions/drain`: it takes nothing new, finishes what it holds, and stays connected.
pub(in crate::http) async fn drain(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    want_drain(&app, &caller, &id, true).await
}

/// `POST agents/:id/actions/resume`: it takes work again.
pub(in crate::http) async fn resume(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    want_drain(&app, &caller, &id, false).await
}

async fn want_drain(app: &App, caller: &Caller, id: &str, drain: bool) -> Result {
    let mut connection = app.db.read().await?;
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let agent = agents::get(&mut connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let pool = agent.pool_id.as_str();
    let (pool, _) = find(
        &mut connection,
        caller,
        pool,
        OrganizationPermission::ManageAgentPools,
    )
    .await?;
    drop(connection);
    let (actor, times) = (caller.audit_name(), pool.settings.times);
    let agent = app
        .db
        .write(move |tx| {
            let (id, actor) = (agent.id.clone(), actor.clone());
            let organization = pool.organization_id.clone();
            Box::pin(async move {
                agents::want_drain(tx, &id, drain).await?;
                let action = if drain { "agent.drain" } else { "agent.resume" };
                audit::record(tx, organization.as_ref(), &actor, action, id.as_str(), &json!({})).await?;
                agents::get(tx, &id).await?.ok_or(ApiError::NotFound)
            })
        })
        .await?;
    Ok(Answer::ok(Document::one(resource(&agent, app.now(), &times))))
}

/// `DELETE agents/:id`: only one that is not alive.
pub(in crate::http) async fn delete(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let agent = agents::get(&mut connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let (pool, _) = find(
        &mut connection,
        &caller,
        agent.pool_id.as_str(),
        OrganizationPermission::ManageAgentPools,
    )
    .await?;
    drop(connection);
    let actor = caller.audit_name();
    app.db
        .write(move |tx| {
            let (id, times, actor) = (agent.id.clone(), pool.settings.times, actor.clone());
            let organization = pool.organization_id.clone();
            Box::pin(async move {
                agents::delete(tx, &id, &times).await?;
                audit::record(
                    tx,
                    organization.as_ref(),
                    &actor,
                    "agent.delete",
                    id.as_str(),
                    &json!({}),
                )
                .await?;
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    Ok(Answer::NoContent)
}

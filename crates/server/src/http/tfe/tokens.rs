//! Tokens of users, organizations and agent pools. The secret is in the answer that makes one, and nowhere else.

use axum::extract::{Path, State};
use serde_json::json;
use terrapool_model::id::{TokenId, UserId};
use terrapool_model::time::{Millis, Timestamp};
use terrapool_protocol::secret::Secret;
use terrapool_store::agent_tokens::{self, AgentTokenRecord};
use terrapool_store::agents;
use terrapool_store::api_tokens::{self, ApiTokenRecord, NewApiToken, TokenOwner};
use terrapool_store::audit;
use terrapool_store::db::Connection;
use terrapool_store::page::Page;
use terrapool_store::pools;
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Reference, Resource};
use terrapool_tfe::request::{Field, Item};
use terrapool_tfe::time::{iso8601, parse};

use super::AppState;
use crate::app::App;
use crate::auth::{self, Caller, OrganizationPermission};
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::audited;
use crate::http::error::ApiError;
use crate::secrets::{self, TokenKind};

/// How long a token is valid when the request says nothing: two years.
const LIFETIME: Millis = Millis::from_seconds(2 * 365 * 24 * 3600);

/// What all tokens have in common.
struct Shown<'a> {
    id: &'a TokenId,
    description: &'a str,
    created_at: Timestamp,
    last_used_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    created_by: Option<Reference>,
}

fn render(shown: Shown<'_>, secret: Option<&Secret>) -> Resource {
    let attributes = attributes::AuthenticationToken {
        description: (!shown.description.is_empty()).then(|| shown.description.to_owned()),
        created_at: iso8601(shown.created_at),
        last_used_at: shown.last_used_at.map(iso8601),
        expired_at: shown.expires_at.map(iso8601),
        token: secret.map(|secret| secret.expose().to_owned()),
    };
    Resource::new(Kind::AuthenticationTokens, shown.id.to_string(), &attributes)
        .maybe("created-by", shown.created_by)
}

fn user(id: &UserId) -> Reference {
    (Kind::Users, id.to_string())
}

fn api_resource(record: &ApiTokenRecord, secret: Option<&Secret>) -> Resource {
    let created_by = record
        .created_by
        .as_ref()
        .map(user)
        .or_else(|| match &record.owner {
            TokenOwner::User(owner) => Some(user(owner)),
            TokenOwner::Organization(_) => None,
        });
    let shown = Shown {
        id: &record.id,
        description: &record.description,
        created_at: record.created_at,
        last_used_at: record.last_used_at,
        expires_at: record.expires_at,
        created_by,
    };
    render(shown, secret)
}

fn agent_resource(record: &AgentTokenRecord, secret: Option<&Secret>) -> Resource {
    let shown = Shown {
        id: &record.id,
        description: &record.description,
        created_at: record.created_at,
        last_used_at: record.last_used_at,
        expires_at: record.expires_at,
        created_by: record.created_by.as_ref().map(user),
    };
    render(shown, secret)
}

/// `expired-at` of a request; `default` when it is not in it.
fn expiry(item: &Item, default: Option<Timestamp>) -> Result<Option<Timestamp>> {
    match item.attribute::<String>("expired-at")? {
        Field::Absent => Ok(default),
        Field::Null => Ok(default),
        Field::Value(text) => parse(&text).map(Some).ok_or_else(|| {
            ApiError::attribute(
                "expired-at",
                format!("Expired at is invalid: `{text}` is no time"),
            )
        }),
    }
}

async fn created(app: &App, caller: &Caller, owner: TokenOwner, item: &Item) -> Result {
    let kind = match &owner {
        TokenOwner::User(_) => TokenKind::User,
        TokenOwner::Organization(_) => TokenKind::Organization,
    };
    let secret = secrets::new_token(kind, app.db.entropy().as_ref());
    let new = NewApiToken {
        hash: secrets::hash(secret.expose()),
        owner,
        description: item.text("description")?.unwrap_or_default(),
        created_by: caller.user_id().cloned(),
        expires_at: expiry(item, Some(app.now() + LIFETIME))?,
    };
    let actor = caller.audit_name();
    let record = app
        .db
        .write(move |tx| {
            let (new, actor) = (new.clone(), actor.clone());
            Box::pin(async move {
                let organization = match &new.owner {
                    // An organization has one token; making another replaces it.
                    TokenOwner::Organization(id) => {
                        for old in api_tokens::of_owner(tx, &new.owner).await? {
                            api_tokens::revoke(tx, &old.id).await?;
                        }
                        Some(id.clone())
                    }
                    TokenOwner::User(_) => None,
                };
                let record = api_tokens::create(tx, &new).await?;
                let subject = record.id.as_str();
                audit::record(
                    tx,
                    organization.as_ref(),
                    &actor,
                    "token.create",
                    subject,
                    &json!({}),
                )
                .await?;
                Ok::<_, ApiError>(record)
            })
        })
        .await?;
    Ok(Answer::created(Document::one(api_resource(
        &record,
        Some(&secret),
    ))))
}

/// The user that a request names: only oneself, unless a site administrator asks.
fn permitted_user(caller: &Caller, id: &str) -> Result<UserId> {
    let id: UserId = id.parse().map_err(|_| ApiError::NotFound)?;
    match caller.user() {
        Some(user) if user.id == id || user.site_admin => Ok(id),
        _ => Err(ApiError::NotFound),
    }
}

/// `GET users/:id/authentication-tokens`
pub(in crate::http) async fn of_user(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let owner = TokenOwner::User(permitted_user(&caller, &id)?);
    let mut connection = app.db.read().await?;
    let records = api_tokens::of_owner(&mut connection, &owner).await?;
    let total = records.len() as u64;
    let resources = records.iter().map(|record| api_resource(record, None)).collect();
    Ok(Answer::ok(params.paged(params.page().cut(resources), total)))
}

/// `POST users/:id/authentication-tokens`
pub(in crate::http) async fn create_for_user(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let owner = TokenOwner::User(permitted_user(&caller, &id)?);
    created(&app, &caller, owner, &body).await
}

async fn organization_owner(connection: &mut Connection, caller: &Caller, name: &str) -> Result<TokenOwner> {
    let organization =
        auth::organization(connection, caller, name, OrganizationPermission::ManageTokens).await?;
    Ok(TokenOwner::Organization(organization.id))
}

/// `GET organizations/:org/authentication-token`
pub(in crate::http) async fn of_organization(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
) -> Result {
    let mut connection = app.db.read().await?;
    let owner = organization_owner(&mut connection, &caller, &name).await?;
    let records = api_tokens::of_owner(&mut connection, &owner).await?;
    let record = records.last().ok_or(ApiError::NotFound)?;
    Ok(Answer::ok(Document::one(api_resource(record, None))))
}

/// `POST organizations/:org/authentication-token`
pub(in crate::http) async fn create_for_organization(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let owner = organization_owner(&mut connection, &caller, &name).await?;
    drop(connection);
    created(&app, &caller, owner, &body).await
}

/// `DELETE organizations/:org/authentication-token`
pub(in crate::http) async fn delete_of_organization(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
) -> Result {
    let mut connection = app.db.read().await?;
    let owner = organization_owner(&mut connection, &caller, &name).await?;
    let records = api_tokens::of_owner(&mut connection, &owner).await?;
    if records.is_empty() {
        return Err(ApiError::NotFound);
    }
    drop(connection);
    let TokenOwner::Organization(organization) = owner else {
        return Err(ApiError::NotFound);
    };
    let ids: Vec<TokenId> = records.iter().map(|record| record.id.clone()).collect();
    let entry = audited::Entry {
        organization: Some(organization),
        action: "token.delete",
        subject: ids.iter().map(TokenId::as_str).collect::<Vec<_>>().join(", "),
        detail: json!({"cut-off": false}),
    };
    audited::change(&app, &caller, entry, move |tx| {
        let ids = ids.clone();
        Box::pin(async move {
            for id in ids {
                api_tokens::revoke(tx, &id).await?;
            }
            Ok(())
        })
    })
    .await?;
    Ok(Answer::NoContent)
}

/// A token that the caller may see, of whichever kind.
enum Found {
    Api(Box<ApiTokenRecord>),
    Agent(Box<AgentTokenRecord>),
}

async fn find(connection: &mut Connection, caller: &Caller, id: &str) -> Result<Found> {
    let id: TokenId = id.parse().map_err(|_| ApiError::NotFound)?;
    if let Some(record) = api_tokens::get(connection, &id).await? {
        match &record.owner {
            TokenOwner::User(owner) => {
                permitted_user(caller, owner.as_str())?;
            }
            TokenOwner::Organization(organization) => {
                auth::require(
                    connection,
                    caller,
                    organization,
                    OrganizationPermission::ManageTokens,
                )
                .await?;
            }
        }
        return Ok(Found::Api(Box::new(record)));
    }
    let record = agent_tokens::get(connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let pool = pools::get(connection, &record.pool_id)
        .await?
        .ok_or(ApiError::NotFound)?;
    match &pool.organization_id {
        Some(organization) => {
            let permission = OrganizationPermission::ManageAgentPools;
            auth::require(connection, caller, organization, permission).await?;
        }
        // The shared pool is the operators'.
        None if caller.user().is_some_and(|user| user.site_admin) => {}
        None => return Err(ApiError::NotFound),
    }
    Ok(Found::Agent(Box::new(record)))
}

/// `GET authentication-tokens/:id`
pub(in crate::http) async fn show(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let resource = match find(&mut connection, &caller, &id).await? {
        Found::Api(record) => api_resource(&record, None),
        Found::Agent(record) => agent_resource(&record, None),
    };
    Ok(Answer::ok(Document::one(resource)))
}

/// `DELETE authentication-tokens/:id`. Agents that registered with a pool's token finish what they hold; with
/// `cut-off=true` their attempts are told to stop now.
pub(in crate::http) async fn delete(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let cut_off = match params.get("cut-off") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            return Err(ApiError::BadRequest(format!(
                "cut-off is true or false, not `{other}`"
            )));
        }
    };
    let mut connection = app.db.read().await?;
    let found = find(&mut connection, &caller, &id).await?;
    let (id, organization, is_agent) = match &found {
        Found::Api(record) => match &record.owner {
            TokenOwner::User(_) => (record.id.clone(), None, false),
            TokenOwner::Organization(organization) => (record.id.clone(), Some(organization.clone()), false),
        },
        Found::Agent(record) => {
            let pool = pools::get(&mut connection, &record.pool_id).await?;
            (
                record.id.clone(),
                pool.and_then(|pool| pool.organization_id),
                true,
            )
        }
    };
    drop(connection);
    let actor = caller.audit_name();
    app.db
        .write(move |tx| {
            let (id, organization, actor) = (id.clone(), organization.clone(), actor.clone());
            Box::pin(async move {
                if is_agent {
                    agent_tokens::revoke(tx, &id).await?;
                    if cut_off {
                        agents::cut_off_token(tx, &id).await?;
                    }
                } else {
                    api_tokens::revoke(tx, &id).await?;
                }
                let organization = organization.as_ref();
                let detail = json!({"cut-off": cut_off});
                audit::record(tx, organization, &actor, "token.delete", id.as_str(), &detail).await?;
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    Ok(Answer::NoContent)
}

/// `GET agent-pools/:id/authentication-tokens`
pub(in crate::http) async fn of_pool(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let (pool, _) = super::agent_pools::find(
        &mut connection,
        &caller,
        &id,
        OrganizationPermission::ManageAgentPools,
    )
    .await?;
    let page = params.page();
    let page = Page {
        number: page.number,
        size: page.size,
    };
    let listed = agent_tokens::list(&mut connection, &pool.id, &page).await?;
    let resources = listed
        .items
        .iter()
        .map(|record| agent_resource(record, None))
        .collect();
    Ok(Answer::ok(params.paged(resources, listed.total)))
}

/// `POST agent-pools/:id/authentication-tokens`
pub(in crate::http) async fn create_for_pool(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let (pool, _) = super::agent_pools::find(
        &mut connection,
        &caller,
        &id,
        OrganizationPermission::ManageAgentPools,
    )
    .await?;
    drop(connection);
    let description = body.required("description")?;
    let expires_at = expiry(&body, None)?;
    let secret = secrets::new_token(TokenKind::Agent, app.db.entropy().as_ref());
    let hash = secrets::hash(secret.expose());
    let (user, actor) = (caller.user_id().cloned(), caller.audit_name());
    let record = app
        .db
        .write(move |tx| {
            let organization = pool.organization_id.clone();
            let (pool, hash, description) = (pool.id.clone(), hash.clone(), description.clone());
            let (user, actor) = (user.clone(), actor.clone());
            Box::pin(async move {
                let record =
                    agent_tokens::create(tx, &pool, &hash, &description, user.as_ref(), expires_at).await?;
                let (subject, detail) = (record.id.as_str(), json!({"pool": pool.as_str()}));
                audit::record(
                    tx,
                    organization.as_ref(),
                    &actor,
                    "agent-token.create",
                    subject,
                    &detail,
                )
                .await?;
                Ok::<_, ApiError>(record)
            })
        })
        .await?;
    Ok(Answer::created(Document::one(agent_resource(
        &record,
        Some(&secret),
    ))))
}

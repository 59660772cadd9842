//! Who asks, and what they may do.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use terrapool_model::id::{OrganizationId, TokenId, UserId};
use terrapool_store::db::Connection;
use terrapool_store::organizations::{self, OrganizationRecord, Visible};
use terrapool_store::users::UserRecord;
use terrapool_store::workspaces::{self, WorkspaceRecord};
use terrapool_store::{api_tokens, users};

use crate::app::App;
use crate::http::error::ApiError;
use crate::secrets::{self, TokenKind};

pub mod attempts;
pub mod password;
pub mod session;

/// Whose token came with a request.
#[derive(Debug, Clone)]
pub enum Principal {
    /// A user's.
    User(UserRecord),
    /// An organization's.
    Organization(OrganizationId),
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose token it is.
    pub principal: Principal,
    /// The token.
    pub token: TokenId,
}

impl Caller {
    /// The user, unless an organization asks.
    pub fn user(&self) -> Option<&UserRecord> {
        match &self.principal {
            Principal::User(user) => Some(user),
            Principal::Organization(_) => None,
        }
    }

    /// The user's id, unless an organization asks.
    pub fn user_id(&self) -> Option<&UserId> {
        self.user().map(|user| &user.id)
    }

    /// How the audit log names the caller.
    pub fn audit_name(&self) -> String {
        match &self.principal {
            Principal::User(user) => user.id.to_string(),
            Principal::Organization(_) => self.token.to_string(),
        }
    }

    /// Which organizations the caller sees.
    pub fn visible(&self) -> Visible {
        match &self.principal {
            Principal::User(user) if user.site_admin => Visible::All,
            Principal::User(user) => Visible::MemberOf(user.id.clone()),
            Principal::Organization(id) => Visible::Only(id.clone()),
        }
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        // The rate limiter has asked already.
        if let Some(caller) = parts.extensions.get::<Self>() {
            return Ok(caller.clone());
        }
        let token = bearer(parts).ok_or(ApiError::Unauthorized)?;
        authenticate(app, token).await
    }
}

/// The bearer token of a request.
pub fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The caller that a token belongs to. Tokens of agents, sessions and jobs belong to none.
///
/// # Errors
/// [`ApiError::Unauthorized`] when the token is unknown, revoked, expired or of another kind.
pub async fn authenticate(app: &App, token: &str) -> Result<Caller, ApiError> {
    match TokenKind::of(token) {
        Some(TokenKind::User | TokenKind::Organization) => {}
        Some(TokenKind::Agent | TokenKind::Session | TokenKind::Job | TokenKind::Browser) | None => {
            return Err(ApiError::Unauthorized);
        }
    }
    let mut connection = app.db.read().await?;
    let record = api_tokens::by_hash(&mut connection, &secrets::hash(token))
        .await?
        .filter(|record| record.is_valid(app.now()))
        .ok_or(ApiError::Unauthorized)?;
    let principal = match &record.owner {
        api_tokens::TokenOwner::User(id) => Principal::User(
            users::get(&mut connection, id)
                .await?
                .ok_or(ApiError::Unauthorized)?,
        ),
        api_tokens::TokenOwner::Organization(id) => Principal::Organization(id.clone()),
    };
    if record.is_use_worth_noting(app.now()) {
        let (db, id) = (app.db.clone(), record.id.clone());
        // Not awaited: a request must not wait for, or fail with, the note that it was made.
        tokio::spawn(async move {
            let noted = db
                .write(move |tx| {
                    let id = id.clone();
                    Box::pin(async move { api_tokens::touch(tx, &id).await })
                })
                .await;
            if let Err(error) = noted {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a token's use could not be noted"
                );
            }
        });
    }
    Ok(Caller {
        principal,
        token: record.id,
    })
}

/// Something that a caller may or may not do in an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// See the organization, its projects, pools and tags.
    Read,
    /// Change or delete the organization.
    ManageOrganization,
    /// Make, change and delete projects.
    ManageProjects,
    /// Make, change and delete workspaces.
    ManageWorkspaces,
    /// Make, change and delete agent pools and their tokens.
    ManageAgentPools,
    /// Make and delete the organization's tokens.
    ManageTokens,
    /// See a workspace.
    ReadWorkspace,
    /// Lock and unlock a workspace.
    LockWorkspace,
    /// Take another one's lock away.
    ForceUnlock,
    /// Upload configurations and make runs.
    QueueRuns,
    /// Confirm, discard and cancel runs.
    ApplyRuns,
    /// Read outputs.
    ReadOutputs,
    /// Read states and plans in clear.
    ReadState,
    /// Write states.
    WriteState,
    /// Read variables.
    ReadVariables,
    /// Write variables.
    WriteVariables,
}

/// The one place that decides what a caller may do in an organization. Who may not is told that there is nothing.
///
/// Site administrators and members may do everything; finer roles will be decided here.
///
/// # Errors
/// [`ApiError::NotFound`] when the caller may not.
pub async fn require(
    connection: &mut Connection,
    caller: &Caller,
    organization: &OrganizationId,
    permission: Permission,
) -> Result<(), ApiError> {
    let allowed = match &caller.principal {
        Principal::User(user) if user.site_admin => true,
        Principal::User(user) => organizations::role_of(connection, organization, &user.id)
            .await?
            .is_some(),
        Principal::Organization(own) => own == organization && organization_token_may(permission),
    };
    if allowed { Ok(()) } else { Err(ApiError::NotFound) }
}

/// What a token of the organization itself may do: manage it, but not act in a person's place.
fn organization_token_may(permission: Permission) -> bool {
    match permission {
        Permission::Read
        | Permission::ManageOrganization
        | Permission::ManageProjects
        | Permission::ManageWorkspaces
        | Permission::ManageAgentPools
        | Permission::ManageTokens
        | Permission::ReadWorkspace
        | Permission::ReadOutputs
        | Permission::ReadState
        | Permission::ReadVariables
        | Permission::WriteVariables
        | Permission::QueueRuns
        | Permission::ApplyRuns => true,
        Permission::LockWorkspace | Permission::ForceUnlock | Permission::WriteState => false,
    }
}

/// The organization with a name, if the caller may do this in it.
///
/// # Errors
/// [`ApiError::NotFound`] when there is none, or the caller may not.
pub async fn organization(
    connection: &mut Connection,
    caller: &Caller,
    name: &str,
    permission: Permission,
) -> Result<OrganizationRecord, ApiError> {
    let record = organizations::by_name(connection, name)
        .await?
        .ok_or(ApiError::NotFound)?;
    require(connection, caller, &record.id, permission).await?;
    Ok(record)
}

/// The workspace with an id, if the caller may do this with it.
///
/// # Errors
/// [`ApiError::NotFound`] when there is none, or the caller may not.
pub async fn workspace(
    connection: &mut Connection,
    caller: &Caller,
    id: &str,
    permission: Permission,
) -> Result<WorkspaceRecord, ApiError> {
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let record = workspaces::get(connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    require(connection, caller, &record.organization_id, permission).await?;
    Ok(record)
}

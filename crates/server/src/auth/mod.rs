//! Who asks, and what they may do.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use terrapool_model::access::Reader;
use terrapool_model::id::{OrganizationId, RunId, TokenId, UserId};
use terrapool_model::permission::{Grants, Standing};
pub use terrapool_model::permission::{OrganizationPermission, ProjectPermission, WorkspacePermission};
use terrapool_store::db::Connection;
use terrapool_store::organizations::{self, OrganizationRecord, Visible};
use terrapool_store::sight::Sight;
use terrapool_store::users::UserRecord;
use terrapool_store::workspaces::{self, WorkspaceRecord};
use terrapool_store::{api_tokens, state_sharing, teams, users};

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
    /// A run's, whose agent asks on its behalf. It reads states that are shared with its workspace, and nothing else.
    Run(RunScope),
}

/// What a run may read with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunScope {
    /// The run.
    pub run: RunId,
    /// Its workspace.
    pub reader: Reader,
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
    /// The user, unless an organization or a run asks.
    pub fn user(&self) -> Option<&UserRecord> {
        match &self.principal {
            Principal::User(user) => Some(user),
            Principal::Organization(_) | Principal::Run(_) => None,
        }
    }

    /// The user's id, unless an organization or a run asks.
    pub fn user_id(&self) -> Option<&UserId> {
        self.user().map(|user| &user.id)
    }

    /// How the audit log names the caller.
    pub fn audit_name(&self) -> String {
        match &self.principal {
            Principal::User(user) => user.id.to_string(),
            Principal::Organization(_) => self.token.to_string(),
            Principal::Run(scope) => scope.run.to_string(),
        }
    }

    /// Which organizations the caller sees.
    pub fn visible(&self) -> Visible {
        match &self.principal {
            Principal::User(user) if user.site_admin => Visible::All,
            Principal::User(user) => Visible::MemberOf(user.id.clone()),
            Principal::Organization(id) => Visible::Only(id.clone()),
            Principal::Run(scope) => Visible::Only(scope.reader.organization.clone()),
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
/// [`ApiError::Unauthorized`] when the token is unknown, revoked, expired or of another kind, or its user is
/// disabled.
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
                .filter(UserRecord::is_enabled)
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

/// What the caller is in an organization.
///
/// # Errors
/// [`ApiError`] when the database fails.
pub async fn standing(
    connection: &mut Connection,
    caller: &Caller,
    organization: &OrganizationId,
) -> Result<Standing, ApiError> {
    Ok(match &caller.principal {
        Principal::User(user) if user.site_admin => Standing::SiteAdministrator,
        Principal::User(user) => teams::grants(connection, organization, &user.id)
            .await?
            .map_or(Standing::Outsider, Standing::Member),
        Principal::Organization(own) if own == organization => Standing::OrganizationToken,
        // Which of its workspaces a run may read is not a matter of the organization: see `require_in_workspace`.
        Principal::Run(scope) if scope.reader.organization == *organization => {
            Standing::Member(Grants::default())
        }
        Principal::Organization(_) | Principal::Run(_) => Standing::Outsider,
    })
}

/// What lists show to somebody of this standing.
pub fn sight(caller: &Caller, standing: &Standing) -> Sight {
    match caller.user_id() {
        Some(user) if !standing.may(OrganizationPermission::ReadEverything) => match standing {
            Standing::Member(grants) if grants.everywhere.read_projects => Sight::Projects(user.clone()),
            _ => Sight::GrantedTo(user.clone()),
        },
        _ => Sight::All,
    }
}

/// Who may not is told that there is nothing.
///
/// # Errors
/// [`ApiError::NotFound`] unless it is allowed.
pub fn allow(allowed: bool) -> Result<(), ApiError> {
    if allowed { Ok(()) } else { Err(ApiError::NotFound) }
}

/// Refuses unless the caller may do this in an organization.
///
/// # Errors
/// [`ApiError::NotFound`] when the caller may not.
pub async fn require(
    connection: &mut Connection,
    caller: &Caller,
    organization: &OrganizationId,
    permission: OrganizationPermission,
) -> Result<(), ApiError> {
    allow(standing(connection, caller, organization).await?.may(permission))
}

/// The organization with a name, if the caller may do this in it.
///
/// # Errors
/// [`ApiError::NotFound`] when there is none, or the caller may not.
pub async fn organization(
    connection: &mut Connection,
    caller: &Caller,
    name: &str,
    permission: OrganizationPermission,
) -> Result<OrganizationRecord, ApiError> {
    Ok(organization_and_standing(connection, caller, name, permission)
        .await?
        .0)
}

/// The same, and what the caller is in it.
///
/// # Errors
/// [`ApiError::NotFound`] when there is none, or the caller may not.
pub async fn organization_and_standing(
    connection: &mut Connection,
    caller: &Caller,
    name: &str,
    permission: OrganizationPermission,
) -> Result<(OrganizationRecord, Standing), ApiError> {
    let record = organizations::by_name(connection, name)
        .await?
        .ok_or(ApiError::NotFound)?;
    let standing = standing(connection, caller, &record.id).await?;
    allow(standing.may(permission))?;
    Ok((record, standing))
}

/// The workspace with an id, if the caller may do this with it.
///
/// # Errors
/// [`ApiError::NotFound`] when there is none, or the caller may not.
pub async fn workspace(
    connection: &mut Connection,
    caller: &Caller,
    id: &str,
    permission: WorkspacePermission,
) -> Result<WorkspaceRecord, ApiError> {
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let record = workspaces::get(connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    require_in_workspace(connection, caller, &record, permission).await?;
    Ok(record)
}

/// Refuses unless the caller may do this with a workspace. Runs may read those whose state is shared with theirs.
///
/// # Errors
/// [`ApiError::NotFound`] when the caller may not.
pub async fn require_in_workspace(
    connection: &mut Connection,
    caller: &Caller,
    record: &WorkspaceRecord,
    permission: WorkspacePermission,
) -> Result<(), ApiError> {
    if let Principal::Run(scope) = &caller.principal {
        let reads = matches!(
            permission,
            WorkspacePermission::Read | WorkspacePermission::ReadOutputs | WorkspacePermission::ReadState
        );
        return allow(reads && state_sharing::of(connection, record).await?.allows(&scope.reader));
    }
    let standing = standing(connection, caller, &record.organization_id).await?;
    allow(standing.may_in_workspace(&record.id, &record.project_id, permission))
}

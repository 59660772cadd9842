//! Who looks at a page, and what their browser sent along.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use terrapool_model::permission::Standing;
use terrapool_store::db::Connection;
use terrapool_store::organizations::OrganizationRecord;
use terrapool_store::overview;
use terrapool_store::sight::Sight;
use terrapool_store::users::UserRecord;
use terrapool_store::web_sessions::{self, SessionRecord};
use terrapool_store::workspaces::WorkspaceRecord;

use super::error::WebError;
use super::page::{Flash, Rights, RootAttributes, Section, Shell, Theme};
use super::parts::Tone;
use super::parts::time::Ago;
use crate::app::App;
use crate::auth::{self, Caller, OrganizationPermission, ProjectPermission, WorkspacePermission, session};

/// Somebody who is signed in and looks at a page.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// The user.
    pub user: UserRecord,
    /// The session.
    pub session: SessionRecord,
    /// The user as the API's handlers know callers.
    pub caller: Caller,
    /// The page's address.
    pub path: String,
    /// The token of the session's forms.
    pub form_token: String,
    /// Theme and keys.
    pub root: RootAttributes,
    /// What was just done.
    pub flash: Option<Flash>,
    /// Since when the database has taken no writes.
    pub read_only: Option<Ago>,
    /// Names what the page's forms make, so that a form that is sent twice makes it once.
    pub once: String,
    flash_cookie: String,
    flash_secure: bool,
}

/// Theme and keys as the browser keeps them.
pub fn root_attributes(app: &App, headers: &HeaderMap) -> RootAttributes {
    RootAttributes {
        theme: session::cookie_value(app, headers, "theme").and_then(Theme::of),
        keys_off: session::cookie_value(app, headers, "keys") == Some("off"),
        events: None,
        read_only: app.db.read_only_since().is_some(),
    }
}

/// The cookie that holds a sentence about what was done until a page has shown it.
const FLASH: &str = "said";
/// How long that sentence waits for a page that shows it, in seconds.
const FLASH_SECONDS: u64 = 60;

fn flash(app: &App, headers: &HeaderMap) -> Option<Flash> {
    let value = session::cookie_value(app, headers, FLASH)?;
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(value).ok()?).ok()?;
    Some(Flash {
        tone: Tone::Good,
        icon: "ok",
        text,
    })
}

/// The cookie that ends a sentence which a page has shown; `None` where the browser sent none along.
pub fn flash_shown(app: &App, headers: &HeaderMap) -> Option<HeaderValue> {
    session::cookie_value(app, headers, FLASH)?;
    HeaderValue::from_str(&session::cookie(app, FLASH, "", Some(0))).ok()
}

impl Visitor {
    /// The cookie that shows a sentence on the next page.
    pub fn flash_cookie(&self, sentence: &str) -> String {
        let secure = if self.flash_secure { "; Secure" } else { "" };
        format!(
            "{}={}; Path=/; HttpOnly; SameSite=Lax{secure}; Max-Age={FLASH_SECONDS}",
            self.flash_cookie,
            URL_SAFE_NO_PAD.encode(sentence)
        )
    }

    /// Whether the session was not ended since the page was asked for, as it is when the account is disabled.
    pub async fn is_still_signed_in(&self, app: &App) -> bool {
        let Ok(mut connection) = app.db.read().await else {
            return false;
        };
        web_sessions::is_kept(&mut connection, &self.session.id)
            .await
            .unwrap_or(false)
    }

    /// The organization with a name, if the visitor may do this in it, and the frame of a page of it.
    ///
    /// # Errors
    /// [`WebError`] with 404 when there is none, or the visitor may not.
    pub async fn organization(
        &self,
        app: &App,
        connection: &mut Connection,
        name: &str,
        permission: OrganizationPermission,
    ) -> Result<Place, WebError> {
        let (organization, standing) =
            auth::organization_and_standing(connection, &self.caller, name, permission).await?;
        let sight = auth::sight(&self.caller, &standing);
        let counts = overview::counts(connection, &organization.id, &sight, app.now()).await?;
        Ok(Place {
            visitor: self.clone(),
            organization,
            standing,
            sight,
            counts,
        })
    }
}

/// An organization that a visitor looks at.
#[derive(Debug, Clone)]
pub struct Place {
    /// Who looks.
    pub visitor: Visitor,
    /// The organization.
    pub organization: OrganizationRecord,
    /// What the visitor is in it.
    pub standing: Standing,
    /// What of it the visitor sees.
    pub sight: Sight,
    /// What stands beside the links.
    pub counts: overview::Counts,
}

impl Place {
    /// The frame of a page.
    pub fn shell(&self, section: Section, title: impl Into<String>) -> Shell {
        let rights = Rights {
            reads_queues: self.may(OrganizationPermission::ReadQueues),
            manages: self.may(OrganizationPermission::Manage),
        };
        Shell::of(
            &self.visitor,
            &self.organization,
            self.counts,
            rights,
            section,
            title,
        )
    }

    /// Whether the visitor may do this in the organization.
    pub fn may(&self, permission: OrganizationPermission) -> bool {
        self.standing.may(permission)
    }

    /// Whether the visitor may do this with a workspace.
    pub fn may_in_workspace(&self, record: &WorkspaceRecord, permission: WorkspacePermission) -> bool {
        self.standing
            .may_in_workspace(&record.id, &record.project_id, permission)
    }

    /// The projects that the visitor may do this with, by name: ids and names.
    ///
    /// # Errors
    /// [`WebError`] when the database fails.
    pub async fn projects(
        &self,
        connection: &mut Connection,
        permission: ProjectPermission,
    ) -> Result<Vec<(String, String)>, WebError> {
        let mut projects: Vec<(String, String)> = overview::project_names(connection, &self.organization.id)
            .await?
            .into_iter()
            .filter(|(id, _)| self.standing.may_in_project(id, permission))
            .map(|(id, name)| (id.to_string(), name))
            .collect();
        projects.sort_by(|one, two| one.1.cmp(&two.1));
        Ok(projects)
    }

    /// The address of a page of the organization: `path` begins with a slash.
    pub fn address(&self, path: &str) -> String {
        format!("/app/{}{path}", self.organization.name)
    }
}

/// Finds out who is signed in.
///
/// # Errors
/// [`WebError`] that leads to the sign-in page when nobody is.
pub async fn find(app: &App, parts: &Parts) -> Result<Visitor, WebError> {
    let path = parts
        .uri
        .path_and_query()
        .map_or_else(|| "/app".to_owned(), ToString::to_string);
    let Some(signed_in) = session::find(app, &parts.headers).await? else {
        return Err(WebError::sign_in(&parts.method, &path));
    };
    let caller = signed_in.caller();
    Ok(Visitor {
        form_token: session::form_token(app, signed_in.session.id.as_str()),
        user: signed_in.user,
        session: signed_in.session,
        caller,
        path,
        root: root_attributes(app, &parts.headers),
        flash: flash(app, &parts.headers),
        read_only: app.db.read_only_since().map(|since| Ago::new(since, app.now())),
        once: URL_SAFE_NO_PAD.encode(app.db.entropy().draw()),
        flash_cookie: session::cookie_name(app, FLASH),
        flash_secure: session::is_secure(app),
    })
}

impl FromRequestParts<App> for Visitor {
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, WebError> {
        find(app, parts).await
    }
}

//! What all tabs of a pool have around them.

use terrapool_model::id::AgentPoolId;
use terrapool_model::time::Timestamp;
use terrapool_store::agent_tokens;
use terrapool_store::db::Connection;
use terrapool_store::page::Page as StorePage;
use terrapool_store::pools::{self, PoolRecord};

use super::status;
use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::web::error::WebError;
use crate::http::web::page::{Current, Section, Shell};
use crate::http::web::parts::status::Status;
use crate::http::web::parts::words;
use crate::http::web::visitor::{Place, Visitor};
use crate::waiting::{self, PoolState};

/// The names in a pool's address: organization, pool.
pub(super) type Names = (String, String);

/// A tab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Agents,
    Install,
    Tokens,
    Access,
    Settings,
}

/// What all tabs show.
pub(super) struct Frame {
    pub(super) id: AgentPoolId,
    pub(super) name: String,
    pub(super) base: String,
    pub(super) status: Status,
    pub(super) about: String,
    pub(super) tokens: u64,
    pub(super) shared: bool,
    pub(super) manages: bool,
    pub(super) paused: bool,
    tab: Tab,
}

impl Frame {
    /// Marks the tab that is shown.
    pub(super) fn current(&self, tab: Tab) -> Current {
        Current(self.tab == tab)
    }
}

/// A pool that a visitor looks at.
pub(super) struct Seen {
    pub(super) place: Place,
    pub(super) state: PoolState,
    pub(super) frame: Frame,
    pub(super) now: Timestamp,
}

impl Seen {
    /// The pool.
    pub(super) fn pool(&self) -> &PoolRecord {
        &self.state.pool
    }

    /// The frame of the page.
    pub(super) fn shell(&self, title: &str) -> Shell {
        let pools = self.place.address("/agent-pools");
        let name = self.frame.name.clone();
        if self.frame.tab == Tab::Agents {
            return self
                .place
                .shell(Section::Pools, name)
                .behind("Agent pools", pools);
        }
        let mut shell = self
            .place
            .shell(Section::Pools, title)
            .behind("Agent pools", pools)
            .behind(name.clone(), self.frame.base.clone());
        shell.title = format!("{title} of {name} · {}", self.place.organization.name);
        shell
    }
}

/// The pool of an organization with an id, if the visitor may do this with it.
pub(super) async fn pool(
    app: &App,
    connection: &mut Connection,
    visitor: &Visitor,
    (organization, id): &Names,
    permission: OrganizationPermission,
) -> Result<(Place, PoolRecord), WebError> {
    let place = visitor
        .organization(app, connection, organization, permission)
        .await?;
    let id = id.parse().map_err(|_| WebError::not_found())?;
    let pool = pools::get(connection, &id)
        .await?
        .filter(|pool| pool.organization_id.as_ref() == Some(&place.organization.id))
        .ok_or_else(WebError::not_found)?;
    Ok((place, pool))
}

/// The same with everything that the tabs show.
pub(super) async fn see(
    app: &App,
    connection: &mut Connection,
    visitor: &Visitor,
    names: &Names,
    tab: Tab,
) -> Result<Seen, WebError> {
    let permission = match tab {
        Tab::Agents | Tab::Access => OrganizationPermission::ReadQueues,
        Tab::Install | Tab::Tokens | Tab::Settings => OrganizationPermission::ManageAgentPools,
    };
    let (place, pool) = pool(app, connection, visitor, names, permission).await?;
    let now = app.now();
    let about = access_words(&pool, &place.organization.name);
    let state = waiting::of_pool(connection, pool, now).await?;
    let (status, reason) = status::of(&state, now);
    let tokens = agent_tokens::list(connection, &state.pool.id, &StorePage::first(1)).await?;
    let frame = Frame {
        id: state.pool.id.clone(),
        name: state.pool.name.clone(),
        base: place.address(&format!("/agent-pools/{}", state.pool.id)),
        status,
        about: if reason.is_empty() {
            about
        } else {
            format!("{reason}. {about}")
        },
        tokens: tokens.total,
        shared: state.pool.organization_id.is_none(),
        manages: place.may(OrganizationPermission::ManageAgentPools),
        paused: state.pool.settings.paused,
        tab,
    };
    Ok(Seen {
        place,
        state,
        frame,
        now,
    })
}

/// Who may use a pool, in words.
pub(super) fn access_words(pool: &PoolRecord, organization: &str) -> String {
    let access = &pool.access;
    if access.organization_scoped {
        return match access.excluded_workspaces.len() {
            0 => format!("Every workspace of {organization}"),
            excluded => format!(
                "{organization} but {}",
                words::count(excluded as u64, "workspace", "workspaces")
            ),
        };
    }
    let parts: Vec<String> = [
        (access.allowed_projects.len(), "project", "projects"),
        (access.allowed_workspaces.len(), "workspace", "workspaces"),
    ]
    .into_iter()
    .filter(|(number, _, _)| *number > 0)
    .map(|(number, one, many)| words::count(number as u64, one, many))
    .collect();
    if parts.is_empty() {
        "Nobody yet".to_owned()
    } else {
        parts.join(" and ")
    }
}

//! Teams and their members.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use serde_json::{Map, Value, json};
use terrapool_model::id::UserId;
use terrapool_store::db::Connection;
use terrapool_store::memberships::{self, MembershipRecord};
use terrapool_store::organizations::{self, OrganizationRecord};
use terrapool_store::teams::{self, NewTeam, TeamRecord, Visibility};
use terrapool_store::{audit, users};
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::request::{Field, Item};

use super::AppState;
use crate::app::App;
use crate::auth::{self, Caller, OrganizationPermission};
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::audited::{self, Entry};
use crate::http::error::ApiError;

/// What the API knows a team may do in a whole organization. Those that mean something here are
/// `read-workspaces`, `read-projects`, `manage-workspaces`, `manage-projects` and `manage-agent-pools`.
const ORGANIZATION_ACCESS: [&str; 16] = [
    "access-secret-teams",
    "delegate-policy-overrides",
    "manage-agent-pools",
    "manage-membership",
    "manage-modules",
    "manage-organization-access",
    "manage-policies",
    "manage-policy-overrides",
    "manage-projects",
    "manage-providers",
    "manage-run-tasks",
    "manage-teams",
    "manage-vcs-settings",
    "manage-workspaces",
    "read-projects",
    "read-workspaces",
];

/// A team as clients see it.
pub(super) async fn resource(
    connection: &mut Connection,
    team: &TeamRecord,
    organization: &OrganizationRecord,
    manages: bool,
) -> Result<Resource> {
    let mut access = Map::new();
    for name in ORGANIZATION_ACCESS {
        let held = team.is_owners || team.organization_access.get(name) == Some(&Value::Bool(true));
        access.insert(name.to_owned(), json!(held));
    }
    let attributes = attributes::Team {
        name: team.name.clone(),
        visibility: team.visibility.as_str(),
        users_count: team.users,
        sso_team_id: None,
        is_unified: false,
        allow_member_token_management: true,
        permissions: BTreeMap::from([
            ("can-destroy", manages && !team.is_owners),
            ("can-update-membership", manages),
        ]),
        organization_access: access,
    };
    let (mut people, mut belonging) = (Vec::new(), Vec::new());
    for (user, _) in teams::members(connection, &team.id).await? {
        if let Some(membership) = memberships::of_user(connection, &organization.id, &user).await? {
            belonging.push((Kind::OrganizationMemberships, membership.id.to_string()));
        }
        people.push((Kind::Users, user.to_string()));
    }
    Ok(Resource::new(Kind::Teams, team.id.to_string(), &attributes)
        .one("organization", Kind::Organizations, &organization.name)
        .many("users", &people)
        .many("organization-memberships", &belonging)
        .link("self", format!("/api/v2/teams/{}", team.id)))
}

/// Whether somebody sees a team.
async fn is_visible(connection: &mut Connection, caller: &Caller, team: &TeamRecord) -> Result<bool> {
    let standing = auth::standing(connection, caller, &team.organization_id).await?;
    if standing.may(OrganizationPermission::Manage) {
        return Ok(true);
    }
    if !standing.may(OrganizationPermission::Read) {
        return Ok(false);
    }
    Ok(match (team.visibility, caller.user_id()) {
        (Visibility::Organization, _) => true,
        (Visibility::Secret, Some(user)) => teams::of_user(connection, &team.organization_id, user)
            .await?
            .contains(&team.id),
        (Visibility::Secret, None) => false,
    })
}

/// The team with an id, if the caller sees it.
pub(super) async fn visible(connection: &mut Connection, caller: &Caller, id: &str) -> Result<TeamRecord> {
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let team = teams::get(connection, &id).await?.ok_or(ApiError::NotFound)?;
    auth::allow(is_visible(connection, caller, &team).await?)?;
    Ok(team)
}

/// The team with an id, if the caller may change it.
async fn managed(connection: &mut Connection, caller: &Caller, id: &str) -> Result<TeamRecord> {
    let team = visible(connection, caller, id).await?;
    auth::require(
        connection,
        caller,
        &team.organization_id,
        OrganizationPermission::Manage,
    )
    .await?;
    Ok(team)
}

async fn shown(connection: &mut Connection, caller: &Caller, team: &TeamRecord) -> Result<Document> {
    let organization = organizations::get(connection, &team.organization_id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let manages = auth::standing(connection, caller, &organization.id)
        .await?
        .may(OrganizationPermission::Manage);
    Ok(Document::one(
        resource(connection, team, &organization, manages).await?,
    ))
}

/// `GET organizations/:org/teams`
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
    let manages = standing.may(OrganizationPermission::Manage);
    let names = params.list("filter[names]");
    let search = params.get("q").map(str::to_lowercase);
    let mut found = Vec::new();
    for team in teams::of_organization(&mut connection, &organization.id).await? {
        let named = names.is_empty() || names.contains(&team.name);
        let fits = search
            .as_ref()
            .is_none_or(|search| team.name.to_lowercase().contains(search));
        if named && fits && is_visible(&mut connection, &caller, &team).await? {
            found.push(team);
        }
    }
    let total = found.len() as u64;
    let mut resources = Vec::new();
    for team in params.page().cut(found) {
        resources.push(resource(&mut connection, &team, &organization, manages).await?);
    }
    Ok(Answer::ok(params.paged(resources, total)))
}

fn check_name(name: &str) -> Result<()> {
    let allowed = |character: char| character.is_alphanumeric() || matches!(character, ' ' | '-' | '_');
    if name.chars().count() <= 90 && name.chars().all(allowed) {
        return Ok(());
    }
    Err(ApiError::attribute(
        "name",
        "Name may only contain letters, numbers, blanks, - and _, and has at most 90 characters",
    ))
}

/// Takes over what a request says of a team.
fn apply(item: &Item, new: &mut NewTeam) -> Result<()> {
    if let Some(name) = item.text("name")? {
        check_name(&name)?;
        new.name = name;
    }
    if let Some(visibility) = item.text("visibility")? {
        new.visibility = visibility.parse().map_err(|()| {
            ApiError::attribute("visibility", "Visibility is either `secret` or `organization`")
        })?;
    }
    if let Field::Value(flags) = item.attribute::<Map<String, Value>>("organization-access")? {
        for (name, value) in flags {
            if ORGANIZATION_ACCESS.contains(&name.as_str()) && value.is_boolean() {
                new.organization_access.insert(name, value);
            }
        }
    }
    Ok(())
}

/// `POST organizations/:org/teams`
pub(in crate::http) async fn create(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let manage = OrganizationPermission::Manage;
    let organization = auth::organization(&mut connection, &caller, &name, manage).await?;
    body.required("name")?;
    let mut new = NewTeam {
        organization_id: organization.id.clone(),
        name: String::new(),
        visibility: Visibility::Secret,
        organization_access: Map::new(),
    };
    apply(&body, &mut new)?;
    let actor = caller.audit_name();
    let team = app
        .db
        .write(move |tx| {
            let (new, actor) = (new.clone(), actor.clone());
            Box::pin(async move {
                let team = teams::create(tx, &new).await?;
                let (organization, subject) = (Some(&new.organization_id), team.id.as_str());
                let detail = json!({"name": team.name});
                audit::record(tx, organization, &actor, "team.create", subject, &detail).await?;
                Ok::<_, ApiError>(team)
            })
        })
        .await
        .map_err(|error| error.or_taken("name", "Name has already been taken"))?;
    Ok(Answer::created(shown(&mut connection, &caller, &team).await?))
}

/// `GET teams/:id`
pub(in crate::http) async fn show(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let team = visible(&mut connection, &caller, &id).await?;
    let includes = params.includes();
    let mut included = Vec::new();
    for (user, _) in teams::members(&mut connection, &team.id).await? {
        if includes.contains("users")
            && let Some(user) = users::get(&mut connection, &user).await?
        {
            included.push(super::users::resource(&user, false));
        }
        if includes.contains("organization_memberships")
            && let Some(membership) =
                memberships::of_user(&mut connection, &team.organization_id, &user).await?
        {
            included.push(super::memberships::resource(&mut connection, &membership).await?);
        }
    }
    Ok(Answer::ok(
        shown(&mut connection, &caller, &team).await?.include(included),
    ))
}

/// A team's settings as the audit log tells of their changes.
fn told(team: &TeamRecord) -> Value {
    json!({
        "name": team.name, "visibility": team.visibility.as_str(),
        "organization-access": team.organization_access,
    })
}

/// `PATCH teams/:id`
pub(in crate::http) async fn update(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let mut team = managed(&mut connection, &caller, &id).await?;
    let before = told(&team);
    let mut changed = NewTeam {
        organization_id: team.organization_id.clone(),
        name: team.name.clone(),
        visibility: team.visibility,
        organization_access: team.organization_access.clone(),
    };
    apply(&body, &mut changed)?;
    if team.is_owners
        && (changed.name != team.name || changed.organization_access != team.organization_access)
    {
        return Err(ApiError::Conflict(
            "the team of the owners may do everything, and keeps its name".to_owned(),
        ));
    }
    team.name = changed.name;
    team.visibility = changed.visibility;
    team.organization_access = changed.organization_access;
    let entry = Entry {
        organization: Some(team.organization_id.clone()),
        action: "team.update",
        subject: team.id.to_string(),
        detail: audited::with_change(
            json!({"name": team.name, "organization-access": team.organization_access}),
            &before,
            &told(&team),
        ),
    };
    let stored = team.clone();
    audited::change(&app, &caller, entry, move |tx| {
        let team = stored.clone();
        Box::pin(async move { Ok(teams::update(tx, &team).await?) })
    })
    .await
    .map_err(|error| error.or_taken("name", "Name has already been taken"))?;
    Ok(Answer::ok(shown(&mut connection, &caller, &team).await?))
}

/// `DELETE teams/:id`
pub(in crate::http) async fn delete(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let team = managed(&mut connection, &caller, &id).await?;
    drop(connection);
    if team.is_owners {
        return Err(ApiError::Conflict(
            "an organization has a team of owners as long as it is there".to_owned(),
        ));
    }
    let entry = Entry {
        organization: Some(team.organization_id.clone()),
        action: "team.delete",
        subject: team.id.to_string(),
        detail: json!({"name": team.name}),
    };
    audited::change(&app, &caller, entry, move |tx| {
        let id = team.id.clone();
        Box::pin(async move { Ok(teams::delete(tx, &id).await?) })
    })
    .await?;
    Ok(Answer::NoContent)
}

/// Which way a request changes a team's members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Join,
    Leave,
}

/// An organization without owners could not be managed by anybody.
pub(super) fn last_owner() -> ApiError {
    ApiError::Conflict(
        "an organization keeps at least one owner: make somebody else an owner first".to_owned(),
    )
}

async fn change_members(
    app: &App,
    connection: Connection,
    caller: &Caller,
    team: TeamRecord,
    people: Vec<MembershipRecord>,
    change: Change,
) -> Result {
    drop(connection);
    let actor = caller.audit_name();
    app.db
        .write(move |tx| {
            let (team, people, actor) = (team.clone(), people.clone(), actor.clone());
            Box::pin(async move {
                for member in &people {
                    let action = match change {
                        Change::Join => {
                            teams::add_member(tx, &team.id, &member.user_id).await?;
                            "team.add-member"
                        }
                        Change::Leave => {
                            teams::remove_member(tx, &team.id, &member.user_id).await?;
                            "team.remove-member"
                        }
                    };
                    let (organization, subject) = (Some(&team.organization_id), team.id.as_str());
                    let detail = json!({"team": team.name, "user": member.username});
                    audit::record(tx, organization, &actor, action, subject, &detail).await?;
                }
                if team.is_owners && teams::count_owners(tx, &team.organization_id).await? == 0 {
                    return Err(last_owner());
                }
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    Ok(Answer::NoContent)
}

/// The members that a request names by the names or ids of users.
async fn named_users(
    connection: &mut Connection,
    team: &TeamRecord,
    items: &[Item],
) -> Result<Vec<MembershipRecord>> {
    let mut people = Vec::new();
    for item in items {
        let name = item.id.clone().unwrap_or_default();
        let user = match name.parse::<UserId>() {
            Ok(id) => users::get(connection, &id).await?,
            Err(_) => users::by_username(connection, &name).await?,
        };
        let member = match user {
            Some(user) => memberships::of_user(connection, &team.organization_id, &user.id).await?,
            None => None,
        };
        people.push(member.ok_or_else(|| {
            ApiError::attribute("id", format!("`{name}` is no member of this organization"))
        })?);
    }
    Ok(people)
}

/// The members that a request names by the ids of their memberships.
async fn named_memberships(
    connection: &mut Connection,
    team: &TeamRecord,
    items: &[Item],
) -> Result<Vec<MembershipRecord>> {
    let mut people = Vec::new();
    for item in items {
        let text = item.id.clone().unwrap_or_default();
        let found = match text.parse() {
            Ok(id) => memberships::get(connection, &id).await?,
            Err(_) => None,
        };
        people.push(
            found
                .filter(|member| member.organization_id == team.organization_id)
                .ok_or_else(|| {
                    ApiError::attribute("id", format!("`{text}` is no membership of this organization"))
                })?,
        );
    }
    Ok(people)
}

macro_rules! members {
    ($(#[$doc:meta])* $name:ident, $find:ident, $change:expr) => {
        $(#[$doc])*
        pub(in crate::http) async fn $name(
            State(app): AppState,
            caller: Caller,
            Path(id): Path<String>,
            ApiBody(body): ApiBody,
        ) -> Result {
            let mut connection = app.db.read().await?;
            let team = managed(&mut connection, &caller, &id).await?;
            let people = $find(&mut connection, &team, &body.items).await?;
            change_members(&app, connection, &caller, team, people, $change).await
        }
    };
}

members! {
    /// `POST teams/:id/relationships/users`
    add_users, named_users, Change::Join
}
members! {
    /// `DELETE teams/:id/relationships/users`
    remove_users, named_users, Change::Leave
}
members! {
    /// `POST teams/:id/relationships/organization-memberships`
    add_memberships, named_memberships, Change::Join
}
members! {
    /// `DELETE teams/:id/relationships/organization-memberships`
    remove_memberships, named_memberships, Change::Leave
}

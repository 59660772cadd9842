//! Members of organizations.

use axum::extract::{Path, State};
use serde_json::json;
use terrapool_store::db::Connection;
use terrapool_store::memberships::{self, MembershipRecord};
use terrapool_store::teams::{self, TeamRecord};
use terrapool_store::{audit, organizations, users};
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};

use super::AppState;
use crate::auth::{self, Caller, OrganizationPermission};
use crate::http::answer::{Answer, ApiBody, Params, Result};
use crate::http::audited::{self, Entry};
use crate::http::error::ApiError;

/// A membership as clients see it.
pub(super) async fn resource(connection: &mut Connection, record: &MembershipRecord) -> Result<Resource> {
    let organization = organizations::get(connection, &record.organization_id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let teams: Vec<_> = teams::of_user(connection, &record.organization_id, &record.user_id)
        .await?
        .into_iter()
        .map(|id| (Kind::Teams, id.to_string()))
        .collect();
    let attributes = attributes::OrganizationMembership {
        status: "active",
        email: record.email.clone(),
        username: record.username.clone(),
    };
    let resource = Resource::new(Kind::OrganizationMemberships, record.id.to_string(), &attributes);
    Ok(resource
        .one("organization", Kind::Organizations, organization.name)
        .one("user", Kind::Users, record.user_id.to_string())
        .many("teams", &teams)
        .link("self", format!("/api/v2/organization-memberships/{}", record.id)))
}

async fn user(connection: &mut Connection, record: &MembershipRecord) -> Result<Option<Resource>> {
    let user = users::get(connection, &record.user_id).await?;
    Ok(user.map(|user| super::users::resource(&user, false)))
}

/// `GET organizations/:org/organization-memberships`
pub(in crate::http) async fn list(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let read = OrganizationPermission::Read;
    let organization = auth::organization(&mut connection, &caller, &name, read).await?;
    let (emails, search) = (
        params.list("filter[email]"),
        params.get("q").map(str::to_lowercase),
    );
    let mut found = memberships::of_organization(&mut connection, &organization.id).await?;
    found.retain(|member| {
        let fits = |search: &String| {
            member.username.to_lowercase().contains(search) || member.email.to_lowercase().contains(search)
        };
        (emails.is_empty() || emails.contains(&member.email)) && search.as_ref().is_none_or(fits)
    });
    let total = found.len() as u64;
    let (mut resources, mut more) = (Vec::new(), Vec::new());
    for member in params.page().cut(found) {
        resources.push(resource(&mut connection, &member).await?);
        if params.includes().contains("user") {
            more.extend(user(&mut connection, &member).await?);
        }
    }
    Ok(Answer::ok(params.paged(resources, total).include(more)))
}

/// `POST organizations/:org/organization-memberships`: somebody who has an account, by e-mail address or name.
pub(in crate::http) async fn create(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
    ApiBody(body): ApiBody,
) -> Result {
    let mut connection = app.db.read().await?;
    let manage = OrganizationPermission::Manage;
    let organization = auth::organization(&mut connection, &caller, &name, manage).await?;
    let (attribute, login) = match body.text("email")?.filter(|email| !email.is_empty()) {
        Some(email) => ("email", email),
        None => ("username", body.required("username")?),
    };
    let person = users::by_login(&mut connection, &login).await?.ok_or_else(|| {
        ApiError::attribute(
            attribute,
            format!("Nobody with `{login}` has an account here: an operator makes accounts with `terrapool admin create-user`"),
        )
    })?;
    let mut joins: Vec<TeamRecord> = Vec::new();
    for item in body.related_many("teams").unwrap_or_default() {
        let id = item.id.unwrap_or_default();
        let team = super::teams::visible(&mut connection, &caller, &id).await?;
        if team.organization_id != organization.id {
            return Err(ApiError::NotFound);
        }
        joins.push(team);
    }
    let (actor, user_id) = (caller.audit_name(), person.id.clone());
    let id = organization.id.clone();
    app.db
        .write(move |tx| {
            let (id, user_id, actor) = (id.clone(), user_id.clone(), actor.clone());
            let (joins, username) = (joins.clone(), person.username.clone());
            Box::pin(async move {
                let membership = memberships::add(tx, &id, &user_id).await?;
                for team in &joins {
                    teams::add_member(tx, &team.id, &user_id).await?;
                }
                let names: Vec<&str> = joins.iter().map(|team| team.name.as_str()).collect();
                let detail = json!({"user": username, "teams": names});
                let subject = membership.as_str();
                audit::record(tx, Some(&id), &actor, "membership.create", subject, &detail).await?;
                Ok::<_, ApiError>(())
            })
        })
        .await
        .map_err(|error| error.or_taken(attribute, "User is already a member of this organization"))?;
    let record = memberships::of_organization(&mut connection, &organization.id)
        .await?
        .into_iter()
        .find(|member| member.email == login || member.username == login)
        .ok_or(ApiError::NotFound)?;
    let included = user(&mut connection, &record).await?;
    Ok(Answer::created(
        Document::one(resource(&mut connection, &record).await?).include(included),
    ))
}

async fn find(
    connection: &mut Connection,
    caller: &Caller,
    id: &str,
    permission: OrganizationPermission,
) -> Result<MembershipRecord> {
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let record = memberships::get(connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    auth::require(connection, caller, &record.organization_id, permission).await?;
    Ok(record)
}

/// `GET organization-memberships/:id`
pub(in crate::http) async fn show(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let record = find(&mut connection, &caller, &id, OrganizationPermission::Read).await?;
    let included = if params.includes().contains("user") {
        user(&mut connection, &record).await?
    } else {
        None
    };
    Ok(Answer::ok(
        Document::one(resource(&mut connection, &record).await?).include(included),
    ))
}

/// `DELETE organization-memberships/:id`
pub(in crate::http) async fn delete(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let record = find(&mut connection, &caller, &id, OrganizationPermission::Manage).await?;
    drop(connection);
    let entry = Entry {
        organization: Some(record.organization_id.clone()),
        action: "membership.delete",
        subject: record.id.to_string(),
        detail: json!({"user": record.username}),
    };
    audited::change(&app, &caller, entry, move |tx| {
        let (organization, user) = (record.organization_id.clone(), record.user_id.clone());
        Box::pin(async move {
            memberships::remove(tx, &organization, &user).await?;
            if teams::count_owners(tx, &organization).await? == 0 {
                return Err(super::teams::last_owner());
            }
            Ok(())
        })
    })
    .await?;
    Ok(Answer::NoContent)
}

//! Users, as they see themselves.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use serde_json::{Value, json};
use terrapool_store::users::{self, UserRecord};
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};

use super::AppState;
use crate::auth::{Caller, Principal};
use crate::http::answer::{Answer, ApiBody, Result};
use crate::http::audited::{self, Entry};
use crate::http::error::ApiError;

/// A user as clients see it. `own`: the user itself asks.
pub(super) fn resource(record: &UserRecord, own: bool) -> Resource {
    let permissions = [
        ("can-create-organizations", own),
        ("can-change-email", own),
        ("can-change-username", own),
        ("can-manage-user-tokens", own),
    ];
    let attributes = attributes::User {
        username: record.username.clone(),
        email: if own { record.email.clone() } else { String::new() },
        avatar_url: String::new(),
        is_service_account: false,
        is_site_admin: own && record.site_admin,
        is_admin: own && record.site_admin,
        is_sso_login: false,
        v2_only: false,
        two_factor: BTreeMap::from([("enabled", false), ("verified", false)]),
        permissions: BTreeMap::from(permissions),
    };
    Resource::new(Kind::Users, record.id.to_string(), &attributes)
        .related(
            "authentication-tokens",
            format!("/api/v2/users/{}/authentication-tokens", record.id),
        )
        .link("self", format!("/api/v2/users/{}", record.id))
}

/// `GET account/details`
pub(in crate::http) async fn details(caller: Caller) -> Result {
    match &caller.principal {
        Principal::User(user) => Ok(Answer::ok(Document::one(resource(user, true)))),
        // A token that belongs to an organization shows up as a service account.
        Principal::Organization(id) => {
            let attributes = attributes::User {
                username: format!("api-{id}"),
                email: String::new(),
                avatar_url: String::new(),
                is_service_account: true,
                is_site_admin: false,
                is_admin: false,
                is_sso_login: false,
                v2_only: true,
                two_factor: BTreeMap::from([("enabled", false), ("verified", false)]),
                permissions: BTreeMap::from([("can-create-organizations", false)]),
            };
            Ok(Answer::ok(Document::one(Resource::new(
                Kind::Users,
                format!("user-{}", id.as_str().trim_start_matches("org-")),
                &attributes,
            ))))
        }
        Principal::Run(_) => Err(ApiError::NotFound),
    }
}

/// A user as the audit log tells of changes.
fn told(user: &UserRecord) -> Value {
    json!({"username": user.username, "email": user.email})
}

/// `PATCH account/update`
pub(in crate::http) async fn update(State(app): AppState, caller: Caller, ApiBody(body): ApiBody) -> Result {
    let mut user = caller.user().ok_or(ApiError::NotFound)?.clone();
    let before = told(&user);
    if let Some(name) = body.text("username")? {
        if !super::organizations::is_plain_name(&name, 60) {
            return Err(ApiError::attribute(
                "username",
                "Username can only include letters, numbers, - and _, and has at most 60 characters",
            ));
        }
        user.username = name;
    }
    if let Some(email) = body.text("email")? {
        if !email.contains('@') {
            return Err(ApiError::attribute("email", "Email is invalid"));
        }
        user.email = email;
    }
    let entry = Entry {
        organization: None,
        action: "user.update",
        subject: user.id.to_string(),
        detail: audited::with_change(told(&user), &before, &told(&user)),
    };
    let changed = user.clone();
    audited::change(&app, &caller, entry, move |tx| {
        let user = changed.clone();
        Box::pin(async move { Ok(users::update(tx, &user.id, &user.username, &user.email).await?) })
    })
    .await
    .map_err(|error| error.or_taken("username", "Username has already been taken"))?;
    Ok(Answer::ok(Document::one(resource(&user, true))))
}

/// `GET users/:id`: oneself, or somebody who shares an organization.
pub(in crate::http) async fn show(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let mut connection = app.db.read().await?;
    let own = caller.user_id() == Some(&id);
    let record = users::get(&mut connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    if !own {
        let shared = match &caller.principal {
            Principal::User(user) if user.site_admin => true,
            Principal::User(user) => users::share_organization(&mut connection, &user.id, &id).await?,
            Principal::Organization(_) | Principal::Run(_) => false,
        };
        if !shared {
            return Err(ApiError::NotFound);
        }
    }
    Ok(Answer::ok(Document::one(resource(&record, own))))
}

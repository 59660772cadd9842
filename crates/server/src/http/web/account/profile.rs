//! Name, address and password.

use askama::Template;
use axum::extract::State;
use serde_json::json;
use terrapool_protocol::secret::Secret;
use terrapool_store::{audit, users, web_sessions};

use super::{Tab, shell, tabs};
use crate::app::App;
use crate::auth::password;
use crate::http::error::ApiError;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{self, SignedForm, request};
use crate::http::web::page::{Page, Section, Shell, html_with, see_with};
use crate::http::web::parts::Icon;
use crate::http::web::visitor::Visitor;

#[derive(Template)]
#[template(path = "account/profile.html")]
struct ProfilePage {
    shell: Shell,
    tabs: Vec<Tab>,
    username: String,
    email: String,
    problem: Option<String>,
}

fn page(visitor: &Visitor, filled: (String, String), problem: Option<String>) -> Page {
    let status = form::status(problem.is_some());
    let page = ProfilePage {
        shell: shell(visitor, "Profile"),
        tabs: tabs("profile"),
        username: filled.0,
        email: filled.1,
        problem,
    };
    html_with(status, &page)
}

fn stored(visitor: &Visitor) -> (String, String) {
    (visitor.user.username.clone(), visitor.user.email.clone())
}

/// `GET /app/settings/profile`
pub(super) async fn show(visitor: Visitor) -> Page {
    page(&visitor, stored(&visitor), None)
}

/// `POST /app/settings/profile`
pub(super) async fn save(State(app): State<App>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let filled = (
        fields.text("username").to_owned(),
        fields.text("email").to_owned(),
    );
    let body = request(json!({"username": filled.0, "email": filled.1}));
    match tfe::users::update(State(app), visitor.caller.clone(), body)
        .await
        .map_err(WebError::from)
    {
        Ok(_) => see_with(&visitor, "/app/settings/profile", "The profile is saved."),
        Err(error) => {
            let problem = error.problem()?;
            page(&visitor, filled, Some(problem))
        }
    }
}

/// `POST /app/settings/password`
pub(super) async fn change_password(State(app): State<App>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let (old, new) = (Secret::new(fields.raw("old")), Secret::new(fields.raw("new")));
    if new.expose().chars().count() < password::SHORTEST {
        let problem = format!("A password has at least {} characters", password::SHORTEST);
        return page(&visitor, stored(&visitor), Some(problem));
    }
    let (name, address) = (visitor.user.username.clone(), visitor.session.address.clone());
    if app
        .sign_in_attempts
        .paused_until(&name, &address, app.now())
        .is_some()
    {
        let problem = "Too many wrong passwords: wait 15 minutes".to_owned();
        return page(&visitor, stored(&visitor), Some(problem));
    }
    if !password::check(old, visitor.user.password_hash.clone()).await {
        app.sign_in_attempts.failed(&name, &address, app.now());
        let problem = "The present password is another one".to_owned();
        return page(&visitor, stored(&visitor), Some(problem));
    }
    let entropy = app.db.entropy().clone();
    let hash = tokio::task::spawn_blocking(move || password::hash(&new, entropy.as_ref()))
        .await
        .map_err(|error| WebError::internal(error.to_string()))?
        .map_err(|error| WebError::bad_request(error.to_string()))?;
    let (user, session) = (visitor.user.id.clone(), visitor.session.id.clone());
    app.db
        .write(move |tx| {
            let (user, session, hash) = (user.clone(), session.clone(), hash.clone());
            Box::pin(async move {
                users::set_password(tx, &user, &hash).await?;
                web_sessions::end_others(tx, &user, &session).await?;
                audit::record(
                    tx,
                    None,
                    user.as_str(),
                    "user.password",
                    user.as_str(),
                    &json!({}),
                )
                .await?;
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    see_with(
        &visitor,
        "/app/settings/profile",
        "The password is changed; your other sessions have ended.",
    )
}

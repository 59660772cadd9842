//! The user's tokens.

use askama::Template;
use axum::extract::{Path, State};
use serde_json::json;
use terrapool_store::api_tokens::{self, TokenOwner};

use super::{Tab, shell, tabs};
use crate::app::App;
use crate::http::answer::Params;
use crate::http::tfe;
use crate::http::web::form::{self, SignedForm, made, request};
use crate::http::web::page::{Page, Section, Shell, html_with, see_with};
use crate::http::web::parts::time::{Ago, Expiry, date};
use crate::http::web::parts::{Code, Icon};
use crate::http::web::visitor::Visitor;

#[derive(Template)]
#[template(path = "account/tokens.html")]
struct TokensPage {
    shell: Shell,
    tabs: Vec<Tab>,
    new: Option<(String, Code)>,
    for_login: bool,
    problem: Option<String>,
    today: String,
    rows: Vec<Row>,
}

struct Row {
    id: String,
    description: String,
    created: Ago,
    used: Option<Ago>,
    expires: Expiry,
}

async fn page(
    app: &App,
    visitor: &Visitor,
    new: Option<(String, String)>,
    for_login: bool,
    problem: Option<String>,
) -> Page {
    let mut connection = app.db.read().await?;
    let owner = TokenOwner::User(visitor.user.id.clone());
    let records = api_tokens::of_owner(&mut connection, &owner).await?;
    let now = app.now();
    let page = TokensPage {
        shell: shell(visitor, "Tokens"),
        tabs: tabs("tokens"),
        new: new.map(|(description, secret)| (description, Code::new("new-token", secret))),
        for_login,
        today: date(now),
        rows: records
            .iter()
            .rev()
            .map(|record| Row {
                id: record.id.to_string(),
                description: record.description.clone(),
                created: Ago::new(record.created_at, now),
                used: record.last_used_at.map(|at| Ago::new(at, now)),
                expires: Expiry::new(record.expires_at, now),
            })
            .collect(),
        problem,
    };
    let status = form::status(page.problem.is_some());
    html_with(status, &page)
}

/// `GET /app/settings/tokens`; `terraform login` opens it with `?source=terraform-login`.
pub(super) async fn show(State(app): State<App>, visitor: Visitor, params: Params) -> Page {
    page(
        &app,
        &visitor,
        None,
        params.get("source") == Some("terraform-login"),
        None,
    )
    .await
}

/// `POST /app/settings/tokens`: the answer is the only page that ever has the secret.
pub(super) async fn create(State(app): State<App>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let description = fields.text("description").to_owned();
    let for_login = fields.text("source") == "terraform-login";
    let expires = match fields.last_day("expires", app.now()) {
        Ok(expires) => expires,
        Err(problem) => return page(&app, &visitor, None, for_login, Some(problem)).await,
    };
    let body = request(json!({"description": description, "expired-at": expires}));
    let (caller, id) = (visitor.caller.clone(), Path(visitor.user.id.to_string()));
    let answer = tfe::tokens::create_for_user(State(app.clone()), caller, id, body).await?;
    let secret = made(answer)["data"]["attributes"]["token"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    page(&app, &visitor, Some((description, secret)), for_login, None).await
}

/// `POST /app/settings/tokens/revoke`
pub(super) async fn revoke(State(app): State<App>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let id = Path(fields.text("id").to_owned());
    tfe::tokens::delete(State(app), visitor.caller.clone(), id, Params::default()).await?;
    see_with(&visitor, "/app/settings/tokens", "The token is revoked.")
}

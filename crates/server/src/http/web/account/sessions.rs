//! Where the user is signed in.

use askama::Template;
use axum::extract::State;
use serde_json::json;
use terrapool_model::id::TokenId;
use terrapool_store::{audit, web_sessions};

use super::{Tab, shell, tabs};
use crate::app::App;
use crate::http::error::ApiError;
use crate::http::web::error::WebError;
use crate::http::web::form::SignedForm;
use crate::http::web::page::{Page, Section, Shell, html, see_with};
use crate::http::web::parts::Icon;
use crate::http::web::parts::time::Ago;
use crate::http::web::visitor::Visitor;

#[derive(Template)]
#[template(path = "account/sessions.html")]
struct SessionsPage {
    shell: Shell,
    tabs: Vec<Tab>,
    rows: Vec<Row>,
}

struct Row {
    id: String,
    browser: String,
    address: String,
    since: Ago,
    used: Ago,
    own: bool,
}

/// `GET /app/settings/sessions`
pub(super) async fn show(State(app): State<App>, visitor: Visitor) -> Page {
    let mut connection = app.db.read().await?;
    let records = web_sessions::of_user(&mut connection, &visitor.user.id).await?;
    let now = app.now();
    let page = SessionsPage {
        shell: shell(&visitor, "Sessions"),
        tabs: tabs("sessions"),
        rows: records
            .into_iter()
            .filter(|record| record.is_valid(now))
            .map(|record| Row {
                own: record.id == visitor.session.id,
                id: record.id.to_string(),
                browser: if record.browser.is_empty() {
                    "unknown".to_owned()
                } else {
                    record.browser
                },
                address: record.address,
                since: Ago::new(record.created_at, now),
                used: Ago::new(record.last_used_at, now),
            })
            .collect(),
    };
    html(&page)
}

/// `POST /app/settings/sessions/end`
pub(super) async fn end(State(app): State<App>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let id: TokenId = fields.text("id").parse().map_err(|_| WebError::not_found())?;
    let user = visitor.user.id.clone();
    let ended = app
        .db
        .write(move |tx| {
            let (user, id) = (user.clone(), id.clone());
            Box::pin(async move {
                let ended = web_sessions::end(tx, &user, &id).await?;
                audit::record(tx, None, user.as_str(), "session.end", id.as_str(), &json!({})).await?;
                Ok::<_, ApiError>(ended)
            })
        })
        .await?;
    let said = if ended {
        "The session has ended."
    } else {
        "The session had ended before."
    };
    see_with(&visitor, "/app/settings/sessions", said)
}

/// `POST /app/settings/sessions/end-others`
pub(super) async fn end_others(State(app): State<App>, form: SignedForm) -> Page {
    let visitor = form.visitor;
    let (user, kept) = (visitor.user.id.clone(), visitor.session.id.clone());
    app.db
        .write(move |tx| {
            let (user, kept) = (user.clone(), kept.clone());
            Box::pin(async move {
                let ended = web_sessions::end_others(tx, &user, &kept).await?;
                let detail = json!({"sessions": ended});
                audit::record(tx, None, user.as_str(), "session.end", user.as_str(), &detail).await?;
                Ok::<_, ApiError>(())
            })
        })
        .await?;
    see_with(
        &visitor,
        "/app/settings/sessions",
        "All other sessions have ended.",
    )
}

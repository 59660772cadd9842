//! Theme and keys: kept in the browser.

use askama::Template;
use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::response::{IntoResponse as _, Redirect};

use super::{Tab, shell, tabs};
use crate::app::App;
use crate::auth::session;
use crate::http::web::form::SignedForm;
use crate::http::web::page::{Page, Section, Shell, Theme, html};
use crate::http::web::parts::Icon;
use crate::http::web::visitor::Visitor;

/// How long a choice is kept, in seconds: a year.
const KEPT: u64 = 365 * 24 * 3600;

#[derive(Template)]
#[template(path = "account/look.html")]
struct LookPage {
    shell: Shell,
    tabs: Vec<Tab>,
    heading: &'static str,
    action: &'static str,
    field: &'static str,
    options: Vec<(&'static str, &'static str, &'static str, bool)>,
}

/// `GET /app/settings/theme`
pub(super) async fn theme(visitor: Visitor) -> Page {
    let now = visitor.root.theme;
    let page = LookPage {
        shell: shell(&visitor, "Theme"),
        tabs: tabs("theme"),
        heading: "Theme",
        action: "/app/settings/theme",
        field: "theme",
        options: vec![
            (
                "system",
                "As the system says",
                "light by day, dark by night, if it does so",
                now.is_none(),
            ),
            ("light", "Light", "", now == Some(Theme::Light)),
            ("dark", "Dark", "", now == Some(Theme::Dark)),
        ],
    };
    html(&page)
}

/// Back to where the form was, which is a page of the UI.
fn back(to: &str) -> Redirect {
    Redirect::to(if to.starts_with("/app") { to } else { "/app" })
}

/// `POST /app/settings/theme`. The button on every page toggles; `seen` is what the script saw of the system's theme.
pub(super) async fn set_theme(State(app): State<App>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let shown = visitor.root.theme.or_else(|| Theme::of(fields.text("seen")));
    let chosen = match fields.text("theme") {
        "toggle" => Some(match shown {
            Some(Theme::Dark) => Theme::Light,
            Some(Theme::Light) | None => Theme::Dark,
        }),
        word => Theme::of(word),
    };
    let cookie = match chosen {
        Some(theme) => session::cookie(&app, "theme", theme.as_str(), Some(KEPT)),
        None => session::cookie(&app, "theme", "", Some(0)),
    };
    Ok(([(SET_COOKIE, cookie)], back(fields.text("to"))).into_response())
}

/// `GET /app/settings/keys`
pub(super) async fn keys(visitor: Visitor) -> Page {
    let off = visitor.root.keys_off;
    let page = LookPage {
        shell: shell(&visitor, "Keys"),
        tabs: tabs("keys"),
        heading: "Single keys",
        action: "/app/settings/keys",
        field: "keys",
        options: vec![
            (
                "on",
                "On",
                "press ? on any page for the list; none of them acts, all only go",
                !off,
            ),
            ("off", "Off", "for screen readers and speech input", off),
        ],
    };
    html(&page)
}

/// `POST /app/settings/keys`
pub(super) async fn set_keys(State(app): State<App>, form: SignedForm) -> Page {
    let fields = form.fields;
    let cookie = if fields.text("keys") == "off" {
        session::cookie(&app, "keys", "off", Some(KEPT))
    } else {
        session::cookie(&app, "keys", "", Some(0))
    };
    Ok(([(SET_COOKIE, cookie)], back(fields.text("to"))).into_response())
}

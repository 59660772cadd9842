//! The user's own account.

use super::page::{Section, Shell};
use super::visitor::Visitor;
use crate::http::routes::{Routes, get, post};

mod look;
mod profile;
mod sessions;
mod tokens;

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new()
        .route("/app/settings/profile", get(profile::show).post(profile::save))
        .route("/app/settings/password", post(profile::change_password))
        .route("/app/settings/tokens", get(tokens::show).post(tokens::create))
        .route("/app/settings/tokens/revoke", post(tokens::revoke))
        .route("/app/settings/sessions", get(sessions::show))
        .route("/app/settings/sessions/end", post(sessions::end))
        .route("/app/settings/sessions/end-others", post(sessions::end_others))
        .route("/app/settings/theme", get(look::theme).post(look::set_theme))
        .route("/app/settings/keys", get(look::keys).post(look::set_keys))
}

/// A tab: its path, its word, whether it is shown.
type Tab = (&'static str, &'static str, bool);

fn tabs(current: &str) -> Vec<Tab> {
    [
        ("profile", "Profile"),
        ("tokens", "Tokens"),
        ("sessions", "Sessions"),
        ("theme", "Theme"),
        ("keys", "Keys"),
    ]
    .into_iter()
    .map(|(path, word)| (path, word, path == current))
    .collect()
}

pub(super) fn shell(visitor: &Visitor, title: &str) -> Shell {
    Shell::new(visitor, Section::Account, title).behind("Account", "/app/settings/profile")
}

//! The page that is shown when another one can't be.

use askama::Template;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::error::Failure;
use super::page::{RootAttributes, html_with};
use super::retyped::Retyped;
use super::visitor::root_attributes;
use crate::app::App;
use crate::auth::session;
use crate::http::RequestName;

#[derive(Template)]
#[template(path = "failure.html")]
struct FailurePage {
    root: RootAttributes,
    title: &'static str,
    detail: String,
    request: Option<String>,
    back: String,
    back_word: &'static str,
    user: Option<String>,
    /// The address that the form was sent to.
    action: String,
    form: Option<Box<Retyped>>,
}

/// The request that failed.
pub(super) struct Asked {
    pub(super) headers: HeaderMap,
    pub(super) path: String,
    pub(super) name: Option<RequestName>,
}

impl Asked {
    /// What is needed of a request for the page of its failure.
    pub(super) fn of(request: &Request) -> Self {
        Self {
            headers: request.headers().clone(),
            path: request.uri().path().to_owned(),
            name: request.extensions().get::<RequestName>().cloned(),
        }
    }
}

/// The page of a failure, with the account that is in use.
pub(super) async fn page(app: &App, asked: &Asked, status: StatusCode, failure: Failure) -> Response {
    // When the database is away nobody can be found, and the page is shown all the same.
    let user = session::find(app, &asked.headers).await.ok().flatten();
    let page = FailurePage {
        root: root_attributes(app, &asked.headers),
        title: failure.title,
        detail: failure.detail,
        request: asked.name.clone().filter(|_| failure.again).map(|name| name.0),
        back: if failure.again {
            asked.path.clone()
        } else {
            "/app".to_owned()
        },
        back_word: if failure.again {
            "Try again"
        } else {
            "To the workspaces"
        },
        user: user.map(|signed_in| signed_in.user.username),
        action: asked.path.clone(),
        form: failure.form,
    };
    match html_with(status, &page) {
        Ok(response) => response,
        Err(_) => status.into_response(),
    }
}

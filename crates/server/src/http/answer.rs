//! Query parameters and bodies in, documents out.

use std::collections::BTreeSet;
use std::convert::Infallible;

use axum::body::Body as HttpBody;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use terrapool_tfe::document::Document;
use terrapool_tfe::page::{PageRequest, Pagination};
use terrapool_tfe::request::Body;

use super::error::{ApiError, JSON_API};
use crate::app::App;

/// Where the API is. Clients that are given nothing but an address look for it exactly here.
pub(super) const PREFIX: &str = "/api/v2";

/// An answer of the API.
#[derive(Debug)]
pub enum Answer {
    /// 200 with a document.
    Ok(Box<Document>),
    /// 201 with a document.
    Created(Box<Document>),
    /// 202 without a body.
    Accepted,
    /// 204.
    NoContent,
}

impl Answer {
    /// 200 with a document.
    pub fn ok(document: Document) -> Self {
        Self::Ok(Box::new(document))
    }

    /// 201 with a document.
    pub fn created(document: Document) -> Self {
        Self::Created(Box::new(document))
    }

    /// The document as JSON; null without one.
    pub fn into_value(self) -> serde_json::Value {
        match self {
            Self::Ok(document) | Self::Created(document) => document.into_value(),
            Self::Accepted | Self::NoContent => serde_json::Value::Null,
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let (status, document) = match self {
            Self::Ok(document) => (StatusCode::OK, document),
            Self::Created(document) => (StatusCode::CREATED, document),
            Self::Accepted => return StatusCode::ACCEPTED.into_response(),
            Self::NoContent => return StatusCode::NO_CONTENT.into_response(),
        };
        (
            status,
            [(CONTENT_TYPE, JSON_API)],
            document.into_value().to_string(),
        )
            .into_response()
    }
}

/// What handlers return.
pub type Result<T = Answer> = std::result::Result<T, ApiError>;

/// The query parameters of a request. Unknown ones are ignored: the stock CLI sends some.
#[derive(Debug, Clone, Default)]
pub struct Params {
    pairs: Vec<(String, String)>,
    path: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Infallible> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map(|Query(pairs)| pairs)
            .unwrap_or_default();
        Ok(Self {
            pairs,
            path: without_page(&parts.uri),
        })
    }
}

/// The path and query for links to other pages. The API's routes are nested, so its prefix is missing in the URI.
fn without_page(uri: &axum::http::Uri) -> String {
    let kept: Vec<&str> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.starts_with("page[") && !pair.starts_with("page%5B"))
        .collect();
    let question = if kept.is_empty() { "" } else { "?" };
    format!("{}{}{question}{}", PREFIX, uri.path(), kept.join("&"))
}

impl Params {
    /// Parameters that no request sent: pages do their work by the API's handlers.
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self {
            pairs: pairs.iter().map(owned).collect(),
            path: String::new(),
        }
    }

    /// The first value of a parameter, unless it is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// The comma-separated values of a parameter.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.pairs
            .iter()
            .filter(|(key, _)| key == name)
            .flat_map(|(_, value)| value.split(','))
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// All parameters.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// The page that is asked for.
    pub fn page(&self) -> PageRequest {
        PageRequest::new(self.get("page[number]"), self.get("page[size]"))
    }

    /// What `include` names, with underscores. Unknown names are for the handler to ignore.
    pub fn includes(&self) -> BTreeSet<String> {
        self.list("include")
            .into_iter()
            .map(|name| name.replace('-', "_"))
            .collect()
    }

    /// A document with a page of a list.
    pub fn paged(&self, resources: Vec<terrapool_tfe::document::Resource>, total: u64) -> Document {
        let pagination = Pagination {
            page: self.page(),
            total,
        };
        Document::list(resources).paged(&pagination, &self.path)
    }
}

/// The body of an API request. Its `Content-Type` is not looked at: clients are careless with it.
#[derive(Debug, Clone)]
pub struct ApiBody(pub Body);

/// Largest body of a plain API request, bytes. States that are sent inline have their own limit.
const BODY_LIMIT: usize = 4 << 20;

impl FromRequest<App> for ApiBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &App) -> Result<Self> {
        let bytes = collect(request.into_body(), BODY_LIMIT).await?;
        Ok(Self(Body::parse(&bytes)?))
    }
}

/// Reads a body whole.
///
/// # Errors
/// [`ApiError::TooLarge`] when it has more than `limit` bytes, [`ApiError::BadRequest`] when it ends early.
pub async fn collect(body: HttpBody, limit: usize) -> Result<Bytes> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(ApiError::TooLarge(format!(
            "the request body has more than the {limit} bytes that are allowed here"
        ))),
        Err(error) => Err(ApiError::BadRequest(format!(
            "the request body ended early: {error}"
        ))),
    }
}

//! What a request is answered when it is not done.

use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use terrapool_model::refusal::Refusal;
use terrapool_objects::ObjectError;
use terrapool_store::db::CommandError;
use terrapool_store::error::StoreError;
use terrapool_store::runs::TransitionError;
use terrapool_tfe::errors::{self, Problem};
use terrapool_tfe::request::Malformed;

/// The media type of the API.
pub const JSON_API: HeaderValue = HeaderValue::from_static("application/vnd.api+json");

/// A request that is not done.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The request is malformed.
    #[error("{0}")]
    BadRequest(String),
    /// No token, or one that is not accepted.
    #[error("unauthorized")]
    Unauthorized,
    /// The caller sees the thing, but can't do this with it.
    #[error("{0}")]
    Forbidden(String),
    /// There is nothing, or nothing for this caller.
    #[error("not found")]
    NotFound,
    /// What is there does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// What is there is in the wrong state for it.
    #[error("{0}")]
    Precondition(String),
    /// The body is larger than is allowed.
    #[error("{0}")]
    TooLarge(String),
    /// The content is wrong.
    #[error("{}", .0.detail)]
    Invalid(Box<Problem>),
    /// Too many requests.
    #[error("too many requests")]
    TooMany {
        /// Seconds until the next one is allowed.
        reset: f64,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object store failed.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// Something else failed that should not.
    #[error("{0}")]
    Internal(String),
}

impl ApiError {
    /// A problem with an attribute of the request.
    pub fn attribute(name: &str, detail: impl Into<String>) -> Self {
        Self::Invalid(Box::new(Problem::attribute(name, detail)))
    }

    /// Turns a unique name that is taken into a problem with an attribute.
    #[must_use]
    pub fn or_taken(self, attribute: &str, detail: &str) -> Self {
        match self {
            Self::Store(StoreError::Conflict) => Self::attribute(attribute, detail),
            other => other,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Precondition(_) => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Store(error) => match error {
                StoreError::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
                StoreError::StorageFull { .. } => StatusCode::INSUFFICIENT_STORAGE,
                StoreError::Conflict | StoreError::Reference => StatusCode::CONFLICT,
                StoreError::Statement { .. }
                | StoreError::Corrupt { .. }
                | StoreError::NewerSchema { .. }
                | StoreError::Migration(_)
                | StoreError::Address(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Objects(error) if error.is_storage_full() => StatusCode::INSUFFICIENT_STORAGE,
            Self::Objects(_) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn problem(&self) -> Problem {
        match self {
            Self::BadRequest(detail) => Problem::new("bad request", detail),
            Self::Unauthorized => Problem::new(
                "unauthorized",
                "the token is missing, unknown, revoked or expired, or is not a user's or organization's",
            ),
            Self::Forbidden(detail) => Problem::new("forbidden", detail),
            Self::NotFound => {
                Problem::new("not found", "it does not exist, or you are not allowed to see it")
            }
            Self::Conflict(detail) => Problem::new("conflict", detail),
            Self::Precondition(detail) => Problem::new("precondition failed", detail),
            Self::TooLarge(detail) => Problem::new("payload too large", detail),
            Self::Invalid(problem) => (**problem).clone(),
            Self::TooMany { .. } => Problem::new(
                "too many requests",
                "slow down: the token's rate limit is used up",
            ),
            Self::Store(error @ (StoreError::Conflict | StoreError::Reference)) => {
                Problem::new("conflict", error.to_string())
            }
            Self::Store(StoreError::Unavailable { .. }) => Problem::new(
                "service unavailable",
                "the database is not available now: try again",
            ),
            Self::Store(StoreError::StorageFull { .. }) => Problem::new(
                "insufficient storage",
                "the disk of the control plane's database is full: nothing was changed; try again once there is room",
            ),
            Self::Objects(error) if error.is_storage_full() => Problem::new(
                "insufficient storage",
                "the disk of the control plane is full: nothing was changed; try again once there is room",
            ),
            // What failed is in the log, with the request's id; it may name paths and statements.
            Self::Store(_) | Self::Objects(_) | Self::Internal(_) => Problem::new(
                "internal error",
                "the control plane failed; its log has more under the request id in the answer's X-Request-Id",
            ),
        }
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self::Invalid(Box::new(problem))
    }
}

impl From<Malformed> for ApiError {
    fn from(error: Malformed) -> Self {
        Self::BadRequest(error.to_string())
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            // 409 would be read as "already unlocked".
            Refusal::StatePending => {
                Self::Invalid(Box::new(Problem::new("unprocessable", refusal.to_string())))
            }
            refusal => Self::Conflict(refusal.to_string()),
        }
    }
}

impl From<TransitionError> for ApiError {
    fn from(error: TransitionError) -> Self {
        match error {
            TransitionError::NotFound => Self::NotFound,
            TransitionError::Refused(refusal) => refusal.into(),
            TransitionError::Store(error) => error.into(),
        }
    }
}

impl CommandError for ApiError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::error!(error = &self as &dyn std::error::Error, "a request failed");
        }
        let body = errors::document(status.as_u16(), &[self.problem()]).to_string();
        let mut response = (status, [(CONTENT_TYPE, JSON_API)], body).into_response();
        if let Self::TooMany { reset } = self
            && let Ok(value) = HeaderValue::from_str(&format!("{reset:.3}"))
        {
            response
                .headers_mut()
                .insert(HeaderName::from_static("x-ratelimit-reset"), value);
        }
        response
    }
}

//! What agents are answered when something does not work.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use terrapool_objects::ObjectError;
use terrapool_protocol::agent::{LogPosition, Refused};
use terrapool_store::error::StoreError;
use terrapool_store::runs::TransitionError;

use crate::logs::LogError;

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentApiError {
    #[error("the credential is not valid")]
    Unauthorized,
    #[error("a newer process of this agent has registered")]
    Superseded,
    #[error("the control plane was restored from a backup since this process registered: register again")]
    OtherHistory,
    #[error("there is no such job")]
    NotFound,
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("{0}")]
    Invalid(String),
    #[error("the body is larger than the {0} bytes that are allowed")]
    TooLarge(u64),
    #[error("the append begins behind what was received")]
    Ahead(LogPosition),
    #[error("the body ended early")]
    Body(#[source] axum::Error),
    #[error("the database failed")]
    Store(#[source] StoreError),
    #[error("an object failed")]
    Object(#[from] ObjectError),
    #[error("a log failed")]
    Log(#[source] LogError),
    #[error("{0}")]
    Internal(&'static str),
}

impl From<StoreError> for AgentApiError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<LogError> for AgentApiError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Ahead(position) => Self::Ahead(position),
            error @ (LogError::InvalidId(_) | LogError::Io { .. }) => Self::Log(error),
        }
    }
}

impl From<TransitionError> for AgentApiError {
    fn from(error: TransitionError) -> Self {
        match error {
            TransitionError::NotFound => Self::NotFound,
            TransitionError::Refused(refusal) => Self::Refused(refusal.to_string()),
            TransitionError::Store(error) => Self::Store(error),
        }
    }
}

impl IntoResponse for AgentApiError {
    fn into_response(self) -> Response {
        let status = match &self {
            // Either way another registration is what helps.
            Self::Unauthorized | Self::OtherHistory => StatusCode::UNAUTHORIZED,
            Self::Superseded => StatusCode::GONE,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Refused(_) => StatusCode::CONFLICT,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Invalid(_) | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Ahead(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Object(error) if error.is_storage_full() => StatusCode::INSUFFICIENT_STORAGE,
            Self::Log(error) if error.is_storage_full() => StatusCode::INSUFFICIENT_STORAGE,
            Self::Store(error) if error.is_storage_full() => StatusCode::INSUFFICIENT_STORAGE,
            Self::Store(error) if error.is_unavailable() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Store(_) | Self::Object(_) | Self::Log(_) | Self::Internal(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        if status.is_server_error() {
            tracing::error!(
                error = &self as &dyn std::error::Error,
                "an agent's request failed"
            );
        }
        match self {
            Self::Ahead(position) => (status, Json(position)).into_response(),
            other => (
                status,
                Json(Refused {
                    reason: other.to_string(),
                }),
            )
                .into_response(),
        }
    }
}

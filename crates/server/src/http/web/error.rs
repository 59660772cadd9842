//! Pages that tell why something was not done.

use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use terrapool_store::error::StoreError;
use terrapool_store::form_answers::FormAnswer;

use super::retyped::Retyped;
use crate::http::error::ApiError;

/// Why a page is not shown, or a form did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// Nobody is signed in.
    #[error("nobody is signed in")]
    SignIn {
        /// Where to go on after it.
        to: String,
    },
    /// The form carries another token than this session's.
    #[error("the form's token is not this session's")]
    Forged,
    /// The name that the form asks for was typed otherwise.
    #[error("the name was typed otherwise")]
    Retyped(Box<Retyped>),
    /// The form was sent before; the answer it had, when that is known.
    #[error("the form was sent before")]
    Repeated(Option<FormAnswer>),
    /// What the API's handlers answer.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl From<StoreError> for WebError {
    fn from(error: StoreError) -> Self {
        Self::Api(error.into())
    }
}

impl From<terrapool_objects::ObjectError> for WebError {
    fn from(error: terrapool_objects::ObjectError) -> Self {
        Self::Api(error.into())
    }
}

impl WebError {
    /// To the sign-in page, and from there back to a page that can be shown again.
    pub fn sign_in(method: &Method, path: &str) -> Self {
        let to = if method == Method::GET { path } else { "/app" };
        Self::SignIn { to: to.to_owned() }
    }

    /// There is nothing, or nothing for this visitor.
    pub fn not_found() -> Self {
        Self::Api(ApiError::NotFound)
    }

    /// The form was not sent by a page of this session.
    pub fn forged() -> Self {
        Self::Forged
    }

    /// The form is malformed.
    pub fn bad_request(detail: String) -> Self {
        Self::Api(ApiError::BadRequest(detail))
    }

    /// Something failed that should not.
    pub fn internal(detail: String) -> Self {
        Self::Api(ApiError::Internal(detail))
    }

    /// The sentence for the form, when what was filled in is the reason; else the error again.
    ///
    /// # Errors
    /// The error, when a page of its own has to tell it.
    pub fn problem(self) -> Result<String, Self> {
        match self {
            Self::Api(ApiError::Invalid(problem)) => Ok(problem.detail),
            Self::Api(ApiError::Conflict(detail) | ApiError::BadRequest(detail)) => Ok(detail),
            other => Err(other),
        }
    }
}

/// What the page that is shown instead says. Rides on an empty answer to where the account in use is known.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Its heading.
    pub title: &'static str,
    /// What happened and what to do.
    pub detail: String,
    /// Whether trying again may help.
    pub again: bool,
    /// The form that was refused for what was typed.
    pub form: Option<Box<Retyped>>,
}

fn failure(error: &ApiError) -> Failure {
    let told = |title, detail: String| Failure {
        title,
        detail,
        again: false,
        form: None,
    };
    match error {
        ApiError::NotFound => told(
            "Not here, or not for you",
            "There is no such page, or your account may not see it.".to_owned(),
        ),
        ApiError::Unauthorized => told("Sign in again", "Your session has ended.".to_owned()),
        ApiError::Forbidden(detail) => told("Not allowed", detail.clone()),
        ApiError::Conflict(detail) | ApiError::Precondition(detail) => {
            told("Not done: it has changed meanwhile", sentence(detail))
        }
        ApiError::Invalid(problem) => told("Not done", sentence(&problem.detail)),
        ApiError::BadRequest(detail) | ApiError::TooLarge(detail) => told("Not done", sentence(detail)),
        ApiError::TooMany { .. } => told("Too many requests", "Wait a moment, then try again.".to_owned()),
        ApiError::Store(StoreError::Conflict) => {
            told("Not done", "Something of this name exists already.".to_owned())
        }
        ApiError::Store(StoreError::Reference) => told(
            "Not done",
            "Something that is needed for it does not exist any more.".to_owned(),
        ),
        ApiError::Store(_) | ApiError::Objects(_) | ApiError::Internal(_) => Failure {
            title: "The server could not answer",
            detail: "Runs go on; agents keep their output and deliver it later. Try again in a moment."
                .to_owned(),
            again: true,
            form: None,
        },
    }
}

/// What is said of a form that was sent before and whose answer can't be shown again.
fn repeated(done: bool) -> Failure {
    let detail = if done {
        "It did its work the first time, and what that showed (a token, for one) is shown once. Go back and reload the \
         page: if it was a token that you did not see, revoke it and make another one."
    } else {
        "The first one has not been answered: the server still works at it, or was stopped meanwhile. Go back, reload \
         the page and look whether it was done, before you send it again."
    };
    Failure {
        title: "This form was sent already",
        detail: detail.to_owned(),
        again: false,
        form: None,
    }
}

/// With a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let mut sentence: String = characters
        .next()
        .map(|first| first.to_uppercase().chain(characters).collect())
        .unwrap_or_default();
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

impl IntoResponse for WebError {
    fn into_response(self) -> Response {
        let (status, failure) = match self {
            Self::SignIn { to } => {
                let to = super::encoded(&to);
                return Redirect::to(&format!("/sign-in?to={to}")).into_response();
            }
            Self::Repeated(answer) => {
                if let Some(response) = answer.as_ref().and_then(super::once::again) {
                    return response;
                }
                (StatusCode::CONFLICT, repeated(answer.is_some()))
            }
            Self::Forged => (
                StatusCode::FORBIDDEN,
                Failure {
                    title: "This form is too old",
                    detail: "It belongs to a session that has ended, or it was not sent by a page of this server. \
                             Go back, reload the page and send it again."
                        .to_owned(),
                    again: false,
                    form: None,
                },
            ),
            Self::Retyped(form) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                Failure {
                    title: "Not done: type the name as it is",
                    detail: "This cannot be undone, so the server asks for the whole name. Nothing was done yet.".to_owned(),
                    again: false,
                    form: Some(form),
                },
            ),
            Self::Api(error) => {
                let failure = failure(&error);
                // Logs what is the server's fault, as for API clients.
                (error.into_response().status(), failure)
            }
        };
        let mut response = status.into_response();
        response.extensions_mut().insert(failure);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_become_sentences() {
        assert_eq!(sentence("the run has ended"), "The run has ended.");
        assert_eq!(sentence("élan!"), "Élan!");
    }
}

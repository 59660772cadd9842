//! Forms that somebody who is signed in has sent.

use std::str::FromStr;

use axum::extract::{Form as AxumForm, FromRequest, Request};
use axum::http::StatusCode;
use chrono::NaiveDate;
use serde_json::{Map, Value, json};
use terrapool_model::time::Timestamp;
use terrapool_tfe::request::{Body, Item};

use super::error::WebError;
use super::once;
use super::visitor::{self, Visitor};
use crate::app::App;
use crate::auth::session;
use crate::http::answer::{Answer, ApiBody};

/// The fields of a form, in the order in which they were sent.
#[derive(Debug, Clone, Default)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads a form's body.
    ///
    /// # Errors
    /// [`WebError`] when it is none.
    pub async fn read(request: Request) -> Result<Self, WebError> {
        let AxumForm(pairs) = AxumForm::<Vec<(String, String)>>::from_request(request, &())
            .await
            .map_err(|error| WebError::bad_request(error.body_text()))?;
        Ok(Self(pairs))
    }

    /// All of them, in their order.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// A field's text without the blanks around it; empty when it was not sent.
    pub fn text(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// A field's text as it was sent, with line breaks as `\n`; empty when it was not sent.
    pub fn raw(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value.as_str())
    }

    /// A field's text, unless it is empty.
    pub fn some(&self, name: &str) -> Option<String> {
        Some(self.text(name).to_owned()).filter(|text| !text.is_empty())
    }

    /// `expired-at` as the API wants it, of a field with the last day of a token: that day's end, in UTC. What is no
    /// day is given on as it was typed.
    ///
    /// # Errors
    /// A sentence for people when that day has passed.
    pub fn last_day(&self, name: &str, now: Timestamp) -> Result<Option<String>, String> {
        let Some(text) = self.some(name) else {
            return Ok(None);
        };
        let Ok(day) = text.parse::<NaiveDate>() else {
            return Ok(Some(text));
        };
        let end = day
            .and_hms_opt(23, 59, 59)
            .map(|end| end.and_utc().timestamp_millis());
        if end.is_none_or(|end| end <= now.0) {
            return Err(format!("{day} has passed: the token would never be valid."));
        }
        Ok(Some(format!("{day}T23:59:59Z")))
    }

    /// Whether a box was ticked.
    pub fn ticked(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// All values of a name.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// A number, when the field holds one.
    pub fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name).parse().ok()
    }
}

/// A form that came from a page of ours, and who sent it.
#[derive(Debug, Clone)]
pub struct SignedForm {
    /// Who sent it.
    pub visitor: Visitor,
    /// What is in it.
    pub fields: Fields,
}

impl FromRequest<App> for SignedForm {
    type Rejection = WebError;

    async fn from_request(request: Request, app: &App) -> Result<Self, WebError> {
        let (parts, body) = request.into_parts();
        let visitor = visitor::find(app, &parts).await?;
        let fields = Fields::read(Request::from_parts(parts.clone(), body)).await?;
        if !session::is_form_token(app, visitor.session.id.as_str(), fields.raw("token")) {
            return Err(WebError::forged());
        }
        once::claim(app, &parts, &visitor, &fields).await?;
        Ok(Self { visitor, fields })
    }
}

/// The status of a page with a form: whether what was sent was refused.
pub fn status(refused: bool) -> StatusCode {
    if refused {
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::OK
    }
}

/// What a form shows: what was sent and refused, with the reason; else what is stored.
pub fn filled<F>(refused: Option<(F, String)>, stored: impl FnOnce() -> F) -> (F, Option<String>) {
    match refused {
        Some((filled, problem)) => (filled, Some(problem)),
        None => (stored(), None),
    }
}

/// A request body as API clients send it: pages do their work by the API's own handlers, so that checks, permissions
/// and audit entries are the same.
pub fn request(attributes: Value) -> ApiBody {
    request_with(attributes, &[])
}

/// The same with relationships to one resource each.
pub fn request_with(attributes: Value, relationships: &[(&str, &str)]) -> ApiBody {
    let one = |(name, id): &(&str, &str)| ((*name).to_owned(), json!({"data": {"id": id}}));
    body(attributes, relationships.iter().map(one).collect())
}

/// The same with relationships to many resources each.
pub fn request_with_lists(attributes: Value, relationships: &[(&str, Vec<String>)]) -> ApiBody {
    let many = |(name, ids): &(&str, Vec<String>)| {
        let ids: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
        ((*name).to_owned(), json!({"data": ids}))
    };
    body(attributes, relationships.iter().map(many).collect())
}

/// The same that names one resource, in the list of a request about a relationship.
pub fn request_named(id: &str) -> ApiBody {
    let item = Item {
        id: Some(id.to_owned()),
        ..Item::default()
    };
    ApiBody(Body {
        items: vec![item.clone()],
        item,
        ..Body::default()
    })
}

/// The headers that mark a request as the web UI's, with the name that the form's page gave to what it makes.
pub fn own_headers(fields: &Fields) -> axum::http::HeaderMap {
    let mut headers = axum::http::HeaderMap::from_iter([(
        crate::http::tfe::WEB_UI,
        axum::http::HeaderValue::from_static("1"),
    )]);
    if let Some(once) = fields.some("once")
        && let Ok(once) = axum::http::HeaderValue::from_str(&once)
    {
        headers.insert(crate::http::tfe::IDEMPOTENCY_KEY, once);
    }
    headers
}

/// What the API's handlers made: the document of the resource.
pub fn made(answer: Answer) -> Value {
    match answer {
        Answer::Ok(document) | Answer::Created(document) => document.into_value(),
        Answer::Accepted | Answer::NoContent => Value::Null,
    }
}

/// The id of what the API's handlers made.
pub fn made_id(answer: Answer) -> String {
    made(answer)["data"]["id"].as_str().unwrap_or_default().to_owned()
}

fn body(attributes: Value, relationships: Map<String, Value>) -> ApiBody {
    let attributes = match attributes {
        Value::Object(attributes) => attributes,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    };
    ApiBody(Body {
        item: Item {
            attributes,
            relationships,
            ..Item::default()
        },
        ..Body::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_day_of_a_token_has_to_come_yet() {
        // 2026-11-24, noon.
        let now = Timestamp(1_795_521_600_000);
        let last = |text: &str| Fields(vec![("day".to_owned(), text.to_owned())]).last_day("day", now);
        assert_eq!(last(""), Ok(None));
        assert_eq!(last("2026-11-24"), Ok(Some("2026-11-24T23:59:59Z".to_owned())));
        assert!(last("2026-11-23").is_err());
        assert_eq!(last("soon"), Ok(Some("soon".to_owned())));
    }
}

//! Forms that somebody who is signed in has sent.

use std::str::FromStr;

use axum::extract::{Form as AxumForm, FromRequest, Request};
use serde_json::{Map, Value, json};
use terrapool_tfe::request::{Body, Item};

use super::error::WebError;
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
        let fields = Fields::read(Request::from_parts(parts, body)).await?;
        if !session::is_form_token(app, visitor.session.id.as_str(), fields.raw("token")) {
            return Err(WebError::forged());
        }
        Ok(Self { visitor, fields })
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

/// The headers that mark a request as the web UI's.
pub fn own_headers() -> axum::http::HeaderMap {
    axum::http::HeaderMap::from_iter([(
        crate::http::tfe::WEB_UI,
        axum::http::HeaderValue::from_static("1"),
    )])
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

//! Request bodies, read leniently.
//!
//! Clients send JSON:API documents whose `type` is empty or wrong, bare objects (`{"comment": "…"}`), and nothing at
//! all. Only what is read is checked.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::errors::Problem;

/// A body that is no JSON object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the request body is no JSON:API document: {0}")]
pub struct Malformed(pub String);

/// Something that may be absent, null or there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field<T> {
    /// Not in the request: keep what is.
    Absent,
    /// Null: clear it.
    Null,
    /// A value.
    Value(T),
}

impl<T> Field<T> {
    /// The value, if there is one.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    /// The value, or `default` unless the request says something.
    pub fn or(self, default: T) -> T {
        self.value().unwrap_or(default)
    }
}

/// One resource in a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Item {
    /// `type`, unchecked.
    pub kind: String,
    /// `id`, when there is one.
    pub id: Option<String>,
    /// `attributes`.
    pub attributes: Map<String, Value>,
    /// `relationships`.
    pub relationships: Map<String, Value>,
}

/// A request body.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Body {
    /// The resource, or the first one of a list.
    pub item: Item,
    /// All resources when `data` is a list.
    pub items: Vec<Item>,
    /// Members beside `data`, for bodies that are no JSON:API.
    pub bare: Map<String, Value>,
}

fn object(value: Option<&Value>) -> Map<String, Value> {
    value.and_then(Value::as_object).cloned().unwrap_or_default()
}

fn item(value: &Value) -> Item {
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    Item {
        kind: text("type").unwrap_or_default(),
        id: text("id").filter(|id| !id.is_empty()),
        attributes: object(value.get("attributes")),
        relationships: object(value.get("relationships")),
    }
}

impl Body {
    /// Reads a body. An empty one is an empty object.
    ///
    /// # Errors
    /// [`Malformed`] when it is not JSON, or JSON other than an object.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|error| Malformed(error.to_string()))?;
        let Value::Object(mut members) = value else {
            return Err(Malformed("it has to be a JSON object".to_owned()));
        };
        let data = members.remove("data");
        let items: Vec<Item> = match &data {
            Some(Value::Array(list)) => list.iter().map(item).collect(),
            _ => Vec::new(),
        };
        let first = match &data {
            Some(value @ Value::Object(_)) => item(value),
            _ => items.first().cloned().unwrap_or_default(),
        };
        Ok(Self {
            item: first,
            items,
            bare: members,
        })
    }

    /// The comment of a run action, bare or as an attribute.
    pub fn comment(&self) -> Option<String> {
        let comment = self
            .bare
            .get("comment")
            .or_else(|| self.item.attributes.get("comment"));
        comment
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    }
}

impl std::ops::Deref for Body {
    type Target = Item;
    fn deref(&self) -> &Item {
        &self.item
    }
}

impl Item {
    /// An attribute of a type.
    ///
    /// # Errors
    /// A [`Problem`] that names the attribute when it is of another type.
    pub fn attribute<T: DeserializeOwned>(&self, name: &str) -> Result<Field<T>, Problem> {
        match self.attributes.get(name) {
            None => Ok(Field::Absent),
            Some(Value::Null) => Ok(Field::Null),
            Some(value) => T::deserialize(value)
                .map(Field::Value)
                .map_err(|_| Problem::attribute(name, format!("{} has the wrong type", readable(name)))),
        }
    }

    /// A text attribute; null counts as absent.
    ///
    /// # Errors
    /// A [`Problem`] when it is no text.
    pub fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        Ok(self.attribute::<String>(name)?.value())
    }

    /// A yes-or-no attribute; null counts as absent.
    ///
    /// # Errors
    /// A [`Problem`] when it is neither.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Problem> {
        Ok(self.attribute::<bool>(name)?.value())
    }

    /// A text attribute that must be there and not be blank.
    ///
    /// # Errors
    /// A [`Problem`] that names it.
    pub fn required(&self, name: &str) -> Result<String, Problem> {
        self.text(name)?
            .filter(|text| !text.trim().is_empty())
            .ok_or_else(|| Problem::attribute(name, format!("{} can't be blank", readable(name))))
    }

    /// The id that a relationship to one resource names.
    pub fn related(&self, name: &str) -> Field<String> {
        let Some(data) = self.relationships.get(name).and_then(|value| value.get("data")) else {
            return Field::Absent;
        };
        match data.get("id").and_then(Value::as_str) {
            Some(id) if !id.is_empty() => Field::Value(id.to_owned()),
            _ => Field::Null,
        }
    }

    /// The resources of a relationship to many; `None` when the relationship is absent.
    pub fn related_many(&self, name: &str) -> Option<Vec<Item>> {
        match self.relationships.get(name)?.get("data")? {
            Value::Array(list) => Some(list.iter().map(item).collect()),
            Value::Null => Some(Vec::new()),
            one => Some(vec![item(one)]),
        }
    }
}

/// `working-directory` → `Working directory`.
fn readable(name: &str) -> String {
    let mut text = name.replace('-', " ");
    if let Some(first) = text.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_bare_and_wrongly_typed_bodies_are_read() {
        assert_eq!(Body::parse(b"").unwrap(), Body::default());
        assert_eq!(Body::parse(b"{}").unwrap().comment(), None);
        let bare = Body::parse(br#"{"comment":"ship it"}"#).unwrap();
        assert_eq!(bare.comment().as_deref(), Some("ship it"));
        let lock =
            Body::parse(br#"{"data":{"type":"","attributes":{"reason":"Locked by Terraform"}}}"#).unwrap();
        assert_eq!(
            lock.text("reason").unwrap().as_deref(),
            Some("Locked by Terraform")
        );
        let list = Body::parse(br#"{"data":[{"type":"tag-bindings","attributes":{"key":"a"}}]}"#).unwrap();
        assert_eq!(list.items.len(), 1);
        assert!(Body::parse(b"[1]").is_err());
        assert!(Body::parse(b"{").is_err());
    }

    #[test]
    fn absent_null_and_present_are_told_apart() {
        let body = Body::parse(
            br#"{"data":{"attributes":{"a":null,"b":"x","c":3},"relationships":{"p":{"data":null},"q":{"data":{"id":"prj-1","type":"projects"}},"l":{"data":[]}}}}"#,
        )
        .unwrap();
        assert_eq!(body.attribute::<String>("z").unwrap(), Field::Absent);
        assert_eq!(body.attribute::<String>("a").unwrap(), Field::Null);
        assert_eq!(
            body.attribute::<String>("b").unwrap(),
            Field::Value("x".to_owned())
        );
        assert_eq!(
            body.text("c").unwrap_err().pointer.as_deref(),
            Some("/data/attributes/c")
        );
        assert_eq!(body.related("p"), Field::Null);
        assert_eq!(body.related("q"), Field::Value("prj-1".to_owned()));
        assert_eq!(body.related("r"), Field::Absent);
        assert_eq!(body.related_many("l"), Some(Vec::new()));
        assert_eq!(body.related_many("m"), None);
    }
}
